"""Small datasets in either layout, written to a folder and changed file by file."""

import json
from pathlib import Path

from data_faults import refused

from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.layouts import load


def mention(number: int, **changes) -> dict:
    record = {
        "id": f"m{number}",
        "sentence": f"Ann and Bob met {number} times.",
        "mentions": "Bob",
        "entities": "Robert Gold",
        "answer": "Q2",
        "imgPath": "",
    }
    return record | changes


def entity(number: int, **changes) -> dict:
    return {
        "id": number,
        "qid": f"Q{number + 1}",
        "type": "entity",
        "entity_name": f"Name {number}",
        "attr": "Sex: male.",
        "image_list": [],
    } | changes


class Mimic:
    """A release in a folder, changed file by file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kb = [entity(number) for number in range(4)]
        self.splits = {
            split: [mention(10 * place + number) for number in range(2)]
            for place, split in enumerate(("train", "dev", "test"))
        }
        self.rows = None
        for name in ("kb_image", "mention_image"):
            (folder / name).mkdir()

    def write(self) -> Path:
        rows = {e["qid"]: e["id"] for e in self.kb} if self.rows is None else self.rows
        files = {
            "kb_entity.json": self.kb,
            "qid2id.json": rows,
            **{f"TOY_{split}.json": records for split, records in self.splits.items()},
        }
        for name, content in files.items():
            (self.folder / name).write_text(json.dumps(content))
        return self.folder

    def load(self, **options):
        return load("toy", self.write(), options=LayoutOptions(**options))

    def error(self, **options) -> str:
        return refused(lambda: self.load(**options))


class Lines:
    """A `jsonl` dataset in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mentions = [{"id": "m1", "sentence": "Ann met Bob.", "mention": "Bob", "gold": "e1", "split": "train"}]
        self.entities = [{"id": "e1", "name": "Robert"}]

    def write(self) -> Path:
        for name in ("mentions", "entities"):
            lines = [line if isinstance(line, str) else json.dumps(line) for line in getattr(self, name)]
            (self.folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        return self.folder

    def load(self, **options):
        return load("toy", self.write(), options=LayoutOptions(**options))

    def error(self, **options) -> str:
        return refused(lambda: self.load(**options))
