"""The index of a store's keys: its runs give the places that one array gave, and growing moves few rows."""

from typing import Any

import numpy as np

from cache.identity import KEY_BYTES
from cache.index import Index, Run


def keys_of(numbers: np.ndarray) -> np.ndarray:
    keys = np.zeros((len(numbers), KEY_BYTES), np.uint8)
    keys[:, :8] = np.asarray(numbers, ">u8").view(np.uint8).reshape(-1, 8)
    return keys


def test_runs_find_the_row_of_the_first_shard_by_name_however_shards_came() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        shards = [random.choice(60, random.integers(0, 12), replace=False) for _ in range(14)]
        names, index, added = random.permutation(14), Index.empty(), 0
        while added < 14:
            more = int(random.integers(1, 4))
            part = range(added, min(added + more, 14))
            added = part.stop
            rank = np.argsort(np.argsort(names[:added]))  # among the names that are there by now
            index = index.with_shards([(number, keys_of(shards[number])) for number in part], rank.tolist())
        plain: dict[int, tuple[int, int]] = {}
        for number in np.argsort(names)[::-1].tolist():
            plain |= {key: (number, row) for row, key in enumerate(shards[number].tolist())}
        shard, row = index.find(keys_of(np.arange(70)))
        absent = (-1, -1)
        assert [*zip(shard.tolist(), row.tolist(), strict=True)] == [plain.get(key, absent) for key in range(70)]
        assert len(index) == len(plain)
        assert all(2 * len(after) <= len(before) for before, after in zip(index.runs, index.runs[1:], strict=False))


def test_a_shard_that_is_added_is_not_merged_with_the_whole_store(monkeypatch: Any) -> None:
    moved, plain = 0, Run.merged

    def merged(self: Run, other: Run, rank: np.ndarray) -> Run:
        nonlocal moved
        moved += len(self) + len(other)
        return plain(self, other, rank)

    monkeypatch.setattr(Run, "merged", merged)
    index, shards, rows = Index.empty(), 256, 8
    for number in range(shards):
        keys = keys_of(np.arange(rows) * shards + number)
        index = index.with_shards([(number, keys)], range(number + 1))
    assert moved <= shards * rows * np.log2(shards)  # one array over all: half of `shards` times as many
    shard, row = index.find(keys_of(np.arange(shards * rows)))
    assert (shard == np.arange(shards * rows) % shards).all() and (row == np.arange(shards * rows) // shards).all()


def test_an_empty_index_finds_nothing() -> None:
    shard, row = Index.empty().find(keys_of(np.arange(3)))
    assert (shard == -1).all() and (row == -1).all() and len(Index.empty()) == 0
    assert len(Index.empty().with_shards([(0, keys_of(np.empty(0, np.int64)))], [0])) == 0
