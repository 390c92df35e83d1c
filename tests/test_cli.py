"""The command line as a person meets it: what goes wrong is a sentence and an exit code, and nothing is lost or half-written."""
import os, resource, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sft_nb.cli import main
from sft_nb.records import Evaluation, Predictions
from sft_nb.train.run import Run

SFT_NB = [sys.executable, '-W', 'ignore', '-c', 'import sys; from sft_nb.cli import main; sys.exit(main())']


def make_photos(folder: Path, n=30, labels=('sky', 'earth'), size=40) -> Path:
    "Two kinds of picture that a network tells apart, most of the time."
    rng = np.random.default_rng(0)
    for k, label in enumerate(labels):
        (folder/label).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 140, (size, size, 3)) + np.array([40 + 20 * k, 50, 60 - 20 * k])
            Image.fromarray(pixels.astype(np.uint8)).save(folder/label/f'{i:02d}.png')
    return folder


@pytest.fixture(scope='module')
def photos(tmp_path_factory) -> Path: return make_photos(tmp_path_factory.mktemp('data')/'ph tos é')


def write_config(path: Path, source, **sections) -> Path:
    config = dict(data=dict(path=str(source)), model=dict(size=32), train=dict(epochs=0, batch_size=8), split=dict(valid=.2, test=.3), evaluate=dict(n_resamples=200))
    for name, section in sections.items(): config[name] = {**config.get(name, {}), **section}
    path.write_text(yaml.safe_dump(config), encoding='utf-8')
    return path


def fails(capsys, *argv, code=1) -> str:
    "What the command says when it fails; never a traceback."
    assert main([str(a) for a in argv]) == code
    err = capsys.readouterr().err
    assert 'Traceback' not in err and err.strip()
    return err


def leftovers(folder: Path) -> list: return [p for p in folder.rglob('.*') if p.is_file() and p.suffix != '.lock'] if folder.exists() else []


def test_unknown_and_mistyped_keys_are_listed_together(tmp_path, photos, capsys):
    path = write_config(tmp_path/'c.yaml', photos, trian=dict(epochs=1), train=dict(epochs='two', optimiser='sgd'))
    err = fails(capsys, 'run', path, '--out', tmp_path/'run')
    for part in ('`trian`', 'Did you mean `train`', '`train.optimiser`', 'Did you mean `optimizer`', '`train.epochs`', "'two'"): assert part in err
    assert not (tmp_path/'run').exists()


def test_unknown_backbone_suggests_near_names(tmp_path, photos, capsys):
    err = fails(capsys, 'run', write_config(tmp_path/'c.yaml', photos, model=dict(backbone='tf_eficientnet_lite0')), '--out', tmp_path/'run')
    assert 'tf_eficientnet_lite0' in err and '`tf_efficientnet_lite0`' in err


def test_missing_weights_are_an_error_not_random(tmp_path, photos, capsys, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)  # else the hub is tried for a minute
    err = fails(capsys, 'run', write_config(tmp_path/'c.yaml', photos, model=dict(backbone='resnet18')), '--out', tmp_path/'run')
    assert 'pretrained weights of `resnet18`' in err and '`none`' in err and 'tf_efficientnet_lite0' in err


def test_data_that_is_not_there(tmp_path, capsys):
    assert 'nowhere' in fails(capsys, 'run', write_config(tmp_path/'c.yaml', tmp_path/'nowhere'), '--out', tmp_path/'run')
    assert 'c2.yaml' in fails(capsys, 'run', tmp_path/'c2.yaml')


def test_a_column_that_does_not_exist(tmp_path, photos, capsys):
    files = sorted(photos.rglob('*.png'))
    (tmp_path/'t.csv').write_text('file,lable\n' + ''.join(f'{f},{f.parent.name}\n' for f in files), encoding='utf-8')
    err = fails(capsys, 'run', write_config(tmp_path/'c.yaml', tmp_path/'t.csv'), '--out', tmp_path/'run')
    assert "'label'" in err and '`lable`' in err


def test_every_bad_file_is_named(tmp_path, capsys):
    folder = make_photos(tmp_path/'photos')
    (folder/'sky'/'00.png').write_bytes(b'')
    (folder/'sky'/'01.jpg').write_text('not a picture')
    whole = (folder/'earth'/'00.png').read_bytes()
    (folder/'earth'/'00.png').write_bytes(whole[:len(whole) // 2])
    err = fails(capsys, 'run', write_config(tmp_path/'c.yaml', folder), '--out', tmp_path/'run')
    for name in ('sky/00.png', 'sky/01.jpg', 'earth/00.png'): assert name in err, name
    assert not (tmp_path/'run'/'model').exists()


@pytest.mark.parametrize('labels, n, words', [(('sky',), 30, 'at least 2 labels'), (('sky', 'earth'), 1, 'earth')])
def test_too_few_classes_or_examples(tmp_path, capsys, labels, n, words):
    folder = make_photos(tmp_path/'photos', n=n, labels=labels)
    assert words in fails(capsys, 'run', write_config(tmp_path/'c.yaml', folder), '--out', tmp_path/'run')


def test_a_leak_stops_training_and_a_warning_does_not(tmp_path, photos, capsys):
    files = sorted(photos.rglob('*.png'))
    rows = [f'{i},{f},{f.parent.name},{("train", "train", "train", "valid", "test")[i % 5]}' for i, f in enumerate(files)]
    rows.append(f'copy,{files[0]},{files[0].parent.name},test')
    (tmp_path/'t.csv').write_text('\n'.join(['name,file,label,part', *rows]), encoding='utf-8')
    given = dict(data=dict(path=str(tmp_path/'t.csv'), id='name', split='part'), split=dict(method='given'))
    err = fails(capsys, 'run', write_config(tmp_path/'c.yaml', '', **given), '--out', tmp_path/'run')
    assert 'copy' in err and 'on_leak' in err
    given['split']['on_leak'] = 'warn'
    run = ['run', str(write_config(tmp_path/'c.yaml', '', **given)), '--out', str(tmp_path/'run')]  # the same folder, as one would
    assert main(run) == 0 and 'leak' in capsys.readouterr().out
    other = write_config(tmp_path/'c.yaml', '', **given, train=dict(seed=7))
    assert 'another' in fails(capsys, 'run', other, '--out', tmp_path/'run')  # now there is something to lose


def test_another_runs_folder_is_left_alone(tmp_path, photos, capsys):
    (tmp_path/'run').mkdir(); (tmp_path/'run'/'precious.txt').write_text('mine')
    assert 'new or empty' in fails(capsys, 'run', write_config(tmp_path/'c.yaml', photos), '--out', tmp_path/'run')
    assert [p.name for p in (tmp_path/'run').iterdir()] == ['precious.txt']


def test_a_folder_that_cannot_be_written(tmp_path, photos, capsys):
    locked = Path('/sys/sft_nb') if os.geteuid() == 0 else tmp_path/'locked'/'run'
    if os.geteuid(): locked.parent.mkdir(mode=0o555)
    err = fails(capsys, 'run', write_config(tmp_path/'c.yaml', photos), '--out', locked)
    assert str(locked) in err and 'writable' in err


def test_a_standard_that_is_missed_exits_with_2(tmp_path, photos, capsys):
    path = write_config(tmp_path/'c.yaml', photos, standard=dict(accuracy=1.0))
    assert main(['run', str(path), '--out', str(tmp_path/'run')]) == 2
    assert 'FAIL' in capsys.readouterr().out


def test_init_writes_a_configuration_that_runs(tmp_path, photos, capsys):
    files = sorted(photos.rglob('*.png'))
    (tmp_path/'t.tsv').write_text('path\tclass\n' + ''.join(f'{f}\t{f.parent.name}\n' for f in files), encoding='utf-8')
    assert main(['init', str(tmp_path/'t.tsv'), '--out', str(tmp_path/'c.yaml')]) == 0
    config = yaml.safe_load((tmp_path/'c.yaml').read_text(encoding='utf-8'))
    assert config['data']['input'] == 'path' and config['data']['target'] == 'class'
    config['model']['size'], config['train']['epochs'] = 32, 0
    (tmp_path/'c.yaml').write_text(yaml.safe_dump(config), encoding='utf-8')
    assert main(['run', str(tmp_path/'c.yaml'), '--out', str(tmp_path/'run')]) == 0
    assert 'exists' in fails(capsys, 'init', tmp_path/'t.tsv', '--out', tmp_path/'c.yaml')


def test_stress_asks_a_finished_run(tmp_path, photos, capsys):
    "Robustness and forgetting go into evaluation, report and card; asked again, the test split is not read again; bad questions cost nothing."
    run, ask = tmp_path/'run', lambda *more: ['stress', str(tmp_path/'run'), '--items', '12', '--corruptions', 'contrast', '--probe-items', '40', *more]
    assert 'finished' in fails(capsys, *ask('--probe', 'none'))
    assert main(['run', str(write_config(tmp_path/'c.yaml', photos)), '--out', str(run)]) == 0
    before = Evaluation.load(run/'evaluation.json')
    assert 'traffic-lights' in fails(capsys, *ask('--probe', 'trafic-lights')) and 'gaussian_noise' in fails(capsys, *ask()[:4], '--corruptions', 'gausian_noise', '--probe', 'none')
    assert not (run/'stress').exists() and 'robustness' not in set(Run(run).ledger.to_frame()['why'])
    probe = make_photos(tmp_path/'probe', 12, ('wood', 'stone', 'sand'))
    assert main(ask('--probe', str(probe))) == 0
    said, after = capsys.readouterr().out, Evaluation.load(run/'evaluation.json')
    assert 'mean_corruption_error' in said and 'agreement with the base' in said
    assert after.metrics.equals(before.metrics) and {'robustness', 'corruptions', 'robustness_cells', 'forgetting'} <= set(after.curves) and after.context['test_reads'] == 2
    assert '"robustness","forgetting"' in (run/'report.html').read_text(encoding='utf-8')
    assert main(ask('--probe', 'none')) == 0
    again = Evaluation.load(run/'evaluation.json')
    assert again.context['test_reads'] == 2 and again.curves['corruptions'].equals(after.curves['corruptions']) and len(again.curves['forgetting'])


@pytest.mark.parametrize('task', ['multi_label', 'regression'])
def test_other_tasks_from_a_table_to_a_report(tmp_path, photos, capsys, task):
    "Labels separated by ;, none of them for some; and numbers. What init writes is run, reported and used."
    rows, rng = sorted(photos.rglob('*.png')), np.random.default_rng(0)
    several = lambda f: ';'.join([f.parent.name] * (f.stem[-1] != '9') + ['odd'] * (int(f.stem) % 2))
    label = several if task == 'multi_label' else lambda f: round((f.parent.name == 'sky') + .1 * rng.normal(), 3)
    (tmp_path/'t.csv').write_text('file,label,half\n' + ''.join(f'{f},{label(f)},{"low" if int(f.stem) < 15 else "high"}\n' for f in rows), encoding='utf-8')
    assert main(['init', str(tmp_path/'t.csv'), '--out', str(tmp_path/'c.yaml')]) == 0
    config = yaml.safe_load((tmp_path/'c.yaml').read_text(encoding='utf-8'))
    assert config['data']['task'] == task
    config['data']['slices'], config['model']['size'], config['train']['epochs'] = ['half'], 32, 1
    (tmp_path/'c.yaml').write_text(yaml.safe_dump(config), encoding='utf-8')
    run = tmp_path/'run'
    assert main(['run', str(tmp_path/'c.yaml'), '--out', str(run)]) == 0
    evaluation = Evaluation.load(run/'evaluation.json')
    headline = dict(multi_label='f1', regression='mae')[task]
    rows_of = evaluation.metrics[evaluation.metrics.metric == headline]
    assert set(rows_of.slice) == {'', 'half=low', 'half=high'}
    assert set(evaluation.comparisons.baseline) == {'linear probe', 'majority label' if task == 'multi_label' else 'mean'}
    assert (run/'report.html').stat().st_size > 10_000 and headline in capsys.readouterr().out
    assert main(['predict', str(run), str(rows[0])]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == ('file,prediction,score_earth,score_odd,score_sky' if task == 'multi_label' else 'file,prediction') and str(rows[0]) in said[1]


def test_predict_takes_odd_pictures_and_names_bad_ones(tmp_path, photos, capsys):
    run = tmp_path/'run'
    assert main(['run', str(write_config(tmp_path/'c.yaml', photos)), '--out', str(run)]) == 0
    capsys.readouterr()
    rgb = Image.open(next(photos.rglob('*.png')))
    rgb.convert('RGBA').save(tmp_path/'a.png'); rgb.convert('P').save(tmp_path/'p.png')
    Image.fromarray((np.asarray(rgb.convert('L')).astype(np.uint16) * 257)).save(tmp_path/'deep.png')
    odd = [str(tmp_path/n) for n in ('a.png', 'p.png', 'deep.png')]
    assert main(['predict', str(run), *odd]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == 'file,prediction,score_earth,score_sky' and len(lines) == 4
    (tmp_path/'bad.png').write_text('no')
    err = fails(capsys, 'predict', run, *odd, tmp_path/'bad.png', tmp_path/'gone.png')
    assert 'bad.png' in err and 'gone.png' in err


def start(config: Path, out: Path, **kwargs):
    # A shell ignores SIGINT in what it starts in the background, and children inherit that: a test run there must not.
    kwargs.setdefault('preexec_fn', lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen([*SFT_NB, 'run', str(config), '--out', str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def wait_for(path: Path, process, seconds=120):
    end = time.time() + seconds
    while not path.exists():
        assert process.poll() is None and time.time() < end, process.communicate()
        time.sleep(.02)


def test_ctrl_c_and_kill_lose_nothing(tmp_path, photos):
    "Stopped by SIGINT, then by SIGKILL, then left alone: the end is that of a run that nobody stopped, bit for bit."
    config = write_config(tmp_path/'c.yaml', photos, train=dict(epochs=12, batch_size=4))
    whole = start(config, tmp_path/'whole')
    process = start(config, tmp_path/'run')
    wait_for(tmp_path/'run'/'checkpoint.safetensors', process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and f'Nothing is lost. To go on: sft-nb run {config} --out {tmp_path}/run' in err and 'Traceback' not in err, err
    assert not leftovers(tmp_path/'run')
    process, first = start(config, tmp_path/'run'), (tmp_path/'run'/'checkpoint.safetensors').stat().st_mtime_ns
    while process.poll() is None and (tmp_path/'run'/'checkpoint.safetensors').stat().st_mtime_ns == first: time.sleep(.02)
    process.kill()
    process.communicate()
    process = start(config, tmp_path/'run')
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert whole.wait(timeout=300) == 0
    a, b = (Predictions.load(tmp_path/name/'predictions-test.parquet') for name in ('whole', 'run'))
    assert (a.score == b.score).all() and (a.ids == b.ids).all()
    assert (tmp_path/'whole'/'model'/'model.safetensors').read_bytes() == (tmp_path/'run'/'model'/'model.safetensors').read_bytes()


def test_a_full_disk_is_a_sentence(tmp_path, photos):
    "A limit on the size of files makes the kernel refuse the write in the middle, as a full disk does."
    config = write_config(tmp_path/'c.yaml', photos)
    limit = lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    process = start(config, tmp_path/'run', preexec_fn=limit, env={**os.environ, 'SFT_NB_CACHE': os.environ.get('SFT_NB_CACHE', str(Path.home()/'.cache'/'sft_nb'))})
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and 'Traceback' not in err, err
    assert 'Free some space' in err or 'free some space' in err, err
    assert not leftovers(tmp_path/'run') and not (tmp_path/'run'/'evaluation.json').exists()


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError): main(['--debug', 'run', str(tmp_path/'none.yaml')])
