"""Small releases in the layouts `ghmfc` and `wikidiverse`, to be changed and written."""

import hashlib
import json
from pathlib import Path

from data_faults import refused

from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.layouts import load

WIKI = "https://en.wikipedia.org/wiki/"


class Ghmfc:
    """A release in a folder, changed file by file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = {"Q10": "Ann Lee", "Q2": "Robert Gold", "Q3": "Bob"}
        self.files = {
            "qid2abs": {"Q10": "Occupation: singer.", "Q99": "Nobody's."},
            "search_top100": {"Bob": ["Q3", "Q404", "Q2", "Q3"], "Ann": ["Q10"]},
        }
        self.splits = {}
        for place, split in enumerate(("train", "dev", "test")):
            record = {
                "id": "7",
                "sentence": "Ann met Bob.",
                "mentions": "Bob",
                "entities": "Robert Gold",
                "answer": "Q2",
                "imgPath": "",
            }
            self.splits[split] = {f"{place}{number}": dict(record) for number in range(2)}
        (folder / "images").mkdir(exist_ok=True)

    def write(self) -> Path:
        for name, content in {"qid2ne": self.names, **self.files, **self.splits}.items():
            (self.folder / f"{name}.json").write_text(json.dumps(content))
        return self.folder

    def load(self, **options):
        return load("toy", self.write(), options=LayoutOptions(**options))

    def error(self, **options) -> str:
        return refused(lambda: self.load(**options))


def digest(name: str) -> str:
    return hashlib.md5(name.encode()).hexdigest()


class Wikidiverse:
    """A release in a folder, changed file by file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.desc = {
            "Detroit Lions": "A team.",
            "Lion": "A cat.",
            "Green Bay Packers": "Another team.",
            "The Lion King": "A film.",
        }
        self.types = {
            "Organization": ["Detroit_Lions", "Green Bay Packers"],
            "Works": ["The_Lion_King"],
            "Species": ["Lion"],
        }
        self.splits = {split: [self.mention(), self.mention()] for split in ("train", "valid", "test")}
        (folder / "wikinewsImgs").mkdir(exist_ok=True)

    @staticmethod
    def mention(**changes) -> list:
        record = {
            "sentence": "The Lions versus the Packers.",
            "image": "https://upload.wikimedia.org/a/Run.jpg",
            "mention": "Lions",
            "type": "Organization",
            "left": ["the"],
            "right": ["versus"],
            "entity": WIKI + "Detroit_Lions",
            "candidates": [WIKI + "Lion", WIKI + "Detroit_Lions", WIKI + "Elsewhere", WIKI + "Lion"],
            "topic": "sports",
            "start": 4,
            "end": 9,
        }
        assert set(changes) <= set(record)
        return list((record | changes).values())

    def write(self) -> Path:
        files = {
            "entity2desc": self.desc,
            "type2entity": self.types,
            **{f"{split}_w_10cands": records for split, records in self.splits.items()},
        }
        for name, content in files.items():
            if content is not None:
                (self.folder / f"{name}.json").write_text(json.dumps(content))
        return self.folder

    def first(self, **changes):
        """The first mention of a release whose first record is changed so."""
        self.splits["train"][0] = self.mention(**changes)
        return load("toy", self.write()).mentions[0]

    def load(self, **options):
        return load("toy", self.write(), options=LayoutOptions(**options))

    def error(self, **options) -> str:
        return refused(lambda: self.load(**options))
