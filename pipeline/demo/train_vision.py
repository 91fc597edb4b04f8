"""Trains the demo's ResNet and Vision Transformer (torchvision's own classes) to name what drawings show."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.files import write_json
from pipeline.demo.learning import Schedule, minimise
from pipeline.demo.looks import KINDS
from pipeline.demo.pretext import SIZE, Drawings, Thing

if TYPE_CHECKING:
    from torch import Tensor, nn

OBJECTIVE = (
    "attribute classification: one softmax per slot (kind, hair, hull ...), cross-entropy on the slots that the drawn "
    "kind has"
)
PREPROCESS = {"crop_size": SIZE, "resize_size": SIZE, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
BATCH = 32


def slots() -> list[tuple[str, str, int, tuple[str, ...]]]:
    """What is to be named: (kind, slot, which word of its value, the words it can be). The first is the kind itself."""
    named = [
        (kind, slot, place, tuple(dict.fromkeys(words)))
        for kind, shape in KINDS.items()
        for slot, visible in shape.visible.items()
        for place, words in enumerate(visible.words)
    ]
    return [("", "kind", 0, tuple(KINDS)), *named]


def answers(shown: list[Thing]) -> np.ndarray:
    """(n, number of slots) int64: the number of the right word, -1 where the thing's kind has no such slot."""
    table = np.full((len(shown), len(slots())), -1, dtype=np.int64)
    for row, thing in enumerate(shown):
        for column, (kind, slot, place, words) in enumerate(slots()):
            if slot == "kind":
                table[row, column] = words.index(thing.kind)
            elif kind == thing.kind:
                table[row, column] = words.index(thing.traits[slot].split()[place])
    return table


def architecture(name: str) -> dict[str, Any]:
    """The content of `torchvision.json`: torchvision's class, its arguments, the preprocessing."""
    labels = sum(len(words) for *_, words in slots())
    if name == "resnet":
        kwargs: dict[str, Any] = {"block": "BasicBlock", "layers": [1, 1, 1, 1], "num_classes": labels}
        return {"architecture": "ResNet", "kwargs": kwargs, "preprocess": PREPROCESS}
    sizes = {"image_size": SIZE, "patch_size": 16, "num_layers": 3, "num_heads": 3, "hidden_dim": 96, "mlp_dim": 192}
    return {"architecture": "VisionTransformer", "kwargs": sizes | {"num_classes": labels}, "preprocess": PREPROCESS}


def build(shape: dict[str, Any]) -> "nn.Module":
    """The model that a `torchvision.json` describes, freshly initialised."""
    from torchvision.models import VisionTransformer
    from torchvision.models.resnet import BasicBlock, ResNet

    if shape["architecture"] == "ResNet":
        return ResNet(**{**shape["kwargs"], "block": BasicBlock})
    return VisionTransformer(**shape["kwargs"])


def train(name: str, folder: Path, drawings: Drawings, schedule: Schedule, seed: int) -> dict[str, Any]:
    """Write `folder/<name>/{torchvision.json, model.safetensors}`; returns the training's part of the report."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    rng = random.Random(f"{name} {seed}")
    shape = architecture(name)
    model = build(shape)
    target = torch.from_numpy(answers(drawings.things))
    images = torch.from_numpy(drawings.pixels).permute(0, 3, 1, 2)

    def loss_at(step: int) -> "Tensor":
        rows = rng.sample(range(len(drawings.things)), BATCH)
        batch = images[rows].float() / 127.5 - 1
        return _slot_loss(model(batch.flip(-1) if step % 2 else batch), target[rows])

    loss = minimise(model, loss_at, schedule)
    place = folder / name
    write_json(place / "torchvision.json", shape)
    save_file(model.state_dict(), place / "model.safetensors")
    return {"objective": OBJECTIVE, "steps": schedule.steps, "loss": round(loss, 4)}


def _slot_loss(logits: "Tensor", target: "Tensor") -> "Tensor":
    from torch.nn import functional

    parts = logits.split([len(words) for *_, words in slots()], dim=1)
    losses = [
        functional.cross_entropy(part, column, ignore_index=-1, reduction="sum")
        for part, column in zip(parts, target.T, strict=True)
    ]
    return sum(losses[1:], losses[0]) / len(logits)
