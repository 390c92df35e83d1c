"Sealed labels from end to end: what is given away, what comes back, and what each claim is worth."
import re, sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from statsmodels.stats.multitest import multipletests

from sft_nb.bench.check import check_runs
from sft_nb.bench.holdout import score_ladder, score_run, score_table, seal_data
from sft_nb.bench.job import run_job
from sft_nb.bench.judge import count_claim
from sft_nb.bench.standard import make_standard
from sft_nb.cli import main
from sft_nb.config import make_config, read_config
from sft_nb.core import InputError
from sft_nb.data.sealed import SealedLabels, seal_items
from sft_nb.evaluate.evaluation import evaluate_predictions
from sft_nb.evaluate.ladder import climb_ladder
from sft_nb.records import COMPARISON_COLUMNS, make_predictions
from sft_nb.train.run import Run

quiet = dict(say=lambda line: None)

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "A folder a class; one picture in ten lies in the wrong one."
    folder, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
    for i in range(150):
        red, name = [60, 150][(i + (i % 10 == 0)) % 2], ['sky', 'earth'][i % 2]
        (folder/name).mkdir(exist_ok=True)
        Image.fromarray(np.uint8(np.clip(rng.normal((red, 90, 120), 40, (24, 24, 3)), 0, 255))).save(folder/name/f'{name}{i:03}.png')
    return folder

def configure(photos, **data): return make_config(dict(data=dict(path=str(photos)) | data, split=dict(test=.4), model=dict(size=32), train=dict(epochs=1, batch_size=8)))

@pytest.fixture(scope='module')
def sealed(photos, tmp_path_factory):
    "The folder, and the configuration to train with."
    folder = tmp_path_factory.mktemp('sealed')
    return folder, seal_data(configure(photos), folder, **quiet)

@pytest.fixture(scope='module')
def trained(sealed, tmp_path_factory):
    "A run of somebody who has no labels of the test split."
    folder = tmp_path_factory.mktemp('runs')/'away'
    away = replace(sealed[1], data=replace(sealed[1].data, sealed=str(folder.parent/'none.sqlite')))
    with pytest.raises(InputError, match='They are with whoever judges'): run_job(away, folder, **quiet)
    return folder

def test_nothing_that_is_given_says_a_label(photos, sealed):
    folder, config = sealed
    given = pd.read_parquet(config.data.path)
    test = given[given.split == 'test']
    assert test.target.isna().all() and given[given.split != 'test'].target.notna().all() and len(test) == 60
    assert not test.astype(str).apply(lambda column: column.str.contains('sky|earth')).any().any() # nor a name, nor a path
    truth = SealedLabels(config.data.sealed).read('this test')
    order = np.argsort([i for i in test.id]) # the rows as they come
    first = truth[test.id].to_numpy()[order] == 'sky'
    assert .3 < first[:30].mean() < .7 # the order says nothing: sorted by class it would be 0 or 1
    was = pd.read_csv(folder/'names.csv').set_index('id').was
    assert all(was[i].split('/')[0] == truth[i] for i in test.id) # and nothing was mixed up
    for i, path in zip(test.id, test.input): assert (folder/'given'/path).read_bytes() == (photos/was[i]).read_bytes()
    assert (folder/'labels.sqlite').stat().st_mode & 0o077 == 0

def test_a_soft_label_is_a_label(photos, tmp_path):
    table = pd.DataFrame([dict(file=str(p.relative_to(photos)), label=p.parent.name, chance=float(p.parent.name == 'sky')) for p in sorted(photos.rglob('*.png'))])
    table.to_csv(photos.parent/'soft.csv', index=False)
    config = make_config(dict(data=dict(path=str(photos.parent/'soft.csv'), root=str(photos), positive='sky', soft='chance'), split=dict(test=.4), model=dict(size=32), train=dict(epochs=1, batch_size=8)))
    sealed = seal_data(config, tmp_path/'s', **quiet)
    given = pd.read_parquet(sealed.data.path)
    assert given.chance.isna().tolist() == (given.split == 'test').tolist()
    assert run_job(sealed, tmp_path/'run', **quiet).get('accuracy').n == 60

def test_who_trains_has_no_number_and_who_judges_has_the_same(sealed, trained):
    run = Run(trained)
    for model in ('', 'probe'):
        assert not [c for c in pd.read_parquet(run/f"predictions-test{'-probe' * bool(model)}.parquet") if c.startswith('target')]
        with pytest.raises(InputError, match='Choose on the validation split'): run.predictions('test', model)
    assert len(run.predictions('valid')) and run.items[run.items.split == 'test'].target.isna().all()
    with_labels = run_job(sealed[1], trained.parent/'here', **quiet)
    later = score_run(trained, sealed[1].data.sealed)
    for a, b in ((later.metrics.value, with_labels.metrics.value), (later.comparisons.difference, with_labels.comparisons.difference)): np.testing.assert_allclose(a, b, rtol=1e-12) # a file holds 15 digits
    assert (trained/'report.html').is_file() and 'The sealed labels of' in (trained/'card.md').read_text()

def test_open_and_sealed_runs_learn_the_same(photos, sealed, trained):
    "Without the labels of the test split, training is what it was."
    given, truth = pd.read_parquet(sealed[1].data.path), SealedLabels(sealed[1].data.sealed).read('this test')
    open_table = given.assign(target=given.target.fillna(given.id.map(truth)))
    open_table.to_parquet(trained.parent/'open.parquet')
    config = replace(sealed[1], data=replace(sealed[1].data, path=str(trained.parent/'open.parquet'), root=str(sealed[0]/'given'), sealed=None))
    run_job(config, trained.parent/'open', **quiet)
    a, b = pd.read_parquet(trained.parent/'open'/'predictions-test.parquet'), pd.read_parquet(trained/'predictions-test.parquet')
    assert a.drop(columns='target').equals(b)

@pytest.mark.parametrize('change, words', [
    (lambda t: t[3:], 'Predict every item'), (lambda t: pd.concat([t, t.head(1).assign(id='test-999999')]), 'others in 1 of 61'),
    (lambda t: pd.concat([t, t.head(1)]), 'repeats'), (lambda t: t.assign(target='sky'), 'without targets'), (lambda t: t.drop(columns='id'), 'column `id`'),
    (lambda t: t.assign(score_sky=2.), 'probabilities')])
def test_answers_that_cannot_be_scored(sealed, trained, tmp_path, change, words):
    answers = pd.read_parquet(trained/'predictions-test.parquet')[['id', 'score_earth', 'score_sky']]
    change(answers).to_csv(tmp_path/'a.csv', index=False)
    with pytest.raises(InputError, match=words): score_table(tmp_path/'a.csv', sealed[1].data.sealed)

def test_holm_over_all_that_was_claimed(sealed, tmp_path):
    items = pd.DataFrame(dict(id=[f'i{i}' for i in range(40)], target=['a', 'b'] * 20, split='test'))
    seal_items(items, tmp_path/'l.sqlite', name='letters')
    labels, rng = SealedLabels(tmp_path/'l.sqlite'), np.random.default_rng(0)
    evaluation = evaluate_predictions(make_predictions(items.id, items.target, rng.uniform(size=40), task='single_label', labels=('a', 'b')), seed=0)
    p, said = [.03, .001, .2, .012, .04, .5], {}
    for i, value in enumerate(p):
        labels.read('evaluation')
        compared = pd.DataFrame([dict.fromkeys(COMPARISON_COLUMNS) | dict(metric='accuracy', baseline=name, difference=.1, low=.0, high=.2, p_value=v) for name, v in (('majority', value / 10), ('probe', value))])
        said[i] = count_claim(replace(evaluation, comparisons=compared, context=dict(headline='accuracy')), labels, run=f'r{i}', config=str(i)).context['reads']
        assert said[i]['baseline'] == 'probe' and said[i]['configurations'] == said[i]['n'] == i + 1 # the hardest to beat
        assert said[i]['p_holm'] == pytest.approx(multipletests(p[:i + 1], method='holm')[1][i])
        assert said[i]['level'] == pytest.approx(1 - .05 / (i + 1))
    again = count_claim(replace(evaluation, comparisons=compared, context=dict(headline='accuracy')), labels, run='r5', config='5').context['reads']
    assert again['configurations'] == 6 and again['p_holm'] == said[5]['p_holm'] # the same configuration is the same claim

def test_a_standard_may_limit_the_reads(photos, tmp_path):
    config = seal_data(configure(photos), tmp_path/'s', **quiet)
    run_job(config, tmp_path/'a', **quiet)
    standard = lambda reads: make_standard(dict(name='few looks', reads=reads, require=[dict(metric='accuracy', at_least=.5)]))
    rule = lambda e: e.verdict.set_index('metric').verdict['test reads']
    assert rule(check_runs(standard(1), [Run(tmp_path/'a')])) == 'met'
    run_job(replace(config, train=replace(config.train, lr=1e-3)), tmp_path/'b', **quiet)
    after = check_runs(standard(1), [Run(tmp_path/'a')]) # nothing is read, but the count of others is known
    assert rule(after) == 'failed' and after.context['reads']['configurations'] == 2 and Run(tmp_path/'a').count_reads() == 2
    assert 'for 2 configurations' in (tmp_path/'a'/'report.html').read_text()
    with closing(sqlite3.connect(config.data.sealed, isolation_level=None)) as db: # cut off, with all traces
        for s in ('DROP TRIGGER no_removal', 'DELETE FROM ledger WHERE n > 3', "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'ledger'"): db.execute(s)
    before = (tmp_path/'b'/'evaluation.json').read_bytes()
    with pytest.raises(InputError, match='as was written down'): check_runs(standard(1), [Run(tmp_path/'b')])
    assert (tmp_path/'b'/'evaluation.json').read_bytes() == before

def test_a_changed_label_stops_the_evaluation_and_loses_nothing(photos, tmp_path):
    config = seal_data(configure(photos), tmp_path/'s', **quiet)
    whole = (tmp_path/'s'/'labels.sqlite').read_bytes()
    with closing(sqlite3.connect(config.data.sealed, isolation_level=None)) as db:
        for s in ('DROP TRIGGER no_change_of_labels', "UPDATE labels SET target = 'sky' WHERE target = 'earth'"): db.execute(s)
    with pytest.raises(InputError, match='Somebody changed them'): run_job(config, tmp_path/'run', **quiet)
    assert not (tmp_path/'run'/'evaluation.json').exists()
    (tmp_path/'s'/'labels.sqlite').write_bytes(whole)
    trained = (tmp_path/'run'/'predictions-test.parquet').stat().st_mtime_ns
    assert run_job(config, tmp_path/'run', **quiet).n == 60 and (tmp_path/'run'/'predictions-test.parquet').stat().st_mtime_ns == trained

def test_texts_and_a_second_seal(tmp_path):
    table = pd.DataFrame(dict(text=[f"{'good' if i % 2 else 'bad'} film number {i} with {['fine', 'poor'][i % 2]} words {i * 7919}" for i in range(60)], label=['pos' if i % 2 else 'neg' for i in range(60)], name=[f"{'pos' if i % 2 else 'neg'}_{i}" for i in range(60)]))
    table.to_csv(tmp_path/'t.csv', index=False)
    config = make_config(dict(data=dict(path=str(tmp_path/'t.csv'), kind='text', id='name'), split=dict(test=.4, on_leak='warn'), model=dict(max_length=16), train=dict(epochs=0)))
    sealed = seal_data(config, tmp_path/'s', **quiet)
    assert not pd.read_parquet(sealed.data.path).query('split == "test"').id.str.contains('pos|neg').any()
    assert run_job(sealed, tmp_path/'run', **quiet).n == 24
    with pytest.raises(InputError, match='not sealed yet'): seal_data(sealed, tmp_path/'s2', **quiet)
    with pytest.raises(InputError, match='new or empty'): seal_data(config, tmp_path/'s', **quiet)
    for bad in (dict(split=dict(method='stratified')), dict(data=dict(max_items=5))):
        given = dict(data=dict(path='x.csv', kind='text', sealed='l.sqlite') | bad.get('data', {}), split=dict(method='given') | bad.get('split', {}))
        with pytest.raises(InputError, match='data.sealed|max_items'): make_config(given)

def test_the_command_line(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'my.yaml').write_text(f'data: {{path: {photos}}}\nsplit: {{test: .4}}\nmodel: {{size: 32}}\ntrain: {{epochs: 0}}\n')
    assert main(['seal', 'my.yaml', '--out', 'sealed']) == 0 and 'To train: sft-nb run sealed/given/config.yaml' in capsys.readouterr().out
    assert main(['run', 'sealed/given/config.yaml', '--out', 'run']) == 0
    assert 'The sealed labels of' in (out := capsys.readouterr().out) and 'read 1 time, for 1 configuration' in out
    pd.read_parquet('run/predictions-test.parquet')[['id', 'score_earth', 'score_sky']].to_csv('a.csv', index=False)
    assert main(['score', 'a.csv', 'sealed/labels.sqlite', '--out', 'scored']) == 0 and (tmp_path/'scored'/'report.html').is_file()
    assert 'for 2 configurations' in capsys.readouterr().out
    assert main(['seal', 'my.yaml', '--out', 'rungs', '--ladder']) == 0
    assert main(['run', 'rungs/given/config.yaml', '--out', 'other']) == 1 and 'one number at a time' in capsys.readouterr().err
    assert not (tmp_path/'other'/'evaluation.json').exists() and SealedLabels('rungs/labels.sqlite').count_reads() == 0
    assert main(['score', 'other', 'rungs/labels.sqlite']) == 0
    error = float(re.search(r'Error of the best so far: ([\d.]+)\. This is a new best', capsys.readouterr().out)[1])
    assert error == pytest.approx(1 - Run('run').evaluation.get('accuracy').value, abs=1e-4)
    assert main(['score', 'other', 'rungs/labels.sqlite']) == 0 and 'not shown to be better. Asked 2 times' in capsys.readouterr().out
    assert main(['score', 'a.csv', 'nowhere.sqlite']) == 1 and 'sft-nb score' in capsys.readouterr().err

def test_a_ladder_gives_less_away_than_a_board_of_all_scores():
    "200 rounds of small changes to coin tosses, 20 times: what is claimed stays within the theorem's bound, and above what is claimed by a board that tells every score."
    n, rounds, claims, plain = 500, 200, [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth, first = rng.integers(0, 2, n), rng.integers(0, 2, n)
        ours = theirs = first
        published, _ = climb_ladder(first != truth)
        for _ in range(rounds):
            flip = rng.uniform(size=n) < .05
            trial = np.where(flip, 1 - ours, ours)
            published, new = climb_ladder(trial != truth, ours != truth, published=published)
            if new: ours = trial
            trial = np.where(flip, 1 - theirs, theirs)
            if np.mean(trial != truth) < np.mean(theirs != truth): theirs = trial
        claims.append(published); plain.append(np.mean(theirs != truth))
    assert np.mean(plain) + .02 < np.mean(claims) and min(claims) > .5 - (np.log(rounds * n) / n) ** (1 / 3)
