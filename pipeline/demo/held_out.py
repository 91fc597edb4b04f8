"""Figures of the demo's encoders on new drawings and sentences: CLIP without training, and linear probes against random
weights.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foundation.files import read_json
from pipeline.demo.drawing import draw
from pipeline.demo.looks import KINDS
from pipeline.demo.names import full_name
from pipeline.demo.pretext import Thing, caption, things
from pipeline.demo.sentences import NEUTRAL

CHOICES = 20  # captions to choose from
DRAWN = 112  # pixels, a size that pictures of the world have
FEW, SENTENCES = 60, 240  # labelled drawings, labelled sentences of a probe
TESTED = 600  # examples that a probe is measured on
RIDGE = 30.0  # weight of the squared norm in a probe, for standardised features

Encode = Callable[[list[Any]], np.ndarray]


def evaluate(name: str, folder: Path, seed: int) -> dict[str, float]:
    """Figures of the checkpoint `folder/name` in percent, loaded with its library's own loader."""
    rng = random.Random(f"held out {name} {seed}")
    probe = _probe_sentences(rng) if name == "bert" else _probe_drawings(rng)
    figures = {
        "probe": probe(_encoder(name, folder, seed, trained=True)),
        "probe of random weights": probe(_encoder(name, folder, seed, trained=False)),
    }
    if name == "clip":
        figures |= {f"right caption of {CHOICES}": _choose_captions(folder / name, rng)}
    return {figure: round(100 * value, 1) for figure, value in figures.items()}


def _encoder(name: str, folder: Path, seed: int, trained: bool) -> Encode:
    import torch

    torch.manual_seed(seed + 1)
    if name == "bert":
        return _bert(folder / name, trained)
    if name == "clip":
        return _clip(folder / name, trained)[0]
    return _torchvision(folder / name, trained)


def _bert(folder: Path, trained: bool) -> Encode:
    """Texts → states of [CLS]."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder) if trained else BertModel(AutoConfig.from_pretrained(folder))
    model.eval()

    def encode(texts: list[str]) -> np.ndarray:
        with torch.inference_mode():
            return model(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state[:, 0].numpy()

    return encode


def _clip(folder: Path, trained: bool) -> tuple[Encode, Encode]:
    """Pictures → pooled vectors, texts → pooled vectors, both of length 1."""
    import open_clip
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    if not trained:
        model = open_clip.CLIP(**read_json(folder / "open_clip_config.json")["model_cfg"])
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()

    def images(pictures: list[Image.Image]) -> np.ndarray:
        with torch.inference_mode():
            return model.encode_image(
                torch.stack([preprocess(picture) for picture in pictures]), normalize=True
            ).numpy()

    def texts(strings: list[str]) -> np.ndarray:
        with torch.inference_mode():
            return model.encode_text(tokenizer(strings), normalize=True).numpy()

    return images, texts


def _torchvision(folder: Path, trained: bool) -> Encode:
    """Pictures → what the classifier's last layer reads."""
    import torch
    from safetensors.torch import load_file
    from torchvision.transforms import functional

    from pipeline.demo.train_vision import build

    shape = read_json(folder / "torchvision.json")
    model = build(shape)
    if trained:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    setattr(model, "fc" if shape["architecture"] == "ResNet" else "heads", torch.nn.Identity())
    model.eval()
    prepared = shape["preprocess"]

    def encode(pictures: list[Image.Image]) -> np.ndarray:
        scaled = [
            functional.to_tensor(picture.resize((prepared["crop_size"],) * 2, Image.Resampling.BICUBIC))
            for picture in pictures
        ]
        with torch.inference_mode():
            return model(functional.normalize(torch.stack(scaled), prepared["mean"], prepared["std"])).numpy()

    return encode


def _drawings(shown: list[Thing], rng: random.Random) -> list[Image.Image]:
    return [draw(thing.kind, thing.traits, rng, DRAWN) for thing in shown]


def _choose_captions(folder: Path, rng: random.Random) -> float:
    """Share of drawings whose own caption is the nearest of `CHOICES`, the others being those of random drawings."""
    shown = things(1000, rng)
    images, texts = _clip(folder, trained=True)
    scores = images(_drawings(shown, rng)) @ texts([caption(thing, rng) for thing in shown]).T  # (n, n)
    right = 0
    for row in range(len(shown)):
        others = rng.sample([place for place in range(len(shown)) if place != row], CHOICES - 1)
        right += scores[row, row] > scores[row, others].max()
    return right / len(shown)


def _probe_drawings(rng: random.Random) -> Callable[[Encode], float]:
    """The mean accuracy of three probes: the kind of any drawing; the colours of hair and of dress of people."""
    people = [Thing("", "person", KINDS["person"].draw_traits(rng)) for _ in range(FEW + TESTED)]
    anything = things(FEW + TESTED, rng)
    of_people, of_anything = _drawings(people, rng), _drawings(anything, rng)
    hair, dress = (
        [thing.traits["hair"].split()[1] for thing in people],
        [thing.traits["dress"].split()[0] for thing in people],
    )

    def probe(encode: Encode) -> float:
        vectors = encode(of_people)
        kind = _linear_probe(encode(of_anything), [thing.kind for thing in anything])
        return (kind + _linear_probe(vectors, hair) + _linear_probe(vectors, dress)) / 3

    return probe


def _probe_sentences(rng: random.Random) -> Callable[[Encode], float]:
    """The kind of what a sentence is about, which a role or a fame states.

    Examples and test use different roles and fames: vectors that only tell words apart are of no use.
    """
    texts, answers = [], []
    for place in range(SENTENCES + TESTED):
        kind = rng.choice(list(KINDS))
        half = 0 if place < SENTENCES else 1
        slot, value = rng.choice(
            [("role", rng.choice(KINDS[kind].roles[half::2])), ("fame", rng.choice(KINDS[kind].fames[half::2]))]
        )
        article = "the " if slot == "role" else ""
        texts.append(
            rng.choice(NEUTRAL).replace("{m}", f"{full_name(rng)}, {article}{KINDS[kind].phrase(slot, value)},")
        )
        answers.append(kind)
    return lambda encode: _linear_probe(encode(texts), answers, SENTENCES)


def _linear_probe(vectors: np.ndarray, answers: list[str], known: int = FEW) -> float:
    """Accuracy of ridge regression to one-hot answers: learned on the first `known` rows of vectors (n, d), measured on
    the rest.
    """
    classes = sorted(set(answers))
    right = np.array([classes.index(answer) for answer in answers])
    vectors = vectors.astype(np.float64)
    scaled = (vectors - vectors[:known].mean(0)) / (vectors[:known].std(0) + 1e-6)
    scaled = np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)
    learn = scaled[:known]
    weights = np.linalg.solve(
        learn.T @ learn + RIDGE * np.eye(learn.shape[1]), learn.T @ np.eye(len(classes))[right[:known]]
    )
    return float(np.mean((scaled[known:] @ weights).argmax(1) == right[known:]))
