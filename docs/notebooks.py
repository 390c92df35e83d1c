"What the site, the sidebar and README.md all need to know about the notebooks."
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'

# A room's notebooks share the first digit of their number.
ROOMS = {'0': 'Core', '1': 'Data', '2': 'Models', '3': 'Tasks', '4': 'Train', '5': 'Evaluate', '6': 'Report',
         '7': 'Bench', '8': 'Command line', '9': 'Command line'}

def list_notebooks(nbs: Path = NBS) -> dict:
    "Every page of the site, as paths under `nbs`, by sidebar group."
    groups = {'Start': [p for p in ['index.ipynb'] if (nbs/p).exists()]}
    groups['Start'] += sorted(f'tutorials/{p.name}' for p in (nbs/'tutorials').glob('[!_.]*.ipynb')) + [p for p in ['gallery.ipynb'] if (nbs/p).exists()]
    groups['Explanations'] = sorted(f'explanations/{p.name}' for p in (nbs/'explanations').glob('[!_.]*.ipynb'))
    for path in sorted(nbs.glob('[0-9]*.ipynb')): groups.setdefault(ROOMS[path.name[0]], []).append(path.name)
    return {k: v for k, v in groups.items() if v}

def read_cells(path: Path) -> list:
    "The cells, each with `source` as one string and `directives` as a set of words."
    cells = json.loads(Path(path).read_text(encoding='utf-8'))['cells']
    for cell in cells:
        cell['source'] = ''.join(cell['source'])
        cell['directives'] = set(re.findall(r'^#\|\s*(\w+)', cell['source'], re.M))
    return cells

def html_name(path: str) -> str:
    "The page of a notebook: its number goes, as in nbdev."
    path = Path(path)
    return path.with_name(re.sub(r'^\d+[a-zA-Z0-9]*_', '', path.name.lower())).with_suffix('.html').as_posix()
