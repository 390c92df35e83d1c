"""Search: what a kill leaves behind is continued, not repeated; the test split is never there; errors are said together.

Run as a program (`python tests/test_train_search.py FOLDER`), it does what needs processes of its own to be killed, and
prints what they left as JSON: libraries are imported once, and each process is forked from there."""
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


def kill_often(work, delays) -> int:
    "SIGKILL after each delay, then let it finish; how many kills hit."
    hits = 0
    for delay in delays:
        pid = fork(work)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        hits += end(pid) == -signal.SIGKILL
    assert end(fork(work)) == 0
    return hits


def run_processes(home: Path) -> dict:
    from sft_nb.train.search import open_search, tune
    items, rng = draw_photos(home/'photos'), random.Random(time.time_ns())
    def search(name, config, **kw):
        about = dict(folder=home/name.split('-')[0]/name, seed=3, study_name='s') | {k: v for k, v in kw.items() if k in ('space', 'sampler')}
        quiet = lambda line: None
        return (lambda: tune(make_config(config), items, n_trials=kw['n'], say=kw.get('say', quiet), **about)), (lambda: outcome(open_search(make_config(config), items, **about)))
    out = {}
    for name, config, kw, delays in [('tuning', TINY, dict(space=RATES, n=8), [rng.uniform(.2, 1.5) for _ in range(4)]),
                                     ('probing', PROBE, dict(space=STRENGTHS, n=12), [rng.uniform(.05, 1.) for _ in range(3)])]:
        work, look = search(f'{name}-whole', config, **kw)
        assert end(fork(work)) == 0
        work, look_again = search(f'{name}-killed', config, **kw)
        out[name] = dict(hits=kill_often(work, delays), killed=look_again(), whole=look())
    work, look = search('two', PROBE, space=STRENGTHS, n=8, sampler='random')
    both = [fork(work), fork(work)]
    out['two'] = dict(codes=[end(pid) for pid in both], trials=look())
    said = home/'said'
    work, look = search('stopped', TINY, space=RATES, n=1, say=lambda line: said.write_text(line))
    pid = fork(lambda: (signal.signal(signal.SIGINT, signal.default_int_handler), work()))
    while not list((home/'stopped').rglob('checkpoint.safetensors')): time.sleep(.01)
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


@pytest.mark.parametrize('what, n', [('tuning', 8), ('probing', 12)])
def test_a_search_killed_at_any_moment_ends_as_one_that_was_not(processes, what, n):
    "TPE learns from earlier trials, and the pruner too: if one of them differed, the later ones would."
    p = processes[what]
    assert p['hits'] >= 1 and p['killed'] == p['whole'] and [t['number'] for t in p['whole']] == list(range(n))
    if what == 'tuning': assert {'complete'} <= {t['state'] for t in p['whole']} <= {'complete', 'pruned'}


def test_two_processes_share_a_search(processes):
    trials = processes['two']['trials']
    assert processes['two']['codes'] == [0, 0] and [t['number'] for t in trials] == list(range(8)) and {t['state'] for t in trials} == {'complete'}
    assert len({t['train.probe_strength'] for t in trials}) == 8


def test_ctrl_c_says_how_to_go_on(processes):
    p = processes['stopped']
    assert p['code'] == 130 and 'Stopped in trial 0' in p['said'] and p['again'] == 0
    assert [t['state'] for t in p['trials']] == ['complete']


if __name__ == '__main__': print(json.dumps(run_processes(Path(sys.argv[1]))))
