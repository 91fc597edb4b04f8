"""The runner: cuts the missing rows into shards, has them read and run through the models, writes; several processes
divide the work."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache.claims import described
from cache.index import as_void
from cache.inputs import Want
from cache.store import Store
from foundation import device as devices
from foundation.checksums import remembered, write_sealed
from foundation.errors import PassingError, Unwritable, UserError
from foundation.progress import Bar
from foundation.waiting import Wait
from pipeline.datasets.images import Limits
from pipeline.extraction.base import Extractor, Outputs, TextExtractor, padded_length
from pipeline.extraction.contracts import Account, Runtime
from pipeline.extraction.probe import check_probe
from pipeline.extraction.shard_rows import RowComputer, ShardRows
from pipeline.extraction.units import UnitColumn, Units, distinct
from pipeline.models.guards import explained

SHARD_BYTES = 256 << 20  # what one shard's rows may take in memory
STEPS = 8  # steps that a ragged row of a picture is taken to have where its size must be known beforehand


@dataclass
class PendingFeature:
    """One feature of the run.

    wanted: its distinct units. missing: positions in `wanted` that the store lacks. extracted: rows this run added.
    """

    name: str
    extractor: Extractor
    store: Store
    wanted: Units
    missing: np.ndarray
    extracted: int = 0


def pending(
    columns: Mapping[Want, UnitColumn], extractors: Mapping[str, Extractor], stores: Mapping[str, Store]
) -> list[PendingFeature]:
    """The features behind key columns, with what their stores lack of them. extractors, stores: by feature."""
    features = []
    for name in dict.fromkeys(want.feature for want in columns):
        wanted = distinct([column for want, column in columns.items() if want.feature == name])
        features.append(PendingFeature(name, extractors[name], stores[name], wanted, stores[name].missing(wanted.keys)))
    return features


class Writer:
    """Writes one shard while the next one is computed.

    `waited`: seconds the model was blocked by writing. Use as a context manager.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

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
        """Run `write(*what)` in the background. Call `wait` first, for the last write."""
        self._writing = self._pool.submit(write, *what)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()


@dataclass
class Share:
    """A shard's rows that this process computes.

    rows: positions in `wanted`. claims: on these rows, one per feature, kept until they are written.
    """

    rows: np.ndarray
    claims: contextlib.ExitStack


@dataclass
class Division:
    """The work on a group of features, divided with other processes: a chunk of rows is computed by the process that
    claims it.

    claimed: shares that are under way here, oldest first. held: chunks of the last round that another process works on.
    waited_for: the last claim of another process that was met.
    """

    group: Sequence[PendingFeature]
    wanted: Units
    writer: Writer
    bar: Bar
    claimed: deque[Share] = field(default_factory=deque)
    held: list[np.ndarray] = field(default_factory=list)
    waited_for: Path | None = None

    def sources(self, chunks: Sequence[np.ndarray]) -> Iterator[list[Any]]:
        """The units of each share, which is added to `claimed`; chunks of other processes are added to `held`."""
        self.held = []
        for chunk in chunks:
            self.writer.check()
            keys = self.wanted.keys[chunk]
            claims = self._claim(keys)
            if claims is None:
                self.held.append(chunk)
                continue
            with contextlib.ExitStack() as stack:
                for claim in claims:
                    stack.enter_context(claim)
                lacking = sorted({int(row) for feature in self.group for row in feature.store.missing(keys)})
                self.bar.update(len(chunk) - len(lacking))
                if not lacking:
                    continue
                self.claimed.append(Share(chunk[lacking], stack.pop_all()))
            yield [self.wanted.sources[row] for row in self.claimed[-1].rows]

    def _claim(self, keys: np.ndarray) -> list[Any] | None:
        """Claims on one chunk for every feature of the group, or None where another process works on it."""
        claims: list[Any] = []
        for feature in self.group:
            feature.store.refresh()
            name = feature.store.shard_name(keys)
            claim = feature.store.claim(name)
            if claim is None:
                self.waited_for = feature.store.claim_file(name)
                for taken in claims:
                    with taken:
                        pass
                return None
            claims.append(claim)
        for feature in self.group:
            feature.store.refresh()
        return claims

    def reason(self) -> str:
        """What is waited for, and who has it."""
        names = "+".join(feature.name for feature in self.group)
        held = described(self.waited_for) if self.waited_for else "by other processes"
        return f"{len(self.held)} shards of {names} that are being extracted: {held}"

    def submit(self, rows: ShardRows) -> None:
        """Write the rows of the oldest share in the background."""
        self.writer.wait()
        share = self.claimed.popleft()
        self.writer.submit(self._write, self.wanted.keys[share.rows][rows.kept], rows, share.claims)

    def _write(self, keys: np.ndarray, rows: ShardRows, claims: contextlib.ExitStack) -> None:
        with claims:
            for feature in self.group:
                if len(keys):
                    feature.store.add(keys, rows.status, rows.causes, rows.columns[feature.name])
                    feature.extracted += len(keys)

    def close(self) -> None:
        """Release the claims on shares that were not written."""
        for share in self.claimed:
            share.claims.close()


def load_model(extractor: Extractor, device: str) -> None:
    """Load an extractor's model. Raises `UserError` where its files are refused; a plugin's own faults pass through."""
    own = type(extractor).__module__.startswith("pipeline.")
    with explained(extractor.options.model) if own else contextlib.nullcontext():
        extractor.load(device)


@dataclass
class Runner:
    """Extracts the missing rows of features that read the same kind of unit: texts, pictures, crops of one feature's
    boxes, or rows.

    May run several times for the same features: their models stay loaded. rates: file of the measured rates. stages:
    seconds by stage so far. loaded: features whose model is loaded. undone: pictures that could not be read for a
    reason that may pass, a line each.
    """

    runtime: Runtime
    limits: Limits
    rates: Path
    stages: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "model": 0.0, "write": 0.0})
    loaded: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    device: str = field(init=False)
    batch_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.device, self.batch_size = self.runtime.device, self.runtime.batch_size

    def run(self, features: Sequence[PendingFeature]) -> Account:
        """Extract what is missing; returns the account.

        Raises `PassingError` at the end where rows could not be read for a reason that may pass; everything else is in
        the cache by then.
        """
        self.undone = []
        pending = [feature for feature in features if len(feature.missing)]
        if pending:
            self.device = devices.choose(self.device)
            self.batch_size = self.batch_size or (256 if self.device.startswith("cuda") else 32)
            for feature in pending:
                if feature.extractor.loads_first and feature.name not in self.loaded:
                    self._load(feature)
            with Writer() as writer, devices.autocast(self.device, self.runtime.precision):
                if isinstance(pending[0].extractor, TextExtractor):
                    for feature in pending:
                        self._divide([feature], feature.wanted, self._text_chunks(feature), writer)
                else:
                    self._together(pending, writer)
                self.stages["write"] += writer.waited
        if self.undone:
            raise PassingError(
                f"{len(self.undone)} pictures could not be read and stay undone, first: {self.undone[0]}; run the "
                "same command again"
            )
        return Account(
            device=self.device,
            stages={name: round(seconds, 3) for name, seconds in self.stages.items()},
            model_loads=tuple(self.loaded),
            rows={feature.name: feature.extracted for feature in features},
        )

    def _load(self, feature: PendingFeature) -> None:
        """Load the model: before anything is read where that needs it, else at its first batch, while pictures are
        decoded."""
        import torch

        started = time.monotonic()
        load_model(feature.extractor, self.device)
        self.loaded.append(feature.name)
        if feature.extractor.probed:
            with torch.inference_mode(), devices.autocast(self.device, self.runtime.precision):
                check_probe(feature.extractor, feature.store)
        self.stages["model"] += time.monotonic() - started

    # Chunks: the rows of one shard each. Their order and borders follow from the rows to do alone, so a run that was
    # killed cuts the same
    # shards again, and two processes agree on them without talking.

    def _rows_per_shard(self, group: Sequence[PendingFeature], steps: int) -> int:
        """steps: that a ragged row is taken to have."""
        row_bytes = sum(
            output.row_bytes * (steps if output.ragged else 1)
            for feature in group
            for output in feature.extractor.writes.values()
        )
        return max(1, min(self.runtime.shard_rows, SHARD_BYTES // max(row_bytes, 1)))

    def _text_chunks(self, feature: PendingFeature) -> list[np.ndarray]:
        extractor = feature.extractor
        assert isinstance(extractor, TextExtractor)
        lengths = np.array(extractor.count([feature.wanted.sources[i] for i in feature.missing]))
        padded = np.array([padded_length(length, extractor.limit) for length in lengths])
        order = np.lexsort((feature.missing, padded))
        rows = self._rows_per_shard([feature], extractor.limit)
        return [feature.missing[order[start : start + rows]] for start in range(0, len(order), rows)]

    def _together(self, features: Sequence[PendingFeature], writer: Writer) -> None:
        """Rows that the same set of features lacks are done together, each picture decoded once for all of them."""
        keys = np.unique(as_void(np.concatenate([feature.wanted.keys[feature.missing] for feature in features])))
        lacking = np.stack([np.isin(keys, as_void(feature.wanted.keys[feature.missing])) for feature in features], 1)
        for pattern in np.unique(lacking, axis=0)[::-1]:
            group = [feature for feature, lacks in zip(features, pattern, strict=True) if lacks]
            wanted = group[0].wanted
            positions = np.flatnonzero(np.isin(as_void(wanted.keys), keys[(lacking == pattern).all(1)]))
            rows = self._rows_per_shard(group, STEPS)
            chunks = [positions[start : start + rows] for start in range(0, len(positions), rows)]
            self._divide(group, wanted, chunks, writer)

    def _divide(self, group: Sequence[PendingFeature], wanted: Units, chunks: list[np.ndarray], writer: Writer) -> None:
        """Compute every chunk that no other process holds; wait for the others' and take over what they leave."""
        before = [feature.extracted for feature in group]
        started = time.monotonic()
        with Bar(sum(map(len, chunks)), "+".join(feature.name for feature in group), "row") as bar:
            division = Division(group, wanted, writer, bar)
            try:
                waiting, wait = chunks, Wait()
                while waiting:
                    for rows in self._rows(division, waiting):
                        division.submit(rows)
                        del rows  # else it would be held while the next shard is read
                    writer.wait()
                    if len(division.held) < len(waiting):
                        wait.again()
                    else:
                        wait.pause(division.reason)
                    waiting = division.held
            finally:
                division.close()
        for feature, extracted in zip(group, before, strict=True):
            self._note_rate(feature, feature.extracted - extracted, time.monotonic() - started)

    def _rows(self, division: Division, chunks: Sequence[np.ndarray]) -> Iterator[ShardRows]:
        """The rows of each share, through the models of the group."""
        features = {feature.name: feature for feature in division.group}
        extractors = {name: feature.extractor for name, feature in features.items()}

        def model(extractor: Extractor, items: Sequence[Any]) -> Outputs:
            for name, feature in features.items():
                if feature.extractor is extractor and name not in self.loaded:
                    self._load(feature)
            return self._model(extractor, items)

        computer = RowComputer(extractors, self.batch_size, self.limits, model, division.bar.update)
        sources = division.sources(chunks)
        reads = division.group[0].extractor.reads
        if reads == "text":
            yield from computer.of_texts(sources)
        elif reads == "rows":
            yield from computer.of_rows(sources)
        else:
            yield from self._timed(computer.of_pictures(sources))

    def _timed(self, shards: Iterator[ShardRows]) -> Iterator[ShardRows]:
        """The shards of pictures; time that is neither the model's nor the consumer's is spent waiting for pictures."""
        began = time.monotonic(), self.stages["model"]
        for rows in shards:
            self.stages["read"] += time.monotonic() - began[0] - (self.stages["model"] - began[1])
            self.undone += rows.undone
            yield rows
            began = time.monotonic(), self.stages["model"]

    def _model(self, extractor: Extractor, items: Sequence[Any]) -> Outputs:
        """The extractor on a batch of items, halved until it fits into memory."""
        import torch

        started = time.monotonic()
        try:
            with torch.inference_mode():
                return extractor(extractor.collate(items))
        except (torch.OutOfMemoryError, MemoryError) as error:
            if len(items) == 1:
                raise UserError(
                    f"{extractor.options.model!r} does not fit into the memory of {self.device} even for one row; "
                    "use another --device"
                ) from error
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()
        finally:
            self.stages["model"] += time.monotonic() - started
        half = len(items) // 2
        first, second = self._model(extractor, items[:half]), self._model(extractor, items[half:])
        return {name: [*first[name], *second[name]] for name in first}

    def _note_rate(self, feature: PendingFeature, rows: int, seconds: float) -> None:
        """Save the measured rate for later estimates, unless it covers only a few rows."""
        if rows < 32:
            return
        known = remembered(self.rates)
        known[feature.name] = {"rows_per_s": round(rows / seconds, 2), "device": self.device, "rows": rows}
        with contextlib.suppress(Unwritable):  # estimates alone need it
            write_sealed(self.rates, known)
