"""The training loop of every head: epochs over the training mentions, early stopping on candidate lists of dev."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation.device import autocast
from foundation.errors import UserError
from foundation.prefetch import prefetch
from heads.base import Batch, Head
from heads.data import Bundle
from heads.metrics import figures, rank_in_lists
from heads.scoring import Scoring
from heads.tune import TOWERS, kind_of

PICTURES = 1
"""The stream of random numbers that masks pictures, beside that of a step's hard negatives."""
ENTITY_PICTURES = 2
"""That which picks one of an entity's pictures."""


@dataclass
class State:
    """The state of a run where dev was measured: at the end of an epoch, or of a part of one (`checks`).

    epoch: epochs done. part: parts done of the next one. resumed: epochs that another process did. best: dev MRR of
    the weights that are kept, best_epoch: epochs behind them (0: none yet, or the start). history: a row of figures
    per measurement, and one for the start (epoch 0) where that may be kept. seconds: spent so far, by all processes
    that had a part in them. scaler: of fp16, within an epoch. What else goes on within an epoch is `Trainer.random`; at
    its end nothing does, because every epoch starts from its own seed.
    """

    epoch: int = 0
    part: int = 0
    resumed: float = 0
    best: float = -1.0
    best_epoch: float = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> float:
        """Epochs done, the part of the last one too."""
        return self.history[-1]["epoch"] if self.history else 0


@dataclass
class Trainer:
    """A head and all that its training depends on.

    mentions: (m,) rows of its training mentions. precision: fp32, fp16 or bf16. best: the best weights so far, empty
    before the first measurement. random: states of torch's generators within an epoch, of the CPU and the GPU.
    """

    head: Head
    bundle: Bundle
    mentions: np.ndarray
    seed: int
    precision: str
    state: State = field(default_factory=State)
    best: dict[str, Tensor] = field(default_factory=dict)
    random: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """AdamW, weight decay on matrices alone; `parameters`: their names in the optimiser's order; `rates`: step size
        of each of its groups, and the share of all steps over which it rises from 0; `norms`: by tower its parameters
        and what their gradients' norm is scaled down to."""
        config = self.head.config
        groups: dict[tuple[bool, float, float, float], list[tuple[str, nn.Parameter]]] = {
            (vector, config.lr, config.weight_decay, 0.0): [] for vector in (False, True)
        }
        self.norms: dict[str, tuple[list[nn.Parameter], float]] = {}
        for name, parameter in self.head.named_parameters():
            groups.setdefault((parameter.ndim < 2, *config.step(name)), []).append((name, parameter))
            if name.startswith(TOWERS):
                tower = name.removeprefix(TOWERS).partition(".")[0]
                self.norms.setdefault(tower, ([], config.tune[kind_of(tower)].clip_norm))[0].append(parameter)
        ordered = sorted(groups.items(), key=lambda group: group[0])
        self.parameters = [name for _, named in ordered for name, _ in named]
        self.rates = [(rate, warmup) for (_, rate, _, warmup), _ in ordered]
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [parameter for _, parameter in named],
                    "weight_decay": 0.0 if vector else decay,
                    "lr": rate,
                }
                for (vector, rate, decay, _), named in ordered
            ],
            eps=config.eps,
        )

    @cached_property
    def listed(self) -> Bundle:
        """The bundle with the candidates that steps read, see `Head.training_places`."""
        places = self.head.training_places(self.bundle.candidates, self.bundle.gold)
        return self.bundle if places is None else self.bundle.at(places)

    @property
    def epochs(self) -> int:
        """The most epochs there will be: none for a head without parameters."""
        return self.head.config.passes if self.parameters else 0

    def train(
        self, after: Callable[[State], Any] = lambda state: None, watch: Callable[[int], Any] = lambda mentions: None
    ) -> Mapping[str, Tensor]:
        """Epochs from `state` until the last or until patience ends. Returns the best weights.

        after: called with the state after each measurement of dev; an exception ends the training. watch: called with
        the number of mentions done. Raises `UserError` when the loss is not finite.
        """
        patience, state, parts = self.head.config.patience, self.state, self.parts
        if self.head.config.keeps_start and not state.history and (start := self.dev_figures()):
            state.best, state.history = start["dev MRR"], [{"epoch": 0, **start}]
            self.best = self._weights()
        while state.epoch < self.epochs and not (patience and state.done - state.best_epoch >= patience):
            epoch, part, began = state.epoch + 1, state.part + 1, time.monotonic()
            done = epoch if part == parts else state.epoch + part / parts
            row = {"epoch": done, **self.run_epoch(epoch, watch, (part, parts)), **self.dev_figures()}
            reached = row.get("dev MRR", float(done))  # without a dev set, the last is the best
            if reached > state.best:
                state.best, state.best_epoch = reached, done
                self.best = self._weights()
            state.epoch, state.part = (epoch, 0) if part == parts else (state.epoch, part)
            state.seconds += time.monotonic() - began
            state.history.append(row)
            after(state)
        return self.best or self.head.state_dict()

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.head.state_dict().items()}

    @property
    def parts(self) -> int:
        """How often an epoch dev is measured: not more than it has steps."""
        steps = -(-len(self.mentions) // self.head.config.batch_size)
        return max(1, min(self.head.config.checks, steps))

    def run_epoch(
        self, epoch: int, watch: Callable[[int], Any] = lambda mentions: None, part: tuple[int, int] = (1, 1)
    ) -> dict[str, float]:
        """One pass over the training mentions in an order that seed and epoch fix, or the i-th of n parts of it: `part`
        (i, n), from 1 on, behind the part before. Returns the means of the loss and its parts."""
        head, config, device = self.head, self.head.config, self.bundle.device
        head.train()
        order = np.random.default_rng([self.seed, epoch]).permutation(self.mentions)
        batches = [order[start : start + config.batch_size] for start in range(0, len(order), config.batch_size)]
        first, end = (len(batches) * at // part[1] for at in (part[0] - 1, part[0]))
        scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")  # anew for each epoch
        if part[0] == 1:
            torch.manual_seed(self.seed * 1_000_003 + epoch)
        else:
            self._go_on(scaler)
        sums: dict[str, Tensor | float] = {}
        bundle = self.listed

        def read(step: int) -> Batch:
            random = np.random.default_rng([self.seed, epoch, step])
            drawn = self.bundle.draw(batches[step], config.hard_negatives, config.hard_reach, random)
            picks = np.random.default_rng([self.seed, epoch, step, ENTITY_PICTURES])
            batch = bundle.batch(batches[step], head.uses_candidates, drawn, picks)
            if not config.picture_dropout:
                return batch
            masks = np.random.default_rng([self.seed, epoch, step, PICTURES])  # apart from all other draws
            return bundle.masked(batch, batches[step], config.picture_dropout, masks)

        steps = range(first, end)
        for step, batch in zip(steps, prefetch(steps, read), strict=True):
            index = batches[step]
            self._set_rates(max(0, epoch - 1) + step / len(batches), 1 / len(batches))
            with autocast(device.type, self.precision):
                loss, parts = head.loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            self._clip(scaler)
            scaler.step(self.optimizer)
            scaler.update()
            for name, value in {"loss": loss, **parts}.items():
                sums[name] = sums.get(name, 0) + value.detach() * len(index)
            watch(len(index))
        count = sum(len(batches[step]) for step in steps)
        means = {name: float(value) / count for name, value in sums.items()}
        if not math.isfinite(means["loss"]):
            raise UserError(
                f"the loss is {means['loss']} in epoch {epoch}; train with a lower learning rate, "
                f"e.g. --params '{{\"lr\": {config.lr / 10:g}}}'"
            )
        self.state.scaler, self.random = {}, {}
        if part[0] < part[1]:
            self.state.scaler, self.random = scaler.state_dict(), generators(device)
        return means

    def _go_on(self, scaler: torch.amp.GradScaler) -> None:
        """Put generators and scaler where the last part of the epoch left them."""
        torch.set_rng_state(self.random["cpu"])
        if "cuda" in self.random:
            torch.cuda.set_rng_state(self.random["cuda"], self.bundle.device)
        if self.state.scaler:
            scaler.load_state_dict(self.state.scaler)

    def _set_rates(self, done: float, one: float) -> None:
        """Step sizes of the step after `done` epochs, one of `one` epoch."""
        epochs = self.head.config.epochs
        left = 1 - done / epochs if self.head.config.lr_decay else 1.0
        for group, (rate, warmup) in zip(self.optimizer.param_groups, self.rates, strict=True):
            risen = min(1.0, (done + one) / (warmup * epochs)) if warmup else 1.0
            group["lr"] = rate * left * risen

    def _clip(self, scaler: torch.amp.GradScaler) -> None:
        """Scale gradients down: those of each tower by themselves, and then all by the head's own `clip_norm`."""
        norms = [pair for pair in self.norms.values() if pair[1]]
        if self.head.config.clip_norm:
            norms.append((list(self.head.parameters()), self.head.config.clip_norm))
        if norms:
            scaler.unscale_(self.optimizer)
        for parameters, norm in norms:
            torch.nn.utils.clip_grad_norm_(parameters, norm)

    def dev_figures(self) -> dict[str, float]:
        """Figures on candidate lists of the half of dev that chooses the epoch; empty where it has no mention."""
        bundle, most = self.bundle, self.head.config.eval_candidates
        chooser = np.flatnonzero(bundle.half_of_dev("choose"))
        if not len(chooser):
            return {}
        self.head.eval()
        lists, gold = bundle.candidates[chooser, :most], bundle.gold[chooser]
        scores = Scoring.of(self.head, bundle).lists(chooser, lists, bundle.pairs_of(chooser, most))["score"]
        values = figures(rank_in_lists(scores, lists, gold), (lists == gold[:, None]).any(1))
        return {"dev MRR": float(values["MRR"]), "dev H@1": float(values["H@1"]), "dev recall": float(values["recall"])}


def generators(device: torch.device) -> dict[str, Tensor]:
    """States of torch's generators, of the CPU and of `device` where it is a GPU."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})
