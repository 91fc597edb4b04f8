"""Cases: a mention with its picture, what was detected in it, and each method's answer, as JSON values for a page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache.inputs import Input
from cache.keys import KeyColumn
from cache.store import Store
from foundation.errors import UserError
from heads.protocols import protocol_of
from pipeline.extraction.feature_texts import MOST, THRESHOLD, names, sentences, unpack
from pipeline.extraction.parents import Parent
from pipeline.extraction.units import read_tables
from report.runs import Prediction
from report.thumbnails import LARGE, SMALL, Thumbnails

TOP = 5
LONGEST = 1200
"""Characters of a sentence's part or of an entity's text that are shown."""

Explanation = Mapping[str, Any]
"""What a head tells of one mention: see `heads.explanations.explain`."""


@dataclass(frozen=True)
class Detected:
    """A feature's row of one picture. outputs: by name. labels: names of the classes of an output."""

    outputs: Mapping[str, np.ndarray]
    labels: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class CaseData:
    """A prepared dataset. mentions, entities: columns of its tables. images: side -> folder of its pictures.

    detections: rows of those of `report.contracts.DETECTIONS` that were extracted, beside the mentions.
    """

    mentions: Mapping[str, list[Any]]
    entities: Mapping[str, list[Any]]
    images: Mapping[str, Path]
    detections: Mapping[str, Parent] = field(default_factory=dict)

    @classmethod
    def read(cls, prepared: Path, images: Mapping[str, Path], detections: Iterable[Input]) -> "CaseData":
        """detections: inputs of the mentions' side. Raises `UserError` where a table cannot be read."""
        tables = read_tables(prepared)
        parents = {one.feature: Parent.of(Store.open(one.store), KeyColumn.load(one.keys)) for one in detections}
        return cls(tables["mention"], tables["entity"], images, parents)

    def detected(self, feature: str, row: int) -> Detected | None:
        """What the feature holds of the picture of the mention in `row`; None where there is nothing."""
        parent = self.detections.get(feature)
        if parent is None or parent.place[row] < 0:
            return None
        return Detected(parent.distinct[parent.place[row]], parent.labels)


@dataclass(frozen=True)
class Method:
    """A run's answers by mention id. explanations: what its head tells of them. protocol: whose ranks are shown."""

    name: str
    predictions: Mapping[str, Prediction]
    explanations: Mapping[str, Explanation] = field(default_factory=dict)
    protocol: str = "rerank"


class Cases:
    """Makes cases. `entities` (id -> name, type, text, picture) and `thumbnails` hold what the cases refer to."""

    def __init__(self, source: CaseData, methods: Sequence[Method], thumbnails: Thumbnails) -> None:
        self.source, self.methods, self.thumbnails = source, methods, thumbnails
        self.entities: dict[str, dict[str, Any]] = {}
        self._row_of = {name: row for row, name in enumerate(source.entities["id"])}

    def case(self, row: int) -> dict[str, Any]:
        """The case of the mention in `row` of the table.

        id, split, type, group; text: what stands before the phrase, the phrase as written, what stands after (where
        the phrase is not in the sentence, `phrase_found` is false and the text is all before it); image: {status,
        picture, width, height}; objects, faces: `box` in pixels of the picture, `score`, and an object's `label`, or a
        face's `attributes` and `names`; gold: id, None for NIL; methods: name -> see `_answer`.
        """
        table = self.source.mentions
        gold = table["gold_id"][row]
        drawn = _drawn(self.source, row)
        if gold is not None:
            self.entity(gold)
        return {
            "id": table["id"][row],
            "split": table["split"][row],
            "type": table["type"][row],
            "group": table["group"][row],
            "phrase": table["phrase"][row],
            **_text(table["sentence"][row], table["phrase"][row], (table["start"][row], table["end"][row])),
            "image": self._image(row),
            **drawn,
            "gold": gold,
            "gold_known": gold in self._row_of,
            "methods": {
                method.name: self._answer(method, row, drawn)
                for method in self.methods
                if table["id"][row] in method.predictions
            },
        }

    def entity(self, name: str) -> str:
        """Adds the entity to `entities`; returns its id."""
        if name not in self.entities:
            row = self._row_of.get(name)
            entity: dict[str, Any] = {"name": "", "type": None, "text": "", "picture": None}
            if row is not None:
                table = self.source.entities
                entity = {
                    "name": table["name"][row],
                    "type": table["type"][row],
                    "text": (table["description"][row] or table["attributes"][row] or "")[:LONGEST],
                    "picture": self._picture("entity", row, SMALL),
                }
            self.entities[name] = entity
        return name

    def _image(self, row: int) -> dict[str, Any]:
        table = self.source.mentions
        status, cause = table["image_status"][row], table["image_cause"][row]
        name = self._picture("mention", row, LARGE) if status == "ok" else None
        width, height = self.thumbnails.by_name[name].size if name else (0, 0)
        return {"status": f"{status}: {cause}" if cause else status, "picture": name, "width": width, "height": height}

    def _picture(self, side: str, row: int, pixels: int) -> str | None:
        table = self.source.mentions if side == "mention" else self.source.entities
        path, key = table["image"][row], table["image_key"][row]
        if path is None or key is None:
            return None
        try:
            return self.thumbnails.add(self.source.images[side] / path, key, pixels)
        except UserError:
            return None

    def _answer(self, method: Method, row: int, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """rank: of the gold, 0 where it has none; right: None where no gold is in the KB; top: the best `TOP`, each
        with id, score and what the method tells of it (units, expert, edges, pairs); gold: the same of the gold, where
        it is not among them and its score is known; attention: see `_attention`."""
        table = self.source.mentions
        name, gold = table["id"][row], table["gold_id"][row]
        prediction, explanation = method.predictions[name], method.explanations.get(name, {})
        explained = {one["id"]: one for one in reversed(explanation.get("candidates", ()))}
        units = [unit for unit in prediction.top_scores if unit != "score"]

        def candidate(entity: str, scores: Mapping[str, float]) -> dict[str, Any]:
            one: dict[str, Any] = {"id": self.entity(entity), "score": _number(scores["score"])}
            numbers = {unit: _number(scores[unit]) for unit in units if unit != "expert"}
            if "expert" in units:  # a number among the units that stand before it
                one["expert"] = units[int(scores["expert"])]
            if numbers:
                one["units"] = numbers
            return one | {key: explained[entity][key] for key in ("edges", "pairs") if key in explained.get(entity, {})}

        top = [
            candidate(entity, {unit: scores[place] for unit, scores in prediction.top_scores.items()})
            for place, entity in enumerate(prediction.top[:TOP])
        ]
        rank, known = int(prediction.ranks[protocol_of(method.protocol)]), gold in self._row_of
        answer: dict[str, Any] = {"rank": rank, "right": rank == 1 if known else None, "top": top}
        if known and gold not in prediction.top[:TOP] and all(map(np.isfinite, prediction.gold_scores.values())):
            answer["gold"] = candidate(gold, prediction.gold_scores)
        attention = _attention(explanation.get("attention", {}), drawn, self.source, row)
        return answer | ({"attention": attention} if attention else {})


def _text(sentence: str, phrase: str, span: tuple[int, int]) -> dict[str, Any]:
    """span: of the phrase in the sentence; its start is -1 where the phrase is not there."""
    start, end = span
    parts = (sentence[:start], sentence[start:end], sentence[end:]) if start >= 0 else (sentence, phrase, "")
    before, written, after = parts
    before = "… " + before[-LONGEST:] if len(before) > LONGEST else before
    after = after[:LONGEST] + (" …" if len(after) > LONGEST else "")
    return {"text": [before, written, after], "phrase_found": start >= 0}


def _drawn(source: CaseData, row: int) -> dict[str, list[dict[str, Any]]]:
    """`objects` and `faces` of a mention's picture, the best first as the detectors give them."""
    drawn: dict[str, list[dict[str, Any]]] = {"objects": [], "faces": []}
    for kind in drawn:
        detected = source.detected(kind, row)
        if detected is None:
            continue
        outputs, classes = detected.outputs, detected.labels.get("labels")
        drawn[kind] = [
            {"box": [_number(side) for side in box], "score": _number(score)}
            for box, score in zip(outputs["boxes"], outputs["confidences"], strict=True)
        ]
        if "labels" in outputs and classes is not None:
            for one, label in zip(drawn[kind], map(int, outputs["labels"]), strict=True):
                one["label"] = classes[label] if 0 <= label < len(classes) else str(label)
    faces = drawn["faces"]
    for face in faces:
        face |= {"attributes": "", "names": []}
    for box, attributes in _face_attributes(source, row):
        if 0 <= box < len(faces):
            faces[box]["attributes"] = attributes
    identities = source.detected("identity", row)
    if identities is not None:
        outputs = identities.outputs
        for box, packed, scores in zip(map(int, outputs["box"]), outputs["names"], outputs["scores"], strict=True):
            if 0 <= box < len(faces):
                faces[box]["names"] = [
                    [unpack(name), _number(score)]
                    for name, score in zip(packed, scores, strict=True)
                    if score > THRESHOLD and unpack(name)
                ]
    return drawn


def _face_attributes(source: CaseData, row: int) -> list[tuple[int, str]]:
    """(number of the face's box, its attributes as DWE+ reads them, without the phrase) of each face that has any."""
    detected = source.detected("face_attributes", row)
    if detected is None:
        return []
    outputs = {name: values for name, values in detected.outputs.items() if name != "box"}
    texts = [text.removeprefix(", ") for text in sentences("", outputs, detected.labels)]
    return list(zip(map(int, detected.outputs["box"]), texts, strict=True))


def _attention(
    explained: Mapping[str, Mapping[str, Any]], drawn: Mapping[str, Any], source: CaseData, row: int
) -> dict[str, list[list[Any]]]:
    """role -> [what it is, weight, number of its object or face (-1: none)] of everything that DWE+ attended to."""
    identities = source.detected("identity", row)
    steps_of: dict[str, list[tuple[str, int]]] = {
        "objects": [(one.get("label", "object"), number) for number, one in enumerate(drawn["objects"])],
        "faces": [(text, box) for box, text in _face_attributes(source, row)][:MOST],
        "identities": [] if identities is None else [(text, -1) for text in names(identities.outputs)[:MOST]],
    }
    shown: dict[str, list[list[Any]]] = {}
    for role, values in explained.items():
        if role not in steps_of:
            continue
        steps = steps_of[role]
        if "boxes" in values:
            whole = ("whole picture", -1)
            steps = [steps_of[role][box] if 0 <= box < len(steps_of[role]) else whole for box in values["boxes"]]
        shown[role] = []
        for place, weight in enumerate(values["weights"]):
            what, number = steps[place] if place < len(steps) else ("", -1)
            shown[role].append([what, weight, number])
    return shown


def attended(
    attention: Mapping[str, Mapping[str, Any]], detections: Mapping[str, Parent]
) -> dict[str, list[list[Any]]]:
    """`_attention` of a mention that is in no table. detections: feature -> the row of its picture."""
    source = CaseData({}, {}, {}, detections)
    return _attention(attention, _drawn(source, 0), source, 0)


def _number(value: Any) -> float | None:
    """To five digits; None where there is none."""
    return float(f"{float(value):.5g}") if np.isfinite(value) else None
