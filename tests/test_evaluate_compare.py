"""Paired comparisons against statsmodels and hand-worked values, and their level and coverage by simulation."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from sft_nb.core import InputError
from sft_nb.evaluate.compare import (_tango, adjust_holm, align_predictions, compare_predictions, mcnemar_test, minimum_detectable_effect)
from sft_nb.evaluate.metrics import compute_metric
from sft_nb.records import COMPARISON_COLUMNS, make_predictions


def pair(rng, n, gaps=(2., 2.), prevalence=.5, groups=0, shared=.5):
    "Two detectors of the same items whose errors are correlated; with `groups`, so are items of one group."
    group = np.repeat(np.arange(groups), n // groups) if groups else None
    draw = (lambda: np.sqrt(.3) * rng.normal(size=groups)[group] + np.sqrt(.7) * rng.normal(size=n)) if groups else lambda: rng.normal(size=n)
    y, common, out = (draw() > stats.norm.ppf(1 - prevalence)).astype(int), draw(), []
    for gap in gaps:
        x = gap * y + np.sqrt(shared) * common + np.sqrt(1 - shared) * draw()
        out.append(make_predictions([f'id{i}' for i in range(n)], y, 1 / (1 + np.exp(-(gap * x - gap**2 / 2 + np.log(prevalence / (1 - prevalence))))), task='single_label', labels=['a', 'b'], group=group))
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_agrees_with_statsmodels(b, c):
    assert mcnemar_test(b, c, mid_p=False) == pytest.approx(mcnemar([[0, b], [c, 0]], exact=True).pvalue if b + c else 1)
    n, k = b + c, min(b, c)
    mid = 2 * stats.binom.cdf(k, n, .5) - stats.binom.pmf(k, n, .5) # Fagerland et al. 2013, equation 3
    assert mcnemar_test(b, c) == pytest.approx(min(mid, 1) if n else 1)
    assert 0 < mcnemar_test(b, c) <= 1


def test_mcnemar_of_arrays_and_bad_input():
    assert mcnemar_test([0, 3], [0, 10]).shape == (2,)
    for bad in [(-1, 2), (1.5, 2)]:
        with pytest.raises(InputError): mcnemar_test(*bad)


def test_mcnemar_published_example():
    "Fagerland, Lydersen & Laake (2013), airway hyper-responsiveness: 1 and 7 discordant pairs; exact .0703, mid-p .0391."
    assert mcnemar_test(1, 7, mid_p=False) == pytest.approx(.0703, abs=5e-5)
    assert mcnemar_test(1, 7) == pytest.approx(.0391, abs=5e-5)


@pytest.mark.parametrize('b, c, n', [(0, 0, 30), (7, 1, 44), (1, 7, 21), (12, 9, 100), (5, 0, 5), (0, 5, 60)])
def test_tango_is_the_inverted_score_test(b, c, n):
    "The limits solve the score equation, with the nuisance parameter found by maximising the likelihood numerically."
    z = stats.norm.ppf(.975)
    def surprise(d):
        low, high = max(0, -d) + 1e-12, (1 - d) / 2 - 1e-12 # q21 = q, q12 = q + d, the rest is 1 − 2q − d
        cost = lambda q: -(stats.binom.logpmf(0, 0, .5) + b * np.log(q + d) + c * np.log(q) + (n - b - c) * np.log(1 - 2 * q - d))
        with np.errstate(all='ignore'): q = optimize.minimize_scalar(cost, bounds=(low, high), method='bounded', options=dict(xatol=1e-12)).x
        return (b - c - n * d) / np.sqrt(n * (2 * q + d - d**2))
    low, high = _tango(b, c, n, .95)
    for limit, sign in [(low, 1), (high, -1)]:
        if abs(limit) < 1 - 1e-6: assert surprise(limit) == pytest.approx(sign * z, abs=2e-3)
    assert low <= (b - c) / n <= high
    mirrored = _tango(c, b, n, .95)
    assert mirrored == (pytest.approx(-high), pytest.approx(-low))


@pytest.mark.parametrize('n', [1, 2, 7, 30])
def test_holm_agrees_with_statsmodels(n):
    for p in (np.random.default_rng(n).random(n)**3, np.zeros(n), np.ones(n), np.round(np.random.default_rng(n).random(n), 1)):
        assert adjust_holm(p) == pytest.approx(multipletests(p, method='holm')[1])


def test_holm_ignores_what_was_not_tested():
    assert adjust_holm([np.nan, .04, np.nan]) == pytest.approx([np.nan, .04, np.nan], nan_ok=True)
    assert adjust_holm([]).shape == (0,)


@pytest.mark.parametrize('n, discordance', [(200, .1), (656, .1), (400, .3)])
def test_minimum_detectable_effect_has_its_power(n, discordance):
    "Models that differ by that much are told apart in about 80 % of test sets (exact power of the mid-p test, within 4 points)."
    d, power = minimum_detectable_effect(n, discordance=discordance), 0.
    share = (discordance + d) / 2 / discordance
    for m in range(n + 1):
        if (weight := stats.binom.pmf(m, n, discordance)) < 1e-9: continue
        b = np.arange(m + 1)
        power += weight * stats.binom.pmf(b, m, share)[mcnemar_test(b, m - b) < .05].sum()
    assert power == pytest.approx(.8, abs=.04)


def test_minimum_detectable_effect_of_one_share_has_its_power():
    n, mark = 400, .85
    d = minimum_detectable_effect(n, proportion=mark)
    b = np.arange(n + 1)
    above = (b - n * mark) / np.sqrt(n * mark * (1 - mark)) > stats.norm.ppf(.975)
    assert stats.binom.pmf(b, n, mark + d)[above].sum() == pytest.approx(.8, abs=.04)


def test_minimum_detectable_effect_at_its_edges():
    assert np.isnan(minimum_detectable_effect(100, discordance=0)) and np.isnan(minimum_detectable_effect(10, proportion=.99))
    assert minimum_detectable_effect(1000, discordance=.2) < minimum_detectable_effect(100, discordance=.2)
    for bad in [dict(), dict(discordance=.1, proportion=.9), dict(discordance=1.2), dict(discordance=.1, power=80)]:
        with pytest.raises(InputError): minimum_detectable_effect(100, **bad)


def test_comparison_table():
    a, b = pair(np.random.default_rng(0), 300, (2.5, 1.5))
    table = compare_predictions(a, b, seed=0, name='weak')
    assert list(table.columns) == COMPARISON_COLUMNS
    for row in table.itertuples():
        assert row.value == compute_metric(a, row.metric) and row.baseline_value == compute_metric(b, row.metric)
        assert row.difference == row.value - row.baseline_value and row.low <= row.difference <= row.high
        assert (row.p_value < .05) == (row.low > 0 or row.high < 0), 'the interval and the test contradict each other'
    wins = ((a.prediction == a.target) & (b.prediction != b.target)).sum()
    losses = ((a.prediction != a.target) & (b.prediction == b.target)).sum()
    assert table.p_value[0] == mcnemar_test(wins, losses)
    swapped = compare_predictions(b, a, seed=0)
    assert swapped.difference.values == pytest.approx(-table.difference.values)
    assert swapped.low.values == pytest.approx(-table.high.values) and swapped.p_value.values == pytest.approx(table.p_value.values)


def test_paired_bootstrap_agrees_with_scipy():
    a, b = pair(np.random.default_rng(1), 120, (2.5, 1.5))
    y, p, q = a.target, a.score[:, 1], b.score[:, 1]
    gap = lambda y, p, q, axis: ((p - y)**2).mean(axis) - ((q - y)**2).mean(axis)
    theirs = stats.bootstrap((y, p, q), gap, paired=True, n_resamples=4000, method='percentile', rng=0)
    ours = compare_predictions(a, b, metrics='brier', method='percentile', n_resamples=4000, seed=0).iloc[0]
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=.15 * theirs.standard_error)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=.15 * theirs.standard_error)


def test_groups_widen_the_interval():
    "Every item ten times: without groups we would be far too sure."
    a, b = pair(np.random.default_rng(3), 60, (2.4, 1.6))
    rows = np.repeat(np.arange(60), 10)
    copy = lambda x, group: make_predictions(range(600), x.target[rows], x.score[rows], task='single_label', labels=x.labels, group=group)
    for metric in ['accuracy', 'roc_auc', 'log_loss']:
        once, = compare_predictions(a, b, metrics=metric, seed=0).itertuples()
        naive, = compare_predictions(copy(a, None), copy(b, None), metrics=metric, seed=0).itertuples()
        right, = compare_predictions(copy(a, rows), copy(b, None), metrics=metric, seed=0).itertuples()
        assert right.high - right.low == pytest.approx(once.high - once.low, rel=.15)
        assert naive.high - naive.low < .5 * (right.high - right.low)


def test_nobody_disagrees():
    a, _ = pair(np.random.default_rng(0), 50)
    table = compare_predictions(a, a, seed=0).set_index('metric')
    assert (table.difference == 0).all() and (table.p_value == 1).all()
    assert table.low['accuracy'] < 0 < table.high['accuracy'] and 'says nothing' in table.method['roc_auc']
    boot = compare_predictions(a, a, seed=0, method='percentile', n_resamples=200)
    assert (boot.p_value == 1).all()


def test_undefined_differences_say_whose_fault_it_is():
    a, b = pair(np.random.default_rng(0), 60)
    never = make_predictions(b.ids, b.target, np.full(60, .2), task='single_label', labels=b.labels)
    row = compare_predictions(a, never, metrics='precision', seed=0).iloc[0]
    assert np.isnan(row.p_value) and row.method == 'undefined: no item was called b (baseline)'


def test_mismatches_are_named():
    a, b = pair(np.random.default_rng(0), 40)
    shuffle = np.random.default_rng(1).permutation(40)
    flipped = make_predictions(b.ids[shuffle], 1 - b.target[shuffle], b.score[shuffle][:, ::-1], task='single_label', labels=['b', 'a'])
    aligned = align_predictions(a, flipped)
    assert (aligned.ids == a.ids).all() and (aligned.target == a.target).all() and np.allclose(aligned.score, b.score)
    with pytest.raises(InputError, match=r'10 of 40 ids \(id30, id31, id32, …\)'): compare_predictions(a, b.take(np.arange(30)), seed=0)
    with pytest.raises(InputError, match='10 of 40 ids .* not in the predictions'): compare_predictions(a.take(np.arange(30)), b, seed=0)
    other = make_predictions(b.ids, np.r_[1 - b.target[:2], b.target[2:]], b.score, task='single_label', labels=b.labels)
    with pytest.raises(InputError, match='same targets.*2 of 40 ids'): compare_predictions(a, other, seed=0)
    numbers = make_predictions(b.ids, b.score[:, 1], b.score[:, 1], task='regression')
    with pytest.raises(InputError, match='same task'): compare_predictions(a, numbers, seed=0)
    labels = make_predictions(b.ids, b.target, b.score, task='single_label', labels=['a', 'c'])
    with pytest.raises(InputError, match='labels'): compare_predictions(a, labels, seed=0)


@pytest.mark.parametrize('n, prevalence, groups', [(50, .5, 0), (200, .2, 0), (200, .4, 20)])
def test_level_under_the_null(n, prevalence, groups):
    """Two models that are equally good are told apart in at most 5 % of test sets. Of 250 simulations a true 5 % gives
    more than 10 % less than once in a thousand."""
    names, rng, wrong = ['accuracy', 'balanced_accuracy', 'f1', 'roc_auc', 'log_loss'], np.random.default_rng(7), []
    for _ in range(250):
        a, b = pair(rng, n, prevalence=prevalence, groups=groups)
        wrong.append((compare_predictions(a, b, metrics=names, seed=0).p_value < .05).to_numpy())
    assert (np.mean(wrong, 0) <= .1).all(), dict(zip(names, np.mean(wrong, 0)))
    assert (np.mean(wrong, 0) > .002).all() # nor is it a test that never rejects
