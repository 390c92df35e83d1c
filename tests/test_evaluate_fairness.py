"""Fairness: the measures against fairlearn, what their intervals cover, thresholds against fairlearn's, and what they change."""
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fairlearn import metrics as fl
from fairlearn.postprocessing import ThresholdOptimizer
from hypothesis import example, given, settings, strategies as st
from sklearn.base import BaseEstimator

from sft_nb.core import InputError
from sft_nb.evaluate.fairness import FAIRNESS_COLUMNS, RATES, _both_axes, _decision_parts, _group_names, fit_thresholds, group_rates, measure_fairness
from sft_nb.evaluate.metrics import compute_metric
from sft_nb.records import COMPARISON_COLUMNS, make_predictions

ROOT = Path(__file__).parents[1]
MEASURES = [f'{m}_{k}' for k in ('difference', 'ratio') for m in ('demographic_parity', 'equal_opportunity', 'equalized_odds')]


def applicants(seed, n=800, lower=(0, .3, 1.1), groups=0, names='xyz', base=(.4, .4, .4)):
    "Scores that are lower by `lower` for the same suitability; whole groups of people are of one kind, if there are groups."
    rng = np.random.default_rng(seed)
    group = np.arange(n) * groups // n if groups else None
    noise = (lambda: np.sqrt(.3) * rng.normal(size=groups)[group] + np.sqrt(.7) * rng.normal(size=n)) if groups else lambda: rng.normal(size=n)
    kind = rng.choice(len(lower), groups or n, p=np.array([.5, .3, .2])[:len(lower)] / sum([.5, .3, .2][:len(lower)]))
    kind = kind[group] if groups else kind
    y = (rng.random(n) < np.array(base)[kind]).astype(int)
    score = 1 / (1 + np.exp(-(2.2 * y - 1.2 - np.array(lower)[kind] + noise())))
    return make_predictions([f'{seed}-{i}' for i in range(n)], y, score, task='single_label', labels=['no', 'yes'], slices=pd.DataFrame({'age': np.array(list(names))[kind]}),
                            group=None if group is None else [f'{seed}-{g}' for g in group])


# --- Measures ---------------------------------------------------------------------------------------------------------

@settings(max_examples=10, deadline=None)
@example(21481, 3) # a group without a positive: its rate of true positives does not exist, and of both rates the other is the worse one
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_measures_agree_with_fairlearn(seed, columns):
    "One sensitive column or the combinations of several, whatever the sizes of the groups."
    rng = np.random.default_rng(seed)
    preds = applicants(seed, 150, (0, rng.uniform(0, 2), rng.uniform(0, 2)))
    extra = {'sex': rng.choice(['f', 'm'], 150), 'site': rng.choice(['1', '2'], 150)}
    preds = replace(preds, slices=preds.slices.assign(**extra))
    by = ['age', 'sex', 'site'][:columns]
    table = measure_fairness(preds, by, min_n=1)
    assert list(table.columns) == FAIRNESS_COLUMNS and list(table.metric) == MEASURES
    for row in table.itertuples():
        theirs = getattr(fl, row.metric)(preds.target, preds.prediction, sensitive_features=preds.slices[by])
        if row.left_out: continue # a rate that does not exist in some group: fairlearn calls it 0
        assert row.value == pytest.approx(theirs, nan_ok=True)
        if np.isfinite(row.low): assert row.low <= row.value + 1e-12 and row.value <= row.high + 1e-12


def test_rates_agree_with_fairlearn():
    preds = applicants(0)
    table = group_rates(preds, 'age').set_index(['metric', 'slice'])
    for name in RATES:
        theirs = fl.MetricFrame(metrics=getattr(fl, name), y_true=preds.target, y_pred=preds.prediction, sensitive_features=preds.slices.age).by_group
        assert [table.value[name, f'age={g}'] for g in theirs.index] == pytest.approx(list(theirs))
    assert table.n['true_positive_rate', 'age=x'] == preds.target[preds.slices.age == 'x'].sum() and set(table.index.get_level_values(0)) == {*RATES, 'accuracy'}


def test_equalised_odds_splits_its_error():
    "Two rates are looked at, so that the interval is wider than that of either alone."
    preds = applicants(3, lower=(0, .8), names='xy')
    table = measure_fairness(preds, 'age').set_index('metric')
    assert table.value['equalized_odds_difference'] == table.value['equal_opportunity_difference']
    assert table.low['equalized_odds_difference'] < table.low['equal_opportunity_difference'] and table.p_value['equalized_odds_difference'] >= table.p_value['equal_opportunity_difference']
    assert table.confidence_level.eq(.95).all()


def test_reading_of_four_fifths():
    def rates(a, b, n):
        call = np.r_[np.arange(n) < a * n, np.arange(n) < b * n]
        preds = make_predictions(range(2 * n), np.arange(2 * n) % 2, call.astype(float), task='single_label', labels=['no', 'yes'], slices=pd.DataFrame({'sex': np.repeat(['f', 'm'], n)}))
        return measure_fairness(preds, 'sex').set_index('metric').loc['demographic_parity_ratio']
    assert rates(.5, .25, 500).reading == 'below four fifths'
    assert rates(.5, .49, 2000).reading == 'four fifths or more'
    assert rates(.5, .3, 20).value < .8 and rates(.5, .3, 20).reading == 'four fifths cannot be ruled in or out', 'small numbers'
    assert rates(0, 0, 100).reading == 'cannot be computed'


def test_groups_too_small_or_without_positives_are_named():
    preds = applicants(0)
    age = preds.slices.age.to_numpy(object)
    age[:3] = 'tiny'
    age[3:40] = None
    age[np.flatnonzero(preds.target == 0)[-30:]] = 'unsuitable'
    preds = replace(preds, slices=pd.DataFrame({'age': age}))
    table = measure_fairness(preds, 'age').set_index('metric')
    assert 'age=tiny (n < 20)' in table.left_out['demographic_parity_difference']
    assert 'age=unsuitable (undefined: no item is yes)' in table.left_out['equal_opportunity_difference'] and np.isfinite(table.low['equal_opportunity_difference'])
    rates = group_rates(preds, 'age')
    assert 'age=(missing)' in set(rates.slice) and rates[rates.slice == 'age=(missing)'].value.notna().all(), 'who is not known is a group'
    few = applicants(1, 300)
    few = replace(few, target=np.where((few.slices.age == 'z') & (np.arange(300) > 40), 0, few.target))
    rows = group_rates(few, 'age').set_index(['metric', 'slice'])
    assert rows.n['true_positive_rate', 'age=z'] < 10 and 'Caution' in rows.method['true_positive_rate', 'age=z'] and rows.high['true_positive_rate', 'age=z'] - rows.low['true_positive_rate', 'age=z'] > .3


def test_bad_input_says_what_to_do():
    preds = applicants(0)
    three = make_predictions(range(60), np.arange(60) % 3, np.full((60, 3), 1/3), task='single_label', labels=list('abc'), slices=pd.DataFrame({'age': ['x', 'y'] * 30}))
    numbers = make_predictions(range(60), np.arange(60.), np.arange(60.), task='regression', slices=pd.DataFrame({'age': ['x', 'y'] * 30}))
    for bad in (three, numbers):
        for call in (measure_fairness, group_rates, fit_thresholds):
            with pytest.raises(InputError, match='two labels.*Set the favourable label'): call(bad, 'age')
    favourable = make_predictions(three.ids, (three.target == 2).astype(int), three.score[:, 2], task='single_label', labels=['other', 'favourable'], slices=three.slices)
    assert len(measure_fairness(favourable, 'age')) == 6, 'what the error advises works'
    with pytest.raises(InputError, match=r'at least two groups of 20 items, but got age=one \(n = 800\)'): measure_fairness(replace(preds, slices=pd.DataFrame({'age': ['one'] * 800})), 'age')
    with pytest.raises(InputError, match=r'age=a \(n = 797\), age=b \(n = 3\)'): measure_fairness(replace(preds, slices=pd.DataFrame({'age': ['a'] * 797 + ['b'] * 3})), 'age')
    with pytest.raises(InputError, match='`age`'): measure_fairness(preds, 'agee')
    with pytest.raises(InputError, match='sensitive column'): measure_fairness(preds, [])


@pytest.mark.parametrize('lower, groups', [((0, 0, 0), 0), ((0, .3, 1.1), 0), ((0, 1.1), 60)])
def test_intervals_cover_the_true_differences(lower, groups):
    "Of 40 data sets the intervals of all six measures hold the true values in at least 36 (a true 95 % gives fewer in 5 of a hundred such runs; they are meant to hold more)."
    truth = applicants(10**6, 100_000, lower)
    true, hits = [getattr(fl, m)(truth.target, truth.prediction, sensitive_features=truth.slices.age) for m in MEASURES], []
    if not any(lower): true = [0] * 3 + [1] * 3
    for seed in range(40):
        table = measure_fairness(applicants(seed, 600, lower, groups), 'age')
        hits.append(((table.low <= np.array(true) + 1e-9) & (np.array(true) <= table.high + 1e-9)).to_numpy())
    assert (np.mean(hits, 0) >= .9).all(), np.mean(hits, 0)


# --- Thresholds -------------------------------------------------------------------------------------------------------

class Scores(BaseEstimator):
    def fit(self, X, y): return self
    def predict_proba(self, X): return X
    def __sklearn_is_fitted__(self): return True


@pytest.mark.parametrize('constraint, theirs', [('demographic_parity', 'demographic_parity'), ('equal_opportunity', 'true_positive_rate_parity'), ('equalized_odds', 'equalized_odds')])
@pytest.mark.parametrize('objective', ['accuracy', 'balanced_accuracy'])
def test_thresholds_are_fairlearns(constraint, theirs, objective):
    "The probability of a favourable decision is what fairlearn draws from, and the mean of what it draws."
    valid, test = applicants(1), applicants(2, 300)
    ours = fit_thresholds(valid, 'age', constraint=constraint, objective=objective).apply(test)
    optimizer = ThresholdOptimizer(estimator=Scores(), constraints=theirs, objective=objective + '_score', prefit=True, predict_method='predict_proba')
    optimizer.fit(valid.score, valid.target, sensitive_features=valid.slices.age)
    assert ours == pytest.approx(optimizer._pmf_predict(test.score, sensitive_features=test.slices.age)[:, 1])
    drawn = np.mean([optimizer.predict(test.score, sensitive_features=test.slices.age, random_state=i) for i in range(100)], 0)
    assert abs(ours - drawn).max() < .22 and abs((ours - drawn).mean()) < .01


@pytest.mark.parametrize('constraint', ['demographic_parity', 'equal_opportunity', 'equalized_odds'])
def test_equal_where_they_were_chosen(constraint):
    valid = applicants(1)
    thresholds, names = fit_thresholds(valid, 'age', constraint=constraint), _group_names(valid, ['age'])
    parts = _decision_parts(valid, [valid.prediction == 1, thresholds.apply(valid)], names, sorted(set(names)))
    after = dict(zip(['demographic_parity', 'equal_opportunity', 'equalized_odds'], _both_axes(parts.sum(0), 1)))
    assert after[constraint] == pytest.approx(0, abs=2e-3)


def test_before_and_after_by_hand():
    "Before is what the measures say of the predictions; after, what they say of the expected decisions."
    valid, test = applicants(1), applicants(2)
    thresholds = fit_thresholds(valid, 'age', constraint='demographic_parity')
    table = thresholds.measure(test, seed=0)
    assert list(table.columns) == COMPARISON_COLUMNS
    rows, before, q, y = table.set_index('metric'), measure_fairness(test, 'age').set_index('metric').value, thresholds.apply(test), test.target
    for m in MEASURES[:3]: assert rows.baseline_value[m] == pytest.approx(before[m])
    for m in ('accuracy', 'balanced_accuracy'): assert rows.baseline_value[m] == pytest.approx(compute_metric(test, m))
    assert rows.value['accuracy'] == pytest.approx(np.mean(np.where(y, q, 1 - q)))
    assert rows.value['balanced_accuracy'] == pytest.approx((q[y == 1].mean() + (1 - q[y == 0]).mean()) / 2)
    assert rows.value['demographic_parity_difference'] == pytest.approx(np.ptp(pd.Series(q).groupby(test.slices.age).mean()))
    assert (table.difference == table.value - table.baseline_value).all() and (table.low <= table.difference).all() and (table.difference <= table.high).all()
    assert ((table.p_value < .05) == ((table.low > 0) | (table.high < 0))).mean() >= .8
    pd.testing.assert_frame_equal(table, thresholds.measure(test, seed=0))
    halves = make_predictions(test.ids, y, test.score[:, 1], task='single_label', labels=test.labels, slices=test.slices, group=np.arange(800) // 8)
    assert 'clustered in 100 groups' in thresholds.measure(halves, seed=0).method[0]


def test_changes_cover():
    """Thresholds fixed, new test sets: the change in fairness and in accuracy is held by at least 88 % of 50 intervals, where there
    is a difference to mend and where there is none. (A true 92 % gives less than 88 % in 13 of a hundred such runs; the
    percentile interval alone holds 87 %, the basic one 76 %; larger simulations on the page.)"""
    for lower in [(0, .3, 1.1), (0, 0, 0)]:
        thresholds, truth = fit_thresholds(applicants(10**6, 1500, lower), 'age'), applicants(10**6 + 1, 200_000, lower)
        names = _group_names(truth, ['age'])
        totals = _decision_parts(truth, [truth.prediction == 1, thresholds.apply(truth)], names, sorted(set(names))).sum(0)
        true, hits = _both_axes(totals, 1) - _both_axes(totals, 0), []
        for seed in range(50):
            table = thresholds.measure(applicants(seed, 800, lower), seed=seed, n_resamples=300)
            hits.append((table.low <= true) & (true <= table.high))
        assert (np.mean(hits, 0) >= .86).all() and np.mean(hits) > .92, np.mean(hits, 0)


def test_what_is_said():
    valid, test = applicants(1, 2000), applicants(2, 2000)
    thresholds = fit_thresholds(valid, 'age')
    table = thresholds.measure(test, seed=0)
    said = thresholds.explain(table)
    assert 'Equalized odds difference fell from' in said and 'Fairness was gained' in said and said.startswith('2000 test items, thresholds by age.')
    fair = fit_thresholds(applicants(3, 2000, (0, 0, 0)), 'age').measure(applicants(4, 2000, (0, 0, 0)), seed=0)
    assert 'No gain in fairness is shown' in thresholds.explain(fair)
    costly = table.assign(low=[-.2] * 3 + [-.04, -.01], high=[-.1] * 3 + [-.02, .01], difference=[-.15] * 3 + [-.03, 0])
    assert thresholds.explain(costly).endswith('Fairness was gained at the price of accuracy.')
    assert thresholds.explain(costly.assign(low=[-.2] * 3 + [-.01, .02], high=[-.1] * 3 + [.01, .04])).endswith('at no price that these items can show, and balanced accuracy with it: one threshold of ½ was not the best.')


def test_the_test_split_stays_sealed():
    valid = applicants(1)
    thresholds = fit_thresholds(valid, 'age')
    with pytest.raises(InputError, match=r'800 of the same \(id 1-0, id 1-1, id 1-2, …\)'): thresholds.measure(valid, seed=0)
    people = replace(applicants(2), group=np.repeat(np.arange(80), 10).astype(str))
    fitted = fit_thresholds(replace(valid, group=people.group), 'age')
    with pytest.raises(InputError, match='80 of the same .group 0'): fitted.measure(people, seed=0)


def test_groups_that_cannot_be_fitted_come_all_at_once():
    valid = applicants(1)
    age = valid.slices.age.to_numpy(object)
    age[:3], age[np.flatnonzero(valid.target == 1)[-25:]] = 'tiny', 'only yes'
    with pytest.raises(InputError) as e: fit_thresholds(replace(valid, slices=pd.DataFrame({'age': age})), 'age', constraint='fair', objective='f1')
    assert len(e.value.problems) == 4 and 'age=tiny' in str(e.value) and 'only yes' in str(e.value)
    with pytest.raises(InputError, match='at least two groups'): fit_thresholds(replace(valid, slices=pd.DataFrame({'age': ['one'] * 800})), 'age')
    with pytest.raises(InputError, match='one training run'): fit_thresholds(replace(valid, seed=np.repeat('s', 800)), 'age')
    with pytest.raises(InputError, match='with scores'): fit_thresholds(replace(valid, has_score=False), 'age')
    thresholds = fit_thresholds(valid, 'age')
    other = applicants(2, names='xyq')
    with pytest.raises(InputError, match='age=q .* items'): thresholds.apply(other)
    with pytest.raises(InputError, match='labels of `test`'): thresholds.measure(replace(applicants(2), labels=('nein', 'ja')), seed=0)
    small = applicants(2, 60)
    assert 'left out of fairness: age=z' in thresholds.measure(small, seed=0).method[0]


def test_missing_values_have_a_threshold_of_their_own():
    valid, test = [replace(p, slices=p.slices.assign(age=p.slices.age.where(p.slices.age != 'z'))) for p in (applicants(1), applicants(2))]
    thresholds = fit_thresholds(valid, 'age')
    assert 'age=(missing)' in set(thresholds.table.group) and np.isfinite(thresholds.apply(test)).all() and np.isfinite(thresholds.measure(test, seed=0).low).all()


def test_combinations_of_columns():
    rng = np.random.default_rng(0)
    valid, test = [replace(p, slices=p.slices.assign(sex=rng.choice(['f', 'm'], 800))) for p in (applicants(1), applicants(2))]
    thresholds = fit_thresholds(valid, ['age', 'sex'])
    assert len(thresholds.table) == 6 and 'age=x and sex=f' in set(thresholds.table.group) and len(thresholds.measure(test, seed=0)) == 5


def test_fairlearn_is_only_needed_for_thresholds(monkeypatch):
    monkeypatch.setitem(sys.modules, 'fairlearn.postprocessing', None)
    assert len(measure_fairness(applicants(0), 'age')) == 6
    with pytest.raises(ImportError, match=r'pip install "sft_nb\[fairness\]"'): fit_thresholds(applicants(0), 'age')


def test_no_torch():
    "Neither this page nor fairlearn loads it."
    code = ("import sys; sys.path[:0] = ['.', 'tests']\nfrom test_evaluate_fairness import applicants, fit_thresholds\n"
            "fit_thresholds(applicants(1), 'age').measure(applicants(2), seed=0)\nprint('fairlearn.postprocessing' in sys.modules, 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ['True', 'False'], done.stdout + done.stderr
