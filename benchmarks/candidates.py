"""Speed of name candidates at the size of the published KBs, and their agreement with scoring every pair.

    python benchmarks/candidates.py                                   26,000 mentions × 110,000 synthetic names
    python benchmarks/candidates.py --prepared artifacts/datasets/X   a prepared dataset as it is
    python benchmarks/candidates.py --prepared X --names 110000       … its KB enlarged: names of its names' words

Prints a Markdown table row; --check N compares N mentions with brute force; --json FILE keeps the figures.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from _measure import machine
from rapidfuzz import fuzz, process

from foundation.spelling import clean, clean_accented
from pipeline.candidates.name_ranking import SCORERS, NameRanking


def invented_words(rng: random.Random, count: int) -> list[str]:
    """Words of two to four syllables; word r is about 1/r as frequent as the first, as in real names."""
    words = [
        "".join(rng.choice("bdfghjklmnprstvw") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))
        for _ in range(count)
    ]
    return [word for rank, word in enumerate(words, 1) for _ in range(max(1, count // (20 * rank)))]


def recombined(rng: random.Random, words: Sequence[str], names: int) -> list[str]:
    """Names of one to four words drawn from `words`."""
    return [" ".join(rng.choice(words) for _ in range(rng.choice((1, 2, 2, 2, 2, 3, 3, 4)))) for _ in range(names)]


def shortened(rng: random.Random, name: str) -> str:
    """A phrase as sentences write it: a name without one of its words, or with a slip of the pen."""
    words = name.split()
    if len(words) > 1 and rng.random() < 0.5:
        del words[rng.randrange(len(words))]
    phrase = " ".join(words)
    if rng.random() < 0.2:
        place = rng.randrange(len(phrase))
        phrase = phrase[:place] + rng.choice("aeinrst") + phrase[place + 1 :]
    return phrase


def brute_force(phrase: str, names: list[str], ids: Sequence[str], k: int, scorer: str) -> list[int]:
    """The definition: every pair scored, all of them sorted."""
    keys = []
    for measure in (getattr(fuzz, scorer), fuzz.ratio):
        for spelled in (clean, clean_accented):
            spellings = [spelled(name) for name in names]
            scores = process.cdist([spelled(phrase)], spellings, scorer=measure, dtype=np.float64)[0]
            keys.append(-scores.astype(np.float32))
    order = sorted(np.flatnonzero(keys[0]).tolist(), key=lambda row: (*(key[row] for key in keys), ids[row]))
    return order[:k]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, help="folder with mentions.parquet and entities.parquet")
    parser.add_argument("--mentions", type=int, help="phrases (26,000 if synthetic, otherwise all)")
    parser.add_argument("--names", type=int, help="names in the KB (110,000 if synthetic, otherwise all)")
    parser.add_argument("--scorer", default=SCORERS[0], choices=SCORERS)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--check", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    rng = random.Random(0)
    if options.prepared:
        names = pq.read_table(options.prepared / "entities.parquet", columns=["name"])["name"].to_pylist()
        phrases = pq.read_table(options.prepared / "mentions.parquet", columns=["phrase"])["phrase"].to_pylist()[
            : options.mentions
        ]
        words = [word for name in names for word in name.split()]
        names += recombined(rng, words, max(0, (options.names or 0) - len(names)))
    else:
        names = recombined(rng, invented_words(rng, 40_000), options.names or 110_000)
        phrases = [shortened(rng, rng.choice(names)) for _ in range(options.mentions or 26_000)]
    ids = [f"Q{number}" for number in rng.sample(range(10 * len(names)), len(names))]

    started = time.perf_counter()
    lists = NameRanking(names, ids, options.scorer, options.workers).lists(phrases, options.k)
    seconds = time.perf_counter() - started
    distinct, rate = len(set(map(clean, phrases))), round(len(phrases) * len(names) / seconds)
    figures = {
        "benchmark": "candidates",
        "machine": machine(),
        "mentions": len(phrases),
        "distinct": distinct,
        "names": len(names),
        "scorer": options.scorer,
        "workers": options.workers,
        "seconds": round(seconds, 1),
        "pairs_per_second": rate,
    }
    if options.check:
        rows = rng.sample(range(len(phrases)), min(options.check, len(phrases)))
        same = [
            lists.ids[row][lists.ids[row] >= 0].tolist()
            == brute_force(phrases[row], names, ids, options.k, options.scorer)
            for row in rows
        ]
        figures["identical_lists"] = f"{sum(same)} of {len(same)}"
    print("| mentions | names | scorer | seconds | million pairs/s | identical to brute force | machine |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {len(phrases):,} ({distinct:,} distinct) | {len(names):,} | {options.scorer} | {seconds:.1f} | "
        f"{rate / 1e6:.0f} | {figures.get('identical_lists', 'not checked')} | {machine()} |"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
