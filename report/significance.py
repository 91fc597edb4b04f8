"""Whether two methods differ on the same mentions: McNemar's exact test, the paired bootstrap, Holm's correction."""

from collections.abc import Sequence

import numpy as np

from foundation.progress import Bar
from report.contracts import RESAMPLES, Difference, McNemar

CHUNK = 4_000_000
"""Drawn mentions in memory at a time."""


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's test on hits of two methods, (n,) bool each, mention by mention.

    Exact: under the null, a mention that only one method gets right is as likely the first's as the second's, so that
    the smaller count is binomial.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    return McNemar(both=both, first=only_first, second=only_second, neither=neither, p=p)


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> list[Difference]:
    """The difference of means of each row of `first` and `second`, (m, n) measures of the same n mentions.

    Mentions are drawn with replacement, the same ones for both methods and for every row. p is the share of resampled
    differences at least as far from the observed one as that is from 0, counting the observed one itself. Differences
    without any mention are 0 with p = 1. level: of the interval.
    """
    paired = np.asarray(first, float) - np.asarray(second, float)
    measures, n = paired.shape
    if not n:
        return [Difference(mean=0.0, low=0.0, high=0.0, p=1.0)] * measures
    observed = paired.mean(1)
    drawn = _resampled_means(paired, resamples, np.random.default_rng(seed))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    slack = 1e-12  # sums in another order round differently; an equal difference is as far
    beyond = (np.abs(drawn - observed) >= np.abs(observed) - slack).sum(0)
    p = (1 + beyond) / (1 + resamples)
    rows = zip(observed.tolist(), low.tolist(), high.tolist(), p.tolist(), strict=True)
    return [Difference(mean=mean, low=low, high=high, p=p) for mean, low, high, p in rows]


def paired_t_test(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p of Student's paired t-test over a figure of two methods, seed by seed.

    None for fewer than two seeds, and where all differences are one number that is not 0: they have no variance.
    """
    from scipy.stats import ttest_rel

    differences = np.asarray(first, float) - np.asarray(second, float)
    if len(differences) < 2:
        return None
    if np.ptp(differences) < 1e-12:
        return 1.0 if abs(differences[0]) < 1e-12 else None
    return float(ttest_rel(first, second).pvalue)


def _resampled_means(values: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    """(resamples, m) means of `values` (m, n) over n mentions drawn with replacement.

    A mean is the number of times that each mention was drawn, times its value, over n.
    """
    _, n = values.shape
    step = max(1, CHUNK // n)
    means = []
    with Bar(resamples, "bootstrap", "draw") as bar:
        for start in range(0, resamples, step):
            rows = min(step, resamples - start)
            drawn = random.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
            means.append(np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n) @ values.T / n)
            bar.update(rows)
    return np.concatenate(means)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values of several comparisons, adjusted so that the chance of any false one is kept (Holm's step-down)."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = highest
    return adjusted


def p_text(p: float) -> str:
    """A p-value to three digits."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
