"Chat examples: exact to the token, against TRL where it is installed; bad input; generation; training to the end and after a stop."
import json

import numpy as np
import pandas as pd
import pytest
import torch

from sft_nb.assets import fetch_asset
from sft_nb.core import InputError
from sft_nb.models.causal import add_lora, load_causal
from sft_nb.models.packed import PackedCausal
from sft_nb.tasks.chat import chat_loaders, check_chat, encode_chat
from sft_nb.tasks.generate import compare_scores, generate_answers, score_examples
from sft_nb.train.chat import block_groups, create_chat_learner
from sft_nb.train.checkpoint import Checkpoint
from sft_nb.train.schedule import fine_tune
from test_models_causal import tiny

transformers = pytest.importorskip('transformers')
say = lambda role, content: dict(role=role, content=content)
MARKED = """{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n'}}{% if m['role'] == 'assistant' %}{% generation %}{{m['content'] + '<|im_end|>\n'}}{% endgeneration %}{% else %}{{m['content'] + '<|im_end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"""

@pytest.fixture(scope='module')
def smol(): return load_causal()

def questions(n):
    rows = pd.read_json(fetch_asset('halueval')/'dataset_halueval_qa.jsonl', lines=True, nrows=n)
    return pd.DataFrame(dict(id=[f'q{i}' for i in range(n)], prompt=[[say('user', f'{k}\n\n{q}')] for k, q in zip(rows.knowledge, rows.question)],
                             completion=[[say('assistant', str(a))] for a in rows.right_answer]))

def dialogues(n):
    "Conversations of several turns."
    out = []
    for line in open(fetch_asset('halueval')/'dataset_halueval_dialogue.jsonl', encoding='utf-8'):
        row = json.loads(line)
        parts = [p.strip() for p in row['dialogue_history'].replace('[Assistant]:', '[Human]:').split('[Human]:')]
        turns = [say('user' if i % 2 == 0 else 'assistant', t) for i, t in enumerate(parts[1:])]
        if turns and all(t['content'] for t in turns) and turns[-1]['role'] == 'user': out.append(turns + [say('assistant', row['right_response'])])
        if len(out) == n: break
    return pd.DataFrame(dict(id=range(n), messages=out))

# --- Which tokens are learnt --------------------------------------------------------------------------------------------

def test_turns_by_prefix_are_those_that_the_template_marks(smol):
    plain, marked = load_causal()[1], load_causal()[1]
    marked.chat_template, items = MARKED, dialogues(60)
    items['messages'] = [[say('system', 'Be brief.'), *m] for m in items.messages] # the template of SmolLM2 would add one of its own
    a, b = (encode_chat(items, t, assistant_only_loss=True) for t in (plain, marked))
    assert max(sum(m['role'] == 'assistant' for m in ms) for ms in items.messages) > 1
    for x, y in zip(a.tokens + a.labels, b.tokens + b.labels): np.testing.assert_array_equal(x, y)

def trl_labels(tmp_path, tokenizer, items, **config):
    "Tokens and labels as TRL's trainer makes them."
    trl, datasets = pytest.importorskip('trl'), pytest.importorskip('datasets')
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny(tmp_path/'m'))
    args = trl.SFTConfig(output_dir=str(tmp_path/'out'), use_cpu=True, bf16=False, report_to='none', **config)
    data = trl.SFTTrainer(model=model, args=args, processing_class=tokenizer, train_dataset=datasets.Dataset.from_list(items.drop(columns='id').to_dict('records'))).train_dataset
    return sorted(zip(map(tuple, data['input_ids']), map(tuple, data['labels'])))

def ours(examples): return sorted(zip((tuple(t.tolist()) for t in examples.tokens), (tuple(l.tolist()) for l in examples.labels)))

@pytest.mark.parametrize('case', ['chat', 'plain', 'text', 'turns', 'cut'])
def test_labels_are_those_of_trl(tmp_path, case):
    tokenizer, items = load_causal()[1], questions(20)
    config = dict(max_length=1024)
    if case == 'plain': items = items.assign(prompt=[p[0]['content'] + ' Answer: w' for p in items.prompt], completion=[c[0]['content'] for c in items.completion]) # merges over the boundary
    if case == 'text': items = pd.DataFrame(dict(id=items.id, text=[p[0]['content'] for p in items.prompt]))
    if case == 'turns': items, tokenizer.chat_template, config = dialogues(20), MARKED, config | dict(assistant_only_loss=True)
    if case == 'cut': config = dict(max_length=150)
    examples = encode_chat(items, tokenizer, **config, **(dict(on_masked='drop') if case == 'cut' else {}))
    assert ours(examples) == trl_labels(tmp_path, tokenizer, items, **config)
    if case == 'cut': assert 0 < len(examples.dropped) < 20 and len(examples) + len(examples.dropped) == 20

# --- Bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('messages, word', [
    ([say('assistant', 'Hi')], 'in order'), ([say('user', 'a'), say('system', 'b'), say('assistant', 'c')], 'in order'), ([say('user', 'a'), say('assistant', 'b'), say('assistant', 'c')], 'in order'),
    ([say('user', 'a')], 'a turn of the assistant'), ([say('user', ' \n'), say('assistant', 'b')], 'not empty'), ([say('human', 'a'), say('gpt', 'b')], 'system, user, assistant or tool'),
    ([dict(frm='user', value='a')], 'a list of messages'), ([], 'a list of messages'), (None, 'a list of messages'), ([say('user', 'a\ud800'), say('assistant', 'b')], 'valid UTF-8'),
    ([say('user', None), say('assistant', 'b')], 'valid UTF-8'), ([say('user', 'a<|im_end|>'), say('assistant', 'b')], 'without marks')])
def test_each_fault_names_its_row(smol, messages, word):
    good = [say('system', 's'), say('user', 'Grüße, 你好 😀'), say('assistant', 'ok'), say('user', 'a'), say('assistant', 'b')]
    problems = check_chat(pd.DataFrame(dict(id=['good', 'bad'], messages=[good, messages])), smol[1])
    assert any(word in p and '(bad)' in p for p in problems), problems

def test_all_faults_at_once(smol):
    items = pd.DataFrame(dict(id=['a', 'a', 'c', 'd'], prompt=['', 'x', 3, 'y'], completion=['x', ' ', 'y', b'z']))
    with pytest.raises(InputError) as e: encode_chat(items, smol[1])
    assert len(e.value.problems) == 3 and '2 of 4 rows (a, a)' in str(e.value) and '2 of 4 rows (c, d)' in str(e.value)

def test_a_very_long_row(smol):
    "A hundred thousand tokens are cut, and what is left of them is the beginning."
    items = pd.DataFrame(dict(id=['long', 'short'], text=['word ' * 100_000, 'word']))
    examples = encode_chat(items, smol[1], max_length=64)
    assert examples.whole[0] > 100_000 and len(examples.tokens[0]) == 64 and examples.to_frame().truncated.tolist() == [True, False]
    assert len(encode_chat(items, smol[1], max_length=64, truncation_mode='keep_end').tokens[0]) == 64

def test_nothing_left_to_learn(smol):
    with pytest.raises(InputError, match=r'3 of 3 rows \(q0, q1, q2\)'): encode_chat(questions(3), smol[1], max_length=8)
    with pytest.warns(UserWarning, match='q0'): assert encode_chat(questions(3), smol[1], max_length=8, on_masked='drop').dropped == ('q0', 'q1', 'q2')

def test_a_tokenizer_without_a_template():
    tokenizer = load_causal()[1]
    tokenizer.chat_template = None
    with pytest.raises(InputError, match='one with a chat template'): encode_chat(questions(2), tokenizer)
    with pytest.raises(InputError, match='`on_masked`'): encode_chat(questions(2), tokenizer, on_masked='skip')

# --- Generation and scores ----------------------------------------------------------------------------------------------

def test_batching_changes_no_answer(smol):
    model, tokenizer = smol
    items = questions(8)
    one = generate_answers(model, tokenizer, items, max_new_tokens=8, batch_size=1)
    assert one == generate_answers(model, tokenizer, items, max_new_tokens=8, batch_size=8) and len(set(one)) > 4
    PackedCausal(model) # exchanges the attention
    assert one == generate_answers(model, tokenizer, items, max_new_tokens=8, batch_size=5)

def test_an_answer_ends_with_its_turn(smol):
    answer, = generate_answers(*smol, pd.DataFrame(dict(id=['a'], messages=[[say('user', 'What is the capital of France?'), say('assistant', 'never read')]])), max_new_tokens=60)
    assert answer == 'The capital of France is Paris.'

def test_scores_are_transformers_own(smol):
    model, tokenizer = smol
    examples = encode_chat(questions(6), tokenizer)
    found = score_examples(model, examples)
    for i, (t, l) in enumerate(zip(examples.tokens, examples.labels)):
        with torch.no_grad(): want = model(torch.tensor(t)[None], labels=torch.tensor(l)[None]).loss.item()
        assert abs(found.loss[i] - want) < 1e-4
    same = compare_scores(found, found).iloc[0]
    assert same.difference == same.low == same.high == 0 and same.perplexity_ratio == 1

# --- Training -----------------------------------------------------------------------------------------------------------

def test_groups_are_blocks(smol):
    model = smol[0]
    groups = block_groups(model)
    assert len(groups) == 32 and sum(map(len, groups)) == len(list(model.parameters())) # embeddings, thirty blocks, the last norm
    assert groups[0][0] is model.get_input_embeddings().weight and groups[-1][0] is model.model.norm.weight
    assert {id(p) for p in groups[5]} == {id(p) for p in model.model.layers[4].parameters()}

def learner(folder, *cbs, **kwargs):
    model, tokenizer = load_causal(tiny(folder, attention_dropout=.1, tie_word_embeddings=True))
    train, valid = (encode_chat(part, tokenizer) for part in (questions(30)[:24], questions(30)[24:]))
    return create_chat_learner(chat_loaders(train, valid, batch_size=1, max_length=600), model, seed=0, cbs=cbs, **kwargs)

def test_resumed_is_not_stopped(tmp_path):
    "All weights, tied, with dropout, by the optimiser's state: bit for bit."
    from fastai.callback.core import Callback
    class Die(Callback):
        order = 90
        def after_epoch(self):
            if hasattr(self, 'follow_plan') and self.follow_plan.absolute == 1: raise RuntimeError('killed')
    def train(name, *cbs):
        learn = learner(tmp_path/'m', *cbs)
        history = fine_tune(learn, 3, lr=1e-2, freeze_epochs=1, checkpoint=Checkpoint(tmp_path/f'{name}.safetensors', key='k'))
        return learn.model.state_dict(), history
    through, history = train('a')
    with pytest.raises(RuntimeError): train('b', Die())
    resumed, again = train('b')
    assert all(torch.equal(through[k], resumed[k]) for k in through)
    pd.testing.assert_frame_equal(history.drop(columns='seconds'), again.drop(columns='seconds'))
    assert history.train_loss.iloc[-1] < history.train_loss.iloc[1]

def test_frozen_blocks_stay(tmp_path):
    learn = learner(tmp_path/'m')
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    fine_tune(learn, 1, lr=1e-2, freeze_to=2)
    moved = {k for k, v in learn.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all('.layers.1.' in k or k.endswith('norm.weight') and '.layers.' not in k for k in moved)

def test_the_loss_is_a_mean_over_tokens(tmp_path):
    "In the history too, whatever the batches."
    losses = []
    for packing, size in ((True, 1), (False, 7)):
        model, tokenizer = load_causal(tiny(tmp_path/'m'))
        examples = encode_chat(questions(20), tokenizer)
        learn = create_chat_learner(chat_loaders(examples, examples, batch_size=size, packing=packing, max_length=600), model, seed=0, precision='fp32')
        with learn.no_bar(), learn.no_logging(): losses.append(learn.validate()[0])
    scores = score_examples(model, examples)
    np.testing.assert_allclose(losses, -scores.log_prob.sum() / scores.tokens.sum(), rtol=1e-4)

def test_norms_do_not_decay(tmp_path):
    learn = learner(tmp_path/'m', weight_decay=.1)
    assert all(learn.opt.state[p].get('do_wd', True) == (p.ndim > 1) for p in learn.model.parameters())
