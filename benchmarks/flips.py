"""Files of a work folder with one bit flipped: how many VerifyCache names, and what the others would change.

python benchmarks/flips.py --work-dir artifacts [--flips 200] [--seed 0] [--commands 0]

The work folder is copied, never written to. Of each kind of file one is taken, the largest. A flip is *noticed* where
the check that VerifyCache makes lists the file; *harmless* where it does not and the file still says the same (white
space in JSON, times in the head of an .npz file); else *unnoticed*. With --commands N, the command that left the
file is also run again after each of the first N flips: it must make the file again, or end in one line. Seconds per
kind without that; exits with 1 where anything is unnoticed.
"""

import argparse
import json
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import layout
from foundation.checksums import SEAL
from foundation.remedies import COMMAND, maker
from mel_cache.contracts import VerifyJob
from mel_cache.verification import verify

KINDS = {
    "mentions": "datasets/*/mentions.parquet",
    "entities": "datasets/*/entities.parquet",
    "account": "datasets/*/account.json",
    "account, as text": "datasets/*/account.txt",
    "key column": "datasets/*/columns-*/*.npz",
    "candidate lists": "datasets/*/candidates-*.npz",
    "account of the lists": "datasets/*/candidates-*.json",
    "pair feature": "datasets/*/pairs-*.npz",
    "descriptions": "datasets/*/descriptions-*.parquet",
    "shard": "cache/*/*.h5",
    "list of layers": "cache/layers.json",
    "spec and probe": "cache/*/spec.json",
    "weights": "runs/*/*/*/model.safetensors",
    "predictions": "runs/*/*/*/predictions.parquet",
    "metrics": "runs/*/*/*/metrics.json",
    "metrics, as text": "runs/*/*/*/metrics.txt",
    "learning curve": "runs/*/*/*/history.json",
    "configuration": "runs/*/*/*/config.json",
    "record of the run": "runs/*/*/*/run.json",
    "parts of fused": "runs/*/*/*/parts/*.npz",
    "mean over seeds": "runs/*/*/*/metrics-mean.json",
    "search": "sweeps/*/*/*/study.json",
    "best parameters": "sweeps/*/*/*/best.json",
    "journal of a search": "sweeps/*/*/*/study.journal",
    "leaderboard": "reports/*/*/leaderboard.txt",
    "receipt": "receipts/*.json",
    "remembered hashes": "memo/*.json",
}


@dataclass(frozen=True)
class Tally:
    """What became of the flips in one kind of file."""

    kind: str
    file: str
    counts: Counter[str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("artifacts"))
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="", help="comma-separated; empty: all")
    parser.add_argument("--commands", type=int, default=0, help="flips after which the command is run too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mel-flips-") as folder:
        work = Path(folder) / "work"
        shutil.copytree(given.work_dir, work, symlinks=True)
        before = verify(VerifyJob(work=work))
        if before.bad:
            print(f"{given.work_dir}: {len(before.bad)} files are bad before any flip, the first {before.bad[0].path}")
            return 1
        tallies = [
            tally(kind, path, work, given)
            for kind, pattern in KINDS.items()
            if kind in (given.kinds.split(",") if given.kinds else KINDS)
            and (path := max(work.glob(pattern), key=lambda one: one.stat().st_size, default=None)) is not None
        ]
    print("| file | flips | noticed | harmless | unnoticed | mended by its command |\n|---|---|---|---|---|---|")
    for one in tallies:
        shown = [one.counts[name] for name in ("noticed", "harmless", "unnoticed")]
        mended = f"{one.counts['mended']} of {one.counts['run']}" if one.counts["run"] else "–"
        print(f"| {one.kind} (`{one.file}`) | {sum(shown)} | {' | '.join(map(str, shown))} | {mended} |")
    absent = [kind for kind, pattern in KINDS.items() if not any(given.work_dir.glob(pattern))]
    print(f"\nnot in this work folder: {', '.join(absent) or 'none'}")
    return int(any(one.counts["unnoticed"] or one.counts["run"] > one.counts["mended"] for one in tallies))


def tally(kind: str, path: Path, work: Path, given: argparse.Namespace) -> Tally:
    """Flip bits of one file, one at a time, and put it back."""
    whole, draw, counts = path.read_bytes(), random.Random(f"{given.seed} {kind}"), Counter[str]()
    meaning = said(path)
    name = path.relative_to(work).as_posix()
    for number in range(given.flips):
        data = bytearray(whole)
        place = draw.randrange(8 * len(data))
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        listed = {one.path for one in verify(VerifyJob(work=work, shards=path.suffix == ".h5")).bad}
        verdict = "noticed" if name in listed else "harmless" if said(path) == meaning else "unnoticed"
        counts[verdict] += 1
        if verdict == "unnoticed":
            print(f"unnoticed: {name}, bit {place % 8} of byte {place // 8}", file=sys.stderr)
        if number < given.commands and verdict == "noticed" and maker(path).endswith("`"):  # one command line
            counts["run"] += 1
            counts["mended"] += mended(path, work)
        path.write_bytes(whole)
    print(f"{kind}: {dict(counts)}", file=sys.stderr, flush=True)
    return Tally(kind, Path(name).name if len(name) > 60 else name, counts)


def mended(path: Path, work: Path) -> bool:
    """Whether the command that left a file makes it again, or says in one line what does; nothing is bad then."""
    command = maker(path).strip("`")
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(command)], capture_output=True, text=True, check=False, timeout=3600
        )
        if "Traceback" in done.stdout + done.stderr:
            return False
        if done.returncode == 0:
            return not verify(VerifyJob(work=work)).bad
        if "delete it and run" not in done.stderr:
            return False
        path.unlink()
    return False


def said(path: Path) -> Any:
    """What a file says to its reader; None where it can no longer be read."""
    try:
        return READERS.get(path.suffix, Path.read_bytes)(path)
    except Exception:  # whatever a reader makes of a damaged file: it is not as before
        return None


def _json(path: Path) -> Any:
    value = json.loads(path.read_text())
    return {key: item for key, item in value.items() if key != SEAL} if isinstance(value, dict) else value


def _journal(path: Path) -> Any:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _shard(path: Path) -> Any:
    contents = layout.read(path)
    return {name: np.asarray(array).tobytes() for name, array in contents.arrays.items()}, str(contents.attributes)


def _arrays(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as saved:
        return {name: (saved[name].dtype.str, saved[name].shape, saved[name].tobytes()) for name in saved.files}


READERS: dict[str, Callable[[Path], Any]] = {".json": _json, ".journal": _journal, ".h5": _shard, ".npz": _arrays}


if __name__ == "__main__":
    assert COMMAND.startswith("luigi")
    sys.exit(main())
