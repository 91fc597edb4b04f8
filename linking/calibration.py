"""Confidence, the chance that the top entity is right, and the threshold below which a mention is NIL."""

from hashlib import blake2b

import numpy as np

from linking.contracts import Fit, Scaling

VERSION = 1  # raised by hand when the same scores give other confidences
NIL_SHARE = 0.2
"""Share of the golds taken out of the KB for the calibration where the dataset has next to no NIL mention (ours)."""
ENOUGH_NIL = 0.05
"""Share of NIL mentions from which on no gold is taken out."""
FEWEST = 8
"""Mentions below which nothing is fitted."""
FOLDS = 5
PENALTY = 1.0
DEPTH = 10
"""Best scores of a mention that its confidence is computed from, however many entities are listed."""
BINS = 10
ODDS = 1e-6  # a softmax nearer to 0 or 1 counts as this


def bucket(text: str, count: int, salt: bytes) -> int:
    """The one of `count` buckets that a text falls into, the same always."""
    return int.from_bytes(blake2b(text.encode(), digest_size=4, person=salt).digest(), "big") % count


def hidden(gold_id: str) -> bool:
    """Whether an entity is among the `NIL_SHARE` that is taken out of the KB."""
    return bucket(gold_id, 1000, b"nil") < 1000 * NIL_SHARE


def evidence(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a confidence is computed from, and the confidence without calibration.

    scores (m, d): the best of each mention, best first, -inf where there are no more. Returns (m, 3) float64, NaN
    where there is none: the first score, its lead over the second, and the log odds of its softmax among the best
    `DEPTH`; and that softmax (m,).
    """
    scores = scores[:, :DEPTH]
    finite = np.isfinite(scores)
    first = np.where(finite[:, 0], scores[:, 0], np.nan)
    second = scores[:, 1] if scores.shape[1] > 1 else np.full(len(scores), -np.inf)
    lead = np.where(np.isfinite(second), first - second, np.nan)
    with np.errstate(invalid="ignore"):
        weights = np.where(finite, np.exp(scores - np.where(finite[:, 0], scores[:, 0], 0)[:, None]), 0)
    softmax = (weights[:, 0] / np.maximum(weights.sum(1), 1e-12)).astype(np.float64)
    odds = np.log(np.clip(softmax, ODDS, 1 - ODDS) / np.clip(1 - softmax, ODDS, 1 - ODDS))
    return np.stack([first, lead, np.where(np.isfinite(lead), odds, np.nan)], 1).astype(np.float64), softmax


def fit(values: np.ndarray, right: np.ndarray) -> Fit:
    """Platt scaling on several numbers: `p = σ(w·z + b)`, z the standardised values, w ≥ 0 (more is never worth less).

    The maximum of the likelihood with a Gaussian prior on w. values (m, s): as `evidence` gives them; NaN counts as
    the mean. right (m,) bool.
    """
    from scipy.optimize import minimize

    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0).sum(0) / count
    deviation = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(0) / count)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)
    z, y = np.where(known, (values - mean) / deviation, 0), right.astype(np.float64)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = parameters[:-1], parameters[-1]
        logit = z @ w + b
        error = _sigmoid(logit) - y
        value = np.logaddexp(0, logit).sum() - (y * logit).sum() + PENALTY * (w**2).sum() / 2 + PENALTY * b**2 / 200
        return float(value), np.append(z.T @ error + PENALTY * w, error.sum() + PENALTY * b / 100)

    start = np.zeros(values.shape[1] + 1)
    bounds = [*[(0, None)] * values.shape[1], (None, None)]
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Fit(
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation.tolist()),
        weights=tuple(best[:-1].tolist()),
        bias=float(best[-1]),
    )


def confidence(fitted: Fit, values: np.ndarray) -> np.ndarray:
    """(m,) chance that the top entity is right; 0 where there is none. values (m, s): as `fit` takes them."""
    z = np.where(np.isfinite(values), (values - np.array(fitted.mean)) / np.array(fitted.deviation), 0)
    return np.where(np.isfinite(values[:, 0]), _sigmoid(z @ np.array(fitted.weights) + fitted.bias), 0)


def threshold(chance: np.ndarray, right: np.ndarray, nil: np.ndarray) -> float:
    """The confidence below which calling a mention NIL makes most answers right.

    It lies half-way between two that occur; of several as good, the lowest is taken.
    """
    steps = np.unique(chance)
    cuts = np.concatenate([[0.0], (steps[1:] + steps[:-1]) / 2])
    return float(cuts[int(np.argmax([accuracy(chance, right, nil, cut) for cut in cuts]))])


def accuracy(chance: np.ndarray, right: np.ndarray, nil: np.ndarray, cut: float) -> float:
    """Share of mentions answered rightly if those with a confidence below `cut` are called NIL; NaN for no mention."""
    below = chance < cut
    return float(np.where(below, nil, right & ~nil).mean()) if len(chance) else float("nan")


def ece(chance: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over `BINS` bins of equal width."""
    of_bin = np.minimum((chance * BINS).astype(int), BINS - 1)
    gaps = [
        abs(chance[of_bin == b].mean() - right[of_bin == b].mean()) * (of_bin == b).sum()
        for b in range(BINS)
        if (of_bin == b).any()
    ]
    return float(sum(gaps) / max(1, len(chance)))


def brier(chance: np.ndarray, right: np.ndarray) -> float:
    """Mean squared distance of the confidence from 1 where the top entity is right, else from 0."""
    return float(((chance - right) ** 2).mean())


def calibrate(
    values: np.ndarray, softmax: np.ndarray, right: np.ndarray, nil: np.ndarray, folds: np.ndarray
) -> Scaling:
    """The fit and threshold over all mentions, and their reliability on each fold by what was fitted on the others.

    values, softmax: as `evidence` gives them; right, nil (m,) bool; folds (m,): the fold of each mention. With fewer
    than `FEWEST` mentions: no fit.
    """
    counts = {"mentions": len(right), "right": int(right.sum()), "NIL": int(nil.sum())}
    if len(right) < FEWEST:
        return Scaling(counts=counts, fit=None, threshold=None, reliability=None)
    held_out, called_nil = np.zeros(len(right)), np.zeros(len(right), bool)
    for fold in np.unique(folds):
        out, rest = folds == fold, folds != fold
        if not rest.any():
            rest = out
        fitted = fit(values[rest], right[rest])
        held_out[out] = confidence(fitted, values[out])
        called_nil[out] = held_out[out] < threshold(confidence(fitted, values[rest]), right[rest], nil[rest])
    fitted = fit(values, right)
    reliability = {
        "measured on": f"{len(np.unique(folds))} parts by gold entity, each held out once",
        "ECE": {"before": ece(softmax, right), "after": ece(held_out, right)},
        "Brier": {"before": brier(softmax, right), "after": brier(held_out, right)},
        "accuracy with NIL": {
            "before": float((right & ~nil).mean()),
            "after": float(np.where(called_nil, nil, right & ~nil).mean()),
        },
    }
    cut = threshold(confidence(fitted, values), right, nil)
    return Scaling(counts=counts, fit=fitted, threshold=cut, reliability=reliability)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
