"""DSMIP's first stage: prompts are learned over cached states of a CLIP, then features are extracted with them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cache.identity import Output, identity, weights_hash
from cache.inputs import Side
from cache.keys import KeyColumn
from cache.shard import Status
from cache.store import Store
from cache.table import Table
from experiments.contracts import PromptOutputs
from foundation import device as devices
from foundation.errors import UserError
from foundation.files import fault_point
from foundation.progress import Bar
from heads.config.dsmip import PROMPTED
from heads.contracts import HeadInput, LiveClip, TrainingJob, TrainingResult
from pipeline.extraction import guard
from pipeline.extractors import build
from pipeline.profiles import profile as profiles

VERSION = 1  # raised by hand when the same prompts give other numbers
BATCH = 64
SHARD_ROWS = 2048


def train(job: TrainingJob) -> TrainingResult:
    """Learn prompts: `heads.training.train` with the blocks of the CLIP behind the cached states."""
    from heads import training

    assert job.live is not None
    blocks(job.live)
    return training.train(job)


def blocks(clip: LiveClip) -> Path:
    """The file of the frozen blocks, one for all runs over the same states; written from the checkpoint if need be."""
    from experiments.clip_blocks import export

    if not clip.blocks.exists():
        profile = profiles.load(clip.profile)
        extractor = build(profile.feature(clip.feature), profile.source, clip.demo)
        assert extractor.files is not None  # of a model, not of our own code
        export(extractor.files, clip.start, clip.blocks)
    return clip.blocks


def extract(job: TrainingJob) -> PromptOutputs:
    """Extract features with the prompts that a run learned into `cache/` in its folder: only what is not there yet.

    job: of the run that learned them. Raises `UserError` where the rows of a view are all equal, all zero or hardly
    differ; they stay in the cache.
    """
    import torch

    from heads.runs import load_head

    assert job.live is not None
    device = torch.device(devices.choose(job.compute.device))
    head = load_head(job.out, device, blocks(job.live))
    weights = weights_hash([job.out / "model.safetensors"], None)
    inputs: list[HeadInput] = []
    files: list[Path] = []
    lines: list[str] = []
    rows = {}
    for one in job.inputs:
        column = KeyColumn.load(one.keys)
        keys = distinct(column.keys[column.present])
        prompted = Prompted(head, one.role, one.side, Store.open(one.store))
        spec = prompted.spec(weights)
        store = Store.create(job.out / "cache", prompted.feature, spec)
        rows[f"{one.side} {prompted.feature}"] = prompted.fill(store, keys)
        lines += prompted.problems(one, store, column)
        files += store.files_for(keys)
        inputs.append(
            HeadInput(
                side=one.side,
                role=prompted.feature,
                feature=prompted.feature,
                view=one.view,
                outputs=tuple(output.name for output in prompted.outputs),
                store=store.folder,
                keys=one.keys,
                identity=identity(spec),
            )
        )
    if lines:
        remedy = (
            "the learned prompts forget their input; train them with a lower `expert_lr`, or without (`prompts: false`)"
        )
        raise UserError(*(f"{line}; {remedy}" for line in lines))
    return PromptOutputs(inputs=tuple(inputs), files=tuple(files), run={"device": str(device), "rows": rows})


def distinct(keys: np.ndarray) -> np.ndarray:
    """The distinct keys among (n, 16) uint8."""
    return np.unique(keys.view("V16")).view(np.uint8).reshape(-1, 16)


@dataclass(frozen=True)
class Prompted:
    """One side's texts or pictures as a head's learned prompts give them.

    kind: `text` or `image`. states: the store of the states entering the first live block, from which they start.
    """

    head: Any  # a `heads.methods.dsmip.PromptExpert`; its module imports torch
    kind: str
    side: Side
    states: Store

    @property
    def feature(self) -> str:
        """Its name."""
        return PROMPTED[self.kind]

    @property
    def outputs(self) -> tuple[Output, Output]:
        """Tokens and pooled, fp16."""
        head = self.head
        if self.kind == "text":
            return Output("tokens", (head.text.width,), ragged=True), Output("pooled", (head.text.projected,))
        length = head.config.prompt_length + head.shapes["image.states"][0]
        return Output("tokens", (length, head.image.width)), Output("pooled", (head.image.projected,))

    def spec(self, weights: str) -> dict[str, Any]:
        """Its identity in clear. weights: hash of those of the run that learned the prompts."""
        return {
            "extractor": self.feature,
            "version": VERSION,
            "side": self.side,
            "prompts": weights,
            "reads": [self.states.identity],
            "outputs": [output.to_json() for output in self.outputs],
        }

    def fill(self, store: Store, keys: np.ndarray) -> int:
        """Add the rows of the distinct `keys` (n, 16) that `store` lacks and `states` holds; returns how many."""
        import torch

        missing = keys[store.missing(keys)]
        with Bar(len(missing), f"{self.side} {self.feature}", "row") as bar:
            for start in range(0, len(missing), SHARD_ROWS):
                part = missing[start : start + SHARD_ROWS]
                with torch.inference_mode():
                    self._add_shard(store, part)
                bar.update(len(part))
                fault_point("prompted-shard")
        return len(missing)

    def problems(self, one: HeadInput, store: Store, column: KeyColumn, fewest: int = 2) -> list[str]:
        """What is wrong with the rows of an input, a line per output; nothing for fewer than `fewest` distinct ones, or
        where the states that they start from are the same."""
        if len(distinct(column.keys[column.present])) < fewest:
            return []
        wrong = guard.wrong(column, store, store.outputs, store.outputs, partial(self._same_states, column))
        return [f"{self.side}.{self.feature}.{one.view}, output {name}: {problem}" for name, problem in wrong]

    def _same_states(self, column: KeyColumn, places: np.ndarray) -> bool:
        """Whether the states at some places of a key column are equal."""
        table = Table(self.states, next(iter(self.states.outputs)), column.keys[places], column.present[places])
        if not table.ragged:
            states = table.gather(np.arange(len(places)))
            return bool((states == states[:1]).all())
        values, lengths = table.ragged_flat(np.arange(len(places)))
        rows = values.reshape(len(places), -1) if (lengths == lengths[0]).all() else None
        return rows is not None and bool((rows == rows[0]).all())

    def _add_shard(self, store: Store, keys: np.ndarray) -> None:
        """The rows of `keys`, with the verdicts that the states they start from have."""
        table = Table(self.states, next(iter(self.states.outputs)), keys, np.ones(len(keys), bool))
        columns: dict[str, Any] = {
            name: [np.zeros((0, *output.shape), np.float16)] * len(keys)
            if output.ragged
            else np.zeros((len(keys), *output.shape), output.dtype)
            for name, output in store.outputs.items()
        }
        for at, batch in self._batches(table):
            for name, values in batch.items():
                for row, value in zip(at.tolist(), values, strict=True):
                    columns[name][row] = value
        status = np.where(table.ok, Status.OK, table.status).astype(np.uint8)
        causes = ["" if code == Status.OK else "as the states it starts from" for code in status]
        store.add(keys, status, causes, columns)

    def _batches(self, table: Table) -> Iterator[tuple[np.ndarray, Mapping[str, list[np.ndarray]]]]:
        """Positions in `table` and their rows by output, rows of similar length together."""
        import torch

        from heads.base import Ragged, Rows

        device = next(self.head.parameters()).device
        usable = np.flatnonzero(table.ok)
        order = usable[np.argsort(table.lengths[usable], kind="stable")]
        for start in range(0, len(order), BATCH):
            at = order[start : start + BATCH]
            ok = torch.ones(len(at), dtype=torch.bool, device=device)
            if self.kind == "image":
                states = torch.from_numpy(table.gather(at)).to(device)
                pictures = self.head.prompted_image(Rows({"image.ok": ok, "image.states": states}), self.side)
                yield at, {name: list(rows.float().cpu().numpy()) for name, rows in pictures.items()}
                continue
            values, lengths = table.ragged_flat(at)
            cached = Ragged(torch.from_numpy(values).to(device), torch.from_numpy(lengths))
            texts = self.head.prompted_text(Rows({"text.ok": ok, f"text.{table.output}": cached}), self.side)
            tokens, pooled = texts["tokens"], texts["pooled"]
            ends = tokens.lengths.cumsum(0)[:-1].numpy()
            yield (
                at,
                {
                    "tokens": list(np.split(tokens.values.float().cpu().numpy(), ends)),
                    "pooled": list(pooled.float().cpu().numpy()),
                },
            )
