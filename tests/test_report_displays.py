"The contract that all displays share, and what they do with odd evaluations."
import dataclasses

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import ConfusionMatrixDisplay

from sft_nb.core import InputError
from sft_nb.evaluate.evaluation import evaluate_predictions
from sft_nb.records import COMPARISON_COLUMNS, Evaluation, make_predictions
from sft_nb.report import contrasts, displays, leaders, search
from sft_nb.report.example import example_evaluation

MAKERS = dict(MetricsDisplay={}, SliceDisplay=dict(metric='log_loss'), ConfusionDisplay={}, ThresholdDisplay=dict(split='valid'), CurveDisplay=dict(kind='pr'),
              ReliabilityDisplay={}, HistoryDisplay={}, ComparisonDisplay=dict(metric='log_loss'), RobustnessDisplay={}, ForgettingDisplay={}, RiskCoverageDisplay={})
OTHERS = ('RankDisplay', 'LearningCurveDisplay', 'FewLabelsDisplay', 'ExpectedBestDisplay', 'ImportanceDisplay', 'ProfileDisplay', 'FrontDisplay') # which an evaluation knows nothing of

def class_of(name): return next(getattr(m, name) for m in (displays, contrasts, leaders, search) if hasattr(m, name))

def make(name, evaluation):
    "A display of the example, or of made-up models."
    if name in MAKERS: return class_of(name).from_evaluation(evaluation, **MAKERS[name])
    rng = np.random.default_rng(0)
    if name == 'RankDisplay': return contrasts.RankDisplay.from_scores(pd.DataFrame(rng.normal([.9, .8, .79, .5], .05, (12, 4)), columns=['a model with a name', 'b', 'c', 'd']))
    if name == 'ExpectedBestDisplay': return search.ExpectedBestDisplay.from_values({'fine-tuning': rng.normal(.8, .05, 20), 'the probe': np.append(rng.normal(.7, .01, 9), np.nan)}, metric='accuracy')
    if name == 'ImportanceDisplay': return search.ImportanceDisplay.from_table(pd.DataFrame(dict(option=['train.lr', 'train.label_smoothing'], importance=[.8, .1], low=[.5, 0], high=[.9, .3], n=20, confidence_level=.9, method='fANOVA')))
    if name == 'ProfileDisplay': return leaders.ProfileDisplay.from_scores(pd.DataFrame([dict(task=t, recipe=r, seed=s, value=rng.normal(v, .03)) for t in 'abc' for r, v in (('a recipe with a name', .8), ('probe', .7)) for s in range(3)]))
    if name == 'FrontDisplay': return leaders.FrontDisplay.from_table(pd.DataFrame(dict(recipe=['probe', 'a recipe with a name'], iqm=[.7, .8], low=[.68, .79], high=[.72, .81], seconds=[3., 200.], front=True)))
    truth, noise = rng.integers(0, 2, 300), rng.normal(size=300)
    parts = {n: make_predictions(range(300), truth, 1/(1 + np.exp(-3*(truth - .5) - (1 + 10/n**.5)*noise)), task='single_label', labels=('no', 'yes')) for n in (50, 100, 200, 400)}
    if name == 'FewLabelsDisplay': return contrasts.FewLabelsDisplay.from_predictions({'zero-shot': {0: parts[50]}, 'linear probe': parts, 'a way with a long name': parts}, 'accuracy', seed=0, n_resamples=100)
    return contrasts.LearningCurveDisplay.from_predictions(parts, 'accuracy', seed=0, n_resamples=100)

@pytest.fixture(scope='module')
def evaluation(tmp_path_factory): return example_evaluation(tmp_path_factory.mktemp('pictures'), per_cell=1, size=20)

@pytest.fixture(autouse=True)
def close():
    yield
    plt.close('all')

def test_all_displays_are_covered():
    assert {n for m in (displays, contrasts, leaders, search) for n in m.__all__ if n.endswith('Display')} == {*MAKERS, *OTHERS}

@pytest.mark.parametrize('name', [*MAKERS, *OTHERS])
def test_contract(evaluation, name):
    before = dict(matplotlib.rcParams)
    display = make(name, evaluation)
    assert not hasattr(display, 'ax_'), 'nothing is drawn before plot'
    assert display.plot() is display
    width, height = display.figure_.get_size_inches()
    assert width <= 6 and height <= 4
    assert display.ax_.get_xlabel() and display.ax_.get_title(loc='left')
    _, ax = plt.subplots()
    assert display.plot(ax).ax_ is ax and display.figure_ is ax.figure
    assert dict(matplotlib.rcParams) == before

@pytest.mark.parametrize('name', [*MAKERS, *OTHERS])
def test_text_is_not_cut_off(evaluation, name):
    figure = make(name, evaluation).plot().figure_
    figure.canvas.draw()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 > -.03 and box.y0 > -.03 and box.x1 < width + .03 and box.y1 < height + .03

@pytest.mark.parametrize('name', MAKERS)
def test_missing_parts_are_said(name):
    bare = Evaluation('regression', (), 3, pd.DataFrame(columns=['metric', 'label', 'slice', 'value', 'low', 'high', 'n', 'confidence_level', 'method']),
                      pd.DataFrame(columns=COMPARISON_COLUMNS), np.zeros((0, 0), int))
    with pytest.raises(InputError, match='Expected'): class_of(name).from_evaluation(bare, **MAKERS[name])

def test_confusion_agrees_with_scikit_learn(evaluation):
    ours = displays.ConfusionDisplay.from_evaluation(evaluation).plot()
    theirs = ConfusionMatrixDisplay(evaluation.confusion, display_labels=evaluation.labels).plot()
    assert [t.get_text().split('\n')[0] for t in ours.ax_.texts if '\n' in t.get_text()] == [t.get_text() for t in theirs.text_.ravel()]
    assert [t.get_text() for t in ours.ax_.get_xticklabels()] == [t.get_text() for t in theirs.ax_.get_xticklabels()]

def test_curve_passes_through_its_point(evaluation):
    for kind in ('roc', 'pr'):
        for threshold in (.2, .5, .8):
            d = displays.CurveDisplay.from_evaluation(evaluation, kind=kind, threshold=threshold)
            assert np.hypot(d.x - d.point[0], d.y - d.point[1]).min() < .02

def test_slices_turn_round_with_the_metric(evaluation):
    worst = displays.SliceDisplay.from_evaluation(evaluation, metric='log_loss').rows
    assert worst.value.is_monotonic_decreasing and worst.slice.iloc[0] == 'type=poly'

def test_start_before_training_is_drawn(evaluation):
    rows = [dict(epoch=-1, freeze_to=0, train_loss=None, valid_loss=.5, lr=None), dict(epoch=0, freeze_to=0, train_loss=.4, valid_loss=.4, lr=1e-3)]
    display = displays.HistoryDisplay.from_evaluation(dataclasses.replace(evaluation, context=dict(history=rows))).plot()
    assert display.stages.stage.tolist() == ['before', 'all layers']

# --- One look --------------------------------------------------------------------------------------------------------

def colors_of(figure) -> set:
    "Of lines, bands, dots and words, as hexadecimal."
    marks = [m for ax in figure.axes for m in [*ax.lines, *ax.collections, *ax.texts]]
    drawn = [np.atleast_2d(matplotlib.colors.to_rgba_array(c)) for m in marks for c in ([m.get_color()] if hasattr(m, 'get_color') else [m.get_facecolor(), m.get_edgecolor()]) if len(np.atleast_1d(c))]
    return {matplotlib.colors.to_hex(c).upper() for row in drawn for c in row if c[-1] > 0}

def is_grey(color) -> bool:
    "Without a hue that anybody has to tell from another."
    rgb = matplotlib.colors.to_rgb(color)
    return max(rgb) - min(rgb) < .11

@pytest.mark.parametrize('name', [*MAKERS, *OTHERS])
def test_colours_are_those_that_colour_blind_readers_tell_apart(evaluation, name):
    found = {c for c in colors_of(make(name, evaluation).plot().figure_) if not is_grey(c)}
    assert found <= {c.upper() for c in displays.COLORS.values()} | {'#7A5200'} # a dark orange for words on orange

@pytest.mark.parametrize('name', [*MAKERS, *OTHERS])
def test_names_are_at_the_lines(evaluation, name):
    assert make(name, evaluation).plot().ax_.get_legend() is None

def test_curves_have_bands(evaluation):
    for kind in ('roc', 'pr'):
        d = displays.CurveDisplay.from_evaluation(evaluation, kind=kind)
        known = np.isfinite(d.low)
        assert known.mean() > .95 and (d.low[known] <= d.y[known] + 1e-12).all() and (d.high[known] >= d.y[known] - 1e-12).all()
    recall = evaluation.get('recall', 'defective')
    roc = displays.CurveDisplay.from_evaluation(evaluation)
    at = np.abs(roc.y - recall.value).argmin()
    assert np.allclose([roc.low[at], roc.high[at]], [recall.low, recall.high], atol=.01), 'the band is the interval of recall'

def test_confusion_takes_its_intervals_from_the_result(evaluation):
    d = displays.ConfusionDisplay.from_evaluation(evaluation)
    for i, label in enumerate(evaluation.labels): assert (d.low[i, i], d.high[i, i]) == tuple(evaluation.get('recall', label)[['low', 'high']])
    without = dataclasses.replace(evaluation, curves={}, metrics=evaluation.metrics[evaluation.metrics.label == ''])
    text = displays.ConfusionDisplay.from_evaluation(without).plot().ax_.texts[0].get_text()
    assert '[' not in text and '%' in text

def test_slices_agree_with_the_page(evaluation):
    tested = displays.SliceDisplay.from_evaluation(evaluation, metric='balanced_accuracy')
    assert [s for s, worse in zip(tested.rows.slice, tested.worse) if worse] == ['type=poly'] and 'p_value' in tested.rows
    untested = displays.SliceDisplay.from_evaluation(dataclasses.replace(evaluation, curves={}), metric='balanced_accuracy')
    assert 'p_value' not in untested.rows and untested.worse.tolist() == [True, False, False, False]
    unclear = evaluation.curves['slices'].assign(p_value=.5)
    assert not displays.SliceDisplay.from_evaluation(dataclasses.replace(evaluation, curves=dict(slices=unclear)), metric='balanced_accuracy').worse.any()

def test_slices_of_the_columns_that_were_asked_for(evaluation):
    rows = lambda by: displays.SliceDisplay.from_evaluation(evaluation, metric='accuracy', by=by).rows
    assert set(rows('line').slice) == {'line=north', 'line=south'} and len(rows('type and line')) == 4
    pd.testing.assert_frame_equal(rows('type and line').reset_index(drop=True), evaluation.curves['crossed'].query('metric == "accuracy"').sort_values('value').reset_index(drop=True), check_like=True)
    with pytest.raises(InputError, match='`type and line`'): rows('line and type')

@pytest.fixture(scope='module')
def grouped():
    "Six cells a module, alike; at a level of 90 %."
    rng = np.random.default_rng(1)
    module = np.repeat(np.arange(60), 6)
    truth = (rng.random(360) < .4).astype(int)
    say = 1/(1 + np.exp(-(2*truth - 1 + 1.5*rng.normal(size=60)[module] + .5*rng.normal(size=360))))
    preds = lambda **kw: make_predictions(range(360), truth, say, task='single_label', labels=['fine', 'broken'], **kw)
    return evaluate_predictions(preds(group=module), seed=0, confidence_level=.9), evaluate_predictions(preds(), seed=0, confidence_level=.9)

def test_bands_keep_groups_together(grouped):
    "They are the intervals of the metrics, and wider than items by themselves would have; the label says so."
    whole, alone = grouped
    t, r = (displays.ThresholdDisplay.from_evaluation(e) for e in grouped)
    for name, label in (('recall', 'broken'), ('precision', 'broken'), ('specificity', 'fine')):
        for e, d in zip(grouped, (t, r)):
            at, want = d.rates.iloc[50], e.get(name if label == 'broken' else 'recall', label)
            assert [at[name], at[f'{name}_low'], at[f'{name}_high']] == pytest.approx(list(want[['value', 'low', 'high']]))
        assert (t.rates[f'{name}_high'] - t.rates[f'{name}_low'])[20:80].min() > 0 and (t.rates[f'{name}_high'] - t.rates[f'{name}_low'])[20:80].mean() > 1.2*(r.rates[f'{name}_high'] - r.rates[f'{name}_low'])[20:80].mean()
    assert t.plot().ax_.texts[-1].get_text().endswith('with 90% band over groups') and r.plot().ax_.texts[-1].get_text().endswith('with 90% band')
    for kind in ('roc', 'pr'):
        a, b = (displays.CurveDisplay.from_evaluation(e, kind=kind) for e in grouped)
        wide = np.nanmean(a.high - a.low)/np.nanmean(b.high - b.low)
        assert 1.2 < wide < 4 and a.plot().ax_.texts[-1].get_text().endswith('with 90% band over groups') and b.plot().ax_.texts[-1].get_text().endswith('with 90% band')

def test_one_group_has_no_band(evaluation):
    preds = make_predictions(range(40), np.arange(40) % 2, np.linspace(.1, .9, 40), task='single_label', labels=['fine', 'broken'], group=['all']*40)
    e = evaluate_predictions(preds, seed=0)
    t, c = displays.ThresholdDisplay.from_evaluation(e).plot(), displays.CurveDisplay.from_evaluation(e).plot()
    assert t.rates.recall_low.isna().all() and t.rates.recall.notna().all() and np.isnan(c.low).all()

def test_older_evaluations_have_curves_without_bands(evaluation):
    old = {k: v.drop(columns=['low', 'high']) if k in ('roc', 'pr') else v for k, v in evaluation.curves.items()}
    assert displays.CurveDisplay.from_evaluation(dataclasses.replace(evaluation, curves=old)).plot().low is None

def test_history_shows_the_rate_of_each_group(evaluation):
    rows = [dict(epoch=i, stage='all', train_loss=1 - i/9, valid_loss=1 - i/9, lr=1e-3, lr_0=1e-5*i, lr_1=1e-4) for i in range(4)]
    with_groups = displays.HistoryDisplay.from_evaluation(dataclasses.replace(evaluation, context=dict(history=rows))).plot()
    plain = displays.HistoryDisplay.from_evaluation(dataclasses.replace(evaluation, context=dict(history=[{k: v for k, v in r.items() if k[:3] != 'lr_'} for r in rows]))).plot()
    assert len(with_groups.ax_.lines) == len(plain.ax_.lines) + 2
    assert any('first group 3e-05' in t.get_text() for t in with_groups.ax_.texts)

# --- Beside something else -------------------------------------------------------------------------------------------

def test_comparison_says_what_is_shown(evaluation):
    shown = lambda metric, e=evaluation: dict(zip((d := contrasts.ComparisonDisplay.from_evaluation(e, metric=metric)).rows.baseline, d.shown))
    assert shown('recall') == {'majority class': 'better', 'linear probe': ''} and shown('log_loss')['majority class'] == 'better', 'lower is better there'
    c = evaluation.comparisons
    turned = dataclasses.replace(evaluation, comparisons=c.assign(difference=-c.difference, low=-c.high, high=-c.low))
    assert shown('recall', turned)['majority class'] == 'worse'
    with pytest.raises(InputError, match='acuracy.*accuracy'): contrasts.ComparisonDisplay.from_evaluation(evaluation, metric='acuracy')

def test_many_corruptions_have_names_that_do_not_overlap(evaluation):
    cells = evaluation.curves['robustness_cells']
    clean, one = cells[cells.severity == 0], cells[cells.corruption == 'motion_blur']
    many = pd.concat([clean, *(one.assign(corruption=f'c{i}') for i in range(15))])
    display = contrasts.RobustnessDisplay(many, ('c1', 'c2')).plot()
    display.figure_.canvas.draw()
    places = sorted(t.get_window_extent().y0 for t in display.ax_.texts if t.get_text().startswith('c'))
    assert len(places) == 15 and np.diff(places).min() > 8

def test_ranks_join_what_is_tied():
    same = pd.DataFrame(np.random.default_rng(0).normal(size=(6, 3)), columns=list('abc'))
    display = contrasts.RankDisplay.from_scores(same, confidence_level=.9).plot()
    bars = [line for line in display.ax_.lines if line.get_linewidth() == 4]
    assert len(bars) == 1 and display.table.confidence_level.iloc[0] == .9

def test_learning_curve_looks_ahead():
    display = make('LearningCurveDisplay', None).plot()
    assert any('800 items' in t.get_text() for t in display.ax_.texts), 'twice the largest size'
    assert contrasts.LearningCurveDisplay(display.curve, ahead=4.).plot().ax_.get_xlim()[1] > 1500

def test_risk_at_full_coverage_is_the_error_rate(evaluation):
    curve = contrasts.RiskCoverageDisplay.from_evaluation(evaluation).curve
    assert np.isclose(curve.risk.iloc[-1], 1 - evaluation.get('accuracy').value) and curve.coverage.iloc[-1] == 1
