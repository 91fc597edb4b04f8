"""What asking `joint` less costs in right answers, and saves in time: H@1 against the share of mentions asked for.

python benchmarks/joint_below.py --run artifacts/runs/demo/fused/… --data artifacts/demo/world-…

Links the mentions of a split once for each number of `--below`, as LinkMentions does, with a finished run of `fused`
that has `joint` among its parts. Prints a Markdown table: the share asked; H@1 of mentions whose entity is in the KB;
the expected calibration error of the confidence, where a mention with another entity is wrong; mentions per second of
CPU time, without loading. Every mention is linked once before, so that its features are in the cache. `--png` draws the
curve beside the line of asking for as many mentions by chance.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _measure import machine

from linking import Linker, calibration, incoming
from linking.linker import Linked
from pipeline.datasets.records import Mention

BELOW = (1e-6, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
CHUNK = 1024


class Point(NamedTuple):
    """below: the confidence. asked: share of the mentions. rate: mentions per second of CPU."""

    below: float
    asked: float
    hits: float
    ece: float
    rate: float


def read(folder: Path, split: str) -> tuple[list[Mention], list[str | None]]:
    """The mentions of a split of a dataset in the layout jsonl, and the ids of their golds."""
    path = folder / "mentions.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    mentions, golds = [], []
    for line, record in zip(incoming.read(path, folder), records, strict=True):
        if line.value is not None and record.get("split") == split:
            mentions.append(line.value)
            golds.append(record.get("gold"))
    if not mentions:
        raise SystemExit(f"{path}: no mention of {split} can be read")
    return mentions, golds


def measure(run: Path, below: float, mentions: Sequence[Mention], golds: Sequence[str | None], root: Path) -> Point:
    """One number of `--below`."""
    with Linker.load(run).ask_joint_below(below) as linker:
        began = time.process_time()
        answers = link(linker, mentions, root)
        seconds = time.process_time() - began
        known = np.array([gold in linker.kb.rows for gold in golds])
    right = np.array([_first(answer) == gold for answer, gold in zip(answers, golds, strict=True)])
    chance = np.array([answer.confidence for answer in answers])
    return Point(
        below=below,
        asked=float(np.mean([answer.joint for answer in answers])),
        hits=float(right[known].mean()),
        ece=calibration.ece(chance, right, np.ones(len(right))),
        rate=len(mentions) / seconds,
    )


def link(linker: Linker, mentions: Sequence[Mention], root: Path) -> list[Linked]:
    """The answers, in chunks as LinkMentions makes them."""
    starts = range(0, len(mentions), CHUNK)
    return [answer for start in starts for answer in linker.link_all(mentions[start : start + CHUNK], root)]


def _first(answer: Linked) -> str:
    return answer.entities[0].id if answer.entities else ""


def draw(points: Sequence[Point], path: Path) -> None:
    """H@1 in % against the share asked in %."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    asked, hits = [100 * point.asked for point in points], [100 * point.hits for point in points]
    axes.plot(asked, hits, marker="o", label="least sure first")
    axes.plot([asked[0], asked[-1]], [hits[0], hits[-1]], linestyle=":", label="by chance")
    for number, (point, x, y) in enumerate(zip(points, asked, hits, strict=True)):
        up = 8 + 9 * (number % 4)  # neighbours often lie close together
        axes.annotate(f"{point.below:g}", (x, y), (4, -up), fontsize=7, textcoords="offset points")
    axes.margins(y=0.25)
    axes.set_xlabel("% of mentions for which joint is asked")
    axes.set_ylabel("H@1 in %")
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the run's dataset, with mentions.jsonl")
    parser.add_argument("--split", default="test")
    parser.add_argument("--below", type=lambda text: tuple(map(float, text.split(","))), default=BELOW)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    mentions, golds = read(options.data, options.split)
    with Linker.load(options.run) as linker:
        link(linker, mentions, options.data)
    points = [measure(options.run, below, mentions, golds, options.data) for below in sorted(options.below)]
    print(f"{machine()}, {len(mentions):,} mentions of {options.split}\n")
    print("| `--joint-below` | joint asked for | H@1 | ECE | mentions per second of CPU |")
    print("|---|---|---|---|---|")
    for point in points:
        print(f"| {point.below:g} | {point.asked:.1%} | {point.hits:.2%} | {point.ece:.3f} | {point.rate:,.0f} |")
    if options.png:
        draw(points, options.png)


if __name__ == "__main__":
    main()
