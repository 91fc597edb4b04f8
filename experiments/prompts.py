"""DSMIP's first stage with a live CLIP: prompts are learned over cached states, then everything is extracted once more with them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cache.identity import Output, identity, weights_hash
from cache.shard import Status
from cache.store import Store
from cache.table import Table
from experiments.contracts import PromptOutputs
from foundation.files import fault_point
from foundation.progress import Bar
from heads.config.dsmip import PROMPTED
from heads.contracts import HeadInput, LiveClip, TrainingJob, TrainingResult
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
    """The frozen blocks, taken from their checkpoint where they are not there: one file for all runs over the same states."""
    from experiments.clip_blocks import export

    if not clip.blocks.exists():
        profile = profiles.load(clip.profile)
        extractor = build(profile.feature(clip.feature), profile.source, clip.demo)
        export(extractor.files, clip.start, clip.blocks)
    return clip.blocks


def extract(job: TrainingJob) -> PromptOutputs:
    """Extract the features with a run's prompts into `cache/` in its folder: only what is not there yet. job: of the run that learned them."""
    from heads.device import pick_device
    from heads.runs import load_head

    assert job.live is not None
    device, out = pick_device(job.compute.device), job.out
    head = load_head(out, device, blocks(job.live))
    learned = weights_hash([out / "model.safetensors"], None)
    inputs: list[HeadInput] = []
    files: list[Path] = []
    rows = {}
    for one in job.inputs:
        kind, side = one.role, one.side
        states = Store.open(one.store)
        with np.load(one.keys, allow_pickle=False) as saved:
            keys = np.ascontiguousarray(saved["keys"])[saved["present"]]
        keys = np.unique(keys.view("V16")).view(np.uint8).reshape(-1, 16)
        spec = spec_of(head, kind, side, learned, states.identity)
        store = Store.create(out / "cache", PROMPTED[kind], spec)
        rows[f"{side} {PROMPTED[kind]}"] = fill(store, keys, head, kind, side, states, device)
        files += store.files_for(keys)
        inputs.append(
            HeadInput(
                side=side,
                role=PROMPTED[kind],
                feature=PROMPTED[kind],
                view=one.view,
                outputs=tuple(output["name"] for output in spec["outputs"]),
                store=store.folder,
                keys=one.keys,
                identity=identity(spec),
            )
        )
    return PromptOutputs(inputs=tuple(inputs), files=tuple(files), run={"device": str(device), "rows": rows})


def spec_of(head: Any, kind: str, side: str, learned: str, states: str) -> dict[str, Any]:
    """What a side's prompted texts or pictures are. learned: hash of the run's weights; states: identity of what they start from."""
    return {
        "extractor": PROMPTED[kind],
        "version": VERSION,
        "side": side,
        "prompts": learned,
        "reads": [states],
        "outputs": [output.to_json() for output in _outputs(head, kind)],
    }


def fill(store: Store, keys: np.ndarray, head: Any, kind: str, side: str, states: Store, device: Any) -> int:
    """Add the rows of the distinct `keys` (n, 16) that `store` lacks; returns how many. states: what they start from, which holds these keys."""
    import torch

    missing = keys[store.missing(keys)]
    with Bar(len(missing), f"{side} {PROMPTED[kind]}", "row") as bar:
        for start in range(0, len(missing), SHARD_ROWS):
            part = missing[start : start + SHARD_ROWS]
            with torch.inference_mode():
                _add(
                    store,
                    part,
                    head,
                    kind,
                    side,
                    Table(states, next(iter(states.outputs)), part, np.ones(len(part), bool)),
                    device,
                )
            bar.update(len(part))
            fault_point("prompted-shard")
    return len(missing)


def _outputs(head: Any, kind: str) -> list[Output]:
    tower, drawn = (head.text, True) if kind == "text" else (head.image, False)
    shape = (tower.width,) if drawn else (head.config.prompt_length + head.shapes["image.states"][0], tower.width)
    return [Output("tokens", shape, ragged=drawn), Output("pooled", (tower.projected,))]


def _add(store: Store, keys: np.ndarray, head: Any, kind: str, side: str, table: Table, device: Any) -> None:
    """One shard: the rows of `keys`, with the verdicts that the states they start from have."""
    columns: dict[str, Any] = {
        name: [None] * len(keys) if output.ragged else np.zeros((len(keys), *output.shape), output.dtype)
        for name, output in store.outputs.items()
    }
    for at, made in _batches(head, kind, side, table, device):
        for name, values in made.items():
            for row, value in zip(at.tolist(), values, strict=True):
                columns[name][row] = value
    status = np.where(table.ok, Status.OK, table.status).astype(np.uint8)
    empty = np.zeros((0, *store.outputs["tokens"].shape), np.float16)
    columns["tokens"] = (
        [empty if row is None else row for row in columns["tokens"]]
        if store.outputs["tokens"].ragged
        else columns["tokens"]
    )
    store.add(keys, status, ["" if code == Status.OK else "as the states it starts from" for code in status], columns)


def _batches(
    head: Any, kind: str, side: str, table: Table, device: Any
) -> Iterator[tuple[np.ndarray, dict[str, list[np.ndarray]]]]:
    """Positions and rows, of similar length together."""
    import torch

    from heads.base import Ragged, Rows

    usable = np.flatnonzero(table.ok)
    order = usable[np.argsort(table.lengths[usable], kind="stable")]
    for start in range(0, len(order), BATCH):
        at = order[start : start + BATCH]
        ok = torch.ones(len(at), dtype=torch.bool, device=device)
        if kind == "image":
            made = head.prompted_image(
                Rows({"image.ok": ok, "image.states": torch.from_numpy(table.gather(at)).to(device)}), side
            )
            yield at, {name: list(rows.float().cpu().numpy()) for name, rows in made.items()}
            continue
        values, lengths = table.ragged_flat(at)
        cached = Ragged(torch.from_numpy(values).to(device), torch.from_numpy(lengths))
        made = head.prompted_text(Rows({"text.ok": ok, f"text.{table.output}": cached}), side)
        tokens = made["tokens"]
        yield (
            at,
            {
                "tokens": list(np.split(tokens.values.float().cpu().numpy(), tokens.lengths.cumsum(0)[:-1].numpy())),
                "pooled": list(made["pooled"].float().cpu().numpy()),
            },
        )
