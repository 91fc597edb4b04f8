import fcntl
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_rows import LENGTHS, OUTPUTS, filled, keys_of, row, rows

from cache import layout, page
from cache.errors import Damaged
from cache.identity import Output
from cache.layout import H5Array
from cache.page import PAGE
from cache.shard import NewRows, Shard, Status, write
from cache.store import Store
from cache.table import Table
from foundation.errors import UserError

NAMES = [0, 1, 2, 3, 5, 6, 7]
DTYPES = (
    Output("half", (3,)),
    Output("single", (2, 2), "float32"),
    Output("whole", (), "int32"),
    Output("bytes", (5,), "uint8", ragged=True),
)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "spec.json")


def put(
    folder: Path, name: str = "x.h5", outputs: tuple[Output, ...] = OUTPUTS, names: list[int] = NAMES, **other
) -> Path | None:
    arguments = {
        "feature": "feature",
        "identity": "0" * 64,
        "outputs": {output.name: output for output in outputs},
        **rows(names, outputs),
        **other,
    }
    feature, identity, outputs_of = (arguments.pop(part) for part in ("feature", "identity", "outputs"))
    return write(folder / name, feature, identity, outputs_of, NewRows(**arguments))


def assert_holds(shard: Shard, outputs: tuple[Output, ...], names: list[int]) -> None:
    assert np.array_equal(shard.keys, keys_of(*names))
    assert [shard.causes[code] for code in np.asarray(shard.cause)] == [
        "truncated" if name and name % 5 == 0 else "" for name in names
    ]
    for output in outputs:
        for i, name in enumerate(names):
            if output.ragged:
                values, offsets = shard.ragged(output.name)
                found, wanted = values[offsets[i] : offsets[i + 1]], row(output, name)[: 0 if shard.status[i] else None]
            else:
                found, wanted = shard.fixed(output.name)[i], row(output, name) * (0 if shard.status[i] else 1)
            assert found.dtype == output.dtype
            assert np.array_equal(found, wanted)


@pytest.mark.parametrize("outputs", [OUTPUTS, DTYPES], ids=["usual", "every dtype"])
@pytest.mark.parametrize(
    "names", [NAMES, [3], [5], [1, 5, 9]], ids=["mixed", "one row", "no row is ok", "ragged rows are empty"]
)
def test_what_is_written_is_read(tmp_path, outputs, names):
    path = put(tmp_path, outputs=outputs, names=names)
    assert path == tmp_path / "x.h5"
    assert_holds(Shard(path), outputs, names)
    assert files(tmp_path) == ["x.h5"]


def test_rows_come_through_block_borders(tmp_path, monkeypatch):
    monkeypatch.setattr("cache.columns.BLOCK_BYTES", 50)
    assert_holds(Shard(put(tmp_path)), OUTPUTS, NAMES)


def test_plain_h5py_reads_a_shard_whose_arrays_are_contiguous_aligned_and_checked(tmp_path):
    path = put(tmp_path)
    with h5py.File(path) as file:
        assert file.attrs["layout"] == 1
        assert (file.attrs["feature"], file.attrs["identity"]) == (b"feature", b"0" * 64)
        assert file.attrs["causes"].tolist() == [b"", b"truncated"]
        assert file["keys"].shape == (len(NAMES), 16)
        assert file["grid"].shape == (len(NAMES), 3, 4) and file["grid"].dtype == np.float16
        assert (
            file["states/offsets"][:].tolist()
            == np.cumsum([0] + [0 if name == 5 else LENGTHS[name % 4] for name in NAMES]).tolist()
        )
        assert file["states/values"].shape == (file["states/offsets"][-1], 5)
        for name in (
            "keys",
            "status",
            "cause",
            "grid",
            "states/values",
            "states/offsets",
            "boxes/values",
            "boxes/offsets",
        ):
            assert file[name].chunks is None and file[name].compression is None
            assert file[name].id.get_offset() % 4096 == 0
            assert file[name].attrs["sha256"].decode() == hashlib.sha256(file[name][:].tobytes()).hexdigest()
    content = path.read_bytes()
    assert content.split(b"\n")[1].split()[-1].decode() == hashlib.sha256(content[PAGE:]).hexdigest()


def test_the_first_page_holds_contents_up_to_its_last_byte_and_no_further(tmp_path):
    fits = []
    for size in range(3800, 4000):
        with open(tmp_path / "page", "w+b") as handle:
            handle.write(bytes(PAGE) + page.SIGNATURE)
            page.put(handle, {"x": "a" * size})
            page.seal(handle)
            handle.seek(0)
            content = handle.read()
            assert content[PAGE:] == page.SIGNATURE and page.seal_broken(handle) is False
        fits.append(page.brief(content[:PAGE]) == {"x": "a" * size})
    assert fits == sorted(fits, reverse=True) and fits[0] and not fits[-1]


def test_arrays_are_read_only_views_of_the_mapped_file(tmp_path):
    array = Shard(put(tmp_path)).fixed("grid")
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    bounds = [[int(end, 16) for end in line[0].split("-")] for line in maps if line[-1].endswith(".h5")]
    assert any(start <= array.ctypes.data < end for start, end in bounds)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_same_rows_give_the_same_bytes_at_another_time(tmp_path):
    first = put(tmp_path, "a.h5")
    time.sleep(1.1)  # HDF5 can stamp objects with whole seconds
    assert first.read_bytes() == put(tmp_path, "b.h5").read_bytes()


def test_rows_that_are_not_ok_are_not_looked_at(tmp_path):
    given = rows(NAMES)
    for output in OUTPUTS:
        given["columns"][output.name][4] = None
    given["columns"]["grid"] = np.stack(
        [np.full((3, 4), np.nan) if item is None else item for item in given["columns"]["grid"]]
    )
    assert put(tmp_path, **given).read_bytes() == put(tmp_path, "y.h5").read_bytes()


@pytest.mark.parametrize(
    ("output", "value", "told"),
    [
        ("grid", np.nan, "NaN"),
        ("grid", -np.inf, "infinity"),
        ("states", np.inf, "infinity"),
        ("states", 70000.0, "range of float16"),
    ],
)
def test_a_value_that_is_not_finite_names_feature_and_key(tmp_path, output, value, told):
    given = rows(NAMES)
    given["columns"][output][3] = given["columns"][output][3].astype(np.float32)
    given["columns"][output][3].flat[-1] = value
    with pytest.raises(UserError) as error:
        put(tmp_path, **given)
    for part in ("feature feature", f"output {output}", keys_of(3)[0].tobytes().hex(), told):
        assert part in str(error.value)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("no such column", lambda given: given["columns"].pop("grid")),
        ("one column too many", lambda given: given["columns"].update(other=[])),
        ("too few rows", lambda given: given["columns"]["grid"].pop()),
        ("another shape", lambda given: given["columns"].update(grid=np.zeros((7, 4, 3)))),
        ("a shape that could be stretched", lambda given: given["columns"].update(grid=np.zeros((7, 3, 1)))),
        ("too few dimensions", lambda given: given["columns"].update(grid=np.zeros((7, 4)))),
        ("ragged of width 1", lambda given: given["columns"]["states"].__setitem__(0, np.zeros((3, 1)))),
        ("ragged of another width", lambda given: given["columns"]["states"].__setitem__(0, np.zeros((3, 6)))),
        ("integer out of range", lambda given: given["columns"]["boxes"].__setitem__(0, np.full((4, 2), 2**31))),
        ("float for integer", lambda given: given["columns"]["boxes"].__setitem__(0, np.zeros((4, 2)))),
        ("a key twice", lambda given: given.update(keys=keys_of(0, 1, 2, 3, 5, 6, 0))),
        ("keys of another width", lambda given: given.update(keys=np.zeros((7, 8), np.uint8))),
        ("no rows", lambda given: given.update(keys=keys_of()[:0])),
        ("unknown verdict", lambda given: given.update(status=np.full(7, 9))),
        ("too few causes", lambda given: given.update(causes=[""])),
    ],
)
def test_columns_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, what, change):
    given = rows(NAMES)
    change(given)
    with pytest.raises(ValueError):
        put(tmp_path, **given)
    assert files(tmp_path) == [], what


def test_a_shard_has_up_to_255_causes_of_200_characters(tmp_path):
    broken = list(range(5, 5 * 257, 5))
    most = [str(name).rjust(200, "c") for name in broken[:255]]
    shard = Shard(put(tmp_path, names=broken[:255], causes=most))
    assert [shard.causes[code] for code in shard.cause] == most
    for names, causes in ((broken, [str(name) for name in broken]), (broken[:1], ["c" * 201])):
        with pytest.raises(ValueError, match="at most 255 of 200 characters"):
            put(tmp_path, "y.h5", names=names, causes=causes)
    assert files(tmp_path) == ["x.h5"]


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (Output("grid", (3, 5)), "array grid is float16(7, 3, 4), expected float16(7, 3, 5)"),
        (Output("grid", (3,)), "array grid is float16(7, 3, 4), expected float16(7, 3)"),
        (Output("grid", (3, 4, 1)), "array grid is float16(7, 3, 4), expected float16(7, 3, 4, 1)"),
        (Output("grid", (3, 4), "float32"), "array grid is float16(7, 3, 4), expected float32(7, 3, 4)"),
        (Output("grid", (3, 4), ragged=True), "has no array grid/offsets"),
        (Output("states", (5,)), "has no array states"),
        (Output("states", (6,), ragged=True), "array states/values is float16(20, 5), expected float16(any, 6)"),
    ],
    ids=["size", "fewer dimensions", "more dimensions", "dtype", "fixed", "ragged", "width"],
)
def test_a_shard_of_other_outputs_says_which_array_does_not_fit(tmp_path, output, told):
    shard = Shard(put(tmp_path))
    assert shard.unfit({one.name: one for one in OUTPUTS}) is None
    assert shard.unfit({output.name: output}) == told


def test_the_first_writer_of_a_name_wins_and_the_other_leaves_nothing(tmp_path):
    before = put(tmp_path, names=[1, 2]).read_bytes()
    assert put(tmp_path, names=[3, 4]) is None
    assert files(tmp_path) == ["x.h5"]
    assert (tmp_path / "x.h5").read_bytes() == before


def rewritten(source: Path, target: Path, **options) -> Path:
    """The shard with every array stored in another way."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        new.attrs.update(old.attrs)

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                new.create_dataset(
                    name, data=item[:], chunks=True if item.size else None, **(options if item.size else {})
                ).attrs.update(item.attrs)

        old.visititems(visit)
    return target


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["chunked", "compressed"])
def test_a_layout_that_cannot_be_mapped_gives_the_same_rows(tmp_path, options):
    store = filled(tmp_path, NAMES)
    (path,) = store.folder.glob("*.h5")
    index = np.array([6, 0, 0, 4, 2])
    tables = [Table(store, output.name, keys_of(*NAMES), np.ones(7, bool)) for output in OUTPUTS]
    wanted = [
        np.copy(table.gather(index)) if not table.ragged else table.gather(index) + table.ragged_flat(index)
        for table in tables
    ]
    rewritten(path, path.with_suffix(".new"), **options).replace(path)
    shard = pickle.loads(pickle.dumps(Shard(path)))
    assert isinstance(shard.fixed("grid"), H5Array)
    assert_holds(shard, OUTPUTS, NAMES)
    for output, expected in zip(OUTPUTS, wanted, strict=True):
        table = Table(Store.open(store.folder), output.name, keys_of(*NAMES), np.ones(7, bool))
        found = (table.gather(index),) if not output.ragged else table.gather(index) + table.ragged_flat(index)
        for a, b in zip(found, (expected,) if not output.ragged else expected, strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b)


def test_an_older_layout_is_brought_to_todays_on_opening(tmp_path, monkeypatch):
    """Fabricated layout 0: `verdict` for `status`, no causes, fixed arrays under /fixed."""
    path = put(tmp_path)
    with h5py.File(path) as new, h5py.File(tmp_path / "old.h5", "w") as old:
        old.attrs.update(layout=0, identity=new.attrs["identity"])
        old["verdict"], old["keys"], old["fixed/grid"] = new["status"][:], new["keys"][:], new["grid"][:]
        for name in ("states/values", "states/offsets", "boxes/values", "boxes/offsets"):
            old[name] = new[name][:]
        for name in (
            "verdict",
            "keys",
            "fixed/grid",
            "states/values",
            "states/offsets",
            "boxes/values",
            "boxes/offsets",
        ):
            old[name].attrs["sha256"] = hashlib.sha256(old[name][:].tobytes()).hexdigest()
    with pytest.raises(UserError, match=r"old\.h5.*layout 0"):
        Shard(tmp_path / "old.h5")

    def from_0(contents: layout.Contents) -> layout.Contents:
        arrays = {name.removeprefix("fixed/"): array for name, array in contents.arrays.items()}
        arrays["status"] = arrays.pop("verdict")
        arrays["cause"] = np.asarray(arrays["status"] != Status.OK, np.uint8)
        return layout.Contents({**contents.attributes, "causes": ["", "truncated"]}, arrays)

    monkeypatch.setitem(layout.MIGRATIONS, 0, from_0)
    assert_holds(Shard(tmp_path / "old.h5"), OUTPUTS, NAMES)
    assert layout.damage(tmp_path / "old.h5") is None, "checksums are those of the file as it is"


def test_a_newer_layout_is_refused(tmp_path):
    path = put(tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["layout"] = 99
    content = bytearray(path.read_bytes())
    newer = {**page.brief(bytes(content[:PAGE])), "attributes": {"layout": 99}}
    for brief in (newer, None):  # with and without contents on the first page
        content[:PAGE] = page._page("0" * 64, brief and json.dumps(brief).encode())
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"layout 99.*update"):
            Shard(path)


def test_the_first_page_gives_the_contents_that_hdf5_gives(tmp_path, monkeypatch):
    path = put(tmp_path)
    content = path.read_bytes()
    bare = path.with_name("bare.h5")
    bare.write_bytes(page._page("0" * 64, None) + content[PAGE:])
    with_hdf5 = Shard(bare)
    monkeypatch.setattr(h5py, "File", None)
    for shard in (Shard(path), with_hdf5):
        assert (shard.identity, shard.causes) == ("0" * 64, ["", "truncated"])
        assert_holds(shard, OUTPUTS, NAMES)
    keys_alone = Shard(path, keys_alone=True)
    assert np.array_equal(keys_alone.keys, keys_of(*NAMES))
    assert keys_alone.unfit({output.name: output for output in OUTPUTS}) is None
    assert "expected float32" in keys_alone.unfit({"grid": Output("grid", (3, 4), "float32")})


def test_contents_that_were_changed_are_refused_and_those_of_another_file_are_found(tmp_path):
    path, other = put(tmp_path), put(tmp_path, "y.h5", names=[1, 2])
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"grid":["float16",[7', b'"grid":["float16",[6', 1))
    with pytest.raises(Damaged, match="contents on its first page"):
        Shard(path)
    assert "checksum of the file" in layout.damage(path)
    brief = {**page.brief(other.read_bytes()[:PAGE]), "bytes": len(content)}
    path.write_bytes(page._page("0" * 64, json.dumps(brief).encode()) + content[PAGE:])
    with open(path, "r+b") as handle:
        page.seal(handle)
    assert layout.damage(path) == "the contents on its first page are not those of the file"


def test_a_shard_with_more_causes_than_fit_the_first_page_is_read_by_hdf5(tmp_path):
    names = list(range(5, 500, 5))
    path = put(tmp_path, names=names, causes=[f"{name}: {'x' * 150}" for name in names])
    assert page.brief(path.read_bytes()[:PAGE]) is None and layout.damage(path) is None
    assert len(Shard(path).causes) == len(names) + 1


@pytest.mark.parametrize("part", [0.0, 0.01, 0.05, 0.3, 0.6, 0.9, 0.9999])
def test_a_truncated_shard_is_refused_by_name(tmp_path, part):
    path = put(tmp_path)
    os.truncate(path, int(path.stat().st_size * part))
    with pytest.raises(Damaged, match=re.escape(str(path))):
        Shard(path)


def test_a_file_that_is_no_shard_is_refused_by_name(tmp_path):
    for name, content in (("text.h5", b"not a shard" * 1000), ("empty.h5", b"")):
        (tmp_path / name).write_bytes(content)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1.0]
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file.attrs["layout"] = 1
        file.create_dataset("keys", (1, 16), "u1", external=[("/etc/hostname", 0, 16)])
    for name in ("text.h5", "empty.h5", "other.h5", "outside.h5", "gone.h5"):
        with pytest.raises(UserError, match=name):
            Shard(tmp_path / name)


def test_a_shard_that_another_program_has_locked_is_read_all_the_same(tmp_path):
    path = put(tmp_path)
    with open(path) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert_holds(Shard(path), OUTPUTS, NAMES)
        assert layout.damage(path) is None


def test_lack_of_memory_is_not_taken_for_damage(tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise MemoryError

    path = put(tmp_path)
    monkeypatch.setattr(layout, "_map", fails)
    with pytest.raises(MemoryError):
        Shard(path)


def test_too_many_open_files_is_not_taken_for_damage(tmp_path):
    path = put(tmp_path)
    code = f"""
import os, resource, sys
sys.path[:0] = [{str(Path(__file__).parents[1])!r}]
from pathlib import Path
from cache import layout, shard
from foundation.errors import PassingError
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
try:
    while True:
        os.dup(0)
except OSError:
    pass
for attempt in (shard.Shard, layout.damage):
    try:
        attempt(Path(sys.argv[1]))
    except PassingError as error:
        print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert ran.stdout.count(f"shard {path} cannot be opened now (Too many open files)") == 2


WRITER = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from pathlib import Path
from cache_rows import filled
filled(Path(sys.argv[1]), [0, 1, 2, 3, 5, 6, 7])
"""


@pytest.mark.parametrize(
    ("point", "final", "temporary"),
    [("before-write", 0, 0), ("mid-write", 0, 1), ("mid-write:5", 0, 1), ("before-link", 0, 1), ("after-link", 1, 0)],
)
def test_a_writer_killed_at_any_point_leaves_a_whole_shard_or_none(tmp_path, point, final, temporary):
    undisturbed = filled(tmp_path / "undisturbed", NAMES)
    folder = tmp_path / "killed"
    killed = subprocess.run([sys.executable, "-c", WRITER, folder], env={**os.environ, "MEL_FAULT": point}, check=False)
    assert killed.returncode == -9
    assert (len(list(folder.rglob("*.h5"))), len(list(folder.rglob(".*.tmp")))) == (final, temporary)
    assert subprocess.run([sys.executable, "-c", WRITER, folder], check=False).returncode == 0
    again = Store.open(folder / undisturbed.folder.name)
    assert files(again.folder) == files(undisturbed.folder), "the leftover is swept"
    for name in files(undisturbed.folder):
        assert (again.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()


FULL_DISK = f"""
import os, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from pathlib import Path
from cache import layout, page
from foundation.errors import UserError
from cache_rows import rows, spec
from cache.store import Store

disk = Path(sys.argv[1])
store = Store.create(disk, "feature", spec())
space = lambda: os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
total, free_bytes = space(), layout.free_bytes
for fills_meanwhile in (False, True):  # the room is gone before the writer asks for it, or afterwards
    outcomes = []
    layout.free_bytes = (lambda path: 1 << 40) if fills_meanwhile else free_bytes
    for free in range(0, 200_000, 4096):
        (disk / "filler").write_bytes(bytes(total - free))
        try:
            store.add(**rows(list(range(40))))
            outcomes.append("written")
            for path in store.folder.glob("*.h5"):
                path.unlink()
            store.refresh()
        except UserError as error:
            assert "no space left" in str(error) and str(store.folder) in str(error), error
            outcomes.append("refused")
        assert [path.name for path in store.folder.iterdir()] == ["spec.json"]
        (disk / "filler").unlink()
        assert space() == total, "no space is held by files that are gone"
    assert len(outcomes) > outcomes.count("refused") > 5 and outcomes == sorted(outcomes), outcomes
store.add(**rows(list(range(40))))
os.system(f"mount -o remount,ro {{disk}}")
try:
    store.add(**rows([50]))
except UserError as error:
    assert "read-only" in str(error)
    print("all as expected")
"""


def test_a_full_and_a_read_only_disk_end_in_one_line_and_leave_nothing(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1) to mount a small disk of its own")
    # A mount of this test's own, gone with its process.
    mount = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"',
        tmp_path,
    ]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets no one mount a small disk")
    ran = subprocess.run(
        [*mount, sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=False
    )
    assert ran.stdout == "all as expected\n", ran.stderr
