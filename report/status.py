"""What lies in a work folder: sizes, features with their last measured rates, trained heads, searches."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cache import verify
from foundation.errors import UserError
from foundation.files import free_bytes, read_json
from foundation.paths import Paths

NEWEST = 15
"""Runs and searches that are listed; of older ones their number is told."""


def text(paths: Paths) -> str:
    """The whole account. Nothing is written and nothing is loaded but file headers."""
    if not paths.root.is_dir():
        return f"{paths.root}: nothing there yet; free: {size(free_bytes(paths.root))}"
    return "\n\n".join(filter(None, [sizes(paths), features(paths), runs(paths), searches(paths)]))


def size(count: float) -> str:
    """Bytes as a reader wants them: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError


def sizes(paths: Paths) -> str:
    """Bytes on disk below the work folder, by its first folders, and what is free."""
    parts = {
        path.name: sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
        for path in sorted(paths.root.iterdir())
        if path.is_dir()
    }
    listed = ", ".join(f"{name} {size(count)}" for name, count in parts.items())
    return f"{paths.root}: {size(sum(parts.values()))} ({listed or 'empty'}); free: {size(free_bytes(paths.root))}"


def features(paths: Paths) -> str:
    """The features in the cache, and how fast each was extracted last."""
    rates = _json(paths.rates)
    rows = []
    found, problems = verify.usage(paths.cache)
    for entry in found:
        rate = rates.get(entry.feature, {})
        told = f"{rate['rows_per_s']:g}/s on {rate['device']}" if "rows_per_s" in rate else "-"
        rows.append(
            [entry.feature, entry.identity[:16], f"{entry.rows:,}", size(entry.bytes), told, _when(entry.mtime)]
        )
    return "\n".join([_grid("extracted", ["identity", "rows", "size", "last rate", "written"], rows), *problems])


def runs(paths: Paths) -> str:
    """Trained heads, the newest first: test figures under their first protocol."""
    rows = []
    for file in _newest(paths.root.glob("runs/*/*/*/run.json")):
        run, metrics = _json(file), _json(file.with_name("metrics.json"))
        shown = next(iter(metrics.get("test", metrics.get("dev", {})).items()), ("-", {}))
        figures = shown[1].get("all", {})
        cells = [f"{100 * figures[name]:.2f}" if name in figures else "-" for name in ("H@1", "MRR")]
        seconds = run.get("seconds", {}).get("train")
        rows.append(
            [
                "/".join(file.parts[-4:-2]),
                file.parent.name,
                str(run.get("seed", "-")),
                shown[0],
                *cells,
                str(run.get("epochs", "-")),
                "-" if seconds is None else f"{seconds:,.0f} s",
                _when(file.stat().st_mtime),
            ]
        )
    return _grid("trained", ["run", "seed", "protocol", "H@1", "MRR", "epochs", "training", "written"], rows)


def searches(paths: Paths) -> str:
    """Searches, the newest first."""
    rows = []
    for file in _newest(paths.root.glob("sweeps/*/*/*/study.json")):
        study = _json(file)
        best = study.get("best", {})
        reached = f"{100 * best['dev MRR']:.2f}" if "dev MRR" in best else "-"
        counts = study.get("trials", {})
        drawn = {
            name: value
            for name, value in best.get("params", {}).items()
            if name in study.get("importance", {}) or not study.get("importance")
        }
        rows.append(
            [
                "/".join(file.parts[-4:-2]),
                file.parent.name,
                f"{counts.get('complete', 0)} + {counts.get('pruned', 0)}",
                reached,
                json.dumps(drawn)[:60],
                _when(file.stat().st_mtime),
            ]
        )
    return _grid("searched", ["search", "trials + pruned", "dev MRR", "best", "written"], rows)


def _newest(files: Any) -> list[Path]:
    return sorted(files, key=lambda file: -file.stat().st_mtime)


def _json(path: Path) -> dict[str, Any]:
    """What a file says; nothing where it cannot be read: an account never fails for one file."""
    try:
        value = read_json(path)
    except (UserError, OSError):
        return {}
    return value if isinstance(value, dict) else {}


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")


def _grid(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return f"{title}: nothing"
    table = [[title, *heads], *rows[:NEWEST]] if title != "extracted" else [[title, *heads], *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    more = len(rows) - len(table) + 1
    return "\n".join(lines + ([f"and {more} older"] if more > 0 else []))
