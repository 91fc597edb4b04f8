"""Trains the demo's CLIP: an open_clip model that `create_model("local-dir:...")` loads, with a tokenizer of its own.

Two stages, because two cores in a minute cannot afford text and pictures together: first the text tower learns to match
a mention's text or a caption to the entity's attribute text, then the image tower learns to match drawings to the
locked text tower's vectors (locked-text tuning), which are computed once.
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.files import write_json
from pipeline.demo.learning import Schedule, matching_loss, minimise
from pipeline.demo.pretext import GROUP, SIZE, Drawings, Thing, caption, entity_text, face_text, mention_text
from pipeline.demo.vocabulary import clip_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

OBJECTIVE = (
    "contrastive (InfoNCE): mention, caption or face text to attribute text, then drawing to caption and attribute "
    "text with the text tower locked"
)
CONTEXT = 64  # tokens
TEXT_BATCH, IMAGE_BATCH = 128, 64
CAPTIONS = 0.3  # share of captions among what is matched to attribute texts
FACE_TEXTS = 0.2  # share of what face models say, among what is matched to the texts of people
CAPTION_WEIGHT = 0.7  # of captions against attribute texts where drawings are matched
SCALE = 20.0  # of the cosines, when a stage begins
CHUNK = 64  # texts of similar length that are encoded together


def configuration(vocabulary_size: int) -> dict[str, Any]:
    """The content of `open_clip_config.json`."""
    return {
        "model_cfg": {
            "embed_dim": 96,
            "vision_cfg": {
                "image_size": SIZE,
                "patch_size": 16,
                "width": 96,
                "layers": 3,
                "head_width": 32,
                "mlp_ratio": 2.0,
            },
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": vocabulary_size,
                "width": 64,
                "heads": 2,
                "layers": 2,
                "mlp_ratio": 2.0,
                "hf_tokenizer_name": "tokenizer.json",
            },
        },
        "preprocess_cfg": {
            "size": [SIZE, SIZE],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def train(
    folder: Path, pieces: list[str], drawings: Drawings, schedules: tuple[Schedule, Schedule], seed: int
) -> dict[str, Any]:
    """Write `folder/clip`; returns the training's part of the report. schedules: of text tower and image tower."""
    import open_clip
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional

    torch.manual_seed(seed)
    shown = drawings.things
    rng = random.Random(f"clip {seed}")
    tokenizer = clip_tokenizer(pieces, CONTEXT)
    config = configuration(len(tokenizer))
    model = open_clip.CLIP(**config["model_cfg"], init_logit_scale=float(np.log(SCALE)))

    def encode(texts: list[str]) -> "Tensor":
        rows = tokenizer(texts, truncation=True).input_ids
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        chunks = [[rows[row] for row in order[start : start + CHUNK]] for start in range(0, len(rows), CHUNK)]
        padded = [tokenizer.pad({"input_ids": chunk}, return_tensors="pt").input_ids for chunk in chunks]
        vectors = torch.cat([encode_prefix(model, ids) for ids in padded])
        return functional.normalize(vectors[torch.tensor(order).argsort()], dim=-1)

    def text_loss(step: int) -> "Tensor":
        batch = [shown[row] for row in some_groups(len(shown), TEXT_BATCH, rng)]
        return matching_loss(
            encode([_read(thing, rng) for thing in batch]),
            encode([entity_text(thing, rng) for thing in batch]),
            model.logit_scale.exp(),
        )

    text = minimise(model, text_loss, schedules[0])
    with torch.no_grad():
        captions, entities = (encode([write(thing, rng) for thing in shown]) for write in (caption, entity_text))
        model.logit_scale.fill_(float(np.log(SCALE)))
    images = torch.from_numpy(drawings.pixels).permute(0, 3, 1, 2)

    def image_loss(step: int) -> "Tensor":
        rows = some_groups(len(shown), IMAGE_BATCH, rng)
        batch = images[rows].float() / 127.5 - 1
        seen = functional.normalize(model.encode_image(batch.flip(-1) if step % 2 else batch), dim=-1)
        to_captions, to_entities = (
            matching_loss(seen, texts[rows], model.logit_scale.exp()) for texts in (captions, entities)
        )
        return CAPTION_WEIGHT * to_captions + (1 - CAPTION_WEIGHT) * to_entities

    image = minimise(model, image_loss, schedules[1])
    place = folder / "clip"
    write_json(place / "open_clip_config.json", config)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, place / "open_clip_model.safetensors"
    )
    tokenizer.save_pretrained(place)
    return {
        "objective": OBJECTIVE,
        "steps": [schedule.steps for schedule in schedules],
        "loss": [round(text, 4), round(image, 4)],
    }


def _read(thing: Thing, rng: random.Random) -> str:
    """A text about the thing that is not the KB's."""
    if thing.kind == "person" and rng.random() < FACE_TEXTS:
        return face_text(thing, rng)
    return caption(thing, rng) if rng.random() < CAPTIONS else mention_text(thing, rng)


def some_groups(count: int, batch: int, rng: random.Random) -> list[int]:
    """`batch` of `count` rows, whole groups of one name."""
    return [
        group * GROUP + member for group in rng.sample(range(count // GROUP), batch // GROUP) for member in range(GROUP)
    ]


def encode_prefix(model: Any, ids: "Tensor") -> "Tensor":
    """open_clip's `encode_text` for ids (n, L) with L below the context length: attention is causal, so later positions
    change nothing.
    """
    import torch

    length = ids.shape[1]
    states = model.token_embedding(ids) + model.positional_embedding[:length]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    return states[torch.arange(len(ids)), ids.argmax(dim=-1)] @ model.text_projection
