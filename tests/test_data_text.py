"""Copies of texts are found, whatever was done to them, and nothing else is; contamination is found by its words."""
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from sft_nb.assets import fetch_asset
from sft_nb.core import InputError
from sft_nb.data import text as module
from sft_nb.data.audit import audit_items, check_leakage, find_duplicates, find_suspect_labels, score_neighbours, stop_on_leak
from sft_nb.data.noise import corrupt_text
from sft_nb.data.text import find_contamination, find_near_texts, fingerprint_texts, split_words
from sft_nb.report.clean import _find_copies


@pytest.fixture(scope='module')
def reviews():
    "Reviews of IMDb, no two of which are copies."
    texts = pd.read_csv(fetch_asset('imdb')).review[:3000]
    items = pd.DataFrame({'id': [f'r{i}' for i in range(len(texts))], 'input': texts, 'target': ['a', 'b'] * 1500})
    found = find_duplicates(fingerprint_texts(items))
    return items[~items.id.isin(found.id_b)].reset_index(drop=True)


def frame(texts, **columns): return pd.DataFrame({'id': [f't{i}' for i in range(len(texts))], 'input': list(texts), **columns})
def jaccard(a, b):
    triples = lambda t: {tuple(w[i:i + 3]) for w in [split_words(t)] for i in range(max(1, len(w) - 2))}
    return len(triples(a) & triples(b)) / len(triples(a) | triples(b))


COPIES = dict(the_same=lambda t: t, shouted=str.upper, respaced=lambda t: '  ' + re.sub(r'\s+', ' \n', t), bare=lambda t: re.sub(r'[^\w\s]', ' ', t),
              typos=lambda t: corrupt_text(t, 'typos', 1, seed=0), cut=lambda t: t[:int(.85 * len(t))], more=lambda t: t + ' I saw it again last week, and have nothing to add to this.',
              word=lambda t: ' '.join('film' if i % 40 == 7 else w for i, w in enumerate(t.split())))

@pytest.mark.parametrize('how', COPIES)
def test_planted_copies_are_found_and_nothing_else(reviews, how):
    originals = reviews[reviews.input.str.len().between(400, 4000)][:150]
    planted = originals.assign(id='copy of ' + originals.id, input=[COPIES[how](t) for t in originals.input])
    found = find_duplicates(fingerprint_texts(pd.concat([reviews[:1000], planted], ignore_index=True)))
    pairs = set(zip(found.id_a, found.id_b))
    wanted = {(a, f'copy of {a}') for a in originals.id if a in set(reviews.id[:1000])}
    close = {p for p, (a, t) in zip([(a, f'copy of {a}') for a in originals.id], zip(originals.input, planted.input)) if jaccard(a, t) >= .7}
    assert pairs <= wanted # precision: 1
    assert close & wanted <= pairs # recall of all that are that near: 1
    assert len(pairs) >= .85 * len(wanted)


def test_every_pair_is_exact(reviews):
    planted = reviews[:60].assign(id='copy of ' + reviews.id[:60], input=[corrupt_text(t, 'typos', 2, seed=1) for t in reviews.input[:60]])
    both = pd.concat([reviews[:60], planted], ignore_index=True)
    text = dict(zip(both.id, both.input))
    found = find_near_texts(fingerprint_texts(both), least=.4)
    assert len(found) >= 50
    assert [1 - d for d in found.difference] == pytest.approx([jaccard(text[a], text[b]) for a, b in zip(found.id_a, found.id_b)])


def test_candidates_meet_as_often_as_the_theory_says():
    "1 - (1 - J^4)^32, for pairs of unrelated documents that share a known part."
    rng = np.random.default_rng(0)
    for share in (.4, .6):
        keep, n = int(300 * 2 * share / (1 + share)), 300
        sets = [np.unique(np.r_[common, rng.integers(2**63, size=n - keep, dtype=np.uint64)]) for common in
                [rng.integers(2**63, size=keep, dtype=np.uint64) for _ in range(400)] for _ in range(2)]
        met = {tuple(p) for p in module._meet(module._sign(sets)).tolist()}
        assert np.mean([(2 * i, 2 * i + 1) in met for i in range(400)]) == pytest.approx(1 - (1 - share**4)**32, abs=.08)
        assert len([p for p in met if p[0] // 2 != p[1] // 2]) == 0


def test_a_thousand_from_one_template_are_linked_and_not_squared():
    texts = [f'Dear customer, your order number {i} has been sent today and will arrive within three working days, thank you for your patience and your trust in us' for i in range(600)]
    prints = fingerprint_texts(frame(texts))
    found = find_duplicates(prints)
    assert 599 <= len(found) < 600 * 599 / 2 / 4
    leaks = check_leakage(frame(texts, split=['train'] * 300 + ['test'] * 300), prints)
    assert set(leaks.id_b) == {f't{i}' for i in range(300, 600)}


def test_fingerprints_made_apart_can_be_joined(reviews):
    part = reviews[:50]
    whole, halves = fingerprint_texts(part), pd.concat([fingerprint_texts(part[25:]), fingerprint_texts(part[:25])])
    assert (whole.set_index('id') == halves.set_index('id').loc[whole.id]).all(axis=None)


def test_bad_rows_are_named_and_no_error():
    prints = fingerprint_texts(frame(['fine words', '', '!?', None, 3.5, 'lone \ud800 surrogate', '全部全部全部']))
    assert [bool(e) for e in prints.error] == [False, True, True, True, True, False, False]
    audit = audit_items(frame(['fine words', '', '!?', None], target=['a', 'b', 'a', None]), task='single_label', fingerprints=prints)
    assert list(audit.unreadable.id) == ['t1', 't2', 't3'] and '3 unreadable texts' in audit.problems[0]
    assert len(find_duplicates(prints)) == 0


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_text_has_words_that_survive_case_and_space(text):
    words = split_words(text)
    assert split_words(' '.join(words)) == words and split_words(f'  {text}\n') == words


def test_leaks_between_splits_are_texts_groups_and_stop(reviews):
    items = pd.concat([reviews[:20], reviews[:3].assign(id=['x', 'y', 'z'], input=[reviews.input[0], reviews.input[1].upper(), reviews.input[2] + ' Really.'])], ignore_index=True)
    items['split'], items['group'] = ['train'] * 20 + ['test'] * 3, [f'g{i}' for i in range(22)] + ['g5']
    leaks = check_leakage(items, fingerprint_texts(items))
    assert set(zip(leaks.kind, leaks.id_a, leaks.id_b)) == {('same_text', 'r0', 'x'), ('same_words', 'r1', 'y'), ('near_duplicate', 'r2', 'z'), ('shared_group', 'r5', 'z')}
    with pytest.raises(InputError, match='4 leaks'): stop_on_leak(leaks)
    audit = audit_items(items, task='single_label', fingerprints=fingerprint_texts(items))
    assert audit.to_dict()['counts']['leaks'] == 4 and 'oddities' in audit.to_dict()
    assert {a for a, _, _ in _find_copies(dict(zip(items.id, items.split)), audit)} == {'r0', 'r1', 'r2'} # those in test stay


def test_planted_contamination_is_found_with_its_source(reviews):
    "Recall and precision over 100 test texts, half of which quote 20 words of a training text."
    rng = np.random.default_rng(0)
    train = reviews[:1500]
    train = train[train.input.str.split().str.len() > 80]
    clean = reviews[1500:].input.tolist()
    base = {t: set(find_contamination(train, {'x': frame([t])}).id) for t in clean[:5]}
    tests, source = [], []
    for i in range(100):
        words, row = clean[i].split(), int(rng.integers(len(train)))
        quote = train.input.iloc[row].split()[30:50]
        tests.append(' '.join(words[:10] + quote + words[10:]) if i % 2 else clean[i])
        source.append(train.id.iloc[row])
    found = find_contamination(train, {'quoted': frame(tests), 'clean': frame(clean[100:])})
    hit = found[(found.test == 'quoted') & (found.id.str[1:].astype(int) % 2 == 1)]
    assert not any(base.values()) and len(hit) == 50 and list(hit.id_train) == [source[int(i[1:])] for i in hit.id]
    assert (hit.longest >= 18).all() and len(found[found.test == 'quoted']) - 50 <= 1 # a pair of reviews may share a line
    for r in hit.itertuples(): assert r.words in ' '.join(split_words(train.set_index('id').input[r.id_train]))


def test_contamination_against_brute_force():
    rng = np.random.default_rng(1)
    draw = lambda: ' '.join(rng.choice(list('abcdef'), 60))
    train, test = frame([draw() for _ in range(30)]), frame([draw() for _ in range(30)])
    runs = lambda t, n: [tuple(w[i:i + n]) for w in [t.split()] for i in range(len(w) - n + 1)]
    for n, most in ((4, 3), (5, 10)):
        found = find_contamination(train, {'it': test}, n=n, max_items=most).set_index('id')
        where = {}
        for i, t in zip(train.id, train.input):
            for r in set(runs(t, n)): where.setdefault(r, set()).add(i)
        for i, t in zip(test.id, test.input):
            hit = [len(where.get(r, ())) in range(1, most + 1) for r in runs(t, n)]
            assert (i in found.index) == any(hit)
            if any(hit):
                assert found.share[i] == pytest.approx(np.mean(hit))
                assert found.longest[i] == max(len(s) for s in ''.join('x' if h else ' ' for h in hit).split()) + n - 1
                assert found.n_items[i] == len(set().union(*[where[r] for r, h in zip(runs(t, n), hit) if h]))


def test_nothing_to_judge_is_nothing_found():
    assert len(find_contamination(frame(['one two three']), {'short': frame(['one two three'])})) == 0
    assert len(find_contamination(frame([]), {'none': frame([])})) == 0
    with pytest.raises(InputError) as e: find_contamination(frame(['a']).drop(columns='id'), {'t': frame(['a']).drop(columns='input')}, n=0)
    assert len(e.value.problems) == 3


def test_planted_label_noise_is_found_among_neighbours():
    "Two clouds of embeddings, 5 % of labels turned."
    rng = np.random.default_rng(0)
    target = np.repeat(['neg', 'pos'], 200)
    features = rng.normal(size=(400, 16)) + np.where(target == 'pos', 2., -2.)[:, None] * np.eye(16)[0]
    given_labels, wrong = target.copy(), rng.choice(400, 20, replace=False)
    given_labels[wrong] = np.where(target[wrong] == 'pos', 'neg', 'pos')
    score = score_neighbours(features, given_labels, ['neg', 'pos'])
    assert np.allclose(score.sum(1), 1)
    found = set(find_suspect_labels(range(400), given_labels, score, ['neg', 'pos']).id.astype(int))
    assert len(found & set(wrong)) >= 17 and len(found - set(wrong)) <= 16
    copies = score_neighbours(np.ones((30, 4)), ['neg'] * 15 + ['pos'] * 15, ['neg', 'pos'], n_neighbours=5) # an item may not find itself
    assert copies.shape == (30, 2) and np.allclose(copies.sum(1), 1)
    with pytest.raises(InputError, match='maybe'): score_neighbours(features, ['maybe'] * 400, ['neg', 'pos'])
