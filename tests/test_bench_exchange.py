"Results for others: the same numbers come back, intervals and gaps are not lost on the way, and what is logged twice is there once."
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub._eval_results import parse_eval_result_entries
from mlflow import MlflowClient
from test_bench_suite import write_suite
from test_cli import SFT_NB, fails, make_photos

from sft_nb.bench.exchange import export_results, log_mlflow, tidy_results, write_hub
from sft_nb.bench.leaderboard import build_leaderboard
from sft_nb.bench.suite import open_suite, read_suite, run_suite
from sft_nb.cli import main
from sft_nb.core import InputError
from sft_nb.ledger import Ledger
from sft_nb.records import Evaluation
from sft_nb.report.hub import check_card


@pytest.fixture(scope='module')
def suite(tmp_path_factory):
    "Two tasks, two recipes, two seeds, and a recipe that fails: the folder."
    folder = tmp_path_factory.mktemp('exchange')
    path = write_suite(folder/'s.yaml', make_photos(folder/'photos'))
    given = yaml.safe_load(path.read_text())
    given['recipes']['broken'] = dict(model=dict(backbone='tf_efficientnet_lite9'))
    path.write_text(yaml.safe_dump(given | dict(leave_out=[dict(task='small', recipe='broken')]), sort_keys=False))
    assert main(['suite', str(path), '--out', str(folder/'out')]) == 2
    return folder/'out'


@pytest.fixture(scope='module')
def run(suite): return suite/'small'/'tuned'/'0'


def read(path): return pd.read_csv(path) if path.suffix == '.csv' else pd.read_parquet(path)


def runs_of(store) -> list:
    client = MlflowClient(f'sqlite:///{store}')
    return client.search_runs([client.get_experiment_by_name('sft_nb').experiment_id])


@pytest.mark.parametrize('to', ['csv', 'parquet'])
def test_a_run_comes_back_as_it_was(run, tmp_path, capsys, to):
    assert main(['export', str(run), '--to', to, '--out', str(tmp_path/f'x.{to}')]) == 0 and f'x.{to}' in capsys.readouterr().out
    table, said = read(tmp_path/f'x.{to}'), json.loads((run/'evaluation.json').read_text())
    metrics, differences = table[table.what == 'metric'], table[table.what == 'difference']
    assert (len(metrics), len(differences)) == (len(said['metrics']), len(said['comparisons'])) and len(differences)
    for rows, found, names in ((said['metrics'], metrics, dict(value='value', low='low', high='high', n='n', confidence_level='confidence_level')), (said['comparisons'], differences, dict(difference='value', value='model_value', baseline_value='baseline_value', low='low', p_value='p_value', n='n'))):
        for theirs, ours in names.items(): assert np.allclose(pd.Series([r[theirs] for r in rows], dtype=float), found[ours].astype(float), rtol=1e-13, atol=0, equal_nan=True), theirs
    assert differences.baseline.notna().all() and metrics.method.tolist() == [r['method'] for r in said['metrics']]


@pytest.mark.parametrize('to', ['csv', 'parquet'])
def test_a_suite_comes_back_with_its_gaps(suite, tmp_path, to):
    table, board = read(export_results(suite, to, tmp_path/f'x.{to}')), build_leaderboard(open_suite(suite), suite)
    cells, recipes = table[table.what == 'cell'], table[table.what == 'recipe'].set_index('recipe')
    assert len(cells) == 10 and cells.state.value_counts().to_dict() == dict(done=8, failed=2)
    lost = cells[cells.state == 'failed']
    assert lost.value.isna().all() and lost.why.str.contains('tf_efficientnet_lite9').all() and set(lost.recipe) == {'broken'}
    for r in cells[cells.state == 'done'].itertuples():
        found = Evaluation.load(suite/r.task/r.recipe/str(int(r.seed))).get(r.metric)
        assert (r.value, r.low, r.high, r.n, r.confidence_level) == pytest.approx((found.value, found.low, found.high, found.n, found.confidence_level), rel=1e-13) and r.method == found.method
    assert recipes.missing.to_dict() == dict(probe=0, tuned=0, broken=2) and recipes.state['broken'] == 'incomplete' and '2 cells are missing' in recipes.why['broken']
    assert np.isclose(recipes.seconds['tuned'], board.table.set_index('recipe').seconds['tuned']) and recipes.value.isna().all() # no task that every recipe finished


def test_recipes_have_their_interval_and_n(suite, tmp_path):
    whole = read_suite(suite.parent/'s.yaml')
    whole = type(whole)(**{**vars(whole), 'recipes': {k: v for k, v in whole.recipes.items() if k != 'broken'}, 'leave_out': []})
    board = build_leaderboard(whole, suite)
    recipes = tidy_results(board).query('what == "recipe"').set_index('recipe')
    of = board.table.set_index('recipe')
    for r in ('probe', 'tuned'): assert (recipes.value[r], recipes.low[r], recipes.high[r], recipes.n[r]) == (of.iqm[r], of.low[r], of.high[r], 4)
    assert recipes.confidence_level.tolist() == [.95, .95] and recipes.method.str.contains('bootstrap').all() and recipes.front.any()


def test_the_hub_reads_a_run(run, tmp_path, capsys):
    assert main(['export', str(run), '--to', 'hub', '--out', str(tmp_path/'hub'), '--dataset', 'someone/photos:sky', '--url', 'https://example.org/run']) == 0
    e, card = Evaluation.load(run), ModelCard.load(tmp_path/'hub'/'README.md')
    overall = e.metrics[(e.metrics.label == '') & (e.metrics.slice == '') & np.isfinite(e.metrics.value)].set_index('metric')
    found = {r.metric_type: r for r in card.data.eval_results}
    assert set(found) == set(overall.index) and {r.dataset_type for r in found.values()} == {'someone/photos'}
    for name, r in found.items():
        assert np.isclose(r.metric_value, overall.value[name], rtol=1e-5) and r.metric_args['n'] == overall.n[name] and r.metric_args['method'] == overall.method[name]
        if np.isfinite(overall.low[name]): assert np.isclose(r.metric_args['low'], overall.low[name], rtol=1e-5) and np.isclose(r.metric_args['high'], overall.high[name], rtol=1e-5, atol=1e-9)
    path, = (tmp_path/'hub'/'.eval_results').glob('*.yaml')
    entry, = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.source_url) == ('someone/photos', 'sky', 'https://example.org/run') and entry.date == Ledger(run/'ledger.sqlite').to_frame('read')['time'].iloc[0][:10]
    assert '95% interval' in entry.notes and f'n = {e.n}' in entry.notes


def test_the_hub_reads_each_recipe(suite, tmp_path):
    out = write_hub(suite, tmp_path/'hub', datasets=dict(small='someone/photos'))
    assert {p.name for p in out.iterdir()} == {'probe', 'tuned', 'broken'}
    for recipe in ('probe', 'tuned'):
        results = ModelCard.load(out/recipe/'README.md').data.eval_results
        assert len(results) == 6 # on two tasks two seeds and their mean
        for task in ('small', 'large'):
            mean, *seeds = [r for r in results if r.dataset_name == task]
            values = [Evaluation.load(suite/task/recipe/str(r.metric_args['seed'])).get(r.metric_type) for r in seeds]
            assert np.allclose([r.metric_value for r in seeds], [v.value for v in values], rtol=1e-5) and [r.metric_args['low'] for r in seeds] == pytest.approx([v.low for v in values], rel=1e-5)
            assert mean.metric_value == pytest.approx(np.mean([v.value for v in values]), rel=1e-5) and 'mean of 2 seeds' in mean.metric_name
        entry, = parse_eval_result_entries(yaml.safe_load((out/recipe/'.eval_results'/'small.yaml').read_text()))
        assert entry.value == pytest.approx(mean.metric_value if task == 'small' else np.mean([Evaluation.load(suite/'small'/recipe/str(s)).get(mean.metric_type).value for s in (0, 1)]), rel=1e-5)
        assert entry.notes.count('95% interval') == 2 and not (out/recipe/'.eval_results'/'large.yaml').exists()
    broken = (out/'broken'/'README.md').read_text()
    assert 'model-index' not in check_card(broken) and 'tf_efficientnet_lite9' in broken and 'failed' in broken


def test_mlflow_holds_a_suite_once(suite, tmp_path, capsys):
    store = tmp_path/'deep'/'mlflow.db'
    for _ in range(2): assert main(['export', str(suite), '--to', 'mlflow', '--out', str(store)]) == 0
    first, second = capsys.readouterr().out.split()
    runs = {r.info.run_name: r for r in runs_of(store)}
    assert first == second and len(runs_of(store)) == len(runs) == 11
    parent, cell, lost = runs['photos'], runs['small × tuned, seed 1'], runs['large × broken, seed 0']
    assert parent.info.run_id == first and all(r.data.tags['mlflow.parentRunId'] == first for r in runs.values() if r is not parent)
    assert (parent.info.status, cell.info.status, lost.info.status) == ('FAILED', 'FINISHED', 'FAILED') and 'tf_efficientnet_lite9' in lost.data.tags['why'] and not lost.data.metrics
    place, client = suite/'small'/'tuned'/'1', MlflowClient(f'sqlite:///{store}')
    found, lock = Evaluation.load(place).get('accuracy'), json.loads((place/'lock.json').read_text())
    assert [cell.data.metrics[k] for k in ('accuracy', 'accuracy_low', 'accuracy_high', 'accuracy_n')] == [found.value, found.low, found.high, found.n]
    assert (cell.data.params['train.seed'], cell.data.params['model.size'], cell.data.tags['lock.split'], cell.data.tags['verdict']) == ('1', '32', lock['split'], 'none demanded')
    history = pd.read_csv(place/'history.csv')
    logged = client.get_metric_history(cell.info.run_id, 'history/valid_loss')
    assert {m.step: m.value for m in logged} == dict(zip(history.epoch, history.valid_loss)) and len(logged) == len(history)
    assert {'report.html', 'card.md', 'evaluation.json', 'lock.json'} <= {f.path for f in client.list_artifacts(cell.info.run_id)}
    assert client.download_artifacts(cell.info.run_id, 'evaluation.json', str(tmp_path)) and (tmp_path/'evaluation.json').read_bytes() == (place/'evaluation.json').read_bytes()
    assert (store.parent/'mlartifacts').is_dir() and not Path('mlruns').exists()


def test_what_has_changed_is_written_into_the_same_run(run, tmp_path):
    import shutil
    mine, store = Path(shutil.copytree(run, tmp_path/'mine')), tmp_path/'m.db'
    id = log_mlflow(mine, store)
    text = (mine/'evaluation.json').read_text()
    e = Evaluation.load(mine)
    e.metrics.loc[(e.metrics.metric == 'accuracy') & (e.metrics.label == '') & (e.metrics.slice == ''), 'value'] = .125
    time.sleep(.01)
    e.save(mine/'evaluation.json')
    assert log_mlflow(mine, store) == id
    seen, = runs_of(store)
    assert seen.data.metrics['accuracy'] == .125 and (mine/'evaluation.json').read_text() != text
    assert log_mlflow(run.parent/'1', store) != id and len(runs_of(store)) == 2 # another seed is another run


def test_killed_while_it_logs(suite, tmp_path):
    store = tmp_path/'m.db'
    process = subprocess.Popen([*SFT_NB, 'export', str(suite), '--to', 'mlflow', '--out', str(store)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | dict(CI='1'))
    def begun() -> int:
        try:
            with sqlite3.connect(f'file:{store}?mode=ro', uri=True, timeout=.1) as db: return db.execute('select count(*) from runs').fetchone()[0]
        except sqlite3.Error: return 0
    until = time.monotonic() + 60
    while process.poll() is None and begun() < 4 and time.monotonic() < until: time.sleep(.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and 4 <= begun() < 11
    log_mlflow(suite, store)
    whole = tmp_path/'whole.db'
    log_mlflow(suite, whole)
    plain = lambda store: {r.info.run_name: (r.info.status, r.data.params, r.data.metrics, {k: v for k, v in r.data.tags.items() if k != 'mlflow.parentRunId'}) for r in runs_of(store)}
    assert len(runs_of(store)) == 11 and plain(store) == plain(whole)


def test_the_former_file_store_where_it_is_allowed(run, tmp_path, monkeypatch, capsys):
    store = (tmp_path/'mlruns').as_uri()
    monkeypatch.delenv('MLFLOW_ALLOW_FILE_STORE', raising=False)
    err = fails(capsys, 'export', run, '--to', 'mlflow', '--out', store)
    assert 'maintenance' in err and '--out mlflow.db' in err
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    id = log_mlflow(run, store)
    assert log_mlflow(run, store) == id and MlflowClient(store).get_run(id).data.metrics['accuracy_n'] == Evaluation.load(run).n


def test_without_mlflow_the_command_is_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'mlflow', None)
    assert 'pip install "sft_nb[mlflow]"' in fails(capsys, 'export', run, '--to', 'mlflow', '--out', tmp_path/'m.db')
    assert not list(tmp_path.iterdir())


def test_mlflow_sends_no_usage_data(run, tmp_path):
    code = f"import os, sys\nfor k in ('CI', 'PYTEST_CURRENT_TEST', 'GITHUB_ACTIONS'): os.environ.pop(k, None)\nfrom sft_nb.bench.exchange import log_mlflow\nlog_mlflow({str(run)!r}, {str(tmp_path/'m.db')!r})\nfrom mlflow.telemetry.client import get_telemetry_client\nassert get_telemetry_client() is None\nassert 'MLFLOW_DISABLE_TELEMETRY' not in os.environ"
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_evaluation_alone_is_enough(tmp_path, capsys):
    rng = np.random.default_rng(0)
    pd.DataFrame(dict(id=range(80), target=rng.choice(['a', 'b'], 80), score=rng.uniform(size=80))).to_csv(tmp_path/'p.csv', index=False)
    assert main(['evaluate', str(tmp_path/'p.csv'), '--out', str(tmp_path/'e')]) == 0
    for to in ('csv', 'hub'): assert main(['export', str(tmp_path/'e'), '--to', to]) == 0
    assert main(['export', str(tmp_path/'e'), '--to', 'mlflow', '--out', str(tmp_path/'m.db')]) == 0
    assert (tmp_path/'e'/'results.csv').is_file() and ModelCard.load(tmp_path/'e'/'hub'/'README.md').data.eval_results
    seen, = runs_of(tmp_path/'m.db')
    assert seen.data.metrics['accuracy_n'] == 80 and seen.data.params == {}


@pytest.mark.parametrize('more, part', [
    (['--to', 'xlsx'], 'Known: `csv`'), (['--to', 'parqet'], 'Did you mean `parquet`'), (['--to', 'csv', '--out', '.'], 'a folder'), (['--to', 'mlflow', '--out', 'sqlite:///.'], 'a folder'), (['--to', 'csv', '--dataset', 'a/b'], 'for the Hub'),
    (['--to', 'hub', '--dataset', 'smal=a/b'], 'Did you mean `small`'), (['--to', 'hub', '--dataset', 'small=photos'], 'such as cais/hle'), (['--to', 'hub', '--dataset', 'small=a/b', '--url', 'here'], 'a URL')])
def test_what_cannot_be_exported(suite, tmp_path, monkeypatch, capsys, more, part):
    monkeypatch.chdir(tmp_path)
    assert part in fails(capsys, 'export', suite, *more, *([] if '--out' in more else ['--out', tmp_path/'x']))


def test_a_run_that_is_not_finished(suite, run, tmp_path, capsys):
    for folder in (tmp_path, tmp_path/'nowhere', suite/'small'):
        for to in ('csv', 'hub', 'mlflow'): assert 'sft-nb run' in fails(capsys, 'export', folder, '--to', to, '--out', tmp_path/'out')
    assert 'given without a task' in fails(capsys, 'export', run, '--to', 'hub', '--dataset', 'small=a/b', '--out', tmp_path/'hub')
    (tmp_path/'file').write_text('x')
    assert 'a file' in fails(capsys, 'export', run, '--to', 'hub', '--out', tmp_path/'file') and (tmp_path/'file').read_text() == 'x'


def test_a_suite_goes_on_after_an_export(suite):
    for to in ('csv', 'hub'): export_results(suite, to)
    assert run_suite(read_suite(suite.parent/'s.yaml'), suite, say=lambda line: None).state.value_counts().to_dict() == dict(done=8, failed=2)
    path = suite/'suite.json'
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | dict(tasks=['small', 'large'], recipes=['probe', 'tuned', 'broken'])))
    with pytest.raises(InputError, match='Give the command of the suite again'): tidy_results(suite)
    run_suite(read_suite(suite.parent/'s.yaml'), suite, say=lambda line: None)
    assert path.read_text() == whole
