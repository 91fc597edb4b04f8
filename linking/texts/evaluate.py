"""Found and linked spans against annotated ones: precision, recall and F1 of mentions and links."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from linking.texts.contracts import EndToEnd, Rates
from linking.texts.incoming import Annotation


@dataclass(frozen=True)
class Answered:
    """A found span with its answer. entity: None for NIL."""

    start: int
    end: int
    entity: str | None


@dataclass
class _Count:
    found: int = 0
    gold: int = 0
    right: int = 0

    def add(self, found: int, gold: int, right: int) -> None:
        self.found += found
        self.gold += gold
        self.right += right

    @property
    def rates(self) -> Rates:
        return Rates(found=self.found, gold=self.gold, right=self.right)


@dataclass
class Evaluation:
    """Counts over texts. known: ids of the KB; a gold that it has not is NIL."""

    known: Collection[str]
    texts: int = 0
    _mentions: _Count = field(default_factory=_Count)
    _overlapping: _Count = field(default_factory=_Count)
    _links: _Count = field(default_factory=_Count)
    _of_found: _Count = field(default_factory=_Count)

    def add(self, answered: Sequence[Answered], annotated: Sequence[Annotation]) -> None:
        """Count a text."""
        gold = {(one.start, one.end): one.gold if one.gold in self.known else None for one in annotated}
        found = {(one.start, one.end): one.entity for one in answered}
        exact = found.keys() & gold.keys()
        self.texts += 1
        self._mentions.add(len(found), len(gold), len(exact))
        self._overlapping.add(len(found), len(gold), _overlaps(list(found), list(gold)))
        linked = {span: entity for span, entity in found.items() if entity is not None}
        there = {span: entity for span, entity in gold.items() if entity is not None}
        self._links.add(len(linked), len(there), len(linked.items() & there.items()))
        right = sum(found[span] == gold[span] for span in exact)
        self._of_found.add(len(exact), len(exact), right)

    @property
    def result(self) -> EndToEnd | None:
        """None where no text was counted."""
        if not self.texts:
            return None
        return EndToEnd(
            texts=self.texts,
            mentions=self._mentions.rates,
            overlapping=self._overlapping.rates,
            links=self._links.rates,
            linked_of_found=self._of_found.rates,
        )


def _overlaps(found: list[tuple[int, int]], gold: list[tuple[int, int]]) -> int:
    """The most pairs of a found and an annotated span that overlap, each span in one pair. Spans of a list that do not
    overlap among themselves are paired from the left."""
    pairs, left = 0, sorted(gold, key=lambda span: (span[1], span[0]))
    for start, end in sorted(found, key=lambda span: (span[1], span[0])):
        match = next((one for one in left if one[0] < end and start < one[1]), None)
        if match is not None:
            left.remove(match)
            pairs += 1
    return pairs
