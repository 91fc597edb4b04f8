"""Whether candidates by name hold the gold, and whether names are found however they are typed.

    python benchmarks/names.py PATH           a dataset's folder, in any layout

Prints two Markdown tables: recall of the source `name` at 1, 10 and 100 by split; and how often an entity is found by
its last name alone, of those whose last name bears an accent: as written, typed without accents, and in NFD.
"""

import argparse
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.candidates.name_ranking import SCORERS, NameRanking
from pipeline.datasets.layouts import load

DEPTHS = (1, 10, 100)


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def unaccented(text: str) -> str:
    return unicodedata.normalize("NFC", "".join(sign for sign in decomposed(text) if not unicodedata.combining(sign)))


def percentages(ranking: NameRanking, phrases: list[str], gold: np.ndarray) -> str:
    """Table cells: the share of golds in the first 1, 10 and 100."""
    places = ranking.lists(phrases, max(DEPTHS)).places(gold)
    return " | ".join(f"{100 * ((places > 0) & (places <= depth)).mean():.2f}" for depth in DEPTHS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the dataset's folder")
    parser.add_argument("--scorer", default=SCORERS[0], choices=SCORERS)
    parser.add_argument("--workers", type=int, default=-1)
    options = parser.parse_args()
    dataset = load("names", options.data)
    entities = dataset.entities
    row_of = {entity.id: row for row, entity in enumerate(entities)}
    aliases = [entity.aliases for entity in entities] if any(entity.aliases for entity in entities) else None
    ranking = NameRanking([one.name for one in entities], list(row_of), options.scorer, options.workers, aliases)

    print("| split | mentions | recall @1 | @10 | @100 |\n|---|---|---|---|---|")
    for split in ("train", "dev", "test"):
        mentions = [
            (one.phrase, row_of[one.gold]) for one in dataset.mentions if one.split == split and one.gold in row_of
        ]
        gold = np.array([row for _, row in mentions], np.int64)
        print(f"| {split} | {len(mentions):,} | {percentages(ranking, [phrase for phrase, _ in mentions], gold)} |")

    last = [(entity.name.split()[-1], row) for row, entity in enumerate(entities)]
    accented = [(name, row) for name, row in last if unaccented(name) != unicodedata.normalize("NFC", name)]
    gold = np.array([row for _, row in accented], np.int64)
    print(f"\n| {len(accented):,} last names with accents | found @1 | @10 | @100 |\n|---|---|---|---|")
    typed: dict[str, Callable[[str], str]] = {"as written": str, "without accents": unaccented, "NFD": decomposed}
    for label, spelled in typed.items():
        print(f"| {label} | {percentages(ranking, [spelled(name) for name, _ in accented], gold)} |")


if __name__ == "__main__":
    main()
