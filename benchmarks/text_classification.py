"""How long until a classifier of texts is as good as that of the Transformers `Trainer`, and with few labels as SetFit's: accuracy on test reviews against wall time.

The same encoder (MiniLM-L6), the same reviews of IMDb, the same number of tokens; each training in a process of its own, alternating, one seed after the other:

- `trainer`: `AutoModelForSequenceClassification` and `Trainer` at their defaults, three epochs, 16 texts a batch, padded by its collator;
- `ours`: what `sft-nb run` does with texts by default: the linear probe, then three epochs from it. The labels that it selects by are taken out of the same thousand: it learns from 850;
- `setfit`: SetFit at its defaults, with eight labels a class;
- `ours, pairs`: the linear probe, 20 steps of `fit_contrast`, another probe, with the same labels and no others: what selects is what was learnt from.

Time runs from texts to a model that could be used, less imports and less the time of looking at the test reviews, which only this benchmark does. Tokens and features are made anew each time.
Training reviews are of the official training side, test reviews of the test side; a seed draws other training reviews, the test reviews stay.

    python benchmarks/text_classification.py                    # 1,000 and 16 training reviews, 500 test reviews, 128 tokens, five seeds
    python benchmarks/text_classification.py --keep runs.jsonl  # goes on after a stop
    python benchmarks/text_classification.py --quick            # small and short, to see that it runs

The last line is JSON with all figures. SetFit must be installed (`pip install setfit`); without it, `--who trainer ours`.
"""
import argparse, json, os, resource, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

PEERS = {'trainer': 'ours', 'setfit': 'ours, pairs'} # theirs → ours
WHO = [who for pair in PEERS.items() for who in pair]


def load_split(a):
    "Training items of a seed, and the same test items for all."
    import pandas as pd
    from sft_nb.data.items import load_imdb
    from sft_nb.data.splits import split_items
    from sft_nb.train.labels import draw_few_shot
    from sft_nb.train.stress import sample_items
    every = load_imdb()
    side = lambda name, n, seed: sample_items(every[every['split'] == name].drop(columns='split').reset_index(drop=True), n, seed=seed)
    train, test = side('train', a.n, a.seed), side('test', a.n_test, 0).assign(split='test')
    if a.one not in ('setfit', 'ours, pairs'): return split_items(train, method='stratified', valid=.15, test=0, seed=a.seed), test
    few, = draw_few_shot(pd.concat([train.assign(split='train')]), per_class=a.per_class, seed=a.seed, draws=1)
    return pd.concat([few, few.assign(split='valid', id=few['id'] + ' again')], ignore_index=True), test # no labels beside those of a class


class Watch:
    "Wall time, less what this benchmark does beside the training; and what the test reviews say at each stop."
    def __init__(self, test): self.test, self.rows, self.started, self.aside = test, [], time.perf_counter(), 0.

    def look(self, what, predict):
        "`predict()` gives the labels of the test reviews, off the clock."
        now = time.perf_counter()
        right = np.asarray(predict()) == self.test['target'].to_numpy()
        self.rows.append(dict(what=what, seconds=round(now - self.started - self.aside, 1), accuracy=float(right.mean())))
        self.aside += time.perf_counter() - now


def train_trainer(items, a, watch):
    "The Transformers `Trainer`, as its documentation has it."
    import torch
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments
    from sft_nb.assets import fetch_asset
    folder, labels = str(fetch_asset('minilm-l6')), sorted(items['target'].unique())
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels))
    encode = lambda texts: tokenizer(list(texts), truncation=True, max_length=a.max_length)
    data = Dataset.from_dict(dict(encode(items['input']), labels=[labels.index(t) for t in items['target']]))

    def predict():
        state = torch.get_rng_state()
        model.eval()
        with torch.no_grad(): out = [model(**tokenizer.pad(encode(watch.test['input'][i:i + 32]), return_tensors='pt')).logits.argmax(1) for i in range(0, len(watch.test), 32)]
        model.train()
        torch.set_rng_state(state)
        return np.array(labels)[torch.cat(out)]

    class Look(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs): watch.look(f'epoch {len(watch.rows)}', predict)

    with tempfile.TemporaryDirectory() as out:
        args = TrainingArguments(out, num_train_epochs=a.epochs, learning_rate=a.lr, per_device_train_batch_size=16, seed=a.seed, report_to='none', save_strategy='no', disable_tqdm=True, use_cpu=not torch.cuda.is_available())
        Trainer(model, args, train_dataset=data, data_collator=DataCollatorWithPadding(tokenizer), callbacks=[Look]).train()


def train_ours(items, a, watch):
    "The main job's training, into a folder that is thrown away."
    from fastai.callback.core import Callback
    from sft_nb.config import make_config
    from sft_nb.models.language import load_encoder
    from sft_nb.tasks.inputs import score_items
    from sft_nb.tasks.targets import describe_targets
    from sft_nb.tasks.text import build_tokens
    from sft_nb.train.run import open_run, train_run
    config = make_config(dict(data=dict(path='imdb', kind='text'), split=dict(method='given'), model=dict(max_length=a.max_length), train=dict(seed=a.seed, epochs=a.epochs)))
    targets = describe_targets(items, task='single_label')
    def predict(model):
        store = build_tokens(watch.test, model.tokenizer, max_length=a.max_length)
        return np.array(targets.labels)[score_items(model, store, watch.test['id'], targets).argmax(1)]

    class Look(Callback):
        "After the probe and after each epoch."
        order, trained = 90, False
        def look(self, what): watch.look(what, lambda: predict(self.learn.model))
        def before_fit(self):
            if not watch.rows: self.look('linear probe')
        def before_train(self): self.trained = True
        def after_epoch(self):
            if self.trained: self.look(f'epoch {len(watch.rows) - 1}')

    with tempfile.TemporaryDirectory() as folder:
        run = train_run(open_run(Path(folder)/'run', config), items, cbs=(Look(),))
        watch.look('kept', lambda: predict(load_encoder(run/'model')))


def train_setfit(items, a, watch):
    "SetFit, as its documentation has it."
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sft_nb.assets import fetch_asset
    few = items[items['split'] == 'train']
    model = SetFitModel.from_pretrained(str(fetch_asset('minilm-l6')), labels=sorted(few['target'].unique()))
    model.model_body.max_seq_length = a.max_length
    with tempfile.TemporaryDirectory() as out:
        args = TrainingArguments(out, seed=a.seed, report_to='none', save_strategy='no', show_progress_bar=False)
        Trainer(model, args, train_dataset=Dataset.from_dict(dict(text=list(few['input']), label=list(few['target'])))).train()
    watch.look('pairs and head', lambda: list(model.predict(list(watch.test['input']))))


def train_pairs(items, a, watch):
    "What a run with `train.contrast_steps` and no epochs does."
    from sft_nb.models.language import create_encoder
    from sft_nb.tasks.inputs import score_items
    from sft_nb.tasks.targets import describe_targets
    from sft_nb.tasks.text import build_tokens
    from sft_nb.train.contrast import fit_contrast
    from sft_nb.train.learner import keep_pages
    from sft_nb.train.probe import probe_items
    keep_pages()
    targets = describe_targets(items, task='single_label')
    model = create_encoder('minilm-l6', n_out=targets.n_out)
    store = build_tokens(items, model.tokenizer, max_length=a.max_length)
    seen = lambda: build_tokens(watch.test, model.tokenizer, max_length=a.max_length)
    def look(what):
        probe_items(model, store, items, targets, precision='auto')
        watch.look(what, lambda: np.array(targets.labels)[score_items(model, seen(), watch.test['id'], targets).argmax(1)])
    look('linear probe')
    fit_contrast(model, store, items, targets, seed=a.seed, steps=a.steps)
    look('pairs and probe')


def one(a):
    "Train with one of them and print what came of it."
    import fastai.vision.all, transformers, sft_nb.train.run  # noqa: F401  imports are not what is measured
    if a.one == 'setfit': import setfit  # noqa: F401
    if a.one in ('trainer', 'setfit'): import datasets  # noqa: F401
    from sft_nb.assets import cache_folder
    (items, test), assets = load_split(a), cache_folder()/'assets'
    with tempfile.TemporaryDirectory() as fresh:  # nothing from an earlier training
        os.environ['SFT_NB_CACHE'] = fresh
        (Path(fresh)/'assets').symlink_to(assets)
        watch = Watch(test)
        dict(zip(WHO, (train_trainer, train_ours, train_setfit, train_pairs)))[a.one](items, a, watch)
    print(json.dumps(dict(rows=watch.rows, memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))


def compare(runs) -> dict:
    "For each peer: how often longer it takes to its last accuracy than ours does to that accuracy, a number a seed; and the last accuracies."
    out = {}
    for theirs, ours in PEERS.items():
        of = {who: {r['seed']: r['rows'] for r in runs if r['who'] == who} for who in (theirs, ours)}
        seeds, ratios = sorted(of[theirs].keys() & of[ours].keys()), []
        for seed in seeds:
            last = of[theirs][seed][-1]
            reached = next((row['seconds'] for row in of[ours][seed] if row['accuracy'] >= last['accuracy']), None)
            ratios.append(None if reached is None else round(last['seconds'] / max(reached, .1), 1))
        ends = {who: [of[who][s][-1] for s in seeds] for who in (theirs, ours)}
        out[theirs] = dict(time_ratio=ratios, accuracy={who: [round(e['accuracy'], 3) for e in ends[who]] for who in ends}, seconds={who: [e['seconds'] for e in ends[who]] for who in ends})
    return out | dict(memory={who: int(np.median(found)) for who in WHO if (found := [r['memory'] for r in runs if r['who'] == who])})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='small and short, to see that it runs')
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--n', type=int, default=1000, help='training reviews')
    p.add_argument('--n-test', type=int, default=500)
    p.add_argument('--per-class', type=int, default=8, help='training reviews a class, of setfit and pairs')
    p.add_argument('--max-length', type=int, default=128, help='tokens')
    p.add_argument('--epochs', type=int, default=3, help='of trainer and ours')
    p.add_argument('--lr', type=float, default=5e-5, help='of trainer')
    p.add_argument('--steps', type=int, default=20, help='of pairs')
    p.add_argument('--who', nargs='+', choices=WHO, default=WHO)
    p.add_argument('--keep', type=Path, help='a file for what each training gave; the same command goes on after a stop')
    p.add_argument('--one', choices=WHO, help=argparse.SUPPRESS)
    p.add_argument('--seed', type=int, default=0, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.quick: a.seeds, a.n, a.n_test, a.per_class, a.max_length, a.epochs, a.steps = 1, 100, 60, 4, 32, 1, 8
    os.environ |= dict(HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1', TOKENIZERS_PARALLELISM='false', TRANSFORMERS_VERBOSITY='error', TQDM_DISABLE='1')
    if a.one: return one(a)
    runs = [json.loads(line) for line in a.keep.read_text().splitlines()] if a.keep and a.keep.exists() else []
    for seed in range(a.seeds):
        for who in a.who:
            if any(r['who'] == who and r['seed'] == seed for r in runs): continue
            command = [sys.executable, '-W', 'ignore', __file__, '--one', who, '--seed', str(seed), *(f"--{k.replace('_', '-')}={getattr(a, k)}" for k in ('n', 'n_test', 'per_class', 'max_length', 'epochs', 'lr', 'steps'))]
            said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
            runs.append(dict(who=who, seed=seed, **said))
            if a.keep:
                with open(a.keep, 'a') as f: f.write(json.dumps(runs[-1]) + '\n')
            for row in said['rows']: print('{who:12s} seed {seed}  {what:16s} {seconds:7.1f} s  accuracy {accuracy:.3f}'.format(who=who, seed=seed, **row), flush=True)
    print(json.dumps(dict(benchmark='text_classification', n=a.n, n_test=a.n_test, per_class=a.per_class, max_length=a.max_length, **compare(runs), runs=runs)))


if __name__ == '__main__': main()
