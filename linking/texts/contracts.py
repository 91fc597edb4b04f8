"""Contracts of linking raw text. No torch."""

from pathlib import Path

from foundation.contracts import contract
from heads.contracts import Compute
from linking.contracts import LinkCounts


@contract
class TextJob:
    """Find the mentions in texts, and link them against the KB of a finished run.

    run: its folder. ner: what finds mentions: the folder of a spaCy pipeline or of a token classifier of transformers,
    or `package:NAME/PATH` in an installed package. input: texts, one JSON object per line; None: the texts of the run's
    own dataset, of `split`. output: the file to write. annotations: folder that standoff annotations (brat) are written
    to; None: none are. labels: of the finder whose spans are mentions; none: all but those of numbers and times.
    images: folder that the texts' pictures lie in; None: the input's own. top_k: entities per mention. chunk: texts in
    memory at once. ignored, nil_share, cache, kb: see `linking.contracts.LinkJob`.
    """

    run: Path
    ner: str
    output: Path
    input: Path | None = None
    split: str | None = None
    annotations: Path | None = None
    labels: tuple[str, ...] = ()
    images: Path | None = None
    top_k: int = 5
    chunk: int = 64
    ignored: tuple[str, ...] = ()
    nil_share: float | None = None
    cache: bool = True
    kb: str | None = None
    compute: Compute = Compute()

    @property
    def images_folder(self) -> Path | None:
        """The folder that the texts' pictures lie in; None where none is known."""
        if self.images:
            return self.images.absolute()
        return self.input.absolute().parent if self.input else None


@contract
class Rates:
    """Precision, recall and F1 of `found` items of which `right` are right, where `gold` were to be found."""

    found: int
    gold: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.found + self.gold) if self.found + self.gold else 0.0

    @property
    def text(self) -> str:
        """In percent."""
        rates = (100 * self.precision, 100 * self.recall, 100 * self.f1)
        return "precision {:.1f} %, recall {:.1f} %, F1 {:.1f} %".format(*rates) + f" ({self.gold:,} annotated)"


@contract
class EndToEnd:
    """What was found in annotated texts, over all of them together (micro averages).

    mentions: spans that are exactly an annotated one. overlapping: spans that share a character with one. links: spans
    that are exactly an annotated one whose entity is in the KB, and linked to it; answers that are NIL count as nothing
    found. linked_of_found: of annotated mentions that were found exactly, those with the right answer, NIL included.
    """

    texts: int
    mentions: Rates
    overlapping: Rates
    links: Rates
    linked_of_found: Rates

    @property
    def text(self) -> str:
        """A line for each."""
        return "\n".join(
            [
                f"end to end, {self.texts:,} annotated texts:",
                f"  mentions, exact:       {self.mentions.text}",
                f"  mentions, overlapping: {self.overlapping.text}",
                f"  links:                 {self.links.text}",
                f"  right of those found:  {100 * self.linked_of_found.recall:.1f} %, NIL included",
            ]
        )


@contract
class TextSummary:
    """The contents of OUTPUT.summary.json.

    run, weights, nil_share, threshold, notes: see `linking.contracts.LinkSummary`. ner: as in the job. texts: that were
    read. counts: of their mentions; `refused` counts texts. overlaps: spans that were left out for another. evaluation:
    None where no text is annotated.
    """

    run: str
    weights: str
    ner: str
    texts: int
    counts: LinkCounts
    overlaps: int
    nil_share: float
    threshold: float | None
    notes: tuple[str, ...]
    evaluation: EndToEnd | None = None


@contract
class TextResult:
    """The result of linking texts. Fields: see `linking.contracts.LinkResult`; annotations: the folder of those."""

    summary: TextSummary
    output: Path
    rejects: Path | None
    annotations: Path | None
    refusals: tuple[str, ...]
    seconds: float

    @property
    def text(self) -> str:
        """As LinkText prints it."""
        counts = self.summary.counts
        lines = [
            f"{self.summary.texts:,} texts, {counts.mentions:,} mentions, {counts.nil:,} NIL, "
            f"{counts.pictures:,} with a picture, {self.summary.overlaps:,} overlapping spans left out, "
            f"{counts.refused:,} refused lines; {self.summary.texts / max(self.seconds, 1e-9):,.1f} texts per second",
            *([self.summary.evaluation.text] if self.summary.evaluation else []),
            *self.summary.notes,
            *self.refusals,
        ]
        if counts.refused > len(self.refusals):
            lines.append(f"… and {counts.refused - len(self.refusals):,} more")
        if self.rejects:
            lines.append(f"refused: {self.rejects}")
        if self.annotations:
            lines.append(f"brat:    {self.annotations}")
        return "\n".join([*lines, f"linked:  {self.output}"])
