"""A dataset of a few dozen records in the jsonl layout, and a profile over small random checkpoints."""

import json
import zlib
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import yaml
from PIL import Image

NAMES = [
    "Ann Powers",
    "Ben Powers",
    "Cleo Harrison",
    "Noel Harrison",
    "Red City",
    "Green City",
    "Blue Ship",
    "Old Ship",
]


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(path)


def entity(number: int) -> dict:
    name = NAMES[number % len(NAMES)]
    record: dict[str, Any] = {
        "id": f"Q{number}",
        "name": name if number < len(NAMES) else f"{name} {number}",
        "attributes": f"number {number}. the old one of the city.",
    }
    if number == 6:
        record["aliases"] = ["The Harbour Powers", "Añcient Ship"]
    return record if number % 4 == 3 else {**record, "images": [f"kb/e{number}.png"]}


def mention(number: int) -> dict:
    gold = number % 12
    name = entity(gold)["name"]
    record = {
        "id": f"m{number}",
        "sentence": f"{name} was seen in the green city, as number {number} says.",
        "mention": name.split()[-1],
        "gold": f"Q{gold}",
        "split": ("train", "train", "dev", "test")[number % 4],
    }
    return record if number % 5 == 4 else {**record, "image": f"mentions/m{number}.png"}


def write(folder: Path, mentions: int = 40, entities: int = 12) -> Path:
    """The dataset's folder, with its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = {"entities": [entity(n) for n in range(entities)], "mentions": [mention(n) for n in range(mentions)]}
    for name, records in listed.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for record in [*listed["entities"], *listed["mentions"]]:
        for path in [*record.get("images", []), *filter(None, [record.get("image")])]:
            if not (folder / path).exists():
                picture(folder / path, seed=zlib.crc32(path.encode()))
    return folder


def profile(folder: Path, **models: Path) -> Path:
    """A profile whose models are small random checkpoints made in `folder` (or those given by feature name)."""
    made = {
        "text_tokens": checkpoints.bert,
        "clip_text": checkpoints.open_clip_model,
        "clip_image": checkpoints.open_clip_model,
        "image_pooled": checkpoints.resnet,
    }
    features: dict[str, dict[str, str | int]] = {}
    for name, make in made.items():
        place = models.get(name) or folder / make.__name__
        place = place if place.exists() else make(place)
        features[name] = {"model": place.relative_to(folder).as_posix() if place.is_relative_to(folder) else str(place)}
    features["clip_text"]["max_tokens"] = 32
    features["text_tokens"]["max_tokens"] = 48
    path = folder / "small.yaml"
    path.write_text(
        yaml.safe_dump(
            {"features": features, "heads": {"mimic": {"epochs": 2, "d_t": 8, "d_v": 8, "d_c": 8, "batch_size": 8}}}
        )
    )
    return path
