"""Augmentation is a pure function of (seed, epoch, item), whoever runs it."""
import pickle, subprocess, sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fastai.data.all import Datasets, TfmdDL, Transform
from PIL import Image
from sklearn.datasets import load_sample_images

import albumentations as A
from sft_nb.core import InputError
from sft_nb.data.augment import AugmentTransform, create_augment, show_augment
from sft_nb.data.store import StoredImage

SIZE = 48
PHOTOS = {f'p{k}': np.asarray(Image.fromarray(load_sample_images().images[k % 2][20 * k:20 * k + 150, 30 * k:30 * k + 150]).resize((SIZE, SIZE))) for k in range(12)}


def get(id): return StoredImage(PHOTOS[id], id)


class Encode(Transform):
    order = 5
    def encodes(self, x: StoredImage): return torch.from_numpy(np.asarray(x).copy()), int(x.item_id[1:])


def read(tfm, *, num_workers=0, shuffle=True, split=0, **options):
    sets = Datasets(list(PHOTOS), [[get]], splits=[range(12), range(12)])
    dl = TfmdDL(sets.subset(split), bs=5, shuffle=shuffle, drop_last=False, after_item=[tfm, Encode()], num_workers=num_workers, **options)
    return {int(i): x.numpy() for (xb, ib), in dl for x, i in zip(xb, ib)}


def same(a, b): return set(a) == set(b) and all((a[i] == b[i]).all() for i in a)


@pytest.mark.parametrize('preset', ['light', 'medium', 'strong'])
def test_workers_and_order_change_nothing(preset):
    tfm = AugmentTransform(create_augment(preset, size=SIZE), seed=1, epoch=4)
    alone = read(tfm, shuffle=False)
    assert len(alone) == 12 and same(alone, read(tfm)) and same(alone, read(tfm, num_workers=2))
    assert not same(alone, {i: PHOTOS[f'p{i}'] for i in range(12)})


def test_after_a_resume_the_epoch_is_the_same():
    first = AugmentTransform(create_augment('strong', size=SIZE), seed=1)
    for epoch in range(4):
        first.epoch = epoch
        last = read(first)
    assert same(last, read(AugmentTransform(create_augment('strong', size=SIZE), seed=1, epoch=3)))
    assert same(last, read(pickle.loads(pickle.dumps(first))))
    assert not same(last, read(AugmentTransform(create_augment('strong', size=SIZE), seed=2, epoch=3)))


def test_workers_that_stay_alive_see_the_epoch():
    tfm = AugmentTransform(create_augment('strong', size=SIZE), seed=0)
    loader = torch.utils.data.DataLoader(_Set(tfm), batch_size=4, num_workers=2, persistent_workers=True, multiprocessing_context='fork')
    epochs = []
    for tfm.epoch in range(3): epochs.append(torch.cat(list(loader)).numpy())
    for epoch, found in enumerate(epochs):
        alone = AugmentTransform(create_augment('strong', size=SIZE), seed=0, epoch=epoch)
        assert (found == np.stack([alone(get(i), split_idx=0) for i in PHOTOS])).all()


class _Set(torch.utils.data.Dataset):
    def __init__(self, tfm): self.tfm = tfm
    def __len__(self): return len(PHOTOS)
    def __getitem__(self, k): return torch.from_numpy(np.asarray(self.tfm(get(f'p{k}'), split_idx=0)).copy())


def test_validation_images_are_left_alone():
    assert same(read(AugmentTransform(create_augment('strong', size=SIZE), seed=1), split=1), {i: PHOTOS[f'p{i}'] for i in range(12)})


def test_steps_are_independent():
    "Two steps of probability one half: all four outcomes, each about a quarter of the time."
    tfm = AugmentTransform(A.Compose([A.HorizontalFlip(p=.5), A.VerticalFlip(p=.5)]), seed=0)
    corner = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    seen = [tfm(StoredImage(corner, str(i)), split_idx=0).tobytes() for i in range(800)]
    counts = np.array([seen.count(s) for s in set(seen)])
    assert len(counts) == 4 and abs(counts - 200).max() < 50 # four standard deviations


def test_quarter_turns_only_move_pixels():
    tfm = AugmentTransform(create_augment('none', size=SIZE, symmetry='all'), seed=0)
    views = {tfm(StoredImage(PHOTOS['p0'], str(i)), split_idx=0).tobytes() for i in range(100)}
    eight = {np.ascontiguousarray(np.rot90(f, k)).tobytes() for f in (PHOTOS['p0'], PHOTOS['p0'][:, ::-1]) for k in range(4)}
    assert views == eight
    same_up = AugmentTransform(create_augment('none', size=SIZE, symmetry='mirror'), seed=0)
    assert {same_up(StoredImage(PHOTOS['p0'], str(i)), split_idx=0).tobytes() for i in range(50)} == {PHOTOS['p0'].tobytes(), np.ascontiguousarray(PHOTOS['p0'][:, ::-1]).tobytes()}
    off = AugmentTransform(create_augment('none', size=SIZE, symmetry='none'), seed=0)
    assert (off(get('p0'), split_idx=0) == PHOTOS['p0']).all()


@pytest.mark.parametrize('preset', ['light', 'medium', 'strong'])
def test_grey_stays_grey(preset):
    grey = np.repeat(PHOTOS['p1'].mean(2, keepdims=True).astype(np.uint8), 3, 2)
    tfm = AugmentTransform(create_augment(preset, size=SIZE), seed=0)
    for i in range(100): assert np.ptp(np.asarray(tfm(StoredImage(grey, str(i)), split_idx=0)).astype(int), axis=2).max() <= 1


def test_specs():
    for spec in (['HorizontalFlip'], {'HorizontalFlip': {'p': 1}, 'Blur': None}, [{'SomeOf': {'transforms': ['CLAHE', {'Blur': {'p': 1}}], 'n': 1}}], A.Compose([A.D4(p=1)]), A.HorizontalFlip(p=1) and [A.HorizontalFlip(p=1)]):
        assert create_augment(spec, size=SIZE)(image=PHOTOS['p0'])['image'].shape == (SIZE, SIZE, 3)
    assert (create_augment([{'HorizontalFlip': {'p': 1}}], size=SIZE)(image=PHOTOS['p0'])['image'] == PHOTOS['p0'][:, ::-1]).all()
    assert create_augment([{'RandomResizedCrop': {'size': [SIZE, SIZE], 'scale': [.5, 1]}}], size=SIZE) # lists, as YAML has them


@pytest.mark.parametrize('spec, said', [
    ('meduim', 'Did you mean `medium`'), ([{'HorizontalFlp': {}}], 'Did you mean `HorizontalFlip`'), ([{'Affine': {'rotat': 9}}], 'Did you mean `rotate`'),
    ([{'Blur': {'p': 7}}], 'Expected Blur to be valid'), ([{'OneOf': {'transforms': ['Bluur']}}], 'Did you mean `Blur`'), ([{'Resize': {'height': 9, 'width': 9}}], 'leave normalising'),
    ([{'Compose': {'transforms': [{'ToFloat': {}}]}}], 'leave normalising'), ([3], 'transform of albumentations')])
def test_bad_specs_are_explained(spec, said):
    with pytest.raises(InputError) as e: create_augment(spec, size=SIZE)
    assert said in str(e.value)


def test_image_without_an_id_is_refused():
    with pytest.raises(InputError, match='item_id'): AugmentTransform(create_augment('light', size=SIZE), seed=0)(StoredImage(PHOTOS['p0'], None), split_idx=0)


def test_import_leaves_the_environment_and_asks_nobody():
    code = '''
import os, socket
os.environ.pop('NO_ALBUMENTATIONS_UPDATE', None)
def refuse(*a, **k): raise SystemExit('asked the network')
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import sft_nb.data.augment
assert 'NO_ALBUMENTATIONS_UPDATE' not in os.environ
print('quiet')
'''
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == 'quiet', done


def test_show_augment_draws_the_image_first():
    figure = show_augment(PHOTOS['p0'], create_augment('light', size=SIZE), 12, seed=0)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 13 and (shown[0].images[0].get_array() == PHOTOS['p0']).all() and figure.get_figwidth() <= 6


def test_threads_draw_what_one_draws():
    "A pipeline has one generator; each thread must have a pipeline of its own."
    rng = np.random.default_rng(0)
    images, augment = rng.integers(0, 256, (200, 48, 48, 3), dtype=np.uint8), AugmentTransform(create_augment('strong', size=48), seed=0)
    alone = [augment.draw(image, i) for i, image in enumerate(images)]
    with ThreadPoolExecutor(8) as threads: together = list(threads.map(augment.draw, images, range(200)))
    assert all((a == b).all() for a, b in zip(alone, together)) and not (alone[0] == images[0]).all()
