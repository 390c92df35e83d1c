"""Search: what a kill leaves behind is continued, not repeated; the test split is never there; errors are said together.

Run as a program (`python tests/test_train_search.py FOLDER`), it does what needs processes of its own to be killed, and
prints what they left as JSON: libraries are imported once, and each process is forked from there."""
import glob
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sft_nb.config import make_config, read_config
from sft_nb.core import InputError
from sft_nb.data.splits import split_items

TINY = dict(data=dict(path='photos'), model=dict(backbone='test_efficientnet', weights='none', size=32), train=dict(epochs=3, batch_size=10))
LONGER = dict(TINY, train=dict(TINY['train'], epochs=4)) # with a second rung
PROBE = dict(TINY, train=dict(epochs=0))
RATES = {'train.lr': dict(low=1e-5, high=.03, log=True), 'train.label_smoothing': [0., .1]}
STRENGTHS = {'train.probe_strength': dict(low=1e-5, high=10., log=True), 'train.class_weights': [None, 'balanced']}


def draw_photos(folder: Path, n=40) -> pd.DataFrame:
    "Stripes that are fine or wide, mostly hidden by noise."
    rng, rows = np.random.default_rng(0), []
    for k, kind in enumerate(['fine', 'wide']):
        (folder/kind).mkdir(parents=True)
        for i in range(n):
            stripes = 60 * np.sign(np.sin(np.arange(40) / (1.5 + 1.5 * k) + rng.uniform(0, 6)))
            pixels = 128 + stripes[:, None, None] * rng.uniform(.1, .8) + rng.normal(0, 50, (40, 40, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder/kind/f'{i}.png')
            rows.append(dict(id=f'{kind}/{i}', input=str(folder/kind/f'{i}.png'), target=kind))
    return split_items(pd.DataFrame(rows), method='stratified', valid=.35, test=.25, seed=0)


def outcome(search) -> list:
    "What must not depend on kills: everything but the time."
    t = search.trials.drop(columns='seconds')
    steps = {x.number: x.intermediate_values for x in search.study.get_trials()}
    return json.loads(t.assign(steps=[steps[n] for n in t.number]).to_json(orient='records'))


# --- With processes to kill ------------------------------------------------------------------------------------------

def fork(work) -> int:
    "Do `work` in a process of its own; it ends there."
    if pid := os.fork(): return pid
    try: work()
    except BaseException as e: print(type(e).__name__, e, file=sys.stderr); os._exit(130 if isinstance(e, KeyboardInterrupt) else 1)
    os._exit(0)


def end(pid) -> int: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_often(work, moments) -> list:
    "SIGKILL at each moment, which is a delay in seconds or the end of a trial that is about to be written down; then let it finish. Which kills hit."
    hits = []
    for moment in moments:
        pid = fork(work if isinstance(moment, float) else lambda: (die_before(moment), work()))
        if isinstance(moment, float):
            time.sleep(moment)
            os.kill(pid, signal.SIGKILL)
        hits.append(end(pid) == -signal.SIGKILL)
    assert end(fork(work)) == 0
    return hits


def die_before(state: str):
    "From now on, this process kills itself when a trial ends as `state`."
    from optuna.study import Study
    tell = Study.tell
    def dying(self, trial, **kw): os.kill(os.getpid(), signal.SIGKILL) if kw['state'].name == state else tell(self, trial, **kw)
    Study.tell = dying


def run_processes(home: Path) -> dict:
    import optuna
    from sft_nb.train.search import open_search, tune
    optuna.create_study(storage='sqlite://') # all imports, once for all
    items, rng = draw_photos(home/'photos'), random.Random(time.time_ns())
    def search(name, config, **kw):
        about = dict(folder=home/name.split('-')[0]/name, seed=3, study_name='s') | {k: v for k, v in kw.items() if k in ('space', 'sampler', 'pruner')}
        quiet = lambda line: None
        return (lambda: tune(make_config(config), items, n_trials=kw['n'], say=kw.get('say', quiet), **about)), (lambda: outcome(open_search(make_config(config), items, **about)))
    out = {}
    for name, config, kw, moments in [('tuning', TINY, dict(space=RATES, n=7), [*(rng.uniform(.2, 1.5) for _ in range(3)), 'PRUNED', 'COMPLETE']),
                                      ('halving', LONGER, dict(space=RATES, n=14, pruner='hyperband'), ['PRUNED', *(rng.uniform(.2, 1.5) for _ in range(3)), 'COMPLETE', 'PRUNED', 'COMPLETE']),
                                      ('probing', PROBE, dict(space=STRENGTHS, n=12), [rng.uniform(.05, 1.) for _ in range(2)])]:
        work, look = search(f'{name}-whole', config, **kw)
        assert end(fork(work)) == 0
        work, look_again = search(f'{name}-killed', config, **kw)
        out[name] = dict(hits=kill_often(work, moments), killed=look_again(), whole=look())
    work, look = search('two', PROBE, space=STRENGTHS, n=6, sampler='random')
    both = [fork(work), fork(work)]
    out['two'] = dict(codes=[end(pid) for pid in both], trials=look())
    said = home/'said'
    work, look = search('stopped', TINY, space=RATES, n=1, say=lambda line: said.write_text(line))
    pid = fork(lambda: (signal.signal(signal.SIGINT, signal.default_int_handler), work()))
    while not glob.glob(f'{home}/stopped/**/checkpoint.safetensors', recursive=True): time.sleep(.01) # unlike `rglob`, it does not mind folders that vanish
    os.kill(pid, signal.SIGINT)
    code = end(pid)
    out['stopped'] = dict(code=code, said=said.read_text(), again=end(fork(work)), trials=look())
    return out


@pytest.fixture(scope='module')
def processes(tmp_path_factory) -> dict:
    home = tmp_path_factory.mktemp('search')
    done = subprocess.run([sys.executable, '-W', 'ignore', __file__, str(home)], capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('what, n', [('tuning', 7), ('halving', 14), ('probing', 12)])
def test_a_search_killed_at_any_moment_ends_as_one_that_was_not(processes, what, n):
    "TPE learns from earlier trials, and the pruner too: if one of them differed, the later ones would."
    p = processes[what]
    assert any(p['hits']) and p['killed'] == p['whole'] and [t['number'] for t in p['whole']] == list(range(n))
    if what != 'probing': assert {t['state'] for t in p['whole']} == {'complete', 'pruned'} and sum(p['hits'][-2:]) >= 1


def test_two_processes_share_a_search(processes):
    trials = processes['two']['trials']
    assert processes['two']['codes'] == [0, 0] and [t['number'] for t in trials] == list(range(6)) and {t['state'] for t in trials} == {'complete'}
    assert len({t['train.probe_strength'] for t in trials}) == 6


def test_ctrl_c_says_how_to_go_on(processes):
    p = processes['stopped']
    assert p['code'] == 130 and 'Stopped in trial 0' in p['said'] and p['again'] == 0
    assert [t['state'] for t in p['trials']] == ['complete']

# --- In this process -------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def items(tmp_path_factory) -> pd.DataFrame: return draw_photos(tmp_path_factory.mktemp('data')/'photos')


def search(items, folder, config=PROBE, space=STRENGTHS, n_trials=3, **kw):
    from sft_nb.train.search import tune
    said = []
    found = tune(make_config(config), items, folder=folder, space=space, n_trials=n_trials, say=said.append, seed=3, **kw)
    found.study.said = said
    return found


def test_the_test_split_is_never_there(items, tmp_path):
    "Its images are gone and its labels are replaced by nonsense: nothing changes."
    blind = items.assign(target=items.target.where(items.split != 'test', 'nonsense'), input=items.input.where(items.split != 'test', '/nowhere.png'))
    seen, unseen = [search(i, tmp_path/str(k), TINY, RATES, 2) for k, i in enumerate((items, blind))]
    assert outcome(seen) == outcome(unseen)
    assert not [p for p in (tmp_path/'1').rglob('*') if 'test' in p.name or 'ledger' in p.name]
    for path in (tmp_path/'1').rglob('items.parquet'): assert set(pd.read_parquet(path)['split']) == {'train', 'valid'}


def test_images_and_features_are_decoded_and_computed_once(items, tmp_path, monkeypatch):
    monkeypatch.setenv('SFT_NB_CACHE', str(tmp_path/'cache'))
    search(items, tmp_path/'s', n_trials=4)
    assert [len(list((tmp_path/'cache'/kind).glob('[!.]*'))) for kind in ('stores', 'features')] == [1, 1]


def test_a_failed_trial_says_why_and_the_search_goes_on(items, tmp_path):
    "A rate that explodes, and a backbone that does not exist, among two that are fine."
    space = {'train.lr': [1e-4, 1e30], 'model.backbone': ['test_efficientnet', 'no_such_net']}
    found = search(items, tmp_path, dict(TINY, train=dict(epochs=1, batch_size=10)), space, 12, sampler='random', pruner='none')
    t = found.trials
    bad, boom = t['model.backbone'] == 'no_such_net', (t['train.lr'] == 1e30) & (t['model.backbone'] == 'test_efficientnet')
    assert bad.any() and boom.any() and list(t.state == 'failed') == list(bad | boom) and found.best['train.lr'] == 1e-4
    assert t.reason[bad].str.contains('no_such_net').all() and t.reason[boom].str.contains('to be finite').all() and (t.reason[~bad & ~boom] == '').all()
    assert np.isnan(found.scores).sum() == (bad | boom).sum() and found.spent['failed'] == (bad | boom).sum()
    assert any(line.startswith('Trial') and 'failed: ' in line for line in found.study.said)
    assert not glob.glob(f'{tmp_path}/**/checkpoint*', recursive=True)


def test_if_all_fail_all_reasons_are_given(items, tmp_path):
    with pytest.raises(InputError, match=r'2 that failed') as e: search(items, tmp_path, PROBE, {'model.backbone': ['no_net', 'nor_this']}, 2, sampler='random')
    assert len(e.value.problems) == 3 and 'Trial 0: ' in str(e.value) and 'Trial 1: ' in str(e.value)


def test_everything_wrong_is_said_at_once(items, tmp_path):
    with pytest.raises(InputError) as e: search(items[items['split'] != 'valid'], tmp_path, sampler='tpee', pruner='medain', metric='accurac')
    for part in ('`sampler`', 'Did you mean `tpe`', '`pruner`', 'Did you mean `median`', '`metric`', 'Did you mean `accuracy`', 'a valid split'): assert part in str(e.value)
    with pytest.raises(InputError, match='`n_trials`'): search(items, tmp_path, n_trials=0)
    with pytest.raises(InputError, match='`storage`'): search(items, tmp_path, storage='sqlite:////nowhere/at/all.db')
    with pytest.raises(InputError, match='`storage`'): search(items, tmp_path, storage='nosuchdb://x')


def test_a_study_belongs_to_one_question(items, tmp_path):
    search(items, tmp_path, n_trials=1)
    with pytest.raises(InputError, match='another metric'): search(items, tmp_path, metric='accuracy')
    with pytest.raises(InputError, match='another items'): search(items.iloc[1:], tmp_path)
    with pytest.raises(InputError, match='exists'): search(items, tmp_path, load_if_exists=False)
    first = items.id[(items['split'] == 'train') & (items.target == 'fine')].iloc[0]
    with pytest.raises(InputError, match='another items'): search(items.assign(target=items.target.where(items.id != first, 'wide')), tmp_path)
    url = f"sqlite:///{tmp_path/'study.db'}"
    with pytest.raises(InputError, match='another folder'): search(items, tmp_path/'elsewhere', storage=url, study_name=tmp_path.name)
    with pytest.raises(InputError, match='another study'): search(items, tmp_path, study_name='other')
    assert search(items, tmp_path, n_trials=2).spent['trials'] == 2


def judge(pruner, direction, ask_twice=False) -> list:
    "Verdicts on trials that report values by chance, nine epochs at most, the last of which is not judged; and options drawn after them."
    import optuna
    study, rng, out = optuna.create_study(study_name='s', direction=direction, pruner=pruner, sampler=optuna.samplers.TPESampler(seed=0)), np.random.default_rng(0), []
    for _ in range(90):
        trial, curve, stop = study.ask(), np.round(rng.normal(size=9), 1), False
        out.append(trial.suggest_float('x', 0, 1))
        for step in range(1, 9):
            trial.report(curve[step - 1], step)
            if ask_twice: trial.should_prune()
            if stop := trial.should_prune(): break
        out.append((step, stop))
        study.tell(trial, None if stop else curve[-1], state=optuna.trial.TrialState.PRUNED if stop else optuna.trial.TrialState.COMPLETE)
    return out


@pytest.mark.parametrize('direction', ['maximize', 'minimize'])
def test_hyperband_judges_as_optuna_does_but_again_and_in_a_new_process_too(direction):
    import optuna
    from sft_nb.train.search import _create_hyperband
    theirs = judge(optuna.pruners.HyperbandPruner(max_resource=9), direction)
    verdicts = theirs[1::2]
    assert judge(_create_hyperband(9), direction) == theirs == judge(_create_hyperband(9), direction, ask_twice=True)
    assert {(1, True), (3, True), (8, False)} == set(verdicts)
    assert judge(optuna.pruners.HyperbandPruner(max_resource=9), direction, ask_twice=True) != theirs # what this is for


def test_options_are_drawn_alike_by_a_process_that_has_judged_nothing_yet():
    import optuna
    from sft_nb.train.search import _create_hyperband
    def draw(judged):
        study, rng = optuna.create_study(study_name='s', pruner=_create_hyperband(9), sampler=optuna.samplers.TPESampler(seed=0)), np.random.default_rng(0)
        x = dict(x=optuna.distributions.FloatDistribution(0, 1))
        study.add_trials([optuna.trial.create_trial(params=dict(x=v), distributions=x, value=float(v), intermediate_values={1: float(v)}) for v in rng.uniform(size=90)])
        trial = study.ask()
        if judged: trial.report(.5, 1); trial.should_prune()
        return trial.suggest_float('x', 0, 1)
    assert draw(True) == draw(False)


def test_any_storage_and_the_best_as_a_file(items, tmp_path):
    url = f"sqlite:///{tmp_path/'elsewhere.db'}"
    found = search(items, tmp_path/'s', storage=url, study_name='mine', timeout=600)
    import optuna
    assert [s.study_name for s in optuna.get_all_study_summaries(url)] == ['mine'] and not (tmp_path/'s'/'study.db').exists()
    assert read_config(tmp_path/'s'/'best.yaml') == found.best_config and found.best_config.train.probe_strength == found.best['train.probe_strength']
    assert len(pd.read_csv(tmp_path/'s'/'trials.csv')) == 3 and not list((tmp_path/'s').rglob('*.safetensors'))
    assert '3 trials (3 complete' in repr(found) and '<table' in found._repr_html_()


def test_numbers_have_the_other_direction(items, tmp_path):
    numbers = items.assign(target=(items.target == 'wide') + np.random.default_rng(0).normal(0, .1, len(items)))
    found = search(numbers, tmp_path, dict(PROBE, data=dict(path='photos', task='regression')), {'train.probe_strength': dict(low=1e-5, high=10., log=True)}, 4)
    assert found.metric == 'mae' and found.direction == 'lower' and found.best.value == found.trials.value.min()


def test_importance_finds_what_matters(items, tmp_path):
    "Of a study whose values are made of one option; the other is noise. Optuna's own evaluator is the reference."
    import optuna
    from sft_nb.train.search import open_search, rank_options
    found = open_search(make_config(TINY), items, folder=tmp_path, seed=0, space={'train.lr': dict(low=0., high=1.), 'train.weight_decay': dict(low=0., high=1.)}, sampler='random')
    with pytest.raises(InputError, match='four complete trials'): rank_options(found, seed=0)
    rng, make = np.random.default_rng(0), optuna.trial.create_trial
    both = dict.fromkeys(found.space, optuna.distributions.FloatDistribution(0, 1))
    found.study.add_trials([make(params=dict(zip(both, x)), distributions=both, value=float(x[0] + .05 * rng.normal())) for x in rng.uniform(size=(40, 2))])
    table = rank_options(found, seed=0, n_resamples=20)
    assert table.option[0] == 'train.lr' and table.importance[0] > .9 and table.low[0] > table.high[1] and (table.n == 40).all()
    reference = optuna.importance.get_param_importances(found.study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))
    assert abs(table.importance[0] - reference['train.lr']) < .05


if __name__ == '__main__': print(json.dumps(run_processes(Path(sys.argv[1]))))
