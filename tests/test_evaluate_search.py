"The best of n trials: against all draws counted one by one, and against the truth by simulation."
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import norm

from sft_nb.core import InputError
from sft_nb.evaluate.search import best_chances, expected_best


@pytest.mark.parametrize('direction', ['higher', 'lower'])
def test_it_is_what_counting_all_draws_gives(direction):
    "With ties, with a failed trial, for every n."
    values, worst = np.array([.3, .9, .5, .5, np.nan, .7, .1, .8]), .1 if direction == 'higher' else .9
    filled, pick = np.where(np.isnan(values), worst, values), max if direction == 'higher' else min
    mean, median = [expected_best(values, direction=direction, statistic=s, seed=0, n_resamples=100) for s in ('mean', 'median')]
    for n in range(1, 9):
        best = np.sort([pick(c) for c in combinations(filled, n)])
        assert mean.value[n - 1] == pytest.approx(best.mean())
        at_least = np.mean(best >= median.value[n - 1]) if direction == 'higher' else np.mean(best <= median.value[n - 1])
        assert at_least >= .5 and median.value[n - 1] in best
        assert best_chances(8, n).sum() == pytest.approx(1)


def test_it_is_unbiased_and_that_of_the_paper_is_not():
    rng, n_trials, n = np.random.default_rng(0), 20, 10
    truth, draws = rng.normal(size=(200_000, n)).max(1).mean(), np.sort(rng.normal(size=(4000, n_trials)), 1)
    i = np.arange(1, n_trials + 1)
    ours, dodge = draws @ best_chances(n_trials, n), draws @ ((i / n_trials)**n - ((i - 1) / n_trials)**n)
    assert abs(ours.mean() - truth) < 4 * ours.std() / 4000**.5 + .005 and dodge.mean() < truth - .08


def test_the_interval_of_the_median_covers_and_that_of_the_mean_does_not_near_n():
    rng, covered, boot = np.random.default_rng(0), [], []
    for k in range(600):
        values = rng.normal(size=20)
        c = expected_best(values)
        truth = norm.ppf(.5**(1 / c.n))
        covered.append((c.low <= truth) & (truth <= c.high))
        assert ((c.low <= c.value) & (c.value <= c.high)).all()
        if k < 200: boot.append(expected_best(values, statistic='mean', seed=k, n_resamples=200).loc[19, ['low', 'high']])
    assert (np.mean(covered, 0) > .93).all() and (np.isinf(c.high) == (c.n * np.log(.025) / np.log(.5) > 20)).all()
    truth = rng.normal(size=(50_000, 20)).max(1).mean()
    assert np.mean([low <= truth <= high for low, high in boot]) < .7 # as the page says


def test_what_is_wrong_is_said_at_once():
    with pytest.raises(InputError) as e: expected_best([np.nan, np.inf], direction='up', statistic='mode')
    assert len(e.value.problems) == 4
    with pytest.raises(InputError, match='confidence_level'): expected_best([1., 2.], confidence_level=95)
