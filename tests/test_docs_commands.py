"""Commands in the documentation: each block says whether it is run here or shown, and those to run are run, as a reader
would, on the demo."""

import itertools
import re
import shutil

import pytest
from documents import PAGES, ROOT, blocks, checkout, run

FIRST = ROOT / "docs" / "first-fifteen-minutes.md"
OWN_TESTS = ("adding-a-head.md", "adding-an-extractor.md", "cache-format.md", "python.md")
"""Pages whose Python is part of a program: tests/test_docs.py and tests/test_docs_python.py put it in place."""


def to_run(page):
    languages = ("bash",) if page.name in OWN_TESTS else ("bash", "python")
    return [block for block in blocks(page) if block.mark == "run" and block.language in languages]


@pytest.fixture(scope="session")
def after_fifteen_minutes(demo_work, tmp_path_factory):
    """A clone in which a newcomer has followed the first page: the demo's features are there, and two trained heads."""
    folder = checkout(
        tmp_path_factory.mktemp("docs") / "clone",
        shutil.copytree(demo_work[0], tmp_path_factory.mktemp("artifacts") / "artifacts"),
    )
    said = {str(block): run(block, folder) for block in to_run(FIRST)}
    first = next(iter(said))
    return folder, {
        **said,
        first: demo_work[1] + said[first],
    }  # the demo's first command has said already what the dataset holds


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_block_of_commands_or_python_says_run_or_show(page):
    for block in blocks(page):
        assert block.language not in ("sh", "shell", "console"), (
            f"{block}: commands stand in a block of `bash`, what they print in one of `text`"
        )
        if block.language in ("bash", "python"):
            assert block.mark in ("run", "show"), (
                f"{block}: `{block.language} {block.mark}`; expected run or show behind the language"
            )
        else:
            assert not block.mark, f"{block}: {block.mark!r} says nothing behind {block.language!r}"


def words(text):
    """The words of a text, without numbers, hashes and paths, which another machine may print differently."""
    return {word.strip("():,;") for word in text.split() if re.fullmatch(r"\(?[A-Za-z][A-Za-z_-]*[):,;]*", word)}


def test_what_the_first_page_shows_as_printed_is_what_is_printed(after_fifteen_minutes):
    _, said = after_fifteen_minutes
    listed, shown = blocks(FIRST), 0
    for before, block in itertools.pairwise(listed):
        if block.language == "text" and str(before) in said:
            shown += 1
            assert words(block.text) <= words(said[str(before)]), f"{block} after {before}"
    assert shown >= 5


@pytest.mark.parametrize("page", [page for page in PAGES if page != FIRST and to_run(page)], ids=lambda path: path.name)
def test_blocks_to_run_succeed_in_order(page, after_fifteen_minutes):
    for block in to_run(page):
        run(block, after_fifteen_minutes[0])
