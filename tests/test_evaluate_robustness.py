"""Robustness: the paper's formulas, intervals that cover although all conditions share their items, and odd input."""
import numpy as np
import pytest
from scipy import stats

from sft_nb.core import InputError
from sft_nb.evaluate.bootstrap import draw_metrics
from sft_nb.evaluate.compare import adjust_holm, compare_predictions
from sft_nb.evaluate.shares import wilson_interval
from sft_nb.evaluate.metrics import BoundMetric
from sft_nb.evaluate.robustness import CELL_COLUMNS, CORRUPTION_COLUMNS, Robustness, _Errors, _limits, _may_be_worst, _p_value, evaluate_robustness
from sft_nb.records import METRIC_COLUMNS, Predictions, make_predictions


def from_errors(wrong, group=None, ids=None) -> Predictions:
    "A model of two labels that is wrong where it is said to be."
    wrong = np.asarray(wrong, bool)
    truth = np.arange(len(wrong)) % 2
    return make_predictions([f'i{i}' for i in range(len(wrong))] if ids is None else ids, truth, np.where(wrong, 1 - truth, truth) * .6 + .2,
                            task='single_label', labels=['a', 'b'], group=group)


def draw(rng, n, thresholds, groups=0, share=.5):
    "Errors (1 + conditions, n) of items that differ in how hard they are; thresholds give the true error of each condition."
    hard = rng.normal(size=n)
    if groups: hard = np.sqrt(.5) * hard + np.sqrt(.5) * rng.normal(size=groups)[np.arange(n) * groups // n]
    own = rng.normal(size=(len(thresholds), n))
    return np.sqrt(share) * hard + np.sqrt(1 - share) * own > np.asarray(thresholds)[:, None]


def errors_of(wrong, keys, groups=0) -> _Errors:
    "What `_errors` gives for accuracies, without making predictions."
    wrong = wrong.astype(float)
    if groups: size, total = np.bincount(np.arange(wrong.shape[1]) * groups // wrong.shape[1]), np.add.reduceat(wrong, np.arange(groups) * wrong.shape[1] // groups, axis=1)
    else: size, total = np.ones(wrong.shape[1]), wrong
    return _Errors(keys, wrong.mean(1), (wrong.sum(1, keepdims=True) - total) / (wrong.shape[1] - size))


KEYS = [(c, s) for c in 'abc' for s in (1, 2)]
rng0 = np.random.default_rng(0)
MODEL = draw(rng0, 120, [1.2, 1, .5, .9, .3, 1, .9])
BASE = draw(rng0, 120, [.9, .5, -.2, .4, -.4, .5, .3])
def as_preds(wrong, group=None): return from_errors(wrong[0], group), {k: from_errors(w, group) for k, w in zip(KEYS, wrong[1:])}


def test_formulas_of_the_paper():
    found = evaluate_robustness(*as_preds(MODEL), seed=0, baseline=as_preds(BASE)).metrics.set_index('metric').value
    e, b = MODEL[1:].mean(1).reshape(3, 2), BASE[1:].mean(1).reshape(3, 2)
    assert found['clean_error'] == pytest.approx(MODEL[0].mean())
    assert found['mean_corruption_error'] == pytest.approx(e.mean())
    assert found['mean_error_increase'] == pytest.approx(e.mean() - MODEL[0].mean())
    assert found['mce'] == pytest.approx(np.mean(e.sum(1) / b.sum(1)))
    assert found['relative_mce'] == pytest.approx(np.mean((e - MODEL[0].mean()).sum(1) / (b - BASE[0].mean()).sum(1)))


def test_a_model_against_itself():
    found = evaluate_robustness(*as_preds(MODEL), seed=0, baseline=as_preds(MODEL)).metrics.set_index('metric')
    assert found.value[['mce', 'relative_mce']].tolist() == pytest.approx([1, 1])
    assert 'says nothing' in found.method['mce'] and found.low['mce'] == pytest.approx(1)


def test_the_tables():
    clean, corrupted = as_preds(MODEL)
    r = evaluate_robustness(clean, corrupted, seed=0)
    assert list(r.cells) == CELL_COLUMNS and list(r.corruptions) == CORRUPTION_COLUMNS and list(r.metrics) == METRIC_COLUMNS
    assert len(r.cells) == 7 and len(r.corruptions) == 3 and r.corruptions.ratio.isna().all() and 'mce' not in set(r.metrics.metric)
    for table in (r.cells, r.corruptions, r.metrics): assert (table.low <= table.value).all() and (table.value <= table.high).all() and table.n.eq(120).all()
    for row in r.cells.itertuples():
        wrong = MODEL[0] if row.corruption == 'clean' else MODEL[1 + KEYS.index((row.corruption, row.severity))]
        assert (row.low, row.high) == pytest.approx(wilson_interval(wrong.sum(), 120))
    theirs = [compare_predictions(corrupted[k], clean, metrics='accuracy', seed=0).iloc[0] for k in KEYS]
    cells = r.cells.iloc[1:]
    assert cells.difference.tolist() == pytest.approx([-t.difference for t in theirs]) and cells.difference_low.tolist() == pytest.approx([-t.high for t in theirs])
    assert cells.p_value.tolist() == pytest.approx(adjust_holm([t.p_value for t in theirs]))
    assert r.to_dict()['cells'][0]['difference'] is None and len(r.to_dict()['metrics']) == 3
    assert 'mean_corruption_error' in repr(r) and '<table' in r._repr_html_() and isinstance(r, Robustness)


def test_order_of_rows_does_not_matter_and_a_sample_will_do():
    clean, corrupted = as_preds(MODEL)
    shuffled = {k: p.take(np.random.default_rng(i).permutation(120)) for i, (k, p) in enumerate(reversed(corrupted.items()))}
    one, other = evaluate_robustness(clean, corrupted, seed=0), evaluate_robustness(clean, shuffled, seed=0)
    assert one.metrics.iloc[:, 3:8].to_numpy(float) == pytest.approx(other.metrics.iloc[:, 3:8].to_numpy(float))
    some = evaluate_robustness(clean, {k: p.take(np.arange(50)) for k, p in corrupted.items()}, seed=0)
    assert some.metrics.n.eq(50).all() and some.metrics.value[0] == pytest.approx(MODEL[0, :50].mean())


@pytest.mark.parametrize('groups', [0, 24])
def test_spread_agrees_with_the_bootstrap_of_items(groups):
    group = [f'g{i}' for i in np.arange(120) * groups // 120] if groups else None
    clean, corrupted = as_preds(MODEL, group)
    draws = 1 - draw_metrics([BoundMetric.of(p, 'accuracy') for p in (clean, *corrupted.values())], 4000, seed=0)
    e = errors_of(MODEL, KEYS, groups)
    for value, left, drawn in [(*e.mean(), draws[1:].mean(0)), (e.mean()[0] - e.value[0], e.mean()[1] - e.left_out[0], draws[1:].mean(0) - draws[0])]:
        units = len(left)
        assert np.sqrt((units - 1) / units * ((left - left.mean())**2).sum()) == pytest.approx(drawn.std(), rel=.08)
    metrics = evaluate_robustness(clean, corrupted, seed=0).metrics.set_index('metric')
    assert metrics.value['mean_corruption_error'] == pytest.approx(draws[1:].mean(), abs=.005)
    assert ('24 groups' in metrics.method['mean_corruption_error']) == bool(groups)


PAPER = [(c, s) for c in range(15) for s in range(5)]


@pytest.mark.parametrize('n, groups, clean, hurt', [(50, 0, .1, .25), (200, 0, .02, .08), (200, 0, .2, .5), (400, 20, .15, .3)])
def test_coverage_of_the_means(n, groups, clean, hurt):
    "The nominal 95 % intervals of the mean corruption error, its increase, and mCE; the naive one is far too short."
    rng, runs = np.random.default_rng(n + groups), 600
    truth = np.r_[clean, np.clip(hurt * np.repeat(np.linspace(.6, 1.4, 15), 5) * np.tile(np.linspace(.6, 1.4, 5), 15), 0, .95)]
    other, hit = np.clip(truth * 1.3, 0, .97), np.zeros(4)
    ratio = np.mean(truth[1:].reshape(15, 5).sum(1) / other[1:].reshape(15, 5).sum(1))
    for _ in range(runs):
        hard = rng.normal(size=n) if not groups else np.sqrt(.5) * rng.normal(size=n) + np.sqrt(.5) * rng.normal(size=groups)[np.arange(n) * groups // n]
        say = lambda p: np.sqrt(.5) * hard + np.sqrt(.5) * rng.normal(size=(76, n)) > stats.norm.isf(p)[:, None]
        e, b = errors_of(say(truth), PAPER, groups), errors_of(say(other), PAPER, groups)
        mean, left = e.mean()
        low, high, _ = _limits(mean, left, .95, (0, 1))
        hit[0] += low <= truth[1:].mean() <= high
        low, high, _ = _limits(mean - e.value[0], left - e.left_out[0], .95)
        hit[1] += low <= truth[1:].mean() - clean <= high
        ratios = [(e.mean(c)[0] / b.mean(c)[0], e.mean(c)[1] / b.mean(c)[1]) for c in range(15)]
        low, high, _ = _limits(np.mean([v for v, _ in ratios]), np.mean([l for _, l in ratios], 0), .95, (0, np.inf))
        hit[2] += low <= ratio <= high
        low, high = wilson_interval(mean * n * 75, n * 75)
        hit[3] += low <= truth[1:].mean() <= high
    print(n, groups, clean, hurt, hit / runs)
    assert (hit[:3] / runs >= .925).all() and (hit[:3] / runs <= .985).all(), hit / runs
    assert hit[3] / runs < .75


def test_level_where_corruption_does_nothing():
    rng, runs = np.random.default_rng(1), 1500
    rejected = 0
    for _ in range(runs):
        e = errors_of(draw(rng, 80, [1.] * 31), [(c, s) for c in range(6) for s in range(5)])
        rejected += _p_value(e.mean()[0] - e.value[0], e.mean()[1] - e.left_out[0]) < .05
    assert rejected / runs < .06, rejected / runs


@pytest.mark.parametrize('gap', [0, .15])
def test_the_truly_worst_is_kept(gap):
    "In at least 95 % of samples, also when all are equally bad; and where one stands out the others are dropped."
    rng, names, kept, alone, runs = np.random.default_rng(2), list(range(6)), 0, 0, 500
    thresholds = np.r_[1., np.repeat(np.r_[.5 - 2 * gap, np.full(5, .5)], 2)]
    for _ in range(runs):
        keep = _may_be_worst(errors_of(draw(rng, 150, thresholds), [(c, s) for c in names for s in (1, 2)]), names, .95)
        kept, alone = kept + keep[0], alone + (sum(keep) == 1)
        assert any(keep)
    assert kept / runs >= .95
    assert alone / runs > .1 if gap else alone / runs < .05


def test_no_error_anywhere():
    "Zero of n is not certainty, and a baseline without errors has no ratio."
    clean, corrupted = as_preds(np.zeros((7, 60), bool))
    r = evaluate_robustness(clean, corrupted, seed=0, baseline=(clean, corrupted))
    m = r.metrics.set_index('metric')
    assert m.high['mean_corruption_error'] == pytest.approx(wilson_interval(0, 60)[1]) and m.low['mean_corruption_error'] == 0
    assert m.method['mce'].startswith('undefined: the baseline makes no error under a, b, c') and np.isnan(m.value['relative_mce'])
    assert 'says nothing' in m.method['mean_error_increase'] and r.corruptions.may_be_worst.all() and r.corruptions.ratio.isna().all()


def test_a_baseline_that_loses_next_to_nothing_is_a_caution():
    faint = BASE.copy()
    faint[1:3] = faint[0]; faint[1, np.flatnonzero(~faint[0])[:1]] = True
    m = evaluate_robustness(*as_preds(MODEL), seed=0, baseline=as_preds(faint)).metrics.set_index('metric')
    assert 'could be 0 under a' in m.method['relative_mce'] and np.isfinite(m.value['relative_mce'])
    faint[1:3] = faint[0]
    m = evaluate_robustness(*as_preds(MODEL), seed=0, baseline=as_preds(faint)).metrics.set_index('metric')
    assert m.method['relative_mce'].startswith('undefined: the baseline loses nothing under a') and np.isfinite(m.value['mce'])


def test_other_tasks_and_metrics():
    rng = np.random.default_rng(0)
    y = rng.normal(size=80)
    numbers = lambda noise: make_predictions(range(80), y, y + noise * rng.normal(size=80), task='regression')
    r = evaluate_robustness(numbers(.2), {('fog', s): numbers(.2 * (1 + s)) for s in (1, 2)}, seed=0)
    assert r.cells.metric.eq('mae').all() and 'log scale' in r.metrics.method[1] and r.metrics.low[2] > 0
    tags = rng.integers(0, 2, (80, 3))
    many = lambda noise: make_predictions(range(80), tags, np.clip(tags + noise * rng.normal(size=(80, 3)), 0, 1), task='multi_label', labels=['x', 'y', 'z'])
    r = evaluate_robustness(many(.3), {('fog', 1): many(.6)}, seed=0)
    assert r.cells.metric.eq('hamming_loss').all() and len(r.corruptions) == 1 and r.worst == ('fog',)
    truth = rng.integers(0, 2, 80)
    ranks = lambda gap: make_predictions(range(80), truth, 1 / (1 + np.exp(-(gap * (truth - .5) + rng.normal(size=80)))), task='single_label', labels=['a', 'b'])
    r = evaluate_robustness(ranks(3), {('fog', s): ranks(3 - s) for s in (1, 2)}, seed=0, metric='roc_auc')
    assert r.cells.metric.eq('1 - roc_auc').all() and (np.diff(r.cells.value) > 0).all() and (r.cells.low <= r.cells.value).all()


def test_few_items_and_few_groups_are_said():
    few = evaluate_robustness(*as_preds(MODEL[:, :6]), seed=0).metrics.method
    assert 'Caution: n = 6' in few[1]
    grouped = evaluate_robustness(*as_preds(MODEL, [f'g{i % 5}' for i in range(120)]), seed=0).metrics.method
    assert 'Caution: fewer than 10 groups' in grouped[1]
    one = evaluate_robustness(*as_preds(MODEL, ['g'] * 120), seed=0).metrics
    assert one.low.isna().all() and one.method[1].startswith('no interval')


def test_bad_input_is_said_together():
    clean, corrupted = as_preds(MODEL)
    with pytest.raises(InputError, match='at least one'): evaluate_robustness(clean, {}, seed=0)
    with pytest.raises(InputError, match="'fog'"): evaluate_robustness(clean, {'fog': corrupted['a', 1]}, seed=0)
    with pytest.raises(InputError, match='b at 2'): evaluate_robustness(clean, {k: p for k, p in corrupted.items() if k != ('b', 2)}, seed=0)
    with pytest.raises(InputError) as e: evaluate_robustness(clean, {**corrupted, ('a', 2): from_errors(MODEL[2, :90]), ('c', 1): from_errors(MODEL[5], ids=[f'j{i}' for i in range(120)])}, seed=0)
    assert any('a at 2' in p and '30 of 120' in p for p in e.value.problems) and any('c at 1' in p for p in e.value.problems)
    with pytest.raises(InputError, match='a at 1'): evaluate_robustness(clean, corrupted, seed=0, baseline=(clean, {k: p for k, p in corrupted.items() if k[0] != 'a'}))
    with pytest.raises(InputError, match='confidence_level'): evaluate_robustness(clean, corrupted, seed=0, confidence_level=95)
    with pytest.raises(InputError, match='rmse'): evaluate_robustness(clean, corrupted, seed=0, metric='rmse')
