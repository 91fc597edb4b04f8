"""What travels to a machine without this one's files: models, pictures and texts; the shards that come back."""

import pickle
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import extraction_world
import pytest
import small_world
from extraction_world import shards

from cache import union
from cache.store import Store
from foundation.errors import UserError
from foundation.paths import Paths
from pipeline.datasets.images import ImageError, Status
from pipeline.extraction import planning, shipped, stage
from pipeline.extraction.contracts import ExtractionJob
from pipeline.extraction.shipped import Computed, Machine, Pieces, Refused
from pipeline.profiles import profile as profiles


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("shipped")
    small_world.write(root / "data")
    broken = root / "data" / "mentions" / "m0.png"
    broken.write_bytes(broken.read_bytes()[:900])
    extraction_world.prepared(root)
    wants = {
        "texts": extraction_world.texts("text_tokens"),
        "pictures": extraction_world.pictures("clip_image", "image_pooled"),
    }
    return root, {
        kind: extraction_world.job(root, listed, batch_size=4, shard_rows=8) for kind, listed in wants.items()
    }


def at(work: Path, job: ExtractionJob) -> ExtractionJob:
    return replace(job, work=work, columns=work / "columns")


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_a_machine_without_the_models_and_the_data_gives_the_shards_of_this_one(world, tmp_path, kind):
    root, jobs = world
    job = at(tmp_path / "work", jobs[kind])
    planned = planning.planned(job, lambda coming: None)
    profile = profiles.load(job.profile)
    sent = pickle.dumps(shipped.shipment(profile, planned.stores, None, job.runtime))
    units = [chunk.load() for chunk in planned.chunks]
    pieces = [pickle.dumps(list(shipped.pieces(one.sources, profiles_limits(job)))) for one in units]
    stage.extract(calm := at(tmp_path / "calm", jobs[kind]))
    hidden = root.rename(root.with_name("hidden"))
    try:
        machine = Machine(pickle.loads(sent))
        for chunk, one, piece in zip(planned.chunks, units, pieces, strict=True):
            parts = pickle.loads(piece)
            sources = Pieces([len(part) for part in parts], range(len(parts)), parts.__getitem__)
            computed = machine.compute(chunk.features, one.keys, sources, {})
            assert isinstance(computed, Computed) and not computed.undone
            for name, found in computed.shards.items():
                planned.stores[name].make()
                for shard, data in found:
                    union.put(planned.stores[name], shard, data)
            known = {name: planned.stores[name] for name in computed.probes}
            assert all(computed.probes[name] for name in known)
    finally:
        hidden.rename(root)
    assert shards(job.work) == shards(calm.work) and not planned.lacks()
    if kind == "pictures":
        assert stage.extract(job).extraction.features["clip_image"].verdicts["broken"] == 1


def profiles_limits(job: ExtractionJob) -> Any:
    from pipeline.datasets.images import Limits

    return Limits(**profiles.load(job.profile).limits)


def test_a_picture_that_has_changed_here_is_undone_there(world, tmp_path):
    _, jobs = world
    small_world.picture(tmp_path / "changed.png", seed=7)
    job = at(tmp_path / "work", jobs["pictures"])
    planned = planning.planned(job, lambda coming: None)
    units = planned.chunks[0].load()
    units.sources[0] = replace(units.sources[0], path=str(tmp_path / "changed.png"))
    (piece,) = shipped.pieces(units.sources, profiles_limits(job))
    machine = Machine(shipped.shipment(profiles.load(job.profile), planned.stores, None, job.runtime))
    computed = machine.compute(planned.chunks[0].features, units.keys, piece, {})
    assert isinstance(computed, Computed)
    assert len(computed.undone) == 1 and computed.undone[0].startswith(str(tmp_path))
    ((name, _),) = computed.shards["clip_image"]
    assert name == Store.shard_name(units.keys[1:])


def test_a_machine_with_another_version_or_other_numbers_refuses(world, tmp_path):
    _, jobs = world
    job = at(tmp_path / "work", jobs["texts"])
    planned = planning.planned(job, lambda coming: None)
    units = planned.chunks[0].load()
    sent = shipped.shipment(profiles.load(job.profile), planned.stores, None, job.runtime)
    older = replace(sent, specs={name: {**spec, "version": 0} for name, spec in sent.specs.items()})
    refused = Machine(older).compute(planned.chunks[0].features, units.keys, units.sources, {})
    assert isinstance(refused, Refused) and "or the model of text_tokens, is another version there" in refused.lines[0]
    probes = {"text_tokens": {"tokens": [0.5] * 64, "pooled": [0.5] * 16}}
    refused = Machine(sent).compute(planned.chunks[0].features, units.keys, units.sources, probes)
    assert isinstance(refused, Refused) and "no longer gives the numbers in its cache" in refused.lines[0]


def test_bytes_that_are_no_shard_of_that_name_are_not_written(world, tmp_path):
    _, jobs = world
    stage.extract(job := at(tmp_path / "work", jobs["texts"]))
    (store,) = map(Store.open, Paths(job.work).cache.iterdir())
    one, other, *_ = sorted(store.folder.glob("*.h5"))
    data = bytearray(one.read_bytes())
    shutil.copytree(store.folder, tmp_path / "other" / store.folder.name)
    (tmp_path / "other" / store.folder.name / one.name).unlink()
    into = Store.open(tmp_path / "other" / store.folder.name)
    data[-3] ^= 1
    for wrong in (bytes(data), other.read_bytes(), b"", one.read_bytes()[:5000]):
        with pytest.raises(UserError, match="from another machine: "):
            union.put(into, one.name, wrong)
        assert not into.has_shard(one.name) and not list(into.folder.glob("*.tmp"))
    union.put(into, one.name, one.read_bytes())
    assert into.rows == store.rows


def test_pieces_are_read_in_any_order_and_few_are_held():
    numbers, fetched = list(range(100)), []

    def get(part: list[int]) -> list[int]:
        fetched.append(part)
        return part

    parts = [numbers[:40], numbers[40:41], numbers[41:90], numbers[90:]]
    pieces = Pieces([len(part) for part in parts], parts, get)
    assert len(pieces) == 100 and list(pieces) == numbers and len(fetched) == 4
    places = random.Random(0).choices(numbers, k=300)
    assert [pieces[place] for place in places] == places and pieces[3:95:7] == numbers[3:95:7]
    assert len(pieces._held) <= shipped.PIECES
    for place in (-1, 100):
        with pytest.raises(IndexError):
            pieces[place]


def test_errors_of_pictures_travel():
    error = pickle.loads(pickle.dumps(ImageError(Status.BROKEN, "truncated")))
    assert (error.status, error.cause, str(error)) == (Status.BROKEN, "truncated", "truncated")
