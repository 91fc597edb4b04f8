"""Pictures prepared in processes: the results of threads, also where a process is killed or a result is large."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import extraction_world
import numpy as np
import pytest
import small_world

from cache.shard import Status
from foundation.errors import PassingError, UserError
from foundation.paths import Paths
from pipeline.datasets import images
from pipeline.extraction import batches, decoders, stage
from pipeline.extraction.decoders import BLOCK, Decoders


def work(source: Any) -> Any:
    """What is done with a source, by its kind."""
    kind, value = source
    if kind == "kill" and os.getpid() != value:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "once" and not Path(value).exists():
        Path(value).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "error":
        raise ValueError(value)
    if kind == "memory":
        with images.DECODING.holding(value):
            return os.getpid()
    if kind == "large":
        return [np.full(value, 7, np.uint8)]
    if kind == "object":
        return os.getpid(), {value}
    return np.full((2, 3), value if kind == "plain" else 0, np.uint8), os.getpid()


@pytest.fixture(scope="module")
def processes() -> Iterator[Decoders]:
    with Decoders(work, 2) as made:
        yield made


def test_results_come_in_order_from_several_processes(processes):
    sources = [("plain", number) for number in range(100)]
    found = [
        result
        for *_, results in batches.batches(processes, [sources[:37], sources[37:]], 8, 1 << 20)
        for result in results
    ]
    assert [int(pixels[0, 0]) for pixels, _ in found] == list(range(100))
    workers = {worker for _, worker in found}
    assert len(workers) == 2 and os.getpid() not in workers
    found[0][0][0, 0] = 5  # its own memory, which later results do not overwrite
    assert int(found[1][0][0, 0]) == 1


def test_a_killed_process_is_started_again_and_its_pictures_are_done(processes, tmp_path):
    sources = [("plain", 1), ("once", str(tmp_path / "killed")), ("plain", 3)]
    assert [int(pixels.sum()) > 0 for pixels, _ in processes(sources[::2])] == [True, True]
    assert len(processes([*sources[:2], ("plain", 9)])) == 3 and (tmp_path / "killed").exists()


def test_a_picture_that_kills_every_process_costs_itself_alone(processes):
    found = processes([("plain", 1), ("kill", os.getpid()), ("plain", 2)])
    assert isinstance(found[1], PassingError) and "the process that decoded it was killed" in str(found[1])
    assert [int(found[place][0][0, 0]) for place in (0, 2)] == [1, 2]


def test_an_error_of_the_work_is_raised_here_and_the_process_goes_on(processes):
    with pytest.raises(ValueError, match="not a picture's fault"):
        processes([("plain", 1), ("error", "not a picture's fault")])
    assert int(processes([("plain", 4)])[0][0][0, 0]) == 4


@pytest.mark.parametrize(
    "result",
    [
        (np.array(2.5, np.float32), [np.zeros((0, 3), np.int64), {"boxes": np.ones((2, 4), ">f4"), "none": None}]),
        [(1, np.arange(6, dtype=np.uint8).reshape(2, 3)[:, ::2]), (True, 0.1, "text")],
        images.ImageError(Status.TOO_LARGE, "too many pixels"),
        PassingError("could not be read now"),
    ],
)
def test_a_result_comes_back_as_it_was(result):
    arrays: list[np.ndarray] = []
    tree = json.loads(json.dumps(decoders._written(result, arrays)))
    found = decoders._read(tree, iter([bytearray(array.tobytes()) for array in arrays]))
    assert type(found) is type(result)
    if isinstance(result, Exception):
        assert found.__reduce__()[1] == result.__reduce__()[1]
    else:
        np.testing.assert_equal(found, result)


def test_a_result_that_does_not_travel_is_made_by_this_process(processes):
    (found,) = processes([("object", 1)])
    assert found == (os.getpid(), {1})


def test_results_that_do_not_fit_into_the_shared_memory_come_too(processes):
    found = processes([("large", BLOCK - 10), ("large", 20)])
    assert [len(pixels) for (pixels,) in found] == [BLOCK - 10, 20] and (found[0][0] == 7).all()


def test_a_picture_that_takes_more_than_a_processs_share_is_decoded_by_this_one(processes):
    share = images.DECODING.limit // 2
    small, large = processes([("memory", share), ("memory", share + 1)])
    assert small != os.getpid() and large == os.getpid()


def broken() -> None:
    raise ValueError("cannot be brought to another process")


class Unloadable:
    """Work that a process cannot take up."""

    def __reduce__(self) -> tuple[Any, ...]:
        return broken, ()


def test_processes_that_cannot_begin_end_the_command(capfd):
    with Decoders(Unloadable(), 1) as made, pytest.raises(UserError, match=r"--decoders: .* leave the option out"):
        made([("plain", 1)])


def test_an_extraction_with_decoders_gives_the_bytes_of_one_with_threads(tmp_path, monkeypatch):
    small_world.write(tmp_path / "data")
    broken = tmp_path / "data" / "mentions" / "m0.png"
    broken.write_bytes(broken.read_bytes()[:900])
    extraction_world.prepared(tmp_path)
    wants = extraction_world.pictures("clip_image", "image_pooled")
    job = extraction_world.job(tmp_path, wants, "threads", batch_size=4, shard_rows=12)
    stage.extract(job)
    calls: list[int] = []
    plain = decoders.Decoders.__call__
    monkeypatch.setattr(Decoders, "__call__", lambda self, sources: calls.append(len(sources)) or plain(self, sources))
    other = replace(job, work=tmp_path / "processes", columns=tmp_path / "processes" / "columns")
    rows = stage.extract(replace(other, runtime=replace(job.runtime, decoders=2))).extraction.features["clip_image"]
    assert sum(calls) == rows.rows and rows.verdicts["broken"] == 1
    found = [
        {path.relative_to(work).as_posix(): path.read_bytes() for path in Paths(work).cache.glob("*/*.h5")}
        for work in (job.work, other.work)
    ]
    assert found[0] == found[1] and len(found[0]) > 4
