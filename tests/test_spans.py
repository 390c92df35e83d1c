"Answers in texts and tags of words: exact to the character, judged as the field judges them, and open to others."
import json
import re
import string
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

transformers = pytest.importorskip('transformers')

from sft_nb.core import InputError
from sft_nb.data.instruct import load_squad
from sft_nb.evaluate.generation import exact_match, normalize_answer, token_f1
from sft_nb.evaluate.intervals import estimate_metrics
from sft_nb.evaluate.spans import choose_null_threshold, count_entities, entity_metric, measure_entities, read_entities
from sft_nb.models.adapt import layer_groups
from sft_nb.models.language import load_tokenizer
from sft_nb.models.tokens import create_token_encoder, load_token_encoder, save_token_encoder
from sft_nb.records import Predictions, make_predictions
from sft_nb.tasks.rows import read_rows
from sft_nb.tasks.spans import SpanLoss, build_windows, check_questions, find_answers, make_span_predictions, span_block
from sft_nb.tasks.tags import TagLoss, build_tagged, check_tags, list_tags, predict_tags, tag_block
from sft_nb.train.learner import create_learner
from sft_nb.train.schedule import gradual_unfreeze


@pytest.fixture(scope='module')
def tokenizer(): return load_tokenizer('minilm-l6')


@pytest.fixture(scope='module')
def squad(): return load_squad().groupby('split').sample(120, random_state=1).reset_index(drop=True)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A folder with a transformer of two blocks that nobody trained, and its tokenizer of forty words."
    folder, words = tmp_path_factory.mktemp('tiny')/'encoder', [f'w{i}' for i in range(40)]
    folder.mkdir()
    (folder/'vocab.txt').write_text('\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'where', *words]))
    transformers.BertTokenizerFast(vocab=str(folder/'vocab.txt'), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64)
    transformers.BertModel(transformers.BertConfig(vocab_size=46, **shape)).save_pretrained(folder)
    return folder


def make_questions(n=120, seed=0) -> pd.DataFrame:
    "The answer is the one word from w30 on; a third has none."
    rng, rows = np.random.default_rng(seed), []
    for i in range(n):
        words = [f'w{k}' for k in rng.integers(0, 30, rng.integers(8, 40))]
        at = rng.integers(0, len(words))
        if i % 3: words[at] = f'w{rng.integers(30, 40)}'
        answers = [dict(text=words[at], answer_start=len(' '.join(words[:at])) + bool(at))] if i % 3 else []
        rows.append(dict(id=f'q{i}', question='where', context=' '.join(words), answers=answers, split=['train', 'train', 'valid', 'test'][i // 3 % 4]))
    return pd.DataFrame(rows)


# --- Windows -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(('max_length', 'stride'), [(64, 16), (96, 48), (384, 128)])
def test_a_label_gives_the_answer_back(squad, tokenizer, max_length, stride):
    "In every window of every real context; and a window is labelled if and only if it holds the answer."
    store = build_windows(squad[squad.question.str.split().str.len() < 20], tokenizer, max_length=max_length, stride=stride)
    about, exact = squad.set_index('id'), 0
    for row, w in store.table.iterrows():
        item, places = about.loc[w['item']], store.find_places(row)
        inside = places[places[:, 0] >= 0]
        if not item.answers: assert w.end == 0; continue
        text, a = item.answers[0]['text'], item.answers[0]['answer_start']
        holds = inside[:, 0].min() <= a and a + len(text) <= inside[:, 1].max()
        assert (w.end > 0) == holds
        if holds:
            found = item.context[places[w.start, 0]:places[w.end, 1]]
            assert found == text or not w.exact and text in found
            exact += w.exact
    held = store.table[store.table.end > 0]
    assert exact > .97 * len(held) > 0
    assert set(held['item']) >= {i for i, a in about.answers.items() if a and i in set(store.table['item']) and len(tokenizer.tokenize(a[0]['text'])) <= stride}


def test_windows_cover_the_context_with_the_question_in_each(squad, tokenizer):
    store = build_windows(squad[:40], tokenizer, max_length=72, stride=20)
    for item, part in store.table.groupby('item', sort=False):
        whole = tokenizer(squad.set_index('id').context[item], add_special_tokens=False, return_offsets_mapping=True, verbose=False)['offset_mapping']
        question = tokenizer(squad.set_index('id').question[item], add_special_tokens=False)['input_ids']
        seen = [list(map(tuple, store.find_places(row)[store.find_places(row)[:, 0] >= 0])) for row in part.index]
        assert [p for k, w in enumerate(seen) for p in (w if not k else w[20:])] == whole
        for i in part['id']: assert store.batch([i])[0, 0, 1:1 + len(question)].tolist() == question and store.lengths([i])[0] <= 72


def test_spaces_around_an_answer_and_parts_of_a_token(tokenizer):
    items = pd.DataFrame([dict(id='space', question='When?', context='It was in 1843 or so.', answers=[dict(text=' 1843 ', answer_start=9)]),
                          dict(id='part', question='When?', context='In the 1990s already.', answers=[dict(text='1990', answer_start=7)]),
                          dict(id='lists', question='Who?', context='Ünïcode 🎬 by Zoë.', answers=dict(text=['Zoë', 'by Zoë'], answer_start=[13, 10]))])
    store = build_windows(items, tokenizer, max_length=32, stride=4)
    text = [items.context[k][store.find_places(k)[w.start, 0]:store.find_places(k)[w.end, 1]] for k, w in store.table.iterrows()]
    assert text == ['1843', '1990s', 'Zoë'] and store.table.exact.tolist() == [True, False, True]


def test_bad_questions_are_named_together(tokenizer):
    good = dict(id='good', question='Who?', context='Ada.', answers=[dict(text='Ada', answer_start=0)])
    rows = [good, good | dict(question=' '), good | dict(id='empty', context=''), good | dict(id='moved', answers=[dict(text='Ada', answer_start=1)]), good | dict(id='before', answers=[dict(text='.', answer_start=-1)]),
            good | dict(id='blank', answers=[dict(text='', answer_start=0)]), good | dict(id='shape', answers=['Ada']), good | dict(id='nothing', answers=None)]
    with pytest.raises(InputError) as e: build_windows(pd.DataFrame(rows), tokenizer, max_length=32, stride=4)
    for said in ("repeats in 2 of 8 rows (good, good)", "1 of 8 rows (good)", "1 of 8 rows (empty)", "2 of 8 rows (moved, before)", "1 of 8 rows (blank)", "2 of 8 rows (shape, nothing)"): assert said in str(e.value)
    with pytest.raises(InputError, match="column 'question'.*\n.*column 'context'"): check_questions(pd.DataFrame(dict(id=['a'])))
    with pytest.raises(InputError, match=r"at most 24 tokens.*\(long\)"): build_windows(pd.DataFrame([good, good | dict(id='long', question='who ' * 25)]), tokenizer, max_length=32, stride=4)
    with pytest.raises(InputError, match=r"at least one token.*\(unseen\)"): build_windows(pd.DataFrame([good | dict(id='unseen', context='\u200b\x07', answers=[])]), tokenizer, max_length=32, stride=4)
    for wrong in (dict(max_length=1000, stride=4), dict(max_length=32, stride=32)):
        with pytest.raises(InputError, match='max_length'): build_windows(pd.DataFrame([good]), tokenizer, **wrong)


# --- Finding -----------------------------------------------------------------------------------------------------------

def brute_force(logits, places, context, max_answer):
    "The best span by trying all, and the score of none."
    best = max(((logits[i, 0] + logits[j, 1], context[places[i, 0]:places[j, 1]]) for i in range(len(places)) for j in range(i, min(i + max_answer, len(places))) if places[i, 0] >= 0 and places[j, 0] >= 0))
    return best, logits[0].sum()


def test_the_best_span_of_all_windows_and_the_least_null(tiny):
    items = make_questions(30)
    model = create_token_encoder(str(tiny), n_out=2)
    torch.manual_seed(1); torch.nn.init.normal_(model.head.weight, std=2)
    store = build_windows(items, model.tokenizer, max_length=24, stride=6)
    answers, raw = find_answers(model, store, items, n_best=5, max_answer=4), read_rows(model, store)
    assert (store.table.groupby('item').size() > 1).any()
    for i, context in zip(items.id, items.context):
        each = [brute_force(raw[row], store.find_places(row), context, 4) for row in store.table.index[store.table['item'] == i]]
        first = answers[answers.id == i].iloc[0]
        assert first.score == pytest.approx(max(b[0] for b, _ in each)) and first.text == max(each)[0][1] and first.null_score == pytest.approx(min(n for _, n in each))
        mine = answers[answers.id == i]
        assert mine.score.is_monotonic_decreasing and not mine.duplicated(['start', 'end']).any() and all(context[r.start:r.end] == r.text and len(r.text.split()) <= 4 for r in mine.itertuples())
    other = read_rows(model, store, batch_size=3)
    assert np.allclose(raw, other, atol=1e-4) # a window does not depend on its batch


def official_squad(items, texts) -> tuple:
    "EM and F1 as evaluate-v2.0.py of SQuAD defines them, written again."
    def normalize(s): return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', ''.join(c for c in s.lower() if c not in set(string.punctuation))).split())
    def f1(gold, said):
        gold, said = normalize(gold).split(), normalize(said).split()
        same = sum((Counter(gold) & Counter(said)).values())
        if not gold or not said: return int(gold == said)
        return 0 if not same else 2 * (same / len(said)) * (same / len(gold)) / (same / len(said) + same / len(gold))
    em, f = [], []
    for answers, said in zip(items.answers, texts):
        gold = [a['text'] for a in answers if normalize(a['text'])] or ['']
        em.append(max(int(normalize(g) == normalize(said)) for g in gold)); f.append(max(f1(g, said) for g in gold))
    return np.array(em), np.array(f)


def test_scores_and_threshold_are_those_of_squad(squad):
    "Against the official procedure, on answers that are right, partly right, wrong and missing."
    rng = np.random.default_rng(0)
    texts = [str(rng.choice([a[rng.integers(len(a))]['text'] if a else 'The end', ' '.join(c.split()[:3]), (a[0]['text'] if a else c[:9]) + ', the one'])) for a, c in zip(squad.answers, squad.context)]
    odds = rng.normal(size=len(squad)) + 1.5 * (squad.answerable == 'no')
    found = pd.DataFrame(dict(id=squad.id, text=texts, null_odds=odds))
    always = make_span_predictions(squad, found)
    threshold = choose_null_threshold(always, odds)
    em, f1 = official_squad(squad, texts)
    none = (squad.answerable == 'no').to_numpy()
    tried = {t: np.where(odds <= t, f1, none).mean() for t in odds} # find_best_thresh of the official script, by trying all
    assert tried[threshold] == max(tried.values()) > max(f1.mean(), none.mean())
    preds = make_span_predictions(squad, found, threshold=threshold)
    em, f1 = official_squad(squad, [t if o <= threshold else '' for t, o in zip(texts, odds)])
    assert (exact_match(preds.target, preds.score, normalize_answer) == em).all() and np.allclose(token_f1(preds.target, preds.score), f1)
    table = estimate_metrics(preds, ['exact_match_squad', 'token_f1'], seed=0).set_index('metric')
    assert table.value.to_numpy() == pytest.approx([em.mean(), f1.mean()]) and (table.low < table.value).all() and (table.value < table.high).all()


def test_predictions_without_an_answer_keep(tmp_path, squad):
    part = squad[:10]
    preds = make_span_predictions(part, pd.DataFrame(dict(id=part.id[::-1], text='x', null_odds=1.)), threshold=0.)
    assert set(preds.score) == {Predictions.NO_ANSWER} and (preds.ids == part.id).all()
    preds.save(tmp_path/'p.parquet')
    again = Predictions.load(tmp_path/'p.parquet')
    assert [tuple(t) for t in again.target] == list(preds.target) and (again.score == preds.score).all()
    with pytest.raises(InputError, match="in 1 of 10 rows"): make_span_predictions(part, pd.DataFrame(dict(id=part.id[1:], text='x')))


def test_articles_stay_on_one_side():
    for version in ('2.0', '1.1'):
        items = load_squad(version)
        assert (items.groupby('group').split.nunique() == 1).all() and set(items.split) == {'train', 'valid', 'test'} and items.id.is_unique and not check_questions(items[::97])


# --- Learning ----------------------------------------------------------------------------------------------------------

def learn_spans(tiny, seed, plan):
    items, model = make_questions(), create_token_encoder(str(tiny), n_out=2)
    store = build_windows(items, model.tokenizer, max_length=32, stride=8)
    learn = create_learner(span_block(store).dataloaders(store.table, bs=8, num_workers=0), model, loss=SpanLoss(), task='spans', seed=seed, precision='fp32')
    return gradual_unfreeze(learn, plan, lr=3e-3), model, store, items


def test_one_seed_one_result_and_frozen_blocks_stay(tiny):
    plan = [(1, -1), (1, -2)]
    (h1, m1, *_), (h2, m2, *_), (h3, m3, *_) = (learn_spans(tiny, seed, plan) for seed in (0, 0, 1))
    assert all(p.equal(q) for p, q in zip(m1.parameters(), m2.parameters())) and not m1.head.weight.equal(m3.head.weight)
    assert h1.drop(columns='seconds').equals(h2.drop(columns='seconds'))
    start, groups = create_token_encoder(str(tiny), n_out=2), layer_groups(m1, coarse=False)
    assert len(groups) == 4
    same = [all(p.equal(q) for p, q in zip(g, f)) for g, f in zip(groups, layer_groups(start, coarse=False))]
    assert same == [True, True, False, False] and list(h1.freeze_to[1:]) == [-1, -2]


def test_it_learns_to_find_the_word_and_to_say_that_there_is_none(tiny):
    items = make_questions(500, seed=1)
    model = create_token_encoder(str(tiny), n_out=2)
    store = build_windows(items, model.tokenizer, max_length=32, stride=8)
    learn = create_learner(span_block(store).dataloaders(store.table, bs=16, num_workers=0), model, loss=SpanLoss(), task='spans', seed=0)
    gradual_unfreeze(learn, [(6, 0)], lr=4e-3)
    answers, of = find_answers(model, store, items), lambda part: items[items.split == part]
    odds = answers.set_index('id').null_odds
    threshold = choose_null_threshold(make_span_predictions(of('valid'), answers), odds[of('valid').id])
    preds = make_span_predictions(of('test'), answers, threshold=threshold)
    assert exact_match(preds.target, preds.score).mean() > .8


# --- Tags --------------------------------------------------------------------------------------------------------------

def make_sentences(n=60, seed=0) -> pd.DataFrame:
    "w30 to w34 begin an A, a following w35 goes on with it; w36 is a B."
    rng, rows = np.random.default_rng(seed), []
    for i in range(n):
        words, tags = [f'w{k}' for k in rng.integers(20, 40, rng.integers(4, 14))], []
        for k, w in enumerate(words): tags.append('B-A' if 'w30' <= w <= 'w34' else 'I-A' if w == 'w35' and k and tags[-1] == 'B-A' else 'B-B' if w == 'w36' else 'O')
        rows.append(dict(id=f's{i}', words=words, tags=tags, split=['train', 'train', 'valid', 'test'][i % 4]))
    return pd.DataFrame(rows)


def test_the_first_token_of_a_word_carries_its_label(tokenizer):
    "On real words, against the tokenizer's own account of which token is of which word."
    text = load_squad().context.drop_duplicates().sample(30, random_state=0)
    items = pd.DataFrame(dict(id=range(30), words=[re.findall(r'\w+|[^\w\s]', t) for t in text]))
    items['tags'] = [['B-X' if w[0].isupper() else 'O' for w in words] for words in items.words]
    labels = list_tags(items)
    store = build_tagged(items, tokenizer, labels=labels, max_length=64)
    for row, r in items.iterrows():
        out, about = tokenizer(r.words, is_split_into_words=True, truncation=True, max_length=64), store.table.iloc[row]
        assert store.batch([str(row)])[0, 0].tolist() == out['input_ids']
        want, seen = [], set()
        for w in out.word_ids(): want.append(-100 if w is None or w in seen else labels.index(r.tags[w])); seen.add(w)
        assert about.labels.tolist() == want and about.words_cut == len(r.words) - len(seen - {None})
    assert store.table.words_cut.sum() > 0 and labels == ('O', 'B-X', 'I-X')


def test_bad_sentences_are_named_together(tokenizer):
    good = dict(id='good', words=['In', '1889'], tags=['O', 'B-YEAR'])
    rows = [good, good | dict(words=['In']), good | dict(id='none', words=[], tags=[]), good | dict(id='empty', words=['In', ' ']), good | dict(id='form', tags=['O', 'YEAR']), good | dict(id='new', tags=['O', 'B-DATE']), good | dict(id='text', words='In 1889')]
    with pytest.raises(InputError) as e: build_tagged(pd.DataFrame(rows), tokenizer, labels=('O', 'B-YEAR', 'I-YEAR'))
    for said in ("(good, good)", "a tag for each word, but got others in 1 of 7 rows (good)", "(none)", "(empty)", "(form)", "one of O, B-YEAR, I-YEAR, but got others in 1 of 7 rows (new)", "(text)"): assert said in str(e.value)
    assert check_tags(pd.DataFrame([good]).drop(columns='tags')) == []


def test_entities_are_those_of_seqeval():
    "Broken BIO by hand; and the counts of seqeval 1.2.2 on four thousand random sentences."
    hand = {'I-PER I-PER O': {('PER', 0, 1)}, 'B-A I-B I-B': {('A', 0, 0), ('B', 1, 2)}, 'O I-A B-A I-A': {('A', 1, 1), ('A', 2, 3)}, 'B-A O I-A': {('A', 0, 0), ('A', 2, 2)}, 'O O': set(), 'B-A-1 I-A-1': {('A-1', 0, 1)}}
    assert {k: read_entities(k.split()) for k in hand} == hand
    import random
    rng, tags = random.Random(0), ['O', 'O', 'B-A', 'I-A', 'B-B', 'I-B']
    seqs = [[rng.choice(tags) for _ in range(rng.randint(1, 12))] for _ in range(4000)]
    truth, said = seqs[:2000], [(q * 12)[:len(t)] for t, q in zip(seqs[:2000], seqs[2000:])]
    both = [(' '.join(t),) for t in truth], [' '.join(s) for s in said]
    assert count_entities(*both).sum(0).tolist() == [1637, 7287, 7433]
    assert {e: count_entities(*both, e).sum(0).tolist() for e in 'AB'} == dict(A=[855, 3543, 3788], B=[782, 3744, 3645])
    assert [entity_metric(k).combine(count_entities(*both).sum(0)) for k in ('precision', 'recall', 'f1')] == pytest.approx([.22464663098668863, .22023409121485268, .22241847826086958])


def test_tags_are_learnt_and_cut_words_are_missed(tiny):
    items = make_sentences(400)
    labels, model = list_tags(items), create_token_encoder(str(tiny), n_out=5)
    store = build_tagged(items, model.tokenizer, labels=labels, max_length=16)
    learn = create_learner(tag_block(store).dataloaders(store.table, bs=16, num_workers=0), model, loss=TagLoss(store.width), task='tags', seed=0)
    history = gradual_unfreeze(learn, [(5, 0)], lr=4e-3)
    preds = predict_tags(model, store, items[items.split == 'test'], labels=labels)
    assert history.token_accuracy.iloc[-1] > .95 and measure_entities(preds, seed=0, n_resamples=200).query("entity == 'all' and metric == 'f1'").low.item() > .9
    short = build_tagged(items, model.tokenizer, labels=labels, max_length=6)
    less = predict_tags(model, short, items[items.split == 'test'], labels=labels)
    assert all(s.split()[4:] == ['O'] * (len(t[0].split()) - 4) for s, t in zip(less.score, less.target)) and short.table.words_cut.sum() == (items.words.str.len() - 4).clip(lower=0).sum()


# --- Others open it ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('task', ['question-answering', 'token-classification'])
def test_transformers_opens_what_is_saved(tmp_path, squad, tokenizer, task):
    n = 2 if task == 'question-answering' else 3
    model = create_token_encoder('minilm-l6', n_out=n)
    torch.manual_seed(0); torch.nn.init.normal_(model.head.weight, std=.1); torch.nn.init.normal_(model.head.bias)
    build_windows(squad[:4], model.tokenizer, max_length=64, stride=16) # leaves the tokenizer cutting
    before = torch.get_rng_state()
    folder = save_token_encoder(model, tmp_path/'model', task=task, labels=('O', 'B-X', 'I-X')[:n] if n == 3 else ())
    assert torch.get_rng_state().equal(before)
    theirs, again = getattr(transformers, 'AutoModelForQuestionAnswering' if n == 2 else 'AutoModelForTokenClassification').from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    t = again(list(squad.question[:3]), list(squad.context[:3]), padding=True, return_tensors='pt')
    assert t['input_ids'].shape[1] > 64 # what was cut here is not cut there
    x = torch.stack([t['input_ids'], t['attention_mask'], t['token_type_ids']], 1)
    with torch.no_grad():
        out = theirs(**t)
        logits = torch.stack([out.start_logits, out.end_logits], 2) if n == 2 else out.logits
        real = t['attention_mask'].bool()
        assert torch.allclose(model.eval()(x)[real], logits[real], atol=1e-5)
        assert torch.allclose(load_token_encoder(folder)(x)[real], logits[real], atol=1e-5)
    if n == 3: assert json.loads((folder/'config.json').read_text())['id2label'] == {'0': 'O', '1': 'B-X', '2': 'I-X'}
    with pytest.raises(InputError, match='question-answering'): save_token_encoder(model, folder, task='qa')
