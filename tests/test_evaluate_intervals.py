"""Intervals against SciPy and statsmodels, at the edges, and by simulated coverage."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from sft_nb.core import InputError
from sft_nb.evaluate.bootstrap import bootstrap_interval, resample_counts
from sft_nb.evaluate.intervals import estimate_metrics, jackknife_interval
from sft_nb.evaluate.shares import clopper_pearson_interval, share_interval, wilson_interval
from sft_nb.evaluate.metrics import BoundMetric, compute_metric
from sft_nb.records import METRIC_COLUMNS, make_predictions


def binormal(rng, n, prevalence=.5, gap=2., groups=0, labels=('a', 'b'), exact=False):
    "A detector on normal scores; with `groups`, items of one group share a part of truth and noise."
    common = (lambda: np.sqrt(.3) * rng.normal(size=groups)[group] + np.sqrt(.7) * rng.normal(size=n)) if groups else lambda: rng.normal(size=n)
    group = np.repeat(np.arange(groups), n // groups) if groups else None
    y = (common() > stats.norm.ppf(1 - prevalence)).astype(int)
    if exact: y = np.r_[np.ones(round(n * prevalence), int), np.zeros(n - round(n * prevalence), int)]
    x = gap * y + common()
    p = 1 / (1 + np.exp(-(gap * x - gap**2 / 2 + np.log(prevalence / (1 - prevalence)))))
    return make_predictions(range(n), y, p, task='single_label', labels=labels, group=group)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.floats(0, 1), st.sampled_from([.5, .8, .9, .95, .99]))
def test_shares_agree_with_statsmodels_and_scipy(n, share, level):
    x = round(n * share)
    low, high = proportion_confint(x, n, alpha=1 - level, method='wilson')
    assert wilson_interval(x, n, confidence_level=level) == (pytest.approx(max(low, 0), abs=1e-9), pytest.approx(min(high, 1), abs=1e-9))
    exact = stats.binomtest(x, n).proportion_ci(level, method='exact')
    assert clopper_pearson_interval(x, n, confidence_level=level) == (pytest.approx(exact.low, abs=1e-8), pytest.approx(exact.high, abs=1e-8))


@pytest.mark.parametrize('interval', [wilson_interval, clopper_pearson_interval])
def test_edges_of_shares(interval):
    low, high = interval(np.array([0, 20, 0, 0, 1]), np.array([20, 20, 0, 1, 1]))
    assert low[0] == 0 and 0 < high[0] < .25
    assert high[1] == 1 and .75 < low[1] < 1
    assert (low[2], high[2]) == (0, 1)
    assert low[3] == 0 and high[4] == 1 and high[3] == pytest.approx(1 - low[4])
    for bad in [(5, 4), (-1, 4), (np.nan, 4)]:
        with pytest.raises(InputError): interval(*bad)
    with pytest.raises(InputError): interval(1, 2, confidence_level=95)


def test_clopper_pearson_never_covers_less_than_it_says():
    for n in (5, 20, 57):
        low, high = clopper_pearson_interval(np.arange(n + 1), n)
        for p in np.linspace(.01, .99, 99):
            assert stats.binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum() >= .95


def _auc(y, p): return (stats.rankdata(p)[y == 1].sum() - y.sum() * (y.sum() + 1) / 2) / (y.sum() * (1 - y).sum()) # Mann-Whitney
def _f1(y, p): return 2 * (y * (p > .5)).sum() / (y.sum() + (p > .5).sum())


@pytest.mark.parametrize('name, statistic', [('roc_auc', _auc), ('brier', lambda y, p: ((y - p)**2).mean()), ('f1', _f1)])
@pytest.mark.parametrize('method', ['percentile', 'BCa'])
def test_bootstrap_agrees_with_scipy(name, statistic, method):
    "The same limits as `scipy.stats.bootstrap`, within the error of 3000 and 1000 resamples."
    preds = binormal(np.random.default_rng(1), 60)
    y, p = preds.target, preds.score[:, 1]
    theirs = stats.bootstrap((y, p), lambda a, b: statistic(a, b), paired=True, vectorized=False, n_resamples=1000, method=method, rng=0)
    ours = bootstrap_interval(preds, name, method=method, n_resamples=3000, seed=0)
    allowed = .3 * theirs.standard_error # a 2.5 % quantile of 1000 draws has a standard error of about .08 of this
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=allowed)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=allowed)


def test_bootstrap_standard_errors_are_those_of_theory():
    "Of a share: √(p(1−p)/n). In groups: that of the group means."
    rng = np.random.default_rng(0)
    hits = (rng.random(400) < .8).astype(int)
    preds = make_predictions(range(400), np.ones(400, int), hits * .8 + .1, task='single_label', labels=['a', 'b'])
    counts = np.concatenate(list(resample_counts(400, 4000, seed=0)))
    p = hits.mean()
    assert BoundMetric.of(preds, 'accuracy')(counts).std() == pytest.approx(np.sqrt(p * (1 - p) / 400), rel=.06)
    group = np.repeat(np.arange(40), 10)
    by_group = hits[np.argsort(hits, kind='stable')].reshape(40, 10).mean(1) # groups that agree within
    clustered = make_predictions(range(400), np.ones(400, int), np.sort(hits) * .8 + .1, task='single_label', labels=['a', 'b'], group=group)
    bound = BoundMetric.of(clustered, 'accuracy')
    draws = bound(np.concatenate(list(resample_counts(40, 4000, seed=0))))
    assert draws.std() == pytest.approx(by_group.std() / np.sqrt(40), rel=.06)


def test_the_same_seed_gives_the_same_table():
    preds = binormal(np.random.default_rng(0), 80, groups=20)
    table = lambda seed: estimate_metrics(preds, seed=seed, method='BCa', n_resamples=300)
    assert table(0).equals(table(0)) and not table(0).equals(table(1))


def test_adding_a_metric_does_not_change_another():
    preds = binormal(np.random.default_rng(0), 60)
    alone, together = [estimate_metrics(preds, names, seed=0, method='percentile', by_label=False) for names in (['roc_auc'], ['accuracy', 'f1', 'roc_auc'])]
    assert alone.iloc[0].equals(together.iloc[2])


def test_stratified_keeps_the_classes():
    preds = binormal(np.random.default_rng(0), 40, prevalence=.1, exact=True)
    plain, strata = [bootstrap_interval(preds, 'roc_auc', method='percentile', stratified=s, seed=0) for s in (False, True)]
    assert 'undefined and dropped' in plain.method and 'undefined' not in strata.method and 'stratified' in strata.method
    with pytest.raises(InputError): bootstrap_interval(binormal(np.random.default_rng(0), 40, groups=10), 'roc_auc', stratified=True, seed=0)
    with pytest.raises(InputError): bootstrap_interval(preds, 'roc_auc', n_resamples=10, seed=0)
    with pytest.raises(InputError): bootstrap_interval(preds, 'roc_auc', method='bca', seed=0)


def test_groups_of_one_item_change_nothing():
    preds = binormal(np.random.default_rng(0), 50)
    single = make_predictions(preds.ids, preds.target, preds.score, task='single_label', labels=preds.labels, group=preds.ids)
    assert estimate_metrics(preds, seed=0).equals(estimate_metrics(single, seed=0))


def test_copies_of_the_data_in_groups_change_nothing():
    "Ten copies of each item, grouped, hold no more than the items: an interval must not shrink."
    preds = binormal(np.random.default_rng(3), 60)
    rows = np.repeat(np.arange(60), 10)
    copies = make_predictions(range(600), preds.target[rows], preds.score[rows], task='single_label', labels=preds.labels, group=rows)
    for name in ['accuracy', 'balanced_accuracy', 'recall', 'precision', 'f1', 'roc_auc', 'pr_auc', 'log_loss', 'brier']:
        once, many = [estimate_metrics(x, name, by_label=False, seed=0).iloc[0] for x in (preds, copies)]
        assert many.value == pytest.approx(once.value, abs=.02)
        assert many.high - many.low > .95 * (once.high - once.low), name
        assert many.high - many.low < 1.25 * (once.high - once.low), name


@pytest.mark.parametrize('right', [0, 1])
def test_all_right_or_all_wrong(right):
    "n of n and 0 of n: no interval of width zero for a share or a ranking, and every method is named."
    y = np.repeat([0, 1], 15)
    preds = make_predictions(range(30), y, np.where(y == right, .9, .1), task='single_label', labels=['a', 'b'])
    for group in (None, np.repeat(np.arange(10), 3)):
        x = make_predictions(range(30), y, preds.score, task='single_label', labels=['a', 'b'], group=group)
        table = estimate_metrics(x, ['accuracy', 'balanced_accuracy', 'recall', 'f1', 'roc_auc'], by_label=False, seed=0)
        assert (table.value == right).all() and (table.low <= table.value).all() and (table.value <= table.high).all()
        assert (table.high - table.low > .04).all() and (table.high - table.low < .65).all(), table
    table = estimate_metrics(preds, ['brier', 'log_loss'], by_label=False, seed=0)
    assert table.method.str.contains('says nothing').all() # no spread: said, not hidden


def test_groups_that_agree_count_as_one_item_each():
    found = share_interval(np.ones(100), group=np.repeat(np.arange(10), 10))
    assert found.low < wilson_interval(10, 10)[0] + 1e-9 and found.n == 100
    assert np.isnan(share_interval(np.ones(10), group=np.zeros(10, int)).low)
    assert share_interval([1]).low == wilson_interval(1, 1)[0]


def test_what_is_undefined_or_rough_says_so():
    one = binormal(np.random.default_rng(0), 30).take(np.arange(30)[:30])
    only = one.take(one.target == 0)
    table = estimate_metrics(only, seed=0).set_index(['metric', 'label'])
    assert table.loc[('roc_auc', ''), 'method'] == 'undefined: no item is b' and np.isnan(table.loc[('roc_auc', ''), 'low'])
    assert table.loc[('recall', 'a'), 'value'] >= 0
    few = binormal(np.random.default_rng(0), 40, groups=4)
    assert estimate_metrics(few, 'accuracy', seed=0).method.str.contains('fewer than 10 groups').all()
    lone = estimate_metrics(one.take([0]), 'log_loss', seed=0).iloc[0]
    assert np.isfinite(lone.value) and np.isnan(lone.low) and 'fewer than two' in lone.method
    assert list(table.reset_index().columns[:2]) == METRIC_COLUMNS[:2]


def test_weights_widen():
    "A few heavy items hold less than many equal ones."
    rng = np.random.default_rng(0)
    base = binormal(rng, 200)
    heavy = np.where(np.arange(200) % 20 == 0, 20., 1.)
    preds = make_predictions(base.ids, base.target, base.score, task='single_label', labels=base.labels, weight=heavy)
    table = estimate_metrics(preds, ['accuracy', 'weighted_accuracy'], seed=0).set_index('metric')
    width = table.high - table.low
    assert width['weighted_accuracy'] > 1.5 * width['accuracy'] and 'weighted' in table.method['weighted_accuracy']
    assert table.value['weighted_accuracy'] == pytest.approx(sk.accuracy_score(base.target, base.prediction, sample_weight=heavy))
    scaled = make_predictions(base.ids, base.target, base.score, task='single_label', labels=base.labels, weight=heavy * 7)
    again = estimate_metrics(scaled, 'weighted_accuracy', seed=0).iloc[0]
    assert again.low == pytest.approx(table.low['weighted_accuracy'])


def test_auc_standard_error_is_delongs():
    "The jackknife's variance of the AUC is DeLong's, up to terms of order 1/n."
    preds = binormal(np.random.default_rng(5), 300)
    y, s = preds.target, preds.score[:, 1]
    psi = (s[y == 1][:, None] > s[y == 0]) + .5 * (s[y == 1][:, None] == s[y == 0])
    delong = psi.mean(1).var(ddof=1) / (y == 1).sum() + psi.mean(0).var(ddof=1) / (y == 0).sum()
    left = BoundMetric.of(preds, 'roc_auc').leave_one_out()
    assert (len(left) - 1) / len(left) * ((left - left.mean())**2).sum() == pytest.approx(delong, rel=.02)


def test_many_labels_and_other_tasks_have_sound_tables():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 120)
    score = rng.random((120, 4)) + 1.5 * np.eye(4)[y] * (rng.random((120, 1)) < .7)
    many = make_predictions(range(120), y, score / score.sum(1, keepdims=True), task='single_label', labels=list('abcd'))
    tags = rng.integers(0, 2, (90, 3))
    tagged = make_predictions(range(90), tags, np.clip(.5 * tags + .6 * rng.random((90, 3)), 0, 1), task='multi_label', labels=list('xyz'), group=np.arange(90) // 3)
    x = rng.normal(size=70)
    numbers = make_predictions(range(70), x, x + rng.normal(size=70), task='regression')
    for preds, rows in [(many, 9 + 4 * 5), (tagged, 8 + 3 * 5), (numbers, 3)]:
        table = estimate_metrics(preds, seed=0)
        assert len(table) == rows and (table.low <= table.value).all() and (table.value <= table.high).all() and (table.low < table.high).all() and (table.method != '').all()
    boot = bootstrap_interval(numbers, 'r2', seed=0, n_resamples=1000)
    jack = jackknife_interval(numbers, 'r2')
    assert jack.low == pytest.approx(boot.low, abs=.15) and jack.high == pytest.approx(boot.high, abs=.15)


def _truth(names, prevalence, gap):
    big = binormal(np.random.default_rng(99), 200_000, prevalence, gap)
    return {name: compute_metric(big, name) for name in names}


@pytest.mark.parametrize('n, prevalence, groups', [(50, .5, 0), (200, .2, 0), (200, .4, 20)])
def test_intervals_cover(n, prevalence, groups):
    """The default 95 % intervals cover 95 % of the time. Of 300 simulations a true 95 % gives fewer than 91.0 % or more
    than 98.7 % once in a thousand; `benchmarks/coverage.py` is the finer sieve."""
    names = ['accuracy', 'balanced_accuracy', 'f1', 'roc_auc', 'pr_auc', 'log_loss']
    truth, rng, hits = _truth(names, prevalence, 1.8), np.random.default_rng(2024), dict.fromkeys(names, 0)
    for _ in range(300):
        table = estimate_metrics(binormal(rng, n, prevalence, 1.8, groups), names, by_label=False, seed=0)
        for row in table.itertuples(): hits[row.metric] += row.low <= truth[row.metric] <= row.high
    share = {name: k / 300 for name, k in hits.items()}
    assert all(.91 <= s <= .987 for s in share.values()), share


def test_agreement_covers_where_a_class_is_rare():
    "MCC and kappa of 200 items with ten positives; an interval that covers by being endless would not do."
    names = ['mcc', 'kappa']
    truth, rng, rows = _truth(names, .05, 1.8), np.random.default_rng(2024), []
    for _ in range(400): rows += [(r.metric, r.low <= truth[r.metric] <= r.high, r.high - r.low) for r in estimate_metrics(binormal(rng, 200, .05, 1.8), names, by_label=False, seed=0).dropna().itertuples()]
    for name in names:
        covered, width = zip(*[row[1:] for row in rows if row[0] == name])
        assert .91 <= np.mean(covered) <= .983 and np.mean(width) < .6, (name, np.mean(covered), np.mean(width))


def test_positives_alone_in_their_groups_are_nearly_single_items():
    "Twelve positives in twelve of twenty groups: the recall of single items, of which hardly anything is paid for the groups."
    target = np.r_[np.ones(12, int), np.zeros(388, int)]
    group, score = np.r_[np.arange(12), np.arange(388) % 20], np.r_[np.full(8, .9), np.full(4, .1), np.full(388, .1)]
    grouped, alone = [estimate_metrics(make_predictions(range(400), target, score, task='single_label', labels=('a', 'b'), group=g), 'recall', by_label=False, seed=0).iloc[0] for g in (group, None)]
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=.06)


def test_ignoring_groups_would_not_cover():
    "The same data without their groups: the naive interval fails, so the test above can fail."
    truth, rng, hits = _truth(['recall'], .4, 1.8)['recall'], np.random.default_rng(2024), 0
    for _ in range(200):
        preds = binormal(rng, 400, .4, 1.8, 20)
        row = estimate_metrics(make_predictions(preds.ids, preds.target, preds.score, task='single_label', labels=preds.labels), 'recall', by_label=False, seed=0).iloc[0]
        hits += row.low <= truth <= row.high
    assert hits / 200 < .85
