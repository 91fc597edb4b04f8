"""A small world of cached features for the tests of heads: every entity has a latent vector that its mentions share,
with noise."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cache.identity import Output, content_key
from cache.inputs import SIDES, Side
from cache.shard import Status
from cache.store import Store
from heads.base import Ragged, Rows
from heads.config import load_config
from heads.config.base import HeadConfig
from heads.contracts import Compute, HeadInput, TrainingJob
from pipeline.pairs import registry

CLIP_TEXT = [Output("tokens", (24,), ragged=True), Output("pooled", (16,))]
TEXT = [Output("tokens", (16,), ragged=True), Output("pooled", (16,)), Output("offsets", (2,), "int32", ragged=True)]
IMAGE = [Output("tokens", (5, 20)), Output("pooled", (12,))]
OBJECTS = [Output("vectors", (10,), ragged=True), Output("box", (), "int32", ragged=True)]
FEATURES = {
    "clip_text": CLIP_TEXT,
    "text_tokens": TEXT,
    "image_patches": IMAGE,
    "clip_image": [Output("tokens", (4, 18)), Output("pooled", (16,))],
    "image_pooled": [Output("pooled", (14,))],
    "object_resnet": OBJECTS,
    "object_clip": OBJECTS,
    "clip_layers_text": [Output("ids", (), "int32", ragged=True), Output("embedding", (16,))],
    "clip_layers_image": [Output("states", (5, 12))],
    "prompted_text": CLIP_TEXT,
    "prompted_image": IMAGE,
    "objects": [],
    "face_attributes": [],
    "identity": [],  # heads read what is made of them
}
TEXTS = ("text", "phrase", "sentence", "entity", "prompted_text", "gate_text")
RAGGED = (
    "text.tokens",
    "text.states",
    "prompted_text.tokens",
    "text.offsets",
    "sentence.tokens",
    "objects.vectors",
    "faces.pooled",
    "identities.pooled",
)


PAIRS = {"retrieval": (2,)}
"""Pair features of several numbers."""


def head_shapes(
    config: HeadConfig, text_only: bool = False, available: Collection[str] = FEATURES
) -> dict[str, tuple[int, ...]]:
    """The shapes of what a head asks for, of the features here (those of text alone, or those that are available)."""
    available = [name for name in available if not text_only or name in ("text_tokens", "clip_text")]
    wanted = {(want.role, want.feature, output) for want in config.wants(available) for output in want.outputs}
    shapes = {
        f"{role}.{output.name}": output.shape
        for role, feature, name in sorted(wanted)
        for output in FEATURES[feature]
        if output.name == name
    }
    if config.stays_live:
        shapes["text.states"] = shapes.pop("text.tokens")
    return shapes | {f"pairs.{config.over_pictures(name)}": PAIRS.get(name, ()) for name in config.pairs(available)}


class Blocks(torch.nn.Module):
    """Stands for an encoder's live blocks: one of torch's own over states (b, L, width), see `heads.towers`."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.block = torch.nn.TransformerEncoderLayer(width, 2, 24, dropout=0.0, batch_first=True)

    def forward(self, states: torch.Tensor, lengths: list[int]) -> dict[str, torch.Tensor]:
        padding = torch.arange(states.shape[1]) >= torch.tensor(lengths)[:, None]
        tokens = self.block(states, src_key_padding_mask=padding).tanh()  # so that no shift is the same for all
        return {"tokens": tokens, "pooled": tokens[:, 0]}


def head_towers(config: HeadConfig, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.nn.Module]:
    """The blocks that a head of this configuration runs live, over inputs of these shapes."""
    return {"text": Blocks(shapes["text.states"][-1])} if config.stays_live else {}


def head_rows(
    shapes: Mapping[str, tuple[int, ...]], n: int, seed: int, missing: float = 0.3, lengths: tuple[int, int] = (1, 9)
) -> Rows:
    """n rows of random features of these shapes. lengths: of texts, the upper end not included; other roles are absent
    with chance `missing`.

    The tokens of a text stand at characters 0 to 0 (a special token), 3 to 5, 6 to 8 …; the phrase is some of them, or
    in one text of four not there.
    """
    random = torch.Generator().manual_seed(seed)
    made = Rows()
    for role in sorted({name.split(".")[0] for name in shapes} - {"pairs"}):
        size = torch.randint(*(lengths if role in TEXTS else (1, 5)), (n,), generator=random)
        there = size > 0 if role in TEXTS else torch.rand(n, generator=random) >= missing
        made[f"{role}.ok"], size = there, size * there
        made[f"{role}.span"] = torch.full((n, 2), -1)
        for name in (name for name in shapes if name.startswith(f"{role}.")):
            if name.endswith(".offsets"):
                place = torch.cat([torch.arange(int(length)) for length in size])
                made[name] = Ragged(torch.stack([3 * place, 3 * place + 2 * (place > 0)], 1).int(), size)
                made[f"{role}.span"] = _spans(size, random)
            elif name in RAGGED:
                made[name] = Ragged(torch.randn(int(size.sum()), *shapes[name], generator=random), size)
            else:
                made[name] = torch.randn(n, *shapes[name], generator=random) * there.view(-1, *[1] * len(shapes[name]))
    return made


def _spans(lengths: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """(n, 2) characters of a phrase of one or two of each text's tokens, -1 where there is none."""
    first = 1 + (torch.rand(len(lengths), generator=random) * (lengths - 1)).long()
    last = (first + torch.randint(2, (len(lengths),), generator=random)).minimum(lengths - 1)
    there = (lengths > 1) & (torch.rand(len(lengths), generator=random) > 0.25)
    return torch.where(there[:, None], torch.stack([3 * first, 3 * last + 2], 1), -1)


def head_pairs(
    shapes: Mapping[str, tuple[int, ...]], lists: torch.Tensor, seed: int, missing: float = 0.2
) -> dict[str, torch.Tensor]:
    """Random values of the pair features among these shapes beside `lists` (m, r); absent (NaN) with chance `missing`
    and where a list ends."""
    random = torch.Generator().manual_seed(seed)
    made = {}
    for name in sorted(name for name in shapes if name.startswith("pairs.")):
        values = torch.rand(*lists.shape, *shapes[name], generator=random)
        absent = (torch.rand(lists.shape, generator=random) < missing) | (lists < 0)
        made[name.removeprefix("pairs.")] = values.masked_fill(
            absent.view(*lists.shape, *[1] * len(shapes[name])), torch.nan
        )
    return made


def build_job(
    folder: Path,
    entities: int = 40,
    splits: tuple[int, int, int] = (96, 40, 40),
    images: bool = True,
    k: int = 10,
    seed: int = 0,
) -> TrainingJob:
    """Stores, tables and candidate lists under `folder`, and the job that trains MIMIC on them into `folder / "run"`.

    Odd ones among the mentions: the first of each split has a NIL gold, the second one outside the KB, every seventh
    list misses its gold.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    latent = random.normal(size=(entities, 12)).astype(np.float32)
    mixers = {
        output: random.normal(size=(12, width)).astype(np.float32)
        for output, width in (("tt", 16), ("tp", 16), ("it", 20), ("ip", 12))
    }
    n = sum(splits)
    gold = random.integers(0, entities, n)
    split = np.repeat(["train", "dev", "test"], splits)
    starts = np.cumsum([0, *splits[:-1]])
    gold[starts], gold[starts + 1] = -1, -2
    sides: dict[Side, Any] = {
        "mention": latent[np.maximum(gold, 0)] + 0.3 * random.normal(size=(n, 12)),
        "entity": latent,
    }
    inputs = []
    image_ok = {}
    for side, values in sides.items():
        values = values.astype(np.float32)
        lengths = random.integers(2, 9, len(values))
        tokens = [
            (value + 0.5 * random.normal(size=(length, 12))).astype(np.float32) @ mixers["tt"]
            for value, length in zip(values, lengths, strict=True)
        ]
        offsets = [np.stack([3 * np.arange(length), 3 * np.arange(length) + 2], 1) for length in lengths]
        columns = {"tokens": tokens, "pooled": values @ mixers["tp"], "offsets": offsets}
        inputs.append(_store(folder, side, "text", "text_tokens", TEXT, columns, np.zeros(len(values), np.uint8)))
        if images:
            status = np.where(random.random(len(values)) < 0.25, Status.MISSING, Status.OK).astype(np.uint8)
            image_ok[side] = status == Status.OK
            states = (values[:, None] + 0.5 * random.normal(size=(len(values), 5, 12))).astype(np.float32) @ mixers[
                "it"
            ]
            inputs.append(
                _store(
                    folder,
                    side,
                    "image",
                    "image_patches",
                    IMAGE,
                    {"tokens": states, "pooled": values @ mixers["ip"]},
                    status,
                )
            )
    ids = np.array([f"Q{row}" for row in range(entities)])
    gold_id = [None if row == -1 else "Q-elsewhere" if row == -2 else str(ids[row]) for row in gold]
    train_golds = set(gold[split == "train"].tolist())
    verdict = {
        side: np.where(image_ok.get(side, np.zeros(len(values), bool)), "ok", "none") for side, values in sides.items()
    }
    mention_table = {
        "id": [f"m{row}" for row in range(n)],
        "split": split,
        "sentence": ["a sentence"] * n,
        "phrase": [f"Name {max(row, 0) // 10}" for row in gold],
        "gold": gold.astype(np.int32),
        "gold_id": gold_id,
        "group": [None] * n,
        "image_status": verdict["mention"],
        "phrase_is_name": random.random(n) < 0.5,
        "gold_in_train": [int(row) in train_golds for row in gold],
        "sentence_in_train": random.random(n) < 0.2,
        "ambiguous": random.random(n) < 0.2,
    }
    pq.write_table(pa.table(mention_table), folder / "mentions.parquet")
    pq.write_table(pa.table({"id": ids, "image_status": verdict["entity"]}), folder / "entities.parquet")
    lists = np.stack([random.permutation(entities)[:k] for _ in range(n)]).astype(np.int32)
    for row in range(n):
        if gold[row] >= 0 and row % 7:
            lists[row, row % k] = gold[row]
        elif gold[row] >= 0:
            lists[row][lists[row] == gold[row]] = -1
    np.savez(folder / "candidates.npz", ids=lists, scores=np.zeros(lists.shape, np.float32))
    return TrainingJob(
        method="mimic",
        config={"epochs": 3, "batch_size": 32, "lr": 0.003, "d_t": 8, "d_v": 8, "d_c": 8},
        seed=1,
        compute=Compute(device="cpu", threads=1),
        out=folder / "run",
        dataset=folder,
        inputs=tuple(inputs),
        candidates=folder / "candidates.npz",
    )


def job_for(
    job: TrainingJob, method: str, config: Mapping[str, Any], out: Path, beside: Collection[str] = ()
) -> TrainingJob:
    """The job of another method over the stores of `build_job`: each want read from the store of its side and feature,
    pair features higher for golds. beside: features that pair features alone are made of."""
    chosen = load_config(method, config)
    stores = {(one.side, one.feature): one for one in job.inputs}
    available = {feature for _, feature in stores} | {*beside}
    lists = np.load(job.candidates)["ids"]
    gold = pq.read_table(job.dataset / "mentions.parquet")["gold"].to_numpy()
    pairs = {}
    for pair, name in zip(chosen.pairs(available), chosen.read_pairs(available), strict=True):
        values = 0.5 * np.random.default_rng(len(pair)).random(lists.shape, np.float32) + 0.4 * (lists == gold[:, None])
        pairs[name] = job.dataset / f"pairs-{name}.npz"
        np.savez(pairs[name], values=np.where(lists < 0, np.nan, values).astype(np.float32))
    inputs = tuple(
        replace(stores[want.side, want.feature], role=want.role, view=want.view, outputs=want.outputs)
        for want in chosen.inputs(available)
    )
    pictured = {name: pictured_sides(name) for name in pairs}
    return replace(job, method=method, config=config, inputs=inputs, pairs=pairs, pictured=pictured, out=out)


def pictured_sides(pair: str) -> tuple[Side, ...]:
    """The sides whose pictures a pair feature reads."""
    reads = registry.wants(pair, registry.features_of(pair))
    return tuple(side for side in SIDES if any(want.side == side and want.from_picture for want in reads))


def _store(
    folder: Path,
    side: Side,
    role: str,
    feature: str,
    outputs: list[Output],
    columns: dict[str, Any],
    status: np.ndarray,
) -> HeadInput:
    store = Store.create(
        folder / "cache",
        feature,
        {"outputs": [output.to_json() for output in outputs], "made by": "the tests of heads"},
    )
    n = len(status)
    keys = (
        np.frombuffer(b"".join(content_key(role, side, str(row)) for row in range(n)), np.uint8).reshape(n, 16).copy()
    )
    ok = status == Status.OK
    stored: dict[str, Any] = {}
    for output in outputs:
        values = columns[output.name]
        if output.ragged:
            stored[output.name] = [row.astype(output.dtype) for row in values]
        else:
            stored[output.name] = np.where(ok.reshape(-1, *[1] * len(output.shape)), values, 0).astype(np.float16)
    store.add(keys, status, ["" if fine else "absent" for fine in ok], stored)
    path = folder / f"{side}-{role}.npz"
    phrase = [3, 5] if (side, role) == ("mention", "text") else [-1, -1]  # a text's second token
    np.savez(path, keys=keys, present=np.ones(n, bool), span=np.tile(np.array(phrase, np.int32), (n, 1)))
    view = {"text": {"mention": "mention_sep_sentence", "entity": "name_sep_attributes"}[side], "image": "image"}[role]
    read = ("tokens", "pooled")  # by MIMIC
    return HeadInput(side=side, role=role, feature=feature, view=view, outputs=read, store=store.folder, keys=path)
