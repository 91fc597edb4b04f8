"""Links new mentions with a trained head: features, candidates and scores as in its run, a confidence, and NIL."""

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pydantic import Field

from cache.identity import weights_hash
from cache.inputs import Want
from cache.shard import Status
from foundation import device as devices
from foundation import logs
from foundation.checksums import remembered, write_sealed
from foundation.contracts import to_json
from foundation.errors import PassingError, Unwritable, UserError
from heads.contracts import JOINT, WITHOUT_JOINT
from linking import answers, calibration, finished
from linking.contracts import Calibration
from linking.scorer import Chunk, Kb, Scorer
from linking.stores import Stores
from pipeline.candidates.contracts import GivenSource
from pipeline.datasets.fields import Label, Record, Text
from pipeline.datasets.images import Limits
from pipeline.datasets.records import Mention
from pipeline.datasets.scan import Scan, examine_all
from pipeline.datasets.spans import find_span
from pipeline.datasets.tables import STATUS_NAMES
from pipeline.extraction.contracts import Runtime
from pipeline.extraction.new_mentions import Known, MentionExtractor

CALIBRATION = "calibration"
"""Stem of the files beside a run: its answers for dev and what is fitted on them."""
WITHOUT = "calibration-without-joint"
"""The same of what the run's parts but `joint` answer."""
ATTEMPTS = 3  # at a picture that was read once and then cannot be
TOP = 5
_NOTHING = np.empty(0, np.int64)
Top = Callable[[Chunk, int], tuple[np.ndarray, np.ndarray]]
"""Rows and scores of the best entities of a chunk's mentions, at most so many, see `Scorer.top`."""
NOT_LISTED = Scan(Status.MISSING, "not listed", None, 0, 0)


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
class _Ranked:
    """rows, scores (m, d): the best entities of m mentions, best first. whole (m,) bool: whether all of the run ranked
    them, `joint` too. verdicts: on their pictures. unlike (m,) bool: whether a feature lies outside the spread of those
    of the run."""

    rows: np.ndarray
    scores: np.ndarray
    whole: np.ndarray
    verdicts: list[Scan | PassingError]
    unlike: np.ndarray


@dataclass(frozen=True)
class Hints:
    """What else is known of a mention.

    span: characters of the phrase in the sentence, end exclusive; looked up where it is None. type, candidates
    (entity ids): read by runs whose candidate sources are `name-of-type` and `given`.
    """

    span: tuple[int, int] | None = None
    type: str | None = None
    candidates: Sequence[str] | None = None


class Linker:
    """A run with its models in memory, for many mentions: `Linker.load(run).link(sentence, phrase, image)`.

    Calls from several threads wait for each other. Rows of new mentions are written to the run's cache when there are
    256 of a feature, when the linker is closed (as a context manager: at the end), and when Python ends.
    calibration: of confidence and NIL; without_joint: of answers that do without `joint`, None where there are none.
    notes: sentences about what was made anew.
    """

    def __init__(
        self,
        run: finished.Finished,
        device: str = "auto",
        precision: str = "auto",
        nil_share: float | None = None,
        cache: bool = True,
    ) -> None:
        if nil_share is not None and not 0 <= nil_share < 1:
            raise UserError(f"nil_share is {nil_share}, expected a number from 0 to below 1 (None: that of dev)")
        self.run, self.device, self.lock = run, torch.device(devices.choose(device)), threading.RLock()
        runs = run.tree()
        self.stores = stores = Stores.of(runs, keep=cache)
        self.kb = Kb.read(run.prepared)
        self.scorer = Scorer(run, self.kb, stores, self.device)
        self.limits = Limits(**run.limits)
        self.takes_given = any(isinstance(spec, GivenSource) for spec in self.scorer.specs)
        columns = {name: run.paths.root / path for one in runs for name, path in one.extraction.columns.items()}
        listed = [
            Want(side="mention", feature=feature, view=view)
            for side, feature, view in (name.split(".") for name in sorted(columns))
            if side == "mention"
        ]
        runtime = Runtime(device=device, precision=precision)
        demo = next((one.demo for one in runs if one.demo), None)
        entities = {name: self.kb.table[name] for name in ("id", "name")}
        accepted = {name for one in runs for name in one.extraction.accepted}
        known = Known(run.paths.root, demo, run.profiles, self.limits, stores, columns, entities, accepted)
        self.extractor = MentionExtractor(listed, known, runtime) if listed else None
        self.weights, self.notes = weights_hash([run.folder / "model.safetensors"], None), list[str]()
        self.nil_share = nil_share
        self.joint_below: float | None = None
        self.calibration = self._calibration(CALIBRATION, self.scorer.top)
        self.without_joint: Calibration | None = None
        self._at_exit = weakref.finalize(self, _close, stores)

    @classmethod
    def load(
        cls,
        run: str | Path,
        device: str = "auto",
        precision: str = "auto",
        nil_share: float | None = None,
        cache: bool = True,
    ) -> "Linker":
        """The run in a folder under artifacts/runs/.

        nil_share: share of the mentions to come that is NIL, 0 to below 1; None: that of dev. cache: whether features
        of new mentions are kept in the run's cache; else each call forgets them. Raises `UserError` where there is no
        run, or its features are not those it was trained on.
        """
        return cls(finished.read(Path(run)), device, precision, nil_share, cache)

    def ask_joint_below(self, confidence: float) -> "Linker":
        """From now on, ask the part `joint` of a run of `fused` only for mentions whose confidence without it is below
        this, above 0 to 1. Returns the linker itself.

        Raises `UserError` for another number, a run without `joint` beside other parts, and one whose confidence
        without `joint` cannot be fitted.
        """
        _check_joint(self.run, confidence)
        with self.lock:
            if confidence < 1 and self.without_joint is None:
                fitted = self._calibration(WITHOUT, self._top_without_joint)
                if not fitted.confidence:
                    raise UserError(f"joint_below: without joint, {', '.join(fitted.notes)}")
                self.without_joint = fitted
            elif confidence == 1:
                self.without_joint = None
            self.joint_below = confidence
        return self

    def close(self) -> None:
        """Write the rows of new mentions that are in memory. The linker can be used afterwards.

        Raises `UserError` where they cannot be written.
        """
        with self.lock:
            self.stores.flush()

    def __enter__(self) -> "Linker":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def link(
        self,
        sentence: str,
        phrase: str,
        image: str | Path | bytes | None = None,
        top_k: int = TOP,
        hints: Hints = Hints(),
    ) -> Linked:
        """The answer for one mention.

        image: a picture's path, or its bytes; one that cannot be used is left out, and `Linked.picture` says why.
        top_k: entities listed. Raises `UserError` for an empty phrase, a span outside the sentence, or a
        value of another kind.
        """
        span, given = hints.span, hints.candidates
        _check_types(sentence, phrase, image, hints)
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
            return self.link_all([mention], root, top_k)[0]

    def link_all(self, mentions: Sequence[Mention], root: Path, top_k: int = TOP) -> list[Linked]:
        """The answers for some mentions, all in memory at once. root: folder that their pictures' paths start from.

        Raises `PassingError` where a picture that was read cannot be read again, several times.
        """
        if top_k < 1:
            raise UserError(f"top_k is {top_k}, expected at least 1")
        if not mentions:
            return []
        ranked = self._ranked(mentions, root, max(calibration.DEPTH, top_k))
        rows, scores, verdicts = ranked.rows, ranked.scores, ranked.verdicts
        ways = [(fitted, _confidence(fitted, scores)) for fitted in (self.without_joint, self.calibration) if fitted]
        linked = []
        for at, mention in enumerate(mentions):
            fitted, chances = ways[-1 if ranked.whole[at] else 0]
            chance, cut = chances[at], fitted.threshold
            entities = [
                Ranked(self.kb.table["id"][row], self.kb.table["name"][row], score)
                for row, score in zip(rows[at].tolist(), scores[at].tolist(), strict=True)
                if row >= 0 and np.isfinite(score)
            ]
            picture = _picture(mention, verdicts[at])
            lacking = {
                NO_SPAN: mention.span is None,
                NO_PICTURE: picture not in ("ok", "none"),
                UNKNOWN: self.takes_given and any(name not in self.kb.rows for name in mention.given or ()),
                UNLIKE: bool(ranked.unlike[at]),
                NO_CANDIDATE: not entities,
            }
            linked.append(
                Linked(
                    mention=mention.phrase,
                    span=mention.span,
                    entities=tuple(entities[:top_k]),
                    confidence=chance,
                    nil=not entities or (chance is not None and cut is not None and chance < cut),
                    picture=picture,
                    notes=tuple(note for note in NOTES if lacking[note]),
                    joint=None if self.joint_below is None else bool(ranked.whole[at] and entities),
                )
            )
        return linked

    def _top(self, chunk: Chunk, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best entities and their scores, and whether all of the run ranked them; see `_Ranked`."""
        if self.without_joint is None or self.joint_below is None:
            return *self.scorer.top(chunk, depth), np.ones(len(chunk), bool)
        rows, scores = self._top_without_joint(chunk, depth)
        whole = _chances(self.without_joint, scores) < self.joint_below
        if whole.any():
            rows[whole], scores[whole] = self.scorer.top_of_lists(chunk, depth, np.flatnonzero(whole))
        return rows, scores, whole

    def _top_without_joint(self, chunk: Chunk, depth: int) -> tuple[np.ndarray, np.ndarray]:
        return self.scorer.top_of_lists(chunk, depth, np.arange(len(chunk)), self.scorer.without_joint)

    def _ranked(self, mentions: Sequence[Mention], root: Path, depth: int) -> _Ranked:
        """The best entities; a picture that cannot be read, now or ever, is left out."""
        for attempt in range(ATTEMPTS):
            verdicts = self._verdicts([root / mention.image if mention.image else None for mention in mentions])
            try:
                with self.lock:
                    try:
                        chunk = self._chunk(self._table(mentions, verdicts), root)
                        return _Ranked(*self._top(chunk, depth), verdicts, chunk.unlike)
                    finally:
                        self.stores.answered()
            except PassingError:  # a picture changed, or its disk went away, since it was looked at
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError

    def _verdicts(self, paths: Sequence[Path | None]) -> list[Scan | PassingError]:
        """The verdict on each picture, as `pipeline.datasets.scan` gives them."""
        distinct = list(dict.fromkeys(str(path) for path in paths if path is not None))
        found = dict(zip(distinct, examine_all(distinct, self.limits), strict=True))
        return [NOT_LISTED if path is None else found[str(path)] for path in paths]

    def _table(self, mentions: Sequence[Mention], verdicts: Sequence[Scan | PassingError]) -> dict[str, list[Any]]:
        """The mentions as columns of mentions.parquet, pictures that cannot be used left out."""
        keys = [verdict.key if isinstance(verdict, Scan) else None for verdict in verdicts]
        return {
            "id": [mention.id for mention in mentions],
            "sentence": [mention.sentence for mention in mentions],
            "phrase": [mention.phrase for mention in mentions],
            "start": [mention.span[0] if mention.span else -1 for mention in mentions],
            "end": [mention.span[1] if mention.span else -1 for mention in mentions],
            "type": [mention.type for mention in mentions],
            "given": [self._rows(mention.given) for mention in mentions],
            "image": [mention.image if key else None for mention, key in zip(mentions, keys, strict=True)],
            "image_key": keys,
        }

    def _rows(self, given: Sequence[str] | None) -> list[int] | None:
        return None if given is None else [self.kb.rows[name] for name in given if name in self.kb.rows]

    def _chunk(self, table: Mapping[str, list], root: Path, without: np.ndarray = _NOTHING) -> Chunk:
        """The mentions of a table with their features. without: rows of the KB that are taken for absent."""
        columns = self.extractor.columns(table, root) if self.extractor else {}
        unlike = self.extractor.unlike(columns) if self.extractor else np.zeros(len(table["id"]), bool)
        return Chunk(table, columns, without, unlike)

    def _calibration(self, name: str, top: Top) -> Calibration:
        """Confidence and NIL threshold for the linker's share of NIL mentions, None for dev's own.

        The answers of `top` for dev are computed once and kept beside the run, as is the calibration for dev's own
        share. name: of their files.
        """
        share, weights = self.nil_share, "model.safetensors" if name == CALIBRATION else WITHOUT_JOINT
        made_of = answers.made_of(self.run, self.stores, weights)
        of_dev, fits = (self.run.folder / f"{name}{ending}" for ending in (".npz", ".json"))
        kept = known = answers.DevAnswers.read(of_dev, made_of)
        if kept is None:
            if fits.exists():
                self.notes.append(f"{fits}: of an earlier version, or of other weights; fitted again")
            kept = answers.measure(
                self.run, made_of, lambda table, hidden: top(self._chunk(table, Path(), hidden), calibration.DEPTH)
            )
        scaling = calibration.calibrate(kept.answers, kept.nil_share if share is None else share)
        fitted = Calibration(
            version=calibration.VERSION, made_of=made_of, part=kept.part, nil=kept.nil, **vars(scaling)
        )
        content = to_json(fitted)
        try:
            if known is None:
                kept.write(of_dev)
            if share is None and not _holds(fits, content):
                write_sealed(fits, content)
        except Unwritable as error:
            self.notes.append(f"{error}; they are computed again at the next start")
        return fitted


def _check_joint(run: finished.Finished, below: float) -> None:
    """Raises `UserError` for a number out of range, and for a run in which `joint` cannot be left out."""
    if not 0 < below <= 1:
        raise UserError(f"joint_below is {below}, expected a number above 0, at most 1")
    if (
        run.method != "fused"
        or JOINT not in run.runs
        or not (run.pairs or len(run.runs) > 1 or run.config["frequency"])
    ):
        raise UserError(
            f"--joint-below: {run.folder} is no run of fused with joint beside other parts; leave the option out"
        )


def _chances(fitted: Calibration, scores: np.ndarray) -> np.ndarray:
    """(m,) confidence of each mention with these scores (m, d), best first."""
    return calibration.confidence(fitted.right, fitted.known, *calibration.evidence(scores))


def _confidence(fitted: Calibration, scores: np.ndarray) -> list[float | None]:
    """The same; None where nothing could be fitted."""
    return _chances(fitted, scores).tolist() if fitted.confidence else [None] * len(scores)


def _close(stores: Stores) -> None:
    """Write what a linker that nobody closed holds in memory."""
    try:
        stores.flush()
    except UserError as error:
        logs.notice(f"features of new mentions were not kept: {error}")


def _holds(path: Path, content: Any) -> bool:
    """Whether a JSON file holds this."""
    return remembered(path) == content


class _Texts(Record):
    """What a mention's texts must be."""

    sentence: Text
    phrase: Text
    type: Text | None = None
    candidates: list[Label] | None = Field(default=None, description="a list of ids")


def _check_types(sentence: Any, phrase: Any, image: Any, hints: Hints) -> None:
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


def _picture(mention: Mention, verdict: Scan | PassingError) -> str:
    """See `Linked.picture`."""
    if mention.image is None:
        return "none"
    if isinstance(verdict, PassingError):
        return f"not readable now: {str(verdict).rpartition(': ')[2]}"
    if verdict.status == Status.OK:
        return "ok"
    return f"{STATUS_NAMES[verdict.status].replace('_', ' ')}: {verdict.cause}"
