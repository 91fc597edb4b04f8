"""The list of commands, which Luigi imports as `tasks`. The inner tasks that they are made of are not in it."""

from mel_cache.commands.candidates import BuildCandidates, BuildPairs
from mel_cache.commands.compare import Ablate, CompareHeads, CompareRuns
from mel_cache.commands.dataset import DemoEncoders, DemoWorld, PrepareDataset
from mel_cache.commands.doctor import Doctor
from mel_cache.commands.enhance import EnhanceEntities
from mel_cache.commands.explore import Explore
from mel_cache.commands.features import ExtractFeatures, ExtractPart
from mel_cache.commands.heads import TrainHead
from mel_cache.commands.inout import ExportFeatures, ImportFeatures
from mel_cache.commands.kb import BuildKB, FetchImages
from mel_cache.commands.look import Explain, Report
from mel_cache.commands.manifest import EvaluationManifest
from mel_cache.commands.mentions import LinkMentions
from mel_cache.commands.search import SearchHead
from mel_cache.commands.serve import Serve
from mel_cache.commands.shell import cmdline
from mel_cache.commands.status import Status
from mel_cache.commands.task import Task
from mel_cache.commands.texts import LinkText
from mel_cache.commands.towers import ExportTower
from mel_cache.commands.upkeep import CleanCache, EstimateCache, MergeCache, VerifyCache

__all__ = [
    "Ablate",
    "BuildCandidates",
    "BuildKB",
    "BuildPairs",
    "CleanCache",
    "CompareHeads",
    "CompareRuns",
    "DemoEncoders",
    "DemoWorld",
    "Doctor",
    "EnhanceEntities",
    "EstimateCache",
    "EvaluationManifest",
    "Explain",
    "Explore",
    "ExportFeatures",
    "ExportTower",
    "ExtractFeatures",
    "ExtractPart",
    "FetchImages",
    "ImportFeatures",
    "LinkMentions",
    "LinkText",
    "MergeCache",
    "PrepareDataset",
    "Report",
    "SearchHead",
    "Serve",
    "Status",
    "TrainHead",
    "VerifyCache",
]
_GROUPS: dict[str, tuple[type[Task], ...]] = {
    "every day": (ExtractFeatures, TrainHead, CompareHeads, LinkMentions, LinkText, Status, Doctor),
    "a dataset": (BuildKB, FetchImages, PrepareDataset, EnhanceEntities, DemoWorld, DemoEncoders),
    "heads": (BuildCandidates, BuildPairs, SearchHead, Ablate, CompareRuns),
    "results": (Explain, Report, Explore, Serve, ExportTower, EvaluationManifest),
    "the cache": (ImportFeatures, ExportFeatures, ExtractPart, MergeCache, EstimateCache, VerifyCache, CleanCache),
}
COMMANDS = {title: {task.__name__: task for task in group} for title, group in _GROUPS.items()}
"""By heading and name, as help lists them."""

cmdline.install(COMMANDS, Task)
