"The gap: how often its interval covers, that watching changes nothing, and what is advised when."
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from sft_nb.bench.judge import _notes
from sft_nb.core import InputError
from sft_nb.data.augment import create_augment
from sft_nb.data.items import load_elpv
from sft_nb.data.splits import split_items
from sft_nb.data.store import build_store
from sft_nb.evaluate.evaluation import evaluate_predictions
from sft_nb.models.backbones import create_backbone, input_statistics
from sft_nb.records import make_predictions
from sft_nb.report.page import save_page
from sft_nb.tasks.image import image_block
from sft_nb.tasks.inputs import score_items
from sft_nb.tasks.targets import LabelLoss, LabelsLoss, NumberLoss, create_loss, describe_targets
from sft_nb.train.learner import create_learner
from sft_nb.train.monitor import WatchGap, advise_training, constant_loss, measure_gap
from sft_nb.train.schedule import fine_tune

def covers(draw, truth, times=1000, **kwargs) -> float:
    "How often the interval holds the true gap."
    rng = np.random.default_rng(0)
    gaps = [measure_gap(*draw(rng), **kwargs) for _ in range(times)]
    return np.mean([g['gap_low'] <= truth <= g['gap_high'] for g in gaps])

@pytest.mark.parametrize('n', [30, 250])
def test_interval_covers_for_losses_as_they_are(n):
    "Losses of a network are skewed: most near zero, some large. Cross-entropy of calibrated answers, here."
    def losses(rng, sharp, n):
        p = stats.beta(sharp, .3).rvs(n, random_state=rng)
        return -np.log(np.where(rng.random(n) < p, p, 1 - p).clip(1e-6))
    rng = np.random.default_rng(1)
    truth = losses(rng, .6, 400_000).mean() - losses(rng, 3., 400_000).mean()
    share = covers(lambda r: (losses(r, 3., n), losses(r, .6, n)), truth)
    assert share > (.91 if n == 30 else .93), share

def test_interval_covers_groups():
    groups = np.repeat(range(25), 4)
    draw = lambda rng: (rng.normal(size=100), np.repeat(rng.normal(size=25), 4) + .2 * rng.normal(size=100) + .5)
    assert covers(draw, .5) < .85
    assert covers(draw, .5, new_groups=groups) > .93

def test_gap_is_welchs():
    rng = np.random.default_rng(0)
    a, b = rng.exponential(size=40), rng.exponential(size=70)
    welch = stats.ttest_ind(b, a, equal_var=False).confidence_interval(.9)
    gap = measure_gap(a, b, confidence_level=.9)
    assert (gap['gap_low'], gap['gap_high']) == pytest.approx((welch.low, welch.high))
    assert measure_gap(a, b, seen_groups=range(40), new_groups=list(map(str, range(70))), confidence_level=.9) == pytest.approx(gap)
    with pytest.raises(InputError, match='at least two items'): measure_gap(a[:1], b)
    with pytest.raises(InputError, match='at least two on each side'): measure_gap(a, b, new_groups=['one'] * 70)
    assert measure_gap(np.zeros(5), np.zeros(5)) == dict(gap=0, gap_low=0, gap_high=0)

@pytest.mark.parametrize('loss, target, n_out, truth', [
    (LabelLoss(), torch.tensor([0] * 6 + [1] * 3 + [2]), 3, stats.entropy([.6, .3, .1])),
    (LabelLoss(), torch.tensor([[.9, .1], [.3, .7]]), 2, stats.entropy([.6, .4])),
    (LabelsLoss(), torch.tensor([[1., 0], [0, 0], [0, 0], [1, 1]]), 2, (np.log(2) + stats.entropy([.75, .25])) / 2),
    (NumberLoss(), torch.tensor([0., .5, 1.]), 1, 1 / 12)])
def test_constant_answers(loss, target, n_out, truth):
    assert constant_loss(loss, target, n_out) == pytest.approx(truth, abs=1e-4)

@pytest.mark.parametrize('loss', [LabelLoss(weight=torch.tensor([.6, 3.])), LabelLoss(focal_gamma=2.), LabelLoss(label_smoothing=.1)])
def test_constant_answer_is_the_best_of_many(loss):
    target = torch.tensor([0] * 15 + [1] * 5)
    loss.reduction = 'none'
    tried = min(loss(torch.tensor([[0., z]], dtype=torch.float32).expand(20, 2), target).mean().item() for z in np.linspace(-4, 4, 401).tolist())
    loss.reduction = 'mean'
    assert constant_loss(loss, target, 2) == pytest.approx(tried, abs=1e-4)

# --- While training -------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def cells():
    items = load_elpv().groupby('target', group_keys=False).head(24).reset_index(drop=True)
    items = split_items(items, valid=.3, test=.1, seed=0)
    return items, build_store(items, size=32)

@pytest.mark.parametrize('soft', [None, 'probability'])
def test_seen_items_are_asked_as_new_ones_are(cells, soft):
    "No augmentation, no dropout, the weights of the end of the epoch: what the bare network says of the stored images."
    items, store = cells
    targets = describe_targets(items, task='single_label', positive='defective', soft=soft)
    def train(*cbs):
        torch.manual_seed(0)
        model = create_backbone('tf_efficientnet_lite0', n_out=2, drop_rate=.5)
        block = image_block(targets, store=store, augment=create_augment('strong', size=32), statistics=input_statistics(model), seed=0)
        learn = create_learner(block.dataloaders(items, bs=8, num_workers=0), model, loss=create_loss(targets, items), task='single_label', seed=0, cbs=cbs)
        return learn, fine_tune(learn, 1, lr=3e-3)
    (learn, history), (other, plain) = train(WatchGap(0)), train()
    assert all(v.equal(other.model.state_dict()[k]) for k, v in learn.model.state_dict().items()) # watching changes nothing
    assert history[plain.columns].drop(columns='seconds').equals(plain.drop(columns='seconds'))
    kept, part = history[history.kept].iloc[0], lambda split: items[items.split == split].reset_index(drop=True)
    train_items, valid = part('train').iloc[learn.watch_gap.rows], part('valid')
    assert len(train_items) == len(valid)
    def losses(rows):
        p = score_items(learn.model, store, rows['id'], targets)
        t = np.stack([1 - rows[soft], rows[soft]], 1) if soft else np.eye(2)[targets.encode(rows)]
        return -(t * np.log(p)).sum(1)
    seen, new = losses(train_items), losses(valid)
    assert kept.train_eval_loss == pytest.approx(seen.mean(), rel=1e-3) and kept.gap == pytest.approx(new.mean() - seen.mean(), abs=2e-3)
    assert kept.gap_high == pytest.approx(measure_gap(seen, new)['gap_high'], abs=2e-3)
    assert history.gap.notna().all() and history.constant_loss.nunique() == 1

def test_groups_reach_the_interval(cells):
    items, store = cells
    items = items.assign(group=[f'{s}{i % 4}' for i, s in enumerate(items.split)])
    targets = describe_targets(items, task='single_label', positive='defective')
    found = []
    for of in (items, items.drop(columns='group'), items.assign(group=items.split)):
        model = create_backbone('tf_efficientnet_lite0', n_out=2)
        torch.nn.init.normal_(model.classifier.weight, generator=torch.Generator().manual_seed(0))
        block = image_block(targets, store=store, augment=create_augment('none', size=32), statistics=input_statistics(model), seed=0)
        learn = create_learner(block.dataloaders(items, bs=8, num_workers=0), model, loss=create_loss(targets, items), task='single_label', seed=0, cbs=[WatchGap(0, of)])
        with learn.no_bar(), learn.no_logging(): learn.validate()
        found.append(learn.score_valid.scores)
    assert found[0]['gap'] == found[1]['gap'] and found[0]['gap_low'] != found[1]['gap_low']
    assert np.isnan(found[2]['gap']) and found[2]['train_eval_loss'] == found[0]['train_eval_loss'] # one group a side: nothing to see, and nothing to stop for

# --- Advice ---------------------------------------------------------------------------------------------------------

def history(train, valid, half=.05, constant=.69) -> pd.DataFrame:
    "Epochs from -1 on."
    h = pd.DataFrame(dict(epoch=range(-1, len(train) - 1), train_eval_loss=train, valid_loss=valid, constant_loss=constant))
    return h.assign(gap=h.valid_loss - h.train_eval_loss, gap_low=h.valid_loss - h.train_eval_loss - half, gap_high=h.valid_loss - h.train_eval_loss + half, kept=h.valid_loss == h.valid_loss.min())

@pytest.mark.parametrize('train, valid, half, word', [
    ([.60, .40, .20, .10], [.60, .45, .48, .55], .05, 'learns by heart'),         # open, and new items pay
    ([.60, .40, .20, .10], [.60, .45, .48, .55], .50, None),                      # open, but the interval does not say so
    ([.60, .40, .20, .10], [.60, .50, .45, .40], .05, None),                      # open, and new items gain
    ([.60, .45, .43, .42], [.60, .45, .46, .47], .05, None),                      # hardly a gap
    ([.60, .20, .10, .05], [.45, .50, .60, .70], .05, 'before the first epoch'),  # it was never better than the probe
    ([.69, .68, .67, .66], [.69, .69, .68, .68], .05, 'Little was learnt'),       # both high
    ([.69, .60, .50, .40], [.69, .65, .60, .58], .05, None)])                     # one high
def test_advice(train, valid, half, word):
    found = advise_training(history(train, valid, half))
    assert len(found) == (word is not None) and (word is None or word in found[0])

def test_advice_is_silent_without_a_watch():
    h = history([.6, .1], [.6, .9])
    assert advise_training(h.drop(columns='gap')) == [] and advise_training(h.assign(gap=np.nan)) == [] and advise_training(h.iloc[:1]) == []

def test_advice_stands_in_the_report():
    "As the history comes back from its file."
    rows = json.loads(history([.60, .40, .20, .10], [.60, .45, .48, .55]).to_json(orient='records'))
    assert any('learns by heart' in note for note in _notes(rows))
    assert not any('learns' in note for note in _notes([{k: r[k] for k in ('epoch', 'valid_loss', 'kept')} for r in rows]))

def test_report_draws_the_gap_with_its_interval(browser, tmp_path):
    "In the place of the one that is taken from the loss during training; the new columns are no metrics."
    preds = make_predictions([f'i{k}' for k in range(20)], [0, 1] * 10, np.tile([[.8, .2], [.3, .7]], (10, 1)), task='single_label', labels=('a', 'b'))
    evaluation = evaluate_predictions(preds, seed=0)
    def figures(history):
        path = save_page(replace(evaluation, context=dict(history=json.loads(history.to_json(orient='records')))), tmp_path/'page.html')
        page = browser.new_page()
        page.goto(f'file://{path}#training')
        page.wait_for_selector('text=Gap: valid minus train loss')
        found = page.locator('section, figure').all_inner_texts(), page.locator('path.band').count()
        page.close()
        return ' '.join(found[0]), found[1]
    watched = history([.60, .40, .20], [.60, .45, .48]).assign(train_loss=[None, .5, .3], lr=1e-4, accuracy=.7)
    text, bands = figures(watched)
    assert bands == 1 and 'in evaluation' in text and 'Gap low' not in text.split('The numbers')[0]
    text, bands = figures(watched[['epoch', 'train_loss', 'valid_loss', 'lr', 'kept']])
    assert bands == 0 and 'in evaluation' not in text
