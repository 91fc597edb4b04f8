"""The files that a run leaves: one text per entity, a report, and the list of entities without a text."""

import functools
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from foundation.errors import UserError
from foundation.files import write_atomic, write_json
from foundation.paths import descriptions

RUN = ("requests", "reused", "calls", "tokens_in", "tokens_out", "cost")  # figures of one run, not of its result
SCHEMA = pa.schema({"id": pa.string(), "text": pa.string()})


def read_entities(dataset: Path) -> dict[str, list[Any]]:
    """id, name, type and attributes of the prepared dataset's entities, in their order."""
    path = dataset / "entities.parquet"
    try:
        return pq.read_table(path, columns=["id", "name", "type", "attributes"]).to_pydict()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete that folder and run the command again") from None


def read_texts(dataset: Path, mode: str) -> dict[str, str]:
    """Text by entity id, without those that have none. Raises `UserError` naming the command where the file is not there, or no such file."""
    path = descriptions(dataset, mode)
    if not path.is_file():
        raise missing(path, mode)
    try:
        table = pq.read_table(path, columns=["id", "text"]).to_pydict()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"{path} cannot be read ({error}); delete it and run `luigi --module tasks EnhanceEntities --mode {mode}` again"
        ) from None
    return {name: text for name, text in zip(table["id"], table["text"], strict=True) if text}


def missing(path: Path, mode: str) -> UserError:
    """The one line for texts that are not there."""
    return UserError(
        f"{path}: this dataset has no {mode} descriptions yet; `luigi --module tasks EnhanceEntities --mode {mode}` writes them"
    )


def stamp(path: Path, mode: str) -> str:
    """`content` of a file of texts. Raises `UserError` naming the command where it is not there."""
    try:
        return content(path)
    except OSError:
        raise missing(path, mode) from None


def content(path: Path) -> str:
    """SHA-256 of a file, what a task's request says of it."""
    found = path.stat()
    return _hash(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hash(path: Path, size: int, mtime_ns: int) -> str:
    """Remembered while the process lives and size and time stay: Luigi asks for it again and again."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write(
    dataset: Path,
    mode: str,
    entities: dict[str, list[Any]],
    texts: Sequence[str | None],
    reasons: Sequence[str | None],
    counts: dict[str, Any],
    run: dict[str, Any],
) -> dict[str, Any]:
    """Write `descriptions-<mode>` .parquet, .json (the report) and -without.tsv (id, name, why); same input, same bytes.

    counts: what is in the report besides. run: what this run alone did; it is in the returned report only.
    """
    sink = io.BytesIO()
    pq.write_table(
        pa.table([pa.array(entities["id"], pa.string()), pa.array(list(texts), pa.string())], schema=SCHEMA), sink
    )
    rows = zip(entities["id"], entities["name"], texts, reasons, strict=True)
    without = [(name, label, reason) for name, label, text, reason in rows if text is None]
    report = {
        "mode": mode,
        "entities": len(texts),
        "written": len(texts) - len(without),
        "without": dict(sorted(Counter(reason for _, _, reason in without).items())),
        "characters": sum(len(text) for text in texts if text),
        **counts,
    }
    plain = str.maketrans("\t\r\n", "   ")
    lines = ["id\tname\twhy", *("\t".join(str(cell).translate(plain) for cell in row) for row in without)]
    write_atomic(descriptions(dataset, mode, "-without.tsv"), "\n".join(lines) + "\n")
    write_json(descriptions(dataset, mode, ".json"), report)
    write_atomic(descriptions(dataset, mode), sink.getvalue())
    return {**report, **run}


def said(report: dict[str, Any]) -> str:
    """The report, or what a dry run counted, as lines for the reader."""
    lines = [f"{report['mode']} descriptions of {report['entities']:,} entities"]
    if "written" in report:
        lines = [f"{report['mode']} descriptions: {report['written']:,} of {report['entities']:,} entities have a text"]
        lines += [f"  without, {reason}: {count:,}" for reason, count in report["without"].items()]
    for name, value in report.items():
        if name not in ("mode", "entities", "written", "without", "characters", "file", "sha256") and value not in (
            None,
            {},
            "",
        ):
            shown = f"{value:,}" if isinstance(value, int) else json.dumps(value) if isinstance(value, dict) else value
            lines.append(f"  {name.replace('_', ' ')}: {shown}")
    return "\n".join(lines)
