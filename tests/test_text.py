"Texts through the whole line: encoders, tokens, batches, runs of each task, bad input, and who else opens what is saved."
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback

transformers = pytest.importorskip('transformers')

from sft_nb.bench.job import prepare_items, run_job
from sft_nb.cli import main
from sft_nb.config import make_config, read_config, write_config
from sft_nb.core import InputError
from sft_nb.data.augment_text import augment_text, create_text_augment
from sft_nb.data.items import items_from_file, items_from_frame, load_imdb, validate_items
from sft_nb.models.adapt import layer_groups
from sft_nb.models.language import create_encoder, load_encoder, load_tokenizer, save_encoder
from sft_nb.models.lora import load_adapters
from sft_nb.records import read_table
from sft_nb.tasks.inputs import find_inputs, score_items
from sft_nb.tasks.targets import describe_targets
from sft_nb.tasks.text import build_tokens, text_block
from sft_nb.train.run import Run, open_run, predict_files, train_run
from sft_nb.train.space import default_space

TEXTS = ['A fine film, and well played.', 'Dull.', 'Emoji 🎬, русский, 中文, all in one.', 'word ' * 100_000]


@pytest.fixture(scope='module')
def minilm(): return create_encoder('minilm-l6', n_out=3)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A folder with a transformer of two blocks that nobody trained, and its tokenizer of thirty words."
    folder = tmp_path_factory.mktemp('tiny')/'encoder'
    make_encoder(folder, [f'w{i}' for i in range(30)])
    return folder


def make_encoder(folder, words):
    folder.mkdir()
    (folder/'vocab.txt').write_text('\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *words]))
    transformers.BertTokenizerFast(vocab=str(folder/'vocab.txt'), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(words) + 5, **shape)).save_pretrained(folder)


def make_texts(n=80, seed=0) -> pd.DataFrame:
    "Two kinds of sentences, which share half of their words."
    rng = np.random.default_rng(seed)
    rows = [dict(text=' '.join(f'w{i}' for i in rng.integers(10 * k, 10 * k + 20, rng.integers(4, 15))), label='ab'[k], number=float(k) + rng.normal(0, .1)) for k in (0, 1) for _ in range(n // 2)]
    return pd.DataFrame(rows)


def tiny_config(tiny, path, data=(), **sections):
    return make_config(dict(data=dict(path=str(path), kind='text', **dict(data)), model=dict(backbone=str(tiny), max_length=24),
                            evaluate=dict(n_resamples=200), **{'split': dict(valid=.25, test=.25), 'train': dict(epochs=2, lr=.003, batch_size=8), **sections}))


def tokens(model, texts, **kwargs):
    items = pd.DataFrame(dict(id=[str(i) for i in range(len(texts))], input=texts))
    return build_tokens(items, model.tokenizer, max_length=64, **kwargs), list(items.id)


# --- Encoders ----------------------------------------------------------------------------------------------------------

def test_a_text_does_not_depend_on_its_batch(minilm, tmp_path):
    "The longest of a batch of four decides its length; the features of each are those that it has alone."
    store, ids = tokens(minilm, TEXTS, folder=tmp_path)
    body = lambda part: minilm.forward_head(minilm.forward_features(torch.from_numpy(store.batch(part))), pre_logits=True)
    with torch.no_grad():
        minilm.eval()
        assert torch.allclose(body(ids), torch.cat([body([i]) for i in ids]), atol=1e-5)


def test_groups_are_embeddings_blocks_and_head(minilm):
    names = {id(p): n for n, p in minilm.named_parameters()}
    groups = [{names[id(p)].split('.layer.')[-1].split('.')[0] for p in g} for g in layer_groups(minilm, coarse=False)]
    assert groups == [{'body'}, *({str(i)} for i in range(6)), {'head'}]
    assert sum(len(g) for g in layer_groups(minilm)) == len(names)


def test_other_libraries_open_what_is_saved(minilm, tmp_path):
    "transformers the body, sentence-transformers all of it: the same logits."
    SentenceTransformer = pytest.importorskip('sentence_transformers').SentenceTransformer
    torch.manual_seed(0)
    torch.nn.init.normal_(minilm.head.weight, std=.1)
    store, ids = tokens(minilm, TEXTS[:3], folder=tmp_path/'tokens') # leaves the tokenizer cutting at 64
    save_encoder(minilm, tmp_path/'model', labels=('x', 'y', 'z'))
    with torch.no_grad(): logits = minilm.eval()(torch.from_numpy(store.batch(ids)))
    again, theirs = load_encoder(tmp_path/'model'), SentenceTransformer(str(tmp_path/'model'), device='cpu').encode(TEXTS[:3], convert_to_tensor=True)
    with torch.no_grad(): assert torch.allclose(again(torch.from_numpy(store.batch(ids))), logits, atol=1e-6)
    assert torch.allclose(theirs, logits, atol=1e-5)
    body, tokenizer = transformers.AutoModel.from_pretrained(tmp_path/'model').eval(), transformers.AutoTokenizer.from_pretrained(tmp_path/'model')
    assert len(tokenizer(TEXTS[3])['input_ids']) > 1000 # what was cut here is not cut there
    t = tokenizer(TEXTS[:1], return_tensors='pt')
    with torch.no_grad(): assert torch.allclose(minilm.head(body(**t).last_hidden_state.mean(1)), logits[:1], atol=1e-5)
    assert json.loads((tmp_path/'model'/'config.json').read_text())['id2label'] == {'0': 'x', '1': 'y', '2': 'z'}
    assert not [p.name for p in tmp_path.rglob('.*')]


def test_weights_are_never_random_by_accident(tiny, tmp_path):
    with pytest.raises(InputError, match='minilm-l6'): create_encoder('minilm-l7', n_out=2)
    torch.manual_seed(1)
    fresh, known = create_encoder(str(tiny), n_out=2, weights='none'), create_encoder(str(tiny), n_out=2)
    assert fresh.weights_source['source'].startswith('random') and not torch.equal(fresh.body.embeddings.word_embeddings.weight, known.body.embeddings.word_embeddings.weight)
    from_file = create_encoder(str(tiny), n_out=2, weights=tiny/'model.safetensors')
    assert all(torch.equal(p, q) for p, q in zip(from_file.parameters(), known.parameters()))
    with pytest.raises(InputError, match='missing'): create_encoder('minilm-l6', n_out=2, weights=write_one(tmp_path))


def write_one(folder):
    from sft_nb.models.weights import write_tensors
    write_tensors({'embeddings.word_embeddings.weight': torch.zeros(30522, 384)}, folder/'one.safetensors')
    return folder/'one.safetensors'


def test_a_vocabulary_that_grew_and_no_pad_token(tiny, tmp_path):
    "New words get rows of their own; without a pad token the mask hides what fills the batch."
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(['newword'])
    tokenizer.pad_token = None
    model = transformers.AutoModel.from_pretrained(tiny)
    tokenizer.save_pretrained(tmp_path/'grown'); model.save_pretrained(tmp_path/'grown')
    grown = create_encoder(str(tmp_path/'grown'), n_out=2).eval()
    assert grown.body.get_input_embeddings().num_embeddings == 36 and grown.tokenizer.pad_token_id is None
    store, ids = tokens(grown, ['w1 newword', 'w1 w2 w3 w4 w5 w6'], folder=tmp_path/'tokens')
    assert store.batch(ids)[0, 0].max() == 35
    torch.nn.init.normal_(grown.head.weight)
    with torch.no_grad(): assert torch.allclose(grown(torch.from_numpy(store.batch(ids)))[:1], grown(torch.from_numpy(store.batch(ids[:1]))), atol=1e-5)


def test_without_transformers_all_the_rest_is_there(root):
    "The library imports, and what needs transformers says so."
    code = "import sys; sys.modules['transformers'] = None\nimport sft_nb.all as a\ntry: a.create_encoder('minilm-l6', n_out=2)\nexcept a.InputError as e: print(e)"
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=root)
    assert 'pip install "sft_nb[text]"' in done.stdout, done.stderr


# --- Tokens and batches ------------------------------------------------------------------------------------------------

def test_tokens_are_those_of_the_tokenizer(minilm, tmp_path):
    store, ids = tokens(minilm, TEXTS + ['Dull.'], folder=tmp_path)
    for i, text in zip(ids, TEXTS):
        x = store.batch([i])[0]
        assert x[0].tolist() == minilm.tokenizer(text, truncation=True, max_length=64)['input_ids'] and x[1].all()
    assert store.truncation == dict(n=5, truncated=1, tokens=int(sum(len(minilm.tokenizer(t)['input_ids']) for t in TEXTS + ['Dull.'])), lost=100_002 - 64)
    assert len(store.starts) == 5 # two equal texts are one row
    with pytest.raises(InputError, match='from 4 to 512'): build_tokens(pd.DataFrame(dict(id=['a'], input=['b'])), minilm.tokenizer, max_length=1000)


def test_store_key_depends_on_what_it_holds(minilm, tiny, tmp_path):
    make = lambda texts, n=16, tokenizer=minilm.tokenizer, **more: build_tokens(pd.DataFrame(dict(id=range(len(texts)), input=texts, **more)), tokenizer, max_length=n, folder=tmp_path).key
    assert make(['a', 'b']) == make(['b', 'a']) == make(['b', 'a', 'a'])
    assert len({make(['a', 'b']), make(['a', 'c']), make(['a', 'b'], 17), make(['a', 'b'], tokenizer=load_tokenizer(str(tiny))), make(['a', 'b'], input_b=['x', 'y'])}) == 5


def test_an_epoch_is_every_text_once_in_batches_of_like_length(tiny, tmp_path):
    items = make_texts(203).rename(columns=dict(text='input', label='target')).assign(id=lambda d: d.index.astype(str), split='train')
    items = pd.concat([items, items.head(4).assign(id=list('abcd'), split='valid')], ignore_index=True)
    store = build_tokens(items, load_tokenizer(str(tiny)), max_length=24, folder=tmp_path)
    dl = text_block(describe_targets(items, task='single_label'), store=store).dataloaders(items, bs=8, num_workers=0).train
    def order(seed):
        import random
        dl.rng = random.Random(seed)
        return dl.get_idxs()
    assert order(1) == order(1) != order(2) and sorted(order(1)) == list(range(202))
    wide = lambda rows: np.mean([np.ptp(store.lengths([str(r) for r in rows[i:i + 8]])) for i in range(0, 200, 8)])
    assert wide(order(1)) < 2 < 5 < wide(np.random.default_rng(0).permutation(202))


# --- Runs --------------------------------------------------------------------------------------------------------------

def test_a_run_on_texts_from_the_terminal(tiny, tmp_path, capsys):
    "init, run, predict on texts and on a table; string and integer labels alike; the report shows texts."
    make_texts().to_csv(tmp_path/'t.csv', index=False)
    assert main(['init', str(tmp_path/'t.csv'), '--kind', 'text', '--out', str(tmp_path/'my.yaml')]) == 0
    made = read_config(tmp_path/'my.yaml')
    assert (made.data.kind, made.data.input, made.data.target, made.model.backbone) == ('text', 'text', 'label', 'minilm-l6')
    e = run_job(tiny_config(tiny, tmp_path/'t.csv', dict(positive='b')), tmp_path/'run', say=lambda line: None)
    assert e.get('accuracy').low > .6 and {'majority label', 'linear probe'} == set(e.comparisons.baseline)
    assert 'w1' in (tmp_path/'run'/'report.html').read_text() and set(e.context['provenance']) >= {'text', 'weights'}
    card = (tmp_path/'run'/'card.md').read_text()
    assert 'pipeline_tag: text-classification' in card and 'timm' not in card and 'SentenceTransformer' in card
    run = Run(tmp_path/'run')
    model, store = load_encoder(run/'model'), find_inputs(run.config).build_store(run.items)
    saved = run.predictions('test')
    assert np.allclose(score_items(model, store, saved.ids, describe_targets(run.items, task='single_label', positive='b')), saved.score, atol=1e-6)
    capsys.readouterr()
    assert main(['predict', str(tmp_path/'run'), 'w1 w2 w3 w4', str(tmp_path/'t.csv'), '--out', str(tmp_path/'said.csv')]) == 0
    said = pd.read_csv(tmp_path/'said.csv')
    assert len(said) == 81 and said.text[0] == 'w1 w2 w3 w4' and said.prediction[0] == 'a' and (said.prediction[1:].to_numpy() == make_texts().label.to_numpy()).mean() > .8
    make_texts().assign(label=lambda d: (d.label == 'b').astype(int)).to_json(tmp_path/'ints.jsonl', orient='records', lines=True)
    ints = run_job(tiny_config(tiny, tmp_path/'ints.jsonl', dict(positive='1')), tmp_path/'ints', say=lambda line: None)
    assert ints.get('accuracy').value == e.get('accuracy').value


@pytest.mark.parametrize('task', ['regression', 'multi_label', 'pairs', 'lora', 'unfreeze'])
def test_runs_of_each_task(tiny, tmp_path, task):
    texts, data, more = make_texts(), dict(), dict()
    if task == 'regression': data = dict(task='regression', target='number')
    if task == 'multi_label': texts, data = texts.assign(label=texts.label + np.where(texts.text.str.contains('w15'), ';c', '')), dict(task='multi_label')
    if task == 'pairs': # whether both halves are of one kind
        other = texts.sample(frac=1, random_state=0).reset_index(drop=True)
        texts, data = texts.assign(second=other.text, label=np.where(texts.label == other.label, 'same', 'other')), dict(input_b='second')
    if task == 'lora': more = dict(retain=dict(lora_rank=4))
    if task == 'unfreeze': more = dict(train=dict(unfreeze=[[1, -1], [1, -2], [1, 0]], lr=.003, batch_size=8))
    texts.to_parquet(tmp_path/'t.parquet')
    e = run_job(tiny_config(tiny, tmp_path/'t.parquet', data, **more), tmp_path/'run', say=lambda line: None)
    run = Run(tmp_path/'run')
    assert len(run.history) == (4 if task == 'unfreeze' else 3) and (run/'report.html').exists()
    if task == 'regression':
        card = (run/'card.md').read_text()
        assert e.get('mae').value < .4 and 'pipeline_tag: text-classification' in card and 'type: text-regression' in card and 'It is a regression' in card and 'names of the labels' not in card
    elif task == 'lora':
        base = create_encoder(str(tiny), n_out=2)
        store = find_inputs(run.config).build_store(run.items)
        x = torch.from_numpy(store.batch(list(run.items.id[:5])))
        with torch.no_grad(): assert torch.allclose(load_adapters(base, run/'adapter')(x), load_encoder(run/'model')(x), atol=1e-5)
    elif task == 'pairs': assert predict_files(run, [tmp_path/'t.parquet']).shape[0] == 80
    elif task == 'unfreeze': assert e.get('accuracy').low > .6 and (run.history.query('epoch == 0').lr_0 == 0).all() and (run.history.query('epoch == 2').lr_0 > 0).all()


# --- Augmentation ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def worded(tmp_path_factory):
    "The same as `tiny`, with words of letters, which noise strikes."
    folder = tmp_path_factory.mktemp('worded')/'encoder'
    make_encoder(folder, WORDS)
    return folder


WORDS = [f'{a}{b}no' for a in 'bdfgkl' for b in 'aeiou']

def worded_items(n=80) -> pd.DataFrame:
    items = make_texts(n).rename(columns=dict(text='input', label='target')).assign(id=lambda d: 'i' + d.index.astype(str))
    items['input'] = [' '.join(WORDS[int(w[1:])] for w in t.split()) for t in items.input]
    return items.assign(split=np.resize(['train', 'train', 'valid', 'test'], n))


def test_augmented_tokens_depend_on_seed_epoch_and_item(worded, tmp_path):
    "Those of the tokenizer for what `augment_text` says, in training alone, in any batch; the second text of a pair too."
    items, tokenizer, augment = worded_items().assign(input_b='banono and fono'), load_tokenizer(str(worded)), create_text_augment({'dropped_words': .4, 'typos': .3})
    store = build_tokens(items, tokenizer, max_length=24, folder=tmp_path)
    dls = text_block(describe_targets(items, task='single_label'), store=store, augment=augment, seed=5).dataloaders(items, bs=8, num_workers=0)
    seen = {epoch: {} for epoch in (0, 3)}
    for epoch in seen:
        for transform in dls.train.after_item.fs:
            if hasattr(transform, 'epoch'): transform.epoch = epoch
        source, ids = dls.train.find_source(), list(items.id[items.split == 'train'])
        for i in ids: seen[epoch][i] = source.batch([i])[0]
        together = source.batch(ids)
        for row, i in zip(together, ids): assert row[:, :seen[epoch][i].shape[1]].tolist() == seen[epoch][i].tolist() and not row[1, seen[epoch][i].shape[1]:].any()
        text = items.set_index('id').input['i0']
        want = tokenizer(augment_text(text, augment, seed=5, epoch=epoch, item='i0'), augment_text('banono and fono', augment, seed=5, epoch=epoch, item='i0 1'), truncation=True, max_length=24)
        assert seen[epoch]['i0'][0].tolist() == want['input_ids'] and seen[epoch]['i0'][2].tolist() == want['token_type_ids']
        assert source.plain().batch(ids).tolist() == store.batch(ids).tolist() != together.tolist()
    assert np.mean([a.shape != b.shape or a.tolist() != b.tolist() for a, b in zip(seen[0].values(), seen[3].values())]) > .5
    assert dls.valid.find_source().augment is None
    xb, _ = dls.valid.one_batch()
    assert xb.tolist() == store.batch(list(items.id[items.split == 'valid'][:8])).tolist()


class Stop(Callback):
    "End the process, as it were, inside an epoch."
    order = 100
    def before_batch(self):
        if self.training and self.epoch == 2 and self.iter == 2: raise KeyboardInterrupt


def test_an_augmented_run_goes_on_as_if_it_had_not_been_stopped(worded, tmp_path):
    "With mixtures and synonyms of its own; the probe and what is evaluated see texts as they are."
    items = worded_items()
    config = lambda **train: tiny_config(worded, 'texts.csv', train=dict(epochs=4, lr=.003, batch_size=8, **train))
    def run(name, cbs=(), **train): return train_run(open_run(tmp_path/name, config(**train)), items, cbs=cbs)
    straight, plain = run('straight', augment='strong', mixup=.2), run('plain')
    with pytest.raises(KeyboardInterrupt): run('stopped', cbs=[Stop()], augment='strong', mixup=.2)
    again = run('stopped', augment='strong', mixup=.2)
    pd.testing.assert_frame_equal(straight.history.drop(columns='seconds'), again.history.drop(columns='seconds'))
    assert (straight.predictions('test').score == again.predictions('test').score).all()
    assert not np.allclose(straight.history.train_loss[1:], plain.history.train_loss[1:])
    assert (straight.predictions('test', 'probe').score == plain.predictions('test', 'probe').score).all()
    assert straight.history.valid_loss[0] == plain.history.valid_loss[0]


def test_synonyms_are_the_networks_own(minilm, monkeypatch):
    "Words that are near in its embeddings; where a vocabulary marks beginnings, pieces of words are not taken for words."
    import sft_nb.tasks.text as text
    given = {}
    monkeypatch.setattr(text, 'neighbour_words', lambda vectors, words: given.update(zip(words, map(tuple, vectors[:, :3]))))
    text._near_words(minilm)
    vocabulary = minilm.tokenizer.get_vocab()
    assert given['film'] == tuple(minilm.body.get_input_embeddings().weight[vocabulary['film'], :3].tolist()) and len(given) == len(vocabulary)
    class Marked:
        def __len__(self): return 4
        def convert_ids_to_tokens(self, ids): return [['Ġfilm', 'ing', 'Ġ', 'Ġmovie'][i] for i in ids]
    given.clear()
    with monkeypatch.context() as m:
        m.setattr(minilm, 'tokenizer', Marked())
        text._near_words(minilm)
    assert set(given) == {'film', '', 'movie'}


# --- Data --------------------------------------------------------------------------------------------------------------

def test_imdb_is_divided_without_copies():
    reviews = load_imdb()
    folded = reviews.input.str.casefold().str.split().str.join(' ')
    assert not folded.duplicated().any() and not reviews.id.duplicated().any()
    counts = reviews.groupby(['split', 'target']).size()
    assert counts.to_dict() == {('test', 'negative'): 12_266, ('test', 'positive'): 12_412, ('train', 'negative'): 12_432, ('train', 'positive'): 12_472}
    config = make_config(dict(data=dict(path='imdb', kind='text', max_items=400), split=dict(method='given')))
    some = prepare_items(config)
    assert len(some) == 400 and set(some.split) == {'train', 'valid', 'test'} and prepare_items(config).id.equals(some.id)
    assert abs((some.target == 'positive').mean() - .5) < .01


def test_bad_texts_are_named_together():
    frame = pd.DataFrame(dict(text=['fine', '', '  \n', None, 5, 'half \ud83d', 'dull', 'good'], label=list('abababab'), key=list('aabcdefg')))
    with pytest.raises(InputError) as e: validate_items(items_from_frame(frame, input='text', target='label', id='key', kind='text'), task='single_label', kind='text')
    said = str(e.value)
    for row in ("rows 1 ('a'), 2 ('b')", "rows 3 ('c'), 4 ('d')", "row 5 ('e')", "rows 0 ('a'), 1 ('a')"): assert row in said, said


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path):
    for name in ('t.csv', 't.jsonl'):
        good = b'text,label\nfine,a\n' if name == 't.csv' else b'{"text": "fine", "label": "a"}\n{"text": "fine", "label": "a"}\n'
        bad = b'caf\xe9,b\n' if name == 't.csv' else b'{"text": "caf\xe9", "label": "b"}\n'
        (tmp_path/name).write_bytes(good + bad)
        with pytest.raises(InputError, match='UTF-8.*line 3'): items_from_file(tmp_path/name, input='text', target='label', kind='text')
    (tmp_path/'u.csv').write_text('text,label\nЖ 🎬 中文,NA\n', encoding='utf-8')
    assert read_table(tmp_path/'u.csv', text=['text', 'label']).iloc[0].tolist() == ['Ж 🎬 中文', 'NA']


def test_options_of_images_are_refused_for_texts():
    with pytest.raises(InputError) as e: make_config(dict(data=dict(path='x.csv', kind='text'), train=dict(cutmix=1., erasing=.1), retain=dict(lwf=1., ewc=1.)))
    assert all(name in str(e.value) for name in ('train.cutmix', 'train.erasing', 'retain.lwf', 'retain.ewc'))
    assert 'train.augment' not in default_space(make_config(dict(data=dict(path='x.csv', kind='text'))))


def test_copies_across_splits_stop_the_run(tiny, tmp_path):
    texts = make_texts().assign(split=['train'] * 20 + ['valid'] * 10 + ['test'] * 10 + ['train'] * 20 + ['valid'] * 10 + ['test'] * 10)
    copy = texts.iloc[[0]].assign(split='test', text=lambda d: '  ' + d.text.str.upper())
    pd.concat([texts, copy]).to_csv(tmp_path/'t.csv', index=False)
    with pytest.raises(InputError, match="'0' in train and '80' in test"): run_job(make_config(dict(
        data=dict(path=str(tmp_path/'t.csv'), kind='text', split='split'), split=dict(method='given'), model=dict(backbone=str(tiny), max_length=24))), tmp_path/'run', say=lambda line: None)


def test_an_audit_of_texts_finds_copies_and_doubtful_labels(tiny, tmp_path, capsys):
    "Labels that the embeddings contradict, copies in other words of punctuation and case, near copies, from the terminal."
    rng = np.random.default_rng(0)
    texts = pd.DataFrame([dict(text=' '.join(f'w{i}' for i in rng.integers(20 * k, 20 * k + 10, 14)), label='ab'[k], key=f'{"ab"[k]}{j}') for k in (0, 1) for j in range(30)])
    wrong = ['a3', 'a17', 'b5']
    texts.loc[texts.key.isin(wrong), 'label'] = texts.label.map(dict(a='b', b='a'))
    near = texts.text[40].split()
    texts = pd.concat([texts, pd.DataFrame([dict(text=texts.text[0].upper() + '!', label='a', key='copy'), dict(text=' '.join([*near[:-1], 'w29']), label='b', key='near')])])
    texts.to_csv(tmp_path/'t.csv', index=False)
    write_config(tiny_config(tiny, tmp_path/'t.csv', dict(id='key'), split=dict(valid=.25, test=.25, on_leak='warn')), tmp_path/'my.yaml')
    assert main(['audit', str(tmp_path/'my.yaml'), '--out', str(tmp_path/'audit.json')]) == 2
    found = json.loads((tmp_path/'audit.json').read_text())
    assert {frozenset((r['id_a'], r['id_b'])) for r in found['duplicates']} == {frozenset(('a0', 'copy')), frozenset((texts.key.iloc[40], 'near'))}
    assert {r['id'] for r in found['suspect_labels']} == set(wrong) and 'suspect label' in capsys.readouterr().out
