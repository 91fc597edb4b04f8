"""Links new mentions with a trained head: features, candidates and scores as in its run, a confidence, and NIL."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from cache.identity import weights_hash
from cache.inputs import Want
from cache.shard import Status
from foundation import device as devices
from foundation.contracts import from_json, to_json
from foundation.errors import UserError
from foundation.files import read_json, write_json
from heads.config import load_config
from heads.metrics import dev_half
from linking import calibration, finished
from linking.contracts import Calibration
from linking.scorer import Chunk, Kb, Scorer, known_stores
from pipeline.datasets.images import Limits
from pipeline.datasets.records import Mention
from pipeline.datasets.scan import Scan, scan
from pipeline.datasets.spans import find_span
from pipeline.datasets.tables import STATUS_NAMES
from pipeline.extraction.contracts import Runtime
from pipeline.extraction.new_mentions import Known, MentionExtractor

CALIBRATION = "calibration.json"
CHUNK = 256
TOP = 5
_NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True)
class Ranked:
    """An entity of the KB with its score for a mention, on the head's own scale."""

    id: str
    name: str
    score: float


@dataclass(frozen=True)
class Linked:
    """A mention's answer.

    mention: the phrase. entities: the best of the KB, best first. confidence: the chance that the first is right,
    None where the run has no calibration. nil: whether no entity of the KB seems to be meant. picture: "none", "ok",
    or why it was left out.
    """

    mention: str
    entities: tuple[Ranked, ...]
    confidence: float | None
    nil: bool
    picture: str

    def to_json(self) -> dict[str, Any]:
        """The fields of LinkMentions' output for this mention."""
        entities = [{"id": entity.id, "name": entity.name, "score": entity.score} for entity in self.entities]
        return {
            "mention": self.mention,
            "picture": self.picture,
            "nil": self.nil,
            "confidence": self.confidence,
            "entities": entities,
        }


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

    Calls from several threads wait for each other.
    """

    def __init__(self, run: finished.Finished, device: str = "auto", precision: str = "auto") -> None:
        self.run, self.device, self.lock = run, torch.device(devices.choose(device)), threading.RLock()
        runs = run.tree()
        stores = known_stores(runs)
        self.kb = Kb.read(run.prepared)
        self.scorer = Scorer(run, self.kb, stores, self.device)
        profile = next((one.profile for one in runs if one.profile), None)
        self.limits = Limits(**profile.limits) if profile else Limits()
        columns = {name: run.paths.root / path for one in runs for name, path in one.extraction.columns.items()}
        listed = [
            Want(side="mention", feature=feature, view=view)
            for side, feature, view in (name.split(".") for name in sorted(columns))
            if side == "mention"
        ]
        runtime = Runtime(device=device, precision=precision)
        demo = next((one.demo for one in runs if one.demo), None)
        entities = {name: self.kb.table[name] for name in ("id", "name")}
        known = Known(run.paths.root, demo, stores, columns, entities)
        self.extractor = MentionExtractor(profile, listed, known, runtime) if listed and profile else None
        self.calibration = self._calibration()

    @classmethod
    def load(cls, run: str | Path, device: str = "auto", precision: str = "auto") -> "Linker":
        """The run in a folder under artifacts/runs/.

        Raises `UserError` where there is none, or its features are not those it was trained on.
        """
        return cls(finished.read(Path(run)), device, precision)

    def link(
        self,
        sentence: str,
        phrase: str,
        image: str | Path | bytes | None = None,
        top_k: int = TOP,
        hints: Hints = Hints(),
    ) -> Linked:
        """The answer for one mention.

        image: a picture's path, or its bytes. top_k: entities listed. Raises `UserError` for an empty phrase or a
        span outside the sentence, and `PassingError` where the picture cannot be read now.
        """
        span, given = hints.span, hints.candidates
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

        Raises `PassingError` where a picture cannot be read now.
        """
        if top_k < 1:
            raise UserError(f"top_k is {top_k}, expected at least 1")
        if not mentions:
            return []
        verdicts = scan([root / mention.image if mention.image else None for mention in mentions], self.limits)
        usable = [
            mention.image is not None and verdict.key is not None
            for mention, verdict in zip(mentions, verdicts, strict=True)
        ]
        table: dict[str, list[Any]] = {
            "id": [mention.id for mention in mentions],
            "sentence": [mention.sentence for mention in mentions],
            "phrase": [mention.phrase for mention in mentions],
            "start": [mention.span[0] if mention.span else -1 for mention in mentions],
            "end": [mention.span[1] if mention.span else -1 for mention in mentions],
            "type": [mention.type for mention in mentions],
            "given": [self._rows(mention.given) for mention in mentions],
            "image": [mention.image if use else None for mention, use in zip(mentions, usable, strict=True)],
            "image_key": [verdict.key if use else None for verdict, use in zip(verdicts, usable, strict=True)],
        }
        with self.lock:
            rows, scores = self._top(table, root, max(calibration.DEPTH, top_k))
        fitted, cut = self.calibration.fit, self.calibration.threshold
        values, _ = calibration.evidence(scores)
        chances = calibration.confidence(fitted, values).tolist() if fitted else [None] * len(mentions)
        answers = []
        for at, (mention, verdict, chance) in enumerate(zip(mentions, verdicts, chances, strict=True)):
            entities = [
                Ranked(self.kb.table["id"][row], self.kb.table["name"][row], score)
                for row, score in zip(rows[at].tolist(), scores[at].tolist(), strict=True)
                if row >= 0 and np.isfinite(score)
            ]
            nil = not entities or (chance is not None and cut is not None and chance < cut)
            answers.append(Linked(mention.phrase, tuple(entities[:top_k]), chance, nil, _picture(mention, verdict)))
        return answers

    def _rows(self, given: Sequence[str] | None) -> list[int] | None:
        return None if given is None else [self.kb.rows[name] for name in given if name in self.kb.rows]

    def _top(
        self, table: Mapping[str, list], root: Path, depth: int, without: np.ndarray = _NOTHING
    ) -> tuple[np.ndarray, np.ndarray]:
        columns = self.extractor.columns(table, root) if self.extractor else {}
        return self.scorer.top(Chunk(table, columns, without), depth)

    # Calibration

    def _calibration(self) -> Calibration:
        """The contents of calibration.json; measured where it is not there, or of other weights."""
        path, model = self.run.folder / CALIBRATION, weights_hash([self.run.folder / "model.safetensors"], None)
        if path.exists():
            content = read_json(path)
            if content.get("model") == model and content.get("version") == calibration.VERSION:
                return from_json(Calibration, content, str(path))
        measured = self._measure(model)
        write_json(path, to_json(measured))
        return measured

    def _measure(self, model: str) -> Calibration:
        """Fit confidence and the NIL threshold on the half of dev that early stopping did not use.

        For a head that trains on that half: on the other one.
        """
        half = "choose" if load_config(self.run.method, self.run.config).fits_on == "calibrate" else "calibrate"
        table = pq.read_table(self.run.prepared / "mentions.parquet", filters=[("split", "=", "dev")]).to_pydict()
        golds = [
            gold_id if gold_id is not None else f"NIL {name}"
            for gold_id, name in zip(table["gold_id"], table["id"], strict=True)
        ]
        kept = [at for at, gold in enumerate(golds) if dev_half(gold) == half]
        gold = np.array([table["gold"][at] for at in kept], np.int64)
        own = int((gold < 0).sum())
        hidden = np.unique(
            [row for row, at in zip(gold.tolist(), kept, strict=True) if row >= 0 and calibration.hidden(golds[at])]
        ).astype(np.int64)
        if own > calibration.ENOUGH_NIL * len(kept):
            hidden = hidden[:0]
        table = {name: [values[at] for at in kept] for name, values in table.items()} | {
            "given": self._given(table["id"], kept)
        }
        first, top = [np.empty((0, 1), np.int64)], [np.empty((0, calibration.DEPTH), np.float32)]
        for start in range(0, len(kept), CHUNK):
            part = {name: values[start : start + CHUNK] for name, values in table.items()}
            rows, scores = self._top(part, Path(), calibration.DEPTH, hidden)
            first.append(rows[:, :1])
            top.append(np.pad(scores, ((0, 0), (0, calibration.DEPTH - scores.shape[1])), constant_values=-np.inf))
        nil = (gold < 0) | np.isin(gold, hidden)
        right = (np.concatenate(first)[:, 0] == gold) & ~nil
        folds = np.array([calibration.bucket(golds[at], calibration.FOLDS, b"fold") for at in kept], np.int64)
        scaling = calibration.calibrate(*calibration.evidence(np.concatenate(top)), right, nil, folds)
        return Calibration(
            version=calibration.VERSION,
            model=model,
            part=f"dev, half: {half}",
            nil={"own": own, "hidden entities": len(hidden)},
            **vars(scaling),
        )

    def _given(self, ids: Sequence[str], kept: Sequence[int]) -> list[list[int] | None]:
        """The candidates that came with the kept mentions of dev."""
        path = self.run.prepared / "given.parquet"
        if not path.exists():
            return [None] * len(kept)
        splits = pq.ParquetFile(self.run.prepared / "mentions.parquet").read(columns=["split"])["split"].to_pylist()
        given = pq.ParquetFile(path).read()["given"].to_pylist()
        dev = [listed for listed, split in zip(given, splits, strict=True) if split == "dev"]
        return [dev[at] for at in kept]


def _picture(mention: Mention, verdict: Scan) -> str:
    """See `Linked.picture`."""
    if mention.image is None:
        return "none"
    if verdict.status == Status.OK:
        return "ok"
    return f"{STATUS_NAMES[verdict.status].replace('_', ' ')}: {verdict.cause}"
