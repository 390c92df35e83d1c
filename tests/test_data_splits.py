"""Splits: exact counts, whole groups, and nothing that depends on the order of the rows."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from sft_nb.core import InputError
from sft_nb.data.splits import hash_split, kfold_split, split_items


def make(n=200, seed=0, labels='aab', **columns):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({'id': [f'i{k}' for k in range(n)], 'target': rng.choice(list(labels), n), **{c: f(rng, n) for c, f in columns.items()}})


@settings(max_examples=60, deadline=None)
@given(n=st.integers(3, 300), valid=st.floats(0, .4), test=st.floats(0, .5), seed=st.integers(0, 5), kinds=st.integers(1, 4))
def test_stratified_counts_are_within_one_everywhere(n, valid, test, seed, kinds):
    items = make(n, seed, 'abcd'[:kinds], site=lambda r, n: r.choice(['x', 'y'], n))
    out = split_items(items, valid=valid, test=test, seed=seed, by='site')
    sizes = out.groupby(['target', 'site']).size()
    for part, share in (('test', test), ('valid', valid)):
        got = out[out.split == part].groupby(['target', 'site']).size().reindex(sizes.index, fill_value=0)
        big = sizes >= 10 # tiny strata keep one example in train first
        assert (abs(got - sizes * share)[big] <= 1 + 1e-9).all()
    assert (out[out.split == 'train'].groupby(['target', 'site']).size().reindex(sizes.index, fill_value=0) >= 1).all()


def test_total_is_exact():
    out = split_items(make(1000, labels='abcdefg'), valid=.15, test=.25, seed=0)
    assert out.split.value_counts().to_dict() == {'train': 600, 'test': 250, 'valid': 150}


@pytest.mark.parametrize('method', ['stratified', 'group', 'time', 'kfold'])
def test_row_order_index_and_input_do_not_matter(method):
    items = make(120, group=lambda r, n: r.integers(0, 30, n).astype(str), day=lambda r, n: r.permutation(n))
    if method in ('stratified', 'kfold'): items = items.drop(columns='group')
    run = (lambda t: kfold_split(t, n_folds=4, seed=3)) if method == 'kfold' else (lambda t: split_items(t, method=method, valid=.2, test=.2, seed=3, time='day'))
    before = items.copy()
    a, b = run(items), run(items.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(items, before)
    assert hash_split(a) == hash_split(b) and list(b.id) == list(items.sample(frac=1, random_state=1).id)
    assert hash_split(run(items.set_index(np.arange(len(items))[::-1]))) == hash_split(a)


def test_pinned_split():
    "A later version that splits differently would make old results incomparable: then say so in the change log."
    items = pd.DataFrame({'id': [f'i{k}' for k in range(12)], 'target': list('aaabbb') * 2})
    out = split_items(items, valid=.25, test=.25, seed=0)
    assert {p: list(out.id[out.split == p]) for p in ('train', 'valid', 'test')} == {'train': ['i0', 'i3', 'i4', 'i5', 'i6', 'i10'], 'valid': ['i1', 'i7', 'i9'], 'test': ['i2', 'i8', 'i11']}


def test_seed_changes_the_split_evenly():
    items = make(400)
    inside = np.mean([(split_items(items, valid=0, test=.25, seed=s).split == 'test') for s in range(60)], axis=0)
    assert inside.mean() == pytest.approx(.25, abs=.002) and inside.max() < .55 and inside.min() > 0 # each item is tested in about a quarter of the seeds


@settings(max_examples=40, deadline=None)
@given(n=st.integers(30, 150), groups=st.integers(8, 40), seed=st.integers(0, 5), folds=st.integers(2, 5))
def test_groups_never_straddle(n, groups, seed, folds):
    items = make(n, seed, group=lambda r, n: r.integers(0, groups, n).astype(str))
    if items.group.nunique() < folds: return
    assert kfold_split(items, n_folds=folds, seed=seed).groupby('group').fold.nunique().max() == 1
    try: out = split_items(items, method='group', valid=.2, test=.2, seed=seed)
    except InputError: return
    assert out.groupby('group').split.nunique().max() == 1 and set(out.split) == {'train', 'valid', 'test'}


def test_groups_are_balanced():
    "Groups of very different sizes, each with one label."
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 25, 80)
    group = np.repeat(np.arange(80), sizes)
    items = pd.DataFrame({'id': [f'i{k}' for k in range(len(group))], 'group': group.astype(str), 'target': np.where(group % 3 == 0, 'rare', 'common')})
    out = split_items(items, method='group', valid=.15, test=.25, seed=0)
    share = pd.crosstab(out.target, out.split, normalize='index')
    assert (abs(share['test'] - .25) < .02).all() and (abs(share['valid'] - .15) < .02).all()
    others = [hash_split(split_items(items, method='group', valid=.15, test=.25, seed=s)) for s in range(5)]
    assert len(set(others)) == 5


def test_too_few_groups():
    items = make(30, group=lambda r, n: np.repeat(['x', 'y'], n // 2))
    with pytest.raises(InputError, match='enough to fill every split'): split_items(items, method='group', valid=.2, test=.2, seed=0)


def test_stratified_with_groups_is_refused():
    with pytest.raises(InputError, match="Use method='group'"): split_items(make(group=lambda r, n: r.integers(0, 9, n)), valid=.1, test=.1, seed=0)


def test_time_keeps_equal_times_together():
    items = make(100, day=lambda r, n: np.repeat([f'2024-01-{d:02d}' for d in range(1, 11)], 10))
    out = split_items(items.sample(frac=1, random_state=0), method='time', time='day', valid=.15, test=.25, seed=0)
    last = out.groupby('split').day.agg(['min', 'max'])
    assert last['max']['train'] < last['min']['valid'] and last['max']['valid'] < last['min']['test']
    assert out.groupby('day').split.nunique().max() == 1 and (out.split == 'test').sum() in (20, 30)


def test_time_of_every_kind_and_bad_ones():
    when = pd.date_range('2023-11-01', periods=40, freq='D')
    for day in (list(when), [d.strftime('%Y-%m-%d') for d in when], np.arange(40) * 1., [d.tz_localize('Europe/Berlin') for d in when]):
        out = split_items(make(40).assign(day=day), method='time', time='day', valid=.1, test=.2, seed=0)
        assert list(out.split) == ['train'] * 28 + ['valid'] * 4 + ['test'] * 8
    bad = make(40).assign(day=['2023-01-01'] * 38 + ['soon', None])
    with pytest.raises(InputError, match="38 \\('i38': 'soon'\\), 39"): split_items(bad, method='time', time='day', valid=.1, test=.2, seed=0)
    with pytest.raises(InputError, match='Did you mean `day`'): split_items(bad, method='time', time='dya', valid=.1, test=.2, seed=0)
    with pytest.raises(InputError, match='too few to fill'): split_items(make(40).assign(day=1), method='time', time='day', valid=.1, test=.2, seed=0)


def test_given():
    items = make(100).assign(split=['train'] * 70 + ['test'] * 30)
    out = split_items(items, method='given', valid=.14, seed=0)
    assert (out.split[items.split == 'test'] == 'test').all() and (out.split == 'valid').sum() == 14
    with pytest.raises(InputError, match='`valid`'): split_items(items, method='given', seed=0)
    with pytest.raises(InputError, match="'tset'"): split_items(items.assign(split=['train'] * 99 + ['tset']), method='given', seed=0)
    with pytest.raises(InputError, match='none in test'): split_items(items.assign(split='train'), method='given', seed=0)
    with pytest.raises(InputError, match='column `split`'): split_items(make(), method='given', seed=0)
    whole = items.assign(split=['train'] * 60 + ['valid'] * 10 + ['test'] * 30)
    pd.testing.assert_frame_equal(split_items(whole, method='given', seed=0), whole)


def test_given_with_groups_takes_whole_groups_for_valid():
    items = make(100).assign(split=['train'] * 70 + ['test'] * 30, group=[f'g{k // 5}' for k in range(100)])
    assert split_items(items, method='given', valid=.2, seed=0).groupby('group').split.nunique().max() == 1


def test_numbers_and_several_labels_are_balanced():
    rng = np.random.default_rng(0)
    number = pd.DataFrame({'id': [str(i) for i in range(500)], 'target': rng.lognormal(size=500)})
    out = split_items(number, valid=0, test=.2, seed=0)
    for q in (.1, .5, .9): assert (out.target[out.split == 'test'] < number.target.quantile(q)).mean() == pytest.approx(q, abs=.02)
    labels = [';'.join(l for l, p in zip('abcd', (.7, .4, .2, .03)) if rng.random() < p) for _ in range(600)]
    out = split_items(pd.DataFrame({'id': [str(i) for i in range(600)], 'target': labels}), valid=.1, test=.25, seed=0)
    rare = out[out.target.str.contains('d')]
    assert abs((rare.split == 'test').sum() - .25 * len(rare)) <= 1


def test_every_argument_is_checked_at_once():
    bad = make(20).assign(id='same')
    with pytest.raises(InputError) as e: split_items(bad, method='stratfied', valid=1.2, test=None, seed=0, by=('sit',))
    assert len(e.value.problems) == 5 and 'Did you mean `stratified`' in str(e.value) and 'got 1.2' in str(e.value)
    with pytest.raises(InputError, match='less than 1'): split_items(make(), valid=.5, test=.5, seed=0)
    with pytest.raises(InputError, match='from 2 to 20'): kfold_split(make(20), n_folds=21, seed=0)
    with pytest.raises(InputError, match='split_items'): hash_split(make())


def test_kfold_within_one():
    items = make(203, labels='aaabc', site=lambda r, n: r.choice(['x', 'y'], n))
    table = pd.crosstab([f'{t}{s}' for t, s in zip(items.target, items.site)], kfold_split(items, n_folds=5, seed=0, by='site').fold)
    assert np.ptp(table.to_numpy(), axis=1).max() <= 1 and np.ptp(table.sum()) <= 1
