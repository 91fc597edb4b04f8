"""DSMIP's first stage: prompts are learned over cached states of a CLIP, then features are extracted with them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.identity import Output
from cache.store import Store
from cache.table import Table
from experiments import towers
from experiments.learned import Learned, Remade, Rows, split, weights_of
from foundation import device as devices
from heads.config.dsmip import PROMPTED
from heads.contracts import HeadInput, TrainingJob

if TYPE_CHECKING:
    pass

VERSION = 1  # raised by hand when the same prompts give other numbers


def remade(job: TrainingJob) -> tuple[list[Remade], str, str]:
    """The inputs of the run that learned prompts as the second stage reads them, the device, and what helps where
    prompts forget their input."""
    import torch

    from heads.runs import load_head

    device = torch.device(devices.choose(job.compute.device))
    head, weights = load_head(job.out, device, towers.build(job)), weights_of(job.out)
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
        head, sizes = self.head, self.head.sizes[self.kind]
        pooled = Output("pooled", (sizes.projected,))
        if self.kind == "text":
            return Output("tokens", (sizes.width,), ragged=True), pooled
        length = head.config.prompt_length + head.shapes["image.states"][0]
        return Output("tokens", (length, sizes.width)), pooled

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
