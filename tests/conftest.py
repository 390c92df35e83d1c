"Fixtures that more than one room needs, and the way tests are dealt out to workers."
import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `pytest -n N`, a file stays in one worker, so that its fixtures are made once. Notebooks do not need each
    other: each goes where there is room."""
    from xdist.scheduler import LoadScopeScheduling
    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid): return nodeid if '::test_runs[' in nodeid else nodeid.split('::')[0]
    return ByFile(config, log)

def pytest_collection_modifyitems(items):
    "The long ones first, so that no worker is left alone with one of them at the end."
    def order(item):
        if item.path.name == 'test_docs.py': return -1e9
        return -Path(item.callspec.params['run']).stat().st_size if item.originalname == 'test_runs' else 0
    items.sort(key=order)

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
