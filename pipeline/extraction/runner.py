"""The runner: cuts the missing rows into shards, has them read and run through the models, writes; several processes divide the work."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache.store import Store
from foundation import device as devices
from foundation.errors import PassingError, UserError
from foundation.files import read_json, write_json
from foundation.progress import Bar
from pipeline.datasets.images import Limits
from pipeline.extraction import reading
from pipeline.extraction.base import Extractor, TextExtractor, padded_length
from pipeline.extraction.contracts import Account, Runtime
from pipeline.extraction.probe import check_probe
from pipeline.extraction.units import Units

SHARD_BYTES = 256 << 20  # what one shard's rows may take in memory
STEPS = 8  # steps that a ragged row of a picture is taken to have where its size must be known beforehand


@dataclass
class Feature:
    """One feature of the run. wanted: its distinct units. missing: positions in `wanted` that the store lacks. extracted: rows this run added."""

    name: str
    extractor: Extractor
    spec: dict[str, Any]
    store: Store
    wanted: Units
    missing: np.ndarray
    extracted: int = 0


@dataclass
class Share:
    """A shard's rows that this process does. rows: positions in `wanted`. claims: on these rows, one per feature, kept until they are written."""

    rows: np.ndarray
    claims: contextlib.ExitStack


class Writer:
    """Writes one shard while the next one is made; `waited`: seconds that the makers stood still for it. Use as a context manager."""

    def __init__(self) -> None:
        self.waited = 0.0
        self._pool, self._writing = ThreadPoolExecutor(1), None

    def check(self) -> None:
        """Raise what the last write raised, if it has ended."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the last write; raises what it raised."""
        started, writing = time.monotonic(), self._writing
        self._writing = None
        if writing is not None:
            writing.result()
            self.waited += time.monotonic() - started

    def submit(self, write: Callable[..., None], *what: Any) -> None:
        """Have `write(*what)` run beside what comes next. The last write was waited for."""
        self._writing = self._pool.submit(write, *what)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()


@dataclass
class Runner:
    """Extracts the missing rows of features that read the same kind of unit: texts, pictures, crops of one feature's boxes, or rows.

    May run several times for the same features: their models stay loaded.
    """

    runtime: Runtime
    limits: Limits
    rates: Path
    account: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "model": 0.0, "write": 0.0})
    loaded: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device, self.precision = self.runtime.device, self.runtime.precision
        self.batch_size, self.shard_rows = self.runtime.batch_size, self.runtime.shard_rows

    def run(self, features: Sequence[Feature]) -> Account:
        """Extract what is missing; returns the account.

        Raises `PassingError` at the end where rows could not be read for a reason that may pass; everything else is in the cache by then.
        """
        self.undone = []
        pending = [feature for feature in features if len(feature.missing)]
        if pending:
            self.device = devices.choose(self.device)
            self.batch_size = self.batch_size or (256 if self.device.startswith("cuda") else 32)
            for feature in pending:
                if feature.extractor.loads_first and feature.name not in self.loaded:
                    self._load(feature)
            with Writer() as writer, devices.autocast(self.device, self.precision):
                if isinstance(pending[0].extractor, TextExtractor):
                    for feature in pending:
                        self._divide([feature], feature.wanted, self._text_chunks(feature), writer)
                else:
                    self._together(pending, writer)
                self.account["write"] += writer.waited
        if self.undone:
            raise PassingError(
                f"{len(self.undone)} pictures could not be read and stay undone, first: {self.undone[0]}; run the same command again"
            )
        return Account(
            device=self.device,
            stages={name: round(seconds, 3) for name, seconds in self.account.items()},
            model_loads=tuple(self.loaded),
            rows={feature.name: feature.extracted for feature in features},
        )

    def _load(self, feature: Feature) -> None:
        """Load the model: before anything is read where that needs it, else at its first batch, while pictures are decoded."""
        import torch

        started = time.monotonic()
        feature.extractor.load(self.device)
        self.loaded.append(feature.name)
        if feature.extractor.probed:
            with torch.inference_mode(), devices.autocast(self.device, self.precision):
                check_probe(feature.extractor, feature.store)
        self.account["model"] += time.monotonic() - started

    # Chunks: the rows of one shard each. Their order and borders follow from the rows to do alone, so a run that was killed cuts the same
    # shards again, and two processes agree on them without talking.

    def _rows_per_shard(self, row_bytes: float) -> int:
        return int(max(1, min(self.shard_rows, SHARD_BYTES // max(row_bytes, 1))))

    def _text_chunks(self, feature: Feature) -> list[np.ndarray]:
        extractor = feature.extractor
        lengths = np.array(extractor.count([feature.wanted.sources[i] for i in feature.missing]))
        padded = np.array([padded_length(length, extractor.limit) for length in lengths])
        order = np.lexsort((feature.missing, padded))
        row_bytes = sum(
            float(np.prod(output.shape)) * np.dtype(output.dtype).itemsize * (extractor.limit if output.ragged else 1)
            for output in extractor.writes.values()
        )
        rows = self._rows_per_shard(row_bytes)
        return [feature.missing[order[start : start + rows]] for start in range(0, len(order), rows)]

    def _together(self, features: Sequence[Feature], writer: Writer) -> None:
        """Rows that the same set of features lacks are done together, each picture decoded once for all of them."""
        keys = np.unique(
            np.concatenate([feature.wanted.keys[feature.missing] for feature in features]).view("V16").ravel()
        )
        lacking = np.stack(
            [np.isin(keys, feature.wanted.keys[feature.missing].view("V16").ravel()) for feature in features], 1
        )
        for pattern in np.unique(lacking, axis=0)[::-1]:
            group = [feature for feature, lacks in zip(features, pattern, strict=True) if lacks]
            wanted = group[0].wanted
            positions = np.flatnonzero(np.isin(wanted.keys.view("V16").ravel(), keys[(lacking == pattern).all(1)]))
            row_bytes = sum(
                float(np.prod(output.shape)) * np.dtype(output.dtype).itemsize * (STEPS if output.ragged else 1)
                for feature in group
                for output in feature.extractor.writes.values()
            )
            rows = self._rows_per_shard(row_bytes)
            self._divide(
                group, wanted, [positions[start : start + rows] for start in range(0, len(positions), rows)], writer
            )

    def _divide(self, group: Sequence[Feature], wanted: Units, chunks: list[np.ndarray], writer: Writer) -> None:
        """Do every chunk that no other process holds; wait for the others' and take over what they leave."""
        names = "+".join(feature.name for feature in group)
        total = sum(len(chunk) for chunk in chunks)
        done_rows = [feature.extracted for feature in group]
        started = time.monotonic()
        ahead: deque[Share] = deque()
        try:
            with Bar(total, names, "row") as bar:
                waiting, held = list(chunks), list[np.ndarray]()
                while waiting:
                    for done in self._done(
                        group, wanted, self._shares(group, wanted, waiting, held, ahead, writer, bar), bar
                    ):
                        writer.wait()
                        share = ahead.popleft()
                        writer.submit(self._write, group, wanted.keys[share.rows][done.kept], done, share.claims)
                        del done  # or the next shard would be read while this one's rows are still held here
                    writer.wait()
                    if len(held) == len(waiting):
                        time.sleep(0.5)
                    waiting, held = held, []
        finally:
            for share in ahead:
                share.claims.close()
        for feature, before in zip(group, done_rows, strict=True):
            self._note_rate(feature, feature.extracted - before, time.monotonic() - started)

    def _shares(
        self,
        group: Sequence[Feature],
        wanted: Units,
        chunks: Sequence[np.ndarray],
        held: list[np.ndarray],
        ahead: deque[Share],
        writer: Writer,
        bar: Bar,
    ) -> Iterator[list[Any]]:
        """The sources of one share after another, put into `ahead`; chunks that another process is at go into `held`."""
        for chunk in chunks:
            writer.check()
            claims = self._claim(group, wanted.keys[chunk])
            if claims is None:
                held.append(chunk)
                continue
            with contextlib.ExitStack() as stack:
                for claim in claims:
                    stack.enter_context(claim)
                lacking = sorted({int(i) for feature in group for i in feature.store.missing(wanted.keys[chunk])})
                bar.update(len(chunk) - len(lacking))
                if not lacking:
                    continue
                ahead.append(Share(chunk[lacking], stack.pop_all()))
            yield [wanted.sources[i] for i in ahead[-1].rows]

    def _claim(self, group: Sequence[Feature], keys: np.ndarray) -> list[Any] | None:
        """Claims on one chunk for every feature of the group, or None where another process is at it."""
        claims: list[Any] = []
        for feature in group:
            feature.store.refresh()
            claim = feature.store.claim(feature.store.shard_name(keys))
            if claim is None:
                for taken in claims:
                    with taken:
                        pass
                return None
            claims.append(claim)
        for feature in group:
            feature.store.refresh()
        return claims

    def _write(
        self, group: Sequence[Feature], keys: np.ndarray, done: reading.Done, claims: contextlib.ExitStack
    ) -> None:
        with claims:
            for feature in group:
                if len(keys):
                    feature.store.add(keys, done.status, done.causes, done.columns[feature.name])
                    feature.extracted += len(keys)

    def _done(
        self, group: Sequence[Feature], wanted: Units, shards: Iterator[list[Any]], bar: Bar
    ) -> Iterator[reading.Done]:
        """The rows of each shard, read and run through the models of the group."""
        features = {feature.name: feature for feature in group}
        extractors = {name: feature.extractor for name, feature in features.items()}

        def model(extractor: Extractor, items: Sequence[Any]) -> dict[str, Any]:
            for name, feature in features.items():
                if feature.extractor is extractor and name not in self.loaded:
                    self._load(feature)
            return self._model(extractor, items)

        reads = group[0].extractor.reads
        if reads == "text":
            yield from reading.texts(group[0].name, group[0].extractor, shards, self.batch_size, model, bar.update)
        elif reads == "rows":
            yield from reading.rows(extractors, shards, self.batch_size, model, bar.update)
        else:
            yield from self._pictures(extractors, shards, model, bar)

    def _pictures(
        self, extractors: dict[str, Extractor], shards: Iterator[list[Any]], model: reading.Model, bar: Bar
    ) -> Iterator[reading.Done]:
        """As `_done`, for pictures; what is neither the model's nor the consumer's time is spent waiting for pictures."""
        began = time.monotonic(), self.account["model"]
        for done in reading.pictures(extractors, shards, self.batch_size, self.limits, model, bar.update):
            self.account["read"] += time.monotonic() - began[0] - (self.account["model"] - began[1])
            self.undone += done.undone
            yield done
            began = time.monotonic(), self.account["model"]

    def _model(self, extractor: Extractor, items: Sequence[Any]) -> dict[str, Any]:
        """The extractor on a batch of items, halved until it fits into memory."""
        import torch

        started = time.monotonic()
        try:
            with torch.inference_mode():
                return extractor(extractor.collate(items))
        except (torch.OutOfMemoryError, MemoryError) as error:
            if len(items) == 1:
                raise UserError(
                    f"{extractor.options.model!r} does not fit into the memory of {self.device} even for one row; use another --device"
                ) from error
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()
        finally:
            self.account["model"] += time.monotonic() - started
        half = len(items) // 2
        first, second = self._model(extractor, items[:half]), self._model(extractor, items[half:])
        return {name: [*first[name], *second[name]] for name in first}

    def _note_rate(self, feature: Feature, rows: int, seconds: float) -> None:
        """Keep the measured rate for estimates to come; a handful of rows says nothing."""
        if rows < 32:
            return
        known = read_json(self.rates) if self.rates.exists() else {}
        known[feature.name] = {"rows_per_s": round(rows / seconds, 2), "device": self.device, "rows": rows}
        write_json(self.rates, known)
