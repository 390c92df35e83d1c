"""Write README.md from `nbs/index.ipynb`. `--check` only says whether it is current.

Figures in outputs become files under `nbs/images/`, so that a code host shows them."""
import base64
import posixpath
import re
import sys
from pathlib import Path

from notebooks import ROOT, read_cells

NOTE = '<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook, not this file. -->'
HIDDEN = {'hide', 'default_exp', 'export', 'exporti'}

def relink(text: str) -> str:
    "Links and images that are relative to nbs/, made relative to the top folder."
    def one(m):
        target = m[2]
        if re.match(r'[a-z]+:|#|/', target): return m[0]
        return m[1] + posixpath.normpath(posixpath.join('nbs', target)) + m[3]
    text = re.sub(r'(\]\()([^)\s]+)(\)|\s)', one, text)
    return re.sub(r'((?:src|href)=")([^"]+)(")', one, text)

def fenced(text: str, language: str = '') -> str:
    "`text` in a fence that nothing in it can close."
    fence = '`' * max(3, 1 + max((len(run) for run in re.findall('`+', text)), default=0))
    return f'{fence}{language}\n{text.rstrip()}\n{fence}'

def render_output(output: dict, figures: list) -> str:
    "One output as Markdown; a figure is added to `figures` as bytes."
    if output['output_type'] == 'stream': return fenced(''.join(output['text'])) if output['name'] == 'stdout' else ''
    data = output.get('data', {})
    html = ''.join(data.get('text/html', ''))
    if 'image/png' in data:
        figures.append(base64.b64decode(''.join(data['image/png'])))
        return f'![Output of the cell above](nbs/images/index-{len(figures)}.png)'
    if 'text/markdown' in data: return ''.join(data['text/markdown'])
    if '<table' in html and not re.search('<script|<iframe', html):
        table = re.search(r'<table.*</table>', re.sub(r'<style.*?</style>', '', html, flags=re.S), re.S)[0]
        return re.sub(r'<table[^>]*>', '<table>', re.sub(r'\n\s*', '\n', table))
    return fenced(''.join(data['text/plain'])) if 'text/plain' in data else ''

def render_readme(path: Path) -> tuple:
    "README.md as text, and its figures as bytes."
    parts, figures = [NOTE], []
    for cell in read_cells(path):
        source = re.sub(r'^#\|.*\n?', '', cell['source'], flags=re.M).strip()
        if cell['cell_type'] == 'markdown' and not re.fullmatch(r'#+ .* -', source): parts.append(relink(source))
        if cell['cell_type'] != 'code' or cell['directives'] & HIDDEN: continue
        if source: parts.append(fenced(source, 'python'))
        parts += [render_output(o, figures) for o in cell['outputs']]
    return '\n\n'.join(p for p in parts if p) + '\n', figures

def wanted_files(root: Path = ROOT) -> dict:
    "What the files must hold, by path."
    text, figures = render_readme(root/'nbs'/'index.ipynb')
    return {root/'README.md': text.encode(),
            **{root/'nbs'/'images'/f'index-{i}.png': data for i, data in enumerate(figures, 1)}}

def main(check: bool = False, root: Path = ROOT) -> list:
    "The files that were not current, by name; they are when this returns, unless `check`."
    wanted = wanted_files(root)
    stale = [p for p, data in wanted.items() if not p.exists() or p.read_bytes() != data]
    extra = [p for p in (root/'nbs'/'images').glob('index-*.png') if p not in wanted]
    if not check:
        for path in stale:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(wanted[path])
        for path in extra: path.unlink()
    return [p.name for p in stale + extra]

if __name__ == '__main__':
    check = '--check' in sys.argv
    stale = main(check)
    if stale and check: sys.exit(f'Not as nbs/index.ipynb says: {", ".join(stale)}. Run `make readme`.')
