"""`joint` once more, from METHODS alone: one pair after another in float64, without padding, batches or torch.

BERT's blocks (Devlin et al., 2019) are written out: attention, LayerNorm after each of both halves, GELU with erf.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

Weights = Mapping[str, np.ndarray]
EPS = {"bert": 1e-12, "head": 1e-5}


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def layer_norm(x: np.ndarray, weights: Weights, name: str, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int) -> np.ndarray:
    """Attention of heads side by side, (q, d)."""
    out = []
    for q, k, v in zip(*(np.split(x, heads, -1) for x in (query, key, value)), strict=True):
        logits = q @ k.T / math.sqrt(q.shape[-1])
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        out.append(shares / shares.sum(-1, keepdims=True) @ v)
    return np.concatenate(out, -1)


def block(x: np.ndarray, weights: Weights, name: str, heads: int) -> np.ndarray:
    """One block of BERT over (L, d)."""
    query, key, value = (linear(x, weights, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
    attended = linear(attend(query, key, value, heads), weights, f"{name}.attention.output.dense")
    x = layer_norm(x + attended, weights, f"{name}.attention.output.LayerNorm", EPS["bert"])
    inner = linear(x, weights, f"{name}.intermediate.dense")
    inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
    return layer_norm(
        x + linear(inner, weights, f"{name}.output.dense"), weights, f"{name}.output.LayerNorm", EPS["bert"]
    )


def picture(patches: np.ndarray, weights: Weights, heads: int) -> np.ndarray:
    """The resampled states (m, d) of a picture (P, d_v)."""
    states = layer_norm(patches, weights, "resampler.norm", EPS["head"])
    key, value = linear(states, weights, "resampler.keys"), linear(states, weights, "resampler.values")
    attended = attend(weights["resampler.queries"], key, value, heads)
    return layer_norm(linear(attended, weights, "resampler.out"), weights, "resampler.out_norm", EPS["head"])


def sequence(mention: Mapping, entity: Mapping, weights: Weights, heads: int) -> np.ndarray:
    """`[mention ; entity ; mention's picture ; entity's picture]`, (L, d).

    A side: `states` (L, d), None where it has no text; `patches` (P, d_v), None where it has no picture; `phrase`: its
    tokens' numbers.
    """
    texts, pictures = [], []
    for number, side in enumerate((mention, entity)):
        vector = weights["side"][number]
        states = np.zeros((1, len(vector))) if side["states"] is None else side["states"].copy()
        for token in side.get("phrase", ()):
            states[token] += weights["mark"]
        texts.append(states + vector)
        if side["patches"] is not None:
            pictures.append(picture(side["patches"], weights, heads) + vector + weights["modality"])
    return np.concatenate([*texts, *pictures])


def score(states: np.ndarray, weights: Weights, blocks: Sequence[str], heads: int) -> float:
    """Of a laid-out pair, without the prior. blocks: names of the live ones."""
    for name in blocks:
        states = block(states, weights, name, heads)
    return float(states[0] @ weights["score.weight"][0])
