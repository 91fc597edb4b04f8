"""Pictures in HDF5 files that somebody else made: hostile files give a verdict, and nothing outside them is read."""

import multiprocessing
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from fissfuse_folder import picture

from cache import foreign
from cache.shard import Status
from foundation.errors import UserError
from pipeline.datasets import images
from pipeline.datasets.contracts import Limits
from pipeline.datasets.images import ImageError, container, image_key, picture_stamp, read_picture
from pipeline.datasets.scan import scan

LIMITS = Limits(max_bytes=100_000)
DATA = picture(1)


def stored(file: h5py.File, name: str, **how) -> None:
    file["g"].create_dataset(name, data=np.frombuffer(DATA, np.uint8), **how)


def bomb(file: h5py.File, name: str) -> None:
    """A chunk of 1,000 bytes whose gzip stream unpacks to 80 MB."""
    dataset = file["g"].create_dataset(name, (1000,), np.uint8, chunks=(1000,), compression="gzip")
    packer = zlib.compressobj(9)
    dataset.id.write_direct_chunk((0,), packer.compress(bytes(80_000_000)) + packer.flush())


def no_gzip(file: h5py.File, name: str) -> None:
    dataset = file["g"].create_dataset(name, (1000,), np.uint8, chunks=(1000,), compression="gzip")
    dataset.id.write_direct_chunk((0,), b"no gzip stream")


def short_chunk(file: h5py.File, name: str) -> None:
    dataset = file["g"].create_dataset(name, (1000,), np.uint8, chunks=(1000,), compression="gzip")
    dataset.id.write_direct_chunk((0,), zlib.compress(b"ten bytes."))


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((len(DATA),), np.uint8)
    layout[:] = h5py.VirtualSource(str(Path(file.filename).with_name("other.h5")), "g/plain", (len(DATA),))
    file["g"].create_virtual_dataset(name, layout)


def outside(file: h5py.File, name: str) -> None:
    secret = Path(file.filename).with_name("secret.bin")
    file["g"].create_dataset(name, (len(DATA),), np.uint8, external=[(str(secret), 0, len(DATA))])


READ = {
    "plain": stored,
    "chunked": lambda file, name: stored(file, name, chunks=(64,)),
    "gzip": lambda file, name: stored(file, name, chunks=(500,), compression="gzip"),
    "gzip, shuffled": lambda file, name: stored(file, name, chunks=(500,), compression="gzip", shuffle=True),
    "resizable": lambda file, name: stored(file, name, maxshape=(None,)),
}
REFUSED = {
    "external link": (
        lambda file, name: file["g"].__setitem__(name, h5py.ExternalLink("other.h5", "g/plain")),
        "a link to another file",
    ),
    "soft link": (lambda file, name: file["g"].__setitem__(name, h5py.SoftLink("/h/secret")), "a link to another name"),
    "dangling link": (lambda file, name: file["g"].__setitem__(name, h5py.SoftLink("/no")), "a link to another name"),
    "external storage": (outside, "an array in another file"),
    "virtual": (virtual, "an array in another file"),
    "group": (lambda file, name: file["g"].create_group(name), "a group instead of an array"),
    "type": (lambda file, name: file["g"].__setitem__(name, np.zeros(9, np.int64)), "no array of bytes"),
    "signed": (lambda file, name: file["g"].__setitem__(name, np.zeros(9, np.int8)), "no array of bytes"),
    "named type": (lambda file, name: file["g"].__setitem__(name, np.dtype("u1")), "a group instead of an array"),
    "text": (lambda file, name: file["g"].__setitem__(name, "text"), "no array of bytes"),
    "pixels": (lambda file, name: file["g"].__setitem__(name, np.zeros((9, 9, 3), np.uint8)), "no array of bytes"),
    "scalar": (lambda file, name: file["g"].__setitem__(name, np.uint8(3)), "no array of bytes"),
    "null": (lambda file, name: file["g"].__setitem__(name, h5py.Empty("u1")), "no array of bytes"),
    "lzf": (lambda file, name: stored(file, name, chunks=(500,), compression="lzf"), "an HDF5 filter other than gzip"),
    "checksums": (
        lambda file, name: stored(file, name, chunks=(500,), fletcher32=True),
        "an HDF5 filter other than gzip",
    ),
    "huge": (lambda file, name: file["g"].create_dataset(name, (10**12,), np.uint8), "too many bytes"),
    "huge chunk": (
        lambda file, name: file["g"].create_dataset(name, (9,), np.uint8, chunks=(2**31,), maxshape=(None,)),
        "too many bytes",
    ),
    "many chunks": (lambda file, name: stored(file, name, chunks=(1,)), None),
    "bomb": (bomb, "damaged HDF5 data"),
    "no gzip": (no_gzip, "damaged HDF5 data"),
    "short chunk": (short_chunk, "damaged HDF5 data"),
}


@pytest.fixture
def file(tmp_path):
    """Every kind of array in one file, beside a file and bytes that must not be read."""
    (tmp_path / "secret.bin").write_bytes(DATA)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["g/plain"] = np.frombuffer(DATA, np.uint8)
    path = tmp_path / "all.h5"
    with h5py.File(path, "w") as made:
        made.create_group("g")
        made["h/secret"] = np.frombuffer(DATA, np.uint8)
        for name, make in READ.items():
            make(made, name)
        for name, (make, _) in REFUSED.items():
            make(made, name)
        made["soft"] = h5py.SoftLink("/h")
        made["outer"] = h5py.ExternalLink("other.h5", "g")
        made["array"] = np.zeros(3, np.uint8)
    return path


@pytest.mark.parametrize("name", READ)
def test_bytes_are_those_that_were_stored(file, name):
    assert foreign.read_bytes(file, "g", name, 100_000) == DATA
    assert read_picture(file / "g" / name, LIMITS) == DATA


@pytest.mark.parametrize("name", [name for name, (_, cause) in REFUSED.items() if cause])
def test_what_is_no_array_of_bytes_in_this_file_is_refused(file, name):
    cause = REFUSED[name][1]
    with pytest.raises(foreign.Unusable) as caught:
        foreign.read_bytes(file, "g", name, 100_000)
    assert caught.value.cause == cause
    with pytest.raises(ImageError) as error:
        read_picture(file / "g" / name, LIMITS)
    assert error.value.status == (Status.TOO_LARGE if cause == "too many bytes" else Status.BROKEN)


def test_a_bomb_is_not_unpacked(file):
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(foreign.Unusable):
        foreign.read_bytes(file, "g", "bomb", 10**9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_arrays_above_the_limit_are_not_read(file):
    assert foreign.read_bytes(file, "g", "plain", len(DATA)) == DATA
    for name in ("plain", "gzip"):
        with pytest.raises(foreign.Unusable, match="too many bytes"):
            foreign.read_bytes(file, "g", name, len(DATA) - 1)


@pytest.mark.parametrize("group", ["soft", "outer"])
def test_a_group_behind_a_link_is_not_entered(file, group):
    with pytest.raises(UserError, match=f"{group} is a link to another"):
        foreign.keys_there(file, group, ["secret", "plain"])
    with pytest.raises(foreign.Unusable, match="a link to another"):
        foreign.read_bytes(file, group, "plain", 100_000)


def test_names_are_no_paths_and_what_is_not_there_is_missing(file):
    names = ["plain", "../h/secret", "/h/secret", ".", "..", "", "h/secret", "a\0b", "no", "soft link"]
    assert foreign.keys_there(file, "g", names) == {"plain", "soft link"}
    assert foreign.keys_there(file, "nothing", ["plain"]) == set()
    with pytest.raises(UserError, match="array is no group"):
        foreign.keys_there(file, "array", ["plain"])
    for group, name in (("g", "no"), ("g", "../h/secret"), ("nothing", "plain"), ("g", "")):
        with pytest.raises(FileNotFoundError):
            foreign.read_bytes(file, group, name, 100_000)


def test_a_file_that_is_no_hdf5_or_cut_is_refused_in_one_line(file, tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5")
    (tmp_path / "cut.h5").write_bytes(file.read_bytes()[:3000])
    for name in ("text.h5", "cut.h5"):
        with pytest.raises(UserError, match=f"{name}: no HDF5 file, or a damaged one") as caught:
            foreign.keys_there(tmp_path / name, "g", ["plain"])
        assert "\n" not in str(caught.value)
        with pytest.raises(foreign.Unusable, match="damaged HDF5 data"):
            foreign.read_bytes(tmp_path / name, "g", "plain", 100_000)
    with pytest.raises(FileNotFoundError):
        foreign.read_bytes(tmp_path / "none.h5", "g", "plain", 100_000)


def test_flipped_bytes_give_a_verdict_not_a_crash(tmp_path):
    path = tmp_path / "small.h5"
    with h5py.File(path, "w") as made:
        for number in range(4):
            made[f"g/{number}"] = np.frombuffer(DATA, np.uint8)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[int(random.integers(8, 2500))] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        for number in range(4):
            try:
                assert len(foreign.read_bytes(path, "g", str(number), 100_000)) <= 100_000
            except (foreign.Unusable, FileNotFoundError):
                continue


def test_verdicts_are_remembered_by_size_and_time_of_the_file_that_holds_the_pictures(file, tmp_path):
    paths = [file / "g" / name for name in ("plain", "gzip", "external link", "no", "huge")]
    memo = tmp_path / "memo.parquet"
    found = scan(paths, LIMITS, memo)
    statuses = [Status.OK, Status.OK, Status.BROKEN, Status.MISSING, Status.TOO_LARGE]
    assert [verdict.status for verdict in found] == statuses
    assert found[0].key == found[1].key == image_key(DATA)
    assert container(paths[0]) == file and picture_stamp(paths[0]) == (file.stat().st_size, file.stat().st_mtime_ns)
    assert scan(paths, LIMITS, memo) == found


def test_for_a_picture_that_is_a_file_nothing_is_looked_for_above_it(file, tmp_path, monkeypatch):
    looked: list[Path] = []
    monkeypatch.setattr(images, "container", lambda path: looked.append(path) or container(path))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "picture").write_bytes(DATA)
    assert read_picture(tmp_path / "own" / "picture") == DATA and picture_stamp(tmp_path / "own" / "picture")
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "own" / "nothing")
    assert not looked
    assert read_picture(file / "g" / "plain") == DATA and looked == [file / "g" / "plain"]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_threads_and_processes_read_at_once(file, start):
    paths = [file / "g" / name for name in READ] * 8
    with ThreadPoolExecutor(4) as threads:
        before = list(threads.map(read_picture, paths))
    with multiprocessing.get_context(start).Pool(2) as pool, ThreadPoolExecutor(4) as threads:
        in_threads = threads.map(read_picture, paths)
        in_processes = pool.map(read_picture, paths)
        assert list(in_threads) == in_processes == before == [DATA] * len(paths)


def test_chunks_that_were_never_written_are_zeros(tmp_path):
    with h5py.File(tmp_path / "some.h5", "w") as made:
        made.create_group("g")
        made["g"].create_dataset("none", (1000,), np.uint8, chunks=(100,), compression="gzip")
        some = made["g"].create_dataset("some", (1050,), np.uint8, chunks=(100,), compression="gzip")
        some[250:260] = 7
        some[1040:1050] = 9
    assert foreign.read_bytes(tmp_path / "some.h5", "g", "none", 10_000) == bytes(1000)
    expected = bytes(250) + bytes([7]) * 10 + bytes(780) + bytes([9]) * 10
    assert foreign.read_bytes(tmp_path / "some.h5", "g", "some", 10_000) == expected
