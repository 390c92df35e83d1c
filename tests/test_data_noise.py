"""Text noise: what a reader would not mind, at the rates that are promised, and the same every time."""
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sft_nb.core import InputError
from sft_nb.data.noise import TEXT_NOISE, corrupt_text

TEXT = ("Nobody will not remember the evening when they arrived, because everything that could possibly happen "
        "happened; we don't think (honestly) that 3 of 10 naïve visitors were prepared for it. ") * 40


@pytest.mark.parametrize('noise', TEXT_NOISE)
def test_pure_function_of_its_address(noise):
    assert corrupt_text(TEXT, noise, 3, seed=0, item='a') == corrupt_text(TEXT, noise, 3, seed=0, item='a') != TEXT
    assert corrupt_text(TEXT, noise, 3, seed=0, item='a') != corrupt_text(TEXT, noise, 3, seed=0, item='b')
    assert corrupt_text(TEXT, noise, 3, seed=0) != corrupt_text(TEXT, noise, 3, seed=1)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.sampled_from(sorted(TEXT_NOISE)), st.integers(1, 5), st.integers(0, 9))
def test_any_text_goes_through(text, noise, severity, seed):
    out = corrupt_text(text, noise, severity, seed=seed)
    assert isinstance(out, str)
    if noise != 'scanner': assert re.findall(r'\d', out) == re.findall(r'\d', text)
    letters = lambda s: re.sub(r'[\W_]', '', s)
    if noise in ('whitespace', 'punctuation'): assert letters(out) == letters(text)
    if noise == 'whitespace': assert ''.join(out.split()) == ''.join(text.split())


@pytest.mark.parametrize('noise', ['typos', 'keyboard', 'casing'])
def test_rates_are_kept_and_severities_are_nested(noise):
    kind, words = TEXT_NOISE[noise], TEXT.split()
    changed = [np.array([a != b for a, b in zip(words, corrupt_text(TEXT, noise, s, seed=0).split(), strict=True)]) for s in range(1, 6)]
    possible = np.array([bool(kind.pattern.search(w)) for w in words])
    assert [c[possible].mean() for c in changed] == pytest.approx(kind.rates, abs=.03)
    assert not changed[4][~possible].any()
    assert all((weak <= strong).all() for weak, strong in zip(changed, changed[1:]))


def test_what_is_struck_is_struck_the_same_way_when_more_is():
    weak, strong = (corrupt_text(TEXT, 'typos', s, seed=0).split() for s in (2, 5))
    assert all(a == b for a, b, c in zip(weak, strong, TEXT.split()) if a != c)


@pytest.mark.parametrize('noise', ['typos', 'keyboard'])
def test_first_and_last_letter_stay(noise):
    for before, after in zip(TEXT.split(), corrupt_text(TEXT, noise, 5, seed=3).split(), strict=True):
        for a, b in zip(re.findall(r'[^\W\d_]+', before), re.findall(r'[^\W\d_]+', after), strict=True):
            assert (a[0], a[-1]) == (b[0], b[-1]) and abs(len(a) - len(b)) <= 1
            if len(a) < 4: assert a == b


def test_contractions_go_both_ways_and_leave_what_has_two_readings():
    there = corrupt_text("I am sure that you do not know what they will say.", 'contractions', 5, seed=0)
    assert there == "I'm sure that you don't know what they'll say."
    assert corrupt_text(there, 'contractions', 5, seed=0) == 'I am sure that you do not know what they will say.'
    for text in ("It's been long, and she'd rather go.", 'That is who they are.', "Let's let us go."): assert corrupt_text(text, 'contractions', 5, seed=0) == text
    assert corrupt_text('I can’t. Will Not you? CANNOT BE', 'contractions', 5, seed=0) == "I cannot. Won't you? CAN'T BE"


def test_casing_changes_case_alone():
    out = corrupt_text(TEXT, 'casing', 5, seed=2)
    assert out != TEXT and out.lower() == TEXT.lower()


def test_everything_wrong_is_said_at_once():
    with pytest.raises(InputError) as e: corrupt_text(3, 'typo', 7, seed=0)
    assert len(e.value.problems) == 3 and '`typos`' in str(e.value)


def edit_distance(a: str, b: str) -> int:
    "Levenshtein's, by rows."
    row = np.arange(len(b) + 1)
    codes = np.array([ord(c) for c in b])
    for i, c in enumerate(a, 1):
        new = np.minimum(row[:-1] + (codes != ord(c)), row[1:] + 1)
        new = np.r_[i, new]
        row = np.minimum.accumulate(new - np.arange(len(new))) + np.arange(len(new))
    return int(row[-1])


def test_the_distance_itself():
    assert [edit_distance(*p) for p in (('', 'abc'), ('kitten', 'sitting'), ('flaw', 'lawn'), ('same', 'same'))] == [3, 3, 2, 0]


@pytest.mark.parametrize('noise', TEXT_NOISE)
def test_worse_is_further_away(noise):
    "The edit distance grows from each severity to the next, over several items."
    text = TEXT[:2200]
    away = [sum(edit_distance(text, corrupt_text(text, noise, s, seed=0, item=i)) for i in 'ab') for s in range(1, 6)]
    assert 0 < away[0] and all(a < b for a, b in zip(away, away[1:])), away


def test_letters_that_look_alike_are_other_letters():
    out = corrupt_text(TEXT, 'homoglyphs', 5, seed=0)
    changed = [(a, b) for a, b in zip(TEXT, out, strict=True) if a != b]
    letters = sum(a in 'aceijopsxyABCEHIJKMNOPSTXYZ' for a in TEXT)
    assert all(a.isascii() and not b.isascii() and b.isalpha() for a, b in changed) and len(changed) / letters == pytest.approx(.4, abs=.02)


def test_accents_go_and_other_letters_stay():
    assert corrupt_text('Über naïve Ærø, señor Nguyễn: й', 'accents', 5, seed=0) == 'Uber naive Ærø, senor Nguyen: й'


def test_a_scanner_makes_no_number():
    out = corrupt_text('In 2010 the modern illness was common; I saw 10.', 'scanner', 5, seed=1)
    assert re.findall(r'\b\d+\b', out) == ['2010', '10']


def test_words_left_out_are_never_the_negation():
    text = 'I do not like this film, and nobody who saw it was ever happy; it is not a good one, they never tried, and it cannot be saved without help. ' * 20
    for seed in range(5):
        out = corrupt_text(text, 'dropped_words', 5, seed=seed)
        assert len(out.split()) < .95 * len(text.split()) and set(out.split()) <= set(text.split())
        for phrase in ('not like', 'nobody', 'not a', 'never tried', 'cannot', 'without'): assert out.count(phrase) == text.count(phrase)


def test_asides_leave_what_was_said():
    text = 'It was long. Was it good? No! See 3.5 in v1.2.'
    out = corrupt_text(text, 'asides', 5, seed=0)
    sentences = ['It was long.', 'Was it good?', 'No!', 'See 3.5 in v1.2.']
    assert all(s in out for s in sentences) and len(out) > 2 * len(text) and out.endswith('1.2.')
