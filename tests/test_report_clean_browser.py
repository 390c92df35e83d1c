"The cleaner under a hand: in JupyterLab with a kernel, and its front end alone with hostile labels, by keyboard, wide and narrow, light and dark."
import json
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from sft_nb.records import make_predictions
from sft_nb.report.annotate import Annotator
from sft_nb.report.clean import LabelCleaner
from sft_nb.report.example import draw_cell
from sft_nb.report.page import read_static

pytestmark = pytest.mark.browser
NASTY = ['<script>window.hit = 1</script><img src=x onerror="window.hit = 1">', '🦴👩🏽‍🔬 crack', 'שבור לגמרי', '\u202egnorw', 'long ' * 60, 'unbroken' * 40]

# ---------------------------------------------------------------- in JupyterLab

SETUP = '''
import numpy as np, pandas as pd
from pathlib import Path
from sft_nb.records import make_predictions
from sft_nb.report.clean import LabelCleaner
from sft_nb.report.example import draw_cell
Path('cells').mkdir(exist_ok=True)
for i in range(12): draw_cell('mono', 2*(i % 2), seed=i).save(f'cells/{i}.png')
truth = np.arange(12) % 2
items = pd.DataFrame(dict(id=[f'cell{i:02d}' for i in range(12)], input=[f'cells/{i}.png' for i in range(12)], target=np.array(['fine', 'cracked'])[truth]))
items.loc[[3, 8], 'target'] = ['fine', 'cracked']
score = np.where(truth == 1, .9, .1)
score[[3, 8]] = .995, .01
preds = make_predictions(items.id, items.target, score, task='single_label', labels=['cracked', 'fine'][::-1])
cleaner = LabelCleaner(items, preds, path='log/changes.jsonl', features=np.c_[score, 1 - score, np.arange(12)/20], who='Ada')
cleaner
'''
READ = "print('python has', cleaner.progress, dict(cleaner.items.target[[3, 8]]), cleaner.card['id'], Path('log/changes.jsonl').read_text().count(chr(10)))"
SET = 'cleaner.drop()'

def shows(frame, id): frame.locator('h2.id', has_text=id).wait_for(timeout=20_000)

def test_relabel_one_and_undo_it(lab, browser, root):
    page, wrong = lab.open(browser, 'clean', (SETUP, READ, SET))
    lab.run(page, 0)
    frame, log = page.locator('.sft-clean'), lab.home/'log'/'changes.jsonl'
    shows(frame, 'cell03')
    assert frame.locator('.stage img').evaluate('i => i.naturalWidth') > 50 and frame.locator('.near img').count() == 6
    assert not log.exists() and 'suspect label' in frame.locator('.reasons').inner_text()
    cells = page.locator('.jp-CodeCell').count()
    frame.locator('.place').click() # into the frame; then the keys are its own, and not JupyterLab's
    page.keyboard.press('2')
    shows(frame, 'cell08')
    assert frame.locator('.sofar').inner_text() == '1 of 2 looked at: 1 relabelled.'
    row, = map(json.loads, log.read_text().splitlines())
    assert (row['id'], row['action'], row['before'], row['after'], row['who']) == ('cell03', 'relabel', 'fine', 'cracked', 'Ada')
    assert "1 of 2 looked at: 1 relabelled {3: 'cracked', 8: 'cracked'} cell08 1" in lab.run(page, 1).inner_text()
    (root/'artefacts').mkdir(exist_ok=True)
    page.screenshot(path=root/'artefacts'/'clean-jupyterlab.png')

    frame.locator('.place').click()
    page.keyboard.press('u')
    shows(frame, 'cell03')
    assert frame.locator('.sofar').inner_text() == '0 of 2 looked at.' and frame.locator('.label').inner_text() == 'fine'
    assert "0 of 2 looked at {3: 'fine', 8: 'cracked'} cell03 2" in lab.run(page, 1).inner_text()
    assert [json.loads(l)['action'] for l in log.read_text().splitlines()] == ['relabel', 'undo']

    frame.locator('.place').click()
    page.keyboard.press('Enter') # what the model says
    shows(frame, 'cell08')
    lab.run(page, 2) # what Python does, the screen shows
    frame.locator('.done').wait_for()
    frame.locator('.done').click()
    for key in 'dd': page.keyboard.press(key) # in JupyterLab that deletes a cell
    page.keyboard.press('ArrowLeft')
    shows(frame, 'cell08')
    assert frame.locator('.decision').inner_text() == 'You have dropped it.' and page.locator('.jp-CodeCell').count() == cells
    assert len(log.read_text().splitlines()) == 4
    assert page.evaluate('document.querySelector(".sft-clean").scrollWidth <= document.querySelector(".sft-clean").clientWidth')
    assert wrong == []
    page.close()

# ---------------------------------------------------------------- the front end alone

PAGE = '''<!doctype html><html lang="en" style="color-scheme: light dark"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>clean</title><link rel="stylesheet" href="clean.css">
<body class="sft-page"><main><h1>host</h1><div id="here"></div></main><script type="module">
import clean from './clean.js';
const state = await (await fetch('state.json')).json(), listeners = {}, sent = [];
const fire = name => (listeners[name] || []).forEach(f => f());
const model = { get: k => state[k], on: (n, f) => (listeners[n] ||= []).push(f), off() {}, send(message) { sent.push(message); } };
window.sent = sent;
window.answer = more => { Object.assign(state, more); Object.keys(more).forEach(k => fire(`change:${k}`)); fire('msg:custom'); };
clean.render({ model, el: document.getElementById('here') });
</script></body></html>'''

def state_of(desk): return {k: getattr(desk, k) for k in ('card', 'labels', 'progress', 'about', 'message', 'can_keep')}

@pytest.fixture(scope='module')
def cleaner(tmp_path_factory):
    "Labels as nobody wants them, a copy, a missing picture, neighbours, and a suspect label."
    folder = tmp_path_factory.mktemp('clean')
    n, labels = 24, NASTY
    for i in range(n): draw_cell('mono', i % 3, seed=i).save(folder/f'{i}.png')
    (folder/'5.png').unlink()
    truth = np.arange(n) % len(labels)
    items = pd.DataFrame(dict(id=[f'{NASTY[0]} {i}' if i < 3 else f'cell{i}' for i in range(n)], input=[str(folder/f'{i}.png') for i in range(n)], target=[labels[t] for t in truth]))
    score = np.full((n, len(labels)), .02)
    score[np.arange(n), truth] = .9
    score[[0, 1]] = score[[1, 0]]
    preds = make_predictions(items.id, items.target, score, task='single_label', labels=labels)
    audit = dict(duplicates=[dict(id_a=items.id[0], id_b=items.id[5], kind='same_pixels', detail='the same pixels')])
    return LabelCleaner(items, preds, audit=audit, features=score + np.arange(n)[:, None] * .001, path=folder/'changes.jsonl')

@contextmanager
def opened(browser, serve, folder, state, width=1280, **options):
    "The front end with this state; whatever it complains of or asks for fails the test."
    (folder/'index.html').write_text(PAGE)
    for name, text in (('clean.js', read_static('clean.js')), ('clean.css', read_static('report.css') + read_static('clean.css')), ('state.json', json.dumps(state))): (folder/name).write_text(text, encoding='utf-8')
    address, wrong = serve(folder), []
    context = browser.new_context(viewport=dict(width=width, height=900), **options)
    page = context.new_page()
    page.on('console', lambda m: wrong.append(m.text) if m.type in ('error', 'warning') else None)
    page.on('pageerror', lambda e: wrong.append(str(e)))
    page.on('request', lambda r: None if r.url.startswith((address, 'data:')) or r.url.endswith('favicon.ico') else wrong.append('asked for ' + r.url))
    page.route('**/favicon.ico', lambda route: route.fulfill(status=204))
    page.goto(address + '/index.html')
    page.wait_for_selector('.sft-clean .acts')
    yield page
    assert page.evaluate('window.hit') is None
    context.close()
    assert wrong == []

def sent(page): return [{k: v for k, v in m.items() if k != 'id'} for m in page.evaluate('window.sent')]

@pytest.mark.parametrize('width, scheme', [(1280, 'light'), (390, 'light'), (1280, 'dark'), (390, 'dark')])
def test_hostile_labels_fit_and_axe_is_content(browser, serve, cleaner, tmp_path, root, width, scheme):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='pip install axe-playwright-python').Axe()
    (root/'artefacts').mkdir(exist_ok=True)
    cards = [cleaner._make_card(i, {}) for i in range(len(cleaner._queue) + 1)]
    assert any(c.get('twins') for c in cards) and any(c.get('why') for c in cards) and cards[-1]['id'] == ''
    with opened(browser, serve, tmp_path, state_of(cleaner), width, color_scheme=scheme) as page:
        for i, card in enumerate(cards):
            page.evaluate('card => window.answer({ card })', card)
            if card['id']: assert page.locator('h2.id').inner_text() == card['id'] and page.locator('.label').inner_text() == ' '.join(card['label'].split())
            assert page.evaluate('document.documentElement.scrollWidth <= innerWidth'), f'card {i} overflows'
            assert [(v['id'], [n['html'][:120] for n in v['nodes']][:2]) for v in axe.run(page).response['violations']] == []
            page.screenshot(path=root/'artefacts'/f'clean-{i}-{width}-{scheme}.png', full_page=True)

def test_every_key_says_what_it_should(browser, serve, cleaner, tmp_path):
    first = cleaner._make_card(0, {})
    with opened(browser, serve, tmp_path, {**state_of(cleaner), 'card': first}) as page:
        page.locator('.place').click()
        for key in ('k', 'd', 'S', 'u', '2', 'Enter', 'ArrowRight', 'ArrowLeft', '7', '0', 'x', 'r'): page.keyboard.press(key)
        labels = cleaner.labels
        assert sent(page) == [dict(action='keep'), dict(action='drop'), dict(action='skip'), dict(action='undo'), dict(action='relabel', label=labels[1]), dict(action='relabel', label=first['suggestion']),
                              dict(action='look', step=1), dict(action='look', step=-1)]
        assert {m['id'] for m in page.evaluate('window.sent')} == {first['id']} # each names the card that was seen
        page.keyboard.press('Control+k')
        page.keyboard.down('k')
        page.keyboard.down('k') # held down: it repeats, and counts once
        assert len(sent(page)) == 9
        assert page.locator('.place').evaluate('e => e.closest(".sft-clean").dataset.lmSuppressShortcuts || e.closest(".sft-clean").getAttribute("data-lm-suppress-shortcuts")') == 'true'

def test_every_button_does_the_same(browser, serve, cleaner, tmp_path):
    first = cleaner._make_card(1, {})
    with opened(browser, serve, tmp_path, {**state_of(cleaner), 'card': first}) as page:
        for name in ('keep', 'drop', 'skip', 'undo', 'accept', 'back', 'forward'): page.locator(f'[data-act={name}]').click()
        page.locator('.labels button').nth(2).click()
        assert [m['action'] for m in sent(page)] == ['keep', 'drop', 'skip', 'undo', 'relabel', 'look', 'look', 'relabel'] and sent(page)[-1]['label'] == cleaner.labels[2]
        assert page.evaluate('document.activeElement.className') == 'sft-report sft-clean' # after the mouse, the keys go on
        page.locator('[data-act=skip]').focus()
        page.keyboard.press('Enter')
        page.evaluate('card => window.answer({ card })', cleaner._make_card(0, {}))
        assert [m['action'] for m in sent(page)][8:] == ['skip'] # and not the suggestion as well
        assert page.evaluate('document.activeElement.dataset.act') == 'skip'

def test_a_thousand_labels_are_found_by_typing(browser, serve, cleaner, tmp_path, root):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='pip install axe-playwright-python').Axe()
    labels = [f'label {i}' for i in range(994)] + NASTY
    with opened(browser, serve, tmp_path, {**state_of(cleaner), 'labels': labels, 'card': cleaner._make_card(0, {})}, 390) as page:
        assert page.locator('.labels button').count() == 10
        page.locator('.place').click()
        page.keyboard.press('r')
        page.keyboard.type('LABEL 77') # letters are text here, not decisions
        assert page.locator('.pick li').all_inner_texts() == ['label 77', *(f'label {i}' for i in range(770, 780))]
        assert axe.run(page).response['violations'] == []
        page.screenshot(path=root/'artefacts'/'clean-labels-390.png', full_page=True)
        page.keyboard.press('Enter')
        assert sent(page) == [dict(action='relabel', label='label 77')]
        page.locator('.pick input').fill('')
        assert page.locator('.pick li').count() == 40 and '1,000' in page.locator('.pick .note').inner_text()
        page.locator('.pick input').fill('שבור')
        page.locator('.pick li button').click()
        assert sent(page)[1] == dict(action='relabel', label='שבור לגמרי')
        page.locator('.pick input').fill('no such thing')
        assert 'No such label' in page.locator('.pick').inner_text()
        page.keyboard.press('Escape')
        assert page.locator('.pick').count() == 0 and page.evaluate('document.activeElement.className') == 'sft-report sft-clean'
        page.keyboard.press('k')
        assert sent(page)[2] == dict(action='keep')

def test_several_labels_are_put_together(browser, serve, cleaner, tmp_path):
    card = {**cleaner._make_card(0, {}), 'several': True, 'suggestion': 'a;c'}
    with opened(browser, serve, tmp_path, {**state_of(cleaner), 'labels': ['a', 'b', 'c'], 'card': card}) as page:
        page.locator('.place').click()
        page.keyboard.press('Enter')
        for key in '1231': page.keyboard.press(key)
        assert [b.get_attribute('aria-pressed') for b in page.locator('.labels button[aria-pressed]').all()] == ['false', 'true', 'true']
        assert page.locator('[data-act=accept]').inner_text().split() == ['Give', 'b;c', '↵']
        page.keyboard.press('Enter')
        assert sent(page) == [dict(action='relabel', label='a;c'), dict(action='relabel', label='b;c')]
        page.evaluate('card => window.answer({ card })', {**cleaner._make_card(1, {}), 'several': True})
        assert {b.get_attribute('aria-pressed') for b in page.locator('.labels button[aria-pressed]').all()} == {'false'} # what was put together belonged to the other item
        page.evaluate('labels => window.answer({ labels })', [f'"]{i}' for i in range(30)])
        page.keyboard.press('r')
        page.keyboard.type(']2')
        for _ in range(2): page.keyboard.press('Enter'); page.keyboard.type('9') # the filter stays while labels are put together
        assert page.locator('.pick input').input_value() == ']299' and page.locator('[data-act=accept]').inner_text().split() == ['Give', '"]2;"]29', '↵']

def test_the_labels_that_an_item_has_are_on_and_can_be_taken_off(browser, serve, cleaner, tmp_path, root):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='pip install axe-playwright-python').Axe()
    card = {**cleaner._make_card(0, {}), 'several': True, 'suggestion': '', 'p_suggestion': .9, 'label': 'a;c', 'given': 'a;c'}
    with opened(browser, serve, tmp_path, {**state_of(cleaner), 'labels': ['a', 'b', 'c'], 'card': card}, 390) as page:
        on = lambda: [b.get_attribute('aria-pressed') for b in page.locator('.labels button[aria-pressed]').all()]
        assert on() == ['true', 'false', 'true'] and 'no label' in page.locator('.said').inner_text()
        page.locator('.place').click()
        page.keyboard.press('Enter') # the suggestion: none
        page.keyboard.press('1')
        assert on() == ['false', 'false', 'true'] and page.locator('[data-act=accept]').inner_text().split() == ['Give', 'c', '↵']
        page.keyboard.press('Enter')
        page.keyboard.press('3')
        assert page.locator('[data-act=accept]').inner_text().split() == ['Give', 'no', 'label', '↵']
        assert axe.run(page).response['violations'] == []
        page.screenshot(path=root/'artefacts'/'clean-several-390.png', full_page=True)
        for key in ('Enter', '0'): page.keyboard.press(key)
        page.get_by_role('button', name='None of them').click()
        assert sent(page) == [dict(action='relabel', label=label) for label in ('', 'c', '', '', '')]

def test_it_says_what_went_wrong(browser, serve, cleaner, tmp_path):
    with opened(browser, serve, tmp_path, {**state_of(cleaner), 'card': cleaner._make_card(0, {})}) as page:
        page.locator('.place').click()
        page.keyboard.press('u')
        page.evaluate('message => window.answer({ message })', NASTY[0])
        assert page.locator('[role=alert]').inner_text() == NASTY[0]
        page.keyboard.press('k')
        assert page.locator('[role=alert]').inner_text() == ''
        page.wait_for_function('document.querySelector("[role=alert]").textContent.includes("has not answered")', timeout=6000)
        page.evaluate('card => window.answer({ card, message: "" })', cleaner._make_card(1, {}))
        assert page.locator('[role=alert]').inner_text() == ''

def test_the_annotator_has_no_label_to_keep(browser, serve, cleaner, tmp_path, root):
    items = cleaner.items.assign(target=None)
    annotator = Annotator(items, ['cracked', 'fine'], path=tmp_path/'a.jsonl')
    with opened(browser, serve, tmp_path, state_of(annotator)) as page:
        page.locator('.place').click()
        for key in ('k', 'Enter', '2'): page.keyboard.press(key)
        assert sent(page) == [dict(action='relabel', label='fine')] and page.locator('[data-act=keep]').count() == 0
        assert page.locator('.label').inner_text() == 'no label'
        page.screenshot(path=root/'artefacts'/'clean-annotator.png', full_page=True)

def test_the_twin_is_a_plain_table(browser, cleaner, tmp_path):
    data, _ = cleaner._repr_mimebundle_()
    page = browser.new_page()
    page.set_content(data['text/html'])
    assert page.locator('script').count() == 0 and page.evaluate('window.hit') is None
    assert page.locator('tr').count() == len(cleaner.queue) + 1 and NASTY[0] in page.locator('table').inner_text()
    assert {i.evaluate('i => i.naturalWidth') for i in page.locator('img').all()} == {64} and page.locator('img').count() == len(cleaner.queue) - 1 # one is missing
    page.close()
