"""Names looked up in an index against all names compared: time per phrase, and how often the gold is found.

    python benchmarks/name_index.py                                  100,000 entities, 1,000 phrases
    python benchmarks/name_index.py --entities 1000000 --phrases 500
    python benchmarks/name_index.py --data-dir PATH --phrases 0      all mentions and entities of WikiMEL

The KB is made from --seed: words as frequent as in real names, and --shared of the entities have a name that another
one has too, some names a thousand times. A phrase is the name of a random entity, in more than half of the cases
without one of its words, with letters mistaken, in other case or without accents. Prints a Markdown table; times are
per distinct phrase.
"""

import argparse
import random
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _measure import PeakMemory, machine, now
from candidates import invented_words, recombined

from pipeline.candidates.indexed_names import IndexedNames
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.name_ranking import SCORERS, NameRanking
from pipeline.datasets.layouts import load

DEPTHS = (1, 10, 100)
ACCENTED = {"a": "á", "e": "é", "i": "ï", "o": "ö", "u": "ü", "n": "ñ", "s": "š"}


def shared_names(rng: random.Random, entities: int, shared: float) -> list[str]:
    """Names of which a share is those of several entities: the r-th of them is about 1/r as frequent as the first."""
    words = [
        "".join(ACCENTED.get(letter, letter) for letter in word) if rng.random() < 0.1 else word
        for word in invented_words(rng, 40_000)
    ]
    several = round(shared * entities)
    names = [name.title() for name in recombined(rng, words, entities)]
    common = names[: max(1, several // 8)]
    weights = [1 / rank for rank in range(1, len(common) + 1)]
    names[entities - several :] = rng.choices(common, weights, k=several)
    rng.shuffle(names)
    return names


def typed(rng: random.Random, name: str) -> str:
    """A name as somebody types it."""
    words = name.split()
    if len(words) > 1 and rng.random() < 0.3:
        del words[rng.randrange(len(words))]
    phrase = " ".join(words)
    if rng.random() < 0.3:
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(phrase))
            phrase = phrase[:at] + rng.choice(("", phrase[at] * 2, rng.choice("aeinrst"))) + phrase[at + 1 :]
    if rng.random() < 0.2:
        phrase = rng.choice((str.upper, str.lower))(phrase)
    if rng.random() < 0.2:
        decomposed = unicodedata.normalize("NFD", phrase)
        phrase = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return phrase if phrase.strip() else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--phrases", type=int, default=1_000, help="0: all mentions of --data-dir")
    parser.add_argument("--shared", type=float, default=0.3, help="share of entities whose name another one has too")
    parser.add_argument("--data-dir", type=Path, help="folder of WikiMEL, whose names and mentions are taken instead")
    parser.add_argument("--scorer", default=SCORERS[0], choices=SCORERS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    rng = random.Random(options.seed)
    if options.data_dir:
        data = load("wikimel", options.data_dir)
        names, ids = [one.name for one in data.entities], [one.id for one in data.entities]
        row_of = {name: row for row, name in enumerate(ids)}
        linked = [one for one in data.mentions if one.gold in row_of]
        if options.phrases:
            linked = rng.sample(linked, min(options.phrases, len(linked)))
        phrases, gold = [one.phrase for one in linked], np.array([row_of[str(one.gold)] for one in linked])
    else:
        names = shared_names(rng, options.entities, options.shared)
        ids = [f"Q{number}" for number in rng.sample(range(10 * len(names)), len(names))]
        gold = np.array([rng.randrange(len(names)) for _ in range(options.phrases)])
        phrases = [typed(rng, names[row]) for row in gold.tolist()]
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    several = sum(count for count in counts.values() if count > 1) / len(names)
    distinct = len(set(phrases))
    print(
        f"{len(names):,} entities, {several:.1%} with a name that is another's too (at most {max(counts.values()):,});"
    )
    print(f"{len(phrases):,} phrases, {distinct:,} distinct; {options.scorer}; {machine()}", flush=True)

    with TemporaryDirectory() as place:
        with PeakMemory() as memory:
            began = now()
            IndexedNames.of(names, ids, options.scorer, None, Path(place))
            building = now() - began
        size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
        began = now()
        index = IndexedNames.of(names, ids, options.scorer, None, Path(place))
        index.lists(phrases[:1], 100)
        opening = now() - began
        more = (memory.peak - memory.before) / 1e6
        print(
            f"index: built in {building[0]:.1f} s ({building[1]:.1f} CPU s) with {more:,.0f} MB, {size / 1e6:,.1f} MB;"
        )
        print(f"opened, and the first phrase: {opening[0]:.2f} s ({opening[1]:.2f} CPU s)")
        exact = NameRanking(names, ids, options.scorer, options.workers)
        exact.lists(phrases[:1], 100)
        print("\n| source | ms per phrase | CPU ms | recall @1 | @10 | @100 |\n|---|---|---|---|---|---|")
        for label, ranking in (("name-exact", exact), ("name-index", index)):
            began = now()
            lists: RankedLists = ranking.lists(phrases, 100)
            wall, cpu = 1e3 * (now() - began) / distinct
            place_of = lists.places(gold)
            shares = " | ".join(f"{((place_of > 0) & (place_of <= depth)).mean():.2%}" for depth in DEPTHS)
            print(f"| {label} | {wall:.2f} | {cpu:.2f} | {shares} |")


if __name__ == "__main__":
    main()
