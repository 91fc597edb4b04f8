"""The pages on extractors and heads list every view, role and hook that the code has, and no other."""

import re

import pytest
from documents import ROOT

from pipeline.extraction import base


def first_cells(page: str, section: str) -> list[str]:
    """The names in backticks in the first cell of each row of a section's table."""
    text = (ROOT / "docs" / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def members(kind: type) -> set[str]:
    """Public names that a class itself defines or declares."""
    names = {*vars(kind), *getattr(kind, "__annotations__", {})}
    return {name for name in names if not name.startswith("_")} | ({"__call__"} & set(vars(kind)))


def test_every_hook_of_an_extractor_is_listed():
    bases = (
        base.Extractor,
        base.TextExtractor,
        base.PictureExtractor,
        base.ImageExtractor,
        base.CropExtractor,
        base.RowsExtractor,
    )
    listed = first_cells("adding-an-extractor.md", "Hooks")
    assert len(listed) == len(set(listed))
    assert set(listed) == set().union(*map(members, bases))


@pytest.mark.parametrize("kind", [base.TextExtractor, base.ImageExtractor, base.CropExtractor, base.RowsExtractor])
def test_every_kind_of_unit_is_listed_with_its_base_class(kind):
    table = (ROOT / "docs" / "adding-an-extractor.md").read_text()
    assert f"| `{kind.reads}` | `{kind.__name__}` |" in table
