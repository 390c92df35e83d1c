"""Tokens per second of supervised fine-tuning, ours against TRL's SFTTrainer: same model, examples, row length, optimiser, precision and threads.

SmolLM2-135M-Instruct, all weights, on questions with knowledge and their answers (HaluEval), loss on completions. Packed against packed (TRL's best-fit-decreasing strategy) and
unpacked against unpacked (TRL pads). Each run is a process of its own, the two alternate; the first step is not counted. Both take TRL's rows in TRL's order, so that losses can be compared
step by step; clipping and gradient checkpointing are off on both sides. The labels of all examples are compared token by token, and in the end the loss on held-out examples by one and the same function.

    pip install "trl>=1.0"
    python benchmarks/sft_throughput.py             # some ten minutes on two cores
    python benchmarks/sft_throughput.py --mode packed --rounds 3
    python benchmarks/sft_throughput.py --floor     # what the machine could do at best, and each step towards it
    python benchmarks/sft_throughput.py --quick

The last line is JSON with all figures.
"""
import argparse, hashlib, json, os, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

os.environ.update(HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1', TOKENIZERS_PARALLELISM='false')
SAMPLE = dict(lr=1e-4, betas=(.9, .99), eps=1e-5)


def read_examples(n: int): # items with prompt and completion
    import pandas as pd
    from sft_nb.assets import fetch_asset
    rows = pd.read_json(fetch_asset('halueval')/'dataset_halueval_qa.jsonl', lines=True).head(n)
    say = lambda role, content: [dict(role=role, content=content)]
    return pd.DataFrame(dict(id=[f'q{i}' for i in range(len(rows))], prompt=[say('user', f'{k}\n\n{q}') for k, q in zip(rows.knowledge, rows.question)],
                             completion=[say('assistant', a) for a in rows.right_answer.astype(str)]))


def digest(tokens, labels) -> str: return hashlib.sha256(json.dumps([list(map(int, tokens)), list(map(int, labels))]).encode()).hexdigest()


def train_ours(a, model, tokenizer, items) -> dict:
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from sft_nb.tasks.chat import ChatLoader, _Rows, encode_chat
    from sft_nb.train.chat import create_chat_learner
    examples = encode_chat(items, tokenizer, max_length=a.length)
    position = {tuple(t.tolist()): i for i, t in enumerate(examples.tokens)}
    rows = [[position[tuple(t)] for t in row] for row in json.loads(Path(a.rows).read_text())]
    dls = DataLoaders(*(ChatLoader(_Rows(examples, r), bs=a.batch, shuffle=False, num_workers=0) for r in (rows, rows[:1])))
    times, tokens, losses = [], [], []
    class Clock(Callback):
        order = 100
        def before_batch(self):
            if self.training: tokens.append(int((self.xb[1] >= 0).sum()))
        def after_batch(self):
            if self.training: times.append(time.perf_counter()); losses.append(self.loss.item())
    learn = create_chat_learner(dls, model, seed=0, precision=a.precision, cbs=[Clock()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1, lr=SAMPLE['lr'])
    return dict(times=times, tokens=tokens, losses=losses, labels=sorted(digest(t, l) for t, l in zip(examples.tokens, examples.labels)))


def train_trl(a, model, tokenizer, items) -> dict:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer
    times, tokens, losses = [], [], []
    class Clock(TrainerCallback):
        def on_step_end(self, *args, **kwargs): times.append(time.perf_counter())
        def on_log(self, args, state, control, logs=None, **kwargs): losses.append(logs['loss']) if 'loss' in logs else None
    class Counted(SFTTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            tokens.append(int(inputs['attention_mask'].sum()) if 'attention_mask' in inputs else inputs['input_ids'].numel())
            return super().training_step(model, inputs, *args, **kwargs)
    config = SFTConfig(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=a.batch, num_train_epochs=1, learning_rate=SAMPLE['lr'], lr_scheduler_type='constant', warmup_steps=0,
                       weight_decay=0, adam_beta1=SAMPLE['betas'][0], adam_beta2=SAMPLE['betas'][1], adam_epsilon=SAMPLE['eps'], optim='adamw_torch_fused', max_grad_norm=0, bf16=a.precision == 'bf16', fp16=False,
                       use_cpu=True, gradient_checkpointing=False, packing=a.mode == 'packed', max_length=a.length, train_sampling_strategy='sequential', logging_steps=1, save_strategy='no', report_to='none', disable_tqdm=True, dataloader_pin_memory=False)
    trainer = Counted(model=model, args=config, processing_class=tokenizer, train_dataset=Dataset.from_pandas(items[['prompt', 'completion']]), callbacks=[Clock()])
    labels = [digest(t, l) for t, l in zip(trainer.train_dataset['input_ids'], trainer.train_dataset['labels'])] if a.mode != 'packed' else []
    rows = []
    for ids, lengths in zip(trainer.train_dataset['input_ids'], trainer.train_dataset['seq_lengths'] if a.mode == 'packed' else ([len(t)] for t in trainer.train_dataset['input_ids'])):
        cuts = np.cumsum([0, *lengths])
        rows.append([ids[i:j] for i, j in zip(cuts, cuts[1:])])
    Path(a.rows).write_text(json.dumps(rows))
    trainer.train()
    return dict(times=times, tokens=tokens, losses=losses, labels=sorted(labels))


def child(a):
    import torch
    from sft_nb.models.causal import load_causal
    from sft_nb.models.packed import PackedCausal, make_rows
    from sft_nb.tasks.chat import encode_chat
    torch.manual_seed(0)
    items = read_examples(a.n + 16)
    model, tokenizer = load_causal()
    out = (train_ours if a.side == 'ours' else train_trl)(a, model, tokenizer, items[:a.n])
    held = encode_chat(items[a.n:], tokenizer, max_length=a.length)
    with torch.no_grad():
        ids, positions, labels = make_rows(held.tokens, held.labels, [[i] for i in range(len(held))])
        losses = PackedCausal(model.float(), 'bf16').eval()(ids, positions, labels)
    out |= dict(held_out=float(losses.sum() / (labels != -100).sum()), tokens_per_second=sum(out['tokens'][1:]) / (out['times'][-1] - out['times'][0]), loss=float(np.mean(out['losses'])))
    Path(a.out).write_text(json.dumps(out))


def compare(a, mode) -> dict:
    runs = {'trl': [], 'ours': []}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(a.rounds):
            for side in (runs if i % 2 == 0 else reversed(runs)):
                options = dict(side=side, mode=mode, out=f'{folder}/out.json', rows=f'{folder}/rows.json', n=a.n, length=a.length, batch=a.batch if mode == 'packed' else a.padded_batch, precision=a.precision)
                done = subprocess.run([sys.executable, '-W', 'ignore', __file__, *(f'--{k}={v}' for k, v in options.items())], capture_output=True, text=True)
                if done.returncode: raise SystemExit(done.stderr[-3000:])
                runs[side].append(r := json.loads(Path(options['out']).read_text()))
                print(f"{mode:8s} {side:5s} {r['tokens_per_second']:7.0f} tokens/s   mean loss {r['loss']:.4f}   held out {r['held_out']:.4f}", flush=True)
    rate = {k: [r['tokens_per_second'] for r in v] for k, v in runs.items()}
    ratios = [o / t for o, t in zip(rate['ours'], rate['trl'])]
    ours, trl = runs['ours'][0], runs['trl'][0]
    assert ours['tokens'] == trl['tokens'] and (mode == 'packed' or ours['labels'] == trl['labels']), 'the tokens or the labels differ'
    apart = dict(loss=ours['loss'] / trl['loss'] - 1, held_out=ours['held_out'] / trl['held_out'] - 1, worst_step=float(np.abs(np.array(ours['losses']) / trl['losses'] - 1).max()))
    print(f"{mode}: × {np.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] of TRL's rate; losses apart by {apart['loss']:+.2%} in training, {apart['held_out']:+.2%} held out, {apart['worst_step']:.2%} in the worst step", flush=True)
    return dict(**rate, ratio=float(np.median(ratios)), ratios=ratios, apart=apart, losses=dict(ours=ours['losses'], trl=trl['losses']))


def floor(a) -> dict:
    "The machine's rate, the job's operations, and a step with one change more each time."
    import torch
    from sft_nb.models.causal import load_causal
    from sft_nb.models.packed import PackedCausal, make_rows, pack_lengths
    from sft_nb.tasks.chat import encode_chat
    from sft_nb.train.learner import keep_pages
    best = lambda f, n=5: min(seconds(f) for _ in range(n))
    def seconds(f):
        began = time.perf_counter(); f(); return time.perf_counter() - began
    x, big = torch.randn(2048, 2048), torch.randn(40_000_000)
    b, copy = x.bfloat16(), torch.empty_like(big)
    machine = dict(fp32_gflops=2 * 2048**3 / best(lambda: x @ x) / 1e9, bf16_gflops=2 * 2048**3 / best(lambda: b @ b) / 1e9, copy_gb=8 * big.numel() / best(lambda: copy.copy_(big)) / 1e9)
    model, tokenizer = load_causal()
    examples = encode_chat(read_examples(32), tokenizer, max_length=a.length)
    ids, positions, labels = make_rows(examples.tokens, examples.labels, pack_lengths(examples.whole, a.length)[:1])
    rows, n, learnt = model.get_input_embeddings().weight.numel(), int((positions >= 0).sum()), int((labels != -100).sum())
    body = sum(p.numel() for p in model.parameters()) - rows
    work = dict(tokens=n, learnt=learnt, body_gflop=6e-9 * body * n, head_gflop=6e-9 * rows * n, head_of_labels_gflop=6e-9 * rows * learnt)
    print({k: round(v, 1) for k, v in {**machine, **work}.items()}, flush=True)
    def usual(amp):
        def go():
            with torch.autocast('cpu', torch.bfloat16, enabled=amp): loss = model(input_ids=ids, position_ids=positions, labels=labels, use_cache=False).loss
            loss.backward(); model.zero_grad()
        return go
    def ours(precision):
        network = PackedCausal(model, precision)
        def go(): (network(ids, positions, labels).sum() / learnt).backward(); model.zero_grad()
        return go
    out = {}
    for name, make, pages in (('transformers, fp32', lambda: usual(False), False), ('transformers, bf16', lambda: usual(True), False), ('ours, fp32', lambda: ours('fp32'), False),
                              ('ours, bf16', lambda: ours('bf16'), False), ('ours, bf16, pages kept', lambda: ours('bf16'), True)):
        if pages: keep_pages()
        step = make(); step()
        out[name] = n / best(step, a.rounds)
        print(f'{name:26s} {out[name]:6.0f} tokens/s', flush=True)
    return dict(machine=machine, work=work, tokens_per_second=out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='small and short, to see that it runs')
    p.add_argument('--floor', action='store_true', help='the machine and the steps, without TRL')
    p.add_argument('--mode', choices=('packed', 'unpacked', 'both'), default='both')
    p.add_argument('--n', type=int, default=96, help='examples of the epoch')
    p.add_argument('--length', type=int, default=1024, help='tokens of a row')
    p.add_argument('--batch', type=int, default=1, help='rows of a step, packed')
    p.add_argument('--padded-batch', type=int, default=8, help='examples of a step, unpacked')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--precision', default='bf16')
    p.add_argument('--side', help=argparse.SUPPRESS)
    p.add_argument('--out', help=argparse.SUPPRESS)
    p.add_argument('--rows', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.side: return child(a)
    if a.quick: a.n, a.length, a.rounds = 12, 256, 1
    if a.floor: print(json.dumps(dict(benchmark='sft_floor', **floor(a)))); return
    found = {mode: compare(a, mode) for mode in (('packed', 'unpacked') if a.mode == 'both' else (a.mode,))}
    print(json.dumps(dict(benchmark='sft_throughput', n=a.n, length=a.length, precision=a.precision, **found)))


if __name__ == '__main__': main()
