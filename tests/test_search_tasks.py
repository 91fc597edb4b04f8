"""SearchHead as a user types it: its best trains a head, nothing is done twice, what was deleted is made again."""

import json
import shutil

import pytest
import small_world
from test_tasks import World

SPACE = "lr: {low: 0.0005, high: 0.01, log: true}\nd_t: {choices: [4, 8]}\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    small_world.write(world.data)
    small_world.profile(world.root)
    (world.root / "space.yaml").write_text(SPACE)
    world.said = search(world)
    return world


def search(world, *options, **more):
    return world.here(
        "SearchHead",
        "--method",
        "mimic",
        "--n-trials",
        "2",
        "--space",
        str(world.root / "space.yaml"),
        *options,
        **more,
    )


def sweep(world):
    (found,) = world.work.glob("sweeps/small/mimic/*")
    return found


def trials(world):
    return (sweep(world) / "trials.csv").read_text().splitlines()[1:]


def test_a_searchs_best_parameters_train_a_head_with_them(base):
    assert "2 complete" in base.said and "best dev MRR" in base.said and str(sweep(base)) in base.said
    best = json.loads((sweep(base) / "best.json").read_text())
    assert "MRR" in base.here("TrainHead", "--method", "mimic", "--params", f"@{sweep(base) / 'best.json'}")
    configs = [json.loads(path.read_text())["config"] for path in base.work.glob("runs/small/mimic/*/config.json")]
    assert len(configs) == 1 and {name: configs[0][name] for name in best} == best and set(best) == {"lr", "d_t"}
    assert len(base.receipts("TrainHead")) == 1, "the search trained no run of its own"


def test_a_finished_search_does_nothing_and_a_larger_one_goes_on(base, tmp_path):
    shutil.copytree(base.root, tmp_path / "copy")
    world = World(tmp_path / "copy")
    before = trials(world)
    assert "2 complete" in search(world) and trials(world) == before
    world.here("SearchHead", "--method", "mimic", "--n-trials", "3", "--space", str(world.root / "space.yaml"))
    assert trials(world)[:2] == before and len(trials(world)) == 3
    assert not world.receipts("SearchHead").keys() <= base.receipts("SearchHead").keys()


def test_a_run_or_a_search_deleted_by_hand_is_made_again(base, tmp_path):
    shutil.copytree(base.root, tmp_path / "copy")
    world = World(tmp_path / "copy")
    params = ["--method", "mimic", "--params", f"@{sweep(world) / 'best.json'}"]
    world.here("TrainHead", *params)
    (run,) = world.work.glob("runs/small/mimic/*")
    before = {name: (run / name).read_bytes() for name in ("model.safetensors", "metrics.json", "predictions.parquet")}
    shutil.rmtree(run)
    assert "MRR" in world.here("TrainHead", *params)
    assert {name: (run / name).read_bytes() for name in before} == before
    told = [row.split(",")[:5] for row in trials(world)]
    shutil.rmtree(sweep(world))
    search(world)
    assert [row.split(",")[:5] for row in trials(world)] == told


def test_a_dry_run_says_what_would_be_searched_and_writes_nothing(base, tmp_path):
    world = World(base.root)
    world.work = tmp_path / "none"
    said = search(world, "--dry-run")
    assert said.index("would run ExtractGroup") < said.index("would run SearchHead mimic") and not world.work.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--space", "nowhere.yaml"], "--space nowhere.yaml: no such file"),
        (["--n-trials", "0"], "--n-trials 0: expected a whole number, at least 1"),
        (["--seeds", "3"], "TrainHead --params @best.json --seeds 3"),
        (["--storage", "study.db"], "--storage: expected a URL like"),
        (["--method", "mimmic"], "did you mean 'mimic'?"),
    ],
)
def test_a_mistyped_search_ends_in_one_line_and_not_zero(base, options, message):
    named = [] if "--method" in options else ["--method", "mimic"]
    said = base.luigi("SearchHead", *named, *options, code=None)
    assert message in said and "Traceback" not in said, said
