"""The index of names: what it lists, who sees it, and that it is whole or not there."""

import dataclasses
import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import ROOT
from rapidfuzz import fuzz

from foundation.checksums import INDEX
from foundation.errors import UserError
from foundation.paths import Paths
from foundation.spelling import clean
from mel_cache import steps
from mel_cache.contracts import VerifyJob
from mel_cache.verification import verify
from pipeline.candidates import contracts, indexed_names, name_index
from pipeline.candidates.base import SourceInputs
from pipeline.candidates.contracts import CandidateJob, GivenSource, ListOptions, NameSource
from pipeline.candidates.indexed_names import IndexedNames
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.name_ranking import SCORERS, NameRanking
from pipeline.candidates.registry import source
from pipeline.candidates.retrieving import retrieve
from pipeline.candidates.stage import build_candidates

pytest.importorskip("tantivy")

CHILD = """
import sys
from pathlib import Path
from pipeline.candidates.name_index import NameIndex
index = NameIndex.of([f"name {row} of many" for row in range(3000)], None, Path(sys.argv[1]))
print(len(index.near("name 7 of many", 5)))
"""


def child(folder: Path, **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def texts(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choice("ab cdé-ß 東京") for _ in range(rng.randint(2, 9))) for _ in range(count)]


@pytest.fixture(scope="module")
def small() -> tuple[list[str], list[str], list[str], list[list[str]]]:
    rng = random.Random(3)
    names = texts(rng, 250)
    aliases = [texts(rng, rng.choice((0, 0, 2))) for _ in names]
    return texts(rng, 120), names, [f"Q{number}" for number in rng.sample(range(5_000), len(names))], aliases


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("aliased", [False, True])
def test_the_order_and_the_scores_are_those_of_comparing_all_names(small, tmp_path, scorer, aliased):
    phrases, names, ids, further = small
    aliases = further if aliased else None
    exact = NameRanking(names, ids, scorer, 1, aliases).lists(phrases, len(names))
    ranking = IndexedNames.of(names, ids, scorer, aliases, tmp_path)
    lists = ranking.lists(phrases, len(names))
    assert lists.lengths.max() > 20
    for phrase, own, every, value, values in zip(
        phrases, lists.ids, exact.ids, lists.scores, exact.scores, strict=True
    ):
        grams = _grams(phrase)
        spelled = [[names[row], *(further[row] if aliased else ())] for row in every]
        found = [place for place, own_names in enumerate(spelled) if any(grams & _grams(name) for name in own_names)]
        found = [place for place in found if every[place] >= 0]
        np.testing.assert_array_equal(own[own >= 0], every[found])
        np.testing.assert_array_equal(value[own >= 0], values[found])
    cut = ranking.lists(phrases, 7)
    np.testing.assert_array_equal(cut.ids, lists.ids[:, :7])
    gold = np.array([listed[listed >= 0][-1] if (listed >= 0).any() else 0 for listed in lists.ids])
    ranks = ranking.ranks(phrases, gold)
    np.testing.assert_array_equal(ranks, np.where(lists.lengths > 0, lists.lengths, -1))


def _grams(text: str) -> set[str]:
    padded = f" {clean(text)} "
    return {padded[at : at + 3] for at in range(len(padded) - 2)} if clean(text) else set()


def test_only_so_many_distinct_names_are_compared_and_entities_of_one_name_count_once(monkeypatch):
    monkeypatch.setattr(indexed_names, "NEAR", 2)
    names = ["John Smith"] * 30 + ["John Smithers"] * 5 + ["John Smithson Smithfield of Smithtown"]
    lists = IndexedNames.of(names, [f"Q{row:02}" for row in range(36)], SCORERS[0], None, None).lists(
        ["john smith"], 36
    )
    assert sorted(lists.ids[0][lists.ids[0] >= 0].tolist()) == list(range(35))


@pytest.mark.parametrize("phrase", ["", "!?", "x" * 20_000, "xyzzy"])
def test_phrases_with_nothing_in_common_have_an_empty_list(phrase):
    ranking = IndexedNames.of(["Ann Power", "…"], ["Q1", "Q2"], SCORERS[0], None, None)
    assert ranking.lists([phrase], 3).ids.tolist() == [[-1, -1, -1]]
    assert ranking.ranks([phrase], np.array([0])).tolist() == [-1]
    assert IndexedNames.of([], [], SCORERS[0], None, None).lists(["Ann"], 2).ids.tolist() == [[-1, -1]]


def test_of_more_names_that_tie_than_there_are_places_those_stay_that_other_sources_list():
    names = ["Smith", *(f"Mr {letter} Smith" for letter in "abcdefgh"), "Smithers"]
    ranking = IndexedNames.of(names, [f"Q{row}" for row in range(10)], SCORERS[0], None, None)
    beside = RankedLists(np.array([[9, 7, 5, -1]], np.int32), np.ones((1, 4), np.float32))
    assert ranking.lists(["smith"], 4).ids.tolist() == [[0, 1, 2, 3]]
    assert ranking.lists(["smith"], 4, [beside]).ids.tolist() == [[0, 7, 5, 1]], "the name itself stays first"
    assert ranking.lists(["smith"], 9, [beside]).ids.tolist() == ranking.lists(["smith"], 9).ids.tolist(), "no tie"


@pytest.mark.parametrize(
    ("other", "seen"), [({}, True), ({"by_heart": True}, False), ({"retrieved": False}, False)], ids=str
)
def test_ties_are_broken_by_no_order_that_knows_a_gold(other, seen):
    names = ["Smith", *(f"Mr {letter} Smith" for letter in "abcdefgh")]
    entities = {"name": names, "id": [f"Q{row}" for row in range(9)]}
    inputs = SourceInputs({"phrase": ["smith"], "given": [[7]], "id": ["m"]}, entities)
    first = source(GivenSource(order="trusted"))
    listed = dataclasses.replace(first.lists(inputs, 3), **other)
    first.lists = lambda *_: listed
    for order in (0, 1):
        both = [first, source(NameSource(kind="name-index"))]
        found = retrieve(both[::-1] if order else both, inputs, 3)
        assert found[order].source is first
        assert (7 in found[1 - order].lists.ids[0]) is seen


def prepared(folder: Path) -> Path:
    names = [f"Entity {row} of {row % 7}" for row in range(40)]
    columns: dict[str, Any] = {"id": [f"Q{row}" for row in range(40)], "name": names, "type": [None] * 40}
    pq.write_table(
        pa.table({**columns, "aliases": [["Old One"] if row == 3 else [] for row in range(40)]}),
        folder / "entities.parquet",
    )
    mentions = {"id": ["m1", "m2"], "phrase": ["entity 5 of 5", "old one"], "type": [None, None]}
    pq.write_table(pa.table({**mentions, "gold": [5, 3], "split": ["train", "test"]}), folder / "mentions.parquet")
    return folder


def test_name_takes_the_index_of_a_large_kb_and_says_so_and_name_exact_never(tmp_path, monkeypatch):
    folder = prepared(tmp_path)

    def built(kind: contracts.NameKind) -> Any:
        return build_candidates(
            CandidateJob(dataset=folder, out=tmp_path / f"{kind}.npz", sources=(NameSource(kind=kind),), k=5)
        )

    assert built("name").notes == built("name-exact").notes == ()
    assert not list(tmp_path.glob("name-index-*"))
    monkeypatch.setattr(contracts, "INDEX_ABOVE", 40)
    (note,) = built("name").notes
    assert note.startswith("name:token_set_ratio: the KB has 41 names, more than 40") and "name-exact" in note
    assert len(list(tmp_path.glob("name-index-*"))) == 1
    assert built("name-exact").notes == ()
    lists = built("name-index")
    assert lists.recall["name-index:token_set_ratio"]["test"]["1"] == 1
    assert len(list(tmp_path.glob("name-index-*"))) == 1, "the same names have one index"


def test_lists_by_index_have_a_request_of_their_own(tmp_path, monkeypatch):
    folder = prepared(tmp_path)
    dataset = steps.Prepared("toy", folder, "0" * 64, {})
    setup = steps.Setup(Paths(tmp_path), "fast", None, tmp_path)

    def request(sources: str) -> dict[str, Any]:
        return dict(steps.build_candidates(setup, dataset, ListOptions(sources=sources), None).request)

    assert "name_index" not in {**request("name"), **request("name-exact"), **request("name-of-type")}
    assert "name_index" in request("name-index")
    monkeypatch.setattr(contracts, "INDEX_ABOVE", 40)
    assert "name_index" in request("name") and "name_index" not in request("name-exact")


def test_an_index_is_built_once_and_again_where_it_is_damaged(tmp_path, capfd):
    names = [f"name {row}" for row in range(50)]
    first = IndexedNames.of(names, names, SCORERS[0], None, tmp_path)
    (folder,) = tmp_path.glob("name-index-*")
    before = (folder / INDEX).stat().st_mtime_ns
    IndexedNames.of(names, names, SCORERS[0], [[] for _ in names], tmp_path)
    assert (folder / INDEX).stat().st_mtime_ns == before and len(list(tmp_path.glob("name-index-*"))) == 1
    IndexedNames.of([*names, "another"], names, SCORERS[0], None, tmp_path)
    IndexedNames.of(names, names, SCORERS[0], [["alias"], *([] for _ in names[1:])], tmp_path)
    assert len(list(tmp_path.glob("name-index-*"))) == 3
    expected = first.lists(["name 7"], 9).ids
    for damage in (_cut, _changed, _gone, _without_record, _a_file):
        damage(folder)
        again = IndexedNames.of(names, names, SCORERS[0], None, tmp_path)
        assert (again.lists(["name 7"], 9).ids == expected).all()
        assert "it is built again" in capfd.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def _cut(folder: Path) -> None:
    path = folder / name_index.SPELLINGS
    path.write_bytes(path.read_bytes()[:-9])


def _changed(folder: Path) -> None:
    (path,) = (folder / name_index.GRAMS).glob("*.term")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _gone(folder: Path) -> None:
    (folder / name_index.NAMES).unlink()


def _without_record(folder: Path) -> None:
    (folder / INDEX).write_text("{}")


def _a_file(folder: Path) -> None:
    folder.rename(folder.with_name("aside"))
    folder.write_text("in the way")


def test_a_kill_while_an_index_is_built_leaves_nothing_that_is_taken_for_one(tmp_path):
    killed = child(tmp_path, MEL_FAULT="before-index")
    assert killed.wait(120) == -9
    assert not list(tmp_path.glob("name-index-*")) and list(tmp_path.glob(".name-index-*.tmp"))
    done = child(tmp_path)
    assert done.communicate(timeout=120)[0] == "5\n"
    assert list(tmp_path.glob("name-index-*")) and not list(tmp_path.glob(".name-index-*.tmp"))


@pytest.mark.parametrize("locks", [True, False])
def test_processes_that_build_one_index_at_once_have_one_whole_index(tmp_path, locks):
    lines = "" if locks else "import fcntl\ndef none(*_): raise OSError\nfcntl.flock = none\n"
    several = [
        subprocess.Popen(
            [sys.executable, "-c", lines + CHILD, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    assert [one.communicate(timeout=240)[0] for one in several] == ["5\n"] * 3
    assert len(list(tmp_path.glob("name-index-*"))) == 1 and not list(tmp_path.glob(".name-index-*.tmp"))


def test_an_index_that_cannot_be_kept_is_built_for_the_command_alone(capfd):
    names = ["Ann Power", "Bob Sea"]
    ranking = IndexedNames.of(names, ["Q1", "Q2"], SCORERS[0], None, Path("/sys/mel-cache"))
    assert ranking.lists(["bob see"], 1).ids.tolist() == [[1]]
    assert "the index is built for this command alone" in capfd.readouterr().err


def test_without_the_package_the_source_is_refused_in_one_line(monkeypatch):
    plain = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "tantivy" else plain(name))
    inputs = SourceInputs({"phrase": ["a"]}, {"name": ["a"], "id": ["Q"]})
    source(NameSource()).check(inputs)
    with pytest.raises(UserError, match=r"the package tantivy is not installed: pip install 'mel-cache\[index\]'"):
        source(NameSource(kind="name-index")).check(inputs)


def test_verify_cache_reads_the_files_of_an_index(tmp_path):
    folder = tmp_path / "datasets" / "toy-000000000000"
    folder.mkdir(parents=True)
    (tmp_path / "receipts").mkdir()
    IndexedNames.of(["Ann Power"], ["Q1"], SCORERS[0], None, folder)
    assert not verify(VerifyJob(work=tmp_path)).bad
    (index,) = folder.glob("name-index-*")
    _changed(index)
    (bad,) = verify(VerifyJob(work=tmp_path)).bad
    assert bad.path.endswith(".term") and "BuildCandidates" in bad.maker


def test_scores_are_rapidfuzzs(small):
    phrases, names, ids, _ = small
    lists = IndexedNames.of(names, ids, "WRatio", None, None).lists(phrases[:20], 5)
    for phrase, listed, scores in zip(phrases, lists.ids.tolist(), lists.scores, strict=False):
        expected = [fuzz.WRatio(clean(phrase), clean(names[row])) for row in listed if row >= 0]
        np.testing.assert_allclose(scores[: len(expected)], expected, rtol=1e-6)
