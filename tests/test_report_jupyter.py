"The live reports in JupyterLab, Notebook 7 and Voilà: what the hand does, Python sees, and what Python sets, the screen shows; and the tutorial, run there."
import json

import pytest

pytestmark = pytest.mark.browser

SETUP = '''
from sft_nb.report.example import example_evaluation
from sft_nb.report.widgets import build_report
report = build_report(example_evaluation('pictures', per_cell=3), thumbnail=96)
report
'''
READ = "print('python has', report.threshold, report.counts['tp'], report.cell, report.tab, report.slice, report.by)"
SET = "report.tab, report.threshold, report.slice, report.by = 'threshold', .25, 'type=mono', 'type and line'"
OPEN = "report.slice = ''; report.tab, report.cell = 'confusion', ['functional', 'defective']; report.item = report.examples.id[0]"

COMPARE = '''
import numpy as np
from sft_nb.records import make_predictions
from sft_nb.report.widgets import compare_runs
rng = np.random.default_rng(0)
truth, shared = rng.integers(0, 2, 200), rng.normal(size=200)
say = lambda strength: make_predictions(range(200), truth, 1/(1 + np.exp(-(strength*(2*truth - 1) + shared + .4*rng.normal(size=200)))), task='single_label', labels=['fine', 'broken'])
comparer = compare_runs(dict(good=say(1.2), better=say(1.9)), metrics=['accuracy', 'roc_auc'])
comparer
'''
DIFFERENCE = "print('python has', comparer.pair, f'{comparer.differences.difference[0]:+.3f}')"

@pytest.mark.parametrize('app', ['lab', 'notebook'])
def test_hand_and_python_see_the_same(lab, browser, root, app):
    page, wrong = lab.open(browser, f'report-{app}', (SETUP, READ, SET, OPEN), app=app)
    lab.run(page, 0)
    report = page.locator('.sft-report')
    report.wait_for(timeout=60_000)
    assert 'FAIL' in report.locator('.verdict').inner_text()

    report.locator('[data-tab=threshold]').click()
    slider = report.locator('input[type=range]')
    before = report.locator('[data-count="true positives"]').inner_text()
    slider.focus()
    for _ in range(30): page.keyboard.press('ArrowRight')
    shown = report.locator('[data-count="true positives"]').inner_text()
    assert report.locator('output').inner_text() == '0.80' and shown != before
    said = lab.run(page, 1).inner_text()
    assert f"python has 0.8 {shown} [] threshold" in said

    lab.run(page, 2)
    page.wait_for_function('document.querySelector(".sft-report output").textContent === "0.25"')
    assert slider.input_value() == '0.25'
    report.locator('[data-tab=metrics]').click()
    assert report.locator('[data-panel=metrics] select.slice').input_value() == 'type=mono'

    report.locator('[data-tab=slices]').click()
    assert report.locator('.slice-column').input_value() == 'type and line' and report.locator('[data-panel=slices] .forest tbody tr').count() == 5
    report.locator('.slice-column').select_option('line')

    report.locator('[data-tab=confusion]').click()
    report.locator('td button[data-target=defective][data-prediction=functional]').click()
    assert report.locator('[data-panel=confusion] .item').count() == 3
    (root/'artefacts').mkdir(exist_ok=True)
    page.screenshot(path=root/'artefacts'/f'report-jupyter{app}.png')
    page.wait_for_timeout(500)
    said = lab.run(page, 1).inner_text()
    assert "['defective', 'functional'] confusion type=mono line" in said

    lab.run(page, 3)
    dialog = report.locator('dialog')
    dialog.wait_for(state='visible')
    assert 'Wrong: defective, truly functional' in dialog.inner_text()
    page.screenshot(path=root/'artefacts'/f'report-jupyter{app}-item.png')
    page.keyboard.press('Escape')
    assert not dialog.is_visible()
    assert page.evaluate('document.querySelector(".sft-report").scrollWidth <= document.querySelector(".sft-report").clientWidth')
    assert wrong == []
    page.close()

VOILA = SETUP + '''
from ipywidgets import HTML, VBox
said = HTML()
def tell(change):
    said.value = f"python has {report.threshold} {report.counts['tp']} {report.cell}"
    if change['name'] == 'cell': report.slice, report.tab = 'type=mono', 'metrics'
report.observe(tell, ['threshold', 'cell'])
VBox([report, said])
'''

def test_voila(lab, browser, root):
    "No cells and no hand on Python; the kernel answers all the same, wide and narrow."
    page, wrong = lab.open(browser, 'voila', (VOILA,), app='voila')
    report = page.locator('.sft-report')
    report.wait_for(timeout=60_000)
    for width in (390, 1280):
        page.set_viewport_size(dict(width=width, height=1000))
        for name in [t.get_attribute('data-tab') for t in report.locator('[role=tab]').all()]:
            report.locator(f'[data-tab={name}]').click()
            assert len(report.locator(f'[data-panel={name}]').inner_text()) > 60
            assert page.evaluate('document.querySelector(".sft-report").scrollWidth <= document.querySelector(".sft-report").clientWidth'), name
        report.locator('[data-tab=threshold]').click()
        page.screenshot(path=root/'artefacts'/f'report-voila-{width}.png')
    report.locator('input[type=range]').focus()
    for _ in range(30): page.keyboard.press('ArrowRight')
    shown = report.locator('[data-count="true positives"]').inner_text()
    page.get_by_text(f'python has 0.8 {shown} []').wait_for()
    report.locator('[data-tab=confusion]').click()
    report.locator('td button[data-target=defective][data-prediction=functional]').click()
    page.get_by_text("['defective', 'functional']").wait_for()
    report.locator('[data-panel=metrics] select.slice').wait_for() # Python has turned the page
    assert report.locator('[data-panel=metrics] select.slice').input_value() == 'type=mono'
    assert wrong == []
    page.close()

def test_the_comparer_shows_the_paired_difference(lab, browser, root):
    page, wrong = lab.open(browser, 'compare', (COMPARE, DIFFERENCE))
    lab.run(page, 0)
    report = page.locator('.sft-report')
    report.locator('[data-tab=pairs]').click(timeout=60_000)
    report.locator('.pair-0').select_option('better')
    shown = report.locator('[data-key=accuracy] b').inner_text()
    page.screenshot(path=root/'artefacts'/'comparer-jupyterlab.png')
    page.wait_for_timeout(500)
    said = lab.run(page, 1).inner_text()
    assert "['better', 'good']" in said and shown.startswith('+') and abs(float(said.split()[-1]) - float(shown)) < .006
    assert wrong == []
    page.close()

@pytest.mark.parametrize('width', [1280, 390])
def test_the_tutorial_runs(lab, browser, root, width):
    "Cleaning labels: every cell of it, then each tab of its report, an open cell of the confusion matrix, one label changed by key and taken back, and the difference of two runs."
    cells = [''.join(c['source']) for c in json.loads((root/'nbs'/'tutorials'/'03_clean_your_labels.ipynb').read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    if width == 390: cells = cells[:next(i for i, c in enumerate(cells) if 'LabelCleaner(' in c) + 1] # the rest was seen wide
    page, wrong = lab.open(browser, f'tutorial-{width}', cells, width=width)
    for i in range(len(cells)):
        assert 'Traceback' not in lab.run(page, i, 240).inner_text(), cells[i]
    cleaner = page.locator('.sft-clean')
    if width == 390:
        cleaner.locator('.place').click()
        label = cleaner.locator('.label').inner_text()
        page.keyboard.press('2' if label == 'functional' else '1')
        cleaner.locator('.sofar', has_text='1 of').wait_for()
        page.keyboard.press('u')
        cleaner.locator('.sofar', has_text='0 of').wait_for()
        assert cleaner.locator('.label').inner_text() == label
    else:
        report, comparer = page.locator('.sft-report:has([data-tab=metrics])'), page.locator('.sft-report:has([data-tab=pairs])')
        names = [t.get_attribute('data-tab') for t in report.locator('[role=tab]').all()]
        assert {'metrics', 'comparisons', 'confusion', 'threshold', 'errors', 'slices', 'calibration', 'provenance'} <= set(names)
        for name in names:
            report.locator(f'[data-tab={name}]').click()
            assert len(report.locator(f'[data-panel={name}]').inner_text()) > 60
        report.locator('[data-tab=confusion]').click()
        report.locator('td button[data-target=defective][data-prediction=functional]').click()
        assert report.locator('[data-panel=confusion] .item img').count() > 0
        comparer.locator('[data-tab=pairs]').click()
        comparer.locator('.pair-1').select_option('careless')
        assert 'better' in comparer.locator('[data-key=log_loss]').inner_text()
    page.screenshot(path=root/'artefacts'/f'tutorial-jupyterlab-{width}.png')
    assert wrong == []
    page.close()
