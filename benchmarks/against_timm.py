"""Images per second in one epoch of full fine-tuning: timm's training script against ours, in alternating processes.

The same model, images, batch size and image size, full fine-tuning by AdamW, flips for augmentation, no augmentation else. timm has its channels-last
layout and its own loader, whose workers decode each image in each epoch; ours decodes once, before, and that time is told apart.

- `ours`: the learner with everything (`create_learner`, `fine_tune` with nothing frozen), as `sft-nb run` has it;
- `timm, its parts`: timm's dataset, loader, model and optimiser in the loop of its script;
- `timm, its script`: the script itself. It is not in the wheel: take `train.py` of your version from https://github.com/huggingface/pytorch-image-models
  and say where it is by `--script`; the rate is the one that it prints at the end of the epoch.

    python benchmarks/against_timm.py                       # 160 pixels, 16 images, three rounds; three minutes on two cores
    python benchmarks/against_timm.py --script train.py
    python benchmarks/against_timm.py --quick               # small and short, to see that it runs

The last line is JSON with all figures.
"""
import argparse, json, re, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

OURS, PARTS, SCRIPT = 'ours', 'timm, its parts', 'timm, its script'


def load(a):
    "Items of which `a.n` are for training; pretrained or not, and on which split, does not matter to the rate."
    from sft_nb.data.items import load_elpv
    items = load_elpv().sample(a.n + 2 * a.batch, random_state=0).reset_index(drop=True)
    return items.assign(split=['train'] * a.n + ['valid'] * 2 * a.batch)


def write_folders(items, folder):
    "A folder for each split, in it one for each label, as timm reads them."
    for item in items.itertuples():
        path = folder/dict(train='train', valid='validation')[item.split]/str(item.target)/f'{item.Index}{Path(item.input).suffix}'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(item.input)


def ours(a) -> dict: # seconds of the epoch, and of decoding
    from fastai.callback.core import Callback
    from sft_nb.data.augment import create_augment
    from sft_nb.data.store import build_store
    from sft_nb.models.backbones import create_backbone, input_statistics
    from sft_nb.tasks.image import image_block
    from sft_nb.tasks.targets import create_loss, describe_targets
    from sft_nb.train.learner import create_learner, keep_pages
    from sft_nb.train.schedule import fine_tune
    keep_pages()
    items, began = load(a), time.perf_counter()
    with tempfile.TemporaryDirectory() as fresh:
        store = build_store(items, size=a.size, folder=fresh)
        decoding = time.perf_counter() - began
        class Clock(Callback):
            def before_train(self): self.began = time.perf_counter()
            def after_train(self): self.took = time.perf_counter() - self.began
        model, targets, clock = create_backbone(a.backbone, n_out=2), describe_targets(items, task='single_label'), Clock()
        dls = image_block(targets, store=store, augment=create_augment('none', size=a.size, symmetry='mirror'), statistics=input_statistics(model), seed=0).dataloaders(items, bs=a.batch, num_workers=0)
        fine_tune(create_learner(dls, model, loss=create_loss(targets, items), task='single_label', seed=0, cbs=[clock]), 1, lr=1e-5, freeze_to=0)
    return dict(seconds=clock.took, decoding=decoding)


def parts(a) -> dict:
    "What timm's script does in an epoch on a CPU."
    import timm, torch
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter
    model = timm.create_model(a.backbone, num_classes=2).to(memory_format=torch.channels_last)
    about = resolve_data_config(dict(input_size=(3, a.size, a.size)), model=model)
    with tempfile.TemporaryDirectory() as folder:
        write_folders(load(a), Path(folder))
        loader = create_loader(create_dataset('', root=folder, split='train', is_training=True, batch_size=a.batch), about['input_size'], a.batch, is_training=True, scale=(1., 1.), ratio=(1., 1.), hflip=.5,
                               color_jitter=0., interpolation=about['interpolation'], mean=about['mean'], std=about['std'], num_workers=a.workers, device=torch.device('cpu'))
        optimizer, losses, loss_of = create_optimizer_v2(model, 'adamw', lr=1e-5), AverageMeter(), torch.nn.CrossEntropyLoss()
        model.train()
        began = time.perf_counter()
        for x, y in loader:
            loss = loss_of(model(x.contiguous(memory_format=torch.channels_last)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(x))
        return dict(seconds=(time.perf_counter() - began) * a.n / losses.count) # its loader drops the last, incomplete batch


def script(a) -> dict:
    "By the rate that it prints: (seconds a step, images/s), the mean over the epoch."
    with tempfile.TemporaryDirectory() as folder:
        write_folders(load(a), Path(folder)/'data')
        command = [sys.executable, '-W', 'ignore', a.script, Path(folder)/'data', '--model', a.backbone, '--num-classes', 2, '--input-size', 3, a.size, a.size, '--batch-size', a.batch, '--epochs', 1, '--warmup-epochs', 0,
                   '--cooldown-epochs', 0, '--opt', 'adamw', '--lr', 1e-5, '--scale', 1, 1, '--ratio', 1, 1, '--color-jitter', 0, '--smoothing', 0, '--workers', a.workers, '--channels-last', '--device', 'cpu', '--log-interval', 1, '--output', folder]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    rates = re.findall(r'Train:.*\(\s*[\d.]+s,\s*([\d.]+)/s\)', done.stdout + done.stderr)
    if not rates: raise SystemExit(f'{a.script} printed no rate:\n{(done.stdout + done.stderr)[-2000:]}')
    return dict(seconds=a.n / float(rates[-1]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='small and short, to see that it runs')
    p.add_argument('--script', help="timm's train.py")
    p.add_argument('--size', type=int, default=160)
    p.add_argument('--batch', type=int, default=16)
    p.add_argument('--n', type=int, default=480, help='images of the epoch')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--workers', type=int, default=2, help="of timm's loader")
    p.add_argument('--backbone', default='tf_efficientnet_lite0')
    p.add_argument('--one', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.quick: a.size, a.n, a.rounds = 64, 64, 1
    if a.one: return print(json.dumps({OURS: ours, PARTS: parts, SCRIPT: script}[a.one](a)))
    who, found = [OURS, PARTS] + [SCRIPT] * bool(a.script), {}
    for _ in range(a.rounds):
        for name in who:
            options = [f'--{k}={v}' for k, v in vars(a).items() if k not in ('quick', 'one') and v is not None]
            done = subprocess.run([sys.executable, '-W', 'ignore', __file__, '--one', name, *options], check=True, stdout=subprocess.PIPE, text=True)
            found.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1]))
    rates = {name: [a.n / f['seconds'] for f in several] for name, several in found.items()}
    for name, r in rates.items(): print(f'{name:18s} {np.median(r):6.1f} images/s [{min(r):.1f}, {max(r):.1f}]  × {np.median(rates[OURS]) / np.median(r):.2f}')
    decoding = float(np.median([f['decoding'] for f in found[OURS]]))
    print(f'ours decodes once, before: {decoding:.1f} s; with it the first epoch has {a.n / (decoding + float(np.median([f["seconds"] for f in found[OURS]]))):.1f} images/s')
    print(json.dumps(dict(benchmark='against_timm', size=a.size, batch=a.batch, n=a.n, backbone=a.backbone, workers=a.workers, images_per_second=rates, decoding_seconds=decoding)))


if __name__ == '__main__': main()
