"What goes into a report: sizes, escaping, pictures of all kinds, and sets that are odd."
import base64
import dataclasses
import html
import io
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sft_nb.core import InputError
from sft_nb.evaluate.evaluation import evaluate_predictions
from sft_nb.records import COMPARISON_COLUMNS, METRIC_COLUMNS, Evaluation, make_predictions
from sft_nb.report.example import example_evaluation
from sft_nb.report.embed import make_thumbnail
from sft_nb.report.page import TABS, build_payload, read_static, render_page, save_page
from sft_nb.report.words import describe_metric, summarize
from sft_nb.report.widgets import Report, build_report

NASTY = '</script><img src=x onerror=alert(1)>'

def opened(url): return Image.open(io.BytesIO(base64.b64decode(url.split(',', 1)[1])))
def row(metric='accuracy', label='', where='', value=.5, low=.4, high=.6, n=10): return dict(zip(METRIC_COLUMNS, (metric, label, where, value, low, high, n, .95, 'wilson')))
def thin(**kw):
    "The least that an evaluation can be."
    base = dict(task='single_label', labels=('only',), n=10, metrics=pd.DataFrame([row()]), comparisons=pd.DataFrame(columns=COMPARISON_COLUMNS), confusion=np.array([[10]]))
    return Evaluation(**{**base, **kw})

@pytest.fixture(scope='module')
def evaluation(tmp_path_factory): return example_evaluation(tmp_path_factory.mktemp('pictures'), per_cell=60, size=300)

def test_demo_sized_report_is_small(evaluation, tmp_path):
    path = save_page(evaluation, tmp_path/'report.html')
    assert len(build_payload(evaluation)['images']) == 200
    assert 200_000 < path.stat().st_size < 3_000_000

def test_nothing_comes_from_outside(evaluation, tmp_path):
    text = save_page(evaluation, tmp_path/'report.html', max_images=3).read_text(encoding='utf-8')
    code = re.sub(r'<script type="application/json".*?</script>', '', text, flags=re.S).replace('http://www.w3.org/2000/svg', '')
    assert not re.search(r'https?://\w', code), 'an address in the front end'
    assert not re.search(r'@import|url\((?!data:)|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(', code)
    assert "default-src 'none'" in text

def test_script_hash_is_of_the_script(evaluation):
    import hashlib
    text = render_page(build_payload(evaluation, max_images=1))
    script = re.search(r'<script type="module">(.*?)</script>', text, re.S)[1]
    style = re.search(r'<style>(.*?)</style>', text, re.S)[1]
    for part in (script, style): assert base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() in text.split('</head>')[0]

def test_user_text_stays_text(evaluation):
    odd = [NASTY, '"quotes\' & <b>', '日本語 😀', 'שלום', 'x'*300, '<!-- <script>', 'a\u2028b']
    examples = evaluation.examples.head(len(odd)).assign(id=odd, target=odd, prediction=odd[::-1], type=odd, input=[f'/nowhere/{t}.png' for t in odd])
    hostile = dataclasses.replace(evaluation, labels=(NASTY, odd[1]), examples=examples, context=dict(run=dict(name=NASTY), notes=odd, references=[dict(name=NASTY, metric='accuracy', value=.5, source='javascript:alert(1)')]))
    text = render_page(build_payload(hostile))
    assert text.count('</script>') == 2 and '<img' not in text.lower()
    data = re.search(r'<script type="application/json" id="payload">(.*?)</script>', text, re.S)[1]
    assert '<' not in data
    assert json.loads(data)['labels'] == [NASTY, odd[1]]
    assert json.loads(data)['examples'][2]['id'] == odd[2]

@pytest.mark.parametrize('mode, array', [
    ('I;16', np.arange(400, dtype='uint16').reshape(20, 20)*160), ('F', np.linspace(-3, 5, 400, dtype='float32').reshape(20, 20)), ('I', np.arange(400, dtype='int32').reshape(20, 20)*90000)])
def test_deep_grey_uses_the_whole_range(tmp_path, mode, array):
    image = Image.fromarray(array)
    assert image.mode == mode
    image.save(tmp_path/'deep.tiff')
    small = np.asarray(opened(make_thumbnail(tmp_path/'deep.tiff')), int)
    assert small.min() < 15 and small.max() > 240 and small[0, 0] < small[-1, -1]

@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV'])
def test_all_modes_become_jpeg(tmp_path, mode):
    red = Image.new('RGB', (30, 20), (200, 0, 0))
    image = red.convert('L').convert('1') if mode == '1' else red.convert('RGBA').convert(mode) if mode == 'LA' else red.convert('P').convert('PA') if mode == 'PA' else red.convert(mode)
    name = tmp_path/('x.tiff' if mode in ('CMYK', 'YCbCr', '1') else 'x.png')
    if mode in ('HSV', 'PA'): image = image.convert('RGB') if mode == 'HSV' else image.convert('RGBA')
    image.save(name)
    small = opened(make_thumbnail(name, 15))
    assert small.format == 'JPEG' and small.size == (15, 10)
    if mode not in ('1', 'L', 'LA'): assert abs(np.asarray(small.convert('RGB'), int).mean((0, 1)) - (200, 0, 0)).max() < 16

def test_transparent_is_white_and_rotation_is_kept(tmp_path):
    Image.new('RGBA', (8, 8), (0, 0, 0, 0)).save(tmp_path/'clear.png')
    assert np.asarray(opened(make_thumbnail(tmp_path/'clear.png'))).min() > 250
    exif = Image.Exif(); exif[0x0112] = 6
    Image.new('RGB', (40, 20)).save(tmp_path/'turned.jpg', exif=exif)
    assert opened(make_thumbnail(tmp_path/'turned.jpg')).size == (20, 40)

def test_broken_pictures_are_named_not_fatal(evaluation, tmp_path):
    (tmp_path/'zero.png').touch(); (tmp_path/'text.jpg').write_text('hello')
    whole = (tmp_path/'cut.png'); Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90), 'uint8')).save(whole); whole.write_bytes(whole.read_bytes()[:2000])
    paths = [tmp_path/'zero.png', tmp_path/'text.jpg', whole, tmp_path/'missing.png', tmp_path]
    broken = dataclasses.replace(evaluation, examples=evaluation.examples.head(5).assign(input=[str(p) for p in paths]))
    payload = build_payload(broken)
    assert [e['why'] for e in payload['examples']] == ['unreadable']*3 + ['not found', '']
    assert any('4 of 5 pictures could not be shown' in c['text'] for c in payload['cautions'])

def test_picture_limits(evaluation):
    assert len(build_payload(evaluation, max_images=7)['images']) == 7
    few = build_payload(evaluation, max_bytes=20_000)
    assert sum(map(len, few['images'])) < 30_000 and {e['why'] for e in few['examples']} == {'', 'not embedded'}
    assert len({(e['target'], e['prediction']) for e in build_payload(evaluation, max_images=4)['examples'] if e['image'] >= 0}) == 4

def test_no_path_of_this_machine(evaluation, tmp_path):
    folder = str(evaluation.examples.input[0]).rsplit('/', 2)[0]
    assert folder not in render_page(build_payload(evaluation))

@pytest.mark.parametrize('odd', [
    thin(), thin(metrics=pd.DataFrame(columns=METRIC_COLUMNS)), thin(metrics=pd.DataFrame([row(value=np.nan, low=np.nan, high=np.nan)])),
    thin(task='regression', labels=(), confusion=np.zeros((0, 0), int), metrics=pd.DataFrame([row('mae', value=3., low=2., high=4.)]), examples=pd.DataFrame([dict(id='a', input='a.png', target=1.5, prediction=2., loss=.25)])),
    thin(task='multi_label', labels=('a', 'b'), confusion=np.zeros((0, 0), int), examples=pd.DataFrame([dict(id='a', input='some text', target='a;b', prediction='', score=.5, loss=.2)])),
    thin(context=dict(history=[], audit=None, notes=[], test_reads=None))], ids=['one class', 'no metrics', 'nan', 'regression', 'multi-label', 'empty context'])
def test_odd_evaluations_give_a_page(odd):
    payload = build_payload(odd)
    json.dumps(payload, allow_nan=False)
    assert set(payload['tabs']) <= set(TABS) and '</html>' in render_page(payload)

def test_a_crossing_is_a_caution_where_it_is_shown():
    "And a search that found the same corner does not say it again."
    rng, n = np.random.default_rng(0), 800
    slices = pd.DataFrame(dict(camera=rng.choice(['old', 'new'], n), light=rng.choice(['day', 'night'], n)))
    say = lambda bad: make_predictions(range(n), np.ones(n, int), np.where(rng.random(n) < .9 - bad*((slices.camera == 'old') & (slices.light == 'night')), .9, .1), task='single_label', labels=['no', 'yes'], slices=slices)
    for bad in (0, .5):
        payload = build_payload(evaluate_predictions(say(bad), metrics=['accuracy'], seed=0))
        texts = [c['text'] for c in payload['cautions'] if c['tab'] == 'slices']
        assert sum('Weakest crossing: camera=old and light=night' in t for t in texts) == (bad > 0) and not any('weak corner' in t for t in texts)
        assert payload['slice_groups'] == [['camera', ['camera=new', 'camera=old']], ['light', ['light=day', 'light=night']], ['camera and light', [f'camera={c} and light={l}' for c in ('new', 'old') for l in ('day', 'night')]]]
        assert payload['slice_of']['camera=old and light=night'] == dict(camera='old', light='night')

def test_thousand_classes_and_a_hundred_thousand_items(tmp_path):
    k, rng = 1000, np.random.default_rng(0)
    labels = tuple(f'class {i:04d}' for i in range(k))
    counts = rng.poisson(.03, (k, k)) + 60*np.eye(k, dtype=int)
    metrics = pd.DataFrame([row()] + [row('recall', label) for label in labels] + [row('recall', label, f'part={s}') for label in labels for s in range(5)])
    examples = pd.DataFrame(dict(id=[f'i{i}' for i in range(5000)], input='/nowhere/x.png', target=rng.choice(labels, 5000), prediction=rng.choice(labels, 5000), score=.5, score_target=.1, loss=2.3, part='1'))
    big = thin(labels=labels, n=int(counts.sum()), metrics=metrics, confusion=counts, examples=examples)
    path = save_page(big, tmp_path/'big.html')
    assert path.stat().st_size < 10_000_000
    payload = build_payload(big)
    assert len(payload['metrics']) <= 4000 and any('left out' in c['text'] for c in payload['cautions'])
    wrong = counts*(1 - np.eye(k, dtype=int))
    assert payload['confusion']['pairs'][0]['count'] == wrong.max()

DEMAND = dict(metric='accuracy', direction='at least', threshold=.8, bound='low', value=.5, low=.4, high=.6, n=10, verdict='failed', note='')

@pytest.mark.parametrize('bound, low, high, verdict, words', [
    ('low', .79, .9, 'cannot say', 'the lower end of its interval is 0.790, and must be at least 0.80'), ('low', .7996, .9, 'cannot say', '0.7996, and must be at least 0.80'),
    ('low', .8, .9, 'met', '0.800, and must be at least 0.80'), ('high', .1, .85, 'cannot say', 'the upper end of its interval is 0.850, and must be at most 0.80'),
    ('low', .1, .75, 'failed', 'even the upper end of its interval is 0.750, and the lower must be at least 0.80')])
def test_verdict_words(bound, low, high, verdict, words):
    rows = pd.DataFrame([DEMAND | dict(direction='at least' if bound == 'low' else 'at most', bound=bound, low=low, high=high, verdict=verdict)])
    out = summarize(thin(verdict=rows.assign(metric='recall[only]@a=b', note='so it goes')))
    assert out['checks'][0]['words'].startswith('Recall of only in a=b: ') and out['checks'][0]['words'].endswith('; so it goes.')
    out = summarize(thin(verdict=rows))
    assert words in out['checks'][0]['words'] and out['verdict'] == {'met': 'pass', 'failed': 'fail'}.get(verdict, verdict)
    assert out['words'].startswith(out['verdict'].upper())

@pytest.mark.parametrize('turned, words', [(dict(over='probe'), 'Accuracy less that of probe: '), (dict(worst_of='type', of='type=poly'), 'Accuracy of the weakest slice by type, type=poly: '),
                                           (dict(gap_of='type', of='type=poly'), 'Accuracy, the largest gap between a slice by type and the rest, type=poly: ')])
def test_words_of_demands_on_other_numbers(turned, words):
    out = summarize(thin(verdict=pd.DataFrame([DEMAND | dict(over='', worst_of='', gap_of='', of='') | turned])))
    assert out['checks'][0]['words'].startswith(words)

def test_words_of_several_demands():
    rule = dict(metric='seeds', bound='', note='1 training, and 3 are asked for', verdict='cannot say')
    out = summarize(thin(verdict=pd.DataFrame([DEMAND, DEMAND | dict(verdict='cannot say'), DEMAND | dict(verdict='met'), DEMAND | rule]), context=dict(standard=dict(name='cells', version='2'))))
    assert out['words'] == 'FAIL: 1 of 4 demands is shown not to be met; of 2 it cannot be said. The standard: cells, version 2.'
    assert out['checks'][3]['words'] == 'Seeds: 1 training, and 3 are asked for.'
    assert summarize(thin(verdict=pd.DataFrame([DEMAND | dict(verdict='met')] * 2)))['words'] == 'PASS: all 2 demands are met.'

def test_a_number_without_interval_does_not_pass_silently():
    verdict = pd.DataFrame([DEMAND | dict(metric='roc_auc', value=np.nan, low=np.nan, high=np.nan, verdict='cannot say')])
    out = summarize(thin(verdict=verdict))
    assert 'no interval' in out['checks'][0]['words'] and 'nan' not in out['checks'][0]['words']
    json.dumps(build_payload(thin(verdict=verdict)), allow_nan=False)

def test_no_standard_is_neither():
    assert summarize(thin())['verdict'] == ''

def test_cautions_name_what_is_weak(evaluation):
    texts = ' '.join(c['text'] for c in build_payload(evaluation, max_images=0)['cautions'])
    assert 'Weakest slice: type=poly' in texts and '3 suspect labels' in texts and 'read' not in texts
    even = evaluation.comparisons.assign(low=-.01, high=.02, difference=.005)
    often = dataclasses.replace(evaluation, comparisons=even, context={**evaluation.context, 'test_reads': 4})
    texts = ' '.join(c['text'] for c in build_payload(often, max_images=0)['cautions'])
    assert 'Not shown to differ from linear probe' in texts and 'read 4 times' in texts

def test_lower_is_better_turns_the_weakest_slice_round():
    m = pd.DataFrame([row('log_loss', value=.5)])
    gaps = dict(rest=.4, label='', confidence_level=.95, n=30, method='jackknife')
    slices = pd.DataFrame([dict(metric='log_loss', slice='a=1', value=.9, low=.7, high=1.1, gap=.4, gap_low=.1, gap_high=.7, p_value=.01, **gaps),
                           dict(metric='log_loss', slice='a=2', value=.2, low=.1, high=.3, gap=-.3, gap_low=-.5, gap_high=-.1, p_value=.01, **gaps)])
    said = lambda table: ' '.join(c['text'] for c in build_payload(thin(metrics=m, curves=dict(slices=table)))['cautions'])
    assert 'Weakest slice: a=1' in said(slices) and 'p = 0.01 after correction' in said(slices)
    assert 'more than chance' in said(slices.assign(gap_low=[-.1, -.5])) and 'Weakest' not in said(slices.tail(1))

def test_a_confirmed_corner_is_a_caution():
    corner = pd.DataFrame([dict(metric='accuracy', slice='age ≥ 60 and device=old', value=.6, rest=.9, n=40)])
    texts = ' '.join(c['text'] for c in build_payload(thin(curves=dict(weak_slices=corner)))['cautions'])
    assert 'confirmed: age ≥ 60 and device=old, Accuracy 0.600 on 40 items against 0.900 elsewhere' in texts

def test_metrics_of_the_registry_have_their_direction():
    from sft_nb.evaluate.metrics import METRICS
    assert all(describe_metric(k)['better'] == v.direction for k, v in METRICS.items())

def test_widget_checks_and_reads(evaluation, tmp_path):
    report = build_report(evaluation, max_images=4)
    for name, value in (('tab', 'nope'), ('slice', 'type=thin'), ('cell', ['functional']), ('cell', ['x', 'y']), ('item', 'nobody')):
        with pytest.raises(InputError): setattr(report, name, value)
    with pytest.raises(Exception): report.threshold = 1.5
    report.threshold = .304
    curve = evaluation.curves['threshold']
    assert report.counts == {k: pytest.approx(v) for k, v in curve.iloc[30].to_dict().items()}
    report.cell = ['defective', 'functional']
    assert len(report.examples) == ((evaluation.examples.target == 'defective') & (evaluation.examples.prediction == 'functional')).sum()

def test_twin_is_small_and_escaped(evaluation):
    report = build_report(evaluation)
    data, _ = report._repr_mimebundle_()
    inner = html.unescape(re.search("srcdoc='([^'\n]*)'", data['text/html'])[1])
    kept = json.loads(re.search(r'id="payload">(.*?)</script>', inner, re.S)[1])
    assert len(kept['images']) == 40 and sum(e['image'] >= 0 for e in kept['examples']) == 40
    assert inner == render_page(kept), 'what is escaped comes back as it was'
    assert len(report.payload['images']) == 200, 'the report itself keeps all'
    from_evaluation = len(build_report(evaluation, max_images=2).payload['images'])
    assert from_evaluation == 2

def test_front_end_is_packaged_and_torch_is_not_needed():
    assert 'export default' in read_static('report.js') and '</script' not in read_static('report.js')
    code = 'import sys, sft_nb.report.page, sft_nb.report.widgets, sft_nb.report.displays, sft_nb.report.example; print("torch" in sys.modules, "fastai" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.split() == ['False', 'False']
