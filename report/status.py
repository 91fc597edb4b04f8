"""What lies in a work folder: sizes, features with their last measured rates, trained heads, searches."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cache import verify
from foundation import layers
from foundation.checksums import remembered
from foundation.errors import UserError
from foundation.files import free_bytes, read_json
from foundation.paths import Paths
from foundation.tables import as_text, text_table
from heads.config import settings_text
from heads.contracts import Figures
from report.averages import MAIN
from report.runs import RunRecord

NEWEST = 15
"""Runs and searches that are listed; of older ones only the number is given."""
SETTINGS = "settings other than the method's defaults"


def text(paths: Paths, width: int | None = None) -> str:
    """The whole account, its tables at most `width` characters wide (None: as wide as they are).

    Nothing is written, and nothing is loaded but file headers.
    """
    if not paths.root.is_dir():
        return f"{paths.root}: nothing there yet; free: {size(free_bytes(paths.root))}"
    return "\n\n".join([sizes(paths), features(paths, width), runs(paths, width), searches(paths, width)])


def size(count: float) -> str:
    """Bytes for a reader: `12.3 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def sizes(paths: Paths) -> str:
    """Bytes on disk below the work folder, by its first folders, and what is free."""
    parts = {
        path.name: sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
        for path in sorted(paths.root.iterdir())
        if path.is_dir()
    }
    listed = ", ".join(f"{name} {size(count)}" for name, count in parts.items())
    return f"{paths.root}: {size(sum(parts.values()))} ({listed or 'empty'}); free: {size(free_bytes(paths.root))}"


def features(paths: Paths, width: int | None = None) -> str:
    """The features in the cache, and how fast each was extracted last."""
    rates = remembered(paths.rates)
    listed, problems = verify.usage(paths.cache)
    rows = []
    for entry in listed:
        rate = rates.get(entry.feature, {})
        measured = f"{rate['rows_per_s']:g}/s on {rate['device']}" if "rows_per_s" in rate else "-"
        what = [entry.feature, entry.identity[:16], f"{entry.rows:,}", size(entry.bytes)]
        rows.append([*what, measured, _when(entry.mtime)])
    header = ["extracted", "identity", "rows", "size", "last rate", "written"]
    return "\n".join([_listing(header, rows, width), *problems, *_layers(paths)])


def _layers(paths: Paths) -> list[str]:
    """The folders that the cache reads beneath itself, a line each."""
    lines = []
    for layer in layers.read(paths.cache):
        if not layer.is_dir():
            lines.append(f"layer {layer}: not there; mount it, or add {layers.without(paths.cache, layer)}")
            continue
        listed, problems = verify.usage(layer)
        names = ", ".join(f"{entry.feature} ({entry.rows:,} rows)" for entry in listed)
        lines += [f"layer {layer}, which is only read: {names or 'no features yet'}", *problems]
    return lines


def runs(paths: Paths, width: int | None = None) -> str:
    """Trained heads, the newest first: test figures under their first protocol, and options that are not the method's
    defaults."""
    files = _newest(paths.root.glob("runs/*/*/*/run.json"))
    rows = []
    for file in files[:NEWEST]:
        record, metrics = RunRecord.of(_json(file)), _json(file.with_name("metrics.json"))
        protocols: Mapping[str, Mapping[str, Figures]] = metrics.get("test", metrics.get("dev", {}))
        protocol = next(iter(protocols), "-")
        figures: Figures = protocols[protocol].get("all", {}) if protocols else {}
        rows.append(
            [
                "/".join(file.parts[-4:-2]),
                file.parent.name,
                "-" if record.seed is None else str(record.seed),
                protocol,
                *(f"{100 * figures[name]:.2f}" if name in figures else "-" for name in MAIN),
                "-" if record.epochs is None else f"{record.epochs:g}",
                "-" if record.train_seconds is None else f"{record.train_seconds:,.0f} s",
                _when(file.stat().st_mtime),
                _settings(_json(file.with_name("config.json")) or _json(file)),
            ]
        )
    header = ["trained", "run", "seed", "protocol", "H@1", "MRR", "epochs", "training", "written", SETTINGS]
    return _listing(header, rows, width, older=len(files) - len(rows))


def _settings(run: Mapping[str, Any]) -> str:
    """What differs from the defaults of its method; "-" for a method that is not here (a plugin)."""
    try:
        return settings_text(run.get("method", ""), run.get("config", {})) or "none"
    except UserError:
        return "-"


def searches(paths: Paths, width: int | None = None) -> str:
    """Searches, the newest first."""
    files = _newest(paths.root.glob("sweeps/*/*/*/study.json"))
    rows = []
    for file in files[:NEWEST]:
        study = _json(file)
        best, counts, importance = study.get("best", {}), study.get("trials", {}), study.get("importance", {})
        drawn = {name: value for name, value in best.get("params", {}).items() if name in importance or not importance}
        rows.append(
            [
                "/".join(file.parts[-4:-2]),
                file.parent.name,
                f"{counts.get('complete', 0)} + {counts.get('pruned', 0)}",
                f"{100 * best['dev MRR']:.2f}" if "dev MRR" in best else "-",
                json.dumps(drawn)[:60],
                _when(file.stat().st_mtime),
            ]
        )
    header = ["searched", "search", "trials + pruned", "dev MRR", "best", "written"]
    return _listing(header, rows, width, older=len(files) - len(rows))


def _newest(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: -file.stat().st_mtime)


def _json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file; empty where it cannot be read: one broken file does not end the account."""
    try:
        value = read_json(path)
    except (UserError, OSError):
        return {}
    return value if isinstance(value, dict) else {}


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")


def _listing(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, older: int = 0) -> str:
    if not rows:
        return f"{header[0]}: nothing"
    words = ("identity", "run", "search", "last rate", "written", SETTINGS)
    table = as_text(text_table(header, rows, words=words), width=width)
    return f"{table}\nand {older} older" if older else table
