"The search as a job and as a command: the test split is read once, at the end, or not at all."
import json

import numpy as np
import pytest
import yaml
from PIL import Image

from sft_nb.bench.tune import tune_job
from sft_nb.cli import main
from sft_nb.config import make_config, read_config
from sft_nb.core import InputError
from sft_nb.ledger import Ledger
from sft_nb.records import Evaluation

SPACE = {'train.lr': dict(low=1e-5, high=1e-2, log=True)}


@pytest.fixture(scope='module')
def given(tmp_path_factory) -> dict:
    "A configuration of two tints that a random network can tell apart."
    folder, rng = tmp_path_factory.mktemp('data')/'photos', np.random.default_rng(0)
    for label, shift in [('plain', 0), ('tinted', 40)]:
        (folder/label).mkdir(parents=True)
        for i in range(30): Image.fromarray((rng.normal(120, 50, (40, 40, 3)) + np.array([shift, 0, -shift])).clip(0, 255).astype(np.uint8)).save(folder/label/f'{i}.png')
    return dict(data=dict(path=str(folder)), model=dict(backbone='test_efficientnet', weights='none', size=32), train=dict(epochs=1, batch_size=18),
                split=dict(valid=.25, test=.35), evaluate=dict(n_resamples=200))


def reads(folder) -> list: return [why for path in sorted(folder.rglob('ledger.sqlite')) for why in Ledger(path).to_frame('read')['why']]


def test_without_fresh_seeds_the_test_split_stays_unread(given, tmp_path):
    tuned = tune_job(make_config(given), tmp_path, n_trials=2, n_seeds=0, space=SPACE, say=lambda line: None)
    assert tuned.evaluation is None and tuned.seeds.empty and not reads(tmp_path) and not list(tmp_path.rglob('predictions-test*'))
    assert tuned.probe.spent['trials'] == 2 and 'same number of trials' in repr(tuned) and set(tuned.scores) == {'fine-tuning', 'linear probe'}
    assert set(tuned.probe.space) == {'train.probe_strength', 'train.class_weights'} and tuned.probe.config.train.epochs == 0
    with pytest.raises(InputError, match='`n_seeds`'): tune_job(make_config(given), tmp_path, n_trials=2, n_seeds=-1)


def test_the_command(given, tmp_path, capsys, monkeypatch):
    "From a configuration to a report; the same command again reads nothing; what it found can be run."
    monkeypatch.chdir(tmp_path)
    (tmp_path/'my.yaml').write_text(yaml.safe_dump(given | dict(standard=dict(accuracy=.999))))
    (tmp_path/'space.yaml').write_text('train.lr: {low: 1e-5, high: 1e-2, log: true}\n')
    command = ['tune', 'my.yaml', '--trials', '4', '--seeds', '2', '--space', 'space.yaml', '--sampler', 'random', '--pruner', 'hyperband']
    assert main(command) == 2 # the standard is out of reach
    said, out = capsys.readouterr().out, tmp_path/'runs'/'my-search'
    for part in ('Trial 3 ', 'linear probe had the same number', 'With 2 fresh seeds', 'linear probe, tuned', 'best.yaml', 'CANNOT SAY'): assert part in said, part
    evaluation, once = Evaluation.load(out/'evaluation.json'), reads(out)
    assert evaluation.context['search']['fine_tuning']['trials'] == evaluation.context['search']['probe']['trials'] == 4
    assert any('chosen among 4' in note for note in evaluation.context['notes']) and (out/'report.html').stat().st_size > 10_000
    assert set(once) == {'after a search of 4 trials'} and not list((out/'search').rglob('ledger.sqlite'))
    assert main(command) == 2 and reads(out) == once
    seeds = {read_config(p).train.seed for p in (out/'seeds').glob('*/config.yaml')}
    assert 0 not in seeds and len(seeds) == 2
    assert read_config(out/'search'/'best.yaml').train.lr >= 1e-5


def test_mistakes_are_sentences(given, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'my.yaml').write_text(yaml.safe_dump(given))
    (tmp_path/'space.yaml').write_text('train.lrr: {low: 1e-5, high: 1e-2}\ntrain.epochs: {low: 0.5, high: 2}\n')
    assert main(['tune', 'my.yaml', '--space', 'space.yaml']) == 1
    err = capsys.readouterr().err
    assert 'Did you mean `train.lr`' in err and '`train.epochs: low` to be a whole number' in err and 'Traceback' not in err
    assert main(['tune', 'my.yaml', '--space', 'none.yaml']) == 1 and 'none.yaml' in capsys.readouterr().err
    assert main(['tune', 'my.yaml', '--sampler', 'grid']) == 1 and 'tpe, random' in capsys.readouterr().err
