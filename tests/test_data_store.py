"""The store: the right pixels, decoded once, whole or absent."""
import os, pickle, subprocess, sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sft_nb.core import InputError
from sft_nb.data import store as module
from sft_nb.data.store import StoredImage, build_store


def make(folder, n=5, size=(40, 30), mode='RGB', suffix='.png'):
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), []
    for k in range(n):
        path = folder/f'ä {k}{suffix}'
        Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8)).convert(mode).save(path)
        rows.append((f'id {k}', str(path)))
    return pd.DataFrame(rows, columns=['id', 'input'])


def names(folder): return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_pixels_are_those_of_pillow(tmp_path):
    items = make(tmp_path/'in')
    store = build_store(items, size=16, folder=tmp_path/'s')
    for i, path in zip(items.id, items.input):
        assert (np.asarray(store[i]) == np.asarray(Image.open(path).resize((16, 16), Image.Resampling.BICUBIC))).all()
        assert store[i].item_id == i and store[i].dtype == np.uint8 and store[i].flags.writeable


def test_crop_keeps_the_ratio(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8); wide[:, 20:40] = 255
    Image.fromarray(wide).save(tmp_path/'w.png')
    items = pd.DataFrame({'id': ['w'], 'input': [str(tmp_path/'w.png')]})
    assert (build_store(items, size=20, folder=tmp_path/'s', resize='crop')['w'] == 255).all()
    squashed = build_store(items, size=20, folder=tmp_path/'s')['w']
    assert squashed[:, 0].max() == 0 and squashed[:, 10].min() == 255


@pytest.mark.parametrize('mode', ['L', '1', 'LA', 'P', 'RGBA', 'CMYK'])
def test_modes(tmp_path, mode):
    items = make(tmp_path/'in', mode=mode, suffix='.tif' if mode == 'CMYK' else '.png')
    store = build_store(items, size=16, folder=tmp_path/'s')
    assert store.batch(items.id).shape == (5, 16, 16, 3)
    assert store.images.shape[-1] == (1 if mode in ('L', '1', 'LA') else 3)
    reference = Image.open(items.input[2]).convert('RGB').resize((16, 16), Image.Resampling.BICUBIC)
    if mode in ('L', 'P', 'CMYK'): assert (np.asarray(store['id 2']) == np.asarray(reference)).all()


def test_one_colour_image_keeps_the_colour_of_all(tmp_path):
    items = pd.concat([make(tmp_path/'g', mode='L'), make(tmp_path/'c').assign(id=lambda t: 'c' + t.id)])
    store = build_store(items, size=16, folder=tmp_path/'s')
    assert store.images.shape[-1] == 3 and np.ptp(np.asarray(store['cid 0']).astype(int), axis=2).max() > 10


def test_built_once(tmp_path, monkeypatch):
    items = make(tmp_path/'in')
    build_store(items, size=16, folder=tmp_path/'s')
    monkeypatch.setattr(module, 'read_image', None) # decoding again would fail
    again = build_store(items.iloc[::-1].assign(id=list('vwxyz')), size=16, folder=tmp_path/'s')
    assert len(again) == 5 and 'v' in again


def test_key_is_about_content(tmp_path):
    items = make(tmp_path/'in')
    key = build_store(items, size=16, folder=tmp_path/'s').key
    moved = items.assign(input=[p.replace('/in/', '/moved/') for p in items.input])
    (tmp_path/'in').rename(tmp_path/'moved')
    assert build_store(moved, size=16, folder=tmp_path/'s').key == key
    assert build_store(moved[:4], size=16, folder=tmp_path/'s').key != key
    assert len({build_store(moved, size=s, resize=r, folder=tmp_path/'s').key for s in (16, 17) for r in ('squash', 'crop')}) == 4


def test_same_file_twice_is_one_row(tmp_path):
    items = make(tmp_path/'in')
    store = build_store(pd.concat([items, items.assign(id='copy of ' + items.id)]), size=16, folder=tmp_path/'s')
    assert len(store) == 10 and len(store.images) == 5 and (store['id 3'] == store['copy of id 3']).all()


def test_every_bad_image_is_named_and_nothing_is_left(tmp_path):
    items = make(tmp_path/'in')
    open(items.input[1], 'wb').write(open(items.input[1], 'rb').read()[:200])
    open(items.input[3], 'w').write('text')
    with pytest.raises(InputError) as e: build_store(items, size=16, folder=tmp_path/'s')
    assert len(e.value.problems) == 2 and items.input[1] in str(e.value) + '' and items.input[3] in str(e.value)
    assert names(tmp_path/'s') == []
    os.unlink(items.input[0]); os.unlink(items.input[2])
    with pytest.raises(InputError) as e: build_store(items, size=16, folder=tmp_path/'s')
    assert len(e.value.problems) == 2 and "Row 0 ('id 0')" in e.value.problems[0] and 'no such file' in e.value.problems[0]


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    items = make(tmp_path/'in')
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(module, '_resize', stop)
    with pytest.raises(KeyboardInterrupt): build_store(items, size=16, folder=tmp_path/'s')
    assert names(tmp_path/'s') == []


def test_folder_that_cannot_be_written(tmp_path):
    items = make(tmp_path/'in')
    (tmp_path/'file').write_text('in the way')
    with pytest.raises(InputError, match='folder to write to, with room'): build_store(items, size=16, folder=tmp_path/'file'/'s')


def test_read_only_folder(tmp_path, monkeypatch):
    items = make(tmp_path/'in')
    (tmp_path/'s').mkdir(mode=0o500)
    if os.geteuid() == 0: # the administrator may write anywhere: let the system call say what it says to others
        def refuse(*a, **k): raise PermissionError(13, 'Permission denied')
        monkeypatch.setattr('tempfile.mkdtemp', refuse)
    with pytest.raises(InputError, match='folder to write to, with room, but got Permission denied'): build_store(items, size=16, folder=tmp_path/'s')
    (tmp_path/'s').chmod(0o700)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs POSIX limits')
def test_full_disk(tmp_path):
    "A process that may not write more than 8 kB stands in for a full disk."
    make(tmp_path/'in').to_csv(tmp_path/'items.csv', index=False)
    code = f'''
import resource, pandas as pd
from sft_nb.core import InputError
from sft_nb.data.store import build_store
items = pd.read_csv({str(tmp_path/"items.csv")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try: build_store(items, size=64, folder={str(tmp_path/"s")!r})
except InputError as e: print(e)
'''
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'Free some space' in said.stdout and names(tmp_path/'s') == [], said


def test_two_at_once(tmp_path):
    items = make(tmp_path/'in', n=30)
    with ThreadPoolExecutor(4) as pool: stores = list(pool.map(lambda _: build_store(items, size=32, folder=tmp_path/'s'), range(4)))
    assert len(names(tmp_path/'s')) == 1 and all((s['id 7'] == stores[0]['id 7']).all() for s in stores)


def test_bad_arguments(tmp_path):
    items = make(tmp_path/'in')
    with pytest.raises(InputError, match='Did you mean `squash`'): build_store(items, size=16, resize='sqash')
    for size in (0, 3.5, '16', 100_000):
        with pytest.raises(InputError, match='whole number of pixels'): build_store(items, size=size)
    with pytest.raises(KeyError, match='Did you mean `id 1`'): build_store(items, size=16, folder=tmp_path/'s')['id1']


def test_stored_image_travels():
    image = StoredImage(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), 'x')
    again = pickle.loads(pickle.dumps(image))
    assert again.item_id == 'x' and (again == image).all() and image.copy().item_id == 'x'
