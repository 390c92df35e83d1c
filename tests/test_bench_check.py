"`sft-nb check`: a release gate must not open by mistake, and must say why it stays shut."
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from test_cli import fails, make_photos, write_config

from sft_nb.bench.check import check_runs
from sft_nb.bench.standard import TABLES, make_standard, read_standard
from sft_nb.bench.verdict import check_standard, overall_verdict
from sft_nb.cli import main
from sft_nb.core import InputError
from sft_nb.evaluate.evaluation import evaluate_predictions
from sft_nb.records import Evaluation, Predictions
from sft_nb.train.run import Run


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> list:
    "Three trainings of one recipe."
    folder = tmp_path_factory.mktemp('check')
    photos = make_photos(folder/'photos')
    for seed in (0, 1, 2): assert main(['run', str(write_config(folder/f'{seed}.yaml', photos, train=dict(seed=seed))), '--out', str(folder/f'run-{seed}')]) == 0
    return [Run(folder/f'run-{seed}') for seed in (0, 1, 2)]


def write_standard(path: Path, *require, **sections) -> Path:
    path.write_text(yaml.safe_dump(dict(name='photos', require=list(require)) | sections), encoding='utf-8')
    return path


@pytest.mark.parametrize('limit, code, word', [(.01, 0, 'PASS'), (1.0, 1, 'FAIL')])
def test_exit_codes(runs, tmp_path, capsys, limit, code, word):
    standard = write_standard(tmp_path/'s.yaml', dict(metric='accuracy', at_least=limit))
    value = runs[0].evaluation.get('accuracy')
    assert value.high < 1 # so that 1.0 is out of reach
    assert main(['check', str(standard), str(runs[0].folder)]) == code
    assert capsys.readouterr().out.splitlines()[-1].startswith(word)
    assert word in (runs[0]/'report.html').read_text(encoding='utf-8') and word in (runs[0]/'card.md').read_text(encoding='utf-8')


def test_between_the_ends_nothing_can_be_said(runs, tmp_path, capsys):
    row = runs[0].evaluation.get('accuracy')
    limit = float((row.low + row.value) / 2)
    standard = write_standard(tmp_path/'s.yaml', dict(metric='accuracy', at_least=limit))
    assert main(['check', str(standard), str(runs[0].folder), '--json', str(tmp_path/'v.json'), '--junit', str(tmp_path/'v.xml')]) == 2
    said = capsys.readouterr().out
    assert 'CANNOT SAY: of 1 of 1 demand this test set cannot say whether it is met. The standard: photos, version 1.' in said
    found = json.loads((tmp_path/'v.json').read_text())
    demand, = found['demands']
    assert (found['verdict'], found['standard']['key'], demand['verdict']) == ('cannot say', read_standard(standard).key, 'cannot say')
    suite = ElementTree.parse(tmp_path/'v.xml').getroot()
    assert (suite.get('tests'), suite.get('failures'), suite.get('errors')) == ('1', '0', '1')
    # as many items as it asks for, all like these, do decide
    preds = runs[0].predictions('test')
    times = int(np.ceil(demand['needed_n'] / len(preds)))
    frame = pd.concat([preds.to_frame().assign(id=lambda d, k=k: d['id'].astype(str) + f'-{k}') for k in range(times)])
    more = evaluate_predictions(Predictions.from_frame(frame, task=preds.task, labels=preds.labels), seed=0)
    assert overall_verdict(check_standard(more, read_standard(standard))) == 'pass'


def test_the_bound_is_the_readers_choice(runs):
    row = runs[0].evaluation.get('accuracy')
    between = float((row.low + row.value) / 2)
    said = {bound: overall_verdict(check_standard(runs[0].evaluation, make_standard(dict(name='s', require=[dict(metric='accuracy', at_least=between, bound=bound)])))) for bound in ('low', 'value', 'high')}
    assert said == dict(low='cannot say', value='pass', high='pass')


def test_seeds_are_counted_and_pooled(runs, tmp_path, capsys):
    standard = write_standard(tmp_path/'s.yaml', dict(metric='accuracy', at_least=.01), seeds=3)
    assert main(['check', str(standard), *(str(r.folder) for r in runs[:2])]) == 2
    assert '2 trainings, and 3 that differ in the seed are asked for' in capsys.readouterr().out
    before = [r.count_reads() for r in runs]
    assert main(['check', str(standard), *(str(r.folder) for r in runs), '--out', str(tmp_path/'all')]) == 0
    assert [r.count_reads() for r in runs] == [n + 1 for n in before]
    both = Evaluation.load(tmp_path/'all')
    assert '3 seeds' in both.get('accuracy').method and both.context['standard']['name'] == 'photos'
    assert both.get('accuracy').value == pytest.approx(np.mean([r.evaluation.get('accuracy').value for r in runs]))


def test_another_level_is_computed_not_relabelled(runs, tmp_path):
    strict = check_runs(make_standard(dict(name='s', level=.99, require=[dict(metric='accuracy', at_least=.01)])), runs[:1], tmp_path/'strict')
    usual = runs[0].predictions('test')
    again = evaluate_predictions(usual, seed=0, confidence_level=.99, metrics=['accuracy'])
    assert strict.verdict.low[0] == again.get('accuracy').low < evaluate_predictions(usual, seed=0, metrics=['accuracy']).get('accuracy').low
    assert 'cannot say' == overall_verdict(check_standard(evaluate_predictions(usual, seed=0), make_standard(dict(name='s', level=.99, require=[dict(metric='accuracy', at_least=.01)]))))


def test_runs_that_the_standard_is_not_about(runs, tmp_path, capsys):
    lock = runs[0].lock
    about = lambda **data: write_standard(tmp_path/'s.yaml', dict(metric='accuracy', at_least=.01), data=data)
    assert main(['check', str(about(split=lock['split'], targets=lock['targets'][:16])), str(runs[0].folder)]) == 0
    before = (runs[0]/'evaluation.json').read_bytes()
    err = fails(capsys, 'check', about(split='f' * 64, targets='0' * 64), runs[0].folder, code=3)
    assert err.count('another version of the data') == 2 and lock['split'][:12] in err
    assert (runs[0]/'evaluation.json').read_bytes() == before
    assert main(['check', str(about(training=['elpv'])), str(runs[0].folder)]) == 1
    assert 'only elpv may be' in capsys.readouterr().out


def test_the_closed_division_is_closed(runs, tmp_path, capsys):
    closed = lambda epochs: write_standard(tmp_path/'s.yaml', dict(metric='accuracy', at_least=.01), division='closed', fixed={'train.epochs': epochs, 'model.size': 32})
    assert main(['check', str(closed(0)), str(runs[0].folder)]) == 0
    assert main(['check', str(closed(3)), str(runs[0].folder)]) == 1
    assert 'train.epochs is 0 and not 3' in capsys.readouterr().out


def test_runs_that_are_not_alike(runs, tmp_path, capsys):
    other = tmp_path/'other'
    assert main(['run', str(write_config(tmp_path/'o.yaml', runs[0].config.data.path, train=dict(seed=5, batch_size=4))), '--out', str(other)]) == 0
    err = fails(capsys, 'check', write_standard(tmp_path/'s.yaml', dict(metric='accuracy', at_least=.01)), runs[0].folder, other, runs[0].folder, code=3)
    assert 'batch_size: 4' in err and 'seed 0 in both' in err


@pytest.mark.parametrize('text, part', [
    ('name: x\nrequire: [{metric: acuracy, at_least: .8}]', 'Did you mean `accuracy`'),
    ('name: x\nrequire: [{metric: accuracy, threshold: .8}]', 'Unknown key `require[0].threshold`'),
    ('name: x\nrequire: [{metric: accuracy}]', 'A limit without a direction decides nothing'),
    ('name: x\nrequire: [{metric: cost.size_mb, at_least: 9}, {metric: cost.size_mb, at_most: 5}]', 'contradict each other'),
    ('name: x\nrequire: [{metric: log_loss, at_least: .1}]', 'Less of log_loss is better'),
    ('name: x\nrequire: []', 'a list of at least one demand'),
    ('require: [{metric: accuracy, at_least: .8}]', '`name` to be given'),
    ('name: x\nlevel: 95\nrequire: [{metric: accuracy, at_least: .8}]', 'in [0.5, 0.99]'),
    ('- 1\n- 2', 'a mapping'),
    ('a: &a [*a]', 'without end'),
    ('a: [', 'to be YAML')])
def test_a_standard_that_is_wrong(runs, tmp_path, capsys, text, part):
    (tmp_path/'s.yaml').write_text(text)
    err = fails(capsys, 'check', tmp_path/'s.yaml', runs[0].folder, code=3)
    assert part in err and 's.yaml' in err


def test_runs_that_are_none(tmp_path, capsys):
    standard = write_standard(tmp_path/'s.yaml', dict(metric='accuracy', at_least=.01))
    err = fails(capsys, 'check', standard, tmp_path/'nothing', tmp_path, code=3)
    assert 'nothing' in err and err.count('a finished run') == 2
    assert 'gone.yaml' in fails(capsys, 'check', tmp_path/'gone.yaml', tmp_path, code=3)


def test_what_was_not_measured_is_asked_for(runs):
    asked = make_standard(dict(name='s', require=[dict(metric='robustness.mean_corruption_error', at_most=.5), dict(metric='accuracy', worst_of='camera', at_least=.1), dict(metric='accuracy', over='last release', at_least=0)]))
    with pytest.raises(InputError) as e: check_runs(asked, runs[:1])
    assert len(e.value.problems) == 3 and 'sft-nb stress' in str(e.value) and 'data.slices' in str(e.value)


@pytest.mark.parametrize('n, share', [(60, .7), (300, .9)])
def test_superiority_over_an_equal_model_is_rarely_met(n, share):
    "Two models that are equally good, of which neither knows the other: a demand to be better is met in at most 2.5 % of cases."
    rng, met, trials = np.random.default_rng(7), 0, 400
    standard = make_standard(dict(name='s', require=[dict(metric='accuracy', over='twin', at_least=0)]))
    for _ in range(trials):
        y = rng.random(n) < .5
        said = [np.where(rng.random(n) < share, y, ~y).astype(float) for _ in range(2)]
        preds = [Predictions(ids=np.arange(n).astype(str), target=y.astype(int), score=np.stack([1 - s, s], 1), task='single_label', labels=('a', 'b')) for s in said]
        e = evaluate_predictions(preds[0], baselines=dict(twin=preds[1]), metrics=['accuracy'], seed=0)
        met += overall_verdict(check_standard(e, standard)) == 'pass'
    assert met / trials <= .025 + 3 * np.sqrt(.025 * .975 / trials), met


def test_every_table_can_be_demanded():
    for table in TABLES: assert make_standard(dict(name='s', require=[dict(metric=f'{table}.anything', at_most=1)])).require[0].metric == f'{table}.anything'
