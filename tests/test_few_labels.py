"Few labels for texts: what label names know alone, pairs, what they teach, and all of it in a run that is killed and goes on."
import json

import numpy as np
import pandas as pd
import pytest
import torch

transformers = pytest.importorskip('transformers')

from sft_nb.assets import fetch_asset
from sft_nb.bench.job import run_job
from sft_nb.config import make_config
from sft_nb.core import InputError
from sft_nb.data.items import load_imdb
from sft_nb.data.splits import split_items
from sft_nb.models.language import create_encoder
from sft_nb.models.weights import hash_tensors
from sft_nb.records import make_predictions
from sft_nb.report.contrasts import FewLabelsDisplay
from sft_nb.tasks.targets import describe_targets
from sft_nb.tasks.text import build_tokens
from sft_nb.train.contrast import PairLoss, draw_batches, fit_contrast, weigh_pairs
from sft_nb.train.few_labels import compare_few_labels
from sft_nb.train.labels import draw_few_shot
from sft_nb.train.probe import extract_features
from sft_nb.train.run import Run, open_run, train_run
from sft_nb.train.stress import sample_items
from sft_nb.train.zero_shot import phrase_labels, score_zero_shot

MUSICIANS = ('Beyoncé', 'Frédéric_Chopin', 'Kanye_West', 'Madonna_(entertainer)')


@pytest.fixture(scope='module')
def reviews():
    "Training side of IMDb only: 220 to draw from, 20 to select on, 120 to look at."
    items = sample_items(load_imdb().query("split == 'train'").drop(columns='split'), 360, seed=3)
    return split_items(items, method='stratified', valid=20 / 360, test=120 / 360, seed=0)


@pytest.fixture(scope='module')
def targets(reviews): return describe_targets(reviews, task='single_label', positive='positive')


@pytest.fixture(scope='module')
def minilm(): return create_encoder('minilm-l6', n_out=2)


@pytest.fixture(scope='module')
def store(reviews, minilm): return build_tokens(reviews, minilm.tokenizer, max_length=48)


# --- Zero-shot -----------------------------------------------------------------------------------------------------------

def test_zero_shot_agrees_with_sentence_transformers(reviews, targets, minilm, store):
    "Embeddings and scores, made from texts by the library that the encoder was trained with."
    sentence = pytest.importorskip('sentence_transformers')
    peer = sentence.SentenceTransformer(str(fetch_asset('minilm-l6')), device='cpu')
    peer.max_seq_length = 48
    some = reviews.head(40)
    texts, labels = (torch.from_numpy(peer.encode(list(t), normalize_embeddings=True)) for t in (some.input, ['This text is negative.', 'This text is positive.']))
    ours = extract_features(minilm, store, some.id)
    assert np.abs(ours / np.linalg.norm(ours, axis=1, keepdims=True) - texts.numpy()).max() < 1e-5
    assert np.abs(score_zero_shot(minilm, store, some.id, targets) - (20 * texts @ labels.T).softmax(1).numpy()).max() < 1e-5


def test_zero_shot_asks_for_words():
    with pytest.raises(InputError) as e: phrase_labels(('0', '1'), template='Good or bad?')
    assert len(e.value.problems) == 2 and '0, 1' in str(e.value) and '{label}' in str(e.value)
    assert phrase_labels(('0', '1'), names={'0': 'bad', '1': 'très bon'})[1] == 'This text is très bon.'
    with pytest.raises(InputError, match='different'): phrase_labels(('a', 'b'), names=dict(a='good', b='good'))
    with pytest.raises(InputError, match='two or more'): phrase_labels(('good',))


# --- Pairs -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('counts', [(8, 8), (40, 3), (5, 1, 20), (2,) * 30])
def test_batches(counts):
    "No text twice in a batch, pairs of one label in each, labels equally common, texts of a label too; the seed decides."
    y = np.repeat(np.arange(len(counts)), counts)
    y = y[np.random.default_rng(0).permutation(len(y))]
    draw = lambda seed: draw_batches(y, batch_size=16, n_batches=60, seed=seed)
    batches = draw(0)
    assert [b.tolist() for b in batches] == [b.tolist() for b in draw(0)] != [b.tolist() for b in draw(1)]
    for b in batches:
        of_label = np.bincount(y[b])
        assert len(set(b)) == len(b) <= 16 and of_label.max() >= 2 and (of_label > 0).sum() >= 2
    used, per_label = np.bincount(np.concatenate(batches), minlength=len(y)), max(2, 16 // len(counts))
    drawn = np.bincount(y, used, len(counts)) / np.minimum(per_label, counts)
    assert np.ptp(drawn) <= 1 # how often a label had its turn
    assert all(np.ptp(used[y == l]) <= 1 for l in range(len(counts)))


def test_pairs():
    y = torch.tensor([2, 0, 0, 1, 2, 2])
    first, second, same, weight = weigh_pairs(y)
    assert len({(int(i), int(j)) for i, j in zip(first, second)}) == 15 and (first < second).all()
    assert (same == (y[first] == y[second]).float()).all()
    assert weight[same == 1].sum().item() == pytest.approx(.5) and weight[same == 0].sum().item() == pytest.approx(.5)
    assert weigh_pairs(torch.zeros(3))[3].tolist() == pytest.approx([1 / 3] * 3) # all of one label: nothing to balance


def test_losses_are_the_published_ones():
    "Of three texts of one label and one of another half of the pairs have one label, so the weights are equal and the loss is sentence-transformers'."
    sentence = pytest.importorskip('sentence_transformers')
    torch.manual_seed(0)
    e, y = torch.randn(4, 8), torch.tensor([0, 0, 0, 1])
    first, second, same, _ = weigh_pairs(y)
    from sentence_transformers.losses import CosineSimilarityLoss
    peer = CosineSimilarityLoss(sentence.SentenceTransformer(modules=[torch.nn.Identity()]))
    assert PairLoss('cosine')(e, y).item() == pytest.approx(peer.compute_loss_from_embeddings([e[first], e[second]], same).item(), abs=1e-6)
    z, by_hand = torch.nn.functional.normalize(e, dim=1), []
    for i in range(3): # the last has nobody of its label
        others = [a for a in range(4) if a != i]
        total = sum(torch.exp(z[i] @ z[a] / .1) for a in others)
        by_hand.append(-np.mean([float(torch.log(torch.exp(z[i] @ z[p] / .1) / total)) for p in others if y[p] == y[i]]))
    assert PairLoss('supervised')(e, y).item() == pytest.approx(np.mean(by_hand), abs=1e-5)
    with pytest.raises(InputError, match='supervised'): PairLoss('triplet')


# --- What pairs teach --------------------------------------------------------------------------------------------------------

def alike(model, store, items, targets) -> float:
    "Mean cosine of test texts of one label less that of two."
    part = items[items.split == 'test']
    x = extract_features(model, store, part.id)
    x, y = x / np.linalg.norm(x, axis=1, keepdims=True), targets.encode(part)
    same, off = y[:, None] == y, ~np.eye(len(y), dtype=bool)
    return float((x @ x.T)[same & off].mean() - (x @ x.T)[~same].mean())


@pytest.fixture(scope='module')
def questions():
    "Questions of SQuAD about four musicians: 30 of each to draw from, 5 to select on, 40 to look at."
    articles = {a['title']: a['paragraphs'] for a in json.loads((fetch_asset('squad')/'train-v1.1.json').read_text(encoding='utf-8'))['data']}
    rows = [dict(id=q['id'], input=q['question'], target=title) for title in MUSICIANS for paragraph in articles[title] for q in paragraph['qas']]
    few = pd.DataFrame(rows).groupby('target', group_keys=False).sample(75, random_state=0)
    return few.assign(split=np.tile(['train'] * 30 + ['valid'] * 5 + ['test'] * 40, 4)).reset_index(drop=True)


def test_pairs_of_eight_teach_what_holds_for_others(questions):
    "Over five draws texts that were never seen come closer to those of their label; labels dealt at random do not do that."
    model, targets = create_encoder('minilm-l6', n_out=4), describe_targets(questions, task='single_label')
    store = build_tokens(questions, model.tokenizer, max_length=32)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    before, gains = alike(model, store, questions, targets), []
    def learn(items, draw):
        model.load_state_dict(start)
        history = fit_contrast(model, store, items, targets, seed=draw, steps=16)
        return alike(model, store, questions, targets) - before, history
    for draw, few in enumerate(draw_few_shot(questions, per_class=8, seed=0, draws=5)):
        gain, history = learn(few, draw)
        gains.append(gain)
        assert history.train_loss.iloc[-1] < .5 * history.train_loss.iloc[1] and history.kept.iloc[-1]
        assert isinstance(model.head, torch.nn.Linear) and not model.head.weight.any() # put back as it was
    gains = np.array(gains)
    assert gains.mean() - 2.8 * gains.std(ddof=1) / 5**.5 > .05, gains # the lower end of 95 % of Student's t with four degrees of freedom
    dealt = few.assign(target=np.where(few.split == 'train', np.random.default_rng(0).permutation(few.target), few.target))
    assert learn(dealt, 0)[0] < gains.min() / 2, gains


def test_pairs_say_what_is_missing(reviews, targets, minilm, store):
    fit = lambda items, t=targets, **kw: fit_contrast(minilm, store, items, t, seed=0, **kw)
    with pytest.raises(InputError) as e: fit(reviews[reviews.target == 'positive'], batch_size=2, steps=0)
    assert len(e.value.problems) == 4 and '1 (positive)' in str(e.value)
    with pytest.raises(InputError, match='one each of 2'): fit(draw_few_shot(reviews, per_class=1, seed=0, draws=1)[0])
    with pytest.raises(InputError, match='one label an item'): fit(reviews, describe_targets(reviews, task='multi_label'))


# --- In a run ----------------------------------------------------------------------------------------------------------------

def config(**train):
    return make_config(dict(data=dict(path='imdb', kind='text', positive='positive'), split=dict(method='given'), model=dict(max_length=32),
                            evaluate=dict(n_resamples=200, zero_shot='This text is {label}.'), train=dict(contrast_steps=8, epochs=1, batch_size=8, **train)))


def test_a_run_that_is_killed_goes_on_exactly(reviews, tmp_path):
    "Once among the pairs, once in fine-tuning; both end at the weights of the run that nobody stopped."
    items = draw_few_shot(reviews, per_class=8, seed=0, draws=1)[0].groupby(['split', 'target'], group_keys=False)[reviews.columns].head(10).reset_index(drop=True)
    whole = train_run(open_run(tmp_path/'whole', config()), items)
    weights = lambda run: hash_tensors({k: v for k, v in __import__('safetensors.torch').torch.load_file(run/'model'/'model.safetensors').items()})
    import sft_nb.train.checkpoint as checkpoint
    for after in (2, 5): # files of checkpoints: four of pairs, then one of fine-tuning
        written, write = [], checkpoint._write
        def stop(state, path):
            write(state, path)
            written.append(path.name)
            if len(written) == after: raise KeyboardInterrupt
        run = open_run(tmp_path/f'stopped {after}', config())
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checkpoint, '_write', stop)
            train_run(run, items)
        assert written[-1].startswith('checkpoint-contrast') == (after == 2) and not (run/'predictions-test.parquet').exists()
        train_run(run, items)
        assert weights(run) == weights(whole)
        assert (run.predictions('test').score == whole.predictions('test').score).all()
        assert not list(run.folder.glob('checkpoint*'))
    assert (whole.predictions('test', 'zero_shot').score != whole.predictions('test', 'probe').score).any()
    assert len(pd.read_csv(whole/'history-contrast.csv')) == 5 # the start and four looks


def test_a_report_shows_what_no_label_was_needed_for(reviews, tmp_path):
    table = reviews.groupby(['split', 'target'], group_keys=False)[reviews.columns].head(12).rename(columns=dict(input='text', target='label'))
    table.to_csv(tmp_path/'reviews.csv', index=False)
    c = dict(data=dict(path=str(tmp_path/'reviews.csv'), kind='text', id='id', split='split'), split=dict(method='given'), model=dict(max_length=32), train=dict(contrast_steps=4, epochs=0), evaluate=dict(n_resamples=200, zero_shot='{label}'))
    evaluation = run_job(make_config(c), tmp_path/'run', say=lambda line: None)
    assert set(evaluation.comparisons.baseline) == {'majority label', 'zero-shot', 'linear probe'}
    assert 'probe after contrastive learning' in ' '.join(evaluation.context['notes'])
    table.assign(label=table.label.map(dict(negative=0, positive=1))).to_csv(tmp_path/'reviews.csv', index=False)
    with pytest.raises(InputError, match='names of the labels to be words, but got 0, 1'): run_job(make_config(c), tmp_path/'numbers', say=lambda line: None)


def test_options_that_do_not_go_together():
    with pytest.raises(InputError) as e:
        make_config(dict(data=dict(path='x.csv', kind='text', task='regression'), train=dict(contrast_steps=4, batch_size=2), retain=dict(lora_rank=4), evaluate=dict(zero_shot='It is.')))
    assert len(e.value.problems) == 5
    with pytest.raises(InputError) as e: make_config(dict(data=dict(path='photos'), train=dict(contrast_steps=4), evaluate=dict(zero_shot='{label}')))
    assert len(e.value.problems) == 2
    with pytest.raises(InputError, match='zero_shot'): make_config(dict(data=dict(path='x.jsonl', kind='chat'), evaluate=dict(zero_shot='{label}')))


# --- Curves ------------------------------------------------------------------------------------------------------------------

def test_ways_are_compared_on_the_same_draws(reviews, tmp_path):
    items = reviews[(reviews.split != 'test') | (reviews.groupby('split').cumcount() < 40)].reset_index(drop=True)
    c = config(watch_gap=False)
    found = compare_few_labels(c, items, seed=0, folder=tmp_path, per_class=(4, 2), draws=2)
    assert list(found) == ['zero-shot', 'linear probe', 'contrastive', 'fine-tuned'] and list(found['contrastive']) == [2, 4]
    assert {len(p) for points in found.values() for p in points.values()} == {40, 80} and len(found['zero-shot'][0]) == 40
    few = draw_few_shot(items, per_class=2, seed=0, draws=2)[1]
    for way in ('contrastive', 'fine-tuned'):
        assert set(Run(tmp_path/f'{way} 2 1').items.query("split == 'train'").id) == set(few[few.split == 'train'].id)
        assert not (found[way][4].score == found['linear probe'][4].score).all() or way == 'fine-tuned' # which may keep its start
    assert not list(tmp_path.glob('*/model'))
    with pytest.raises(InputError, match='one label an item'): compare_few_labels(make_config(dict(data=dict(path='x', task='regression'))), items, seed=0, folder=tmp_path)


def test_band_covers_the_draw():
    "Draws that differ make a wide band, and the same draw over and over a narrow one."
    rng, truth = np.random.default_rng(0), np.arange(300) % 2
    def drawn(rates):
        parts = [make_predictions(range(300), truth, np.where(rng.random(300) < r, truth, 1 - truth) * .8 + .1, task='single_label', labels=('a', 'b')).to_frame().assign(seed=s) for s, r in enumerate(rates)]
        return type(make_predictions([0, 1], [0, 1], [.2, .8], task='single_label', labels=('a', 'b'))).from_frame(pd.concat(parts), task='single_label', labels=('a', 'b'))
    rows = FewLabelsDisplay.from_predictions({'lucky': {2: drawn([.55, .75, .95])}, 'steady': {2: drawn([.75] * 3)}}, 'accuracy', seed=0).rows.set_index('way')
    wide = rows.high - rows.low
    assert wide['lucky'] > 2 * wide['steady'] and rows.method.str.contains('3 seeds').all()
