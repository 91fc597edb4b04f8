"""Pictures prepared ahead of the model: in order, in batches that depend on them alone, and never more of them than
memory is meant for."""

import os
import random
import threading
import time
import weakref

import numpy as np
import pytest
from PIL import Image

from foundation.errors import UserError
from foundation.prefetch import prefetch
from pipeline.extraction import batches

COUNT, SIZE = 8, 1000  # results of a batch, bytes of each


def test_batches_come_in_order_and_end_at_the_count_or_at_the_bytes():
    sizes = [10] * 19 + [60, 60, 10, 500, 10, 10]

    def work(number: int) -> np.ndarray:
        time.sleep(random.random() / 500)
        return np.full(sizes[number], number, np.uint8)

    found = [
        (start, [int(result[0]) for result in results])
        for _, start, results in batches.batches(work, [range(len(sizes))], COUNT, 100)
    ]
    ends = [
        8,
        16,
        20,
        22,
        23,
        25,
    ]  # twice 8 of them, then always before there are too many bytes; one is larger by itself
    assert found == [(start, list(range(start, end))) for start, end in zip([0, *ends], ends, strict=False)]


def test_no_batch_reaches_across_the_end_of_a_run():
    runs = [range(0, 10), range(10, 11), range(11, 27)]
    found = [
        (run, start, results)
        for run, start, results in batches.batches(lambda number: number, iter(runs), COUNT, 1 << 20)
    ]
    assert [(run, start) for run, start, _ in found] == [
        (runs[0], 0),
        (runs[0], 8),
        (runs[1], 0),
        (runs[2], 0),
        (runs[2], 8),
    ]
    assert [number for *_, results in found for number in results] == list(range(27))


def test_the_next_run_is_begun_while_the_model_is_at_this_one_and_not_long_before():
    asked, done, next_run = [], threading.Semaphore(0), 30 * COUNT

    def runs():
        for first in range(0, 3 * next_run, next_run):
            asked.append(first)
            yield range(first, first + next_run)

    def work(number: int) -> np.ndarray:
        if number == next_run:
            done.release()
        return np.zeros(SIZE, np.uint8)

    asked_at = []
    for run, start, _ in batches.batches(work, runs(), COUNT, 1 << 30):
        asked_at.append(len(asked))
        if run[0] + start == next_run - COUNT:
            assert done.acquire(timeout=60), (
                "nothing of the next run is done while the last batch of this one is with the model"
            )
    assert asked_at[0] == 1 and asked_at[-1] == 3


@pytest.mark.parametrize("limit", [3 * SIZE, 10 * COUNT * SIZE])
def test_what_waits_is_bounded_by_bytes_as_well_as_by_count(limit):
    guard, live, most, threads = threading.Lock(), [0], [0], os.cpu_count() or 1

    def gone() -> None:
        with guard:
            live[0] -= SIZE

    def work(number: int) -> np.ndarray:
        made = np.zeros(SIZE, np.uint8)
        weakref.finalize(made, gone)
        with guard:
            live[0] += SIZE
            most[0] = max(most[0], live[0])
        return made

    taken = 0
    for _, start, results in batches.batches(work, [range(100)], COUNT, limit):
        assert start == taken
        taken += len(results)
        time.sleep(0.02)  # a model that is slower than the threads
        del results
    of_count = (1 + batches.AHEAD) * COUNT * SIZE
    assert taken == 100 and most[0] <= min(of_count, 2 * limit) + (threads + 1) * SIZE
    assert most[0] > 2 * COUNT * SIZE or limit < COUNT * SIZE, "it does run ahead"


def test_a_model_that_fails_is_not_waited_for():
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the model"):
        for _ in batches.batches(lambda number: np.zeros(SIZE), [range(100)], COUNT, SIZE):
            raise RuntimeError("the model")
    assert threading.active_count() == before


def test_an_error_in_a_thread_is_raised_where_its_result_would_have_come():
    def work(number: int) -> int:
        return 1 // (number - 50)

    taken = 0
    with pytest.raises(ZeroDivisionError):
        for *_, results in batches.batches(work, [range(100)], 10, 1 << 20):
            taken += len(results)
    assert taken == 40, "what came before it is done"


def test_bytes_are_those_of_arrays_tensors_and_pictures_in_whatever_holds_them():
    import torch

    assert batches.held((np.zeros((3, 4), np.float32), (4, 3))) == pytest.approx(48, abs=120)
    assert batches.held(torch.zeros(1000)) == 4000
    assert batches.held([{"a": Image.new("RGB", (100, 50))}, np.zeros(7000, np.uint8)]) == 22_000


def test_an_error_in_the_one_thread_of_a_plain_prefetch_comes_after_the_results_before_it():
    def read(item: int) -> int:
        if item == 2:
            raise UserError("item 2 is gone")
        return item * 10

    taken = []
    with pytest.raises(UserError, match="item 2 is gone"):
        for result in prefetch(range(5), read):
            taken.append(result)
    assert taken == [0, 10]


def test_a_consumer_that_stops_early_leaves_no_thread_behind():
    before = threading.active_count()
    results = prefetch(range(100), lambda item: item)
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before
