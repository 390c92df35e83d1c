"""The whole evaluation: each task, one class, groups, weights, saving; and that none of it needs torch."""
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier

from sft_nb.core import InputError
from sft_nb.evaluate.compare import adjust_holm, compare_predictions
from sft_nb.evaluate.errors import sample_examples
from sft_nb.evaluate.evaluation import evaluate_predictions, majority_baseline
from sft_nb.evaluate.metrics import compute_metric
from sft_nb.records import COMPARISON_COLUMNS, METRIC_COLUMNS, Evaluation, format_metrics, make_predictions
from sft_nb.report.page import build_payload


def classified(n=300, k=2, seed=0, **kw):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    score = rng.random((n, k)) + .8 * np.eye(k)[y]
    return make_predictions([f'i{i}' for i in range(n)], y, score / score.sum(1, keepdims=True), task='single_label', labels=[f'c{i}' for i in range(k)],
                            slices=pd.DataFrame({'type': rng.choice(['x', 'y'], n)}), **kw)


def tasks():
    rng = np.random.default_rng(1)
    tags, x = rng.integers(0, 2, (150, 3)), rng.normal(size=150)
    yield classified()
    yield classified(k=5, group=np.arange(300) // 6)
    yield classified(weight=np.random.default_rng(2).choice([1/3, 1], 300))
    yield make_predictions(range(150), tags, np.clip(.5 * tags + .6 * rng.random((150, 3)), 0, 1), task='multi_label', labels=list('xyz'), slices=pd.DataFrame({'s': x > 0}))
    yield make_predictions(range(150), x, x + rng.normal(size=150), task='regression', group=np.arange(150) // 5)


@pytest.mark.parametrize('preds', list(tasks()), ids=['binary', 'five labels in groups', 'weighted', 'multi-label', 'regression'])
def test_every_task_saves_and_loads(preds, tmp_path):
    base = majority_baseline(preds, preds)
    e = evaluate_predictions(preds, baselines={'blind': base}, seed=0, context={'run': {'name': 'r'}})
    assert list(e.metrics.columns) == METRIC_COLUMNS and list(e.comparisons.columns) == COMPARISON_COLUMNS and e.context['run'] == {'name': 'r'}
    assert (e.metrics.method != '').all() and e.metrics.confidence_level.eq(.95).all() and (e.metrics.n > 0).all()
    assert e.metrics[['value', 'low', 'high']].dtypes.eq(float).all() and e.metrics.n.dtype.kind == 'i'
    known = e.metrics.dropna(subset=['low'])
    assert (known.low <= known.value + 1e-12).all() and (known.value <= known.high + 1e-12).all()
    again = Evaluation.load(e.save(tmp_path/'evaluation.json'))
    assert np.allclose(again.metrics.value.astype(float), e.metrics.value, equal_nan=True) and (again.confusion == e.confusion).all()
    assert again.context == e.context and set(again.curves) == set(e.curves)
    assert len(format_metrics(e.metrics)) == len(e.metrics) and e._repr_html_()
    assert ('weighted_accuracy' in set(e.metrics.metric)) == (preds.weight is not None)


def test_p_values_of_a_metric_are_corrected_over_the_baselines():
    preds, other = classified(), classified(seed=1)
    rival = make_predictions(preds.ids, preds.target, other.score, task='single_label', labels=preds.labels)
    e = evaluate_predictions(preds, baselines={'blind': majority_baseline(preds, preds), 'rival': rival}, metrics=['accuracy', 'log_loss'], seed=0)
    raw = pd.concat([compare_predictions(preds, majority_baseline(preds, preds), metrics=['accuracy', 'log_loss'], seed=0),
                     compare_predictions(preds, rival, metrics=['accuracy', 'log_loss'], seed=0)])
    for metric in ('accuracy', 'log_loss'):
        assert np.allclose(e.comparisons[e.comparisons.metric == metric].p_value, adjust_holm(raw[raw.metric == metric].p_value))
    assert e.comparisons.method.str.endswith('p by Holm over 2 baselines').all()
    assert e.comparisons.baseline.tolist() == ['blind', 'blind', 'rival', 'rival']


def test_weights_count_only_when_asked():
    preds = classified(weight=np.where(np.arange(300) < 30, 10., 1.))
    plain, weighted = [evaluate_predictions(preds, weighted=w, seed=0) for w in (False, True)]
    assert plain.get('accuracy').value == (preds.prediction == preds.target).mean()
    assert weighted.get('accuracy').value == plain.get('weighted_accuracy').value != plain.get('accuracy').value


def test_majority_baseline_is_sklearns_prior():
    preds = classified(k=3)
    labels = np.array(preds.labels)[np.r_[np.zeros(5, int), np.ones(3, int), [2, 2]]]
    dummy = DummyClassifier(strategy='prior').fit(np.zeros((10, 1)), labels)
    for train in (labels, pd.Series(labels), np.r_[np.zeros(5, int), np.ones(3, int), [2, 2]]):
        assert np.allclose(majority_baseline(train, preds).score, dummy.predict_proba(np.zeros((300, 1))))
    with pytest.raises(InputError, match="'c9'"): majority_baseline(['c0', 'c9'], preds)
    with pytest.raises(InputError): majority_baseline([], preds)
    numbers = make_predictions(range(4), [1., 2, 3, 4], [1., 2, 3, 4], task='regression')
    assert majority_baseline([10., 20.], numbers).score.tolist() == [15] * 4


def test_examples_are_capped_and_every_cell_keeps_some():
    preds = classified(n=2000, k=6)
    table = sample_examples(preds, max_rows=100, inputs={'i0': 'a.png'})
    assert len(table) <= 100 and table.loss.is_monotonic_decreasing and table.id.is_unique
    cells = set(zip(preds.target, preds.prediction))
    assert {(f'c{t}', f'c{p}') for t, p in cells} == set(zip(table.target, table.prediction))
    worst = preds.ids[np.argmin(np.take_along_axis(preds.score, preds.target[:, None], 1))]
    assert table.id[0] == worst and list(table.columns) == ['id', 'input', 'target', 'prediction', 'score', 'score_target', 'loss', 'type']
    row = table.iloc[0]
    assert row.loss == pytest.approx(-np.log(row.score_target)) and row.score == pytest.approx(preds.score[preds.ids == worst].max())


def test_examples_of_sets_and_numbers():
    tagged = make_predictions(['p', 'q'], [[1, 1, 0], [0, 0, 0]], [[.9, .4, .2], [.1, .1, .1]], task='multi_label', labels=list('xyz'))
    table = sample_examples(tagged)
    assert table.target.tolist() == ['x;y', ''] and table.prediction.tolist() == ['x', ''] and table.score_target[0] == pytest.approx(.9 * .4 * .8)
    numbers = make_predictions(['p', 'q'], [1., 2.], [1., 5.], task='regression')
    assert sample_examples(numbers)[['id', 'loss']].values.tolist() == [['q', 9], ['p', 0]]


def test_one_class_only_is_said_first():
    preds = classified()
    only = preds.take(preds.target == 0)
    other = replace(preds, ids=np.char.add('v', preds.ids))
    e = evaluate_predictions(only, baselines={'blind': majority_baseline(preds, only)}, valid=other, seed=0)
    assert any('no item is c1' in note and 'roc_auc' in note for note in e.context['notes'])
    assert np.isnan(e.get('roc_auc').value) and np.isfinite(e.get('accuracy').low) and e.confusion[1].sum() == 0
    assert len(e.curves['roc']) == 0 and len(e.curves['threshold']) == 101


def test_given_notes_come_first_and_the_context_is_not_changed():
    preds, context = classified(group=np.arange(300) // 50), {'notes': ['a leak']}
    e = evaluate_predictions(preds, seed=0, context=context)
    assert e.context['notes'][0] == 'a leak' and 'fewer than 10 groups' in e.context['notes'][-1] and context == {'notes': ['a leak']}


def test_two_people_get_the_same_numbers():
    one, two = [evaluate_predictions(classified(), baselines={'blind': majority_baseline(['c0', 'c1'], classified())}, seed=3) for _ in range(2)]
    assert one.metrics.equals(two.metrics) and one.comparisons.equals(two.comparisons) and one.examples.equals(two.examples)


def test_none_of_it_needs_torch():
    code = ("import sys, sft_nb.evaluate.evaluation, sft_nb.evaluate.metrics, sft_nb.evaluate.intervals, sft_nb.evaluate.compare, sft_nb.evaluate.slices, sft_nb.evaluate.curves\n"
            "heavy = {'torch', 'fastai', 'timm', 'matplotlib', 'ipywidgets', 'sklearn'} & set(sys.modules)\nassert not heavy, heavy")
    subprocess.run([sys.executable, '-c', code], check=True)


def test_the_validation_split_must_be_apart():
    preds = classified()
    with pytest.raises(InputError, match='300 in both'): evaluate_predictions(preds, valid=preds, seed=0)


def test_numbers_that_are_all_missing_stay_numbers(tmp_path):
    preds = replace(classified(), slices=pd.DataFrame({'site': np.arange(len(classified())) // 15}))  # too few of each to say anything
    e = evaluate_predictions(preds, metrics='accuracy', by='site', seed=0)
    again = Evaluation.load(e.save(tmp_path/'evaluation.json')).curves['slices']
    assert again.gap_low.isna().all() and again[['value', 'gap_low', 'p_value']].dtypes.eq(float).all()
    build_payload(Evaluation.load(tmp_path/'evaluation.json'))
