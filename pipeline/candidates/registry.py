"""Which class stands behind a candidate source's specification."""

from collections.abc import Mapping
from typing import Any

from pipeline.candidates.base import Source
from pipeline.candidates.by_name import ByName
from pipeline.candidates.by_name_of_type import ByNameOfType
from pipeline.candidates.by_run import ByRun
from pipeline.candidates.by_vector import ByVector
from pipeline.candidates.contracts import GivenSource, NameSource, RunSource, SourceSpec, TypedNameSource, VectorSource
from pipeline.candidates.given import Given

SOURCES: Mapping[type, Any] = {
    NameSource: ByName,
    TypedNameSource: ByNameOfType,
    GivenSource: Given,
    VectorSource: ByVector,
    RunSource: ByRun,
}


def source(spec: SourceSpec) -> Source:
    """The source of a specification."""
    return SOURCES[type(spec)](spec)
