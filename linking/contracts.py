"""Contracts of linking: jobs, results, calibration. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.contracts import contract
from heads.contracts import Compute


@contract
class LinkJob:
    """Link every mention of a file against the KB of a finished run.

    run: the run's folder. input: mentions, one JSON object per line, in the layout of mentions.jsonl. output: the
    file to write. images: folder that the mentions' pictures lie in; None: the input's own. top_k: entities listed
    per mention. chunk: mentions in memory at once. ignored: fields of the lines that are passed over instead of
    refused.
    """

    run: Path
    input: Path
    output: Path
    images: Path | None = None
    top_k: int = 5
    chunk: int = 1024
    ignored: tuple[str, ...] = ()
    compute: Compute = Compute()


@contract
class LinkCounts:
    """Lines that were linked (`mentions`) and refused.

    Of the mentions: those answered with NIL, those with a usable picture, those whose picture was left out.
    """

    mentions: int
    nil: int
    pictures: int
    pictures_left_out: int
    refused: int


@contract
class LinkResult:
    """The result of linking a file.

    rejects: the file of refused lines with their reasons, None where none was refused. refusals: the first of them,
    in words. seconds: without loading the run.
    """

    counts: LinkCounts
    output: Path
    rejects: Path | None
    refusals: tuple[str, ...]
    seconds: float

    @property
    def text(self) -> str:
        """Counts, rate, the first refused lines, and the files, as LinkMentions prints them."""
        counts = self.counts
        lines = [
            f"{counts.mentions:,} mentions, {counts.nil:,} NIL, {counts.pictures:,} pictures, "
            f"{counts.pictures_left_out:,} pictures left out, {counts.refused:,} refused lines; "
            f"{counts.mentions / max(self.seconds, 1e-9):,.1f} mentions per second",
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
class Scaling:
    """A fit with the confidence below which a mention is NIL; both None where too few mentions are known.

    counts: mentions by outcome. reliability: calibration error, Brier score and accuracy before and after, on
    mentions held out.
    """

    counts: Mapping[str, int]
    fit: Fit | None
    threshold: float | None
    reliability: Mapping[str, Any] | None


@contract
class Calibration(Scaling):
    """The contents of a run's calibration.json.

    model: hash of the weights it was measured with. part: the half of dev it was measured on. nil: mentions there
    that are NIL (`own`) and golds taken out of the KB (`hidden entities`).
    """

    version: int
    model: str
    part: str
    nil: Mapping[str, int]
