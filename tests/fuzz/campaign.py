"""The long campaign: `python -m fuzz.campaign`, thousands of odd inputs for every target, and a table of what came.

Each target runs in a process of its own, which is stopped where an input takes too long. Memory is that of the process
beyond what it had when the input began, so the libraries are not counted.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from foundation.tables import as_text, text_table
from fuzz.target import Hang, Outcome, Target, answer, empty_folder
from fuzz.targets import LONG

INPUTS = 24_000
SECONDS, MEGABYTES = 1.0, 200.0
"""What an input may take beside the libraries."""
PATIENCE = 20
"""Seconds after which an input counts as a hang."""
ROOM = 8 << 30
"""Bytes of address space that an input may take; without a bound, one input could stop the machine."""


@dataclass
class Row:
    """What became of a target's inputs. problems: those that were uncaught, too slow or too large."""

    kind: str
    inputs: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0
    largest: float = 0.0
    problems: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, megabytes: float, value: Any) -> None:
        self.inputs += 1
        self.verdicts[outcome.verdict] = self.verdicts.get(outcome.verdict, 0) + 1
        self.slowest, self.largest = max(self.slowest, outcome.seconds), max(self.largest, megabytes)
        bad = outcome.verdict in ("uncaught", "hang") or outcome.seconds > SECONDS or megabytes > MEGABYTES
        if bad and len(self.problems) < 20:
            took = f"{1000 * outcome.seconds:.0f} ms, {megabytes:.0f} MB"
            self.problems.append(f"{outcome.verdict} ({took}): {outcome.message[:300]} <- {value!r:.300}")


class Memory:
    """The most memory that this process had since `start`, beyond what it had then, in MB."""

    def start(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self.before = self._status("VmRSS")

    def taken(self) -> float:
        return max(0.0, (self._status("VmHWM") - self.before) / 1024)

    @staticmethod
    def _status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def run_target(target: Target, inputs: int, number: int, note: Path) -> Row:
    """The target's row over so many inputs. number: of the seed. note: file of the input under way, for the parent."""
    row, memory = Row(target.kind), Memory()
    with empty_folder() as folder:  # the libraries are loaded, and the caches of the first call are filled
        answer(target, target.valid(), folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))

    def one(value: Any) -> None:
        note.write_text(f"{row.inputs} {value!r:.2000}", errors="backslashreplace")
        with empty_folder() as folder:
            memory.start()
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
            try:
                outcome = answer(target, value, folder)
            except Hang:
                outcome = Outcome("hang", "did not end", PATIENCE)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            row.add(outcome, memory.taken(), value)

    for value in target.hard():
        one(value)
    many = settings(
        max_examples=max(1, inputs - row.inputs),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    many(seed(number)(given(target.inputs)(one)))()
    return row


def _hang(*_: Any) -> None:
    raise Hang


def _child(target: Target, inputs: int, number: int, note: Path, out: Path) -> None:
    signal.signal(signal.SIGALRM, _hang)
    out.write_text(json.dumps(asdict(run_target(target, inputs, number, note))))


def in_process(target: Target, inputs: int, number: int) -> Row:
    """`run_target` in a process of its own, ended where an input holds it for good or it dies of one.

    It is forked, so that what all targets import is imported once.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-campaign-") as folder:
        note, out = Path(folder) / "note", Path(folder) / "out"
        process = multiprocessing.get_context("fork").Process(target=_child, args=(target, inputs, number, note, out))
        process.start()
        last, since = "", time.monotonic()
        while process.is_alive():
            process.join(0.2)
            noted = note.read_text(errors="replace") if note.exists() else ""
            if noted != last:
                last, since = noted, time.monotonic()
            elif time.monotonic() - since > 6 * PATIENCE:
                process.kill()
        if out.exists():
            return Row(**json.loads(out.read_text()))
        done = int(last.partition(" ")[0] or 0)
        verdict = "hang" if process.exitcode == -signal.SIGKILL else "uncaught"
        problem = f"{verdict} (the process ended with {process.exitcode}) <- {last}"
        return Row(target.kind, done + 1, {verdict: 1}, problems=[problem])


def table(rows: list[Row]) -> str:
    """The rows and their sum, as the documentation shows them."""
    total = Row(
        "all",
        sum(row.inputs for row in rows),
        sum((Counter(row.verdicts) for row in rows), Counter()),
        max(row.slowest for row in rows),
        max(row.largest for row in rows),
    )
    cells = [
        [
            row.kind,
            f"{row.inputs:,}",
            f"{row.verdicts.get('accepted', 0):,}",
            f"{row.verdicts.get('refused', 0):,}",
            str(row.verdicts.get("uncaught", 0)),
            str(row.verdicts.get("hang", 0)),
            f"{1000 * row.slowest:.0f}",
            f"{row.largest:.0f}",
        ]
        for row in (*rows, total)
    ]
    header = ["inputs of", "inputs", "accepted", "one line", "uncaught", "hangs", "slowest ms", "largest MB"]
    return as_text(text_table(header, cells))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Odd inputs for every reader of what comes from outside.")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="how many, over all kinds")
    parser.add_argument("--seed", type=int, default=None, help="of the inputs; a random one where none is given")
    parser.add_argument("--kind", default="", help="only kinds whose name holds this")
    given = parser.parse_args(arguments)
    number = random.randrange(10**6) if given.seed is None else given.seed
    targets = [target for target in LONG if given.kind in target.kind]
    shares = sum(target.share for target in targets)
    print(f"seed {number}", flush=True)
    rows = []
    for target in targets:
        row = in_process(target, -(-given.inputs * target.share // shares), number)
        rows.append(row)
        found = f"{row.inputs:,} inputs, {row.verdicts}, {1000 * row.slowest:.0f} ms, {row.largest:.0f} MB at most"
        print("\n  ".join([f"{target.kind}: {found}", *row.problems]), file=sys.stderr, flush=True)
    print(table(rows))
    return 1 if any(row.problems for row in rows) else 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
