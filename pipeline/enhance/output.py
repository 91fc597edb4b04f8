"""The files that a run leaves: one text per entity, a report, and the list of entities without a text."""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from foundation import parquet
from foundation.checksums import content
from foundation.errors import UserError
from foundation.files import write_atomic, write_json
from foundation.paths import descriptions
from pipeline.datasets.records import Entity
from pipeline.enhance.contracts import DescriptionsReport, DynamicEstimate, StaticEstimate, set_fields

SCHEMA = pa.schema({"id": pa.string(), "text": pa.string()})


class EntityText(NamedTuple):
    """An entity's text, or why it has none."""

    text: str | None
    reason: str | None


def read_entities(dataset: Path) -> list[Entity]:
    """id, name, type and attributes of the prepared dataset's entities, in their order. Raises `UserError`."""
    path = dataset / "entities.parquet"
    rows = parquet.read(path, ["id", "name", "type", "attributes"]).to_pylist()
    return [Entity(**{**row, "attributes": row["attributes"] or ""}) for row in rows]


def read_texts(dataset: Path, mode: str) -> dict[str, str]:
    """Text by entity id, without those that have none. Raises `UserError` naming the command where the file is not
    there, or no such file.
    """
    path = descriptions(dataset, mode)
    if not path.is_file():
        raise missing(path, mode)
    table = parquet.read(path, ["id", "text"]).to_pydict()
    return {name: text for name, text in zip(table["id"], table["text"], strict=True) if text}


def missing(path: Path, mode: str) -> UserError:
    """The error for texts that are not there."""
    return UserError(
        f"{path}: this dataset has no {mode} descriptions yet; `luigi --module tasks EnhanceEntities --mode {mode}` "
        "writes them"
    )


def stamp(path: Path, mode: str) -> str:
    """`content` of a file of texts. Raises `UserError` naming the command where it is not there."""
    try:
        return content(path)
    except OSError:
        raise missing(path, mode) from None


def report(mode: str, outcomes: Sequence[EntityText]) -> DescriptionsReport:
    """The report on these outcomes, usage and rounds left out."""
    return DescriptionsReport(
        mode=mode,
        entities=len(outcomes),
        written=sum(outcome.text is not None for outcome in outcomes),
        without=dict(sorted(Counter(str(reason) for text, reason in outcomes if text is None).items())),
        characters=sum(len(outcome.text) for outcome in outcomes if outcome.text),
    )


def write(
    dataset: Path, entities: Sequence[Entity], outcomes: Sequence[EntityText], report: DescriptionsReport
) -> DescriptionsReport:
    """Write `descriptions-<mode>` .parquet (id, text), .json (the report) and -without.tsv (id, name, why).

    Same input, same bytes: the run's usage is in the returned report only.
    """
    columns = [[entity.id for entity in entities], [outcome.text for outcome in outcomes]]
    sink = io.BytesIO()
    pq.write_table(pa.table([pa.array(column, pa.string()) for column in columns], schema=SCHEMA), sink)
    pairs = zip(entities, outcomes, strict=True)
    without = [(entity.id, entity.name, outcome.reason) for entity, outcome in pairs if outcome.text is None]
    plain = str.maketrans("\t\r\n", "   ")
    lines = ["id\tname\twhy", *("\t".join(str(cell).translate(plain) for cell in row) for row in without)]
    write_atomic(descriptions(dataset, report.mode, "-without.tsv"), "\n".join(lines) + "\n")
    write_json(descriptions(dataset, report.mode, ".json"), report.result())
    write_atomic(descriptions(dataset, report.mode), sink.getvalue())
    return report


def summary(report: DescriptionsReport) -> str:
    """A report as lines for the reader."""
    lines = [f"{report.mode} descriptions: {report.written:,} of {report.entities:,} entities have a text"]
    lines += [f"  without, {reason}: {count:,}" for reason, count in report.without.items()]
    rounds = {"model": report.model, "first_round": report.first_round, "second_round": report.second_round}
    return "\n".join([*lines, *_figures({**rounds, **set_fields(report.usage)})])


def outlook(mode: str, estimate: StaticEstimate | DynamicEstimate) -> str:
    """An estimate as lines for the reader."""
    figures = {name: value for name, value in set_fields(estimate).items() if name != "entities"}
    return "\n".join([f"{mode} descriptions of {estimate.entities:,} entities", *_figures(figures)])


def _figures(values: Mapping[str, Any]) -> list[str]:
    """One line for each value that is there: a number, a text or counts."""
    lines = []
    for name, value in values.items():
        if value not in (None, {}, ""):
            shown = f"{value:,}" if isinstance(value, int) else json.dumps(value) if isinstance(value, dict) else value
            lines.append(f"  {name.replace('_', ' ')}: {shown}")
    return lines
