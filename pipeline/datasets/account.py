"""Dataset preparation: the tables every later step reads, and the account of what is in the dataset."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.shard import Status
from foundation.errors import UserError
from foundation.files import together, write_atomic, write_json
from pipeline.datasets import tables
from pipeline.datasets.fingerprint import layout_options
from pipeline.datasets.images import Limits
from pipeline.datasets.layouts import load
from pipeline.datasets.records import SPLITS, Dataset
from pipeline.datasets.scan import Scan, scan
from pipeline.datasets.tables import NIL, OUTSIDE_KB, STATUS_NAMES

MAX_BAD_IMAGES = 0.2
CONTENT = "{content}"
FILES = ("mentions.parquet", "entities.parquet", "given.parquet", "account.txt", "account.json")
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
    ("distinct golds in the KB", "golds"),
    ("distinct sentences", "sentences"),
)
_GIVEN_ROWS = (
    ("mentions that came with candidates", "mentions"),
    ("  gold among them", "gold"),
    ("candidates", "candidates"),
    ("  outside the KB", "outside_kb"),
)
_IMAGE_ROWS = (
    ("ok", "ok"),
    ("missing", "missing"),
    ("broken", "broken"),
    ("too large", "too_large"),
    ("ok, same picture as another (reused)", "reused"),
)


def _image_counts(listed: Sequence[Scan]) -> dict[str, Any]:
    """Counts over listings: one file listed five times counts five times. reused: usable ones whose very picture another listing shows already."""
    counts: dict[str, Any] = {"listed": len(listed)}
    for status, name in STATUS_NAMES.items():
        counts[name] = sum(verdict.status == status for verdict in listed)
    counts["reused"] = counts["ok"] - len({verdict.key for verdict in listed if verdict.status == Status.OK})
    for status in (Status.BROKEN, Status.TOO_LARGE):
        causes = Counter(verdict.cause for verdict in listed if verdict.status == status)
        counts[f"{STATUS_NAMES[status]}_by_cause"] = dict(sorted(causes.items()))
    return counts


def _given_counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """By split: mentions that came with candidates and those among them with their gold in the list, candidates and those outside the KB."""
    known, splits = {entity.id for entity in dataset.entities}, {}
    for split in (*SPLITS, "all"):
        listed = [m for m in dataset.mentions if m.given is not None and split in (m.split, "all")]
        splits[split] = {
            "mentions": len(listed),
            "gold": sum(m.gold in m.given for m in listed if m.gold in known),
            "candidates": sum(len(m.given) for m in listed),
            "outside_kb": sum(name not in known for m in listed for name in m.given),
        }
    return splits


def _count(
    dataset: Dataset, columns: dict[str, list], mention_scans: dict[str, Scan], entity_scans: dict[str, Scan]
) -> dict[str, Any]:
    splits = {}
    for split in (*SPLITS, "all"):
        rows = [row for row, name in enumerate(columns["split"]) if split in (name, "all")]
        mentions = [dataset.mentions[row] for row in rows]
        literal = sum(m.span is not None and m.sentence[slice(*m.span)] == m.phrase for m in mentions)
        found = sum(m.span is not None for m in mentions)
        gold = [columns["gold"][row] for row in rows]
        counts = {
            "mentions": len(rows),
            "nil": gold.count(NIL),
            "outside_kb": gold.count(OUTSIDE_KB),
            "golds": len({g for g in gold if g >= 0}),
            "gold_unseen": sum(columns["gold"][row] >= 0 and not columns["gold_in_train"][row] for row in rows),
            "sentences": len({m.sentence for m in mentions}),
            "sentence_in_train": sum(
                columns["sentence_in_train"][row] for row in rows if columns["split"][row] != "train"
            ),
            "phrase_is_name": sum(columns["phrase_is_name"][row] for row in rows),
            "ambiguous": sum(columns["ambiguous"][row] for row in rows),
            "span_literal": literal,
            "span_loose": found - literal,
            "span_missing": len(rows) - found,
            "images": _image_counts([mention_scans[m.image] for m in mentions if m.image is not None]),
        }
        splits[split] = counts
    entities = dataset.entities
    names = Counter(entity.name.casefold() for entity in entities)
    usable = sum(any(entity_scans[image].status == Status.OK for image in entity.images) for entity in entities)
    return {
        "dataset": dataset.name,
        "format": dataset.format,
        "splits": splits,
        "entities": {
            "entities": len(entities),
            "types": dict(sorted(Counter(entity.type or "none" for entity in entities).items())),
            "sharing_a_name": sum(names[entity.name.casefold()] > 1 for entity in entities),
            "without_attributes": sum(not entity.attributes.strip() for entity in entities),
            "with_usable_image": usable,
            "images": _image_counts([entity_scans[image] for entity in entities for image in entity.images]),
        },
        "groups": dict(sorted(Counter(m.group for m in dataset.mentions if m.group is not None).items())),
        **({"given": _given_counts(dataset)} if any(m.given is not None for m in dataset.mentions) else {}),
    }


def _grid(title: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[int]]]) -> list[str]:
    cells = [[title, *heads], *([label, *(f"{value:,}" for value in values)] for label, values in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in cells
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _image_rows(counts: Sequence[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    rows = [("images listed", [c["listed"] for c in counts])]
    for label, name in _IMAGE_ROWS:
        rows.append((f"  {label}", [c[name] for c in counts]))
        by_cause = [c.get(f"{name}_by_cause", {}) for c in counts]
        rows += [
            (f"    {cause}", [causes.get(cause, 0) for causes in by_cause]) for cause in sorted(set().union(*by_cause))
        ]
    return rows


def grids(account: Mapping[str, Any]) -> list[tuple[str, list[str], list[tuple[str, list[int]]]]]:
    """The account as tables: title, names of the columns, rows of a label (indented by what it is part of) and its counts."""
    splits, entities = account["splits"], account["entities"]
    rows = [(label, [counts[name] for counts in splits.values()]) for label, name in _ROWS]
    rows += _image_rows([counts["images"] for counts in splits.values()])
    found = [("mentions by split", list(splits), rows)]
    rows = [
        ("entities", [entities["entities"]]),
        ("  sharing their name with another", [entities["sharing_a_name"]]),
        ("  without attributes", [entities["without_attributes"]]),
        ("  with a usable image", [entities["with_usable_image"]]),
        *_image_rows([entities["images"]]),
    ]
    found.append(("knowledge base", ["all"], rows))
    if "given" in account:
        rows = [(label, [counts[name] for counts in account["given"].values()]) for label, name in _GIVEN_ROWS]
        found.append(("candidates that came with the data", list(account["given"]), rows))
    for title, name in (("entity types", "types"), ("mention groups", "groups")):
        counts = entities[name] if name == "types" else account[name]
        if len(counts) > 1:
            found.append((title, ["all"], [(label, [count]) for label, count in counts.items()]))
    return found


def table(account: dict[str, Any]) -> str:
    """The account as aligned text."""
    lines = [f"Dataset {account['dataset']} (layout {account['format']})"]
    for title, heads, rows in grids(account):
        lines += ["", *_grid(title, heads, rows)]
    return "\n".join(lines) + "\n"


def _refuse_bad_images(account: dict[str, Any], dataset: Dataset, limit: float) -> None:
    sides = {
        "mention": (account["splits"]["all"]["images"], dataset.mention_images),
        "entity": (account["entities"]["images"], dataset.entity_images),
    }
    listed = sum(counts["listed"] for counts, _ in sides.values())
    bad = listed - sum(counts["ok"] for counts, _ in sides.values())
    if listed and bad > limit * listed:
        parts = [
            f"{counts['listed'] - counts['ok']:,} of {counts['listed']:,} {side} images in {folder} ({counts['missing']:,} missing, {counts['broken']:,} broken, "
            f"{counts['too_large']:,} too large)" + ("" if folder.is_dir() else ", a folder that does not exist")
            for side, (counts, folder) in sides.items()
            if counts["listed"] > counts["ok"]
        ]
        raise UserError(
            f"{dataset.name}: {bad / listed:.1%} of the listed images cannot be used, at most {limit:.1%} may: {'; '.join(parts)}; complete the folders, "
            "name others with --mention-images and --entity-images, or raise --max-bad-images"
        )


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Read a dataset, look at every listed picture, and write mentions.parquet, entities.parquet, account.json and account.txt into `job["out"]`;
    given.parquet too, where candidates came with the mentions.

    job: name, data_dir, out (`{content}` in it becomes the start of the hash of the tables' rows); optional: format (None: recognised), options (of the
    layout), limits (max_pixels, max_bytes), memo (folder for the pictures' verdicts), rescan, workers, max_bad_images (share of the listed images, 0.2).
    Returns the account with the hash of the tables' rows as `content` and the absolute image folders as `mention_images` and `entity_images`; what is
    written knows neither place nor time and is the same, byte for byte, for the same data. Raises `UserError` for bad files, too many bad images or
    a full disk, then nothing is written; `PassingError` when pictures could not be read now.
    """
    dataset = load(job["name"], Path(job["data_dir"]).absolute(), job.get("format"), layout_options(job.get("options")))
    mention_paths = dict.fromkeys(m.image for m in dataset.mentions if m.image is not None)
    entity_paths = dict.fromkeys(image for entity in dataset.entities for image in entity.images)
    files = [
        *(dataset.mention_images / path for path in mention_paths),
        *(dataset.entity_images / path for path in entity_paths),
    ]
    memo = Path(job["memo"]) / f"images-{job['name']}.parquet" if job.get("memo") else None
    verdicts = scan(files, Limits(**job.get("limits") or {}), memo, job.get("workers"), job.get("rescan", False))
    mention_scans = dict(zip(mention_paths, verdicts))
    entity_scans = dict(zip(entity_paths, verdicts[len(mention_paths) :]))

    mentions = tables.mention_columns(dataset, mention_scans)
    train_golds = [gold for gold, split in zip(mentions["gold"], mentions["split"]) if split == "train" and gold >= 0]
    entities = tables.entity_columns(dataset, entity_scans, train_golds)
    account = _count(dataset, mentions, mention_scans, entity_scans)
    _refuse_bad_images(account, dataset, job.get("max_bad_images", MAX_BAD_IMAGES))

    given = tables.given_columns(dataset)
    content = tables.content(mentions, entities, *filter(None, [given]))
    out = Path(job["out"].replace(CONTENT, content[:12]))
    with together(*(out / name for name in FILES)):
        write_atomic(out / "mentions.parquet", tables.parquet_bytes(mentions, tables.MENTION_SCHEMA))
        write_atomic(out / "entities.parquet", tables.parquet_bytes(entities, tables.ENTITY_SCHEMA))
        if given is not None:
            write_atomic(out / "given.parquet", tables.parquet_bytes(given, tables.GIVEN_SCHEMA))
        write_atomic(out / "account.txt", table(account))
        write_json(out / "account.json", account)
    return {
        **account,
        "content": content,
        "mention_images": str(dataset.mention_images),
        "entity_images": str(dataset.entity_images),
    }
