"""How long a dataset's texts are: figure 7 of MIMIC, table 1 of DRIN, table 2 of DWE+."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, quantiles
from typing import Any

from foundation.spelling import units
from foundation.tables import TextTable, text_table

BIN, LAST = 5, 60
"""Words: width of a bin of the distribution, and where the last one begins, which holds all longer texts too."""
_ROWS = (
    ("samples (distinct sentence and picture)", "samples"),
    ("  mentions in a sample, mean", "mentions_per_sample"),
    ("words in a sample's sentence, mean", "mean"),
    ("  a quarter has at most", "quarter"),
    ("  half have at most", "median"),
    ("  three quarters have at most", "three_quarters"),
    ("  longest", "longest"),
    ("words in a phrase, mean", "phrase_mean"),
)
_WORDS = "Words are what white space separates; in scripts without blanks, characters."
_ENTITY_ROWS = (("words in attributes, mean", "attributes"), ("words in a description, mean", "description"))


def text_statistics(mentions: Mapping[str, Sequence[Any]], entities: Mapping[str, Iterable[Any]]) -> dict[str, Any]:
    """Statistics of a prepared dataset's tables, as account.json holds them. Words: what white space separates;
    in scripts written without blanks, characters.

    `splits`: split -> the figures of `_ROWS`; `lengths`: of how many samples the sentence has 0–4, 5–9, … words,
    the last bin from `LAST` on; empty without mentions. `entities`: mean words of those that have such a text.
    """
    there = [name for name in ("train", "dev", "test") if name in mentions["split"]]
    splits = [*there, "all"] if there else []  # none of a KB alone
    of_split = {}
    for split in splits:
        rows = [row for row, name in enumerate(mentions["split"]) if split in (name, "all")]
        samples = {(mentions["sentence"][row], mentions["image"][row]) for row in rows}
        words = [len(units(sentence)) for sentence, _ in samples]
        quarter, median, three_quarters = (
            quantiles(words, n=4, method="inclusive") if len(words) > 1 else [float(words[0])] * 3
        )
        bins = Counter(min(count, LAST) // BIN for count in words)
        of_split[split] = {
            "samples": len(samples),
            "mentions_per_sample": round(len(rows) / len(samples), 3),
            "mean": round(fmean(words), 3),
            "quarter": quarter,
            "median": median,
            "three_quarters": three_quarters,
            "longest": max(words),
            "phrase_mean": round(fmean(len(units(mentions["phrase"][row])) for row in rows), 3),
            "lengths": [bins[number] for number in range(LAST // BIN + 1)],
        }
    texts = {name: [len(units(text)) for text in entities[name] if text and text.strip()] for name in _OF_ENTITIES}
    return {
        "splits": of_split,
        "entities": {name: round(fmean(words), 3) if words else None for name, words in texts.items()},
    }


_OF_ENTITIES = tuple(name for _, name in _ENTITY_ROWS)


def bin_names() -> list[str]:
    """The bins of `lengths`: `0–4`, `5–9`, …, `60+`."""
    return [*(f"{low}–{low + BIN - 1}" for low in range(0, LAST, BIN)), f"{LAST}+"]


def statistics_tables(texts: Mapping[str, Any]) -> list[TextTable]:
    """The statistics as tables: texts by split, those of entities, and the distribution of the sentences' lengths."""
    splits: Mapping[str, Mapping[str, Any]] = texts["splits"]
    rows = [[label, *(_shown(one[name]) for one in splits.values())] for label, name in _ROWS]
    of_entities = [
        [label, "–" if (mean := texts["entities"][name]) is None else _shown(mean)] for label, name in _ENTITY_ROWS
    ]
    lengths = [
        [name, *(f"{100 * one['lengths'][number] / one['samples']:.1f}" for one in splits.values())]
        for number, name in enumerate(bin_names())
    ]
    entities = text_table(["texts of entities", "all"], of_entities)
    if not splits:
        return [entities]
    return [
        text_table(
            ["texts by split", *splits],
            rows,
            notes=[_WORDS],
        ),
        entities,
        text_table(["words in a sentence, % of samples", *splits], lengths),
    ]


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
