"""Full-KB scoring with MIMIC: pairs per second of `heads.scoring` against the straightforward form, on the same input.

    python benchmarks/full_kb_scoring.py [--entities 20000] [--mentions 512] [--threads 2] [--device cpu] [--json OUT]

Synthetic features of CLIP ViT-B/32's sizes: texts of 12 to 40 tokens (mean about 27) 512 wide, 50 image states 768
wide, a third of the pictures absent. Prints a Markdown table row; ends with an error where the two disagree by more
than 1e-4. On a CPU, rates are pairs per second of CPU time, times the threads: other work on the cores does not change
them.

The bound is what the arithmetic of a pair would take if nothing else took time: its multiply-adds at the rate of this
machine's matrix products and its exponentials at the rate of `exp`, both measured in the same run. Of a pair with texts
of m and n tokens these are m·n·d for Q·K, m·n for the mean of the weights, n·d for the context, the inner products of
the other units, and m·n exponentials.

The straightforward form follows the paper's equations as the released code computes them: mentions in batches of 20,
the KB's projected features in chunks, every text padded to 40 positions, and everything behind the features
(LayerNorms, Q, K, V, fusion) computed anew for each pair of batch and chunk. It has the masks of our defaults, so that
scores can be compared, and a chunk size that is the fastest of several.
"""

import argparse
import json
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _measure import machine, synchronise
from torch import Tensor

from heads.base import Ragged, Rows
from heads.config.mimic import MimicConfig
from heads.data import Side
from heads.methods._mimic_units import DualA2B
from heads.methods.mimic import Mimic
from heads.scoring import Scoring

SHAPES = {"text.tokens": (512,), "text.pooled": (512,), "image.tokens": (50, 768), "image.pooled": (512,)}
LENGTH = 40
BATCH = 20


class Memory(Side):
    """A side whose features are in memory, in half precision as the cache keeps them."""

    def __init__(self, n: int, seed: int, device: torch.device) -> None:
        super().__init__(n, device)
        random = np.random.default_rng(seed)
        lengths = torch.from_numpy(np.clip(random.normal(27, 7, n).round(), 12, LENGTH).astype(np.int64))
        generator = torch.Generator(device).manual_seed(seed)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device).half()

        self.features = Rows(
            {
                "text.ok": torch.ones(n, dtype=torch.bool, device=device),
                "image.ok": torch.from_numpy(random.random(n) > 1 / 3).to(device),
            }
        )
        self.features["text.tokens"] = Ragged(noise(int(lengths.sum()), 512), lengths)
        self.features["text.pooled"], self.features["image.pooled"] = noise(n, 512), noise(n, 512)
        self.features["image.tokens"] = torch.cat([noise(min(1000, n - start), 50, 768) for start in range(0, n, 1000)])

    def rows(self, index: np.ndarray, random: np.random.Generator | None = None) -> Rows:
        return self.features.take(torch.from_numpy(index))


def projected(head: Mimic, inputs: Rows) -> dict[str, Tensor]:
    """What the released code keeps of a record: padded text features and projected image states (its encoder's
    output).
    """
    tokens, present = inputs["text.tokens"], dense(inputs, "image.ok")
    assert isinstance(tokens, Ragged)
    return {
        "text": dense(inputs, "text.pooled").float(),
        "tokens": tokens.padded(torch.arange(len(tokens.lengths)), LENGTH).float(),
        "real": (torch.arange(LENGTH) < tokens.lengths[:, None]).to(present.device),
        "vector": head.image_global(dense(inputs, "image.pooled").float()),
        "states": head.image_local(dense(inputs, "image.tokens").float()),
        "present": present,
    }


def dense(rows: Rows, name: str) -> Tensor:
    """A column that is not ragged."""
    column = rows[name]
    assert isinstance(column, Tensor)
    return column


def straightforward_tglu(head: Mimic, entity: dict[str, Tensor], mention: dict[str, Tensor]) -> Tensor:
    """Eq. 8 to 10 as written; (B, N)."""
    unit = head.tglu
    entity_text, mention_text = head.text_global_norm(entity["text"]), head.text_global_norm(mention["text"])
    entity_tokens, mention_tokens = head.text_local_norm(entity["tokens"]), head.text_local_norm(mention["tokens"])
    query, key, value = (
        unit.query(entity_tokens)[:, None],
        unit.key(mention_tokens)[None],
        unit.value(mention_tokens)[None],
    )
    weights = query @ key.transpose(-1, -2) / unit.scale  # (N, B, 40, 40)
    weights = weights.masked_fill(~mention["real"][None, :, None, :], float("-inf")).softmax(-1)
    real = entity["real"][:, None, :, None]
    context = ((weights @ value) * real).sum(2) / real.sum(2)  # (N, B, d)
    global_local = (unit.projection(entity_text)[:, None] * unit.norm(context)).sum(-1)
    return (global_local.T + mention_text @ entity_text.T) / 2


class Visual(NamedTuple):
    """One side's pictures. vector: (n, d). states: (n, 50, d). present: (n,) bool."""

    vector: Tensor
    states: Tensor
    present: Tensor


def straightforward_dual(unit: DualA2B, query: Tensor, visual: Visual, absent: Tensor) -> Tensor:
    """Eq. 12 to 14 as written; (queries, values)."""
    pooled = torch.where(visual.present[:, None], visual.states.mean(1), absent)
    fused = unit.fusion(unit.sum_norm(pooled[None] + query[:, None]))
    gate = torch.tanh(unit.gate(fused))
    return (unit.norm(gate * fused + visual.vector[None]) * query[:, None]).sum(-1)


def straightforward_fuse(head: Mimic, side: dict[str, Tensor]) -> Tensor:
    """Eq. 15 to 18 as written; (n, d_c)."""
    unit = head.cmfu
    text, states = unit.text(head.text_global_norm(side["text"])), unit.image(head.image_local_norm(side["states"]))
    context = ((states @ text[:, :, None]).softmax(1) * states).sum(1)
    context = torch.where(side["present"][:, None], context, unit.image(head.absent_image))
    return unit.norm(torch.tanh(unit.gate(text)) * text + context)


def straightforward(head: Mimic, entity: dict[str, Tensor], mention: dict[str, Tensor]) -> Tensor:
    """Eq. 4 to 7 for a chunk of entities and a batch of mentions; (B, N)."""
    sides = {}
    for name, side in (("entity", entity), ("mention", mention)):
        vector = torch.where(side["present"][:, None], head.image_global_norm(side["vector"]), head.absent_image)
        sides[name] = Visual(vector, head.image_local_norm(side["states"]), side["present"])
    units, absent = head.vdlu, head.absent_image
    to_mention = straightforward_dual(units.entity_to_mention, sides["entity"].vector, sides["mention"], absent).T
    to_entity = straightforward_dual(units.mention_to_entity, sides["mention"].vector, sides["entity"], absent)
    fused = straightforward_fuse(head, mention) @ straightforward_fuse(head, entity).T
    return (straightforward_tglu(head, entity, mention) + (to_mention + to_entity) / 2 + fused) / 3


@torch.no_grad()
def time_straightforward(head: Mimic, sides: tuple[Memory, Memory], chunk: int, batches: int) -> tuple[float, Tensor]:
    """Pairs per second over `batches` batches of mentions and all entities, and the scores (B, N)."""
    (mentions, entities), n = sides, sides[1].count
    kept = [projected(head, entities.rows(np.arange(start, min(start + chunk, n)))) for start in range(0, n, chunk)]
    starts = range(0, batches * BATCH, BATCH)
    queries = [projected(head, mentions.rows(np.arange(start, start + BATCH))) for start in starts]
    synchronise(entities.device)
    started = now(entities.device)
    scores = torch.cat([torch.cat([straightforward(head, part, batch) for part in kept], 1) for batch in queries])
    synchronise(entities.device)
    return scores.numel() / (now(entities.device) - started), scores


def now(device: torch.device) -> float:
    """A clock: of a CPU, its seconds by thread."""
    return time.process_time() / torch.get_num_threads() if device.type == "cpu" else time.perf_counter()


def rate(work: float, run: Callable[[], object], device: torch.device, times: int = 20) -> float:
    """Units of work per second, in the fastest of three runs."""
    run()
    fastest = float("inf")
    for _ in range(3):
        synchronise(device)
        started = now(device)
        for _ in range(times):
            run()
        synchronise(device)
        fastest = min(fastest, now(device) - started)
    return times * work / fastest


def bound(head: Mimic, mentions: Memory, entities: Memory) -> float:
    """Pairs per second if a pair's multiply-adds and exponentials were all that takes time."""
    width, vectors = head.config.d_t, head.config.d_v
    m, n = (float(side.features.ragged("text.tokens").lengths.double().mean()) for side in (entities, mentions))
    others = SHAPES["text.pooled"][0] + 2 * 5 * vectors + head.config.d_c
    products, exponentials = m * n * (width + 1) + n * width + others, m * n
    device = entities.device
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waiting threads spin, which would count as work
    left, right = torch.randn(4096, width, device=device), torch.randn(width, 1728, device=device)
    values, out = torch.randn(1 << 18, device=device), torch.empty(1 << 18, device=device)
    by_product = threads * rate(left.numel() * right.shape[1], lambda: left @ right, device)
    by_exponential = threads * rate(values.numel(), lambda: torch.exp(values, out=out), device)
    torch.set_num_threads(threads)
    print(
        f"a pair: {products:,.0f} multiply-adds at {by_product / 1e9:.1f} G/s, {exponentials:,.0f} exponentials at "
        f"{by_exponential / 1e9:.2f} G/s\n"
    )
    return 1 / (products / by_product + exponentials / by_exponential)


def main() -> None:
    """Run both forms and print the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--mentions", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    head = Mimic(MimicConfig(), SHAPES).to(device).eval()
    mentions, entities = Memory(options.mentions, 1, device), Memory(options.entities, 2, device)

    compared = min(4000, options.entities)
    some = copy(entities)
    some.count = compared
    rates = {chunk: time_straightforward(head, (mentions, some), chunk, 1)[0] for chunk in (250, 500, 1000, 2000, 4000)}
    chunk = max(rates, key=rates.__getitem__)
    slow, expected = time_straightforward(head, (mentions, some), chunk, 3)

    with torch.no_grad():
        encoded = (
            head.encode_mentions(mentions.rows(np.arange(3 * BATCH))),
            head.encode_entities(entities.rows(np.arange(compared))),
        )
        difference = float((head.score_block(*encoded)["score"] - expected).abs().max())
    # the straightforward form is warm by now
    Scoring(head, mentions, some).kb(np.arange(min(3 * BATCH, options.mentions)))
    synchronise(device)
    started = now(device)
    Scoring(head, mentions, entities).kb(np.arange(options.mentions))
    synchronise(device)
    fast = options.mentions * options.entities / (now(device) - started)
    most = bound(head, mentions, entities)

    print(
        "| what | machine | straightforward pairs/s | pairs/s | ratio | bound, pairs/s | largest difference of scores |"
    )
    print("|---|---|---|---|---|---|---|")
    size = f"MIMIC, {options.mentions} mentions × {options.entities:,} entities"
    print(
        f"| {size} | {machine(device)} | {slow:,.0f} (chunks of {chunk}) | {fast:,.0f} | {fast / slow:.1f} | "
        f"{most:,.0f} ({fast / most:.0%} reached) | {difference:.1e} |"
    )
    if options.json:
        result = {
            "machine": machine(device),
            "straightforward": slow,
            "pairs_per_s": fast,
            "ratio": fast / slow,
            "bound": most,
            "difference": difference,
        }
        options.json.write_text(json.dumps(result) + "\n")
    if difference > 1e-4:
        raise SystemExit(f"scores differ by {difference:.1e}, at most 1e-4 expected")


if __name__ == "__main__":
    main()
