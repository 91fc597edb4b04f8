"""Training of any head: one loop, early stopping on candidate lists of dev, a checkpoint per epoch, the full evaluation at the end."""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.store import Store
from foundation.errors import UserError
from foundation.files import fault_point, read_json, write_json
from foundation.progress import Bar
from heads.base import Batch, Head, make_head
from heads.checkpoint import load_optimizer, optimizer_tensors, part, read_tensors, write_tensors
from heads.clip_blocks import read_towers
from heads.config import load_config, to_json
from heads.config.base import HeadConfig
from heads.contracts import TrainingJob, TrainingResult
from heads.data import Bundle, prefetch
from heads.device import autocast, pick_device, pick_precision, repeatable
from heads.evaluation import evaluate, write_predictions
from heads.metrics import dev_half, figures, rank_in_lists, table
from heads.scoring import score_lists

OUTPUTS = ("model.safetensors", "history.json", "predictions.parquet", "metrics.json")


@dataclass
class State:
    """Where a run stands between two epochs. Nothing random is kept: every epoch starts from its own seed.

    epoch: epochs done. resumed: how many of them another process did. best: dev MRR of the epoch whose weights are kept, best_epoch (0: none yet).
    history: a row of figures per epoch. seconds: spent in the epochs done, by all processes that had a part in them.
    """

    epoch: int = 0
    resumed: int = 0
    best: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def train(job: TrainingJob) -> TrainingResult:
    """Train a head and evaluate it; a run that was killed goes on after its last whole epoch, to the same bytes.

    Writes model.safetensors, metrics.json, predictions.parquet, history.json and tensorboard/ to the run's folder, and run.json when all of them
    are there; a run that is complete is read, not trained again. Raises `UserError`.
    """
    config, out = load_config(job.method, job.config), job.out
    digest = _digest(job, config)
    if (out / "run.json").exists() and all((out / name).exists() for name in OUTPUTS):
        run = read_json(out / "run.json")
        if run["job"] == digest:
            return _result(out, run)
    device = pick_device(job.compute.device)
    with repeatable(job.compute.threads):
        return _train(job, config, out, digest, device)


def _train(job: TrainingJob, config: HeadConfig, out: Path, digest: str, device: torch.device) -> TrainingResult:
    started = time.monotonic()
    quiet = not sys.stderr.isatty()
    seed, precision = job.seed, pick_precision(job.compute.precision, device)
    (out / "run.json").unlink(missing_ok=True)
    bundle = Bundle.load(job, device)
    chosen, counts = training_mentions(bundle, job.train_fraction, config.fits_on)
    head = new_head(job, config, bundle, chosen, seed)
    loaded = time.monotonic()
    state, best = _fit(head, config, bundle, chosen, out, digest, seed, precision, quiet)
    trained = time.monotonic()
    head.load_state_dict(best)
    head.eval()
    metrics, predictions, speed = (
        evaluate(head, bundle, quiet) if config.evaluates else ({}, {"id": np.empty(0, str)}, None)
    )
    said = {
        "method": job.method,
        "config": to_json(config),
        "shapes": bundle.shapes,
        "seed": seed,
        "features": features_read(job),
    }
    write_tensors(out / "model.safetensors", best, said)
    fault_point("run-middle")
    write_predictions(out / "predictions.parquet", predictions)
    write_json(out / "history.json", {"best_epoch": state.best_epoch, "epochs": state.history})
    write_json(out / "metrics.json", metrics)
    fault_point("run-before-end")
    run = {
        "job": digest,
        "method": job.method,
        "config": to_json(config),
        "seed": seed,
        "device": str(device),
        "precision": precision,
        "counts": counts,
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "resumed_after": state.resumed,
        "parameters": sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad),
        "pairs_per_second": speed,
        "seconds": {
            "load": round(loaded - started, 3),
            "train": round(state.seconds, 3),
            "evaluate": round(time.monotonic() - trained, 3),
        },
    }
    write_json(out / "run.json", run)
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    return _result(out, run)


def new_head(job: TrainingJob, config: HeadConfig, bundle: Bundle, chosen: np.ndarray, seed: int) -> Head:
    """The head before its first epoch, initialised from `seed` or from the runs that it goes on from. chosen: its training mentions."""
    torch.manual_seed(seed)
    head = make_head(job.method, config, bundle.shapes, **frozen(job.live.blocks if job.live else None)).to(
        bundle.mentions.device
    )
    for label, run in sorted(job.heads.items()):
        history = read_json(run.out / "history.json")
        best = max((row.get("dev MRR", 0.0) for row in history["epochs"]), default=0.0)
        head.start(label, read_tensors(run.out / "model.safetensors")[0], best)
    head.prepare(*bundle.lists_of(chosen))
    return head


def features_read(job: TrainingJob) -> dict[str, str]:
    """Identity of the feature behind each of the job's inputs, by "side role"."""
    return {f"{one.side} {one.role}": Store.open(one.store).identity for one in job.inputs}


def frozen(blocks: Path | None) -> dict[str, Any]:
    """The models that a stage runs live, beside the cached features: none, or the `blocks` of a frozen CLIP."""
    return {"towers": read_towers(blocks)} if blocks else {}


def _fit(
    head: Head,
    config: HeadConfig,
    bundle: Bundle,
    chosen: np.ndarray,
    out: Path,
    digest: str,
    seed: int,
    precision: str,
    quiet: bool,
) -> tuple[State, dict[str, torch.Tensor]]:
    """Epochs until the last or until patience ends, from the run's checkpoint where there is one of this job. Returns the state, the best weights.

    A head without parameters, or `epochs: 0`: no epoch, and the weights as they are.
    """
    checkpoint = out / "checkpoint.safetensors"
    names, optimizer = make_optimizer(head, config)
    state, best = State(), {}
    if checkpoint.exists():
        tensors, saved = read_tensors(checkpoint)
        if saved.pop("job") == digest:
            state, best = State(**saved), part(tensors, "best.")
            state.resumed = state.epoch
            head.load_state_dict(part(tensors, "model."))
            load_optimizer(optimizer, names, tensors)
    curves = _Curves(out / "tensorboard", state.history)

    def keep(state: State, best: Mapping[str, torch.Tensor]) -> None:
        row = state.history[-1]
        progress.show(**{name: f"{value:.4f}" for name, value in row.items() if name in ("loss", "dev MRR")})
        fault_point("epoch-before")
        kept = {f"model.{name}": tensor for name, tensor in head.state_dict().items()} | {
            f"best.{name}": tensor for name, tensor in best.items()
        }
        write_tensors(checkpoint, kept | optimizer_tensors(optimizer, names), {"job": digest, **vars(state)})
        fault_point("epoch-end")
        curves.add(row)

    total, done = (config.epochs if names else 0) * len(chosen), state.epoch * len(chosen)
    with Bar(total, "training", "mention", done, quiet) as progress:
        best = run_epochs(head, optimizer, config, bundle, chosen, seed, precision, keep, state, best, progress.update)
    curves.close()
    return state, best


def run_epochs(
    head: Head,
    optimizer: torch.optim.Optimizer,
    config: HeadConfig,
    bundle: Bundle,
    chosen: np.ndarray,
    seed: int,
    precision: str,
    after: Callable[[State, Mapping[str, torch.Tensor]], Any],
    state: State,
    best: dict[str, torch.Tensor],
    watch: Callable[[int], Any] = lambda mentions: None,
) -> dict[str, torch.Tensor]:
    """Epochs from `state` (which goes along) until the last or until patience ends. Returns the best epoch's weights.

    after: told of the state and the best weights after each epoch; what it raises ends the training. watch: told of mentions done.
    """
    chooser = np.flatnonzero(half_of_dev(bundle, "choose"))
    epochs = config.epochs if any(group["params"] for group in optimizer.param_groups) else 0
    while state.epoch < epochs and not (config.patience and state.epoch - state.best_epoch >= config.patience):
        epoch, began = state.epoch + 1, time.monotonic()
        row: dict[str, Any] = {
            "epoch": epoch,
            **run_epoch(head, optimizer, bundle, chosen, config, seed, epoch, precision, watch),
        }
        row |= _choose(head, bundle, chooser, config)
        reached = row.get("dev MRR", float(epoch))  # without a dev set, the last epoch is the best
        if reached > state.best:
            state.best, state.best_epoch = reached, epoch
            best = {name: tensor.detach().cpu().clone() for name, tensor in head.state_dict().items()}
        state.epoch, state.seconds = epoch, state.seconds + time.monotonic() - began
        state.history.append(row)
        after(state, best)
    return best or head.state_dict()


def _result(out: Path, run: dict[str, Any]) -> TrainingResult:
    metrics = read_json(out / "metrics.json")
    return TrainingResult(metrics=metrics, table=table(metrics), run=run)


def _digest(job: TrainingJob, config: HeadConfig) -> str:
    """Hash of all that the result depends on: configuration, data and the features' identities; not of paths or of the device."""
    hashed = blake2b(digest_size=16)
    inputs = sorted(job.inputs, key=lambda one: (one.side, one.role, one.view))
    depends = {
        "method": job.method,
        "seed": job.seed,
        "config": to_json(config),
        "train_fraction": job.train_fraction,
        "inputs": sorted([one.side, one.role, one.view, Store.open(one.store).identity] for one in inputs),
    }
    hashed.update(json.dumps(depends, sort_keys=True).encode())
    tables = [job.dataset / "mentions.parquet", job.dataset / "entities.parquet"]
    pairs = [path for _, path in sorted(job.pairs.items())]
    pairs += [run.out / "model.safetensors" for _, run in sorted(job.heads.items())]
    for path in [*tables, job.candidates, *(one.keys for one in inputs), *pairs]:
        try:
            hashed.update(blake2b(path.read_bytes()).digest())
        except FileNotFoundError as error:
            raise UserError(
                f"{path}: no such file; run the task that prepares it (PrepareDataset, BuildCandidates or ExtractFeatures)"
            ) from error
    return hashed.hexdigest()


def training_mentions(bundle: Bundle, fraction: float, part: str = "train") -> tuple[np.ndarray, dict[str, int]]:
    """Mentions of train (or of the half of dev that calibrates) whose gold is in the KB, or the `fraction` of them with the lowest hash (so that
    10 % are part of 20 %), and counts."""
    if not 0 < fraction <= 1:
        raise UserError(f"train_fraction = {fraction}: expected more than 0, at most 1")
    here = bundle.table["split"] == "train" if part == "train" else half_of_dev(bundle, part)
    usable = np.flatnonzero(here & (bundle.gold >= 0))
    counts = {
        part: len(usable),
        "NIL": int((here & (bundle.gold == -1)).sum()),
        "outside the KB": int((here & (bundle.gold == -2)).sum()),
    }
    if not len(usable):
        raise UserError(
            f"no training mention has its gold in the KB ({int(here.sum())} mentions in {part}); the account of the dataset says why"
        )
    if fraction < 1:
        order = sorted(
            usable.tolist(), key=lambda row: blake2b(str(bundle.table["id"][row]).encode(), digest_size=8).digest()
        )
        usable = np.array(sorted(order[: max(1, round(fraction * len(order)))]))
    return usable, counts | {"trained on": len(usable)}


def make_optimizer(head: Head, config: HeadConfig) -> tuple[list[str], torch.optim.Optimizer]:
    """AdamW, weight decay on matrices alone, and the parameters' names in its order."""
    named = sorted(head.named_parameters(), key=lambda pair: pair[1].ndim < 2)
    groups = [
        {"params": [parameter for _, parameter in named if parameter.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for _, parameter in named if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [name for name, _ in named], torch.optim.AdamW(groups, lr=config.lr, eps=config.eps)


def run_epoch(
    head: Head,
    optimizer: torch.optim.Optimizer,
    bundle: Bundle,
    chosen: np.ndarray,
    config: HeadConfig,
    seed: int,
    epoch: int,
    precision: str,
    watch: Callable[[int], Any] = lambda mentions: None,
) -> dict[str, float]:
    """One pass over the training mentions in an order that seed and epoch fix. Returns the mean loss and its parts. watch: told of mentions done."""
    device = bundle.mentions.device
    head.train()
    torch.manual_seed(seed * 1_000_003 + epoch)
    order = np.random.default_rng([seed, epoch]).permutation(chosen)
    batches = [order[start : start + config.batch_size] for start in range(0, len(order), config.batch_size)]
    scaler = torch.amp.GradScaler(
        device.type, enabled=precision == "fp16"
    )  # anew for each epoch, so that there is no state of it to keep
    sums: dict[str, torch.Tensor] = {}

    def read(step: int) -> Batch:
        drawn = bundle.draw(
            batches[step], config.hard_negatives, config.hard_reach, np.random.default_rng([seed, epoch, step])
        )
        return bundle.batch(batches[step], head.uses_candidates, drawn)

    for step, (index, batch) in enumerate(zip(batches, prefetch(range(len(batches)), read), strict=True)):
        if config.lr_decay:
            left = 1 - (max(0, epoch - 1) + step / len(batches)) / config.epochs
            for group in optimizer.param_groups:
                group["lr"] = config.lr * left
        with autocast(device, precision):
            loss, logged = head.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        if config.clip_norm:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(head.parameters(), config.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        for name, value in {"loss": loss, **logged}.items():
            sums[name] = sums.get(name, 0) + value.detach() * len(index)
        watch(len(index))
    means = {name: float(value) / len(order) for name, value in sums.items()}
    if not math.isfinite(means["loss"]):
        raise UserError(
            f"the loss is {means['loss']} in epoch {epoch}; train with a lower learning rate, e.g. --params '{{\"lr\": {config.lr / 10:g}}}'"
        )
    return means


def half_of_dev(bundle: Bundle, half: str) -> np.ndarray:
    """(M,) bool of the mentions of dev in one half, "choose" or "calibrate", whose gold is in the KB."""
    dev = (bundle.table["split"] == "dev") & (bundle.gold >= 0)
    return np.array(
        [bool(here) and dev_half(str(name)) == half for here, name in zip(dev, bundle.table["gold_id"], strict=True)]
    )


def _choose(head: Head, bundle: Bundle, chooser: np.ndarray, config: HeadConfig) -> dict[str, float]:
    """Figures on candidate lists of the half of dev that chooses; nothing where it is empty."""
    if not len(chooser):
        return {}
    head.eval()
    lists, gold = bundle.candidates[chooser, : config.eval_candidates], bundle.gold[chooser]
    beside = bundle.pairs_of(chooser, config.eval_candidates)
    ranks = rank_in_lists(
        score_lists(head, bundle.mentions, bundle.entities, chooser, lists, beside)["score"], lists, gold
    )
    values = figures(ranks, (lists == gold[:, None]).any(1))
    return {"dev MRR": float(values["MRR"]), "dev H@1": float(values["H@1"]), "dev recall": float(values["recall"])}


class _Curves:
    """Learning curves for TensorBoard, written anew from the history when a run goes on, so that no epoch is lost or twice there."""

    def __init__(self, folder: Path, history: list[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder))
        for row in history:
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """Add an epoch's figures."""
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(name.replace(" ", "/"), value, row["epoch"])
        self.writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self.writer.close()
