"""Features of encoders whose upper blocks a run has trained, made of the cached states that enter these blocks."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cache.identity import Output
from cache.store import Store
from cache.table import Table
from experiments import towers
from experiments.learned import Learned, Remade, Rows, split, weights_of
from foundation import device as devices
from heads.config import load_config
from heads.contracts import HeadInput, TrainingJob
from heads.tune import TOWERS, TUNED, kind_of
from pipeline.profiles.profile import AT_BLOCK

VERSION = 1  # raised by hand when the same blocks give other numbers


def remade(job: TrainingJob) -> tuple[list[Remade], str, str]:
    """The states that the run reads as the head behind it reads what its blocks make of them, the device, and what
    helps where blocks forget their input."""
    made = trained(job)
    weights = weights_of(job.out)
    listed = [
        Remade(one, one.role, tuned(one, job, made[name], weights, name))
        for name, tower in sorted(job.towers.items())
        for one in job.inputs
        if one.made and one.role in tower.reads.get(one.side, ())
    ]
    remedy = "the trained blocks forget their input; train them with a lower step size (`tune`: `lr`)"
    return listed, devices.choose(job.compute.device), remedy


def trained(job: TrainingJob) -> dict[str, Any]:
    """The towers of a finished run, ready to be read."""
    from foundation.checksums import check_run
    from heads.checkpoint import part, read_tensors

    check_run(job.out, "model.safetensors")
    tensors, _ = read_tensors(job.out / "model.safetensors")
    made = dict(towers.build(job).modules)
    for name, module in made.items():
        module.load_state_dict(part(tensors, f"{TOWERS}{name}."))
        module.to(devices.choose(job.compute.device)).eval()
    return made


def tuned(one: HeadInput, job: TrainingJob, module: Any, weights: str, name: str) -> "TunedStates":
    """What a tower makes of an input of states. weights: hash of its run's. name: the tower's."""
    feature = f"{one.feature.rpartition(AT_BLOCK)[0]}{AT_BLOCK}{TUNED}"
    states = Store.open(one.store)
    tune = load_config(job.method, job.config).tune[kind_of(name)]
    made_by = {
        "extractor": "tuned",
        "version": VERSION,
        "tower": name,
        "how": tune.how,
        "weights": weights,
        "preprocessing": module.live.encoder.preprocessing(),
    }
    return TunedStates(feature, one.side, states, made_by, module, tuple(one.outputs))


@dataclass(frozen=True)
class TunedStates(Learned):
    """Texts or pictures as trained blocks give them. module: the tower. read: outputs of the states' feature."""

    module: Any
    read: tuple[str, ...]

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """See `Learned.outputs`."""
        from heads.towers import shapes_of

        of_states = self.states.outputs["states"]
        tokens, pooled = shapes_of(self.module, of_states.shape, "real" in self.read)
        texts = of_states.ragged or "real" in self.read
        return Output("tokens", tokens, ragged=texts), Output("pooled", pooled)

    def of(self, states: Table, at: np.ndarray, keys: np.ndarray) -> Rows:
        """See `Learned.of`."""
        import torch

        from heads.base import Ragged
        from heads.towers import read_through

        device, real = next(self.module.parameters()).device, None
        ok = torch.ones(len(at), dtype=torch.bool, device=device)
        if states.ragged:
            values, lengths = states.ragged_flat(at)
            column: Any = Ragged(torch.from_numpy(values).to(device), torch.from_numpy(lengths))
        else:
            column = torch.from_numpy(states.gather(at)).to(device)
        if "real" in self.read:
            rows = Table(self.states, "real", keys, np.ones(len(keys), bool)).gather(np.arange(len(keys)))
            real = torch.from_numpy(rows).long().to(device)
        made = read_through(self.module, column, ok, real)
        tokens, pooled = made["tokens"], list(made.fixed("pooled").float().cpu().numpy())
        if isinstance(tokens, Ragged):
            return {"tokens": split(tokens.values.float().cpu().numpy(), tokens.lengths.numpy()), "pooled": pooled}
        return {"tokens": list(tokens.float().cpu().numpy()), "pooled": pooled}
