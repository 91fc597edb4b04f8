"""Datasets in every layout, their pictures in HDF5, and preparing them."""

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from dataset_folders import Lines, Mimic
from fissfuse_folder import Fissfuse, picture
from hypothesis import strategies as st
from release_folders import Ghmfc, Wikidiverse

from cache import foreign
from fuzz.odd import BYTES, Files, bytes_of, files_in, folder_of, write
from fuzz.target import Target, each, empty_folder
from pipeline.datasets.contracts import NO_OPTIONS, PrepareJob
from pipeline.datasets.fingerprint import fingerprint
from pipeline.datasets.images import ImageError, read_picture
from pipeline.datasets.layouts import layout, load
from pipeline.datasets.prepare import prepare

LAYOUTS = "pipeline.datasets.layouts"
_RELEASE = (f"{LAYOUTS}._release:read_keyed", f"{LAYOUTS}._release:stamps_below")


def _jsonl(folder: Path) -> None:
    lines = Lines(folder)
    splits: tuple[tuple[str, dict[str, Any]], ...] = (
        ("train", {"start": 8, "end": 11, "candidates": ["e1", "e2"], "image": "m.png"}),
        ("dev", {"type": "person", "group": "easy"}),
        ("test", {}),
    )
    lines.mentions = [
        {"id": f"m{n}", "sentence": "Ann met Bob Lee.", "mention": "Bob", "gold": "e1", "split": split, **more}
        for n, (split, more) in enumerate(splits)
    ]
    entities: list[dict[str, Any]] = [
        {"id": "e1", "name": "Robert", "attributes": {"Job": ["actor", "singer"]}, "images": ["e.png"], "type": "a|b"},
        {"id": "e2", "name": "Ann", "attributes": "Sex: female.", "description": "One.", "aliases": ["Anna"]},
    ]
    lines.entities = entities
    lines.write()
    for name in ("m.png", "e.png"):
        (folder / name).write_bytes(picture(1))


def _mimic(folder: Path) -> None:
    Mimic(folder).write()
    (folder / "qid2aliases.json").write_text(json.dumps({"Q2": ["Rob", "Bobby"]}))
    (folder / "kb_image" / "Q2.png").write_bytes(picture(2))


def _ghmfc(folder: Path) -> None:
    Ghmfc(folder).write()
    (folder / "images" / "7.png").write_bytes(picture(3))


def _wikidiverse(folder: Path) -> None:
    Wikidiverse(folder).write()
    (folder / "redirects.json").write_text(json.dumps({"Lions": "Detroit Lions"}))
    (folder / "wikipedia_entity2desc_filtered.tsv").write_text("Lion@@@@A big cat.\nwith a mane\nFox@@@@Red.\n")
    (folder / "wikipedia_entity2imgs.tsv").write_text("Lion@@@@https://upload.wikimedia.org/Lion.jpg[AND]x.png\n")
    (folder / "wikinewsImgs" / "x.png").write_bytes(picture(4))


def _fissfuse(folder: Path) -> None:
    Fissfuse(folder).write()


def _folder(make: Callable[[Path], None]) -> dict[str, bytes]:
    with empty_folder() as folder:
        make(folder)
        return files_in(folder)


def _read(format: str, files: Files, folder: Path) -> None:
    """Everything that is done with a layout's files before a picture is looked at. Most records may be bad, so that
    what comes behind them is reached."""
    write(folder, files)
    each(
        lambda: layout(folder),
        lambda: load("odd", folder, format, max_bad_records=1.0),
        lambda: fingerprint(folder, format, memo=folder / "memo" / "hashes.json"),
    )


def _layout(format: str, make: Callable[[Path], None], *readers: str) -> Target:
    files = functools.cache(lambda: _folder(make))
    return Target(
        kind=f"dataset, layout {format}",
        readers=(f"{LAYOUTS}.{format}:load", *readers, "pipeline.datasets.fingerprint:fingerprint"),
        valid=files,
        odd=lambda: folder_of({name: data for name, data in files().items() if not name.endswith((".png", ".h5"))}),
        read=functools.partial(_read, format),
        share=8,
    )


def _prepare(files: Files, folder: Path) -> None:
    """A dataset with its pictures, to its tables, and these read again."""
    write(folder / "data", files)
    job = PrepareJob(
        name="odd",
        data_dir=folder / "data",
        out=folder / "out",
        format="jsonl",
        options=NO_OPTIONS,
        memo=folder / "memo",
        workers=1,
        max_bad_images=1.0,
        max_bad_records=1.0,
    )
    prepare(job)
    prepare(job)


def _foreign(data: bytes, folder: Path) -> None:
    path = folder / "image.h5"
    path.write_bytes(data)
    foreign.keys_there(path, "mention_image", NAMES)
    with contextlib.suppress(ImageError, FileNotFoundError):
        read_picture(path / "mention_image" / "p0")
    for name in ("linked", "../p0", "none"):
        with contextlib.suppress(foreign.Unusable, FileNotFoundError):
            foreign.read_bytes(path, "mention_image", name, 1_000_000)
    each(*(functools.partial(foreign.read_bytes, path, "mention_image", name, 1_000_000) for name in NAMES))


NAMES = ("p0", "p1", "wide", "packed")


@functools.cache
def _h5() -> bytes:
    with empty_folder() as folder:
        path = folder / "image.h5"
        with h5py.File(path, "w") as file:
            group = file.create_group("mention_image")
            group["p0"] = np.frombuffer(picture(0), np.uint8)
            group.create_dataset("p1", data=np.arange(200, dtype=np.uint8))
            group.create_dataset("packed", data=np.zeros(3000, np.uint8), chunks=(1000,), compression="gzip")
            group.create_dataset("wide", data=np.arange(40, dtype=np.uint8), chunks=(16,), shuffle=True)
            group.attrs["note"] = "names"
            group["linked"] = h5py.SoftLink("/mention_image/p0")
            file["entity_image/Q1"] = np.frombuffer(picture(1), np.uint8)
        return path.read_bytes()


@st.composite
def _odd_h5(draw: st.DrawFn) -> bytes:
    """Damage among HDF5's own structures, which take the file's first kilobytes and what lies between arrays."""
    data = bytearray(_h5())
    for _ in range(draw(st.integers(1, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.sampled_from(BYTES))
    return bytes(data)


TARGETS = (
    _layout(
        "jsonl",
        _jsonl,
        f"{LAYOUTS}.jsonl:stamps",
        f"{LAYOUTS}.jsonl:names_no_picture",
        "pipeline.datasets.fields:json_lines",
        "foundation.files:read_lines",
    ),
    _layout("mimic", _mimic, f"{LAYOUTS}.mimic:_records", f"{LAYOUTS}.mimic:_entities", *_RELEASE),
    _layout("ghmfc", _ghmfc, *_RELEASE),
    _layout("wikidiverse", _wikidiverse, f"{LAYOUTS}.wikidiverse:_pairs", f"{LAYOUTS}.wikidiverse:_records", *_RELEASE),
    _layout("fissfuse", _fissfuse, "pipeline.datasets.fields:json_lines"),
    Target(
        kind="dataset, prepared",
        readers=(
            "pipeline.datasets.prepare:prepare",
            "pipeline.datasets.scan:_Memo.__init__",
            "pipeline.datasets.images:read_picture",
        ),
        valid=functools.cache(lambda: _folder(_jsonl)),
        odd=lambda: folder_of(_folder(_jsonl)),
        read=_prepare,
        share=2,
    ),
    Target(
        kind="HDF5 of pictures",
        readers=("cache.foreign:keys_there", "cache.foreign:_opened", "pipeline.datasets.images:_contained"),
        valid=_h5,
        odd=lambda: st.one_of(_odd_h5(), _odd_h5(), bytes_of(_h5())),
        read=_foreign,
        refusals=(foreign.Unusable, FileNotFoundError),
        share=8,
    ),
)
