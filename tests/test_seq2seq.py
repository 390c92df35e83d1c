"Encoder-decoders: losses are transformers' own, answers do not depend on the batch, and a run takes one as it takes a GPT."

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback

transformers = pytest.importorskip('transformers')

from sft_nb.bench.job import run_job
from sft_nb.core import InputError
from sft_nb.models.causal import add_lora, is_seq2seq, load_causal, load_chat_tokenizer, save_causal
from sft_nb.models.seq2seq import Seq2SeqLosses, wrap_losses
from sft_nb.tasks.chat import chat_loaders
from sft_nb.tasks.generate import generate_answers, score_examples
from sft_nb.tasks.text2text import encode_pairs
from sft_nb.train.chat import block_groups, create_chat_learner
from sft_nb.train.checkpoint import Checkpoint
from sft_nb.train.run import Run
from sft_nb.train.schedule import fine_tune
from test_chat_run import quiet, sums, talk_config, write

def small_pair(folder, kind='T5', **more):
    "A random encoder-decoder of two and two layers with SmolLM2's tokenizer."
    tokenizer = load_chat_tokenizer()
    torch.manual_seed(0)
    ends = dict(vocab_size=len(tokenizer), d_model=64, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id)
    own = dict(d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.) if kind == 'T5' else dict(encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=128, init_std=.2, forced_eos_token_id=None)
    transformers.AutoModelForSeq2SeqLM.from_config(getattr(transformers, f'{kind}Config')(**{**ends, **own, **more})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

@pytest.fixture(scope='module')
def folders(tmp_path_factory): return {kind: small_pair(tmp_path_factory.mktemp(kind)/'m', kind) for kind in ('T5', 'Bart')}

def pairs(n=8): return pd.DataFrame([dict(id=i, source='Summarise: ' + ' '.join(f'{k} figs and' for k in range(i % 5 + 1)), target=f'{i} figs' + ', so there.' * (i % 3)) for i in range(n)])


@pytest.mark.parametrize('kind', ['T5', 'Bart'])
def test_losses_are_transformers_own(folders, kind):
    "With adapters too; whichever examples share a row; and their gradients."
    model, tokenizer = load_causal(folders[kind])
    examples, model = encode_pairs(pairs(), tokenizer), model.eval()
    assert is_seq2seq(model) and type(wrap_losses(model)) is Seq2SeqLosses and not is_seq2seq('smollm2-135m')
    found = [score_examples(model, examples, max_length=n).loss for n in (None, 40)]
    for i, (t, l) in enumerate(zip(examples.tokens, examples.labels)):
        with torch.no_grad(): want = model(input_ids=torch.tensor(t[l == -100])[None], labels=torch.tensor(l[l != -100])[None]).loss.item()
        assert found[0][i] == pytest.approx(want, rel=1e-4) and found[1][i] == pytest.approx(want, rel=1e-4)
    batch = chat_loaders(examples, examples, batch_size=8, alike=True).valid.one_batch()
    wrap_losses(model)(*batch[:3]).sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    for t, l in zip(examples.tokens, examples.labels):
        labels = torch.tensor(l[l != -100])[None]
        (model(input_ids=torch.tensor(t[l == -100])[None], labels=labels).loss * labels.numel()).backward()
    for n, p in model.named_parameters(): torch.testing.assert_close(grads[n], p.grad, rtol=1e-3, atol=1e-4)
    adapted = add_lora(model, seed=0, r=2).eval()
    np.testing.assert_allclose(score_examples(adapted, examples).loss, found[0], rtol=1e-4)


@pytest.mark.parametrize('kind', ['T5', 'Bart'])
def test_batching_changes_no_answer(folders, kind):
    model, tokenizer = load_causal(folders[kind])
    facts = pd.DataFrame([dict(id=k, source=f'{k} ' * (i % 4 + 1), target=v) for i, (k, v) in enumerate(dict(France='Paris', Italy='Rome', Norway='Oslo', Peru='Lima', Japan='Tokyo and not Rome', Egypt='Cairo').items())])
    asked = facts.rename(columns=dict(source='prompt'))
    learn = create_chat_learner(chat_loaders(*[encode_pairs(facts, tokenizer)] * 2, batch_size=3, alike=True), model, seed=0)
    fine_tune(learn, 40, lr=1e-2) # so that answers differ
    for beams in (1, 3):
        one = generate_answers(model, tokenizer, asked, max_new_tokens=8, batch_size=1, num_beams=beams)
        assert one == generate_answers(model, tokenizer, asked, max_new_tokens=8, batch_size=5, num_beams=beams) and len(set(one)) > 3
    source = tokenizer(asked.prompt[0], return_tensors='pt')
    assert one[0] == tokenizer.decode(model.generate(**source, max_new_tokens=8, num_beams=3, eos_token_id=tokenizer.eos_token_id, do_sample=False)[0], skip_special_tokens=True).strip()


def test_what_reads_comes_before_what_writes(folders):
    model = load_causal(folders['T5'])[0]
    names = {id(p): n for n, p in model.named_parameters()}
    groups = block_groups(model)
    first = [names[id(g[0])] for g in groups]
    assert len(groups) == 6 and [n.split('.layer.')[0] for n in first[:5]] == ['shared.weight', 'encoder.block.0', 'encoder.block.1', 'decoder.block.0', 'decoder.block.1']
    assert sum(map(len, groups)) == len(names)


def test_steps_are_of_like_length(folders):
    examples = encode_pairs(pairs(20), load_causal(folders['T5'])[1])
    loader = chat_loaders(examples, examples, batch_size=4, alike=True).train
    spread = [np.ptp([len(examples.tokens[i]) for i in row]) for row in loader.dataset.rows]
    assert len(loader) == 5 and sorted(sum(loader.dataset.rows, [])) == list(range(20)) and max(spread) < np.ptp([len(t) for t in examples.tokens]) / 2


def test_what_is_cut_still_ends(folders):
    tokenizer = load_causal(folders['T5'])[1]
    long = pd.DataFrame(dict(id=['a'], prompt=['word ' * 300], completion=['word ' * 300]))
    examples = encode_pairs(long, tokenizer, max_length=20)
    label = examples.labels[0]
    assert (label != -100).sum() == 20 and label[-1] == tokenizer.eos_token_id and len(label) == 40 and examples.to_frame().truncated.all()
    with pytest.raises(InputError) as e: encode_pairs(long.assign(completion=[' ']), tokenizer, max_length=1)
    assert len(e.value.problems) == 2


def test_resumed_is_not_stopped(tmp_path):
    "Dropout, tied embeddings, three groups: bit for bit."
    folder = small_pair(tmp_path/'m', dropout_rate=.2)
    class Die(Callback):
        order = 90
        def after_epoch(self):
            if hasattr(self, 'follow_plan') and self.follow_plan.absolute == 1: raise RuntimeError('killed')
    def train(name, *cbs):
        model, tokenizer = load_causal(folder)
        learn = create_chat_learner(chat_loaders(encode_pairs(pairs(12), tokenizer), encode_pairs(pairs(4), tokenizer), batch_size=4, alike=True), model, seed=0, cbs=cbs)
        fine_tune(learn, 3, lr=1e-2, freeze_epochs=1, checkpoint=Checkpoint(tmp_path/f'{name}.safetensors', key='k'))
        return learn.model.state_dict()
    through = train('a')
    with pytest.raises(RuntimeError): train('b', Die())
    resumed = train('b')
    assert all(torch.equal(through[k], resumed[k]) for k in through)


def test_a_run_takes_one(folders, tmp_path):
    "Conversations as words, adapters, forgetting, the card, and the folder that transformers opens."
    write(tmp_path/'t.jsonl', sums())
    config = talk_config(tmp_path/'t.jsonl', folders['T5'], chat=dict(general='squad', general_items=3))
    e, run = run_job(config, tmp_path/'run', **quiet), Run(tmp_path/'run')
    gained = e.comparisons.set_index('metric').loc['log_probability']
    assert e.n == 6 and gained.difference > 0 and e.curves['forgetting'].n.tolist() == [3] and (run/'model'/'adapter').is_dir()
    model, tokenizer = transformers.AutoModelForSeq2SeqLM.from_pretrained(run/'model'), transformers.AutoTokenizer.from_pretrained(run/'model')
    saved, items = run.predictions('test'), run.items.set_index('id')
    asked = pd.DataFrame(dict(prompt=[items.prompt[i][0]['content'] for i in saved.ids]))
    assert generate_answers(model, tokenizer, asked, max_new_tokens=6) == list(saved.score)
    card = (run/'card.md').read_text(encoding='utf-8')
    assert 'AutoModelForSeq2SeqLM' in card and 'pipeline_tag: text2text-generation' in card
    with pytest.raises(InputError, match='assistant_only_loss'): run_job(talk_config(write(tmp_path/'m.jsonl', [dict(messages=[*r['prompt'], *r['completion']]) for r in sums()]), folders['T5'], chat=dict(assistant_only_loss=True)), tmp_path/'no', **quiet)


def test_flan_t5_translates_learns_and_is_saved_whole(tmp_path):
    "Real weights, out of ONNX; their last layer is not the table of words, which transformers would tie."
    model, tokenizer = load_causal('flan-t5-small')
    ask = lambda model, text: tokenizer.decode(model.generate(**tokenizer(text, return_tensors='pt', return_token_type_ids=False), max_new_tokens=12)[0], skip_special_tokens=True)
    assert ask(model, 'translate English to German: The house is wonderful.') == 'Das Haus ist wunderbar.'
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    facts = pd.DataFrame([dict(id=k, prompt=f'Where is {k}?', completion=f'{k} lies in {v}.') for k, v in dict(Paris='France', Rome='Italy', Oslo='Norway', Lima='Peru', Kyoto='Japan', Cairo='Egypt').items()])
    examples = encode_pairs(facts, tokenizer)
    adapted = add_lora(model, seed=0, r=8)
    before = score_examples(adapted, examples).loss
    learn = create_chat_learner(chat_loaders(examples, examples, batch_size=3, alike=True), adapted, seed=0)
    fine_tune(learn, 6, lr=3e-3)
    assert score_examples(adapted, examples).loss.mean() < before.mean() / 2
    place = save_causal(adapted, tokenizer, tmp_path/'tuned')
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(place)
    assert (again.lm_head.weight == model.lm_head.weight).all() and (again.shared.weight == model.shared.weight).all() and not torch.equal(again.lm_head.weight, again.shared.weight)
    ours = generate_answers(load_causal(place)[0], tokenizer, facts, max_new_tokens=12)
    assert ours == [ask(again, q) for q in facts.prompt]
