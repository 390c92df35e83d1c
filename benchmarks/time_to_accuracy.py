"""How long until a classifier of images is as good as fastai's: balanced accuracy on the test split against wall time.

Same items, split, backbone, pretrained weights and image size; each training in a process of its own, alternating, one seed after the other:

- `fastai`: `vision_learner(...).fine_tune(3)` at its defaults;
- `expert`: the same, with fastai's channels-last callback and a malloc that keeps its pages;
- `ours`: what `sft-nb run` does by default: the linear probe, then fine-tuning from it;
- `ours, all layers`: one epoch of it with nothing frozen, for the time of an epoch.

Time runs from opening the images to a model that could be used, less imports and less the time of looking at the test split after each epoch,
which only this benchmark does. Decoded images, features and activations are made anew each time. Peak memory is that of the process.

    python benchmarks/time_to_accuracy.py                                # ELPV, three seeds, 160 pixels; an hour on two cores
    python benchmarks/time_to_accuracy.py --data pneumonia               # or cifar10
    python benchmarks/time_to_accuracy.py --plot nbs/images/time_to_accuracy.svg
    python benchmarks/time_to_accuracy.py --keep runs.jsonl              # goes on after a stop
    python benchmarks/time_to_accuracy.py --quick                        # small and short, to see that it runs

The last line is JSON with all figures.
"""
import argparse, json, os, resource, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

WHO = ('fastai', 'expert', 'ours', 'ours, all layers')
DATA = dict(elpv=dict(path='elpv', positive='defective', soft='probability', slices=['type']), pneumonia=dict(path='pneumonia'), cifar10=dict(path='cifar10'))


def make(a, **train):
    "Our configuration: the defaults, and the facts about the data."
    from sft_nb.config import make_config
    split = dict(valid=.1, test=.25, **(dict(by=['type']) if a.data == 'elpv' else {}))
    return make_config(dict(data=DATA[a.data], split=split, model=dict(size=a.size), train=dict(seed=a.seed, **({'symmetry': 'all'} if a.data == 'elpv' else {}), **train)))


def load_split(a):
    "The items, divided once for all."
    from sft_nb.bench.job import prepare_items
    from sft_nb.data.splits import split_items
    items = prepare_items(make(a), check_files=False)
    if a.n:
        items = items.groupby('split', group_keys=False)[items.columns].apply(lambda part: part.sample(int(len(part) * a.n / len(items)), random_state=0)).reset_index(drop=True)
    return items


class Watch:
    "Wall time, less what this benchmark does beside the training; and what the test split says at each stop."
    def __init__(self, items):
        self.items, self.rows, self.started, self.aside = items[items['split'] == 'test'], [], time.perf_counter(), 0.

    def look(self, what, score):
        "`score()` of the test items, off the clock; the columns are `labels`."
        now = time.perf_counter()
        labels, values = score()
        right = np.array(labels)[np.asarray(values).argmax(1)] == self.items['target'].to_numpy()
        recall = [right[self.items['target'] == label].mean() for label in self.items['target'].unique()]
        self.rows.append(dict(what=what, seconds=round(now - self.started - self.aside, 1), accuracy=float(right.mean()), balanced_accuracy=float(np.mean(recall))))
        self.aside += time.perf_counter() - now


def train_fastai(items, a, watch, expert):
    "fastai, with the same pretrained weights."
    from fastai.callback.channelslast import ChannelsLast
    from fastai.vision.all import Callback, CategoryBlock, ColReader, DataBlock, ImageBlock, Normalize, Resize, aug_transforms, set_seed, vision_learner
    from sft_nb.models.backbones import create_backbone, input_statistics
    from sft_nb.train.learner import keep_pages
    if expert: keep_pages()
    set_seed(a.seed, reproducible=True)
    pretrained = create_backbone(a.backbone, n_out=0)
    split = items['split'].to_numpy()
    block = DataBlock((ImageBlock, CategoryBlock), get_x=ColReader('input'), get_y=ColReader('target'), splitter=lambda _: [np.flatnonzero(split == s).tolist() for s in ('train', 'valid')],
                      item_tfms=Resize(a.size), batch_tfms=[*aug_transforms(size=a.size), Normalize.from_stats(*input_statistics(pretrained), cuda=False)])
    dls = block.dataloaders(items, bs=32, num_workers=0)
    learn = vision_learner(dls, a.backbone, pretrained=False, n_out=len(dls.vocab), normalize=False, cbs=[ChannelsLast()] if expert else [])
    learn.model[0].model.load_state_dict(pretrained.state_dict(), strict=True)

    class Look(Callback):
        "After each epoch, without a mark on the training: its generators and its model are as before."
        order = 90
        def before_train(self): self.began = time.perf_counter()
        def after_train(self): self.took = time.perf_counter() - self.began
        def after_epoch(self):
            import torch
            def score():
                model, state = self.learn.model.eval(), torch.get_rng_state()
                with torch.no_grad(): out = torch.cat([model(b[0]) for b in dls.test_dl(watch.items)])
                torch.set_rng_state(state)
                return list(dls.vocab), out.numpy()
            watch.look(f'epoch {len(watch.rows)}', score)
            watch.rows[-1]['train_seconds'] = round(self.took, 1)
    with learn.no_bar(), learn.no_logging():
        learn.add_cb(Look())
        learn.fine_tune(a.epochs)


def train_ours(items, a, watch, everything):
    "The main job's training, into a folder that is thrown away."
    from fastai.callback.core import Callback
    from sft_nb.data.store import build_store
    from sft_nb.models.backbones import load_backbone
    from sft_nb.tasks.inputs import score_items
    from sft_nb.tasks.targets import describe_targets
    from sft_nb.train.run import open_run, train_run
    config = make(a, **(dict(freeze_to=0, epochs=1) if everything else {}))
    targets = describe_targets(items, task='single_label', positive=config.data.positive)

    class Look(Callback):
        "After the probe and after each epoch; a look at the validation split alone has a beginning and an end, too."
        order, took, store = 90, None, None
        def look(self, what): watch.look(what, lambda: (targets.labels, score_items(self.learn.model, self.open(), watch.items['id'], targets)))
        def open(self):
            self.store = self.store or build_store(watch.items, size=config.model.size, resize=config.model.resize)
            return self.store
        def before_fit(self):
            if not watch.rows: self.look('linear probe')
        def before_train(self): self.began = time.perf_counter()
        def after_train(self): self.took = time.perf_counter() - self.began
        def after_epoch(self):
            if self.took is None: return
            self.look(f'epoch {len(watch.rows) - 1}')
            watch.rows[-1]['train_seconds'] = round(self.took, 1)

    with tempfile.TemporaryDirectory() as folder:
        look = Look()
        run = train_run(open_run(Path(folder)/'run', config), items[items['split'] != 'test'].reset_index(drop=True), cbs=(look,)) # as for fastai, the test split is not there
        watch.look('kept', lambda: (targets.labels, score_items(load_backbone(run/'model'), look.open(), watch.items['id'], targets)))


def one(a):
    "Train with one of them and print what came of it."
    import fastai.vision.all, sft_nb.bench.job, sft_nb.train.run  # noqa: F401  imports are not what is measured
    from sft_nb.assets import cache_folder
    items, assets = load_split(a), cache_folder()/'assets'
    with tempfile.TemporaryDirectory() as fresh:  # nothing from an earlier training
        os.environ['SFT_NB_CACHE'] = fresh
        (Path(fresh)/'assets').symlink_to(assets)
        watch = Watch(items)
        if a.one in WHO[:2]: train_fastai(items, a, watch, a.one == 'expert')
        else: train_ours(items, a, watch, a.one != 'ours')
    print(json.dumps(dict(rows=watch.rows, memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))


def compare(runs) -> dict:
    "The ratios that are asked for, a number a seed."
    out = {}
    for peer in ('fastai', 'expert'):
        ratios, seeds = [], sorted({r['seed'] for r in runs})
        for seed in seeds:
            theirs, ours = (next(r for r in runs if r['seed'] == seed and r['who'] == who)['rows'] for who in (peer, 'ours'))
            goal, took = theirs[-1]['balanced_accuracy'], theirs[-1]['seconds']
            reached = next((row['seconds'] for row in ours if row['balanced_accuracy'] >= goal), None)
            ratios.append(None if reached is None else round(took / reached, 1))
        epochs = {who: float(np.median([row['train_seconds'] for r in runs if r['who'] == who for row in r['rows'] if row.get('train_seconds')][1 if who in ('fastai', 'expert') else 0:])) for who in (peer, 'ours, all layers', 'ours')}
        out[peer] = dict(time_ratio=ratios, epoch_ratio=round(epochs[peer] / epochs['ours, all layers'], 2), epoch_ratio_of_recipe=round(epochs[peer] / epochs['ours'], 2))
    return out | dict(memory={who: int(np.median([r['memory'] for r in runs if r['who'] == who])) for who in WHO})


def plot(runs, path, a):
    "Accuracy against time; a line a training."
    from matplotlib import pyplot as plt
    figure, ax = plt.subplots(figsize=(6, 3.6), layout='constrained')
    for who, color in zip(WHO[:3], ('#999999', '#D55E00', '#0072B2')):
        for i, run in enumerate(r for r in runs if r['who'] == who):
            rows = [row for row in run['rows'] if row['what'] != 'kept']
            ax.plot([r['seconds'] for r in rows], [r['balanced_accuracy'] for r in rows], '.-', color=color, alpha=.8, label=who if i == 0 else None)
    ax.set(xscale='log', xlabel='wall time, seconds', ylabel='balanced accuracy, test split', title=f'{a.data}, {a.size} pixels, {a.backbone}')
    ax.legend(frameon=False, loc='lower right')
    figure.savefig(path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='small and short, to see that it runs')
    p.add_argument('--data', choices=DATA, default='elpv')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int, default=3, help="of fastai's fine_tune, after its frozen one")
    p.add_argument('--size', type=int, default=160)
    p.add_argument('--n', type=int, default=0, help='use so many items only')
    p.add_argument('--backbone', default='tf_efficientnet_lite0')
    p.add_argument('--keep', type=Path, help='a file for what each training gave; the same command goes on after a stop')
    p.add_argument('--plot', type=Path, help='an image file')
    p.add_argument('--one', choices=WHO, help=argparse.SUPPRESS)
    p.add_argument('--seed', type=int, default=0, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.quick: a.seeds, a.epochs, a.size, a.n = 1, 1, 64, 300
    if a.one: return one(a)
    runs = [json.loads(line) for line in a.keep.read_text().splitlines()] if a.keep and a.keep.exists() else []
    for seed in range(a.seeds):
        for who in WHO:
            if any(r['who'] == who and r['seed'] == seed for r in runs): continue
            command = [sys.executable, '-W', 'ignore', __file__, '--one', who, '--seed', str(seed), *(f'--{k}={getattr(a, k)}' for k in ('epochs', 'size', 'n', 'backbone', 'data'))]
            said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
            runs.append(dict(who=who, seed=seed, **said))
            if a.keep:
                with open(a.keep, 'a') as f: f.write(json.dumps(runs[-1]) + '\n')
            for row in said['rows']: print('{who:16s} seed {seed}  {what:13s} {seconds:7.1f} s  balanced accuracy {balanced_accuracy:.3f}, accuracy {accuracy:.3f}'.format(who=who, seed=seed, **row), flush=True)
    if a.plot: plot(runs, a.plot, a)
    print(json.dumps(dict(benchmark='time_to_accuracy', data=a.data, size=a.size, backbone=a.backbone, **compare(runs), runs=runs)))


if __name__ == '__main__': main()
