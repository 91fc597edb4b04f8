"""Training of a head over cached features: a checkpoint wherever dev is measured, the full evaluation at the end, a
run's folder."""

import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.store import Store
from foundation import device as devices
from foundation.checksums import RECORD, changed, check_run, checksums, read_sealed, write_sealed
from foundation.errors import NotAsWritten, UserError
from foundation.files import fault_point, read_json, write_json
from foundation.progress import Bar
from heads import folds, towers
from heads.base import Head
from heads.checkpoint import load_optimizer, optimizer_tensors, part, read_tensors, write_tensors
from heads.config import code_digest, in_words, load_config, naming_options, settings, to_json
from heads.config.base import WITHOUT_FOLD
from heads.contracts import Metrics, TrainingJob, TrainingResult
from heads.data import Bundle
from heads.evaluation import measure, write_predictions
from heads.loop import State, Trainer
from heads.metrics import table
from heads.towers import Build, make_live_head
from heads.tune import HEAD, TUNED

OUTPUTS = ("model.safetensors", "history.json", "predictions.parquet", "metrics.json")


def train(job: TrainingJob, build: Build = towers.none) -> TrainingResult:
    """Train a head and evaluate it; a killed run continues where it last measured dev, with the same bytes at the
    end.

    Writes model.safetensors, metrics.json, predictions.parquet, history.json and tensorboard/ to the run's folder, and
    run.json when all of them are there; a run that is complete, with the bytes that run.json has the checksums of, is
    read, not trained again. Raises `UserError`.
    """
    digest = job_digest(job)
    run = _finished(job, digest)
    if run is not None:
        return _result(job.out, run)
    device = devices.choose(job.compute.device)
    with devices.repeatable(job.compute.threads):
        return _train(job, digest, device, build)


def _finished(job: TrainingJob, digest: str) -> dict[str, Any] | None:
    """The record of the job's run, where it is complete and all its files are as they were written."""
    try:
        run = read_sealed(job.out / RECORD)
        there = all((job.out / name).is_file() for name in OUTPUTS)
        return run if there and run["job"] == digest and not changed(job.out, run.get("sha256", {})) else None
    except (NotAsWritten, KeyError):
        return None


def _train(job: TrainingJob, digest: str, device: str, build: Build) -> TrainingResult:
    started, out, quiet = time.monotonic(), job.out, not sys.stderr.isatty()
    precision = devices.choose_precision(job.compute.precision, device, training=True)
    for name in (RECORD, *OUTPUTS):
        if (out / name).is_dir():
            raise UserError(
                f"{out / name} is a folder where a file of the run belongs; remove it and run the same command again"
            )
    (out / RECORD).unlink(missing_ok=True)
    bundle = Bundle.load(job, torch.device(device))
    bundle = folds.with_left_out(job, bundle, build)
    mentions, counts = folds.training_mentions(job, bundle)
    head = new_head(job, bundle, mentions, build)
    trainer = Trainer(head, bundle, mentions, job.seed, precision)
    _resume(trainer, out, digest)
    curves = _Curves(out / "tensorboard", trainer.parts, trainer.state.history)
    loaded = time.monotonic()
    best = _train_on(trainer, curves, out, digest, quiet)
    trained = time.monotonic()
    head.load_state_dict(best)
    head.eval()
    evaluation = measure(head, bundle, quiet) if head.config.evaluates else None
    write_tensors(out / "model.safetensors", dict(best), description(job, head, bundle))
    fault_point("run-middle")
    write_predictions(out / "predictions.parquet", evaluation.predictions if evaluation else {"id": np.empty(0, str)})
    write_json(out / "history.json", {"best_epoch": trainer.state.best_epoch, "epochs": trainer.state.history})
    write_json(out / "metrics.json", evaluation.metrics if evaluation else {})
    curves.end(run_options(job), figures_of_test(evaluation.metrics if evaluation else {}))
    fault_point("run-before-end")
    run = {
        "job": digest,
        "method": job.method,
        "config": to_json(head.config),
        "seed": job.seed,
        "device": device,
        "precision": precision,
        "counts": counts,
        "best_epoch": trainer.state.best_epoch,
        "chosen_on_dev": any("dev MRR" in row for row in trainer.state.history),
        "epochs": trainer.state.done,
        "resumed_after": trainer.state.resumed,
        "parameters": head.trainable,
        "gold_forced_in": list(bundle.forced),
        "sha256": checksums(out, OUTPUTS),
        "pairs_per_second": evaluation.pairs_per_second if evaluation else None,
        "seconds": {
            "load": round(loaded - started, 3),
            "train": round(trainer.state.seconds, 3),
            "evaluate": round(time.monotonic() - trained, 3),
        },
    }
    write_sealed(out / RECORD, run)
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    return _result(out, run)


def new_head(job: TrainingJob, bundle: Bundle, mentions: np.ndarray, build: Build = towers.none) -> Head:
    """The head before its first epoch, initialised from the job's seed or from the runs that it goes on from. mentions:
    its training mentions. build: makes the encoders that run live in it."""
    live = build(job)
    torch.manual_seed(job.seed)
    config = load_config(job.method, job.config)
    for name in bundle.classless.intersection(config.class_states):
        raise UserError(
            f"{job.method}: the image encoder has no class token, whose state this configuration reads from {name}; "
            "take another encoder, or the vector that the encoder itself gives (for mimic: image_global: projected)"
        )
    head = make_live_head(job.method, config, bundle.shapes, live)
    head = head.to(bundle.device)
    if config.entity_pictures in ("best", "mean") and bundle.entities.per_picture and not head.reads_several:
        raise UserError(
            f"entity_pictures = {config.entity_pictures!r}: {job.method} scores an entity with one picture; take "
            "'first' or 'random', or derive the head from heads.methods._one_encoder.Sided"
        )
    tuned = {label: run for label, run in job.heads.items() if label == TUNED}  # has gone on from the others itself
    for label, run in sorted((tuned or job.heads).items()):
        if WITHOUT_FOLD in label:
            continue  # what left a fold out is asked for scores alone, see `heads.folds`
        check_run(run.out, "model.safetensors", "history.json")
        history = read_json(run.out / "history.json")
        best = max((row.get("dev MRR", 0.0) for row in history["epochs"]), default=0.0)
        tensors = read_tensors(run.out / "model.safetensors")[0]
        if label == TUNED:
            head.load_state_dict(part(tensors, HEAD))
        else:
            head.start(label, tensors, best)
    head.prepare(*bundle.lists_of(mentions))
    return head


def description(job: TrainingJob, head: Head, bundle: Bundle) -> dict[str, Any]:
    """What a file of weights says of the head that they are of. bundle: what it reads."""
    return {
        "method": job.method,
        "config": naming_options(job.method, to_json(head.config)),  # bytes that options to come leave as they are
        "shapes": bundle.shapes,
        "seed": job.seed,
        "features": {one.place: Store.open(one.store).identity for one in job.inputs},
    }


def _resume(trainer: Trainer, out: Path, digest: str) -> None:
    """Put the trainer where the run's checkpoint stands, if there is one of this job."""
    checkpoint = out / "checkpoint.safetensors"
    if not checkpoint.exists():
        return
    tensors, saved = read_tensors(checkpoint)
    if saved.pop("job") != digest:
        return
    trainer.state, trainer.best = State(**saved), part(tensors, "best.")
    trainer.random, trainer.state.resumed = part(tensors, "random."), trainer.state.done
    trainer.head.load_state_dict(part(tensors, "model."))
    load_optimizer(trainer.optimizer, trainer.parameters, tensors)


def _train_on(trainer: Trainer, curves: "_Curves", out: Path, digest: str, quiet: bool) -> dict[str, torch.Tensor]:
    """Train to the end, with a checkpoint at each measurement of dev. Returns the best weights."""
    checkpoint, head = out / "checkpoint.safetensors", trainer.head
    mentions, done = len(trainer.mentions), round(trainer.state.done * len(trainer.mentions))
    with Bar(trainer.epochs * mentions, "training", "mention", done, quiet) as progress:

        def keep(state: State) -> None:
            row = state.history[-1]
            progress.show(**{name: f"{value:.4f}" for name, value in row.items() if name in ("loss", "dev MRR")})
            fault_point("epoch-before")
            kept = {f"model.{name}": tensor for name, tensor in head.state_dict().items()}
            kept |= {f"best.{name}": tensor for name, tensor in trainer.best.items()}
            kept |= {f"random.{name}": tensor for name, tensor in trainer.random.items()}
            kept |= optimizer_tensors(trainer.optimizer, trainer.parameters)
            write_tensors(checkpoint, kept, {"job": digest, **vars(state)}, seal=True)
            fault_point("epoch-end")
            curves.add(state.history)

        best = trainer.train(keep, progress.update)
    return dict(best)


def run_options(job: TrainingJob) -> dict[str, bool | int | float | str]:
    """What TensorBoard's table shows of a run: method, seed, share of train where it is not all, and the options that
    are not the method's defaults."""
    plain = {
        name: value if isinstance(value, (bool, int, float, str)) else in_words(value)
        for name, (value, _) in settings(job.method, job.config).items()
    }
    fraction = {} if job.train_fraction == 1 else {"train_fraction": job.train_fraction}
    return {"method": job.method, "seed": job.seed, **fraction, **plain}


def figures_of_test(metrics: Metrics) -> dict[str, float]:
    """Figures of the whole test split, named `test/full-kb/H@1`; nothing for a stage that is not evaluated."""
    return {
        f"test/{protocol}/{figure}": float(value)
        for protocol, parts in metrics.get("test", {}).items()
        for figure, value in parts.get("all", {}).items()
        if figure != "n"
    }


def _result(out: Path, run: dict[str, Any]) -> TrainingResult:
    metrics = read_json(out / "metrics.json")
    shown = table(metrics)
    if run["epochs"] and not run.get("chosen_on_dev", True):
        shown += f"\n\ndev has no mention to choose an epoch on: the last of {run['epochs']:g} was taken"
    return TrainingResult(metrics=metrics, table=shown, run=run)


def job_digest(job: TrainingJob) -> str:
    """Hash (hex) of all that the result depends on: configuration, data and the features' identities; not of paths or
    of the device.

    Raises `UserError` for a file that is not there.
    """
    hashed = blake2b(digest_size=16)
    inputs = sorted(job.inputs, key=lambda one: (one.side, one.role, one.view))
    depends = {
        "method": job.method,
        "seed": job.seed,
        "config": naming_options(job.method, to_json(load_config(job.method, job.config))),
        "train_fraction": job.train_fraction,
        **code_digest(job.method),
        "inputs": sorted([one.side, one.role, one.view, Store.open(one.store).identity] for one in inputs),
    }
    hashed.update(json.dumps(depends, sort_keys=True).encode())
    tables = [job.dataset / "mentions.parquet", job.dataset / "entities.parquet"]
    pairs = [path for _, path in sorted(job.pairs.items())]
    heads = [run.out / "model.safetensors" for _, run in sorted(job.heads.items())]
    for path in [*tables, job.candidates, *(one.keys for one in inputs), *pairs, *heads]:
        try:
            hashed.update(blake2b(path.read_bytes()).digest())
        except FileNotFoundError as error:
            raise UserError(
                f"{path}: no such file; run the task that prepares it "
                "(PrepareDataset, BuildCandidates, ExtractFeatures or TrainHead)"
            ) from error
    return hashed.hexdigest()


class _Curves:
    """Learning curves for TensorBoard. A run that continues writes them again from its history, complete.

    A step is a measurement of dev: an epoch, or one of its `parts`. Without the package tensorboard (extra `report`)
    none are written; history.json has the figures.
    """

    def __init__(self, folder: Path, parts: int, history: list[dict[str, Any]]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.writer: Any = None
        self.parts = parts
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder))
        self.rows = 0
        self.add(history)

    def add(self, history: list[dict[str, Any]]) -> None:
        """Add the figures of the measurements that are not there yet."""
        if self.writer is None:
            return
        for row in history[self.rows :]:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name.replace(" ", "/"), value, round(row["epoch"] * self.parts))
        self.rows = len(history)
        self.writer.flush()

    def end(self, options: Mapping[str, bool | int | float | str], figures: Mapping[str, float]) -> None:
        """Add a row of TensorBoard's HPARAMS table, options beside figures, and close the file."""
        if self.writer is None:
            return
        from torch.utils.tensorboard.summary import hparams as summaries

        # `SummaryWriter.add_hparams` would put them into a run of their own
        for summary in summaries(dict(options), dict(figures)):
            self.writer.file_writer.add_summary(summary)
        for name, value in figures.items():
            self.writer.add_scalar(name, value, 0)
        self.writer.close()
