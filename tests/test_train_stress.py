"""Stress: the same sample for everybody, images and texts that depend on their ids alone, files that are whole and believed only if they fit, and forgetting measured from the right base."""
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sft_nb.bench.job import run_job, stress_run
from sft_nb.cli import main
from sft_nb.config import make_config
from sft_nb.core import InputError
from sft_nb.data.noise import corrupt_text
from sft_nb.data.splits import split_items
from sft_nb.data.store import build_store
from sft_nb.evaluate.forgetting import measure_forgetting
from sft_nb.evaluate.robustness import evaluate_robustness
from sft_nb.models.backbones import load_backbone, save_backbone
from sft_nb.records import Predictions
from sft_nb.report.contrasts import RobustnessDisplay
from sft_nb.tasks.image import CorruptedStore
from sft_nb.tasks.inputs import find_inputs, score_items
from sft_nb.tasks.targets import describe_targets
from sft_nb.train import stress
from sft_nb.train.run import Run, open_run, train_run
from sft_nb.train.stress import predict_corrupted, predict_probe, sample_items

FEW = dict(corruptions=['gaussian_noise', 'contrast'], severities=(1, 5), seed=0, max_items=20)


def draw_photos(folder, n, kinds, size=40, seed=0) -> pd.DataFrame:
    "Pictures with stripes of some width, whose kind a network tells apart most of the time."
    rng, rows = np.random.default_rng(seed), []
    for k, kind in enumerate(kinds):
        (folder/kind).mkdir(parents=True)
        for i in range(n):
            stripes = 60 * np.sign(np.sin(np.arange(size) / (1.5 + 1.5 * k) + rng.uniform(0, 6)))
            pixels = 128 + stripes[:, None, None] * rng.uniform(.2, 1) + rng.normal(0, 40, (size, size, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder/kind/f'{i}.png')
            rows.append(dict(id=f'{kind}/{i}', input=str(folder/kind/f'{i}.png'), target=kind))
    return pd.DataFrame(rows)


@pytest.fixture(scope='module')
def photos(tmp_path_factory): return split_items(draw_photos(tmp_path_factory.mktemp('photos'), 40, ['fine', 'wide']), method='stratified', valid=.2, test=.4, seed=0)


@pytest.fixture(scope='module')
def probe_set(tmp_path_factory): return draw_photos(tmp_path_factory.mktemp('probe'), 24, ['one', 'two', 'three'], seed=1)


def make_run(folder, photos, **train) -> Run:
    config = make_config(dict(data=dict(path='photos', positive='wide'), model=dict(size=32), train=dict(dict(epochs=0, batch_size=8), **train)))
    return train_run(open_run(folder, config), photos)


@pytest.fixture(scope='module')
def probe_only(tmp_path_factory, photos) -> Run: return make_run(tmp_path_factory.mktemp('runs')/'probe', photos)


@pytest.fixture(scope='module')
def tuned(tmp_path_factory, photos) -> Run:
    "A run whose body has moved, the later layers more. (So little data would teach it nothing, and it would stay where it was.)"
    run = make_run(tmp_path_factory.mktemp('runs')/'tuned', photos)
    model = load_backbone(run/'model')
    with torch.no_grad():
        for k, block in enumerate(model.blocks):
            for p in block.parameters(): p += .02 * (k + 1) * p.std(correction=0) * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    save_backbone(model, run/'model', labels=('fine', 'wide'))
    return run


def times(run): return {p.name: p.stat().st_mtime_ns for p in (run/'stress').iterdir()}


# --- The sample --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('n', [1, 7, 50, 100, 500])
def test_a_sample_is_stratified_and_stable(n):
    items = pd.DataFrame(dict(id=[f'i{k}' for k in range(100)], input='x', target=np.repeat(['a', 'b', 'c'], [60, 30, 10])))
    some = sample_items(items, n, seed=0)
    assert len(some) == min(n, 100) and some.id.is_unique
    for label, share in dict(a=.6, b=.3, c=.1).items(): assert abs((some.target == label).sum() - share * len(some)) <= 1
    assert list(some.id) == [i for i in items.id if i in set(some.id)]
    mixed = items.sample(frac=1, random_state=1)
    assert set(sample_items(mixed, n, seed=0).id) == set(some.id)
    if 1 < n < 100: assert set(sample_items(items, n, seed=1).id) != set(some.id)


def test_a_sample_of_numbers_covers_their_range():
    items = pd.DataFrame(dict(id=range(200), input='x', target=np.random.default_rng(0).normal(size=200)))
    some = sample_items(items, 20, seed=0).target
    assert np.quantile(some, [.1, .5, .9]) == pytest.approx(np.quantile(items.target, [.1, .5, .9]), abs=.25)
    with pytest.raises(InputError): sample_items(items, 0, seed=0)


# --- Corruptions -------------------------------------------------------------------------------------------------------

def test_what_a_run_says_in_bad_weather(probe_only):
    clean, corrupted = predict_corrupted(probe_only, **FEW)
    saved = probe_only.predictions('test')
    assert len(clean) == 20 and set(clean.ids) <= set(saved.ids) and list(corrupted) == [(c, s) for c in FEW['corruptions'] for s in (1, 5)]
    for preds in corrupted.values(): assert (preds.ids == clean.ids).all() and (preds.target == clean.target).all() and preds.labels == clean.labels
    items = probe_only.items
    store = CorruptedStore(build_store(items, size=32), 'contrast', 5, seed=0)
    by_hand = score_items(load_backbone(probe_only/'model'), store, clean.ids, describe_targets(items, task='single_label', positive='wide'), batch_size=7)
    assert corrupted['contrast', 5].score == pytest.approx(by_hand, abs=1e-4)
    provenance = corrupted['contrast', 5].provenance
    assert (provenance['corruption'], provenance['severity'], provenance['seed']) == ('contrast', 5, 0)


def test_finished_work_is_not_done_again(probe_only, monkeypatch):
    first = predict_corrupted(probe_only, **FEW)[1]
    before = times(probe_only)
    monkeypatch.setattr(stress, 'score_items', None) # to be needed would be an error
    again = predict_corrupted(probe_only, **FEW)[1]
    assert all((again[k].score == first[k].score).all() for k in first) and times(probe_only) == before


def test_a_kill_leaves_whole_files_and_the_next_call_goes_on(probe_only, monkeypatch):
    scored, real, few = [], score_items, dict(FEW, seed=3)
    def score_two(*args, **kw):
        if len(scored) == 2: raise KeyboardInterrupt
        scored.append(1)
        return real(*args, **kw)
    monkeypatch.setattr(stress, 'score_items', score_two)
    with pytest.raises(KeyboardInterrupt): predict_corrupted(probe_only, **few)
    for path in (probe_only/'stress').iterdir(): Predictions.load(path)
    monkeypatch.setattr(stress, 'score_items', lambda *a, **kw: (scored.append(1), real(*a, **kw))[1])
    predict_corrupted(probe_only, **few)
    assert len(scored) == 4 and not list((probe_only/'stress').glob('.*'))


@pytest.mark.parametrize('other', [dict(seed=1), dict(max_items=10)])
def test_files_of_another_call_are_not_believed(probe_only, other):
    predict_corrupted(probe_only, **FEW)
    clean, corrupted = predict_corrupted(probe_only, **{**FEW, **other})
    assert all((p.ids == clean.ids).all() and p.provenance['seed'] == other.get('seed', 0) for p in corrupted.values())


def test_files_of_another_model_are_not_believed(tmp_path, photos):
    run = make_run(tmp_path/'run', photos)
    before = predict_corrupted(run, **FEW)[1]['contrast', 5]
    model = load_backbone(run/'model')
    with torch.no_grad(): model.get_classifier().bias += torch.tensor([1., -1.])
    save_backbone(model, run/'model', labels=('fine', 'wide'))
    after = predict_corrupted(run, **FEW)[1]['contrast', 5]
    assert (after.score[:, 0] > before.score[:, 0]).all()


def test_the_probe_is_the_probe(tuned, probe_only):
    "Where nothing was fine-tuned the two models are the same; where something was they are not."
    same, also = predict_corrupted(probe_only, **FEW)[1], predict_corrupted(probe_only, model='probe', **FEW)[1]
    assert all(also[k].score == pytest.approx(same[k].score, abs=1e-4) for k in same)
    clean, corrupted = predict_corrupted(tuned, **FEW)
    base = predict_corrupted(tuned, model='probe', **FEW)
    assert abs(base[1]['contrast', 1].score - corrupted['contrast', 1].score).max() > .01
    assert {p.name for p in (tuned/'stress').iterdir()} >= {'contrast-5.parquet', 'contrast-5-probe.parquet'}
    metrics = evaluate_robustness(clean, corrupted, baseline=base, seed=0).metrics
    assert list(metrics.metric) == ['clean_error', 'mean_corruption_error', 'mean_error_increase', 'mce', 'relative_mce']
    bad = tuned.predictions('test', 'probe')
    path = tuned/'predictions-test-probe.parquet'
    kept = path.read_bytes()
    Predictions(bad.ids, bad.target, bad.score[:, ::-1], bad.task, bad.labels).save(path)
    try:
        with pytest.raises(InputError, match='Have the weights'): predict_corrupted(tuned, model='probe', **FEW)
    finally: path.write_bytes(kept)


def test_what_is_wrong_is_said_at_once(tmp_path, probe_only, photos):
    with pytest.raises(InputError) as e: predict_corrupted(probe_only, corruptions=['fogg'], severities=(0, 3), model='best', seed=0)
    assert len(e.value.problems) == 3 and '`fog`' in str(e.value)
    unfinished = open_run(tmp_path/'run', make_config(dict(data=dict(path='photos'))))
    for ask in (lambda: predict_corrupted(unfinished, seed=0), lambda: predict_probe(unfinished, photos, seed=0)):
        with pytest.raises(InputError, match='finished run'): ask()


def test_changed_images_are_noticed(tmp_path):
    photos = split_items(draw_photos(tmp_path/'photos', 20, ['fine', 'wide']), method='stratified', valid=.2, test=.4, seed=0)
    run = make_run(tmp_path/'run', photos)
    Image.new('RGB', (40, 40)).save(photos.input[0])
    with pytest.raises(InputError, match='as they were'): predict_corrupted(run, **FEW)


# --- Texts ---------------------------------------------------------------------------------------------------------------

NOISY = dict(corruptions=['typos', 'whitespace', 'accents'], severities=(1, 5), seed=0, max_items=30)


@pytest.fixture(scope='module')
def read(tmp_path_factory) -> Run:
    "A run on sentences, by a small transformer and a linear layer, with a report."
    pytest.importorskip('transformers')
    from test_text import WORDS, make_encoder, tiny_config, worded_items
    folder = tmp_path_factory.mktemp('read')
    make_encoder(folder/'encoder', WORDS)
    items = worded_items(160)
    items['input'] += np.where(np.arange(160) % 40 == 3, ' café', '') # of a few there is an accent to lose
    items.rename(columns=dict(input='text', target='label')).to_parquet(folder/'t.parquet')
    run_job(tiny_config(folder/'encoder', folder/'t.parquet', dict(positive='b', id='id', split='split'), split=dict(method='given', on_leak='warn'), train=dict(epochs=0)), folder/'run', say=lambda line: None)
    return Run(folder/'run')


def test_what_a_run_says_of_noisy_texts(read):
    "The tokens are those of `corrupt_text`, by the id of an item and nothing else; where nothing is struck, the score is that of the clean text."
    clean, noisy = predict_corrupted(read, **NOISY)
    items, saved = read.items.set_index('id'), read.predictions('test')
    assert len(clean) == 30 and set(clean.ids) <= set(saved.ids) and list(noisy) == [(c, s) for c in NOISY['corruptions'] for s in (1, 5)]
    inputs = find_inputs(read.config)
    network, targets = inputs.load_model(read/'model'), describe_targets(read.items, task='single_label', positive='b')
    worse = items.assign(input=[corrupt_text(t, 'typos', 5, seed=0, item=i) for i, t in zip(items.index, items.input)]).reset_index()
    by_hand = score_items(network, inputs.build_store(worse), clean.ids, targets, batch_size=5)
    assert noisy['typos', 5].score == pytest.approx(by_hand, abs=1e-5) and abs(noisy['typos', 5].score - clean.score).max() > .01
    untouched = np.array([corrupt_text(items.input[i], 'accents', 5, seed=0, item=i) == items.input[i] for i in clean.ids])
    assert .8 < untouched.mean() < 1 and noisy['accents', 5].score[untouched] == pytest.approx(clean.score[untouched], abs=1e-5)
    for preds in noisy.values(): assert (preds.ids == clean.ids).all() and (preds.target == clean.target).all()


def test_stress_on_texts_from_the_terminal(read, capsys, monkeypatch):
    "Numbers, report and JSON as for images; the second time nothing is asked again."
    assert main(['stress', str(read.folder), '--items', '30', '--corruptions', 'typos', 'homoglyphs']) == 0
    said, e = capsys.readouterr().out, read.evaluation
    assert 'mean_corruption_error' in said and 'Forgetting' not in said
    assert list(e.curves['corruptions'].corruption) == ['typos', 'homoglyphs'] and len(e.curves['robustness_cells']) == 11
    row = e.curves['robustness'].set_index('metric').loc['mean_corruption_error']
    assert row.low <= row.value <= row.high and row.n == 30 and e.context['stress']['items'] == 30 and e.context['stress']['baseline'] == 'linear probe'
    assert e.curves['robustness'].set_index('metric').value['mce'] == pytest.approx(1) # nothing was fine-tuned: the model is its probe
    assert RobustnessDisplay.from_evaluation(e).plot().ax_.get_title(loc='left') + RobustnessDisplay.from_evaluation(e).plot().ax_.get_title() == 'Noisy texts'
    reads, before = e.context['test_reads'], times(read)
    monkeypatch.setattr(stress, 'score_items', None)
    assert main(['stress', str(read.folder), '--items', '30', '--corruptions', 'typos', 'homoglyphs', '--probe', 'none']) == 0
    assert times(read) == before and read.evaluation.context['test_reads'] == reads == 2


def test_what_texts_and_conversations_are_not_asked(read, tmp_path, capsys):
    with pytest.raises(InputError, match='Did you mean `typos`'): predict_corrupted(read, corruptions=['typoes'], seed=0)
    assert main(['stress', str(read.folder), '--corruptions', 'fog']) == 1 and 'known name' in capsys.readouterr().err
    assert main(['stress', str(read.folder), '--probe', 'cifar10']) == 1 and 'Probe sets are pictures' in capsys.readouterr().err
    talk = open_run(tmp_path/'talk', make_config(dict(data=dict(path='talks.jsonl', kind='chat'))))
    for ask in (lambda: predict_corrupted(talk, seed=0), lambda: stress_run(talk)):
        with pytest.raises(InputError, match='one on images or texts.*one on chat'): ask()


# --- Forgetting --------------------------------------------------------------------------------------------------------

def test_an_untouched_body_forgot_nothing(probe_only, probe_set):
    "The base is the model before fine-tuning, so a run that left the body alone is equal to it in all respects."
    found = predict_probe(probe_only, probe_set, seed=0)
    table = measure_forgetting(**found, seed=0)
    assert table[table.measure == 'CKA with the base'].value.to_numpy() == pytest.approx(1, abs=1e-5)
    assert table[table.measure == 'agreement with the base'].value.tolist() == [1.]
    probes = table[table.measure == 'accuracy of a probe']
    assert (probes.value == 0).all() and (probes.base > .4).any() and len(probes) == len(found['features'])


def test_fine_tuning_leaves_its_marks(tuned, probe_set):
    found = predict_probe(tuned, probe_set, seed=0)
    table = measure_forgetting(**found, seed=0)
    cka = table[table.measure == 'CKA with the base'].set_index('of').value
    assert cka['head'] < .99 and cka.iloc[0] > cka['head']
    assert table[table.measure == 'agreement with the base'].value.iloc[0] < 1
    base, after = found['heads']['original head']
    assert (base.prediction == base.target).all() and base.score.shape == (72, 1000) and (after.target == base.target).all()
    first, second = found['probes']['head']
    assert (first.ids == second.ids).all() and len(first) == 36 and first.labels == ('one', 'three', 'two')


def test_features_are_kept_and_checked(tuned, probe_set, monkeypatch):
    one = predict_probe(tuned, probe_set, seed=0)
    with monkeypatch.context() as m:
        m.setattr(stress, '_depth_features', None)
        again = predict_probe(tuned, probe_set, seed=0)
    assert all((again['features'][k][i] == one['features'][k][i]).all() for k in one['features'] for i in (0, 1))
    fewer = predict_probe(tuned, probe_set, seed=0, max_items=48)
    assert len(fewer['features']['head'][0]) == 48


def test_the_base_must_be_the_runs_own(tuned, probe_set, monkeypatch):
    "Not the tuned model, nor other weights of the same name."
    base = stress._base_model(tuned).state_dict()
    after = load_backbone(tuned/'model').state_dict()
    assert any(not torch.equal(base[k].cpu(), after[k]) for k in after if k.startswith('blocks.0'))
    real = stress.find_weights
    monkeypatch.setattr(stress, 'find_weights', lambda *a: (real(*a)[0], dict(source='elsewhere')))
    with pytest.raises(InputError, match='those of the run'): predict_probe(tuned, probe_set, seed=0)


def test_random_weights_have_nothing_to_forget(tmp_path, photos, probe_set):
    config = make_config(dict(data=dict(path='photos', positive='wide'), model=dict(size=32, weights='none'), train=dict(epochs=0)))
    run = train_run(open_run(tmp_path/'run', config), photos)
    with pytest.raises(InputError, match='cannot forget'): predict_probe(run, probe_set, seed=0)
