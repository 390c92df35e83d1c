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

@pytest.mark.parametrize('run', [str(NBS/p) for p in PAGES], ids=PAGES)
def test_runs(run, monkeypatch, capfd):
    "As `nbdev-test` does it, in this process, so that coverage sees what the notebooks use."
    monkeypatch.chdir(ROOT)
    interrupt = signal.getsignal(signal.SIGINT) # nbdev takes Ctrl-C for itself
    try: passed, seconds = run_notebook(run, skip_flags=get_config(NBS).tst_flags, basepath=ROOT, profile=False)
    finally:
        if threading.current_thread() is threading.main_thread(): signal.signal(signal.SIGINT, interrupt)
        if 'matplotlib.pyplot' in sys.modules: sys.modules['matplotlib.pyplot'].close('all')
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
