"""A data set of WikiMEL's size with random features of the papers' widths, in stores and tables as commands write them.

18,092 / 2,585 / 5,169 mentions, 109,976 entities, lists of 100 with the gold among them. The features are those of
`rows` different records (4,096: 1.6 GB on disk for all methods), which mentions and entities share: record i has the
features of record i mod `rows`. Each step then reads as many bytes from the mapped shards, eight per feature, as it
would from the whole cache.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cache.identity import Output, content_key
from cache.shard import Status
from cache.store import Store
from heads.config import load_config, to_json
from heads.contracts import Compute, HeadInput, HeadWant, TrainingJob

SPLITS = {"train": 18_092, "dev": 2_585, "test": 5_169}
ENTITIES, CANDIDATES, SHARDS = 109_976, 100, 8
CLIP_TEXT = [Output("tokens", (512,), ragged=True), Output("pooled", (512,))]
FEATURES = {
    "clip_text": CLIP_TEXT,
    "clip_image": [Output("tokens", (50, 768)), Output("pooled", (512,))],
    "text_tokens": [
        Output("tokens", (768,), ragged=True),
        Output("pooled", (768,)),
        Output("offsets", (2,), "int32", ragged=True),
    ],
    "image_pooled": [Output("pooled", (2048,))],
    "image_vgg": [Output("pooled", (4096,))],
    "object_clip": [Output("vectors", (512,), ragged=True)],
    "clip_layers_text": [Output("ids", (), "int32", ragged=True), Output("embedding", (512,))],
    "clip_layers_image": [Output("states", (50, 768))],
    "prompted_text": CLIP_TEXT,
    "prompted_image": [Output("tokens", (52, 768)), Output("pooled", (512,))],
}
READ_INDIRECTLY = ("objects", "object_resnet", "face_attributes", "identity")
"""Features of the profile that heads read as texts or pair features alone."""
SEVERAL = ("face_attributes", "identities")
"""Views with several texts per mention."""
TOKENS = (12, 40)
VOCABULARY = 49_408


class PaperSizes:
    """The data set under `folder`; features are written when a method first asks for them."""

    def __init__(self, folder: Path, rows: int, entities: int = ENTITIES, splits: dict[str, int] | None = None) -> None:
        self.folder, self.rows, self.entities = folder, rows, entities
        self.splits = splits or SPLITS
        self.mentions = sum(self.splits.values())
        self.random = np.random.default_rng(0)
        keys = b"".join(content_key("image", str(row)) for row in range(rows))
        self.keys = np.frombuffer(keys, np.uint8).reshape(rows, 16)
        self.pictured = self.random.random(rows) > 1 / 3
        self.lengths = np.clip(self.random.normal(27, 7, rows).round(), *TOKENS).astype(np.int64)
        self.stores: dict[str, Path] = {}
        gold = self.random.integers(0, entities, self.mentions)
        split = np.repeat(list(self.splits), list(self.splits.values()))
        ids = np.array([f"Q{row}" for row in range(entities)])
        yes = np.ones(self.mentions, bool)
        table = {
            "id": [f"m{row}" for row in range(self.mentions)],
            "split": split,
            "phrase": ids[gold],
            "gold": gold.astype(np.int32),
            "gold_id": ids[gold],
            "group": [None] * self.mentions,
            "image_status": np.where(self.pictured[np.arange(self.mentions) % rows], "ok", "none"),
            "phrase_is_name": yes,
            "gold_in_train": yes,
            "sentence_in_train": ~yes,
            "ambiguous": ~yes,
        }
        pq.write_table(pa.table(table), folder / "mentions.parquet")
        status = np.where(self.pictured[np.arange(entities) % rows], "ok", "none")
        pq.write_table(pa.table({"id": ids, "image_status": status}), folder / "entities.parquet")
        self.lists = self.random.integers(0, entities, (self.mentions, CANDIDATES)).astype(np.int32)
        self.lists[np.arange(self.mentions), np.arange(self.mentions) % CANDIDATES] = gold
        np.savez(folder / "candidates.npz", ids=self.lists, scores=np.zeros(self.lists.shape, np.float32))

    def job(self, method: str, params: Mapping[str, Any], compute: Compute) -> TrainingJob:
        """The job that trains a method, with parameters of its own, over the features here."""
        available = {*FEATURES, *READ_INDIRECTLY} - {"prompted_text", "prompted_image"}
        config = load_config(method, params)
        return TrainingJob(
            method=method,
            config=to_json(config),
            inputs=tuple(self._input(want) for want in config.wants(available)),
            dataset=self.folder,
            candidates=self.folder / "candidates.npz",
            pairs={name: self._pairs(name) for name in config.pairs(available)},
            out=self.folder / "run",
            compute=compute,
        )

    def _input(self, want: HeadWant) -> HeadInput:
        return HeadInput(**vars(want), store=self._store(want.feature), keys=self._keys(want.side, want.view))

    def _pairs(self, name: str) -> Path:
        path = self.folder / f"pairs-{name}.npz"
        if not path.exists():
            values = np.random.default_rng(len(name)).random(self.lists.shape, np.float32)
            np.savez(path, values=np.where(values < 0.1, np.float32(np.nan), values))
        return path

    def _keys(self, side: str, view: str) -> Path:
        path = self.folder / f"{side}.{view}.npz"
        records = self.mentions if side == "mention" else self.entities
        if view in SEVERAL:
            counts = self.random.integers(0, 4, records)
            rows = self.random.integers(0, self.rows, counts.sum())
            np.savez(
                path,
                keys=self.keys[rows],
                present=np.ones(len(rows), bool),
                span=np.full((len(rows), 2), -1),
                counts=counts,
            )
        else:
            rows = np.arange(records) % self.rows
            np.savez(
                path,
                keys=self.keys[rows],
                present=np.ones(records, bool),
                span=np.tile(np.array([6, 11], np.int32), (records, 1)),
            )
        return path

    def _store(self, feature: str) -> Path:
        if feature not in self.stores:
            outputs = FEATURES[feature]
            store = Store.create(
                self.folder, feature, {"outputs": [output.to_json() for output in outputs], "made by": "a benchmark"}
            )
            for part in np.array_split(np.arange(self.rows), SHARDS):
                usable = self.pictured[part] if "image" in feature else np.ones(len(part), bool)
                status = np.where(usable, Status.OK, Status.MISSING).astype(np.uint8)
                columns = {output.name: self._values(feature, output, part, usable) for output in outputs}
                store.add(self.keys[part], status, ["" if fine else "none" for fine in usable], columns)
            self.stores[feature] = store.folder
        return self.stores[feature]

    def _values(
        self, feature: str, output: Output, part: np.ndarray, usable: np.ndarray
    ) -> np.ndarray | list[np.ndarray]:
        if not output.ragged:
            return np.where(
                usable.reshape(-1, *[1] * len(output.shape)), _noise(len(part), *output.shape), np.float16(0)
            )
        lengths = self.random.integers(1, 4, len(part)) if feature == "object_clip" else self.lengths[part]
        if output.name == "offsets":
            return [np.stack([3 * np.arange(n), 3 * np.arange(n) + 2], 1).astype(np.int32) for n in lengths.tolist()]
        if output.name == "ids":
            return [self.random.integers(0, VOCABULARY, n).astype(np.int32) for n in lengths.tolist()]
        return np.split(_noise(int(lengths.sum()), *output.shape), lengths.cumsum()[:-1])


def _noise(*shape: int) -> np.ndarray:
    return torch.randn(*shape).half().numpy()


def full_bytes(columns: Iterable[Any]) -> int:
    """What the features of all records would take if no two shared any: of columns as `heads.data.Bundle` has them."""
    total = 0
    for column in columns:
        table = getattr(column, "column", column).table
        total += int(np.asarray(table.lengths).sum()) * int(np.prod(table.shape, dtype=np.int64)) * table.dtype.itemsize
    return total
