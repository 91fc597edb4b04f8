"""New mentions are linked by `joint`, and by `fused` with it as a part, as in their runs."""

import json

import linking_world
import pyarrow.parquet as pq
import pytest

from linking import mentions
from linking.contracts import LinkJob

JOINT = {
    "tune": {"text": {"block": 1, "how": "whole", "lr": 0.001}},
    **{"epochs": 1, "depth": 5, "candidates": 4, "picture_tokens": 2, "batch_size": 8},
}
FUSED = {"epochs": 2, "hidden": 4, "members": 1, "heads": ["joint"], "pair_features": ["retrieval"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder of the data and the runs by method; `fused` has `joint` as its one trained part."""
    root = tmp_path_factory.mktemp("joint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linking_world, "SMALL", {"joint": JOINT, "fused": FUSED})
        return root, linking_world.train(root, patch)


@pytest.mark.parametrize("method", ["joint", "fused"])
def test_a_runs_own_test_mentions_get_the_answers_of_its_predictions(world, tmp_path, method):
    root, runs = world
    lines = (root / "data" / "mentions.jsonl").read_text().splitlines()
    own = [line for line in lines if json.loads(line)["split"] == "test"]
    (tmp_path / "new.jsonl").write_text("\n".join(own) + "\n")
    output = tmp_path / "linked.jsonl"
    mentions.link(
        LinkJob(run=runs[method], input=tmp_path / "new.jsonl", output=output, images=root / "data", chunk=16)
    )
    predicted = pq.read_table(runs[method] / "predictions.parquet").to_pylist()
    expected = {row["id"]: row for row in predicted}
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(answers) == len(own) == 25
    for answer in answers:
        row = expected[answer["id"]]
        assert [entity["score"] for entity in answer["entities"]] == pytest.approx(row["top_score"][:5], abs=1e-4)
        assert answer["entities"][0]["id"] == row["top"][0]
