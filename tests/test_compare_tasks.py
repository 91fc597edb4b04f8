"""Seeds, comparisons and ablations as a user types them: runs are shared, resumed after a kill, and not done twice."""

import json
import os
import shutil
import signal

import commands
import numpy as np
import pytest
import small_world
from test_tasks import World

from foundation.checksums import read_sealed

DWE = '{"dwe": {"epochs": 2, "width": 16, "joint_width": 16, "patience": 0}}'


def runs(world, method):
    """Folders of a method's runs, single seeds and means."""
    folders = sorted((world.work / "runs" / "small" / method).iterdir())
    return [path for path in folders if not path.name.startswith("mean-")], [
        path for path in folders if path.name.startswith("mean-")
    ]


def stamps(world):
    return {
        path: path.stat().st_mtime_ns
        for path in world.work.rglob("*")
        if path.is_file() and path.parent.name not in ("memo", "claims")
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One seed trained by itself, then three asked for and the second one's training killed after its first epoch."""
    made = World(tmp_path_factory.mktemp("world"))
    small_world.write(made.data)
    small_world.profile(made.root)
    made.here("TrainHead", "--method", "mimic")
    made.first = {path.name: path.read_bytes() for path in runs(made, "mimic")[0][0].iterdir() if path.is_file()}
    os.environ["MEL_FAULT"] = "epoch-end"
    try:
        made.killed = made.luigi("TrainHead", "--method", "mimic", "--seeds", "3", code=30)
    finally:
        del os.environ["MEL_FAULT"]
    made.after_kill = runs(made, "mimic")
    made.output = made.here("TrainHead", "--method", "mimic", "--seeds", "3")
    return made


def test_a_killed_seed_goes_on_where_it_stopped_and_the_others_are_left_as_they_are(world):
    assert f"signal {signal.SIGKILL.value}" in world.killed and "Traceback" not in world.killed
    singles, means = world.after_kill
    assert not means, "no mean of some of the seeds"
    singles, means = runs(world, "mimic")
    of_seed = {run["seed"]: (path, run) for path in singles for run in [json.loads((path / "run.json").read_text())]}
    assert set(of_seed) == {0, 1, 2} and len(means) == 1
    assert {run["resumed_after"] for _, run in of_seed.values()} == {0, 1}
    assert {path.name: path.read_bytes() for path in of_seed[0][0].iterdir() if path.is_file()} == world.first, (
        "shared with the single run"
    )


def test_the_mean_is_that_of_the_seeds_and_the_command_ends_with_its_table(world):
    singles, (mean,) = runs(world, "mimic")
    made = read_sealed(mean / "metrics-mean.json")
    values = [json.loads((path / "metrics.json").read_text())["test"]["full-kb"]["all"]["MRR"] for path in singles]
    mean_rank = made["metrics"]["test"]["full-kb"]["all"]["MRR"]
    assert mean_rank == {"mean": pytest.approx(np.mean(values)), "deviation": pytest.approx(np.std(values, ddof=1))}
    assert {(mean / path).resolve() for path in made["runs"]} == set(singles) and made["seeds"] == [0, 1, 2]
    assert (mean / "metrics-mean.txt").read_text() in world.output and str(mean) in world.output


def test_fewer_seeds_are_among_more_and_a_fraction_of_train_has_seeds_of_its_own(world):
    before = stamps(world)
    world.here("TrainHead", "--method", "mimic", "--seeds", "2")
    singles, means = runs(world, "mimic")
    assert len(singles) == 3 and len(means) == 2 and before.items() <= stamps(world).items()
    world.here("TrainHead", "--method", "mimic", "--seeds", "2", "--train-fraction", "0.5")
    counts = [json.loads((path / "run.json").read_text())["counts"]["trained on"] for path in runs(world, "mimic")[0]]
    assert sorted(counts) == [10, 10, 20, 20, 20] and before.items() <= stamps(world).items()


def test_heads_are_compared_training_only_what_is_missing(world, tmp_path):
    shutil.copytree(world.root, tmp_path / "copy")
    copy = World(tmp_path / "copy")
    before = stamps(copy)
    options = ("CompareHeads", "--methods", "mimic,dwe", "--text-only", "--params", DWE)
    plan = copy.here(*options, "--dry-run")
    assert "would run TrainHead dwe, seed 0" in plan and "would run CompareHeads" in plan and stamps(copy) == before
    output = copy.here(*options)
    assert before.items() <= stamps(copy).items(), "nothing that was there is made again"
    assert len(runs(copy, "dwe")[0]) == 2 and len(runs(copy, "mimic")[0]) == len(runs(world, "mimic")[0]) + 1, (
        "each, and each without pictures"
    )
    for name in ("test, full-kb", "text-only ablation", "Cost and settings", "PUBLISHED figures", "epochs 2 (300)"):
        assert name in output
    folder = next(copy.work.glob("reports/small/compareheads-*"))
    assert {path.suffix for path in folder.iterdir()} == {".txt", ".ansi", ".md", ".csv", ".tex"} and str(
        folder
    ) in output
    before = stamps(copy)
    assert copy.here(*options) == output and stamps(copy) == before


def test_pictures_are_dropped_at_evaluation_without_training_again(world, tmp_path):
    shutil.copytree(world.root, tmp_path / "copy")
    copy = World(tmp_path / "copy")
    options = ("CompareHeads", "--methods", "mimic", "--seeds", "3", "--drop-pictures", "1,0.5")
    before = runs(copy, "mimic")[0]
    output = copy.here(*options)
    assert "pictures masked (" in output and "50%" in output and runs(copy, "mimic")[0] == before
    folder = next(copy.work.glob("reports/small/compareheads-*"))
    assert (folder / "missing-pictures.png").is_file()
    for run in before:
        there = {"predictions-without-pictures.parquet"} & {path.name for path in run.iterdir()}
        assert bool(there) == (json.loads((run / "run.json").read_text())["counts"]["trained on"] == 20)
    done = stamps(copy)
    assert copy.here(*options) == output and stamps(copy) == done
    page = copy.here("Report", "--methods", "mimic", "--drop-pictures", "0.5", "--cases", "2")
    text = (copy.root / page.partition("report: ")[2].strip()).read_text()
    assert "MRR in % by % of pictures masked" in text and "pictures masked (" in text
    for value in ("0", "1.5", "half", "0.5,,1"):
        refused = copy.luigi("CompareHeads", "--methods", "mimic", "--drop-pictures", value, code=None)
        assert f"--drop-pictures {value}: expected numbers above 0, at most 1" in refused and "Traceback" not in refused


def test_ablations_are_trained_beside_the_full_method_and_two_runs_compared(world, tmp_path):
    shutil.copytree(world.root, tmp_path / "copy")
    copy = World(tmp_path / "copy")
    before = runs(copy, "mimic")[0]
    output = copy.luigi("Ablate", "--method", "mimic", "--only", "without L_T,50*", code=None)
    assert "--only '50*'" in output and runs(copy, "mimic")[0] == before
    output = copy.here("Ablate", "--method", "mimic", "--only", "without L_T,10%*")
    assert len(runs(copy, "mimic")[0]) == len(before) + 2, "the full one was there"
    for name in (
        "dev, full-kb",
        "test, candidates and rerank (10 mentions)",
        "without L_T",
        "10% of train",
        "ref.",
        "unit_losses vdlu+cmfu (tglu+vdlu+cmfu)",
    ):
        assert name in output
    assert "PUBLISHED" not in output
    first, second = (path.relative_to(copy.work / "runs").as_posix() for path in runs(copy, "mimic")[0][:2])
    tested = copy.here("CompareRuns", "--run-folder", first, "--against", second, profile=False)
    assert "McNemar" in tested and "test, full-kb: a minus b over 10 mentions" in tested
    assert "no such run" in copy.luigi(
        "CompareRuns", "--run-folder", first, "--against", "small/mimic/nowhere", profile=False, code=2
    )


def test_a_run_is_explained_by_its_options_or_by_its_folder(world):
    output = world.here("Explain", "--method", "mimic", "--top", "2")
    run = next(path for path in runs(world, "mimic")[0] if list(path.glob("explain-*")))
    (file,) = run.glob("explain-test-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert f"{len(lines)} mentions of test explained: {file}" in output and len(lines) == 10
    assert {"score", "units", "id"} <= set(lines[0]["candidates"][0])
    named = run.relative_to(world.work / "runs").as_posix()
    before = stamps(world)
    assert world.here("Explain", "--run-folder", named, "--top", "2") == output and stamps(world) == before, (
        "the same run, and nothing twice"
    )
    assert "not the run of this method" in world.luigi("Explain", "--run-folder", named, "--candidates", "7", code=None)
    assert "no such run" in world.luigi("Explain", "--run-folder", "small/mimic/nowhere", code=None)


def test_a_report_shows_what_is_trained_in_one_page_and_is_not_written_twice(world):
    output = world.here("Report", "--cases", "5")
    (page,) = world.work.glob("reports/small/report-*/report.html")
    assert f"report: {page}" in output and "5 cases" in output
    text = page.read_text()
    data = json.loads(text.partition('<script type="application/json" id="book">')[2].partition("</script>")[0])
    assert data["methods"] == ["mimic"] and len(data["cases"]) == 5 and data["pictures"]
    best = data["cases"][0]["methods"]["mimic"]["top"][0]
    assert set(best["units"]) == {"tglu", "vdlu", "cmfu"} and best["score"] == pytest.approx(
        np.mean(list(best["units"].values())), rel=1e-3
    )
    assert str(world.root) not in text, "the page names no path of this machine"
    before = stamps(world)
    assert world.here("Report", "--cases", "5") == output and stamps(world) == before
    plan = world.here("Report", "--methods", "mimic,dwe", "--params", DWE, "--dry-run")
    assert "would run TrainHead dwe, seed 0" in plan and "would run Report" in plan and stamps(world) == before
    assert "no trained head" in world.luigi("Report", "--candidates", "7", code=None)


def test_a_report_of_a_dataset_whose_pictures_are_gone_says_so(world):
    aside = world.data.with_name("aside")
    pictures = [path for path in world.data.rglob("*") if path.suffix in (".png", ".jpg")]
    assert pictures
    shutil.copytree(world.data, aside, copy_function=shutil.copy2)
    try:
        for path in pictures:
            path.unlink()
        code, output = commands.run(*world.arguments("Report"))
        assert code and "of the listed images cannot be used" in output and "no trained head" not in output
    finally:
        shutil.rmtree(world.data)
        aside.rename(world.data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["TrainHead", "--seeds", "0"], "--seeds 0: expected a whole number, at least 1"),
        (["CompareHeads", "--methods", "mimic,mimc"], "did you mean 'mimic'?"),
        (["CompareHeads", "--methods", "mimic", "--params", '{"mimic": {"lrr": 1}}'], "did you mean 'lr'?"),
        (["Ablate", "--method", "mimic", "--only", "text onyl"], "did you mean 'text only'?"),
    ],
)
def test_a_mistyped_option_ends_in_one_line(world, options, message):
    output = world.luigi(*options, code=None)
    assert message in output and "Traceback" not in output, output
