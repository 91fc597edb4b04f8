"""Confidence, the chance that the top entity is right, and the threshold below which a mention is NIL.

P(right) = P(right | in the KB) · P(in the KB). The first factor is the softmax of the best scores or its Platt scaling.
The second holds for a share of NIL mentions that is said: the odds of NIL are corrected from the share among the
mentions that it is learned from (prior shift). A step that does not help on mentions held out is not applied.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from hashlib import blake2b

import numpy as np

from linking.contracts import Effect, Fit, Reliability, Scaling

VERSION = 2  # raised by hand when the same scores give other confidences
HIDDEN_SHARE = 0.2
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
SURE = 1.645  # standard errors that scaling must help by: a one-sided test at 5 %


def bucket(text: str, count: int, salt: bytes) -> int:
    """The one of `count` buckets that a text falls into, the same always."""
    return int.from_bytes(blake2b(text.encode(), digest_size=4, person=salt).digest(), "big") % count


def hidden(gold_id: str) -> bool:
    """Whether an entity is among the `HIDDEN_SHARE` that is taken out of the KB."""
    return bucket(gold_id, 1000, b"nil") < 1000 * HIDDEN_SHARE


@dataclass(frozen=True)
class Answers:
    """A run's answers for m mentions whose golds are known.

    evidence (m, 3), softmax (m,): as `evidence` gives them. right, nil (m,) bool: whether the top entity is the gold;
    whether the gold is not in the KB. fold (m,): number of the part that a mention is held out with.
    """

    evidence: np.ndarray
    softmax: np.ndarray
    right: np.ndarray
    nil: np.ndarray
    fold: np.ndarray

    def of(self, part: np.ndarray) -> "Answers":
        """Those of a part (m,) bool."""
        return Answers(*(getattr(self, field.name)[part] for field in fields(self)))


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


def ratio(nil: np.ndarray, share: float) -> float:
    """By how much the odds of NIL change when its share is `share` π' (0 to below 1): (π'/(1-π')) / (π/(1-π)).

    π: the share among these mentions (m,) bool. 1 where all are NIL, or none is: nothing is known of the others then.
    """
    own = nil.mean() if len(nil) else 0.0
    return float(share / (1 - share) / (own / (1 - own))) if 0 < own < 1 else 1.0


def weights(nil: np.ndarray, share: float) -> np.ndarray:
    """(m,) weight of each mention, 1 on average, that makes a `share` of them NIL; see `ratio`."""
    odds = np.where(nil, ratio(nil, share), 1.0)
    return odds / odds.mean() if len(odds) else odds


def fit(values: np.ndarray, event: np.ndarray) -> Fit:
    """Platt scaling on several numbers: `p = σ(w·z + b)`, z the standardised values, w ≥ 0 (more is never worth less).

    The maximum of the likelihood with a Gaussian prior on w. values (m, s): as `evidence` gives them; NaN counts as
    the mean. event (m,) bool: what p is the chance of.
    """
    from scipy.optimize import minimize

    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0).sum(0) / count
    deviation = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(0) / count)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)
    z, y = np.where(known, (values - mean) / deviation, 0), event.astype(np.float64)

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


def probability(fitted: Fit, values: np.ndarray) -> np.ndarray:
    """(m,) chance of the event that was fitted; 0 where there is no entity. values (m, s): as `fit` takes them."""
    z = np.where(np.isfinite(values), (values - np.array(fitted.mean)) / np.array(fitted.deviation), 0)
    return np.where(np.isfinite(values[:, 0]), _sigmoid(z @ np.array(fitted.weights) + fitted.bias), 0)


def confidence(right: Fit | None, known: Fit | None, values: np.ndarray, softmax: np.ndarray) -> np.ndarray:
    """(m,) chance that the top entity is right; 0 where there is none.

    right, known: see `linking.contracts.Scaling`. values, softmax: as `evidence` gives them.
    """
    there = np.isfinite(values[:, 0])
    chance = probability(right, values) if right else np.where(there, softmax, 0)
    return chance * probability(known, values) if known else chance


def chances(fitted: Scaling, scores: np.ndarray) -> np.ndarray:
    """(m,) confidence of each mention with these scores (m, d), best first."""
    return confidence(fitted.right, fitted.known, *evidence(scores))


def chances_or_none(fitted: Scaling, scores: np.ndarray) -> list[float | None]:
    """The same; None where nothing could be fitted."""
    return chances(fitted, scores).tolist() if fitted.confidence else [None] * len(scores)


def threshold(chance: np.ndarray, gain: np.ndarray) -> float:
    """The confidence below which calling a mention NIL is expected to make most answers right.

    chance (m,): confidence of each mention. gain (m,): how much more often it is answered rightly by NIL than by its
    top entity. The threshold lies half-way between two confidences that occur, and is 0 where no NIL is worth it.
    """
    steps, of_step = np.unique(chance, return_inverse=True)
    below = np.concatenate([[0.0], np.bincount(of_step, gain, len(steps)).cumsum()])
    cuts = np.concatenate([[0.0], (steps[1:] + steps[:-1]) / 2, [1.0]])
    return float(cuts[int(np.argmax(below))])


def rightly(chance: np.ndarray, answers: Answers, cut: float | np.ndarray) -> np.ndarray:
    """(m,) bool whether a mention is answered rightly if those with a confidence below `cut` are called NIL."""
    return np.where(chance < cut, answers.nil, answers.right & ~answers.nil)


def ece(chance: np.ndarray, right: np.ndarray, weight: np.ndarray) -> float:
    """Expected calibration error over `BINS` bins of equal width: |mean confidence - share of right answers| of each
    bin, weighed by its mentions. weight (m,): of each mention. 0 for no mention."""
    of_bin = np.minimum((chance * BINS).astype(int), BINS - 1)
    gaps = np.bincount(of_bin, weight * (chance - right), BINS)  # of a bin: its mentions times the difference of means
    return float(np.abs(gaps).sum() / max(weight.sum(), 1e-9))


def brier(chance: np.ndarray, right: np.ndarray, weight: np.ndarray) -> float:
    """Mean squared distance of the confidence from 1 where the top entity is right, else from 0."""
    return float((weight * (chance - right) ** 2).sum() / max(weight.sum(), 1e-9))


@dataclass(frozen=True)
class _Model:
    """Fits of two events: that the top entity is right where the mention's entity is in the KB, and that it is there,
    None for certain."""

    right: Fit
    known: Fit | None

    @classmethod
    def of(cls, answers: Answers, share: float) -> "_Model":
        """Learned from these answers, for a share of NIL mentions."""
        inside, change = ~answers.nil, ratio(answers.nil, share)
        known = fit(answers.evidence, inside) if change and answers.nil.any() else None
        right = fit(answers.evidence[inside], answers.right[inside])
        return cls(right, known and replace(known, bias=known.bias - math.log(change)))

    def used(self, scales: bool, corrects: bool) -> tuple[Fit | None, Fit | None]:
        """The fits that a confidence is computed from."""
        return self.right if scales else None, self.known if corrects else None

    def gain(self, answers: Answers) -> np.ndarray:
        """(m,) chance that a mention is NIL, less the chance that its top entity is right."""
        known = probability(self.known, answers.evidence) if self.known else np.ones(len(answers.nil))
        return 1 - known - known * probability(self.right, answers.evidence)


@dataclass(frozen=True)
class _Folds:
    """Answers with the weight of each (m,), and by fold a model that was learned from the others."""

    answers: Answers
    weight: np.ndarray
    models: Mapping[int, _Model]

    @classmethod
    def of(cls, answers: Answers, share: float) -> "_Folds":
        folds = np.unique(answers.fold).tolist()
        rest = {fold: answers.of((answers.fold != fold) | (len(folds) == 1)) for fold in folds}
        models = {fold: _Model.of(others, share) for fold, others in rest.items()}
        return cls(answers, weights(answers.nil, share), models)

    def confidence(self, scales: bool, corrects: bool) -> np.ndarray:
        """(m,) of each mention, by the model that was learned without it."""
        chance = np.zeros(len(self.weight))
        for fold, model in self.models.items():
            out = self.answers.of(self.answers.fold == fold)
            chance[self.answers.fold == fold] = confidence(*model.used(scales, corrects), out.evidence, out.softmax)
        return chance

    def thresholds(self, scales: bool, corrects: bool) -> np.ndarray:
        """(m,) by what was learned without the mention."""
        cuts = np.zeros(len(self.weight))
        for fold, model in self.models.items():
            others = (self.answers.fold != fold) | (len(self.models) == 1)
            rest = self.answers.of(others)
            chance = confidence(*model.used(scales, corrects), rest.evidence, rest.softmax)
            cuts[self.answers.fold == fold] = threshold(chance, self.weight[others] * model.gain(rest))
        return cuts

    def effect(self, before: np.ndarray, after: np.ndarray, weight: np.ndarray, sure: float) -> Effect:
        """Of one confidence (m,) in place of another; applied where the Brier score falls by more than `sure` standard
        errors. weight (m,): of each mention."""
        right = self.answers.right
        falls = (weight * ((before - right) ** 2 - (after - right) ** 2))[weight > 0]
        error = falls.std() / math.sqrt(len(falls))
        figures = [{"ECE": ece(each, right, weight), "Brier": brier(each, right, weight)} for each in (before, after)]
        return Effect(before=figures[0], after=figures[1], applied=bool(falls.mean() > sure * error))


def calibrate(answers: Answers, share: float) -> Scaling:
    """Confidence and threshold for mentions of which a `share` (0 to below 1) is NIL.

    All is fitted on all of the answers, and measured on each fold by what was fitted on the others. Scaling is applied
    where it lowers the Brier score there, by more than chance would (`SURE`); the correction for NIL mentions where it
    lowers that score; the threshold where it makes more answers right. `notes` say what is not applied, and why.
    """
    counts = {"mentions": len(answers.right), "right": int(answers.right.sum()), "NIL": int(answers.nil.sum())}
    inside = ~answers.nil
    if len(inside) < FEWEST or not inside.any():
        few = f"no confidence: of {len(inside)} mentions of dev {inside.sum()} are of the KB; {FEWEST} are needed"
        return Scaling(nil_share=share, counts=counts, confidence=False, notes=(few,))
    folds, model = _Folds.of(answers, share), _Model.of(answers, share)
    scaling = folds.effect(folds.confidence(False, False), folds.confidence(True, False), 1.0 * inside, SURE)
    plain = folds.confidence(scaling.applied, False)
    correction = folds.effect(plain, folds.confidence(scaling.applied, True), folds.weight, 0)
    steps = scaling.applied, correction.applied
    chance, cuts = folds.confidence(*steps), folds.thresholds(*steps)
    right = [float((folds.weight * rightly(chance, answers, cut)).mean()) for cut in (0.0, cuts)]
    separation = Effect(before={"right": right[0]}, after={"right": right[1]}, applied=right[1] > right[0])
    own = confidence(*model.used(*steps), answers.evidence, answers.softmax)
    reliability = Reliability(
        measured_on=f"mentions of dev in {len(folds.models)} parts by gold entity, each held out once",
        scaling=scaling,
        correction=correction,
        threshold=separation,
    )
    used_right, used_known = model.used(*steps)
    return Scaling(
        nil_share=share,
        counts=counts,
        confidence=True,
        right=used_right,
        known=used_known,
        threshold=threshold(own, folds.weight * model.gain(answers)) if separation.applied else None,
        reliability=reliability,
        notes=tuple(_notes(reliability, share, counts["NIL"])),
    )


def _notes(reliability: Reliability, share: float, known_nil: int) -> Iterator[str]:
    """Sentences about the steps that are not applied."""
    tried = {"confidence is not scaled": reliability.scaling}
    if share and known_nil:
        tried["confidence is not corrected for NIL mentions"] = reliability.correction
        tried["no mention that has a candidate is called NIL"] = reliability.threshold
    elif share:
        yield "no mention of dev is NIL, so that none is called so unless it has no candidate"
    for words, effect in tried.items():
        if not effect.applied:
            figures = ", ".join(
                f"{name} {effect.before[name]:.3f} without it, {effect.after[name]:.3f} with it"
                for name in effect.before
            )
            yield f"{words}: it does not help on mentions of dev that were held out ({figures})"


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
