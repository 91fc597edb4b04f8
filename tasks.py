"""What can be run: `luigi --module tasks NAME [--option value]`.

ExtractFeatures and TrainHead are the two commands of every day, CompareHeads the third; Luigi's `--help` after a NAME lists its options.

- a dataset: PrepareDataset, and for the demo DemoWorld, DemoEncoders (mel_cache/commands/dataset.py)
- texts of entities: EnhanceEntities (mel_cache/commands/enhance.py)
- features: ExtractFeatures, its groups ExtractGroup (mel_cache/commands/features.py)
- candidate lists: BuildCandidates, BuildPairs (mel_cache/commands/candidates.py)
- heads: TrainHead, PromptedFeatures, SearchHead (mel_cache/commands/heads.py)
- new mentions: LinkMentions (mel_cache/commands/mentions.py)
- reports: CompareHeads, Ablate, CompareRuns (mel_cache/commands/compare.py), Explain, Report (mel_cache/commands/look.py), Explore (mel_cache/commands/explore.py)
- what there is: Status (mel_cache/commands/status.py); upkeep of the cache: VerifyCache, EstimateCache, CleanCache (mel_cache/commands/upkeep.py)

Each task says what it reads and what it leaves behind.
"""

import os
import sys

from foundation import child
from mel_cache.commands import help
from mel_cache.commands.candidates import BuildCandidates, BuildPairs
from mel_cache.commands.compare import Ablate, CompareHeads, CompareRuns
from mel_cache.commands.dataset import DemoEncoders, DemoWorld, PrepareDataset
from mel_cache.commands.enhance import EnhanceEntities
from mel_cache.commands.explore import Explore
from mel_cache.commands.features import ExtractFeatures, ExtractGroup
from mel_cache.commands.heads import PromptedFeatures, SearchHead, TrainHead
from mel_cache.commands.look import Explain, Report
from mel_cache.commands.mentions import LinkMentions
from mel_cache.commands.status import Status
from mel_cache.commands.upkeep import CleanCache, EstimateCache, VerifyCache

__all__ = [
    "Ablate",
    "BuildCandidates",
    "BuildPairs",
    "CleanCache",
    "CompareHeads",
    "CompareRuns",
    "DemoEncoders",
    "DemoWorld",
    "EnhanceEntities",
    "EstimateCache",
    "Explain",
    "Explore",
    "ExtractFeatures",
    "ExtractGroup",
    "LinkMentions",
    "PrepareDataset",
    "PromptedFeatures",
    "Report",
    "SearchHead",
    "Status",
    "TrainHead",
    "VerifyCache",
]


os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
sys.excepthook = child.quiet_interrupt
help.offer(sys.argv, {name: globals()[name] for name in __all__})
