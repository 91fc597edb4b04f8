"""The baselines against what their pages say, row by row in float64; heads with nothing to train; the command line's
names."""

import json
from dataclasses import replace

import baseline_reference as reference
import numpy as np
import pytest
import torch
from heads_world import build_job, head_rows, head_shapes, job_for

from experiments import jobs
from foundation.errors import UserError
from heads import training
from heads.base import Batch, make_head
from heads.config import load_config
from pipeline.profiles.profile import load

BASELINES = sorted(reference.VECTORS)
GOLD = [2, 0, 2, 1, 3, 0]


def make(method, **options):
    """A small head with random weights everywhere, where it has any."""
    config = load_config(method, {"width": 8, **options})
    torch.manual_seed(3)
    head = make_head(method, config, head_shapes(config)).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head


def plain(rows, row):
    """One row as the reference reads it."""
    found = {"text": rows["text.pooled"][row], "tokens": None, "phrase": None, "image": None, "states": None}
    if "text.tokens" in rows:
        found["tokens"] = rows["text.tokens"].take(torch.tensor([row])).values
    for name, column in (("phrase", "phrase.pooled"), ("image", "image.pooled"), ("states", "image.tokens")):
        if column in rows and rows[f"{column.split('.')[0]}.ok"][row]:
            found[name] = rows[column][row]
    return {name: value if value is None else value.double().numpy() for name, value in found.items()}


def cosines(head, method, mentions, entities):
    """The reference's (B, E) scores."""
    weights = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    options = {**vars(head.config), "method": method, "image": head.shapes.get("image.pooled", (0,))[-1]}
    ours, theirs = (
        [reference.VECTORS[method](plain(rows, row), weights, options, side) for row in range(len(rows))]
        for rows, side in ((mentions, "mention"), (entities, "entity"))
    )
    return np.array([[reference.cosine(mention, entity) for entity in theirs] for mention in ours]), weights, options


CASES: list[tuple[str, dict[str, object]]] = [(method, {}) for method in BASELINES]
CASES += [(method, {"projection": False}) for method in ("bert", "clip", "clip_text")]
CASES += [
    ("melhi", {"threshold": 0.2}),
    ("jmel", {"loss": "cross_entropy"}),
    ("dzmned", {"loss": "triplet"}),
    ("ghmfc", {"contrast": 0.0}),
]


@pytest.mark.parametrize(
    ("method", "options"), CASES, ids=[f"{method} {options or ''}".strip() for method, options in CASES]
)
def test_scores_and_loss_are_the_reference(method, options):
    head = make(method, **options)
    mentions, entities = head_rows(head.shapes, 6, 1), head_rows(head.shapes, 4, 2)
    expected, weights, chosen = cosines(head, method, mentions, entities)
    lists = torch.tensor([[3, 0, 1], [1, -1, 2], [0, 2, 3], [2, 2, -1], [0, 1, 2], [3, 2, 1]])
    with torch.no_grad():
        encoded = head.encode_mentions(mentions), head.encode_entities(entities)
        block, listed = head.score_block(*encoded)["score"], head.score_lists(*encoded, lists)["score"]
        loss, parts = head.loss(Batch(mentions, entities, torch.tensor(GOLD)))
    np.testing.assert_allclose(block.numpy(), expected, rtol=1e-5, atol=1e-5)
    real = (lists >= 0).numpy()
    np.testing.assert_allclose(
        listed.numpy()[real], np.take_along_axis(expected, lists.clamp(min=0).numpy(), 1)[real], rtol=1e-5, atol=1e-5
    )
    want = reference.objective(expected, GOLD, chosen)
    if method == "ghmfc" and chosen["contrast"]:
        views = [
            view
            for view in (reference.guided(plain(mentions, row), weights, chosen) for row in range(6))
            if view[1] is not None
        ]
        similar = [[reference.cosine(text, image) / chosen["temperature"] for _, image in views] for text, _ in views]
        contrast = np.mean([reference.cross_entropy(row, place) for place, row in enumerate(similar)])
        assert parts["contrast"].item() == pytest.approx(contrast, rel=1e-4) and len(views) > 2
        want += chosen["contrast"] * contrast
    assert loss.item() == pytest.approx(want, rel=1e-4, abs=1e-6)


def test_melhi_lets_some_images_in_and_keeps_some_out():
    head = make("melhi")
    rows = head_rows(head.shapes, 40, 1)
    kept = head.kept(rows)[rows["image.ok"]]
    assert set(kept.detach().round().tolist()) == {0.0, 1.0}
    assert head.kept(rows)[~rows["image.ok"]].abs().max() == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_job(tmp_path_factory.mktemp("world"))


def test_a_head_with_nothing_to_train_is_evaluated_as_it_is(world, tmp_path):
    job = job_for(world, "bert", {"projection": False}, tmp_path / "bert")
    result = training.train(job)
    assert (result.run["epochs"], result.run["best_epoch"]) == (0, 0)
    assert json.loads((job.out / "history.json").read_text()) == {"best_epoch": 0, "epochs": []}
    assert result.metrics["test"]["full-kb"]["all"]["n"] == 38
    written = {name: (job.out / name).read_bytes() for name in training.OUTPUTS}
    assert training.train(replace(job, out=tmp_path / "again")).metrics == result.metrics
    assert written == {name: (tmp_path / "again" / name).read_bytes() for name in training.OUTPUTS}


def test_no_epochs_leave_the_weights_as_they_were(world, tmp_path):
    job = job_for(world, "jmel", {"epochs": 0, "width": 8}, tmp_path / "jmel")
    training.train(job)
    tensors, said = training.read_tensors(job.out / "model.safetensors")
    torch.manual_seed(job.seed)
    fresh = make_head(
        "jmel", load_config("jmel", job.config), {name: tuple(shape) for name, shape in said["shapes"].items()}
    )
    assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in tensors.items()) and tensors


@pytest.mark.parametrize("method", ["bert", "dzmned", "ghmfc", "jmel", "melhi"])
def test_training_beats_the_weights_it_starts_from(world, tmp_path, method):
    def reached(epochs):
        job = job_for(
            world,
            method,
            {"epochs": epochs, "width": 16, "lr": 0.005, "batch_size": 32},
            tmp_path / f"{method}{epochs}",
        )
        return training.train(job).metrics["test"]["full-kb"]["all"]["MRR"]

    assert reached(6) > reached(0) + 0.1


def test_a_method_may_be_named_as_the_papers_write_it():
    profile = load("demo")
    assert jobs.head_spec("clip-text", "{}", profile) == jobs.head_spec("clip_text", "{}", profile)
    with pytest.raises(UserError, match=r"'clip_txt': no such method; did you mean 'clip_text'"):
        jobs.head_spec("clip-txt", "{}", profile)


def test_a_profile_without_the_encoder_is_refused():
    for method, available in (("clip", ["text_tokens"]), ("bert", ["clip_text"])):
        with pytest.raises(UserError, match="this method reads a text feature"):
            load_config(method, {}).wants(available)
