"""One run over two processes that talk by Gloo, held against the same run in one process.

Most processes here are forks of one that has imported everything (`python tests/test_train_distribute.py`), each with the
environment that a launcher would give it; one test goes by a real launcher."""
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
from conftest import free_port

from sft_nb.cli import main
from sft_nb.bench.job import prepare_items
from sft_nb.config import make_config, read_config, write_config
from sft_nb.core import InputError
from sft_nb.train.run import Run, open_run, train_run

HERE = Path(__file__)

# --- What is trained on ------------------------------------------------------------------------------------------------

def make_photos(folder):
    "Stripes, two kinds, one rarer; 49 to learn from, 13 to select on: no multiple of five."
    import timm
    import torch
    from PIL import Image
    from sft_nb.models.weights import write_tensors
    rng, rows = np.random.default_rng(0), []
    (folder/'photos').mkdir(parents=True)
    for i in range(76):
        k = int(i % 3 == 0)
        stripes = 60 * np.sign(np.sin(np.arange(32) / (1.5 + k) + rng.uniform(0, 6)))
        pixels = 128 + stripes[:, None, None] * rng.uniform(.2, 1) + rng.normal(0, 30, (32, 32, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder/'photos'/f'{i}.png')
        rows.append(dict(file=f'photos/{i}.png', label=('fine', 'wide')[k], split='train' if i < 49 else 'valid' if i < 62 else 'test'))
    pd.DataFrame(rows).to_csv(folder/'photos.csv', index=False)
    torch.manual_seed(0)
    write_tensors(timm.create_model('test_resnet').state_dict(), folder/'weights.safetensors')

def make_texts(folder):
    "Sentences of a few words, and a transformer of two blocks without dropout that nobody trained."
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast
    words, rng = [f'{a}{b}no' for a in 'bdfgklmp' for b in 'aeiou'], np.random.default_rng(0)
    (folder/'encoder').mkdir(parents=True)
    (folder/'vocab.txt').write_text('\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *words]))
    BertTokenizerFast(vocab=str(folder/'vocab.txt'), model_max_length=32).save_pretrained(folder/'encoder')
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=45, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=32,
                         hidden_dropout_prob=0., attention_probs_dropout_prob=0.)).save_pretrained(folder/'encoder')
    rows = [dict(text=' '.join(rng.choice(words[10 * (i % 3 == 0):][:30], rng.integers(3, 20))), label='ab'[i % 3 == 0], split='train' if i < 49 else 'valid' if i < 62 else 'test') for i in range(76)]
    (folder/'texts.jsonl').write_text('\n'.join(map(json.dumps, rows)))

def configure(folder, kind, **train):
    "Class weights, two stages, batches of five, arithmetic in fp32."
    data = dict(images=dict(path='photos.csv', input='file', positive='wide', split='split'), text=dict(path='texts.jsonl', kind='text', positive='b', split='split'))[kind]
    model = dict(images=dict(backbone='test_resnet', weights='weights.safetensors', size=32), text=dict(backbone='encoder', max_length=16))[kind]
    in_folder = lambda about: {k: str(folder/v) if k in ('path', 'weights') or v == 'encoder' else v for k, v in about.items()}
    common = dict(unfreeze=[[1, -1], [2, 0]], lr=dict(images=1e-4, text=3e-4)[kind], batch_size=5, class_weights='balanced', precision='fp32')
    return make_config(dict(data=in_folder(data), model=in_folder(model), split=dict(method='given', on_leak='warn'), evaluate=dict(n_resamples=200), train=common | train))

# --- Processes ---------------------------------------------------------------------------------------------------------

def die(when, rank):
    "Let this process kill itself: the second one in a step, or the first one in the middle of a checkpoint."
    from fastai.learner import Learner
    import sft_nb.train.checkpoint as checkpoint
    owner, name, at = dict(step=(Learner, 'one_batch', 18), checkpoint=(checkpoint, 'write_tensors', 2))[when]
    if rank != dict(step=1, checkpoint=0)[when]: return
    real, calls = getattr(owner, name), []
    def call(*args, **kwargs):
        calls.append(None)
        out = real(*args, **kwargs)
        if len(calls) == at:
            if when == 'checkpoint': os.truncate(args[1], os.path.getsize(args[1]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return out
    setattr(owner, name, call)

def start(job, rank, port) -> int:
    "One process of a job, as a fork."
    if child := os.fork(): return child
    os.environ['SFT_NB_CACHE'] = job['cache']
    if job['n'] > 1: os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job['n']), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    for stream in (1, 2): os.dup2(os.open(f"{job['said']}.{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if job.get('die'): die(job['die'], rank)
    code = 3
    try: code = main(['run', job['config'], '--out', job['out']]) if job['whole'] else train_only(job)
    except BaseException:
        import traceback
        traceback.print_exc()
    sys.stdout.flush(); sys.stderr.flush()
    os._exit(code)

def train_only(job) -> int:
    "Without evaluation and report, as a script would that every process runs."
    config = read_config(job['config'])
    try: train_run(Run(job['out']) if int(os.environ.get('RANK', 0)) else open_run(job['out'], config), prepare_items(config))
    except InputError as e: print(e, file=sys.stderr); return 1
    return 0

def do(job) -> dict:
    "The exit codes by rank, negative for a signal; seconds between the first end and the last."
    port, ends = free_port(), {}
    ranks = {start(job, rank, port): rank for rank in range(job['n'])}
    stop = time.time() + 100
    while len(ends) < job['n'] and time.time() < stop:
        for child in list(ranks):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid: ends[ranks.pop(child)] = (os.waitstatus_to_exitcode(status), time.time())
        time.sleep(.01)
    for child in ranks: os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
    times = [t for _, t in ends.values()]
    return dict(codes=[ends.get(r, ('hung',))[0] for r in range(job['n'])], apart=max(times, default=0) - min(times, default=0), took=time.time() - stop + 100)

@pytest.fixture(scope='module')
def done(tmp_path_factory):
    "All jobs of this file, done one after the other: name → what came of it."
    folder, jobs = tmp_path_factory.mktemp('distribute'), {}
    make_photos(folder)
    make_texts(folder)
    def add(name, config, n, out=None, die=None, whole=True):
        write_config(config, folder/f'{name}.yaml')
        jobs[name] = dict(config=str(folder/f'{name}.yaml'), n=n, out=str(folder/(out or name)), die=die, whole=whole, said=str(folder/name), cache=str(folder/f'cache-{n}'))
    variants = dict(images=configure(folder, 'images'), text=configure(folder, 'text', average='soup'),
                    hard=configure(folder, 'images', augment='light', mixup=.4, cutmix=1., sam_rho=.05, average=None, patience=1, cache=0.), items=configure(folder, 'images', item_weights='confident', sampling='shuffle', label_smoothing=.1),
                    half=configure(folder, 'images', precision='bf16'))
    for name, config in variants.items():
        for n in (1, 2): add(f'{name}-{n}', config, n, whole=name == 'images')
    for when in ('step', 'checkpoint'):
        add(f'die-{when}', variants['images'], 2, die=when, whole=when == 'step')
        add(f'again-{when}', variants['images'], 2, out=f'die-{when}', whole=when == 'step')
    add('refused', configure(folder, 'images', batch_size=1, freeze_norm=False), 2)
    (folder/'jobs.json').write_text(json.dumps(jobs))
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CI': '1', 'PYTHONPATH': str(HERE.parents[1])}
    made = subprocess.run([sys.executable, str(HERE), str(folder/'jobs.json')], capture_output=True, text=True, env=env, timeout=500)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
    found = json.loads(made.stdout.splitlines()[-1])
    return {name: dict(found[name], run=Run(job['out']), said=[Path(f"{job['said']}.{r}.txt").read_text() for r in range(job['n'])]) for name, job in jobs.items() if name in found}

# --- The same as one process -------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', ['images', 'text', 'hard', 'items', 'half'])
def test_two_processes_do_what_one_does(done, name):
    "Losses and metrics of every epoch, and the predictions of the model that was kept."
    one, two = done[f'{name}-1'], done[f'{name}-2']
    assert one['codes'] == [0] and two['codes'] == [0, 0], one['said'] + two['said']
    a, b = (x['run'].history for x in (one, two))
    losses, near = ['train_loss', 'valid_loss', 'train_eval_loss', 'gap_low', 'lr'], .03 if name == 'half' else 1e-5 # bf16 has three digits
    np.testing.assert_allclose(b[losses], a[losses], rtol=0, atol=near)
    assert a.columns.tolist() == b.columns.tolist() and len(a) >= 3
    assert name == 'half' or a[['kept', 'accuracy']].equals(b[['kept', 'accuracy']])
    for split in ('valid', 'test'):
        p, q = (x['run'].predictions(split) for x in (one, two))
        assert p.ids.tolist() == q.ids.tolist()
        np.testing.assert_allclose(q.score, p.score, atol=10 * near)

def test_the_comparison_means_something(done):
    "Epochs differ by far more than processes may, and the models whose predictions are compared were trained."
    for name in ('images', 'text'):
        h = done[f'{name}-1']['run'].history
        assert h.kept.to_numpy().argmax() == 2 and np.ptp(h.valid_loss) > 5e-3 and np.ptp(h.train_loss[1:]) > .05, h
        said, probe = (done[f'{name}-1']['run'].predictions('test', m).score for m in ('', 'probe'))
        assert np.abs(said - probe).max() > 3e-3

def test_one_set_of_files(done):
    "What is there after two processes is what is there after one; the test split was read once; only the first process speaks."
    one, two = done['images-1']['run'], done['images-2']['run']
    files = lambda run: sorted(str(p.relative_to(run.folder)) for p in run.folder.rglob('*'))
    assert files(one) == files(two) and not any('checkpoint' in f or '.busy' in f for f in files(two))
    assert len(two.ledger) == 1 and two.count_reads() == 1
    first, second = done['images-2']['said']
    assert 'Report:' in first and second == ''
    a, b = one.lock, two.lock
    assert b['environment'].pop('processes') == 2 and a == b

# --- Deaths ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('when, dead', [('step', 1), ('checkpoint', 0)])
def test_a_dead_process_ends_the_other_and_the_run_goes_on(done, when, dead):
    killed, again, whole = done[f'die-{when}'], done[f'again-{when}'], done['images-2']
    assert killed['codes'][dead] == -signal.SIGKILL and killed['codes'][1 - dead] == 1 and killed['apart'] < 20, killed
    said = killed['said'][1 - dead]
    assert 'no answer from one' in said and 'goes on from the last checkpoint' in said and 'Traceback' not in said, said
    assert again['codes'] == [0, 0], again['said']
    pd.testing.assert_frame_equal(again['run'].history.drop(columns='seconds'), whole['run'].history.drop(columns='seconds'))
    for split in ('valid', 'test'): assert np.array_equal(again['run'].predictions(split).score, whole['run'].predictions(split).score)
    assert again['run'].count_reads() == (when == 'step') and not list(again['run'].folder.glob('checkpoint*'))

# --- What is refused ---------------------------------------------------------------------------------------------------

def test_what_does_not_fit_is_named(done):
    refused = done['refused']
    assert refused['codes'] == [1, 1] and not refused['run'].folder.exists()
    first, second = refused['said']
    assert '`train.batch_size` to be at least 2' in first and '`train.freeze_norm`' in first and 'Traceback' not in first + second

# --- A launcher --------------------------------------------------------------------------------------------------------

def test_accelerate_launches_it(tmp_path):
    "As a user types it; `--multi_gpu` because the machine of the tests has none, and Accelerate would start one process."
    make_photos(tmp_path)
    write_config(configure(tmp_path, 'images', unfreeze=[], epochs=1, watch_gap=False), tmp_path/'my.yaml')
    launch = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--main_process_port', str(free_port()), '--module']
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CI': '1', 'PYTHONPATH': str(HERE.parents[1]), 'SFT_NB_CACHE': str(tmp_path/'cache')}
    made = subprocess.run([*launch, 'sft_nb.cli', 'run', str(tmp_path/'my.yaml'), '--out', str(tmp_path/'run')], capture_output=True, text=True, env=env, timeout=200)
    assert made.returncode == 0, made.stderr[-3000:]
    run = Run(tmp_path/'run')
    assert made.stdout.count('Report:') == 1 and run.lock['environment']['processes'] == 2 and run.count_reads() == 1

def test_other_commands_are_not_divided(monkeypatch, capsys):
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert main(['tune', 'my.yaml']) == 1 and 'Expected `sft-nb tune` to be started once, but got 2 processes' in capsys.readouterr().err

if __name__ == '__main__':
    import sft_nb.bench.job, sft_nb.tasks.text, transformers # what all of them need, once
    print(json.dumps({name: do(job) for name, job in json.loads(Path(sys.argv[1]).read_text()).items()}))
