"""How often does a 95 % interval hold the truth, and how often does a test at 5 % cry wolf?

Detectors with normal scores are tried on many simulated test sets, alone and in groups that share part of their truth
and of their errors (intra-class correlation .3). For each metric: the default of `estimate_metrics`, the bootstraps, and
the naive value ± 1.96 standard errors that takes every item for independent. Then pairs of equally good detectors, and
how often `compare_predictions` calls them different.

    python benchmarks/coverage.py [--quick] [--no-bootstraps]

prints tables and ends with one line of JSON. At full size that is 1,000 test sets for each coverage and 10,000 for each
rejection rate, on all cores."""
import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
from scipy import stats

from sft_nb.core import track
from sft_nb.evaluate.compare import compare_predictions
from sft_nb.evaluate.intervals import estimate_metrics
from sft_nb.evaluate.metrics import BoundMetric, compute_metric
from sft_nb.records import make_predictions

METRICS = ['accuracy', 'balanced_accuracy', 'recall', 'precision', 'f1', 'mcc', 'kappa', 'roc_auc', 'pr_auc', 'log_loss', 'brier']
CELLS = [(n, p, 0) for n in (50, 200, 1000) for p in (.5, .05)] + [(400, .3, 20), (1000, .3, 50), (400, .05, 20), (1000, .5, 20)] # items, share of positives, groups
QUICK = [(50, .5, 0), (200, .5, 0), (200, .5, 20)]
GAP = 1.8 # between the means of the two classes, in standard deviations


def draw_shared(rng, n, groups):
    "Standard normal; items of one group share 30 % of their variance."
    if not groups: return rng.normal(size=n)
    return np.sqrt(.3) * np.repeat(rng.normal(size=groups), n // groups) + np.sqrt(.7) * rng.normal(size=n)


def detect(rng, n, prevalence, groups=0, models=1):
    "Predictions of equally good detectors on the same items; their errors are correlated by one half."
    truth = (draw_shared(rng, n, groups) > stats.norm.ppf(1 - prevalence)).astype(int)
    group, common, out = np.repeat(np.arange(groups), n // groups) if groups else None, draw_shared(rng, n, groups), []
    for _ in range(models):
        x = GAP * truth + np.sqrt(.5) * common + np.sqrt(.5) * draw_shared(rng, n, groups)
        p = 1 / (1 + np.exp(-(GAP * x - GAP**2 / 2 + np.log(prevalence / (1 - prevalence)))))
        out.append(make_predictions(range(n), truth, p, task='single_label', labels=['negative', 'positive'], group=group))
    return out if models > 1 else out[0]


def naive(preds, name):
    "Value ± 1.96 standard errors, as if items were independent."
    alone = make_predictions(preds.ids, preds.target, preds.score, task='single_label', labels=preds.labels)
    left = BoundMetric.of(alone, name).leave_one_out()
    left = left[np.isfinite(left)]
    half = 1.96 * np.sqrt((len(left) - 1) * left.var()) if len(left) > 1 else np.nan
    value = compute_metric(alone, name)
    return value - half, value + half


def cover(n, prevalence, groups, metrics, repeats, n_resamples):
    "Coverage of each metric by each method, where the metric exists."
    truth = {name: compute_metric(detect(np.random.default_rng(1), 500_000, prevalence), name) for name in metrics}
    rng, seen = np.random.default_rng(2), []
    for _ in range(repeats):
        preds = detect(rng, n, prevalence, groups)
        tables = dict(default=estimate_metrics(preds, metrics, by_label=False, seed=0))
        for method in ('percentile', 'BCa') if n_resamples else ():
            tables[method] = estimate_metrics(preds, metrics, by_label=False, seed=0, method=method, n_resamples=n_resamples)
        for method, table in tables.items():
            seen += [(r.metric, method, r.low <= truth[r.metric] <= r.high) for r in table.itertuples() if np.isfinite(r.low)]
        seen += [(m, 'naive', low <= truth[m] <= high) for m in metrics for low, high in [naive(preds, m)] if np.isfinite(low)]
    return pd.DataFrame(seen, columns=['metric', 'method', 'covered']).groupby(['metric', 'method'], sort=False).covered.mean()


def reject(n, prevalence, groups, metrics, repeats):
    "How often two equally good detectors are called different at the 5 % level."
    rng, p = np.random.default_rng(3), []
    for _ in range(repeats):
        a, b = detect(rng, n, prevalence, groups, models=2)
        p.append(compare_predictions(a, b, metrics=metrics, seed=0).set_index('metric').p_value)
    p = pd.DataFrame(p)
    return (p < .05).sum() / p.notna().sum()


def name(n, prevalence, groups): return f'n={n} positive={prevalence:g} groups={groups}'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='three settings, four metrics, 200 test sets')
    p.add_argument('--no-bootstraps', action='store_true', help='only the default and the naive interval')
    a = p.parse_args()
    cells, metrics = (QUICK, ['accuracy', 'balanced_accuracy', 'f1', 'roc_auc']) if a.quick else (CELLS, METRICS)
    repeats, n_resamples, start = 200 if a.quick else 1000, 0 if a.quick or a.no_bootstraps else 1000, time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        big_first = sorted(cells, key=lambda c: -c[0])
        covering = {c: pool.submit(cover, *c, metrics, repeats, n_resamples) for c in big_first}
        rejecting = {c: pool.submit(reject, *c, metrics, repeats if a.quick else 10_000) for c in big_first}
        for setting in track([*covering.values(), *rejecting.values()], 'settings'): setting.result()
    covered, rejected = [pd.DataFrame({name(*c): of[c].result() for c in cells}).T for of in (covering, rejecting)]
    print('Coverage of nominal 95 % intervals', covered.T.round(3).to_string(), sep='\n')
    print('\nRejections of a true null at 5 %', rejected.T.round(3).to_string(), sep='\n')
    default = covered.xs('default', axis=1, level='method')
    print(json.dumps(dict(benchmark='coverage', quick=a.quick, repeats=repeats, seconds=round(time.perf_counter() - start, 1),
                          default_least=round(float(default.min().min()), 4), default_median=round(float(default.stack().median()), 4),
                          naive_least=round(float(covered.xs('naive', axis=1, level='method').min().min()), 4), null_most=round(float(rejected.max().max()), 4),
                          coverage={k: {f'{m} {how}': round(v, 4) for (m, how), v in row.dropna().items()} for k, row in covered.iterrows()},
                          null={k: row.dropna().round(4).to_dict() for k, row in rejected.iterrows()})))


if __name__ == '__main__': main()
