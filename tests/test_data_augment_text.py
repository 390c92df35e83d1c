"""Augmented texts are a pure function of (seed, epoch, item), at the promised rates, and what a label hangs on stays."""
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sft_nb.core import InputError
from sft_nb.data.augment_text import _PRESETS, augment_text, create_text_augment, neighbour_words, read_vectors, show_text_augment

THESAURUS = dict(film=('movie', 'picture'), great=('splendid',), bad=('poor',), doctor=('physician',))
TEXT = ('The great doctor did not like the bad film, and Nobody of the 12 visitors ever said why the film was bad; he never would have, without an awfully long evening at home. ') * 30
PRESETS = [create_text_augment(p, thesaurus=THESAURUS) for p in ('light', 'medium', 'strong')]


@pytest.mark.parametrize('augment', PRESETS)
def test_pure_function_of_its_address_in_any_order_and_thread(augment):
    make = lambda a: augment_text(TEXT, augment, seed=a[0], epoch=a[1], item=a[2])
    addresses = [(s, e, i) for s in (0, 1) for e in (0, 1) for i in ('a', 'b')]
    first = [make(a) for a in addresses]
    assert len(set(first)) == len(addresses) and TEXT not in first
    np.random.seed(3)
    with ThreadPoolExecutor(4) as pool: assert list(pool.map(make, addresses[::-1])) == first[::-1]


def test_presets_grow_and_none_is_none():
    away = lambda augment: 1 - (Counter(TEXT.split()) & Counter(augment_text(TEXT, augment, seed=0, epoch=0, item='a').split())).total() / len(TEXT.split())
    none = create_text_augment('none', thesaurus=THESAURUS)
    assert 0 == away(none) < away(PRESETS[0]) < away(PRESETS[1]) < away(PRESETS[2]) < .5
    for name, steps in _PRESETS.items(): assert dict(create_text_augment(name).steps) == {n: r for n, r in steps.items() if n != 'synonyms'}


def test_rates_are_kept():
    words = TEXT.split()
    dropped = len(words) - np.mean([len(augment_text(TEXT, create_text_augment({'dropped_words': .2}), seed=s, epoch=0, item='a').split()) for s in range(20)])
    spare = len(words) - len(augment_text(TEXT, create_text_augment({'dropped_words': 1.}), seed=0, epoch=0, item='a').split())
    assert dropped / spare == pytest.approx(.2, abs=.02) and spare > .5 * len(words)
    synonyms = create_text_augment({'synonyms': .3}, thesaurus=THESAURUS)
    films = np.mean([augment_text(TEXT, synonyms, seed=s, epoch=0, item='a').count('film') for s in range(20)])
    assert films / TEXT.count('film') == pytest.approx(.7, abs=.05)


def test_what_a_label_hangs_on_stays():
    everything = create_text_augment({'synonyms': 1., 'dropped_words': 1.}, thesaurus=THESAURUS | {w: ('always',) for w in ('not', 'never', 'nobody', 'without')})
    out = augment_text(TEXT, everything, seed=0, epoch=0, item='a')
    for word in ('not', 'Nobody', 'never', '12', 'without'): assert out.count(word) == TEXT.count(word)
    assert all('not like' in augment_text(TEXT, create_text_augment({'dropped_words': 1.}), seed=s, epoch=0, item='a') for s in range(5))


@pytest.mark.parametrize('word, new', [('film', 'movie'), ('Film', 'Movie'), ('FILM', 'MOVIE')])
def test_synonyms_keep_their_case(word, new):
    assert augment_text(word, create_text_augment({'synonyms': 1.}, thesaurus={'film': ('movie',)}), seed=0, epoch=0, item='a') == new


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60), st.integers(0, 5))
def test_any_text_goes_through_and_none_becomes_empty(text, seed):
    out = augment_text(text, PRESETS[2], seed=seed, epoch=seed, item='a')
    assert isinstance(out, str) and bool(out.strip()) == bool(text.strip())


def test_neighbours_are_mutual_and_by_cosine():
    words = np.array(['red', 'crimson', 'scarlet', 'dog', 'hound', 'the', 'Red', '##ed', 'x'], object)
    at = np.deg2rad([0, 10, 30, 90, 95, 180, 0, 0, 1])
    near = neighbour_words(np.stack([np.cos(at), np.sin(at)], 1) * np.arange(1, 10)[:, None], words, most=1, least=.9)
    assert near == {'red': ('crimson',), 'crimson': ('red',), 'dog': ('hound',), 'hound': ('dog',)} # scarlet's nearest is crimson, but not the other way
    assert 'film' not in neighbour_words(np.ones((2, 3)), ['film', 'films'])
    with pytest.raises(InputError, match='a row for each word'): neighbour_words(np.ones((2, 3)), ['film'])


def test_neighbours_against_brute_force():
    rng = np.random.default_rng(0)
    vectors, words = rng.normal(size=(700, 6)), [''.join(rng.choice(list('abcdefghij'), 6)) for _ in range(700)]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T - 3 * np.eye(700)
    best = np.argsort(-cosine, 1)[:, :5]
    wanted = {words[i]: {words[j] for j in best[i] if cosine[i, j] >= .6 and i in best[j] and words[i][:3] != words[j][:3]} for i in range(700)}
    found = neighbour_words(vectors, words)
    assert {w: set(n) for w, n in found.items()} == {w: n for w, n in wanted.items() if n}


def test_vectors_from_text_and_zip(tmp_path):
    path = tmp_path/'v.txt'
    path.write_text('2 3\nred 1 0 0\nblue 0 1.5 -2e-1\n', encoding='utf-8')
    with zipfile.ZipFile(tmp_path/'v.zip', 'w') as z: z.write(path, 'v.txt')
    for p in (path, tmp_path/'v.zip'):
        vectors, words = read_vectors(p)
        assert words == ['red', 'blue'] and vectors.tolist() == [[1, 0, 0], pytest.approx([0, 1.5, -.2])]
    assert read_vectors(path, only={'blue'})[1] == ['blue']
    path.write_text('red 1 0 0\nblue 0 one 2\n')
    with pytest.raises(InputError, match='line 2'): read_vectors(path)
    path.write_text('red 1 0 0\nblue 0 1 2 3\n')
    with pytest.raises(InputError, match='3 numbers'): read_vectors(path)
    with pytest.raises(InputError, match='no such file'): read_vectors(tmp_path/'none.txt')


def test_everything_wrong_is_said_at_once():
    with pytest.raises(InputError) as e: create_text_augment({'typo': .1, 'casing': 2, 'keyboard': True, 'synonyms': .1})
    assert len(e.value.problems) == 4 and '`typos`' in str(e.value) and 'neighbour_words' in str(e.value)
    with pytest.raises(InputError, match='`medium`'): create_text_augment('medum')


def test_shown_is_what_is_trained_on():
    shown = show_text_augment(TEXT, PRESETS[1], 3, seed=4)
    assert shown.text.tolist() == [TEXT] + [augment_text(TEXT, PRESETS[1], seed=4, epoch=e, item='item') for e in range(3)]
