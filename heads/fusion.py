"""Training of `fused`: scores of trained heads become parts beside pair features, and every part is shown alone and left out."""

import io
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from rapidfuzz.utils import default_process

from cache.errors import UserError
from cache.files import read_json, write_atomic, write_json
from heads import training
from heads.config import load_config
from heads.data import Bundle
from heads.device import pick_device
from heads.evaluation import SPLITS
from heads.runs import list_scores

PROTOCOL = "rerank"
SHOWN = (("dev", "half: choose"), ("test", "all"))
FIGURES = ("H@1", "MRR")


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Learn the combination, then the same of each part alone and of all parts but each.

    job: as `heads.training.main` takes it, and heads: method -> the job of its finished run over the same candidate lists. Writes what training
    writes, and parts.json: "all", "only NAME", "without NAME" -> split -> figures. Returns training's result, its table with the parts' below.
    """
    pairs = parts(job, SPLITS, pick_device(job.get("device", "auto")))
    job = {**job, "pairs": pairs, "heads": {}, "train_fraction": 1.0}  # heads and frequency saw a fraction of train; nothing here is learned from it
    result = training.main(job)
    return {**result, "table": f"{result['table']}\n\n{parts_table(_parts(job, result['metrics']))}"}


def parts(job: dict[str, Any], splits: Collection[str], device: torch.device) -> dict[str, str]:
    """Path of each part's values over the job's lists, for the mentions of `splits`: its pair features, the scores of its heads, the frequency."""
    out = Path(job["out"]) / "parts"
    pairs = dict(job.get("pairs", {}))
    for method, run in sorted(job.get("heads", {}).items()):
        if Path(run["candidates"]) != Path(job["candidates"]):
            raise UserError(f"{run['out']}: scored other candidate lists than {job['candidates']}; train {method} on these")
        pairs[method] = _kept(out / f"{method}.npz", lambda run=run: list_scores(run, splits, device))
    if load_config(job["method"], job["config"]).frequency:
        pairs["frequency"] = _kept(out / "frequency.npz", lambda: frequency(job))
    if not pairs:
        raise UserError("fused: there is nothing to fuse; name heads or pair_features that this profile has, or set frequency")
    return pairs


def frequency(job: dict[str, Any]) -> np.ndarray:
    """(M, k, 2) float32 log(1 + n), n: how often each candidate is a gold of the training mentions that heads see, and how often it is that of the
    mention's own phrase there (letter case and punctuation aside). NaN where a list ends."""
    bundle = Bundle.load({**job, "pairs": {}, "heads": {}}, [], torch.device("cpu"))
    chosen, _ = training.training_mentions(bundle, float(job.get("train_fraction", 1.0)))
    phrases = pq.read_table(Path(job["dataset"]) / "mentions.parquet", columns=["phrase"])["phrase"].to_pylist()
    _, phrase = np.unique([default_process(text) for text in phrases], return_inverse=True)
    n = len(bundle.entity_ids)
    lists, gold = bundle.candidates, bundle.gold[chosen]
    pairs, counts = np.unique(phrase[chosen] * n + gold, return_counts=True)
    asked = phrase[:, None] * n + lists.clip(0)
    place = np.searchsorted(pairs, asked).clip(max=len(pairs) - 1)
    both = np.stack([np.bincount(gold, minlength=n)[lists.clip(0)], np.where(pairs[place] == asked, counts[place], 0)], -1)
    return np.where((lists >= 0)[:, :, None], np.log1p(both), np.nan).astype(np.float32)


def parts_table(parts: dict[str, dict[str, dict[str, float]]]) -> str:
    """`parts.json` as plain text, in percent."""
    titles = [f"{split} {figure}" for split in next(iter(parts.values())) for figure in FIGURES]
    rows = [[f"{100 * values[figure]:.2f}" for values in splits.values() for figure in FIGURES] for splits in parts.values()]
    lines = [[f"fused ({PROTOCOL})", *titles], *([name, *row] for name, row in zip(parts, rows, strict=True))]
    width = max(len(line[0]) for line in lines)
    padded = [[name.ljust(width), *(cell.rjust(len(title)) for cell, title in zip(cells, titles, strict=True))] for name, *cells in lines]
    return "\n".join("  ".join(line) for line in padded)


def _parts(job: dict[str, Any], metrics: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of all parts together, of each alone and of all but each."""
    out, pairs = Path(job["out"]), job["pairs"]
    path = out / "parts.json"
    if path.exists():
        return read_json(path)
    found = {"all": _figures(metrics)}
    subsets = {f"only {name}": {name: pairs[name]} for name in pairs}
    subsets |= {f"without {name}": {other: pairs[other] for other in pairs if other != name} for name in pairs if len(pairs) > 1}
    for name, subset in subsets.items():
        folder = out / "parts" / name.replace(" ", "-")
        found[name] = _figures(training.main({**job, "pairs": subset, "out": str(folder)})["metrics"])
    write_json(path, found)
    for name in subsets:
        shutil.rmtree(out / "parts" / name.replace(" ", "-"))
    return found


def _figures(metrics: dict[str, Any]) -> dict[str, dict[str, float]]:
    by_split = {split: metrics.get(split, {}).get(PROTOCOL, {}).get(part, {}) for split, part in SHOWN}
    return {split: {figure: values.get(figure, float("nan")) for figure in FIGURES} for split, values in by_split.items()}


def _kept(path: Path, make: Callable[[], np.ndarray]) -> str:
    """Path of a part's values; made where the file is not there. The run's folder is named by all they depend on."""
    if not path.exists():
        buffer = io.BytesIO()
        np.savez(buffer, values=make())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())
    return str(path)
