"""A student and its teacher: whose scores it learns from, what it learns, what neither may know."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from heads_world import build_job, head_rows, head_shapes, job_for
from test_heads_dual import TRAINED, make, numbers, with_permuted_golds

from experiments import jobs
from foundation.errors import UserError
from foundation.paths import Paths
from heads import folds, fusion, training
from heads.base import Batch
from heads.checkpoint import read_tensors
from heads.config import load_config
from heads.config.dual import FOLDS
from heads.config.mimic import MimicConfig
from heads.data import CPU, Bundle
from heads.losses import divergence
from heads.methods.mimic import Mimic
from heads.runs import load_run
from heads.scoring import Scoring
from pipeline.profiles.profile import load

FEATURES = ("text_tokens", "image_patches")
TEACHERS = {
    "mimic": {"d_t": 8, "d_v": 8, "d_c": 8, "epochs": 2},
    "ranker": {"pair_features": ["text_cls", "name_similarity"], "epochs": 2, "members": 1},
}


def student_of(base, teacher, folder, **options):
    """The job of a student whose teachers are trained."""
    config = {**TRAINED, **options, "teacher": teacher, "teacher_params": json.dumps(TEACHERS[teacher])}
    runs = load_config("dual", config).runs(FEATURES)
    heads = {label: job_for(base, method, params, folder / label) for label, (method, params) in runs.items()}
    for run in heads.values():
        (fusion.train if teacher == "ranker" else training.train)(run)
    return replace(job_for(base, "dual", config, folder / "student"), heads=heads)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_job(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", params=sorted(TEACHERS))
def student(request, world, tmp_path_factory):
    return student_of(world, request.param, tmp_path_factory.mktemp(request.param))


def test_the_teacher_of_a_mention_is_the_one_that_left_its_gold_out(student):
    bundle = folds.with_left_out(student, Bundle.load(student, CPU))
    rows, _ = bundle.training_mentions()
    runs = {load_config(run.method, run.config).left_out[0]: load_run(run) for run in student.heads.values()}
    assert sorted(runs) == [0, 1] and not bundle.left_out
    assert np.isnan(bundle.teacher[np.setdiff1d(np.arange(len(bundle.gold)), rows)]).all()
    unlisted = 0
    for row in rows.tolist():
        fold = folds.fold_of(str(bundle.table["gold_id"][row]), FOLDS)
        head, own = runs[fold]
        learned, _ = folds.training_mentions(student.heads[f"teacher, without fold {fold}"], own)
        assert bundle.gold[row] not in own.gold[learned]
        one, lists, gold = np.array([row]), bundle.candidates[[row]], bundle.gold[row]
        scores = Scoring.of(head, own).lists(one, lists, own.pairs_of(one))["score"][0]
        expected = np.where(np.isfinite(scores), scores, np.nan)
        np.testing.assert_allclose(bundle.teacher[row, :-1], expected, rtol=1e-4, atol=1e-4)
        if gold in lists:
            assert bundle.teacher[row, -1] == pytest.approx(expected[(lists[0] == gold).argmax()], abs=1e-4)
            continue
        unlisted += 1
        if head.scores_blocks:
            alone = Scoring.of(head, own).lists(one, np.array([[gold]]))["score"][0, 0]
            assert bundle.teacher[row, -1] == pytest.approx(alone, abs=1e-4)
        else:
            assert np.isnan(bundle.teacher[row, -1]), "there are no pair features of an entity that is not listed"
    assert unlisted


def test_a_teacher_that_scores_the_first_of_a_list_alone_teaches_nothing_of_the_rest(world, tmp_path, monkeypatch):
    """A head like `joint` leaves the end of a list in its order; that it puts numbers there is no score of it."""
    student = student_of(world, "mimic", tmp_path)
    whole = folds.with_left_out(student, Bundle.load(student, CPU))
    monkeypatch.setattr(
        Mimic, "reached", lambda self, lists, pairs: (np.arange(lists.shape[1]) < 3)[None] & (lists >= 0)
    )
    bundle = folds.with_left_out(student, Bundle.load(student, CPU))
    rows, _ = bundle.training_mentions()
    assert np.isnan(bundle.teacher[rows, 3:-1]).all()
    np.testing.assert_allclose(bundle.teacher[rows, :3], whole.teacher[rows, :3], rtol=1e-5, atol=1e-5)


def test_a_batch_has_the_teachers_scores_of_what_was_drawn(student):
    bundle = folds.with_left_out(student, Bundle.load(student, CPU))
    rows, _ = bundle.training_mentions()
    index = rows[:16]
    drawn = bundle.draw(index, 5, 10, np.random.default_rng(0))
    found = bundle.batch(index, False, drawn).teacher.numpy()
    assert found.shape == (16, 6)
    for at, row in enumerate(index):
        assert found[at, 0] == bundle.teacher[row, -1] or np.isnan(found[at, 0])
        for place, entity in enumerate(drawn[at].tolist(), 1):
            if entity < 0 or entity == bundle.gold[row]:
                assert np.isnan(found[at, place])
            else:
                assert found[at, place] == bundle.teacher[row, bundle.candidates[row].tolist().index(entity)]


def test_the_divergence_is_that_of_the_formula():
    random = np.random.default_rng(0)
    teacher, scores = random.normal(size=(5, 4)), random.normal(size=(5, 4))
    teacher[0, 2] = teacher[1, 1] = teacher[1, 2] = teacher[1, 3] = teacher[3, 0] = np.nan
    expected = []
    for t, s in zip(teacher, scores, strict=True):
        if np.isnan(t[0]):
            continue
        t, s = t[~np.isnan(t)], s[~np.isnan(t)]
        p, q = np.exp(t) / np.exp(t).sum(), np.exp(s) / np.exp(s).sum()
        expected.append((p * np.log(p / q)).sum())
    assert len(expected) == 4 and expected[1] == 0
    ours = torch.tensor(scores, requires_grad=True)
    value = divergence(torch.tensor(teacher), ours)
    value.backward()
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert ours.grad.isfinite().all() and not ours.grad[3].any()
    none = divergence(torch.full((2, 3), torch.nan), torch.zeros(2, 3, requires_grad=True))
    none.backward()
    assert none.item() == 0


def test_the_students_loss_adds_the_divergence_over_gold_and_drawn_entities():
    head = make(teacher="mimic", teacher_weight=0.7, teacher_temperature=2.0)
    mentions, entities = head_rows(head.shapes, 4, 1), head_rows(head.shapes, 6, 2)
    gold, drawn = torch.tensor([0, 1, 2, 0]), torch.tensor([[3, 1], [4, 5], [2, 3], [5, -1]])
    teacher = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 1.0], [torch.nan, torch.nan, 1.0], [2.0, 1.0, torch.nan]])
    with torch.no_grad():
        plain, _ = head.loss(Batch(mentions, entities, gold, drawn=drawn))
        value, parts = head.loss(Batch(mentions, entities, gold, drawn=drawn, teacher=teacher))
        scores = head.score_block(head.encode_mentions(mentions), head.encode_entities(entities))["score"]
    columns = torch.cat([gold[:, None], drawn.clamp(min=0)], 1)
    of_student = numbers(scores.gather(1, columns))
    expected = []
    for t, s in zip(numbers(teacher) / 2, of_student, strict=True):
        if np.isnan(t[0]):
            continue
        t, s = t[~np.isnan(t)], s[~np.isnan(t)]
        p, q = np.exp(t) / np.exp(t).sum(), np.exp(s) / np.exp(s).sum()
        expected.append((p * np.log(p / q)).sum())
    assert parts["teacher"].item() == pytest.approx(np.mean(expected), rel=1e-4)
    assert value.item() == pytest.approx(plain.item() + 0.7 * np.mean(expected), rel=1e-4)


def test_a_student_that_listens_more_comes_nearer_to_its_teacher(student):
    reached = []
    for weight in (1e-3, 20.0):
        config = {**student.config, "teacher_weight": weight, "epochs": 8, "patience": 0, "lr": 0.01}
        job = replace(student, config=config, out=student.out.parent / f"weight {weight}")
        training.train(job)
        reached.append(json.loads((job.out / "history.json").read_text())["epochs"][-1]["teacher"])
    assert reached[1] < 0.8 * reached[0]


@pytest.mark.parametrize("teacher", sorted(TEACHERS))
def test_the_golds_of_test_decide_nothing_of_a_student(teacher, world, tmp_path):
    other = with_permuted_golds(world, tmp_path / "permuted", ("test",))
    both = [student_of(base, teacher, tmp_path / name) for name, base in (("as it is", world), ("other", other))]
    for job in both:
        training.train(job)
    ours, theirs = (read_tensors(job.out / "model.safetensors")[0] for job in both)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tops = [pq.read_table(job.out / "predictions.parquet", columns=["id", "top", "top_score"]) for job in both]
    assert tops[0].equals(tops[1])


def test_a_teacher_does_not_change_with_the_golds_of_the_fold_that_it_is_asked_about(world, tmp_path):
    """Golds are exchanged within fold 0."""
    table = pq.read_table(world.dataset / "mentions.parquet")
    columns = {name: table[name].to_pylist() for name in ("gold", "gold_id", "split")}
    inside = [row for row, (split, gold) in enumerate(zip(columns["split"], columns["gold"], strict=True))
              if split == "train" and gold >= 0 and folds.fold_of(columns["gold_id"][row], FOLDS) == 0]  # fmt: skip
    for name in ("gold", "gold_id"):
        values = [columns[name][row] for row in inside]
        for row, value in zip(inside, values[::-1], strict=True):
            columns[name][row] = value
        place = table.schema.get_field_index(name)
        table = table.set_column(
            place, table.schema.field(place), pa.array(columns[name], table.schema.field(place).type)
        )
    folder = tmp_path / "changed"
    folder.mkdir()
    pq.write_table(table, folder / "mentions.parquet")
    (folder / "entities.parquet").write_bytes((world.dataset / "entities.parquet").read_bytes())
    jobs_of = [student_of(base, "mimic", tmp_path / name) for name, base in
               (("first", world), ("second", replace(world, dataset=folder)))]  # fmt: skip
    for fold in range(FOLDS):
        weights = [
            read_tensors(job.heads[f"teacher, without fold {fold}"].out / "model.safetensors")[0] for job in jobs_of
        ]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]) == (fold == 0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"teacher": "fused"}, "teacher = 'fused': it learns from half of dev"),
        ({"teacher": "mimik"}, "teacher 'mimik': no such method; did you mean 'mimic'?"),
        ({"teacher": "mimic", "hard_negatives": 0}, "set hard_negatives above 0"),
        ({"teacher": "mimic", "fold": [0, 2]}, "take fold or teacher"),
        (
            {"teacher": "dual", "teacher_params": '{"teacher": "mimic"}'},
            "teacher_params: fold: a student's teachers know",
        ),
        ({"teacher": "mimic", "teacher_params": "{"}, "teacher_params: malformed JSON"),
        ({"teacher": "mimic", "teacher_params": "[1]"}, "teacher_params = \\[1\\]: expected a JSON object"),
        ({"teacher": "mimic", "teacher_params": '{"lrr": 1}'}, "teacher_params: unknown key 'lrr'"),
        ({"teacher": "dsmip", "teacher_params": '{"gate_loss": "likelihood", "gate_folds": 2}'}, "two folds; take one"),
    ],
)
def test_teachers_that_may_be_none_are_refused_in_one_line(params, message):
    with pytest.raises(UserError, match=message) as error:
        load_config("dual", params)
    assert "\n" not in str(error.value)


def test_a_teacher_whose_own_runs_know_the_fold_is_refused(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(MimicConfig, "runs", lambda self, available: {"other": ("bert", {})})
        with pytest.raises(UserError, match="its run 'other' learns from all of train"):
            load_config("dual", {"teacher": "mimic"}).runs(FEATURES)
    dsmip = load_config("dual", {"teacher": "dsmip", "teacher_params": '{"prompts": false}'})
    for method, options in dsmip.runs((*FEATURES, "clip_text", "clip_image")).values():
        below = load_config(method, options).runs((*FEATURES, "clip_text", "clip_image"))
        assert {tuple(params["fold"]) for _, params in below.values()} == {tuple(options["fold"])}


def test_a_teacher_reads_no_counts_of_golds():
    (_, params), _ = load_config("dual", {"teacher": "ranker"}).runs(FEATURES).values()
    assert params["frequency"] is False
    assert not load_config("ranker", params).evaluates, "what left a fold out is not measured"


def test_a_runs_folder_names_a_teacher_by_what_it_is(world, tmp_path):
    run = job_for(world, "mimic", {**TEACHERS["mimic"], "lr": 0.004}, tmp_path / "run")
    training.train(run)
    profile = load("minilm")
    spec = jobs.head_spec("dual", json.dumps({"teacher": str(run.out)}), profile)
    assert spec.config["teacher"] == "mimic" and str(tmp_path) not in json.dumps(spec.config)
    taught = json.loads(spec.config["teacher_params"])
    assert (
        taught["lr"] == 0.004
        and taught["d_t"] == 8
        and sorted(spec.runs) == [f"teacher, without fold {fold}" for fold in range(FOLDS)]
    )
    with pytest.raises(UserError, match=r"neither a method.* nor a run's folder"):
        jobs.head_spec("dual", json.dumps({"teacher": str(tmp_path / "none")}), profile)
    with pytest.raises(UserError, match="has its own; leave them out"):
        jobs.head_spec("dual", json.dumps({"teacher": str(run.out), "teacher_params": "{}"}), profile)


def test_a_teacher_is_found_below_the_work_folder_as_a_retriever_is(world, tmp_path):
    work = tmp_path / "work"
    run = job_for(world, "mimic", {**TEACHERS["mimic"], "epochs": 1}, work / "runs" / "d" / "mimic" / "x")
    training.train(run)
    paths, whole = Paths.below(work), json.dumps({"teacher": str(run.out)})
    expected = jobs.head_spec("dual", whole, load("minilm"))
    for name in ("d/mimic/x", "runs/d/mimic/x", str(run.out)):
        params = jobs.placed(json.dumps({"teacher": name}), paths)
        assert str(tmp_path) not in params and jobs.head_spec("dual", params, load("minilm")) == expected
        by_method = json.loads(jobs.placed(json.dumps({"dual": {"teacher": name}, "bert": {"lr": 1}}), paths))
        assert by_method == {"dual": json.loads(params), "bert": {"lr": 1}}
    for text in ('{"teacher": "mimic"}', '{"teacher": "d/mimic/none"}', "{}"):
        assert jobs.placed(text, paths) == text


def test_the_shapes_of_a_student_are_those_of_the_head():
    plain, taught = (load_config("dual", params) for params in ({}, {"teacher": "mimic"}))
    assert head_shapes(plain) == head_shapes(taught)
