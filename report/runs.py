"""Finished runs as reports read them: one folder per seed, several seeds of one configuration together, ranks mention by mention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import UserError
from foundation.files import read_json

PROTOCOLS = ("full-kb", "candidates", "rerank")
MEAN = "metrics-mean.json"


@dataclass(frozen=True)
class Run:
    """A run's folder: metrics (split -> protocol -> part -> figure), and `told`, what it says of its configuration and cost."""

    folder: Path
    metrics: Mapping[str, Any]
    told: Mapping[str, Any]

    @cached_property
    def predictions(self) -> Mapping[str, np.ndarray]:
        """Columns id, split, gold and the ranks per protocol (0: none), one row per mention of dev and test."""
        import pyarrow.parquet as pq

        path = self.folder / "predictions.parquet"
        try:
            names = [
                name
                for name in pq.read_schema(path).names
                if name in ("id", "split", "gold") or name.startswith("rank_")
            ]
            read = pq.read_table(path, columns=names)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}); train the head again") from error
        return {name: read[name].to_numpy(zero_copy_only=False) for name in names}


@dataclass(frozen=True)
class Experiment:
    """One configuration under a name, with a run for each seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def told(self) -> Mapping[str, Any]:
        """What the first run says; configuration and parameters are the same for all."""
        return self.runs[0].told

    def protocols(self, split: str) -> list[str]:
        """Those that every run was measured under."""
        return [name for name in PROTOCOLS if all(name in run.metrics.get(split, {}) for run in self.runs)]


def read_run(folder: Path) -> Run:
    """Raises `UserError` where there is no finished run."""
    if not (folder / "metrics.json").exists():
        raise UserError(
            f"{folder}: no finished run there (no metrics.json); name the folder that TrainHead printed as `run:`"
        )
    return Run(
        folder,
        read_json(folder / "metrics.json"),
        read_json(folder / "run.json") if (folder / "run.json").exists() else {},
    )


def read_experiment(name: str, folder: Path) -> Experiment:
    """The run in `folder`, or, where it holds the mean over seeds, the runs behind it."""
    if (folder / MEAN).exists():
        listed = read_json(folder / MEAN)["runs"]
        return Experiment(name, tuple(read_run((folder / path).resolve()) for path in listed))
    return Experiment(name, (read_run(folder),))


@dataclass(frozen=True)
class Ranks:
    """Ranks of the gold under one protocol, mentions with a gold in the KB alone. ids (n,); of (S, n): a row per seed, 0 where it is not listed."""

    ids: np.ndarray
    gold: np.ndarray
    of: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """(S, n) whether the gold is first."""
        return self.of == 1

    @property
    def reciprocal(self) -> np.ndarray:
        """(S, n) 1 / rank, 0 where it has none."""
        return np.where(self.of > 0, 1 / np.maximum(self.of, 1), 0.0)

    def measures(self) -> np.ndarray:
        """(2, n) H@1 and MRR of each mention, the mean over seeds."""
        return np.stack([self.hits.mean(0), self.reciprocal.mean(0)])


def ranks(experiment: Experiment, split: str, protocol: str) -> Ranks:
    """Of all its runs, in the order of the mentions' ids. Raises `UserError` where the runs do not have the same mentions or not that protocol."""
    if protocol not in experiment.protocols(split):
        there = ", ".join(experiment.protocols(split)) or "none"
        raise UserError(f"{experiment.name}: not measured on {split} under {protocol}; its protocols there: {there}")
    found = [_of_run(run, split, protocol) for run in experiment.runs]
    for run, other in zip(experiment.runs, found, strict=True):
        _same_mentions(str(experiment.runs[0].folder), found[0], str(run.folder), other)
    return Ranks(found[0].ids, found[0].gold, np.concatenate([other.of for other in found]))


def paired(first: Experiment, second: Experiment, split: str, protocol: str) -> tuple[Ranks, Ranks]:
    """Both experiments' ranks of the same mentions. Raises `UserError` where they were not measured on the same."""
    both = ranks(first, split, protocol), ranks(second, split, protocol)
    _same_mentions(first.name, both[0], second.name, both[1])
    return both


def _of_run(run: Run, split: str, protocol: str) -> Ranks:
    table = run.predictions
    known = (table["split"] == split) & (table["rank_rerank"] > 0)  # every gold in the KB has a place in this protocol
    order = np.argsort(table["id"][known].astype(str), kind="stable")
    return Ranks(
        table["id"][known][order],
        table["gold"][known][order],
        table[f"rank_{protocol.replace('-', '_')}"][known][order][None],
    )


def _same_mentions(first_name: str, first: Ranks, second_name: str, second: Ranks) -> None:
    if np.array_equal(first.ids, second.ids) and np.array_equal(first.gold, second.gold):
        return
    common = len(set(first.ids.tolist()) & set(second.ids.tolist()))
    raise UserError(
        f"{first_name} has {len(first.ids)} mentions and {second_name} {len(second.ids)}, {common} in common, or other golds for them; "
        "only runs on the same dataset can be compared"
    )


def shared_protocol(experiments: Sequence[Experiment], split: str) -> str:
    """The protocol whose figures can stand side by side: the full KB if all were ranked in it, else the reranked lists."""
    common = [
        name for name in ("full-kb", "rerank", "candidates") if all(name in one.protocols(split) for one in experiments)
    ]
    if not common:
        raise UserError(
            f"no protocol that all of {', '.join(one.name for one in experiments)} were measured under on {split}"
        )
    return common[0]
