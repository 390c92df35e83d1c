"The live report in JupyterLab: what the hand does, Python sees, and what Python sets, the screen shows."
import os
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

pytestmark = pytest.mark.browser

SETUP = '''
from sft_nb.report.example import example_evaluation
from sft_nb.report.widgets import build_report
report = build_report(example_evaluation('pictures', per_cell=3), thumbnail=96)
report
'''
READ = "print('python has', report.threshold, report.counts['tp'], report.cell, report.tab, report.slice)"
SET = "report.tab, report.threshold, report.slice = 'threshold', .25, 'type=mono'"
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

def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A JupyterLab of its own, with no settings of this user, and one notebook."
    pytest.importorskip('jupyterlab')
    home = tmp_path_factory.mktemp('lab')
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.strip()) for c in (SETUP, READ, SET, OPEN, COMPARE, DIFFERENCE)],
                                            metadata=dict(kernelspec=dict(name='python3', display_name='Python 3'))), home/'report.ipynb')
    port, dirs = free_port(), {k: str(home/k.lower()) for k in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'IPYTHONDIR', 'JUPYTERLAB_SETTINGS_DIR', 'JUPYTERLAB_WORKSPACES_DIR')}
    with open(home/'log.txt', 'w') as log:
        server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=t',
                                   f'--ServerApp.root_dir={home}', '--LabApp.news_url=None', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate'],
                                  stdout=log, stderr=log, env={**os.environ, **dirs}, cwd=home)
    for _ in range(120):
        try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api?token=t', timeout=1); break
        except OSError: time.sleep(.5)
        if server.poll() is not None: pytest.fail((home/'log.txt').read_text()[-2000:])
    yield f'http://127.0.0.1:{port}/lab/tree/report.ipynb?token=t'
    server.terminate()
    server.wait(20)

def run_cell(page, i):
    "Run the `i`-th cell; returns its output area."
    cell = page.locator('.jp-CodeCell').nth(i)
    cell.locator('.jp-InputPrompt').click()
    page.keyboard.press('Control+Enter')
    page.wait_for_function('i => /\\[\\d+\\]/.test(document.querySelectorAll(".jp-CodeCell")[i].querySelector(".jp-InputPrompt").textContent)', arg=i, timeout=60_000)
    return cell.locator('.jp-Cell-outputArea')

def test_hand_and_python_see_the_same(lab, browser, root):
    page = browser.new_page(viewport=dict(width=1400, height=1500))
    wrong = []
    page.on('pageerror', lambda e: wrong.append(str(e)))
    page.goto(lab)
    page.wait_for_selector('text=/\\| Idle/', timeout=90_000)
    run_cell(page, 0)
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
    said = run_cell(page, 1).inner_text()
    assert f"python has 0.8 {shown} [] threshold" in said

    run_cell(page, 2)
    page.wait_for_function('document.querySelector(".sft-report output").textContent === "0.25"')
    assert slider.input_value() == '0.25'
    report.locator('[data-tab=metrics]').click()
    assert report.locator('[data-panel=metrics] select.slice').input_value() == 'type=mono'

    report.locator('[data-tab=confusion]').click()
    report.locator('td button[data-target=defective][data-prediction=functional]').click()
    assert report.locator('[data-panel=confusion] .item').count() == 3
    (root/'artefacts').mkdir(exist_ok=True)
    page.screenshot(path=root/'artefacts'/'report-jupyterlab.png')
    page.wait_for_timeout(500)
    said = run_cell(page, 1).inner_text()
    assert "['defective', 'functional'] confusion type=mono" in said

    run_cell(page, 3)
    dialog = report.locator('dialog')
    dialog.wait_for(state='visible')
    assert 'Wrong: defective, truly functional' in dialog.inner_text()
    page.screenshot(path=root/'artefacts'/'report-jupyterlab-item.png')
    page.keyboard.press('Escape')
    assert not dialog.is_visible()
    assert page.evaluate('document.querySelector(".sft-report").scrollWidth <= document.querySelector(".sft-report").clientWidth')
    assert wrong == []
    page.close()

def test_the_comparer_shows_the_paired_difference(lab, browser, root):
    page = browser.new_page(viewport=dict(width=1400, height=1500))
    page.goto(lab)
    page.wait_for_selector('text=/\\| Idle/', timeout=90_000)
    run_cell(page, 4)
    report = page.locator('.sft-report').last
    report.locator('[data-tab=pairs]').click(timeout=60_000)
    report.locator('.pair-0').select_option('better')
    shown = report.locator('[data-key=accuracy] b').inner_text()
    page.screenshot(path=root/'artefacts'/'comparer-jupyterlab.png')
    page.wait_for_timeout(500)
    said = run_cell(page, 5).inner_text()
    assert "['better', 'good']" in said and shown.startswith('+') and abs(float(said.split()[-1]) - float(shown)) < .006
    page.close()
