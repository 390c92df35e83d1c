"Averages, mixtures, flat minima, samples and weights: against reference libraries, under soft labels and other tasks, and resumed in the middle."
import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import timm.utils
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn
from torchvision.ops import sigmoid_focal_loss

from sft_nb.config import make_config
from sft_nb.core import InputError
from sft_nb.data.items import load_elpv
from sft_nb.data.splits import split_items
from sft_nb.models.backbones import create_backbone
from sft_nb.tasks.targets import CLASS_WEIGHTS, LabelLoss, LabelsLoss, NumberLoss, Targets, create_loss, describe_targets, item_losses, weigh_classes
from sft_nb.train.average import EMA, SWA, GreedySoup, ema_decay
from sft_nb.train.checkpoint import Checkpoint
from sft_nb.train.learner import create_learner
from sft_nb.train.probe import fit_probe
from sft_nb.train.regularize import MixItems, SampleItems, SharpnessAware, WeightItems, draw_balanced, regularize_callbacks
from sft_nb.train.run import open_run, train_run
from sft_nb.train.schedule import fine_tune

N = 48

def points(kind='index', seed=0) -> list:
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(2 * N, 3, 4, 4)), dtype=torch.float32)
    z = x.mean((1, 2, 3)) * 4 + torch.tensor(rng.normal(size=2 * N), dtype=torch.float32)
    y = {'index': (z > .5).long(), 'soft': torch.stack([1 - z.sigmoid(), z.sigmoid()], 1), 'labels': torch.stack([z > 0, z > .5], 1).float(), 'number': z}[kind]
    return list(zip(x, y))

TASKS = dict(index=('single_label', LabelLoss, 2), soft=('single_label', LabelLoss, 2), labels=('multi_label', LabelsLoss, 2), number=('regression', NumberLoss, 1))

def make_learner(*cbs, kind='index', norm=True, dropout=.3, **kwargs):
    torch.manual_seed(0)
    task, loss, n_out = TASKS[kind]
    body = [nn.Conv2d(3, 6, 3), *[nn.BatchNorm2d(6)] * norm, nn.ReLU(), nn.Dropout(dropout)]
    model = nn.Sequential(nn.Sequential(*body), nn.Sequential(nn.Flatten(), nn.Linear(24, n_out)))
    data = points(kind)
    dls = DataLoaders(DataLoader(data[:N], bs=8, shuffle=True, drop_last=True, num_workers=0), DataLoader(data[N:], bs=N, num_workers=0))
    return create_learner(dls, model, loss=loss(), task=task, seed=0, precision='fp32', cbs=cbs, **kwargs) # what is computed here is compared to the last digits

def weights(learn) -> dict: return {k: v.clone() for k, v in learn.model.state_dict().items()}
def same(a: dict, b: dict) -> bool: return a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)

# --- Resumed in the middle, bit for bit ----------------------------------------------------------------------------

EVERY = {'ema': lambda: [EMA(.99)], 'swa': lambda: [SWA(1)], 'soup': lambda: [GreedySoup(3)], 'mix': lambda: [MixItems(0, 2, .4, 1.)], 'sam': lambda: [SharpnessAware(.05)],
         'sample': lambda: [SampleItems(0, N, [y.item() for _, y in points()[:N]]), WeightItems(np.linspace(.5, 1.5, N))],
         'all': lambda: [SampleItems(0, N), WeightItems(np.linspace(.5, 1.5, N)), MixItems(0, 2, .4, 1.), SharpnessAware(.05), EMA(.99)]}

class Killed(Exception): pass

class Kill(Callback):
    "End the process, as it were, before a training step."
    order = 100
    def __init__(self, at): self.left = at
    def before_batch(self):
        self.left -= self.training
        if self.left < 0: raise Killed('killed')

def train_with_states(tmp_path, cbs, epochs=4, kill_at=None):
    "Through real files: fastai's part by `Checkpoint`, the callbacks' by their own states, kept beside it after each epoch."
    class Keep(Callback):
        order = 76
        def after_epoch(self):
            if not hasattr(self.learn, 'follow_plan'): return
            for i, cb in enumerate(cbs):
                if hasattr(type(cb), 'state_dict'): save_file({k: v.contiguous() for k, v in cb.state_dict().items()}, tmp_path/f'{i}.safetensors')
    learn = make_learner(*cbs, Keep())
    for i, cb in enumerate(cbs):
        if (tmp_path/f'{i}.safetensors').exists(): cb.load_state_dict(load_file(tmp_path/f'{i}.safetensors'))
    if kill_at is not None: learn.add_cb(Kill(kill_at))
    history = fine_tune(learn, epochs, lr=.02, checkpoint=Checkpoint(tmp_path/'c.safetensors', 'key'))
    return weights(learn), history.drop(columns='seconds')

@pytest.mark.parametrize('name', EVERY)
def test_resumed_training_is_the_same_training(name, tmp_path):
    (tmp_path/'a').mkdir(); (tmp_path/'b').mkdir()
    straight, history = train_with_states(tmp_path/'a', EVERY[name]())
    with pytest.raises(Killed): train_with_states(tmp_path/'b', EVERY[name](), kill_at=2 * 6 + 3) # inside the third epoch
    resumed, again = train_with_states(tmp_path/'b', EVERY[name]())
    assert same(straight, resumed)
    pd.testing.assert_frame_equal(history, again)
    once_more, _ = train_with_states(tmp_path/'b', EVERY[name]()) # training is over: nothing is left to do but the end of it
    assert same(straight, once_more)

def test_every_callback_changes_something():
    plain = weights_after()
    for name, cbs in EVERY.items(): assert not same(plain, weights_after(*cbs())), name

def weights_after(*cbs):
    learn = make_learner(*cbs)
    fine_tune(learn, 4, lr=.02)
    return weights(learn)

# --- Averages -------------------------------------------------------------------------------------------------------

def step_weights(cb_class, epochs=3):
    "The weights after each step and after each epoch of a training."
    steps, ends = [], []
    class Take(Callback):
        order = 1
        def after_batch(self):
            if self.training: steps.append(copy.deepcopy(self.model))
        def after_train(self): ends.append(copy.deepcopy(self.model))
    learn = make_learner(cb_class, Take())
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, .02)
    return steps, ends

def test_ema_is_timms():
    ema = EMA(.9)
    steps, _ = step_weights(ema)
    reference = timm.utils.ModelEmaV3(steps[0], decay=.9, use_warmup=True)
    for i, model in enumerate(steps): reference.update(model, step=i + 1)
    assert ema.n == len(steps) == 18
    for k, v in reference.module.state_dict().items(): torch.testing.assert_close(ema.average[k], v)
    assert [ema_decay(n) for n in range(50)] == pytest.approx([timm.utils.ModelEmaV3(nn.Linear(1, 1), use_warmup=True).get_decay(n + 1) for n in range(50)])

def test_swa_is_torchs():
    swa = SWA(1)
    _, ends = step_weights(swa)
    reference = AveragedModel(ends[1], avg_fn=get_swa_avg_fn())
    for model in ends[1:]: reference.update_parameters(model)
    for k, v in reference.module.named_parameters(): torch.testing.assert_close(swa.average[k], v.detach())

@pytest.mark.parametrize('cb', [lambda: EMA(.9), lambda: SWA(0)])
def test_what_is_validated_is_what_is_kept(cb):
    learn = make_learner(cb())
    history = fine_tune(learn, 3, lr=.02)
    best = history[history.kept].iloc[0]
    assert best.epoch >= 0
    with learn.no_bar(), learn.no_logging(): assert learn.validate()[0] == pytest.approx(best.valid_loss, abs=1e-7)

def test_average_leaves_the_optimiser_alone():
    a, b = make_learner(), make_learner(EMA(.9))
    for l in (a, b):
        with l.no_bar(), l.no_logging(): l.fit(3, .02)
    assert same(weights(a), weights(b)) # after training by fastai, the model has the weights of the last step

def test_average_starts_anew():
    "A second training, or a search for the rate, does not drag the average of the first along."
    ema = EMA(.9)
    learn = make_learner(ema)
    for _ in range(2):
        with learn.no_bar(), learn.no_logging(): learn.fit(1, .02)
    assert ema.n == 6

def test_patience_counts_with_averages():
    learn = make_learner(EMA(.9), GreedySoup())
    history = fine_tune(learn, 8, lr=.5, patience=1)
    with learn.no_bar(), learn.no_logging(): assert learn.validate()[0] <= history.valid_loss.min() + 1e-7

@pytest.mark.parametrize('monitor', ['valid_loss', 'accuracy'])
def test_soup_is_the_best_of_the_greedy_path(monitor):
    "Step by step, with other means: the soup that was kept is the one that the paper's procedure finds."
    soup = GreedySoup(10)
    learn = make_learner(soup, dropout=0.)
    history = fine_tune(learn, 6, lr=.1, monitor=monitor)
    final, sign = weights(learn), -1 if monitor == 'valid_loss' else 1
    def score(models):
        learn.model.load_state_dict({k: torch.stack([m[k].float() for m in models]).mean(0).to(models[0][k].dtype) for k in models[0]})
        with learn.no_bar(), learn.no_logging(): loss = learn.validate()[0]
        return sign * (loss if monitor == 'valid_loss' else learn.score_valid.scores['accuracy'])
    ranked = sorted(soup.found, key=lambda f: -sign * f[0])
    used, at = [ranked[0]], score([ranked[0][2]])
    for candidate in ranked[1:]:
        now = score([w for _, _, w in [*used, candidate]])
        if now >= at: used, at = [*used, candidate], now
    assert soup.ingredients == [e for _, e, _ in used] and (len(used) > 1 or monitor == 'accuracy')
    assert soup.ingredients[0] == history.epoch[history.kept].iloc[0]
    for k, v in final.items(): torch.testing.assert_close(v.float(), torch.stack([w[k].float() for _, _, w in used]).mean(0))

# --- Mixtures -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind, mixed', [(k, m) for k, m in itertools.product(TASKS, [(.4, 0), (0, 1.), (.4, 1.)]) if not (k == 'number' and m[1])])
def test_mixed_targets_belong_to_mixed_images(kind, mixed):
    "An image is replaced by its target, so that a mixture of images says what its target must be."
    learn = make_learner(MixItems(1, TASKS[kind][2], *mixed), kind=kind)
    y = torch.stack([y for _, y in points(kind)[:16]])
    amount = F.one_hot(y, 2).float() if kind == 'index' else y
    x = (amount if amount.ndim == 2 else amount[:, None])[..., None, None].expand(-1, -1, 10, 14).clone()
    learn.training, learn.epoch, seen = True, 0, set()
    for step in range(12):
        learn.iter, learn.xb, learn.yb = step, (x,), (y,)
        learn.mix_items.before_batch()
        torch.testing.assert_close(learn.xb[0].mean((2, 3)).reshape(learn.yb[0].shape), learn.yb[0], atol=1e-5, rtol=0)
        is_pasted = len(torch.unique(learn.xb[0].flatten(2), dim=2)[0, 0]) > 1
        seen.add(is_pasted)
    assert seen <= ({False} if not mixed[1] else {True, False}) and (True in seen) == bool(mixed[1])
    assert (x[0] == (amount[0] if amount.ndim == 2 else amount[:1])[:, None, None]).all() # the loader's batch was not written to

def test_share_of_mixtures_is_beta():
    learn = make_learner(MixItems(1, 2, .4))
    learn.training, learn.epoch, shares = True, 0, []
    for step in range(400):
        learn.iter, learn.xb, learn.yb = step, (torch.zeros(2, 3, 4, 4),), (torch.tensor([0, 1]),)
        learn.mix_items.before_batch()
        shares.append(learn.yb[0][0, 0].item())
    shares = np.array(shares)
    assert abs(np.mean(shares == 1) - .5) < .1 # half of the permutations of two leave each where it is
    assert stats.kstest(shares[shares < 1], stats.beta(.4, .4).cdf).pvalue > .01

def test_losses_take_mixtures_as_mixtures_of_losses():
    pred, a, b = torch.randn(8, 3), torch.randint(3, (8,)), torch.randint(3, (8,))
    for kwargs in (dict(), dict(weight=torch.tensor([1., 2, 3])), dict(label_smoothing=.1)):
        loss = LabelLoss(**kwargs)
        mixed = item_losses(loss, pred, .3 * F.one_hot(a, 3).float() + .7 * F.one_hot(b, 3).float())
        torch.testing.assert_close(mixed, .3 * item_losses(loss, pred, a) + .7 * item_losses(loss, pred, b))

# --- Mixed texts ----------------------------------------------------------------------------------------------------

class Bag(nn.Module):
    "The mean of the vectors of tokens, and a head: as little as reads texts, with dropout in it."
    def __init__(self, n_out=2):
        super().__init__()
        self.words, self.drop, self.head = nn.Embedding(40, 8), nn.Dropout(.2), nn.Linear(8, n_out)
    def get_classifier(self): return self.head
    def forward(self, x): return self.head(self.drop((self.words(x[:, 0]) * x[:, 1, :, None]).sum(1) / x[:, 1].sum(1, keepdim=True)))

def text_learner(*cbs, kind='index', hot=False):
    torch.manual_seed(0)
    rng, (task, loss, n_out) = np.random.default_rng(0), TASKS[kind]
    y = [y for _, y in points(kind)]
    rows = [torch.tensor(np.stack([rng.integers(0, 20, 6) + 20 * (float(v.max()) > .5), np.arange(6) < rng.integers(2, 7)])) for v in y]
    if hot: y = [F.one_hot(v, 2).float() for v in y]
    dls = DataLoaders(DataLoader(list(zip(rows, y))[:N], bs=8, shuffle=True, drop_last=True, num_workers=0), DataLoader(list(zip(rows, y))[N:], bs=N, num_workers=0))
    return create_learner(dls, Bag(n_out), loss=loss(), task=task, seed=0, precision='fp32', cbs=cbs)

def fix_share(monkeypatch, keep):
    "Let every mixture keep the same share."
    real = np.random.default_rng
    class Fixed:
        def __init__(self, seed): self.rng = real(seed)
        def beta(self, a, b): return keep
        def __getattr__(self, name): return getattr(self.rng, name)
    monkeypatch.setattr('sft_nb.train.regularize.np.random.default_rng', Fixed)

@pytest.mark.parametrize('kind', TASKS)
def test_texts_that_keep_all_of_themselves_are_as_they_were(kind, monkeypatch):
    "With λ = 1 every loss and every weight is the same, bit for bit; with less it is not. (PyTorch rounds the loss of an index and of its one-hot target differently.)"
    def train(*cbs):
        learn = text_learner(*cbs, kind=kind, hot=kind == 'index' and not cbs)
        return fine_tune(learn, 2, lr=.05).train_loss[1:].tolist(), weights(learn)
    plain, after = train()
    fix_share(monkeypatch, 1.)
    losses, same_after = train(MixItems(0, TASKS[kind][2], .4))
    assert losses == plain and same(after, same_after)
    fix_share(monkeypatch, .7)
    assert train(MixItems(0, TASKS[kind][2], .4))[0] != plain

def test_the_loss_of_a_mixture_reaches_both_texts(monkeypatch):
    "What the head sees is λ of the one and 1 - λ of the other, the target too, and so is the gradient of their words."
    fix_share(monkeypatch, .75)
    learn = text_learner(MixItems(0, 2, .4))
    x, y = torch.tensor([[[1, 2], [1, 1]], [[21, 22], [1, 1]]]), torch.tensor([0, 1])
    model, learn.training, learn.epoch = learn.model.eval(), True, 0
    for step in range(20): # until the permutation of two is an exchange
        learn.iter, learn.xb, learn.yb = step, (x,), (y,)
        learn.mix_items.before_batch()
        if learn.yb[0][0, 1]: break
    assert learn.yb[0].tolist() == [[.75, .25], [.25, .75]] and learn.xb[0] is x
    pred = model(x)
    learn.mix_items.after_batch()
    seen = model.words(x[:, 0]).mean(1)
    torch.testing.assert_close(pred, model.head(.75 * seen + .25 * seen.flip(0)))
    item_losses(learn.loss_func, pred, learn.yb[0])[0].backward()
    moved = model.words.weight.grad.abs().sum(1)
    assert moved[[1, 2, 21, 22]].min() > 0 and moved.sum() == moved[[1, 2, 21, 22]].sum()
    torch.testing.assert_close(moved[1], 3 * moved[21])

def test_only_a_training_batch_is_mixed(monkeypatch):
    "Validation, the second pass of SAM, and what an interruption leaves behind."
    fix_share(monkeypatch, .6)
    calls, learn = [], text_learner(MixItems(0, 2, .4), SharpnessAware(.05))
    learn.model.head.register_forward_pre_hook(lambda head, seen: calls.append((learn.training, len(head._forward_pre_hooks))))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .01)
    assert [n for training, n in calls if training] == [2] * 12 and {n for training, n in calls if not training} == {1}
    learn.add_cb(Kill(0))
    with pytest.raises(Killed), learn.no_bar(), learn.no_logging(): learn.fit(1, .01)
    learn.remove_cb(Kill)
    with learn.no_bar(), learn.no_logging(): learn.validate()
    assert calls[-1] == (False, 1)

# --- Flat minima ----------------------------------------------------------------------------------------------------

def test_sam_is_foret_et_als():
    "Two steps by hand, with plain gradient descent."
    learn = make_learner(SharpnessAware(.1), dropout=0., optimizer='sgd', weight_decay=0., norm=False)
    model, batches = copy.deepcopy(learn.model), []
    class Take(Callback):
        def before_batch(self):
            if self.training: batches.append((self.xb[0].clone(), self.yb[0].clone()))
    learn.add_cb(Take())
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .05)
    momentum = [torch.zeros_like(p) for p in model.parameters()]
    for xb, yb in batches:
        params = list(model.parameters())
        g = torch.autograd.grad(F.cross_entropy(model(xb), yb), params)
        scale = .1 / torch.sqrt(sum((x**2).sum() for x in g))
        with torch.no_grad():
            for p, x in zip(params, g): p += scale * x
        h = torch.autograd.grad(F.cross_entropy(model(xb), yb), params)
        with torch.no_grad():
            for p, x, y, m in zip(params, g, h, momentum):
                p -= scale * x
                m.mul_(.9).add_(y)
                p -= .05 * m
    for p, q in zip(model.parameters(), learn.model.parameters()): torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)

@pytest.mark.parametrize('freeze_norm', [True, False])
def test_sam_moves_statistics_once_and_leaves_frozen_groups(freeze_norm):
    a, b = [make_learner(*cbs, freeze_norm=freeze_norm) for cbs in ([], [SharpnessAware(0.)])]
    for l in (a, b):
        l.freeze()
        with l.no_bar(), l.no_logging(): l.fit(2, .02)
    assert same(weights(a), weights(b)) # dropout, statistics and frozen groups: as if there were one pass

def test_sam_heeds_what_others_add_to_the_loss():
    class Pull(Callback):
        calls = 0
        def after_loss(self):
            if self.training: self.calls += 1; self.learn.loss_grad = self.loss_grad + 10 * sum((p**2).sum() for p in self.model.parameters())
    norms = {}
    for pull in (False, True):
        learn = make_learner(SharpnessAware(.05), *[Pull()] * pull)
        with learn.no_bar(), learn.no_logging(): learn.fit(2, .02)
        norms[pull] = sum((p**2).sum().item() for p in learn.model.parameters())
        if pull: assert learn.pull.calls == 2 * 12
    assert norms[True] < .5 * norms[False]

# --- Samples and weights --------------------------------------------------------------------------------------------

def test_balanced_draws():
    labels = np.array(['a'] * 70 + ['b'] * 25 + ['c'] * 5)
    draws = [draw_balanced(labels, seed=0, epoch=e) for e in range(20)]
    for d in draws: assert sorted(np.unique(labels[d], return_counts=True)[1]) == [33, 33, 34]
    times = np.bincount(np.concatenate(draws), minlength=100) # nobody is forgotten, and within a class all come about as often
    assert times.min() > 0 and np.ptp(times[95:]) <= 20 and 4 <= times[:70].min() and times[:70].max() <= 16
    assert not np.array_equal(draws[0], draw_balanced(labels, seed=1, epoch=0))

def test_balanced_epochs_reach_the_network_and_leave_the_loader():
    labels = [y.item() for _, y in points()[:N]]
    learn = make_learner(SampleItems(0, N, labels))
    seen = []
    class Take(Callback):
        def before_batch(self):
            if self.training: seen.extend(self.yb[0].tolist())
    learn.add_cb(Take())
    with learn.no_bar(), learn.no_logging(): learn.fit(2, .02)
    assert np.mean(labels) < .45 and np.mean(seen) == .5 and len(seen) == 2 * N
    assert 'get_idxs' not in vars(learn.dls.train)

def test_items_without_weight_are_not_learned_from():
    "Labels of items with weight 0 may be anything."
    v = np.ones(N); v[::3] = 0
    out = []
    for flip in (False, True):
        learn = make_learner(SampleItems(0, N), WeightItems(v))
        data = points()
        if flip: data = [(x, 1 - y) if i < N and i % 3 == 0 else (x, y) for i, (x, y) in enumerate(data)]
        learn.dls = DataLoaders(DataLoader(data[:N], bs=8, shuffle=True, drop_last=True, num_workers=0), learn.dls.valid)
        with learn.no_bar(), learn.no_logging(): learn.fit(2, .02)
        out.append(weights(learn))
    assert same(*out)

# --- Losses ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kwargs', [dict(), dict(weight=torch.tensor([1., 2, .5])), dict(label_smoothing=.2)])
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_focal_loss_without_focus_is_cross_entropy(kwargs, reduction):
    pred, hard = torch.randn(8, 3), torch.randint(3, (8,))
    for target in (hard, torch.rand(8, 3).softmax(1)):
        loss = LabelLoss(focal_gamma=1e-9, reduction=reduction, **kwargs)
        torch.testing.assert_close(loss(pred, target), F.cross_entropy(pred, target, reduction=reduction, **kwargs), atol=1e-5, rtol=1e-5)

def test_focal_loss_of_labels_is_torchvisions():
    pred, target = torch.randn(8, 3), torch.randint(2, (8, 3)).float()
    torch.testing.assert_close(LabelsLoss(focal_gamma=2.)(pred, target), sigmoid_focal_loss(pred, target, alpha=-1, gamma=2, reduction='mean'), atol=1e-5, rtol=1e-4)
    p = pred.softmax(1)[range(8), target[:, 0].long()]
    torch.testing.assert_close(LabelLoss(focal_gamma=2.)(pred, target[:, 0].long()), (-(1 - p)**2 * p.log()).mean(), atol=1e-6, rtol=1e-5)

@pytest.mark.parametrize('gamma', [.5, 2.])
def test_focal_loss_has_slopes_everywhere(gamma):
    pred = torch.tensor([[200., -200], [-200, 200], [0, 0]], requires_grad=True)
    for target in (torch.tensor([0, 0, 1]), torch.tensor([[1., 0], [.5, .5], [.5, .5]])):
        pred.grad = None
        LabelLoss(focal_gamma=gamma)(pred, target).backward()
        assert pred.grad.isfinite().all()

def test_class_weights():
    "The formula of Cui et al. 2019, up to its scale; and the same total for each class."
    n = np.array([5000, 200, 3])
    effective = (1 - .99) / (1 - .99**n)
    np.testing.assert_allclose(weigh_classes(n, 'effective', .99) / weigh_classes(n, 'effective', .99)[0], effective / effective[0])
    np.testing.assert_allclose(weigh_classes(n, 'balanced') * n, n.sum() / 3)
    np.testing.assert_allclose(weigh_classes(n, 'effective', .9999999), weigh_classes(n, 'balanced'), rtol=1e-3)
    np.testing.assert_allclose(weigh_classes(n, 'effective', 0.), 1)
    for method in CLASS_WEIGHTS: assert weigh_classes(n, method) @ n == pytest.approx(n.sum())

@pytest.mark.parametrize('method', CLASS_WEIGHTS)
def test_probe_knows_class_weights(method):
    rng = np.random.default_rng(0)
    y = (rng.random(400) < .1).astype(int)
    x = rng.normal(size=(400, 4)) + .5 * y[:, None]
    share = {m: fit_probe(x, y, valid_features=x, valid_target=y, task='single_label', n_out=2, class_weights=m).predict(x)[:, 1].mean() for m in (None, method)}
    assert share[None] == pytest.approx(.1, abs=.03) and share[method] > .25

def test_losses_from_targets():
    items = pd.DataFrame(dict(target=['a'] * 9 + ['b'], split='train'))
    targets = describe_targets(items, task='single_label')
    assert create_loss(targets, items, class_weights='balanced').weight.tolist() == pytest.approx([10 / 18, 5.])
    assert create_loss(targets, items, focal_gamma=2.).focal_gamma == 2
    with pytest.raises(InputError, match='class_weights'): create_loss(targets, items, class_weights='fair')
    with pytest.raises(InputError, match='focal_gamma'): create_loss(Targets('regression', ()), items, focal_gamma=1.)
    with pytest.raises(InputError, match='reduction'): item_losses(lambda pred, y: pred, None, None)

# --- Weight decay, dropout ------------------------------------------------------------------------------------------

def test_weight_decay_spares_norms_and_biases():
    "A loss without slopes: what still shrinks is decayed."
    class Nothing(LabelLoss):
        def forward(self, pred, target): return super().forward(pred, target) * 0
    learn = make_learner(weight_decay=.1)
    learn.loss_func = Nothing()
    before = {k: v.detach().clone() for k, v in learn.model.named_parameters()}
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .1)
    shrunk = {k for k, v in learn.model.named_parameters() if not torch.allclose(v, before[k], atol=1e-7)}
    assert shrunk == {'0.0.weight', '1.1.weight'}
    torch.testing.assert_close(dict(learn.model.named_parameters())['1.1.weight'], before['1.1.weight'] * (1 - .1 * .1)**6) # decoupled: AdamW

def test_stochastic_depth_reaches_the_backbone():
    model = create_backbone('tf_efficientnet_lite0', n_out=2, weights='none', drop_path_rate=.2)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == 'DropPath']
    assert rates == sorted(rates) and rates[-1] > .15
    with pytest.raises(InputError, match='Expected `drop_path_rate` to be known to `inception_v3`'): create_backbone('inception_v3', n_out=2, weights='none', drop_path_rate=.2)

# --- Configuration --------------------------------------------------------------------------------------------------

def config(**train): return make_config(dict(data=dict(path='x', task=train.pop('task', 'single_label')), train=train))

def test_configuration_says_all_that_does_not_go_together():
    with pytest.raises(InputError) as e: config(sampling='balanced', class_weights='balanced', item_weights='confident', cutmix=1., focal_gamma=2., task='regression')
    assert len(e.value.problems) == 5 and all(p.startswith('Expected `train.') for p in e.value.problems)
    with pytest.raises(InputError, match='average'): config(average='median')

def test_callbacks_from_a_configuration():
    items = pd.DataFrame(dict(id=range(20), target=['a', 'b'] * 10, split=['train'] * 16 + ['valid'] * 4))
    targets = describe_targets(items, task='single_label')
    assert regularize_callbacks(config(average=None).train, items, targets) == []
    assert [type(c).__name__ for c in regularize_callbacks(config().train, items, targets)] == ['EMA']
    cb, = regularize_callbacks(config(epochs=8, average='swa', swa_start=.5).train, items, targets)
    assert cb.start == 4
    cb, = regularize_callbacks(config(unfreeze=[[2, -1], [4, 0]], average='swa', swa_start=.5).train, items, targets)
    assert cb.start == 3
    with pytest.raises(InputError, match='features'): regularize_callbacks(config(item_weights='confident').train, items, targets)
    rng = np.random.default_rng(0)
    cbs = regularize_callbacks(config(item_weights='confident', mixup=.2, average=None).train, items, targets, features=lambda: rng.normal(size=(20, 3)))
    assert [type(c) for c in cbs] == [SampleItems, WeightItems, MixItems] and len(cbs[1].weights) == 16

def test_a_run_with_everything_on(tmp_path):
    "From the file to the folder: 2 × 16 cells of 32 pixels."
    items = split_items(load_elpv().query('probability in (0, 1)').groupby('target', group_keys=False).head(24).reset_index(drop=True), valid=.25, test=.25, seed=0)
    config = make_config(dict(data=dict(path='elpv', positive='defective', soft='probability'), model=dict(size=32, drop_rate=.2, drop_path_rate=.1),
                              train=dict(epochs=2, sampling='balanced', item_weights='confident', label_smoothing=.1, focal_gamma=2., mixup=.2, cutmix=1., erasing=.5, sam_rho=.05,
                                         average='ema', min_delta=.001, patience=2)))
    run = train_run(open_run(tmp_path/'run', config), items)
    history = run.history
    assert len(history) == 3 and history.gap.notna().all() and (run/'predictions-test.parquet').exists()
    assert history.train_loss[1:].notna().all() and not (run/'checkpoint.safetensors').exists()

def test_batches_of_another_size_are_a_sentence():
    learn = make_learner(SampleItems(0, N), WeightItems(np.ones(N)))
    learn.training, learn.iter, learn.dl, learn.epoch = True, 0, learn.dls.train, 0
    learn.sample_items.before_train()
    learn.xb, learn.yb = (torch.zeros(3, 3, 4, 4),), (torch.zeros(3),)
    with pytest.raises(InputError, match='Expected the batch to be of 8 items, but got 3'): learn.weight_items.before_batch()
