"""Kill `sft-nb run` with SIGKILL at many moments, run it again, and count what was lost.

A small run with all that makes an exact resume hard: a probe, two stages of gradual unfreezing, dropout, augmentation,
early stopping. It is killed at moments that were chosen because they are awkward (while a checkpoint is half written, between
a file and its place, between stages, before the checkpoint is removed) and at random ones, as often as asked, several times
in the life of a run; then it is left alone. Its weights, predictions and history must be those, bit for bit, of a run that
nobody killed, and nothing else may lie in its folder or in the cache. Libraries are imported once; each attempt is a fork.

    python benchmarks/kill.py            # 100 random moments, 15 awkward ones
    python benchmarks/kill.py --quick    # 20 random ones of a smaller run, and the awkward ones, as in the tests
    python benchmarks/kill.py --quick --kind text    # a run on texts, with a transformer of three blocks
    python benchmarks/kill.py --quick --kind chat    # a run on conversations, with adapters in a model of two blocks, killed while it answers, too

The last line is JSON with all figures.
"""
import os
os.environ.update(OMP_NUM_THREADS='1', CI='1', HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1')
import argparse, hashlib, json, random, signal, sys, tempfile, time, traceback, warnings
from collections import Counter
from pathlib import Path

warnings.filterwarnings('ignore')
import numpy as np
import timm
import torch
from fastai.learner import Learner
from PIL import Image

import sft_nb.models.causal, sft_nb.train.chat_run, sft_nb.train.checkpoint, sft_nb.train.probe, sft_nb.train.run, sft_nb.data.store, sft_nb.tasks.text, sft_nb.bench.job, sft_nb.models.weights
from sft_nb.cli import main as sft_nb_command
from sft_nb.config import make_config, write_config
from sft_nb.core import hash_file
from sft_nb.records import Predictions

# What is counted, and can be the moment of a kill: name → (owner, attribute).
EVENTS = dict(decode=(sft_nb.data.store, '_resize'), tokenize=(sft_nb.tasks.text, '_write_tokens'), solve=(sft_nb.train.probe, '_solve'), batch=(Learner, 'one_batch'), tensors=(sft_nb.models.weights, 'save_file'),
              checkpoint=(sft_nb.train.checkpoint, 'write_tensors'), score=(sft_nb.train.run, 'score_items'),
              probable=(sft_nb.train.chat_run, 'score_examples'), answer=(sft_nb.train.chat_run, 'predict_answers'), folder=(sft_nb.train.chat_run, 'save_causal'), save=(Predictions, 'save'), replace=(os, 'replace'))


def prepare(folder, quick):
    "Pictures with stripes, weights, a configuration."
    rng, size, n = np.random.default_rng(0), 32 if quick else 48, 14 if quick else 40
    for k, kind in enumerate(['fine', 'wide']):
        (folder/'photos'/kind).mkdir(parents=True)
        for i in range(n):
            stripes = 60 * np.sign(np.sin(np.arange(size) / (1.5 + 1.5 * k) + rng.uniform(0, 6)))
            pixels = 128 + stripes[:, None, None] * rng.uniform(.2, 1) + rng.normal(0, 40, (size, size, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder/'photos'/kind/f'{i}.png')
    torch.manual_seed(0)
    sft_nb.models.weights.write_tensors(timm.create_model('test_resnet').state_dict(), folder/'weights.safetensors')
    write_config(make_config(dict(
        data=dict(path=str(folder/'photos'), positive='wide'), split=dict(valid=.25, test=.25), evaluate=dict(n_resamples=200),
        model=dict(backbone='test_resnet', weights=str(folder/'weights.safetensors'), size=size, drop_rate=.2),
        train=dict(unfreeze=[[2, -1], [2, 0]] if quick else [[2, -1], [3, -3], [3, 0]], lr=.003, batch_size=4, augment='light', patience=2 if quick else 4))), folder/'config.yaml')


def prepare_text(folder, quick):
    "Sentences of a few words, a transformer that nobody trained, a configuration with dropout and augmentation in it."
    from transformers import BertConfig, BertModel, BertTokenizerFast
    words, rng, n = [f'{a}{b}no' for a in 'bdfgklmp' for b in 'aeiou'], np.random.default_rng(0), 28 if quick else 80
    (folder/'encoder').mkdir()
    (folder/'vocab.txt').write_text('\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *words]))
    BertTokenizerFast(vocab=str(folder/'vocab.txt'), model_max_length=32).save_pretrained(folder/'encoder')
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=45, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, max_position_embeddings=32)).save_pretrained(folder/'encoder')
    rows = [dict(text=' '.join(rng.choice(words[10 * k:10 * k + 30], rng.integers(3, 20))), label='ab'[k]) for k in (0, 1) for _ in range(n // 2)]
    (folder/'texts.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    write_config(make_config(dict(
        data=dict(path=str(folder/'texts.jsonl'), kind='text', positive='b'), split=dict(valid=.25, test=.25), evaluate=dict(n_resamples=200),
        model=dict(backbone=str(folder/'encoder'), max_length=16, drop_rate=.2),
        train=dict(unfreeze=[[2, -1], [2, 0]] if quick else [[2, -1], [3, -3], [3, 0]], lr=.003, batch_size=4, augment='strong', mixup=.2, patience=4))), folder/'config.yaml')


def prepare_chat(folder, quick):
    "Small sums, a model of two blocks that nobody trained with a tokenizer of fifty thousand words, a configuration with adapters."
    from transformers import AutoModelForCausalLM, LlamaConfig
    tokenizer, n = sft_nb.models.causal.load_chat_tokenizer(), 5 if quick else 12
    torch.manual_seed(0)
    shape = dict(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, bos_token_id=1, eos_token_id=2, initializer_range=.2)
    AutoModelForCausalLM.from_config(LlamaConfig(**shape)).save_pretrained(folder/'base')
    tokenizer.save_pretrained(folder/'base')
    rows = [dict(prompt=[dict(role='user', content=f'{a} and {b}?')], completion=[dict(role='assistant', content=f'{a + b}.')]) for a in range(n) for b in range(n)]
    (folder/'sums.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    (folder/'general.jsonl').write_text('\n'.join(json.dumps(dict(text=f'Cell {i} is dark.')) for i in range(6)))
    write_config(make_config(dict(
        data=dict(path=str(folder/'sums.jsonl'), kind='chat'), split=dict(valid=.2, test=.3, on_leak='warn'), evaluate=dict(n_resamples=200), model=dict(backbone=str(folder/'base'), max_length=64),
        train=dict(epochs=4 if quick else 10, lr=.01, batch_size=2, patience=4), retain=dict(lora_rank=2), chat=dict(max_new_tokens=6, answers=6, general=str(folder/'general.jsonl'), general_items=4))), folder/'config.yaml')


def arm(event, n, when, log=None):
    "Let this process die at the `n`-th call of `event`: `before` it, `after` it, or when what it wrote is `half` there."
    owner, name = EVENTS[event]
    real, calls = getattr(owner, name), 0
    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        if log is not None: log[event] += 1
        if calls == n and when == 'before': os.kill(os.getpid(), signal.SIGKILL)
        out = real(*args, **kwargs)
        if calls == n and when == 'half': os.truncate(args[1], os.path.getsize(args[1]) // 2)
        if calls == n: os.kill(os.getpid(), signal.SIGKILL)
        return out
    setattr(owner, name, call)


def attempt(home, config, moment=None, seconds=None, log=None):
    "Run `sft-nb run` in a fork that dies at `moment`, or after some `seconds`. Returns (was killed, seconds it took)."
    started, child = time.perf_counter(), os.fork()
    if not child:
        os.environ['SFT_NB_CACHE'] = str(home/'cache')
        home.mkdir(exist_ok=True)
        for stream in (1, 2): os.dup2(os.open(home/'said.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        if moment: arm(*moment)
        counts = Counter()
        if log:
            for event in EVENTS: arm(event, 0, 'never', counts)
        try: code = sft_nb_command(['run', str(config), '--out', str(home/'run')])
        except BaseException: traceback.print_exc(); os._exit(3) # the folder is the parent's to remove
        sys.stdout.flush(); sys.stderr.flush()
        if log: log.write_text(json.dumps(counts))
        os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status): raise SystemExit(f'It failed: {(home/"said.txt").read_text()}')
    return os.WIFSIGNALED(status), time.perf_counter() - started


def reached(run):
    "What a run was about, by the files that it has."
    steps = dict(evaluation='evaluated', predictions='predicting', model='predicting', checkpoint='training', lock='probe or first epoch', items='decoding', config='reading')
    there = {p.name.split('.')[0].split('-')[0] for p in run.iterdir() if not p.stem.endswith('-base')} if run.exists() else set()
    return next((word for name, word in steps.items() if name in there), 'reading')


def outcome(home):
    "Name → hash of all that must be the same, and what should not be there."
    run = home/'run'
    out = {'model': hash_file(run/'model'/'model.safetensors'), 'history': sft_nb.train.run.Run(run).history.drop(columns='seconds').to_csv()}
    for path in sorted(run.glob('predictions-*.parquet')):
        preds = Predictions.load(path)
        said = repr([*preds.score, *preds.target]).encode() if preds.task == 'text' else preds.score.tobytes() + preds.target.tobytes()
        out[path.stem] = hashlib.sha256(said + ''.join(preds.ids).encode()).hexdigest()
    for path in sorted([*run.glob('scores-*.parquet'), *run.glob('model/adapter/*.safetensors')]): out[path.stem] = hash_file(path)
    left = [str(p.relative_to(home)) for p in home.rglob('*') if p.name.startswith('.') or 'checkpoint' in p.name]
    return out | {'files': sorted(str(p.relative_to(run)) for p in run.rglob('*'))}, left


def choose(counts, kind):
    "Awkward moments, from how often everything happens in a run that nobody kills: (event, which one, when)."
    middle = lambda event: max(1, counts[event] // 2)
    if kind == 'chat':
        return [('replace', 1, 'before'), ('probable', 2, 'before'), ('answer', 1, 'before'), ('save', 1, 'after'), ('batch', 1, 'before'), ('batch', middle('batch'), 'after'), ('tensors', 1, 'half'), ('tensors', 2, 'half'),
                ('checkpoint', 2, 'after'), ('checkpoint', counts['checkpoint'], 'after'), ('folder', 1, 'before'), ('folder', 1, 'after'), ('probable', counts['probable'], 'after'), ('answer', 2, 'before'), ('save', 2, 'after')]
    first = ('decode', middle('decode'), 'after') if kind == 'images' else ('tokenize', 1, 'after')
    return [('replace', 1, 'before'), first, ('solve', middle('solve'), 'before'), ('batch', 1, 'before'), ('batch', middle('batch'), 'after'),
            ('tensors', 1, 'half'), ('tensors', 2, 'half'), ('checkpoint', 1, 'before'), ('checkpoint', 2, 'after'), ('checkpoint', counts['checkpoint'], 'after'),
            ('tensors', counts['tensors'], 'half'), ('score', 2, 'before'), ('save', 2, 'after'), ('save', counts['save'], 'before'), ('save', counts['save'], 'after')]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='20 random moments of a smaller run')
    p.add_argument('--moments', type=int, help='random ones to kill at (default: 100, or 20)')
    p.add_argument('--seed', type=int, default=0, help='of the random moments')
    p.add_argument('--kind', choices=('images', 'text', 'chat'), default='images', help='what the run reads')
    a = p.parse_args()
    rng, moments = random.Random(a.seed), a.moments or (20 if a.quick else 100)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        dict(images=prepare, text=prepare_text, chat=prepare_chat)[a.kind](folder, a.quick)
        config = folder/'config.yaml'
        _, seconds = attempt(folder/'whole', config, log=folder/'counts.json')
        want, _ = outcome(folder/'whole')
        awkward, where, runs, different, left = choose(json.loads((folder/'counts.json').read_text()), a.kind), Counter(), 0, [], []
        lives, pace = 5, seconds # other work on the machine changes it
        while moments or awkward:
            home, deaths = folder/f'run {runs}', []
            for moment in [awkward.pop(0) if awkward else None, *[None] * (lives - 1)]:
                if not (moment or moments): break
                died, _ = attempt(home, config, moment, None if moment else rng.uniform(0, pace))
                pace *= 1.05 if died else .7
                if not died: break # it was quicker than the kill
                moments -= not moment
                deaths.append((reached(home/'run'), ' ({} {}, {})'.format(*moment) if moment else ''))
            attempt(home, config)
            found, extra = outcome(home)
            said = ', '.join(map(''.join, deaths)) or 'no moment'
            different += [f'killed at {said}: {name} differs' for name in want if found[name] != want[name]]
            left += [f'killed at {said}: {name} is left' for name in extra]
            where.update(step for step, _ in deaths)
            runs += 1
            print(f'run {runs}: killed at {said}', flush=True)
    print(*different, *left, sep='\n')
    print(json.dumps(dict(benchmark='kill', quick=a.quick, kills=where.total(), runs=runs, seconds_of_a_run=round(seconds, 1), where=dict(where), different=len(different), left_behind=len(left), lost=len(different) + len(left))))


if __name__ == '__main__': main()
