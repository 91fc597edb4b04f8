"""Cases: one mention with its picture, what was found in it, and what each method made of it, as plain JSON values for a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache.store import Store
from foundation.errors import UserError
from foundation.files import inside
from pipeline.extraction.feature_texts import MOST, THRESHOLD, names, sentences, unpack
from pipeline.extraction.parents import Parent
from pipeline.extraction.units import read_tables
from report.thumbnails import LARGE, SMALL, Thumbnails

FOUND = ("objects", "faces", "face_attributes", "identity")
"""Features whose rows are drawn on a mention's picture."""
TOP = 5
LONGEST = 1200
"""Characters of a sentence's part or of an entity's text that are shown."""


@dataclass(frozen=True)
class Source:
    """A prepared dataset. mentions, entities: columns of its tables; roots: folder of each side's pictures; found: rows of `FOUND` beside the mentions,
    those of them that were extracted."""

    mentions: Mapping[str, list[Any]]
    entities: Mapping[str, list[Any]]
    roots: Mapping[str, Path]
    found: Mapping[str, Parent] = field(default_factory=dict)

    @classmethod
    def read(cls, dataset: Path, roots: Mapping[str, Path], found: Mapping[str, Mapping[str, str]]) -> "Source":
        """found: feature -> {"store": folder, "column": file of its keys}."""
        tables = read_tables(dataset)
        parents = {
            name: Parent.read(Store.open(Path(one["store"])), Path(one["column"])) for name, one in found.items()
        }
        return cls(tables["mention"], tables["entity"], roots, parents)

    def row(self, feature: str, mention: int) -> tuple[Mapping[str, np.ndarray], Mapping[str, Sequence[str]]] | None:
        """What the feature found in a mention's picture, and the names of its classes."""
        parent = self.found.get(feature)
        if parent is None or parent.place[mention] < 0:
            return None
        return parent.found[parent.place[mention]], parent.labels


@dataclass(frozen=True)
class Method:
    """A run's answers by mention id. predictions: rows of predictions.parquet; told: of `heads.explanations.explain`; rank: the column that counts."""

    name: str
    predictions: Mapping[str, Mapping[str, Any]]
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rank: str = "rank_rerank"


class Cases:
    """Makes cases. `entities` (id -> name, type, text, picture) and `thumbnails` hold what the cases made so far refer to."""

    def __init__(self, source: Source, methods: Sequence[Method], thumbnails: Thumbnails) -> None:
        self.source, self.methods, self.thumbnails = source, methods, thumbnails
        self.entities: dict[str, dict[str, Any]] = {}
        self._row_of = {name: row for row, name in enumerate(source.entities["id"])}

    def case(self, row: int) -> dict[str, Any]:
        """The case of the mention in `row` of the table.

        id, split, type, group; text: what stands before the phrase, the phrase as written, what stands after (the phrase alone in the middle where it
        is not found, `found` then false); image: {status, picture, width, height}; objects and faces: `box` in pixels of the picture, `score`, and
        `label`, or `said` and `names`; gold: id, None for NIL; methods: name -> see `_answer`.
        """
        table = self.source.mentions
        gold = table["gold_id"][row]
        found = _drawn(self.source, row)
        if gold is not None:
            self.entity(gold)
        return {
            "id": table["id"][row],
            "split": table["split"][row],
            "type": table["type"][row],
            "group": table["group"][row],
            "phrase": table["phrase"][row],
            **_text(table["sentence"][row], table["phrase"][row], table["start"][row], table["end"][row]),
            "image": self._image(row),
            **found,
            "gold": gold,
            "gold_known": gold in self._row_of,
            "methods": {
                method.name: self._answer(method, row, gold, found)
                for method in self.methods
                if table["id"][row] in method.predictions
            },
        }

    def entity(self, name: str) -> str:
        """Takes the entity up among `entities`; its id."""
        if name not in self.entities:
            row = self._row_of.get(name)
            told: dict[str, Any] = {"name": "", "type": None, "text": "", "picture": None}
            if row is not None:
                table = self.source.entities
                told = {
                    "name": table["name"][row],
                    "type": table["type"][row],
                    "text": (table["description"][row] or table["attributes"][row] or "")[:LONGEST],
                    "picture": self._picture("entity", table["image"][row], table["image_key"][row], SMALL),
                }
            self.entities[name] = told
        return name

    def _image(self, row: int) -> dict[str, Any]:
        table = self.source.mentions
        status, cause = table["image_status"][row], table["image_cause"][row]
        name = self._picture("mention", table["image"][row], table["image_key"][row], LARGE) if status == "ok" else None
        width, height = self.thumbnails.made[name].size if name else (0, 0)
        return {"status": f"{status}: {cause}" if cause else status, "picture": name, "width": width, "height": height}

    def _picture(self, side: str, path: str | None, key: bytes | None, pixels: int) -> str | None:
        if path is None or key is None:
            return None
        try:
            return self.thumbnails.add(inside(self.source.roots[side], path), key, pixels)
        except UserError:
            return None

    def _answer(self, method: Method, row: int, gold: str | None, found: Mapping[str, Any]) -> dict[str, Any]:
        """rank: of the gold, 0 where it has none; right: None where there is no gold in the KB; top: the best `TOP`, each with id, score and what the
        method tells of it (units, expert, edges, pairs); gold: the same of the gold where it is not among them and its score is known; attention."""
        name = self.source.mentions["id"][row]
        predicted, told = method.predictions[name], method.told.get(name, {})
        beside = {one["id"]: one for one in reversed(told.get("candidates", ()))}
        units = [
            column.removeprefix("top_") for column in predicted if column.startswith("top_") and column != "top_score"
        ]

        def candidate(entity: str, values: Mapping[str, float]) -> dict[str, Any]:
            one: dict[str, Any] = {"id": self.entity(entity), "score": _number(values["score"])}
            numbers = {unit: _number(values[unit]) for unit in units if unit != "expert"}
            if "expert" in units:  # a number among the units that stand before it
                one["expert"] = units[int(values["expert"])]
            return (
                one
                | ({"units": numbers} if numbers else {})
                | {key: value for key, value in beside.get(entity, {}).items() if key in ("edges", "pairs")}
            )

        columns = ("score", *units)
        top = [
            candidate(entity, {unit: predicted[f"top_{unit}"][place] for unit in columns})
            for place, entity in enumerate(predicted["top"][:TOP])
        ]
        rank = int(predicted[method.rank])
        answer: dict[str, Any] = {"rank": rank, "right": rank == 1 if gold in self._row_of else None, "top": top}
        of_gold = {unit: predicted[f"gold_{unit}"] for unit in columns}
        if (
            gold in self._row_of
            and gold not in predicted["top"][:TOP]
            and all(np.isfinite(value) for value in of_gold.values())
        ):
            answer["gold"] = candidate(gold, of_gold)
        attention = _attention(told.get("attention", {}), found, self.source, row)
        return answer | ({"attention": attention} if attention else {})


def _text(sentence: str, phrase: str, start: int, end: int) -> dict[str, Any]:
    found = start >= 0
    before, written, after = (
        (sentence[:start], sentence[start:end], sentence[end:]) if found else (sentence, phrase, "")
    )
    before = "… " + before[-LONGEST:] if len(before) > LONGEST else before
    return {"text": [before, written, after[:LONGEST] + (" …" if len(after) > LONGEST else "")], "found": found}


def _drawn(source: Source, row: int) -> dict[str, Any]:
    """`objects` and `faces` of a mention's picture, the best first as the detectors give them."""
    drawn: dict[str, Any] = {"objects": [], "faces": []}
    for kind in drawn:
        found = source.row(kind, row)
        if found is None:
            continue
        rows, labels = found
        drawn[kind] = [
            {"box": [_number(side) for side in box], "score": _number(score)}
            for box, score in zip(rows["boxes"], rows["confidences"], strict=True)
        ]
        if "labels" in rows and "labels" in labels:
            for one, label in zip(drawn[kind], rows["labels"], strict=True):
                one["label"] = (
                    labels["labels"][int(label)] if 0 <= int(label) < len(labels["labels"]) else str(int(label))
                )
    attributes, identities = source.row("face_attributes", row), source.row("identity", row)
    for one in drawn["faces"]:
        one |= {"said": "", "names": []}
    if attributes is not None:
        for box, said in zip(attributes[0]["box"], _sentences(attributes), strict=True):
            if 0 <= box < len(drawn["faces"]):
                drawn["faces"][int(box)]["said"] = said
    if identities is not None:
        for box, packed, scores in zip(
            identities[0]["box"], identities[0]["names"], identities[0]["scores"], strict=True
        ):
            if 0 <= box < len(drawn["faces"]):
                listed = [
                    [unpack(name), _number(score)]
                    for name, score in zip(packed, scores, strict=True)
                    if score > THRESHOLD and unpack(name)
                ]
                drawn["faces"][int(box)]["names"] = listed
    return drawn


def _sentences(found: tuple[Mapping[str, np.ndarray], Mapping[str, Sequence[str]]]) -> list[str]:
    """The attributes of each face as DWE+ reads them, without the phrase."""
    rows = {name: values for name, values in found[0].items() if name != "box"}
    return [said.removeprefix(", ") for said in sentences("", rows, found[1])]


def _attention(
    told: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any], source: Source, row: int
) -> dict[str, list[list[Any]]]:
    """role -> [what it is, weight, number of its object or face (-1: none)] of everything that DWE+ attended to."""
    attributes, identities = source.row("face_attributes", row), source.row("identity", row)
    called: dict[str, list[tuple[str, int]]] = {
        "objects": [(one.get("label", "object"), number) for number, one in enumerate(found["objects"])],
        "faces": []
        if attributes is None
        else [(said, int(box)) for said, box in zip(_sentences(attributes), attributes[0]["box"], strict=True)][:MOST],
        "identities": [] if identities is None else [(said, -1) for said in names(identities[0])[:MOST]],
    }
    shown = {}
    for role, values in told.items():
        if role not in called:
            continue
        steps = called[role]
        if "boxes" in values:
            steps = [
                called[role][box] if 0 <= box < len(called[role]) else ("whole picture", -1) for box in values["boxes"]
            ]
        weighed = [
            (*(steps[place] if place < len(steps) else ("", -1)), weight)
            for place, weight in enumerate(values["weights"])
        ]
        shown[role] = [[what, weight, number] for what, number, weight in weighed]
    return shown


def _number(value: Any) -> float | None:
    """To five digits; None where there is none."""
    return float(f"{float(value):.5g}") if np.isfinite(value) else None
