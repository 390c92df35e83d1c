"""CKA against its definition, by brute force; intervals by simulation; and the formulas of continual learning by hand."""
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from sft_nb.core import InputError
from sft_nb.evaluate.compare import adjust_holm, compare_predictions
from sft_nb.evaluate.forgetting import FORGETTING_COLUMNS, _average, _gram, _hsic, linear_cka, measure_forgetting, sequence_metrics
from sft_nb.evaluate.intervals import estimate_metrics
from sft_nb.evaluate.shares import share_interval, wilson_interval
from sft_nb.evaluate.metrics import METRICS
from sft_nb.records import METRIC_COLUMNS, make_predictions

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 4)) * [3, 2, 1, .5], RNG.normal(size=(12, 5))
Y[:, :4] += X


GROUP = np.array(list('aabbbcdddeff'))


def hsic(x, y, unit):
    "The unbiased HSIC by its definition: a mean over all ordered quadruples of items from different units."
    k, l = x @ x.T, y @ y.T
    four = [t for t in permutations(range(len(x)), 4) if len({unit[i] for i in t}) == 4]
    return np.mean([k[i, j] * l[i, j] + k[i, j] * l[q, r] - 2 * k[i, j] * l[i, q] for i, j, q, r in four])


def cka(x, y, unit): return hsic(x, y, unit) / np.sqrt(hsic(x, x, unit) * hsic(y, y, unit))


def weighted(x, y, unit):
    """With groups of different sizes the three terms are means over pairs, triples and quadruples of their own, each of which is
    unbiased; a mean over quadruples alone would weigh pairs by how many quadruples they are in."""
    k, l, n = x @ x.T, y @ y.T, range(len(x))
    mean = lambda m, f: np.mean([f(*t) for t in permutations(n, m) if len({unit[i] for i in t}) == m])
    return mean(2, lambda i, j: k[i, j] * l[i, j]) + mean(4, lambda i, j, q, r: k[i, j] * l[q, r]) - 2 * mean(3, lambda i, j, q: k[i, j] * l[i, q])


def test_cka_is_made_of_u_statistics():
    x, y = X[:8] - X[:8].mean(0), Y[:8] - Y[:8].mean(0)
    assert linear_cka(x, y).value == pytest.approx(cka(x, y, range(8)))
    unit = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    x, y = X[:10] - X[:10].mean(0), Y[:10] - Y[:10].mean(0)
    assert linear_cka(x, y, group=unit).value == pytest.approx(cka(x, y, unit))
    unit = GROUP[:10]
    want = weighted(x, y, unit) / np.sqrt(weighted(x, x, unit) * weighted(y, y, unit))
    assert linear_cka(x, y, group=unit).value == pytest.approx(want)


def test_it_is_the_known_estimator():
    "Song et al. 2012, equation 5, with the diagonal left out."
    def song(x, y):
        k, l, n = x @ x.T, y @ y.T, len(x)
        np.fill_diagonal(k, 0); np.fill_diagonal(l, 0)
        return (np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()) / (n * (n - 3))
    assert linear_cka(X, Y).value == pytest.approx(song(X, Y) / np.sqrt(song(X, X) * song(Y, Y)))


@pytest.mark.parametrize('unit', [np.arange(12), np.unique(GROUP, return_inverse=True)[1]])
def test_leaving_out_is_exact(unit):
    starts = np.flatnonzero(np.r_[True, unit[1:] != unit[:-1]])
    k, l = _gram(X, unit), _gram(Y, unit)
    left_out = _hsic(k, l, starts)
    assert len(left_out) == len(starts) + 1
    for u in range(len(starts)):
        rest = unit != u
        fewer = unit[rest]
        alone = _hsic(k[np.ix_(rest, rest)], l[np.ix_(rest, rest)], np.flatnonzero(np.r_[True, fewer[1:] != fewer[:-1]]))[0]
        assert left_out[1 + u] == pytest.approx(alone)


def test_what_does_not_change_it():
    turn, _ = np.linalg.qr(RNG.normal(size=(4, 4)))
    base = linear_cka(X, Y)
    for x, y in [(X @ turn, Y), (7 * X, -Y), (X + 5, Y - 3), (Y, X)]:
        assert linear_cka(x, y)[:3] == pytest.approx(base[:3])
    order = RNG.permutation(12)
    assert linear_cka(X[order], Y[order])[:3] == pytest.approx(base[:3])
    assert linear_cka(X, Y, group=GROUP)[:3] == pytest.approx(linear_cka(X[order], Y[order], group=GROUP[order])[:3])
    assert linear_cka(X, Y, group=np.arange(12))[:3] == pytest.approx(base[:3])
    same = linear_cka(X, 2 * X @ turn)
    assert same.value == pytest.approx(1) and 'says nothing' in same.method


def test_independent_features_have_none_of_it():
    "On average; the plain cosine of the centred Gram matrices says .8 of 60 items with 300 features each."
    rng = np.random.default_rng(1)
    pairs = [(rng.normal(size=(60, 300)), rng.normal(size=(60, 300))) for _ in range(40)]
    values = np.array([linear_cka(*p).value for p in pairs])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(40) + .002
    x, y = (p - p.mean(0) for p in pairs[0])
    assert np.sum((x.T @ y)**2) / np.sqrt(np.sum((x.T @ x)**2) * np.sum((y.T @ y)**2)) > .7


@pytest.mark.parametrize('n, groups, noise', [(60, 0, .5), (150, 0, 2.), (200, 25, 1.)])
def test_coverage_of_cka(n, groups, noise):
    "Gaussian features, whose population CKA is ‖Σxy‖² / (‖Σxx‖ ‖Σyy‖)."
    rng, d, runs = np.random.default_rng(n), 20, 300
    scale = np.linspace(2, .2, d)
    truth = np.sum(scale**4) / np.sqrt(np.sum(scale**4) * np.sum((scale**2 + noise**2)**2))
    hits = 0
    for _ in range(runs):
        group = None if not groups else np.arange(n) * groups // n
        draw = lambda: rng.normal(size=(n, d)) if not groups else np.sqrt(.4) * rng.normal(size=(groups, d))[group] + np.sqrt(.6) * rng.normal(size=(n, d))
        x = draw() * scale
        i = linear_cka(x, x + noise * draw(), group=group)
        hits += i.low <= truth <= i.high
    print(n, groups, noise, truth, hits / runs)
    assert .92 <= hits / runs <= .99, hits / runs


def test_odd_features():
    assert linear_cka(X[:4], Y[:4]).method == 'undefined: fewer than 5 items'
    assert linear_cka(np.ones((10, 3)), Y[:10]).method.startswith('undefined: features that do not differ')
    assert linear_cka(X, Y, group=list('aaabbbcccddd')).method == 'undefined: fewer than 5 groups'
    assert 'fewer than 10 groups' in linear_cka(X, Y, group=GROUP).method
    with pytest.raises(InputError) as e: linear_cka(X[:, 0], np.where(Y > 2, np.nan, Y)[:9], group=[1], confidence_level=2)
    assert len(e.value.problems) == 5


# --- The table -------------------------------------------------------------------------------------------------------

def answers(right, truth=None, prefix='i', group=None):
    right = np.asarray(right, bool)
    truth = np.arange(len(right)) % 3 if truth is None else truth
    call = np.where(right, truth, (truth + 1) % 3)
    return make_predictions([f'{prefix}{i}' for i in range(len(right))], truth, np.eye(3)[call] * .7 + .1, task='single_label', labels=['a', 'b', 'c'], group=group)


def test_the_table_is_what_its_parts_say():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 10)
    base, tuned = answers(rng.random(200) < .9, group=group), answers(rng.random(200) < .7, group=group)
    x, y = rng.normal(size=(200, 6)), rng.normal(size=(200, 6))
    table = measure_forgetting(probes={'late': (base, tuned), 'early': (base, base)}, heads={'head': (base, tuned)}, features={'late': (x, x + y)}, group=group, seed=0)
    assert list(table) == FORGETTING_COLUMNS and list(table.of) == ['late', 'early', 'head', 'late']
    pair = compare_predictions(tuned, base, metrics='accuracy', seed=0).iloc[0]
    first = table.iloc[0]
    assert (first.base, first.tuned, first.value, first.low, first.high) == pytest.approx((pair.baseline_value, pair.value, pair.difference, pair.low, pair.high))
    assert table.p_value[:2].tolist() == pytest.approx(adjust_holm([pair.p_value, 1.])) and table.p_value[2:].isna().all()
    assert table.value[2] == pytest.approx(share_interval(base.prediction == tuned.prediction, group=base.group).value) and 'effective n' in table.method[2]
    assert tuple(table.iloc[3][['value', 'low', 'high']]) == pytest.approx(linear_cka(x, x + y, group=group)[:3])
    shuffled = tuned.take(rng.permutation(200))
    again = measure_forgetting(probes={'late': (base, shuffled)}, heads={'head': (base, shuffled)}, seed=0)
    assert again.value.tolist() == pytest.approx([table.value[0], table.value[2]])


def test_it_is_tuned_minus_base():
    "A model that lost everything is at −1, and one that gained is not forgetting."
    knows, lost = answers(np.ones(60)), answers(np.zeros(60))
    assert measure_forgetting(probes={'p': (knows, lost)}, seed=0).value[0] == -1
    assert measure_forgetting(probes={'p': (lost, knows)}, seed=0).value[0] == 1


def test_bad_tables():
    one = answers(np.ones(9))
    with pytest.raises(InputError, match='given'): measure_forgetting(seed=0)
    with pytest.raises(InputError) as e: measure_forgetting(probes={'a': one}, features={'b': (X,)}, seed=0)
    assert len(e.value.problems) == 2
    with pytest.raises(InputError, match='same items'): measure_forgetting(probes={'a': (one, answers(np.ones(9), prefix='j'))}, seed=0)


# --- A sequence of tasks -----------------------------------------------------------------------------------------------

MATRIX = np.array([[.9, .4, .3], [.7, .8, .35], [.75, .6, .95]])
NUMBERS = {(f't{i}', f't{j}'): MATRIX[i, j] for i in range(3) for j in range(3)}
TASKS = ['t0', 't1', 't2']


def test_formulas_of_the_papers():
    table = sequence_metrics(NUMBERS, TASKS, untrained=dict(t1=.3, t2=.33), seed=0)
    assert list(table) == METRIC_COLUMNS
    found = table[table.label == ''].set_index('metric').value
    assert found['average_accuracy'] == pytest.approx((.75 + .6 + .95) / 3)
    assert found['backward_transfer'] == pytest.approx(((.75 - .9) + (.6 - .8)) / 2)
    assert found['forward_transfer'] == pytest.approx(((.4 - .3) + (.35 - .33)) / 2)
    assert found['forgetting'] == pytest.approx(((.9 - .75) + (.8 - .6)) / 2)
    by_task = table.set_index(['metric', 'label']).value
    assert by_task['forgetting', 't1'] == pytest.approx(.2) and by_task['average_accuracy', 't2'] == pytest.approx(.95)
    assert table.low.isna().all() and table.method.str.startswith('no interval').all()


def test_forgetting_is_from_the_best_step_not_the_first():
    numbers = {**NUMBERS, ('t1', 't0'): .97}
    found = sequence_metrics(numbers, TASKS, seed=0).set_index(['metric', 'label']).value
    assert found['forgetting', 't0'] == pytest.approx(.97 - .75) and found['backward_transfer', 't0'] == pytest.approx(.75 - .9)
    assert 'forward_transfer' not in found


def sequence(rng, accuracy, n=150, common=.6):
    "Predictions for each cell; items of a task are the same at every step, and easy ones stay easy."
    cells = {}
    for j in range(accuracy.shape[1]):
        ease = rng.normal(size=n)
        for i in range(accuracy.shape[0]):
            latent = np.sqrt(common) * ease + np.sqrt(1 - common) * rng.normal(size=n)
            cells[f't{i}', f't{j}'] = answers(latent < stats.norm.ppf(accuracy[i, j]), prefix=f't{j}-')
    return cells


def mover(rows) -> tuple: # low, high
    "Zou & Donner 2008, for a mean of independent terms."
    v, low, high = (np.array([getattr(r, k) for r in rows]) for k in ('value', 'low', 'high'))
    return v.mean() - np.hypot.reduce(v - low) / len(v), v.mean() + np.hypot.reduce(high - v) / len(v)


def test_the_average_where_all_is_nearly_right():
    "Intervals of five tasks at 98 %, 40 items each; without a single error the interval is that of 200 right of 200."
    rng, hits, runs = np.random.default_rng(5), 0, 150
    for _ in range(runs):
        found = _average([answers(rng.random(40) < .98) for _ in range(5)], METRICS['accuracy'], .95, 0)
        hits += found.low <= .98 <= found.high
    assert .92 <= hits / runs, hits / runs
    perfect = _average([answers(np.ones(40))] * 5, METRICS['accuracy'], .95, 0)
    assert perfect[:3] == pytest.approx((1, *wilson_interval(200, 200)))
    logs = _average([answers(rng.random(40) < .8) for _ in range(3)], METRICS['log_loss'], .95, 0)
    assert logs.low < logs.value < logs.high and logs.method == 'jackknife over 3 tasks'


def test_with_predictions():
    cells = sequence(np.random.default_rng(0), MATRIX)
    table = sequence_metrics(cells, TASKS, untrained=dict(t1=cells['t0', 't1'], t2=.33), seed=0)
    assert (table.low <= table.value).all() and (table.value <= table.high).all()
    whole, by_task = table[table.label == ''].set_index('metric'), table.set_index(['metric', 'label'])
    assert whole.n['average_accuracy'] == 450 and whole.method['backward_transfer'].startswith('MOVER over 2 tasks')
    assert tuple(by_task.loc[('forward_transfer', 't1')][['value', 'low']]) == pytest.approx((0, compare_predictions(cells['t0', 't1'], cells['t0', 't1'], metrics='accuracy', seed=0).low[0]))
    own = estimate_metrics(cells['t2', 't0'], 'accuracy', by_label=False, seed=0).iloc[0]
    assert tuple(by_task.loc[('average_accuracy', 't0')][['value', 'low', 'high']]) == pytest.approx((own.value, own.low, own.high))
    widths = by_task.loc['average_accuracy'].high - by_task.loc['average_accuracy'].low
    assert whole.high['average_accuracy'] - whole.low['average_accuracy'] == pytest.approx(np.sqrt((widths[TASKS]**2).sum()) / 3, rel=.05)
    assert tuple(by_task.loc[('backward_transfer', '')][['low', 'high']]) == pytest.approx(mover([by_task.loc[('backward_transfer', t)] for t in TASKS[:2]]))


@pytest.mark.parametrize('matrix', [MATRIX, np.full((3, 3), .8)])
def test_coverage_of_a_sequence(matrix):
    "Also of the maximum in the forgetting measure where all steps are equally good, whose plain estimate is too high."
    rng, runs, t = np.random.default_rng(3), 80, len(matrix)
    truth = dict(average_accuracy=matrix[-1].mean(), backward_transfer=np.mean(matrix[-1, :-1] - np.diag(matrix)[:-1]),
                 forgetting=np.mean([matrix[:-1, j].max() - matrix[-1, j] for j in range(t - 1)]))
    hits, means = dict.fromkeys(truth, 0), []
    for _ in range(runs):
        table = sequence_metrics(sequence(rng, matrix, n=100), [f't{i}' for i in range(t)], seed=0)
        whole = table[table.label == ''].set_index('metric')
        for k, v in truth.items(): hits[k] += whole.low[k] <= v <= whole.high[k]
        means.append(whole.value['forgetting'])
    print(hits, runs, np.mean(means), truth['forgetting'])
    assert all(h / runs >= .9 for h in hits.values()), hits
    if matrix[0, 0] == .8: assert np.mean(means) > .01


def test_bad_sequences():
    with pytest.raises(InputError) as e: sequence_metrics({('t0', 't0'): .9}, ['t0', 't0'], seed=0, confidence_level=0)
    assert len(e.value.problems) == 2
    with pytest.raises(InputError, match='t0 after t2'): sequence_metrics({k: v for k, v in NUMBERS.items() if k != ('t2', 't0')}, TASKS, seed=0)
    cells = sequence(np.random.default_rng(0), MATRIX, n=20)
    with pytest.raises(InputError, match='log_loss'): sequence_metrics(cells, TASKS, metric='log_loss', seed=0)
