"""Links new mentions with a trained head: features, candidates and scores as in its run, a confidence, and NIL."""

import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.identity import weights_hash
from cache.inputs import Want
from cache.shard import Status
from foundation import device as devices
from foundation import logs, parquet
from foundation.errors import PassingError, UserError
from linking import asking_joint, by_heart, calibration, explaining, finished, fitting, other_kb
from linking.contracts import Calibration, KbChanges
from linking.explaining import NOTHING_TOLD, Telling, Told
from linking.fitting import CALIBRATION, WITHOUT
from linking.growing import EntityExtractor
from linking.incoming_entities import Incoming, given
from linking.kb import Kb
from linking.linked import (
    NO_CANDIDATE,
    NO_HINTS,
    NO_PICTURE,
    NO_SPAN,
    NOTES,
    UNKNOWN,
    UNLIKE,
    Explained,
    Hints,
    Linked,
    Ranked,
    new_mention,
    picture_of,
)
from linking.reads import entity_wants
from linking.scorer import Chunk, Scorer
from linking.stores import Stores
from pipeline.candidates.contracts import GivenSource
from pipeline.datasets.images import Limits
from pipeline.datasets.records import Entity, Mention
from pipeline.datasets.scan import Scan, examine_all
from pipeline.extraction.contracts import Runtime
from pipeline.extraction.new_records import Known, RecordExtractor

ATTEMPTS = 3  # at a picture that was read once and then cannot be
TOP = 5
_NOTHING = np.empty(0, np.int64)
Top = Callable[[Scorer, Chunk, int], tuple[np.ndarray, np.ndarray]]
"""Rows and scores of the best entities of a chunk's mentions, at most so many, as `Scorer.top` gives them."""
NOT_LISTED = Scan(Status.MISSING, "not listed", None, 0, 0)


@dataclass(frozen=True)
class _Ranked:
    """rows, scores (m, d): the best entities of m mentions, best first. whole (m,) bool: whether all of the run ranked
    them, `joint` too. verdicts: on their pictures. unlike (m,) bool: whether a feature lies outside the spread of those
    of the run. told: how they came to be ranked, where that was asked for."""

    rows: np.ndarray
    scores: np.ndarray
    whole: np.ndarray
    verdicts: list[Scan | PassingError]
    unlike: np.ndarray
    told: list[Told]


NOBODY = _Ranked(np.empty((0, 0)), np.empty((0, 0)), np.empty(0, bool), [], np.empty(0, bool), [])


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
        self.notes: list[str] = []
        self.other: other_kb.OtherKb | None = None
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
        self.extractor = RecordExtractor(listed, known, runtime) if listed else None
        self.entity_extractor = EntityExtractor(entity_wants(run), known, runtime, self.extractor)
        self.weights = weights_hash([run.folder / "model.safetensors"], None)
        self.nil_share = nil_share
        self.joint_below: float | None = None
        self.calibration = self._fitted(CALIBRATION, Scorer.top)
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

    def against(self, kb: str | Path) -> "Linker":
        """From now on, link against the entities of another prepared dataset, named by its label, or by its folder in
        the work folder. Returns the linker itself.

        Raises `UserError` where there is none, or its features are not extracted as the run reads them: with the
        commands that extract them.
        """
        other = other_kb.find(self.run, str(kb), entity_wants(self.run))
        with self.lock:
            entities = Kb.read(other.folder, other.columns)
            self.scorer = Scorer(self.run, entities, self.stores, self.device)
            self.kb, self.other = entities, other
            self.notes += by_heart.notes(self.run, other.label)
        return self

    def add(
        self, entities: Iterable[Mapping[str, Any] | Entity], images: str | Path = ".", remove: Iterable[str] = ()
    ) -> KbChanges:
        """Take entities into the KB, and let those of the ids `remove` go: for this linker, from the next mention on.

        entities: mappings with the fields of a line of entities.jsonl, or `Entity`; one whose id is in the KB replaces
        it. images: folder that their pictures' paths start from. Their features are extracted into the run's cache;
        nothing is trained, and no index is built. Raises `UserError` for an entity that cannot be used, and an id that
        is to go and is not there; then nothing has changed.
        """
        incoming = given(entities, Path(images))
        return self.take_up(replace(incoming, removed=(*incoming.removed, *remove)))

    def take_up(self, incoming: Incoming) -> KbChanges:
        """As `add`, of entities that were read from a file."""
        incoming.check(self.kb.rows)
        table, unusable = incoming.table(self.limits)
        with self.lock:
            columns = self.entity_extractor.columns(table, incoming.root)
            for store in self.stores.opened:
                store.refresh()
            changed = sum(name in self.kb.rows for name in incoming.ids)
            kept = self.kb.change(table, columns, incoming.removed)
            self.scorer.grow(kept)
        return KbChanges(
            new=len(incoming.ids) - changed,
            changed=changed,
            removed=len(incoming.removed),
            pictures_left_out=len(unusable),
            extracted=self.entity_extractor.extracted,
        )

    def ask_joint_below(self, confidence: float) -> "Linker":
        """From now on, ask the part `joint` of a run of `fused` only for mentions whose confidence without it is below
        this, above 0 to 1. Returns the linker itself.

        Raises `UserError` for another number, a run without `joint` beside other parts, and one whose confidence
        without `joint` cannot be fitted.
        """
        asking_joint.check(self.run, confidence)
        with self.lock:
            if confidence < 1 and self.without_joint is None:
                fitted = self._fitted(WITHOUT, asking_joint.without)
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
        hints: Hints = NO_HINTS,
    ) -> Linked:
        """The answer for one mention.

        image: a picture's path, or its bytes; one that cannot be used is left out, and `Linked.picture` says why.
        top_k: entities listed. Raises `UserError` for an empty phrase, a span outside the sentence, or a
        value of another kind.
        """
        with new_mention(sentence, phrase, image, hints) as (mention, root):
            return self.link_all([mention], root, top_k)[0]

    def explain(
        self,
        sentence: str,
        phrase: str,
        image: str | Path | bytes | None = None,
        top_k: int = TOP,
        hints: Hints = NO_HINTS,
    ) -> Explained:
        """As `link`, and how the head came to the answer: for each entity that it lists what Explain tells of those of
        a dataset."""
        with new_mention(sentence, phrase, image, hints) as (mention, root):
            return self.explain_all([mention], root, top_k)[0]

    def link_all(self, mentions: Sequence[Mention], root: Path, top_k: int = TOP) -> list[Linked]:
        """The answers for some mentions, all in memory at once. root: folder that their pictures' paths start from.

        Raises `PassingError` where a picture that was read cannot be read again, several times.
        """
        return self._answers(mentions, self._ranked(mentions, root, top_k), top_k)

    def explain_all(
        self, mentions: Sequence[Mention], root: Path, top_k: int = TOP, detections: Collection[str] = ()
    ) -> list[Explained]:
        """As `link_all`, with explanations. detections: features whose rows of the pictures are wanted too, where they
        are read."""
        ranked = self._ranked(mentions, root, top_k, Telling(top_k, detections))
        answers = self._answers(mentions, ranked, top_k)
        return [
            Explained(linked, told.candidates[: len(linked.entities)], told.attention, told.detections)
            for linked, told in zip(answers, ranked.told, strict=True)
        ]

    def _answers(self, mentions: Sequence[Mention], ranked: _Ranked, top_k: int) -> list[Linked]:
        if not mentions:
            return []
        rows, scores, verdicts = ranked.rows, ranked.scores, ranked.verdicts
        ways = [
            (fitted, calibration.chances_or_none(fitted, scores))
            for fitted in (self.without_joint, self.calibration)
            if fitted
        ]
        linked = []
        for at, mention in enumerate(mentions):
            fitted, chances = ways[-1 if ranked.whole[at] else 0]
            chance, cut = chances[at], fitted.threshold
            entities = [
                Ranked(self.kb.table["id"][row], self.kb.table["name"][row], score)
                for row, score in zip(rows[at].tolist(), scores[at].tolist(), strict=True)
                if row >= 0 and np.isfinite(score)
            ]
            picture = picture_of(mention, verdicts[at])
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
        rows, scores = asking_joint.without(self.scorer, chunk, depth)
        whole = calibration.chances(self.without_joint, scores) < self.joint_below
        if whole.any():
            rows[whole], scores[whole] = self.scorer.top_of_lists(chunk, depth, np.flatnonzero(whole))
        return rows, scores, whole

    def _ranked(self, mentions: Sequence[Mention], root: Path, top_k: int, telling: Telling = NOTHING_TOLD) -> _Ranked:
        """The best entities; a picture that cannot be read, now or ever, is left out."""
        if top_k < 1:
            raise UserError(f"top_k is {top_k}, expected at least 1")
        if not mentions:
            return NOBODY
        for attempt in range(ATTEMPTS):
            verdicts = self._verdicts([root / mention.image if mention.image else None for mention in mentions])
            try:
                with self.lock:
                    try:
                        chunk = self._chunk(self._table(mentions, verdicts), root)
                        rows, scores, whole = self._top(chunk, max(calibration.DEPTH, top_k))
                        told = explaining.told(self.scorer, chunk, rows, whole, telling)
                        return _Ranked(rows, scores, whole, verdicts, chunk.unlike, told)
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

    def _fitted(self, name: str, top: Top) -> Calibration:
        """Confidence and NIL threshold by the answers of `top` for dev, over the KB that the run was trained on. name:
        of the files that they are kept in."""
        scorers, mentions = list[Scorer](), parquet.rows(self.run.prepared / "mentions.parquet")

        def answered(table: Mapping[str, list], hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if not scorers:
                own = self.kb.as_trained
                kb = self.kb if own else Kb.read(self.run.prepared)
                scorers.append(self.scorer if own else Scorer(self.run, kb, self.stores, self.device))
            chunk = self._chunk(table, Path(), hidden)
            chunk.of = mentions
            return top(scorers[0], chunk, calibration.DEPTH)

        fitted, notes = fitting.fitted(self.run, self.stores, self.nil_share, name, answered)
        self.notes += notes
        return fitted


def _close(stores: Stores) -> None:
    """Write what a linker that nobody closed holds in memory."""
    try:
        stores.flush()
    except UserError as error:
        logs.notice(f"features of new mentions were not kept: {error}")
