"""The lists of several sources, in an order in which some may look at those of others."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.candidates.base import Source, SourceInputs
from pipeline.candidates.lists import RankedLists


@dataclass(frozen=True)
class Retrieved:
    """A source and its lists. seconds: what they took."""

    source: Source
    lists: RankedLists
    seconds: float


def retrieve(sources: Sequence[Source], inputs: SourceInputs, k: int) -> list[Retrieved]:
    """The first k entities of each source, in the order of the sources.

    A source that waits for the others sees those of their lists that a retriever ordered without having learned from
    these mentions: no order that knows a gold decides which entities stay. Raises `UserError`.
    """
    found: dict[int, Retrieved] = {}
    waiting = [source.waits(inputs) for source in sources]
    for place in sorted(range(len(sources)), key=waiting.__getitem__):
        before = [found[other].lists for other in sorted(found) if not waiting[other]]
        beside = [lists for lists in before if lists.retrieved and not lists.by_heart]
        started = time.monotonic()
        seen = replace(inputs, beside=beside) if waiting[place] else inputs
        lists = sources[place].lists(seen, k)
        found[place] = Retrieved(sources[place], lists, time.monotonic() - started)
    return [found[place] for place in range(len(sources))]
