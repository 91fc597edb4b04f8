"""Prepares a dataset: reads its files, looks at every picture, writes tables and the account of what is in it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from foundation.checksums import write_sealed
from foundation.errors import UserError
from foundation.files import together, write_atomic
from pipeline.datasets import tables
from pipeline.datasets.account import account_of, account_text
from pipeline.datasets.contracts import ACCOUNT, CONTENT, Dataset, PrepareJob
from pipeline.datasets.entity_table import NAMES, EntityTable
from pipeline.datasets.layouts import load
from pipeline.datasets.records import RawDataset
from pipeline.datasets.scan import scan
from pipeline.datasets.text_statistics import text_statistics


def prepare(job: PrepareJob) -> Dataset:
    """Write mentions.parquet, entities.parquet, account.json and account.txt into `job.out`, given.parquet where
    candidates came with the mentions, and rejects.jsonl where records were left out.

    The tables know neither place nor time: the same data gives the same bytes. Raises `UserError` for malformed files,
    too many bad records or images, or a full disk (nothing is written then), `PassingError` when pictures could not be
    read now.
    """
    raw = load(job.name, job.data_dir.absolute(), job.format, job.options, job.max_bad_records)
    kb = EntityTable.of(raw.entities)
    raw = replace(raw, entities=kb)
    mention_paths = list(dict.fromkeys(m.image for m in raw.mentions if m.image is not None))
    entity_paths = list(dict.fromkeys(image for images in kb.column("images") for image in images))
    files = [
        *(raw.mention_images / path for path in mention_paths),
        *(raw.entity_images / path for path in entity_paths),
    ]
    memo = job.memo / f"images-{job.name}.parquet" if job.memo else None
    verdicts = scan(files, job.limits, memo, job.rescan, job.workers)
    mention_scans = dict(zip(mention_paths, verdicts[: len(mention_paths)], strict=True))
    entity_scans = dict(zip(entity_paths, verdicts[len(mention_paths) :], strict=True))

    mentions = tables.mention_columns(raw, mention_scans)
    pairs = zip(mentions["gold"], mentions["split"], strict=True)
    train_golds = [gold for gold, split in pairs if split == "train" and gold >= 0]
    entities = tables.entity_table(raw, entity_scans, train_golds)
    given = tables.given_columns(raw)
    account = account_of(raw, mentions, mention_scans, entity_scans, None if given is None else given["given"])
    account["texts"] = text_statistics(mentions, {name: kb.column(name) for name in NAMES})
    _refuse_bad_images(account, raw, job.max_bad_images)

    written: dict[str, Callable[[Path], None]] = {
        "mentions.parquet": partial(tables.write, table=tables.mention_table(mentions)),
        "entities.parquet": partial(tables.write, table=entities),
    }
    if given is not None:
        written["given.parquet"] = partial(tables.write, table=tables.given_table(given))
    content = tables.content(mentions, entities, *([] if given is None else [given]))
    if raw.rejects:
        rejects = "".join(json.dumps({"cause": cause}) + "\n" for cause in raw.rejects)
        written["rejects.jsonl"] = partial(write_atomic, data=rejects)
    out = Path(str(job.out).replace(CONTENT, content[:12]))
    paths = [out / name for name in (*written, "account.json", ACCOUNT)]
    with together(*paths):
        for name, write in written.items():
            write(out / name)
        write_sealed(out / "account.json", account)
        write_atomic(out / ACCOUNT, account_text(account))
    if not raw.rejects:
        (out / "rejects.jsonl").unlink(missing_ok=True)  # of the same rows beside malformed ones
    return Dataset(
        name=job.name,
        content=content,
        folder=out,
        mention_images=raw.mention_images,
        entity_images=raw.entity_images,
        account=account,
        files=tuple(paths),
    )


def _refuse_bad_images(account: Mapping[str, Any], raw: RawDataset, limit: float) -> None:
    """Raises `UserError` where more than the share `limit` of the listed images cannot be used."""
    sides = {
        "mention": (account["splits"]["all"]["images"], raw.mention_images),
        "entity": (account["entities"]["images"], raw.entity_images),
    }
    listed = sum(counts["listed"] for counts, _ in sides.values())
    bad = listed - sum(counts["ok"] for counts, _ in sides.values())
    if not listed or bad <= limit * listed:
        return
    parts = [
        f"{counts['listed'] - counts['ok']:,} of {counts['listed']:,} {side} images in {folder} "
        f"({counts['missing']:,} missing, {counts['broken']:,} broken, {counts['too_large']:,} too large)"
        + ("" if folder.exists() else ", which does not exist")
        for side, (counts, folder) in sides.items()
        if counts["listed"] > counts["ok"]
    ]
    raise UserError(
        f"{raw.name}: {bad / listed:.1%} of the listed images cannot be used, at most {limit:.1%} may: "
        f"{'; '.join(parts)}; complete the folders, name others with --mention-images and --entity-images, "
        "or raise --max-bad-images"
    )
