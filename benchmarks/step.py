"""What one training step costs, from the machine's floor up: which of its parts were made cheaper, and by how much.

First the machine: its rate of matrix products and of copies, on all cores. Then the job: operations and bytes of one step of the backbone, and the
time that they would take at those rates. Then steps with one change more each time, on random tensors, alternating: PyTorch as it comes; channels
last; a malloc that keeps its pages; frozen norms; the fused twin in fp32; in bf16; our AdamW; the first layers frozen and read from disk. At last the
whole training: an epoch of the learner with its loader, its augmentation and its callbacks, against the bare step at the same size, and a loop over
the same images as one would write it by hand.

    python benchmarks/step.py            # 160 pixels, 16 images; five minutes on two cores
    python benchmarks/step.py --size 300
    python benchmarks/step.py --size 224 --compile   # also torch.compile of the model and of its twin; needs a C++ compiler, and minutes to compile
    python benchmarks/step.py --quick

The last line is JSON with all figures.
"""
import argparse, json, tempfile, time
from pathlib import Path

import numpy as np


def seconds(f, n) -> list:
    "Wall time of `n` calls, each."
    out = []
    for _ in range(n):
        started = time.perf_counter(); f(); out.append(time.perf_counter() - started)
    return out


def measure_machine() -> dict: # GFLOP/s, GB/s
    import torch
    a, big = torch.randn(2048, 2048), torch.randn(40_000_000)
    b, copy = a.bfloat16(), torch.empty_like(big)
    best = lambda f: min(seconds(f, 8))
    return dict(fp32_gflops=2*2048**3/best(lambda: a @ a)/1e9, bf16_gflops=2*2048**3/best(lambda: b @ b)/1e9, copy_gb=2*big.numel()*4/best(lambda: copy.copy_(big))/1e9)


def count_work(model, x) -> dict: # GFLOP of a training step, GB that pass between its layers
    "Multiplications of convolutions and linear layers, thrice (forward, and both gradients); what modules read and write, thrice."
    import torch
    flops, floats, hooks = 0, 0, []
    def hook(m, given, out):
        nonlocal flops, floats
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)): flops += 2 * out.numel() * m.weight[0].numel()
        if not list(m.children()) or isinstance(m, torch.nn.modules.batchnorm._BatchNorm): floats += given[0].numel() + out.numel()
    for m in model.modules(): hooks.append(m.register_forward_hook(hook))
    with torch.no_grad(): model(x)
    for h in hooks: h.remove()
    return dict(gflop=3*flops/1e9, gb=3*4*floats/1e9)


def steps(a) -> dict: # name → a function that does one step
    "One change more each time."
    import torch
    from fastai.optimizer import Adam
    from sft_nb.models.adapt import freeze_norms, layer_groups
    from sft_nb.models.backbones import create_backbone
    from sft_nb.models.fuse import fuse_model, resolve_precision, split_model
    from sft_nb.train.step import AdamW
    torch.manual_seed(0)
    x, y = torch.randn(a.batch, 3, a.size, a.size), torch.randint(0, 2, (a.batch,))
    last = x.contiguous(memory_format=torch.channels_last)
    def build(channels_last, frozen, freeze_to=0):
        model = create_backbone(a.backbone, n_out=2).train()
        if channels_last: model = model.to(memory_format=torch.channels_last)
        for group in layer_groups(model, coarse=False)[:freeze_to]:
            for p in group: p.requires_grad_(False)
        if frozen: freeze_norms(model)
        return model
    def step(model, network, given, opt):
        def go():
            torch.nn.functional.cross_entropy(network(given), y).backward()
            if opt: opt.step()
            for p in model.parameters(): p.grad = None
        return go
    out = {}
    for name, channels_last, frozen, precision, make in (('as it comes', False, False, None, Adam), ('channels last', True, False, None, Adam), ('frozen norms', True, True, None, Adam),
                                                         ('fused twin', True, True, 'fp32', Adam), ('bf16', True, True, 'bf16', Adam), ('our AdamW', True, True, resolve_precision("auto"), AdamW)):
        model = build(channels_last, frozen)
        out[name] = step(model, fuse_model(model, precision=precision) if precision else model, last if channels_last else x, make(layer_groups(model, coarse=False), lr=1e-5))
    model = build(True, True, a.freeze_to)
    for name, network in compiled(build) if a.compile else ():
        out[name] = step(network.of, network, last, AdamW(layer_groups(network.of, coarse=False), lr=1e-5))
    first, rest = split_model(model, precision=resolve_precision("auto"))
    out['first layers frozen'] = step(model, rest, first(last).detach(), AdamW(layer_groups(model, coarse=False), lr=1e-5))
    return out


def compiled(build):
    "The model, in fp32 and bf16, and its twin by `torch.compile`; name and network, whose parameters are those of `network.of`."
    import torch
    from sft_nb.models.fuse import PRECISIONS, fuse_model, resolve_precision
    best = resolve_precision('auto')
    for name, precision in (('compiled, fp32', 'fp32'), ('compiled, bf16', 'bf16'), ('twin, compiled', best)):
        model = build(True, True)
        network = torch.compile(fuse_model(model, precision=precision) if 'twin' in name else model)
        def go(x, network=network, precision=precision):
            with torch.autocast('cpu', PRECISIONS[precision], enabled=precision != 'fp32'): return network(x).float()
        go.of = model
        yield name, go


def epochs(a) -> dict: # name → a function that trains for one epoch and returns the seconds it took
    "The learner with everything, and the loop that one would write."
    import torch
    from fastai.callback.core import Callback
    from sft_nb.data.augment import create_augment
    from sft_nb.data.items import load_elpv
    from sft_nb.data.store import build_store
    from sft_nb.models.adapt import freeze_norms
    from sft_nb.models.backbones import create_backbone, input_statistics
    from sft_nb.tasks.feed import load_batch
    from sft_nb.tasks.image import image_block
    from sft_nb.tasks.targets import create_loss, describe_targets
    from sft_nb.train.learner import create_learner
    from sft_nb.train.schedule import fine_tune
    items = load_elpv().sample(a.n + 2 * a.batch, random_state=0).reset_index(drop=True)
    items['split'] = ['train'] * a.n + ['valid'] * a.batch + ['test'] * a.batch
    store, targets = build_store(items, size=a.size), describe_targets(items, task='single_label')
    class Clock(Callback):
        def before_train(self): self.began = time.perf_counter()
        def after_train(self): self.took = time.perf_counter() - self.began
    def learner():
        model, clock = create_backbone(a.backbone, n_out=2), Clock()
        dls = image_block(targets, store=store, augment=create_augment('none', size=a.size), statistics=input_statistics(model), seed=0).dataloaders(items, bs=a.batch, num_workers=0)
        fine_tune(create_learner(dls, model, loss=create_loss(targets, items), task='single_label', seed=0, cbs=[clock]), 1, lr=1e-5)
        return clock.took
    def by_hand():
        model = create_backbone(a.backbone, n_out=2).to(memory_format=torch.channels_last).train()
        freeze_norms(model)
        opt, ids = torch.optim.AdamW(model.parameters(), lr=1e-5), list(items.id[:a.n])
        y, order, began = torch.from_numpy(targets.encode(items)), torch.randperm(a.n), time.perf_counter()
        for rows in order.split(a.batch):
            xb = load_batch(store, [ids[i] for i in rows], input_statistics(model))
            if torch.rand(()) < .5: xb = xb.flip(3)
            torch.nn.functional.cross_entropy(model(xb), y[rows]).backward()
            opt.step(); opt.zero_grad()
        return time.perf_counter() - began
    return {'learner': learner, 'loop by hand': by_hand}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='small and short, to see that it runs')
    p.add_argument('--size', type=int, default=160)
    p.add_argument('--batch', type=int, default=16)
    p.add_argument('--n', type=int, default=480, help='images of an epoch')
    p.add_argument('--rounds', type=int, default=7)
    p.add_argument('--freeze-to', type=int, default=6, help='layer groups that are frozen in the last step')
    p.add_argument('--compile', action='store_true', help='also torch.compile of the model and of its twin')
    p.add_argument('--backbone', default='tf_efficientnet_lite0')
    a = p.parse_args()
    if a.quick: a.size, a.n, a.rounds = 64, 64, 2
    import torch
    from sft_nb.models.backbones import create_backbone
    from sft_nb.train.learner import keep_pages
    machine, work = measure_machine(), count_work(create_backbone(a.backbone, n_out=2).eval(), torch.randn(a.batch, 3, a.size, a.size))
    print('machine: {fp32_gflops:.0f} GFLOP/s in fp32, {bf16_gflops:.0f} in bf16, copies at {copy_gb:.0f} GB/s'.format(**machine))
    print('a step: {gflop:.0f} GFLOP, {gb:.1f} GB between layers'.format(**work), f"= {1e3*work['gflop']/machine['fp32_gflops']:.0f} ms and {1e3*work['gb']/machine['copy_gb']:.0f} ms in fp32", flush=True)
    todo, times = steps(a), {}
    for name in ('as it comes', 'channels last'): times[f'{name}, pages returned'] = seconds(todo[name], a.rounds + 1)[1:]
    keep_pages()
    begin = {}
    for name, f in todo.items():
        begin[name] = seconds(f, 1)[0]
        if 'compiled' in name: print(f'{name}: the first step took {begin[name]:.0f} s', flush=True)
    for _ in range(a.rounds):
        for name, f in todo.items(): times.setdefault(name, []).extend(seconds(f, 1))
    rates, first = {}, None
    for name, t in times.items():
        rates[name] = a.batch / float(np.median(t))
        first = first or rates[name]
        print(f'{name:30s} {1e3*np.median(t):7.0f} ms [{1e3*min(t):.0f}, {1e3*max(t):.0f}]  {rates[name]:6.0f} images/s  × {rates[name]/first:.2f}', flush=True)
    bare, whole = todo['our AdamW'], {}
    for _ in range(max(1, a.rounds // 2)):
        whole.setdefault('bare step', []).append(a.n / a.batch * float(np.median(seconds(bare, 10))))
        for name, f in epochs(a).items(): whole.setdefault(name, []).append(f())
    shares = {name: float(np.median(whole['bare step']) / np.median(t)) for name, t in whole.items()}
    for name, t in whole.items(): print(f'epoch of {a.n} images, {name:13s} {np.median(t):6.1f} s [{min(t):.1f}, {max(t):.1f}]  {100*shares[name]:.0f} % of the rate of the bare step')
    print(json.dumps(dict(benchmark='step', size=a.size, batch=a.batch, backbone=a.backbone, machine=machine, work=work, first_step_seconds={k: round(v, 1) for k, v in begin.items()}, images_per_second=rates, epoch_seconds={k: float(np.median(t)) for k, t in whole.items()}, share_of_bare_step=shares)))


if __name__ == '__main__': main()
