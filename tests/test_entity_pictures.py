"""Several pictures of an entity: which of them a head reads, what a pair's score is then, and what stays as it was."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from heads_world import IMAGE, build_job, head_rows, head_shapes, job_for
from test_heads_contract import SMALL, lists_of
from test_picture_dropout import FOR_PAIRS, OPTIONS, trained

from cache.identity import content_key
from cache.inputs import IMAGE as IMAGE_VIEW
from cache.inputs import IMAGES
from cache.keys import KeyColumn
from cache.shard import Status
from cache.store import Store
from foundation.errors import UserError
from heads import explanations, several, training
from heads.base import PerPicture, Ragged, Rows, make_head
from heads.columns import PictureRows
from heads.config import load_config, methods, naming_options, to_json
from heads.contracts import Selection
from heads.data import Bundle
from heads.methods.dsmip import Dsmip
from heads.metrics import rank_in_lists
from heads.scoring import Golds, Scoring
from pipeline.pairs.registry import FUNCTIONS

CPU = torch.device("cpu")
OPTION = ("first", "random", "best", "mean")
SCORED = ("best", "mean")
TRAINED = {name: OPTIONS[name] for name in ("mimic", "drin", "dsmip", "dual", "jmel")}
MANY = ("clip", "dsmip", "dzmned", "ghmfc", "jmel", "melhi", "mimic")
"""Methods that score a pair by itself and read the entity's picture."""


def with_pictures(job, counts, states=None, order=None, name="more"):
    """The job with `counts[e]` pictures of entity e under the view `images`: its own, then others, random or `states`
    (pooled vectors by (entity, number)). order: of each entity's pictures, as a function of how many there are."""
    (one,) = [one for one in job.inputs if (one.side, one.role) == ("entity", "image")]
    store, keys = Store.open(one.store), KeyColumn.load(one.keys)
    random, rows, listed = np.random.default_rng(4), {}, []
    for entity, count in enumerate(counts):
        own = []
        for number in range(count):
            key = keys.keys[entity].tobytes() if not number else content_key("image", f"{entity} {number}")
            own.append(key)
            if number:
                rows[key] = {out.name: random.normal(size=out.shape).astype(np.float16) for out in IMAGE}
                if states is not None:
                    rows[key]["pooled"] = states[entity, number].astype(np.float16)
        listed += [own[i] for i in (order(count) if order else range(count))]
    spec = json.loads((one.store / "spec.json").read_text())["spec"]
    more = Store.create(job.dataset / name, one.feature, spec)
    n = len(keys.keys)
    first = {out.name: keys.table(store, out.name) for out in IMAGE}
    ok = next(iter(first.values())).ok
    columns = {out.name: [*np.where(ok[:, None, None] if len(out.shape) == 2 else ok[:, None],
                                    first[out.name].gather(np.arange(n)), 0),
                          *(row[out.name] for row in rows.values())] for out in IMAGE}  # fmt: skip
    every = np.frombuffer(b"".join([*(key.tobytes() for key in keys.keys), *rows]), np.uint8).reshape(-1, 16)
    status = np.array([*np.where(ok, Status.OK, Status.MISSING), *[Status.OK] * len(rows)], np.uint8)
    if not more.rows:
        more.add(every, status, ["" if code == Status.OK else "absent" for code in status], columns)
    path = job.dataset / f"{name}-{0 if order is None else order(3)[0]}.npz"
    listed = np.frombuffer(b"".join(listed), np.uint8).reshape(-1, 16)
    span = np.full((len(listed), 2), -1, np.int32)
    np.savez(path, keys=listed, present=np.ones(len(listed), bool), span=span, counts=np.array(counts))
    changed = replace(one, view=IMAGES, store=more.folder, keys=path)
    return replace(job, inputs=tuple(changed if other is one else other for other in job.inputs))


def counts_of(job, most=1):
    """How many pictures each entity of the world has: none where its picture is missing."""
    (one,) = [one for one in job.inputs if (one.side, one.role) == ("entity", "image")]
    there = KeyColumn.load(one.keys).table(Store.open(one.store), "pooled").ok
    return np.where(there, 1 + np.arange(len(there)) % most, 0)


def job_of(job, method, how, out, **options):
    config = {"epochs": 2, "patience": 0, "batch_size": 16, **OPTIONS.get(method, {}), **options}
    return job_for(job, method, {**config, "entity_pictures": how}, out, FOR_PAIRS if method == "drin" else ())


def head_of(method, how, **options):
    torch.manual_seed(3)
    config = load_config(method, {**SMALL.get(method, {}), "entity_pictures": how, **options})
    head = make_head(method, config, head_shapes(config)).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head


def per_picture(head, counts, seed):
    """Random entities with `counts[e]` pictures each (none: one row without), and a plain row for each picture."""
    n, owner = len(counts), np.repeat(np.arange(len(counts)), np.maximum(counts, 1))
    text, pictures = head_rows(head.shapes, n, seed), head_rows(head.shapes, len(owner), seed + 1, missing=0)
    seen = [role for role in {name.split(".")[0] for name in text} if "image" in role]
    rows = Rows(text.take(torch.from_numpy(owner)))
    there = torch.from_numpy(np.array(counts) > 0)[torch.from_numpy(owner)]
    for name, column in pictures.items():
        if name.split(".")[0] in seen:
            rows[name] = column * there.view(-1, *[1] * (column.ndim - 1)) if column.ndim > 1 else column & there
    return PerPicture(rows, torch.from_numpy(np.maximum(counts, 1)))


# With one picture, everything is as it was


@pytest.mark.parametrize("method", sorted(TRAINED))
def test_with_one_picture_every_option_gives_the_bytes_of_the_first(method, tmp_path):
    job = build_job(tmp_path, splits=(48, 12, 12))
    several_job = with_pictures(job, counts_of(job))
    first, losses = trained(job_of(job, method, "first", tmp_path / "run"), epochs=1)
    for how in OPTION[1:]:
        found, found_losses = trained(job_of(several_job, method, how, tmp_path / "run"), epochs=1)
        assert found_losses == losses, how
        assert all(torch.equal(found[name], first[name]) for name in first), how


def test_runs_keep_their_names_and_only_another_option_names_another_run():
    plain = to_json(load_config("mimic", {}))
    assert plain["entity_pictures"] == "first" and "entity_pictures" not in naming_options("mimic", plain)
    best = to_json(load_config("mimic", {"entity_pictures": "best"}))
    assert naming_options("mimic", best) == {**naming_options("mimic", plain), "entity_pictures": "best"}


# What is counted by hand


def test_scores_of_pairs_are_the_best_or_the_mean_over_the_pictures():
    """Three entities with two, one and three pictures."""
    scores = torch.tensor([[1.0, 4.0, 2.0, 0.0, -3.0, 6.0], [5.0, 5.0, -1.0, -7.0, -2.0, -2.0]])
    unit = torch.tensor([[10.0, 20.0, 30.0, 40.0, 50.0, 60.0]] * 2)
    expert = torch.tensor([[0.0, 1.0, 2.0, 2.0, 1.0, 1.0], [0.0, 0.0, 1.0, 2.0, 1.0, 0.0]])
    entities = PerPicture({"x": torch.zeros(6)}, torch.tensor([2, 1, 3]))
    named = {"score": scores, "unit": unit, "expert": expert}
    best = several.of_block(named, entities, "best", ("expert",))
    assert best["score"].tolist() == [[4, 2, 6], [5, -1, -2]]
    assert best["unit"].tolist() == [[20, 30, 60], [10, 30, 50]], "of two that are equally good, the first"
    assert best["expert"].tolist() == [[1, 2, 1], [0, 1, 1]]
    mean = several.of_block(named, entities, "mean", ("expert",))
    assert mean["score"].tolist() == [[2.5, 2, 1], [5, -1, pytest.approx(-11 / 3)]]
    assert mean["unit"].tolist() == [[15, 30, 50], [15, 30, 50]]
    assert mean["expert"].tolist() == [[0, 2, 1], [0, 1, 0]], "the most frequent, of equally frequent ones the lowest"


def test_lists_are_those_of_the_block():
    entities = PerPicture({"x": torch.arange(6.0)}, torch.tensor([2, 1, 3]))
    columns = torch.tensor([[2, 0], [1, 1]])
    longer, starts, counts = several.rows_of_lists(entities, columns)
    assert longer.tolist() == [[3, 4, 5, 0, 1], [2, 2, 0, 0, 0]]
    assert starts.tolist() == [[0, 3], [0, 1]] and counts.tolist() == [[3, 2], [1, 1]]
    scores = torch.tensor([[1.0, 4.0, 2.0, 0.0, -3.0, 6.0], [5.0, 5.0, -1.0, -7.0, -2.0, -2.0]])
    for how in SCORED:
        block = several.of_block({"score": scores}, entities, how)["score"]
        listed = several.of_pairs({"score": scores.gather(1, longer)}, starts, counts, how)["score"]
        assert torch.equal(listed, block.gather(1, columns))


def test_the_gradient_of_the_best_goes_to_it_alone_and_that_of_the_mean_to_all():
    entities = PerPicture({"x": torch.zeros(5)}, torch.tensor([2, 3]))
    for how, expected in (("best", [0, 1, 1, 0, 0]), ("mean", [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])):
        scores = torch.tensor([[1.0, 2.0, 9.0, 3.0, 4.0]], requires_grad=True)
        several.of_block({"score": scores}, entities, how)["score"].sum().backward()
        torch.testing.assert_close(scores.grad, torch.tensor([expected], dtype=torch.float32))


def test_rows_of_entities_with_several_pictures_are_taken_and_joined_by_entity():
    rows = PerPicture(
        {"x": torch.arange(6), "t": Ragged(torch.arange(6), torch.ones(6).long())}, torch.tensor([2, 1, 3])
    )
    taken = rows.take(torch.tensor([2, 0]))
    assert len(rows) == 3 and taken.counts.tolist() == [3, 2] and not taken.single
    assert taken["x"].tolist() == taken["t"].values.tolist() == [3, 4, 5, 0, 1]
    both = Rows.concatenate([rows, taken])
    assert isinstance(both, PerPicture) and both.counts.tolist() == [2, 1, 3, 3, 2]
    assert both["x"].tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 0, 1]
    assert rows.take(torch.tensor([1])).single


@pytest.mark.parametrize("method", MANY)
@pytest.mark.parametrize("how", SCORED)
def test_a_pair_has_the_best_or_the_mean_of_its_scores_with_each_picture(method, how):
    """Each head's own score of every (mention, picture), as if the picture were the entity's only one."""
    options = {"prompts": False} if method == "dsmip" else {}
    head, counts = head_of(method, how, **options), np.array([2, 1, 3, 0, 1, 2, 1])
    mentions, entities = head_rows(head.shapes, 5, 1, missing=0.3), per_picture(head, counts, 2)
    lists, owner = lists_of(5, 4, len(counts)), np.repeat(np.arange(len(counts)), entities.counts)
    with torch.no_grad():
        ours, theirs = head.encode_mentions(mentions), head.encode_entities(entities)
        each = head.score_block(ours, head.encode_entities(entities.flat))["score"].numpy()
        found = head.score_block(ours, theirs)["score"].numpy()
        listed = head.score_lists(ours, theirs, lists)["score"].numpy()
    reduce = np.max if how == "best" else np.mean
    expected = np.stack([reduce(each[:, owner == entity], 1) for entity in range(len(counts))], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(listed, np.take_along_axis(expected, lists.numpy(), 1), rtol=1e-4, atol=1e-4)


def test_drin_takes_the_picture_that_is_nearest_the_mentions_and_their_mean_without_one():
    head = head_of("drin", "best")
    counts = np.array([3, 1, 2, 0])
    mentions, entities = head_rows(head.shapes, 2, 1, missing=0), per_picture(head, counts, 2)
    mentions["image.ok"] = torch.tensor([True, False])
    pooled, owner = entities["image.pooled"], np.repeat(np.arange(4), entities.counts)
    own = torch.nn.functional.cosine_similarity(mentions["image.pooled"][:1], pooled)
    with torch.no_grad():
        ours, theirs = head.encode_mentions(mentions), head.encode_entities(entities)
        found = head._of_nearest(ours, theirs, torch.arange(4).repeat(2, 1))
        every = head.entity_image(pooled)
    for entity in range(4):
        rows = np.flatnonzero(owner == entity)
        there = bool(counts[entity])
        torch.testing.assert_close(found[0, entity], every[rows[int(own[rows].argmax())]] * there)
        torch.testing.assert_close(found[1, entity], every[rows].mean(0) * there)


@pytest.mark.parametrize("counts", [[1, 1, 3, 2], [3, 2, 1, 1]])
def test_drin_scores_entities_alike_however_they_are_divided(counts):
    head = head_of("drin", "best")
    mentions, entities = head_rows(head.shapes, 3, 1, missing=0), per_picture(head, np.array(counts), 2)
    columns = torch.arange(4).repeat(3, 1)
    with torch.no_grad():
        ours = head.encode_mentions(mentions)
        parts = [head.encode_entities(entities.take(torch.tensor(rows))) for rows in ([0, 1], [2, 3])]
        found = [
            head._of_nearest(ours, theirs, columns)
            for theirs in (Rows.concatenate(parts), head.encode_entities(entities))
        ]
    torch.testing.assert_close(*found)


def test_an_entity_weighs_the_same_for_the_gate_however_many_pictures_it_has():
    entities = PerPicture(Rows({"x": torch.zeros(5)}), torch.tensor([3, 1, 1]))
    weights = torch.tensor([[[1.0, 0], [0.4, 0.6], [0.1, 0.9], [0, 1], [0.2, 0.8]]])
    assert Dsmip._mean_weights(weights, entities).tolist() == [
        pytest.approx([(0.5 + 0 + 0.2) / 3, (0.5 + 1 + 0.8) / 3])
    ]


# Which pictures an entity has


def keys_of(*names):
    return np.frombuffer(b"".join(content_key("image", name) for name in names), np.uint8).reshape(-1, 16)


def test_pictures_that_no_feature_has_are_left_out_and_an_entity_without_any_has_the_absent_row():
    keys = np.concatenate([keys_of("a", "b", "c", "d"), np.zeros((1, 16), np.uint8)])
    listed = np.array([2, 0, 1, 1])
    one, other = np.array([True, False, False, True, False]), np.array([True, True, False, False, False])
    found = PictureRows.of(keys, listed, [one, other], by_key=False)
    assert found.places.tolist() == [0, 1, 4, 4, 3] and found.counts.tolist() == [2, 1, 1, 1]
    assert found.one(np.array([3, 0, 1]), None).tolist() == [3, 0, 4]
    places, counts = found.all(np.array([3, 0]))
    assert places.tolist() == [3, 0, 1] and counts.tolist() == [1, 2]


def test_by_key_the_order_in_which_pictures_are_listed_changes_nothing():
    names = ["a", "b", "c", "d", "e"]
    ok = [np.array([True] * 5 + [False])]
    seen = []
    for order in ([0, 1, 2, 3, 4], [2, 0, 1, 4, 3]):
        keys = np.concatenate([keys_of(*(names[i] for i in order)), np.zeros((1, 16), np.uint8)])
        found = PictureRows.of(keys, np.array([3, 2]), ok, by_key=True)
        seen.append([names[order[place]] for place in found.places.tolist()])
    assert seen[0] == seen[1] and sorted(seen[0][:3]) == ["a", "b", "c"]


def test_a_random_picture_is_any_of_the_entitys_own_with_the_same_chance():
    found = PictureRows(np.array([7, 3, 5, 2]), np.array([3, 1]))
    drawn = [found.one(np.array([0, 1]), np.random.default_rng([1, step])).tolist() for step in range(3000)]
    assert {second for _, second in drawn} == {2}
    shares = np.bincount([first for first, _ in drawn], minlength=8)[[7, 3, 5]] / 3000
    assert abs(shares - 1 / 3).max() < 4 * (2 / 9 / 3000) ** 0.5


# Trained


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    job = build_job(tmp_path_factory.mktemp("several"), splits=(48, 24, 24))
    return job, counts_of(job, most=3)


def measured(job):
    """A head that was never trained: scores of dev's and test's lists and of the whole KB."""
    bundle = Bundle.load(job, CPU)
    mentions, _ = bundle.training_mentions()
    head = training.new_head(job, bundle, mentions).eval()
    index = np.flatnonzero(bundle.table["split"] == "test")
    scoring = Scoring.of(head, bundle)
    lists = scoring.lists(index, bundle.candidates[index], bundle.pairs_of(index))["score"]
    kb = scoring.kb(index, Golds.none(len(index)), 5) if head.scores_blocks else None
    return [lists, *([kb.top, kb.top_scores] if kb else [])]


@pytest.mark.parametrize("method", sorted(TRAINED))
def test_the_order_of_an_entitys_pictures_moves_the_first_alone(world, tmp_path, method):
    job, counts = world
    here = with_pictures(job, counts)
    there = with_pictures(job, counts, order=lambda count: list(range(count))[::-1])
    same = {
        how: all(
            np.array_equal(one, other)
            for one, other in zip(
                *(measured(job_of(each, method, how, tmp_path / "run")) for each in (here, there)), strict=True
            )
        )
        for how in ("random", "best", "mean")
    }
    assert same == {"random": False, "best": True, "mean": True}


def test_entities_without_pictures_score_as_they_do_without_the_option(world, tmp_path):
    job, counts = world
    first, best = (
        measured(job_of(each, "mimic", how, tmp_path / "run"))[0]
        for each, how in ((job, "first"), (with_pictures(job, counts), "best"))
    )
    bundle = Bundle.load(job, CPU)
    lists = bundle.candidates[bundle.table["split"] == "test"]
    one, more = (lists >= 0) & (counts[lists] <= 1), counts[lists] > 1
    np.testing.assert_allclose(best[one], first[one], rtol=1e-5, atol=1e-6)
    assert (best[more] >= first[more] - 1e-5).all() and (best[more] > first[more] + 1e-3).any()


def test_a_random_picture_in_training_goes_on_to_the_same_bytes_after_a_kill(world, tmp_path, monkeypatch):
    job, counts = world
    job = job_of(with_pictures(job, counts), "jmel", "random", tmp_path / "whole", epochs=3)
    training.train(job)
    killed, points = replace(job, out=tmp_path / "killed"), []

    def fault(point):
        points.append(point)
        if points.count("epoch-end") == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "fault_point", fault)
        with pytest.raises(KeyboardInterrupt):
            training.train(killed)
    result = training.train(killed)
    assert result.run["resumed_after"] == 2
    for name in ("model.safetensors", "metrics.json", "predictions.parquet", "history.json"):
        assert (killed.out / name).read_bytes() == (job.out / name).read_bytes(), name
    first = job_of(world[0], "jmel", "first", tmp_path / "first", epochs=3)
    assert trained(job)[1] != trained(first)[1], "it draws others than the first"
    assert trained(job)[1] == trained(job)[1] != trained(replace(job, seed=7))[1]


def test_at_evaluation_a_head_with_random_pictures_sees_the_first(world, tmp_path):
    job, counts = world
    for random, first in zip(
        measured(job_of(with_pictures(job, counts), "mimic", "random", tmp_path / "run")),
        measured(job_of(job, "mimic", "first", tmp_path / "run")),
        strict=True,
    ):
        np.testing.assert_array_equal(random, first)


def test_the_second_picture_is_found_by_the_best_and_not_by_the_first(tmp_path):
    """Every text is the same, and an entity's picture shows its mentions' subject in the second one alone."""
    job = build_job(tmp_path, entities=30, splits=(40, 20, 200))
    random = np.random.default_rng(5)
    pooled = random.normal(size=(30, 12))
    table = Bundle.read(job.dataset, job.candidates)
    gold = table.gold
    states = {(entity, number): pooled[entity] if number == 1 else random.normal(size=12)
              for entity in range(30) for number in range(1, 3)}  # fmt: skip
    texts, (mine,) = [], [one for one in job.inputs if (one.side, one.role) == ("mention", "image")]
    for one in job.inputs:
        store, keys = Store.open(one.store), KeyColumn.load(one.keys)
        n, spec = len(keys.keys), json.loads((one.store / "spec.json").read_text())["spec"]
        values = {}
        for output in store.outputs.values():
            row = np.ones((n, *output.shape), output.dtype)
            values[output.name] = [row[i : i + 1] for i in range(n)] if output.ragged else row
        if one == mine:
            values["pooled"] = (pooled[np.maximum(gold, 0)] + 0.1 * random.normal(size=(n, 12))).astype(np.float16)
        elif one.role == "image":
            values["pooled"] = random.normal(size=(n, 12)).astype(np.float16)
        same = Store.create(tmp_path / "same", f"{one.side}_{one.feature}", spec)
        same.add(keys.keys, np.zeros(n, np.uint8), [""] * n, values)
        texts.append(replace(one, store=same.folder))
    job = with_pictures(replace(job, inputs=tuple(texts)), [3] * 30, states)
    right = {}
    for how in ("random", "best", "mean"):
        options = {"projection": False, "text_feature": "text_tokens", "image_feature": "image_patches"}
        bundle = Bundle.load(run := job_of(job, "clip", how, tmp_path / how, **options), CPU)
        index = np.flatnonzero((bundle.table["split"] == "test") & (bundle.gold >= 0))
        head = training.new_head(run, bundle, index).eval()
        scoring, everyone = Scoring.of(head, bundle), np.tile(np.arange(30), (len(index), 1))
        ranks = rank_in_lists(scoring.lists(index, everyone)["score"], everyone, bundle.gold[index])
        right[how] = float((ranks == 1).mean())
        top = scoring.kb(index, Golds.none(len(index)), 1).top[:, 0]
        assert float((top == bundle.gold[index]).mean()) == pytest.approx(right[how], abs=0.02)
    assert right["best"] > 0.95 and right["random"] < 0.2, right
    assert right["random"] < right["mean"] < right["best"]


@pytest.mark.parametrize(("method", "how"), [("mimic", "best"), ("drin", "best"), ("drin", "mean")])
def test_a_run_is_measured_and_explained_by_the_same_scores(world, tmp_path, method, how):
    job, counts = world
    run = job_of(with_pictures(job, counts), method, how, tmp_path / method, epochs=1)
    metrics = training.train(run).metrics["test"]
    assert metrics["candidates"]["all"]["n"] == 22 and ("full-kb" in metrics) == (method == "mimic")
    explained = {one["id"]: one for one in explanations.explain(run, Selection(split="test"))}
    predicted = pq.read_table(run.out / "predictions.parquet").to_pylist()
    compared = 0
    for row in predicted:
        if row["split"] != "test":
            continue
        scores = {one["id"]: one["score"] for one in explained[row["id"]]["candidates"]}
        names = [one["id"] for one in explained[row["id"]]["candidates"]]
        for name, score in zip(row["top"], row["top_score"], strict=True):
            if names.count(name) == 1:  # in this world a list may hold its gold twice, with other pair features
                assert scores[name] == pytest.approx(score, abs=1e-4)
                compared += 1
        if method == "drin" and explained[row["id"]]["candidates"]:
            assert any("clip_ti_" + how in one["pairs"] for one in explained[row["id"]]["candidates"])
    assert compared > 40


# What is asked of extraction


@pytest.mark.parametrize("method", methods())
def test_a_head_asks_for_all_pictures_where_it_reads_more_than_the_first(method):
    from heads_world import FEATURES

    available = sorted({*FEATURES, "face_embedding", "image_vgg"} - {"prompted_text", "prompted_image"})
    views = {}
    for how in OPTION:
        config = load_config(method, {"entity_pictures": how})
        wants = config.inputs(available)
        views[how] = {want.view for want in wants if want.side == "entity" and want.from_picture}
        assert all(want.view != IMAGES for want in wants if want.side == "mention")
        assert [replace(want, view=IMAGE_VIEW) if want.view == IMAGES else want for want in wants] == config.wants(
            available
        )
        pairs = config.read_pairs(available)
        assert set(pairs) <= set(FUNCTIONS)
        changed = {"clip_ti", "object_relation"} & set(config.pairs(available)) if how in SCORED else set()
        assert {pair for pair in pairs if pair.endswith(f"_{how}")} == {f"{pair}_{how}" for pair in changed}
        for label, (name, params) in config.runs(available).items():
            read = load_config(name, params)
            reads = label not in ("text", "dwe") and (label != "ranker" or how in SCORED)
            assert read.entity_pictures == (how if reads else "first"), label
    pictured = bool(views["first"])
    assert views == {how: {IMAGE_VIEW if how == "first" else IMAGES} if pictured else set() for how in OPTION}


def test_the_release_of_mimic_takes_a_random_picture():
    assert load_config("mimic", {"release": True}).entity_pictures == "random"
    assert load_config("mimic", {"release": True, "entity_pictures": "first"}).entity_pictures == "first"


def test_a_head_that_scores_one_picture_refuses_several_in_one_line(world, tmp_path, monkeypatch):
    from heads.methods.jmel import Jmel

    job, counts = world
    monkeypatch.setattr(Jmel, "reads_several", False)
    run = job_of(with_pictures(job, counts), "jmel", "best", tmp_path / "run")
    with pytest.raises(
        UserError, match="entity_pictures = 'best': jmel scores an entity with one picture; take 'first'"
    ):
        training.train(run)
    trained(replace(run, config={**run.config, "entity_pictures": "random"}))
