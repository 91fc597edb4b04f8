"""Confidence: the chance that the top entity is right, from its score and its lead, and the threshold below which a mention is NIL."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

VERSION = 1  # raised by hand when the same scores give other confidences
NIL_SHARE = 0.2
"""Golds of the calibration part that are taken for absent where the dataset has next to no NIL mention there (ours)."""
ENOUGH_NIL = 0.05
"""Share of NIL mentions with which a dataset speaks for itself."""
FEWEST = 8
"""Mentions below which nothing is fitted."""
FOLDS = 5
PENALTY = 1.0
DEPTH = 10
"""Best scores of a mention that its confidence is made from, however many are asked for."""
BINS = 10
ODDS = 1e-6  # a softmax nearer to 0 or 1 counts as this


def part(text: str, parts: int, salt: bytes) -> int:
    """A part of `parts` that a text falls into, the same always."""
    return int.from_bytes(blake2b(text.encode(), digest_size=4, person=salt).digest(), "big") % parts


def hidden(gold_id: str) -> bool:
    """Whether an entity is among the share that is taken for absent."""
    return part(gold_id, 1000, b"nil") < 1000 * NIL_SHARE


def material(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Top scores (m, d), best first and -inf where there are no more → score, lead over the second and log odds of the softmax of the first among the
    best `DEPTH` (m, 3), NaN where there is none; and that softmax (m,), what a score is worth without calibration."""
    scores = scores[:, :DEPTH]
    finite = np.isfinite(scores)
    score = np.where(finite[:, 0], scores[:, 0], np.nan)
    second = scores[:, 1] if scores.shape[1] > 1 else np.full(len(scores), -np.inf)
    lead = np.where(np.isfinite(second), score - second, np.nan)
    with np.errstate(invalid="ignore"):
        weights = np.where(finite, np.exp(scores - np.where(finite[:, 0], scores[:, 0], 0)[:, None]), 0)
    plain = (weights[:, 0] / np.maximum(weights.sum(1), 1e-12)).astype(np.float64)
    odds = np.log(np.clip(plain, ODDS, 1 - ODDS) / np.clip(1 - plain, ODDS, 1 - ODDS))
    return np.stack([score, lead, np.where(np.isfinite(lead), odds, np.nan)], 1).astype(np.float64), plain


def fit(values: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Platt scaling on several numbers: `p = σ(w·z + b)`, z the standardised values, w ≥ 0 so that more is never worth less; the maximum of the
    likelihood with a Gaussian prior on w. values (m, s) as `material` gives them, with NaN for what is not there, which counts as the mean; right (m,) bool."""
    from scipy.optimize import minimize

    there = np.isfinite(values)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, values, 0).sum(0) / count
    deviation = np.sqrt((np.where(there, values - mean, 0) ** 2).sum(0) / count)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)
    z, y = np.where(there, (values - mean) / deviation, 0), right.astype(np.float64)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = parameters[:-1], parameters[-1]
        logit = z @ w + b
        error = _sigmoid(logit) - y
        value = np.logaddexp(0, logit).sum() - (y * logit).sum() + PENALTY * (w**2).sum() / 2 + PENALTY * b**2 / 200
        return float(value), np.append(z.T @ error + PENALTY * w, error.sum() + PENALTY * b / 100)

    found = minimize(
        loss,
        np.zeros(values.shape[1] + 1),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * values.shape[1] + [(None, None)],
    )
    return {
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "weights": found.x[:-1].tolist(),
        "bias": float(found.x[-1]),
    }


def confidence(fitted: Mapping[str, Any], values: np.ndarray) -> np.ndarray:
    """(m,) chance that the top entity is right; 0 where there is none."""
    z = np.where(np.isfinite(values), (values - np.array(fitted["mean"])) / np.array(fitted["deviation"]), 0)
    return np.where(np.isfinite(values[:, 0]), _sigmoid(z @ np.array(fitted["weights"]) + fitted["bias"]), 0)


def threshold(chance: np.ndarray, right: np.ndarray, nil: np.ndarray) -> float:
    """The confidence below which calling a mention NIL makes most answers right: half-way between two that occur; the lowest of several as good."""
    steps = np.unique(chance)
    places = np.concatenate([[0.0], (steps[1:] + steps[:-1]) / 2])
    return float(places[int(np.argmax([accuracy(chance, right, nil, place) for place in places]))])


def accuracy(chance: np.ndarray, right: np.ndarray, nil: np.ndarray, place: float) -> float:
    """Share of mentions answered rightly, NIL below `place`."""
    below = chance < place
    return float(np.where(below, nil, right & ~nil).mean()) if len(chance) else float("nan")


def ece(chance: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over ten bins of equal width."""
    place = np.minimum((chance * BINS).astype(int), BINS - 1)
    gaps = [
        abs(chance[place == b].mean() - right[place == b].mean()) * (place == b).sum()
        for b in range(BINS)
        if (place == b).any()
    ]
    return float(sum(gaps) / max(1, len(chance)))


def brier(chance: np.ndarray, right: np.ndarray) -> float:
    """Mean squared distance of the confidence from 1 where the top entity is right, else from 0."""
    return float(((chance - right) ** 2).mean())


def calibrate(
    values: np.ndarray, plain: np.ndarray, right: np.ndarray, nil: np.ndarray, folds: np.ndarray
) -> dict[str, Any]:
    """The fit and threshold on all of the part, and figures of mentions held out: each fold (m,) by what was fitted on the others.

    values, plain: as `material` gives them; right, nil (m,) bool. With fewer than `FEWEST` mentions: no fit, no threshold.
    """
    counts = {"mentions": len(right), "right": int(right.sum()), "NIL": int(nil.sum())}
    if len(right) < FEWEST:
        return {"counts": counts, "fit": None, "threshold": None, "reliability": None}
    held, called = np.zeros(len(right)), np.zeros(len(right), bool)
    for fold in np.unique(folds):
        out, rest = folds == fold, folds != fold
        if not rest.any():
            rest = out
        fitted = fit(values[rest], right[rest])
        held[out] = confidence(fitted, values[out])
        called[out] = held[out] < threshold(confidence(fitted, values[rest]), right[rest], nil[rest])
    fitted = fit(values, right)
    place = threshold(confidence(fitted, values), right, nil)
    reliability = {
        "measured on": f"{len(np.unique(folds))} parts by gold entity, each held out once",
        "ECE": {"before": ece(plain, right), "after": ece(held, right)},
        "Brier": {"before": brier(plain, right), "after": brier(held, right)},
        "accuracy with NIL": {
            "before": float((right & ~nil).mean()),
            "after": float(np.where(called, nil, right & ~nil).mean()),
        },
    }
    return {"counts": counts, "fit": fitted, "threshold": place, "reliability": reliability}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
