"""Bad input of every kind, and the few good kinds that look bad."""
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sft_nb.core import InputError
from sft_nb.data.items import items_from_file, items_from_folder, items_from_frame, read_image, validate_items


def save(path, color=(200, 30, 30), size=(20, 16), mode='RGB'):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, color).convert(mode).save(path)
    return str(path)


@pytest.fixture
def good(tmp_path):
    "Six images of two classes."
    rows = [(f'{k}{i}', save(tmp_path/f'{k}{i}.png', (40 * i, 90, 10)), k) for k in 'ab' for i in range(3)]
    return pd.DataFrame(rows, columns=['id', 'input', 'target'])


def problems(items, **options):
    with pytest.raises(InputError) as e: validate_items(items, **{'task': 'single_label', **options})
    return e.value.problems


def test_good_items_pass_unchanged(good):
    out = validate_items(good, task='single_label', check_files='decode')
    pd.testing.assert_frame_equal(out.astype(object), good.astype(object))


# files

def break_file(kind, path):
    if kind == 'missing': os.unlink(path)
    if kind == 'zero-byte': open(path, 'w').close()
    if kind == 'text': open(path, 'w').write('I am a text file\n')
    if kind == 'folder': os.unlink(path); os.mkdir(path)
    if kind == 'corrupt':
        data = open(path, 'rb').read()
        open(path, 'wb').write(data[:len(data) // 2])


@pytest.mark.parametrize('kind, said', [('missing', 'no such file'), ('zero-byte', 'an empty file'), ('text', 'no image but text'), ('corrupt', 'cannot be decoded'), ('folder', '')])
def test_bad_file_is_named_with_its_row(good, kind, said):
    break_file(kind, good.input[4])
    found = problems(good, check_files='decode')
    assert len(found) == 1 and found[0].startswith("Row 4 ('b1')") and good.input[4] in found[0] and said in found[0]


def test_text_named_jpg(tmp_path):
    (tmp_path/'note.jpg').write_text('hello')
    with pytest.raises(InputError, match='note.jpg to be an image, but got a file that is no image but text'): read_image(tmp_path/'note.jpg')


def test_existence_is_checked_without_decoding(good):
    break_file('text', good.input[0]); break_file('missing', good.input[1]); break_file('zero-byte', good.input[2])
    found = problems(good)
    assert len(found) == 2 and 'no such file' in found[0] and 'empty' in found[1]


def test_every_bad_file_is_listed_up_to_a_cap(tmp_path):
    items = pd.DataFrame({'id': [f'i{k}' for k in range(120)], 'input': [str(tmp_path/f'{k}.png') for k in range(120)], 'target': ['a', 'b'] * 60})
    found = problems(items)
    assert len(found) == 51 and '70 more' in found[-1] and 'audit_items' in found[-1]


# labels and ids

def test_one_class(good):
    assert "at least 2 labels, but got 1 ('a')" in problems(good[good.target == 'a'])[0]


def test_class_with_one_example(good):
    found = problems(good.assign(target=['a', 'a', 'a', 'b', 'b', 'lonely']))
    assert len(found) == 1 and "'lonely'" in found[0] and "row 5 ('b2')" in found[0]


def test_duplicate_ids(good):
    found = problems(good.assign(id=['x', 'x', 'c', 'd', 'e', 'f']))
    assert len(found) == 1 and 'unique' in found[0] and "0 ('x'), 1 ('x')" in found[0]


@pytest.mark.parametrize('missing', [None, np.nan, pd.NA, pd.NaT, ''])
def test_missing_labels(good, missing):
    items = good.astype(object)
    items.at[3, 'target'] = missing
    found = problems(items)
    assert len(found) == 1 and "`target` to be given" in found[0] and "row 3 ('b0')" in found[0]


def test_absent_column_suggests(good):
    found = problems(good.rename(columns={'target': 'targets'}))
    assert found == ["Expected column 'target' to be in the items, but got no such column. Did you mean `targets`?"]
    with pytest.raises(InputError, match='Did you mean `label`'): items_from_frame(pd.DataFrame({'file': [], 'label': []}), input='file', target='lable')


def test_all_problems_together(good):
    items = good.astype(object).assign(group=['g', None, 'g', 'h', 'h', 'h'], weight=[1, 1, 1, 1, -1, 'x'], split=['train'] * 5 + ['tset'])
    items.at[0, 'target'] = None
    items.at[1, 'id'] = ''
    os.unlink(items.input[2])
    text = '\n'.join(problems(items))
    for said in ("row 0 ('a0')", '`id` to be given', "row 1 ('')", '`weight` to be a number', "'tset'", 'no such file'): assert said in text
    assert len(problems(items)) == 6


def test_empty_table_and_unknown_task(good):
    assert 'empty table' in problems(good[:0])[0]
    assert 'Did you mean `single_label`' in problems(good, task='single-label')[0]


def test_targets_take_the_form_of_the_task(good):
    number = good.assign(target=[1, 2, 3, 4, 5, 6])
    assert validate_items(number, task='regression').target.tolist() == [1., 2., 3., 4., 5., 6.]
    assert validate_items(number.assign(target=['1.5'] * 3 + ['2'] * 3), task='regression').target.tolist() == [1.5] * 3 + [2.] * 3
    assert list(validate_items(good.assign(target=[0., 0., 0., 1., 1., 1.]), task='single_label').target) == ['0', '0', '0', '1', '1', '1']
    assert list(validate_items(good.assign(target=['b;a', ' a ; b;', '', 'a', 'b;b', '']), task='multi_label').target) == ['b;a', 'a;b', '', 'a', 'b', '']


@pytest.mark.parametrize('bad', ['many', np.inf, None])
def test_regression_wants_finite_numbers(good, bad):
    found = problems(good.assign(target=pd.Series([1, 2, 3, 4, 5, bad], dtype=object)), task='regression')
    assert len(found) == 1 and "row 5 ('b2')" in found[0]


def test_constant_regression_target(good):
    assert 'two different numbers' in problems(good.assign(target=3.), task='regression')[0]


# where items come from

def test_unicode_and_spaces_in_paths(tmp_path):
    folder = tmp_path/'Ünï cödé 数据'
    for k in ('eins zwei', 'drei/vier', '五'):
        for i in range(2): save(folder/k/f'bïld {i}.JPG')
    items = items_from_folder(folder)
    assert list(items.id) == sorted(items.id) and 'eins zwei/bïld 0.JPG' in set(items.id) and 'drei/vier/bïld 1.JPG' in set(items.id)
    assert set(items.target) == {'eins zwei', 'drei', '五'}
    assert len(validate_items(items, task='single_label', check_files='decode')) == 6


def test_folder_passes_over_what_systems_leave(tmp_path):
    for name in ('a/1.png', 'a/2.png', 'b/1.png', '.hidden/1.png', '__MACOSX/1.png', 'a/._1.png'): save(tmp_path/name)
    (tmp_path/'a'/'notes.txt').write_text('x')
    assert list(items_from_folder(tmp_path).id) == ['a/1.png', 'a/2.png', 'b/1.png']


def test_folder_reports_what_it_would_leave_out(tmp_path):
    for name in ('a/1.png', 'b/1.png', 'loose.png'): save(tmp_path/name)
    (tmp_path/'empty').mkdir()
    with pytest.raises(InputError) as e: items_from_folder(tmp_path)
    assert len(e.value.problems) == 2 and "'loose.png'" in str(e.value) and "'empty'" in str(e.value)


def test_folder_with_nothing(tmp_path):
    with pytest.raises(InputError, match='no image'): items_from_folder(tmp_path)
    with pytest.raises(InputError, match='which is not one'): items_from_folder(tmp_path/'absent'/'deeper')


def test_split_folders(tmp_path):
    for name in ('Train/a/1.png', 'Train/b/1.png', 'validation/a/2.png', 'test/b/3.png'): save(tmp_path/name)
    items = items_from_folder(tmp_path)
    assert dict(zip(items.id, items.split)) == {'Train/a/1.png': 'train', 'Train/b/1.png': 'train', 'validation/a/2.png': 'valid', 'test/b/3.png': 'test'}
    assert list(items.target) == ['a', 'b', 'b', 'a']


def test_frame_keeps_slices_lists_and_roots(tmp_path):
    frame = pd.DataFrame({'f': ['x/1.png', '/abs/2.png'], 'tags': [['a', 'b'], []], 'site': ['n', 's'], 'n': [1., np.nan]})
    items = items_from_frame(frame, input='f', target='tags', root=tmp_path, slices=('site', 'n'))
    assert list(items.target) == ['a;b', ''] and list(items.columns) == ['id', 'input', 'target', 'site', 'n']
    assert items.input[0] == str(tmp_path/'x'/'1.png') and items.input[1] == '/abs/2.png' and items.id[0] == 'x/1.png'
    assert 'split' not in frame and list(frame.columns) == ['f', 'tags', 'site', 'n']


@pytest.mark.parametrize('suffix', ['.csv', '.tsv', '.parquet'])
def test_files_keep_names_as_written(tmp_path, suffix):
    frame = pd.DataFrame({'code': ['007', '1e5'], 'file': ['ä 1.png', 'b.png'], 'kind': ['NA', 'None'], 'age': ['3', '']})
    path = tmp_path/f'table{suffix}'
    frame.to_parquet(path) if suffix == '.parquet' else frame.to_csv(path, index=False, sep=',' if suffix == '.csv' else '\t')
    items = items_from_file(path, input='file', target='kind', id='code', slices='age')
    assert list(items.id) == ['007', '1e5'] and list(items.target) == ['NA', 'None'] and items.input[0] == str(tmp_path/'ä 1.png')
    if suffix != '.parquet': assert items.age[0] == 3 and np.isnan(items.age[1])


def test_file_errors(tmp_path):
    with pytest.raises(InputError, match='not there'): items_from_file(tmp_path/'a.csv', input='f', target='t')
    (tmp_path/'a.xlsx').write_text('x')
    with pytest.raises(InputError, match='.csv, .tsv or .parquet'): items_from_file(tmp_path/'a.xlsx', input='f', target='t')
    (tmp_path/'a.csv').write_bytes(b'f,t\n\xff\xfe\x00,1\n')
    with pytest.raises(InputError, match='readable table|text in UTF-8'): items_from_file(tmp_path/'a.csv', input='f', target='t')
    (tmp_path/'a.parquet').write_text('no parquet')
    with pytest.raises(InputError, match='readable table|text in UTF-8'): items_from_file(tmp_path/'a.parquet', input='f', target='t')
    (tmp_path/'b.csv').write_text('')
    with pytest.raises(InputError): items_from_file(tmp_path/'b.csv', input='f', target='t')


# pixels

def pixels(path): return np.asarray(read_image(path))


def test_sixteen_bit_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 257, 25700, 65535]], np.uint16)).save(tmp_path/'deep.png')
    assert pixels(tmp_path/'deep.png')[0, :, 0].tolist() == [0, 1, 100, 255]
    Image.fromarray(np.array([[0, 257, 25700, 65535]], np.uint16)).save(tmp_path/'deep.tif')
    assert pixels(tmp_path/'deep.tif')[0, :, 1].tolist() == [0, 1, 100, 255]


def test_float_image(tmp_path):
    Image.fromarray(np.array([[0, .5, 1]], np.float32)).save(tmp_path/'f.tif')
    assert pixels(tmp_path/'f.tif')[0, :, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0, 300.]], np.float32)).save(tmp_path/'g.tif')
    with pytest.raises(InputError, match='values from 0 to 1, but got 0 to 300'): read_image(tmp_path/'g.tif')


def test_alpha_is_laid_over_white(tmp_path):
    Image.fromarray(np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 127]]], np.uint8)).save(tmp_path/'a.png')
    assert pixels(tmp_path/'a.png')[0].tolist() == [[200, 0, 0], [255, 255, 255], [228, 128, 128]]
    Image.new('LA', (2, 2), (50, 0)).save(tmp_path/'la.png')
    assert (pixels(tmp_path/'la.png') == 255).all()


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new('P', (2, 1)); image.putpalette([255, 0, 0, 0, 0, 255]); image.putdata([0, 1])
    image.save(tmp_path/'p.png')
    assert pixels(tmp_path/'p.png')[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    image.save(tmp_path/'t.png', transparency=1)
    assert pixels(tmp_path/'t.png')[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_other_modes(tmp_path):
    Image.new('CMYK', (2, 2), (0, 255, 255, 0)).save(tmp_path/'c.jpg')
    assert (abs(pixels(tmp_path/'c.jpg')[0, 0].astype(int) - [255, 0, 0]) < 8).all()
    Image.new('1', (2, 2), 1).save(tmp_path/'b.png'); assert (pixels(tmp_path/'b.png') == 255).all()
    Image.new('L', (2, 2), 77).save(tmp_path/'l.png'); assert (pixels(tmp_path/'l.png') == 77).all()


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)) # 2 wide, 1 high
    exif = Image.Exif(); exif[0x0112] = 6 # turn by 90° clockwise
    image.save(tmp_path/'e.png', exif=exif)
    assert pixels(tmp_path/'e.png')[:, 0].tolist() == [[255, 0, 0], [0, 255, 0]]


def test_smaller_decoding_keeps_enough(tmp_path):
    save(tmp_path/'big.jpg', size=(1600, 800))
    image = read_image(tmp_path/'big.jpg', at_least=200)
    assert min(image.size) >= 200 and image.width < 1600
