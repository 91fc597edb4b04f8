"""DSMIP's first stage: prompts are learned over cached states of a CLIP, then features are extracted with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.identity import Output
from cache.store import Store
from cache.table import Table
from experiments.learned import Learned, Remade, Rows, split, weights_of
from foundation import device as devices
from heads.config.dsmip import PROMPTED
from heads.contracts import HeadInput, LiveClip, TrainingJob, TrainingResult
from pipeline.extractors import build
from pipeline.profiles import profile as profiles

if TYPE_CHECKING:
    from heads.towers import Build

VERSION = 1  # raised by hand when the same prompts give other numbers


def train(job: TrainingJob, build: "Build") -> TrainingResult:
    """Learn prompts: `heads.training.train` with the blocks of the CLIP behind the cached states."""
    from heads import training

    assert job.live is not None
    blocks(job.live)
    return training.train(job, build)


def blocks(clip: LiveClip) -> Path:
    """The file of the frozen blocks, one for all runs over the same states; written from the checkpoint if need be."""
    from experiments.clip_blocks import export

    if not clip.blocks.exists():
        profile = profiles.load(clip.profile)
        extractor = build(profile.feature(clip.feature), profile.source, clip.demo)
        assert extractor.files is not None  # of a model, not of our own code
        export(extractor.files, clip.start, clip.blocks)
    return clip.blocks


def remade(job: TrainingJob) -> tuple[list[Remade], str, str]:
    """The inputs of the run that learned prompts as the second stage reads them, the device, and what helps where
    prompts forget their input."""
    import torch

    from heads.runs import load_head

    assert job.live is not None
    device = torch.device(devices.choose(job.compute.device))
    head, weights = load_head(job.out, device, blocks(job.live)), weights_of(job.out)
    listed = [(one, PROMPTED[one.role], prompted(head, one, weights)) for one in job.inputs]
    remedy = (
        "the learned prompts forget their input; train them with a lower `expert_lr`, or without (`prompts: false`)"
    )
    return [Remade(*one) for one in listed], str(device), remedy


def prompted(head: Any, one: HeadInput, weights: str) -> "Prompted":
    """What learned prompts make of an input. head: a `heads.methods.dsmip.PromptExpert`; weights: hash of its run's."""
    feature = PROMPTED[one.role]
    made_by = {"extractor": feature, "version": VERSION, "side": one.side, "prompts": weights}
    return Prompted(feature, one.side, Store.open(one.store), made_by, head, one.role)


@dataclass(frozen=True)
class Prompted(Learned):
    """One side's texts or pictures as a head's learned prompts give them. kind: `text` or `image`."""

    head: Any
    kind: str

    @property
    def outputs(self) -> tuple[Output, ...]:
        """See `Learned.outputs`."""
        head = self.head
        if self.kind == "text":
            return Output("tokens", (head.text.width,), ragged=True), Output("pooled", (head.text.projected,))
        length = head.config.prompt_length + head.shapes["image.states"][0]
        return Output("tokens", (length, head.image.width)), Output("pooled", (head.image.projected,))

    def of(self, states: Table, at: np.ndarray, keys: np.ndarray) -> Rows:
        """See `Learned.of`."""
        import torch

        from heads import base

        device = next(self.head.parameters()).device
        ok = torch.ones(len(at), dtype=torch.bool, device=device)
        if self.kind == "image":
            cached = torch.from_numpy(states.gather(at)).to(device)
            pictures = self.head.prompted_image(base.Rows({"image.ok": ok, "image.states": cached}), self.side)
            return {name: list(rows.float().cpu().numpy()) for name, rows in pictures.items()}
        values, lengths = states.ragged_flat(at)
        column = base.Ragged(torch.from_numpy(values).to(device), torch.from_numpy(lengths))
        texts = self.head.prompted_text(base.Rows({"text.ok": ok, f"text.{states.output}": column}), self.side)
        tokens, pooled = texts["tokens"], texts["pooled"]
        return {
            "tokens": split(tokens.values.float().cpu().numpy(), tokens.lengths.numpy()),
            "pooled": list(pooled.float().cpu().numpy()),
        }
