"""Batches of prepared pictures, prepared in threads or processes ahead of the model."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from foundation.prefetch import Budget, prefetch
from pipeline.extraction.decoders import GROUP, Decoders

AHEAD = 6  # batches that are begun before the model takes them, at most


def batches(
    work: Callable[[Any], Any] | Decoders, shards: Iterable[Sequence[Any]], count: int, limit: int
) -> Iterator[tuple[Sequence[Any], int, list[Any]]]:
    """Yield (shard, index of the batch's first source in it, results of `work` for the batch's sources), in order.

    Batches never cross the end of a shard; the work does, so the next one is taken from `shards` while this one's
    sources are still under way. A batch has `count` results, fewer where they would hold more than `limit` bytes
    together: batches depend on the shard's sources alone. As many bytes may wait beside it, and besides what each
    thread, one per core, is at. A result larger than that goes alone. `Decoders` do several sources at a time, in a
    process for each thread. Raises what `work` and `shards` raise.
    """
    processes = isinstance(work, Decoders)
    group, threads = (GROUP, work.count) if isinstance(work, Decoders) else (1, os.cpu_count() or 1)

    def several(place: tuple[Sequence[Any], range]) -> tuple[Sequence[Any], range, deque[Any]]:
        shard, numbers = place
        sources = [shard[number] for number in numbers]
        return shard, numbers, deque(work(sources) if processes else map(work, sources))

    places = (
        (shard, range(start, min(start + group, len(shard))))
        for shard in shards
        for start in range(0, len(shard), group)
    )
    batch: list[Any] = []
    full = 0
    budget = Budget(limit, lambda entry: sum(map(held, entry[2])))
    for shard, numbers, results in prefetch(places, several, max(1, AHEAD * count // group), threads, budget):
        for number in numbers:
            result = results.popleft()  # the consumer alone decides how long it is held
            size = held(result)
            if batch and (len(batch) == count or full + size > limit):
                yield shard, number - len(batch), batch
                batch, full = [], 0
            batch.append(result)
            full += size
            del result
            if number + 1 == len(shard):
                yield shard, len(shard) - len(batch), batch
                batch, full = [], 0


def held(item: Any) -> int:
    """Bytes that prepared pictures hold: arrays and tensors, pictures, and what contains them."""
    if hasattr(item, "nbytes"):
        return int(item.nbytes)
    if isinstance(item, Image.Image):
        return item.width * item.height * len(item.getbands())
    if isinstance(item, Mapping):
        return sum(map(held, item.values()))
    if isinstance(item, (list, tuple)):
        return sum(map(held, item))
    return sys.getsizeof(item)
