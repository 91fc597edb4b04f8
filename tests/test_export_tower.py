"""`ExportTower`: a run's tuned encoders as model folders that give the run's own features."""

import json
from pathlib import Path

import commands
import numpy as np
import pytest
import small_world
import yaml
from safetensors.torch import load_file, save_file
from test_tuning import parts_of, places, run_of

from cache.identity import weights_hash
from cache.store import Store
from cache.table import Table
from linking.exported import placed

pytest.importorskip("peft")
TUNE = {"text": {"block": 1, "lr": 0.01}, "image": {"block": 1, "how": "norms", "lr": 0.01}}
MIMIC = {"epochs": 1, "batch_size": 8, "d_t": 8, "d_v": 8, "d_c": 8}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder of a data set and a profile, whose text and pictures are read by one CLIP."""
    root = tmp_path_factory.mktemp("export")
    small_world.write(root / "data")
    small_world.profile(root)
    return root


@pytest.fixture(scope="module")
def run(world):
    params = json.dumps({**MIMIC, "tune": TUNE})
    code, said = commands.run("TrainHead", "--method", "mimic", "--params", params, *places(world))
    assert code == 0, said
    return run_of(said)


def exported(world: Path, run: Path, folder: Path) -> tuple[object, str]:
    return commands.run("ExportTower", "--run", str(run), "--to", str(folder), "--work-dir", str(world / "work"))


def pooled(store: Store, keys: np.ndarray) -> np.ndarray:
    return Table(store, "pooled", keys, np.ones(len(keys), bool)).gather(np.arange(len(keys))).astype(np.float32)


def test_the_written_encoder_gives_the_runs_own_features(world, run, tmp_path):
    """Its texts and pictures, extracted anew through an ordinary profile, beside those that the run's heads read."""
    folder = tmp_path / "tuned"
    code, said = exported(world, run, folder)
    assert code == 0 and f"{folder}: tuned from" in said, said
    profile = yaml.safe_load((world / "small.yaml").read_text())
    features = {name: {**profile["features"][name], "model": str(folder)} for name in ("clip_text", "clip_image")}
    (tmp_path / "tuned.yaml").write_text(yaml.safe_dump({**profile, "features": features, "heads": {}}))
    named = {"dataset": "small", "data-dir": world / "data", "profile": tmp_path / "tuned.yaml"}
    given = [word for name, value in named.items() for word in (f"--{name}", str(value))]
    code, said = commands.run("ExtractFeatures", *given, "--work-dir", str(world / "work"))
    assert code == 0, said
    weights = weights_hash([folder / "open_clip_model.safetensors"], None)
    stores = [Store.open(place) for place in (world / "work" / "cache").iterdir() if (place / "spec.json").exists()]
    learned: list[float] = []
    for feature in features:
        (again,) = (store for store in stores if store.feature == feature and store.spec["weights"] == weights)
        caches = (Store.open(place) for place in (parts_of(run) / "cache").iterdir())
        (own,) = (store for store in caches if store.feature == f"{feature}@tuned")
        keys = np.concatenate([own.open_shard(path.name).keys for path in sorted(own.folder.glob("*.h5"))])
        keys = keys[again.locate(keys)[0] >= 0]
        assert len(keys) > 10
        scale = np.abs(pooled(own, keys)).max()
        assert np.abs(pooled(again, keys) - pooled(own, keys)).max() < 3e-3 * scale
        for frozen in (store for store in stores if store.feature == feature and store is not again):
            learned.append(np.abs(pooled(frozen, keys) - pooled(own, keys)).max() / scale)
    assert max(learned) > 3e-2, "what was learned is there"


def test_a_folder_that_holds_something_is_refused(world, run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    code, said = exported(world, run, tmp_path)
    assert code != 0 and "is not empty; name a folder that does not exist yet" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_without_tuned_encoders_is_refused(world, run, tmp_path):
    code, said = commands.run("TrainHead", "--method", "mimic", "--params", json.dumps(MIMIC), *places(world))
    assert code == 0, said
    code, said = exported(world, run_of(said), tmp_path / "tuned")
    assert code != 0 and "no encoder was tuned with it; name a run that was trained with `tune`" in said
    assert not (tmp_path / "tuned").exists()


def test_a_checkpoint_that_has_changed_is_refused(world, run, tmp_path):
    profile = yaml.safe_load((world / "small.yaml").read_text())
    file = world / profile["features"]["clip_text"]["model"] / "open_clip_model.safetensors"
    before = file.read_bytes()
    tensors = load_file(file)
    tensors["logit_scale"] = tensors["logit_scale"] + 1
    save_file(tensors, file)
    try:
        code, said = exported(world, run, tmp_path / "tuned")
    finally:
        file.write_bytes(before)
    assert code != 0 and "its weights have changed since" in said and "put the former ones back" in said
    assert not (tmp_path / "tuned").exists()


def test_towers_of_one_checkpoint_and_side_become_one_encoder():
    clip, bert = Path("clip"), Path("bert")
    assert placed({"text": clip, "image": clip}) == {"": ["text", "image"]}
    assert placed({"text": bert, "image": clip}) == {"text": ["text"], "image": ["image"]}
    assert placed({"text": clip, "image_mention": clip, "image_entity": clip}) == {
        "text": ["text"],
        "image_mention": ["image_mention"],
        "image_entity": ["image_entity"],
    }
    assert placed({"text_mention": clip, "image_mention": clip, "text_entity": clip, "image_entity": clip}) == {
        "text_mention-image_mention": ["text_mention", "image_mention"],
        "text_entity-image_entity": ["text_entity", "image_entity"],
    }
