"""A training step of MIMIC with CLIP run live for every batch, beside ours over the cache: `python
benchmarks/live_clip.py`.

CLIP is open_clip's ViT-B/32 with random weights, both towers; pictures are tensors in memory (no decoding), texts are
padded to 40 positions as in MIMIC's release; a third of the pictures are absent on both sides and cost nothing. The
head, its loss and AdamW are the same. Two straightforward ways: `frozen` runs CLIP forward without gradients,
`fine-tuned` trains all of it as MIMIC's release does. Their steps are of --live mentions and as many entities
(fine-tuning 256 of each at once takes more memory than a small machine has); their time is linear in mentions and is
given for the 128 of our step, which reads its features from the mapped cache. The sides take turns in one process,
--repeats times; the ratio is of the fastest of each.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import machine, now, synchronise
from paper_sizes import VOCABULARY, PaperSizes
from torch import Tensor, nn

from foundation import device as devices
from heads.base import Batch, Head, Ragged, Rows, make_head
from heads.config import load_config
from heads.contracts import Compute
from heads.data import Bundle
from heads.loop import Trainer

CONTEXT = 40


class Live(nn.Module):
    """MIMIC behind a CLIP that is run for every batch."""

    def __init__(self, clip: Any, head: Head, frozen: bool) -> None:
        """clip: of open_clip."""
        super().__init__()
        self.clip, self.head, self.frozen = clip.requires_grad_(not frozen), head, frozen
        self.states: dict[str, Tensor] = {}
        clip.visual.transformer.register_forward_hook(lambda module, inputs, out: self.states.update(image=out))
        clip.ln_final.register_forward_hook(lambda module, inputs, out: self.states.update(text=out))

    def features(self, ids: Tensor, lengths: Tensor, pixels: Tensor, pictured: Tensor) -> Rows:
        """What the cache would hold: token states, pooled vectors."""
        with torch.set_grad_enabled(not self.frozen and torch.is_grad_enabled()):
            text = self.clip.encode_text(ids)
            picture = self.clip.encode_image(pixels)
        n, place = len(ids), pictured.nonzero().squeeze(1)
        real = (torch.arange(CONTEXT)[None, :] < lengths[:, None]).to(ids.device)
        patches = self.states["image"]
        rows = Rows({"text.ok": torch.ones(n, dtype=torch.bool, device=ids.device), "image.ok": pictured})
        rows |= {"text.tokens": Ragged(self.states["text"][real], lengths), "text.pooled": text}
        for name, values in {"tokens": patches, "pooled": picture}.items():
            rows[f"image.{name}"] = values.new_zeros(n, *values.shape[1:]).index_copy(0, place, values)
        return rows


def inputs(n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token ids padded to `CONTEXT`, lengths, pixels of those with a picture, which have one."""
    lengths = torch.randint(12, CONTEXT + 1, (n,))
    ids = torch.randint(1, VOCABULARY - 2, (n, CONTEXT)) * (torch.arange(CONTEXT)[None, :] < lengths[:, None])
    ids[torch.arange(n), lengths - 1] = VOCABULARY - 1  # the end of the text
    pictured = torch.arange(n) % 3 > 0
    return ids.to(device), lengths, torch.randn(int(pictured.sum()), 3, 224, 224, device=device), pictured.to(device)


def live_step(model: Live, n: int, device: torch.device, precision: str) -> Callable[[], None]:
    """A function that takes one step of `n` mentions."""
    clip = model.clip
    clip.positional_embedding = nn.Parameter(clip.positional_embedding.detach()[:CONTEXT].clone())
    clip.attn_mask = clip.attn_mask[:CONTEXT, :CONTEXT].clone()
    clip.positional_embedding.requires_grad_(not model.frozen)
    model.to(device).train()
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-5)
    sides = inputs(n, device), inputs(n, device)

    def step() -> None:
        with devices.autocast(device.type, precision):
            loss, _ = model.head.loss(
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
    device = torch.device(devices.choose(options.device))
    precision = devices.choose_precision(options.precision, device.type, training=True)
    config = load_config("mimic", {})
    best: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        bundle = Bundle.load(PaperSizes(Path(name), options.rows).job("mimic", {}, Compute()), device)
        trainer = Trainer(make_head("mimic", config, bundle.shapes).to(device), bundle, np.arange(0), 0, precision)
        live = {
            kind: Live(open_clip.create_model("ViT-B-32"), make_head("mimic", config, bundle.shapes), kind == "frozen")
            for kind in ("frozen", "fine-tuned")
        }
        sides: dict[str, tuple[Callable[[], Any], float]] = {
            kind: (live_step(model, options.live, device, precision), config.batch_size / options.live)
            for kind, model in live.items()
        }
        sides["ours"] = (lambda: trainer.run_epoch(1)), 1 / options.steps
        trainer.mentions = np.arange(2 * config.batch_size)
        trainer.run_epoch(0)
        trainer.mentions = np.arange(options.steps * config.batch_size)
        for turn in range(options.repeats + (device.type == "cuda")):
            for kind, (step, factor) in sides.items():
                started = now()
                step()
                synchronise(device)
                seconds, busy = (now() - started) * factor
                if not turn or seconds < best[kind][0]:
                    best[kind] = seconds, busy
    ours = best["ours"]
    print("| CLIP ViT-B/32 | step of 128, s | CPU s | ratio | ratio of CPU s |\n|---|---|---|---|---|")
    for kind, (seconds, busy) in best.items():
        print(f"| {kind} | {seconds:.3f} | {busy:.3f} | {seconds / ours[0]:.0f} × | {busy / ours[1]:.0f} × |")
    print(f"\n{machine(device)}, {precision}; live steps of {options.live} mentions")
    if options.json:
        result = {"machine": machine(device), "precision": precision, "live": options.live, "steps": best}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
