"""Steps that read a dataset's files, and those that draw and train the embedded demo."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.inputs import Side
from foundation.errors import UserError
from foundation.paths import Paths
from mel_cache.steps.base import Outcome, Run, Step, say_again
from pipeline.datasets.contracts import (
    CONTENT,
    DECODER_VERSION,
    MAX_BAD_IMAGES,
    MAX_BAD_RECORDS,
    Dataset,
    LayoutOptions,
    Limits,
    PrepareJob,
)
from pipeline.demo.contracts import DEMO, DemoJob

TABLES = 4
"""Raised when the tables of a prepared dataset get other columns or values, so that older ones are made again."""
LONGEST_LABEL = 100
"""Bytes of a dataset's label: with a hash behind it, it names files and folders."""


@dataclass(frozen=True)
class DatasetFiles:
    """A dataset's own files. name: its label. data_dir: their folder. rescan: read every picture again."""

    name: str
    data_dir: Path
    format: str | None = None
    options: LayoutOptions = field(default_factory=LayoutOptions)
    max_bad_images: float = MAX_BAD_IMAGES
    max_bad_records: float = MAX_BAD_RECORDS
    rescan: bool = False

    def fingerprint(self, memo: Path | None) -> str:
        """What tells whether the files are still the same. memo: JSON file that remembers hashes of files; None: none
        is kept. Raises `UserError`."""
        from pipeline.datasets.fingerprint import fingerprint

        return fingerprint(self.data_dir, self.format, self.options, memo, rescan=self.rescan)

    def state(self) -> list[tuple[int, ...]]:
        """Inode, size and times of the text files, which change when one of them does. Raises `UserError`."""
        from pipeline.datasets.fingerprint import state

        return state(self.data_dir, self.format)


def check_label(name: str) -> None:
    """Raises `UserError` for a dataset's label that cannot name files and folders."""
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise UserError(f"--dataset {name!r}: the label names a folder; use letters, digits, '.', '_' and '-'")
    if (size := len(name.encode())) > LONGEST_LABEL:
        raise UserError(
            f"--dataset {name:.30}…: the label names a folder; use at most {LONGEST_LABEL} bytes, these are {size}"
        )


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset. folder: of its tables. content: hash of their rows. images: picture folder of each side."""

    name: str
    folder: Path
    content: str
    images: Mapping[Side, Path]

    @classmethod
    def of_receipt(cls, source: DatasetFiles, result: Mapping[str, Any], paths: Paths) -> "Prepared":
        """From the result of PrepareDataset."""
        sides: tuple[Side, Side] = ("mention", "entity")
        images = {side: source.data_dir / result[f"{side}_images"] for side in sides}
        return cls(source.name, paths.root / result["folder"], result["content"], images)


def prepare(paths: Paths, source: DatasetFiles, limits: Mapping[str, int], fingerprint: str) -> Step:
    """Read a dataset's files and look at every picture.

    limits: of pictures, as the profile gives them. fingerprint: of the files, see `DatasetFiles.fingerprint`.
    """

    def work(run: Run) -> Outcome:
        before = {**request, "tables": TABLES - 1}
        say_again(
            paths, "PrepareDataset", before, f"{source.name} is prepared again: phrases are found in more spellings"
        )
        started = time.time()
        job = PrepareJob(
            name=source.name,
            data_dir=source.data_dir,
            out=paths.dataset(source.name, CONTENT),
            format=source.format,
            options=source.options,
            limits=Limits(**limits),
            memo=paths.memo,
            rescan=source.rescan,
            max_bad_images=source.max_bad_images,
            max_bad_records=source.max_bad_records,
        )
        dataset = run("pipeline.datasets.prepare:prepare", job, Dataset)
        result = {
            "folder": paths.relative(dataset.folder),
            "content": dataset.content,
            "mention_images": os.path.relpath(dataset.mention_images, source.data_dir),
            "entity_images": os.path.relpath(dataset.entity_images, source.data_dir),
        }
        return Outcome(result, dataset.files, {"rescanned": started} if source.rescan else {})

    request = {
        "tables": TABLES,
        "decoder": DECODER_VERSION,
        "fingerprint": fingerprint,
        "limits": dict(limits),
        "max_bad_images": source.max_bad_images,
        "max_bad_records": source.max_bad_records,
    }
    return Step("PrepareDataset", request, work)


def demo_world(paths: Paths, seed: int, name: str = DEMO) -> Step:
    """Draw an embedded dataset. name: one of `WORLDS`."""

    def work(run: Run) -> Outcome:
        place = paths.demo("world", step.digest)
        counts = run("pipeline.demo.world:draw_world", DemoJob(out=place, seed=seed, name=name), dict)
        return Outcome(counts, [place / "mentions.jsonl", place / "entities.jsonl"])

    step = Step("DemoWorld", {"seed": seed, **({} if name == DEMO else {"world": name})}, work)
    return step


def demo_encoders(paths: Paths, seed: int) -> Step:
    """Train the demo's small models."""

    def work(run: Run) -> Outcome:
        place = paths.demo("encoders", step.digest)
        report = run("pipeline.demo.encoders:train_encoders", DemoJob(out=place, seed=seed), dict)
        return Outcome(report, [path for path in place.rglob("*") if path.is_file()])

    step = Step("DemoEncoders", {"seed": seed}, work)
    return step
