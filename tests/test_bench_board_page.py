"The page of a leaderboard and its figures, from cells whose predictions are made up: in a real browser, wide and narrow, light and dark, and for what cannot be drawn."
import re
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sft_nb.bench.leaderboard import board_displays, build_leaderboard, save_leaderboard
from sft_nb.bench.suite import make_suite, suite_cells
from sft_nb.evaluate.aggregate import performance_profile
from sft_nb.evaluate.evaluation import evaluate_predictions
from sft_nb.evaluate.many import rank_over_datasets
from sft_nb.evaluate.shares import wilson_interval
from sft_nb.records import make_predictions
from sft_nb.report.contrasts import RankDisplay
from sft_nb.report.leaders import FrontDisplay, ProfileDisplay, describe_leaders
from sft_nb.report.look import figure_svg

TASKS = 'cells', 'chests', 'frogs', 'films'
RECIPES = {'scratch': (-.1, 300.), 'probe': (0., 8.), 'tuned <b>& more': (.06, 90.)} # what is gained, what it takes
KINDS = 'Performance profiles', 'Average ranks', 'Quality and cost'


def make_cells(folder, tasks=TASKS, recipes=RECIPES, seeds=(0, 1, 2), lost=(('cells', 'probe', 1),)):
    "A suite whose cells hold the evaluations and the predictions of models that nobody trained."
    suite = make_suite(dict(name='made & up', tasks={t: dict(data=dict(path=t)) for t in tasks}, recipes={r.replace('<b>', 'b'): {} for r in recipes}, seeds=list(seeds)))
    of = {r.replace('<b>', 'b'): v for r, v in recipes.items()}
    for i, (task, recipe, seed) in enumerate(suite_cells(suite)):
        if (task, recipe, seed) in lost: continue
        rng, (gain, seconds) = np.random.default_rng([i, seed]), of[recipe]
        truth = rng.integers(0, 2, 200)
        right = rng.uniform(size=200) < .7 + .05 * TASKS.index(task) + gain
        preds = make_predictions(range(200), truth, np.where(right, truth, 1 - truth) * .8 + .1, task='single_label', labels=('no', 'yes'), provenance=dict(seconds=dict(fit=seconds * rng.uniform(.9, 1.1))))
        place = folder/task/recipe/str(seed)
        preds.save(place/'predictions-valid.parquet') # which says how long it took
        evaluate_predictions(preds, metrics=['accuracy'], seed=0, n_resamples=100, context=dict(headline='accuracy')).save(place/'evaluation.json')
    return suite


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('board')
    board = build_leaderboard(make_cells(folder), folder)
    return board, save_leaderboard(board, folder/'page')


@contextmanager
def opened(browser, path, width=1280, **options):
    context = browser.new_context(viewport=dict(width=width, height=900), offline=True, **options)
    page, wrong = context.new_page(), []
    page.on('console', lambda m: wrong.append(m.text) if m.type in ('error', 'warning') else None)
    page.on('request', lambda r: None if r.url.startswith(('file:', 'data:')) else wrong.append('asked for ' + r.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert wrong == []


@pytest.mark.browser
@pytest.mark.parametrize('width, scheme', [(1280, 'light'), (1280, 'dark'), (390, 'light'), (390, 'dark')])
def test_the_page_fits_and_axe_is_content(browser, saved, root, width, scheme):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='pip install axe-playwright-python').Axe()
    with opened(browser, saved[1], width, color_scheme=scheme) as page:
        (root/'artefacts').mkdir(exist_ok=True)
        page.screenshot(path=root/'artefacts'/f'leaderboard-{width}-{scheme}.png', full_page=True)
        assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
        for svg in page.locator('figure svg').all():
            box = svg.bounding_box()
            assert box['x'] >= 0 and box['x'] + box['width'] <= width and box['height'] > 100
        outside = page.evaluate('''[...document.querySelectorAll('figure svg')].flatMap(s => { const b = s.getBoundingClientRect()
            return [...s.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect(); return r.left < b.left - 2 || r.right > b.right + 2 || r.top < b.top - 2 || r.bottom > b.bottom + 2 }).map(t => t.textContent) })''')
        assert outside == [], 'text is cut off'
        small = page.evaluate('''Math.min(...[...document.querySelectorAll('figure svg text')].map(t => parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getBoundingClientRect().width / t.ownerSVGElement.viewBox.baseVal.width))''')
        assert small > 9, f'text of {small:.1f} px'
        assert [v['id'] for v in axe.run(page).response['violations']] == []


@pytest.mark.browser
def test_figures_have_names_and_follow_the_scheme(browser, saved):
    seen = {}
    for scheme in ('light', 'dark'):
        with opened(browser, saved[1], color_scheme=scheme) as page:
            for kind in KINDS: assert page.get_by_role('img', name=kind, exact=True).count() == 1, kind
            seen[scheme] = page.evaluate('''[...document.querySelectorAll('figure svg text')].map(t => getComputedStyle(t).fill)'''), page.evaluate('getComputedStyle(document.body).backgroundColor')
    bright = lambda color: np.mean([float(v) for v in re.findall(r'[\d.]+', color)[:3]])
    for scheme, sign in (('light', -1), ('dark', 1)):
        texts, paper = seen[scheme]
        assert min(sign * (bright(t) - bright(paper)) for t in texts) > 60, f'text that cannot be read, {scheme}'


def test_figures_say_in_words_what_they_show(saved):
    board, page = saved
    text = page.read_text()
    assert text.count('<svg') == text.count('role="img"') == 3 and '<b>' not in text and '<script' not in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids)), 'figures of a page do not share ids'
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= set(ids)
    assert list(board_displays(board)) == list(KINDS)
    said = describe_leaders(board_displays(board)['Quality and cost'])
    for r in board.table.itertuples(): assert f'{r.recipe} {r.iqm:.3f} [{r.low:.3f}, {r.high:.3f}]' in said
    assert said.endswith('On the front: ' + ', '.join(board.table.recipe[board.table.front]) + '.')


def test_displays_show_what_the_tables_say(saved):
    board, _ = saved
    profile, ranks, front = (d.plot() for d in board_displays(board).values())
    means = board.scores.pivot_table(index='task', columns='recipe', values='value', sort=False)[list(dict.fromkeys(board.scores.recipe))]
    assert ranks.table.equals(rank_over_datasets(means))
    values = board.scores[board.scores.recipe == 'probe'].groupby('task').value.apply(lambda v: v.dropna().to_numpy())
    at = profile.table[profile.table.recipe == 'probe'].iloc[40]
    assert at.share == pytest.approx(np.mean([(v >= at['at']).mean() for v in values])) and at.n == 11 and at.low < at.share < at.high
    joined = next(line for line in front.ax_.lines if line.get_drawstyle() == 'steps-post')
    assert sorted(joined.get_xdata()) == sorted(board.table.seconds[board.table.front]) and front.ax_.get_xscale() == 'log'
    bars = next(c for c in front.ax_.collections if hasattr(c, 'get_segments'))
    assert np.allclose(sorted(s[0][1] for s in bars.get_segments()), sorted(board.table.low))
    plt.close('all')


def test_bands_of_profiles():
    "Wilson's where seeds are as many everywhere; wider where one task has but one; with a width where all or none reach."
    table = lambda counts: pd.DataFrame([dict(task=t, recipe='r', seed=s, value=float(s % 2)) for t, m in enumerate(counts) for s in range(m)])
    p = performance_profile(table([4, 4]), [-1., .5, 2.]).set_index('at')
    low, high = wilson_interval(4, 8)
    assert (p.share[.5], p.low[.5], p.high[.5]) == (.5, low, high) and p.high[-1.] == 1 and p.low[-1.] < .7 and p.low[2.] == 0 and p.high[2.] > .3
    few = performance_profile(table([7, 1]), [.5]).iloc[0]
    assert few.n == 8 and few.high - few.low > high - low
    wide = performance_profile(table([4, 4]), [.5], confidence_level=.99).iloc[0]
    assert wide.low < low and wide.confidence_level == .99


@pytest.mark.parametrize('tasks, recipes, seeds, kinds', [(TASKS[:1], RECIPES, (0, 1), {'Performance profiles', 'Quality and cost'}), (TASKS[:2], {'probe': (0., 8.)}, (0, 1), set()), (TASKS[:2], dict(list(RECIPES.items())[:2]), (0,), set(KINDS))])
def test_only_what_there_are_data_for(tmp_path, tasks, recipes, seeds, kinds):
    board = build_leaderboard(make_cells(tmp_path, tasks, recipes, seeds, lost=()), tmp_path)
    assert set(board_displays(board)) == kinds
    assert save_leaderboard(board, tmp_path/'page').read_text().count('<figure>') == len(kinds)


def test_a_recipe_that_finished_nothing_leaves_ranks_and_profiles_out(tmp_path):
    board = build_leaderboard(make_cells(tmp_path, lost=[(t, 'scratch', s) for t in TASKS for s in range(3)]), tmp_path)
    assert board_displays(board) == {} and any('12 of 36 cells are missing' in n for n in board.notes)
    assert '<figure>' not in save_leaderboard(board, tmp_path/'page').read_text()


def test_many_recipes_with_long_names_stay_inside():
    rng = np.random.default_rng(0)
    names = [f'a recipe with a name, number {i}' for i in range(12)]
    scores = pd.DataFrame([dict(task=t, recipe=r, seed=s, value=rng.uniform(.6, .9)) for t in range(4) for r in names for s in range(3)])
    table = pd.DataFrame(dict(recipe=names, iqm=rng.uniform(.6, .9, 12), seconds=rng.uniform(1, 900, 12))).assign(low=lambda t: t.iqm - .02, high=lambda t: t.iqm + .02, front=False)
    for display in (ProfileDisplay.from_scores(scores), FrontDisplay.from_table(table), RankDisplay.from_scores(scores.pivot_table(index='task', columns='recipe', values='value'))):
        figure = display.plot().figure_
        figure.canvas.draw()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 > -.05 and box.x1 < width + .05 and box.y1 < height + .05, type(display).__name__
        assert all(name in describe_leaders(display) for name in names) or isinstance(display, FrontDisplay)
        assert figure_svg(figure, type(display).__name__, 'x').count('number 11') >= 1
    plt.close('all')
