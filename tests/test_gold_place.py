"""Every head, trained over given lists with the gold first in each and then last in each: the same bytes."""

import json

import commands
import linking_world
import luigi
import pytest

from foundation.checksums import read_sealed

PLACES = {"first": 0, "last": None}
PARTS = {"heads": ["mimic", "drin", "dwe", "dsmip", "ranker"], "epochs": 3, "hidden": 4, "members": 2}


def put_gold(path, place):
    """Five candidates for each mention, the gold among them first or last."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, line in enumerate(lines):
        others = [f"Q{(number + step) % 12}" for step in (1, 4, 6, 9, 11)]
        others = [other for other in others if other != line["gold"]][:4]
        line["candidates"] = [line["gold"], *others] if place == 0 else [*others, line["gold"]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """place -> head -> folder of its run. The features are extracted once."""
    import tasks
    from foundation import child

    root, found = tmp_path_factory.mktemp("places"), {}
    linking_world.write(root)
    places = {"profile": str(root / "small.yaml"), "work_dir": str(root / "work")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "run", commands.call)
        for name, place in PLACES.items():
            put_gold(root / "data" / "mentions.jsonl", place)
            fused = tasks.TrainHead(
                method="fused",
                params=json.dumps(PARTS),
                dataset=name,
                data_dir=str(root / "data"),
                sources="given",
                candidates=8,
                **places,
            )
            before = set((root / "work" / "runs").glob("*/*/*"))
            assert luigi.build([fused], local_scheduler=True, log_level="ERROR", workers=1)
            new = set((root / "work" / "runs").glob("*/*/*")) - before
            # DSMIP's stages have folders of their own
            found[name] = {
                (run.parent.name, read_sealed(run / "config.json")["config"].get("stage", "")): run for run in new
            }
    return found


def test_the_place_of_the_gold_changes_nothing(runs):
    first, last = runs["first"], runs["last"]
    assert set(first) == set(last) and {method for method, _ in first} >= {*PARTS["heads"], "fused"}
    for head in first:
        for name in ("predictions.parquet", "metrics.json"):
            assert (first[head] / name).read_bytes() == (last[head] / name).read_bytes(), (head, name)


def test_the_figures_say_that_the_gold_was_put_into_the_lists(runs):
    run = runs["first"]["fused", ""]
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["test"]) == ["candidates (given, gold forced in)", "rerank (given, gold forced in)"]
    assert "test  candidates (given, gold forced in)" in (run / "metrics.txt").read_text()
    assert "fused (rerank, given, gold forced in)" in (run / "metrics.txt").read_text()
    of_text = json.loads((runs["first"]["mimic", ""] / "metrics.json").read_text())
    assert "full-kb" in of_text["test"], "the KB holds every gold anyway"


def test_the_parts_of_a_combination_know_no_place(runs):
    parts = read_sealed(runs["first"]["fused", ""] / "parts.json")
    assert "only retrieval" in parts and parts["only retrieval"]["test"]["H@1"] == 0, "all tied: none is first"
