"""Significance against brute force, known values and its own invariances."""

import itertools
import math

import numpy as np
import pytest

from report.significance import holm, mcnemar, paired_bootstrap, paired_t_test


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 5), (2, 9), (9, 2), (0, 20), (30, 60)])
def test_mcnemar_is_the_exact_binomial_test_of_what_only_one_gets_right(first, second):
    both, neither = 7, 3
    a = np.array([True] * (both + first) + [False] * (second + neither))
    b = np.array([True] * both + [False] * first + [True] * second + [False] * neither)
    n = first + second
    expected = min(1.0, 2 * sum(math.comb(n, k) for k in range(min(first, second) + 1)) / 2**n)
    found = mcnemar(a, b)
    assert (found.both, found.first, found.second, found.neither) == (both, first, second, neither)
    assert found.p == pytest.approx(expected, rel=1e-9)


def test_nine_against_one_has_its_known_p():
    a = np.array([True] * 9 + [False])
    assert mcnemar(a, ~a).p == pytest.approx(22 / 1024)


def test_the_bootstrap_agrees_with_every_possible_resample():
    a, b = np.array([1.0, 1.0, 0.5, 1.0, 0.2]), np.array([0.0, 1.0, 0.25, 0.5, 0.4])
    difference = a - b
    every = np.array([difference[list(drawn)].mean() for drawn in itertools.product(range(5), repeat=5)])
    exact = (np.abs(every - difference.mean()) >= abs(difference.mean()) - 1e-12).mean()
    found = paired_bootstrap(a[None], b[None], resamples=40_000, seed=3)[0]
    assert found.mean == pytest.approx(difference.mean())
    assert found.p == pytest.approx(exact, abs=0.01)
    assert (found.low, found.high) == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=0.02)


def test_the_bootstrap_agrees_with_the_normal_test_where_mentions_are_many():
    random = np.random.default_rng(0)
    a, b = random.random(4000) < 0.62, random.random(4000) < 0.60
    difference = a.astype(float) - b
    z = difference.mean() / (difference.std() / math.sqrt(len(difference)))
    found = paired_bootstrap(a[None], b[None], resamples=20_000)[0]
    assert found.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.015)
    half = 1.96 * difference.std() / math.sqrt(len(difference))
    assert (found.low, found.high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.001)


def test_the_bootstrap_is_the_same_again_alone_or_among_others_and_in_any_chunks(monkeypatch):
    random = np.random.default_rng(1)
    a, b = random.random((3, 50)), random.random((3, 50))
    whole = paired_bootstrap(a, b, resamples=500)
    assert paired_bootstrap(a, b, resamples=500) == whole
    assert [paired_bootstrap(a[k : k + 1], b[k : k + 1], resamples=500)[0].p for k in range(3)] == [
        one.p for one in whole
    ]
    monkeypatch.setattr("report.significance.CHUNK", 50 * 7)
    assert [one.p for one in paired_bootstrap(a, b, resamples=500)] == [one.p for one in whole]
    assert paired_bootstrap(b, a, resamples=500)[0].p == whole[0].p
    assert paired_bootstrap(a, b, resamples=500, seed=1)[0] != whole[0]


def test_equal_methods_and_no_mentions_differ_in_nothing():
    same = np.random.default_rng(2).random((1, 30))
    assert paired_bootstrap(same, same, resamples=100)[0].p == 1.0
    assert paired_bootstrap(np.zeros((2, 0)), np.zeros((2, 0)), resamples=100)[1].p == 1.0


def test_holm_adjusts_by_what_is_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_t_test_over_seeds_has_its_known_p_and_none_without_variance():
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 3.4641, two-sided p with 2 degrees of freedom
    assert paired_t_test([3, 5, 7], [2, 3, 4]) == pytest.approx(0.0741799, abs=1e-6)
    assert paired_t_test([0.5], [0.4]) is None and paired_t_test([2, 3], [1, 2]) is None
    assert paired_t_test([2, 3], [2, 3]) == 1.0
