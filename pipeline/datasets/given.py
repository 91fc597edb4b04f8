"""Where the gold stands in the lists of candidates that came with the mentions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.datasets.records import SPLITS

MOST_FIRST, REFUSED_FIRST, REFUSED_ELSEWHERE = 0.95, 0.99, 0.95
"""Shares of golds at one place of their lists: at the first one, above which is said and above which is refused (a good
retriever may have the first); at any other place, above which is refused."""
FEWEST = 5
"""Lists below which shares are not looked at: of a split by itself, and of all."""


@dataclass(frozen=True)
class GoldPlaces:
    """Golds in the lists that came with mentions, entities outside the KB left out.

    golds: mentions with a list and with a gold in the KB. places: place from 1 of each of these golds that is in its
    list, and the number of entities there.
    """

    golds: int
    places: tuple[tuple[int, int], ...]

    @property
    def always(self) -> bool:
        """Whether every one of these lists holds its gold."""
        return bool(self.golds) and len(self.places) == self.golds

    def at(self, place: int) -> int:
        """How many golds are at a place from 1."""
        return sum(found == place for found, _ in self.places)

    @property
    def last(self) -> int:
        """How many golds are the last of several."""
        return sum(found == length > 1 for found, length in self.places)

    def most(self) -> "Most":
        """Where most golds are, of lists of several entities each."""
        several = [(found, length) for found, length in self.places if length > 1]
        if not several:
            return Most(0.0, "", 0.0, 0)
        counts = Counter(f"place {found}" for found, _ in several)
        first = counts.pop("place 1", 0)
        counts["the last place"] = sum(found == length for found, length in several)
        place, count = max(counts.items(), key=lambda item: (item[1], item[0] != "the last place"))
        return Most(first / len(several), place, count / len(several), len(several))


@dataclass(frozen=True)
class Most:
    """first: share of golds at place 1. place: in words, where most of the others are; share: theirs. lists: the number
    of lists that these are shares of."""

    first: float
    place: str
    share: float
    lists: int


def gold_places(given: Sequence[Sequence[int] | None], gold: Sequence[int]) -> GoldPlaces:
    """given: rows of the KB that came with each of M mentions, None where none came. gold (M,): rows, negative for
    none.
    """
    lists = [(entity, list(listed)) for entity, listed in zip(gold, given, strict=True) if listed is not None]
    known = [(entity, listed) for entity, listed in lists if entity >= 0]
    places = tuple((listed.index(entity) + 1, len(listed)) for entity, listed in known if entity in listed)
    return GoldPlaces(len(known), places)


def by_split(given: Sequence[Sequence[int] | None], gold: Sequence[int], split: Sequence[str]) -> dict[str, GoldPlaces]:
    """`gold_places` of each split that has mentions, and of `all`."""
    parts = {}
    for name in (*(name for name in SPLITS if name in split), "all"):
        rows = [row for row, own in enumerate(split) if name in (own, "all")]
        parts[name] = gold_places([given[row] for row in rows], [gold[row] for row in rows])
    return parts
