"""What heads tell of their decisions, against the scores and pair features that they come from."""

import json
from dataclasses import replace

import heads_world
import numpy as np
import pyarrow.parquet as pq
import pytest

from foundation.errors import UserError
from heads import fusion, training
from heads.contracts import ExplanationJob, Selection
from heads.explanations import explain, write

CONFIGS = {
    "drin": {"epochs": 1, "width": 8},
    "mimic": {"epochs": 1, "d_t": 8, "d_v": 8, "d_c": 8},
    "fused": {"epochs": 1, "heads": ["drin"], "pair_features": ["text_cls", "name_similarity"], "members": 1},
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The finished run of each method over one small world."""
    folder = tmp_path_factory.mktemp("world")
    base = heads_world.build_job(folder)
    made = {}
    for method, config in CONFIGS.items():
        job = heads_world.job_for(base, method, config, folder / method)
        if method == "fused":
            job = replace(job, heads={"drin": made["drin"]})
            training.train(fusion.with_parts(job, ("dev", "test")))
        else:
            training.train(job)
        made[method] = job
    return made


@pytest.mark.parametrize("method", CONFIGS)
def test_scores_are_those_of_the_run_and_candidates_those_of_the_list(jobs, method):
    job = jobs[method]
    told = {one["id"]: one for one in explain(job, Selection(split="test"))}
    predicted = pq.read_table(job.out / "predictions.parquet").to_pylist()
    lists = np.load(job.candidates)["ids"]
    names = pq.read_table(job.dataset / "mentions.parquet", columns=["id"])["id"].to_pylist()
    assert set(told) == {row["id"] for row in predicted if row["split"] == "test"}
    compared = 0
    for row in (row for row in predicted if row["split"] == "test"):
        one = told[row["id"]]
        assert one["gold"] == row["gold"]
        scores: dict[str, float] = {}  # a list of this world may hold its gold twice: the better place counts
        for candidate in one["candidates"]:
            scores.setdefault(candidate["id"], candidate["score"])
        assert set(scores) == {f"Q{entity}" for entity in lists[names.index(row["id"])] if entity >= 0}
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        first = dict(zip(reversed(row["top"]), reversed(row["top_score"]), strict=True))
        for name in set(first) & set(scores):
            compared += 1
            assert scores[name] == pytest.approx(first[name], rel=1e-4, abs=1e-4)
    assert compared > 50


def test_drin_tells_its_edges_before_and_after_and_the_first_are_the_pair_features(jobs):
    seen = 0
    for one in explain(jobs["drin"], Selection(split="dev")):
        for candidate in one["candidates"]:
            for before, after in candidate.get("edges", {}).values():
                seen += 1
                assert 0 < after - before < 1, "a sigmoid is added"
            if "tt" in candidate.get("edges", {}):
                assert candidate["edges"]["tt"][0] == pytest.approx(candidate["pairs"]["text_cls"], rel=1e-5)
    assert seen > 100


def test_mimic_tells_its_units_whose_mean_is_the_score(jobs):
    for one in explain(jobs["mimic"], Selection(split="test", sample=6)):
        for candidate in one["candidates"]:
            assert set(candidate["units"]) == {"tglu", "vdlu", "cmfu"}
            assert np.mean(list(candidate["units"].values())) == pytest.approx(candidate["score"], rel=1e-3, abs=1e-4)


def test_a_fused_run_tells_its_parts(jobs):
    one = next(explain(jobs["fused"], Selection(split="test", sample=1)))
    assert {"text_cls", "name_similarity", "frequency", "drin"} <= set(one["candidates"][0]["pairs"])
    alone = next(explain(jobs["drin"], Selection(split="test", sample=1)))
    parts = sorted((candidate["id"], candidate["pairs"]["drin"]) for candidate in one["candidates"])
    scores = sorted((candidate["id"], candidate["score"]) for candidate in alone["candidates"])
    assert [name for name, _ in parts] == [name for name, _ in scores]
    assert [value for _, value in parts] == pytest.approx([value for _, value in scores], rel=1e-4, abs=1e-5)
    with pytest.raises(UserError, match="only for dev and test"):
        next(explain(jobs["fused"], Selection(split="train")))


def test_the_gold_stays_where_only_the_best_are_asked_for(jobs):
    whole = {one["id"]: one for one in explain(jobs["mimic"], Selection(split="test"))}
    cut = {one["id"]: one for one in explain(jobs["mimic"], Selection(split="test", top=2))}
    longer = 0
    for name, one in cut.items():
        golds = [candidate for candidate in whole[name]["candidates"][2:] if candidate["id"] == one["gold"]]
        longer += len(golds)
        assert [candidate["id"] for candidate in one["candidates"]] == [
            candidate["id"] for candidate in [*whole[name]["candidates"][:2], *golds]
        ]
    assert longer, "some gold stands below the second place"


def test_samples_are_part_of_larger_ones_and_unknown_mentions_are_named(jobs):
    few, more = (
        {one["id"] for one in explain(jobs["mimic"], Selection(split="test", sample=count))} for count in (5, 12)
    )
    assert len(few) == 5 and few < more
    assert [one["id"] for one in explain(jobs["mimic"], Selection(split="test", mentions=("m150", "m140")))] == [
        "m140",
        "m150",
    ]
    with pytest.raises(UserError, match="'m10': not in test"):
        next(explain(jobs["mimic"], Selection(split="test", mentions=("m10",))))
    with pytest.raises(UserError, match="did you mean 'test'"):
        next(explain(jobs["mimic"], Selection(split="tets")))


def test_the_file_has_a_line_of_strict_json_per_mention(jobs, tmp_path):
    file = tmp_path / "told.jsonl"
    written = write(ExplanationJob(run=jobs["drin"], selection=Selection(split="test", sample=7, top=3), file=file))
    lines = file.read_text().splitlines()
    assert written.mentions == len(lines) == 7
    for line in lines:
        one = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert len(one["candidates"]) <= 5 and one["split"] == "test"


def test_a_stage_that_scores_nothing_is_refused(jobs):
    with pytest.raises(UserError, match="without scores of its own"):
        next(explain(replace(jobs["mimic"], method="dsmip", config={"stage": "prompts"}), Selection(split="test")))
