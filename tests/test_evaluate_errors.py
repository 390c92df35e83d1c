"""Confused pairs, doubtful labels against cleanlab and planted noise, and selective prediction against brute force and by simulation."""
import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cleanlab.count import compute_confident_joint
from cleanlab.filter import find_label_issues
from hypothesis import given, settings, strategies as st
from scipy import stats
from scipy.special import softmax
from sklearn import metrics as sk

from sft_nb.core import InputError
from sft_nb.evaluate.compare import compare_predictions
from sft_nb.evaluate.errors import (_AREAS, _confident_joint, choose_threshold, compare_without_suspects, confused_pairs, error_tables, estimate_label_noise,
                                    risk_coverage_curve, sample_examples, selective_metrics, suspect_labels)
from sft_nb.evaluate.intervals import estimate_metrics
from sft_nb.evaluate.shares import share_interval, wilson_interval
from sft_nb.evaluate.metrics import BoundMetric
from sft_nb.records import COMPARISON_COLUMNS, METRIC_COLUMNS, Evaluation, make_predictions

AURC, E_AURC = _AREAS


def sort(rng, n, k=4, skill=4., noise=0., **kw):
    "A model of `skill` on k labels, of which a share of `noise` is then replaced by another one."
    truth = rng.integers(0, k, n)
    score = softmax(skill * np.eye(k)[truth] + rng.normal(size=(n, k)), axis=1)
    wrong = rng.random(n) < noise
    given = np.where(wrong, (truth + rng.integers(1, k, n)) % k, truth)
    return make_predictions(range(n), given, score, task='single_label', labels=[f'c{i}' for i in range(k)], **kw), wrong


def answer(rng, n, **kw):
    "Confidence uniform on [.5, 1], and right with just that probability: above a threshold t the risk is (1 − t) / 2."
    sure, truth = rng.uniform(.5, 1, n), rng.integers(0, 2, n)
    call = np.where(rng.random(n) < sure, truth, 1 - truth)
    return make_predictions(range(n), truth, np.where(call == 1, sure, 1 - sure), task='single_label', labels=['a', 'b'], **kw)


def given_order(wrong, sure=None, **kw):
    "Two labels with these mistakes, the surest first unless `sure` says otherwise."
    wrong = np.asarray(wrong)
    sure = np.linspace(.99, .51, len(wrong)) if sure is None else np.asarray(sure)
    return make_predictions(range(len(wrong)), wrong.astype(int), 1 - sure, task='single_label', labels=['right', 'wrong'], **kw)


def test_first_half_of_the_examples_are_the_top_losses():
    preds, _ = sort(np.random.default_rng(0), 1000, skill=1.5)
    loss = np.sort(-np.log(preds.score[np.arange(1000), preds.target]))[::-1]
    assert np.allclose(sample_examples(preds, max_rows=100).loss[:50], loss[:50])


# --- Confused pairs -------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(2, 6), st.integers(0, 10**6))
def test_pairs_are_the_confusion_matrix(n, k, seed):
    preds, _ = sort(np.random.default_rng(seed), n, k, skill=1.)
    matrix, table = sk.confusion_matrix(preds.target, preds.prediction, labels=range(k)), confused_pairs(preds)
    for row in table.itertuples():
        t, p = preds.labels.index(row.target), preds.labels.index(row.prediction)
        assert row.count == matrix[t, p] > 0 and row.n == matrix[t].sum() and row.value == pytest.approx(row.count / row.n)
        assert (row.low, row.high) == pytest.approx(wilson_interval(row.count, row.n), abs=1e-9)
    assert table['count'].sum() == n - np.trace(matrix) and (table.low.diff().dropna() <= 0).all()


def test_the_surest_pair_comes_first():
    target = np.r_[np.zeros(100, int), np.ones(3, int), np.full(50, 2)]
    call = np.r_[np.ones(40, int), np.zeros(60, int), [0, 0, 1], np.full(50, 2)]
    table = confused_pairs(make_predictions(range(153), target, np.eye(3)[call] * .7 + .1, task='single_label', labels=['a', 'b', 'c']))
    assert table[['target', 'prediction']].values.tolist() == [['a', 'b'], ['b', 'a']] and table.value[1] > table.value[0]


def test_pairs_without_mistakes_in_groups_and_of_other_tasks():
    preds, _ = sort(np.random.default_rng(0), 60, skill=60.)
    table = confused_pairs(preds)
    assert len(table) == 0 and 'count' in table and list(table.columns)[:4] == ['target', 'prediction', 'count', 'n']
    hard, _ = sort(np.random.default_rng(0), 200, 2, skill=1., group=np.arange(200) // 20)
    clustered = replace(hard, score=hard.score[np.argsort(hard.prediction == hard.target, kind='stable')], target=hard.target[np.argsort(hard.prediction == hard.target, kind='stable')])
    assert (confused_pairs(clustered).eval('high - low') > confused_pairs(replace(clustered, group=None)).eval('high - low')).all()
    for other in (make_predictions([1], [1.], [1.], task='regression'), make_predictions([1], [[1, 0]], [[.5, .5]], task='multi_label', labels=['x', 'y'])):
        for ask in (confused_pairs, suspect_labels): 
            with pytest.raises(InputError, match='one label an item'): ask(other)


# --- Doubtful labels ------------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(st.integers(5, 120), st.integers(2, 6), st.integers(0, 10**6), st.floats(0, 4))
def test_confident_joint_is_that_of_cleanlab(n, k, seed, skill):
    "cleanlab's counts, scaled by its documented formula without the rounding; labels that nobody has included."
    rng = np.random.default_rng(seed)
    preds, _ = sort(rng, n, k, skill, noise=.1)
    counts = compute_confident_joint(preds.target, preds.score, calibrate=False)
    joint = counts / np.maximum(counts.sum(1, keepdims=True), 1) * np.bincount(preds.target, minlength=k)[:, None]
    assert np.allclose(_confident_joint(preds.target, preds.score)(np.ones(n)), joint / joint.sum())
    drawn = rng.integers(0, 4, n)
    if drawn.sum(): assert np.allclose(_confident_joint(preds.target, preds.score)(drawn.astype(float)),
                                       _confident_joint(np.repeat(preds.target, drawn), np.repeat(preds.score, drawn, 0))(np.ones(drawn.sum())))


def test_suspects_are_cleanlabs_and_mostly_planted():
    preds, planted = sort(np.random.default_rng(0), 1000, noise=.05)
    table = suspect_labels(preds)
    assert table.index.tolist() == find_label_issues(preds.target, preds.score, return_indices_ranked_by='self_confidence', n_jobs=1).tolist()
    assert planted[table.index].mean() > .8 and planted[table.index].sum() > .8 * planted.sum()
    assert (table.id.values == preds.ids[table.index]).all() and (table.target != table.suggestion).all() and table.score_target.is_monotonic_increasing
    row = table.iloc[0]
    assert row.score_suggestion == preds.score[table.index[0]].max() and row.suggestion == preds.labels[preds.prediction[table.index[0]]]


@pytest.mark.parametrize('noise', [0., .05, .1, .2])
def test_planted_noise_is_found_by_a_good_model(noise):
    preds, planted = sort(np.random.default_rng(3), 2000, skill=6., noise=noise)
    row = estimate_label_noise(preds, seed=0, n_resamples=200).iloc[0]
    assert row.low <= planted.mean() <= row.high and .0015 < row.high - row.low < .05 # none found is not none there
    assert 'sampling error only' in row.method and row.n == 2000


def test_a_weak_model_finds_noise_that_is_not_there():
    "What the interval does not hold, and says so."
    preds, planted = sort(np.random.default_rng(0), 2000, skill=1.5, noise=.05)
    assert estimate_label_noise(preds, seed=0, n_resamples=100).low[0] > 2 * planted.mean()


@pytest.mark.parametrize('skill, noise, groups', [(4., .1, 0), (2., .05, 0), (4., .1, 40)])
def test_noise_interval_covers_what_endless_data_would_give(skill, noise, groups):
    def make(rng, n):
        if not groups: return sort(rng, n, 3, skill, noise)[0]
        preds, _ = sort(rng, n, 3, skill, group=np.arange(n) // (n // groups))
        swapped = np.repeat(rng.random(groups) < 2 * noise, n // groups) & (rng.random(n) < .5) # careless annotators
        return replace(preds, target=np.where(swapped, (preds.target + 1) % 3, preds.target))
    if groups: truth = estimate_label_noise(replace(join([make(np.random.default_rng(10**6 + i), 400) for i in range(300)]), group=None), seed=0, n_resamples=100).value[0]
    else: truth = estimate_label_noise(make(np.random.default_rng(10**6), 200_000), seed=0, n_resamples=100).value[0]
    found = [estimate_label_noise(make(np.random.default_rng(i), 400), seed=i, n_resamples=100).iloc[0] for i in range(80)]
    assert np.mean([r.low <= truth <= r.high for r in found]) >= .88


def join(many):
    return replace(many[0], ids=np.arange(sum(map(len, many))).astype(str), target=np.concatenate([p.target for p in many]), score=np.concatenate([p.score for p in many]))


def test_no_suspects_is_no_noise_whatever_the_rounding():
    "A model that is right with everything, on data sets whose shares of labels do not add up to 1 in floating point."
    for n in range(60, 140):
        target = np.arange(n) % 7
        table = estimate_label_noise(make_predictions(range(n), target, np.eye(7)[target] * .93 + .01, task='single_label', labels=list('abcdefg')), seed=0, n_resamples=40)
        assert table.value.between(0, 1e-12).all() and (table.low < 1e-12).all(), n


def test_noise_of_each_label_and_its_edges():
    rng = np.random.default_rng(0)
    preds, _ = sort(rng, 600, 3, 6.)
    swap = (preds.target == 1) & (rng.random(600) < .3) # c1 is often written as c2
    preds = replace(preds, target=np.where(swap, 2, preds.target))
    table = estimate_label_noise(preds, seed=0).set_index('label')
    assert table.value['c2'] > .15 and table.value['c0'] < .02 and table.n['c2'] == (preds.target == 2).sum() and list(table.reset_index()[METRIC_COLUMNS].columns) == METRIC_COLUMNS
    assert (table.low <= table.value).all() and (table.value <= table.high).all()
    missing = estimate_label_noise(preds.take(preds.target != 0), seed=0, n_resamples=100).set_index('label')
    assert missing.method['c0'] == 'undefined: no item is c0' and np.isnan(missing.value['c0']) and np.isfinite(missing.low[''])
    only = preds.take(preds.target == 1)
    for ask in (suspect_labels, lambda p: estimate_label_noise(p, seed=0), lambda p: compare_without_suspects(p, seed=0)):
        with pytest.raises(InputError, match='at least 2 labels'): ask(only)
    with pytest.raises(InputError, match='n_resamples'): estimate_label_noise(preds, seed=0, n_resamples=10)
    assert np.isnan(estimate_label_noise(replace(preds, group=np.array(['g'] * 600)), seed=0, n_resamples=100).low[0])
    assert estimate_label_noise(preds, seed=1, n_resamples=100).equals(estimate_label_noise(preds, seed=1, n_resamples=100))


def test_scores_without_suspects():
    preds, planted = sort(np.random.default_rng(0), 1000, skill=3., noise=.06)
    table = compare_without_suspects(preds, seed=0)
    clean = np.ones(1000, bool)
    clean[suspect_labels(preds).index] = False
    for suffix, some in [('', preds), ('_without', preds.take(clean))]:
        direct = estimate_metrics(some, by_label=False, seed=0)
        for c in ('value', 'low', 'high', 'n'): assert np.allclose(table[c + suffix], direct[c])
    truly = (preds.prediction == preds.target)[~planted].mean()
    accuracy = table.set_index('metric').loc['accuracy']
    assert accuracy.value < truly < accuracy.value_without and 'optimistic' in accuracy.method and f'{(~clean).sum()} suspects' in accuracy.method
    right, _ = sort(np.random.default_rng(0), 100, skill=60.)
    unchanged = compare_without_suspects(right, 'accuracy', seed=0).iloc[0]
    assert (unchanged.value_without, unchanged.n_without) == (1, 100)


# --- Selective prediction -------------------------------------------------------------------------------------------

def aurc_by_hand(wrong, sure):
    "Geifman & El-Yaniv (2017): the mean of the selective risks; over all orders of equal confidences."
    order = np.argsort(-np.asarray(sure), kind='stable')
    wrong, sure = np.asarray(wrong)[order], np.asarray(sure)[order]
    blocks = [np.flatnonzero(sure == v) for v in np.unique(sure)[::-1]]
    areas = [(wrong[np.concatenate(way)].cumsum() / np.arange(1, len(wrong) + 1)).mean() for way in itertools.product(*(map(list, itertools.permutations(b)) for b in blocks))]
    return np.mean(areas)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=7))
def test_areas_by_brute_force(items):
    wrong, sure = np.array([w for w, _ in items]), .55 + .1 * np.array([s for _, s in items])
    bound = BoundMetric.of(given_order(wrong, sure), AURC)
    assert bound.value == pytest.approx(aurc_by_hand(wrong, sure))
    best = (np.sort(wrong).cumsum() / np.arange(1, len(wrong) + 1)).mean()
    assert BoundMetric.of(given_order(wrong, sure), E_AURC).value == pytest.approx(max(bound.value - best, 0), abs=1e-12)
    drawn = np.random.default_rng(len(items)).integers(0, 3, len(items))
    each = 1 - np.eye(len(items))
    if len(items) > 1:
        for spec in _AREAS:
            tied = BoundMetric.of(given_order(wrong, sure), spec)
            assert tied.leave_one_out() == pytest.approx(tied(each), abs=1e-12)
    if 0 < drawn.sum() < 9: assert bound(drawn) == pytest.approx(aurc_by_hand(np.repeat(wrong, drawn), np.repeat(sure, drawn)))


def test_excess_area_approaches_the_published_formula():
    preds = answer(np.random.default_rng(0), 20_000)
    r = (preds.prediction != preds.target).mean()
    aurc, e_aurc = [BoundMetric.of(preds, spec).value for spec in _AREAS]
    assert e_aurc == pytest.approx(aurc - (r + (1 - r) * np.log(1 - r)), abs=1e-4)
    assert aurc == pytest.approx(1 / 8, abs=.005) # the mean over coverages c of the risk c / 4


@pytest.mark.parametrize('n', [60, 300])
def test_area_interval_covers(n):
    big = answer(np.random.default_rng(99), 400_000)
    truths = [BoundMetric.of(big, spec).value for spec in _AREAS]
    hits = [[r.low <= truth <= r.high for truth, r in zip(truths, selective_metrics(answer(np.random.default_rng(i), n), coverages=()).itertuples())] for i in range(120)]
    assert (np.mean(hits, 0) >= .9).all(), np.mean(hits, 0)


def test_areas_can_be_compared():
    rng = np.random.default_rng(0)
    good = answer(rng, 600)
    shuffled = rng.uniform(.5, 1, 600)
    aimless = replace(good, score=np.where(good.score > .5, shuffled[:, None], 1 - shuffled[:, None]))
    aimless = replace(aimless, score=np.where(good.score[:, [1]] > .5, np.c_[1 - shuffled, shuffled], np.c_[shuffled, 1 - shuffled]))
    row = compare_predictions(good, aimless, metrics=[E_AURC], seed=0).iloc[0]
    assert (good.prediction == aimless.prediction).all() and row.high < 0 and row.p_value < .01


def test_curve_by_hand():
    preds = answer(np.random.default_rng(0), 150)
    wrong, sure = preds.prediction != preds.target, preds.score.max(1)
    curve = risk_coverage_curve(preds, max_rows=1000)
    assert len(curve) == 150 and curve.coverage.tolist() == pytest.approx(np.arange(1, 151) / 150)
    for row in curve.iloc[::10].itertuples():
        inside = sure >= row.threshold
        assert row.n == inside.sum() and row.risk == pytest.approx(wrong[inside].mean())
        assert (row.low, row.high) == pytest.approx(wilson_interval(wrong[inside].sum(), inside.sum()), abs=1e-9)
    short = risk_coverage_curve(preds, max_rows=10)
    assert short.coverage.tolist() == pytest.approx(np.arange(1, 11) / 10) and short.threshold.is_monotonic_decreasing
    tied = risk_coverage_curve(given_order([0, 1, 1, 0], [.9, .9, .6, .6]))
    assert tied.coverage.tolist() == [.5, 1] and tied.risk.tolist() == [.5, .5]
    grouped = replace(preds, group=np.repeat(np.arange(15), 10).astype(str))
    last = risk_coverage_curve(grouped).iloc[-1]
    assert (last.low, last.high) == pytest.approx(share_interval(wrong, group=grouped.group)[1:3])


def test_selective_accuracy():
    preds = answer(np.random.default_rng(1), 1000)
    table = selective_metrics(preds, coverages=(.1, .5, 1)).set_index('slice')
    order = np.argsort(-preds.score.max(1))
    right = (preds.prediction == preds.target)[order]
    for c, n in [(.1, 100), (.5, 500), (1, 1000)]:
        row = table.loc[f'coverage={c:g}']
        assert row.metric == 'selective_accuracy' and row.n == n and row.value == pytest.approx(right[:n].mean())
    tied = selective_metrics(given_order([0, 1, 1, 0], [.9, .9, .6, .6]), coverages=(.25,)).iloc[-1]
    assert tied.n == 2 and 'ties, so that 50.0% are answered' in tied.method
    with pytest.raises(InputError): selective_metrics(preds, coverages=(0, .5))
    hits = [r.low <= .75 + .25 * .5 <= r.high for r in (selective_metrics(answer(np.random.default_rng(i), 200), coverages=(.5,)).iloc[-1] for i in range(200))]
    assert np.mean(hits) >= .92 # true accuracy above the median confidence, .75, is .875


@pytest.mark.parametrize('wrong, value', [(0, 0.), (1, 1.)])
def test_all_right_and_all_wrong(wrong, value):
    preds = given_order(np.full(50, bool(wrong)))
    table = selective_metrics(preds).set_index('metric')
    aurc = table.loc['aurc']
    assert aurc.value == pytest.approx(value) and (aurc.low, aurc.high) == pytest.approx(wilson_interval(50 * wrong, 50)) and 'answer is wrong' in aurc.method
    assert table.value['e_aurc'] == pytest.approx(0, abs=1e-12) and (table.high >= table.value - 1e-12).all()
    assert risk_coverage_curve(preds).risk.eq(value).all()
    choice = choose_threshold(preds, preds, target_risk=.2).set_index('split')
    if wrong: assert np.isnan(choice.threshold['valid']) and choice.n['test'] == 0 and choice.method['test'] == 'undefined: nothing is answered' and choice.method['valid'].startswith('no threshold')
    else: assert choice.coverage['valid'] == 1 and choice.risk['test'] == 0 and choice.high['valid'] < .2


@pytest.mark.parametrize('n', [1, 2, 3])
def test_tiny_sets(n):
    preds = given_order([False] * n)
    assert len(risk_coverage_curve(preds)) == n and np.isfinite(selective_metrics(preds).high).all()
    assert np.isnan(choose_threshold(preds, target_risk=.1).threshold[0])


# --- A threshold with a promise -------------------------------------------------------------------------------------

def test_the_promise_is_kept():
    "Above a threshold t the true risk is (1 − t) / 2. The naive choice breaks it half of the time."
    target, broken, naive, coverage = .1, 0, 0, []
    for i in range(300):
        preds = answer(np.random.default_rng(i), 2000)
        row = choose_threshold(preds, target_risk=target, confidence_level=.9).iloc[0]
        broken, coverage = broken + ((1 - row.threshold) / 2 > target), coverage + [row.coverage]
        wrong, sure = preds.prediction != preds.target, preds.score.max(1)
        order = np.argsort(-sure)
        fits = np.flatnonzero(wrong[order].cumsum() <= target * np.arange(1, 2001))
        naive += (1 - sure[order][fits[-1]]) / 2 > target
    assert broken <= 300 * .1 and naive > 300 * .3 and np.mean(coverage) > .15 # of .4 at most


def test_bound_is_clopper_pearson_of_what_is_answered():
    preds = answer(np.random.default_rng(0), 1000)
    row = choose_threshold(preds, target_risk=.15).iloc[0]
    answered = preds.score.max(1) >= row.threshold
    k, n = (preds.prediction != preds.target)[answered].sum(), answered.sum()
    assert row.high == pytest.approx(stats.beta.ppf(1 - .05 / 10, k + 1, n - k)) and row.high <= .15 and (row.n, row.of) == (n, 1000)
    easy = choose_threshold(preds, preds, target_risk=.99)
    assert easy.coverage.tolist() == [1, 1] and easy.split.tolist() == ['valid', 'test']
    with pytest.raises(InputError) as e: choose_threshold(preds, target_risk=2, confidence_level=95)
    assert len(e.value.problems) == 2


def test_groups_make_the_bound_wider_and_say_so():
    preds = answer(np.random.default_rng(0), 1000)
    order = np.argsort(preds.prediction == preds.target, kind='stable')
    grouped = replace(preds.take(order), group=(np.arange(1000) // 50).astype(str))
    row, plain = choose_threshold(grouped, target_risk=.3).iloc[0], choose_threshold(replace(grouped, group=None), target_risk=.3).iloc[0]
    assert not row.coverage > plain.coverage and 'approximate in groups' in row.method
    assert np.isnan(choose_threshold(replace(preds, group=np.array(['g'] * 1000)), target_risk=.3).threshold[0])


# --- Together -------------------------------------------------------------------------------------------------------

def test_tables_of_every_task(tmp_path):
    rng = np.random.default_rng(0)
    tags = make_predictions(range(100), rng.integers(0, 2, (100, 2)), rng.random((100, 2)), task='multi_label', labels=['x', 'y'])
    preds, _ = sort(rng, 200, noise=.05, skill=2.)
    for test, names in [(preds, {'confused', 'suspects', 'label_noise', 'without_suspects', 'risk_coverage', 'selective', 'threshold_for_risk'}), (tags, {'risk_coverage', 'selective', 'threshold_for_risk'}),
                        (preds.take(preds.target == 0), {'confused', 'risk_coverage', 'selective', 'threshold_for_risk'})]:
        tables = error_tables(test, valid=test, seed=0)
        assert set(tables) == names
        e = Evaluation(test.task, test.labels, len(test), pd.DataFrame(columns=METRIC_COLUMNS), pd.DataFrame(columns=COMPARISON_COLUMNS), np.zeros((0, 0), int), curves=tables)
        assert set(Evaluation.load(e.save(tmp_path/'evaluation.json')).curves) == names
    assert error_tables(make_predictions([1, 2], [1., 2.], [1., 2.], task='regression'), seed=0) == {}
    for ask in (risk_coverage_curve, selective_metrics):
        with pytest.raises(InputError, match='without a confidence'): ask(make_predictions([1, 2], [1., 2.], [1., 2.], task='regression'))
    runs = replace(preds, ids=preds.ids[np.arange(200) // 2], seed=np.array(['0', '1'] * 100), has_score=False)
    for ask in (suspect_labels, risk_coverage_curve, selective_metrics, lambda p: estimate_label_noise(p, seed=0), lambda p: choose_threshold(p, target_risk=.1)):
        with pytest.raises(InputError, match='labels only') as e: ask(runs)
        assert 'by_seed' in str(e.value)
    assert list(error_tables(replace(preds, has_score=False), seed=0)) == ['confused']
    subset_wrong = (tags.prediction != tags.target).any(1)
    assert risk_coverage_curve(tags).risk.iloc[-1] == subset_wrong.mean()


def test_cleanlab_brings_no_torch():
    code = ("import sys, numpy as np\nfrom sft_nb.evaluate.errors import suspect_labels\nfrom sft_nb.records import make_predictions\n"
            "assert not {'torch', 'sklearn', 'cleanlab', 'matplotlib'} & set(sys.modules)\n"
            "rng = np.random.default_rng(0)\np = rng.random(60)\n"
            "suspect_labels(make_predictions(range(60), (p > .5).astype(int) ^ (rng.random(60) < .1), p, task='single_label', labels=['a', 'b']))\n"
            "assert not {'torch', 'fastai', 'tensorflow'} & set(sys.modules)")
    subprocess.run([sys.executable, '-c', code], check=True)
