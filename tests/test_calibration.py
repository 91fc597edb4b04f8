"""Confidence and NIL: right values by formula and by hand, and what does not help is not applied."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
from documents import ROOT

from linking import Linker, calibration
from linking.calibration import Answers

ONES = np.ones(4)


def of_scores(scores, right, nil=None):
    """Answers with these scores; folds by turns."""
    nil = np.zeros(len(right), bool) if nil is None else nil
    return Answers(*calibration.evidence(scores), right=right, nil=nil, fold=np.arange(len(right)) % 5)


def two_normals(count, nil_share, seed=0):
    """A score x from N(0, 1) where a mention is NIL, from N(2, 1) where it is not and then right: with π the share of
    NIL mentions, P(right | x) = σ(2x - 2 - log(π / (1 - π))). Nothing else is known, and the softmax is always 1."""
    random = np.random.default_rng(seed)
    nil = random.random(count) < nil_share
    x = random.normal(np.where(nil, 0.0, 2.0), 1)
    values = np.stack([x, np.full(count, np.nan), np.full(count, np.nan)], 1)
    return x, Answers(values, np.ones(count), ~nil, nil, np.arange(count) % 5)


def posterior(x, share):
    return 1 / (1 + np.exp(-(2 * x - 2 - np.log(share / (1 - share)))))


@pytest.mark.parametrize("learned, said", [(0.5, 0.1), (0.5, 0.5), (0.2, 0.6)])
def test_confidence_is_the_posterior_and_the_threshold_bayes_for_the_share_that_is_said(learned, said):
    _, answers = two_normals(20_000, learned)
    scaling = calibration.calibrate(answers, said)
    x, new = two_normals(50_000, said, seed=1)
    chance = calibration.confidence(scaling.right, scaling.known, new.evidence, new.softmax)
    assert np.abs(chance - posterior(x, said)).max() < 0.03
    assert scaling.threshold == pytest.approx(0.5, abs=0.03), "NIL is as likely as the top entity there"
    best = np.where(posterior(x, said) < 0.5, new.nil, new.right).mean()
    assert calibration.rightly(chance, new, scaling.threshold).mean() == pytest.approx(best, abs=0.003)
    assert calibration.ece(chance, new.right, np.ones(len(x))) < 0.02
    if learned != said:
        other = calibration.calibrate(answers, learned)
        wrong = calibration.confidence(other.right, other.known, new.evidence, new.softmax)
        assert calibration.rightly(wrong, new, other.threshold).mean() < best - 0.02, "what the share is worth"


def test_odds_of_nil_change_by_the_ratio_of_the_priors_odds():
    nil = np.array([True] * 4 + [False] * 6)
    assert calibration.ratio(nil, 0.2) == pytest.approx((0.2 / 0.8) / (0.4 / 0.6))
    assert calibration.ratio(nil, 0.4) == pytest.approx(1) and calibration.ratio(nil, 0) == 0
    assert calibration.ratio(nil[:4], 0.2) == calibration.ratio(nil[4:], 0.2) == 1
    weight = calibration.weights(nil, 0.2)
    assert weight.mean() == pytest.approx(1) and weight[nil].sum() / weight.sum() == pytest.approx(0.2)
    _, answers = two_normals(1000, 0.4)
    fits = {share: calibration.calibrate(answers, share).known for share in (0.1, 0.3)}
    change = np.log((0.3 / 0.7) / (0.1 / 0.9))
    assert fits[0.1].bias - fits[0.3].bias == pytest.approx(change) and fits[0.1].weights == fits[0.3].weights


def test_calibration_error_and_brier_score_by_hand():
    chance, right = np.array([0.05, 0.12, 0.18, 0.95]), np.array([False, False, True, True])
    # bins: {0.05}, {0.12, 0.18}, {0.95}: gaps 0.05, |0.15 - 0.5|, 0.05
    assert calibration.ece(chance, right, ONES) == pytest.approx((0.05 + 2 * 0.35 + 0.05) / 4)
    assert calibration.brier(chance, right, ONES) == pytest.approx((0.05**2 + 0.12**2 + 0.82**2 + 0.05**2) / 4)
    # the third counts three times: its bin has mean (0.12 + 3·0.18) / 4 = 0.165 and 3/4 right
    weight = np.array([1, 1, 3, 1])
    assert calibration.ece(chance, right, weight) == pytest.approx((0.05 + 4 * (0.75 - 0.165) + 0.05) / 6)
    assert calibration.brier(chance, right, weight) == pytest.approx((0.0025 + 0.0144 + 3 * 0.6724 + 0.0025) / 6)
    assert calibration.ece(np.array([1.0]), np.array([True]), ONES[:1]) == 0, "1 belongs to the last bin"


def test_the_threshold_is_where_calling_mentions_nil_gains_most():
    chance = np.array([0.6, 0.1, 0.9, 0.4])
    assert calibration.threshold(chance, np.array([-0.3, 0.2, -0.5, 0.1])) == pytest.approx(0.5)
    assert calibration.threshold(chance, -ONES) == 0 and calibration.threshold(chance, ONES) == 1
    same = np.array([0.4, 0.4, 0.4, 0.8])
    assert calibration.threshold(same, np.array([2.0, 1.0, -2.0, -1.0])) == pytest.approx(0.6), "equal ones go together"


def test_scaling_mends_a_softmax_that_is_far_too_sure_and_more_lead_is_never_worth_less():
    random = np.random.default_rng(0)
    lead = random.exponential(10, 4000)
    scores = np.stack([lead, np.zeros(4000)], 1).astype(np.float32)
    answers = of_scores(scores, random.random(4000) < 1 / (1 + np.exp(-(lead - 8) / 5)))
    scaling = calibration.calibrate(answers, 0)
    effect = scaling.reliability.scaling
    assert effect.applied and effect.before["ECE"] > 0.2 and effect.after["ECE"] < 0.03
    chance = calibration.confidence(scaling.right, scaling.known, answers.evidence, answers.softmax)
    assert (np.diff(chance[np.argsort(lead)]) > -1e-9).all()
    assert scaling.known is None and scaling.threshold is None and not scaling.notes, "no mention is NIL"


def test_what_does_not_help_on_held_out_mentions_is_not_applied_and_said():
    random = np.random.default_rng(3)
    lead = random.normal(0, 2, 300)
    scores = np.stack([np.abs(lead), np.zeros(300)], 1).astype(np.float32)
    _, softmax = calibration.evidence(scores)
    right = random.random(300) < softmax  # the softmax is the truth: a fit can only add noise
    nil = random.random(300) < 0.3  # and says nothing of NIL
    answers = of_scores(scores, right & ~nil, nil)
    scaling = calibration.calibrate(answers, 0.02)
    assert scaling.right is None and scaling.threshold is None
    assert [note.partition(":")[0] for note in scaling.notes if "corrected" not in note] == [
        "confidence is not scaled",
        "no mention that has a candidate is called NIL",
    ]
    cut = scaling.reliability.threshold
    assert cut.after["right"] <= cut.before["right"] and f"{cut.after['right']:.3f} with it" in scaling.notes[-1]
    plain = np.where(nil, 0, softmax)
    assert (calibration.confidence(None, None, answers.evidence, softmax)[~nil] == plain[~nil]).all()


def test_a_share_without_any_known_nil_mention_is_said_to_rest_on_nothing():
    answers = of_scores(np.random.default_rng(0).normal(size=(40, 3)).cumsum(1)[:, ::-1], np.arange(40) % 2 == 0)
    scaling = calibration.calibrate(answers, 0.3)
    assert "no mention of dev is NIL" in scaling.notes[0] and scaling.threshold is None


@pytest.mark.parametrize("count", [0, calibration.FEWEST - 1])
def test_too_few_mentions_of_dev_give_no_confidence(count):
    scaling = calibration.calibrate(of_scores(np.zeros((count, 2)), np.zeros(count, bool)), 0.1)
    assert not scaling.confidence and scaling.right is scaling.known is scaling.threshold is None
    assert f"of {count} mentions of dev" in scaling.notes[0]


@pytest.mark.parametrize("right", [False, True])
def test_mentions_that_are_all_alike_give_finite_figures(right):
    scaling = calibration.calibrate(of_scores(np.ones((20, 2)), np.full(20, right)), 0.2)
    figures = [
        value
        for effect in vars(scaling.reliability).values()
        if effect != scaling.reliability.measured_on
        for value in (*effect.before.values(), *effect.after.values())
    ]
    assert np.isfinite(figures).all()
    every_nil = calibration.calibrate(of_scores(np.ones((20, 2)), np.zeros(20, bool), np.ones(20, bool)), 0.2)
    assert not every_nil.confidence


def test_lists_that_end_early_and_constant_scores_have_finite_confidence():
    scores = np.array([[3.0, -np.inf], [-np.inf, -np.inf], [3.0, 3.0], [3.0, 1.0]] * 4, np.float32)
    values, softmax = calibration.evidence(scores)
    fitted = calibration.fit(values, np.array([True, False, False, True] * 4))
    for right in (fitted, None):
        chance = calibration.confidence(right, fitted, values, softmax)
        assert np.isfinite(chance).all() and (chance[1::4] == 0).all() and np.isfinite(softmax).all()


def test_the_figures_of_the_docs_are_those_of_this_code(demo_work, tmp_path):
    """MIMIC's row of docs/linking.md, computed from the demo as it is now."""
    work = shutil.copytree(demo_work[0], tmp_path / "artifacts")
    (run,) = work.glob("runs/demo/mimic/[0-9a-f]*")
    own, asked = (Linker.load(run, nil_share=share).calibration.reliability for share in (None, 0.2))
    steps = [(own.scaling, "ECE"), (own.scaling, "Brier"), (asked.correction, "ECE"), (asked.threshold, "right")]
    page = (ROOT / "docs" / "linking.md").read_text()
    cells = (
        next(line for line in page.splitlines() if line.startswith("| `mimic` |") and "→" in line)
        .strip("|")
        .split("|")[1:]
    )
    for cell, (effect, figure) in zip(cells, steps, strict=True):
        before, after = map(float, re.findall(r"\d\.\d+", cell))
        assert (before, after) == pytest.approx((effect.before[figure], effect.after[figure]), abs=0.08), (
            cell,
            effect,
        )


def test_answers_go_by_parts():
    _, answers = two_normals(10, 0.5)
    part = answers.of(answers.fold == 3)
    assert len(part.right) == 2 and all(len(getattr(part, each.name)) == 2 for each in dataclasses.fields(Answers))
