"""Mentions that a run links per second, in chunks as LinkMentions does and one at a time.

python benchmarks/linking_rate.py --run artifacts/runs/wikimel/ranker/… --input new.jsonl

Prints a Markdown table: mentions per second of CPU time, and of the clock. Every mention is linked once before, so that
features that the run reads are in the cache; `--cold` leaves that out.
"""

import argparse
import time
from pathlib import Path

from _measure import machine

from linking import Linker, incoming


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--single", type=int, default=200, help="mentions that are linked one at a time")
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    linker, root = Linker.load(options.run.absolute()), options.input.absolute().parent
    lines = incoming.read(options.input, root)
    mentions = [line.value for line in lines if line.value is not None]
    chunks = [mentions[start : start + options.chunk] for start in range(0, len(mentions), options.chunk)]
    if not options.cold:
        for chunk in chunks:
            linker.link_all(chunk, root)
    print(f"{machine()}, {len(mentions):,} mentions, KB of {len(linker.kb):,} entities\n")
    print("| mentions at a time | per second of CPU | per second |")
    print("|---|---|---|")
    for parts in (chunks, [[mention] for mention in mentions[: options.single]]):
        began = time.perf_counter(), time.process_time()
        for part in parts:
            linker.link_all(part, root)
        count = sum(map(len, parts))
        wall, busy = time.perf_counter() - began[0], time.process_time() - began[1]
        print(f"| {len(parts[0]):,} | {count / busy:,.0f} | {count / wall:,.0f} |")


if __name__ == "__main__":
    main()
