"Suspect labels weigh less where labels are wrong and no harm is done where they are right; draws of few labels."
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from sft_nb.core import InputError
from sft_nb.evaluate.intervals import estimate_metrics
from sft_nb.tasks.targets import Targets, describe_targets
from sft_nb.train.labels import draw_few_shot, probe_few_shot, weigh_suspects

def world(rng, n=400, d=10, noise=.2):
    "Two overlapping clouds; labels of training items are turned round with probability `noise`."
    y = rng.integers(2, size=n)
    x = rng.normal(size=(n, d)) + y[:, None] * .6
    given = np.where(rng.random(n) < noise, 1 - y, y)
    items = pd.DataFrame(dict(id=[f'i{k}' for k in range(n)], target=np.array(['a', 'b'])[given], split='train'))
    return x, y, given, items

@pytest.fixture(scope='module')
def gains():
    "A function from the share of wrong labels to what weights, and pruning, add to the accuracy on new items, in ten worlds each."
    def measure(noise):
        rng, out = np.random.default_rng(0), []
        for _ in range(10):
            x, _, given, items = world(rng, noise=noise)
            weights = [weigh_suspects(x, items, describe_targets(items, task='single_label'), seed=0, prune=prune) for prune in (False, True)]
            new, truth, *_ = world(rng, 2000, noise=0)
            score = lambda w: LogisticRegression(C=.3).fit(x, given, sample_weight=w).score(new, truth)
            out.append([score(w) - score(None) for w in weights])
        out = np.array(out)
        return out.mean(0), out.std(0) / len(out)**.5
    return measure

def test_weights_help_where_labels_are_wrong(gains):
    gain, error = gains(.25)
    assert (gain - 2 * error > 0).all() and gain[1] > gain[0] > .002, (gain, error)

def test_weights_do_no_harm_where_labels_are_right(gains):
    gain, error = gains(0.)
    assert (gain > -.004).all(), (gain, error)

def test_weights_find_the_wrong_labels():
    x, y, given, items = world(np.random.default_rng(1), n=1000)
    weight, pruned = [weigh_suspects(x, items, describe_targets(items, task='single_label'), seed=0, prune=p) for p in (False, True)]
    for w in (weight, pruned): assert w.mean() == pytest.approx(1) and w.min() >= 0
    assert ((weight < weight.max()) >= (pruned == 0)).all()
    assert (pruned[given != y] == 0).mean() > .6 and (pruned[given == y] == 0).mean() < .15
    assert weight[given != y].mean() < .9 * weight[given == y].mean()

def test_weights_look_at_training_items_only():
    x, y, given, items = world(np.random.default_rng(1))
    items['split'] = np.where(np.arange(400) < 300, 'train', 'valid')
    targets = describe_targets(items, task='single_label')
    before = weigh_suspects(x, items, targets, seed=0)
    x[300:] += 5; items.loc[300:, 'target'] = 'a'
    assert len(before) == 300 and np.array_equal(before, weigh_suspects(x, items, targets, seed=0))
    with pytest.raises(InputError, match='one label an item'): weigh_suspects(x, items, Targets('regression', ()), seed=0)

# --- Few ------------------------------------------------------------------------------------------------------------

def make_items(groups=False):
    items = pd.DataFrame(dict(id=[f'i{k:03d}' for k in range(120)], target=['a', 'b', 'c'] * 40, split=['train'] * 90 + ['valid'] * 12 + ['test'] * 18))
    return items.assign(group=[f'{s}{k // 12}' for k, s in enumerate(items.split)]) if groups else items

def train_ids(items): return set(items[items.split == 'train'].id)

def test_draws():
    items = make_items()
    few, more = draw_few_shot(items, per_class=2, seed=0), draw_few_shot(items, per_class=7, seed=0)
    assert len(few) == 5 and len({frozenset(train_ids(f)) for f in few}) == 5
    for a, b in zip(few, more):
        assert train_ids(a) < train_ids(b) # nested
        assert (a[a.split == 'train'].target.value_counts() == 2).all()
        pd.testing.assert_frame_equal(a[a.split != 'train'], items[items.split != 'train'])
    shuffled = draw_few_shot(items.sample(frac=1, random_state=0), per_class=2, seed=0)
    assert [train_ids(f) for f in few] == [train_ids(f) for f in shuffled] # of ids and seed, not of the order
    assert [train_ids(f) for f in few] != [train_ids(f) for f in draw_few_shot(items, per_class=2, seed=1)]
    often = np.mean([['i000' in train_ids(f)] for f in draw_few_shot(items, per_class=3, seed=0, draws=150)])
    assert often == pytest.approx(.1, abs=.07) # each as probable as the others

def test_draws_take_different_groups():
    "Eight groups of twelve, four of each label in each."
    for few in draw_few_shot(make_items(groups=True), per_class=6, seed=0, draws=10):
        train = few[few.split == 'train']
        assert (train.groupby('target').group.nunique() == 6).all()
    everything, = draw_few_shot(make_items(groups=True), per_class=30, seed=0, draws=1)
    assert len(train_ids(everything)) == 90

def test_draws_say_what_is_too_few():
    with pytest.raises(InputError) as e: draw_few_shot(make_items(), per_class=31, seed=0)
    assert len(e.value.problems) == 3 and "label 'a' to be on at least 31 training items, but got 30" in e.value.problems[0]
    with pytest.raises(InputError) as e: draw_few_shot(make_items().drop(columns='split'), per_class=0, draws=0, seed=0)
    assert len(e.value.problems) == 3

def test_few_shot_probes():
    items, rng = make_items(), np.random.default_rng(0)
    targets = describe_targets(items, task='single_label')
    features = rng.normal(size=(120, 6)) + 1.5 * np.eye(6)[targets.encode(items)]
    probed = probe_few_shot(features, items, targets, seed=0, per_class=(1, 5, 30), draws=4)
    rows = {k: estimate_metrics(p, ['accuracy'], seed=0, by_label=False).iloc[0] for k, p in probed.items()}
    assert list(probed) == [1, 5, 30] and all(len(p) == 4 * 18 for p in probed.values())
    assert rows[1].value < rows[30].value and all('4 seeds' in r.method for r in rows.values())
    assert rows[1].high - rows[1].low > rows[30].high - rows[30].low # draws of one differ more than draws of all
    with pytest.raises(InputError, match='probe_fewer'): probe_few_shot(features, items, Targets('multi_label', ('a',)), seed=0)
