"""Features that a run of a head makes: what its learned prompts, or blocks trained with it, give of cached states."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cache.identity import Output, identity, weights_hash
from cache.index import as_void
from cache.inputs import Side
from cache.keys import KeyColumn
from cache.shard import Status
from cache.store import Store
from cache.table import Table
from experiments.contracts import LearnedOutputs
from foundation.errors import UserError
from foundation.files import fault_point
from foundation.progress import Bar
from heads.contracts import HeadInput, TrainingJob
from pipeline.extraction import guard

SHARD_ROWS = 2048
BATCH = 64
Rows = Mapping[str, list[np.ndarray]]
"""Of a batch: by output, an array per row."""


@dataclass(frozen=True)
class Learned:
    """A feature that a run makes, of the texts or the pictures of one side or both.

    feature: its name. states: the store that it is made from. made_by: its identity in clear, but for its outputs and
    what it reads.
    """

    feature: str
    side: Side
    states: Store
    made_by: Mapping[str, Any]

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Tokens and pooled, fp16."""
        raise NotImplementedError

    def of(self, states: Table, at: np.ndarray, keys: np.ndarray) -> Rows:
        """The rows made of the states at the places `at` (m,) of a table, whose keys are `keys` (m, 16)."""
        raise NotImplementedError

    @property
    def spec(self) -> dict[str, Any]:
        """Its identity in clear."""
        return {
            **self.made_by,
            "reads": [self.states.identity],
            "outputs": [output.to_json() for output in self.outputs],
        }

    def fill(self, store: Store, keys: np.ndarray) -> int:
        """Add the rows of the distinct `keys` (n, 16) that `store` lacks and `states` holds; returns how many."""
        import torch

        missing = keys[store.missing(keys)]
        with Bar(len(missing), f"{self.side} {self.feature}", "row") as bar:
            for start in range(0, len(missing), SHARD_ROWS):
                part = missing[start : start + SHARD_ROWS]
                with torch.inference_mode():
                    self._add_shard(store, part)
                bar.update(len(part))
                fault_point("learned-shard")
        return len(missing)

    def problems(self, one: HeadInput, store: Store, column: KeyColumn, fewest: int = 2) -> list[str]:
        """What is wrong with the rows of an input, a line per output; nothing for fewer than `fewest` distinct ones, or
        where the states that they start from are the same."""
        if len(distinct(column.keys[column.present])) < fewest:
            return []
        wrong = guard.wrong(column, store, store.outputs, store.outputs, partial(self._same_states, column))
        return [f"{self.side}.{self.feature}.{one.view}, output {name}: {problem}" for name, problem in wrong]

    def _same_states(self, column: KeyColumn, places: np.ndarray) -> bool:
        """Whether the states at some places of a key column are equal."""
        table = Table(self.states, next(iter(self.states.outputs)), column.keys[places], column.present[places])
        if not table.ragged:
            states = table.gather(np.arange(len(places)))
            return bool((states == states[:1]).all())
        values, lengths = table.ragged_flat(np.arange(len(places)))
        rows = values.reshape(len(places), -1) if (lengths == lengths[0]).all() else None
        return rows is not None and bool((rows == rows[0]).all())

    def _add_shard(self, store: Store, keys: np.ndarray) -> None:
        """The rows of `keys`, with the verdicts that the states they start from have."""
        table = Table(self.states, next(iter(self.states.outputs)), keys, np.ones(len(keys), bool))
        columns: dict[str, Any] = {
            name: [np.zeros((0, *output.shape), output.dtype)] * len(keys)
            if output.ragged
            else np.zeros((len(keys), *output.shape), output.dtype)
            for name, output in store.outputs.items()
        }
        for at in batches(table):
            for name, values in self.of(table, at, keys[at]).items():
                for row, value in zip(at.tolist(), values, strict=True):
                    columns[name][row] = value
        status = np.where(table.ok, Status.OK, table.status).astype(np.uint8)
        causes = ["" if code == Status.OK else "as the states it starts from" for code in status]
        store.add(keys, status, causes, columns)


def batches(table: Table) -> Iterator[np.ndarray]:
    """Positions of the usable rows of a table, those of similar length together."""
    usable = np.flatnonzero(table.ok)
    order = usable[np.argsort(table.lengths[usable], kind="stable")]
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def distinct(keys: np.ndarray) -> np.ndarray:
    """The distinct keys among (n, 16) uint8."""
    return np.unique(as_void(keys)).view(np.uint8).reshape(-1, 16)


def split(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Rows of `lengths` among values (sum of lengths, …)."""
    return list(np.split(values, np.cumsum(lengths)[:-1]))


@dataclass(frozen=True)
class Remade:
    """An input of the run that learned, as the head behind it reads it. role, feature: there."""

    read: HeadInput
    role: str
    learned: Learned


def extract(job: TrainingJob) -> LearnedOutputs:
    """Extract what a run learned into `cache/` in its folder: only what is not there yet.

    job: of that run. Raises `UserError` where the rows of a view are all equal, all zero or hardly differ; they stay in
    the cache.
    """
    from experiments import prompts, tuned

    remade, device, remedy = (prompts.remade if job.live else tuned.remade)(job)
    inputs: list[HeadInput] = []
    files: list[Any] = []
    lines: list[str] = []
    rows: dict[str, int] = {}
    for one in remade:
        column, learned = KeyColumn.load(one.read.keys), one.learned
        keys = distinct(column.keys[column.present])
        store = Store.create(job.out / "cache", learned.feature, learned.spec)
        place = f"{one.read.side} {learned.feature}"
        rows[place] = rows.get(place, 0) + learned.fill(store, keys)
        lines += learned.problems(one.read, store, column)
        files += store.files_for(keys)
        inputs.append(
            HeadInput(
                side=one.read.side,
                role=one.role,
                feature=learned.feature,
                view=one.read.view,
                outputs=one.read.made or tuple(output.name for output in learned.outputs),
                store=store.folder,
                keys=one.read.keys,
                identity=identity(learned.spec),
            )
        )
    if lines:
        raise UserError(*(f"{line}; {remedy}" for line in lines))
    return LearnedOutputs(inputs=tuple(inputs), files=tuple(dict.fromkeys(files)), run={"device": device, "rows": rows})


def weights_of(job_out: Any) -> str:
    """The hash of what a run learned."""
    return weights_hash([job_out / "model.safetensors"], None)
