"""Folds: experts that leave mentions out, what the gate learns from them, and that no gold leaks into its own judge."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from heads_world import build_job, head_rows, head_shapes, job_for
from test_heads_training import KILL, bytes_of

from foundation.contracts import to_json
from foundation.errors import UserError
from heads import folds, training
from heads.base import Batch, make_head
from heads.checkpoint import read_tensors
from heads.config import load_config
from heads.data import Bundle
from heads.loop import Trainer
from heads.runs import load_run
from heads.scoring import Scoring

FOLDS = 2
SMALL = {"d_t": 8, "d_v": 8, "d_c": 8, "gate_width": 16, "gate_dropout": 0.0}
OPTIONS = {
    **SMALL,
    "prompts": False,
    "text_feature": "text_tokens",
    "image_feature": "image_patches",
    "epochs": 2,
    "batch_size": 32,
    "experts": ["text", "multimodal"],
    "gate_loss": "likelihood",
}
FEATURES = ("text_tokens", "image_patches")


def world(folder):
    """Trained experts, those that leave a fold out among them, and the job of the gate that reads them."""
    job = build_job(folder)
    runs = load_config("dsmip", {**OPTIONS, "gate_folds": FOLDS}).runs(FEATURES)
    heads = {label: job_for(job, method, params, folder / label) for label, (method, params) in runs.items()}
    for run in heads.values():
        training.train(run)
    gate = job_for(job, "dsmip", {**OPTIONS, "gate_folds": FOLDS}, folder / "gate")
    return replace(gate, heads=heads)


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    return world(tmp_path_factory.mktemp("folds"))


@pytest.fixture(scope="module")
def bundle(gate):
    return folds.with_left_out(gate, Bundle.load(gate, torch.device("cpu")))


def judges(gate):
    """fold -> the runs that leave it out, by expert."""
    found = {}
    for label, run in gate.heads.items():
        left_out = load_config(run.method, run.config).left_out
        if left_out:
            found.setdefault(left_out[0], {})[label.split(",")[0]] = run
    return found


def test_each_training_mention_is_judged_by_experts_that_never_had_its_gold_as_a_gold(gate):
    read = Bundle.load(gate, torch.device("cpu"))
    every, _ = read.training_mentions()
    learned = {fold: folds.training_mentions(runs["text"], read)[0] for fold, runs in judges(gate).items()}
    left = {fold: np.setdiff1d(every, rows) for fold, rows in learned.items()}
    assert np.array_equal(np.sort(np.concatenate([*left.values()])), every) and all(map(len, left.values()))
    for fold, rows in learned.items():
        assert not set(read.gold[rows]) & set(read.gold[left[fold]])
        counted = json.loads((judges(gate)[fold]["text"].out / "run.json").read_text())["counts"]
        assert counted["trained on"] == len(rows) < counted["train"] == len(every)


def test_an_expert_does_not_change_with_the_golds_and_texts_of_the_fold_it_leaves_out(gate, tmp_path):
    """Golds are exchanged within fold 0: the expert without it keeps its bytes, the one without fold 1 does not."""
    table = pq.read_table(gate.dataset / "mentions.parquet")
    gold, names = table["gold"].to_numpy().copy(), table["gold_id"].to_numpy(zero_copy_only=False)
    here = [row for row, split in enumerate(table["split"].to_pylist()) if split == "train" and gold[row] >= 0]
    inside = [row for row in here if folds.fold_of(names[row], FOLDS) == 0]
    gold[inside] = gold[inside[::-1]]
    changed = table.set_column(table.schema.get_field_index("gold"), "gold", pa.array(gold))
    pq.write_table(changed, tmp_path / "mentions.parquet")
    pq.write_table(pq.read_table(gate.dataset / "entities.parquet"), tmp_path / "entities.parquet")
    for fold, runs in judges(gate).items():
        for expert, run in runs.items():
            again = replace(run, dataset=tmp_path, out=tmp_path / f"{expert}-{fold}")
            training.train(again)
            first, second = (read_tensors(one.out / "model.safetensors")[0] for one in (run, again))
            same = all(torch.equal(first[name], second[name]) for name in first)
            assert same == (fold == 0), (expert, fold)


def test_the_losses_are_those_of_the_expert_that_left_the_mention_out_over_its_candidates_and_gold(gate, bundle):
    rows, _ = bundle.training_mentions()
    assert set(bundle.left_out) == {"text", "multimodal"}
    assert not np.isfinite(bundle.left_out["text"][np.setdiff1d(np.arange(len(bundle.gold)), rows)]).any()
    unlisted = 0
    runs = {fold: {expert: load_run(run) for expert, run in each.items()} for fold, each in judges(gate).items()}
    for row in rows.tolist():
        fold = folds.fold_of(str(bundle.table["gold_id"][row]), FOLDS)
        gold = bundle.gold[row]
        listed = [entity for entity in bundle.candidates[row].tolist() if entity >= 0]
        unlisted += gold not in listed
        among = np.array([[*listed, *([] if gold in listed else [gold])]])
        for expert, (head, own) in runs[fold].items():
            scores = torch.from_numpy(Scoring.of(head, own).lists(np.array([row]), among)["score"][0]).double()
            expected = -scores.log_softmax(0)[among[0].tolist().index(gold)]
            assert bundle.left_out[expert][row, 0] == pytest.approx(float(expected), abs=1e-4)
    assert unlisted


def test_with_masked_pictures_the_second_loss_is_without_the_mentions_picture(gate, bundle):
    masks = replace(gate, config={**gate.config, "picture_dropout": 0.5})
    both = folds.with_left_out(masks, Bundle.load(masks, torch.device("cpu"))).left_out
    rows, _ = bundle.training_mentions()
    pictured = bundle.table["image_status"][rows] == "ok"
    text, every = both["text"][rows], both["multimodal"][rows]
    assert np.array_equal(text[:, 0], text[:, 1]), "the text expert sees no picture"
    assert np.array_equal(every[~pictured, 0], every[~pictured, 1])
    assert (np.abs(every[pictured, 0] - every[pictured, 1]) > 1e-4).mean() > 0.9
    assert all(np.array_equal(both[name][rows, 0], bundle.left_out[name][rows, 0]) for name in both)


def test_the_gate_learns_from_the_experts_that_left_the_mention_out_and_not_from_its_own():
    """The experts that left mentions out find golds by text alone, and by their pictures where these are not masked."""
    config = load_config("dsmip", {**SMALL, "gate_loss": "likelihood", "gate_lr": 0.02, "hard_negatives": 0})
    head = make_head("dsmip", config, head_shapes(config)).train()
    mentions, entities = head_rows(head.shapes, 24, 1), head_rows(head.shapes, 24, 2)
    good, bad = torch.tensor([[0.1, 0.1]]), torch.tensor([[8.0, 8.0]])
    losses = {"text": good, "visual": bad, "multimodal": bad}
    left_out = {name: loss.expand(24, 2) for name, loss in losses.items()}
    optimizer = torch.optim.Adam(head.gate.parameters(), lr=0.02)
    for _ in range(60):
        _, parts = head.loss(Batch(mentions, entities, torch.arange(24), left_out=left_out))
        optimizer.zero_grad()
        parts["gate"].backward()
        optimizer.step()
    assert float(parts["gate"].detach()) < 0.2
    head.eval()
    with torch.no_grad():
        taken = head.score_block(head.encode_mentions(mentions), head.encode_entities(entities))["expert"]
    assert float((taken == 0).float().mean()) > 0.95
    only_masked = {
        name: torch.tensor([[8.0, 0.1]] if name == "text" else [[0.1, 8.0]]).expand(24, 2) for name in losses
    }
    read = head._losses_left_out(Batch(mentions, entities, torch.arange(24), left_out=only_masked))
    assert torch.equal(read[:, 0], torch.where(mentions["image.ok"], 8.0, 0.1))


def test_folds_change_the_gate_and_move_it_alone(gate, bundle):
    mentions, _ = folds.training_mentions(gate, bundle)
    head = training.new_head(gate, bundle, mentions)
    starts = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    experts = {name: tensor for name, tensor in starts.items() if name.startswith("scoring.multimodal.")}
    own = read_tensors(gate.heads["multimodal"].out / "model.safetensors")[0]
    assert all(
        torch.equal(tensor, own[name.replace("scoring.multimodal.", "scoring.")]) for name, tensor in experts.items()
    )
    _, parts = head.train().loss(bundle.batch(mentions[:32], False))
    parts["gate"].backward()
    moved = {name.split(".")[0] for name, one in head.named_parameters() if one.grad is not None and one.grad.any()}
    assert moved == {"gate"}
    plain = Bundle.load(gate, torch.device("cpu"))
    ends = []
    for read in (bundle, plain):
        head = training.new_head(gate, read, mentions)
        ends.append(Trainer(head, read, mentions, 1, "fp32").train())
    assert not torch.equal(ends[0]["gate.last.mention.weight"], ends[1]["gate.last.mention.weight"])


def test_a_killed_gate_with_folds_goes_on_to_the_same_bytes(gate, tmp_path):
    jobs = [(fault, replace(gate, out=tmp_path / fault)) for fault in ("epoch-end", "run-middle")]
    order = json.dumps([(fault, to_json(job)) for fault, job in jobs])
    ended = subprocess.run([sys.executable, "-c", KILL, order], capture_output=True, text=True, check=True).stdout
    assert ended.split() == ["-9", "-9"]
    whole = replace(gate, out=tmp_path / "whole")
    assert training.train(whole).run["resumed_after"] == 0
    for number, (_, job) in enumerate(jobs):
        assert training.train(job).run["resumed_after"] == number + 1
        assert bytes_of(job.out) == bytes_of(whole.out)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gate_loss": "likelihood", "gate_folds": 1}, "at least 2"),
        ({"gate_folds": 2}, "likelihood"),
        ({"stage": "text", "fold": [2, 2]}, "i < n"),
        ({"stage": "text", "fold": [0, 1]}, "i < n"),
        ({"gate_loss": "likelihood", "gate_folds": 2, "fold": [0, 2]}, "experts would leave out two folds"),
    ],
)
def test_folds_that_cannot_be_are_refused(params, message):
    with pytest.raises(UserError, match=message):
        load_config("dsmip", params)


def test_more_folds_than_distinct_golds_are_refused_in_one_line(gate, tmp_path):
    run = gate.heads["text, without fold 0"]
    names = Bundle.load(gate, torch.device("cpu")).table["gold_id"]
    empty = next(fold for fold in range(400) if all(folds.fold_of(str(name), 400) != fold for name in names))
    job = replace(run, config={**run.config, "fold": [empty, 400]}, out=tmp_path)
    with pytest.raises(UserError, match=f"fold {empty} of 400 holds 0 of .* take fewer"):
        training.train(job)
