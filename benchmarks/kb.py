"""A KB from dumps of Wikidata that are drawn here: rate, memory, and a killed run's bytes.

python benchmarks/kb.py --entities 10000 100000

Prints Markdown: entities per second of CPU by form of the dump, memory of the process that writes and of the largest
that reads, and whether a run that was killed again and again leaves the bytes of one that was not.
"""

import argparse
import bz2
import gzip
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

from _measure import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from wikidata_world import COMMON, dump, people

WIKIDATA = 110_000_000
FORMS = (".json", ".json.gz", ".json.bz2")


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


def kills(path: Path, folder: Path, seconds: float, most: int) -> tuple[int, bool]:
    """Kills of a run, `most` of them, one each `seconds`, and whether its bytes are those of one without."""
    run(path, folder / "whole", 2)
    count = 0
    while True:
        process = started(path, folder / "killed", 2)
        try:
            process.communicate(timeout=seconds if count < most else None)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            count += 1
    return count, hashes(folder / "whole") == hashes(folder / "killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--kill-after", type=float, default=12.0, help="seconds between two kills")
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        build(Path(options.one[0]), Path(options.one[1]), int(options.one[2]))
        return
    folder = Path(tempfile.mkdtemp(prefix="kb-"))
    try:
        print(f"{machine()}\n\n| dump | entities | MB of text | entities per second of CPU | MB per second of CPU |")
        print("|---|---|---|---|---|")
        memory = []
        rate = 0.0
        for count in options.entities:
            text = dump(folder / "plain.json", chain(COMMON, people(count))).stat().st_size / 1e6
            for form in options.forms:
                path = folder / f"{count}{form}"
                compress(folder / "plain.json", path)
                took = run(path, folder / f"one-{count}{form}", 1)
                rate = count / took["cpu"]
                print(f"| `{form}` | {count:,} | {text:,.0f} | {rate:,.0f} | {text / took['cpu']:,.0f} |", flush=True)
                both = run(path, folder / f"two-{count}{form}", 2)
                memory.append((form, count, *both["memory"]))
        print(
            "\n| dump | entities | memory of the process that writes | of the largest that reads |\n|---|---|---|---|"
        )
        for form, count, writes, reads in memory:
            print(f"| `{form}` | {count:,} | {writes / 1e6:,.0f} MB | {reads / 1e6:,.0f} MB |")
        hours = WIKIDATA / rate / 3600
        print(f"\n{WIKIDATA:,} entities of this size as `{options.forms[-1]}`: {hours:,.1f} hours of one core")
        killed, same = kills(path, folder, options.kill_after, options.kills)
        print(f"\nkilled {killed} times, once every {options.kill_after:g} s: the same bytes: {same}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
