"""Extractors, one file and one class each; a feature's `extractor:` names the file, or a plugin (see
`foundation.plugins`)."""

import dataclasses
import functools
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from foundation import plugins
from foundation.contracts import from_json
from foundation.errors import UserError, nearest
from pipeline.extraction import parts
from pipeline.extraction.base import Extractor
from pipeline.imported.contracts import IMPORTED
from pipeline.imported.extractor import ImportedFeature
from pipeline.models.guards import explained
from pipeline.profiles.profile import FEATURE_KEYS, Feature


def names() -> list[str]:
    """Names of the package's own extractors, read from the files without importing them."""
    return list(_names_in(tuple(__path__)))


@functools.cache
def _names_in(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the modules in these folders; asked for at every mention that is linked."""
    return tuple(sorted(one.name for one in pkgutil.iter_modules(folders) if not one.name.startswith("_")))


def extractor_class(name: str) -> type[Extractor]:
    """The class in `pipeline/extractors/<name>.py`, or that of a plugin.

    Raises `UserError` for an unknown name, and for a plugin that is no extractor.
    """
    own = names()
    if name == IMPORTED:
        return ImportedFeature
    if name in own:
        return importlib.import_module(f"pipeline.extractors.{name}").extractor
    outside = plugins.find("extractor", own)
    if name not in outside:
        raise UserError(f"no extractor {name!r}{nearest(name, [*own, IMPORTED, *outside])}")
    kind, file = outside[name].value, outside[name].file
    if not (isinstance(kind, type) and issubclass(kind, Extractor)):
        raise UserError(
            f"{file}: `extractor` is {kind!r:.60}, expected a subclass of pipeline.extraction.base.Extractor"
        )
    if parts.own_class(kind).__module__ == Extractor.__module__:
        raise UserError(
            f"{file}: {kind.__name__} has no VERSION; set VERSION = 1, and raise it when its numbers change"
        )
    return kind


def reads(feature: Feature, where: str) -> str:
    """What the feature's extractor reads, see `Extractor`. Raises `UserError` as `check_options`."""
    return extractor_kind(feature, where).reads


def extractor_kind(feature: Feature, where: str) -> type[Extractor]:
    """The class that the feature's options ask for. Raises `UserError` as `check_options`."""
    return extractor_class(feature.extractor).kind(check_options(feature, where))


def check_options(feature: Feature, where: str) -> Any:
    """The feature's options as its extractor's contract.

    Raises `UserError` for unknown, missing or wrongly typed ones.
    """
    kind = extractor_class(feature.extractor).options_class()
    where = f"{where}: features.{feature.name}"
    names = [field.name for field in dataclasses.fields(kind)]
    for key in feature.options:
        if key not in names:
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, [*names, *FEATURE_KEYS])}")
    from_json(kind, dict(feature.options), where)
    # Numbers stay as they are written: 1 and 1.0 are two identities.
    written: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in feature.options.items()
    }
    return kind(**written)


def build(feature: Feature, source: Path, demo: Path | None, fetch: bool = True) -> Extractor:
    """The feature's extractor with its model's files found (and fetched, if `fetch`); weights are not loaded yet."""
    options = check_options(feature, f"profile in {source}")
    kind = extractor_class(feature.extractor).kind(options)
    if feature.extractor == IMPORTED:
        raise UserError(
            f"feature {feature.name} was imported (ImportFeatures): there is no extractor that gives its rows for "
            "other records; link with a run that reads features of models"
        )
    if feature.extractor not in names():  # a plugin's own faults keep their traceback
        return kind(options, kind.find(options, source, demo, fetch))
    with explained(options.model):
        return kind(options, kind.find(options, source, demo, fetch))
