"""How a head came to the answer for a new mention: what Explain tells of the same mention in its dataset."""

import json
from pathlib import Path

import commands
import linking_world
import pytest
from fastapi.testclient import TestClient

from foundation.errors import UserError
from heads.explanations import ATTENTION
from linking import Linker
from linking.service.access import Access
from linking.service.app import make
from linking.service.desk import Desk
from linking.service.reconcile import Reconciliation
from report.explore.telling import telling

PARTS = {
    **{name: linking_world.SMALL[name] for name in ("mimic", "drin", "dwe", "dsmip")},
    "joint": {
        "tune": {"text": {"block": 1, "how": "whole", "lr": 0.001}},
        **{"epochs": 1, "depth": 5, "candidates": 4, "picture_tokens": 2, "batch_size": 8},
    },
    "dual": {"epochs": 1, "width": 8, "attention_width": 8},
    "ranker": {"epochs": 1},
}
FUSED = {"epochs": 2, "from_best": False, "hidden": 4, "members": 1, "heads": sorted(PARTS)}
TELLS = {  # method: what it tells of candidates, and whether of the mention
    "mimic": ({"units"}, False),
    "drin": ({"edges", "pairs"}, False),
    "dwe": (set(), True),
    "dsmip": ({"units", "expert"}, False),
    "joint": ({"tokens", "pairs"}, False),
    "dual": ({"units"}, True),
    "ranker": ({"pairs"}, False),
    "fused": ({"pairs"}, False),
}
MENTIONS = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder of the data and the runs by method; `fused` combines all others."""
    root = tmp_path_factory.mktemp("explain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linking_world, "SMALL", {**PARTS, "fused": FUSED})
        return root, linking_world.train(root, patch)


def explained_by_explain(world, method):
    """What Explain writes of test mentions, by id."""
    root, runs = world
    code, said = commands.run(
        *("Explain", "--method", method, "--split", "test", "--sample", str(MENTIONS)),
        *("--dataset", "small", "--data-dir", str(root / "data"), "--profile", str(root / "small.yaml")),
        *("--work-dir", str(root / "work"), "--candidates", "8", "--sources", "name,dense:clip_text"),
    )
    assert code == 0, said
    (file,) = runs[method].glob("explain-test-*.jsonl")
    return {one["id"]: one for one in map(json.loads, file.read_text().splitlines())}


def mention_of(root: Path, name):
    """Sentence, phrase and picture of a mention of the dataset."""
    listed = map(json.loads, (root / "data" / "mentions.jsonl").read_text().splitlines())
    record = next(one for one in listed if one["id"] == name)
    return record["sentence"], record["mention"], root / "data" / record["image"] if "image" in record else None


def close(found, expected):
    """Whether two explanations say the same: keys and texts alike, numbers but for rounding."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == (pytest.approx(expected, rel=2e-3, abs=2e-4) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("method", TELLS)
def test_a_mention_of_the_dataset_given_as_new_is_explained_as_explain_does(world, method):
    root, runs = world
    expected = explained_by_explain(world, method)
    linker = Linker.load(runs[method])
    compared, told = 0, set()
    for name, one in expected.items():
        explained = linker.explain(*mention_of(root, name))
        answer = linker.link(*mention_of(root, name))
        assert [entity.id for entity in explained.linked.entities] == [entity.id for entity in answer.entities]
        assert [each["id"] for each in explained.candidates] == [entity.id for entity in answer.entities]
        assert close(explained.attention, one["attention"]) and bool(one["attention"]) == TELLS[method][1]
        listed = {each["id"]: each for each in one["candidates"]}
        for each in explained.candidates:
            if each["id"] in listed:
                compared += 1
                told |= each.keys()
                assert close(dict(each), listed[each["id"]]), (each, listed[each["id"]])
    assert compared >= 2 * MENTIONS and told == {"id", "score"} | TELLS[method][0]


def test_explanations_come_with_as_many_entities_as_are_asked_for_and_none_where_there_are_none(world):
    root, runs = world
    linker = Linker.load(runs["mimic"])
    assert len(linker.explain("Ann Powers was seen.", "Ann Powers", top_k=2).candidates) == 2
    assert linker.explain_all([], root) == []
    with pytest.raises(UserError, match="top_k is 0"):
        linker.explain("Ann Powers was seen.", "Ann Powers", top_k=0)
    plain = Linker.load(runs["mimic"], cache=False)
    assert len(plain.explain("Somebody else was seen.", "Somebody").candidates) == 5


def test_where_joint_is_not_asked_the_head_without_it_is_explained(world):
    linker = Linker.load(world[1]["fused"]).ask_joint_below(1e-9)
    explained = linker.explain("Ann Powers was seen.", "Ann Powers")
    assert explained.linked.joint is False and explained.candidates
    assert all("joint" not in one["pairs"] and "mimic" in one["pairs"] for one in explained.candidates)
    scores = [entity.score for entity in explained.linked.entities]
    assert [one["score"] for one in explained.candidates] == pytest.approx(scores, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("method", ["drin", "dsmip", "fused", "joint"])
def test_the_page_shows_what_is_told(world, method):
    explained = Linker.load(world[1][method]).explain("Ann Powers was seen.", "Ann Powers")
    shown = telling(explained)
    titles = {"drin": "Edges", "dsmip": "Selected expert", "fused": "What it combines", "joint": "Shares of the tokens"}
    assert any(grid.title.startswith(titles[method]) for grid in shown.grids)
    for grid in shown.grids:
        assert grid.rows and all(len(cells) == 5 for _, cells in grid.rows)


def test_the_service_explains_a_mention_beside_others_that_it_links(world):
    linker = Linker.load(world[1]["dsmip"])
    desk = Desk(lambda: linker, linker.limits, 8, 8)
    access = Access(None, frozenset(), any_host=False)
    mention = {"sentence": "Ann Powers was seen.", "mention": "Ann Powers", "top_k": 3}
    with TestClient(make(desk, access, Reconciliation(desk, False, ())), base_url="http://localhost") as client:
        answer, linked = client.post("/explain", json=mention).json(), client.post("/link", json=mention).json()
        schema = client.get("/openapi.json").json()
    expected = linker.explain(mention["sentence"], mention["mention"], top_k=3)
    assert close(answer, json.loads(json.dumps(expected.to_json()))) and "/explain" in schema["paths"]
    assert close(answer["entities"], linked["entities"]) and answer["candidates"][0]["expert"] in ("text", "multimodal")
    assert not any(name.startswith(ATTENTION) for name in answer["attention"])
