"""Training on a GPU: images and tokens a second, the share of the card's matrix rate, and how both grow with the network.

For each backbone, on random weights and images that are on the card already: PyTorch's step as it comes (fp32), as one would tune it (channels last, bf16 autocast, fused AdamW), and ours
(the fused twin). Then the whole learner with loader and augmentation, from a store of decoded images, against fastai's learner in mixed precision on the same images as JPEG files
with a worker a core. For language, a causal model of a given width on random tokens packed into rows: transformers with its own packing, and ours. The share is that of the rate of a large
bf16 matrix product; operations are those of convolutions and linear layers, forward once and backward twice.

    python benchmarks/gpu.py                                   # four minutes on an H100
    python benchmarks/gpu.py --backbones resnet50 vit_base_patch16_224 --batch 128
    python benchmarks/gpu.py --quick --device cpu              # to see that it runs

The last line is JSON with all figures.
"""
import argparse, copy, json, tempfile, time
from pathlib import Path

import numpy as np

from step import count_work

LANGUAGE = {'135M': dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3),
            '360M': dict(hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5),
            '1.7B': dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32, num_key_value_heads=32)} # SmolLM2's family


def seconds(f, a, n=None) -> list:
    "Wall time of calls whose work is done, after some that are not counted."
    import torch
    wait = torch.cuda.synchronize if a.device == 'cuda' else lambda: None
    for _ in range(a.warmup): f()
    wait(); out = []
    for _ in range(n or a.rounds):
        began = time.perf_counter(); f(); wait(); out.append(time.perf_counter() - began)
    return out


def rate_of_card(a) -> float: # GFLOP/s
    import torch
    n = 8192 if a.device == 'cuda' else 512
    x = torch.randn(n, n, device=a.device, dtype=torch.bfloat16)
    return 2 * n**3 / float(np.median(seconds(lambda: x @ x, a))) / 1e9


def image_steps(name, a) -> dict: # images a second of each kind of step
    import timm, torch
    from sft_nb.models.adapt import freeze_norms, layer_groups
    from sft_nb.models.fuse import fuse_model
    from sft_nb.train.step import AdamW
    x, y = torch.randn(a.batch, 3, a.size, a.size, device=a.device), torch.randint(0, 10, (a.batch,), device=a.device)
    model = timm.create_model(name, num_classes=10).to(a.device).train()
    work = count_work(model, x[:2])['gflop'] / 2
    def step(network, opt, x, autocast):
        def go():
            with torch.autocast(a.device, torch.bfloat16, enabled=autocast): loss = torch.nn.functional.cross_entropy(network(x).float(), y)
            loss.backward(); opt.step(); opt.zero_grad()
            for p in model.parameters(): p.grad = None
        return a.batch / float(np.median(seconds(go, a)))
    out = {'as it comes': step(model, torch.optim.AdamW(model.parameters()), x, False)}
    model, last = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    out['tuned'] = step(model, torch.optim.AdamW(model.parameters(), fused=True), last, True)
    freeze_norms(model)
    out['tuned, frozen norms'] = step(model, torch.optim.AdamW(model.parameters(), fused=True), last, True)
    groups = layer_groups(model, coarse=False)
    out['ours'] = step(fuse_model(model, precision='bf16'), AdamW(groups, lr=1e-5), last, False)
    return dict(gflop=work, images_per_second=out)


def epochs(name, a) -> dict: # images a second of an epoch
    "Both learners with all that they do, on the same random pictures."
    import pandas as pd, timm, torch
    from fastai.callback.channelslast import ChannelsLast
    from fastai.callback.core import Callback
    from fastai.vision.all import CategoryBlock, ColReader, DataBlock, ImageBlock, Normalize, Resize, aug_transforms, vision_learner
    from PIL import Image
    from sft_nb.data.augment import create_augment
    from sft_nb.data.store import build_store
    from sft_nb.models.backbones import input_statistics
    from sft_nb.tasks.image import image_block
    from sft_nb.tasks.targets import create_loss, describe_targets
    from sft_nb.train.learner import create_learner
    from sft_nb.train.schedule import fine_tune
    class Clock(Callback):
        def before_train(self): self.began = time.perf_counter()
        def after_train(self):
            if a.device == 'cuda': torch.cuda.synchronize()
            self.took = time.perf_counter() - self.began
    rng, out, clock = np.random.default_rng(0), {}, Clock()
    with tempfile.TemporaryDirectory() as folder:
        paths = [f'{folder}/{i}.jpg' for i in range(a.n + a.batch)]
        for p in paths: Image.fromarray(rng.integers(0, 256, (a.size // 8, a.size // 8, 3), dtype=np.uint8)).resize((a.size, a.size)).save(p, quality=90)
        items = pd.DataFrame(dict(id=[f'i{i}' for i in range(len(paths))], input=paths, target=[str(i % 10) for i in range(len(paths))], split=['train'] * a.n + ['valid'] * a.batch))
        store, targets = build_store(items, size=a.size), describe_targets(items, task='single_label')
        for augment in ('none', 'medium'):
            model = timm.create_model(name, num_classes=10)
            dls = image_block(targets, store=store, augment=create_augment(augment, size=a.size), statistics=input_statistics(model), seed=0).dataloaders(items, bs=a.batch, num_workers=0)
            learn = create_learner(dls, model, loss=create_loss(targets, items), task='single_label', seed=0, cbs=[clock])
            with learn.no_bar(), learn.no_logging(): fine_tune(learn, 2, lr=1e-5)
            out[f'ours, {augment}'] = a.n / clock.took
        block = DataBlock((ImageBlock, CategoryBlock), get_x=ColReader('input'), get_y=ColReader('target'), splitter=lambda i: [list(range(a.n)), list(range(a.n, len(i)))],
                          item_tfms=Resize(a.size), batch_tfms=[*aug_transforms(size=a.size), Normalize.from_stats(*input_statistics(model))])
        learn = vision_learner(block.dataloaders(items, bs=a.batch, num_workers=a.workers), name, pretrained=False, n_out=10, normalize=False, cbs=[ChannelsLast(), clock]).to_fp16()
        learn.unfreeze()
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-5)
        out['fastai, mixed precision'] = a.n / clock.took
    return out


def language_steps(size, a) -> dict: # tokens a second
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from sft_nb.models.packed import PackedCausal, make_rows, pack_lengths
    rng, quick = np.random.default_rng(0), a.device == 'cpu'
    config = LlamaConfig(vocab_size=49152, tie_word_embeddings=True, **LANGUAGE[size] | (dict(num_hidden_layers=2) if quick else {}))
    model = LlamaForCausalLM(config).to(a.device).train()
    lengths = rng.integers(40, 400, 8 if quick else 160)
    tokens = [rng.integers(0, 49152, n) for n in lengths]
    labels = [np.where(np.arange(len(t)) < len(t) // 2, -100, t) for t in tokens]
    rows = pack_lengths(lengths, a.length)[:2 if quick else a.rows]
    ids, positions, wanted = (t.to(a.device) for t in make_rows(tokens, labels, rows))
    n, learnt = int((positions >= 0).sum()), int((wanted != -100).sum())
    head = model.get_input_embeddings().weight.numel()
    body = sum(p.numel() for p in model.parameters()) - head
    opt, network = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True), PackedCausal(copy.deepcopy(model), 'bf16')
    own = torch.optim.AdamW(network.model.parameters(), lr=1e-5, fused=True)
    def usual():
        with torch.autocast(a.device, torch.bfloat16): return model(input_ids=ids, position_ids=positions.clamp(0), labels=wanted, use_cache=False).loss
    def ours(): return network(ids, positions, wanted).sum() / learnt
    def step(loss, opt):
        def go(): loss().backward(); opt.step(); opt.zero_grad()
        return go
    kinds, peak, out = {'transformers': (usual, opt), 'ours': (ours, own)}, {}, {}
    with torch.no_grad(): losses = [float(f()) for f, _ in kinds.values()]
    for name, (f, opt) in kinds.items():
        if a.device == 'cuda': torch.cuda.reset_peak_memory_stats()
        out[name] = n / float(np.median(seconds(step(f, opt), a)))
        peak[name] = torch.cuda.max_memory_allocated() / 2**30 if a.device == 'cuda' else float('nan')
    return dict(tokens=n, losses=losses, gflop=6e-9 * (body + head * learnt / n), tokens_per_second=out, peak_gib=peak)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='small and short, to see that it runs')
    p.add_argument('--device', default='cuda', choices=('cuda', 'cpu'))
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--batch', type=int, default=64)
    p.add_argument('--rounds', type=int, default=12)
    p.add_argument('--n', type=int, default=4096, help='images of an epoch')
    p.add_argument('--workers', type=int, default=16, help="of fastai's loader")
    p.add_argument('--length', type=int, default=1024, help='tokens of a row')
    p.add_argument('--rows', type=int, default=16, help='rows of a step')
    p.add_argument('--backbones', nargs='*', default=['tf_efficientnet_lite0', 'resnet50', 'convnext_tiny', 'vit_base_patch16_224', 'convnext_large'])
    p.add_argument('--epochs-of', nargs='*', default=['tf_efficientnet_lite0', 'resnet50'])
    p.add_argument('--language', nargs='*', default=list(LANGUAGE), choices=LANGUAGE)
    a = p.parse_args()
    a.warmup = 5
    if a.quick: a.size, a.batch, a.rounds, a.warmup, a.n, a.workers, a.length, a.backbones, a.epochs_of, a.language = 64, 8, 2, 1, 32, 0, 512, a.backbones[:1], a.epochs_of[:1], a.language[:1]
    import torch
    card = torch.cuda.get_device_name() if a.device == 'cuda' else 'CPU'
    rate = rate_of_card(a)
    print(f'{card}: {rate/1e3:.0f} TFLOP/s in bf16, torch {torch.__version__}', flush=True)
    found = dict(benchmark='gpu', card=card, gflops=rate, torch=torch.__version__, size=a.size, batch=a.batch, images={}, epochs={}, language={})
    def attempt(kind, name, f):
        began = time.perf_counter()
        try: found[kind][name] = out = f(name, a)
        except Exception as e: print(f'{name}: {type(e).__name__}: {e}', flush=True); found[kind][name] = dict(error=str(e)); return
        for k, v in next((out[k] for k in ('images_per_second', 'tokens_per_second') if k in out), out).items():
            share = f"  {100 * v * out['gflop'] / rate:5.1f} % of the matrix rate" if 'gflop' in out else ''
            print(f"{name:26s} {k:24s} {v:9.0f} {'tokens' if kind == 'language' else 'images'}/s{share}", flush=True)
        if kind == 'language': print(f"{name:26s} losses {out['losses']}, GiB {out['peak_gib']}")
        print(f'  ({time.perf_counter() - began:.0f} s)', flush=True)
        if a.device == 'cuda': torch.cuda.empty_cache()
    for name in a.language: attempt('language', name, language_steps)
    for name in a.backbones: attempt('images', name, image_steps)
    for name in a.epochs_of: attempt('epochs', name, epochs)
    print(json.dumps(found))


if __name__ == '__main__': main()
