"""Steps from a dataset's files to trained heads: what each reads, the request that names its receipt, and its work.

The commands and the Python API make the same steps, so what one has done the other finds done. No Luigi, no torch.
"""

from mel_cache.steps.base import Done, Outcome, Run, Setup, Step, again, digest, in_process, keep
from mel_cache.steps.candidates import build_candidates, build_pair
from mel_cache.steps.datasets import DatasetFiles, Prepared, check_label, demo_encoders, demo_world, prepare
from mel_cache.steps.extraction import Group, extract_features, extract_group, extraction_job
from mel_cache.steps.training import Reads, Training, average, extract_learned, learned_inputs, search, train

__all__ = [
    "DatasetFiles",
    "Done",
    "Group",
    "Outcome",
    "Prepared",
    "Reads",
    "Run",
    "Setup",
    "Step",
    "Training",
    "again",
    "average",
    "build_candidates",
    "build_pair",
    "check_label",
    "demo_encoders",
    "demo_world",
    "digest",
    "extract_features",
    "extract_group",
    "extract_learned",
    "extraction_job",
    "in_process",
    "keep",
    "learned_inputs",
    "prepare",
    "search",
    "train",
]
