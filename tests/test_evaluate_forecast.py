"Metrics of forecasts: against utilsforecast, scikit-learn and a closed form."
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk
from utilsforecast import losses

from sft_nb.core import InputError
from sft_nb.evaluate.compare import compare_predictions
from sft_nb.evaluate.evaluation import evaluate_predictions
from sft_nb.evaluate.forecast import naive_scale, quantile_crps
from sft_nb.evaluate.intervals import estimate_metrics
from sft_nb.evaluate.metrics import compute_metric, select_metrics
from sft_nb.records import Predictions
from sft_nb.report.page import build_payload, render_page

LEVELS = ['0.1', '0.25', '0.5', '0.75', '0.9']


def series(n=20, horizon=6, seed=0, bias=0., spread=1.):
    "Random walks with a season, and quantile forecasts of them."
    rng, rows, history = np.random.default_rng(seed), [], {}
    for i in range(n):
        size = rng.uniform(.5, 5)
        values = 50 + 10 * np.tile([0, 1, 2], 20)[:40 + horizon] + size * rng.normal(size=40 + horizon)
        history[f's{i}'] = values[:40]
        centre = 50 + 10 * np.tile([0, 1, 2], 20)[40:40 + horizon] + bias * size
        rows += [{'id': f's{i}-{h}', 'group': f's{i}', 'target': values[40 + h], 'scale': naive_scale(values[:40], season=3), 'step': h, 'size': 'large' if size > 2.5 else 'small',
                  **{f'score_{q}': centre[h] + spread * size * stats.norm.ppf(float(q)) for q in LEVELS}} for h in range(horizon)]
    return pd.DataFrame(rows), history


def test_point_metrics_are_those_of_utilsforecast():
    frame, history = series()
    preds = Predictions.from_frame(frame)
    assert preds.task == 'forecast' and preds.labels == tuple(LEVELS)
    theirs = frame.rename(columns={'group': 'unique_id', 'target': 'y', 'score_0.5': 'model'}).assign(ds=frame.step)
    past = pd.concat([pd.DataFrame(dict(unique_id=k, y=v, ds=np.arange(len(v)))) for k, v in history.items()])
    mean = lambda f, **kw: f(theirs, models=['model'], **kw)['model'].mean()
    assert compute_metric(preds, 'mae') == pytest.approx(mean(losses.mae))
    assert compute_metric(preds, 'mase') == pytest.approx(mean(losses.mase, seasonality=3, train_df=past))
    assert compute_metric(preds, 'smape') == pytest.approx(200 * mean(losses.smape)) # theirs is |y − f| / (|y| + |f|)
    assert compute_metric(preds, 'rmse') == pytest.approx(sk.root_mean_squared_error(frame.target, frame['score_0.5']))


def test_crps_is_the_mean_pinball_loss_doubled():
    frame, _ = series()
    pinball = [sk.mean_pinball_loss(frame.target, frame[f'score_{q}'], alpha=float(q)) for q in LEVELS]
    assert compute_metric(Predictions.from_frame(frame), 'crps') == pytest.approx(2 * np.mean(pinball))
    many = (np.arange(1000) + .5) / 1000
    y = np.linspace(-3, 3, 13)
    closed = y * (2 * stats.norm.cdf(y) - 1) + 2 * stats.norm.pdf(y) - 1 / np.sqrt(np.pi) # Gneiting & Raftery 2007, equation 21
    assert quantile_crps(np.c_[y, y], np.tile(stats.norm.ppf(many), (13, 1)), many) == pytest.approx(closed, abs=1e-3)


def test_series_are_the_units():
    frame, _ = series()
    table = estimate_metrics(Predictions.from_frame(frame), seed=0)
    assert table.method.str.contains('20 groups').all() and (table.low < table.value).all() and (table.value < table.high).all()
    assert not table.method.str.contains('class').any()


def test_honest_and_overconfident():
    honest, sure, off = [Predictions.from_frame(series(40, **kw)[0]) for kw in (dict(), dict(spread=.1), dict(bias=1.5))]
    narrow = compare_predictions(honest, sure, seed=0).set_index('metric')
    assert narrow.high['crps'] < 0 and narrow.difference['mae'] == 0
    assert (compare_predictions(honest, off, seed=0).set_index('metric').high[['mae', 'rmse', 'mase', 'smape', 'crps']] < 0).all()


def test_from_a_table_to_a_report(tmp_path):
    frame, _ = series()
    preds = Predictions.from_frame(frame)
    again = Predictions.load(preds.save(tmp_path/'p.parquet'))
    assert again.score == pytest.approx(preds.score) and again.target == pytest.approx(preds.target) and again.labels == preds.labels
    evaluation = evaluate_predictions(preds, seed=0, by='size')
    assert {'mae', 'rmse', 'mase', 'smape', 'crps'} == set(evaluation.metrics.metric) and 'MASE' in render_page(build_payload(evaluation))
    assert evaluation.examples.loss[0] == pytest.approx(abs(frame.target - frame['score_0.5']).max())


def test_one_number_is_a_forecast_too():
    frame, _ = series()
    point = frame[['id', 'group', 'target']].assign(score=frame['score_0.5'])
    preds = Predictions.from_frame(point, task='forecast')
    assert preds.labels == ('0.5',) and [m.name for m in select_metrics(preds)] == ['mae', 'rmse', 'smape']
    with pytest.raises(InputError, match='scale'): select_metrics(preds, 'mase')
    with pytest.raises(InputError, match='2 labels'): select_metrics(preds, 'crps')


@pytest.mark.parametrize('change, words', [
    (lambda d: d.drop(columns='score_0.5').rename(columns={'score_0.9': 'score_9'}), 'levels of quantiles'),
    (lambda d: d.assign(scale=0.), 'the scale of a series'),
    (lambda d: d.assign(target=np.inf), 'finite'),
    (lambda d: d.assign(**{'score_0.1': 'low'}), 'numbers')])
def test_what_is_wrong_with_a_table_is_said(change, words):
    with pytest.raises(InputError, match=words): Predictions.from_frame(change(series(3)[0]), task='forecast')


@pytest.mark.parametrize('history, words', [([1., 2], 'more than 3'), ([5.] * 9, 'changes'), ([1, 2, np.nan, 4, 5], 'missing')])
def test_a_scale_that_cannot_be_had(history, words):
    with pytest.raises(InputError, match=words): naive_scale(history, season=3)
