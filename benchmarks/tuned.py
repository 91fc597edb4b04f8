"""What a training step costs against the cut and the way of tuning, beside fine-tuning the whole encoder live:
`python benchmarks/tuned.py`.

The encoder is the profile's text encoder (MiniLM: 6 blocks, width 384), the loss a cross-entropy within the batch over
pooled vectors. A step is `--texts` texts forward, backward and AdamW. `live` tokenises the texts, and trains the whole
encoder, embeddings too; the others read the cached states of the texts from a mapped file (fp16) and train the blocks
above the cut. All take turns in one process on one thread, `--repeats` times after a round that is not counted; seconds
are CPU seconds, the fastest of each. Memory is what autograd keeps for the backward pass. The last table sets a pair of
`joint` beside a full cross-encoder's: states of mention and entity laid end to end through the blocks above the cut,
against the tokens of both through all blocks; no gradients, pairs as in a list of 16 candidates for each mention.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _measure import machine
from torch import Tensor, nn

from foundation.tables import as_text, text_table
from pipeline.extractors import build
from pipeline.models import towers
from pipeline.models.adapt import Tower, adapt
from pipeline.models.live import Live
from pipeline.profiles import profile as profiles

WORDS = ("the", "city", "of", "Powers", "was", "seen", "with", "a", "singer", "Harrison", "in", "nineteen", "sixty")
LIST = 16
"""Candidates that a mention's pairs share its text with."""


def encoder(profile: str, feature: str) -> Any:
    """The feature's extractor, loaded anew."""
    chosen = profiles.load(profile)
    made = build(chosen.feature(feature), chosen.source, None)
    made.load("cpu")
    return made


def texts(count: int, random: np.random.Generator) -> list[str]:
    """Texts of 8 to 48 words."""
    return [" ".join(random.choice(WORDS, random.integers(8, 49))) for _ in range(count)]


class Cached:
    """States of texts in a mapped file, as a store has them. rows: (L, d) each."""

    def __init__(self, rows: list[np.ndarray], folder: Path) -> None:
        self.lengths = [len(row) for row in rows]
        path = folder / f"{len(list(folder.iterdir()))}.npy"
        np.save(path, np.concatenate(rows).astype(np.float16))
        self.values = np.load(path, mmap_mode="r")
        self.ends = np.cumsum(self.lengths)

    def padded(self, index: list[int]) -> tuple[Tensor, list[int]]:
        """(b, L, d) float32, zeros past each row's end, and lengths."""
        rows = [torch.from_numpy(self.values[self.ends[at] - self.lengths[at] : self.ends[at]].copy()) for at in index]
        lengths = [self.lengths[at] for at in index]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True).float(), lengths

    @property
    def bytes_each(self) -> float:
        """Bytes of a text."""
        return self.values.nbytes / len(self.lengths)


def loss_of(pooled: Tensor) -> Tensor:
    """Cross-entropy of the first half of a batch with the second."""
    first, second = F.normalize(pooled, dim=-1).chunk(2)
    return F.cross_entropy(first @ second.T / 0.05, torch.arange(len(first)))


def stepper(pooled: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Callable[[], None]:
    """A training step."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(pooled()).backward()
        optimizer.step()

    return step


def pooled_of(tower: Tower, states: Cached) -> Tensor:
    """Of all texts, through the blocks above the cut."""
    return tower(*states.padded(list(range(len(states.lengths)))))["pooled"]


def kept(step: Callable[[], Any]) -> int:
    """Bytes that autograd keeps during a step, parameters aside."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(held.values())


def fastest(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """CPU seconds of each, taking turns; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, run in sides.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    return {name: min(each[1:]) for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="minilm")
    parser.add_argument("--feature", default="text_tokens")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hows", default="lora,whole,norms", help="empty: the pairs alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        measure(options, texts(options.texts, np.random.default_rng(0)), Path(folder))


def measure(options: argparse.Namespace, batch: list[str], folder: Path) -> None:
    """Print both tables. folder: where states are written."""
    whole = encoder(options.profile, options.feature)
    count = len(towers.blocks(whole))
    cached = {}
    for block in range(count):
        with torch.no_grad():
            inputs, lengths = whole.inputs(batch)
            states = towers.entering(whole, block, inputs)
        cached[block] = Cached([row[:length].numpy() for row, length in zip(states, lengths, strict=True)], folder)
    steps: dict[str, Callable[[], Any]] = {}
    parameters: dict[str, int] = {}
    for block in range(count):
        for how in filter(None, options.hows.split(",")):
            live = Live(encoder(options.profile, options.feature), block)
            adapt(live, how)
            tower = Tower(live).train()
            name = f"k = {block}, {how}"
            steps[name] = stepper(partial(pooled_of, tower, cached[block]), list(tower.parameters()))
            parameters[name] = sum(parameter.numel() for parameter in tower.parameters())
    if steps:
        whole.model.train().requires_grad_(True)
        used = [parameter for name, parameter in whole.model.named_parameters() if "pooler" not in name]
        steps["live, whole encoder"] = stepper(lambda: whole.read(whole.inputs(batch)[0])["pooled"], used)
        parameters["live, whole encoder"] = sum(parameter.numel() for parameter in used)
        memory = {name: kept(step) for name, step in steps.items()}
        seconds = fastest(steps, options.repeats)
        full = seconds["live, whole encoder"]
        rows = [
            [
                name,
                f"{parameters[name]:,}",
                f"{cached[int(name[4])].bytes_each / 1000:.1f}" if name.startswith("k") else "–",
                f"{seconds[name]:.2f}",
                f"{seconds[name] / full:.2f}",
                f"{memory[name] / 1e6:.0f}",
            ]
            for name in steps
        ]
        header = ["", "trainable", "kB cached a text", "CPU s a step", "of live", "MB for the backward pass"]
        print(as_text(text_table(header, rows, f"A step of {len(batch)} texts, {count} blocks")))
        print()
    print(as_text(pairs(options, batch, cached)))
    print(machine())


def pairs(options: argparse.Namespace, batch: list[str], cached: dict[int, Cached]) -> Any:
    """The cost of a pair through the blocks above each cut, reading included."""
    couples = [(at // LIST, at % len(batch)) for at in range(len(batch))]
    whole = encoder(options.profile, options.feature)

    @torch.no_grad()
    def full() -> None:
        whole.read(whole.inputs([f"{batch[first]} {batch[second]}" for first, second in couples])[0])

    def joint(block: int) -> Callable[[], None]:
        live = Live(encoder(options.profile, options.feature), block).eval()

        @torch.no_grad()
        def run() -> None:
            states = cached[block]
            sides = [states.padded([pair[side] for pair in couples]) for side in (0, 1)]
            rows = [
                torch.cat([mention[:length], entity[:behind]])
                for mention, length, entity, behind in zip(
                    sides[0][0], sides[0][1], sides[1][0], sides[1][1], strict=True
                )
            ]
            live(nn.utils.rnn.pad_sequence(rows, batch_first=True), [len(row) for row in rows])

        return run

    runs: dict[str, Callable[[], Any]] = {f"k = {block}": joint(block) for block in cached}
    runs["full cross-encoder"] = full
    seconds = fastest(runs, options.repeats)
    rows = [
        [name, f"{1000 * value / len(couples):.2f}", f"{value / seconds['full cross-encoder']:.2f}"]
        for name, value in seconds.items()
    ]
    return text_table(["", "CPU ms a pair", "of the full one's"], rows, "A pair, inference")


if __name__ == "__main__":
    main()
