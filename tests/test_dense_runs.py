"""A trained run as a source of candidates: its order, what it may know of train, its digest, new mentions."""

import json

import commands
import linking_world
import luigi
import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import jobs
from foundation import child
from foundation.checksums import write_sealed
from foundation.errors import UserError
from heads.folds import fold_of
from linking import mentions
from linking.contracts import LinkJob
from linking.folds import folds_of
from pipeline.candidates import specs
from pipeline.candidates.base import RunVectors, SourceInputs
from pipeline.candidates.by_run import ByRun
from pipeline.candidates.contracts import RunSource
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.merging import merge
from pipeline.candidates.recall import BY_HEART, recall
from pipeline.pairs.base import CandidatePairs
from pipeline.pairs.retrieval import RETRIEVAL
from pipeline.profiles import profile as profiles

DUAL = {"epochs": 2, "batch_size": 8, "width": 16, "attention_width": 8, "attention_heads": 2}


def unit(random, *shape):
    values = random.normal(size=shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float16)


# Lists of vectors


@pytest.fixture
def split():
    """The vectors of a run and of two folds of 9 mentions, over 7 entities; one mention and one entity have none."""
    random = np.random.default_rng(0)
    rows = [np.array([8, 0, 3]), np.array([1, 2, 5]), np.array([4, 7, 6])]
    vectors = [RunVectors(unit(random, len(listed), 6), unit(random, 7, 6), listed) for listed in rows]
    vectors[0].mentions[1] = vectors[1].entities[4] = 0
    table = {"phrase": ["x"] * 9}
    return vectors, SourceInputs(table, {"id": list("gfedcba")}, of_run=lambda spec: vectors)


def test_each_mention_is_listed_by_the_vectors_that_are_for_it(split):
    vectors, inputs = split
    source = ByRun(RunSource(run="runs/d/dual/x", files=()))
    lists = source.lists(inputs, 4)
    for one in vectors:
        for row, vector in zip(one.rows, one.mentions.astype(np.float64), strict=True):
            if not vector.any():
                assert (lists.ids[row] == -1).all()
                continue
            scores = np.where(one.entities.any(1), one.entities.astype(np.float64) @ vector, -np.inf)
            best = np.argsort(-scores)[:4]
            assert lists.ids[row].tolist() == best.tolist()
            np.testing.assert_allclose(lists.scores[row], (1 + scores[best]) / 2, atol=2e-3)
            for rank, entity in enumerate(np.argsort(-scores)[:6], 1):
                assert source.ranks(inputs, np.array([row]), np.array([entity])).tolist() == [rank]
    assert source.ranks(inputs, np.array([0, 1]), np.array([2, 4])).tolist() == [-1, -1]
    assert source.notes(inputs, 4) == ["run:d/dual/x: 12 bytes an entity"]


def test_vectors_of_other_records_are_refused_in_one_line(split):
    vectors, inputs = split
    short = SourceInputs(inputs.mentions, inputs.entities, of_run=lambda spec: vectors[:2])
    with pytest.raises(UserError, match="its vectors are not those of these 9 mentions and 7 entities"):
        ByRun(RunSource(run="r/r", files=())).lists(short, 4)


def test_what_is_known_by_heart_is_labelled_and_has_no_retrieval_feature(split):
    _, inputs = split
    source = ByRun(RunSource(run="runs/d/dual/x", files=(), by_heart=True))
    lists = source.lists(inputs, 4)
    assert lists.by_heart and "by heart" in source.notes(inputs, 4)[0]
    gold, splits = np.array([2] * 9), np.array(["train"] * 4 + ["dev"] * 3 + ["test"] * 2)
    assert list(recall(lists, gold, splits)) == [BY_HEART, "dev", "test"]
    plain = RankedLists(lists.ids, lists.scores)
    assert list(recall(plain, gold, splits)) == ["train", "dev", "test"]
    both = merge([lists, plain], 4)
    assert both.by_heart and both.retrieved
    for known, listed in ((True, both), (False, merge([plain, plain], 4))):
        values = RETRIEVAL(CandidatePairs({}, {}, listed, lambda role: None))
        assert np.isnan(values).all() == known


def test_a_run_is_told_from_a_feature_by_its_slash():
    text = "name, dense:clip_text,dense:runs/d/dual/x"
    assert specs.vector_features(text) == ["clip_text"] and specs.runs(text) == ["runs/d/dual/x"]
    assert specs.placed(text, lambda name: f"/folder/{name}") == "name,dense:clip_text,dense:/folder/runs/d/dual/x"


def test_lists_of_a_tuned_retriever_compare_what_its_stage_was_trained_on(tmp_path):
    """The run itself reads what the trained blocks made of texts and pictures; its stage says of which."""
    texts, pictures = {"mention.text_tokens@1.sentence": "a"}, {"mention.clip_image@1.image": "b", "train.fold": "c"}
    profile, lists = profiles.load("demo"), f"dense:{tmp_path}"
    write_sealed(tmp_path / "config.json", {"rows": {}, "heads": {"tuned": {"rows": texts}}})
    assert jobs.list_pictures(lists, profile) == ()
    write_sealed(tmp_path / "config.json", {"rows": {}, "heads": {"tuned": {"rows": texts | pictures}}})
    assert jobs.list_pictures(lists, profile) == ("mention",)
    own = {"entity.clip_image.image": "d"}
    write_sealed(tmp_path / "config.json", {"rows": own, "heads": {"tuned": {"rows": texts}}})
    assert jobs.list_pictures(lists, profile) == ("entity",)


# From the command line


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of a small dataset, and a run of dual over it."""
    root = tmp_path_factory.mktemp("dense")
    linking_world.write(root)
    return root, trained(root, "dual", DUAL)


def trained(root, method, params, **options):
    """The folder of a run."""
    import tasks

    return root / "work" / build(tasks.TrainHead, root, method=method, params=json.dumps(params), **options)["run"]


def build(task, root, **options):
    """The result of a task over the dataset."""
    places = {"data_dir": str(root / "data"), "profile": str(root / "small.yaml"), "work_dir": str(root / "work")}
    made = task(dataset="small", **places, **{**linking_world.OPTIONS, **options})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "run", commands.call)
        assert luigi.build([made], local_scheduler=True, log_level="ERROR", workers=1)
    return made.resolved()


def lists_of(root, run, **options):
    import tasks

    result = build(tasks.BuildCandidates, root, sources=f"dense:{run}", **options)
    return result, np.load(root / "work" / result["file"])


def test_lists_of_dev_and_test_are_the_runs_own_order_and_train_waits_for_folds(world):
    import tasks

    root, run = world
    first, saved = lists_of(root, run)
    assert saved["by_heart"] and BY_HEART in first["recall"][f"run:{run.relative_to(root / 'work' / 'runs')}"]
    pair = build(tasks.BuildPairs, root, sources=f"dense:{run}", pair="retrieval")
    assert pair["present"] == 0
    predicted = pq.read_table(run / "predictions.parquet").to_pylist()
    table = pq.read_table(next((root / "work" / "datasets").glob("*/mentions.parquet"))).to_pylist()
    entities = pq.read_table(next((root / "work" / "datasets").glob("*/entities.parquet")))["id"].to_pylist()
    listed = {row["id"]: ids for row, ids in zip(table, saved["ids"].tolist(), strict=True)}
    same = [[entities[row] for row in listed[one["id"]]] == one["top"][:8] for one in predicted]
    assert np.mean(same) > 0.9, "half precision may exchange neighbours"

    assert folds_of(run) == ()
    folds = [trained(root, "dual", {**DUAL, "fold": [fold, 2]}) for fold in range(2)]
    assert folds_of(run) == tuple(folds)
    second, again = lists_of(root, run)
    assert not again["by_heart"] and second["digest"] != first["digest"]
    assert "train" in second["recall"][f"run:{run.relative_to(root / 'work' / 'runs')}"]
    assert build(tasks.BuildPairs, root, sources=f"dense:{run}", pair="retrieval")["present"] == 1
    (place,) = [path for path in (root / "work" / "datasets").glob("*/vectors-*") if (path / "fold-1.npz").exists()]
    for row, mention in enumerate(table):
        ours, before = again["ids"][row], saved["ids"][row]
        if mention["split"] != "train" or mention["gold"] < 0:
            assert ours.tolist() == before.tolist()
            continue
        vectors = np.load(place / f"fold-{fold_of(mention['gold_id'], 2)}.npz")
        assert row in vectors["rows"]
        vector = vectors["mentions"][vectors["rows"].tolist().index(row)].astype(np.float64)
        best = np.argsort(-(vectors["entities"].astype(np.float64) @ vector))[:8]
        assert len(set(best.tolist()) & set(ours.tolist())) >= 7
    assert any(again["ids"][row].tolist() != saved["ids"][row].tolist() for row in range(len(table)))
    assert vectors["entities"][0].nbytes == 32

    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in place.iterdir()}
    lists_of(root, run, candidates=7)
    assert {path: path.stat().st_mtime_ns for path in files} == {path: time for path, (_, time) in files.items()}
    lost, damaged, kept = sorted(files)
    lost.unlink()
    damaged.write_bytes(files[damaged][0][:-200] + bytes(200))
    lists_of(root, run, candidates=6)
    assert {path: path.read_bytes() for path in files} == {path: content for path, (content, _) in files.items()}
    assert kept.stat().st_mtime_ns == files[kept][1], "what is whole is not written again"


@pytest.mark.parametrize("lr", [None, 0.02])
def test_a_head_over_such_lists_links_new_mentions_as_it_predicted(world, tmp_path, lr):
    """Over the lists of a run that knows train by heart, too (that with another `lr` has no folds): there the place in
    a list says nothing, neither in training nor to a new mention."""
    root, run = world
    if lr is not None:
        run = trained(root, "dual", {**DUAL, "lr": lr})
        assert folds_of(run) == ()
    sources = f"name,dense:{run}"
    features = ["name_similarity", "word_overlap", "retrieval"]
    ranker = trained(root, "ranker", {"pair_features": features, "epochs": 2}, sources=sources)
    own = [line for line in (root / "data" / "mentions.jsonl").read_text().splitlines()
           if json.loads(line)["split"] == "test"]  # fmt: skip
    (tmp_path / "new.jsonl").write_text("\n".join(own) + "\n")
    job = LinkJob(run=ranker, input=tmp_path / "new.jsonl", output=tmp_path / "out.jsonl", images=root / "data")
    assert mentions.link(job).counts.mentions == len(own) == 25
    predicted = {row["id"]: row for row in pq.read_table(ranker / "predictions.parquet").to_pylist()}
    for answer, line in zip((tmp_path / "out.jsonl").read_text().splitlines(), own, strict=True):
        expected, found = predicted[json.loads(line)["id"]], json.loads(answer)["entities"]
        assert found[0]["id"] == expected["top"][0]
        assert [one["score"] for one in found] == pytest.approx(expected["top_score"][: len(found)], abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: "runs/small/dual/none", "no such run"),
        (lambda run: str(run.parent), "no finished run"),
        (lambda run: f"{run},dense:", "expected `name`"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(world, change, message):
    root, run = world
    places = ["--data-dir", str(root / "data"), "--profile", str(root / "small.yaml"), "--work-dir", str(root / "work")]
    code, said = commands.run(
        "BuildCandidates", "--dataset", "small", *places, "--candidates", "8", "--sources", f"dense:{change(run)}"
    )
    assert code == 2 and message in said and "Traceback" not in said


def test_a_head_with_other_scores_than_inner_products_is_no_source(world):
    from linking.contracts import VectorJob
    from linking.vectors import write

    root, _ = world
    mimic = trained(root, "mimic", {})
    with pytest.raises(UserError, match="no inner products of one vector per record; name a run of dual"):
        write(VectorJob(run=mimic, folds=(), out=root / "none"))
