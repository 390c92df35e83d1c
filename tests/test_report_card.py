"Cards: the Hub's parser reads them, every number comes through, and somebody's text stays text."
import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from sft_nb.core import InputError
from sft_nb.evaluate.evaluation import evaluate_predictions, majority_baseline
from sft_nb.records import COMPARISON_COLUMNS, METRIC_COLUMNS, Evaluation, Predictions, make_predictions
from sft_nb.report.card import make_card, make_data_card
from sft_nb.report.example import example_evaluation
from sft_nb.report.hub import check_card
from sft_nb.report.words import summarize

NASTY = ['a|b', '---', '</td><script>alert(1)</script>', 'two\n---\nlines', '[go](javascript:x)', '🔥 `code` *bold*', 'key: [1', '\u202eright to left', 'a\x00b\\']
RNG = np.random.default_rng(0)

@pytest.fixture(scope='module')
def evaluation(tmp_path_factory): return example_evaluation(tmp_path_factory.mktemp('pictures'), per_cell=1, size=20)

def evaluated(preds, **kw): return evaluate_predictions(preds, seed=0, n_resamples=200, **kw)
def regression(n=80): return make_predictions(range(n), y := RNG.normal(size=n), y + RNG.normal(size=n), task='regression', slices=pd.DataFrame(dict(where=['a|b', 'c']*(n//2))))
def multi_label(n=80): return make_predictions(range(n), RNG.integers(0, 2, (n, 3)), RNG.random((n, 3)), task='multi_label', labels=NASTY[:3])
def texts(n=40): return Predictions.from_frame(pd.DataFrame(dict(id=range(n), target=[f'the cat sat on mat {i}' for i in range(n)], prediction=[f'a cat sat on mat {i}' for i in range(n)])), 'text')
def ranking(n=30): return make_predictions(range(n), RNG.integers(0, 3, (n, 5)), RNG.random((n, 5)), task='ranking')
def forecast(n=40): return make_predictions(range(n), np.stack([RNG.normal(size=n), np.ones(n)], 1), np.sort(RNG.normal(size=(n, 3)), 1), task='forecast', labels=('0.1', '0.5', '0.9'))
def nasty(n=180):
    score = RNG.dirichlet(np.ones(len(NASTY)), n)
    return make_predictions(range(n), RNG.integers(0, len(NASTY), n), score, task='single_label', labels=NASTY, slices=pd.DataFrame({NASTY[2]: [NASTY[i % 2] for i in range(n)]}))
def hostile():
    preds = nasty()
    context = dict(run=dict(name='\n---\n'.join(NASTY), backbone=NASTY[2], seconds={NASTY[0]: 3}), notes=NASTY, references=[dict(name=n, metric='accuracy', value=.5) for n in NASTY],
                   licences=[dict(what=n, licence=n, source=n) for n in NASTY], audit=dict(n=180, problems=NASTY, counts={NASTY[0]: 1}, class_balance=[dict(label=n, n=20, share=1/9) for n in NASTY]))
    return evaluated(preds, baselines={NASTY[3]: majority_baseline(preds, preds)}, context=context)
def bare(): return Evaluation('regression', (), 3, pd.DataFrame(columns=METRIC_COLUMNS), pd.DataFrame(columns=COMPARISON_COLUMNS), np.zeros((0, 0), int))

MADE = dict(regression=lambda: evaluated(regression()), multi_label=lambda: evaluated(multi_label()), texts=lambda: evaluated(texts()), ranking=lambda: evaluated(ranking()),
            forecast=lambda: evaluated(forecast()), hostile=hostile, bare=bare)

def tables(card) -> list:
    "Runs of lines that begin with a bar, as numbers of cells."
    runs = re.findall(r'(?:^\|.*\n?)+', card, re.M)
    return [[len(re.findall(r'(?<!\\)(?:\\\\)*\|', line)) - 1 for line in run.splitlines()] for run in runs]

def head_of(card): return yaml.safe_load(card.split('\n---\n')[0].removeprefix('---\n'))

@pytest.fixture(scope='module', params=['example', *MADE])
def made(request, evaluation): return evaluation if request.param == 'example' else MADE[request.param]()

def test_model_card_is_read_by_the_hubs_parser(made):
    card = make_card(made)
    data = ModelCard(card).data
    assert data.to_dict() == head_of(card) == check_card(card)
    assert head_of(str(ModelCard(card))) == head_of(card), 'what `validate` would send is the same card'
    overall = made.metrics[(made.metrics.label == '') & (made.metrics.slice == '')].dropna(subset='value')
    assert {r.metric_type: r.metric_value for r in data.eval_results or []} == {r.metric: float(f'{r.value:.6g}') for r in overall.itertuples()}
    for result, row in zip(data.eval_results or [], overall.itertuples()): assert f'n = {row.n}' in result.metric_name

def test_every_overall_metric_is_in_the_text_with_its_interval(evaluation):
    text = ModelCard(make_card(evaluation)).text
    rows = re.findall(r'^\| (.+?) \| ([\d.]+) \[([\d.]+), ([\d.]+)\] \| (\d+) \| 95% \|', text.split('## Results')[1].split('\n## ')[0], re.M)
    overall = evaluation.metrics[evaluation.metrics.slice == '']
    assert len(rows) == len(overall)
    for (_, *numbers, n), r in zip(rows, overall.itertuples()):
        assert np.allclose([float(v) for v in numbers], [r.value, r.low, r.high], atol=.006) and int(n) == r.n

def test_tables_are_whole(made):
    for card in (make_card(made), make_data_card(made)):
        for cells in tables(card): assert len(set(cells)) == 1, card

def test_data_card_is_read_by_the_hubs_parser(made):
    card = make_data_card(made)
    assert {k: v for k, v in DatasetCard(card).data.to_dict().items()} == head_of(card) == check_card(card, 'dataset')

def test_text_stays_text():
    for read, card in ((ModelCard, make_card(hostile())), (DatasetCard, make_data_card(hostile()))):
        text = read(card).text # in the head it is data
        assert '<script' not in text and '](javascript' not in text and '\x00' not in card and '\u202e' not in card
        assert card.count('\n---\n') == 1, 'one line ends the head, and none other looks like it'
        assert '🔥' in card

def test_verdict_and_cautions_are_those_of_the_page(evaluation):
    card, verdict = make_card(evaluation), summarize(evaluation)
    for words in [verdict['words'], *(c['words'] for c in verdict['checks']), *evaluation.context['notes']]: assert words in card
    assert 'Weakest slice: type=poly' in card.split('## Limits by slice')[1].split('\n## ')[0]

def test_comparisons_say_what_is_shown(evaluation):
    part = make_card(evaluation).split('## Compared with')[1].split('\n## ')[0]
    rows = [line.split(' | ') for line in part.splitlines() if line.startswith('| ') and 'linear probe' in line]
    assert {r[0].strip('| '): r[5] for r in rows}['Recall'] == 'not shown to differ' and {r[0].strip('| '): r[5] for r in rows}['Log loss'] == 'better'
    worse = evaluation.comparisons.assign(difference=-evaluation.comparisons.difference, low=-evaluation.comparisons.high, high=-evaluation.comparisons.low)
    turned = make_card(dataclasses.replace(evaluation, comparisons=worse)).split('## Compared with')[1].split('\n## ')[0]
    assert '| better |' not in turned and '| worse |' in turned

def test_small_slices_are_said():
    where = ['large']*74 + ['tiny']*6
    card = make_card(evaluated(dataclasses.replace(regression(), slices=pd.DataFrame(dict(where=where)))))
    assert 'Too few items to say anything: where=tiny (n = 6)' in card

def test_nothing_is_made_up():
    card = make_card(bare())
    for words in ('Time: not recorded', 'Hardware: not recorded', 'Energy: not estimated', 'Source: not recorded', 'stated no use', 'predictions only', 'Nothing was given to compare with'): assert words in card
    assert check_card(card) == dict(license='unknown', tags=['sft_nb', 'fine-tuning', 'regression'])
    assert 'Nothing was audited' in make_data_card(bare())
    assert 'Recorded data: abc' in make_card(dataclasses.replace(bare(), context=dict(provenance=dict(data='abc'))))

def test_energy_is_the_stated_formula(evaluation):
    context = dict(run=dict(seconds=dict(probe=1800., fine_tuning=5400.)), provenance=dict(environment=dict(processor='P', cores=8)))
    card = make_card(dataclasses.replace(evaluation, context=context))
    assert f'about {2*8*12/1000:.2g} kWh, an estimate' in card and '2 h × 8 cores × 12 W' in card and 'probe 1,800.0 s, fine tuning 5,400.0 s' in card

@pytest.mark.parametrize('name, tag', dict(multi_label=None, texts='text-generation', ranking='text-ranking', forecast='time-series-forecasting', regression=None).items())
def test_tasks_have_their_names_on_the_hub(name, tag):
    data = ModelCard(make_card(MADE[name]())).data
    assert data.pipeline_tag == tag and data.library_name is None
    assert {r.task_type for r in data.eval_results} == {tag or 'other'}

def test_licences_and_base_model(evaluation):
    rows = [dict(what='weights of x', licence='Apache-2.0', source='y'), dict(what='images of z', licence='CC BY-NC-SA 4.0: not for commercial use', source='z')]
    both = dataclasses.replace(evaluation, context=evaluation.context | dict(licences=rows, provenance=dict(weights=dict(source='timm/resnet18.a1_in1k'))))
    head = check_card(make_card(both))
    assert (head['license'], head['license_name'], head['base_model']) == ('other', 'apache-2.0-and-cc-by-nc-sa-4.0', 'timm/resnet18.a1_in1k')
    assert 'Commercial use' in make_card(both) and 'Commercial use' not in make_card(evaluation)
    assert check_card(make_data_card(both), 'dataset')['license'] == 'cc-by-nc-sa-4.0', 'the data are not under the licence of the weights'
    chosen = check_card(make_card(both, license='mit', datasets=['me/cells'], language=['en']))
    assert (chosen['license'], 'license_name' in chosen, chosen['model-index'][0]['results'][0]['dataset']['type']) == ('mit', False, 'me/cells')

@pytest.mark.parametrize('field', [dict(license='apache'), dict(license='other', license_name='My Licence'), dict(pipeline_tag='image-clasification'), dict(datasets=['http://x']),
                                   dict(tags='one'), dict(language=['english']), dict(licence='mit'), {'model-index': [dict(name='m')]},
                                   {'model-index': [dict(name='m', results=[dict(task=dict(type='t'), dataset=dict(type='d', name='n'), metrics=[dict(type='a', value=float('nan'))])])]}])
def test_a_head_that_the_hub_would_refuse_is_an_error(evaluation, field):
    with pytest.raises(InputError, match=next(iter(field))): make_card(evaluation, **field)

@pytest.mark.parametrize('card', ['', '# no head', '---\n- a list\n---\n', '---\na: [\n---\n'])
def test_a_card_without_a_head_is_an_error(card):
    with pytest.raises(InputError, match='YAML head'): check_card(card)

def test_data_card_from_an_audit_alone(evaluation):
    class Audit:
        def to_dict(self): return evaluation.context['audit']
    facts = dict(name='Cells', licence='CC0', collection='By a\nprogram', intended_use='To try.')
    card = make_data_card(Audit(), facts=facts, annotations_creators=['machine-generated'])
    assert card == make_data_card(evaluation.context['audit'], facts=facts, annotations_creators=['machine-generated'])
    head = DatasetCard(card).data
    assert (head.pretty_name, head.license, head.size_categories, head.annotations_creators) == ('Cells', 'cc0-1.0', ['1K<n<10K'], ['machine-generated'])
    assert '- collection: By a program' in card and "first of all that of 'cell0321'" in card and '| defective | 821 | 31.3% |' in card
    with pytest.raises(InputError, match='size_categories'): make_data_card(evaluation, size_categories=['many'])
