"The notebooks: each one runs, is clean, is exported, and has the shape of a page."
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import return_memory
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook

ROOT = Path(__file__).parents[1]
NBS = ROOT/'nbs'
PAGES = sorted(p.relative_to(NBS).as_posix() for p in NBS.rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(NBS).parts))
MODULES = [p for p in PAGES if p[0].isdigit()]

def cells(page: str) -> list:
    "The cells as (kind, source)."
    return [(c['cell_type'], ''.join(c['source'])) for c in json.loads((NBS/page).read_text(encoding='utf-8'))['cells']]

# --- Each runs -----------------------------------------------------------------------------------------------------

# Pages that train for minutes run on fewer items here, and say nothing then about what was learnt: page → (what stands there, what is run instead).
SMALLER = {
    'tutorials/07_sentiment.ipynb': [('[reviews.split == part], 1000, seed=0)', '[reviews.split == part], 240, seed=0)'), ("assert evaluation.get('accuracy').low > .75", "assert evaluation.get('accuracy').low > .5"), ('sample_items(test, 150, seed=0)', 'sample_items(test, 40, seed=0)'),
                                     ("assert against.low['linear probe', 'accuracy'] > 0 and against.high['linear probe', 'log_loss'] < 0", 'assert len(against) == 6'), ("answers.prediction.tolist() == ['negative', 'positive']", 'len(answers) == 2')],
    'tutorials/08_question_answering.ipynb': [('train=800, valid=150, test=300', 'train=60, valid=40, test=60'), ("assert forced.set_index(['metric', 'baseline']).difference['token_f1', 'frozen'] > 0", 'assert len(forced) == 4')],
    'tutorials/09_teach_a_small_gpt.ipynb': [('.head(160)', '.head(30)'), ('max_new_tokens=80', 'max_new_tokens=24'), ("len(encoded['train']) == 96 and len(encoded['test']) == 48", "len(encoded['test']) == 9"), ('sample(load_general(\'squad\'), 30), sample(load_instruct(\'dialogues\'), 30)', 'sample(load_general(\'squad\'), 6), sample(load_instruct(\'dialogues\'), 6)'),
                                             ('assert gain.low.iloc[0] > 0 and gain.low.iloc[1] > 0', 'assert len(gain) == 4')],
    'tutorials/11_run_a_benchmark.ipynb': [("tasks={k: whole.tasks[k] for k in ('lights', 'films')}, seeds=[0, 1])", "tasks={k: whole.tasks[k] | dict(data=whole.tasks[k]['data'] | dict(max_items=160), model=dict(size=32) if k == 'lights' else dict(max_length=16)) for k in ('lights', 'films')}, seeds=[0, 1])")],
    'tutorials/10_meet_a_standard.ipynb': [('max_items=900', 'max_items=240'), ('epochs=3', 'epochs=1')],
    '446_train.few_labels.ipynb': [("sample_items(side('test'), 500, seed=0)", "sample_items(side('test'), 60, seed=0)"), ('train=dict(contrast_steps=16, ', 'train=dict(contrast_steps=4, epochs=1, '), ('(2, 8, 32)', '(2, 8)'), ('[2, 8, 32]', '[2, 8]'), ('draws=3', 'draws=2'), ("'3 seeds'", "'2 seeds'")]}

def passes(path: str) -> bool:
    "As `nbdev-test` does it."
    return run_notebook(path, skip_flags=get_config(NBS).tst_flags, basepath=ROOT, profile=False)[0]

def make_smaller(path: str, folder: Path) -> str:
    "A copy with fewer items, if the page is one of `SMALLER`; the page itself if not."
    page = Path(path).relative_to(NBS).as_posix()
    if page not in SMALLER: return path
    nb = json.loads(Path(path).read_text(encoding='utf-8'))
    for old, new in SMALLER[page]:
        assert sum(old in ''.join(c['source']) for c in nb['cells']), f'{page} has no {old!r}'
        for c in nb['cells']: c['source'] = ''.join(c['source']).replace(old, new)
    (folder/Path(path).name).write_text(json.dumps(nb), encoding='utf-8')
    return str(folder/Path(path).name)

@pytest.mark.parametrize('run', [str(NBS/p) for p in PAGES], ids=PAGES)
def test_runs(run, temporary, monkeypatch, capfd):
    "In this process, so that coverage sees what the notebooks use; tutorials, which train, in one of their own, whose memory goes back to the system."
    path = make_smaller(run, temporary)
    if Path(run).parent.name == 'tutorials':
        code = 'import sys; from test_notebooks import passes; sys.exit(not passes(sys.argv[1]))'
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, path], cwd=ROOT, env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT/'tests'), os.environ.get('PYTHONPATH', '')])), capture_output=True, text=True)
        assert done.returncode == 0, re.sub(r'\x1b\[[\d;]*m', '', done.stderr)[-6000:]
        return
    monkeypatch.chdir(ROOT)
    interrupt = signal.getsignal(signal.SIGINT) # nbdev takes Ctrl-C for itself
    try: passed = passes(path)
    finally:
        if threading.current_thread() is threading.main_thread(): signal.signal(signal.SIGINT, interrupt)
        if 'matplotlib.pyplot' in sys.modules: sys.modules['matplotlib.pyplot'].close('all')
        return_memory()
    assert passed, re.sub(r'\x1b\[[\d;]*m', '', capfd.readouterr().err)[-6000:]

# --- Each is clean and exported -------------------------------------------------------------------------------------

@pytest.mark.parametrize('page', PAGES)
def test_clean(page):
    "`make clean` would change nothing."
    before = json.loads((NBS/page).read_text(encoding='utf-8'))
    after = json.loads(json.dumps(before))
    clean_nb(after)
    assert before == after, 'Run `make clean`.'
    assert (NBS/page).read_text(encoding='utf-8').endswith('}\n')

@pytest.fixture(scope='module')
def exported(tmp_path_factory) -> Path:
    "A copy in which everything has been exported anew."
    copy = tmp_path_factory.mktemp('exported')
    shutil.copytree(NBS, copy/'nbs', ignore=shutil.ignore_patterns('.*'), symlinks=True)
    for name in ['pyproject.toml', 'settings.ini', '_quarto.yml']: shutil.copy(ROOT/name, copy/name)
    shutil.copytree(ROOT/'sft_nb', copy/'sft_nb', ignore=shutil.ignore_patterns('__pycache__'))
    for path in (copy/'sft_nb').rglob('*.py'):
        if path.name != '__init__.py': path.unlink()
    environment = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'PYTHONPATH': str(copy)}
    done = subprocess.run([sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()'], cwd=copy, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return copy

def files(folder: Path) -> dict:
    return {p.relative_to(folder).as_posix(): p.read_text(encoding='utf-8') for p in folder.rglob('*.py')}

def test_exported(exported):
    "`make export` would change nothing, and no module is left over from a notebook that is gone."
    here, there = files(ROOT/'sft_nb'), files(exported/'sft_nb')
    assert sorted(here) == sorted(there), 'Run `make export`, and remove modules without a notebook.'
    assert [n for n in here if here[n] != there[n]] == [], 'Run `make export`.'
    assert (NBS/'llms.txt').read_text() == (exported/'nbs'/'llms.txt').read_text(), 'Run `make export`.'

def test_every_package_is_one(exported):
    for folder in {p.parent for p in (exported/'sft_nb').rglob('*.py')}: assert (folder/'__init__.py').exists(), folder

# --- Each has the shape of a page -------------------------------------------------------------------------------------

@pytest.mark.parametrize('page', PAGES)
def test_begins_with_a_title_and_a_sentence(page):
    kind, source = cells(page)[0]
    assert kind == 'markdown' and re.fullmatch(r'# \S[^\n]*\n\n> [^\n]+(\n\n.*)?', source, re.S), source[:200]

@pytest.mark.parametrize('page', MODULES)
def test_is_a_module(page):
    "Its module is the one in its name; an exported paragraph says what it is for; the last cell exports."
    found = cells(page)
    assert found[1] == ('code', f'#| default_exp {Path(page).stem.split("_", 1)[1]}')
    kind, intro = found[2]
    assert kind == 'markdown' and intro.startswith('#| export\n') and 2 <= len(intro.splitlines()) - 1 <= 12
    assert found[-2] == ('markdown', '## Export -')
    kind, last = found[-1]
    assert kind == 'code' and last.startswith('#| hide\n') and 'nbdev_export()' in last
    assert len(found) <= 90, f'{len(found)} cells: split it'

@pytest.mark.parametrize('page', PAGES)
def test_cells(page):
    "Imports stand apart, nothing is skipped, and an exported cell fits on a screen."
    for kind, source in cells(page):
        if kind != 'code': continue
        wild = set(re.findall(r'^\s*from (\S+) import \*', source, re.M))
        assert 'skip_exec' not in source and wild <= (set() if page in MODULES else {'sft_nb.all'}), source
        if re.match(r'#\|\s*export', source):
            lines = [l for l in source.splitlines() if l.strip()]
            assert len(lines) <= 60, f'{len(lines)} lines: {source[:80]}'
            body = re.sub(r'\([^)]*\)', '', '\n'.join(lines[1:])).splitlines()
            are_imports = [bool(re.match(r'(import|from)\s', l)) for l in body if not l.startswith('#')]
            assert all(are_imports) or not any(are_imports), f'imports and code in one cell: {source[:80]}'

@pytest.mark.parametrize('page', [p for p in PAGES if p != '90_all.ipynb']) # which has nothing to show
def test_outputs_are_saved_and_small(page):
    found = json.loads((NBS/page).read_text(encoding='utf-8'))['cells']
    outputs = [o for c in found if c['cell_type'] == 'code' for o in c['outputs']]
    assert outputs, 'Run `make notebooks`: a page without outputs shows nothing on the site.'
    assert not [o for o in outputs if o['output_type'] == 'error']
    assert (NBS/page).stat().st_size < 3e6, 'smaller figures, please'
    text = json.dumps(outputs)
    assert not re.search(rf'/(home|root|Users)/|{re.escape(str(ROOT))}/', text), 'an output shows a path of this machine'
