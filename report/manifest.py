"""A run's evaluation manifest: what was evaluated, in which order and by which rule, as one JSON to be published."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foundation import parquet
from foundation.arrays import Expected, read_npz
from foundation.checksums import read_sealed, sealed
from foundation.contracts import contract, from_json, to_json
from foundation.errors import UserError
from foundation.files import explained, write_atomic
from foundation.output import check_output
from foundation.paths import Paths
from heads.metrics import TIE
from report.contracts import ManifestJob, ManifestResult
from report.runs import MEAN, Run, read_run

RULE = (
    "rank = 1 + entities with a higher score + other entities with an equal score; equal: nearer than "
    "tolerance * max(1, |score of the gold|); NaN counts against the head"
)
MOST_BYTES = 1 << 30
"""Of a manifest that is read."""


@contract
class Queries:
    """The mentions of a split in the order of predictions.parquet. golds: ids beside them, None for NIL. candidates:
    SHA-256 (hex) of their lists, a line of JSON each."""

    mentions: tuple[str, ...]
    golds: tuple[str | None, ...]
    candidates: str


@contract
class Manifest:
    """What a run was evaluated on, and what came out.

    kb: SHA-256 (hex) of the entities' ids in order, a line of JSON each; entities: their number. content: hash of the
    prepared dataset, its texts and pictures included. forced: splits whose lists came with the data and always hold the
    gold. figures: split -> protocol -> figure over all its mentions. predictions: SHA-256 (hex) of
    predictions.parquet.
    """

    layout: Literal[1] = 1
    run: str
    method: str
    seed: int | None
    dataset: str
    content: str
    entities: int
    kb: str
    list_length: int
    forced: tuple[str, ...]
    splits: Mapping[str, Queries]
    protocols: tuple[str, ...]
    tie_tolerance: float = TIE
    tie_rule: str = RULE
    figures: Mapping[str, Mapping[str, Mapping[str, float]]]
    predictions: str


def make(job: ManifestJob) -> ManifestResult:
    """Write a run's manifest, or compare it with another one. Raises `UserError`."""
    own = manifest(job.run)
    if job.check is not None:
        return compared(own, read(job.check), str(job.check))
    assert job.to is not None
    to = check_output(job.to, "--to")
    with explained(to, "--to"):
        write_atomic(to, json.dumps(sealed(to_json(own)), indent=1, ensure_ascii=False, allow_nan=False))
    counts = ", ".join(f"{len(one.mentions):,} mentions of {split}" for split, one in own.splits.items())
    return ManifestResult(text=f"{own.run}: {counts}, {own.entities:,} entities\nmanifest: {to}")


def read(path: Path) -> Manifest:
    """A manifest from a file. Raises `UserError`."""
    if os.path.isfile(path) and path.stat().st_size > MOST_BYTES:
        raise UserError(f"--check {path}: {path.stat().st_size:,} bytes, at most {MOST_BYTES:,} are read")
    content = read_sealed(path, remedy=lambda _: "take the file as it was published")
    found = from_json(Manifest, content, str(path))
    for split, one in found.splits.items():
        if len(one.mentions) != len(one.golds):
            raise UserError(f"{path}: {split}: {len(one.mentions)} mentions and {len(one.golds)} golds")
    return found


def manifest(folder: Path) -> Manifest:
    """The manifest of a finished run in its work folder. Raises `UserError`."""
    if (folder / MEAN).exists():
        raise UserError(f"{folder}: the mean over several seeds; name the run of one seed")
    run, depends = read_run(folder), read_sealed(folder / "config.json")
    paths = Paths(folder.parents[3])
    dataset = _dataset(paths, folder.parents[1].name, depends["dataset"])
    ids = parquet.read(dataset / "entities.parquet", ["id"])["id"].to_pylist()
    mentions = parquet.read(dataset / "mentions.parquet", ["id"])["id"].to_pylist()
    saved = read_npz(
        dataset / f"candidates-{depends['candidates'][:12]}.npz",
        {"ids": Expected("iu", (len(mentions), None)), "forced": Expected("U", (None,), optional=True)},
    )
    lists = saved["ids"]
    if lists.max(initial=-1) >= len(ids):
        raise UserError(f"{dataset}: candidate lists name entities that the KB lacks; run BuildCandidates again")
    columns, row = run.rank_columns, {name: at for at, name in enumerate(mentions)}
    if missing := [name for name in columns.id.tolist() if name not in row]:
        raise UserError(f"{folder}: mentions of the predictions are not in {dataset}, the first is {missing[0]!r:.80}")
    splits = {}
    for split in sorted(set(columns.split.tolist())):
        here = columns.split == split
        names = columns.id[here].tolist()
        places = lists[[row[name] for name in names]]
        splits[split] = Queries(
            mentions=tuple(names),
            golds=tuple(columns.gold[here].tolist()),
            candidates=_digest(_listed(places, ids)),
        )
    return Manifest(
        run=f"{folder.parents[1].name}/{folder.parent.name}/{folder.name}",
        method=depends["method"],
        seed=depends["seed"],
        dataset=folder.parents[1].name,
        content=depends["dataset"],
        entities=len(ids),
        kb=_digest(ids),
        list_length=int(lists.shape[1]),
        forced=tuple(saved["forced"].tolist()) if "forced" in saved else (),
        splits=splits,
        protocols=tuple(dict.fromkeys(name for protocols in run.metrics.values() for name in protocols)),
        figures=_figures(run),
        predictions=read_sealed(folder / "run.json")["sha256"]["predictions.parquet"],
    )


def _dataset(paths: Paths, label: str, content: str) -> Path:
    """The prepared dataset of a run, under its label or, with the same content, another."""
    there = [paths.dataset(label, content), *sorted(paths.root.glob(f"datasets/*-{content[:12]}"))]
    found = next((folder for folder in there if (folder / "entities.parquet").is_file()), None)
    if found is None:
        raise UserError(f"{there[0]}: the run's dataset is not there (any more); run PrepareDataset again")
    return found


def _figures(run: Run) -> dict[str, dict[str, dict[str, float]]]:
    return {
        split: {
            protocol: {name: float(value) for name, value in parts["all"].items()} for protocol, parts in of.items()
        }
        for split, of in run.metrics.items()
    }


def _listed(lists: np.ndarray, ids: Sequence[str]) -> Iterator[list[str]]:
    for row in lists.tolist():
        yield [ids[at] for at in row if at >= 0]


def _digest(lines: Iterable[Any]) -> str:
    """SHA-256 (hex) of values, each as compact ASCII JSON and a line feed."""
    hashed = hashlib.sha256()
    for line in lines:
        hashed.update(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    return hashed.hexdigest()


def compared(own: Manifest, other: Manifest, name: str) -> ManifestResult:
    """Whether both were evaluated on the same thing. name: of the other's file."""
    lines = list(_differences(own, other))
    text = f"{own.run} was evaluated on the same thing as {other.run} ({name})"
    if lines:
        text = f"{own.run} was not evaluated on the same thing as {other.run} ({name})"
    same = "the same" if own.predictions == other.predictions else "others"
    return ManifestResult(text=f"{text}; its predictions are {same}", differences=tuple(lines))


def _differences(own: Manifest, other: Manifest) -> Iterator[str]:
    """What is different in the evaluation, a line each."""
    if own.kb != other.kb:
        yield f"KB: {own.entities:,} entities here, {other.entities:,} there, or in another order"
    for split in sorted({*own.splits, *other.splits}):
        here, there = own.splits.get(split), other.splits.get(split)
        if here is None or there is None:
            yield f"{split}: only {'there' if here is None else 'here'}"
        elif here.mentions != there.mentions:
            more = len(set(here.mentions) ^ set(there.mentions))
            yield f"{split}: {f'{more:,} mentions are in one alone' if more else 'the mentions are in another order'}"
        elif here.golds != there.golds:
            at = [place for place, pair in enumerate(zip(here.golds, there.golds, strict=True)) if pair[0] != pair[1]]
            yield f"{split}: {len(at):,} golds differ, the first is that of {here.mentions[at[0]]!r:.80}"
        elif here.candidates != there.candidates:
            yield f"{split}: other candidate lists ({own.list_length} here, {other.list_length} there at most)"
    if own.content != other.content:
        yield "dataset: other texts, pictures or records (content hash)"
    if (own.tie_tolerance, own.tie_rule) != (other.tie_tolerance, other.tie_rule):
        yield f"ties: {own.tie_tolerance:g} here, {other.tie_tolerance:g} there, or another rule"
    if own.forced != other.forced:
        first, second = (", ".join(one.forced) or "none" for one in (own, other))
        yield f"lists that always hold the gold: {first} here, {second} there"
    if set(own.protocols) != set(other.protocols):
        yield f"protocols: {', '.join(own.protocols)} here, {', '.join(other.protocols)} there"
