"""Trains the demo's face models: one small ResNet learns attributes and who is who together, and is saved in the forms
that extractors read.

`face_hair`, `face_beard` ... and `face_celebrities` are transformers image classifiers; `face_recogniser` is an ONNX
file.
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.files import write_json
from pipeline.demo.faces import SIDE, Celebrity, faces, labels, lookalike, someone
from pipeline.demo.learning import Schedule, matching_loss, minimise
from pipeline.demo.looks import ON_FACES
from pipeline.demo.onnx_file import Graph

if TYPE_CHECKING:
    from torch import Tensor, nn

OBJECTIVE = (
    "per face: hair, beard, glasses, headgear (cross-entropy) and which drawings show one person (InfoNCE); "
    "celebrities: a linear layer on top"
)
WIDTHS = (16, 32, 64, 128)
EMBEDDED = 64  # numbers in a face's vector
PEOPLE, BATCH = 1600, 48  # people drawn twice; people in a batch
SCALE = 12.0  # of the cosines where drawings of one person are matched
DRAWN, LOOKALIKES, STRANGERS = (
    20,
    8,
    800,
)  # faces of each celebrity, of people who nearly look the same, faces of nobody known
PREPROCESS = {
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "image_processor_type": "ViTImageProcessor",
}


def train(folder: Path, known: list[Celebrity], schedule: Schedule, seed: int) -> dict[str, Any]:
    """Write `folder/face_*`; returns the training's part of the report."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(seed)
    rng = random.Random(f"faces {seed}")
    trunk = network(["?"]).resnet
    heads = nn.ModuleDict({slot: nn.Linear(WIDTHS[-1], len(labels(slot))) for slot in ON_FACES})
    embed = nn.Linear(WIDTHS[-1], EMBEDDED)
    people = [someone(rng) for _ in range(PEOPLE)]
    pixels = [torch.from_numpy(faces(people, rng)) for _ in range(2)]
    targets = {slot: torch.tensor([labels(slot).index(traits[slot]) for traits in people]) for slot in ON_FACES}

    def loss_at(step: int) -> "Tensor":
        rows = rng.sample(range(PEOPLE), BATCH)
        states = pooled(trunk, torch.cat([drawn[rows] for drawn in pixels]), mirrored=step % 2 == 1)
        named = [functional.cross_entropy(head(states), targets[slot][rows].repeat(2)) for slot, head in heads.items()]
        one, other = functional.normalize(embed(states), dim=-1).chunk(2)
        return sum(named) + matching_loss(one, other, SCALE)

    loss = minimise(nn.ModuleList([trunk, heads, embed]), loss_at, schedule)
    for slot, head in heads.items():
        _save(folder / f"face_{slot}", trunk, head, labels(slot))
    _save(folder / "face_celebrities", trunk, _recognise(trunk, known, rng), [celebrity.label for celebrity in known])
    export(folder / "face_recogniser", trunk, embed)
    return {"objective": OBJECTIVE, "steps": schedule.steps, "loss": round(loss, 4), "celebrities": len(known)}


def network(names: list[str]) -> Any:
    """A fresh `ResNetForImageClassification` with a class for each name."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=WIDTHS[0],
        hidden_sizes=list(WIDTHS),
        depths=[1] * len(WIDTHS),
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    return ResNetForImageClassification(config)


def pooled(trunk: "nn.Module", pixels: "Tensor", mirrored: bool = False) -> "Tensor":
    """(n, SIDE, SIDE, 3) uint8 → (n, WIDTHS[-1])."""
    batch = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    return trunk(batch.flip(-1) if mirrored else batch).pooler_output.flatten(1)


def _recognise(trunk: "nn.Module", known: list[Celebrity], rng: random.Random) -> "nn.Linear":
    """The layer that names celebrities on the finished trunk; a stranger's right answer is every name alike, so that no
    name is likely.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    shown = [celebrity.entity.traits for celebrity in known for _ in range(DRAWN)]
    shown += [lookalike(celebrity.entity.traits, rng) for celebrity in known for _ in range(LOOKALIKES)] + [
        someone(rng) for _ in range(STRANGERS)
    ]
    with torch.no_grad():
        states = torch.cat([pooled(trunk, part) for part in torch.from_numpy(faces(shown, rng)).split(256)])
    target = torch.full((len(shown), len(known)), 1 / len(known))
    target[: len(known) * DRAWN] = torch.eye(len(known)).repeat_interleave(DRAWN, dim=0)
    layer = nn.Linear(WIDTHS[-1], len(known))
    minimise(layer, lambda step: functional.cross_entropy(layer(states), target), Schedule(300, 0.1))
    return layer


def _save(place: Path, trunk: "nn.Module", head: "nn.Module", names: list[str]) -> None:
    """A classifier's folder, as `save_pretrained` of the model and of its image processor leave it."""
    model = network(names)
    model.resnet.load_state_dict(trunk.state_dict())
    model.classifier[1].load_state_dict(head.state_dict())
    model.save_pretrained(place)
    write_json(place / "preprocessor_config.json", PREPROCESS)


def export(place: Path, trunk: Any, embed: "nn.Linear") -> None:
    """`recogniser.onnx`: RGB faces (n, 3, SIDE, SIDE), (x / 255 − 0.5) / 0.5, to vectors (n, EMBEDDED) that are not
    normalised.
    """
    graph = Graph()
    value = _convolve(graph, trunk.embedder.embedder, "input")
    value = graph.add("MaxPool", [value], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage in trunk.encoder.stages:
        for layer in stage.layers:
            inner = value
            for convolution in layer.layer:
                inner = _convolve(graph, convolution, inner)
            short = _convolve(graph, layer.shortcut, value) if hasattr(layer.shortcut, "convolution") else value
            value = graph.add("Relu", [graph.add("Add", [inner, short])])
    value = graph.add("Flatten", [graph.add("GlobalAveragePool", [value])], axis=1)
    value = graph.add("Gemm", [value], [embed.weight.detach().numpy(), embed.bias.detach().numpy()], transB=1)
    place.mkdir()
    graph.write(place / "recogniser.onnx", (3, SIDE, SIDE), value, EMBEDDED)


def _convolve(graph: Graph, module: Any, value: str) -> str:
    """Convolution with its batch normalisation folded in, and its ReLU where it has one."""
    convolution, norm = module.convolution, module.normalization
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    weight = (convolution.weight * scale[:, None, None, None]).detach().numpy()
    bias = (norm.bias - norm.running_mean * scale).detach().numpy()
    sizes = {"kernel_shape": convolution.kernel_size, "strides": convolution.stride, "pads": convolution.padding * 2}
    value = graph.add("Conv", [value], [weight, bias], **sizes)
    return graph.add("Relu", [value]) if type(getattr(module, "activation", None)).__name__ == "ReLU" else value
