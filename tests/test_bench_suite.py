"Suites: every cell survives a kill, nothing is dropped in silence, and the board says what is tied and what is missing."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from test_cli import SFT_NB, fails, make_photos

from sft_nb.bench.leaderboard import build_leaderboard, pareto_front
from sft_nb.bench.suite import make_suite, read_suite, run_suite, suite_cells, suite_scores
from sft_nb.cli import main
from sft_nb.core import InputError


def write_suite(path: Path, photos, **more) -> Path:
    task = lambda size, **train: dict(data=dict(path=str(photos)), model=dict(size=size), split=dict(valid=.2, test=.3), evaluate=dict(n_resamples=200), train=dict(batch_size=8, **train))
    given = dict(name='photos', tasks=dict(small=task(32), large=task(40)), recipes=dict(probe=dict(train=dict(epochs=0)), tuned=dict(train=dict(epochs=1, lr=1e-3))), seeds=[0, 1]) | more
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return path


@pytest.fixture(scope='module')
def photos(tmp_path_factory): return make_photos(tmp_path_factory.mktemp('suite')/'photos')


@pytest.fixture(scope='module')
def whole(tmp_path_factory, photos):
    "A suite that nobody stopped, from the terminal."
    folder = tmp_path_factory.mktemp('whole')
    assert main(['suite', str(write_suite(folder/'s.yaml', photos)), '--out', str(folder/'out')]) == 0
    return folder


def test_killed_again_and_again_it_ends_as_one_that_was_not(whole, photos, tmp_path):
    "Ten real SIGKILLs; then the same bytes."
    path, kills = write_suite(tmp_path/'s.yaml', photos), 0
    command, rng = [*SFT_NB, 'suite', str(path), '--out', str(tmp_path/'out')], np.random.default_rng(0)
    for _ in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | dict(CI='1'))
        try: process.wait(float(rng.uniform(4, 9)))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        process.stderr.close()
    assert kills >= 3 # the last ones may find nothing left to do
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | dict(CI='1'))
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ('cells.csv', 'leaderboard.csv'): assert (tmp_path/'out'/name).read_bytes() == (whole/'out'/name).read_bytes(), name
    assert not [p for p in (tmp_path/'out').rglob('.*') if p.is_file() and p.suffix != '.lock']


def test_the_second_time_nothing_is_trained(whole, capsys):
    place = next((whole/'out').rglob('evaluation.json')).parent
    for name in ('.busy', '.busy.json'): (place/name).write_text('{}') # as of a process that was killed between its last file and its end
    started = time.perf_counter()
    assert main(['suite', str(whole/'s.yaml'), '--out', str(whole/'out')]) == 0
    assert not (place/'.busy').exists() and not (place/'.busy.json').exists()
    assert time.perf_counter() - started < 20
    said = capsys.readouterr().out
    assert 'of 8:' not in said and 'Leaderboard: ' in said


def test_recipes_see_the_same_items(whole):
    cells = [p.parent for p in (whole/'out'/'small').rglob('items.parquet')]
    assert len(cells) == 4 and len({json.loads((c/'lock.json').read_text())['split'] for c in cells}) == 1


def test_a_failure_stands_beside_the_results(photos, tmp_path, capsys):
    given = yaml.safe_load(write_suite(tmp_path/'s.yaml', photos).read_text())
    given['recipes']['broken'] = dict(model=dict(backbone='tf_efficientnet_lite9'))
    (tmp_path/'s.yaml').write_text(yaml.safe_dump(given | dict(seeds=[0]), sort_keys=False))
    assert main(['suite', str(tmp_path/'s.yaml'), '--out', str(tmp_path/'out')]) == 2
    said = capsys.readouterr().out
    assert said.count('FAILED') == 2 and '2 of 6 cells are missing' in said and 'tf_efficientnet_lite9' in said
    page = (tmp_path/'out'/'leaderboard.html').read_text()
    assert '2 of 6 cells are missing' in page and '<span class="gap">missing</span>' in page
    failure = json.loads((tmp_path/'out'/'small'/'broken'/'0.failure.json').read_text())
    assert failure['kind'] == 'InputError' and 'tf_efficientnet_lite9' in failure['why']
    scores = suite_scores(read_suite(tmp_path/'s.yaml'), tmp_path/'out')
    assert scores.set_index(['task', 'recipe']).state['large', 'broken'] == 'failed' and scores.value.isna().sum() == 2


@pytest.mark.parametrize('change, part', [
    (dict(tasks={'../up': {}}), 'a plain file name'), (dict(tasks={'a/b': {}}), 'a plain file name'), (dict(tasks={'A': dict(data=dict(path='x')), 'a': dict(data=dict(path='y'))}), 'twice'),
    (dict(seeds=[1, 1]), 'all different'), (dict(seeds=['one']), 'whole numbers'), (dict(recipes={}), 'at least one'), (dict(recipes=dict(p=dict(data=dict(path='z')))), 'belongs to a task'),
    (dict(recipes=dict(p=dict(train=dict(seed=4)))), 'Seeds are those of the suite'), (dict(recipes=dict(p=dict(train=dict(epoch=4)))), 'Did you mean `epochs`'), (dict(leave_out=[dict(task='smal', recipe='probe')]), 'Did you mean `small`'),
    (dict(extra=1), 'Unknown key `extra`')])
def test_a_suite_that_is_wrong(photos, tmp_path, capsys, change, part):
    err = fails(capsys, 'suite', write_suite(tmp_path/'s.yaml', photos, **change), '--out', tmp_path/'out')
    assert part in err and 's.yaml' in err and not (tmp_path/'out').exists()


def test_two_cells_of_one_name(photos, tmp_path, capsys):
    text = write_suite(tmp_path/'s.yaml', photos).read_text()
    (tmp_path/'s.yaml').write_text(text.replace('  large:', '  small:'))
    assert 'the key `small` is there twice' in fails(capsys, 'suite', tmp_path/'s.yaml', '--out', tmp_path/'out')


def test_folders_do_not_mix(whole, photos, tmp_path, capsys):
    assert 'must not mix' in fails(capsys, 'suite', write_suite(tmp_path/'s.yaml', photos, seeds=[0, 1, 2]), '--out', whole/'out')
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis.txt').write_text('x')
    assert 'something else' in fails(capsys, 'suite', whole/'s.yaml', '--out', tmp_path/'mine')
    assert (tmp_path/'mine'/'thesis.txt').read_text() == 'x'


def test_a_board_needs_something_to_put_together(photos, tmp_path):
    with pytest.raises(InputError, match='at least one cell'): build_leaderboard(read_suite(write_suite(tmp_path/'s.yaml', photos)), tmp_path/'nothing')


@pytest.mark.parametrize('name', ['small', 'full', 'few_labels'])
def test_suites_that_are_built_in(name):
    suite = read_suite(name)
    assert suite.name == name and len(suite_cells(suite)) == (len(suite.tasks) * len(suite.recipes) - len(suite.leave_out)) * len(suite.seeds)


def test_the_front_is_what_brute_force_finds():
    rng = np.random.default_rng(0)
    for _ in range(50):
        q, c = rng.integers(0, 5, 8).astype(float), rng.integers(0, 5, 8).astype(float)
        beaten = [any((q[j] >= q[i] and c[j] <= c[i]) and (q[j] > q[i] or c[j] < c[i]) for j in range(8)) for i in range(8)]
        assert pareto_front(q, c).tolist() == [not b for b in beaten]


def test_results_from_elsewhere_must_say_their_n(whole, tmp_path, capsys):
    pd.DataFrame([dict(task='small', recipe='theirs', metric='accuracy', value=.9, n=400), dict(task='small', recipe='theirs', metric='accuracy', value=.9, n=None)]).to_csv(tmp_path/'o.csv', index=False)
    assert 'row 2' in fails(capsys, 'suite', whole/'s.yaml', '--out', whole/'out', '--outside', tmp_path/'o.csv')
    pd.DataFrame([dict(task='small', recipe='theirs', metric='accuracy', value=.9, n=400)]).to_csv(tmp_path/'o.csv', index=False)
    assert main(['suite', str(whole/'s.yaml'), '--out', str(whole/'out'), '--outside', str(tmp_path/'o.csv')]) == 0
    assert 'theirs' in (whole/'out'/'leaderboard.html').read_text() and 'theirs' not in (whole/'out'/'leaderboard.csv').read_text()


def test_errors_are_ranked_with_the_least_first(monkeypatch):
    import sft_nb.bench.leaderboard as module
    rng = np.random.default_rng(0)
    suite = make_suite(dict(name='errors', tasks={t: dict(data=dict(path=t)) for t in 'abcd'}, recipes=dict(bad={}, good={}), seeds=[0, 1]))
    scores = pd.DataFrame([dict(task=t, recipe=r, seed=s, metric='mae', value=v + rng.uniform(0, .01), low=0., high=1., n=9, state='done', why='') for t in 'abcd' for s in (0, 1) for r, v in (('bad', .5), ('good', .2))])
    monkeypatch.setattr(module, 'suite_scores', lambda *a: scores)
    monkeypatch.setattr(module, 'suite_costs', lambda *a: scores[['task', 'recipe', 'seed']].assign(seconds=1., size_mb=1.))
    board = build_leaderboard(suite, 'nowhere')
    assert board.table.recipe.tolist() == ['good', 'bad'] and 'iqm' not in board.table and any('between 0 and 1' in n for n in board.notes)
    assert board.improvement.recipe[0] == 'good' and board.improvement.value[0] == 1
