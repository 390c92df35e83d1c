"""What is odd about a text is found where it was planted, and is not found where nothing is."""
import re

import numpy as np
import pandas as pd
import pytest

from sft_nb.assets import fetch_asset
from sft_nb.core import InputError
from sft_nb.data.screen import find_personal_data, guess_language, mask_personal_data, measure_truncation, screen_texts


@pytest.fixture(scope='module')
def reviews():
    return pd.read_csv(fetch_asset('imdb')).review[:1500].tolist()


def frame(texts): return pd.DataFrame({'id': [f't{i}' for i in range(len(texts))], 'input': texts})


def luhn(digits): # the check digit by the definition of ISO/IEC 7812
    total = sum(sum(divmod(d * 2, 10)) if i % 2 == 0 else d for i, d in enumerate(reversed(digits)))
    return (10 - total % 10) % 10

def make_card(rng):
    digits = [4, *rng.integers(0, 10, 14).tolist()]
    return ''.join(map(str, [*digits, luhn(digits)]))

def make_iban(rng):
    bban = 'WEST' + ''.join(map(str, rng.integers(0, 10, 14)))
    check = 98 - int(''.join(str(int(c, 36)) for c in bban + 'GB00')) % 97
    return f'GB{check:02}{bban}'

PLANTED = {'e-mail': lambda r: f'user{r.integers(999)}@mail.example-{r.integers(99)}.org', 'card': lambda r: ' '.join(c[i:i + 4] for c in [make_card(r)] for i in range(0, 16, 4)),
           'IBAN': make_iban, 'phone': lambda r: f'+49 30 {r.integers(10**6, 10**7)}'}

@pytest.mark.parametrize('kind', PLANTED)
def test_planted_personal_data_is_found_where_it_is(reviews, kind):
    "Recall 1 on 200 planted pieces, each at its very place."
    rng = np.random.default_rng(0)
    for text in reviews[:200]:
        piece, words = PLANTED[kind](rng), [w for w in text[:400].split() if not re.search(r'\d', w)]
        at = int(rng.integers(len(words)))
        said = ' '.join([*words[:at], piece, *words[at:]])
        start = len(' '.join(words[:at])) + (at > 0)
        assert (kind, start, start + len(piece)) in find_personal_data(said)
        assert piece not in mask_personal_data(said) and f'[{kind}]' in mask_personal_data(said)


def test_numbers_without_the_right_check_digit_are_none():
    rng = np.random.default_rng(1)
    for _ in range(100):
        card, iban = make_card(rng), make_iban(rng)
        assert [k for k, *_ in find_personal_data(card)] == ['card'] and [k for k, *_ in find_personal_data(iban)] == ['IBAN']
        assert 'card' not in [k for k, *_ in find_personal_data(card[:-1] + str((int(card[-1]) + 1) % 10))]
        assert not find_personal_data(iban[:2] + f'{(int(iban[2:4]) + 1) % 97:02}' + iban[4:])


@pytest.mark.parametrize('text', ['1999-2003', '10/10 on 24.12.2019 at 20:15', 'ISBN 978-3-16-148410-0', '192.168.100.200', '$1,000,000.00', 'version 2.10.3-rc1', 'me@home', '@name', '1 000 000 000',
                                  'Fahrenheit 451 and 2001', '0-0', '1234567890', '3.14159265358979', '555-12'])
def test_plain_numbers_are_no_personal_data(text): assert find_personal_data(text) == []


def test_reviews_hold_little_of_it(reviews):
    "Precision: what is found in 1,500 real reviews is mail addresses, each with its sign, or a phone number."
    found = [(kind, t[a:b]) for t in reviews for kind, a, b in find_personal_data(t)]
    assert len(found) <= 5 and all('@' in piece for kind, piece in found if kind == 'e-mail')
    assert not {kind for kind, _ in found} & {'card', 'IBAN'}


def test_masking_is_complete_and_idempotent():
    text = 'a@b.org,c@d.com;+1 (212) 555-0100/4111111111111111'
    masked = mask_personal_data(text)
    assert find_personal_data(masked) == [] and mask_personal_data(masked) == masked
    assert mask_personal_data('nothing here') == 'nothing here'


def test_planted_oddities_are_found_and_masked(reviews):
    texts = reviews[:400].copy()
    planted = {5: ('mojibake', 'Itâ€™s a cafÃ©.'), 50: ('invalid_characters', 'What\ufffd is this?'), 70: ('invalid_characters', 'bell\x07 rings'), 90: ('invisible', 'zero\u200bwidth'),
               110: ('mixed_script', 'a раypal link'), 150: ('length', 'long ' * 100_000),
               170: ('language', 'Dieser Film war wirklich viel zu lang, und niemand von uns hat auch nur einmal gelacht, was sehr schade ist.'),
               190: ('language', 'Этот фильм был слишком длинным, и никто из нас ни разу не засмеялся, что очень жаль.'), 210: ('personal_data', 'Write to jane@example.org please.')}
    for i, (_, text) in planted.items(): texts[i] = text
    texts[300:302] = None, ''
    odd = screen_texts(frame(texts))
    found = {(int(i[1:]), kind) for i, kind in zip(odd.id, odd.kind)}
    assert {(i, kind) for i, (kind, _) in planted.items()} <= found
    others = [f for f in found if f[0] not in planted]
    assert {kind for _, kind in others} <= {'invalid_characters', 'personal_data'} # IMDb has control characters and addresses of its own
    assert 'jane' not in odd.to_string() and '1 × e-mail' in odd[odd.id == 't210'].detail.tolist()


@pytest.mark.parametrize('text', ['«CAFÉ» Âge ÅÄÖ à la carte', 'Ünïcode naïve façade – “quoted” … €5', 'Привет, world', 'مرحبا', '👩\u200d💻 👍🏽', 'می\u200cخواهم', 'line\nbreak\ttab\r\n', 'ΔT = 5 µm', '№5'])
def test_good_characters_are_not_odd(text):
    assert not set(screen_texts(frame([text] * 3), languages=False).kind) & {'invalid_characters', 'mojibake', 'invisible', 'mixed_script'}


@pytest.mark.parametrize('text', ['naïve café', 'Übergröße', 'el niño está aquí', 'привет'])
def test_every_text_read_by_the_wrong_table_is_mojibake(text):
    wrong = ''.join(bytes([b]).decode('cp1252', 'ignore') or chr(b) for b in text.encode())
    assert 'mojibake' in set(screen_texts(frame([wrong]), languages=False).kind)


def test_languages_of_squad_and_their_limits():
    assert guess_language('La película es demasiado larga y nadie se ríe.')[0] == 'es'
    language, probability = guess_language('ok')
    assert probability < .5 # a guess, and it says so
    assert 'language' not in set(screen_texts(frame(['The film was far too long for anybody to enjoy it at all.'] * 9 + ['Nein, danke.'])).kind) # too short to say


def test_truncation_by_hand():
    table = measure_truncation([10, 20, 40], max_lengths=(20, 10)).set_index('max_length')
    assert table.n_cut.to_dict() == {10: 2, 20: 1} and table.share_cut[10] == pytest.approx(2 / 3)
    assert table.share_lost[10] == pytest.approx(40 / 70) and table.share_lost[20] == pytest.approx(20 / 70) and table.median_kept[10] == pytest.approx((.5 + .25) / 2)
    for bad in ([], [1.5], [-1], [[1]]):
        with pytest.raises(InputError, match='n_tokens'): measure_truncation(bad)
    with pytest.raises(InputError, match='max_lengths'): measure_truncation([1], max_lengths=(0,))
