"""Finished runs as reports read them: one folder per seed, several seeds of one configuration together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
from pydantic import AllowInfNan, BaseModel, ConfigDict, Field

from foundation import parquet
from foundation.checksums import check_run, read_sealed
from foundation.contracts import from_json
from foundation.errors import NotAsWritten, UserError
from foundation.files import read_json
from foundation.paths import Paths
from foundation.remedies import remedy
from heads.contracts import MASKED, Metrics
from heads.protocols import CANDIDATES, FULL_KB, PROTOCOLS, RERANK, ordered, protocol_name, protocol_of

if TYPE_CHECKING:
    import pyarrow as pa

MEAN = "metrics-mean.json"


class _RunFile(BaseModel):
    """What is read of run.json."""

    model_config = ConfigDict(strict=True)
    method: str | None = None
    seed: int | None = None
    parameters: int | None = None
    epochs: int | float | None = None
    device: str | None = None
    precision: str | None = None
    seconds: dict[str, float | None] | None = None
    pairs_per_second: dict[str, float] | None = None
    counts: dict[str, Any] | None = None
    gold_forced_in: Any = None
    sha256: dict[str, str] = {}


class _EpochRow(BaseModel):
    """A row of history.json."""

    epoch: int | float
    loss: float | None = None
    dev_mrr: float | None = Field(default=None, alias="dev MRR")


class _HistoryFile(BaseModel):
    """What is read of history.json."""

    epochs: list[_EpochRow] | None = None
    best_epoch: int | float | None = None


class _ListsResult(BaseModel):
    recall: dict[str, dict[str, dict[str, float]]] = {}


class _ListsReceipt(BaseModel):
    """What is read of a receipt of BuildCandidates."""

    result: _ListsResult


_Metrics = dict[str, dict[str, dict[str, dict[str, int | Annotated[float, AllowInfNan(False)]]]]]
"""`heads.contracts.Metrics`, of finite numbers."""


class _MeanFile(BaseModel):
    """What is read of metrics-mean.json."""

    runs: list[str] = Field(min_length=1)


def read_metrics(path: Path) -> Metrics:
    """What metrics.json holds. Raises `UserError` for any other content."""
    metrics = from_json(_Metrics, read_json(path), str(path))
    for split, protocols in metrics.items():
        for protocol, parts in protocols.items():
            for part, figures in parts.items():
                if "n" not in figures:
                    raise NotAsWritten(f"{path}: {split}, {protocol}, {part}: `n` is missing; {remedy(path)}")
    return cast(Metrics, metrics)


@dataclass(frozen=True)
class RunRecord:
    """What run.json says of a run's configuration and cost; None, or no entry, where it says nothing of it.

    parameters: number of trainable ones. trained_on: mentions. train_seconds: of training. pairs_per_second: scored,
    by "candidates" and "full-kb".
    """

    method: str | None = None
    seed: int | None = None
    parameters: int | None = None
    trained_on: int | None = None
    train_seconds: float | None = None
    epochs: float | None = None
    device: str | None = None
    precision: str | None = None
    pairs_per_second: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "RunRecord":
        """The record in the parsed content of run.json."""
        plain = {name: content.get(name) for name in ("method", "seed", "parameters", "epochs", "device", "precision")}
        seconds, speeds = content.get("seconds") or {}, content.get("pairs_per_second") or {}
        trained_on = (content.get("counts") or {}).get("trained on")
        return cls(**plain, trained_on=trained_on, train_seconds=seconds.get("train"), pairs_per_second=speeds)


@dataclass(frozen=True)
class Epoch:
    """A measurement in a training, after an epoch or a part of one (`checks`). number: epochs done. loss: mean over the
    batches since the one before; dev_mrr: MRR on dev; None where not measured."""

    number: float
    loss: float | None = None
    dev_mrr: float | None = None


@dataclass(frozen=True)
class History:
    """A training, measurement by measurement. kept: epochs behind the weights that the run has; 0: the start, or no
    epochs."""

    epochs: tuple[Epoch, ...] = ()
    kept: float = 0


@dataclass(frozen=True)
class RankColumns:
    """Columns of predictions.parquet, a row for each mention of dev and test.

    ranks: protocol -> rank of the gold, 0 where it has none. picture: whether the mention has a usable one; None in
    predictions that do not say.
    """

    id: np.ndarray
    split: np.ndarray
    gold: np.ndarray
    ranks: Mapping[str, np.ndarray]
    picture: np.ndarray | None = None


@dataclass(frozen=True)
class Prediction:
    """One mention's row of predictions.parquet.

    ranks: protocol -> rank of the gold, 0 where it has none. top: ids of the best entities, the best first.
    top_scores: "score" and each of the head's units -> the scores of those entities; gold_scores: the gold's, NaN where
    unknown.
    """

    ranks: Mapping[str, int]
    top: Sequence[str]
    top_scores: Mapping[str, Sequence[float]]
    gold_scores: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    metrics: Metrics
    record: RunRecord

    @cached_property
    def rank_columns(self) -> RankColumns:
        """Raises `UserError` where the predictions cannot be read."""
        return _rank_columns(self.folder / "predictions.parquet")

    @cached_property
    def masked(self) -> RankColumns:
        """The same as if no mention had a picture. Raises `UserError` where that was not measured."""
        return _rank_columns(self.folder / MASKED)

    def history(self) -> History:
        """What history.json holds; without epochs for a head that is not trained by epochs."""
        path = self.folder / "history.json"
        content = from_json(_HistoryFile, read_json(path), str(path))
        epochs = (Epoch(row.epoch, row.loss, row.dev_mrr) for row in content.epochs or [])
        return History(tuple(epochs), content.best_epoch or 0)


@dataclass(frozen=True)
class Experiment:
    """One configuration under a name, with a run for each seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def record(self) -> RunRecord:
        """The first run's; method and parameters are the same for all."""
        return self.runs[0].record

    def by_seed(self, split: str, protocol: str, figure: str) -> dict[int | None, float]:
        """seed -> a figure of the whole split. Raises `UserError` where a run's metrics lack it."""
        try:
            return {run.record.seed: float(run.metrics[split][protocol]["all"][figure]) for run in self.runs}
        except KeyError as error:
            raise UserError(
                f"{self.name}: a run's metrics.json has no {error.args[0]!r}, expected {figure} of {split} under "
                f"{protocol}; delete it and run the TrainHead command that made it again"
            ) from None

    def protocols(self, split: str) -> list[str]:
        """Names of those that every run was measured under, as metrics have them."""
        names = ordered(name for run in self.runs for name in run.metrics.get(split, {}))
        return [name for name in names if all(name in run.metrics.get(split, {}) for run in self.runs)]


def _rank_columns(path: Path) -> RankColumns:
    read = _read_predictions(path, ("id", "split", "gold", "picture", *map(_rank_column, PROTOCOLS)))
    table = {name: read[name].to_numpy(zero_copy_only=False) for name in read.column_names}
    ranks = {protocol: table.get(_rank_column(protocol)) for protocol in PROTOCOLS}
    there = {protocol: values for protocol, values in ranks.items() if values is not None}
    return RankColumns(table["id"], table["split"], table["gold"], there, table.get("picture"))


def read_run(folder: Path) -> Run:
    """The run in a folder. Raises `UserError` where no finished one is there, or a file of it has changed since."""
    if not (folder / "metrics.json").exists():
        raise UserError(
            f"{folder}: no finished run there (no metrics.json); name the folder that TrainHead printed as `run:`"
        )
    path = folder / "run.json"
    record = read_sealed(path) if path.exists() else {}
    from_json(_RunFile, record, str(path))
    check_run(folder, "metrics.json", "predictions.parquet", "history.json")
    metrics = read_metrics(folder / "metrics.json")
    if "gold_forced_in" not in record:  # a run of before: its figures have no label yet
        metrics = _labelled(metrics, _forced(folder))
    return Run(folder, metrics, RunRecord.of(record))


def _labelled(metrics: Metrics, forced: Sequence[str]) -> Metrics:
    """The metrics with the names that `protocol_name` gives the protocols of the splits `forced`."""
    return {
        split: {protocol_name(protocol, split in forced): parts for protocol, parts in protocols.items()}
        for split, protocols in metrics.items()
    }


def _forced(folder: Path) -> list[str]:
    """Splits in which the lists of a run came with the data and always held the gold, as their receipt says."""
    work = folder.absolute().parents[min(3, len(folder.absolute().parents) - 1)]
    config = folder / "config.json"
    depends = read_sealed(config) if config.exists() else {}
    digest = str(depends.get("candidates", ""))
    path = Paths(work).receipt("BuildCandidates", digest)
    if not digest or not path.exists():
        return []
    of_given = from_json(_ListsReceipt, read_sealed(path), str(path)).result.recall.get("given", {})
    return [
        split
        for split, shares in of_given.items()
        if shares["n"] and max(shares[key] for key in shares if key != "n") == 1
    ]


def read_experiment(name: str, folder: Path) -> Experiment:
    """The run in `folder`, or, where it holds the mean over seeds, the runs behind it."""
    if (folder / MEAN).exists():
        listed = from_json(_MeanFile, read_sealed(folder / MEAN), str(folder / MEAN)).runs
        return Experiment(name, tuple(read_run((folder / path).resolve()) for path in listed))
    return Experiment(name, (read_run(folder),))


def read_predictions(folder: Path, split: str = "", ids: Iterable[str] | None = None) -> dict[str, Prediction]:
    """mention id -> prediction, of a run's mentions of `split` ("": all) that are among `ids` (None: all).

    Raises `UserError` where the predictions cannot be read.
    """
    filters: list[tuple[str, str, Any]] = [("split", "=", split)] if split else []
    filters += [] if ids is None else [("id", "in", list(ids))]
    path = folder / "predictions.parquet"
    rows = [] if filters and filters[-1][2] == [] else _read_predictions(path, filters=filters or None).to_pylist()
    return {row["id"]: _prediction(row) for row in rows}


def _prediction(row: Mapping[str, Any]) -> Prediction:
    return Prediction(
        {protocol: row[_rank_column(protocol)] for protocol in PROTOCOLS if _rank_column(protocol) in row},
        row["top"],
        {name.removeprefix("top_"): values for name, values in row.items() if name.startswith("top_")},
        {name.removeprefix("gold_"): value for name, value in row.items() if name.startswith("gold_")},
    )


def _rank_column(protocol: str) -> str:
    return f"rank_{protocol.replace('-', '_')}"


def _read_predictions(path: Path, columns: Sequence[str] | None = None, filters: Any = None) -> "pa.Table":
    """columns: those that are read, where they are there (None: all)."""
    there = parquet.names(path)
    return parquet.read(path, [name for name in columns or there if name in there], filters=filters)


@dataclass(frozen=True)
class Ranks:
    """Ranks of the gold under one protocol, of the n mentions whose gold is in the KB.

    ids, gold: (n,). ranks: (S, n), a row per seed, 0 where the gold is not listed.
    """

    ids: np.ndarray
    gold: np.ndarray
    ranks: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """(S, n) bool, whether the gold is first."""
        return self.ranks == 1

    @property
    def reciprocal(self) -> np.ndarray:
        """(S, n) 1 / rank, 0 where it has none."""
        return np.where(self.ranks > 0, 1 / np.maximum(self.ranks, 1), 0.0)

    def measures(self) -> np.ndarray:
        """(2, n) H@1 and MRR of each mention, the mean over seeds."""
        return np.stack([self.hits.mean(0), self.reciprocal.mean(0)])


def ranks(experiment: Experiment, split: str, protocol: str) -> Ranks:
    """Of all its runs, in the order of the mentions' ids.

    Raises `UserError` where the runs do not have the same mentions or not that protocol.
    """
    if protocol not in experiment.protocols(split):
        there = ", ".join(experiment.protocols(split)) or "none"
        raise UserError(f"{experiment.name}: not measured on {split} under {protocol}; its protocols there: {there}")
    by_run = [_of_run(run, split, protocol) for run in experiment.runs]
    for run, other in zip(experiment.runs, by_run, strict=True):
        _same_mentions(str(experiment.runs[0].folder), by_run[0], str(run.folder), other)
    return Ranks(by_run[0].ids, by_run[0].gold, np.concatenate([other.ranks for other in by_run]))


def paired(first: Experiment, second: Experiment, split: str, protocol: str) -> tuple[Ranks, Ranks]:
    """Both experiments' ranks of the same mentions. Raises `UserError` where they were not measured on the same."""
    both = ranks(first, split, protocol), ranks(second, split, protocol)
    _same_mentions(first.name, both[0], second.name, both[1])
    return both


def _of_run(run: Run, split: str, protocol: str) -> Ranks:
    return of_columns(run.rank_columns, split, protocol)


def of_columns(table: RankColumns, split: str, protocol: str) -> Ranks:
    """The ranks of one run that a table holds, in the order of the mentions' ids."""
    known = (table.split == split) & (table.ranks[RERANK] > 0)  # every gold in the KB has a rank in this protocol
    order = np.argsort(table.id[known].astype(str), kind="stable")
    return Ranks(
        table.id[known][order], table.gold[known][order], table.ranks[protocol_of(protocol)][known][order][None]
    )


def _same_mentions(first_name: str, first: Ranks, second_name: str, second: Ranks) -> None:
    if np.array_equal(first.ids, second.ids) and np.array_equal(first.gold, second.gold):
        return
    common = len(set(first.ids.tolist()) & set(second.ids.tolist()))
    raise UserError(
        f"{first_name} has {len(first.ids)} mentions and {second_name} {len(second.ids)}, {common} in common, or other "
        "golds for them; only runs on the same dataset can be compared"
    )


def shared_protocol(experiments: Sequence[Experiment], split: str) -> str:
    """The name of the protocol whose figures can stand side by side: the full KB if all were ranked in it, else
    reranked lists.

    Lists that came with the data and always hold the gold, and other lists, are not the same protocol. Raises
    `UserError` where there is none.
    """
    of_each = [experiment.protocols(split) for experiment in experiments]
    shared = {protocol_of(name): name for name in of_each[0] if all(name in names for names in of_each)}
    if not shared:
        names = ", ".join(experiment.name for experiment in experiments)
        theirs = "; ".join(", ".join(names) or "none" for names in of_each)
        raise UserError(f"no protocol that all of {names} were measured under on {split}; theirs: {theirs}")
    return next(shared[protocol] for protocol in (FULL_KB, RERANK, CANDIDATES) if protocol in shared)
