"""What can be searched: a run's predictions beside its dataset's mentions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.inputs import Input, Want
from foundation.errors import UserError
from linking.finished import Finished
from report.cases import CaseData, Cases, Method
from report.contracts import DETECTIONS
from report.explore.pictures import Pictures
from report.runs import read_predictions
from report.searching import holds, plain
from report.thumbnails import Thumbnails, uris

OUTCOMES = ("right", "wrong", "NIL", "gold outside the KB")
"""Of a mention: its gold is first, another entity is; there is no gold; it is not in the KB."""


@dataclass(frozen=True)
class Query:
    """Words that a mention's phrase, sentence and entities must hold, letter case and accents aside; "" for any.
    outcome: one of `OUTCOMES`, or ""."""

    phrase: str = ""
    sentence: str = ""
    entity: str = ""
    outcome: str = ""


@dataclass(frozen=True)
class PredictedMention:
    """A predicted mention. row: in the dataset's table. phrase, text (phrase and sentence) and entities (names and ids
    of the gold and of the best five) as `report.searching.plain` leaves them."""

    row: int
    outcome: str
    phrase: str
    text: str
    entities: str

    def fits(self, query: Query) -> bool:
        return (
            holds(self.phrase, query.phrase)
            and holds(self.text, query.sentence)
            and holds(self.entities, query.entity)
            and query.outcome in ("", self.outcome)
        )


@dataclass(frozen=True)
class EntityCards:
    """What a page shows of entities, by id (see `report.cases.Cases.entities`). pictures: name -> `data:` URI."""

    entities: Mapping[str, Mapping[str, Any]]
    pictures: Mapping[str, str]


@dataclass(frozen=True)
class Book:
    """The mentions of one split that were predicted. name: of the run. names: entity id -> name."""

    name: str
    source: CaseData
    method: Method
    mentions: Sequence[PredictedMention]
    names: Mapping[str, str]
    pictures: Pictures

    @classmethod
    def read(cls, run: Finished, images: Mapping[str, Path], split: str, pictures: Pictures) -> "Book":
        """images: side -> folder of its pictures. Raises `UserError` where the run has no predictions of the split."""
        source = CaseData.read(run.prepared, images, detections(run))
        predictions = read_predictions(run.folder, split)
        if not predictions:
            raise UserError(f"{run.folder / 'predictions.parquet'}: no mention of {split}; choose another --split")
        whole = run.config.get("full_kb", True) is True  # a rank in a sample is none in the KB
        protocol = "full-kb" if whole and "full-kb" in next(iter(predictions.values())).ranks else "rerank"
        names = dict(zip(source.entities["id"], source.entities["name"], strict=True))
        columns = (source.mentions[name] for name in ("id", "phrase", "sentence", "gold_id"))
        mentions = []
        for row, (mention, phrase, sentence, gold) in enumerate(zip(*columns, strict=True)):
            if mention not in predictions:
                continue
            prediction = predictions[mention]
            verdict = "right" if prediction.ranks[protocol] == 1 else "wrong"
            outcome = "NIL" if gold is None else verdict if gold in names else "gold outside the KB"
            entities = "\n".join(f"{name}\n{names.get(name, '')}" for name in [gold or "", *prediction.top[:5]])
            text = f"{phrase}\n{sentence}"
            mentions.append(PredictedMention(row, outcome, plain(phrase), plain(text), plain(entities)))
        method = Method(run.method, predictions, protocol=protocol)
        return cls(f"{run.label}/{run.method}/{run.folder.name}", source, method, mentions, names, pictures)

    def search(self, query: Query) -> list[int]:
        """Positions in `mentions` of those that fit."""
        return [at for at, listed in enumerate(self.mentions) if listed.fits(query)]

    def line(self, at: int) -> dict[str, Any]:
        """A mention as a list shows it: id, phrase, sentence, outcome, state of its picture; id and name of the gold
        and of the first entity."""
        listed, table = self.mentions[at], self.source.mentions
        row = listed.row
        top = self.method.predictions[table["id"][row]].top[:1]
        gold = table["gold_id"][row]
        return {
            "at": at,
            "id": table["id"][row],
            "phrase": table["phrase"][row],
            "sentence": table["sentence"][row],
            "outcome": listed.outcome,
            "gold": None if gold is None else (gold, self.names.get(gold, "")),
            "top": (top[0], self.names.get(top[0], "")) if top else None,
            "picture": table["image_status"][row],
        }

    def case(self, at: int) -> tuple[dict[str, Any], EntityCards]:
        """A case (see `report.cases.Cases.case`), and the entities that it names."""
        cases = self._cases()
        case = cases.case(self.mentions[at].row)
        return case, EntityCards(cases.entities, uris(cases.thumbnails))

    def cards(self, ids: Sequence[str]) -> EntityCards:
        """These entities."""
        cases = self._cases()
        for name in ids:
            cases.entity(name)
        return EntityCards(cases.entities, uris(cases.thumbnails))

    def _cases(self) -> Cases:
        """For one page."""
        thumbnails = Thumbnails(self.pictures.limits, self.pictures.shrinking())
        return Cases(self.source, [self.method], thumbnails)


def detections(run: Finished) -> list[Input]:
    """Rows of detectors and recognisers of the mentions' pictures, extracted for a run or for the runs it reads."""
    by_feature: dict[str, Input] = {}
    for one in run.tree():
        listed = (Want(side="mention", feature=name, view="image") for name in DETECTIONS)
        there = one.extraction.inputs((want for want in listed if want.column in one.extraction.columns), run.paths)
        by_feature |= {each.feature: each for each in there}
    return list(by_feature.values())
