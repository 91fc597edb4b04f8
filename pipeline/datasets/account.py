"""The account of a dataset: what is in it, counted by split, and printed as tables."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import repeat
from typing import Any

import numpy as np

from cache.shard import Status
from foundation.spelling import words
from foundation.tables import TextTable, as_text, text_table
from pipeline.datasets.entity_table import EntityTable
from pipeline.datasets.given import GoldPlaces, by_split
from pipeline.datasets.records import SPLITS, Entity, RawDataset
from pipeline.datasets.scan import Scan
from pipeline.datasets.tables import NIL, OUTSIDE_KB, STATUS_NAMES
from pipeline.datasets.text_statistics import statistics_tables

SHOWN_REJECTS = 20
"""Records left out that the account lists; rejects.jsonl has them all."""
_ROWS = (
    ("mentions", "mentions"),
    ("  gold is NIL", "nil"),
    ("  gold outside the KB", "outside_kb"),
    ("  gold unseen in training", "gold_unseen"),
    ("  sentence also in training", "sentence_in_train"),
    ("  phrase is the gold's name", "phrase_is_name"),
    ("  phrase ambiguous", "ambiguous"),
    ("  phrase found as written", "span_literal"),
    ("  phrase found in another form", "span_loose"),
    ("  phrase not found", "span_missing"),
    ("  without a phrase", "phrase_empty"),
    ("distinct golds in the KB", "golds"),
    ("distinct sentences", "sentences"),
)
_GIVEN_ROWS = (
    ("mentions that came with candidates", "mentions"),
    ("  gold in the KB", "golds"),
    ("  gold among them", "gold"),
    ("    at place 1", "gold_first"),
    ("    at place 2", "gold_second"),
    ("    at place 3", "gold_third"),
    ("    last of several", "gold_last"),
    ("candidates", "candidates"),
    ("  outside the KB", "outside_kb"),
)
_ALIAS_ROWS = (
    ("  with aliases", "with_aliases"),
    ("aliases", "aliases"),
    ("  also a name of another entity", "shared_aliases"),
)
_IMAGE_ROWS = (
    ("ok", "ok"),
    ("missing", "missing"),
    ("broken", "broken"),
    ("too large", "too_large"),
    ("ok, same picture as another (reused)", "reused"),
)


def _image_counts(scans: Sequence[Scan]) -> dict[str, Any]:
    """Counts over listings: a file listed five times counts five times.

    reused: usable listings whose very picture an earlier listing shows.
    """
    counts: dict[str, Any] = {"listed": len(scans)}
    for status, name in STATUS_NAMES.items():
        counts[name] = sum(verdict.status == status for verdict in scans)
    counts["reused"] = counts["ok"] - len({verdict.key for verdict in scans if verdict.status == Status.OK})
    for status in (Status.BROKEN, Status.TOO_LARGE):
        causes = Counter(verdict.cause for verdict in scans if verdict.status == status)
        counts[f"{STATUS_NAMES[status]}_by_cause"] = dict(sorted(causes.items()))
    return counts


def _given_counts(
    raw: RawDataset, columns: Mapping[str, list], given: Sequence[Sequence[int] | None]
) -> dict[str, dict[str, int]]:
    """By split: mentions that came with candidates, how many have their gold in the KB, among the candidates, and at
    which place of those in the KB; candidates, and those outside the KB. given: those in the KB, as in given.parquet.
    """
    found, counts = by_split(given, columns["gold"], columns["split"]), {}
    for split in (*SPLITS, "all"):
        places = found.get(split, GoldPlaces(0, ()))
        listed = [
            (len(mention.given), len(inside))
            for mention, inside in zip(raw.mentions, given, strict=True)
            if mention.given is not None and inside is not None and split in (mention.split, "all")
        ]
        counts[split] = {
            "mentions": len(listed),
            "golds": places.golds,
            "gold": len(places.places),
            "gold_first": places.at(1),
            "gold_second": places.at(2),
            "gold_third": places.at(3),
            "gold_last": places.last,
            "candidates": sum(every for every, _ in listed),
            "outside_kb": sum(every - inside for every, inside in listed),
        }
    return counts


def _alias_counts(entities: Sequence[Entity]) -> dict[str, int]:
    """Entities that have aliases, their aliases in all, and how many of these are a name or an alias of another entity
    too, word by word as names are compared.
    """
    names, owner, is_alias = bytearray(), list[int](), list[bool]()
    for row, entity in enumerate(entities):
        own = [" ".join(words(name)) for name in (entity.name, *entity.aliases)]
        names += b"".join(map(_digest, own))
        owner += [row] * len(own)
        is_alias += [place > 0 for place in range(len(own))]
    _, name = _distinct(names)
    pairs = np.unique(np.stack([name, np.array(owner, np.int64)], 1), axis=0)  # of a name and one that has it
    aliases = name[np.array(is_alias, bool)]
    return {
        "with_aliases": sum(bool(entity.aliases) for entity in entities),
        "aliases": len(aliases),
        "shared_aliases": int((np.bincount(pairs[:, 0])[aliases] > 1).sum()),
    }


def _digest(name: str) -> bytes:
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _distinct(digests: bytes | bytearray) -> tuple[np.ndarray, np.ndarray]:
    """How often each distinct digest stands among n, and which of these each is (n,)."""
    _, of, counts = np.unique(np.frombuffer(bytes(digests), "V16"), return_inverse=True, return_counts=True)
    return counts, of.ravel()


def _sharing_a_name(entities: EntityTable) -> int:
    """Entities whose name, without case, another one has too."""
    counts, _ = _distinct(b"".join(_digest(name.casefold()) for name in entities.column("name")))
    return int(counts[counts > 1].sum())


def _split_counts(raw: RawDataset, columns: Mapping[str, list], rows: Sequence[int]) -> dict[str, Any]:
    """Counts of the mentions in these rows, without their images."""
    mentions = [raw.mentions[row] for row in rows]
    literal = sum(m.span is not None and m.sentence[slice(*m.span)] == m.phrase for m in mentions)
    located = sum(m.span is not None for m in mentions)
    gold = [columns["gold"][row] for row in rows]
    return {
        "mentions": len(rows),
        "nil": gold.count(NIL),
        "outside_kb": gold.count(OUTSIDE_KB),
        "golds": len({g for g in gold if g >= 0}),
        "gold_unseen": sum(columns["gold"][row] >= 0 and not columns["gold_in_train"][row] for row in rows),
        "sentences": len({m.sentence for m in mentions}),
        "sentence_in_train": sum(columns["sentence_in_train"][row] for row in rows if columns["split"][row] != "train"),
        "phrase_is_name": sum(columns["phrase_is_name"][row] for row in rows),
        "ambiguous": sum(columns["ambiguous"][row] for row in rows),
        "span_literal": literal,
        "span_loose": located - literal,
        "span_missing": sum(m.span is None and bool(m.phrase) for m in mentions),
        "phrase_empty": sum(not m.phrase for m in mentions),
    }


def account_of(
    raw: RawDataset,
    columns: Mapping[str, list],
    mention_scans: Mapping[str, Scan],
    entity_scans: Mapping[str, Scan],
    given: Sequence[Sequence[int] | None] | None,
) -> dict[str, Any]:
    """The account as account.json holds it. columns: of mentions.parquet. The scans: verdict by listed image path.
    given: the column of given.parquet, None where no candidates came with the data."""
    splits = {}
    for split in (*SPLITS, "all"):
        rows = [row for row, name in enumerate(columns["split"]) if split in (name, "all")]
        images = [raw.mentions[row].image for row in rows]
        listed = _image_counts([mention_scans[image] for image in images if image is not None])
        splits[split] = {**_split_counts(raw, columns, rows), "images": listed}
    entities = EntityTable.of(raw.entities)
    pictures = entities.column("images")
    usable = sum(any(entity_scans[image].status == Status.OK for image in images) for images in pictures)
    return {
        "dataset": raw.name,
        "format": raw.format,
        "splits": splits,
        "entities": {
            "entities": len(entities),
            "types": dict(sorted(Counter(kind or "none" for kind in entities.column("type")).items())),
            "sharing_a_name": _sharing_a_name(entities),
            **(_alias_counts(entities) if any(entities.column("aliases")) else {}),
            "without_attributes": sum(not text.strip() for text in entities.column("attributes")),
            "with_usable_image": usable,
            "images": _image_counts([entity_scans[image] for images in entities.column("images") for image in images]),
        },
        **({"nil_written_as": raw.spelled_nil} if raw.spelled_nil else {}),
        **({"records_left_out": raw.rejects[:SHOWN_REJECTS], "left_out": len(raw.rejects)} if raw.rejects else {}),
        "groups": dict(sorted(Counter(m.group for m in raw.mentions if m.group is not None).items())),
        **({"given": _given_counts(raw, columns, given)} if given is not None else {}),
        **({"notes": list(raw.notes)} if raw.notes else {}),
    }


def _image_rows(counts: Sequence[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    rows = [("images listed", [c["listed"] for c in counts])]
    for label, name in _IMAGE_ROWS:
        rows.append((f"  {label}", [c[name] for c in counts]))
        by_cause = [c.get(f"{name}_by_cause", {}) for c in counts]
        rows += [
            (f"    {cause}", [causes.get(cause, 0) for causes in by_cause]) for cause in sorted(set().union(*by_cause))
        ]
    return rows


def tables(account: Mapping[str, Any]) -> list[TextTable]:
    """The account as tables. A label is indented below what it is part of; a title names the first column."""
    splits, entities = account["splits"], account["entities"]
    rows = [(label, [counts[name] for counts in splits.values()]) for label, name in _ROWS]
    rows += _image_rows([counts["images"] for counts in splits.values()])
    listed = [_counts_table("mentions by split", splits, rows)] if splits["all"]["mentions"] else []
    rows = [
        ("entities", [entities["entities"]]),
        ("  sharing their name with another", [entities["sharing_a_name"]]),
        ("  without attributes", [entities["without_attributes"]]),
        ("  with a usable image", [entities["with_usable_image"]]),
        *((label, [entities[name]]) for label, name in _ALIAS_ROWS if name in entities),
        *_image_rows([entities["images"]]),
    ]
    listed.append(_counts_table("knowledge base", ["all"], rows))
    if "nil_written_as" in account:
        written = account["nil_written_as"]
        rows = [
            (repr(text), [*map(counts.get, SPLITS, repeat(0)), sum(counts.values())])
            for text, counts in written.items()
        ]
        listed.append(_counts_table("golds read as NIL, as written", splits, rows))
    if "given" in account:
        listed.append(_given_table(account["given"]))
    for title, counts in (("entity types", entities["types"]), ("mention groups", account["groups"])):
        if len(counts) > 1:
            listed.append(_counts_table(title, ["all"], [(label, [count]) for label, count in counts.items()]))
    return [*listed, *(statistics_tables(account["texts"]) if "texts" in account else [])]


def _given_table(given: Mapping[str, Mapping[str, int]]) -> TextTable:
    """What came with the data, and how many candidates a mention has of those that have a list (table 1 of DRIN)."""
    known = next(iter(given.values())).keys()  # accounts of before lack the gold's places
    rows = [
        [label, *(f"{counts[name]:,}" for counts in given.values())] for label, name in _GIVEN_ROWS if name in known
    ]
    means = [f"{one['candidates'] / one['mentions']:,.1f}" if one["mentions"] else "–" for one in given.values()]
    title = "candidates that came with the data"
    return text_table([title, *given], [*rows, ["candidates per mention, mean", *means]])


def _counts_table(title: str, columns: Iterable[str], rows: Iterable[tuple[str, Sequence[int]]]) -> TextTable:
    return text_table([title, *columns], [[label, *(f"{count:,}" for count in counts)] for label, counts in rows])


def account_text(account: Mapping[str, Any]) -> str:
    """The account as account.txt holds it."""
    parts = [f"Dataset {account['dataset']} (layout {account['format']})", *map(as_text, tables(account))]
    if count := account.get("left_out", 0):
        more = [f"… {count - SHOWN_REJECTS:,} more in rejects.jsonl"] if count > SHOWN_REJECTS else []
        parts.append("\n".join([f"Records left out: {count:,}", *account["records_left_out"], *more]))
    parts += ["\n".join(account["notes"])] if "notes" in account else []
    return "\n\n".join(parts) + "\n"
