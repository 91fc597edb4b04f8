"""Small stores for the cache tests."""

from pathlib import Path
from typing import Any

import numpy as np

from cache.identity import Output, content_key
from cache.shard import Status
from cache.store import Store

OUTPUTS = (Output("grid", (3, 4)), Output("states", (5,), ragged=True), Output("boxes", (2,), "int32", ragged=True))
LENGTHS = (4, 0, 1, 7)  # of the ragged rows, in turn


def keys_of(*names: object) -> np.ndarray:
    """(n, 16) uint8"""
    return np.frombuffer(b"".join(content_key("test", str(name)) for name in names), np.uint8).reshape(-1, 16)


def spec(tag: str = "a", outputs: tuple[Output, ...] = OUTPUTS) -> dict[str, Any]:
    return {"extractor": "test", "tag": tag, "outputs": [output.to_json() for output in outputs]}


def rows(names: list[int], outputs: tuple[Output, ...] = OUTPUTS) -> dict[str, Any]:
    """Arguments of `Store.add` for rows that follow from their names alone; every name that divides by 5 and is not 0
    is BROKEN."""
    status = np.array([Status.BROKEN if name and name % 5 == 0 else Status.OK for name in names], np.uint8)
    columns = {output.name: [row(output, name) for name in names] for output in outputs}
    return {
        "keys": keys_of(*names),
        "status": status,
        "causes": ["truncated" if value else "" for value in status],
        "columns": columns,
    }


def row(output: Output, name: int) -> np.ndarray:
    """The row of one name, (*shape) or (L, *shape), in the output's dtype."""
    random = np.random.default_rng(name)
    shape = (LENGTHS[name % len(LENGTHS)], *output.shape) if output.ragged else output.shape
    if np.dtype(output.dtype).kind == "f":
        return random.standard_normal(shape).astype(output.dtype)
    return random.integers(0, 100, shape).astype(output.dtype)


def filled(root: Path, *shards: list[int], tag: str = "a", outputs: tuple[Output, ...] = OUTPUTS) -> Store:
    """A store with one shard for each list of names."""
    store = Store.create(root, "feature", spec(tag, outputs))
    for names in shards:
        store.add(**rows(names, outputs))
    return store
