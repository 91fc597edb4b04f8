"""Time and memory of every head at the papers' sizes: `python benchmarks/head_costs.py [--heads mimic,dwe]`.

Features as in `paper_sizes.py`, read as the commands read them: mapped, or resident on the GPU where they fit. Each row
is a process of its own:

epochs   `heads.loop.Trainer.run_epoch` over the first --steps steps of an epoch after three to warm up; an epoch of
         18,092 mentions is that many times as long (--steps 0: a whole epoch is run). Memory is what training adds to
         the loaded process at its peak (anonymous, mapped shards are not counted; on a GPU, what torch allocated beside
         the resident features), and the size of the features it reads, all records counted.
full KB  `heads.scoring.Scoring.kb` of the 5,169 test mentions against the first --kb entities (0: all 109,976); the
         whole is extrapolated: encoding the mentions once, then time linear in entities.

`dsmip prompts` runs open_clip's ViT-B/32 of random weights live. About 5 minutes on 2 idle cores. `--heads ''` leaves
epochs out, `--kb -1` scoring.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import PeakMemory, machine, now, synchronise
from paper_sizes import CANDIDATES, ENTITIES, SPLITS, PaperSizes, full_bytes
from torch import nn

from foundation import device as devices
from foundation.contracts import contract, from_json, to_json
from heads.base import Head, make_head
from heads.config import load_config
from heads.contracts import Compute, TrainingJob
from heads.data import Bundle
from heads.loop import Trainer
from heads.scoring import Scoring, encode
from pipeline.extraction.base import Options
from pipeline.extractors import clip_text
from pipeline.extractors.clip_image import ClipImage
from pipeline.models.adapt import Tower
from pipeline.models.files import ModelFiles
from pipeline.models.live import Live

HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "drin": ("drin", {}),
    "mimic": ("mimic", {}),
    "dwe": ("dwe", {}),
    "dsmip text": ("dsmip", {"stage": "text"}),
    "dsmip visual": ("dsmip", {"stage": "visual"}),
    "dsmip prompts": ("dsmip", {"stage": "prompts"}),
    "dsmip": ("dsmip", {}),
    **{name: (name, {}) for name in ("bert", "clip", "clip_text", "jmel", "dzmned", "melhi", "ghmfc")},
}
FULL_KB = ("mimic", "dwe", "dsmip")
WARM = 3
LIVE_ON_CPU = {"steps": 1, "batch_size": 8}
"""The stage that runs CLIP's blocks live: steps and mentions per step on a CPU; its time is linear in mentions."""


@contract
class Measurement:
    """One row. job: head and data. steps: of an epoch, 0 for all. warm: steps before. kb: entities, 0 for all."""

    job: TrainingJob
    steps: int = 0
    warm: int = 0
    kb: int | None = None


def clip_towers(folder: Path) -> dict[str, nn.Module]:
    """The towers of open_clip's ViT-B/32 of random weights, as the stage that learns prompts runs them. folder: of its
    configuration."""
    import open_clip

    config = {"model_cfg": open_clip.get_model_config("ViT-B-32"), "preprocess_cfg": {"size": 224}}
    model, towers = open_clip.create_model("ViT-B-32").eval(), {}
    extractors: dict[str, tuple[Any, Any]] = {
        "text": (clip_text.ClipText, clip_text.Options(model="ViT-B-32")),
        "image": (ClipImage, Options(model="ViT-B-32")),
    }
    for kind, (extractor, options) in extractors.items():
        encoder: Any = extractor(options, ModelFiles("ViT-B-32", folder, "open_clip", config, (), ()))
        encoder.model, encoder.device = model, "cpu"
        live = Live(encoder, 0).requires_grad_(False)
        live.check_prompts()
        towers[kind] = Tower(live)
    return dict(towers)


def measure(wanted: Measurement) -> dict[str, Any]:
    """The row of a measurement."""
    torch.manual_seed(0)
    job = wanted.job
    device = torch.device(devices.choose(job.compute.device))
    config, bundle = load_config(job.method, job.config), Bundle.load(job, device)
    towers = clip_towers(job.out) if config.stays_live else {}
    head = make_head(job.method, config, bundle.shapes, towers).to(device)
    columns: list[Any] = [*bundle.mentions.columns.values(), *bundle.entities.columns.values()]
    row = {
        "machine": machine(device),
        "feature_bytes": full_bytes(columns),
        "resident": all(getattr(column, "column", column).resident is not None for column in columns),
    }
    return row | (_epoch(wanted, head, bundle) if wanted.kb is None else _full_kb(wanted.kb, head.eval(), bundle))


def _epoch(wanted: Measurement, head: Head, bundle: Bundle) -> dict[str, Any]:
    train, size = np.flatnonzero(bundle.table["split"] == "train"), head.config.batch_size
    precision = devices.choose_precision(wanted.job.compute.precision, bundle.device.type, training=True)
    trainer = Trainer(head, bundle, train, 0, precision)
    whole = -(-len(train) // size)
    steps = min(wanted.steps or whole, whole)
    with PeakMemory(bundle.device) as memory:
        if wanted.warm:
            trainer.mentions = train[: wanted.warm * size]
            trainer.run_epoch(0)
        synchronise(bundle.device)
        trainer.mentions, started = train[: steps * size], now()
        trainer.run_epoch(1)
        synchronise(bundle.device)
        seconds, busy = now() - started
    return {
        "batch": size,
        "precision": precision,
        "steps": steps,
        "step": seconds / steps,
        "cpu_step": busy / steps,
        "epoch": seconds / steps * len(train) / size if steps < whole else seconds,
        "peak": memory.peak - memory.before,
        "parameters": head.trainable,
    }


def _full_kb(n: int, head: Head, bundle: Bundle) -> dict[str, Any]:
    index, whole = np.flatnonzero(bundle.table["split"] == "test"), len(bundle.entity_ids)
    n = n or whole
    some = replace(bundle.entities, count=n)
    Scoring(head, bundle.mentions, replace(some, count=min(n, 256))).kb(index[:64])
    synchronise(bundle.device)
    with PeakMemory(bundle.device) as memory:
        started = now()
        with torch.no_grad():
            encode(head.encode_mentions, bundle.mentions, index)
        synchronise(bundle.device)
        once = now() - started
        Scoring(head, bundle.mentions, some).kb(index)
        synchronise(bundle.device)
        seconds, busy = now() - started - once
    return {
        "entities": n,
        "seconds": seconds,
        "cpu_seconds": busy,
        "pairs_per_s": len(index) * n / seconds,
        "whole": once[0] + (seconds - once[0]) * whole / n,
        "peak": memory.peak - memory.before,
    }


def in_own_process(wanted: Measurement, folder: Path) -> dict[str, Any]:
    """The row, measured in a process of its own."""
    path = folder / "measurement.json"
    path.write_text(json.dumps(to_json(wanted)))
    done = subprocess.run([sys.executable, __file__, "--one", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{wanted.job.method}: {done.stderr[-2000:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def training_row(label: str, options: argparse.Namespace, data: PaperSizes, compute: Compute) -> dict[str, Any]:
    """A row of the first table."""
    method, params = HEADS[label]
    steps, warm = options.steps, WARM
    if label == "dsmip prompts" and options.device == "cpu":
        params, steps, warm = {**params, "batch_size": LIVE_ON_CPU["batch_size"]}, LIVE_ON_CPU["steps"], 0
    wanted = Measurement(job=data.job(method, params, compute), steps=steps, warm=warm)
    return {"head": label, **in_own_process(wanted, data.folder)}


def table(header: str) -> None:
    """Print a Markdown header."""
    print(f"\n{header}\n{'|---' * header.count(' | ')}|---|", flush=True)


def printed(row: Mapping[str, Any], splits: Mapping[str, int]) -> str:
    """A row as Markdown."""
    if "steps" in row:
        features = f"{row['feature_bytes'] / 1e9:.2f} GB{' resident' if row['resident'] else ''}"
        return (
            f"| {row['head']} | {row['batch']} | {row['steps']} | {row['step']:.3f} | {row['cpu_step']:.3f} | "
            f"{row['epoch']:.1f} | {row['peak'] / 1e6:,.0f} MB | {features} | {row['parameters']:,} |"
        )
    return (
        f"| {row['head']} | {splits['test']:,} × {row['entities']:,} | {row['seconds']:.1f} | "
        f"{row['cpu_seconds']:.1f} | {row['pairs_per_s']:,.0f} | {row['whole']:.0f} | {row['peak'] / 1e6:,.0f} MB |"
    )


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default=",".join(HEADS), help="rows of the first table")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--kb", type=int, default=1024)
    parser.add_argument("--full-kb", default=",".join(FULL_KB), help="rows of the second table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--tiny", action="store_true", help="a small set, to try the command")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        wanted = from_json(Measurement, json.loads(options.one.read_text()))
        with devices.repeatable(wanted.job.compute.threads):
            print(json.dumps(measure(wanted)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        splits = {"train": 300, "dev": 20, "test": 50} if options.tiny else SPLITS
        rows_of, entities = (300, 2000) if options.tiny else (options.rows, ENTITIES)
        data = PaperSizes(Path(name), rows_of, entities, splits)
        compute = Compute(device=options.device, threads=options.threads, precision=options.precision)
        print(f"load {os.getloadavg()[0]:.1f}")
        table("| head | mentions a step | steps | s/step | CPU s/step | s/epoch | training adds | features | trained |")
        for label in filter(None, options.heads.split(",")):
            rows.append(training_row(label, options, data, compute))
            print(printed(rows[-1], splits), flush=True)
        if options.kb >= 0:
            table(f"| head | pairs | s | CPU s | pairs/s | all {splits['test']:,} × {data.entities:,}, s | adds |")
            for label in filter(None, options.full_kb.split(",")):
                wanted = Measurement(job=data.job(*HEADS[label], compute), kb=options.kb)
                rows.append({"head": label, **in_own_process(wanted, data.folder)})
                print(printed(rows[-1], splits), flush=True)
    machines = "; ".join(sorted({row["machine"] for row in rows}))
    print(f"\n{machines}, {options.precision}, lists of {CANDIDATES}; load {os.getloadavg()[0]:.1f}")
    if options.json:
        settings = {**vars(options), "folder": None, "json": None}
        tables = {
            "epochs": [row for row in rows if "steps" in row],
            "full_kb": [row for row in rows if "entities" in row],
        }
        options.json.write_text(json.dumps({"options": settings, **tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
