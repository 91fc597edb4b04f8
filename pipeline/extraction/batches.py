"""Batches of prepared pictures, prepared in threads ahead of the model."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from foundation.prefetch import Budget, prefetch

AHEAD = 6  # batches that are begun before the model takes them, at most


def batches(
    work: Callable[[Any], Any], shards: Iterable[Sequence[Any]], count: int, limit: int
) -> Iterator[tuple[Sequence[Any], int, list[Any]]]:
    """Yield (shard, index of the batch's first source in it, results of `work` for the batch's sources), in order.

    Batches never cross the end of a shard; the work does, so the next one is taken from `shards` while this one's
    sources are still under way. A batch has `count` results, fewer where they would hold more than `limit` bytes
    together: batches depend on the shard's sources alone. As many bytes may wait beside it, and besides what each
    thread, one per core, is at. A result larger than that goes alone. Raises what `work` and `shards` raise.
    """

    def one(place: tuple[Sequence[Any], int]) -> tuple[Sequence[Any], int, Any]:
        shard, number = place
        return shard, number, work(shard[number])

    places = ((shard, number) for shard in shards for number in range(len(shard)))
    batch: list[Any] = []
    full = 0
    budget = Budget(limit, lambda entry: held(entry[2]))
    for shard, number, result in prefetch(places, one, AHEAD * count, os.cpu_count() or 1, budget):
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
