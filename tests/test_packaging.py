"The sdist, the wheel that is built from it, and the metadata that settings.ini gives both."
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path

import pytest

import sft_nb

ROOT = Path(__file__).parents[1]
FILES = ['settings.ini', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CONTRIBUTING.md']

@pytest.fixture(scope='module')
def settings() -> ConfigParser:
    parser = ConfigParser(delimiters=[' ='], default_section='nothing')
    parser.optionxform = str
    parser.read(ROOT/'settings.ini', encoding='utf-8')
    return parser

@pytest.fixture(scope='module')
def built(tmp_path_factory) -> Path:
    "A folder with the sdist and the wheel, built outside the tree."
    tree, out = tmp_path_factory.mktemp('tree'), tmp_path_factory.mktemp('dist')
    for name in FILES: shutil.copy(ROOT/name, tree/name)
    shutil.copytree(ROOT/'sft_nb', tree/'sft_nb', ignore=shutil.ignore_patterns('__pycache__'))
    done = subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, tree], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert '`pyproject.toml` does not' not in said, 'a field is missing from `dynamic`'
    assert 'Package would be ignored' not in said and 'no files found matching' not in said, said
    return out

@pytest.fixture(scope='module')
def wheel(built) -> zipfile.ZipFile: return zipfile.ZipFile(next(built.glob('*.whl')))

@pytest.fixture(scope='module')
def metadata(wheel):
    return Parser().parsestr(wheel.read(next(n for n in wheel.namelist() if n.endswith('/METADATA'))).decode())

def test_one_version(settings, metadata):
    version = settings['DEFAULT']['version']
    assert sft_nb.__version__ == version == metadata['Version']
    assert importlib.metadata.version('sft_nb') == version, 'Run `make setup`.'
    assert f'## {version}' in (ROOT/'CHANGELOG.md').read_text()

def same(requirement: str) -> str:
    "A requirement in one spelling: name, then its bounds in order."
    name, bounds = re.fullmatch(r'([\w.-]+(?:\[\w+\])?)(.*)', requirement.replace(' ', '')).groups()
    return name + ','.join(sorted(filter(None, bounds.split(','))))

def test_requirements_and_extras(settings, metadata):
    found = metadata.get_all('Requires-Dist')
    assert {same(r) for r in found if ';' not in r} == {same(k) for k in settings['requirements']}
    for extra, wanted in settings['extras'].items():
        listed = [r.split(';')[0].strip() for r in found if re.search(f'extra == "{extra}"', r)]
        assert {same(r) for r in listed} == {same(w) for w in wanted.split()}
    assert all(v.strip() for v in settings['requirements'].values()), 'each requirement says what it is for'

def test_the_rest_of_the_metadata(settings, metadata):
    assert metadata['Summary'] == settings['DEFAULT']['description'] and metadata['License'] or metadata['License-Expression'] == 'Apache-2.0'
    assert metadata['Requires-Python'] == '>=' + settings['DEFAULT']['min_python']
    assert metadata.get_payload().strip() == (ROOT/'README.md').read_text(encoding='utf-8').strip()
    assert {u.split(',')[0] for u in metadata.get_all('Project-URL')} == {'Repository', 'Documentation'}

def test_entry_points(settings, wheel):
    points = ConfigParser()
    points.read_string(wheel.read(next(n for n in wheel.namelist() if n.endswith('/entry_points.txt'))).decode())
    assert dict(points['console_scripts']) == dict(settings['scripts'])
    assert points['nbdev']['sft_nb'] == 'sft_nb._modidx:d'

def test_files(wheel):
    "All of the package, and nothing else: its data files and `py.typed` too."
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT/'sft_nb').rglob('*') if p.is_file() and '__pycache__' not in p.parts}
    there = {n for n in wheel.namelist() if '.dist-info/' not in n}
    assert there == here and 'sft_nb/py.typed' in there
    assert any(n.endswith('licenses/LICENSE') for n in wheel.namelist())

def test_sdist_can_be_built_from(built):
    names = {n.split('/', 1)[1] for n in tarfile.open(next(built.glob('*.tar.gz'))).getnames() if '/' in n}
    assert set(FILES) <= names

@pytest.fixture(scope='module')
def installed(built, tmp_path_factory) -> Path:
    "The wheel, installed apart from this tree."
    target = tmp_path_factory.mktemp('installed')
    done = subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--no-warn-script-location',
                           '--disable-pip-version-check', '--target', target, next(built.glob('*.whl'))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target

def run(installed: Path, *command) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | {'PYTHONPATH': str(installed)}
    return subprocess.run([sys.executable, *map(str, command)], cwd=installed, env=environment, capture_output=True, text=True)

def test_works_without_nbdev(installed):
    code = '''import sys
for name in ["nbdev", "execnb", "jupyterlab", "pytest"]: sys.modules[name] = None
import sft_nb.core, sft_nb.records
print(sft_nb.__file__, "torch" in sys.modules)'''
    done = run(installed, '-c', code)
    assert done.stdout.split() == [str(installed/'sft_nb'/'__init__.py'), 'False'], done.stderr

def test_the_command_starts(installed):
    done = run(installed, installed/'bin'/'sft-nb', '--help')
    assert done.returncode == 0 and 'run' in done.stdout, done.stdout + done.stderr
