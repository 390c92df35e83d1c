"Conversations through the whole line: from the terminal to the report, bad input by row and file, and what others do with what is saved."
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

transformers = pytest.importorskip('transformers')

from sft_nb.bench.job import audit_job, load_items, prepare_items, run_job
from sft_nb.bench.tune import tune_job
from sft_nb.cli import main
from sft_nb.config import make_config, read_config, write_config
from sft_nb.core import InputError
from sft_nb.data.instruct import load_instruct
from sft_nb.records import Evaluation
from sft_nb.models.causal import load_causal
from sft_nb.report.hub import check_card
from sft_nb.tasks.chat import ChatExamples
from sft_nb.tasks.chat_items import ChatInputs, prompt_items, read_chat
from sft_nb.tasks.generate import generate_answers, score_examples
from sft_nb.train.run import Run
from test_cli import start, wait_for
from test_models_causal import tiny

say = lambda role, content: dict(role=role, content=content)


@pytest.fixture(scope='module')
def small(tmp_path_factory): return tiny(tmp_path_factory.mktemp('tiny')/'base')


def write(path, rows): path.write_text('\n'.join(map(json.dumps, rows)), encoding='utf-8'); return path

def sums(n=5): return [dict(prompt=[say('user', f'{a} and {b}?')], completion=[say('assistant', f'{a + b}.')]) for a in range(n) for b in range(n)]

def talk_config(path, small, **sections):
    given = dict(data=dict(path=str(path), kind='chat'), split=dict(valid=.2, test=.3, on_leak='warn'), model=dict(backbone=str(small), max_length=64), train=dict(epochs=2, lr=.01, batch_size=2),
                 retain=dict(lora_rank=2), chat=dict(max_new_tokens=6, answers=6, general='', general_items=4), evaluate=dict(n_resamples=200))
    for name, section in sections.items(): given[name] = {**given.get(name, {}), **section}
    return make_config(given)

quiet = dict(say=lambda line: None)


# --- The line ------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def taught(tmp_path_factory):
    "SmolLM2 after two epochs with adapters on questions of HaluEval, by the command line."
    folder = tmp_path_factory.mktemp('taught')
    rows = load_instruct('questions').iloc[:24]
    rows = [dict(key=i, hard=bool(k % 2), prompt=[say('user', p[0]['content'][:120] + '?')], completion=c) for k, (i, p, c) in enumerate(zip(rows.id, rows.prompt, rows.completion))]
    write(folder/'questions.jsonl', rows)
    assert main(['init', str(folder/'questions.jsonl'), '--kind', 'chat', '--out', str(folder/'my.yaml')]) == 0
    config = yaml.safe_load((folder/'my.yaml').read_text(encoding='utf-8'))
    config['data'] |= dict(id='key', slices=['hard'])
    config['model']['max_length'], config['train']['epochs'], config['standard'] = 128, 2, dict(log_probability=-20.)
    config['split'] |= dict(on_leak='warn')
    config['chat'] |= dict(max_new_tokens=8, answers=5, general='squad', general_items=4)
    (folder/'my.yaml').write_text(yaml.safe_dump(config), encoding='utf-8')
    assert main(['run', str(folder/'my.yaml'), '--out', str(folder/'run')]) == 0
    return folder


def test_from_the_terminal_to_the_report(taught):
    run = Run(taught/'run')
    e, items, history = run.evaluation, run.items, run.history
    assert run.config.data.kind == 'chat' and run.config.model.backbone == 'smollm2-135m'
    assert len(items) == 24 and e.n == 5 == len(run.predictions('test')) == len(run.predictions('test', 'base')) and len(pd.read_parquet(run/'scores-test.parquet')) == (items.split == 'test').sum()
    assert history.valid_loss.iloc[-1] < history.valid_loss.iloc[0] and history.epoch.tolist() == [-1, 0, 1]
    assert {'exact_match', 'token_f1', 'rougel', 'bleu', 'chrf', 'log_probability'} <= set(e.metrics.metric) and set(e.comparisons.baseline) == {'base model'}
    gained = e.comparisons.set_index('metric').loc['log_probability']
    assert gained.difference > 0 and gained.low <= gained.difference <= gained.high and abs(gained.value - gained.baseline_value - gained.difference) < 1e-9
    row = e.curves['forgetting'].iloc[0]
    assert row['of'] == 'squad' and 'CC BY-SA' in ' '.join(e.context['notes']) and row.n == 4 and row.low <= row.value <= row.high and row.base < 0
    assert e.verdict.verdict.tolist() == ['met'] and e.context['test_reads'] == 1 and sum('Perplexity of' in note for note in e.context['notes']) == 2
    assert set(run.predictions('test').slices.columns) == {'hard'}
    page, card = ((run/name).read_text(encoding='utf-8') for name in ('report.html', 'card.md'))
    assert run.predictions('test').target[0][0] in page and 'What was asked' in page and 'Perplexity of the right answers' in page
    assert 'AutoModelForCausalLM' in card and 'pipeline_tag: text-generation' in card and 'timm' not in card and 'linear probe' not in card
    assert check_card(card)['license'] == 'apache-2.0'
    assert '<h2>Gained most</h2>' in (run/'answers.html').read_text(encoding='utf-8')


def test_scores_and_answers_are_those_of_the_saved_model(taught, capsys):
    "transformers opens it; asked the same it says the same, from Python and from the terminal."
    run = Run(taught/'run')
    model, tokenizer = transformers.AutoModelForCausalLM.from_pretrained(run/'model'), transformers.AutoTokenizer.from_pretrained(run/'model')
    saved, items = run.predictions('test'), run.items
    asked = prompt_items(items.set_index('id').loc[saved.ids].reset_index())
    assert list(generate_answers(model, tokenizer, asked, max_new_tokens=8)) == list(saved.score)
    found = score_examples(model, ChatInputs(run.config).encode(items[items.split == 'test']))
    np.testing.assert_allclose(found.loss, pd.read_parquet(run/'scores-test.parquet').loss, rtol=1e-5)
    assert (run/'model'/'adapter'/'adapter_model.safetensors').exists()
    write(taught/'asked.jsonl', [dict(key=i, prompt=p) for i, p in zip(asked.id, asked.prompt)])
    capsys.readouterr()
    assert main(['predict', str(run.folder), str(taught/'asked.jsonl'), '--out', str(taught/'said.csv')]) == 0
    said = pd.read_csv(taught/'said.csv', keep_default_na=False)
    assert said.prediction.tolist() == list(saved.score) and said.id.tolist() == list(saved.ids)
    assert main(['predict', str(run.folder), asked.prompt[0][0]['content']]) == 0
    assert saved.score[0].splitlines()[0][:20] in capsys.readouterr().out
    assert main(['predict', str(run.folder), '  ']) == 1 and 'every prompt' in capsys.readouterr().err


def test_lm_eval_opens_the_model(taught, tmp_path):
    "The log-probabilities that lm-eval computes from the folder are ours."
    rows = [dict(question=f'What is the capital of {country}?', choices=['Paris', 'Rome', 'Oslo', 'Lima'], answer=i) for i, country in enumerate(['France', 'Italy', 'Norway', 'Peru'])]
    write(tmp_path/'capitals.jsonl', rows)
    task = dict(task='capitals', dataset_path='json', dataset_kwargs=dict(data_files=dict(test=str(tmp_path/'capitals.jsonl'))), test_split='test', output_type='multiple_choice',
                doc_to_text='Question: {{question}}\nAnswer:', doc_to_choice='{{choices}}', doc_to_target='answer', metric_list=[dict(metric='acc')])
    (tmp_path/'capitals.yaml').write_text(yaml.safe_dump(task))
    call = [sys.executable, '-m', 'lm_eval', '--model', 'hf', '--model_args', f"pretrained={taught/'run'/'model'},dtype=float32", '--tasks', 'capitals', '--include_path', str(tmp_path),
            '--device', 'cpu', '--batch_size', '4', '--log_samples', '--output_path', str(tmp_path/'out')]
    done = subprocess.run(call, capture_output=True, text=True, env=os.environ | dict(HF_DATASETS_OFFLINE='1', HF_DATASETS_CACHE=str(tmp_path/'cache')))
    assert done.returncode == 0, done.stderr[-3000:]
    result, = (tmp_path/'out').rglob('results_*.json')
    assert json.loads(result.read_text())['n-samples']['capitals']['effective'] == 4
    samples, = (tmp_path/'out').rglob('samples_*.jsonl')
    model, tokenizer = load_causal(taught/'run'/'model')
    for sample in map(json.loads, samples.read_text().splitlines()):
        before, pairs = tokenizer(f"Question: {sample['doc']['question']}\nAnswer:").input_ids, [tokenizer(f"Question: {sample['doc']['question']}\nAnswer: {c}").input_ids for c in sample['doc']['choices']]
        ours = score_examples(model, ChatExamples(np.array(sample['doc']['choices']), [np.array(t) for t in pairs], [np.array([-100] * len(before) + t[len(before):]) for t in pairs], np.array([len(t) for t in pairs])))
        np.testing.assert_allclose([float(r[0][0]) for r in sample['resps']], ours.log_prob, rtol=1e-3)


def test_a_finished_run_is_shown_again(taught, capsys):
    before = (taught/'run'/'evaluation.json').read_bytes()
    assert main(['run', str(taught/'my.yaml'), '--out', str(taught/'run')]) == 0
    assert 'is finished' in capsys.readouterr().out and (taught/'run'/'evaluation.json').read_bytes() == before and Run(taught/'run').count_reads() == 1


@pytest.mark.parametrize('shape', ['messages', 'text', 'plain', 'whole model', 'dora', 'base only'])
def test_runs_of_each_shape(small, tmp_path, shape):
    rows, more = sums(), {}
    if shape == 'messages': rows, more = [dict(messages=[say('system', 'Be brief.'), *r['prompt'], *r['completion']]) for r in rows], dict(chat=dict(assistant_only_loss=True, packing=False))
    if shape == 'text': rows = [dict(text=f'{r["prompt"][0]["content"]} That makes {r["completion"][0]["content"]}') for r in rows]
    if shape == 'plain': rows = [dict(prompt=r['prompt'][0]['content'], completion=' ' + r['completion'][0]['content']) for r in rows]
    if shape == 'whole model': more = dict(retain=dict(lora_rank=0), train=dict(unfreeze=[[1, -1], [1, 0]], epochs=2, lr=.003, batch_size=4))
    if shape == 'dora': more = dict(retain=dict(dora=True), train=dict(epochs=1, batch_size=8, lr=.01))
    if shape == 'base only': more = dict(train=dict(epochs=0))
    pd.DataFrame(rows).to_parquet(tmp_path/'t.parquet')
    e = run_job(talk_config(tmp_path/'t.parquet', small, **more), tmp_path/'run', **quiet)
    run, gained = Run(tmp_path/'run'), e.comparisons.set_index('metric').loc['log_probability'].difference
    assert e.n == 6 and 'forgetting' not in e.curves
    if shape == 'base only': assert gained == 0 and (run.predictions('test').score == run.predictions('test', 'base').score).all() and any('this is the base model' in n for n in e.context['notes'])
    else: assert gained > 0 and len(run.history) == (3 if shape != 'dora' else 2)
    if shape == 'text': assert all(t[0].startswith('That makes') for t in run.predictions('test').target) and e.examples.input.str.endswith('?').all() # from the middle on
    if shape == 'dora': assert json.loads((run/'model'/'adapter'/'adapter_config.json').read_text())['use_dora']
    if shape == 'whole model': assert not (run/'model'/'adapter').exists()


def test_data_that_changed_between_a_kill_and_the_next_call(small, tmp_path, monkeypatch):
    "What the base model was asked of other data is not taken for an answer."
    import sft_nb.train.chat_run as steps
    config = talk_config(write(tmp_path/'t.jsonl', sums()), small)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(steps, '_fine_tune', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        run_job(config, tmp_path/'run', **quiet)
    base = Run(tmp_path/'run').predictions('test', 'base')
    write(tmp_path/'t.jsonl', [dict(r, completion=[say('assistant', 'More.')]) for r in sums()])
    run_job(config, tmp_path/'run', **quiet)
    assert {t[0] for t in Run(tmp_path/'run').predictions('test', 'base').target} == {'More.'} != {t[0] for t in base.target}


def test_conversations_are_encoded_once(small, tmp_path, monkeypatch):
    "Before training, for it, and for the report; other options or other words are encoded again."
    import sft_nb.tasks.chat_items as steps
    calls, real = [], steps.encode_chat
    monkeypatch.setattr(steps, 'encode_chat', lambda items, *args, **kwargs: (calls.append(len(items)), real(items, *args, **kwargs))[1])
    config = talk_config(write(tmp_path/'t.jsonl', sums(3)), small, train=dict(epochs=0), chat=dict(answers=2))
    run_job(config, tmp_path/'run', **quiet)
    assert calls == [9]
    items = Run(tmp_path/'run').items
    first = ChatInputs(config).encode(items)
    assert calls == [9] and [t.tolist() for t in first.tokens] == [t.tolist() for t in real(items, ChatInputs(config).tokenizer, max_length=64).tokens]
    ChatInputs(talk_config(tmp_path/'t.jsonl', small, model=dict(max_length=60))).encode(items)
    ChatInputs(config).encode(items.assign(completion=[[say('assistant', 'More.')]] * 9))
    assert calls == [9] * 3


def test_ctrl_c_loses_nothing(small, tmp_path):
    "Stopped by SIGINT while the base model answers and again while it learns: the same command ends in the same bits."
    config = tmp_path/'c.yaml'
    write_config(talk_config(write(tmp_path/'t.jsonl', sums()), small, train=dict(epochs=8, batch_size=1), chat=dict(packing=False, max_new_tokens=60, answers=8)), config)
    whole = start(config, tmp_path/'whole')
    for sign in ('scores-test-base.parquet', 'checkpoint.safetensors'):
        process = start(config, tmp_path/'run')
        wait_for(tmp_path/'run'/sign, process)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
        assert process.returncode == 130 and f'Nothing is lost. To go on: sft-nb run {config} --out {tmp_path}/run' in err and 'Traceback' not in err, err
        assert not (tmp_path/'run'/'model').exists()
    process = start(config, tmp_path/'run')
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 0, err
    assert whole.wait(timeout=300) == 0
    a, b = (Run(tmp_path/name) for name in ('whole', 'run'))
    assert (a/'model'/'model.safetensors').read_bytes() == (b/'model'/'model.safetensors').read_bytes() and len(a.history) == len(b.history) == 9
    for model in ('', 'base'): assert (a.predictions('test', model).score == b.predictions('test', model).score).all()
    pd.testing.assert_frame_equal(pd.read_parquet(a/'scores-test.parquet'), pd.read_parquet(b/'scores-test.parquet'))
    assert b.count_reads() == 1


# --- Data ----------------------------------------------------------------------------------------------------------------

def test_the_same_prompt_is_on_one_side(small, tmp_path):
    twice = [dict(r, completion=[say('assistant', word)]) for r in sums() for word in ('Yes.', 'No.')] + [dict(prompt=[say('user', '  3 AND 2?')], completion=[say('assistant', 'Five.')])]
    items = prepare_items(talk_config(write(tmp_path/'t.jsonl', twice), small))
    assert items.group.nunique() == 25 and (items.groupby('group').split.nunique() == 1).all() and set(items.split) == {'train', 'valid', 'test'}
    assert items.group[items.input.str.contains('3 AND 2')].iloc[0] == items.group[items.input.str.contains('3 and 2')].iloc[0]
    with pytest.raises(InputError, match='group, time or given'): talk_config('x.jsonl', small, split=dict(method='stratified'))


def test_near_copies_are_on_one_side(small, tmp_path):
    "Of other prompts too, through a chain of them; the same wherever a row stands."
    long = [f'word{i}' for i in range(40)]
    rows = sums() + [dict(prompt=[say('user', ' '.join(long[:i] + ['other'] + long[i + 1:]))], completion=[say('assistant', 'Yes.')]) for i in range(0, 40, 5)]
    rows = [dict(r, key=f'k{i}') for i, r in enumerate(rows)]
    config = talk_config(write(tmp_path/'t.jsonl', rows), small, data=dict(id='key'), split=dict(on_leak='stop'), train=dict(epochs=0), model=dict(max_length=256))
    items = prepare_items(config)
    assert items[items.input.str.contains('other')].split.nunique() == 1 and items.group.nunique() == 26 and not len(audit_job(config, items).leaks)
    assert run_job(config, tmp_path/'run', **quiet).n == 6
    write(tmp_path/'t.jsonl', rows[::-1])
    again = prepare_items(config)
    assert dict(zip(again.id, again.group)) == dict(zip(items.id, items.group)) and dict(zip(again.id, again.split)) == dict(zip(items.id, items.split))


def test_an_old_instruction_set_is_asked_before_and_after(small, tmp_path):
    "Paired, prompt by prompt, on completions only; the table may have another shape than what is learnt."
    old = [dict(messages=[say('user', f'Who is {name}?'), say('assistant', f'{name} is a friend.')]) for name in ('Ann', 'Bob', 'Cem', 'Dev', 'Eva', 'Ann')]
    config = talk_config(write(tmp_path/'t.jsonl', sums()), small, chat=dict(old=str(write(tmp_path/'old.jsonl', old)), general_items=20))
    e, run = run_job(config, tmp_path/'run', **quiet), Run(tmp_path/'run')
    before, after = (pd.read_parquet(run/f'scores-old{end}.parquet') for end in ('-base', ''))
    assert before.id.tolist() == after.id.tolist() == list('01234') and (before.tokens == after.tokens).all() and (before.loss != after.loss).all() # Ann once
    model, tokenizer = transformers.AutoModelForCausalLM.from_pretrained(run/'model'), transformers.AutoTokenizer.from_pretrained(run/'model')
    prompt, whole = (tokenizer.apply_chat_template(old[1]['messages'][:k], add_generation_prompt=k == 1, return_dict=True).input_ids for k in (1, 2))
    labels = torch.tensor([-100] * len(prompt) + whole[len(prompt):])[None]
    assert model(torch.tensor(whole)[None], labels=labels).loss.item() == pytest.approx(after.loss[1], rel=1e-4)
    row = e.curves['forgetting'].iloc[0]
    assert row['of'] == config.chat.old and row.n == 5 and row.low <= row.value <= row.high and row.value == pytest.approx((before.loss - after.loss).mean())
    write(tmp_path/'old.jsonl', old[:1])
    with pytest.raises(InputError, match='`chat.old`.*at least two'): run_job(config, tmp_path/'one', **quiet)
    with pytest.raises(InputError, match='old.jsonl'): run_job(talk_config(tmp_path/'t.jsonl', small, chat=dict(old=str(write(tmp_path/'old.jsonl', [dict(messages=[])])))), tmp_path/'bad', **quiet)


def test_a_conversation_on_both_sides_stops_the_run(small, tmp_path):
    long = ' '.join(f'word{i}' for i in range(40))
    rows = [dict(r, split=('train', 'valid', 'test')[i % 3]) for i, r in enumerate(sums())]
    rows += [dict(prompt=[say('user', f'{long} {i}?')], completion=[say('assistant', 'Yes.')], split=part) for i, part in enumerate(['train', 'test'])]
    config = talk_config(write(tmp_path/'t.jsonl', rows), small, data=dict(split='split'), split=dict(method='given', on_leak='stop'), model=dict(max_length=256))
    audit = audit_job(config, prepare_items(config))
    assert audit.leaks.kind.tolist().count('near_duplicate') == 1 and not len(audit.missing_labels) and not len(audit.class_balance)
    with pytest.raises(InputError, match="'25' in train and '26' in test"): run_job(config, tmp_path/'run', **quiet)
    assert not (tmp_path/'run'/'model').exists()


def test_bad_conversations_are_named_by_row_and_file(small, tmp_path, capsys):
    rows = sums() + [dict(prompt=[say('user', 'So?')], completion=[]), dict(prompt=[say('user', '')], completion=[say('assistant', 'Yes.')]), dict(prompt=[say('human', 'So?')], completion=[say('assistant', 'Yes.')])]
    write(tmp_path/'bad.jsonl', rows)
    (tmp_path/'c.yaml').write_text(yaml.safe_dump(dict(data=dict(path=str(tmp_path/'bad.jsonl'), kind='chat'), model=dict(backbone=str(small)))))
    assert main(['run', str(tmp_path/'c.yaml'), '--out', str(tmp_path/'run')]) == 1
    said = capsys.readouterr().err
    assert said.count('bad.jsonl') == said.count('\n') >= 4 and all(f'({row})' in said for row in ('25', '26', '27')) and 'Traceback' not in said, said
    assert main(['init', str(tmp_path/'bad.jsonl'), '--kind', 'chat', '--out', str(tmp_path/'d.yaml')]) == 1 and not (tmp_path/'d.yaml').exists()


@pytest.mark.parametrize('case, words', [('marks', 'without marks'), ('masked', 'none in .* rows'), ('columns', 'prompt'), ('plain', 'Plain texts have no assistant'), ('utf8', 'UTF-8')])
def test_what_only_the_tokenizer_or_the_file_knows(small, tmp_path, case, words):
    rows, more = sums(), {}
    if case == 'marks': rows[3]['completion'] = [say('assistant', 'Yes.<|im_end|>')]
    if case == 'masked': more = dict(model=dict(max_length=8))
    if case == 'columns': rows = [dict(promt=r['prompt'], completion=r['completion']) for r in rows]
    if case == 'plain': rows, more = [dict(text=f'So it is {i}.') for i in range(len(rows))], dict(chat=dict(assistant_only_loss=True))
    write(tmp_path/'t.jsonl', rows)
    if case == 'utf8': (tmp_path/'t.jsonl').write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=words) as e: run_job(talk_config(tmp_path/'t.jsonl', small, **more), tmp_path/'run', **quiet)
    assert 't.jsonl' in str(e.value) and not (tmp_path/'run'/'model').exists()


def test_examples_without_anything_to_learn_are_left_out_where_asked(small, tmp_path):
    rows = sums() + [dict(prompt=[say('user', 'and ' * 90)], completion=[say('assistant', 'No.')])]
    config = talk_config(write(tmp_path/'t.jsonl', rows), small, chat=dict(on_masked='drop'))
    with pytest.warns(UserWarning, match='Left out'): said = ChatInputs(config).describe(prepare_items(config))
    assert any('1 conversations are left out' in s for s in said)


def test_parquet_and_jsonl_are_the_same_items(small, tmp_path):
    "Conversations of different lengths, a tool in one of them; emoji and several languages."
    rows = [dict(messages=[say('user', f'Zwei plus {i}? 😀 多少'), say('assistant', 'Ответ.')]) for i in range(8)]
    rows[2]['messages'] += [say('user', 'And?'), dict(role='assistant', content='', tool_calls=[dict(type='function', function=dict(name='add', arguments='{}'))]), say('tool', '4'), say('assistant', '4.')]
    write(tmp_path/'t.jsonl', rows); pd.DataFrame(rows).to_parquet(tmp_path/'t.parquet')
    a, b = (load_items(talk_config(tmp_path/f't.{end}', small)) for end in ('jsonl', 'parquet'))
    pd.testing.assert_frame_equal(a, b)
    a.to_parquet(tmp_path/'again.parquet')
    x, y = (ChatInputs(talk_config(tmp_path/'t.jsonl', small, model=dict(max_length=128))).encode(i) for i in (a, pd.read_parquet(tmp_path/'again.parquet')))
    assert all((s == t).all() for s, t in zip(x.tokens, y.tokens))


def test_sets_by_name_and_samples_of_them(small):
    config = talk_config('halueval-dialogues', small, data=dict(path='halueval-dialogues', max_items=60))
    items = prepare_items(config)
    assert len(items) == 60 and prepare_items(config).id.equals(items.id) and items.group.nunique() <= 60 and (items.target == '').all()
    with pytest.raises(InputError, match='halueval'): read_chat('haluval')


def test_what_a_chat_run_does_not_do_is_refused(small, tmp_path, capsys):
    with pytest.raises(InputError) as e: make_config(dict(data=dict(path='x.jsonl', kind='chat', soft='p'), train=dict(mixup=.2, class_weights='balanced'), retain=dict(ewc=1., wise_ft=True)))
    assert all(name in str(e.value) for name in ('data.soft', 'train.mixup', 'train.class_weights', 'retain.ewc', 'retain.wise_ft'))
    with pytest.raises(InputError, match='`chat`.*left out for images'): make_config(dict(data=dict(path='x'), chat=dict(packing=False)))
    with pytest.raises(InputError, match='retain.dora'): make_config(dict(data=dict(path='x'), retain=dict(dora=True)))
    with pytest.raises(InputError, match='one of images or texts'): tune_job(talk_config('x.jsonl', small), tmp_path/'search', n_trials=1)
