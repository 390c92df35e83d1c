"""How often intervals hold the truth and tests cry wolf: what stands under "What was tried" on pages about evaluation, simulated again.

    python benchmarks/simulations.py [compare slices fairness calibration errors robustness] [--quick]

Each page has simulated worlds of its own, whose truth is known from theory or, where there is none, from a very large sample. A row
is a setting; its numbers are means over data sets, mostly of what is so (1) or not (0). Prints tables, each with its Monte-Carlo
error, and ends with one line of JSON; runs on all cores. For equally good, alike models and the default test see `coverage.py`.
The page on fairness needs fairlearn."""
import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
from coverage import GAP, detect, draw_shared
from scipy.optimize import brentq
from scipy.special import expit, logit, softmax
from scipy.stats import norm

from sft_nb.core import derive_seed, track
from sft_nb.evaluate.bootstrap import resample_counts
from sft_nb.evaluate.calibration import calibration_error, compare_calibration, decompose_brier, fit_calibrator, spiegelhalter_test
from sft_nb.evaluate.compare import compare_predictions
from sft_nb.evaluate.errors import choose_threshold, estimate_label_noise, selective_metrics
from sft_nb.evaluate.fairness import fit_thresholds, measure_fairness
from sft_nb.evaluate.shares import wilson_interval
from sft_nb.evaluate.robustness import evaluate_robustness
from sft_nb.evaluate.slices import SliceFrame, find_weak_slices
from sft_nb.records import make_predictions

BLOCKS = 10 # parts of a row, to keep all cores busy
NORMAL = norm.ppf((np.arange(100_000) + .5) / 100_000) # stands for endless draws
MEASURES = [f'{m}_{kind}' for kind in ('difference', 'ratio') for m in ('demographic_parity', 'equal_opportunity', 'equalized_odds')]


def held(low, truth, high):
    "1 where the truth is inside, 0 where it is not, NaN where there is no interval."
    return np.where(np.isfinite(low), (low <= np.asarray(truth) + 1e-9) & (np.asarray(truth) <= high + 1e-9), np.nan)


def labelled(target, score, groups=0, labels='ab', prefix='', **kw):
    "Predictions of one label an item; groups are of equal size and follow each other."
    group = [f'{prefix}{g}' for g in np.repeat(np.arange(groups), len(target) // groups)] if groups else None
    ids, target = [f'{prefix}{i}' for i in range(len(target))], np.asarray(target).astype(int)
    return make_predictions(ids, target, score, task='single_label', labels=[*labels], group=group, **kw)


def alike(rng, seed, n, prevalence, groups=0, method='permutation'):
    "Whether two equally good, alike detectors are called different; without a method groups are ignored."
    a, b = detect(rng, n, prevalence, groups, models=2)
    if method is None: a, b = replace(a, group=None), replace(b, group=None)
    names = ['accuracy', 'balanced_accuracy', 'recall', 'f1', 'roc_auc', *['pr_auc'] * (method is None), 'log_loss', 'brier']
    p = compare_predictions(a, b, metrics=names, seed=seed, method=method).set_index('metric').p_value
    return (p < .05).astype(float).where(p.notna()).to_dict()


@cache
def rival(metric, prevalence, gap=0.):
    "A detector that is worth as much on endless data, though unlike: one too sure of itself with this gap, or else one whose positives differ more."
    def value(gap, scale, spread):
        odds = lambda x: scale * (gap * x - gap**2 / 2 + logit(prevalence))
        loss = prevalence * np.logaddexp(0, -odds(gap + spread * NORMAL)).mean() + (1 - prevalence) * np.logaddexp(0, odds(NORMAL)).mean()
        cut = gap / 2 - logit(prevalence) / gap
        hits, alarms = prevalence * norm.sf(cut, gap, spread), (1 - prevalence) * norm.sf(cut)
        right, f1, area = hits + 1 - prevalence - alarms, 2 * hits / (prevalence + hits + alarms), norm.cdf(gap / np.hypot(1, spread))
        return dict(log_loss=loss, accuracy=right, f1=f1, roc_auc=area)[metric]
    make = lambda v: (gap, v, 1.) if gap else (v, 1., 1.5)
    return make(brentq(lambda v: value(*make(v)) - value(GAP, 1., 1.), 1, 5))


def unlike(rng, seed, metric, n, prevalence, groups=0, gap=0.):
    "Whether two unlike detectors whose true values are equal are called different."
    truth, common, out = draw_shared(rng, n, groups) > norm.isf(prevalence), draw_shared(rng, n, groups), []
    for gap, scale, spread in [(GAP, 1., 1.), rival(metric, prevalence, gap)]:
        x = gap * truth + np.where(truth, spread, 1) * np.sqrt(.5) * (common + draw_shared(rng, n, groups))
        out.append(labelled(truth, expit(scale * (gap * x - gap**2 / 2 + logit(prevalence))), groups))
    p = [compare_predictions(*out, metrics=metric, seed=seed, method=method).p_value[0] for method in (None, 'permutation')]
    return dict(default=p[0] < .05, permutation=p[1] < .05)


def slices(rng, seed, n, k, prevalence=.5, groups=0, straddle=False):
    "Whether some slice is called different though all are alike: by gaps to the rest, by pairs, and by a plain test of each accuracy."
    kind = np.repeat(rng.permutation(groups) % k, n // groups) if groups and not straddle else rng.integers(0, k, n)
    preds = replace(detect(rng, n, prevalence, groups), slices=pd.DataFrame({'kind': kind.astype(str)}))
    frame = SliceFrame(preds, ['accuracy', 'f1', 'roc_auc', 'log_loss'], seed=seed)
    found = dict(rest=frame.by_group.groupby('metric').p_value.min(), pairs=frame.difference().set_index('metric').p_value)
    hit, inside = preds.prediction == preds.target, np.eye(k)[kind]
    size, share = inside.sum(0), hit.mean()
    z = (hit @ inside / size - hit @ (1 - inside) / (n - size)) / np.sqrt(share * (1 - share) * (1 / size + 1 / (n - size)))
    return {f'{m} {how}': p[m] < .05 for m in frame.specs for how, p in found.items()} | {'naive': abs(z).max() > norm.isf(.025)}


def shares(rng, seed, of, size):
    "Slices of these true accuracies: whether the first is found to be the worst, and whether the interval of the range holds the true one."
    hit = (rng.random((size, len(of))) < of).T.ravel()
    kind = np.repeat(np.arange(len(of)), size).astype(str)
    frame = SliceFrame(labelled(np.ones(len(hit)), hit.astype(float), slices=pd.DataFrame({'kind': kind})), 'accuracy', seed=seed)
    worst, apart = frame.worst('accuracy').iloc[0], frame.difference().iloc[0]
    return dict(first_found_worst=worst.slice == 'kind=0' and worst.p_value < .05, range_held=held(apart.low, np.ptp(of), apart.high))


def search(rng, seed, n, errors, groups=0):
    "Whether the search confirms something; of those from 60 with the old device a share of `errors` is wrong, of all others 10 %."
    age, device = rng.integers(18, 90, n).astype(float), rng.choice(['old', 'new'], n)
    hit = rng.random(n) > np.where((age >= 60) & (device == 'old'), errors, .1)
    about = pd.DataFrame({'age': age, 'device': device, 'site': rng.choice([*'ABCDE'], n)})
    rules = find_weak_slices(labelled(np.ones(n), hit.astype(float), groups, slices=about), seed=seed).slice
    return dict(something=len(rules) > 0, by_age_and_old_device=any('age' in rule and 'device=old' in rule for rule in rules))


def applicants(rng, n, lower, groups=0, prefix=''):
    "People of several kinds, of whom 40 % are suitable; scores are lower by `lower` for the same suitability. Families are of one kind, and alike."
    of = np.array([.5, .3, .2])[:len(lower)]
    kind = np.repeat(rng.choice(len(lower), groups or n, p=of / of.sum()), n // groups if groups else 1)
    suitable = draw_shared(rng, n, groups) > norm.isf(.4)
    score = expit(2.2 * suitable - 1.2 - np.array(lower)[kind] + draw_shared(rng, n, groups))
    return labelled(suitable, score, groups, prefix=prefix, slices=pd.DataFrame({'kind': kind.astype(str)}))


def largest(positives, negatives, hits, alarms): # (…, kinds) each → (…, 3)
    "Differences between kinds: demographic parity, equal opportunity, equalised odds."
    with np.errstate(invalid='ignore'): rates = (hits + alarms) / (positives + negatives), hits / positives, alarms / negatives
    parity, opportunity, other = [np.ptp(rate, axis=-1) for rate in rates]
    return np.stack([parity, opportunity, np.maximum(opportunity, other)], -1)


def measures(rng, seed, n, lower, groups=0):
    "Which intervals of `measure_fairness` hold the truth."
    hits, alarms = [norm.cdf(base - np.array(lower)) for base in (1, -1.2)]
    parity, opportunity, other = [rate.min() / rate.max() for rate in (.4 * hits + .6 * alarms, hits, alarms)]
    table = measure_fairness(applicants(rng, n, lower, groups), 'kind').set_index('metric').loc[MEASURES]
    return dict(zip(MEASURES, held(table.low, [*largest(.4, .6, .4 * hits, .6 * alarms), parity, opportunity, min(opportunity, other)], table.high)))


def changes(rng, seed, n, lower, groups=0):
    "Which intervals hold what fitted thresholds truly change: ours, and those of two plain bootstraps."
    mend, test = fit_thresholds(applicants(rng, 1500, lower, prefix='v'), 'kind'), applicants(rng, n, lower, groups, prefix='t')
    threshold, chance, other, ignored, constant = mend.table[['threshold', 'chance', 'other_threshold', 'ignored', 'constant']].to_numpy().T
    above = lambda t, base: norm.sf(logit(np.clip(t, 0, 1)) - base + np.array(lower))
    mended = lambda base: ignored * constant + (1 - ignored) * (chance * above(threshold, base) + (1 - chance) * above(other, base))
    truth = np.subtract(*[largest(.4, .6, .4 * rate(1), .6 * rate(-1.2)) for rate in (mended, lambda base: above(.5, base))])
    y, kind = np.stack([test.target, 1 - test.target]), np.eye(len(lower))[test.slices.kind.astype(int)]
    parts = np.concatenate([y, y * mend.apply(test), y * test.prediction])[:, :, None] * kind
    parts = parts.reshape(6, groups or n, -1, len(lower)).sum(2)
    moved = lambda totals: largest(*totals[:4]) - largest(*totals[:2], *totals[4:])
    counts, seen = np.concatenate([*resample_counts(groups or n, 1000, seed=seed)]).astype(float), moved(parts.sum(1))
    low, high = np.nanquantile(moved(np.stack([counts @ part for part in parts])), [.025, .975], axis=0)
    ours = mend.measure(test, seed=seed).set_index('metric').loc[MEASURES[:3]]
    ends = dict(ours=(ours.low, ours.high), percentile=(low, high), basic=(2 * seen - high, 2 * seen - low))
    return {f'{how} {m[:-11]}': hit for how, (low, high) in ends.items() for m, hit in zip(MEASURES, held(low, truth, high))}


def chances(normal, overdone=1., shift=0., centre=-.3): # (n,) for two labels or (n, k) → (n, k) each
    "What is said, and what is true: log odds are overdone by a factor, and the second of two labels is less likely by `shift`."
    z = np.stack([0 * normal, centre + 1.5 * normal], 1) if normal.ndim == 1 else 1.5 * normal
    return softmax(overdone * z, axis=1), softmax(z - shift * np.eye(z.shape[1])[1], axis=1)


def forecast(rng, n, labels=2, groups=0, prefix='', **kw):
    "Predictions whose `chances` are known."
    said, true = chances(rng.normal(size=n if labels == 2 else (n, labels)), **kw)
    target = (true.cumsum(1)[:, :-1] < norm.cdf(draw_shared(rng, n, groups))[:, None]).sum(1)
    return labelled(target, said, groups, 'abcd'[:labels], prefix)


def in_bins(said): # (n, k) → (n,) each
    "Which label the calibration is of, its probability, and the bin of that, one of ten of equal size."
    label = np.ones(len(said), int) if said.shape[1] == 2 else said.argmax(1)
    p = said[np.arange(len(said)), label]
    return label, p, np.searchsorted(np.quantile(p, np.linspace(0, 1, 11)[1:-1]), p)


@cache
def true_error(labels=2, **kw):
    "The ECE of `forecast` in endless data."
    said, true = chances(NORMAL if labels == 2 else np.random.default_rng(1).normal(size=(2_000_000, labels)), **kw)
    label, p, bins = in_bins(said)
    return abs(np.bincount(bins, p - true[np.arange(len(p)), label])).sum() / len(p)


def ece(rng, seed, n, groups=0, **kw):
    "Which intervals hold the expected calibration error, and what its plain and its debiased estimate are."
    preds, truth = forecast(rng, n, groups=groups, **kw), true_error(**kw)
    ours, (label, p, bins) = calibration_error(preds, seed=seed), in_bins(preds.score)
    parts = (((preds.target == label) - p)[:, None] * np.eye(10)[bins]).reshape(groups or n, -1, 10).sum(1)
    counts, plain = np.concatenate([*resample_counts(groups or n, 500, seed=seed)]).astype(float), abs(parts.sum(0)).sum() / n
    low, high = np.quantile(abs(counts @ parts).sum(1) / n, [.025, .975])
    ends = dict(default=(ours.low, ours.high), percentile=(low, high), basic=(2 * plain - high, 2 * plain - low))
    return dict(truth=truth, plain=plain, debiased=ours.value) | {how: held(low, truth, high) for how, (low, high) in ends.items()}


def ece_change(rng, seed, n):
    "Whether the interval of what a temperature does to the ECE holds the truth, or shows too little or too much of an improvement."
    valid, test = forecast(rng, 400, overdone=2., prefix='v'), forecast(rng, n, overdone=2., prefix='t')
    row = compare_calibration(valid, test, methods=['temperature'], seed=seed).set_index(['calibration', 'metric']).loc[('temperature', 'ece')]
    low, high, truth = row.difference_low, row.difference_high, -true_error(overdone=2.)
    truth += true_error(overdone=2 / fit_calibrator(valid).parameters['temperature'][0])
    return dict(truth=truth, held=held(low, truth, high), too_little=low > truth, too_much=high < truth)


def brier(rng, seed, n, overdone):
    "Which intervals of the parts of the Brier score hold the truth, for forecasts of five values."
    values = np.array([.1, .3, .5, .7, .9])
    real, of = expit(logit(values) / overdone), rng.integers(0, 5, n)
    table = decompose_brier(labelled(rng.random(n) < real[of], values[of]), seed=seed, strategy='uniform')[1:]
    return dict(zip(table.metric, held(table.low, [((values - real)**2).mean(), real.var(), real.mean() * (1 - real.mean())], table.high)))


def spiegelhalter(rng, seed, **kw):
    "Whether right probabilities are rejected."
    return dict(rejected=spiegelhalter_test(forecast(rng, **kw))[1] < .05)


def mislabelled(rng, n, k, skill, noise, groups=0):
    "Which labels are wrong, and predictions; in groups they are the work of some careless annotators, who get every second label wrong."
    truth = rng.integers(0, k, n)
    wrong = rng.random(n) < (np.repeat(rng.random(groups) < 2 * noise, n // groups) / 2 if groups else noise)
    score = softmax(skill * np.eye(k)[truth] + rng.normal(size=(n, k)), axis=1)
    return wrong, labelled((truth + wrong * rng.integers(1, k, n)) % k, score, groups, 'abcd'[:k])


@cache
def endless_noise(**kw):
    "The estimate on endless data; annotators do not matter there."
    return estimate_label_noise(mislabelled(np.random.default_rng(1), 200_000, **kw)[1], seed=0, n_resamples=40).value[0]


def label_noise(rng, seed, n, groups=0, **kw):
    "The estimate, and whether its interval holds the share that is wrong among these items, and what endless data would give."
    wrong, preds = mislabelled(rng, n, groups=groups, **kw)
    row, endless, right = estimate_label_noise(preds, seed=seed).iloc[0], endless_noise(**kw), (preds.prediction == preds.target)[~wrong].mean()
    return dict(right=right, estimate=row.value, held=held(row.low, wrong.mean(), row.high), endless=endless, endless_held=held(row.low, endless, row.high))


def sure(rng, n, groups=0):
    "Answers whose confidence is uniform from ½ to 1, and right: above a confidence t the error rate is (1 − t) / 2."
    p, truth = rng.uniform(.5, 1, n), rng.integers(0, 2, n)
    right = norm.cdf(draw_shared(rng, n, groups)) < p
    return labelled(truth, np.where(right == truth, p, 1 - p), groups)


def areas(rng, seed, **kw):
    "Whether the intervals of AURC and E-AURC hold the truth: 1/8, and what that is above r + (1 − r) ln(1 − r) for r = ¼."
    table = selective_metrics(sure(rng, **kw), coverages=())
    return dict(zip(table.metric, held(table.low, [1 / 8, 1 / 8 - (.25 + .75 * np.log(.75))], table.high)))


def promise(rng, seed, n, target):
    "Whether the true risk is above the target at the chosen threshold, and at the smallest that fits `valid`; what is answered, and could be."
    preds = sure(rng, n)
    threshold, order = choose_threshold(preds, target_risk=target).threshold[0], np.argsort(-preds.score.max(1))
    fits = np.flatnonzero((preds.prediction != preds.target)[order].cumsum() <= target * np.arange(1, n + 1))
    naive = preds.score.max(1)[order][fits[-1]]
    return dict(naive_broken=1 - naive > 2 * target, broken=1 - threshold > 2 * target, coverage=np.nan_to_num(2 * (1 - threshold)), possible=4 * target)


def stress(rng, seed, n, clean, hurt, groups=0):
    "Which intervals hold the truth. A corruption's severities are five labels of an item: the same errors as under 75 conditions, sooner."
    rates = hurt * np.outer(np.linspace(.6, 1.4, 15), np.linspace(.6, 1.4, 5))
    hard = np.sqrt(.5) * (rng.normal(size=n) + np.repeat(rng.normal(size=groups), n // groups)) if groups else rng.normal(size=n)
    right = make_predictions(range(n), np.zeros((n, 5)), np.zeros((n, 5)), task='multi_label', labels=range(1, 6),
                             group=np.repeat(np.arange(groups), n // groups) if groups else None)
    errs = lambda rate: np.sqrt(.5) * (hard[:, None] + rng.normal(size=(n, len(rate)))) > norm.isf(rate)
    say = lambda rate: replace(right, score=errs(rate) + np.zeros((n, 5)))
    model, other = [(say(np.array([clean * k])), {(f'c{i}', 1): say(rate * k) for i, rate in enumerate(rates)}) for k in (1, 1.3)]
    table = evaluate_robustness(*model, baseline=other, seed=seed, metric='hamming_loss').metrics.set_index('metric')
    low, high = wilson_interval(table.value['mean_corruption_error'] * n * 75, n * 75)
    truth = dict(mean_corruption_error=rates.mean(), mean_error_increase=rates.mean() - clean, mce=1 / 1.3)
    return {m: held(table.low[m], v, table.high[m]) for m, v in truth.items()} | {'naive': held(low, rates.mean(), high)}


ITEMS = [dict(n=50, prevalence=.5), dict(n=200, prevalence=.5), dict(n=400, prevalence=.3, groups=20)]
FAR, NONE = (0, .3, 1.1), (0, 0, 0)
PAGES = dict( # page → tables: title, what simulates a data set, how many data sets a row, rows
    compare=[
        ('Alike models called different by permutation', alike, 1500, [*ITEMS, dict(n=400, prevalence=.05, groups=20)]),
        ('Alike models called different where groups are ignored', alike, 1500, [ITEMS[2] | dict(method=None)]),
        ('Unlike models of equal log loss called different', unlike, 2000, [dict(metric='log_loss', gap=gap) | of for gap in (2.2, 2.6) for of in ITEMS]),
        ('Other unlike models called different', unlike, 500, [dict(metric=m) | of for m in ('accuracy', 'f1', 'roc_auc') for of in ITEMS])],
    slices=[
        ('Some slice called different though all are alike', slices, 250, [
            dict(n=200, k=2), dict(n=600, k=6), dict(n=600, k=6, prevalence=.1), dict(n=800, k=20), dict(n=600, k=4, groups=60),
            dict(n=900, k=3, groups=300, straddle=True)]),
        ('Slices of known accuracy', shares, 300, [
            dict(of=(.7, .9, .9, .9, .9, .9), size=100), dict(of=(.8,) * 6, size=80), dict(of=(.7, .8, .8, .8, .85, .9), size=80)]),
        ('Found by the search', search, 300, [
            dict(n=400, errors=.1), dict(n=1200, errors=.1), dict(n=800, errors=.1, groups=100), dict(n=600, errors=.4), dict(n=1200, errors=.4)])],
    fairness=[
        ('Measures held', measures, 300, [dict(n=600, lower=NONE), dict(n=600, lower=FAR), dict(n=2000, lower=FAR), dict(n=600, lower=(0, 1.1), groups=60)]),
        ('Changes held', changes, 240, [
            dict(n=600, lower=FAR), dict(n=1500, lower=FAR), dict(n=600, lower=NONE), dict(n=1500, lower=(0, 0)), dict(n=600, lower=FAR, groups=60)])],
    calibration=[
        ('ECE', ece, 600, [
            dict(n=100), dict(n=500), dict(n=500, overdone=1.3), dict(n=500, overdone=2.), dict(n=200, shift=2.), dict(n=300, overdone=1.5, centre=-3.85),
            dict(n=400, groups=20), dict(n=400, groups=20, overdone=1.6), dict(n=300, labels=4, overdone=1.5)]),
        ('Parts of the Brier score held', brier, 400, [dict(n=n, overdone=by) for n in (100, 500) for by in (1., 1.6)]),
        ("Right probabilities rejected by Spiegelhalter's test", spiegelhalter, 2000, [dict(n=100), dict(n=100, labels=4), dict(n=300, groups=30)]),
        ('Change of the ECE to nearly zero', ece_change, 200, [dict(n=200), dict(n=500), dict(n=2000)])],
    errors=[
        ('Wrong labels', label_noise, 100, [dict(n=1000, k=4, skill=skill, noise=noise) for noise in (0., .02, .05, .1, .2) for skill in (6., 4., 2.5)]),
        ('Wrong labels of fewer items', label_noise, 300, [
            dict(n=400, k=3, skill=4., noise=.1), dict(n=400, k=3, skill=2., noise=.05), dict(n=400, k=3, skill=4., noise=.1, groups=40)]),
        ('Areas held', areas, 600, [dict(n=30), dict(n=60), dict(n=300), dict(n=1000), dict(n=400, groups=25)]),
        ('The promise', promise, 600, [dict(n=n, target=target) for n, target in [(500, .1), (500, .2), (2000, .1), (2000, .2), (10_000, .1)]])],
    robustness=[
        ('Errors held', stress, 400, [
            dict(n=50, clean=.1, hurt=.25), dict(n=200, clean=.02, hurt=.08), dict(n=200, clean=.1, hurt=.25), dict(n=400, clean=.15, hurt=.3, groups=20)])])


def simulate(page, table, row, block, repeats):
    "What is seen in some data sets."
    _, one, _, settings = PAGES[page][table]
    rng = np.random.default_rng(derive_seed(0, page, table, row, block))
    return pd.DataFrame([one(rng, int(rng.integers(2**31)), **settings[row]) for _ in range(repeats)]).astype(float)


def main():
    "The command."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('pages', nargs='*', metavar='page', help=f"{', '.join(PAGES)}; all if none is named")
    p.add_argument('--quick', action='store_true', help='a fiftieth of the data sets, only to see that it runs')
    a = p.parse_args()
    if not set(a.pages) <= set(PAGES): p.error(f"expected pages among {', '.join(PAGES)}, but got {', '.join(a.pages)}")
    start, jobs, out = time.perf_counter(), {}, {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for page, table in [(page, table) for page in a.pages or PAGES for table in range(len(PAGES[page]))]:
            _, _, repeats, settings = PAGES[page][table]
            counts = [max(repeats // 50, 4)] if a.quick else [repeats // BLOCKS] * BLOCKS
            jobs[page, table] = [[pool.submit(simulate, page, table, row, block, n) for block, n in enumerate(counts)] for row in range(len(settings))]
        for (page, table), rows in track(jobs.items(), 'tables'):
            title, _, _, settings = PAGES[page][table]
            seen = {' '.join(f'{k}={v}' for k, v in of.items()): pd.concat([job.result() for job in row]) for of, row in zip(settings, rows)}
            found, n = pd.DataFrame({name: frame.mean() for name, frame in seen.items()}).T, len(next(iter(seen.values())))
            print(f'\n{page}: {title}. {n:,} data sets a row; rates of 5 or 95 % are uncertain by {np.sqrt(.05 * .95 / n):.1%}, of 50 % by {.5 / n**.5:.1%}')
            print(found.round(3).to_string(), flush=True)
            out.setdefault(page, {})[title] = dict(data_sets=n, rows={name: row.dropna().round(4).to_dict() for name, row in found.iterrows()})
    print(json.dumps(dict(benchmark='simulations', quick=a.quick, seconds=round(time.perf_counter() - start, 1), **out)))


if __name__ == '__main__': main()
