"The contract that all displays share, and what they do with odd evaluations."
import dataclasses

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import ConfusionMatrixDisplay

from sft_nb.core import InputError
from sft_nb.records import COMPARISON_COLUMNS, Evaluation
from sft_nb.report import displays
from sft_nb.report.example import example_evaluation

MAKERS = dict(MetricsDisplay={}, SliceDisplay=dict(metric='log_loss'), ConfusionDisplay={}, ThresholdDisplay=dict(split='valid'), CurveDisplay=dict(kind='pr'),
              ReliabilityDisplay={}, HistoryDisplay={})

@pytest.fixture(scope='module')
def evaluation(tmp_path_factory): return example_evaluation(tmp_path_factory.mktemp('pictures'), per_cell=1, size=20)

@pytest.fixture(autouse=True)
def close():
    yield
    plt.close('all')

def test_all_displays_are_covered():
    assert {n for n in displays.__all__ if n.endswith('Display')} == set(MAKERS)

@pytest.mark.parametrize('name', MAKERS)
def test_contract(evaluation, name):
    before = dict(matplotlib.rcParams)
    display = getattr(displays, name).from_evaluation(evaluation, **MAKERS[name])
    assert not hasattr(display, 'ax_'), 'nothing is drawn before plot'
    assert display.plot() is display
    width, height = display.figure_.get_size_inches()
    assert width <= 6 and height <= 4
    assert display.ax_.get_xlabel() and display.ax_.get_title(loc='left')
    _, ax = plt.subplots()
    assert display.plot(ax).ax_ is ax and display.figure_ is ax.figure
    assert dict(matplotlib.rcParams) == before

@pytest.mark.parametrize('name', MAKERS)
def test_text_is_not_cut_off(evaluation, name):
    figure = getattr(displays, name).from_evaluation(evaluation, **MAKERS[name]).plot().figure_
    figure.canvas.draw()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 > -.03 and box.y0 > -.03 and box.x1 < width + .03 and box.y1 < height + .03

@pytest.mark.parametrize('name', MAKERS)
def test_missing_parts_are_said(name):
    bare = Evaluation('regression', (), 3, pd.DataFrame(columns=['metric', 'label', 'slice', 'value', 'low', 'high', 'n', 'confidence_level', 'method']),
                      pd.DataFrame(columns=COMPARISON_COLUMNS), np.zeros((0, 0), int))
    with pytest.raises(InputError, match='Expected'): getattr(displays, name).from_evaluation(bare, **MAKERS[name])

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
