"Runs side by side: the same differences as `compare_models`, the items on which they disagree, and a page that shows both."
import json

import numpy as np
import pandas as pd
import pytest
from test_report_browser import keep, opened, tab

from sft_nb.core import InputError
from sft_nb.evaluate.compare import compare_predictions
from sft_nb.records import make_predictions
from sft_nb.report.compare import build_comparison
from sft_nb.report.example import draw_cell
from sft_nb.report.widgets import build_report, compare_runs

NASTY = '<script>alert(1)</script> "é" \u202eabc ' + '🙂' * 60


def detectors(n=300, names=('small', 'large', 'other'), labels=('fine', 'broken')):
    rng = np.random.default_rng(0)
    truth, shared = rng.integers(0, 2, n), rng.normal(size=n)
    say = lambda strength, common: make_predictions([f'cell{i:03d}' for i in range(n)], truth, 1/(1 + np.exp(-(strength*(2*truth - 1) + common*shared + .5*rng.normal(size=n)))), task='single_label', labels=labels)
    return {name: say(strength, common) for name, strength, common in zip(names, (1., 1.6, 1.05), (1., 1., .9))}


@pytest.fixture(scope='module')
def models(): return detectors()


@pytest.fixture(scope='module')
def runs(models, tmp_path_factory):
    "Three run folders, whose items have pictures; `other` saw the items in another order."
    home = tmp_path_factory.mktemp('runs')
    for i in range(0, 300, 2): draw_cell('mono', int(models['small'].target[i]), seed=i).save(home/f'cell{i:03d}.png')
    for name, preds in models.items():
        (home/name).mkdir()
        (preds if name != 'other' else preds.take(np.random.default_rng(1).permutation(300))).save(home/name/'predictions-test.parquet')
        (home/name/'config.yaml').write_text(f'model:\n  size: {96 if name == "small" else 160}\ntrain:\n  seed: 0\n')
        pd.DataFrame(dict(id=preds.ids, input=[str(home/f'{i}.png') for i in preds.ids])).to_parquet(home/name/'items.parquet')
    return [home/name for name in models]


@pytest.fixture(scope='module')
def payload(runs): return build_comparison(runs, metrics=['accuracy', 'roc_auc', 'log_loss'])


def test_differences_are_those_of_compare_predictions(models, payload):
    for row in payload['pairs']:
        direct = compare_predictions(models[row['model']], models[row['baseline']], metrics=row['metric'], seed=0).iloc[0]
        assert [row['difference'], row['low'], row['high']] == pytest.approx([direct.difference, direct.low, direct.high], rel=1e-4)
        assert row['p_adjusted'] >= direct.p_value * (1 - 1e-5)


def test_disagreements_add_up(models, payload):
    right = {name: p.prediction == p.target for name, p in models.items()}
    assert len(payload['disagreements']) == 6
    for d in payload['disagreements']:
        a, b = right[d['first']], right[d['second']]
        assert [d['both'], d['only_first'], d['only_second'], d['neither']] == [(a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum()]
    told_apart = [len({s['prediction'] for s in e['says'].values()}) > 1 for e in payload['examples']]
    assert told_apart == sorted(told_apart, reverse=True) and sum(told_apart) == sum(len({r[i] for r in right.values()}) > 1 for i in range(300))


def test_settings_name_only_what_differs(payload): assert payload['settings'] == [dict(setting='model.size', small='96', large='160', other='160')]


def test_turning_a_pair_round_changes_the_sign_only(runs):
    comparer = build_report(runs)
    comparer.pair = ['large', 'small']
    one = comparer.differences.set_index('metric')
    comparer.pair = ['small', 'large']
    two = comparer.differences.set_index('metric').loc[one.index]
    assert np.allclose(one.difference, -two.difference) and np.allclose(one.low, -two.high) and (one.p_adjusted == two.p_adjusted).all()
    assert len(one) > 8 and one.loc['accuracy', 'difference'] > 0


@pytest.mark.parametrize('change, part', [(dict(pair=['small', 'smal']), 'small'), (dict(pair=['small', 'small']), 'two different'), (dict(metric='accurcy'), 'accuracy'), (dict(part='nobody'), 'in this report')])
def test_a_wrong_choice_changes_nothing(runs, change, part):
    comparer = compare_runs(runs, metrics='accuracy')
    (name, value), = change.items()
    before = getattr(comparer, name)
    with pytest.raises(InputError, match=part): setattr(comparer, name, value)
    assert getattr(comparer, name) == before


@pytest.mark.parametrize('bad, part', [(lambda m, r: [r[0]], 'at least two'), (lambda m, r: [r[0], r[0]], 'different folders'), (lambda m, r: [r[0], r[0].parent], 'predictions-test.parquet'),
                                       (lambda m, r: dict(a=m['small'], b=m['large'].take(np.arange(200))), '100 of 300 ids'), (lambda m, r: list(m.values()), 'without names')])
def test_bad_runs_get_a_sentence(models, runs, bad, part):
    with pytest.raises(InputError, match=part): compare_runs(bad(models, runs))


def test_numbers_and_several_seeds(models):
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    numbers = {name: make_predictions(range(80), x, x + spread*rng.normal(size=80), task='regression') for name, spread in dict(near=.2, far=1.).items()}
    payload = build_comparison(numbers)
    assert payload['tabs'] == ['ranking', 'pairs'] and 'near is first' in payload['verdict']['words']
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload


@pytest.mark.browser
@pytest.mark.parametrize('width', [1280, 390])
def test_page_shows_differences_and_disagreements(browser, runs, payload, tmp_path, root, width):
    path = compare_runs(runs, metrics=['accuracy', 'roc_auc', 'log_loss']).save_html(tmp_path/'compare.html')
    with opened(browser, path, width) as page:
        assert payload['verdict']['words'] in page.inner_text('.verdict')
        panel = tab(page, 'ranking')
        panel.locator('.ranking-metric').select_option('log_loss')
        assert 'Lower is better' in panel.inner_text()
        panel = tab(page, 'pairs')
        panel.locator('.pair-0').select_option('large')
        assert panel.locator('.pair-1').input_value() == 'small', 'a model is not compared with itself'
        row = next(r for r in payload['pairs'] if (r['metric'], r['model'], r['baseline']) == ('accuracy', 'small', 'large'))
        shown = panel.locator('[data-key=accuracy] b').inner_text().replace('−', '-')
        assert float(shown) == pytest.approx(-row['difference'], abs=.0051) and 'better' in panel.locator('[data-key=accuracy]').inner_text()
        panel = tab(page, 'disagreements')
        counts = next(d for d in payload['disagreements'] if (d['first'], d['second']) == ('large', 'small'))
        for part in ('both', 'only_first', 'only_second', 'neither'):
            assert panel.locator(f'[data-part={part}] b').inner_text() == str(counts[part])
        panel.locator('[data-part=only_first]').click()
        while panel.locator('.more:visible').count(): panel.locator('.more').click()
        assert panel.locator('.item').count() == counts['only_first'] and panel.locator('.item .wrong').count() == counts['only_first']
        assert panel.locator('.item img').count() > 0
        panel.locator('.item').first.click()
        said = page.locator('dialog').inner_text()
        assert all(name in said for name in ('small', 'large', 'other'))
        page.keyboard.press('Escape')
        assert '160' in tab(page, 'settings').inner_text()
        assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
        keep(page, root, f'comparison-{width}')


@pytest.mark.browser
def test_hostile_names_stay_text(browser, tmp_path):
    models = detectors(60, names=(NASTY, 'b', 'c'), labels=(NASTY, 'fine'))
    with opened(browser, compare_runs(models, metrics=['accuracy']).save_html(tmp_path/'hostile.html'), 390) as page:
        for name in ('ranking', 'pairs', 'disagreements'): tab(page, name)
        assert page.locator('#report script').count() == 0 and '<script>alert(1)</script>' in page.inner_text('h1')
        assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
