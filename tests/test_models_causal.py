"Causal models from the wheel, with adapters, saved for others; and packed rows, against each example alone."
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from sft_nb.core import InputError
from sft_nb.models.causal import add_lora, load_causal, save_causal
from sft_nb.models.packed import PackedCausal, make_rows, pack_lengths

transformers = pytest.importorskip('transformers')
TEXTS = ['The capital of France is Paris.', 'A dark cell does not conduct, and so it does not glow in the infrared.', 'Zwei und zwei 😀 ist vier.', 'No.',
         'Photovoltaic modules are inspected by electroluminescence imaging, which shows cracks that no eye can see.']

@pytest.fixture(scope='module')
def smol(): return load_causal()

def tiny(folder, kind='Llama', **config):
    "A random model of two layers with SmolLM2's tokenizer, for what does not depend on weights."
    tokenizer = load_causal()[1]
    torch.manual_seed(0)
    settings = dict(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, initializer_range=.2, **config)
    transformers.AutoModelForCausalLM.from_config(getattr(transformers, f'{kind}Config')(**settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

def logits_of(model, ids): return model.eval()(torch.tensor([ids])).logits[0].detach()

# --- Opening and saving ---------------------------------------------------------------------------------------------

def test_without_a_pad_token(tmp_path):
    "The end token stands in; a tokenizer that has none either is refused."
    folder = tiny(tmp_path/'m')
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    model, found = load_causal(folder)
    assert found.pad_token == '<|im_end|>' and model.config.pad_token_id == model.generation_config.pad_token_id == found.eos_token_id
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match='a pad token or an end token'): load_causal(folder)

def test_a_vocabulary_that_grew(tmp_path):
    "Rows are added, the same each time, learn beside adapters, and come back."
    (model, tokenizer), (twin, _) = (load_causal(added_tokens=('<evidence>',)) for _ in range(2))
    new, rows = tokenizer.convert_tokens_to_ids('<evidence>'), model.get_input_embeddings().weight
    assert new == len(tokenizer) - 1 == len(rows) - 1 and torch.equal(rows, twin.get_input_embeddings().weight)
    assert F.cosine_similarity(rows[-1], rows[:-1].mean(0), 0) > .5
    ids = tokenizer('<evidence>It is dark.').input_ids
    assert ids[0] == new
    adapted = add_lora(model, seed=0, r=2)
    before = rows[-1].clone()
    opt = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.)
    adapted(torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
    opt.step()
    save_causal(adapted, tokenizer, tmp_path/'m')
    again, names = load_causal(tmp_path/'m')
    assert len(names) == len(tokenizer) and again.get_input_embeddings().num_embeddings == len(names)
    assert (again.get_input_embeddings().weight[-1] - before).abs().max() > 1e-4
    torch.testing.assert_close(logits_of(again, ids), logits_of(adapted, ids), atol=1e-3, rtol=1e-4)

def test_a_tokenizer_that_somebody_else_grew(tmp_path):
    "Tokens that were added and saved without rows for them."
    folder = tiny(tmp_path/'m')
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(['<a>', '<b>'])
    tokenizer.save_pretrained(folder)
    model, found = load_causal(folder)
    assert model.grown == 2 and torch.isfinite(logits_of(model, found('<a> and <b>').input_ids)).all()

@pytest.mark.parametrize('dora', [False, True])
def test_adapters_saved_and_merged(smol, tmp_path, dora):
    from peft import PeftModel
    adapted = add_lora(load_causal()[0], seed=0, r=4, use_dora=dora)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if 'lora_B' in name: p.copy_(.05 * torch.randn(p.shape, generator=generator))
    ids = smol[1](TEXTS[1]).input_ids
    want = logits_of(adapted, ids)
    folder = save_causal(adapted, smol[1], tmp_path/'m')
    assert (want - logits_of(smol[0], ids)).abs().max() > 1
    torch.testing.assert_close(logits_of(adapted, ids), want) # saving changed nothing
    torch.testing.assert_close(logits_of(transformers.AutoModelForCausalLM.from_pretrained(folder), ids), want, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(logits_of(PeftModel.from_pretrained(load_causal()[0], folder/'adapter'), ids), want, atol=1e-4, rtol=1e-4)

def test_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    model, tokenizer = load_causal(tiny(tmp_path/'m'))
    folder = save_causal(model, tokenizer, tmp_path/'out')
    ids, want = tokenizer('One').input_ids, logits_of(model, tokenizer('One').input_ids)
    with torch.no_grad(): model.lm_head.weight.zero_()
    def full(*args, **kwargs): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(tokenizer, 'save_pretrained', full)
    with pytest.raises(OSError): save_causal(model, tokenizer, folder)
    torch.testing.assert_close(logits_of(load_causal(folder)[0], ids), want)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.')] == []
    monkeypatch.undo()
    save_causal(model, tokenizer, folder)
    assert logits_of(load_causal(folder)[0], ids).abs().max() == 0

def test_checkpointing_changes_no_gradient(tmp_path):
    folder, gradients = tiny(tmp_path/'m'), []
    for checkpointing in (False, True):
        model, tokenizer = load_causal(folder, checkpointing=checkpointing)
        tokens = [np.array(tokenizer(t).input_ids) for t in TEXTS]
        PackedCausal(model.train())(*make_rows(tokens, tokens, [[0, 1], [2, 3, 4]])).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert model.is_gradient_checkpointing
    for a, b in zip(*gradients): torch.testing.assert_close(a, b)

def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(InputError, match=r'pip install "sft_nb\[text\]"'): load_causal()

# --- Packing ----------------------------------------------------------------------------------------------------------

@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_bins(lengths):
    rows = pack_lengths(lengths, 50)
    loads = sorted(sum(lengths[i] for i in row) for row in rows)
    assert sorted(sum(rows, [])) == list(range(len(lengths))) and loads[-1] <= 50 and rows == pack_lengths(lengths, 50)
    assert len(loads) < 2 or loads[0] + loads[1] > 50 # no two rows would fit into one

def test_packed_logits_are_those_of_each_alone(smol):
    model, tokenizer = smol
    tokens = [np.array(tokenizer(t).input_ids) for t in TEXTS]
    alone = torch.cat([logits_of(model, t.tolist()) for t in tokens])
    network = PackedCausal(model).eval()
    assert network.by_segment
    ids, positions, _ = make_rows(tokens, tokens, [range(5)])
    with torch.no_grad(): together = model(input_ids=ids, position_ids=positions, segments=[len(t) for t in tokens], attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.bool), use_cache=False).logits[0]
    assert ((together - alone).abs() / alone.abs().max()).max() < 1e-5

@pytest.mark.parametrize('kind, config, by_segment', [('Llama', {}, True), ('Llama', {}, False), ('Llama', {}, 'moved'), ('Mistral', dict(sliding_window=6), True), ('Qwen2', dict(tie_word_embeddings=True), True), ('Gemma2', dict(head_dim=8, final_logit_softcapping=3.), False)])
def test_losses_and_gradients_of_packed_rows(tmp_path, kind, config, by_segment):
    "Whatever the architecture, and by whichever way attention stays inside the example; against eager attention on each example alone."
    model, tokenizer = load_causal(tiny(tmp_path/'m', kind, **config), attn_implementation='sdpa' if kind != 'Gemma2' else 'eager')
    tokens = [np.array(tokenizer(t).input_ids) for t in TEXTS]
    labels = [np.where(np.arange(len(t)) >= k, t, -100) for k, t in enumerate(tokens)]
    plain, _ = load_causal(tmp_path/'m', attn_implementation='eager')
    want = [F.cross_entropy(plain(torch.tensor(t)[None]).logits[0, :-1], torch.tensor(l[1:]), reduction='none', ignore_index=-100) for t, l in zip(tokens, labels)]
    sum(w.sum() for w in want).backward()
    network = PackedCausal(model)
    if by_segment == 'moved': network.by_segment = by_segment = False # as after `.to('cuda')`: its attention stays, by mask
    elif not by_segment and network.by_segment: model.set_attn_implementation('sdpa'); network.by_segment = False
    assert network.by_segment == by_segment
    for rows in ([[0, 1], [2, 3, 4]], [[i] for i in range(5)]):
        model.zero_grad()
        batch = make_rows(tokens, labels, rows)
        found = torch.cat([network(*(x[r:r + 1] for x in batch)) for r in range(len(rows))]) if not by_segment else network(*batch)
        torch.testing.assert_close(torch.cat([found[r][batch[1][r] > 0] for r in range(len(rows))]), torch.cat([want[i] for row in rows for i in row]).detach(), atol=1e-4, rtol=1e-4)
        found.sum().backward()
        for (name, a), b in zip(model.named_parameters(), plain.parameters()): torch.testing.assert_close(a.grad, b.grad, atol=2e-4, rtol=1e-3, msg=name)

def test_bf16_loss_is_near(smol):
    model, tokenizer = smol
    tokens = [np.array(tokenizer(t).input_ids) for t in TEXTS]
    batch = make_rows(tokens, tokens, [range(5)])
    with torch.no_grad(): exact, near = (PackedCausal(model, p).eval()(*batch) for p in ('fp32', 'bf16'))
    assert abs(near.sum() / exact.sum() - 1) < .01

def test_a_batch_can_be_worked_through_in_parts(tmp_path):
    "What `SplitBatch` does when memory is short."
    model, tokenizer = load_causal(tiny(tmp_path/'m'))
    tokens, network = [np.array(tokenizer(t).input_ids) for t in TEXTS], PackedCausal(model)
    batch = make_rows(tokens, tokens, [[0], [1, 3], [2], [4]])
    torch.testing.assert_close(torch.cat([network(*part) for part in zip(*(x.split(2) for x in batch))]), network(*batch))

def test_rows_without_labels(tmp_path):
    "A part of a batch may have nothing to learn; its gradient is zero and not an error."
    model, tokenizer = load_causal(tiny(tmp_path/'m'))
    tokens = [np.array(tokenizer(t).input_ids) for t in TEXTS]
    loss = PackedCausal(model)(*make_rows(tokens, [np.full(len(t), -100) for t in tokens], [[0, 1]])).sum()
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())
