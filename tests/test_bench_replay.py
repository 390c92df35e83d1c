"`sft-nb replay`: what comes out again, what does not, and what somebody has changed in between."
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_cli import fails, make_photos, write_config

from sft_nb.bench.replay import find_edits, replay_run
from sft_nb.cli import main
from sft_nb.records import Predictions
from sft_nb.train.run import Run

QUIET = dict(say=lambda line: None)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A run, and the folder of its pictures."
    folder = tmp_path_factory.mktemp('replay')
    photos = make_photos(folder/'photos')
    assert main(['run', str(write_config(folder/'c.yaml', photos, train=dict(epochs=1)))] + ['--out', str(folder/'run')]) == 0
    return folder


def copy(made, name): return Run(shutil.copytree(made/'run', made/name))


def test_from_the_terminal(made, capsys):
    assert main(['replay', str(made/'run')]) == 0
    assert 'IDENTICAL. All predictions are the same, bit for bit.' in capsys.readouterr().out
    assert (made/'run-replay'/'report.html').exists()
    assert Run(made/'run').count_reads() == 2
    assert 'a finished run' in fails(capsys, 'replay', made/'photos')


@pytest.mark.parametrize('table, field', [('metrics', 'value'), ('metrics', 'low'), ('comparisons', 'p_value'), ('metrics', 'n')])
def test_an_edited_number_is_noticed(made, table, field):
    run = copy(made, f'edited-{table}-{field}')
    said = json.loads((run/'evaluation.json').read_text())
    i = next(i for i, row in enumerate(said[table]) if row[field])
    said[table][i][field] *= .9
    (run/'evaluation.json').write_text(json.dumps(said))
    edit, = find_edits(run).to_dict('records')
    assert (edit['table'], edit['metric'], edit['what']) == (table, said[table][i]['metric'], field)
    replayed = replay_run(run, made/f'edited-{table}-{field}-again', **QUIET)
    assert replayed.verdict == 'different' and 'does not follow from the predictions' in repr(replayed)


def test_a_number_that_was_left_out_is_noticed(made):
    run = copy(made, 'short')
    said = json.loads((run/'evaluation.json').read_text())
    gone = said['metrics'].pop(1)
    (run/'evaluation.json').write_text(json.dumps(said))
    edits = find_edits(run)
    assert edits.metric.tolist() == [gone['metric']] and edits.what.tolist() == ['not reported']


def test_edited_predictions_do_not_come_out_again(made):
    "Predictions that were improved, with numbers that follow from them: only training again shows it."
    run = copy(made, 'improved')
    preds = run.predictions('test')
    frame = preds.to_frame()
    score = np.eye(2)[preds.target] * .98 + .01
    replace(preds, score=score).save(run/'predictions-test.parquet')
    from sft_nb.bench.judge import judge_runs
    better = judge_runs([run])
    better.save(run/'evaluation.json')
    assert not len(find_edits(run)) and len(frame) == better.n
    replayed = replay_run(run, made/'improved-again', **QUIET)
    assert replayed.verdict == 'different' and 'Nothing that went in differs' in repr(replayed) and len(replayed.comparison)


def test_what_went_in_is_named(made, tmp_path):
    "A picture that was exchanged."
    run = copy(made, 'other-data')
    photos = tmp_path/'photos'
    shutil.copytree(made/'photos', photos)
    picture = made/'photos'/'sky'/'00.png'
    before = picture.read_bytes()
    try:
        Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(picture)
        replayed = replay_run(run, made/'other-data-again', **QUIET)
    finally: picture.write_bytes(before)
    assert 'images' in set(replayed.inputs.what) and 'What went in differs: images was' in repr(replayed)
    assert replayed.verdict in ('within the interval', 'different')


def test_a_replay_goes_on(made):
    run = copy(made, 'stopped')
    first = replay_run(run, made/'stopped-again', **QUIET)
    (made/'stopped-again'/'predictions-test.parquet').unlink()
    (made/'stopped-again'/'evaluation.json').unlink()
    assert replay_run(run, made/'stopped-again', **QUIET).verdict == first.verdict == 'identical'
