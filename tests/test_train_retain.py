"""Against forgetting: each way is its formula, nothing is lost by a kill, and the choice of α has not seen the test split."""
import copy
import json
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from safetensors.torch import load_file
from scipy.special import softmax
from scipy.stats import norm
from torch import nn

from sft_nb.config import make_config
from sft_nb.core import InputError
from sft_nb.data.splits import split_items
from sft_nb.evaluate.compare import compare_predictions
from sft_nb.evaluate.intervals import estimate_metrics
from sft_nb.models.backbones import create_backbone, load_backbone
from sft_nb.models.lora import adaptable_layers, add_adapters, load_adapters, merge_adapters
from sft_nb.records import make_predictions
from sft_nb.report.tradeoff import TradeoffDisplay
from sft_nb.tasks.targets import LabelLoss
from sft_nb.train import probe
from sft_nb.train.checkpoint import Checkpoint
from sft_nb.train.interpolate import ALPHAS, choose_alpha, interpolate_weights, sweep_weights
from sft_nb.train.learner import OPTIMIZERS, SeedEpoch
from sft_nb.train.retain import EWC, L2SP, LwF, OldTask, Replay, estimate_fisher, retain_callbacks
from sft_nb.train.run import Run, open_run, train_run
from sft_nb.train.stress import predict_probe
from test_train_stress import draw_photos


# --- Small things that can be known exactly ----------------------------------------------------------------------------

class Net(nn.Module):
    "A body and a head, with the methods of a timm model that are needed."
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body, self.head = nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)
        for p in self.parameters(): p.data = torch.randn(p.shape, generator=generator)
    def get_classifier(self): return self.head
    def forward(self, x): return self.head(self.body(x).tanh())


def fit_net(net, *cbs, optimizer='adamw', weight_decay=0., lr=.05, epochs=2):
    rng = np.random.default_rng(0)
    data = [(torch.tensor(x, dtype=torch.float32), int(x[0] > 0)) for x in rng.normal(size=(32, 4))]
    dls = DataLoaders(*[DataLoader(data, bs=8, num_workers=0, device='cpu') for _ in range(2)])
    learn = Learner(dls, net, loss_func=LabelLoss(), opt_func=OPTIMIZERS[optimizer], wd=weight_decay, cbs=[SeedEpoch(0), *cbs],
                    splitter=lambda m: [list(m.body.parameters()), list(m.head.parameters())])
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr=lr)
    return net


@pytest.mark.parametrize('optimizer', ['adamw', 'sgd'])
def test_a_pull_to_zero_is_weight_decay(optimizer):
    "The same weights as with the optimiser's own weight decay, if the start was zero."
    decayed, pulled = Net(), Net()
    then = pulled.body.weight.detach().clone()
    pulled.body.weight.data.zero_()
    pull = L2SP(pulled, .3)
    pulled.body.weight.data.copy_(then)
    fit_net(decayed, optimizer=optimizer, weight_decay=.3)
    fit_net(pulled, pull, optimizer=optimizer, weight_decay=.3) # which the head keeps, and the body gives up
    for a, b in zip(decayed.parameters(), pulled.parameters()): assert torch.allclose(a, b, atol=1e-6)


def test_a_strong_pull_stays_and_a_frozen_body_is_left_alone():
    held, start = Net(), Net()
    fit_net(held, L2SP(held, 1e3)) # more than 1/lr: back at the start before each step, not beyond it
    assert (held.body.weight - start.body.weight).abs().max() <= .051 < (held.head.weight - start.head.weight).abs().max()
    still = Net()
    pull = L2SP(still, 1.)
    still.body.weight.data += 1
    still.body.requires_grad_(False)
    fit_net(still, pull)
    assert torch.equal(still.body.weight, start.body.weight + 1)


def test_fisher_is_that_of_each_example():
    "With given labels it is the mean of squared gradients, as autograd has them one at a time; the model is left as it was."
    net, x, y = Net(), torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), [0, 1, 1, 0, 1, 0]
    expect = {n: torch.zeros_like(p) for n, p in net.named_parameters()}
    for xi, yi in zip(x, y):
        net.zero_grad()
        nn.functional.cross_entropy(net(xi[None]), torch.tensor([yi])).backward()
        for n, p in net.named_parameters(): expect[n] += p.grad**2 / 6
    net.zero_grad(set_to_none=True)
    found = estimate_fisher(net, x, seed=0, target=y)
    for n in expect: assert torch.allclose(found[n], expect[n], rtol=1e-5)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_fisher_of_drawn_labels_is_without_bias():
    "Against the closed form p_k (1 − p_k) x_j² of a linear model: 200 estimates, each on 20 images; no mean is further off than chance takes it."
    generator = torch.Generator().manual_seed(0)
    linear, x = nn.Linear(3, 4, bias=False), torch.randn(20, 3, generator=generator)
    linear.weight.data = torch.randn(4, 3, generator=generator)
    p = linear(x).softmax(1)
    truth = ((p * (1 - p)).T @ x**2 / len(x)).detach()
    found = torch.stack([estimate_fisher(linear, x, seed=s)['weight'] for s in range(200)])
    z = (found.mean(0) - truth) / (found.std(0) / 200**.5)
    assert z.abs().max() < 3.5
    assert torch.equal(found[3], estimate_fisher(linear, x, seed=3)['weight']) and not torch.equal(found[3], found[4])
    empirical = estimate_fisher(linear, x, seed=0, target=p.argmax(1))['weight'] # where the model is right, it is less
    assert empirical.sum() < .8 * truth.sum()


def test_ewc_is_its_formula_and_holds_what_matters():
    net, start = Net(), Net()
    fisher = {n: torch.zeros_like(p) for n, p in net.named_parameters()}
    fisher['body.weight'][0] = 2.
    ewc = EWC(net, fisher, 10.)
    net.body.weight.data += .1
    share = fisher['body.weight'] / fisher['body.weight'].mean()
    assert ewc.penalty().item() == pytest.approx(.5 * share.sum().item() * .01, rel=1e-4)
    assert torch.allclose(torch.autograd.grad(ewc.penalty(), net.body.weight)[0], share * .1, atol=1e-6)
    net.body.weight.data -= .1
    fit_net(net, EWC(net, fisher, 2e4 / 3), optimizer='sgd', lr=1e-4, epochs=8)
    moved = (net.body.weight - start.body.weight).abs()
    assert moved[0].max() < .1 * moved[1:].max()
    assert len(ewc.terms) == 1 # not the head


def test_ewc_pulls_alike_under_a_head_that_is_surer():
    "Under a head with smaller weights the Fisher information is smaller by orders of magnitude; the pull on the body is not."
    model, penalties, means = create_backbone('tf_efficientnet_lite0', n_out=2), [], []
    generator = torch.Generator().manual_seed(0)
    x, head = torch.randn(6, 3, 64, 64, generator=generator), torch.randn(2, 1280, generator=generator)
    for scale in (.1, .001):
        with torch.no_grad(): model.classifier.weight.copy_(head * scale)
        fisher = estimate_fisher(model, x, seed=0)
        start, ewc = copy.deepcopy(model.state_dict()), EWC(model, fisher, 1.)
        with torch.no_grad():
            for p, *_ in ewc.terms: p.add_(.01)
        penalties.append(ewc.penalty().item()); means.append(fisher['conv_head.weight'].mean().item())
        model.load_state_dict(start)
    n = sum(p.numel() for p, *_ in ewc.terms)
    assert means[0] > 1000 * means[1] and penalties == pytest.approx([.5 * .01**2 * n] * 2, rel=.01) # as of plain L2 on all weights
    with pytest.raises(InputError, match='above 0'): EWC(model, {k: torch.zeros_like(f) for k, f in fisher.items()}, 1.)


def small_task(n=12, labels=True): return OldTask(Net().requires_grad_(False).eval(), None, [f'i{k}' for k in range(n)], np.arange(n) % 2 if labels else None)


def test_lwf_is_nothing_at_first_and_its_formula_later():
    task, net = small_task(labels=False), Net()
    lwf, x = LwF(task, 1., temperature=2.), torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    class Fake: model, xb, training = net, (x,), True
    lwf.learn = Fake
    lwf.before_fit()
    net(x)
    assert lwf.penalty().item() == pytest.approx(0, abs=1e-6)
    net.body.weight.data += .5
    net(x)
    p, q = (torch.softmax(z / 2, 1) for z in (task.model(x), task.head(net.body(x).tanh())))
    assert lwf.penalty().item() == pytest.approx(4 * (p * (p / q).log()).sum(1).mean().item(), rel=1e-4)
    lwf.after_fit()
    assert not net.head._forward_pre_hooks


def test_replay_shows_all_in_turn_and_depends_on_nothing_else():
    replay = Replay(small_task(), 10, batch_size=4, seed=0)
    seen = np.concatenate([replay.pick(3, step) for step in range(5)])
    assert (np.bincount(seen) == 2).all() and len(set(seen[:10])) == 10
    assert (Replay(small_task(), 10, batch_size=4, seed=0).pick(3, 2) == replay.pick(3, 2)).all()
    assert any((replay.pick(e, 0) != replay.pick(3, 0)).any() for e in range(3))
    with pytest.raises(InputError) as e: Replay(small_task(labels=False), 13, batch_size=4, seed=0)
    assert len(e.value.problems) == 2


# --- Interpolation -----------------------------------------------------------------------------------------------------

def test_interpolation_is_a_line_between_its_ends():
    model = create_backbone('tf_efficientnet_lite0', n_out=2, weights='none')
    start = {k: v.clone() for k, v in model.state_dict().items()}
    tuned = {k: v + torch.rand_like(v) if v.is_floating_point() else v + 7 for k, v in start.items()}
    for alpha in (0, .3, 1):
        mixed = interpolate_weights(start, tuned, alpha)
        for k, v in mixed.items():
            want = (1 - alpha) * start[k] + alpha * tuned[k] if v.is_floating_point() else tuned[k]
            assert torch.allclose(v, want, atol=1e-6) and v.dtype == start[k].dtype
            if v.is_floating_point() and alpha in (0, 1): assert torch.equal(v, (start, tuned)[alpha][k])
    model.load_state_dict(tuned)
    with pytest.raises(ZeroDivisionError): sweep_weights(model, start, lambda m: 1 / 0)
    assert all(torch.equal(v, tuned[k]) for k, v in model.state_dict().items()) # whatever happens, the tuned weights are back


@pytest.mark.parametrize('grouped', [False, True])
def test_one_error_is_one_error(grouped):
    """Simulated: where α = 0 is truly worse by some standard errors, how often is it chosen? As often as a normal variable is below 1 − that many.
    With groups of five whose items are alike, only if the groups are known."""
    rng, times, n = np.random.default_rng(0), 1000, 100
    for shift in (0., 1., 2.):
        chosen = 0
        for _ in range(times):
            gap = np.repeat(rng.normal(size=n), 5) if grouped else rng.normal(size=n)
            losses = {0.: 1 + gap + shift / n**.5, 1.: np.ones(len(gap))}
            chosen += choose_alpha(losses, group=np.repeat(np.arange(n), 5) if grouped else None) == 0
        assert chosen / times == pytest.approx(norm.cdf(1 - shift), abs=.045)


def test_the_rule_takes_the_smallest_that_will_do():
    rng = np.random.default_rng(0)
    losses = {a: (a - .5)**2 + .05 * (a - .5) * rng.normal(size=50) for a in ALPHAS}
    assert choose_alpha(losses, n_errors=0) == .5 and choose_alpha(losses) <= .5
    assert choose_alpha(losses, n_errors=1e9) == 0 and choose_alpha({.3: [1., 2.], .7: [1., 2.]}) == .3
    assert choose_alpha(dict(reversed(losses.items()))) == choose_alpha(losses)
    assert choose_alpha({0.: [2.], 1.: [1.]}) == 1 # one item: no error is known, so none is allowed


# --- Adapters ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, size', [('resnet10t', 32), ('test_vit', 160), ('test_convnext', 32)])
def test_adapters_fit_other_architectures(tmp_path, name, size):
    "Trained, saved, opened beside a fresh backbone, and merged: three times the same predictions; the body is as it was, bit for bit."
    torch.manual_seed(0)
    model = create_backbone(name, n_out=3, weights='none')
    then, x = {k: v.clone() for k, v in model.state_dict().items()}, torch.randn(2, 3, size, size)
    adapted = add_adapters(model, seed=0, r=2, lora_alpha=4)
    opt = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=.01)
    for _ in range(3):
        opt.zero_grad(); nn.functional.cross_entropy(model.eval()(x), torch.tensor([0, 2])).backward(); opt.step()
    said = model(x)
    now = {k.replace('base_layer.', '').replace('original_module.', ''): v for k, v in model.state_dict().items()}
    assert all(torch.equal(now[k], then[k]) for k in then)
    adapted.save_pretrained(tmp_path)
    fresh = create_backbone(name, n_out=3, weights='none')
    fresh.load_state_dict(then)
    assert torch.allclose(load_adapters(fresh, tmp_path)(x), said, atol=1e-5)
    merged = merge_adapters(adapted)
    assert torch.allclose(merged(x), said, atol=1e-4) and set(merged.state_dict()) == set(then) and said.abs().max() > .01
    assert merged.get_classifier().weight.abs().max() > 0 # the trained head, not the new one of zeros


def test_adapters_begin_with_the_seed():
    def first(seed):
        torch.manual_seed(5)
        model = create_backbone('test_convnext', n_out=2, weights='none')
        add_adapters(model, seed=seed, r=2)
        return torch.cat([p.detach().flatten() for n, p in model.named_parameters() if 'lora_A' in n]), torch.rand(1)
    (a, after_a), (b, after_b), (c, _) = first(0), first(0), first(1)
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(after_a, after_b)


def test_what_cannot_be_adapted_is_a_sentence(tmp_path, monkeypatch):
    model = create_backbone('test_convnext', n_out=2, weights='none')
    with pytest.raises(InputError) as e: add_adapters(model, seed=0, rank=2, alpha=3)
    assert len(e.value.problems) == 2 and '`lora_alpha`' in str(e.value)
    with pytest.raises(InputError, match='such as PEFT can add'): add_adapters(model, seed=0, r=2, target_modules=['nowhere'])
    with pytest.raises(InputError, match='adapter_config.json'): load_adapters(model, tmp_path)
    bare = Net()
    del bare.body
    with pytest.raises(InputError, match='below the head'): add_adapters(bare, seed=0, r=2)
    monkeypatch.setitem(sys.modules, 'peft', None)
    with pytest.raises(ImportError, match=r'pip install "sft_nb\[lora\]"'): add_adapters(model, seed=0, r=2)


# --- A run -------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def photos(tmp_path_factory): return split_items(draw_photos(tmp_path_factory.mktemp('photos'), 24, ['fine', 'wide']), method='stratified', valid=.2, test=.3, seed=0)

@pytest.fixture(scope='module')
def old(tmp_path_factory): return draw_photos(tmp_path_factory.mktemp('old'), 12, ['one', 'two', 'three'], seed=1)


def make(photos, **retain):
    return make_config(dict(data=dict(path='photos', positive='wide'), model=dict(size=32), train=dict(epochs=2, batch_size=8, lr=1e-3, monitor='epoch'), retain=retain))


ALL = dict(l2_sp=1., ewc=100., lwf=1., replay=16, old='old', wise_ft=True)
LORA = dict(lora_rank=2, lwf=1., replay=16, old='old')


@pytest.fixture(scope='module')
def runs(tmp_path_factory, photos, old):
    folder = tmp_path_factory.mktemp('runs')
    return {name: train_run(open_run(folder/name, make(photos, **asked)), photos, old=old) for name, asked in dict(all=ALL, lora=LORA).items()}


def weights(run): return load_file(run/'model'/'model.safetensors')


@pytest.mark.parametrize('name, asked', [('all', ALL), ('lora', LORA)])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, photos, old, runs, monkeypatch, name, asked):
    real = Checkpoint.after_epoch
    def stop(self):
        real(self)
        raise KeyboardInterrupt
    run = open_run(tmp_path/'run', make(photos, **asked))
    monkeypatch.setattr(probe, 'cache_folder', lambda: tmp_path) # features are computed before the kill, and are there after it
    with monkeypatch.context() as m:
        m.setattr(Checkpoint, 'after_epoch', stop)
        with pytest.raises(KeyboardInterrupt): train_run(run, photos, old=old)
    assert (run/'checkpoint.safetensors').exists()
    torch.rand(17) # another process would be elsewhere in its random numbers
    train_run(run, photos, old=old)
    once, again = weights(runs[name]), weights(run)
    assert set(once) == set(again)
    assert [k for k in once if not torch.equal(once[k], again[k])] == []
    assert (run.predictions('test').score == runs[name].predictions('test').score).all()
    mine, theirs = run.lock, runs[name].lock
    assert mine.get('wise_ft') == theirs.get('wise_ft') and mine['old_images'] == theirs['old_images']


def test_alpha_has_not_seen_the_test_split(tmp_path, photos, old, runs):
    "Other labels in the test split: the same α and the same weights."
    turned = photos.assign(target=photos['target'].where(photos['split'] != 'test', photos['target'].map(dict(fine='wide', wide='fine'))))
    run = train_run(open_run(tmp_path/'run', make(photos, **ALL)), turned, old=old)
    assert run.lock['wise_ft'] == runs['all'].lock['wise_ft']
    assert all(torch.equal(v, weights(run)[k]) for k, v in weights(runs['all']).items())
    assert set(run.lock['wise_ft']['valid_loss']) == {f'{a:g}' for a in ALPHAS}


def test_a_run_with_adapters_is_a_plain_model_and_its_adapters(runs):
    run = runs['lora']
    base = create_backbone('tf_efficientnet_lite0', n_out=2)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, beside = load_backbone(run/'model'), load_adapters(base, run/'adapter')
    assert torch.allclose(plain(x), beside(x), atol=1e-4) and set(weights(run)) == set(create_backbone('tf_efficientnet_lite0', n_out=2).state_dict())
    assert sorted(p.name for p in (run/'adapter').iterdir()) == ['adapter_config.json', 'adapter_model.safetensors']
    pretrained = create_backbone('tf_efficientnet_lite0', n_out=2).state_dict()
    changed = {k for k, v in weights(run).items() if not torch.equal(v, pretrained[k])}
    assert changed <= {f'{n}.weight' for n in adaptable_layers(plain)} | {'classifier.weight', 'classifier.bias'} and len(changed) > 10
    assert not [p for p in run.folder.iterdir() if p.name.startswith('.')]


def test_what_was_rehearsed_is_not_asked_about(tmp_path, runs, old):
    "Forgetting is measured on other images, against the model before fine-tuning."
    run = runs['all']
    assert len(run.lock['old_images']) == len(old)
    with pytest.raises(InputError, match='rehearsed'): predict_probe(run, old, seed=0)
    more = draw_photos(tmp_path/'more', 8, ['one', 'two', 'three'], seed=2)
    found = predict_probe(run, pd.concat([old, more.assign(id='more/' + more['id'])]), seed=0)
    assert len(found['features']['head'][0]) == len(more) and all(i.startswith('more/') for i in found['probes']['head'][0].ids)


def test_nothing_is_on_by_default(photos):
    assert retain_callbacks(make(photos), None, items=photos, store=None) == []


def test_what_does_not_go_together_is_said_at_once(photos):
    with pytest.raises(InputError) as e: make_config(dict(data=dict(path='x'), train=dict(freeze_norm=False), retain=dict(replay=3, lora_rank=2, ewc=1., wise_ft=True)))
    assert len(e.value.problems) == 3 and '`ewc` and `wise_ft`' in str(e.value)
    with pytest.raises(InputError, match='none of them'): make_config(dict(data=dict(path='x'), retain=dict(old='cifar10')))
    with pytest.raises(InputError, match='load_items'): retain_callbacks(make(photos, lwf=1., old='cifar10'), None, items=photos, store=None)
    with pytest.raises(InputError, match='two labels or more'): OldTask.from_items(None, photos[photos['target'] == 'fine'], size=32, seed=0)


def test_the_command_does_it_all(tmp_path, photos, old, capsys):
    "From folders to a report that says how far the weights went."
    from sft_nb.cli import main
    folders = [str(frame['input'].iloc[0]).rsplit('/', 2)[0] for frame in (photos, old)]
    config = dict(data=dict(path=folders[0], positive='wide'), model=dict(size=32), train=dict(epochs=1, batch_size=8), evaluate=dict(n_resamples=200),
                  retain=dict(replay=16, old=folders[1], wise_ft=True))
    (tmp_path/'c.yaml').write_text(json.dumps(config))
    assert main(['run', str(tmp_path/'c.yaml'), '--out', str(tmp_path/'run')]) == 0
    alpha = json.loads((tmp_path/'run'/'lock.json').read_text())['wise_ft']['alpha']
    assert f'with α = {alpha:g} chosen on the validation split' in capsys.readouterr().out
    assert Run(tmp_path/'run').count_reads() == 1


# --- The figure --------------------------------------------------------------------------------------------------------

def test_the_tradeoff_is_that_of_its_parts():
    "Values, intervals and paired changes are those of `estimate_metrics` and `compare_predictions`; changes are from the first α, in whatever order the sweep comes."
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 80)
    def say(noise): return make_predictions(np.arange(80), truth, softmax(np.eye(2)[truth] + noise * rng.normal(size=(80, 2)), 1), task='single_label', labels=('a', 'b'))
    sweep = {1.: (say(3), say(.3)), .5: (say(1), say(.5)), 0.: (say(.2), say(2))}
    display = TradeoffDisplay.from_predictions(sweep, seed=0, alpha=.5, old_metric='balanced_accuracy', confidence_level=.9)
    row, m = display.at(1.).loc['old'], estimate_metrics(sweep[1.][0], 'balanced_accuracy', by_label=False, seed=0, confidence_level=.9).iloc[0]
    d = compare_predictions(sweep[1.][0], sweep[0.][0], metrics='balanced_accuracy', seed=0, confidence_level=.9).iloc[0]
    assert (row.value, row.low, row.high, row.change, row.change_low, row.change_high) == (m.value, m.low, m.high, d.difference, d.low, d.high)
    assert display.table.alpha.tolist() == [0, 0, .5, .5, 1, 1] and (display.at(0.).change == 0).all()
    _, ax = plt.subplots()
    assert display.plot(ax=ax).ax_ is ax and [t.get_text() for t in ax.texts if 'α' in t.get_text()] == ['α = 0', 'α = 0.5', 'α = 1']
    plt.close('all')
    with pytest.raises(InputError): TradeoffDisplay.from_predictions({0.: sweep[0.]}, seed=0, alpha=.3)
    with pytest.raises(InputError, match='0, 0.5, 1'): display.at(.2)
