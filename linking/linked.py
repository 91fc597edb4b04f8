"""Answers of a linker, what else may be known of a mention, and the checks of what a program gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from cache.shard import Status
from foundation.errors import PassingError, UserError
from pipeline.datasets.fields import Label, Record, Text
from pipeline.datasets.records import Mention
from pipeline.datasets.scan import Scan
from pipeline.datasets.tables import STATUS_NAMES


@dataclass(frozen=True)
class Ranked:
    """An entity of the KB with its score for a mention, on the head's own scale."""

    id: str
    name: str
    score: float


@dataclass(frozen=True)
class Linked:
    """A mention's answer.

    mention: the phrase. span: its characters in the sentence, None where it does not occur there. entities: the best
    of the KB, best first. confidence: the chance that the first is right, None where the run has no calibration. nil:
    whether no entity of the KB seems to be meant. picture: "none", "ok", or why it was left out. notes: codes of what
    the answer had to do without, of `NOTES`. joint: whether `joint` was asked; None without `ask_joint_below`.
    """

    mention: str
    span: tuple[int, int] | None
    entities: tuple[Ranked, ...]
    confidence: float | None
    nil: bool
    picture: str
    notes: tuple[str, ...] = ()
    joint: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields of LinkMentions' output for this mention."""
        entities = [{"id": entity.id, "name": entity.name, "score": entity.score} for entity in self.entities]
        return {
            "mention": self.mention,
            "span": None if self.span is None else list(self.span),
            "picture": self.picture,
            "notes": list(self.notes),
            **({} if self.joint is None else {"joint": self.joint}),
            "nil": self.nil,
            "confidence": self.confidence,
            "entities": entities,
        }


NO_SPAN = "phrase not in the sentence"
NO_PICTURE = "picture not used"
UNKNOWN = "candidates not in the KB"
UNLIKE = "features unlike the run's"
NO_CANDIDATE = "no candidates"
NOTES = (NO_SPAN, NO_PICTURE, UNKNOWN, UNLIKE, NO_CANDIDATE)
"""What an answer may have had to do without, or may suffer from."""


@dataclass(frozen=True)
class Hints:
    """What else is known of a mention.

    span: characters of the phrase in the sentence, end exclusive; looked up where it is None. type, candidates
    (entity ids): read by runs whose candidate sources are `name-of-type` and `given`.
    """

    span: tuple[int, int] | None = None
    type: str | None = None
    candidates: Sequence[str] | None = None


NO_HINTS = Hints()


class _Texts(Record):
    """What a mention's texts must be."""

    sentence: Text
    phrase: Text
    type: Text | None = None
    candidates: list[Label] | None = Field(default=None, description="a list of ids")


def check_types(sentence: Any, phrase: Any, image: Any, hints: Hints) -> None:
    """Raises `UserError` where something given to `Linker.link` is of another kind than it must be."""
    given = list(hints.candidates) if isinstance(hints.candidates, tuple) else hints.candidates
    values = {"sentence": sentence, "phrase": phrase, "type": hints.type, "candidates": given}
    _Texts.read(values, "Linker.link")
    if not isinstance(image, str | Path | bytes | None):
        raise UserError(f"Linker.link: image is {type(image).__name__}, expected a path, a picture's bytes or None")
    if hints.span is not None and not (
        isinstance(hints.span, tuple | list) and len(hints.span) == 2 and all(type(at) is int for at in hints.span)
    ):
        raise UserError(f"Linker.link: span is {hints.span!r:.60}, expected two whole numbers (start, end) or None")


def picture_of(mention: Mention, verdict: Scan | PassingError) -> str:
    """See `Linked.picture`."""
    if mention.image is None:
        return "none"
    if isinstance(verdict, PassingError):
        return f"not readable now: {str(verdict).rpartition(': ')[2]}"
    if verdict.status == Status.OK:
        return "ok"
    return f"{STATUS_NAMES[verdict.status].replace('_', ' ')}: {verdict.cause}"
