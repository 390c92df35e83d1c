"It survives: kills, damaged checkpoints, two processes, bad losses, full memory."
import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.block import DataBlock, TransformBlock
from fastai.optimizer import OptimWrapper
from torch import nn

from sft_nb.cli import main
from sft_nb.config import make_config, write_config
from sft_nb.core import InputError
from sft_nb.models.backbones import create_backbone
from sft_nb.tasks.image import SplitByColumn
from sft_nb.train.checkpoint import Checkpoint
from sft_nb.train.guard import StopOnBadLoss, _in_parts, find_batch, guard_training, hold_folder
from sft_nb.train.learner import create_learner
from sft_nb.train.run import open_run, train_run
from sft_nb.train.schedule import Stage, fit_plan, gradual_unfreeze

STAGES = [(2, -1), (2, -2), (2, 0)]


def make_items(n=48, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    items = pd.DataFrame(rng.normal(size=(n, 2)), columns=['x', 'y']).assign(split=['train'] * (n - 16) + ['valid'] * 16)
    return items.assign(id=[f'item {i}' for i in items.index], target=(items.x > 0).astype(int))


def make_learner(items=None, body=nn.Linear, cbs=(), bs=16, drop=.2, **kwargs):
    block = DataBlock((TransformBlock, TransformBlock), get_x=lambda r: torch.tensor([r.x, r.y], dtype=torch.float32), get_y=lambda r: int(r.target), splitter=SplitByColumn())
    torch.manual_seed(0)
    model = nn.Sequential(body(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.Dropout(drop), nn.Linear(16, 2))
    loss = nn.CrossEntropyLoss()
    loss.activation = lambda p: p.softmax(1)
    learn = create_learner(block.dataloaders(make_items() if items is None else items, bs=bs, num_workers=0), model, loss=loss, task='single_label', seed=0, cbs=cbs, **kwargs)
    learn.splitter = lambda m: [list(layer.parameters()) for layer in m if isinstance(layer, nn.Linear)]
    return learn


class StopAt(Callback):
    "Interrupt in a step of an epoch, counted from the start of this fit."
    def __init__(self, epoch, step=1): self.at = epoch, step
    def after_batch(self):
        if self.training and (self.epoch, self.iter) == self.at: raise KeyboardInterrupt


def train(path, learn, stop=None, **kwargs):
    if stop is not None: learn.add_cb(StopAt(stop))
    return gradual_unfreeze(learn, STAGES, **dict(dict(lr=.02, checkpoint=path and Checkpoint(path, 'key')), **kwargs))


def stopped(path, at, **kwargs):
    with pytest.raises(KeyboardInterrupt): train(path, make_learner(), at, **kwargs)


def same(a, b): return all(torch.equal(p, q) for p, q in zip(a.model.state_dict().values(), b.model.state_dict().values()))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A training that nobody stopped, and its history."
    learn = make_learner()
    return learn, train(tmp_path_factory.mktemp('whole')/'c.safetensors', learn)


# --- Kills -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind, moments', [('images', 10), ('text', 4), ('chat', 2)])
def test_killed_at_many_moments(root, kind, moments):
    "`sft-nb run`, many times at random and fifteen times where it hurts; see the benchmark for what is compared."
    done = subprocess.run([sys.executable, str(root/'benchmarks'/'kill.py'), '--quick', '--kind', kind, '--moments', str(moments)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found['kills'] == moments + 15 and found['lost'] == 0, done.stdout
    assert {'training', 'predicting'} | ({'probe or first epoch'} if kind == 'images' else set()) <= set(found['where'])


@pytest.mark.parametrize('at', [0, 1, 2, 3, 5])
def test_resumed_stages_are_not_frozen_again(tmp_path, whole, at):
    "In each epoch that is left, what learns is what would have learned, and so is the state of the optimiser at its start."
    class Look(Callback):
        order = 61 # after the plan
        def before_fit(self): self.seen = []
        def before_epoch(self): self.seen.append(([p.requires_grad for p in self.model.parameters()], [self.opt.state[p].get('step') for p in self.model.parameters()]))
    never, path = make_learner(cbs=[Look()]), tmp_path/'c.safetensors'
    train(tmp_path/'never.safetensors', never)
    stopped(path, at)
    again = make_learner(cbs=[Look()])
    history = train(path, again)
    assert again.look.seen == never.look.seen[at:] and len({tuple(grad) for grad, _ in never.look.seen}) == 3
    assert same(again, whole[0])
    pd.testing.assert_frame_equal(history.drop(columns='seconds'), whole[1].drop(columns='seconds'))


def test_a_finished_training_is_as_it_ended(tmp_path, whole):
    "Weights, what is frozen, and the optimiser, with no epoch left to do; callbacks get the end of the fit that they missed."
    class Ended(Callback):
        def after_fit(self): self.fits = getattr(self, 'fits', 0) + 1
    train(tmp_path/'c.safetensors', make_learner())
    again = make_learner(cbs=[Ended()])
    for p in again.model.parameters(): p.requires_grad_(False)
    train(tmp_path/'c.safetensors', again)
    assert same(again, whole[0]) and again.opt.frozen_idx == 0 and all(p.requires_grad for p in again.model.parameters()) and again.ended.fits == 1
    for p, q in zip(again.model.parameters(), whole[0].model.parameters()):
        for k, v in whole[0].opt.state[q].items(): assert np.all(np.asarray(again.opt.state[p][k]) == np.asarray(v)), k


def test_early_stopping_goes_on_counting(tmp_path):
    "With a patience of two the epoch of the stop is the same, although the best one was before the kill."
    def run(learn, **kwargs): return train(tmp_path/f'{kwargs.pop("name")}.safetensors', learn, lr=1e-7, patience=2, min_delta=1., **kwargs)
    learn = make_learner()
    history = run(learn, name='never')
    assert len(history) == 1 + 2 and history.kept.tolist() == [True, False, False] # epoch -1 was the best
    with pytest.raises(KeyboardInterrupt): run(make_learner(), name='again', stop=1)
    again = make_learner()
    pd.testing.assert_frame_equal(run(again, name='again').drop(columns='seconds'), history.drop(columns='seconds'))
    assert same(again, learn)


def test_best_weights_survive(tmp_path):
    "The best epoch is before the kill, and what comes after it is worse."
    harm = lambda learn: setattr(learn, 'loss_func', Worse(learn))
    class Worse(nn.CrossEntropyLoss):
        "Learn for one epoch, then unlearn."
        def __init__(self, learn): super().__init__(); self.learn, self.activation = learn, lambda p: p.softmax(1)
        def forward(self, p, y): return super().forward(p, y) * (-1 if self.learn.training and self.learn.follow_plan.absolute > 0 else 1)
    def run(name, stop=None):
        learn = make_learner()
        harm(learn)
        return learn, train(tmp_path/name, learn, stop)
    never, history = run('a.safetensors')
    assert history.kept.to_numpy().nonzero()[0].tolist() == [1]
    with pytest.raises(KeyboardInterrupt): run('b.safetensors', stop=4)
    again, resumed = run('b.safetensors')
    assert same(again, never) and resumed.kept.tolist() == history.kept.tolist()


def test_an_optimiser_of_torch_is_restored_too(tmp_path):
    def learner():
        learn = make_learner()
        learn.opt_func = lambda params, **kw: OptimWrapper(params, torch.optim.AdamW, **kw)
        return learn
    never, again = learner(), learner()
    train(tmp_path/'a.safetensors', never)
    with pytest.raises(KeyboardInterrupt): train(tmp_path/'b.safetensors', learner(), 3)
    train(tmp_path/'b.safetensors', again)
    assert same(again, never)


def test_callbacks_keep_their_state(tmp_path):
    "An average of the weights goes on; who has no state of its own is not asked for that of the model."
    class Average(Callback):
        def before_fit(self): self.mean = {k: v.clone() for k, v in self.model.state_dict().items()}
        def after_step(self):
            for k, v in self.model.state_dict().items(): self.mean[k].lerp_(v, .1)
        def state_dict(self): return self.mean
        def load_state_dict(self, state): self.mean = state
    class Stateless(Callback): pass
    never, again = (make_learner(cbs=[Average(), Stateless()]) for _ in range(2))
    train(tmp_path/'a.safetensors', never)
    with pytest.raises(KeyboardInterrupt): train(tmp_path/'b.safetensors', make_learner(cbs=[Average(), Stateless()]), 3)
    assert hasattr(again.stateless, 'state_dict') # fastai finds the model's
    train(tmp_path/'b.safetensors', again)
    assert all(torch.equal(again.average.mean[k], v) for k, v in never.average.mean.items())


# --- Damage ------------------------------------------------------------------------------------------------------------

def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == 'cut': data = data[:len(data) // 2]
    if how == 'header': data[40] ^= 4
    if how == 'flip': data[-50] ^= 1
    if how == 'empty': data = b''
    path.write_bytes(data)


@pytest.mark.parametrize('how', ['cut', 'header', 'flip', 'empty'])
@pytest.mark.parametrize('which', ['newer', 'both'])
def test_a_damaged_checkpoint_is_not_believed(tmp_path, whole, how, which):
    path = tmp_path/'c.safetensors'
    stopped(path, 3)
    both = sorted(tmp_path.iterdir(), key=lambda p: p.stat().st_mtime_ns)
    for p in both[1:] if which == 'newer' else both: damage(p, how)
    again = make_learner()
    with pytest.warns(UserWarning) as said: history = train(path, again)
    said = [str(w.message) for w in said if 'whole checkpoint' in str(w.message)]
    assert len(said) == 1 and '\n' not in said[0] and str(both[1]) in said[0], said
    assert ('the one before, after epoch 1' in said[0]) if which == 'newer' else ('begins again' in said[0] and str(both[0]) in said[0])
    assert same(again, whole[0]) and len(history) == 7
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        train(path, make_learner()) # by now both are whole again


# --- Two processes -----------------------------------------------------------------------------------------------------

@pytest.fixture
def holder(tmp_path):
    "Another process that holds the folder `run`."
    (tmp_path/'run').mkdir()
    child = os.fork()
    if not child:
        with hold_folder(tmp_path/'run'):
            (tmp_path/'ready').touch()
            time.sleep(60)
        os._exit(0)
    while not (tmp_path/'ready').exists(): time.sleep(.01)
    yield child
    try: os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError): pass


def test_the_second_process_refuses_until_the_first_is_dead(tmp_path, holder, capsys):
    run, config = tmp_path/'run', make_config(dict(data=dict(path='elsewhere')))
    with pytest.raises(InputError, match=f'in use by process {holder} on .* since 20'): open_run(run, config)
    with pytest.raises(InputError, match='Wait until it has ended'): train_run(type('', (), dict(folder=run))(), None)
    write_config(config, tmp_path/'c.yaml')
    assert main(['run', str(tmp_path/'c.yaml'), '--out', str(run)]) == 1 and f'process {holder}' in capsys.readouterr().err
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    assert (run/'.busy').exists() # it could not clean up
    assert open_run(run, config).config == config
    with hold_folder(run): assert json.loads((run/'.busy.json').read_text())['pid'] == os.getpid()
    assert [p.name for p in run.iterdir()] == ['config.yaml']


# --- Losses ------------------------------------------------------------------------------------------------------------

class BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bad): ctx.bad = bad; return x.clone()
    @staticmethod
    def backward(ctx, g): return g * float('nan') if ctx.bad else g, None


class Body(nn.Linear):
    "Passes on a gradient that is not a number if it sees an item with x = 9."
    def forward(self, x): return BadGradient.apply(super().forward(x), bool((x[:, 0] == 9).any()))


class FromAfar(StopOnBadLoss):
    "As on a device that would have to be waited for."
    def _is_here(self): return False


def batch_of(items, name, epoch):
    "(step, ids) of the batch with an item, read off from what the model is shown."
    class See(Callback):
        order = 80
        def before_fit(self): self.seen = []
        def before_batch(self):
            if self.training: self.seen.append((self.epoch, self.iter, self.xb[0][:, 0].tolist()))
    learn, x = make_learner(items, cbs=[See()]), items.set_index('id').x
    train(None, learn)
    return next((step, [x.index[x == v][0] for v in map(np.float32, shown)]) for e, step, shown in learn.see.seen if e == epoch and np.float32(x[name]) in map(np.float32, shown))


@pytest.fixture(scope='module')
def rounded():
    items = make_items()
    return items.assign(x=items.x.astype(np.float32))


@pytest.mark.parametrize('where', ['here', 'afar'])
@pytest.mark.parametrize('what', ['loss', 'gradient'])
def test_the_batch_of_a_bad_loss_is_named(tmp_path, rounded, monkeypatch, where, what):
    "Also where the loss is fine and the gradient is not; and nothing that is not finite gets into the checkpoint."
    if where == 'afar': monkeypatch.setattr('sft_nb.train.guard.StopOnBadLoss', FromAfar)
    step, ids = batch_of(rounded, 'item 7', epoch=3)
    class Spoil(Callback):
        order = -5
        def before_batch(self):
            if self.training and self.follow_plan.absolute == 3: self.learn.xb = (torch.where(self.xb[0] == float(rounded.x[7]), float('nan') if what == 'loss' else 9., self.xb[0]),)
    learn, path = make_learner(rounded, body=Body if what == 'gradient' else nn.Linear, cbs=[Spoil()]), tmp_path/'c.safetensors'
    plan = dict(lr=.02, checkpoint=Checkpoint(path, 'key'))
    with pytest.raises(InputError) as e: fit_plan(learn, [Stage(6)], **plan)
    said = str(e.value)
    assert 'epoch 3' in said and f'{step}' in said and 'item 7' in said and 'learning rate' in said and 'The checkpoint of epoch 2 is kept' in said, said
    if where == 'here':
        named = said.split('with the items ')[1].split('. ')[0].split(', ')
        assert f'step {step}' in said and set(named) == set(ids), (said, ids)
    if where == 'here' and what == 'loss': assert all(p.isfinite().all() for p in learn.model.parameters()) # it never reached them
    assert all(p.suffix == '.safetensors' for p in tmp_path.iterdir())
    with pytest.raises(InputError) as e: fit_plan(make_learner(rounded, body=Body if what == 'gradient' else nn.Linear, cbs=[Spoil()]), [Stage(6)], **plan)
    assert str(e.value) == said # it goes on from epoch 3, and meets the same


def test_a_loss_that_explodes_stops_and_a_hard_one_does_not():
    "The rule, on streams of losses: heavy tails and single outliers pass, divergence does not."
    class Plan: first_epoch, rows = 0, []
    def feed(losses):
        rule = StopOnBadLoss()
        rule.learn = type('', (), dict(record_history=Plan, model=nn.Linear(1, 1)))()
        rule._stop = lambda *about: (_ for _ in ()).throw(InputError('stop'))
        rule.before_epoch()
        for rule.last, loss in enumerate(losses):
            rule.pending[rule.last] = torch.tensor(float(loss))
            rule._look()
    rng = np.random.default_rng(0)
    for _ in range(20): feed(rng.lognormal(-1, 2, 2000))
    feed([.01] * 500 + [1e4] * 4 + [.01] * 500)
    feed(np.linspace(.7, 5, 1000))
    with pytest.raises(InputError): feed([.01] * 50 + [50.] * 5)
    with pytest.raises(InputError): feed(.7 * 1.5 ** np.arange(40))


def test_a_bad_start_is_said(rounded):
    broken = rounded.assign(x=rounded.x.where(rounded.id != 'item 40', np.inf)) # of the validation split
    with pytest.raises(InputError, match='validation split before the first step of epoch 0'): train(None, make_learner(broken))


# --- Memory ------------------------------------------------------------------------------------------------------------

def leave_memory(mb):
    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + mb * 2**20,) * 2)


class Wide(nn.Sequential):
    "Four megabytes an item and layer."
    def __init__(self, *size): super().__init__(nn.Linear(2, 1_000_000), nn.Tanh())
    def forward(self, x): return super().forward(x).view(len(x), 16, -1).mean(2)


def train_wide(mb=0):
    "One epoch with at most `mb` megabytes more than the process has; what was said, and what came of it."
    torch.set_num_threads(1)
    learn = make_learner(make_items(80), body=Wide, bs=32, drop=0., optimizer='sgd', precision='fp32')
    learn.create_opt()
    if mb: leave_memory(mb)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        history = fit_plan(learn, [Stage(1)], lr=1e-4)
    return dict(said=[m for m in (str(w.message) for w in said) if 'memory' in m], parts=history.get('micro_batch', pd.Series(dtype=float)).max(),
                weights=float(learn.model[0][0].weight.double().abs().sum()), loss=history.valid_loss.tolist())


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits as Linux has them')
def test_a_full_memory_splits_the_batch():
    "A real limit: 32 items take half a gigabyte, and there are 300 MB. The weights are those of a training that had enough."
    def run(mb): # an interpreter of its own: pages that an earlier test gave back are no part of what there is
        code = f'import json, test_train_survive as t; print(json.dumps(t.train_wide({mb})))'
        return json.loads(subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=os.path.dirname(__file__), check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    enough, little = run(0), run(300)
    assert enough['said'] == [] and 'worked through' in little['said'][0], (enough, little)
    assert 1 <= little['parts'] < 32 and little['weights'] == pytest.approx(enough['weights'], rel=1e-4) and little['loss'] == pytest.approx(enough['loss'], rel=1e-4)


class Hungry(nn.Linear):
    "Asks for more than any machine has, if it sees more than some items."
    most = 8
    def forward(self, x):
        if len(x) > self.most: torch.empty(2**50)
        return super().forward(x)


def test_a_split_batch_stays_split_after_a_kill(tmp_path):
    "History and weights say so: what was learned to fit is not forgotten, and the end is the same."
    never, again = (make_learner(body=Hungry) for _ in range(2))
    with pytest.warns(UserWarning, match='full'): history = train(tmp_path/'a.safetensors', never)
    with pytest.warns(UserWarning, match='full'), pytest.raises(KeyboardInterrupt): train(tmp_path/'b.safetensors', make_learner(body=Hungry), 3)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        resumed = train(tmp_path/'b.safetensors', again)
    assert same(again, never) and resumed.micro_batch.tolist()[1:] == history.micro_batch.tolist()[1:] == [8] * 6


def test_what_splitting_cannot_help_is_said(tmp_path):
    class Heavy(Callback):
        def before_step(self): torch.empty(2**50)
    Hungry.most = 0
    try:
        with pytest.raises(InputError, match='Expected one item to be small enough'): train(None, make_learner(body=Hungry, bs=2))
    finally: Hungry.most = 8
    with pytest.raises(InputError, match="the optimiser's state to be small enough"): train(None, make_learner(cbs=[Heavy()]))
    class Other(Callback):
        def after_pred(self): raise RuntimeError('something else')
    with pytest.raises(RuntimeError, match='something else'), guard_training(learn := make_learner(cbs=[Other()])): learn.fit(1)
    assert '_do_one_batch' not in vars(learn) and 'forward' not in vars(learn.model)


@pytest.mark.parametrize('size', [1, 3, 5, 100])
@pytest.mark.parametrize('targets', ['labels', 'soft'])
def test_gradients_of_parts_are_those_of_the_batch(size, targets):
    "A network with BatchNorm that keeps its statistics, a loss with class weights, which is no mean over the parts."
    torch.manual_seed(0)
    model = create_backbone('test_resnet', n_out=3, weights='none').train()
    nn.init.normal_(model.get_classifier().weight)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d): m.eval()
    x, y = torch.randn(7, 3, 32, 32), torch.tensor([0, 1, 2, 0, 0, 0, 1]) if targets == 'labels' else torch.rand(7, 3).softmax(1)
    def gradients(size):
        model.zero_grad()
        with _in_parts(model, size): nn.functional.cross_entropy(model(x), y, weight=torch.tensor([1., 5., 20.]), label_smoothing=.1).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])
    whole = gradients(None)
    assert torch.allclose(gradients(size), whole, rtol=1e-4, atol=1e-5 * whole.abs().max())


def test_finding_a_batch_changes_nothing():
    learn = make_learner(cbs=[StopAt(1, 0)])
    with pytest.raises(KeyboardInterrupt): train(None, learn)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), learn.dls.train.rng.getstate()
    assert len(set(find_batch(learn, 0)) | set(find_batch(learn, 1))) == 32
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), learn.dls.train.rng.getstate()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
