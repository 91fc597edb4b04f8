"""The extractor of imported features, which has no model: their rows are there, or they are not."""

from pathlib import Path
from typing import Any, ClassVar, NoReturn

from cache.identity import Output
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline.extraction.base import Extractor, Options


@contract
class ImportedOptions(Options):
    """An imported feature has no options: neither `model` nor `outputs` says anything of it."""

    model: str = ""


class ImportedFeature(Extractor):
    """Stands for rows by ImportFeatures."""

    VERSION = 1
    reads = "imported"
    probed: ClassVar[bool] = False
    options: ImportedOptions

    @classmethod
    def find(cls, options: Any, base: Path, demo: Path | None, fetch: bool) -> NoReturn:
        """Raises `UserError`: no model gives such rows."""
        raise UserError(
            "the feature was imported, and there is no extractor that gives its rows for records that were not"
        )

    def possible(self) -> dict[str, Output]:
        """See `Extractor.possible`."""
        return {}

    def load(self, device: str) -> None:
        """See `Extractor.load`."""

    def __call__(self, batch: Any) -> NoReturn:
        """See `Extractor.__call__`."""
        raise NotImplementedError


extractor = ImportedFeature
