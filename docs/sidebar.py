"Write the sidebar of `_quarto.yml` from the names of the notebooks. `--check` only says whether it is current."
import re
import sys
from pathlib import Path

from notebooks import ROOT, list_notebooks

START, END = '# sidebar: written by `make export`', '# end of sidebar'

def sidebar_yaml(groups: dict, indent: int = 6) -> str:
    "The groups as Quarto wants them."
    lines = [l for name, pages in groups.items() for l in [f'- section: {name}', '  contents:', *(f'    - {p}' for p in pages)]]
    return ''.join(' '*indent + line + '\n' for line in lines)

def updated(text: str, groups: dict) -> str:
    "The text of `_quarto.yml`, with the part between the two marks made anew."
    pattern = re.compile(f'^( *){re.escape(START)}\n.*?^ *{re.escape(END)}\n', re.M | re.S)
    if not pattern.search(text): raise SystemExit(f'Expected `{START}` and `{END}` in _quarto.yml, but found no such lines.')
    return pattern.sub(lambda m: f'{m[1]}{START}\n{sidebar_yaml(groups, len(m[1]))}{m[1]}{END}\n', text)

def main(check: bool = False, root: Path = ROOT) -> bool:
    "Whether the file was current; it is when this returns, unless `check`."
    path = root/'_quarto.yml'
    old = path.read_text(encoding='utf-8')
    new = updated(old, list_notebooks(root/'nbs'))
    if old != new and not check: path.write_text(new, encoding='utf-8')
    return old == new

if __name__ == '__main__':
    check = '--check' in sys.argv
    if not main(check) and check: sys.exit('_quarto.yml does not list the notebooks as they are. Run `make export`.')
