"""What can be searched: a run's predictions beside its dataset's mentions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from foundation.errors import UserError
from linking.finished import Finished
from pipeline.datasets.images import Limits
from report.cases import FOUND, Cases, Method, Source
from report.thumbnails import Thumbnails

OUTCOMES = ("right", "wrong", "NIL", "gold outside the KB")
"""Of a mention: its gold is first, another entity is; there is no gold; it is not in the KB."""


@dataclass(frozen=True)
class Book:
    """The mentions of one split that were predicted. rows: of the dataset's table; outcome, text (phrase and sentence) and entities (names and ids of the
    gold and of what was predicted), in small letters: beside them. names: entity id -> name."""

    name: str
    source: Source
    method: Method
    rows: Sequence[int]
    outcome: Sequence[str]
    phrases: Sequence[str]
    text: Sequence[str]
    entities: Sequence[str]
    names: Mapping[str, str]
    limits: Limits

    @classmethod
    def read(cls, run: Finished, roots: Mapping[str, Path], split: str, limits: Limits) -> "Book":
        """roots: folder of each side's pictures. Raises `UserError` where the run has no predictions of the split."""
        merged: dict[str, dict[str, str]] = {}
        for one in run.tree():
            for feature in FOUND:
                column = one.extraction.columns.get(f"mention.{feature}.image")
                if column:
                    merged[feature] = {
                        "store": str(run.paths.cache / one.extraction.features[feature].store),
                        "column": str(run.paths.root / column),
                    }
        source = Source.read(run.prepared, roots, merged)
        path = run.folder / "predictions.parquet"
        table = pq.read_table(path, filters=[("split", "=", split)])
        if not len(table):
            raise UserError(f"{path}: no mention of {split}; choose another --split")
        rank = "rank_full_kb" if "rank_full_kb" in table.column_names else "rank_rerank"
        predicted = {row["id"]: row for row in table.to_pylist()}
        names = dict(zip(source.entities["id"], source.entities["name"], strict=True))
        rows, outcome, phrases, text, entities = [], [], [], [], []
        for row, (mention, phrase, sentence, gold) in enumerate(
            zip(*(source.mentions[name] for name in ("id", "phrase", "sentence", "gold_id")), strict=True)
        ):
            if mention not in predicted:
                continue
            answer = predicted[mention]
            rows.append(row)
            outcome.append(
                "NIL"
                if gold is None
                else "gold outside the KB"
                if gold not in names
                else "right"
                if answer[rank] == 1
                else "wrong"
            )
            phrases.append(phrase.casefold())
            text.append(f"{phrase}\n{sentence}".casefold())
            entities.append(
                "\n".join(f"{name}\n{names.get(name, '')}" for name in [gold or "", *answer["top"][:5]]).casefold()
            )
        return cls(
            f"{run.label}/{run.method}/{run.folder.name}",
            source,
            Method(run.method, predicted, rank=rank),
            rows,
            outcome,
            phrases,
            text,
            entities,
            names,
            limits,
        )

    def search(self, phrase: str = "", sentence: str = "", entity: str = "", outcome: str = "") -> list[int]:
        """Positions in `rows` of the mentions whose phrase, sentence and entities hold these words, letter case aside; of one outcome where it is named."""
        phrase, sentence, entity = (text.strip().casefold() for text in (phrase, sentence, entity))
        return [
            at
            for at in range(len(self.rows))
            if phrase in self.phrases[at]
            and sentence in self.text[at]
            and entity in self.entities[at]
            and outcome in ("", self.outcome[at])
        ]

    def line(self, at: int) -> dict[str, Any]:
        """A mention as a list shows it: id, phrase, sentence, outcome, state of its picture; gold and first entity, id and name each."""
        row, table = self.rows[at], self.source.mentions
        top = self.method.predictions[table["id"][row]]["top"][:1]
        gold = table["gold_id"][row]
        return {
            "at": at,
            "id": table["id"][row],
            "phrase": table["phrase"][row],
            "sentence": table["sentence"][row],
            "outcome": self.outcome[at],
            "gold": None if gold is None else (gold, self.names.get(gold, "")),
            "top": (top[0], self.names.get(top[0], "")) if top else None,
            "picture": table["image_status"][row],
        }

    def case(self, at: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, str]]:
        """A case (see `report.cases.Cases.case`), the entities that it names, and small pictures by name as `data:` URIs."""
        made = Thumbnails(self.limits)
        cases = Cases(self.source, [self.method], made)
        case = cases.case(self.rows[at])
        return case, cases.entities, {name: thumbnail.uri for name, thumbnail in made.made.items()}

    def shown(self, ids: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """What a page shows of some entities, and their pictures."""
        made = Thumbnails(self.limits)
        cases = Cases(self.source, [self.method], made)
        for name in ids:
            cases.entity(name)
        return cases.entities, {name: thumbnail.uri for name, thumbnail in made.made.items()}
