"""Slices: which there are, their numbers, and what happens to small and odd ones."""
import numpy as np
import pandas as pd
import pytest

from sft_nb.core import InputError
from sft_nb.evaluate.metrics import compute_metric
from sft_nb.evaluate.slices import find_slices, slice_metrics
from sft_nb.records import make_predictions


def predictions(slices, n=120, **kw):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    return make_predictions(range(n), y, np.clip(.4 * y + .6 * rng.random(n), 0, 1), task='single_label', labels=['a', 'b'], slices=pd.DataFrame(slices) if slices else None, **kw)


def test_each_slice_equals_its_rows_alone():
    kind = np.repeat(['mono', 'poly', 'thin film'], [60, 40, 20])
    preds = predictions({'type': kind})
    table = slice_metrics(preds, seed=0)
    for row in table.itertuples(): assert row.value == pytest.approx(compute_metric(preds.take(kind == row.slice[5:]), row.metric), nan_ok=True)
    assert set(table.slice) == {'type=mono', 'type=poly', 'type=thin film'} and (table.low <= table.value).all()


def test_floor_on_n():
    table = slice_metrics(predictions({'type': ['rare'] * 19 + ['common'] * 101}), 'accuracy', seed=0).set_index('slice')
    assert table.method['type=rare'] == 'too few: n < 20' and np.isnan(table.value['type=rare']) and table.n['type=rare'] == 19
    assert np.isfinite(slice_metrics(predictions({'type': ['rare'] * 19 + ['common'] * 101}), 'accuracy', seed=0, min_n=19).value).all()


def test_odd_columns():
    n = 120
    preds = predictions({'level': np.tile([0., 1/3, 2/3, 1.], 30), 'flag': np.arange(n) < 60, 'id_like': np.arange(n), 'constant': 'x',
                         'hole': np.where(np.arange(n) < 50, None, 'seen'), 'both': [1, 'one'] * 60})
    found = find_slices(preds)
    assert list(found) == ['level=0', 'level=0.333333', 'level=0.666667', 'level=1', 'flag=False', 'flag=True', 'hole=seen', 'hole=(missing)', 'both=1', 'both=one']
    assert found['hole=(missing)'].sum() == 50 and all(mask.dtype == bool and len(mask) == n for mask in found.values())
    assert len(find_slices(preds, by='id_like')) == n # asked for is given
    assert len(slice_metrics(predictions({}), seed=0)) == 0


def test_one_class_in_a_slice():
    preds = predictions({})
    preds = make_predictions(preds.ids, preds.target, preds.score, task='single_label', labels=preds.labels, slices=pd.DataFrame({'truth': preds.target}))
    table = slice_metrics(preds, ['accuracy', 'roc_auc'], seed=0).set_index(['metric', 'slice'])
    assert table.method['roc_auc', 'truth=0'] == 'undefined: no item is b' and np.isfinite(table.low['accuracy', 'truth=0'])


def test_unknown_columns_are_named():
    with pytest.raises(InputError) as e: slice_metrics(predictions({'type': ['x'] * 120}), by=['typ', 'kind'], seed=0)
    assert len(e.value.problems) == 2 and '`type`' in e.value.problems[0]
