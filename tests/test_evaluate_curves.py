"""Curves against scikit-learn, thinning, and the bands of the reliability curve."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from sft_nb.core import InputError
from sft_nb.evaluate.curves import precision_recall_curve, reliability_curve, roc_curve, threshold_curve
from sft_nb.evaluate.shares import wilson_interval
from sft_nb.records import make_predictions


def predictions(n, seed, steps=1000, **kw):
    rng = np.random.default_rng(seed)
    y = np.r_[0, 1, rng.integers(0, 2, n - 2)]
    p = np.round((.3 * y + .7 * rng.random(n)) * steps) / steps
    return y, p, make_predictions(range(n), y, p, task='single_label', labels=['a', 'b'], **kw)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 150), st.integers(0, 10**6), st.sampled_from([2, 10, 100, 10**6]))
def test_curves_agree_with_sklearn(n, seed, steps):
    y, p, preds = predictions(n, seed, steps)
    roc, pr = roc_curve(preds, max_rows=1000), precision_recall_curve(preds, max_rows=1000)
    fpr, tpr, threshold = sk.roc_curve(y, p, drop_intermediate=False)
    assert np.allclose(roc.fpr, fpr) and np.allclose(roc.tpr, tpr) and np.allclose(roc.threshold[1:], threshold[1:])
    precision, recall, _ = sk.precision_recall_curve(y, p)
    assert np.allclose(pr.recall, recall[::-1]) and np.allclose(pr.precision, precision[::-1])
    table = threshold_curve(preds)
    assert len(table) == 101 and table.threshold.iloc[[0, -1]].tolist() == [0, 1]
    for row in table.iloc[::20].itertuples():
        assert [row.tn, row.fp, row.fn, row.tp] == sk.confusion_matrix(y, p >= row.threshold, labels=[0, 1]).ravel().tolist()


@pytest.mark.parametrize('n', [1000, 30_000])
def test_thinned_curves_keep_their_shape(n):
    y, p, preds = predictions(n, 0, 10**9)
    roc, pr = roc_curve(preds), precision_recall_curve(preds)
    assert len(roc) <= 201 and len(pr) <= 201
    assert sk.auc(roc.fpr, roc.tpr) == pytest.approx(sk.roc_auc_score(y, p), abs=2e-3)
    assert roc.iloc[0, :2].tolist() == [0, 0] and roc.iloc[-1, :2].tolist() == [1, 1] and pr.recall.iloc[-1] == 1
    assert (roc.fpr.diff().iloc[1:] >= 0).all() and (roc.tpr.diff().iloc[1:] >= 0).all()


def test_reliability_agrees_with_sklearn():
    y, p, preds = predictions(500, 1, 10**9)
    observed, mean = calibration_curve(y, p, n_bins=10, strategy='quantile')
    table = reliability_curve(preds)
    assert np.allclose(table.mean_score, mean, atol=2e-3) and np.allclose(table.observed, observed, atol=.03)
    low, high = wilson_interval(table.observed * table.n, table.n)
    assert np.allclose(table.low, low) and np.allclose(table.high, high) and table.n.sum() == 500


def test_reliability_of_equal_scores_groups_and_many_labels():
    y = np.r_[np.zeros(30, int), np.ones(10, int)]
    flat = reliability_curve(make_predictions(range(40), y, np.full(40, .25), task='single_label', labels=['a', 'b']))
    assert len(flat) == 1 and flat.observed[0] == .25 and flat.n[0] == 40
    y, p, plain = predictions(300, 2, 10**9)
    grouped = make_predictions(range(300), np.sort(y), plain.score[np.argsort(y, kind='stable')], task='single_label', labels=['a', 'b'], group=np.arange(300) // 30)
    assert (reliability_curve(grouped).eval('high - low').mean()) > reliability_curve(plain).eval('high - low').mean()
    rng = np.random.default_rng(0)
    score = rng.dirichlet(np.ones(3), 200)
    many = make_predictions(range(200), rng.integers(0, 3, 200), score, task='single_label', labels=list('abc'))
    table = reliability_curve(many)
    assert (table.mean_score > 1/3).all() and np.average(table.observed, weights=table.n) == pytest.approx((many.prediction == many.target).mean())
    with pytest.raises(InputError, match='more than two'): roc_curve(many)
    assert roc_curve(many, 'b').tpr.iloc[-1] == 1


def test_one_class_only_gives_an_empty_curve():
    preds = make_predictions(range(5), [0] * 5, [.1, .2, .3, .4, .9], task='single_label', labels=['a', 'b'])
    assert len(roc_curve(preds)) == 0 and len(precision_recall_curve(preds)) == 0
    assert threshold_curve(preds).tp.sum() == 0 and len(reliability_curve(preds)) >= 1
    with pytest.raises(InputError): roc_curve(make_predictions([1, 2], [1., 2.], [1., 2.], task='regression'))
