"""Contracts of the datasets' room: what preparing a dataset takes and what it leaves. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.contracts import contract
from foundation.errors import UserError

MAX_BAD_IMAGES = 0.2
MAX_BAD_RECORDS = 0.01
CONTENT = "{content}"
"""In `PrepareJob.out`: replaced by the first 12 digits of the hash of the tables' rows."""
ACCOUNT = "account.txt"

DECODER_VERSION = 2
"""Raised when the verdict on some picture file or a decoded pixel changes: verdicts of other versions are not used."""


@contract
class Limits:
    """Largest picture that is decoded: pixels (width x height) and bytes of the file."""

    max_pixels: int = 64_000_000
    max_bytes: int = 50_000_000


DEFAULT_LIMITS = Limits()


@contract
class LayoutOptions:
    """What differs between datasets of one layout.

    mention_images, entity_images: image folders, relative to the data folder or absolute; None: the layout's own.
    ignore_fields: fields of records, separated by commas, that are not read; fields that must be there always are.
    repeated_ids: `refuse` mention ids given twice, or `number` them (`7`, `7#2`, …) for a release that numbers
    sentences. Raises `UserError` for another value.
    follow_links: read pictures behind symbolic links that lead out of the picture folder.
    """

    mention_images: str | None = None
    entity_images: str | None = None
    ignore_fields: str = ""
    repeated_ids: str = "refuse"
    follow_links: bool = True

    def __post_init__(self) -> None:
        if self.repeated_ids not in ("refuse", "number"):
            raise UserError(f"--repeated-ids {self.repeated_ids!r}: expected refuse or number")

    @property
    def ignored(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.ignore_fields.split(",") if name.strip())


NO_OPTIONS = LayoutOptions()


@contract
class PrepareJob:
    """A dataset to prepare.

    name: its label. data_dir: folder with its files.
    out: folder for the tables; `{content}` in it stands for the first 12 digits of the tables' hash.
    format: the layout's name; None: recognised from the files. limits: of pictures.
    memo: folder that remembers the pictures' verdicts; None: every picture is read. rescan: read them all the same.
    workers: threads that read pictures; None: one per core.
    max_bad_images: share of the listed images that may be missing, broken or too large.
    max_bad_records: share of the records that may be malformed; they are left out and listed.
    """

    name: str
    data_dir: Path
    out: Path
    format: str | None = None
    options: LayoutOptions = NO_OPTIONS
    limits: Limits = DEFAULT_LIMITS
    memo: Path | None = None
    rescan: bool = False
    workers: int | None = None
    max_bad_images: float = MAX_BAD_IMAGES
    max_bad_records: float = MAX_BAD_RECORDS


@contract
class Dataset:
    """A prepared dataset.

    folder: where its tables lie. content: SHA-256 (hex) of the tables' rows.
    mention_images, entity_images: absolute image folders. account: what is in it, as in account.json.
    files: what preparing wrote, in its folder.
    """

    name: str
    content: str
    folder: Path
    mention_images: Path
    entity_images: Path
    account: Mapping[str, Any]
    files: tuple[Path, ...]
