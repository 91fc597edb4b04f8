"""Answers of a linker, what else may be known of a mention, and the checks of what a program gives."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field

from cache.shard import Status
from foundation.errors import PassingError, UserError
from pipeline.datasets.fields import Label, Record, Text
from pipeline.datasets.records import Mention
from pipeline.datasets.scan import Scan
from pipeline.datasets.spans import find_span
from pipeline.datasets.tables import STATUS_NAMES
from pipeline.extraction.parents import Parent


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


@dataclass(frozen=True)
class Explained:
    """A mention's answer, and how the head came to it.

    candidates: of each entity of the answer, in its order, what the head tells: `id`, `score` and what else
    `heads.explanations.explain` lists. attention: of the mention, see there. detections: what was asked for of its
    picture: feature -> its row.
    """

    linked: Linked
    candidates: tuple[Mapping[str, Any], ...] = ()
    attention: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    detections: Mapping[str, Parent] = field(default_factory=dict)

    def of_best(self, top_k: int) -> "Explained":
        """The same of at most so many entities."""
        linked = replace(self.linked, entities=self.linked.entities[:top_k])
        return replace(self, linked=linked, candidates=self.candidates[:top_k])

    def to_json(self) -> dict[str, Any]:
        """The fields of LinkMentions' output, and of Explain's."""
        return {**self.linked.to_json(), "candidates": list(self.candidates), "attention": dict(self.attention)}


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


@contextmanager
def new_mention(
    sentence: str, phrase: str, image: str | Path | bytes | None, hints: Hints
) -> Iterator[tuple[Mention, Path]]:
    """What a program gives, as a mention, and the folder that its picture's path starts from: there until the end.

    Raises `UserError` for an empty phrase, a span outside the sentence, or a value of another kind.
    """
    span, given = hints.span, hints.candidates
    check_types(sentence, phrase, image, hints)
    if not phrase.strip():
        raise UserError("the phrase is empty; name the words of the sentence that mean the entity")
    if span is not None and not 0 <= span[0] < span[1] <= len(sentence):
        raise UserError(
            f"span {span[0]}..{span[1]} lies outside the sentence of {len(sentence)} characters; "
            "leave it out to have the phrase looked up"
        )
    with TemporaryDirectory(prefix="mel-") as folder:
        root = Path(folder)
        if isinstance(image, bytes):
            (root / "picture").write_bytes(image)
            path: str | None = "picture"
        else:
            path = str(Path(image).absolute()) if image is not None else None
        mention = Mention(
            id="new",
            sentence=sentence,
            phrase=phrase,
            split="test",
            span=span or find_span(sentence, phrase),
            image=path,
            type=hints.type,
            given=None if given is None else tuple(given),
        )
        yield mention, root


def picture_of(mention: Mention, verdict: Scan | PassingError) -> str:
    """See `Linked.picture`."""
    if mention.image is None:
        return "none"
    if isinstance(verdict, PassingError):
        return f"not readable now: {str(verdict).rpartition(': ')[2]}"
    if verdict.status == Status.OK:
        return "ok"
    return f"{STATUS_NAMES[verdict.status].replace('_', ' ')}: {verdict.cause}"
