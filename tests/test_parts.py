"""An extraction in parts: each computes its chunks, and the caches put together hold the bytes of one extraction."""

import errno
import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import commands
import documents
import extraction_world
import pytest
from extraction_world import shards

from cache import union
from cache.contracts import Merge, MergeJob
from cache.store import Store
from foundation.checksums import read_sealed, write_sealed
from foundation.errors import UserError
from mel_cache.parts import Part
from pipeline.extraction import stage
from pipeline.extraction.contracts import ExtractionJob, PartJob

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Jobs over texts and pictures, each extracted in one piece, and in two parts with work folders of their own."""
    root = tmp_path_factory.mktemp("parts")
    extraction_world.prepared(root)
    wants = {
        "texts": extraction_world.texts("clip_text"),
        "pictures": extraction_world.pictures("clip_image", "image_pooled"),
    }
    jobs = {
        kind: replace(
            extraction_world.job(root, listed, "whole", batch_size=4, shard_rows=8),
            columns=root / "whole" / f"columns-{kind}",
        )
        for kind, listed in wants.items()
    }
    results = {}
    for kind, job in jobs.items():
        stage.extract(job)
        results[kind] = [
            stage.extract_part(PartJob(extraction=at(root / f"part{n}", job), part=n, parts=2)) for n in (1, 2)
        ]
    return root, jobs, results


def at(work: Path, job: ExtractionJob) -> ExtractionJob:
    return replace(job, work=work, columns=work / job.columns.name)


def merged(into: Path, *sources: Path) -> Merge:
    return union.merge(MergeJob(work=into, sources=sources))


def test_two_parts_put_together_are_the_bytes_of_one_extraction_and_nothing_is_left(world, tmp_path):
    root, jobs, results = world
    for first, second in results.values():
        assert (
            first.chunks + second.chunks == first.all_chunks == second.all_chunks > 2 and first.chunks and second.chunks
        )
        assert first.left and second.left, "the other part is in another cache"
    found = merged(tmp_path, root / "part1", root / "part2" / "cache")
    assert not found.problems and {one.folder.partition("-")[0] for one in found.features} == {
        "clip_text",
        "clip_image",
        "image_pooled",
    }
    assert shards(tmp_path) == shards(root / "whole")
    assert all(one.linked and not one.copied and not one.known for one in found.features)
    for job in jobs.values():
        result = stage.extract(at(tmp_path, job))
        assert not any(result.account.rows.values()) and not result.account.model_loads
    again = merged(tmp_path, root / "part1", root / "part2")
    assert all(not one.linked and not one.rows and one.known for one in again.features)
    (spec,) = (tmp_path / "cache").glob("clip_text-*/spec.json")
    assert read_sealed(spec) == read_sealed(root / "whole" / "cache" / spec.parent.name / "spec.json"), "with the probe"


def test_parts_in_one_work_folder_share_one_plan(world, tmp_path):
    root, jobs, _ = world
    job = at(tmp_path, jobs["pictures"])
    first = stage.extract_part(PartJob(extraction=job, part=1, parts=2))
    second = stage.extract_part(PartJob(extraction=job, part=2, parts=2))
    assert first.all_chunks == second.all_chunks and first.left and not second.left
    assert stage.extract(job).account.model_loads == ()
    assert shards(tmp_path) == {name: data for name, data in shards(root / "whole").items() if "text" not in name}


def test_shards_of_another_file_system_are_copied(world, tmp_path, monkeypatch):
    root, *_ = world
    plain = os.link

    def link(source: Path, final: Path) -> None:
        if root in Path(source).parents:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        plain(source, final)

    with monkeypatch.context() as patched:
        patched.setattr(union.os, "link", link)
        found = merged(tmp_path, root / "part1")
    assert shards(tmp_path) == shards(root / "part1")
    assert all(one.copied and not one.linked for one in found.features)
    assert not list(tmp_path.rglob("*.tmp"))


def damaged(folder: Path) -> str:
    path = sorted(folder.glob("*.h5"))[0]
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.unlink()  # it may be a link to another folder's
    path.write_bytes(data)
    return f"shard {path}: its bytes are not what was written"


def truncated(folder: Path) -> str:
    path = sorted(folder.glob("*.h5"))[0]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:5000])
    return f"shard {path}"


def renamed(folder: Path) -> str:
    path = sorted(folder.glob("*.h5"))[0]
    path.rename(other := path.with_name(f"{'0' * 32}.h5"))
    return f"shard {other}: its name is not that of its rows"


def foreign(folder: Path) -> str:
    path = sorted(folder.parent.glob("image_pooled-*/*.h5"))[0]
    shutil.copy(path, folder)
    return f"shard {folder / path.name}: holds rows of the identity"


def described_otherwise(folder: Path) -> str:
    content = read_sealed(folder / "spec.json")
    content["spec"]["version"] = 99
    write_sealed(folder / "spec.json", {name: value for name, value in content.items() if name != "seal"})
    return f"{folder / 'spec.json'}: describes clip_text-"


def no_description(folder: Path) -> str:
    (folder / "spec.json").write_text("{}")
    return f"{folder / 'spec.json'}"


def drifted(folder: Path) -> str:
    store = Store.open(folder)
    store.set_probe({name: [0.5] * len(values) for name, values in store.probe.items()})
    return f"{folder}: its probe is another than that of"


@pytest.mark.parametrize("damage", [damaged, truncated, renamed, foreign, described_otherwise, no_description, drifted])
def test_what_is_damaged_or_foreign_is_said_in_a_line_and_all_else_is_taken(world, tmp_path, damage):
    root, *_ = world
    shutil.copytree(root / "part1", tmp_path / "from")
    merged(tmp_path / "into", root / "part2")
    (folder,) = (tmp_path / "from" / "cache").glob("clip_text-*")
    line = damage(folder)
    found = merged(tmp_path / "into", tmp_path / "from")
    assert len(found.problems) == 1 and found.problems[0].startswith(line) and "\n" not in found.problems[0]
    whole, taken = shards(root / "whole"), shards(tmp_path / "into")
    assert taken.items() <= whole.items(), "and nothing else"
    assert {name for name in whole if "text" not in name} < taken.keys()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda root: root / "nowhere", "no such folder"),
        (lambda root: root / "data", "holds no features; expected a work folder"),
        (lambda root: root / "whole", "is the cache that is merged into"),
    ],
)
def test_a_folder_that_cannot_be_merged_is_refused_before_anything_is_written(world, make, line):
    root, *_ = world
    before = shards(root / "whole")
    with pytest.raises(UserError, match=f"--from .*: {line}"):
        merged(root / "whole", root / "part1", make(root))
    assert shards(root / "whole") == before


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3", "1/9999999"])
def test_a_part_that_cannot_be_meant_is_refused(text):
    with pytest.raises(UserError, match=r"--part .*: expected i/n with i from 1 to n, like 1/4"):
        Part.parse(text)


def test_the_commands_extract_in_two_parts_merge_and_find_nothing_left(world, tmp_path):
    root, *_ = world

    def run(*words: str, work: str) -> str:
        dataset = ["--dataset", "small", "--data-dir", str(root / "data"), "--profile", str(root / "small.yaml")]
        options = ["--features", "clip_text,image_pooled", "--shard-rows", "8", "--device", "cpu"]
        code, said = commands.run(*words, *(options + dataset if words[0] != "MergeCache" else []), "--work-dir", work)
        assert code == 0, said
        return said

    for number in (1, 2):
        said = run("ExtractPart", "--part", f"{number}/2", work=str(tmp_path / f"part{number}"))
        assert said.count("other parts lack") == 2 and "MergeCache" in said
    said = run("MergeCache", "--from", f"{tmp_path / 'part1'},{tmp_path / 'part2'}", work=str(tmp_path / "all"))
    assert "clip_text-" in said and "image_pooled-" in said
    run("ExtractFeatures", work=str(tmp_path / "all"))
    (tmp_path / "all").rename(tmp_path / "merged")
    run("ExtractFeatures", work=str(tmp_path / "all"))
    assert shards(tmp_path / "merged") == shards(tmp_path / "all")
    receipts = [json.loads(path.read_text()) for path in (tmp_path / "merged" / "receipts").glob("ExtractGroup-*.json")]
    assert receipts and all(not any(receipt["run"]["rows"].values()) for receipt in receipts)
    said = run("ExtractPart", "--part", "1/2", work=str(tmp_path / "merged"))
    assert said.count("whole") == 2 and "MergeCache" not in said


def test_the_slurm_script_of_the_page_extracts_all_in_one_work_folder(world, tmp_path):
    """Its command, with the paths and the device of the tests, for each number of the array."""
    root, *_ = world
    (script,) = [block.text for block in documents.blocks(ROOT / "docs" / "cluster.md") if "#SBATCH" in block.text]
    first, last = map(int, re.search(r"--array=(\d+)-(\d+)", script).groups())
    (line,) = [line for line in script.splitlines() if line.startswith("luigi --module tasks ")]
    places = {
        "mydata": "small",
        "/shared/mydata": str(root / "data"),
        "paper": str(root / "small.yaml"),
        "/shared/artifacts": str(tmp_path / "shared"),
    }
    options = ["--features", "clip_text,image_pooled", "--shard-rows", "8", "--device", "cpu"]
    said = ""
    for number in range(first, last + 1):
        words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", str(number)))[3:]
        code, said = commands.run(*(places.get(word, word) for word in words), *options)
        assert code == 0, said
    assert said.count("whole") == 2, "the last of the array finds all rows"
    whole = shards(root / "whole")
    found = shards(tmp_path / "shared")
    assert found == {name: whole[name] for name in found} and len(found) > 4
