"""Layers beneath a cache together with pools, parts, MergeCache and a folder without the right to write; and whole
shards whose content is bad."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import extraction_world
import numpy as np
import pytest
import small_world
from cache_rows import OUTPUTS, filled, keys_of, rows
from extraction_world import shards
from test_layers import follow, state

from cache import columns, layout, page, union
from cache.contracts import Merge, MergeJob
from cache.layers import LayerFault
from cache.store import Store
from cache.verify import verify as verify_cache
from foundation import layers, logs
from foundation.checksums import read_sealed
from mel_cache.contracts import VerifyJob
from mel_cache.verification import verify
from pipeline.extraction import stage
from pipeline.extraction.contracts import ExtractionJob, PartJob

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures for two features, extracted whole in one folder, and one of two parts in a colleague's."""
    root = tmp_path_factory.mktemp("layers")
    extraction_world.prepared(root)
    wants = extraction_world.pictures("clip_image", "image_pooled")
    job = extraction_world.job(root, wants, "whole", batch_size=2, shard_rows=2)
    stage.extract(job)
    stage.extract_part(PartJob(extraction=at(root / "theirs", job), part=1, parts=2))
    assert 0 < len(shards(root / "theirs")) < len(shards(root / "whole"))
    return root, job


def at(work: Path, job: ExtractionJob, **runtime: Any) -> ExtractionJob:
    return replace(job, work=work, columns=work / "columns", runtime=replace(job.runtime, **runtime))


def layered(work: Path, *beneath: Path) -> Path:
    layers.use(work / "cache", ":" + ":".join(str(folder / "cache") for folder in beneath))
    return work


def merged(into: Path, *sources: Path) -> Merge:
    return union.merge(MergeJob(work=into, sources=sources))


@pytest.mark.parametrize("devices", [(), ("cpu", "cpu")], ids=["one process", "two processes"])
def test_what_a_layer_lacks_is_extracted_and_nothing_else_with_one_process_and_with_two(
    world, tmp_path, monkeypatch, devices
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root, job = world
    before = state(root / "theirs")
    account = stage.extract(at(layered(tmp_path, root / "theirs"), job, devices=devices)).account
    own, theirs, whole = (shards(work) for work in (tmp_path, root / "theirs", root / "whole"))
    assert not own.keys() & theirs.keys() and own | theirs == whole
    assert 0 < account.rows["clip_image"] < 2 * len(whole)
    assert state(root / "theirs") == before
    assert not any(stage.extract(at(tmp_path, job)).account.rows.values()), "all is there"


def test_parts_over_a_layer_divide_what_it_lacks_and_merge_with_it_to_the_bytes_of_one_extraction(world, tmp_path):
    root, job = world
    before = state(root / "theirs")
    for number in (1, 2):
        work = layered(tmp_path / f"part{number}", root / "theirs")
        stage.extract_part(PartJob(extraction=at(work, job), part=number, parts=2))
    first, second = (shards(tmp_path / f"part{number}") for number in (1, 2))
    assert first and second and not first.keys() & second.keys()
    found = merged(tmp_path / "all", tmp_path / "part1", tmp_path / "part2", root / "theirs")
    assert not found.problems and shards(tmp_path / "all") == shards(root / "whole")
    unlinked = {path: kept[::3] for path, kept in before.items()}  # a link changes no byte, its count sets a ctime
    assert {path: kept[::3] for path, kept in state(root / "theirs").items()} == unlinked


def test_merging_a_layer_makes_its_rows_ones_own(world, tmp_path):
    root, job = world
    work = layered(tmp_path, root / "theirs")
    stage.extract(at(work, job))
    found = merged(work, root / "theirs")
    assert sum(one.linked + one.copied for one in found.features) == len(shards(root / "theirs"))
    assert all(one.rows for one in found.features) and shards(work) == shards(root / "whole")
    layers.use(work / "cache", str(work / "cache"))
    assert not any(stage.extract(at(work, job)).account.rows.values()), "without the layer nothing is missing"


def test_a_merge_says_which_folders_its_source_reads_beneath_itself(world, tmp_path, monkeypatch):
    root, job = world
    lines: list[str] = []
    monkeypatch.setattr(logs, "notice", lambda line, *_: lines.append(line))
    source = layered(tmp_path / "source", root / "theirs")
    stage.extract(at(source, job))
    lines.clear()
    merged(tmp_path / "into", source)
    assert [str(root / "theirs" / "cache") in line and "not taken" in line for line in lines] == [True]
    assert shards(tmp_path / "into") == shards(source)


def without_overriding() -> list[str]:
    """What makes a command obey modes where the tests run as root; skips where nothing does."""
    if os.geteuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and there is no setpriv here that takes that right away")
    return ["setpriv", "--bounding-set=-dac_override,-fowner", "--inh-caps=-dac_override,-fowner"]


def test_a_folder_without_the_right_to_write_is_read_and_what_it_lacks_is_ones_own(tmp_path):
    data, profile = small_world.write(tmp_path / "data"), small_world.profile(tmp_path)
    options = ["--dataset", "small", "--data-dir", str(data), "--profile", str(profile), "--local-scheduler"]
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    part = ["--features", "text_tokens", "--shard-rows", "4", "--part", "1/2", "--work-dir", str(theirs)]
    code, said = commands.run("ExtractPart", *options, *part)
    assert code == 0, said
    places = [theirs, *theirs.rglob("*")]
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before, prefix = state(theirs), without_overriding()
        tried = subprocess.run([*prefix, "touch", theirs / "cache" / "new"], check=False, capture_output=True)
        assert tried.returncode, "nothing can be written there"
        words = ["--method", "bert", "--params", '{"epochs": 1}', "--shard-rows", "4", "--devices", "cpu:2"]
        place = ["--work-dir", str(own), "--cache-path", f":{theirs / 'cache'}"]
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "luigi", "--module", "tasks", "TrainHead", *options, *words, *place],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "MRR" in done.stdout, done.stderr
        assert shards(own) and not shards(own).keys() & shards(theirs).keys()
        assert state(theirs) == before
    finally:
        for path in places:
            path.chmod(0o755 if path.is_dir() else 0o644)


# Shards of somebody else's making: sealed, and their content is none of ours


def foreign(folder: Path, names: list[int], change: dict[str, np.ndarray]) -> Path:
    """A whole shard with the rows of these names, some of its arrays others."""
    made = filled(folder.parent / "made", names)
    (source,) = made.folder.glob("*.h5")
    arrays = {name: np.asarray(array) for name, array in layout.read(source).arrays.items()} | change
    pending = {name: columns.whole(array) for name, array in arrays.items()}
    attributes: dict[str, str | list[str]] = {
        "feature": made.feature,
        "identity": made.identity,
        "causes": ["", "truncated"],
    }
    final = folder / source.name
    final.unlink(missing_ok=True)
    offsets = layout.create(final, attributes, pending)
    with open(final, "r+b") as handle:
        for name, offset in offsets.items():
            handle.seek(offset)
            handle.write(np.ascontiguousarray(arrays[name]).data)
        page.seal(handle)
    shutil.rmtree(made.folder)
    return final


def grid(value: float, dtype: str = "float16", width: int = 4) -> dict[str, np.ndarray]:
    values = np.ones((2, 3, width), dtype)
    values[1, 2, 3] = value
    return {"grid": values}


def states_of(value: float) -> dict[str, np.ndarray]:
    """Ragged rows, as those of the names 2 and 3."""
    return {"states/values": np.full((8, 5), value, np.float16)}


CONTENTS = {
    "NaN": (grid(np.nan), "output grid holds NaN or infinity"),
    "infinity": (grid(np.inf), "output grid holds NaN or infinity"),
    "NaN in a ragged output": (states_of(np.nan), "output states holds NaN or infinity"),
    "another dtype": (grid(1, "float32"), "array grid is float32"),
    "another width": (grid(1, width=5), r"array grid is float16\(2, 3, 5\), expected"),
    "too few rows": ({"grid": np.ones((1, 3, 4), np.float16)}, r"array grid is float16\(1, 3, 4\), expected"),
    "offsets that do not end": ({"states/offsets": np.array([0, 1, 99])}, "offsets that do not ascend"),
    "other keys": ({"keys": keys_of(90, 91)}, "name"),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_a_sealed_shard_of_bad_content_is_listed_in_a_layer_and_never_merged(tmp_path, content):
    change, problem = CONTENTS[content]
    theirs = filled(tmp_path / "theirs" / "cache", [4, 6])
    path = foreign(theirs.folder, [2, 3], change)
    work = tmp_path / "own"
    filled(work / "cache", [0, 1])
    assert verify_cache(work / "cache") == []
    layered(work, tmp_path / "theirs")
    before = state(tmp_path / "theirs")
    (listed,) = verify(VerifyJob(work=work, repair=True)).in_layers
    assert listed.path == str(path) and "goes on without" in listed.maker
    found = merged(tmp_path / "into", tmp_path / "theirs")
    assert len(found.problems) == 1 and str(path) in found.problems[0] and "was not taken" in found.problems[0]
    for words in (listed.problem, found.problems[0]):
        assert re.search(problem, words), words
    assert [name.rpartition("/")[2] for name in shards(tmp_path / "into")] == [
        one.name for one in theirs.folder.glob("*.h5") if one != path
    ]
    unlinked = {place: kept[::3] for place, kept in before.items()}
    assert {place: kept[::3] for place, kept in state(tmp_path / "theirs").items()} == unlinked


@pytest.mark.parametrize("content", ["another dtype", "another width", "too few rows"])
def test_a_shard_that_does_not_fit_its_feature_ends_in_the_option_that_leaves_its_folder_out(tmp_path, content):
    theirs = filled(tmp_path / "theirs", [4, 6])
    foreign(theirs.folder, [2, 3], CONTENTS[content][0])
    store = filled(tmp_path / "own", [0, 1])
    layers.use(tmp_path / "own", f":{tmp_path / 'theirs'}")
    with pytest.raises(LayerFault, match="array grid is") as error:
        Store.open(store.folder).missing(keys_of(2))
    follow(error, tmp_path / "own")
    fresh = Store.open(store.folder)
    fresh.add(**rows([2, 3]))
    assert fresh.missing(keys_of(0, 1, 2, 3, 4)).tolist() == [4]
    assert {output.name for output in OUTPUTS} == set(fresh.outputs)


# The list itself


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"layers": 5}', b"\xff\xfe"])
def test_a_damaged_list_of_layers_is_listed_stays_and_is_mended_by_what_the_line_says(tmp_path, data):
    work = tmp_path / "own"
    (work / "receipts").mkdir(parents=True)
    filled(tmp_path / "theirs" / "cache", [2])
    store = filled(work / "cache", [0])
    layered(work, tmp_path / "theirs")
    place = work / "cache" / layers.LIST
    whole = read_sealed(place)
    place.write_bytes(data)
    (bad,) = verify(VerifyJob(work=work, repair=True)).bad
    assert bad.path == f"cache/{layers.LIST}" and not bad.removed and place.exists()
    assert "ExtractFeatures --cache-path :FOLDER" in bad.maker
    layers.use(work / "cache", f":{tmp_path / 'theirs' / 'cache'}")
    assert read_sealed(place) == whole and not verify(VerifyJob(work=work)).bad
    assert Store.open(store.folder).missing(keys_of(0, 2)).tolist() == []
