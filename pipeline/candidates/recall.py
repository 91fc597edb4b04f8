"""How often the gold is among the candidates, and how many there are."""

from collections.abc import Mapping

import numpy as np

from foundation.tables import TextTable, as_text, text_table
from pipeline.candidates.contracts import CandidateLists
from pipeline.candidates.lists import RankedLists
from pipeline.datasets.records import SPLITS

DEPTHS = (1, 5, 10, 20, 50, 100)


BY_HEART = "train (by heart)"
"""Name of the split train in recall by a run that learned from it."""


def recall(lists: RankedLists, gold: np.ndarray, split: np.ndarray) -> dict[str, dict[str, int | float]]:
    """Split -> `n`, the mentions with a gold in the KB, and depth (`1`, `5`, … up to k) -> share of them whose gold is
    listed by then. Of lists that no retriever ordered: the depth k alone. Train is `BY_HEART` where a trained run made
    the lists of mentions that it had learned from.

    gold: (M,) rows of the KB; negative ones (NIL, or outside the KB) do not count. split: (M,) names.
    """
    places, k = lists.places(gold), lists.ids.shape[1]
    depths = [*(depth for depth in DEPTHS if depth < k and lists.retrieved), k]
    shares = {}
    for name in [name for name in SPLITS if name in split]:
        place = places[(split == name) & (gold >= 0)]
        shown = BY_HEART if name == "train" and lists.by_heart else name
        shares[shown] = {"n": len(place)} | {
            str(depth): round(float(((place > 0) & (place <= depth)).mean()), 6) if len(place) else 0.0
            for depth in depths
        }
    return shares


def per_mention(lengths: np.ndarray, split: np.ndarray) -> dict[str, float]:
    """Split, and `all` -> the mean number of candidates of its mentions; nothing for none. lengths, split: (M,) of each
    mention."""
    if not len(lengths):
        return {}
    names = [*(name for name in SPLITS if name in split), "all"]
    return {name: round(float(lengths[(split == name) | (name == "all")].mean()), 3) for name in names}


def recall_table(lists: CandidateLists) -> str:
    """Recall by source and split, in percent, and candidates per mention, as text."""
    listed = {depth for splits in lists.recall.values() for shares in splits.values() for depth in shares}
    depths = sorted(listed - {"n"}, key=int)
    rows = []
    for label, splits in lists.recall.items():
        for split, shares in splits.items():
            there = [shares["n"] and depth in shares for depth in depths]
            figures = [
                f"{100 * shares[depth]:.2f}" if known else "-" for depth, known in zip(depths, there, strict=True)
            ]
            rows.append([label, split, f"{shares['n']:,}", *figures])
    header = ["candidate recall", "split", "mentions", *(f"@{depth}" for depth in depths)]
    tables = [text_table(header, rows)]
    if lists.per_mention:
        tables.append(per_mention_table({"mean": lists.per_mention}))
    return "\n\n".join(map(as_text, tables)) + "\n"


def per_mention_table(by_label: Mapping[str, Mapping[str, float]]) -> TextTable:
    """A row per candidate lists with what `per_mention` gives of them."""
    splits = next(iter(by_label.values()))
    rows = [[label, *(f"{mean:,.1f}" for mean in means.values())] for label, means in by_label.items()]
    return text_table(["candidates per mention", *splits], rows)
