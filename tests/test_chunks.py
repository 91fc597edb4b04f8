"""Chunks are planned once, as a file from which any process goes on; the file gives the units that were planned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import extraction_world
import numpy as np
import pytest
from extraction_world import shards

from cache.identity import Output, content_key
from cache.keys import KeyColumn
from cache.store import Store
from foundation.errors import PassingError, UserError
from foundation.paths import Paths
from pipeline.extraction import chunks, manifest, planning, stage, units
from pipeline.extraction.contracts import ExtractionJob
from pipeline.extraction.parents import Parent
from pipeline.extraction.units import Part, Picture, Units


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("chunks")
    extraction_world.prepared(root)
    return extraction_world.job(root, extraction_world.texts("clip_text"), batch_size=4, shard_rows=8)


def at(work: Path, job: ExtractionJob, **runtime: Any) -> ExtractionJob:
    return replace(job, work=work, columns=work / "columns", runtime=replace(job.runtime, **runtime))


def images(job: ExtractionJob) -> ExtractionJob:
    return replace(job, wants=tuple(extraction_world.pictures("clip_image")))


def forbidden(*_: Any, **__: Any) -> None:
    raise AssertionError("planned again")


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_an_extraction_that_broke_off_goes_on_from_its_manifest_and_plans_nothing_again(
    job, tmp_path, monkeypatch, kind
):
    job = job if kind == "texts" else images(job)
    calm, work = at(tmp_path / "calm", job), at(tmp_path / "work", job)
    result, added, plain = stage.extract(calm), [], Store.add
    assert not (calm.columns / manifest.FILE).exists(), "nothing is left to do"

    def add(self, *rows):
        added.append(plain(self, *rows))
        if len(added) == 2:
            raise UserError("broken off")
        return added[-1]

    monkeypatch.setattr(Store, "add", add)
    with pytest.raises(UserError, match="broken off"):
        stage.extract(work)
    monkeypatch.undo()
    assert (work.columns / manifest.FILE).exists() and len(shards(work.work)) == 2 < len(shards(calm.work))
    monkeypatch.setattr(units, "read_tables", forbidden)
    again = stage.extract(work)
    assert shards(work.work) == shards(calm.work) and not (work.columns / manifest.FILE).exists()
    assert replace(again.extraction, features={}) == replace(result.extraction, features={})
    for name, feature in result.extraction.features.items():
        assert replace(again.extraction.features[name], extracted=feature.extracted) == feature
        assert 0 < again.extraction.features[name].extracted < feature.extracted
    for path in calm.columns.glob("*.npz"):
        assert (work.columns / path.name).read_bytes() == path.read_bytes()


def test_what_the_cache_lost_meanwhile_is_planned_again(job, tmp_path, monkeypatch):
    """A shard of an earlier extraction is removed by hand while further rows are computed: the manifest lists none."""
    work = at(tmp_path / "work", job)
    stage.extract(replace(work, wants=work.wants[:1], columns=tmp_path / "work" / "half"))
    stage.extract(calm := at(tmp_path / "calm", job))
    (first, *_), plain = sorted(Paths(work.work).cache.glob("*/*.h5")), Store.add

    def add(self, *rows):
        first.unlink(missing_ok=True)
        return plain(self, *rows)

    monkeypatch.setattr(Store, "add", add)
    assert stage.extract(work).extraction.features["clip_text"].verdicts == {
        "ok": stage.extract(calm).extraction.features["clip_text"].rows
    }


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: data[:4] + data[60:]])
def test_a_manifest_that_is_damaged_or_of_other_options_is_planned_again(job, tmp_path, damage):
    work = at(tmp_path / "work", job)
    planned = planning.planned(work, lambda coming: None)
    path = work.columns / manifest.FILE
    assert len(planned.chunks) > 2
    wider = planning.planned(at(tmp_path / "work", job, shard_rows=4096), lambda coming: None)
    assert 0 < len(wider.chunks) < len(planned.chunks), "the length of chunks is another: none of the file is taken"
    path.write_bytes(damage(path.read_bytes()))
    stage.extract(work)
    stage.extract(calm := at(tmp_path / "calm", job))
    assert shards(work.work) == shards(calm.work)


def test_a_chunk_whose_rows_are_damaged_is_said_in_one_line_and_done_by_the_next_command(job, tmp_path):
    work = at(tmp_path / "work", job)
    planned = planning.planned(work, lambda coming: None)
    path = work.columns / manifest.FILE
    data = path.read_bytes()
    path.write_bytes(data[:8] + bytes(byte ^ 1 for byte in data[8:400]) + data[400:])
    with pytest.raises(PassingError, match=r"chunks.parquet: chunk 0 cannot be read .* run the same command again"):
        stage.extract(work)
    assert stage.extract(work).extraction.features["clip_text"].rows == planned.coming["clip_text"].rows


def test_a_manifest_gives_the_units_that_were_planned(tmp_path):
    """Texts, pictures, crops of them and rows of another feature."""
    boxes = [Output("boxes", (4,), "float32", ragged=True)]
    parents = Store.create(tmp_path / "cache", "objects", {"outputs": [output.to_json() for output in boxes]})
    found = [np.arange(4 * n, dtype=np.float32).reshape(n, 4) for n in (2, 0, 1)]
    keys = [content_key("image", f"picture {number}") for number in range(3)]
    column = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
    parents.add(column, np.zeros(3, np.uint8), [""] * 3, {"boxes": found})
    span = np.full((3, 2), -1, np.int32)
    rows = Parent.of(parents, KeyColumn(column, np.ones(3, bool), span)).rows()
    pictures = [Picture(f"/p/{number}.png", key) for number, key in enumerate(keys)]
    sources = {
        "texts": ["", "Ann Powers", "añ [SEP] 数"],
        "pictures": pictures,
        "crops": [Part(*one) for one in zip(pictures, keys, rows, strict=True)],
        "rows": [Part(None, *one) for one in zip(keys, rows, strict=True)],
    }
    listed = [
        chunks.Chunk((name,), 3, Store.shard_name(column), lambda of=of: Units(column, of))
        for name, of in sources.items()
    ]
    header = manifest.Header(
        identities={},
        shard_rows=3,
        coming={},
        chunks=tuple(manifest.Listed(features=one.features, rows=one.rows, name=one.name) for one in listed),
    )
    manifest.write(tmp_path / manifest.FILE, header, listed)
    read = manifest.Manifest(tmp_path / manifest.FILE, {"crops": parents, "rows": parents})
    (tmp_path / manifest.FILE).unlink()
    for chunk, (name, given) in zip(read.chunks, sources.items(), strict=True):
        loaded = chunk.load()
        assert chunk.features == (name,) and (loaded.keys == column).all()
        for one, other in zip(loaded.sources, given, strict=True):
            if isinstance(one, Part) and isinstance(other, Part):
                assert (one.picture, one.key) == (other.picture, other.key)
                assert np.array_equal(one.parent["boxes"], other.parent["boxes"])
            else:
                assert one == other
