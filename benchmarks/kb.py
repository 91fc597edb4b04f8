"""A KB from dumps of Wikidata that are drawn here: rate, memory, and a killed run's bytes.

python benchmarks/kb.py --entities 10000 100000

Prints Markdown: entities per second of CPU by form of the dump, and the hours that Wikidata's 110 million would take;
memory of one process, or of the one that writes and of the largest that reads; and whether builds that were killed, and
gone on with, leave the bytes of one that was not.
"""

import argparse
import bz2
import gzip
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from _measure import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from wikidata_world import COMMON, dump, people

WIKIDATA = 110_000_000
FORMS = (".json", ".json.gz", ".json.bz2")
COLUMNS = (
    "dump",
    "entities",
    "MB of text",
    "entities per second of CPU",
    "MB per second of CPU",
    "hours of a core for Wikidata",
    "memory of one process",
    "with two that read: of the one that writes",
    "of the largest that reads",
)


def build(path: Path, out: Path, processes: int) -> None:
    """One run, in this process; prints what it took as JSON."""
    from pipeline.kb.build import build_kb
    from pipeline.kb.contracts import KBJob

    began = time.perf_counter()
    where, languages = "P31=Q5 or P31=Q4830453", ("en", "de")
    build_kb(KBJob(out=out, dump=path, where=where, languages=languages, processes=processes))
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    took = {"wall": time.perf_counter() - began, "cpu": sum(use.ru_utime + use.ru_stime for use in both)}
    print(json.dumps(took))


def compress(plain: Path, path: Path) -> None:
    """A file as it is published under the name `path`."""
    if path.suffix == ".json":
        shutil.copyfile(plain, path)
        return
    with open(plain, "rb") as source, gzip.open(path, "wb", 1) if path.suffix == ".gz" else bz2.open(path, "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)


def started(path: Path, out: Path, processes: int) -> "subprocess.Popen[str]":
    words = [sys.executable, __file__, "--one", str(path), str(out), str(processes)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def run(path: Path, out: Path, processes: int) -> dict:
    process = started(path, out, processes)
    own = others = 0
    while process.poll() is None:
        own = max(own, _resident(process.pid))
        others = max([others, *map(_resident, _children(process.pid))])
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}")
    return {**json.loads((process.stdout or sys.stdin).read().splitlines()[-1]), "memory": (own, others)}


def _resident(process: int) -> int:
    """Bytes of memory that a process has, 0 for one that has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def _children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def hashes(folder: Path) -> list[str]:
    names = ("entities.jsonl", "labels.tsv", "pictures.jsonl", "sitelinks.jsonl")
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


@dataclass
class Killed:
    """kills: of one build. noted: of them, those after which something was noted. same: whose build, gone on with to
    its end, left the bytes of one that nothing disturbed.
    """

    kills: int = 0
    noted: int = 0
    same: int = 0


def kills(path: Path, folder: Path, most: float, count: int) -> Killed:
    """Kills of one build by two processes, at random within `most` seconds of its start. After each a copy of what it
    left is built to its end, and the build itself is started again for the next kill."""
    killed, copy, took = folder / "killed", folder / "copy", Killed()
    run(path, folder / "whole", 2)
    for _ in range(count):
        process = started(path, killed, 2)
        try:
            process.communicate(timeout=random.uniform(0.5, most))
            break  # it came to its end
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        took.kills += 1
        took.noted += (killed / ".parts" / "scan.json").exists()
        if killed.exists():
            shutil.copytree(killed, copy)
        run(path, copy, 2)
        took.same += hashes(folder / "whole") == hashes(copy)
        shutil.rmtree(copy)
    for place in (killed, folder / "whole"):
        shutil.rmtree(place, ignore_errors=True)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--kill-within", type=float, default=20.0, help="seconds of a build within which it is killed")
    parser.add_argument("--kills", type=int, default=4, help="of a build of each form, of the most entities")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        build(Path(options.one[0]), Path(options.one[1]), int(options.one[2]))
        return
    folder = Path(tempfile.mkdtemp(prefix="kb-"))
    try:
        measure(folder, options)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, options: argparse.Namespace) -> None:
    load = os.getloadavg()[0]
    print(f"{machine()}; load before the start {load:.1f}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for count in options.entities:
        text = dump(folder / "plain.json", chain(COMMON, people(count))).stat().st_size / 1e6
        for form in options.forms:
            path = folder / f"{count}{form}"
            compress(folder / "plain.json", path)
            alone, pair = run(path, folder / "one", 1), run(path, folder / "two", 2)
            assert hashes(folder / "one") == hashes(folder / "two")
            memory = [f"{bytes / 1e6:,.0f} MB" for bytes in (alone["memory"][0], *pair["memory"])]
            rate = count / alone["cpu"]
            numbers = (f"{text:,.0f}", f"{rate:,.0f}", f"{text / alone['cpu']:,.0f}", f"{WIKIDATA / rate / 3600:,.1f}")
            print("| " + " | ".join([f"`{form}`", f"{count:,}", *numbers, *memory]) + " |", flush=True)
            for place in ("one", "two"):
                shutil.rmtree(folder / place)
    print("\n| dump | kills | after something was noted | the same bytes in the end |\n|---|---|---|---|")
    for form in options.forms:
        took = kills(folder / f"{options.entities[-1]}{form}", folder, options.kill_within, options.kills)
        print(f"| `{form}` | {took.kills} | {took.noted} | {took.same} |", flush=True)


if __name__ == "__main__":
    main()
