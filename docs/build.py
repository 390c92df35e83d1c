"""Build the site into _docs/ from the notebooks and _quarto.yml.

Where Quarto is installed, it renders the notebooks that nbdev's processors prepare. Elsewhere pandoc, which Quarto
itself runs, does it: the pages' names and anchors are the same, and pagefind makes the search. Nothing in a notebook
is run: outputs are the saved ones, and the reference parts are read from the installed package."""
import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html import escape, unescape
from importlib import import_module
from pathlib import Path, PurePosixPath

import yaml
from fastcore.nbio import mk_cell, write_nb
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor, Processor
from nbdev.processors import (add_links, clean_magics, filter_stream_, hide_, hide_line, populate_language, rm_export,
                              rm_header_dash, strip_ansi, strip_hidden_metadata)
from nbdev.quarto import refresh_quarto_yml

sys.path.insert(0, str(Path(__file__).parent))
from apidoc import ApiDocs, html, public_names
from notebooks import html_name, list_notebooks
from readme import fenced

HERE = Path(__file__).parent
READER = ('markdown-yaml_metadata_block-citations-fancy_lists-example_lists-smart-blank_before_header-blank_before_blockquote'
          '+lists_without_preceding_blankline+autolink_bare_uris')

# --- From a notebook to a page's Markdown -----------------------------------------------------------------------

def api_processor(lookup, docs):
    "A processor that puts the documentation of what a cell exports in the place of the cell."
    class AddApiDocs(Processor):
        def begin(self):
            module = next((c.directives_['default_exp'] for c in self.nb.cells if 'default_exp' in c.directives_), None)
            for cell in reversed([c for c in self.nb.cells if c.cell_type == 'code' and 'export' in c.directives_]):
                names = public_names(cell.source)
                package = import_module(f'{get_config().lib_name}.{module}') if names else None
                parts = [docs.markdown(getattr(package, name), name) for name in names]
                if not is_imports(cell.source):
                    parts += [html('<details class="source" data-pagefind-ignore><summary>Source</summary>'),
                              fenced(cell.source, 'python'), html('</details>')]
                if parts: self.nb.cells.insert(cell.idx_ + 1, mk_cell('\n\n'.join(parts), 'markdown'))
    return AddApiDocs

def is_imports(source: str) -> bool:
    "Whether a cell says nothing but what it imports."
    lines = [l for l in re.sub(r'\([^)]*\)', '', source).splitlines() if l.strip() and not l.lstrip().startswith('#')]
    return all(re.match(r'(import|from)\s', l) for l in lines)

def process_notebook(path: Path, lookup, docs):
    "The notebook as it shall be seen: nothing hidden, names linked, documentation in the place of exported code."
    add_links.__globals__['NbdevLookup'] = lambda: lookup # made once, not once a cell
    procs = [FrontmatterProc, populate_language, api_processor(lookup, docs), strip_ansi, hide_line, filter_stream_,
             rm_header_dash, rm_export, clean_magics, hide_, add_links, strip_hidden_metadata]
    processor = NBProcessor(path, procs, rm_directives='quarto')
    processor.process()
    return processor.nb

def page_markdown(nb, figures: dict, stem: str) -> str:
    "The cells as one Markdown text. Figures are added to `figures`, by their file's name."
    parts, said = [], ''
    for cell in nb.cells:
        options = dict(re.findall(r'^#\|\s*([\w-]+):\s*(.*)$', cell.source, re.M))
        source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
        if cell.cell_type == 'markdown':
            parts.append(source)
            said = source
        if cell.cell_type != 'code': continue
        if source and options.get('echo') != 'false': parts.append(fenced(source, cell.metadata.get('language', 'python')))
        if options.get('output') == 'false': continue
        alt = options.get('fig-alt', '').strip('"\'') or last_sentence(said)
        parts += [output_markdown(o, figures, stem, alt) for o in cell.get('outputs', [])]
    return '\n\n'.join(p for p in parts if p) + '\n'

def last_sentence(text: str) -> str:
    "What the text before a figure last said: the next best thing to a description of the figure."
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)|[`*#]', lambda m: m[1] or '', text).strip()
    return re.split(r'(?<=[.:])\s+', text)[-1].rstrip(':') if text else 'Output of the code above'

def output_markdown(output, figures: dict, stem: str, alt: str) -> str:
    "One output of a cell, in the best form that a static page can show."
    kind = output['output_type']
    text = lambda value: ''.join(value)
    box = lambda name, inner: html(f'<div class="output {name}">{inner}</div>')
    if kind == 'stream': return box(output['name'], f'<pre>{escape(text(output["text"]).rstrip())}</pre>')
    if kind == 'error': return box('stderr', f'<pre>{escape(output["ename"])}: {escape(output["evalue"])}</pre>')
    data = output.get('data', {})
    if 'text/html' in data: return box('html', '\n' + text(data['text/html']) + '\n')
    if 'image/svg+xml' in data: return box('figure', text(data['image/svg+xml']))
    for mime, ending in [('image/png', 'png'), ('image/jpeg', 'jpg')]:
        if mime in data:
            name = f'{stem}_files/figure-{len(figures) + 1}.{ending}'
            figures[name] = base64.b64decode(text(data[mime]))
            return box('figure', f'<img src="{PurePosixPath(name).parent.name}/{PurePosixPath(name).name}" alt="{escape(alt)}" loading="lazy">')
    if 'text/markdown' in data: return text(data['text/markdown'])
    if 'text/latex' in data: return text(data['text/latex'])
    return box('text', f'<pre>{escape(text(data["text/plain"]))}</pre>') if 'text/plain' in data else ''

# --- Pages, without Quarto ---------------------------------------------------------------------------------------

def pandoc_fragments(markdown: dict, work: Path) -> dict:
    "Contents and body of each page as HTML."
    import pypandoc
    program = shutil.which('pandoc') if not Path(pypandoc.get_pandoc_path()).exists() else pypandoc.get_pandoc_path()
    (work/'fragment.html').write_text('$toc$\n<!--body-->\n$body$\n', encoding='utf-8')
    command = [program, '--from', READER, '--to', 'html5', '--standalone', '--template', work/'fragment.html', '--toc',
               '--toc-depth=4', '--mathml', '--wrap=preserve', '--lua-filter', HERE/'filter.lua', '--metadata', 'title=page']
    def run(page):
        done = subprocess.run(command, input=markdown[page], capture_output=True, text=True, encoding='utf-8')
        if done.returncode: raise SystemExit(f'pandoc could not convert {page}:\n{done.stderr}')
        return done.stdout.split('<!--body-->', 1)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool: return dict(zip(markdown, pool.map(run, markdown)))

class Links:
    "Where links lead, once the pages stand beside each other in a folder."
    def __init__(self, config, pages: dict, anchors: dict):
        self.pages, self.anchors = pages, anchors # notebook → page, page → ids
        self.site = config.doc_host.rstrip('/') + '/' + config.doc_baseurl.strip('/') + '/'
        self.repository = f'{config.git_url}/blob/{config.branch}/'

    def resolve(self, target: str, page: str) -> str|None:
        "The address to write for `target` on `page`; None where a private name has no documentation to link to."
        target, root = unescape(target), '../' * page.count('/')
        if target.startswith(self.site):
            path, _, anchor = target[len(self.site):].partition('#')
            path = path or 'index.html'
            if path in self.anchors and anchor not in self.anchors[path] and anchor.split('.')[-1].startswith('_'): return None
            return '#' + anchor if path == page and anchor else root + target[len(self.site):]
        if re.match(r'[a-z]+:|//|#', target): return target
        path, _, anchor = target.partition('#')
        full = os.path.normpath(os.path.join(os.path.dirname(page), path)).replace(os.sep, '/')
        if full.startswith('../'): return self.repository + full[3:]
        if full.endswith('.ipynb'): full = self.pages.get(full, full)
        return os.path.relpath(full, os.path.dirname(page) or '.').replace(os.sep, '/') + ('#' + anchor if anchor else '')

    def rewrite(self, text: str, page: str) -> str:
        "All links and images of a page. What an output drew for itself, in an `iframe`, is left alone."
        def one(m):
            target = self.resolve(m[3], page)
            if target is not None: return m[1] + m[2] + escape(target) + m[4]
            return m[1].rstrip() + m[4]
        return re.sub(r'(<(?:a|img)\b[^>]*?\s)((?:href|src)=")([^"]*)(")', one, text)

def navigation(quarto: dict) -> list:
    "The sidebar of _quarto.yml as (group, notebooks)."
    groups = quarto['website']['sidebar']['contents']
    return [(g['section'], g['contents']) for g in groups if isinstance(g, dict)]

def sidebar_html(groups: list, pages: dict, titles: dict, here: str) -> str:
    "The sidebar as it is seen from the page `here`."
    root, out = '../' * here.count('/'), []
    for name, notebooks in groups:
        out.append(f'<li><h2>{escape(name)}</h2><ul>')
        for notebook in notebooks:
            current = ' aria-current="page"' if pages[notebook] == here else ''
            out.append(f'<li><a href="{root}{pages[notebook]}"{current}>{escape(titles[notebook])}</a></li>')
        out.append('</ul></li>')
    return '<ul>' + '\n'.join(out) + '</ul>'

def neighbours(order: list, pages: dict, titles: dict, here: str) -> str:
    "Links to the page before and the page after."
    at, root, out = [pages[n] for n in order].index(here), '../' * here.count('/'), ''
    for step, rel, word in [(-1, 'prev', 'Previous'), (1, 'next', 'Next')]:
        if 0 <= at + step < len(order):
            notebook = order[at + step]
            out += f'<a rel="{rel}" href="{root}{pages[notebook]}"><span>{word}</span> {escape(titles[notebook])}</a>'
    return out

def write_pages(notebooks: dict, markdown: dict, figures: dict, quarto: dict, config, out: Path, work: Path):
    "The pages, their Markdown twins and their figures."
    groups, template = navigation(quarto), (HERE/'page.html').read_text(encoding='utf-8')
    order = [n for _, names in groups for n in names]
    missing = [n for n in order if n not in notebooks]
    if missing or set(notebooks) - set(order): raise SystemExit(f'The sidebar of _quarto.yml is not current: run `make export`. Differs in {missing or sorted(set(notebooks) - set(order))}.')
    pages = {n: html_name(n) for n in order}
    titles = {n: plain(notebooks[n].frontmatter_['title']) for n in order}
    bodies = pandoc_fragments({pages[n]: markdown[n] for n in order}, work)
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', body)) for page, (_, body) in bodies.items()}
    links = Links(config, pages, anchors)
    for notebook, page in pages.items():
        toc, body = bodies[page]
        values = dict(title=titles[notebook], site=config.title, root='../' * page.count('/'), body=links.rewrite(body, page),
                      description=plain(notebooks[notebook].frontmatter_.get('description', '')), toc=toc.strip(),
                      lead=links.rewrite(lead(notebooks[notebook]), page), sidebar=sidebar_html(groups, pages, titles, page),
                      neighbours=neighbours(order, pages, titles, page), repository=config.git_url,
                      notebook=f'{links.repository}nbs/{notebook}', twin=Path(page).name + '.md')
        safe = {'body', 'toc', 'sidebar', 'neighbours', 'lead'}
        text = re.sub(r'\{\{(\w+)\}\}', lambda m: values[m[1]] if m[1] in safe else escape(values[m[1]]), template)
        write(out/page, text)
        write(out/(page + '.md'), f'# {titles[notebook]}\n\n{values["description"]}\n\n{markdown[notebook]}')
    for name, data in figures.items(): write(out/name, data)

def plain(text: str) -> str:
    "Markdown without its marks."
    return re.sub(r'\[([^\]]*)\]\([^)]*\)|[`*]', lambda m: m[1] or '', str(text))

def lead(nb) -> str:
    "The sentence under the title, as HTML."
    return re.sub(r'`([^`]+)`', r'<code>\1</code>', escape(str(nb.frontmatter_.get('description', ''))))

def write(path: Path, data: str|bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode('utf-8') if isinstance(data, str) else data)

# --- The whole site ----------------------------------------------------------------------------------------------

def copy_assets(nbs: Path, to: Path):
    "Pictures and other plain files that stand beside the notebooks."
    for path in nbs.rglob('*'):
        if path.suffix.lower() in {'.png', '.svg', '.jpg', '.gif', '.txt', '.css'} and not any(p[0] in '._' for p in path.relative_to(nbs).parts):
            write(to/path.relative_to(nbs), path.read_bytes())

def build_with_quarto(notebooks: dict, config, out: Path):
    "Prepared notebooks in _proc/, rendered there."
    from nbdev.quarto_render import render_quarto
    work = config.config_path/'_proc'
    shutil.rmtree(work, ignore_errors=True)
    for name, nb in notebooks.items():
        (work/name).parent.mkdir(parents=True, exist_ok=True)
        write_nb(nb, work/name)
    for name in ['_quarto.yml', 'nbdev.yml']: shutil.copyfile(config.nbs_path/name, work/name)
    copy_assets(config.nbs_path, work)
    render_quarto(work, out, n_workers=1)

def build_with_pandoc(notebooks: dict, config, out: Path):
    "Pages by pandoc, search by pagefind."
    figures, markdown = {}, {}
    for name, nb in notebooks.items():
        drawn = {}
        markdown[name] = page_markdown(nb, drawn, html_name(name)[:-len('.html')])
        figures |= drawn
    quarto = yaml.safe_load((config.nbs_path/'_quarto.yml').read_text(encoding='utf-8'))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    work = out/'.work'
    work.mkdir()
    write_pages(notebooks, markdown, figures, quarto, config, out, work)
    shutil.rmtree(work)
    for name in ['site.css', 'site.js']: shutil.copyfile(HERE/name, out/name)
    copy_assets(config.nbs_path, out)
    write(out/'.nojekyll', '')
    done = subprocess.run([sys.executable, '-m', 'pagefind', '--site', str(out)], capture_output=True, text=True)
    if done.returncode: raise SystemExit(f'pagefind could not make the search index:\n{done.stdout}{done.stderr}')

def build(out: Path|None = None, engine: str|None = None) -> Path:
    "Build the site; returns its folder."
    config = get_config(HERE)
    out = Path(out or config.doc_path).resolve()
    engine = engine or ('quarto' if shutil.which('quarto') else 'pandoc')
    os.environ.setdefault('MPLBACKEND', 'Agg')
    refresh_quarto_yml()
    lookup = NbdevLookup()
    docs = ApiDocs(lookup)
    names = [n for group in list_notebooks(config.nbs_path).values() for n in group]
    notebooks = {n: process_notebook(config.nbs_path/n, lookup, docs) for n in names}
    (build_with_quarto if engine == 'quarto' else build_with_pandoc)(notebooks, config, out)
    print(f'{len(notebooks)} pages in {out} (made with {engine})')
    return out

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Build the site.')
    parser.add_argument('--out', type=Path, help='the folder to write; it is emptied first (default: _docs)')
    parser.add_argument('--engine', choices=['quarto', 'pandoc'], help='default: Quarto where it is installed')
    args = parser.parse_args()
    build(args.out, args.engine)
