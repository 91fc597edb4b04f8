"""Contracts of linking: jobs, results, calibration. No torch."""

from collections.abc import Mapping
from pathlib import Path

from foundation.contracts import contract
from heads.contracts import Compute


@contract
class LinkJob:
    """Link every mention of a file against the KB of a finished run.

    run: the run's folder. input: mentions, one JSON object per line, in the layout of mentions.jsonl. output: the
    file to write. images: folder that the mentions' pictures lie in; None: the input's own. top_k: entities listed
    per mention. chunk: mentions in memory at once. ignored: fields of the lines that are passed over instead of
    refused. nil_share: share of the mentions that is expected to be NIL, 0 to below 1; None: that of the run's dev.
    cache: whether features of the mentions are kept in the run's cache. joint_below: of a run of `fused` with the part
    `joint`, which is asked for mentions whose confidence without it is below this, above 0 to 1; None: for all.
    kb: label or folder of another prepared dataset whose entities are linked against; None: those of the run.
    kb_extra: file of entities that come to the KB, change or leave it, in the layout of entities.jsonl.
    """

    run: Path
    input: Path
    output: Path
    images: Path | None = None
    top_k: int = 5
    chunk: int = 1024
    ignored: tuple[str, ...] = ()
    nil_share: float | None = None
    cache: bool = True
    compute: Compute = Compute()
    joint_below: float | None = None
    kb: str | None = None
    kb_extra: Path | None = None

    @property
    def images_folder(self) -> Path:
        """The folder that the mentions' pictures lie in."""
        return self.images.absolute() if self.images else self.input.absolute().parent


@contract
class VectorJob:
    """Write a finished run's vectors of all mentions and entities of its dataset.

    run: its folder. folds: those of runs like it, each of which left another fold of train out. out: the folder to
    write to. compute: where.
    """

    run: Path
    folds: tuple[Path, ...]
    out: Path
    compute: Compute = Compute()


@contract
class VectorFiles:
    """Files of vectors, see `pipeline.candidates.base.RunVectors`: the run's own, then one per fold."""

    files: tuple[Path, ...]


@contract
class LinkCounts:
    """Lines that were linked (`mentions`) and refused.

    Of the mentions: those answered with NIL, those with a usable picture, those whose picture was left out, those
    whose phrase does not occur in the sentence, those without a candidate, those for which `joint` was asked (counted
    with `joint_below` alone).
    """

    mentions: int
    nil: int
    pictures: int
    pictures_left_out: int
    phrases_not_found: int
    without_candidates: int
    refused: int
    joint: int = 0


@contract
class KbChanges:
    """What became of a KB: entities that are new, that replace others, and that went; their pictures that cannot be
    used. extracted: rows of features that the cache lacked."""

    new: int
    changed: int
    removed: int
    pictures_left_out: int
    extracted: int

    @property
    def text(self) -> str:
        """In a line."""
        left_out = f"; {self.pictures_left_out:,} of their pictures cannot be used" if self.pictures_left_out else ""
        return (
            f"KB: {self.new:,} entities new, {self.changed:,} changed, {self.removed:,} removed; "
            f"{self.extracted:,} rows of features extracted{left_out}"
        )


@contract
class LinkSummary:
    """The contents of OUTPUT.summary.json.

    run: its folder. weights: hash of its weights. nil_share: the share of NIL mentions that confidence and threshold
    are for, and where it comes from. threshold: the confidence below which a mention is NIL, None where none is.
    notes: sentences about what was measured anew or is not applied, and how candidates were found where that was
    chosen. joint_below: see `LinkJob`; threshold_without_joint: the threshold of mentions for which `joint` was not
    asked. kb: label of the dataset whose entities were linked against, None for the run's own; kb_changes: what
    `kb_extra` made of it.
    """

    run: str
    weights: str
    counts: LinkCounts
    nil_share: float
    nil_share_of: str
    threshold: float | None
    notes: tuple[str, ...]
    joint_below: float | None = None
    threshold_without_joint: float | None = None
    kb: str | None = None
    kb_changes: KbChanges | None = None

    @property
    def text(self) -> str:
        """NIL share, threshold, how often `joint` was asked, changes of the KB, and notes, a line each."""
        cut = _cut(self.threshold)
        share = f"share of NIL mentions: {100 * self.nil_share:.1f} % ({self.nil_share_of}); NIL threshold: {cut}"
        lines = [share]
        if self.joint_below is not None:
            asked, others = f"{self.counts.joint:,} of {self.counts.mentions:,}", _cut(self.threshold_without_joint)
            lines.append(
                f"joint was asked for {asked} mentions, those with a confidence below {self.joint_below:g} without it; "
                f"NIL threshold of the others: {others}"
            )
        lines += [self.kb_changes.text] if self.kb_changes else []
        return "\n".join([*lines, *self.notes])


def _cut(threshold: float | None) -> str:
    return "none" if threshold is None else f"confidence below {threshold:.3f}"


@contract
class LinkResult:
    """The result of linking a file.

    summary: of the answers. rejects: the file of refused lines with their reasons, None where none was refused.
    refusals: the first of them, in words. seconds: without loading the run.
    """

    summary: LinkSummary
    output: Path
    rejects: Path | None
    refusals: tuple[str, ...]
    seconds: float

    @property
    def counts(self) -> LinkCounts:
        """Of the lines."""
        return self.summary.counts

    @property
    def text(self) -> str:
        """Counts, rate, the first refused lines, and the files, as LinkMentions prints them."""
        counts = self.counts
        lines = [
            f"{counts.mentions:,} mentions, {counts.nil:,} NIL, {counts.pictures:,} pictures, "
            f"{counts.pictures_left_out:,} pictures left out, {counts.phrases_not_found:,} phrases not in their "
            f"sentence, {counts.without_candidates:,} without candidates, {counts.refused:,} refused lines; "
            f"{counts.mentions / max(self.seconds, 1e-9):,.1f} mentions per second",
            self.summary.text,
            *self.refusals,
        ]
        if counts.refused > len(self.refusals):
            lines.append(f"… and {counts.refused - len(self.refusals):,} more")
        if self.rejects:
            lines.append(f"refused: {self.rejects}")
        return "\n".join([*lines, f"linked:  {self.output}"])


@contract
class Fit:
    """Platt scaling of s numbers: σ(weights · (values - mean) / deviation + bias), (s,) each but the bias."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float


@contract
class Effect:
    """What a step does on mentions that were held out. before, after: figures without and with it. applied: whether
    it helps there, and therefore is taken."""

    before: Mapping[str, float]
    after: Mapping[str, float]
    applied: bool


@contract
class Reliability:
    """What the three steps from scores to an answer do, each over those before it.

    measured_on: in words. scaling: `ECE` and `Brier` of the softmax and of its scaling, over mentions whose entity is
    in the KB. correction: the same for the share of NIL mentions, over all. threshold: `right`, the share of answers
    that are right, NIL among them.
    """

    measured_on: str
    scaling: Effect
    correction: Effect
    threshold: Effect


@contract
class Scaling:
    """How confidence and NIL come from scores, for mentions of which a share of `nil_share` is NIL.

    counts: mentions by outcome. confidence: whether there is one; none where too few mentions are known. right: fit of
    the chance that the top entity is right where the mention's entity is in the KB; None: the softmax. known: fit of
    the chance that it is in the KB, for this share; None: 1. threshold: the confidence below which a mention is NIL;
    None: none is. notes: sentences about what is not applied, and why.
    """

    nil_share: float
    counts: Mapping[str, int]
    confidence: bool
    right: Fit | None = None
    known: Fit | None = None
    threshold: float | None = None
    reliability: Reliability | None = None
    notes: tuple[str, ...] = ()


@contract
class Calibration(Scaling):
    """The contents of a run's calibration.json.

    made_of: hash of all that the scores behind it depend on. part: the half of dev it was measured on. nil: mentions
    there that are NIL (`own`), golds taken out of the KB (`hidden entities`).
    """

    version: int
    made_of: str
    part: str
    nil: Mapping[str, int]


@contract
class ExportJob:
    """Write the encoders that were tuned with a run. run: its folder. folder: absent or empty."""

    run: Path
    folder: Path


@contract
class ExportResult:
    """encoders: folder of each -> the model that it was tuned from."""

    encoders: Mapping[str, str]

    @property
    def text(self) -> str:
        """For a user to read."""
        return "\n".join(f"{folder}: tuned from {reference}" for folder, reference in self.encoders.items())
