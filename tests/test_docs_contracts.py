"""The pages on extractors and heads list every view, role and hook that the code has, and no other."""

import dataclasses
import re

import pytest
from documents import ROOT

from cache import inputs
from heads.base import Head
from heads.config import load_config, methods
from heads.config.base import HeadConfig
from pipeline import extractors
from pipeline.extraction import base, views
from pipeline.pairs import registry


def first_cells(page: str, section: str) -> list[str]:
    """The names in backticks in the first cell of each row of a section's last table."""
    text = (ROOT / "docs" / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    table = text.strip().rpartition("|---|")[2]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def members(*kinds: type) -> set[str]:
    """Public names that classes themselves define or declare, fields of dataclasses aside."""
    names = set()
    for kind in kinds:
        fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
        names |= {*vars(kind), *getattr(kind, "__annotations__", {})} - fields
    return {name for name in names if not name.startswith("_") or name == "__call__"}


def test_every_hook_of_an_extractor_is_listed():
    bases = (base.Extractor, base.TextExtractor, base.PictureExtractor)
    bases += (base.ImageExtractor, base.CropExtractor, base.RowsExtractor)
    assert sorted(first_cells("adding-an-extractor.md", "Hooks")) == sorted(members(*bases))


@pytest.mark.parametrize("kind", [base.TextExtractor, base.ImageExtractor, base.CropExtractor, base.RowsExtractor])
def test_every_kind_of_unit_is_listed_with_its_base_class(kind):
    assert f"| `{kind.reads}` | `{kind.__name__}` |" in (ROOT / "docs" / "adding-an-extractor.md").read_text()


def test_every_view_is_listed():
    known = {*views.MENTION_TEXTS, *views.ENTITY_TEXTS, *inputs.FROM_FEATURES, *inputs.PICTURES}
    assert sorted(first_cells("adding-a-head.md", "Views")) == sorted(known)


def test_every_role_of_the_packages_heads_is_listed():
    available = extractors.names()
    wanted = [want for method in methods() for want in load_config(method, {}).wants(available)]
    assert sorted(first_cells("adding-a-head.md", "Roles")) == sorted({want.role for want in wanted})


def test_every_hook_of_a_configuration_is_listed():
    assert sorted(first_cells("adding-a-head.md", "Hooks of the configuration")) == sorted(members(HeadConfig))


def test_every_hook_of_a_head_is_listed():
    assert sorted(first_cells("adding-a-head.md", "Hooks of the head")) == sorted(members(Head))


def test_every_pair_feature_is_listed_with_what_it_reads():
    table = (ROOT / "docs" / "pairs.md").read_text().partition("| features of the profile |")[2].partition("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    listed = {row[1].strip(" `"): sorted(re.findall(r"`(\w+)`", row[3])) for row in rows}
    assert listed == {name: registry.features_of(name) for name in registry.FUNCTIONS}
