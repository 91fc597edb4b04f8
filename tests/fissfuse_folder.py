"""A small release in the layout `fissfuse`, its pictures in one HDF5 file, to be changed and written."""

import io
import json
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.layouts import load


def picture(seed: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(out, kind)
    return out.getvalue()


class Fissfuse:
    """A release in a folder, changed file by file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.entities = [
            {"qid": f"Q{row}", "id": row, "name": f"Name {row}", "desc": f"Desc {row}."} for row in range(4)
        ]
        self.splits = {
            split: [
                {
                    "mention_id": f"{split}{row}",
                    "mentions": "Name",
                    "sentence": f"Name was seen {row} times.",
                    "imgPath": f"some/where/p{row}.5.png",
                    "candidates": [f"Q{row}", "Q3", "Q2"],
                }
                for row in range(2)
            ]
            for split in ("train", "valid", "test")
        }
        self.pictures: dict[str, dict[str, bytes]] = {
            "mention_image": {f"p{row}": picture(row) for row in range(2)},
            "entity_image": {f"Q{row}": picture(10 + row) for row in range(3)},
        }

    def write(self, name: str = "WIKIMEL_image.h5") -> Path:
        files = {"entities": self.entities} | {f"WIKIMEL_{split}": records for split, records in self.splits.items()}
        for stem, records in files.items():
            (self.folder / f"{stem}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        with h5py.File(self.folder / name, "w") as file:
            for group, members in self.pictures.items():
                for key, data in members.items():
                    file[f"{group}/{key}"] = np.frombuffer(data, np.uint8)
        return self.folder

    def load(self, **options):
        return load("toy", self.write(), options=LayoutOptions(**options))
