"The saved report in a real browser: offline, from a file, by mouse and by keyboard, wide and narrow, light, dark and on paper."
import dataclasses
import json
import re
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from sft_nb.evaluate.evaluation import evaluate_predictions
from sft_nb.evaluate.shares import wilson_interval
from sft_nb.records import COMPARISON_COLUMNS, METRIC_COLUMNS, Evaluation, make_predictions
from sft_nb.report.example import example_evaluation
from sft_nb.report.page import TABS, build_payload, read_static, save_page
from sft_nb.report.widgets import Report

pytestmark = pytest.mark.browser
NASTY = '</script><img src=x onerror=alert(1)>'

@pytest.fixture(scope='module')
def evaluation(tmp_path_factory): return example_evaluation(tmp_path_factory.mktemp('pictures'), per_cell=30)

@pytest.fixture(scope='module')
def saved(evaluation, tmp_path_factory): return save_page(evaluation, tmp_path_factory.mktemp('report')/'report.html')

@contextmanager
def opened(browser, path, width=1280, anchor='', **options):
    "The page in a browser without network; whatever it complains of or asks for fails the test."
    context = browser.new_context(viewport=dict(width=width, height=900), offline=True, **options)
    page, wrong = context.new_page(), []
    page.on('console', lambda m: wrong.append(m.text) if m.type in ('error', 'warning') else None)
    page.on('pageerror', lambda e: wrong.append(str(e)))
    page.on('dialog', lambda d: (wrong.append('dialog ' + d.message), d.dismiss()))
    page.on('request', lambda r: None if r.url.startswith(('file:', 'data:')) else wrong.append('asked for ' + r.url))
    page.goto(path.as_uri() + anchor)
    yield page
    context.close()
    assert wrong == []

def tab(page, name):
    page.click(f'[data-tab={name}]')
    return page.locator(f'[data-panel={name}]')

def keep(page, root, name):
    (root/'artefacts').mkdir(exist_ok=True)
    page.screenshot(path=root/'artefacts'/f'report-{name}.png', full_page=True)

@pytest.mark.parametrize('width', [1280, 390])
def test_every_tab_opens_and_fits(browser, saved, root, width):
    with opened(browser, saved, width) as page:
        assert page.locator('[role=tab]').count() == len(TABS)
        for name in TABS:
            panel = tab(page, name)
            assert panel.is_visible() and page.locator('[role=tabpanel]:visible').count() == 1
            assert len(panel.inner_text()) > 60
            assert page.evaluate('document.documentElement.scrollWidth <= innerWidth'), f'{name} overflows'
            keep(page, root, f'{name}-{width}')

def test_uncomfortable_things_come_first(browser, saved):
    with opened(browser, saved) as page:
        text = page.inner_text('#report')
        places = [text.index(t) for t in ('FAIL', 'must be at least 0.80', 'linear probe', 'Weakest slice: type=poly', '3 suspect labels', 'Metrics')]
        assert places == sorted(places)
        page.get_by_role('button', name='See slices').first.click()
        assert page.locator('[data-panel=slices]').is_visible()

def test_metrics_follow_the_slice(browser, saved, evaluation):
    with opened(browser, saved) as page:
        value = page.locator('[data-panel=metrics] [data-key=accuracy] .value b')
        assert float(value.inner_text()) == pytest.approx(evaluation.get('accuracy').value, abs=.0006)
        page.select_option('[data-panel=metrics] select.slice', 'type=poly')
        assert float(value.inner_text()) == pytest.approx(evaluation.get('accuracy', slice='type=poly').value, abs=.0006)
        assert page.locator('[data-panel=metrics] [data-key=accuracy] small').last.inner_text() == 'n 359 · 95 % · wilson'

@pytest.mark.parametrize('width', [1280, 390])
def test_columns_are_crossed_at_the_reader_s_choice(browser, saved, evaluation, root, width):
    crossed = evaluation.curves['crossed'].query('metric == "balanced_accuracy"').set_index('slice')
    with opened(browser, saved, width) as page:
        assert 'Weakest crossing: type=poly and line=' in page.inner_text('.cautions')
        panel = tab(page, 'slices')
        keys = lambda: panel.locator('.forest tbody tr').evaluate_all('rows => rows.map(r => r.dataset.key)')
        assert {*keys()} == {'type=mono', 'type=poly', 'line=north', 'line=south', ''}
        panel.locator('.slice-column').select_option('line')
        assert {*keys()} == {'line=north', 'line=south', ''}
        panel.locator('.slice-column').select_option(label='type × line')
        surely = (-crossed.gap_high).sort_values(ascending=False)
        assert keys() == [*surely.index, '']
        row = panel.locator(f'[data-key="{surely.index[0]}"]')
        assert float(row.locator('.value b').inner_text()) == pytest.approx(crossed.value[surely.index[0]], abs=.006) and 'worse' in row.inner_text() and '4 slices at once' in row.inner_text()
        row.locator('button').click()
        assert panel.locator('.opened h3').inner_text() == 'Mistakes in ' + surely.index[0].replace('=', ' = ') and panel.locator('.opened .item').count() > 0
        assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
        keep(page, root, f'crossed-{width}')
        metrics = tab(page, 'metrics')
        assert metrics.locator('select.slice').input_value() == surely.index[0] and metrics.locator('[data-key=accuracy]').count() == 1
        status = tab(page, 'errors').locator('[role=status]').inner_text()
        wrong = evaluation.examples.query('target != prediction and type == "poly"')
        assert status.startswith(f'{(wrong.line == surely.index[0][-5:]).sum()} item')

def counts(panel): return [int(panel.locator(f'[data-count="{k}"]').inner_text()) for k in ('true positives', 'false alarms', 'missed', 'true negatives')]

def test_slider_moves_the_numbers(browser, saved, evaluation):
    curve = evaluation.curves['threshold'].set_index('threshold')
    with opened(browser, saved) as page:
        panel = tab(page, 'threshold')
        slider = panel.locator('input[type=range]')
        for at in (.5, .83, 0., 1.):
            slider.evaluate('(s, v) => { s.value = v; s.dispatchEvent(new Event("input")) }', at)
            row = curve.iloc[round(at*100)]
            assert counts(panel) == row[['tp', 'fp', 'fn', 'tn']].tolist()
            assert panel.locator('output').inner_text() == f'{at:.2f}'
        slider.evaluate('s => { s.value = .5; s.dispatchEvent(new Event("input")) }')
        slider.focus()
        page.keyboard.press('ArrowRight')
        assert panel.locator('output').inner_text() == '0.51' and 'recall' in slider.get_attribute('aria-valuetext')
        panel.get_by_role('button', name='best balanced accuracy on valid').click()
        valid = evaluation.curves['threshold_valid']
        best = valid.threshold[(valid.tp/(valid.tp + valid.fn) + valid.tn/(valid.tn + valid.fp)).idxmax()]
        assert float(panel.locator('output').inner_text()) == pytest.approx(best)
        panel.locator('select.split').select_option('valid')
        assert counts(panel) == valid.set_index('threshold').iloc[round(best*100)][['tp', 'fp', 'fn', 'tn']].tolist()

def test_costs_move_with_slider_and_price(browser, saved, evaluation):
    curve, valid = [evaluation.curves[k].set_index('threshold', drop=False) for k in ('threshold', 'threshold_valid')]
    with opened(browser, saved) as page:
        panel = tab(page, 'threshold')
        said = lambda: [float(v) for v in re.findall(r'[\d.]+', panel.locator('.price').inner_text().split(':')[1])[:3]]
        row = curve.iloc[50]
        assert said()[0] == pytest.approx(1000*(row.fn + row.fp)/656, abs=.51)
        panel.locator('.cost-0').fill('12'); panel.locator('.cost-0').press('Tab')
        value, low, high = said()
        assert value == pytest.approx(1000*(12*row.fn + row.fp)/656, abs=.51)
        ends = np.array([[k/656, *wilson_interval(k, 656)] for k in (row.fn, row.fp)])
        assert [low, high] == pytest.approx([value - np.hypot(12*(ends[0, 0] - ends[0, 1]), ends[1, 0] - ends[1, 1])*1000, value + np.hypot(12*(ends[0, 2] - ends[0, 0]), ends[1, 2] - ends[1, 0])*1000], abs=1)
        panel.get_by_role('button', name='least cost on valid').click()
        assert float(panel.locator('output').inner_text()) == pytest.approx((12*valid.fn + valid.fp).idxmin())
        panel.locator('.cost-1').fill('-3'); panel.locator('.cost-1').press('Tab')
        assert panel.locator('.cost-1').input_value() == '0', 'nothing costs less than nothing'

def test_temperature_is_a_switch(browser, saved, evaluation):
    with opened(browser, saved) as page:
        panel = tab(page, 'calibration')
        numbers = lambda: [float(v) for v in panel.locator('details table tbody tr').first.locator('td').all_inner_texts()]
        panel.locator('summary').click()
        columns = ['mean_score', 'observed', 'low', 'high', 'n']
        assert numbers() == pytest.approx(evaluation.curves['reliability'][columns].iloc[0].tolist(), abs=6e-4, rel=1e-3)
        panel.locator('.calibrated').check()
        panel.locator('summary').click()
        assert numbers() == pytest.approx(evaluation.curves['reliability_temperature'][columns].iloc[0].tolist(), abs=6e-4, rel=1e-3)
        assert 'after temperature scaling' in panel.inner_text()

def test_what_worse_pictures_do_and_what_is_forgotten(browser, saved, evaluation):
    with opened(browser, saved) as page:
        assert 'Something was forgotten: accuracy of a probe, stage 3 of 3' in page.inner_text('.cautions') and 'Corrupted pictures: the error rises from' in page.inner_text('.cautions')
        panel, worst = tab(page, 'robustness'), evaluation.curves['corruptions'].sort_values('value').iloc[-1]
        first = panel.locator('.forest').last.locator('tbody tr').first
        assert first.get_attribute('data-key') == worst.corruption and float(first.locator('b').inner_text()) == pytest.approx(worst.value, abs=.006)
        assert panel.locator('.heat tbody td').count() == 12
        text = tab(page, 'forgetting').inner_text()
        assert text.count('forgotten') == 1 and text.index('forgotten') > text.index('Stage 3 of 3')

def test_intervals_of_the_slider_are_the_ones_of_evaluate(browser, saved, evaluation):
    with opened(browser, saved) as page:
        panel = tab(page, 'threshold')
        for row in evaluation.curves['threshold'].iloc[[0, 3, 50, 77, 99]].itertuples():
            panel.locator('input[type=range]').evaluate('(s, v) => { s.value = v; s.dispatchEvent(new Event("input")) }', row.threshold)
            shown = {k: [float(v) for v in re.findall(r'\d\.\d+', panel.locator(f'[data-key={k}] .value').inner_text())] for k in ('recall', 'specificity', 'accuracy', 'balanced_accuracy', 'f1')}
            ends = {}
            for key, k, n in (('recall', row.tp, row.tp + row.fn), ('specificity', row.tn, row.tn + row.fp), ('accuracy', row.tp + row.tn, 656), ('jaccard', row.tp, row.tp + row.fp + row.fn)):
                ends[key] = np.array([k/n, *wilson_interval(k, n)])
            half = np.hypot(*(ends[k] - ends[k][0] for k in ('recall', 'specificity')))/2 # Newcombe: distances to the ends, squared and added
            middle = (ends['recall'][0] + ends['specificity'][0])/2
            ends['balanced_accuracy'] = middle + half*[0, -1, 1]
            ends['f1'] = 2*ends.pop('jaccard')/(1 + ends.get('jaccard', np.array([row.tp/(row.tp + row.fp + row.fn), *wilson_interval(row.tp, row.tp + row.fp + row.fn)])))
            for key in shown: assert shown[key] == pytest.approx(ends[key], abs=.0051), (key, row.threshold)

def test_the_slider_keeps_groups_together(browser, tmp_path, root):
    "At 0.50 it shows the intervals of the metrics tab, and so does the cost of one missed and one false alarm, which is the share of errors."
    rng, module = np.random.default_rng(1), np.repeat(np.arange(60), 6)
    truth = (rng.random(360) < .4).astype(int)
    say = 1/(1 + np.exp(-(2*truth - 1 + 1.5*rng.normal(size=60)[module] + .5*rng.normal(size=360))))
    grouped = evaluate_predictions(make_predictions(range(360), truth, say, task='single_label', labels=['fine', 'broken'], group=module), seed=0)
    numbers = lambda text: [float(v) for v in re.findall(r'\d+\.?\d*', text)[:3]]
    with opened(browser, save_page(grouped, tmp_path/'grouped.html')) as page:
        panel = tab(page, 'threshold')
        for name, of in (('recall', ('recall', 'broken')), ('specificity', ('recall', 'fine')), ('precision', ('precision', 'broken')), ('accuracy', ('accuracy',)), ('balanced_accuracy', ('balanced_accuracy',))):
            assert numbers(panel.locator(f'[data-key={name}] .value').inner_text()) == pytest.approx(list(grouped.get(*of)[['value', 'low', 'high']]), abs=.0051), name
        error = 1000*(1 - grouped.get('accuracy')[['value', 'high', 'low']].to_numpy(float))
        assert numbers(panel.locator('.price').inner_text().split(':')[1]) == pytest.approx(error, abs=12) # Wilson's of a sum, and of its parts put together
        assert 'Groups are kept together' in panel.inner_text() and panel.locator('.band').count() == 5
        keep(page, root, 'threshold-grouped')

def test_confusion_cell_opens_its_pictures(browser, saved, evaluation, root):
    of = lambda t, p: ((evaluation.examples.target == t) & (evaluation.examples.prediction == p)).sum()
    with opened(browser, saved) as page:
        panel = tab(page, 'confusion')
        for target, prediction in (('defective', 'functional'), ('functional', 'defective'), ('functional', 'functional')):
            button = panel.locator(f'td button[data-target={target}][data-prediction={prediction}]')
            button.click()
            i, j = evaluation.labels.index(target), evaluation.labels.index(prediction)
            assert button.locator('b').inner_text() == str(evaluation.confusion[i, j]) and button.get_attribute('aria-pressed') == 'true'
            while panel.locator('.more:visible').count(): panel.locator('.more').click()
            assert panel.locator('.item').count() == of(target, prediction)
        assert panel.locator('.item img').evaluate_all('list => list.every(i => i.naturalWidth === 150)')
        panel.locator('.item').first.focus()
        page.keyboard.press('Enter')
        dialog = page.locator('dialog')
        assert dialog.is_visible() and dialog.locator('.place').inner_text() == f'1 of {of("functional", "functional")}'
        first = dialog.locator('h3').inner_text()
        page.keyboard.press('ArrowRight'); page.keyboard.press('ArrowRight'); page.keyboard.press('ArrowLeft')
        assert dialog.locator('.place').inner_text().startswith('2 of') and dialog.locator('h3').inner_text() != first
        page.screenshot(path=(root/'artefacts'/'report-lightbox.png'))
        page.keyboard.press('Escape')
        assert not dialog.is_visible()
        assert page.evaluate('document.activeElement.className') == 'item', 'focus returns to where it was'

def test_errors_filter_and_sort(browser, saved, evaluation):
    wrong = evaluation.examples[evaluation.examples.target != evaluation.examples.prediction]
    with opened(browser, saved) as page:
        panel = tab(page, 'errors')
        status = panel.locator('[role=status]')
        assert status.inner_text().startswith(f'{len(wrong)} items')
        panel.locator('select.slice').select_option('type=mono')
        assert status.inner_text().startswith(f'{(wrong.type == "mono").sum()} item')
        panel.locator('select.pair').select_option(label='defective → called functional')
        assert status.inner_text().startswith(f'{((wrong.type == "mono") & (wrong.target == "defective")).sum()} item')
        panel.locator('select.slice').select_option('')
        panel.locator('select.order').select_option('unsure')
        panel.locator('.item').first.click()
        assert page.locator('dialog h3').inner_text() == wrong[wrong.target == 'defective'].sort_values('score').id.iloc[0]

def test_tabs_by_keyboard_and_by_address(browser, saved):
    with opened(browser, saved, anchor='#slices') as page:
        assert page.locator('[data-panel=slices]').is_visible()
        page.locator('[data-tab=slices]').focus()
        for key, name in (('ArrowRight', 'calibration'), ('End', 'provenance'), ('ArrowRight', 'metrics'), ('ArrowLeft', 'provenance'), ('Home', 'metrics')):
            page.keyboard.press(key)
            assert page.locator(f'[data-tab={name}]').get_attribute('aria-selected') == 'true' and page.evaluate('document.activeElement.dataset.tab') == name
        assert page.url.endswith('#metrics')

def test_hostile_text_is_only_text(browser, evaluation, tmp_path, root):
    names = [NASTY, '"><svg onload=alert(2)>', 'שלום עולם', '😀'*20, 'long ' + 'x'*300, "'; alert(3); '"]
    labels = tuple(names[:2])
    swap = dict(zip(evaluation.labels, labels))
    e = evaluation.examples.assign(target=evaluation.examples.target.map(swap), prediction=evaluation.examples.prediction.map(swap))
    e = e.assign(id=[f'{names[i % 6]} {i}' for i in range(len(e))], type=[names[2 + i % 4] for i in range(len(e))])
    slices = [f'type={n}' for n in names[2:]]
    metrics = evaluation.metrics.assign(label=evaluation.metrics.label.map(lambda v: swap.get(v, v)), slice=[slices[i % 4] if s else '' for i, s in enumerate(evaluation.metrics.slice)])
    hostile = dataclasses.replace(evaluation, labels=labels, examples=e, metrics=metrics.drop_duplicates(['metric', 'label', 'slice']), comparisons=evaluation.comparisons.assign(baseline=evaluation.comparisons.baseline.map(dict(zip(evaluation.comparisons.baseline.unique(), names)))), context={
        **evaluation.context, 'notes': names, 'run': dict(name=NASTY, backbone=NASTY), 'audit': {NASTY: [{NASTY: NASTY}], 'counts': {NASTY: 3}},
        'references': [dict(name=NASTY, metric='accuracy', value=.9, source='javascript:alert(4)', note=NASTY)], 'provenance': {NASTY: {NASTY: NASTY}}})
    for width in (1280, 390):
        with opened(browser, save_page(hostile, tmp_path/'hostile.html'), width) as page:
            for name in TABS:
                tab(page, name)
                assert page.evaluate('document.documentElement.scrollWidth <= innerWidth'), f'{name} overflows at {width}'
            tab(page, 'confusion').locator('td button').nth(1).click()
            page.locator('[data-panel=confusion] .item').first.click()
            assert page.locator('img:not([src^="data:image/jpeg"]), [onerror], [onload], a[href^="javascript"]').count() == 0
            assert NASTY in page.inner_text('h1')
            keep(page, root, f'hostile-{width}')

def test_thousand_classes_no_pictures(browser, tmp_path, root):
    rng, k = np.random.default_rng(0), 1000
    labels = tuple(f'class {i:04d}' for i in range(k))
    row = lambda metric, label='': dict(zip(METRIC_COLUMNS, (metric, label, '', .5, .4, .6, 100_000, .95, 'wilson')))
    examples = pd.DataFrame(dict(id=[f'i{i}' for i in range(3000)], input='/nowhere/x.png', target=rng.choice(labels, 3000), prediction=rng.choice(labels, 3000), score=.5, score_target=.1, loss=2.3))
    big = Evaluation('single_label', labels, 100_000, pd.DataFrame([row('accuracy')] + [row('recall', label) for label in labels]), pd.DataFrame(columns=COMPARISON_COLUMNS),
                     rng.poisson(.05, (k, k)) + 50*np.eye(k, dtype=int), examples=examples)
    with opened(browser, save_page(big, tmp_path/'big.html')) as page:
        assert 'could not be shown' in page.inner_text('.cautions')
        panel = tab(page, 'confusion')
        assert panel.locator('tbody tr').count() == 13 and '988 other labels' in panel.inner_text()
        panel.locator('.pairs button').first.click()
        tab(page, 'errors')
        keep(page, root, 'thousand-classes')

def test_dark_and_paper(browser, saved, tmp_path, root):
    with opened(browser, saved, color_scheme='dark') as page:
        assert page.evaluate('getComputedStyle(document.querySelector(".sft-report")).backgroundColor') == 'rgb(18, 22, 27)'
        keep(page, root, 'dark')
    with opened(browser, saved) as page:
        page.pdf(path=root/'artefacts'/'report.pdf', format='A4')
        page.emulate_media(media='print')
        assert page.locator('[role=tabpanel]:visible').count() == len(TABS), 'paper has no tabs: all is printed'
        assert not page.locator('[role=tablist]').is_visible()

def test_twin_works_inside_another_page(browser, evaluation, tmp_path):
    from sft_nb.report.widgets import build_report
    data, _ = build_report(evaluation, max_images=8)._repr_mimebundle_()
    path = tmp_path/'host.html'
    path.write_text('<!doctype html><html lang="en"><title>host</title>' + data['text/html'], encoding='utf-8')
    with opened(browser, path) as page:
        frame = page.frame_locator('iframe')
        frame.locator('[data-tab=confusion]').click()
        frame.locator('td button').nth(1).click()
        frame.locator('.item').first.click()
        assert frame.locator('dialog').is_visible() and frame.locator('dialog .place').inner_text().startswith('1 of')

APART = '''<!doctype html><html lang="en"><title>host</title><body class="vscode-dark"><script>
for (const name of ['require', 'requirejs', 'define', 'Jupyter', 'IPython', 'jupyterapp', 'google', 'acquireVsCodeApi', 'process', 'module']) Object.defineProperty(window, name, { get() { throw Error('asked the page for ' + name); } });
</script><script type="module">
const payload = await (await fetch('payload.json')).json(), allowed = new Set(['get', 'set', 'save_changes', 'on', 'off', 'send']);
for (const i of [1, 2]) { // as two outputs do: a module, a model and an element each
  const { default: { render } } = await import(`./report.js?${i}`);
  const state = { payload, tab: payload.tabs[0], threshold: .5, costs: [1, 1], calibrated: false, slice: '', by: '', cell: [], item: '' }, listeners = {};
  const model = { get(k) { if (!(k in state)) throw Error(`no trait ${k}`); return state[k]; }, set(k, v) { if (!(k in state)) throw Error(`no trait ${k}`); state[k] = v; (listeners['change:' + k] || []).forEach(f => f()); }, save_changes() {}, on(n, f) { (listeners[n] ||= []).push(f); }, off() {} };
  const el = Object.assign(document.createElement('div'), { className: 'output' });
  document.body.append(el);
  render({ el, model: new Proxy(model, { get(target, k) { if (!allowed.has(k)) throw Error(`asked the model for ${String(k)}`); return target[k]; } }) });
}
</script></body></html>'''

def test_it_needs_nothing_of_the_application_around_it(browser, evaluation, serve, tmp_path):
    "What VS Code and Colab give a widget is a model and an element: no name of the page is asked for, nothing is imported, only traits are read, and two outputs do not meet."
    payload, script = build_payload(evaluation, max_images=8), read_static('report.js')
    for text in (script, read_static('clean.js')): assert not re.search(r'\bimport\b\s*[\w{*("\']|\bfrom\s*["\']', text)
    for name, text in (('index.html', APART), ('report.js', script), ('payload.json', json.dumps(payload))): (tmp_path/name).write_text(text, encoding='utf-8')
    assert {'tab', 'item', 'threshold', 'costs', 'calibrated', 'slice', 'by', 'cell', 'payload'} <= set(Report.class_trait_names(sync=True)) # what the page above has
    page, wrong = browser.new_page(), []
    page.on('pageerror', lambda e: wrong.append(str(e)))
    page.goto(serve(tmp_path) + '/index.html')
    page.wait_for_function('document.querySelectorAll(".output .tabs").length === 2')
    first, second = page.locator('.output').all()
    for name in TABS: first.locator(f'[data-tab={name}]').click()
    first.locator('[data-tab=confusion]').click()
    first.locator('td button').nth(1).click()
    first.locator('.item:visible').first.click()
    assert first.locator('dialog').is_visible() and not second.locator('dialog').is_visible()
    assert second.locator('[data-tab=metrics]').get_attribute('aria-selected') == 'true'
    assert page.evaluate('(ids => ids.length - new Set(ids).size)([...document.querySelectorAll("[id]")].map(e => e.id))') == 0
    assert page.locator('.sft-report').first.get_attribute('data-theme') == 'dark'
    assert wrong == []
    page.close()

def test_without_scripts_there_is_still_a_verdict(browser, saved):
    with opened(browser, saved, java_script_enabled=False) as page:
        assert 'FAIL: 1 of 4 demands is shown' in page.inner_text('body') and 'balanced_accuracy' in page.inner_text('body')

@pytest.mark.parametrize('width, scheme', [(1280, 'light'), (390, 'light'), (1280, 'dark')])
def test_accessibility_by_axe(browser, saved, width, scheme):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='pip install axe-playwright-python').Axe()
    with opened(browser, saved, width, color_scheme=scheme, bypass_csp=True) as page:
        for name in TABS:
            tab(page, name)
            if name == 'confusion': page.locator('[data-panel=confusion] td button').first.click()
            violations = axe.run(page).response['violations']
            assert [(name, v['id'], [n['target'] for n in v['nodes']][:3]) for v in violations] == []
        page.locator('[data-panel=errors] .item').first.evaluate('b => b.click()')
        assert [v['id'] for v in axe.run(page).response['violations']] == []
