"""A training step of MIMIC with CLIP run live for every batch, beside our step over the cache: `python benchmarks/live_clip.py [--live 8] [--json OUT]`.

CLIP is open_clip's ViT-B/32 with random weights, both towers; pictures are tensors in memory (no decoding), texts are padded to 40 positions as in
MIMIC's release; a third of the pictures are absent on both sides and cost nothing. The head, its loss and AdamW are the same. Two straightforward
ways: `frozen` runs CLIP forward without gradients, `fine-tuned` trains all of it as MIMIC's release does. Their steps are of --live mentions and as
many entities (fine-tuning 256 of each at once takes more memory than a small machine has); their time is linear in mentions and is given for the 128
of our step, which reads its features from the mapped cache. The sides take turns in one process, --repeats times; the ratio is of the fastest of
each.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_kb_scoring import machine, synchronise
from paper_sizes import VOCABULARY, PaperSizes
from torch import Tensor, nn

from heads.base import Batch, Head, Ragged, Rows, make_head
from heads.config import load_config
from heads.data import Bundle
from heads.device import autocast, pick_device, pick_precision
from heads.training import make_optimizer, run_epoch

CONTEXT = 40


class Live(nn.Module):
    """MIMIC behind a CLIP that is run for every batch."""

    def __init__(self, clip: nn.Module, head: Head, frozen: bool) -> None:
        super().__init__()
        self.clip, self.head, self.frozen = clip.requires_grad_(not frozen), head, frozen
        self.states: dict[str, Tensor] = {}
        clip.visual.transformer.register_forward_hook(lambda module, inputs, out: self.states.update(image=out))
        clip.ln_final.register_forward_hook(lambda module, inputs, out: self.states.update(text=out))

    def features(self, ids: Tensor, lengths: Tensor, pixels: Tensor, pictured: Tensor) -> Rows:
        """What the cache would hold: token states, pooled vectors."""
        with torch.set_grad_enabled(not self.frozen and torch.is_grad_enabled()):
            text = self.clip.encode_text(ids)
            seen = self.clip.encode_image(pixels)
        n, place = len(ids), pictured.nonzero().squeeze(1)
        real = (torch.arange(CONTEXT)[None, :] < lengths[:, None]).to(ids.device)
        patches = self.states["image"]
        rows = Rows({"text.ok": torch.ones(n, dtype=torch.bool, device=ids.device), "image.ok": pictured})
        rows |= {"text.tokens": Ragged(self.states["text"][real], lengths), "text.pooled": text}
        for name, values in {"tokens": patches, "pooled": seen}.items():
            rows[f"image.{name}"] = values.new_zeros(n, *values.shape[1:]).index_copy(0, place, values)
        return rows


def inputs(n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token ids padded to `CONTEXT`, lengths, pixels of those with a picture, which have one."""
    lengths = torch.randint(12, CONTEXT + 1, (n,))
    ids = torch.randint(1, VOCABULARY - 2, (n, CONTEXT)) * (torch.arange(CONTEXT)[None, :] < lengths[:, None])
    ids[torch.arange(n), lengths - 1] = VOCABULARY - 1  # the end of the text
    pictured = torch.arange(n) % 3 > 0
    return ids.to(device), lengths, torch.randn(int(pictured.sum()), 3, 224, 224, device=device), pictured.to(device)


def live_step(
    kind: str, head: Head, clip: nn.Module, n: int, device: torch.device, precision: str
) -> Callable[[], None]:
    """A function that takes one step of `n` mentions."""
    clip.positional_embedding = nn.Parameter(clip.positional_embedding.detach()[:CONTEXT].clone())
    clip.attn_mask = clip.attn_mask[:CONTEXT, :CONTEXT].clone()
    model = Live(clip, head, kind == "frozen").to(device).train()
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-5)
    sides = inputs(n, device), inputs(n, device)

    def step() -> None:
        with autocast(device, precision):
            loss, _ = head.loss(
                Batch(model.features(*sides[0]), model.features(*sides[1]), torch.arange(n, device=device))
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Take turns and print the row."""
    import open_clip

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="of ours per turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = pick_device(options.device)
    precision = pick_precision(options.precision, device)
    config = load_config("mimic", {})
    best: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        job = PaperSizes(Path(name), options.rows).job("mimic", {})
        bundle = Bundle.load(job, job["inputs"], device)
        head = make_head("mimic", config, bundle.shapes).to(device)
        _, optimizer = make_optimizer(head, config)
        train = np.arange(options.steps * config.batch_size)
        sides: dict[str, tuple[Callable[[], Any], float]] = {
            kind: (
                live_step(
                    kind,
                    make_head("mimic", config, bundle.shapes),
                    open_clip.create_model("ViT-B-32"),
                    options.live,
                    device,
                    precision,
                ),
                config.batch_size / options.live,
            )
            for kind in ("frozen", "fine-tuned")
        }
        sides["ours"] = (lambda: run_epoch(head, optimizer, bundle, train, config, 0, 1, precision)), 1 / options.steps
        run_epoch(head, optimizer, bundle, train[: 2 * config.batch_size], config, 0, 0, precision)
        for turn in range(options.repeats + (device.type == "cuda")):
            for kind, (step, factor) in sides.items():
                started, busy = time.perf_counter(), time.process_time()
                step()
                synchronise(device)
                took = (time.perf_counter() - started) * factor, (time.process_time() - busy) * factor
                if not turn or took[0] < best[kind][0]:
                    best[kind] = took
    ours = best["ours"]
    print("| CLIP ViT-B/32 | step of 128, s | CPU s | ratio | ratio of CPU s |\n|---|---|---|---|---|")
    for kind, (seconds, busy) in best.items():
        print(f"| {kind} | {seconds:.3f} | {busy:.3f} | {seconds / ours[0]:.0f} × | {busy / ours[1]:.0f} × |")
    print(f"\n{machine(device)}, {precision}; live steps of {options.live} mentions")
    if options.json:
        options.json.write_text(
            json.dumps(
                {"machine": machine(device), "precision": precision, "live": options.live, "steps": best}, indent=1
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
