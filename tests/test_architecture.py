"The rooms and the arrows between them (CONTRIBUTING.md), held by reading the imports and the notebooks."
import ast
import functools
import importlib.metadata
import inspect
import re
import subprocess
import sys
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT/'docs'))
from apidoc import WORDS, documented

LIB = ROOT/'sft_nb'
BASE = {'core', 'options', 'config', 'ledger', 'records', 'assets', 'changes'}

# Who may import whom: room → rooms. A module's room is the first part of its name.
ROOMS = ['data', 'models', 'tasks', 'train', 'evaluate', 'report', 'bench']
ARROWS = {'core': set(), 'options': {'core'}, 'config': {'core', 'options'}, 'records': {'core'}, 'assets': {'core'}, 'changes': {'core'}, 'ledger': {'core'}, 'data': BASE, 'models': BASE,
          'tasks': BASE | {'data', 'models'}, 'train': BASE | {'data', 'models', 'tasks'}, 'evaluate': BASE, 'report': BASE | {'evaluate'},
          'bench': BASE | set(ROOMS), 'cli': BASE | set(ROOMS), 'all': BASE | set(ROOMS) | {'cli'}}
NUMBERS = {'core': '0', 'options': '0', 'config': '0', 'records': '0', 'assets': '0', 'changes': '0', 'ledger': '0', **{room: str(i) for i, room in enumerate(ROOMS, 1)}, 'cli': '8', 'all': '9'}

# Libraries that load torch, which evaluation and reports must do without.
TORCH = {'torch', 'torchvision', 'fastai', 'timm', 'transformers', 'peft', 'accelerate', 'albumentations'}
# About six public names a module; one with more than this is two modules. `core` is the drawer that the others share, and `config`
# has a class for each section of the file.
MOST_NAMES = 10
MORE_NAMES = {'core': 12, 'config': 12}
# Methods that fastai and torch call by name; their documentation says what they are for.
HOOKS = re.compile('(before|after)_|(encodes|decodes|setups|forward|activation|state_dict|load_state_dict|create_batches|zero_grad|step)$')

def module_name(path: Path) -> str: return '.'.join(path.relative_to(LIB).with_suffix('').parts)

MODULES = {module_name(p): p for p in sorted(LIB.rglob('*.py')) if not p.name.startswith('_')}

def imports(source: str, package: str = '') -> set:
    "All modules that `source` imports, anywhere in it, with full names; relative ones seen from the `package` it lies in."
    out = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): out |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            above = package.split('.')[:len(package.split('.')) - node.level + 1] if node.level else []
            base = '.'.join(above + ([node.module] if node.module else []))
            out |= {base} | {f'{base}.{a.name}' for a in node.names}
    return out

@functools.cache
def imports_of(name: str) -> set:
    return imports(MODULES[name].read_text(encoding='utf-8'), '.'.join(('sft_nb', *name.split('.')[:-1])))

def ours(found: set) -> set:
    "Those of our modules that are among `found`, without the package's name."
    return {n for f in found for n in [f.removeprefix('sft_nb.')] if f.startswith('sft_nb.') and n in MODULES}

def reachable(name: str) -> set:
    "Every module that is imported when `name` is."
    seen, todo = set(), [name]
    while todo:
        module = todo.pop()
        if module in seen: continue
        seen.add(module)
        todo += ours(imports_of(module))
    return seen

def room(name: str) -> str: return name.split('.')[0]

def test_reading_imports():
    source = 'import a.b\nfrom ..core import x\nfrom . import y\ndef f():\n    from torch import nn'
    assert imports(source, 'sft_nb.data') == {'a.b', 'sft_nb.core', 'sft_nb.core.x', 'sft_nb.data', 'sft_nb.data.y', 'torch', 'torch.nn'}
    assert 'core' in ours(imports_of('records'))

@pytest.mark.parametrize('name', MODULES)
def test_arrows(name):
    assert room(name) in ARROWS, f'{name}: no such room'
    wrong = {n for n in ours(imports_of(name)) if room(n) != room(name) and room(n) not in ARROWS[room(name)]}
    assert not wrong, f'{name} may not import {", ".join(sorted(wrong))}'

def test_no_circles():
    for name in MODULES:
        for other in ours(imports_of(name)) - {name}: assert name not in reachable(other), f'{name} and {other} import each other'

@pytest.mark.parametrize('name', [n for n in MODULES if room(n) in {'evaluate', 'report', 'records', 'core'}])
def test_no_torch(name):
    for module in reachable(name):
        found = {i.split('.')[0] for i in imports_of(module)} & TORCH | {i for i in imports_of(module) if i == 'safetensors.torch'}
        assert not found, f'{name} reaches {found} by way of {module}'

def test_no_torch_when_run():
    "What the imports of our libraries pull in, reading our own code cannot tell."
    names = [f'sft_nb.{n}' for n in MODULES if room(n) in {'evaluate', 'report', 'records'}]
    code = f'import sys, {", ".join(names)}\nprint([m for m in {sorted(TORCH)} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == '[]', done.stdout + done.stderr

@pytest.mark.parametrize('name', MODULES)
def test_only_what_is_required_is_imported(name):
    "Every library that an exported module imports is one of the requirements, or of an extra for users."
    settings = ConfigParser(delimiters=[' ='], default_section='nothing')
    settings.optionxform = str
    settings.read(ROOT/'settings.ini', encoding='utf-8')
    extras = ' '.join(v for k, v in settings['extras'].items() if k != 'dev').split()
    plain = lambda text: re.split(r'[\s<>=!~;\[]', text.strip())[0].lower().replace('_', '-')
    required = {plain(k) for k in [*settings['requirements'], *extras]}
    owners = importlib.metadata.packages_distributions()
    for top in {i.split('.')[0] for i in imports_of(name)} - {'sft_nb', '__future__'} - sys.stdlib_module_names:
        assert {plain(d) for d in owners.get(top, [top])} & required, f'{name} imports {top}, which settings.ini does not require'

@pytest.mark.parametrize('name', MODULES)
def test_no_wildcards_and_no_patches(name):
    tree = ast.parse(MODULES[name].read_text(encoding='utf-8'))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom): assert '*' not in {a.name for a in node.names}, f'{name}: import *'
        for decorator in getattr(node, 'decorator_list', []):
            assert ast.unparse(decorator).split('(')[0] not in {'patch', 'patch_to'}, f'{name}: @patch of a class'

def private_uses(source: str, package: str = '') -> set: # of (module, name)
    "Names with an underscore that `source` takes from modules of ours, by an import or as an attribute of an imported module."
    tree, homes, out = ast.parse(source), {}, set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom): continue
        above = package.split('.')[:len(package.split('.')) - node.level + 1] if node.level else []
        base = '.'.join(above + ([node.module] if node.module else []))
        for a in node.names:
            if base.startswith('sft_nb') and a.name.startswith('_') and not a.name.startswith('__'): out.add((base, a.name))
            homes[a.asname or a.name] = f'{base}.{a.name}'
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr.startswith('_') and not node.attr.startswith('__'):
            if ours({home := homes.get(node.value.id, '')}): out.add((home, node.attr))
    return out

def test_reading_private_uses():
    source = 'from .a import _x, y\nfrom .. import core, records as r\nfrom numpy import _z, ma\nself._w, core._sweep, r._row, ma._v, y._u'
    assert private_uses(source, 'sft_nb.data') == {('sft_nb.data.a', '_x'), ('sft_nb.core', '_sweep'), ('sft_nb.records', '_row')}

@pytest.mark.parametrize('name', MODULES)
def test_what_is_private_stays_at_home(name):
    found = private_uses(MODULES[name].read_text(encoding='utf-8'), '.'.join(('sft_nb', *name.split('.')[:-1])))
    assert not found, f'{name} uses ' + ', '.join(f'{home}.{what}' for home, what in sorted(found)) + ': give it a public name, or a home that both share'

def public(name: str) -> list:
    module = import_module(f'sft_nb.{name}')
    return [(n, getattr(module, n)) for n in module.__all__]

@pytest.mark.parametrize('name', [n for n in MODULES if n != 'all'])
def test_few_public_names(name):
    assert len(public(name)) <= MORE_NAMES.get(name, MOST_NAMES), f'{name} has {len(public(name))} public names: make it two modules'

def undocumented(symbol, title: str) -> list:
    "The parameters of which neither a comment, nor the docstring, nor the list of common words says what they are; and the return."
    docs, text = documented(symbol), inspect.getdoc(symbol) or ''
    back = docs.pop('return', None)
    out = [f'{title}({k})' for k, v in docs.items() if k not in ('self', 'cls', *WORDS) and not v.docment and not re.search(rf'`\**{k}`', text)]
    if inspect.isfunction(symbol) and returns_value(symbol) and not back.docment and back.anno is inspect.Parameter.empty: out.append(f'{title} -> ?')
    return out if text else [f'{title}: no docstring', *out]

def returns_value(function) -> bool:
    tree = ast.parse(inspect.cleandoc('\n' + inspect.getsource(function)))
    return any(isinstance(n, ast.Return) and n.value is not None or isinstance(n, ast.Yield) for n in ast.walk(tree))

def test_what_counts_as_documented():
    def f(a, # something
          b, c): # another
        "Of `b`."
        return a
    assert undocumented(f, 'f') == ['f -> ?']
    def g(a): return None
    assert undocumented(g, 'g') == ['g: no docstring', 'g(a)', 'g -> ?']
    def h(a=')', # something
          ): # the same
        "It is."
        return a
    assert undocumented(h, 'h') == []
    def i(a): # something
        "It is."
        return a
    assert undocumented(i, 'i') == ['i -> ?']

@pytest.mark.parametrize('name', [n for n in MODULES if n != 'all'])
def test_everything_public_is_documented(name):
    bad = []
    for title, symbol in public(name):
        if inspect.isfunction(symbol): bad += undocumented(symbol, title)
        if not inspect.isclass(symbol): continue
        if not inspect.getdoc(symbol): bad.append(f'{title}: no docstring')
        for n, method in vars(symbol).items():
            method = getattr(method, '__func__', method)
            if inspect.isfunction(method) and not n.startswith('_') and not HOOKS.match(n) and method.__module__ == symbol.__module__:
                bad += undocumented(method, f'{title}.{n}')
    assert not bad, '\n'.join(bad)

@pytest.mark.parametrize('name', MODULES)
def test_module_starts_with_its_purpose(name):
    doc = ast.get_docstring(ast.parse(MODULES[name].read_text(encoding='utf-8'))) or ''
    assert len(doc.splitlines()) >= 4, f'{name}: no exported paragraph that says what it is for'

def test_all_offers_public_names():
    "What `all` promises is what some module promises, and every room is in it."
    from sft_nb import all as everything
    homes = {}
    for name in MODULES:
        if name != 'all':
            for n, symbol in public(name): homes.setdefault(n, []).append((name, symbol))
    for n in everything.__all__:
        assert n in homes and getattr(everything, n) in [symbol for _, symbol in homes[n]], f'{n} is public in no module'
    rooms = {room(home) for n in everything.__all__ for home, _ in homes[n]}
    assert rooms >= {room(name) for name in MODULES} - {'cli', 'options', 'all'}

def test_a_public_name_has_one_home():
    homes = {}
    for name in MODULES:
        if name != 'all':
            for n, _ in public(name): homes.setdefault(n, []).append(name)
    assert {n: modules for n, modules in homes.items() if len(modules) > 1} == {}

def test_notebook_numbers_follow_the_rooms():
    for path in (ROOT/'nbs').glob('[0-9]*.ipynb'):
        number, name = path.stem.split('_', 1)
        assert number[0] == NUMBERS[room(name)] and name in MODULES, path.name
