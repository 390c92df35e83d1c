"""`sft-nb evaluate` on tables that somebody else's model wrote."""
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from sft_nb.cli import main


@pytest.fixture
def tables(tmp_path):
    "Two models on the same items, the second better on the old device only."
    rng = np.random.default_rng(0)
    n, device = 400, rng.choice(['old', 'new'], 400, p=[.3, .7])
    truth = rng.integers(0, 2, n)
    say = lambda skill: 1 / (1 + np.exp(-((2 * truth - 1) * skill + rng.normal(size=n))))
    one = pd.DataFrame(dict(id=[f'i{i}' for i in range(n)], target=np.where(truth, 'bad', 'good'), device=device))
    one.assign(score_bad=(p := say(1.)), score_good=1 - p).to_csv(tmp_path/'baseline.csv', index=False)
    one.assign(score_bad=(p := say(np.where(device == 'old', 3., 1.))), score_good=1 - p).to_csv(tmp_path/'predictions.csv', index=False)
    return tmp_path


def test_the_command_of_the_issue(tables):
    "In a process of its own, as a user types it; torch is never loaded."
    code = "import sys; from sft_nb.cli import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    done = subprocess.run([sys.executable, '-c', code, 'evaluate', 'predictions.csv', '--by', 'device', '--against', 'baseline.csv', '--out', 'found'], cwd=tables, text=True, capture_output=True,
                          env={**os.environ, 'PYTHONWARNINGS': 'ignore'})
    assert done.returncode == 0, done.stderr
    assert 'device=old' in done.stdout and 'accuracy − that of baseline' in done.stdout and 'report.html' in done.stdout
    assert 'accuracy of device=old − that of the rest: +' in done.stdout
    found = json.loads((tables/'found'/'evaluation.json').read_text())
    for entry in found['metrics']: assert {'metric', 'value', 'low', 'high', 'n', 'confidence_level', 'method', 'slice'} <= set(entry)
    accuracy = {e['slice']: e for e in found['metrics'] if e['metric'] == 'accuracy'}
    assert set(accuracy) == {'', 'device=new', 'device=old'} and accuracy['']['n'] == 400
    assert accuracy['device=old']['low'] > accuracy['device=new']['high']
    frame = pd.read_csv(tables/'predictions.csv')
    assert accuracy['']['value'] == pytest.approx(((frame.score_bad > .5) == (frame.target == 'bad')).mean())
    against = {e['metric']: e for e in found['comparisons']}
    assert against['roc_auc']['baseline'] == 'baseline' and against['roc_auc']['low'] > 0
    assert (tables/'found'/'report.html').stat().st_size < 3e6


def test_without_a_folder_nothing_is_written(tables, monkeypatch, capsys):
    monkeypatch.chdir(tables)
    before = set(tables.iterdir())
    assert main(['evaluate', 'predictions.csv', '--metrics', 'mcc', 'roc_auc', '--method', 'percentile', '--resamples', '500', '--level', '.9']) == 0
    said = capsys.readouterr().out
    assert 'mcc' in said and '90%' in said and 'bootstrap percentile, 500 resamples' in said and 'log_loss' not in said
    assert set(tables.iterdir()) == before


@pytest.mark.parametrize('change, part', [
    (lambda f: f.drop(columns='id'), 'column `id`'), (lambda f: f.assign(score_bad=f.score_bad * 3), 'probabilities in [0, 1]'),
    (lambda f: f.assign(score_bad=f.score_bad.where(f.index > 3)), 'NaN or infinity in 4 of 400 rows (i0, i1, i2, …)'),
    (lambda f: f.assign(target='ugly'), "'ugly'"), (lambda f: f.iloc[:0], 'at least one row')])
def test_a_bad_table_gets_a_sentence_and_nothing_is_written(tables, monkeypatch, capsys, change, part):
    monkeypatch.chdir(tables)
    change(pd.read_csv('predictions.csv')).to_csv('bad.csv', index=False)
    assert main(['evaluate', 'bad.csv', '--out', 'found']) == 1
    said = capsys.readouterr().err
    assert part in said and 'bad.csv' in said and 'Traceback' not in said and not (tables/'found').exists()


def test_ids_that_do_not_match_are_counted(tables, monkeypatch, capsys):
    monkeypatch.chdir(tables)
    pd.read_csv('baseline.csv').iloc[:390].to_csv('short.csv', index=False)
    assert main(['evaluate', 'predictions.csv', '--against', 'short.csv']) == 1
    assert '10 of 400 ids (i390, i391, i392, …)' in capsys.readouterr().err
    assert main(['evaluate', 'predictions.csv', '--by', 'devise']) == 1
    assert 'Did you mean `device`' in capsys.readouterr().err


@pytest.mark.parametrize('frame, words', [
    (dict(target=[1.5, 2, 3.5, 4, 7] * 6, score=[1.4, 2.2, 3, 4, 6] * 6), ['mae', 'rmse', 'r2']),
    (dict(target=list('abcab') * 6, prediction=list('abcaa') * 6), ['balanced_accuracy', 'f1']),
    (dict(target=['b'] * 30, score=np.linspace(.2, .9, 30), other=['a'] * 30), ['roc_auc', 'undefined'])])
def test_other_kinds_of_tables(tmp_path, capsys, frame, words):
    frame = pd.DataFrame(dict(id=range(30), **frame))
    frame.to_csv(tmp_path/'p.csv', index=False)
    extra = ['--labels', 'a', 'b'] if frame.target.nunique() == 1 else []
    assert main(['evaluate', str(tmp_path/'p.csv'), *extra, '--out', str(tmp_path/'out')]) == 0
    said = capsys.readouterr().out
    assert all(w in said for w in words) and (tmp_path/'out'/'report.html').exists()


def test_several_training_runs(tables, monkeypatch, capsys):
    monkeypatch.chdir(tables)
    a, b = pd.read_csv('predictions.csv'), pd.read_csv('baseline.csv')
    pd.concat([a.assign(seed=1), b.assign(seed=2)]).to_csv('runs.csv', index=False)
    assert main(['evaluate', 'runs.csv']) == 0
    said = capsys.readouterr().out
    assert 'over 2 seeds' in said and '2 training runs' in said and ' 400 ' in said and ' 800 ' not in said


@pytest.mark.filterwarnings('error::RuntimeWarning')
def test_one_group_has_no_interval_and_says_so(tables, monkeypatch, capsys):
    monkeypatch.chdir(tables)
    for name in ('predictions', 'baseline'): pd.read_csv(f'{name}.csv').assign(group='one').to_csv(f'{name}.csv', index=False)
    assert main(['evaluate', 'predictions.csv', '--against', 'baseline.csv']) == 0
    out = capsys.readouterr().out
    assert '[no interval]' in out and 'All items are in one group' in out and 'nan' not in out


def test_one_class_only_is_cautioned(tables, monkeypatch, capsys):
    monkeypatch.chdir(tables)
    frame = pd.read_csv('predictions.csv').query("target == 'bad'").reset_index(drop=True)
    odd = frame.index % 9 == 0  # called so, and never true
    frame.assign(score_odd=1. * odd, score_bad=frame.score_bad * ~odd, score_good=frame.score_good * ~odd).to_csv('one.csv', index=False)
    assert main(['evaluate', 'one.csv', '--metrics', 'accuracy', 'f1', 'roc_auc']) == 0
    lines = capsys.readouterr().out.splitlines()
    said = lambda metric: next(l for l in lines if l.split()[:1] == [metric])
    assert 'Caution: a class with 0' in said('f1') and 'undefined' in said('roc_auc') and 'Caution' not in said('accuracy')
    assert len([l for l in lines if l.startswith('Note: roc_auc cannot be computed')]) == 1
