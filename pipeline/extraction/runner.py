"""The runner: has the units of chunks read and run through the models, and writes the rows. Several processes divide
the work."""

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache.claims import described
from cache.store import Store
from foundation import device as devices
from foundation.checksums import remembered, write_sealed
from foundation.errors import PassingError, Unwritable, UserError
from foundation.progress import Bar
from foundation.waiting import Wait
from pipeline.datasets.images import Limits
from pipeline.extraction.base import Extractor, Outputs
from pipeline.extraction.chunks import Chunk
from pipeline.extraction.contracts import Account, Runtime
from pipeline.extraction.probe import check_probe
from pipeline.extraction.shard_rows import RowComputer, ShardRows
from pipeline.extraction.units import Units
from pipeline.models.guards import explained


@dataclass
class Target:
    """A feature whose rows are computed. extracted: rows that were added to its store."""

    name: str
    extractor: Extractor
    store: Store
    extracted: int = 0


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
    """Rows of a chunk that this process computes. claims: one per feature, kept until the rows are written."""

    keys: np.ndarray
    claims: contextlib.ExitStack


@dataclass
class Division:
    """The work on a group of features, divided with other processes: a chunk is computed by the process that claims it.

    claimed: shares that are under way here, oldest first. held: chunks of the last round that another process works on.
    waited_for: the last claim of another process that was met.
    """

    group: Sequence[Target]
    writer: Writer
    bar: Bar
    claimed: deque[Share] = field(default_factory=deque)
    held: list[Chunk] = field(default_factory=list)
    waited_for: Path | None = None

    def units(self, chunks: Sequence[Chunk]) -> Iterator[Units]:
        """The units of each share, which is added to `claimed`; chunks of other processes are added to `held`."""
        self.held = []
        for chunk in chunks:
            self.writer.check()
            if all(feature.store.has_shard(chunk.name) for feature in self.group):
                self.bar.skip(chunk.rows)
                continue
            claims, waited_for = claim(self.group, chunk.name)
            if claims is None:
                self.held.append(chunk)
                self.waited_for = waited_for
                continue
            with claims:
                units = chunk.load()
                lacking = sorted({int(row) for feature in self.group for row in feature.store.missing(units.keys)})
                self.bar.skip(chunk.rows - len(lacking))
                if not lacking:
                    continue
                self.claimed.append(Share(units.keys[lacking], claims.pop_all()))
            yield units if len(lacking) == chunk.rows else units.at(np.array(lacking))
            del units

    def reason(self) -> str:
        """What is waited for, and who has it."""
        return held_elsewhere(self.group, len(self.held), self.waited_for)

    def submit(self, rows: ShardRows) -> None:
        """Write the rows of the oldest share in the background."""
        self.writer.wait()
        share = self.claimed.popleft()
        self.writer.submit(self._write, share.keys[rows.kept], rows, share.claims)

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


def undone(features: Sequence[Target], chunks: Sequence[Chunk]) -> list[Chunk]:
    """The chunks that have no shard of each of their features."""
    stores = {feature.name: feature.store for feature in features}
    return [chunk for chunk in chunks if not all(stores[name].has_shard(chunk.name) for name in chunk.features)]


def claim(group: Sequence[Target], name: str) -> tuple[contextlib.ExitStack | None, Path | None]:
    """Claims on one chunk for every feature of the group; None, and the file of the claim that is in the way, where
    another process works on it. The stores are as they are on disk then."""
    with contextlib.ExitStack() as claims:
        for feature in group:
            taken = feature.store.claim(name)
            if taken is None:
                return None, feature.store.claim_file(name)
            claims.enter_context(taken)
        for feature in group:
            feature.store.refresh()
        return claims.pop_all(), None


def held_elsewhere(group: Sequence[Target], count: int, waited_for: Path | None) -> str:
    """What is waited for, and who has it. count: of chunks."""
    names = "+".join(feature.name for feature in group)
    held = described(waited_for) if waited_for else "by other processes"
    return f"{count} shards of {names} that are being extracted: {held}"


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

    def run(self, features: Sequence[Target], chunks: Sequence[Chunk]) -> Account:
        """Compute the chunks and add their rows to the stores of their features; returns the account.

        Raises `PassingError` at the end where rows could not be read for a reason that may pass; everything else is in
        the cache by then.
        """
        self.undone = []
        chunks = undone(features, chunks)
        if chunks:
            self.device = devices.choose(self.device)
            self.batch_size = self.batch_size or (256 if self.device.startswith("cuda") else 32)
            named = {name for chunk in chunks for name in chunk.features}
            for feature in features:
                if feature.name in named and feature.extractor.loads_first and feature.name not in self.loaded:
                    self._load(feature)
            with Writer() as writer, devices.autocast(self.device, self.runtime.precision):
                for names, of_group in itertools.groupby(chunks, key=lambda chunk: chunk.features):
                    group = [feature for feature in features if feature.name in names]
                    self._divide(group, list(of_group), writer)
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

    def _load(self, feature: Target) -> None:
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

    def _divide(self, group: Sequence[Target], chunks: list[Chunk], writer: Writer) -> None:
        """Compute every chunk that no other process holds; wait for the others' and take over what they leave."""
        before = [feature.extracted for feature in group]
        started = time.monotonic()
        with Bar(sum(chunk.rows for chunk in chunks), "+".join(feature.name for feature in group), "row") as bar:
            division = Division(group, writer, bar)
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

    def _rows(self, division: Division, chunks: Sequence[Chunk]) -> Iterator[ShardRows]:
        """The rows of each share, through the models of the group."""
        features = {feature.name: feature for feature in division.group}
        extractors = {name: feature.extractor for name, feature in features.items()}

        def model(extractor: Extractor, items: Sequence[Any]) -> Outputs:
            for name, feature in features.items():
                if feature.extractor is extractor and name not in self.loaded:
                    self._load(feature)
            return self._model(extractor, items)

        decoders = self.runtime.decoders
        computer = RowComputer(extractors, self.batch_size, self.limits, model, division.bar.update, decoders)
        shares = division.units(chunks)
        reads = division.group[0].extractor.reads
        if reads == "text":
            yield from computer.of_texts(shares)
        elif reads == "rows":
            yield from computer.of_rows(shares)
        else:
            yield from self._timed(computer.of_pictures(shares))

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

    def _note_rate(self, feature: Target, rows: int, seconds: float) -> None:
        """Save the measured rate for later estimates, unless it covers only a few rows."""
        if rows < 32:
            return
        known = remembered(self.rates)
        known[feature.name] = {"rows_per_s": round(rows / seconds, 2), "device": self.device, "rows": rows}
        with contextlib.suppress(Unwritable):  # estimates alone need it
            write_sealed(self.rates, known)
