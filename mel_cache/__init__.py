"""The Python API: functions from a dataset's files to trained heads and linked mentions, their jobs and results.

Each function takes one job, does the steps that are missing and returns one result, which is a field of the next job
(docs/python.md). Importing this package loads neither torch nor Luigi.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linking.contracts import ExportJob, ExportResult, LinkJob, LinkResult
    from linking.texts.contracts import TextJob, TextResult
    from mel_cache.api import (
        build_candidates,
        build_kb,
        build_pairs,
        compare,
        evaluate,
        export,
        export_features,
        extract,
        fetch_images,
        import_features,
        link,
        link_text,
        prepare,
        search,
        train,
    )
    from mel_cache.contracts import (
        Candidates,
        CandidatesJob,
        DatasetJob,
        Evaluation,
        EvaluationJob,
        FeatureExport,
        FeatureExportJob,
        FeatureImport,
        FeatureImportJob,
        Features,
        FeaturesJob,
        HeadJob,
        Pairs,
        PairsJob,
        PreparedDataset,
        Sweep,
        SweepJob,
        TrainedHead,
    )
    from pipeline.extraction.contracts import Runtime
    from pipeline.kb.contracts import KBJob, KBReport, PicturesJob, PicturesReport
    from report.contracts import ComparisonJob, ComparisonResult

__all__ = [
    "Candidates",
    "CandidatesJob",
    "ComparisonJob",
    "ComparisonResult",
    "DatasetJob",
    "Evaluation",
    "EvaluationJob",
    "ExportJob",
    "ExportResult",
    "FeatureExport",
    "FeatureExportJob",
    "FeatureImport",
    "FeatureImportJob",
    "Features",
    "FeaturesJob",
    "HeadJob",
    "KBJob",
    "KBReport",
    "LinkJob",
    "LinkResult",
    "Pairs",
    "PairsJob",
    "PicturesJob",
    "PicturesReport",
    "PreparedDataset",
    "Runtime",
    "Sweep",
    "SweepJob",
    "TextJob",
    "TextResult",
    "TrainedHead",
    "build_candidates",
    "build_kb",
    "build_pairs",
    "compare",
    "evaluate",
    "export",
    "export_features",
    "extract",
    "fetch_images",
    "import_features",
    "link",
    "link_text",
    "prepare",
    "search",
    "train",
]

_ELSEWHERE = {
    "Comparison": "report.contracts",
    "Export": "linking.contracts",
    "KB": "pipeline.kb.contracts",
    "Link": "linking.contracts",
    "Pictures": "pipeline.kb.contracts",
    "Runtime": "pipeline.extraction.contracts",
    "Text": "linking.texts.contracts",
}


def __getattr__(name: str) -> Any:
    """A public name, its module imported when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name[0].islower():
        return getattr(import_module("mel_cache.api"), name)
    of = next((module for start, module in _ELSEWHERE.items() if name.startswith(start)), "mel_cache.contracts")
    return getattr(import_module(of), name)


def __dir__() -> list[str]:
    return __all__
