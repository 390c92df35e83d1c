"The site as a reader meets it: built once, without Quarto, and served over http to a real browser."
import ast
import inspect
import json
import os
import stat
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT/'docs'))
import build as builder
import readme
import sidebar
from apidoc import ApiDocs, signature
from notebooks import html_name, list_notebooks

class Page(HTMLParser):
    "Links, ids and the text of the elements that the tests ask about."
    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids, self.images = [], [], [], []
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if 'id' in attrs: self.ids.append(attrs['id'])
        if tag == 'a' and attrs.get('href'): self.links.append(attrs['href'])
        if tag == 'link' and attrs.get('rel') == 'stylesheet': self.loads.append(attrs['href'])
        if tag in ('img', 'script') and attrs.get('src'): self.loads.append(attrs['src'])
        if tag == 'img': self.images.append(attrs)

def run_build(out, *args, **env):
    return subprocess.run([sys.executable, ROOT/'docs'/'build.py', '--out', out, *args], capture_output=True, text=True, cwd=ROOT,
                          env=os.environ | env)

@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('site')/'_docs'
    done = run_build(out, '--engine', 'pandoc')
    assert done.returncode == 0, done.stderr[-3000:]
    return out

@pytest.fixture(scope='module')
def pages(site) -> dict:
    return {p.relative_to(site).as_posix(): Page(p.read_text(encoding='utf-8')) for p in site.rglob('*.html') if 'pagefind' not in p.parts}

def modules():
    "Names of the modules that notebooks make."
    return [c for nb in (ROOT/'nbs').glob('[0-9]*.ipynb') for c in [nb.stem.split('_', 1)[1]]]

def test_every_notebook_is_a_page(site, pages):
    assert set(pages) == {html_name(n) for group in list_notebooks().values() for n in group}
    assert 'index.html' in pages

def broken(pages: dict, site: Path) -> list:
    "Links and files of our own that lead nowhere."
    out = []
    for page, parsed in pages.items():
        for target in parsed.links + parsed.loads:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc: continue
            path = os.path.normpath(os.path.join(os.path.dirname(page), unquote(parts.path))) if parts.path else page
            if not (site/path).is_file(): out.append(f'{page}: {target}')
            elif parts.fragment and path in pages and unquote(parts.fragment) not in pages[path].ids: out.append(f'{page}: {target} (no such anchor)')
    return out

def test_every_internal_link_resolves(site, pages):
    assert sum(len(p.links) for p in pages.values()) > 50
    assert broken(pages, site) == []

def test_the_link_check_can_fail(site, pages):
    bad = Page('<a href="nowhere.html">x</a><a href="core.html#nothing">y</a><img src="no.png"><a href="core.html#inputerror">z</a>')
    assert len(broken(pages | {'bad.html': bad}, site)) == 3

def test_a_page_loads_nothing_from_elsewhere(pages):
    assert [(n, t) for n, p in pages.items() for t in p.loads if urlsplit(t).netloc] == []

def test_links_stay_on_a_local_site(pages):
    address = builder.get_config(ROOT).doc_url
    assert [(n, t) for n, p in pages.items() for t in p.links if t.startswith(address)] == []

def test_images_have_a_text(pages):
    assert [(n, i) for n, p in pages.items() for i in p.images if not i.get('alt')] == []

@pytest.mark.parametrize('module', modules())
def test_reference_part_of(module, site, pages):
    "Each public function has its anchor, once, and a table with all its parameters."
    loaded = import_module(f'sft_nb.{module}')
    page = html_name(module + '.ipynb')
    text = (site/page).read_text(encoding='utf-8')
    for name in loaded.__all__:
        symbol = getattr(loaded, name)
        if not (inspect.isfunction(symbol) or inspect.isclass(symbol)) or symbol.__module__ != loaded.__name__: continue
        assert pages[page].ids.count(name.lower()) == 1, f'{page}#{name.lower()}'
        part = text.split(f'id="{name.lower()}"', 1)[1].split('class="api', 1)[0]
        names = [p for p in inspect.signature(symbol).parameters] if inspect.isfunction(symbol) else []
        if names: assert 'class="parameters"' in part, f'{name} has no table of parameters'
        assert [n for n in names if f'{n}</code></th>' not in part] == [], name

def test_a_table_says_what_the_code_says(site):
    part = (site/'core.html').read_text(encoding='utf-8').split('id="suggest_names"', 1)[1].split('</table>')[0]
    row = part.split('<tr><th scope="row"><code>n</code></th>')[1].split('</tr>')[0]
    assert row == '<td><code>int</code></td><td><code>3</code></td><td>at most so many</td>'
    assert '<em>returns</em>' in part

def test_signature():
    def f(a, *rest, b: int = 1, c=print, **more): pass
    assert signature(f, 'f') == 'f(a, *rest, b=1, c=print, **more)'
    def g(a, *, b='x'): pass
    assert signature(g, 'm.g') == "m.g(a, *, b='x')"
    assert signature(g, 'm.g', width=10) == "m.g(a, *,\n    b='x')"
    assert signature(lambda: 0, 'h') == 'h()'

def test_docstrings_are_linked_once(site):
    text = (site/'records.html').read_text(encoding='utf-8')
    assert '](http' not in text and '<code>make_predictions</code></a>' in text

def test_comments_are_escaped():
    class NoLinks:
        def doc(self, name): return None
    assert ApiDocs(NoLinks()).inline('a <b> `x<y`') == 'a &lt;b&gt; <code>x&lt;y</code>'

def test_hidden_cells_stay_hidden(site):
    text = (site/'core.html').read_text(encoding='utf-8')
    assert 'nbdev_export' not in text and 'default_exp' not in text and 'Export -' not in text

def test_every_module_has_a_markdown_twin(site):
    "The address that a module's docstring gives."
    for module in modules():
        address = import_module(f'sft_nb.{module}').__doc__.rsplit('Docs: ', 1)[1].strip()
        assert (site/address.removeprefix(builder.get_config(ROOT).doc_url)).is_file(), address

# --- Search, in a browser ------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def address(site, serve) -> str: return serve(site.parent) + '/_docs' # below the top, as on a code host

@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={'width': 1280, 'height': 900})
    page = context.new_page()
    page.problems = []
    page.on('pageerror', lambda e: page.problems.append(str(e)))
    page.on('requestfailed', lambda r: page.problems.append(r.url))
    yield page
    context.close()

@pytest.mark.browser
def test_search_finds(page, address):
    page.goto(f'{address}/records.html')
    page.keyboard.press('/')
    page.keyboard.type('stream')
    page.wait_for_selector('#results a')
    results = page.locator('#results a').evaluate_all('found => found.map(a => a.href)')
    assert any('/_docs/core.html' in r for r in results), results
    page.keyboard.press('ArrowDown')
    chosen = page.evaluate('document.activeElement.href')
    assert chosen == results[0]
    page.keyboard.press('Enter')
    page.wait_for_url(chosen)
    page.wait_for_selector('h1')
    assert page.problems == []

@pytest.mark.browser
def test_search_that_finds_nothing_says_so(page, address):
    page.goto(f'{address}/index.html')
    page.fill('#site-search', 'þþþþ')
    page.wait_for_function('document.querySelector("#search-status").textContent.includes("Nothing")')
    assert page.locator('#results a').count() == 0

@pytest.mark.browser
def test_narrow_screens(page, address, pages):
    "Nothing is wider than a phone, and the menu opens the list of pages."
    page.set_viewport_size({'width': 380, 'height': 800})
    wide = []
    for name in pages:
        page.goto(f'{address}/{name}')
        if page.evaluate('document.documentElement.scrollWidth > innerWidth'): wide.append(name)
    assert wide == []
    assert not page.locator('#sidebar').is_visible()
    page.click('#menu')
    assert page.locator('#sidebar').is_visible()

@pytest.mark.browser
def test_theme_is_kept(page, address):
    page.goto(f'{address}/core.html')
    before = page.evaluate('getComputedStyle(document.body).backgroundColor')
    page.click('#theme')
    page.goto(f'{address}/records.html')
    assert page.evaluate('getComputedStyle(document.body).backgroundColor') != before

# --- Quarto --------------------------------------------------------------------------------------------------------

def test_what_quarto_is_given(tmp_path):
    "Quarto itself is not needed: a stand-in records what it would have rendered."
    quarto = tmp_path/'bin'/'quarto'
    quarto.parent.mkdir()
    quarto.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/args\ncp -r . {tmp_path}/given\n')
    quarto.chmod(quarto.stat().st_mode | stat.S_IEXEC)
    done = run_build(tmp_path/'out', PATH=f'{quarto.parent}:{os.environ["PATH"]}')
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path/'args').read_text().split() == ['render', '--no-cache', '--output-dir', str(tmp_path/'out')]
    settings = yaml.safe_load((tmp_path/'given'/'_quarto.yml').read_text())
    for group in settings['website']['sidebar']['contents']:
        for name in group['contents']:
            nb = nbformat.read(tmp_path/'given'/name, as_version=4)
            nbformat.validate(nb)
            assert f"output-file: {Path(html_name(name)).name}" in nb.cells[0].source
    assert '{#inputerror .api}' in (tmp_path/'given'/'00_core.ipynb').read_text()
    assert (tmp_path/'given'/'nbdev.yml').exists()

# --- The files that are made from notebooks ------------------------------------------------------------------------

def test_sidebar_lists_every_notebook():
    assert sidebar.main(check=True), 'Run `make export`.'
    listed = [n for g in yaml.safe_load((ROOT/'_quarto.yml').read_text())['website']['sidebar']['contents'] for n in g['contents']]
    assert sorted(listed) == sorted(p.relative_to(ROOT/'nbs').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)

def test_sidebar_notices_a_new_notebook():
    text = (ROOT/'_quarto.yml').read_text()
    groups = list_notebooks() | {'Bench': ['70_bench.new.ipynb']}
    assert '          - 70_bench.new.ipynb\n' in sidebar.updated(text, groups) != text

def test_readme_is_current(): assert readme.main(check=True) == [], 'Run `make readme`.'

def test_readme_shows_outputs_and_moves_links(tmp_path):
    cell = lambda kind, source, **more: dict(cell_type=kind, source=[source], metadata={}, **more)
    cells = [cell('markdown', '# T\n[a](tutorials/x.ipynb) [b](../LICENSE) [c](https://d.org) ![p](images/p.png)'),
             cell('code', '#| hide\nsecret', outputs=[]), cell('markdown', '## Export -'),
             cell('code', 'f()', outputs=[dict(output_type='stream', name='stdout', text=['a ``` b\n']),
                                          dict(output_type='display_data', data={'image/png': 'iVBORw=='}),
                                          dict(output_type='display_data', data={'text/html': ['<style>x{}</style><table class="y"><tr></tr></table>']})])]
    (tmp_path/'index.ipynb').write_text(json.dumps(dict(cells=cells)))
    text, figures = readme.render_readme(tmp_path/'index.ipynb')
    assert '[a](nbs/tutorials/x.ipynb) [b](LICENSE) [c](https://d.org) ![p](nbs/images/p.png)' in text
    assert 'secret' not in text and 'Export' not in text and 'style' not in text
    assert '````\na ``` b\n````' in text and '<table><tr></tr></table>' in text
    assert figures == [b'\x89PNG'] and '](nbs/images/index-1.png)' in text

@pytest.mark.parametrize('source, only', [('import a\nfrom b import (c,\n  d)', True), ('# a\nimport a', True), ('import a\nx = 1', False), ('X = (1, 2)', False)])
def test_cells_that_only_import(source, only):
    ast.parse(source)
    assert builder.is_imports(source) is only

@pytest.mark.parametrize('target, page, url', [
    ('https://sft-nb.github.io/sft_nb/core.html#track', 'tutorials/a.html', '../core.html#track'),
    ('https://sft-nb.github.io/sft_nb/core.html#track', 'core.html', '#track'),
    ('https://sft-nb.github.io/sft_nb/core.html#_umask', 'a.html', None),
    ('../00_core.ipynb#track', 'tutorials/a.html', '../core.html#track'),
    ('../../LICENSE', 'tutorials/a.html', 'https://github.com/sft-nb/sft_nb/blob/main/LICENSE'),
    ('https://example.org/a', 'a.html', 'https://example.org/a')])
def test_where_a_link_leads(target, page, url):
    links = builder.Links(builder.get_config(ROOT), {'00_core.ipynb': 'core.html'}, {'core.html': {'track'}})
    assert links.resolve(target, page) == url
