"Fixtures that more than one room needs, and the way tests are dealt out to workers."
import ctypes
import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
os.environ.update(HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1') # before anything imports them: tests ask no hub
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `pytest -n N`, a file stays in one worker, so that its fixtures are made once. Notebooks do not need each
    other: each goes where there is room."""
    from xdist.scheduler import LoadScopeScheduling
    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid): return nodeid if '::test_runs[' in nodeid else nodeid.split('::')[0]
    return ByFile(config, log)

def pytest_sessionstart(session):
    "A full disk fails hundreds of tests with other messages than its own."
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if free < 5: pytest.exit(f'{tempfile.gettempdir()} has {free:.1f} GB left; the tests need up to 5', returncode=2)

LONG = 'test_train_survive.py', 'test_chat_run.py', 'test_bench_cluster.py', 'test_train_search.py', 'test_few_labels.py', 'test_cli.py' # minutes

def pytest_collection_modifyitems(items):
    "The long ones first, so that no worker is left alone with one of them at the end."
    def order(item):
        if item.path.name == 'test_docs.py': return -1e9
        if item.path.name in LONG: return LONG.index(item.path.name) - 2e6
        return -Path(item.callspec.params['run']).stat().st_size if item.originalname == 'test_runs' else 0
    items.sort(key=order)

def return_memory():
    "What networks held goes back to the system, also where `keep_pages` told the C library to keep it: a worker runs hundreds of tests."
    gc.collect()
    getattr(ctypes.CDLL(None), 'malloc_trim', int)(0) # glibc's

@pytest.fixture(scope='module', autouse=True)
def _return_memory():
    yield
    return_memory()

@pytest.fixture
def temporary(monkeypatch):
    "What `tempfile` makes lands here and is gone after the test: pages leave weights and checkpoints. Its path is short, since sockets are made in it."
    with tempfile.TemporaryDirectory(prefix='t', ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv('TMPDIR', folder)
        monkeypatch.setattr(tempfile, 'tempdir', None)
        yield Path(folder)

@pytest.fixture(scope='session')
def root() -> Path:
    "The top folder of the repository."
    return ROOT

@pytest.fixture(scope='session')
def browser():
    "A headless Chromium, driven by Playwright. Skips, and says why, where there is none."
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = 'no Chromium or Chrome on PATH; install your system\'s `chromium` package'
        if os.environ.get('SFT_NB_REQUIRE_BROWSER'): pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'])
        yield browser
        browser.close()

class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='session')
def serve():
    "A function from a folder to the address where it is served while the tests last."
    servers = []
    def start(folder) -> str:
        server = ThreadingHTTPServer(('127.0.0.1', 0), partial(_Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f'http://127.0.0.1:{server.server_port}'
    yield start
    for server in servers: server.shutdown(); server.server_close()

def free_port() -> int:
    "One that nobody listens at."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

class Lab:
    "A Jupyter server of its own, with no settings of this user, for JupyterLab, Notebook 7 and Voilà; `home` is its folder."
    def __init__(self, home: Path):
        self.home = home
        self.port = free_port()
        dirs = {k: str(home/k.lower()) for k in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'IPYTHONDIR', 'JUPYTERLAB_SETTINGS_DIR', 'JUPYTERLAB_WORKSPACES_DIR')}
        all_cells_drawn = home/'jupyterlab_settings_dir'/'@jupyterlab'/'notebook-extension'/'tracker.jupyterlab-settings'
        all_cells_drawn.parent.mkdir(parents=True)
        all_cells_drawn.write_text(json.dumps(dict(windowingMode='none')))
        with open(home/'log.txt', 'w') as log:
            self.server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={self.port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=t',
                                            f'--ServerApp.root_dir={home}', '--LabApp.news_url=None', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate'],
                                           stdout=log, stderr=log, env={**os.environ, **dirs}, cwd=home)
        for _ in range(120):
            try: urllib.request.urlopen(f'http://127.0.0.1:{self.port}/api?token=t', timeout=1); break
            except OSError: time.sleep(.5)
            if self.server.poll() is not None: pytest.fail((home/'log.txt').read_text()[-2000:])

    def open(self, browser, name: str, cells, width=1400, height=1500, app='lab'):
        "A page with a new notebook of these code cells, its kernel idle, and a list of what goes wrong in it. `app`: JupyterLab, `notebook` (7 or newer), or `voila`, which has run the cells."
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.strip()) for c in cells], metadata=dict(kernelspec=dict(name='python3', display_name='Python 3')))
        nbformat.write(notebook, self.home/f'{name}.ipynb')
        page, wrong = browser.new_page(viewport=dict(width=width, height=height)), []
        page.on('pageerror', lambda e: wrong.append(str(e)))
        # Notebook 7 says that it is idle before it has a kernel, and then what the kernel does, which fades when that is ready.
        place, ready = dict(lab=(f'lab/workspaces/{name}/tree/', 'text=/\\| Idle/'), notebook=('notebooks/', '.jp-NotebookKernelStatus-fade:not(.jp-NotebookKernelStatus-info)'), voila=('voila/render/', '.widget-subarea, .jp-OutputArea-output'))[app]
        page.goto(f'http://127.0.0.1:{self.port}/{place}{name}.ipynb?token=t')
        page.wait_for_selector(ready, timeout=90_000)
        if app == 'lab' and width < 600: page.keyboard.press('Control+b') # the list of files leaves no room
        wrong.clear() # what an application complains of before anything of ours is there
        return page, wrong

    @staticmethod
    def run(page, i: int, timeout=60):
        "Run the `i`-th code cell; returns its output area."
        cell = page.locator('.jp-CodeCell').nth(i)
        cell.locator('.jp-InputPrompt').click()
        page.keyboard.press('Control+Enter')
        page.wait_for_function('i => /\\[\\d+\\]/.test(document.querySelectorAll(".jp-CodeCell")[i].querySelector(".jp-InputPrompt").textContent)', arg=i, timeout=1000 * timeout)
        return cell.locator('.jp-Cell-outputArea')

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A running `Lab`."
    pytest.importorskip('jupyterlab')
    lab = Lab(tmp_path_factory.mktemp('lab'))
    yield lab
    lab.server.terminate()
    lab.server.wait(20)
