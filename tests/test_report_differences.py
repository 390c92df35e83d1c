"""Differences of texts: complete, safe to embed, and told by more than colour."""
import html
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings, strategies as st

from sft_nb.core import InputError
from sft_nb.records import make_predictions
from sft_nb.report.differences import _unseen, browse_texts, mark_differences


class Reader(HTMLParser):
    "What is shown with and without what a tag encloses; which tags there are; what only a screen reader gets."
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.old, self.new, self.spoken = [], [], '', '', ''
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(('hidden' if 'clip-path' in dict(attrs).get('style', '') else tag))
    def handle_endtag(self, tag): self.open.pop()
    def handle_data(self, data):
        self.spoken += data
        if 'hidden' in self.open: return
        if 'ins' not in self.open: self.old += data
        if 'del' not in self.open: self.new += data


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_both_texts_can_be_read_back_and_nothing_else_is_markup(old, new):
    read, shown = Reader(mark_differences(old, new)), lambda t: _unseen.sub(lambda m: f'⟨{ord(m[0]):04X}⟩', t)
    assert (read.old, read.new) == (shown(old), shown(new))
    assert {t for t, _ in read.tags} <= {'span', 'del', 'ins'} and not read.open
    assert all(set(a) <= {'class', 'style', 'dir'} for _, a in read.tags)


@pytest.mark.parametrize('text', ['<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", '</span></table><svg/onload=alert(1)>', '&lt;b&gt;', 'javascript:alert(1)', '\u202ecod.exe\x00'])
def test_nothing_that_somebody_wrote_runs(text):
    preds = make_predictions([text], [(text,)], [text + ' x'], task='text')
    for page in (mark_differences('a', text), mark_differences(text, 'a'), browse_texts(preds), browse_texts(preds, preds)):
        assert {t for t, _ in Reader(page).tags} <= {'span', 'del', 'ins', 'table', 'caption', 'thead', 'tbody', 'tr', 'th', 'td'}
        assert all(set(a) <= {'class', 'style', 'dir', 'scope'} for _, a in Reader(page).tags)
        assert '\u202e' not in page and '\x00' not in page


def test_changes_are_words_and_told_without_colour():
    page = mark_differences('The cat sat on the mat.', 'The dog sat on the mat, too.')
    spoken = re.sub(r'\s+', ' ', Reader(page).spoken)
    assert spoken == 'The [deleted: cat][inserted: dog] sat on the mat[inserted: , too].'
    for tag, style in (('del', 'line-through'), ('ins', 'underline')): assert re.search(f'<{tag} style="[^"]*{style}', page)
    assert '<del' not in mark_differences('the same', 'the same') and '<ins' not in mark_differences('', '')
    assert Reader(mark_differences('one two three', 'uno dos tres')).spoken == '[deleted: one two three][inserted: uno dos tres]' # joined over spaces


def test_long_texts_are_cut_and_quick():
    words = ' '.join(f'w{i}' for i in range(20_000))
    page = mark_differences(words, words)
    assert html.unescape(page).count('w') < 4100 and '…' in page


def test_the_order_and_the_nearest_reference():
    truth = [('yes it is', 'no'), ('a b c d',), ('e f',)]
    tuned = make_predictions(list('xyz'), truth, ['no', 'a b c', 'q'], task='text')
    plain = make_predictions(list('zyx'), truth[::-1], ['e f', 'nothing', 'no'], task='text')
    order = lambda *a, **k: re.findall(r'<tr><td[^>]*>(.)</td>', browse_texts(*a, **k))
    assert order(tuned) == ['z', 'y', 'x'] and order(tuned, order='best') == ['x', 'y', 'z'] and order(tuned, max_rows=1) == ['z']
    assert order(tuned, plain, order='gained')[0] == 'y' and order(tuned, plain, order='lost')[0] == 'z'
    row = browse_texts(tuned, order='best', max_rows=1)
    assert '<del' not in row.split('<tbody>')[1] # of two references the one that it equals
    with pytest.raises(InputError, match='need `base`'): browse_texts(tuned, order='gained')
    with pytest.raises(InputError) as e: browse_texts(tuned, make_predictions(['x'], [('a',)], ['a'], task='text'), order='wrst')
    assert len(e.value.problems) == 2
    with pytest.raises(InputError, match='of texts'): browse_texts(make_predictions(['x', 'y'], [0, 1], [[.5, .5]] * 2, task='single_label', labels=['a', 'b']))
    with pytest.raises(InputError, match='a text'): mark_differences(None, 'a')
