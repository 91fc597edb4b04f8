"""Contracts of heads: wanted features, training jobs, results. No torch."""

from collections.abc import Collection, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from cache.inputs import Input, Side, Want
from foundation.contracts import contract

JOINT = "joint"
"""The part of `fused` that costs most, since every pair runs through an encoder."""
WITHOUT_JOINT = "without-joint.safetensors"
"""File of a run with that part: the same network, learned from all the others. It says whether `joint` is worth
asking, see `linking`."""


@contract
class HeadWant(Want):
    """A feature that a head reads. role: the head's name for it. outputs: those of the extractor's outputs that it
    reads. optional: outputs that it reads too where the feature has them. made: what a live encoder makes of them, of
    `tokens` and `pooled`."""

    role: str
    outputs: tuple[str, ...]
    optional: tuple[str, ...] = ()
    made: tuple[str, ...] = ()

    def read_of(self, written: Collection[str]) -> tuple[str, ...]:
        """The outputs that it reads of a feature with the outputs `written`."""
        return (*self.outputs, *(output for output in self.optional if output in written))


@contract
class HeadInput(HeadWant, Input):
    """A head's want with the place of its rows. identity: of a feature that a run of a head made, else None."""

    identity: str | None = None

    @property
    def place(self) -> str:
        """Its side and role; and `@3` or `@tuned` for states of an encoder and what a tower made of them, since the
        role may read other outputs of the encoder beside them."""
        cut = self.feature.partition("@")[2]
        return f"{self.side} {self.role} @{cut}" if cut else f"{self.side} {self.role}"


@contract
class Compute:
    """Where and how something runs. device: auto, cpu, cuda, cuda:N or mps. precision: auto, fp32, fp16 or bf16.
    threads: None for the library's own."""

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None


@contract
class LiveClip:
    """The CLIP behind cached states whose blocks run live while prompts are learned.

    profile, feature: the profile and the feature whose model it is. demo: folder of the demo's encoders. start: first
    live block of both towers.
    """

    profile: str
    feature: str
    demo: Path
    start: int


@contract
class LiveTower:
    """An encoder whose upper blocks run live over cached states, as the configuration's `tune` says.

    profile, feature: where the encoder is named. demo: folder of the demo's encoders. reads: of each side that goes
    through it, the head's roles and what is made of their states.
    """

    profile: str
    feature: str
    demo: Path
    reads: Mapping[Side, Mapping[str, tuple[str, ...]]]


@contract
class TrainingJob:
    """One run of one head.

    config: the method's full configuration, plain values. inputs: what the head reads. dataset: prepared folder
    (mentions.parquet, entities.parquet). candidates: .npz of ids and, where known, gold_rank. pairs: pair feature ->
    .npz of values beside the candidates. pictured: pair feature -> the sides whose pictures it is computed from. heads:
    the finished runs that it reads, by label. depends: all that names the run, in clear. out: the run's folder. live:
    for the stage that learns prompts. towers: encoders that run live, by `heads.tune.tower_name`.
    """

    method: str
    config: Mapping[str, Any]
    inputs: tuple[HeadInput, ...]
    dataset: Path
    candidates: Path
    out: Path
    seed: int = 0
    train_fraction: float = 1.0
    pairs: Mapping[str, Path] = field(default_factory=dict)
    pictured: Mapping[str, tuple[Side, ...]] = field(default_factory=dict)
    heads: Mapping[str, "TrainingJob"] = field(default_factory=dict)
    depends: Mapping[str, Any] = field(default_factory=dict)
    live: LiveClip | None = None
    towers: Mapping[str, LiveTower] = field(default_factory=dict)
    compute: Compute = Compute()


Figures = Mapping[str, int | float]
"""Of one part of a split: n, its mentions; H@1, …, MRR and recall as fractions of 1; MR, a rank. Of a head with a gate,
under its first protocol, `takes EXPERT`: how often an expert is taken for the ten best entities, as a fraction of 1."""
TAKES = "takes "
"""Before an expert's name in a figure's."""
Metrics = Mapping[str, Mapping[str, Mapping[str, Figures]]]
"""split -> protocol (`heads.protocols.protocol_name`) -> part -> figures, as metrics.json holds them."""


@contract
class TrainingResult:
    """The result of a run. metrics: split -> protocol -> part -> figures. table: the same as text. run: the contents of
    run.json."""

    metrics: Metrics
    table: str
    run: Mapping[str, Any]


@contract
class Selection:
    """The mentions and candidates that are explained.

    mentions: ids; none: all of the split. sample: the most mentions, 0: all. top: the best so many candidates of each
    mention, and its gold (0: its whole list).
    """

    split: str
    mentions: tuple[str, ...] = ()
    sample: int = 0
    top: int = 0


@contract
class ExplanationJob:
    """A finished run, what of it is explained, and the file that the lines go to."""

    run: TrainingJob
    selection: Selection
    file: Path


MASKED = "predictions-without-pictures.parquet"
"""File of a run's folder with the ranks of its mentions as if none had a picture."""


@contract
class MaskingJob:
    """A finished run whose mentions are ranked as if none had a picture, and the file that their ranks go to."""

    run: TrainingJob
    file: Path


@contract
class Masking:
    """How many mentions of dev and test have a picture."""

    pictured: int


@contract
class Explanations:
    """How many mentions were explained."""

    mentions: int
