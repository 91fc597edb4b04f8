"""`dual` against its page, record by record in float64; what it reads, what it explains, what it cannot see."""

import json
from dataclasses import replace

import dual_reference as reference
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from heads_world import build_job, head_rows, head_shapes, job_for
from test_entity_pictures import counts_of, per_picture, with_pictures

from foundation.errors import UserError
from heads import explanations, training
from heads.base import Batch, PerPicture, Ragged, make_head
from heads.checkpoint import read_tensors
from heads.config import load_config
from heads.contracts import Selection

GOLD = [2, 0, 2, 1, 3, 0]
SMALL = {"width": 8, "attention_width": 8, "attention_heads": 2}
TEXT = ("text_tokens",)
TRAINED = {**SMALL, "epochs": 3, "batch_size": 32, "image_feature": "image_patches"}


def make(available=None, **options):
    """A small head with random weights everywhere."""
    config = load_config("dual", {**SMALL, **options})
    torch.manual_seed(3)
    shapes = head_shapes(config) if available is None else head_shapes(config, available=available)
    head = make_head("dual", config, shapes).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head


def records(rows):
    """The rows as the reference reads them."""
    several, found = isinstance(rows, PerPicture), []
    flat = rows.flat if several else rows
    starts, counts = (rows.places.starts, rows.counts) if several else (range(len(rows)), [1] * len(rows))
    for start, count in zip(starts, counts, strict=True):
        at = int(start)
        record = {"text": None, "tokens": [], "pictures": None}
        if flat["text.ok"][at]:
            record["text"] = numbers(flat["text.pooled"][at])
        if "text.tokens" in flat:
            record["tokens"] = numbers(flat["text.tokens"].take(torch.tensor([at])).values)
        if "phrase.ok" in flat:
            record["phrase"] = numbers(flat["phrase.pooled"][at]) if flat["phrase.ok"][at] else None
        if "image.ok" in flat:
            there = [row for row in range(at, at + int(count)) if flat["image.ok"][row]]
            states = flat.get("image.tokens")
            record["pictures"] = [
                (numbers(flat["image.pooled"][row]), [] if states is None else numbers(states[row])) for row in there
            ]
        found.append(record)
    return found


def numbers(tensor):
    return tensor.double().numpy()


def weights_of(head):
    return {name: numbers(tensor) for name, tensor in head.state_dict().items()}


def expected(head, mentions, entities):
    """The reference's (B, E) scores."""
    weights = weights_of(head)
    sides = ("both", "both") if head.config.shared else ("mention", "entity")
    ours, theirs = (
        [reference.vector(record, weights, side) for record in records(rows)]
        for rows, side in zip((mentions, entities), sides, strict=True)
    )
    return np.array([[m @ e / reference.temperature(weights) for e in theirs] for m in ours])


@torch.no_grad()
def block(head, mentions, entities):
    return head.score_block(head.encode_mentions(mentions), head.encode_entities(entities))["score"].numpy()


CASES: list[dict[str, object]] = [
    {},
    {"shared": False},
    {"attention_heads": 0},
    {"phrase": False},
    {"symmetric": False},
    {"attention_heads": 1, "image_feature": "image_patches"},
    {"image_feature": None},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_scores_and_loss_are_the_reference(options):
    head = make(**options)
    mentions, entities = head_rows(head.shapes, 6, 1, lengths=(0, 3)), head_rows(head.shapes, 5, 2, lengths=(0, 3))
    assert not (mentions["text.ok"].all() and entities["text.ok"].all()), "a text may be empty"
    wanted = expected(head, mentions, entities)
    np.testing.assert_allclose(block(head, mentions, entities), wanted, rtol=1e-5, atol=1e-4)
    lists = torch.tensor([[3, 0, 1], [1, -1, 2], [0, 2, 3], [2, 2, -1], [0, 1, 4], [3, 2, 1]])
    with torch.no_grad():
        encoded = head.encode_mentions(mentions), head.encode_entities(entities)
        listed = head.score_lists(*encoded, lists)["score"].numpy()
        loss, parts = head.loss(Batch(mentions, entities, torch.tensor(GOLD)))
    real = (lists >= 0).numpy()
    in_lists = np.take_along_axis(wanted, lists.clamp(min=0).numpy(), 1)
    np.testing.assert_allclose(listed[real], in_lists[real], rtol=1e-5, atol=1e-4)
    of_mentions, of_entities = reference.objective(wanted, GOLD, head.config.symmetric)
    assert parts["mentions"].item() == pytest.approx(of_mentions, rel=1e-4)
    assert set(parts) == {"mentions", "entities"} if of_entities is not None else {"mentions"}
    mean = of_mentions if of_entities is None else (of_mentions + of_entities) / 2
    assert loss.item() == pytest.approx(mean, rel=1e-4)


def test_several_pictures_are_pooled_by_one_attention_into_one_vector():
    head = make()
    counts = np.array([3, 1, 0, 2])
    mentions, entities = head_rows(head.shapes, 5, 1), per_picture(head, counts, 2)
    with torch.no_grad():
        assert head.encode_entities(entities).fixed("vector").shape == (4, 8)
    found = block(head, mentions, entities)
    np.testing.assert_allclose(found, expected(head, mentions, entities), rtol=1e-5, atol=1e-4)
    alone = block(head, mentions, PerPicture(entities.flat.take(torch.tensor([3, 4])), torch.tensor([1, 1])))
    np.testing.assert_allclose(found[:, 1:3], alone, rtol=1e-5, atol=1e-4)
    plain = make(attention_heads=0)
    rows = per_picture(plain, counts, 2)
    ours = head_rows(plain.shapes, 5, 1)
    np.testing.assert_allclose(block(plain, ours, rows), expected(plain, ours, rows), rtol=1e-5, atol=1e-4)


def test_per_picture_is_a_vector_for_each_picture_of_which_the_best_counts():
    head = make(per_picture=True)
    assert head.config.entity_pictures == "best"
    counts = np.array([3, 1, 0, 2])
    mentions, entities = head_rows(head.shapes, 5, 1), per_picture(head, counts, 2)
    with torch.no_grad():
        assert len(head.encode_entities(entities).flat) == 7
    each = expected(head, mentions, entities.flat)
    best = np.stack([part.max(1) for part in np.split(each, [3, 4, 5], 1)], 1)
    np.testing.assert_allclose(block(head, mentions, entities), best, rtol=1e-5, atol=1e-4)
    with pytest.raises(UserError, match="with per_picture it is 'best'"):
        load_config("dual", {"per_picture": True, "entity_pictures": "mean"})


@pytest.mark.parametrize("options", [{}, {"per_picture": True}], ids=str)
def test_what_pairs_of_modalities_add_is_the_score(options):
    head = make(**options)
    mentions, entities = head_rows(head.shapes, 4, 1), per_picture(head, np.array([3, 1, 0, 2]), 2)
    columns = torch.tensor([[3, 0, 1], [1, -1, 2], [0, 2, 3], [2, 3, -1]])
    with torch.no_grad():
        encoded = head.encode_mentions(mentions), head.encode_entities(entities)
        scores = head.score_lists(*encoded, columns)["score"]
        told = head.explain(*encoded, columns)
    names = [f"{first}_{second}" for first in ("text", "image") for second in ("text", "image")]
    assert set(told) == {*names, "attention.text", "attention.image"}
    torch.testing.assert_close(torch.stack([told[name] for name in names]).sum(0), scores, rtol=1e-4, atol=1e-4)
    weights = weights_of(head)
    for at, record in enumerate(records(mentions)):
        states = {"text": record["tokens"], "image": [state for _, some in record["pictures"] for state in some]}
        for role, of_role in states.items():
            query, value = (weights[f"encoders.both.pools.{role}.{name}"] for name in ("query", "value.weight"))
            _, shares = reference.attention(of_role, query, value)
            found = told[f"attention.{role}"][at]
            np.testing.assert_allclose(found[~found.isnan()].numpy(), shares, rtol=1e-4, atol=1e-6)


def test_padding_and_the_order_of_texts_change_no_vector():
    head = make()
    short, long = head_rows(head.shapes, 3, 1, lengths=(1, 4)), head_rows(head.shapes, 60, 2, lengths=(20, 60))
    together = type(short).concatenate([long, short])
    with torch.no_grad():
        vectors = head.encode_mentions(together).fixed("vector")[-3:]
        torch.testing.assert_close(vectors, head.encode_mentions(short).fixed("vector"), rtol=1e-5, atol=1e-6)
    tokens = short["text.tokens"]
    backwards = torch.cat([part.flip(0) for part in tokens.values.split(tokens.lengths.tolist())])
    with torch.no_grad():
        turned = head.encode_mentions(type(short)({**short, "text.tokens": Ragged(backwards, tokens.lengths)}))
    torch.testing.assert_close(turned.fixed("vector"), vectors, rtol=1e-5, atol=1e-6)


def test_a_vector_has_length_1_and_half_a_kilobyte():
    config = load_config("dual", {})
    head = make_head("dual", config, head_shapes(config)).eval()
    with torch.no_grad():
        vectors = head.encode_entities(head_rows(head.shapes, 20, 1, lengths=(0, 9))).fixed("vector")
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(20))
    assert vectors.half()[0].numel() * vectors.half().element_size() <= 512


def test_the_temperature_is_learned_and_stays_above_a_hundredth():
    head = make()
    assert make_head("dual", load_config("dual", {}), head.shapes).temperature.item() == pytest.approx(0.05)
    with torch.no_grad():
        head.log_temperature.fill_(-20.0)
    assert head.temperature.item() == pytest.approx(0.01)


@pytest.mark.parametrize("pictures", ["of all", "of none"])
def test_every_weight_moves_with_pictures_and_what_is_left_without(pictures):
    head = make().train()
    missing = 0.3 if pictures == "of all" else 1.0
    rows = (head_rows(head.shapes, n, n, missing) for n in (12, 10))
    head.loss(Batch(*rows, torch.arange(12) % 7, drawn=torch.full((12, 2), 9)))[0].backward()
    still = {
        name for name, parameter in head.named_parameters() if parameter.grad is None or not parameter.grad.abs().max()
    }
    unread = {"encoders.both.pools.image.query", "encoders.both.pools.image.value.weight"}
    assert still == (set() if pictures == "of all" else unread)


def test_ablations_take_away_what_is_there():
    available = ("text_tokens", "clip_image")
    assert set(load_config("dual", {}).ablations(available)) == {
        "without attention", "without hard negatives", "without phrase", "weights of each side",
        "loss of mentions alone", "text only",
    }  # fmt: skip
    bare = {"attention_heads": 0, "hard_negatives": 0, "phrase": False, "shared": False, "symmetric": False}
    assert load_config("dual", bare).ablations(("text_tokens",)) == {}
    for changes in load_config("dual", {}).ablations(available).values():
        load_config("dual", changes).wants(available)


def test_what_it_lacks_is_named_in_one_line():
    with pytest.raises(UserError, match="dual reads a text feature \\(text_tokens or clip_text\\), there are: faces"):
        load_config("dual", {}).wants(["faces"])
    with pytest.raises(UserError, match="attention_width = 10: expected a multiple of attention_heads = 4"):
        load_config("dual", {"attention_width": 10})


# Trained


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_job(tmp_path_factory.mktemp("world"))


def run_of(world, out, **options):
    job = job_for(world, "dual", {**TRAINED, **options}, out)
    training.train(job)
    return job


def test_it_finds_what_it_was_not_shown(world, tmp_path):
    job = run_of(world, tmp_path / "run", epochs=20, lr=0.005)
    figures = training.train(job).metrics["test"]["full-kb"]["all"]
    assert figures["H@1"] > 0.5 and figures["MRR"] > 0.6, "one entity of 40 by chance"


def with_permuted_golds(job, folder, splits):
    """The job over a copy of its tables in which the golds of these splits' mentions have other owners, and their
    lists are still the same."""
    folder.mkdir()
    table = pq.read_table(job.dataset / "mentions.parquet")
    columns = {name: table[name].to_pylist() for name in table.column_names}
    here = [row for row, split in enumerate(columns["split"]) if split in splits]
    turned = here[1:] + here[:1]
    for name in ("gold", "gold_id"):
        values = columns[name]
        columns[name] = [*values]
        for row, other in zip(here, turned, strict=True):
            columns[name][row] = values[other]
    pq.write_table(pa.table(columns, schema=table.schema), folder / "mentions.parquet")
    (folder / "entities.parquet").write_bytes((job.dataset / "entities.parquet").read_bytes())
    return replace(job, dataset=folder, out=folder / "run")


def predicted(job):
    return [(row["id"], row["top"], row["top_score"]) for row in
            pq.read_table(job.out / "predictions.parquet").to_pylist()]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"entity_pictures": "best", "picture_dropout": 0.3}], ids=str)
def test_the_golds_of_test_decide_nothing(world, tmp_path, options):
    job = run_of(world, tmp_path / "run", **options)
    other = with_permuted_golds(job, tmp_path / "permuted", ("test",))
    training.train(other)
    ours, theirs = (read_tensors(one.out / "model.safetensors")[0] for one in (job, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert predicted(job) == predicted(other)
    metrics = [training.train(one).metrics["test"]["full-kb"]["all"] for one in (job, other)]
    assert metrics[0]["MRR"] > metrics[1]["MRR"] + 0.1, "other golds were measured"


def test_the_golds_of_dev_choose_the_epoch_and_nothing_else(world, tmp_path):
    """With patience off every epoch is trained, so the losses are those of the same weights."""
    job = run_of(world, tmp_path / "run", patience=0)
    other = with_permuted_golds(job, tmp_path / "permuted", ("dev", "test"))
    training.train(other)
    ours, theirs = (
        [{name: row[name] for name in ("loss", "mentions", "entities")} for row in history(one)] for one in (job, other)
    )
    assert ours == theirs and len(ours) == 3
    assert [row["dev MRR"] for row in history(job)] != [row["dev MRR"] for row in history(other)]


def history(job):

    return json.loads((job.out / "history.json").read_text())["epochs"]


def test_a_run_is_explained_by_its_own_scores(world, tmp_path):
    job = run_of(with_pictures(world, counts_of(world, 3)), tmp_path / "run", entity_pictures="mean")
    for one in explanations.explain(job, Selection(split="test", sample=8)):
        for candidate in one["candidates"]:
            assert sum(candidate["units"].values()) == pytest.approx(candidate["score"], rel=1e-3, abs=1e-3)
        if one["candidates"]:
            assert sum(one["attention"]["text"]["weights"]) == pytest.approx(1, abs=1e-4)
