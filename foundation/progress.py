"""Progress of long work: a bar with rate and remaining time on a terminal, and a small file for the parent process."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

FILE = "MEL_PROGRESS"
"""Environment variable: the file that the process which started this one looks at."""
NO_BAR = "MEL_NO_BAR"
"""Environment variable: where it is set, no bar is drawn; the process that started this one draws one for several."""
EVERY = 0.5  # seconds between two notes in that file
DELAY = 1.0  # seconds before a bar is drawn: short work draws none


class Bar:
    """Progress of `total` steps (None: unknown). Quiet where stderr is no terminal. Use as a context manager."""

    def __init__(self, total: int | None, what: str, unit: str, done: int = 0, quiet: bool = False) -> None:
        self.total, self.what, self.unit, self.first, self.done = total, what, unit, done, done
        self._began = self._noted = time.monotonic()
        hidden = quiet or not sys.stderr.isatty() or bool(os.environ.get(NO_BAR))
        self._drawn = tqdm(
            total=total,
            initial=done,
            desc=what,
            unit=unit,
            unit_scale=(total or 0) >= 10_000,
            disable=hidden,
            smoothing=0.1,
            delay=DELAY,
            dynamic_ncols=True,
        )

    def update(self, count: int = 1) -> None:
        """Count `count` more steps as done."""
        self.done += count
        self._drawn.update(count)
        now = time.monotonic()
        if now - self._noted >= EVERY:
            self._noted = now
            self._note(now)

    def skip(self, count: int) -> None:
        """Count `count` steps as done that this process found done: they do not count for its rate."""
        self.first += count
        self.update(count)

    def show(self, **values: str) -> None:
        """Short figures beside the bar."""
        self._drawn.set_postfix(values)

    def state(self, now: float) -> dict[str, Any]:
        """what, unit, done, total, own (done by this process), rate (per second, of this process), left_s (None where
        unknown)."""
        rate = (self.done - self.first) / max(now - self._began, 1e-9)
        left = (self.total - self.done) / rate if self.total is not None and rate > 0 else None
        return {
            "what": self.what,
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "own": self.done - self.first,
            "rate": float(f"{rate:.3g}"),
            "left_s": None if left is None else round(left, 1),
        }

    def _note(self, now: float) -> None:
        path = os.environ.get(FILE)
        if not path:
            return
        temporary = Path(f"{path}.{os.getpid()}")
        with contextlib.suppress(OSError):  # whoever looked at it may be gone
            temporary.write_text(json.dumps(self.state(now)), "utf-8")
            os.replace(temporary, path)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._note(time.monotonic())
        self._drawn.close()


def read(path: Path) -> dict[str, Any] | None:
    """The last state in a progress file; None where there is none."""
    try:
        note: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return note
    except (OSError, ValueError):
        return None


def text(state: dict[str, Any]) -> str:
    """One line: `training: 1,024 of 5,000 mentions, 210 per s, 0:19 left`."""
    of = f"{state['done']:,}" + (f" of {state['total']:,}" if state["total"] is not None else "")
    left = "" if state["left_s"] is None else f", {tqdm.format_interval(state['left_s'])} left"
    return f"{state['what']}: {of} {state['unit']}s, {state['rate']:g} per s{left}"
