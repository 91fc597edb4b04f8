"""Masked pictures while training: who is masked, what goes with a picture, and what a run without them gives."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from heads_world import IMAGE, build_job, job_for

from cache.inputs import IMAGES, SIDES, Side, Want
from cache.keys import KeyColumn
from cache.shard import Status
from cache.store import Store
from experiments import search
from experiments.contracts import SearchJob, Study
from foundation import plugins
from foundation.errors import UserError
from heads import fusion, training
from heads.base import Batch, Ragged, Rows
from heads.config import config_class, load_config, methods, naming_options, options, settings, to_json
from heads.config.space import check_space
from heads.data import Bundle
from heads.loop import Trainer
from heads.pictures import Masks, Pictured, masked_rows
from heads.runs import list_scores

SMALL = {"epochs": 2, "patience": 0, "batch_size": 16}
FOR_PAIRS = ("clip_text", "clip_image", "objects", "object_resnet")
OPTIONS = {
    "mimic": {"d_t": 8, "d_v": 8, "d_c": 8, "hard_negatives": 2},
    "drin": {"width": 8, "negatives": "candidates", "hinge": "each", "image_feature": "image_patches"},
    "dwe": {
        "width": 16,
        "joint_width": 16,
        "attention_heads": 2,
        "text_feature": "text_tokens",
        "image": "whole",
        "image_feature": "image_patches",
    },
    "dsmip": {
        "stage": "multimodal",
        "prompts": False,
        "d_t": 8,
        "d_v": 8,
        "d_c": 8,
        "text_feature": "text_tokens",
        "image_feature": "image_patches",
    },
    "dual": {"width": 8, "attention_width": 8, "attention_heads": 2, "image_feature": "image_patches"},
    "jmel": {"width": 8},
    "ghmfc": {"width": 8, "attention_heads": 2},
    "melhi": {"width": 8, "attention_heads": 2},
    "dzmned": {"width": 8},
}


def world(folder, pictures=True):
    """The world of the heads; without pictures, every record's picture has the verdict that it is missing."""
    job = build_job(folder)
    if pictures:
        return job
    inputs = []
    for one in job.inputs:
        if not one.from_picture:
            inputs.append(one)
            continue
        store = Store.create(folder / "none", one.feature, json.loads((one.store / "spec.json").read_text())["spec"])
        keys = KeyColumn.load(one.keys).keys
        values = {out.name: np.zeros((len(keys), *out.shape), np.float16) for out in IMAGE}
        store.add(keys, np.full(len(keys), Status.MISSING, np.uint8), ["absent"] * len(keys), values)
        inputs.append(replace(one, store=store.folder))
    return replace(job, inputs=tuple(inputs))


def trained(job, epochs=2):
    """The weights after some epochs, whichever of them is the best, and the losses."""
    with torch.random.fork_rng():
        bundle = Bundle.load(job, torch.device("cpu"))
        mentions, _ = bundle.training_mentions()
        trainer = Trainer(training.new_head(job, bundle, mentions), bundle, mentions, job.seed, "fp32")
        losses = [trainer.run_epoch(epoch + 1)["loss"] for epoch in range(epochs)]
    return {name: tensor.clone() for name, tensor in trainer.head.state_dict().items()}, losses


@pytest.mark.parametrize("method", sorted(OPTIONS))
def test_with_chance_1_training_is_that_of_a_dataset_without_pictures(method, tmp_path):
    config = {**SMALL, **OPTIONS[method]}
    beside = FOR_PAIRS if method == "drin" else ()
    with_pictures, without = world(tmp_path / "a"), world(tmp_path / "b", pictures=False)
    masked = job_for(with_pictures, method, {**config, "picture_dropout": 1.0}, tmp_path / "run", beside)
    plain = job_for(without, method, config, tmp_path / "run", beside)
    for name, path in plain.pairs.items():
        if plain.pictured[name]:
            np.savez(path, values=np.full_like(np.load(path)["values"], np.nan))
    (ours, our_losses), (theirs, their_losses) = trained(masked), trained(plain)
    assert our_losses == their_losses
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    seen, _ = trained(job_for(with_pictures, method, config, tmp_path / "run", beside))
    assert any(not torch.equal(seen[name], theirs[name]) for name in theirs)


PLUGIN = """
import torch.nn.functional as F
from torch import nn

from foundation.contracts import contract
from heads.base import Head, Rows
from heads.config.base import PICTURES, HeadConfig, both_sides
from heads.losses import in_batch_cross_entropy


@contract
class PortraitsConfig(HeadConfig):
    def head_class(self):
        return Portraits

    def wants(self, available):
        return both_sides("portrait", "image_patches", PICTURES, ["pooled"])


class Portraits(Head):
    def __init__(self, config, shapes):
        super().__init__(config, shapes)
        self.map = nn.Linear(shapes["portrait.pooled"][-1], 8)

    def encode_mentions(self, inputs):
        return Rows({"vector": self.map(inputs["portrait.pooled"].float())})

    encode_entities = encode_mentions

    def score_block(self, mentions, entities):
        return {"score": mentions["vector"] @ entities["vector"].T}

    def loss(self, batch):
        scores = self.score_block(self.encode_mentions(batch.mentions), self.encode_entities(batch.entities))["score"]
        value = in_batch_cross_entropy(scores, batch.gold)
        return value, {"score": value}


method = PortraitsConfig
"""


def test_a_head_from_outside_the_package_has_it_too_whatever_it_calls_its_inputs(tmp_path, monkeypatch):
    (tmp_path / "portraits.py").write_text(PLUGIN)
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "portraits.py"))
    with_pictures, without = world(tmp_path / "a"), world(tmp_path / "b", pictures=False)
    masked = job_for(with_pictures, "portraits", {**SMALL, "picture_dropout": 1.0}, tmp_path / "run")
    (ours, _), (theirs, _), (seen, _) = (
        trained(job)
        for job in (
            masked,
            job_for(without, "portraits", SMALL, tmp_path / "run"),
            replace(masked, config=SMALL),
        )
    )
    assert torch.equal(ours["map.weight"], theirs["map.weight"]) and not torch.equal(
        ours["map.weight"], seen["map.weight"]
    )


def some_batch(mentions=400, entities=300, length=6):
    """A batch with an input of each kind: fixed and ragged, of pictures and of texts, and pair features beside it."""
    random = np.random.default_rng(0)

    def rows(n):
        lengths = torch.from_numpy(random.integers(0, 4, n))
        ragged = Ragged(torch.ones(int(lengths.sum()), 2), lengths)
        fixed = {"image.pooled": torch.ones(n, 3), "text.pooled": torch.ones(n, 3)}
        there = {f"{role}.ok": torch.ones(n, dtype=torch.bool) for role in ("image", "objects", "text")}
        return Rows({**fixed, "objects.vectors": ragged, **there, "text.span": torch.zeros(n, 2, dtype=torch.int64)})

    lists = torch.from_numpy(random.integers(-1, entities, (mentions, length)))
    lists[0, 0] = entities - 1
    values = torch.from_numpy(random.random((mentions, length), np.float32))
    pairs = {name: values.clone() for name in ("of_text", "of_mention", "of_entity", "of_both", "of_head")}
    pairs["of_two"] = torch.stack([values, values], -1)
    gold = torch.from_numpy(random.integers(0, entities, mentions))
    return Batch(rows(mentions), rows(entities), gold, lists, pairs)


SIDES_OF: dict[str, tuple[Side, ...]] = {
    "of_text": (),
    "of_mention": ("mention",),
    "of_entity": ("entity",),
    "of_both": SIDES,
    "of_two": SIDES,
}
PICTURED = Pictured(
    {"mention": {"image", "objects"}, "entity": {"image", "objects"}},
    SIDES_OF,
)


@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5])
def test_pictures_are_masked_at_the_chance_that_is_given_each_side_by_itself(chance):
    random, batch = np.random.default_rng(3), some_batch()
    drawn = [Masks.drawn(batch, chance, random) for _ in range(50)]
    mentions, entities = (torch.stack([getattr(one, side) for one in drawn]) for side in ("mentions", "entities"))
    assert mentions.shape == (50, 400) and entities.shape == (50, 300)
    for masked in (mentions, entities):
        deviation = (chance * (1 - chance) / masked.numel()) ** 0.5
        assert abs(float(masked.double().mean()) - chance) < 4 * deviation
    together = (mentions[:, :300] & entities).double().mean()
    assert abs(float(together) - chance**2) < 4 * (chance**2 * (1 - chance**2) / (50 * 300)) ** 0.5


def test_all_that_is_made_from_a_picture_goes_with_it_and_nothing_else():
    batch = some_batch()
    unpictured = torch.stack([torch.full_like(batch.pairs["of_head"], -float(one)) for one in (1, 2, 3)], -1)
    masks = Masks.drawn(batch, 0.4, np.random.default_rng(1))
    masked = PICTURED.masked(batch, masks, {"of_head": unpictured})
    for side, gone in (("mentions", masks.mentions), ("entities", masks.entities)):
        before, after = getattr(batch, side), getattr(masked, side)
        assert set(after) == set(before)
        for name in ("text.pooled", "text.ok", "text.span"):
            assert torch.equal(after[name], before[name])
        assert torch.equal(after["image.ok"], ~gone) and torch.equal(after["objects.ok"], ~gone)
        assert torch.equal(after["image.pooled"].any(1), ~gone)
        rows = after["objects.vectors"]
        assert torch.equal(rows.lengths, before["objects.vectors"].lengths * ~gone)
        assert len(rows.values) == int(rows.lengths.sum())
    for row, mention in enumerate(masks.mentions.tolist()):
        for place, column in enumerate(batch.candidates[row].tolist()):
            if column < 0:
                continue
            entity = bool(masks.entities[column])
            was, now = (float(one.pairs["of_text"][row, place]) for one in (batch, masked))
            assert now == was
            found = {name: masked.pairs[name][row, place] for name in masked.pairs}
            assert bool(found["of_mention"].isnan()) == mention and bool(found["of_entity"].isnan()) == entity
            assert bool(found["of_both"].isnan()) == bool(found["of_two"].isnan().all()) == (mention or entity)
            assert float(found["of_head"]) == (was, -1.0, -2.0, -3.0)[mention + 2 * entity]


def test_a_pair_feature_of_which_nothing_is_known_is_refused(tmp_path):
    job = job_for(world(tmp_path), "drin", {**SMALL, **OPTIONS["drin"], "picture_dropout": 0.5}, tmp_path / "run")
    with pytest.raises(UserError, match="nothing says whether the pair feature 'text_cls'"):
        trained(replace(job, pictured={}))


def test_a_masked_row_reads_as_one_whose_record_has_no_picture(tmp_path):
    with_pictures, without = (
        Bundle.load(world(tmp_path / name, pictures=name == "a"), torch.device("cpu")) for name in ("a", "b")
    )
    index = np.arange(20)
    rows = masked_rows(with_pictures.mentions.rows(index), {"image"}, torch.ones(20, dtype=torch.bool))
    for name, column in without.mentions.rows(index).items():
        if name.startswith("image."):
            assert torch.equal(rows[name], column), name


def test_the_same_seed_masks_the_same_pictures_and_another_seed_others(tmp_path):
    job = job_for(world(tmp_path), "mimic", {**SMALL, **OPTIONS["mimic"], "picture_dropout": 0.3}, tmp_path / "run")
    (first, losses), (again, same), (_, other) = trained(job), trained(job), trained(replace(job, seed=job.seed + 1))
    assert losses == same and losses != other
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_nothing_is_masked_at_evaluation(tmp_path):
    job = job_for(world(tmp_path), "mimic", {**SMALL, **OPTIONS["mimic"], "picture_dropout": 1.0}, tmp_path / "run")
    bundle = Bundle.load(job, torch.device("cpu"))
    mentions, _ = bundle.training_mentions()
    trainer = Trainer(training.new_head(job, bundle, mentions), bundle, mentions, job.seed, "fp32")
    plain = replace(
        trainer, head=training.new_head(replace(job, config={**SMALL, **OPTIONS["mimic"]}), bundle, mentions)
    )
    assert trainer.dev_figures() == plain.dev_figures()
    assert trainer.dev_figures() != replace(trainer, bundle=bundle.without_pictures(SIDES)).dev_figures()


def test_a_run_without_it_has_the_name_and_the_bytes_that_it_had_before_the_option(tmp_path):
    off, some = (to_json(load_config("mimic", {"picture_dropout": chance})) for chance in (0, 0.25))
    assert "picture_dropout" not in naming_options("mimic", off)
    assert naming_options("mimic", off) == naming_options("mimic", to_json(load_config("mimic", {})))
    assert naming_options("mimic", some)["picture_dropout"] == 0.25
    assert settings("mimic", some) == {"picture_dropout": (0.25, 0.0)}
    job = world(tmp_path)
    named = {training.job_digest(replace(job, config={**job.config, **more})) for more in ({}, {"picture_dropout": 0})}
    assert len(named) == 1
    assert training.job_digest(replace(job, config={**job.config, "picture_dropout": 0.1})) not in named


@pytest.mark.parametrize("method", methods())
def test_every_method_has_the_option_and_is_off_by_default(method):
    option = next(one for one in options(method) if one.name == "picture_dropout")
    assert option.default == 0 and option.bounds == "at least 0, at most 1"


def test_what_is_made_from_pictures_follows_from_the_views_that_are_read():
    from experiments.jobs import pair_pictures
    from pipeline.pairs.registry import FUNCTIONS
    from pipeline.profiles import profile as profiles

    def want(view, side="mention"):
        return Want(side=side, feature="anything", view=view).from_picture

    assert all(map(want, ("image", IMAGES, "face_attributes", "identities")))
    assert not any(map(want, ("mention", "sentence", "mention_sep_sentence", "name", "static")))
    demo = profiles.load("demo")
    assert {name: pair_pictures(name, "name", demo) for name in FUNCTIONS} == {
        "clip_ti": ("entity",),
        "clip_it": ("mention",),
        "text_cls": (),
        "object_relation": SIDES,
        "face_match": SIDES,
        "name_similarity": (),
        "retrieval": (),
        "word_overlap": (),
        "years": (),
        "text_length": (),
        "clip_ti_best": ("entity",),
        "clip_ti_mean": ("entity",),
        "object_relation_best": SIDES,
        "object_relation_mean": SIDES,
    }
    assert pair_pictures("retrieval", "name,dense:text_tokens", demo) == ()
    assert pair_pictures("retrieval", "name,dense:clip_image", demo) == SIDES


def test_fused_learns_from_the_scores_that_its_heads_give_without_the_pictures(tmp_path):
    run, without = world(tmp_path / "a"), world(tmp_path / "b", pictures=False)
    training.train(run)
    config = {"heads": ["mimic"], "pair_features": [], "frequency": True, "epochs": 2, "picture_dropout": 0.3}
    job = replace(job_for(run, "fused", config, tmp_path / "fused"), heads={"mimic": run})
    parts = fusion.with_parts(job, ("dev", "test"))
    assert parts.pictured == {"mimic": SIDES, "frequency": ()}
    saved = np.load(parts.pairs["mimic"])
    for place, sides in enumerate((("mention",), ("entity",), SIDES)):
        of_none = {(one.side, one.role): one for one in without.inputs}
        inputs = tuple(of_none[one.side, one.role] if one.side in sides else one for one in run.inputs)
        expected = list_scores(replace(run, inputs=inputs), ("dev", "test"))
        np.testing.assert_array_equal(saved["unpictured"][..., place], expected)
        assert not np.array_equal(saved["values"], expected, equal_nan=True)
    plain = fusion.with_parts(replace(job, config={**config, "picture_dropout": 0}, out=tmp_path / "plain"), ("dev",))
    assert "unpictured" not in np.load(plain.pairs["mimic"]).files
    fusion.train(job)
    masked, seen = (np.load(tmp_path / name / "parts" / "mimic.npz")["values"] for name in ("fused", "plain"))
    dev = np.isfinite(seen)
    np.testing.assert_array_equal(masked[dev], seen[dev])


def test_a_search_over_fused_has_the_scores_without_pictures_for_every_trial(tmp_path):
    run = world(tmp_path)
    training.train(run)
    config = {"heads": ["mimic"], "pair_features": [], "frequency": True, "epochs": 1, "least_steps": 0}
    job = replace(job_for(run, "fused", config, tmp_path / "fused"), heads={"mimic": run})
    space = check_space(config_class("fused"), {"picture_dropout": {"choices": [0.0, 0.5]}}, "space")
    found = SearchJob(training=job, space=space, given={}, study=Study(trials=2), name="s", depends={})
    assert search.search(found).best["picture_dropout"] in (0.0, 0.5)
    assert "unpictured" in np.load(job.out / "parts" / "mimic.npz").files
