"""The Python interface: every method trained in this process, found done by the commands, scored, linked, compared."""

import linking_world
import numpy as np
import pyarrow.parquet as pq
import pytest

import mel_cache
from foundation.errors import UserError
from linking import Linker
from mel_cache import steps

METHODS = (*linking_world.METHODS, "ranker")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of the data, candidate lists, and a trained head of every method."""
    root = tmp_path_factory.mktemp("api")
    profile = linking_world.write(root)
    job = mel_cache.DatasetJob(name="small", data_dir=root / "data", profile=str(profile), work_dir=root / "work")
    dataset = mel_cache.prepare(job)
    options = {"k": linking_world.OPTIONS["candidates"], "sources": linking_world.OPTIONS["sources"]}
    candidates = mel_cache.build_candidates(mel_cache.CandidatesJob(dataset=dataset, **options))
    heads = {}
    for method in METHODS:
        heads[method] = mel_cache.train(mel_cache.HeadJob(candidates=candidates, method=method))
    return root, candidates, heads


@pytest.mark.parametrize("method", METHODS)
def test_a_head_trained_from_python_is_the_commands_run_and_done_for_them(world, method):
    root, _, heads = world
    task = linking_world.task(root, method)
    assert task.done(), "TrainHead would run again"
    assert task.folder(task.resolved()["run"]) == heads[method].folder and task.job() == heads[method].training
    assert heads[method].metrics["test"]["candidates"]["all"]["n"] == 25 and "MRR" in heads[method].text


def test_a_function_called_again_reads_what_is_there(world, monkeypatch):
    _, candidates, heads = world
    monkeypatch.setattr(steps, "in_process", lambda *call: pytest.fail(f"{call[0]} is called again"))
    for method in METHODS:
        assert mel_cache.train(mel_cache.HeadJob(candidates=candidates, method=method)) == heads[method]
    assert mel_cache.build_candidates(candidates.job) == candidates
    assert mel_cache.prepare(candidates.job.dataset.job) == candidates.job.dataset


def test_what_a_command_has_trained_is_read_by_the_function(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        run = linking_world.train(tmp_path, patch, "mimic")["mimic"]
    monkeypatch.setattr(steps, "in_process", lambda *call: pytest.fail(f"{call[0]} is called again"))
    job = mel_cache.DatasetJob(
        name="small",
        data_dir=tmp_path / "data",
        profile=str(tmp_path / "small.yaml"),
        work_dir=tmp_path / "work",
    )
    options = {"k": linking_world.OPTIONS["candidates"], "sources": linking_world.OPTIONS["sources"]}
    lists = mel_cache.build_candidates(mel_cache.CandidatesJob(dataset=mel_cache.prepare(job), **options))
    assert mel_cache.train(mel_cache.HeadJob(candidates=lists, method="mimic")).folder == run


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_behind_the_runs_predictions(world, method):
    heads = world[2]
    evaluation = mel_cache.evaluate(mel_cache.EvaluationJob(head=heads[method], split="test"))
    assert evaluation.metrics == heads[method].metrics["test"]
    assert evaluation.scores.shape == evaluation.candidates.shape == (25, 8) and len(evaluation.gold) == 25
    assert np.isnan(evaluation.scores[evaluation.candidates < 0]).all()
    predicted = pq.read_table(heads[method].folder / "predictions.parquet").to_pydict()
    of_gold = dict(zip(predicted["id"], predicted["gold_score"], strict=True))
    listed = evaluation.candidates == evaluation.gold[:, None]
    known = listed.any(axis=1)
    expected = [of_gold[mention] for mention in evaluation.mentions[known]]
    assert known.sum() > 10 and evaluation.scores[listed] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", ["mimic", "dsmip", "fused"])
def test_a_head_trained_from_python_links_new_mentions(world, method):
    answer = Linker.load(world[2][method].folder).link("Powers sails the Blue Ship.", "Blue Ship")
    assert answer.entities and {entity.id for entity in answer.entities} <= {f"Q{n}" for n in range(12)}


def test_features_of_a_method_and_pair_features_by_name(world):
    _, candidates, _ = world
    dataset = candidates.job.dataset
    features = mel_cache.extract(mel_cache.FeaturesJob(dataset=dataset, method="drin"))
    assert {"text_tokens", "clip_text", "clip_image"} <= set(features.extraction.features)
    assert set(
        mel_cache.extract(mel_cache.FeaturesJob(dataset=dataset, features=("clip_image",))).extraction.features
    ) == {"clip_image"}
    pairs = mel_cache.build_pairs(mel_cache.PairsJob(candidates=candidates, names=("name_similarity", "clip_ti")))
    assert pairs.values("clip_ti").shape == candidates.ids.shape == (136, 8)
    assert pairs.values("name_similarity").shape[:2] == (136, 8)


def test_two_heads_are_compared_on_the_same_mentions(world):
    heads = world[2]
    job = mel_cache.ComparisonJob(first=heads["mimic"].named, second=heads["drin"].named, resamples=50)
    result = mel_cache.compare(job)
    difference = [heads[method].metrics["test"][result.protocol]["all"]["MRR"] for method in ("mimic", "drin")]
    assert result.mentions == 25 and result.differences["MRR"].mean == pytest.approx(difference[0] - difference[1])


def test_a_child_gives_the_same_as_this_process(world):
    job = mel_cache.HeadJob(candidates=world[1], method="mimic", seed=3)
    apart = mel_cache.train(job, child=True)
    metrics = apart.metrics
    for path in apart.folder.iterdir():
        if path.is_file():
            path.unlink()
    here = mel_cache.train(job)
    assert here == apart and here.metrics == metrics


def test_mistakes_are_one_line_that_names_the_place(world, tmp_path):
    _, candidates, _ = world
    for job, words in (
        (mel_cache.HeadJob(candidates=candidates, method="mimmic"), "did you mean 'mimic'"),
        (mel_cache.HeadJob(candidates=candidates, params={"lrr": 1}), "did you mean 'lr'"),
    ):
        with pytest.raises(UserError, match=words) as error:
            mel_cache.train(job)
        assert "\n" not in str(error.value)
    for name, words in (("mine", "data_dir is missing"), ("../mine", "the label names a folder")):
        with pytest.raises(UserError, match=words):
            mel_cache.prepare(mel_cache.DatasetJob(name=name, work_dir=tmp_path))


def test_public_names_are_the_verbs_and_their_types():
    verbs = {name for name in mel_cache.__all__ if name[0].islower()}
    assert verbs == {
        "prepare",
        "extract",
        "build_candidates",
        "build_pairs",
        "train",
        "evaluate",
        "search",
        "compare",
        "link",
        "link_text",
        "build_kb",
        "fetch_images",
        "export",
        "import_features",
        "export_features",
    }
    for name in mel_cache.__all__:
        assert getattr(mel_cache, name).__doc__, name
    assert all(f"= {name}(" in getattr(mel_cache, name).__doc__ for name in verbs), "an example each"
    with pytest.raises(AttributeError):
        mel_cache.nothing  # noqa: B018  # the access is what is tested
