"""The fused head: its scores pair by pair, what it learns from, what is masked, and the table of its parts."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from heads_world import build_job, job_for
from test_heads_dual import with_permuted_golds
from test_heads_training import KILL, bytes_of

from foundation.checksums import read_sealed
from foundation.contracts import to_json
from foundation.errors import UserError
from heads import fusion, training
from heads.base import Rows, make_head
from heads.checkpoint import read_tensors
from heads.config import load_config
from heads.data import Bundle
from heads.metrics import dev_half
from heads.runs import list_scores, load_head
from heads.scoring import Scoring

CPU = torch.device("cpu")
NAN = math.nan


def reference(row, weights, hidden, members):
    """Scores of one list, number by number, the mean over the members. row: candidates x numbers, None where a number
    is not there."""
    scores = []
    for own in row:
        level, gap, there = [], [], []
        for place, value in enumerate(own):
            scaled = [
                (other[place] - weights["centre"][place]) / weights["scale"][place]
                for other in row
                if other[place] is not None
            ]
            mine = None if value is None else (value - weights["centre"][place]) / weights["scale"][place]
            level.append(0 if mine is None else mine)
            gap.append(0 if mine is None else mine - max(scaled))
            there.append(0 if mine is None else 1)
        inputs = np.array([*level, *gap, *there], float)
        score = 0.0
        for member in range(members):
            score += weights["linear.weight"][member] @ inputs / members
            for unit in range(hidden):
                place = member * hidden + unit
                value = max(weights["units_of.weight"][place] @ inputs + weights["units_of.bias"][place], 0)
                score += weights["weights"][member][unit] * value / members
        scores.append(score)
    return scores


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset with a trained MIMIC, and the job that fuses it."""
    folder = tmp_path_factory.mktemp("world")
    job = build_job(folder, splits=(96, 160, 60))
    training.train(job)
    config = {
        "heads": ["mimic"],
        "pair_features": ["name_similarity"],
        "epochs": 8,
        "lr": 0.02,
        "batch_size": 64,
        "least_steps": 0,
    }
    fused = replace(job_for(job, "fused", config, folder / "fused"), heads={"mimic": job})
    return job, fused, fusion.train(fused)


@pytest.mark.parametrize("hidden", [0, 5])
def test_scores_are_those_of_the_formula(hidden):
    torch.manual_seed(1)
    head = make_head(
        "fused",
        load_config("fused", {"hidden": hidden, "members": 3, "from_best": False}),
        {"pairs.a": (), "pairs.b": (2,)},
    ).eval()
    columns = torch.tensor([[3, 1, 4, -1], [2, 0, 5, 6]])
    pairs = {"a": torch.tensor([[0.5, NAN, 2.0, 9.0], [NAN, NAN, NAN, NAN]]), "b": torch.randn(2, 4, 2)}
    pairs["b"][0, 0, 1] = NAN
    head.prepare(columns, pairs, columns[:, 0])
    np.testing.assert_allclose(head.centre[0], 1.25)  # of 0.5 and 2.0: what stands where the list ends does not count
    np.testing.assert_allclose(head.scale[0], 0.75)
    weights = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    with torch.no_grad():
        found = head.score_lists(Rows(), Rows(), columns, pairs)["score"]
    numbers = torch.cat([pairs["a"][:, :, None], pairs["b"]], -1).double().tolist()
    for mention in range(2):
        rows = [[None if math.isnan(x) else x for x in candidate] for candidate in numbers[mention]][
            : 3 if mention == 0 else 4
        ]
        np.testing.assert_allclose(
            found[mention, : len(rows)], reference(rows, weights, hidden, members=3), rtol=1e-5, atol=1e-5
        )


def test_it_learns_from_the_calibrating_half_of_dev_alone(world, tmp_path):
    _, job, _ = world
    mentions = pq.read_table(job.dataset / "mentions.parquet").to_pydict()
    rows = zip(mentions["split"], mentions["gold_id"], strict=True)
    half = np.array([split == "dev" and dev_half(str(gold)) == "calibrate" for split, gold in rows])
    weights = {}
    for name, spoiled in (("whole", np.zeros(len(half), bool)), ("others", ~half), ("own", half)):
        pairs = {}
        for part, path in job.pairs.items():
            values = np.load(path)["values"].copy()
            values[spoiled] = np.random.default_rng(0).random(values[spoiled].shape)
            pairs[part] = tmp_path / f"{name}-{part}.npz"
            np.savez(pairs[part], values=values)
        training.train(replace(job, config={"epochs": 1}, pairs=pairs, out=tmp_path / name))
        weights[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert weights["whole"] == weights["others"] != weights["own"]
    counts = json.loads((tmp_path / "whole" / "run.json").read_text())["counts"]
    assert counts["calibrate"] == counts["trained on"] == int((half & (np.array(mentions["gold"]) >= 0)).sum())


def test_every_part_is_shown_alone_and_left_out(world, tmp_path):
    _, job, result = world
    parts = read_sealed(job.out / "parts.json")
    names = ["frequency", "mimic", "name_similarity"]
    assert sorted(parts) == sorted(["all", *(f"only {name}" for name in names), *(f"without {name}" for name in names)])
    assert parts["all"]["test"]["H@1"] == result.metrics["test"]["rerank"]["all"]["H@1"]
    assert all(parts["all"]["test"]["MRR"] > parts[f"only {name}"]["test"]["MRR"] for name in ("frequency", "mimic"))
    own = {name: job.out / "parts" / f"{name}.npz" for name in ("frequency", "mimic")}
    alone = {"frequency": own["frequency"]}
    for name, pairs in {
        "without name_similarity": own,
        "only frequency": alone,
        "without mimic": {**job.pairs, **alone},
    }.items():
        again = training.train(replace(job, pairs=pairs, heads={}, out=tmp_path / name)).metrics["test"]["rerank"][
            "all"
        ]
        assert parts[name]["test"] == {figure: again[figure] for figure in ("H@1", "MRR")}
    lines = result.table.splitlines()
    assert lines[-1].startswith("without ") and sum(line.startswith("only ") for line in lines) == len(names)
    assert not [path for path in (job.out / "parts").iterdir() if path.is_dir()]
    assert fusion.train(job).table == result.table


def test_a_part_is_the_score_of_the_run_for_dev_and_test(world):
    job, fused, _ = world
    values = np.load(fused.out / "parts" / "mimic.npz")["values"]
    lists = np.load(job.candidates)["ids"]
    mentions = pq.read_table(job.dataset / "mentions.parquet").to_pydict()
    split, gold = np.array(mentions["split"]), np.array(mentions["gold"])
    assert np.isnan(values[split == "train"]).all() and (np.isnan(values) == (lists < 0))[split != "train"].all()
    said = {row["id"]: row for row in pq.read_table(job.out / "predictions.parquet").to_pylist()}
    listed = [row for row in np.flatnonzero(split != "train") if gold[row] in lists[row] and gold[row] >= 0]
    assert len(listed) > 150
    for row in listed:
        assert values[row][lists[row] == gold[row]][0] == pytest.approx(
            said[mentions["id"][row]]["gold_score"], rel=1e-4, abs=1e-5
        )
    everything = list_scores(job, ("train", "dev", "test"))
    assert (np.isnan(everything) == (lists < 0)).all()
    np.testing.assert_array_equal(everything[split != "train"], values[split != "train"])


def test_frequency_counts_golds_of_the_training_mentions(world):
    _, job, _ = world
    mentions = pq.read_table(job.dataset / "mentions.parquet").to_pydict()
    train = [
        (phrase.lower(), gold)
        for split, gold, phrase in zip(mentions["split"], mentions["gold"], mentions["phrase"], strict=True)
        if split == "train" and gold >= 0
    ]
    lists = np.load(job.candidates)["ids"]
    found = fusion.frequency(job)
    assert found.shape == (*lists.shape, 2) and np.isnan(found[lists < 0]).all()
    seen = set()
    for mention in range(0, len(lists), 7):
        for place in np.flatnonzero(lists[mention] >= 0):
            entity = lists[mention, place]
            itself = mentions["split"][mention] == "train" and mentions["gold"][mention] == entity
            counts = (
                sum(gold == entity for _, gold in train) - itself,
                train.count((mentions["phrase"][mention].lower(), entity)) - itself,
            )
            seen.add(counts)
            np.testing.assert_allclose(found[mention, place], np.log1p(counts), rtol=1e-6)
    assert (
        max(whole for whole, _ in seen) > 1
        and max(own for _, own in seen) > 0
        and any(own < whole for whole, own in seen)
    )
    tenth = fusion.frequency(replace(job, train_fraction=0.1))
    assert (tenth <= found)[lists >= 0].all() and (tenth < found).any()


def test_a_ranker_learns_from_train_and_becomes_a_part(world, tmp_path):
    job, fused, _ = world
    config = {"pair_features": ["name_similarity"], "epochs": 3, "batch_size": 32, "least_steps": 14}
    ranker = job_for(job, "ranker", config, tmp_path / "ranker")
    result = fusion.train(ranker)
    assert (
        64 < result.run["counts"]["trained on"] == result.run["counts"]["train"] <= 96 and result.run["epochs"] == 5
    ), "3 steps an epoch"
    assert read_tensors(tmp_path / "ranker" / "model.safetensors")[1]["shapes"] == {
        "pairs.frequency": [2],
        "pairs.name_similarity": [],
    }
    config = {"heads": ["ranker"], "pair_features": [], "frequency": False, "epochs": 2}
    job = fusion.with_parts(
        replace(fused, config=config, pairs={}, heads={"ranker": ranker}, out=tmp_path / "fused"),
        ("dev",),
    )
    assert list(job.pairs) == ["ranker"]
    values, lists = np.load(job.pairs["ranker"])["values"], np.load(job.candidates)["ids"]
    dev = np.array(pq.read_table(job.dataset / "mentions.parquet")["split"].to_pylist()) == "dev"
    np.testing.assert_array_equal(np.isfinite(values), (lists >= 0) & dev[:, None])
    said = {row["id"]: row for row in pq.read_table(tmp_path / "ranker" / "predictions.parquet").to_pylist()}
    ids = pq.read_table(job.dataset / "mentions.parquet")["id"].to_pylist()
    for row in np.flatnonzero(dev):
        if (lists[row] >= 0).any():
            assert np.nanmax(values[row]) == pytest.approx(said[ids[row]]["top_score"][0], rel=1e-4, abs=1e-5)


def test_a_run_comes_back_from_its_folder(world, tmp_path):
    _, fused, _ = world
    head = load_head(fused.out, CPU)
    assert head.config == load_config("fused", fused.config) and not head.training
    assert torch.equal(head.centre, read_tensors(fused.out / "model.safetensors")[0]["centre"])
    with pytest.raises(UserError, match="train that head first"):
        load_head(tmp_path, CPU)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"heads": ["fused"]}, "expected other methods"),
        ({"heads": ["mimic", "mimic"]}, "each once"),
        ({"pair_features": ["name_similarty"]}, "did you mean 'name_similarity'?"),
        ({"heads": [], "pair_features": [], "frequency": False}, "nothing to fuse"),
    ],
)
def test_what_cannot_be_fused_is_refused(params, message):
    with pytest.raises(UserError) as error:
        load_config("fused", params)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_scores_of_other_lists_are_refused(world, tmp_path):
    job, fused, _ = world
    with pytest.raises(UserError, match="scored other candidate lists"):
        other = replace(job, candidates=tmp_path / "c.npz")
        fusion.train(replace(fused, heads={"mimic": other}, out=tmp_path / "out"))


def test_pair_features_and_their_needs_are_those_of_the_pipeline():
    from heads.config.base import OVER_PICTURES
    from heads.config.fused import FusedConfig
    from pipeline.pairs import registry

    needs = {name: set(FusedConfig.FEATURES[name]) for name in FusedConfig.FEATURES}
    assert set(FusedConfig.USUAL) | set(FusedConfig.OF_TEXT) == set(needs)
    served = {name: set(registry.features_of(name)) for name in registry.FUNCTIONS}
    several = {f"{name}_{how}": served[name] for name in OVER_PICTURES for how in ("best", "mean")}
    assert needs | several == served


def test_pair_features_are_those_the_profile_can_compute():
    def pairs(available, **params):
        return load_config("fused", params).pairs(available)

    assert pairs([]) == ["name_similarity", "retrieval"]
    assert load_config("ranker", {}).pairs([]) == [
        "name_similarity",
        "retrieval",
        "text_length",
        "word_overlap",
        "years",
    ]
    assert pairs(["text_tokens", "face_embedding", "clip_text"]) == [
        "face_match",
        "name_similarity",
        "retrieval",
        "text_cls",
    ]
    assert pairs(["clip_text", "clip_image"], pair_features=["clip_ti"]) == ["clip_ti"]
    assert load_config("fused", {}).wants(["clip_text"]) == []


def test_heads_are_those_the_profile_can_serve():
    def runs(available, **params):
        return load_config("fused", params).runs(available)

    assert set(runs(["text_tokens"])) == {"drin", "dwe", "mimic", "ranker"}
    assert set(runs(["clip_text", "clip_image"])) == {"dsmip", "dwe", "mimic", "ranker"}
    assert runs(["text_tokens"], heads=["bert"]) == {"bert": ("bert", {})}
    assert set(runs(["text_tokens"], heads=["auto", "bert"])) == {"bert", "drin", "dwe", "mimic", "ranker"}


PARTS = {"good": (), "sparse": (2,)} | {f"noise{number}": (4,) for number in range(12)}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A job that fuses a part that is right for nearly all mentions, `good`, with a part that few candidates have and
    twelve that say nothing, four numbers each."""
    folder = tmp_path_factory.mktemp("noisy")
    job = build_job(folder, splits=(30, 200, 400))
    lists = np.load(job.candidates)["ids"]
    own = lists == pq.read_table(job.dataset / "mentions.parquet")["gold"].to_numpy()[:, None]
    random, pairs = np.random.default_rng(0), {}
    for name, shape in PARTS.items():
        values = random.normal(size=(*lists.shape, *shape)).astype(np.float32)
        if name == "good":
            values += 4 * own
        if name == "sparse":
            values[random.random(lists.shape) < 0.8] = NAN
        values[lists < 0] = NAN
        pairs[name] = folder / f"{name}.npz"
        np.savez(pairs[name], values=values)
    return replace(job_for(job, "fused", {}, folder / "run"), pairs=pairs)


def ranking(scores, lists):
    return [np.argsort(-row[own], kind="stable").tolist() for row, own in zip(scores, lists >= 0, strict=True)]


def scores_at_start(job, mentions):
    """Of the untrained head, and the head."""
    bundle = Bundle.load(job, CPU)
    head = training.new_head(job, bundle, bundle.training_mentions(1.0, "calibrate")[0]).eval()
    lists = bundle.candidates[mentions]
    return Scoring.of(head, bundle).lists(mentions, lists, bundle.pairs_of(mentions))["score"], head


def test_the_start_ranks_as_the_best_part_does(noisy):
    lists, everything = np.load(noisy.candidates)["ids"], np.arange(630)
    scores, head = scores_at_start(noisy, everything)
    good = np.load(noisy.pairs["good"])["values"]
    assert ranking(scores, lists) == ranking(good, lists)
    assert scores_at_start(replace(noisy, config={"from_best": False}), everything)[1].linear.weight.count_nonzero() > 4
    assert head.linear.weight.count_nonzero() == 2 * head.config.members  # its weight, and that of having one


def test_a_start_is_as_likely_as_its_number_can_make_the_golds(noisy):
    _, head = scores_at_start(noisy, np.arange(1))
    bundle = Bundle.load(noisy, CPU)
    columns, pairs, gold = bundle.lists_of(np.flatnonzero(bundle.half_of_dev("calibrate")))
    listed = (columns == gold[:, None]).any(1)
    level = pairs["good"][listed].nan_to_num(nan=-1e9) / head.scale[0]
    own = (columns[listed] == gold[listed][:, None]).int().argmax(1)

    def loss(weight):
        return torch.nn.functional.cross_entropy(weight * level, own).item()

    weight = head.linear.weight[0, 0].item()
    assert loss(weight) < min(loss(weight / 2), loss(weight * 2))


def test_a_candidate_without_the_best_number_starts_below_all_that_have_it(noisy):
    job = replace(noisy, pairs={"sparse": noisy.pairs["sparse"]})
    scores, _ = scores_at_start(job, np.arange(630))
    values, lists = np.load(job.pairs["sparse"])["values"], np.load(job.candidates)["ids"]
    there = np.isfinite(values[:, :, 0])
    both = [row for row in range(630) if there[row].any() and (~there[row] & (lists[row] >= 0)).any()]
    behind = [scores[row][there[row]].min() > scores[row][~there[row] & (lists[row] >= 0)].max() for row in both]
    assert len(both) > 500 and np.mean(behind) > 0.98, "but for numbers lower than any in the training lists"


def test_one_good_part_among_many_that_say_nothing_is_not_lost(noisy, tmp_path):
    def wrong(job, out):
        """Listed golds of test that are not first."""
        figures = training.train(replace(job, out=tmp_path / out)).metrics["test"]["candidates"]["all"]
        return round(figures["n"] * (figures["recall"] - figures["H@1"]))

    alone = wrong(replace(noisy, pairs={"good": noisy.pairs["good"]}), "alone")
    assert wrong(noisy, "fused") <= alone + 2 < wrong(replace(noisy, config={"from_best": False}), "random") - 8


def test_a_correction_is_learned_where_a_second_part_knows_more(noisy, tmp_path):
    lists = np.load(noisy.candidates)["ids"]
    own = lists == pq.read_table(noisy.dataset / "mentions.parquet")["gold"].to_numpy()[:, None]
    pairs = {}
    for number, name in enumerate(("one", "other")):
        values = np.random.default_rng(number).normal(size=lists.shape).astype(np.float32) + 1.5 * own
        pairs[name] = tmp_path / f"{name}.npz"
        np.savez(pairs[name], values=np.where(lists < 0, np.float32(NAN), values))
    h1 = {}
    for name, parts in {"both": pairs, **{part: {part: path} for part, path in pairs.items()}}.items():
        result = training.train(replace(noisy, pairs=parts, out=tmp_path / "runs" / name))
        h1[name] = result.metrics["test"]["candidates"]["all"]["H@1"]
    assert h1["both"] > max(h1["one"], h1["other"]) + 0.1


def test_golds_of_test_decide_no_weight(noisy, tmp_path):
    job = replace(noisy, config={"epochs": 2}, out=tmp_path / "run")
    other = with_permuted_golds(job, tmp_path / "permuted", ("test",))
    metrics = [training.train(one).metrics["test"]["candidates"]["all"] for one in (job, other)]
    assert metrics[0]["MRR"] > metrics[1]["MRR"] + 0.1, "other golds were measured"
    ours, theirs = (read_tensors(one.out / "model.safetensors")[0] for one in (job, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_half_of_dev_that_chooses_the_epoch_does_not_choose_the_start(noisy, tmp_path):
    bundle = Bundle.load(noisy, CPU)
    other = {name: tmp_path / f"{name}.npz" for name in noisy.pairs}
    for name, path in other.items():  # `noise0` is right there, and `good` is not
        values = np.load(noisy.pairs["good" if name == "noise0" else name])["values"]
        values = np.repeat(values[..., None], 4, -1) if name == "noise0" else values
        known = np.load(noisy.pairs[name])["values"]
        known[bundle.half_of_dev("choose")] = values[bundle.half_of_dev("choose")] * (1 if name == "noise0" else -1)
        np.savez(path, values=known)
    starts = [scores_at_start(replace(noisy, pairs=pairs), np.arange(1))[1] for pairs in (noisy.pairs, other)]
    assert torch.equal(starts[0].linear.weight, starts[1].linear.weight)


def test_the_start_is_kept_until_an_epoch_is_better_on_the_other_half_of_dev(noisy, tmp_path):
    job = replace(noisy, config={"lr": 1.0, "lr_decay": False}, out=tmp_path / "run")  # it learns noise
    result = training.train(job)
    history = json.loads((job.out / "history.json").read_text())
    start = history["epochs"][0]
    assert start["epoch"] == 0 and "loss" not in start and len(history["epochs"]) == result.run["epochs"] + 1
    assert all(row["dev MRR"] <= start["dev MRR"] for row in history["epochs"]) and history["best_epoch"] == 0
    begun = scores_at_start(job, np.arange(1))[1].state_dict()
    kept = read_tensors(job.out / "model.safetensors")[0]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in begun.items())


def test_a_killed_run_from_the_best_part_goes_on_to_the_same_bytes(noisy, tmp_path):
    """Killed before its first checkpoint, with the start as the best, and after."""
    whole, *cut = (
        replace(noisy, config={"epochs": 3}, out=tmp_path / name) for name in ("whole", "first", "second", "third")
    )
    training.train(whole)
    faults = ["epoch-before:1", "epoch-end:1", "epoch-end:2"]
    order = [[fault, to_json(job)] for fault, job in zip(faults, cut, strict=True)]
    code = [sys.executable, "-c", KILL, json.dumps(order)]
    assert subprocess.run(code, capture_output=True, text=True, check=True).stdout.split() == ["-9"] * 3
    for job, epochs in zip(cut, (0, 1, 2), strict=True):
        assert training.train(job).run["resumed_after"] == epochs
        assert bytes_of(job.out) == bytes_of(whole.out)
