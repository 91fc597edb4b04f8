"""Contracts of importing and exporting features, and the record of what was imported. No torch."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path

from cache.inputs import Input, Side
from foundation.checksums import read_sealed, write_sealed
from foundation.contracts import contract, from_json, to_json
from foundation.errors import UserError

IMPORTED = "imported"
"""What stands as `extractor:` of a feature that is imported."""
RECORD_VIEW = "record"
"""The view of an imported feature where neither the profile nor a head names one."""
MOST_BYTES = 64 << 30
"""Of the arrays that are imported at a time."""
TABLES: Mapping[Side, str] = {"mention": "mentions.parquet", "entity": "entities.parquet"}
"""Of the records of each side, in the folder of a prepared dataset."""


@contract
class ImportJob:
    """Rows to import.

    source: a file of arrays or tables, or the folder of a Hugging Face dataset. ids: a file of ids, or the name of a
    column; "": found beside the arrays. feature: its name in profiles. dataset: prepared folder. work: the work folder.
    outputs: output -> name of an array; empty: all that there are. side: that the ids are of; None: found by the ids.
    view: that heads read the rows under; "": every view.
    """

    source: Path
    feature: str
    dataset: Path
    work: Path
    ids: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    side: Side | None = None
    view: str = ""


@contract
class ImportedPart:
    """The rows of one side. view: "" for every view. keys: file of the key column, relative to the work folder.
    content: SHA-256 (hex) of ids and values. rows: that there are; absent: records without one."""

    side: Side
    view: str
    keys: str
    content: str
    rows: int
    absent: int


@contract
class Imported:
    """What was imported as one feature of a dataset. store: folder in the cache."""

    feature: str
    identity: str
    store: str
    parts: tuple[ImportedPart, ...]

    def part(self, side: Side, view: str) -> ImportedPart:
        """The part that serves a view. Raises `UserError` where there is none."""
        fitting = [part for part in self.parts if part.side == side and part.view in (view, "")]
        if not fitting:
            there = ", ".join(f"{part.side} {part.view or '(every view)'}" for part in self.parts)
            raise UserError(
                f"feature {self.feature}: the view {view!r} of the {side} side is wanted, imported is: {there}; run "
                f"ImportFeatures --feature {self.feature} --side {side}"
            )
        return max(fitting, key=lambda part: part.view)


@contract
class FeatureImport:
    """What an import did. notes: what was converted, and rows that look wrong, a line each."""

    imported: Imported
    outputs: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What ImportFeatures prints."""
        rows = [
            f"{part.side}: {part.rows:,} rows, {part.absent:,} records without one, {part.view or 'every view'}"
            for part in self.imported.parts
        ]
        name = self.imported.feature
        return "\n".join(
            [
                *self.notes,
                f"{name}: {', '.join(self.outputs)}",
                *rows,
                f"cache: {self.imported.store}",
                f"heads read it where the profile has `{name}: {{extractor: {IMPORTED}}}` under `features:`",
            ]
        )


@contract
class ExportFeaturesJob:
    """Rows to write to a file. inputs: of one feature, each side at most once. dataset: prepared folder. to: the file,
    whose ending names the format."""

    inputs: tuple[Input, ...]
    dataset: Path
    to: Path


@contract
class FeatureExport:
    """What was written. rows: records in the file. left_out: records whose row is absent, broken or too large."""

    file: Path
    ids: str
    outputs: tuple[str, ...]
    rows: int
    left_out: int

    @property
    def text(self) -> str:
        """What ExportFeatures prints."""
        return (
            f"{', '.join(self.outputs)} of {self.rows:,} records in {self.file}, their ids in {self.ids}; "
            f"{self.left_out:,} records have no row"
        )


def record_file(dataset: Path, feature: str) -> Path:
    """The file that says what was imported as a feature of a dataset."""
    return dataset / IMPORTED / f"{feature}.json"


def record(dataset: Path, feature: str) -> Imported:
    """What was imported. Raises `UserError` where nothing was."""
    path = record_file(dataset, feature)
    if not os.path.lexists(path):
        raise UserError(
            f"feature {feature}: the profile says `extractor: {IMPORTED}`, and nothing was imported for the dataset in "
            f"{dataset}; run ImportFeatures --feature {feature} --from FILE --ids FILE"
        )
    return from_json(Imported, read_sealed(path), str(path))


def write_record(dataset: Path, imported: Imported) -> None:
    """Replace the record of a feature."""
    write_sealed(record_file(dataset, imported.feature), to_json(imported))


def identities(features: Iterable[str], dataset: Path) -> dict[str, str]:
    """Feature -> identity of what was imported. Raises `UserError` where nothing was."""
    return {name: record(dataset, name).identity for name in sorted(features)}
