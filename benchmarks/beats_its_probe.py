"""Was fine-tuning worth it? The fine-tuned model against the linear probe that it began from, paired, on every image that there is.

Items are divided into folds; each is the test split of one training once, so that every item has one prediction of a fine-tuned model
and one of the probe of the same training, neither of which has seen it. The seed of a training is the number of its fold. The recipe is the
default of `sft-nb run`. The interval is over items (jackknife; McNemar and Tango's score for shares); trainings of different folds share most of their training items,
which no interval knows of, so it is a little narrow for another draw of training items.

    python benchmarks/beats_its_probe.py                       # ELPV, four folds: about fifteen minutes on two cores
    python benchmarks/beats_its_probe.py --data pneumonia      # or cifar10
    python benchmarks/beats_its_probe.py --folder somewhere    # keep the runs; the same command goes on after a stop
    python benchmarks/beats_its_probe.py --quick               # small and short, to see that it runs

The last line is JSON with all figures.
"""
import argparse, json, tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd

DATA = dict(elpv=dict(path='elpv', positive='defective', soft='probability', slices=['type']), pneumonia=dict(path='pneumonia'), cifar10=dict(path='cifar10'))


def make(a):
    "The defaults, and the facts about the data."
    from sft_nb.config import make_config
    symmetry = dict(symmetry='all') if a.data == 'elpv' else {}
    return make_config(dict(data=DATA[a.data], model=dict(size=a.size), train=symmetry | (dict(epochs=1) if a.quick else {})))


def divide(config, a):
    "The items, with `fold`."
    from sft_nb.bench.job import load_items
    from sft_nb.data.splits import kfold_split
    items = load_items(config, check_files=False).drop(columns='split', errors='ignore')
    if a.quick: items = items.sample(240, random_state=0).reset_index(drop=True)
    return kfold_split(items, n_folds=a.folds, seed=0, by=('type',) if a.data == 'elpv' else ())


def train(config, items, fold, folder, a):
    "One training: everything but the fold is there to learn from, less a tenth of all to select on."
    from sft_nb.data.splits import split_items
    from sft_nb.train.run import open_run, train_run
    rest = items[items['fold'] != fold]
    rest = split_items(rest.drop(columns='fold'), valid=.1 * len(items) / len(rest), test=0, seed=fold, by=('type',) if a.data == 'elpv' else ())
    both = pd.concat([rest, items[items['fold'] == fold].drop(columns='fold').assign(split='test')]).sort_index()
    return train_run(open_run(folder/f'fold-{fold}', replace(config, train=replace(config.train, seed=fold))), both)


def gather(runs, model=''):
    "What all said of their own fold, as one record."
    from sft_nb.records import Predictions
    parts = [run.predictions('test', model) for run in runs]
    return Predictions.from_frame(pd.concat([p.to_frame() for p in parts], ignore_index=True), task=parts[0].task, labels=parts[0].labels)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', choices=DATA, default='elpv')
    p.add_argument('--folds', type=int, default=4)
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--folder', type=Path, help='where the runs are kept; thrown away if not given')
    p.add_argument('--quick', action='store_true', help='small and short, to see that it runs')
    a = p.parse_args()
    if a.quick: a.folds, a.size = 2, 64
    from sft_nb.evaluate.compare import compare_predictions
    config, rows = make(a), {}
    items = divide(config, a)
    with tempfile.TemporaryDirectory() as fresh:
        runs = []
        for fold in range(a.folds):
            runs.append(train(config, items, fold, (a.folder or Path(fresh))/a.data, a))
            one = compare_predictions(gather(runs[-1:]), gather(runs[-1:], 'probe'), seed=0, n_resamples=200).set_index('metric')
            print(f"{a.data}, fold {fold}: " + ', '.join(f'{m} {one.value[m]:.3f} ({one.difference[m]:+.3f})' for m in ('accuracy', 'balanced_accuracy', 'log_loss') if m in one.index), flush=True)
        found, seconds = compare_predictions(gather(runs), gather(runs, 'probe'), seed=0), [run.predictions('test').provenance['seconds'] for run in runs]
    for row in found.itertuples():
        if row.metric in ('accuracy', 'weighted_accuracy', 'balanced_accuracy', 'roc_auc', 'log_loss'): # the second where items have weights, as ELPV's have
            print(f'{row.metric:18s} {row.value:.3f}, probe {row.baseline_value:.3f}, difference {row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}], n = {row.n}, {row.method}')
            rows[row.metric] = dict(value=row.value, probe=row.baseline_value, difference=row.difference, low=row.low, high=row.high)
    print(json.dumps(dict(benchmark='beats_its_probe', data=a.data, size=a.size, folds=a.folds, n=len(items), seconds=seconds, **rows)))


if __name__ == '__main__': main()
