"""New mentions are linked by `joint`, and by `fused` with it as a part, as in their runs."""

import json
from dataclasses import replace

import commands
import linking_world
import numpy as np
import pyarrow.parquet as pq
import pytest

from foundation.checksums import read_sealed
from foundation.errors import UserError
from heads import checkpoint
from heads.contracts import WITHOUT_JOINT
from heads.methods.joint import Joint
from linking import Linker, incoming, mentions
from linking.contracts import LinkJob

JOINT = {
    "tune": {"text": {"block": 1, "how": "whole", "lr": 0.001}},
    **{"epochs": 1, "depth": 5, "candidates": 4, "picture_tokens": 2, "batch_size": 8},
}
FUSED = {"epochs": 2, "from_best": False, "hidden": 4, "members": 1, "heads": ["joint"], "pair_features": ["retrieval"]}


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


@pytest.fixture
def files(world, tmp_path):
    """The job that links the world's own test mentions with `fused`."""
    root, runs = world
    lines = (root / "data" / "mentions.jsonl").read_text().splitlines()
    own = [line for line in lines if json.loads(line)["split"] == "test"]
    (tmp_path / "new.jsonl").write_text("\n".join(own) + "\n")
    places = {"input": tmp_path / "new.jsonl", "output": tmp_path / "linked.jsonl", "images": root / "data"}
    return LinkJob(run=runs["fused"], chunk=16, **places)


def linked(job):
    """The lines that a job writes, and its result."""
    result = mentions.link(job)
    return [json.loads(line) for line in job.output.read_text().splitlines()], result


@pytest.fixture
def read_by_joint(monkeypatch):
    """Mentions that `joint` scores, as they come: a list of counts."""
    seen, own = [], Joint.score_lists

    def counted(self, rows, *rest):
        seen.append(len(rows))
        return own(self, rows, *rest)

    monkeypatch.setattr(Joint, "score_lists", counted)
    return seen


def test_joint_is_asked_for_the_mentions_that_the_other_parts_are_less_sure_of_alone(files, read_by_joint):
    new = [line.value for line in incoming.read(files.input, files.images)]
    with Linker.load(files.run).ask_joint_below(1e-9) as linker:
        linker.without_joint = replace(linker.without_joint, right=None, known=None)  # in so small a world all are sure
        read_by_joint.clear()
        none = linker.link_all(new, files.images)
        assert read_by_joint == [] and not any(answer.joint for answer in none)
        linker.joint_below = float(np.median(np.unique([answer.confidence for answer in none])))
        some = linker.link_all(new, files.images)
        low = [answer.confidence < linker.joint_below for answer in none]
        assert 0 < sum(low) == sum(read_by_joint) < len(low)
        assert [answer.joint for answer in some] == low
    with Linker.load(files.run) as linker:
        whole = linker.link_all(new, files.images)
    for answer, asked, *others in zip(some, low, none, whole, strict=True):
        right = others[asked]
        assert [one.id for one in answer.entities] == [one.id for one in right.entities]
        assert answer.confidence == pytest.approx(right.confidence, abs=1e-5)
        own, expected = ([one.score for one in each.entities] for each in (answer, right))
        assert own == pytest.approx(expected, abs=1e-5)


def test_the_output_says_where_joint_was_asked_and_below_one_it_always_is(files, read_by_joint):
    whole, _ = linked(files)
    read_by_joint.clear()
    always, result = linked(replace(files, joint_below=1.0))
    assert result.counts.joint == sum(read_by_joint) == len(whole)
    assert always == [{**answer, "joint": True} for answer in whole]
    read_by_joint.clear()
    never, result = linked(replace(files, joint_below=1e-9))
    assert [answer["joint"] for answer in never] == [False] * len(whole) and not read_by_joint
    assert f"joint was asked for 0 of {len(whole)} mentions, those with a confidence below 1e-09" in result.text


def test_confidence_without_joint_is_fitted_on_answers_without_it(world, files):
    run = world[1]["fused"]
    with Linker.load(run).ask_joint_below(0.5) as linker:
        fitted, whole = linker.without_joint, linker.calibration
    assert fitted.part == whole.part and fitted.made_of != whole.made_of
    kept = {name: read_sealed(run / f"{name}.json") for name in ("calibration", "calibration-without-joint")}
    assert kept["calibration-without-joint"]["made_of"] == fitted.made_of
    evidence = [np.load(run / f"{name}.npz")["evidence"] for name in kept]
    assert evidence[0].shape == evidence[1].shape and not np.allclose(*evidence, equal_nan=True)


def test_what_answers_without_joint_is_the_head_that_fused_would_learn_without_it(world, tmp_path):
    _, runs = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linking_world, "SMALL", {"joint": JOINT, "fused": {**FUSED, "heads": []}})
        alone = linking_world.train(tmp_path, patch)["fused"]
    tensors, about = checkpoint.read_tensors(runs["fused"] / WITHOUT_JOINT)
    others, of_others = checkpoint.read_tensors(alone / "model.safetensors")
    assert about["shapes"] == of_others["shapes"] and tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(tensor, others[name], atol=1e-6)


def test_a_run_without_joint_and_a_number_out_of_range_are_refused_in_one_line(world, files):
    _, runs = world
    with pytest.raises(UserError, match=r"--joint-below: .* is no run of fused with joint beside other parts"):
        mentions.link(replace(files, run=runs["joint"], joint_below=0.9))
    with pytest.raises(UserError, match=r"--joint-below 1.5: expected a number above 0, at most 1"):
        mentions.link(replace(files, joint_below=1.5))
    with pytest.raises(UserError, match="joint_below is 0, expected a number above 0"):
        Linker.load(runs["fused"]).ask_joint_below(0)
    code, printed = commands.run("LinkMentions", "--run", "a", "--input", "b", "--output", "c", "--joint-below", "0")
    assert code and "a number above 0, at most 1" in printed
