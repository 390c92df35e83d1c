"""More than one machine: a Ray cluster of two nodes, one of which is killed in the middle; a store of objects; a study in PostgreSQL.

All are real and on this machine: two raylets started by Ray's own command line, a server that speaks S3, a PostgreSQL from a wheel."""
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from test_cli import SFT_NB, fails, make_photos

from sft_nb.bench.cluster import connect_cluster, count_slots, fan_out
from sft_nb.bench.leaderboard import build_leaderboard, save_leaderboard
from sft_nb.bench.remote import list_files, push_files
from sft_nb.bench.suite import read_suite, run_suite, suite_cells, suite_scores
from sft_nb.core import hash_file
from sft_nb.records import Predictions

RAY = [sys.executable, '-W', 'ignore', '-c', 'import sys; from ray.scripts.scripts import main; sys.exit(main())']
QUIET = dict(OMP_NUM_THREADS='1', CI='1', RAY_USAGE_STATS_ENABLED='0', RAY_DISABLE_IMPORT_WARNING='1', PYTHONWARNINGS='ignore')


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


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
    def __init__(self, home: Path):
        self.home, self.nodes, self.address, self.env = home, [], f'127.0.0.1:{free_port()}', os.environ | QUIET | dict(SFT_NB_CACHE=str(home/'cache'), RAY_AUTH_MODE='token', RAY_AUTH_TOKEN=secrets.token_hex(32))
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
def cluster():
    "Two raylets. The path is short, since sockets are made in it."
    with tempfile.TemporaryDirectory(prefix='r', ignore_cleanup_errors=True) as home:
        cluster = Cluster(Path(home))
        try:
            cluster.join('--head', f"--port={cluster.address.rpartition(':')[2]}", '--include-dashboard=false', f'--temp-dir={home}', '--node-ip-address=127.0.0.1')
            cluster.join()
            yield cluster
        finally:
            for node in reversed(cluster.nodes): kill(node)


def write_suite(path: Path, photos, name='photos', epochs=3, **more) -> Path:
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


def test_a_node_is_killed_in_the_middle(cluster, whole, photos, tmp_path):
    "Then another joins, and in the end all is as in one process."
    path, node = write_suite(tmp_path/'s.yaml', photos), cluster.nodes[-1]
    command = subprocess.Popen([*SFT_NB, 'suite', str(path), '--out', str(tmp_path/'out'), '--on', 'ray', '--address', cluster.address], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=cluster.env, cwd=tmp_path)
    both, theirs = set(), descendants(node)
    def in_training():
        assert command.poll() is None, command.stdout.read()
        mine = descendants(node)
        both.update('second' if pid in mine else 'first' for pid in busy(tmp_path/'out'))
        return len(both) == 2 and [cell for pid, cell in busy(tmp_path/'out').items() if pid in mine and list(cell.glob('checkpoint*'))]
    cell, = wait_for(in_training, 90)
    kill(node)
    assert not (cell/'evaluation.json').exists()
    cluster.join()
    said, _ = command.communicate(timeout=200)
    assert command.returncode == 0, said
    assert '8 of 8: ' in said and 'FAILED' not in said and (cell/'evaluation.json').is_file()
    assert_same(read_suite(path), tmp_path/'out', whole)
    assert not [p for p in (tmp_path/'out').rglob('.*') if p.is_file() and p.suffix != '.lock']
