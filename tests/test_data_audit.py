"""Copies are found, look-alikes are not, and every bad row is named."""
import io, json

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from sft_nb.core import InputError
from sft_nb.data import audit as module
from sft_nb.data.audit import Audit, audit_items, check_leakage, find_duplicates, find_suspect_labels, fingerprint_items, stop_on_leak
from sft_nb.data.items import load_elpv
from sft_nb.data.splits import split_items
from sft_nb.records import make_predictions


@pytest.fixture(scope='session')
def cells():
    "Every sixteenth solar cell, and the pair of neighbours that looks most alike."
    elpv = load_elpv()
    items = pd.concat([elpv.iloc[::16], elpv.iloc[[2368, 2369, 1578, 1579]]]).drop_duplicates('id').reset_index(drop=True)
    return items, fingerprint_items(items)


def jpeg(image, quality):
    data = io.BytesIO()
    image.save(data, 'JPEG', quality=quality)
    return Image.open(data)


COPIES = dict(jpeg75=lambda i: jpeg(i, 75), jpeg50=lambda i: jpeg(i, 50), half=lambda i: i.resize((i.width // 2, i.height // 2)), double=lambda i: i.resize((2 * i.width, 2 * i.height)),
              brighter=lambda i: i.point(lambda v: min(255, v * 1.1)), darker=lambda i: i.point(lambda v: v * .85), gamma=lambda i: i.point(lambda v: 255 * (v / 255)**.8),
              mirrored=ImageOps.mirror, flipped=ImageOps.flip, left=lambda i: i.rotate(90, expand=True), round=lambda i: i.rotate(180), right=lambda i: i.rotate(270, expand=True),
              transposed=lambda i: i.transpose(Image.Transpose.TRANSPOSE), transverse=lambda i: i.transpose(Image.Transpose.TRANSVERSE),
              several=lambda i: jpeg(ImageOps.mirror(i.resize((i.width // 2, i.height // 2))).point(lambda v: min(255, v * 1.08)), 60))


def save_photos(folder, n=12):
    "Different crops of two photos, not square."
    rng, paths = np.random.default_rng(0), []
    for k in range(n):
        photo = load_sample_images().images[k % 2]
        y, x = rng.integers(0, 200), rng.integers(0, 400)
        paths.append(folder/f'photo{k}.png')
        Image.fromarray(photo[y:y + 180, x:x + 240]).save(paths[-1])
    return paths


@pytest.mark.parametrize('how', COPIES)
def test_copies_are_found(tmp_path, cells, how):
    items, prints = cells
    chosen = list(items[::9].input) + save_photos(tmp_path)
    rows = []
    for k, path in enumerate(chosen):
        COPIES[how](Image.open(path)).save(tmp_path/f'copy{k}.png')
        rows += [(f'o{k}', str(path)), (f'c{k}', str(tmp_path/f'copy{k}.png'))]
    found = find_duplicates(fingerprint_items(pd.DataFrame(rows, columns=['id', 'input'])))
    pairs = {frozenset(p) for p in zip(found.id_a, found.id_b)}
    hit = [frozenset((f'o{k}', f'c{k}')) in pairs for k in range(len(chosen))]
    assert np.mean(hit) >= .9, [c for c, h in zip(chosen, hit) if not h]
    assert len(pairs) == sum(hit) # and nothing else


def test_look_alikes_are_not_copies(cells):
    assert len(find_duplicates(cells[1])) == 0


def test_hash_agrees_with_a_reference(cells):
    "The same bits as ImageHash's phash of the same 32×32 picture."
    imagehash = pytest.importorskip('imagehash')
    thumbnails = np.stack([np.frombuffer(t, np.uint8).reshape(64, 64) for t in cells[1].thumbnail[:40]])
    small = thumbnails.reshape(-1, 32, 2, 32, 2).mean((2, 4)).round().astype(np.uint8) # rounding, as an image must be whole
    theirs = np.array([imagehash.phash(Image.fromarray(s)).hash.ravel() for s in small])
    ours = np.unpackbits(module._perceptual_hash(np.repeat(np.repeat(small, 2, 1), 2, 2)).astype('>u8').view(np.uint8).reshape(-1, 8), axis=1).astype(bool)
    assert (ours == theirs).all()


def test_bits_are_counted_without_numpy_2(monkeypatch):
    values = np.random.default_rng(0).integers(0, 2**63, (5, 7), dtype=np.uint64)
    expected = np.vectorize(lambda v: bin(int(v)).count('1'))(values)
    assert (module._count_bits(values) == expected).all()
    monkeypatch.delattr(np, 'bitwise_count', raising=False)
    assert (module._count_bits(values) == expected).all()


def test_candidates_are_all_pairs_within_the_distance(cells):
    thumbnails = np.stack([np.frombuffer(t, np.uint8).reshape(64, 64) for t in cells[1].thumbnail])
    ways = [module._perceptual_hash(module._orient(thumbnails, w)) for w in range(8)]
    slow = {(i, j, w) for w in range(8) for i in range(len(thumbnails)) for j in range(i + 1, len(thumbnails)) if bin(int(ways[0][i]) ^ int(ways[w][j])).count('1') <= 8}
    assert {tuple(map(int, r)) for r in module._candidates(thumbnails, 8)} == slow


def test_eight_orientations_are_all_different():
    square = np.arange(16).reshape(1, 4, 4)
    assert len({module._orient(square, w).tobytes() for w in range(8)}) == 8


def test_same_file_and_same_pixels(tmp_path):
    a, b = save_photos(tmp_path, 2)
    (tmp_path/'a2.png').write_bytes(a.read_bytes())
    Image.open(a).save(tmp_path/'a3.bmp')
    (tmp_path/'a4.bmp').write_bytes((tmp_path/'a3.bmp').read_bytes())
    items = pd.DataFrame({'id': ['a', 'a2', 'a3', 'a4', 'b'], 'target': ['x'] * 5, 'input': [str(tmp_path/f) for f in (a.name, 'a2.png', 'a3.bmp', 'a4.bmp', b.name)]})
    prints = fingerprint_items(items)
    found = find_duplicates(prints)
    assert sorted(zip(found.id_a, found.id_b, found.kind)) == [('a', 'a2', 'same_file'), ('a', 'a3', 'same_pixels'), ('a3', 'a4', 'same_file')]
    leaks = check_leakage(items.assign(split=['train', 'test', 'train', 'test', 'test']), prints)
    assert sorted(zip(leaks.id_a, leaks.id_b, leaks.kind)) == [('a', 'a2', 'same_file'), ('a3', 'a4', 'same_file')]
    leaks = check_leakage(items.assign(split=['valid', 'train', 'valid', 'test', 'test']), prints)
    assert {(r.split_a, r.split_b) for r in leaks.itertuples()} == {('train', 'valid'), ('train', 'test'), ('valid', 'test')}


def test_near_copy_of_a_copied_picture_leaks_too(tmp_path):
    "b is near a, and a2 is a; only a2 and b are on different sides."
    a, other = save_photos(tmp_path, 2)
    (tmp_path/'a2.png').write_bytes(a.read_bytes())
    Image.open(a).save(tmp_path/'b.jpg', quality=70)
    items = pd.DataFrame({'id': ['a', 'a2', 'b'], 'input': [str(a), str(tmp_path/'a2.png'), str(tmp_path/'b.jpg')], 'split': ['test', 'train', 'test']})
    leaks = check_leakage(items)
    assert set(zip(leaks.kind, leaks.id_a, leaks.id_b)) == {('same_file', 'a2', 'a'), ('near_duplicate', 'a2', 'b')}


def test_groups_and_times(cells):
    items, prints = cells
    items = split_items(items, valid=.2, test=.2, seed=0)
    assert len(check_leakage(items, prints)) == 0
    grouped = check_leakage(items.assign(group=[f'g{i // 3}' for i in range(len(items))]), prints)
    assert set(grouped.kind) == {'shared_group'} and all(a != b for a, b in zip(grouped.split_a, grouped.split_b))
    when = items.assign(day=items.split.map({'train': 0, 'valid': 1, 'test': 2}))
    assert len(check_leakage(when, prints, time='day')) == 0
    late = when.assign(day=when.day.where(when.id != when.id[when.split == 'train'].iloc[0], 5))
    leaks = check_leakage(late, prints, time='day')
    assert list(leaks.kind) == ['time_overlap'] * 2 and leaks.id_a.nunique() == 1 and leaks.detail.str.startswith('1 of').all()


def test_stop_on_leak_names_pairs(tmp_path):
    stop_on_leak(pd.DataFrame(columns=module.LEAK_COLUMNS))
    leaks = pd.DataFrame([('same_file', f'a{i}', f'b{i}', 'train', 'test', 'the same bytes') for i in range(30)], columns=module.LEAK_COLUMNS)
    with pytest.raises(InputError) as e: stop_on_leak(leaks)
    assert '30 leaks' in e.value.problems[0] and "'a0' in train and 'b0' in test" in str(e.value) and '10 more' in e.value.problems[-1]


def test_leakage_wants_a_split_and_its_own_fingerprints(cells):
    items, prints = cells
    with pytest.raises(InputError, match='split_items'): check_leakage(items, prints)
    with pytest.raises(InputError, match='fingerprint_items'): check_leakage(items.assign(split='train'), prints[:10])


def test_blank_and_tiny_images_do_no_harm(tmp_path):
    rng = np.random.default_rng(0)
    images = [np.zeros((40, 40), np.uint8), np.full((40, 40), 255, np.uint8), np.zeros((1, 1), np.uint8), rng.integers(0, 255, (2, 300)).astype(np.uint8), rng.integers(0, 255, (40, 40)).astype(np.uint8)]
    for k, image in enumerate(images): Image.fromarray(image).save(tmp_path/f'{k}.png')
    prints = fingerprint_items(pd.DataFrame({'id': [str(k) for k in range(5)], 'input': [str(tmp_path/f'{k}.png') for k in range(5)]}))
    assert (prints.error == '').all()
    assert '4' not in {*find_duplicates(prints).id_a, *find_duplicates(prints).id_b}


def test_suspect_labels_are_checked():
    score = np.array([[.9, .1], [.2, .8], [.1, .9]] * 20)
    labels = ['a', 'b']
    target = np.array(['a', 'b', 'b'] * 20); target[0] = 'b'
    assert find_suspect_labels(range(60), target, score, labels).id.tolist() == ['0']
    assert len(find_suspect_labels(range(60), np.array(['a', 'b', 'b'] * 20), score, labels)) == 0
    for bad in (dict(score=score * 2), dict(score=score[:5]), dict(labels=['a', 'b', 'c']), dict(target=np.array(['z'] * 60))):
        with pytest.raises(InputError): find_suspect_labels(**dict(dict(ids=range(60), target=target, score=score, labels=labels), **bad))


@pytest.fixture
def messy(tmp_path):
    "Fifteen cells with everything wrong."
    elpv = load_elpv().iloc[:15]
    items = elpv[['id', 'input', 'target']].astype(object).reset_index(drop=True)
    (tmp_path/'<b>bold.png').write_text('text')
    (tmp_path/'zero.png').write_bytes(b'')
    (tmp_path/'copy.png').write_bytes(open(items.input[0], 'rb').read())
    items.at[1, 'input'], items.at[2, 'input'], items.at[3, 'input'] = str(tmp_path/'<b>bold.png'), str(tmp_path/'zero.png'), str(tmp_path/'gone.png')
    items.at[4, 'input'], items.at[4, 'target'], items.at[0, 'target'] = str(tmp_path/'copy.png'), 'functional', 'defective'
    items.at[5, 'target'] = None
    items.at[6, 'id'] = items.at[7, 'id']
    return items.assign(split=['train'] * 4 + ['test'] * 4 + ['valid'] * 7)


def test_audit_names_everything(messy):
    audit = audit_items(messy, task='single_label')
    assert audit.unreadable.row.tolist() == [1, 2, 3] and audit.missing_labels.row.tolist() == [5]
    assert [s in e for s, e in zip(('no image but text', 'empty file', 'no such file'), audit.unreadable.error)] == [True] * 3
    assert audit.duplicates[['target_a', 'target_b']].values.tolist() == [['defective', 'functional']]
    assert (audit.leaks.id_a[0], audit.leaks.id_b[0]) == (messy.id[0], messy.id[4])
    text = '\n'.join(audit.problems)
    for said in ('3 unreadable images', '1 missing label,', '1 repeated id,', 'different labels', 'between splits (same_file)'): assert said in text
    shown = repr(audit).splitlines()
    assert shown[0] == f'Audit of {len(messy)} items' and set(audit.problems) <= {line[2:] for line in shown if line.startswith('- ')}
    assert 'unreadable: 3 rows' in shown and any('gone.png' in line for line in shown) and 'Empty DataFrame' not in repr(audit)


def test_audit_as_json_and_html(messy):
    messy = messy.assign(target=messy.target.where(messy.target != 'functional', '<script>alert(1)</script>'))
    audit = audit_items(messy, task='single_label')
    plain = json.loads(json.dumps(audit.to_dict(most=1), allow_nan=False))
    assert plain['counts']['unreadable'] == 3 and len(plain['unreadable']) == 1 and plain['n'] == 15
    page = audit._repr_html_()
    assert '<script>' not in page and '<b>bold' not in page and '&lt;script&gt;' in page


def test_audit_of_other_tasks(messy):
    assert len(audit_items(messy.assign(target=1.5), task='regression').class_balance) == 0
    multi = audit_items(messy.assign(target=['a;b', 'a', ''] * 5), task='multi_label')
    assert multi.class_balance.set_index('label').n.to_dict() == {'a': 10, 'b': 5} and len(multi.missing_labels) == 0
    with pytest.raises(InputError, match="'input'"): audit_items(messy.drop(columns='input'), task='single_label')


def test_imbalance_and_missing_classes_are_said(cells):
    items, prints = cells
    target = np.array(['common'] * len(items), object); target[:3] = 'rare'
    audit = audit_items(items.assign(target=target, split=['train'] * 100 + ['test'] * (len(items) - 100)), task='single_label', fingerprints=prints)
    assert any("test has no example of 'rare'" in p for p in audit.problems) and any('balanced accuracy' in p for p in audit.problems)


def test_suspects_reach_the_audit(cells):
    items, prints = cells
    score = np.where(items.target.to_numpy() == 'functional', .95, .05)
    target = items.target.to_numpy().astype(object).copy(); target[3] = 'functional' if target[3] == 'defective' else 'defective'
    scores = make_predictions(items.id, target, np.stack([1 - score, score], 1), task='single_label', labels=('defective', 'functional'))
    audit = audit_items(items, task='single_label', scores=scores, fingerprints=prints)
    assert audit.suspect_labels.id.tolist() == [items.id[3]] and any('suspect' in p for p in audit.problems)
