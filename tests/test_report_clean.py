"What is shown, in which order and why; what is written; and that a hand, a script and yesterday's session all come to the same."
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from sklearn.metrics import cohen_kappa_score
from sklearn.neighbors import NearestNeighbors

from sft_nb.changes import ChangeLog, apply_changes
from sft_nb.core import InputError
from sft_nb.data.audit import audit_items
from sft_nb.records import make_predictions
from sft_nb.report.annotate import Annotator, measure_agreement, rank_by_coverage, rank_by_margin
from sft_nb.report.clean import LabelCleaner
from sft_nb.tasks.targets import describe_targets

NASTY = ['<script>alert(1)</script><img src=x onerror=alert(1)>', '🦴👩🏽‍🔬', 'שבור‏', 'x' * 300, 'a "quoted" & <b>']

def texts(targets): return pd.DataFrame(dict(id=[f'i{k:03d}' for k in range(len(targets))], input=[f'text {k}' for k in range(len(targets))], target=targets))

def predictions(items, score, labels, **kw): return make_predictions(items.id, items.target, score, task='single_label', labels=labels, **kw)

@pytest.fixture
def doubts(tmp_path):
    "Thirty items of three labels; the model is sure that 4 and 7 are wrong, and 11 is close; and what the cleaner makes of it."
    items = texts(np.array(['ant', 'bee', 'cat'])[np.arange(30) % 3])
    score = np.full((30, 3), .05)
    score[np.arange(30), np.arange(30) % 3] = .9
    score[4], score[7], score[11] = [.98, .01, .01], [.02, .03, .95], [.1, .46, .44]
    preds = predictions(items, score, ['ant', 'bee', 'cat'])
    return items, preds, lambda name='log', **kw: LabelCleaner(items, **{'preds': preds, 'path': tmp_path/f'{name}.jsonl', **kw})

# ---------------------------------------------------------------- what is shown

def test_each_item_once_with_all_its_reasons(doubts):
    items, preds, clean = doubts
    audit = dict(suspect_labels=[dict(id='i007', target='bee', suggestion='cat', score_target=.1, score_suggestion=.8)],
                 duplicates=[dict(id_a='i004', id_b='i010', kind='near_duplicate', detail='the same picture, mirrored'), dict(id_a='i001', id_b='i004', kind='same_file', detail='the same bytes')],
                 leaks=[dict(id_a='i020', id_b='i021', kind='shared_group', split_a='train', split_b='test', detail='group x')])
    cleaner = clean(audit=audit)
    queue = cleaner.queue.set_index('id')
    assert queue.index.tolist() == ['i007', 'i004', 'i010', 'i011'] # suspects of the audit, of the model, copies, losses
    assert queue.reason.i004 == 'suspect label: the model is confident of another; copy of i001: the same bytes; high loss: 4.61'
    assert queue.reason.i011 == 'high loss: 0.82' and queue.reason.i010 == 'copy of i001: by way of another copy'
    assert queue.loc['i007', ['suggestion', 'score_suggestion', 'score_target']].tolist() == ['cat', .95, .03] # the model at hand knows better than the audit
    assert cleaner.about == '2 suspect labels, 1 copy, 1 high loss'
    assert [t['id'] for t in cleaner._make_card(1, {})['twins']] == ['i001']

def test_an_audit_and_its_dictionary_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6): Image.fromarray(rng.integers(0, 255, (70, 70), dtype='uint8')).resize((140, 140)).save(tmp_path/f'{i}.png')
    for copy, original in ((6, 0), (7, 1), (8, 1)): (tmp_path/f'{copy}.png').write_bytes((tmp_path/f'{original}.png').read_bytes())
    items = pd.DataFrame(dict(id=[str(i) for i in range(9)], input=[str(tmp_path/f'{i}.png') for i in range(9)], target=['a', 'b', 'a'] * 3, split=['test'] + ['train'] * 8))
    audit = audit_items(items, task='single_label')
    shown = [LabelCleaner(items, audit=a, path=tmp_path/'log.jsonl').queue for a in (audit, audit.to_dict(), json.loads(json.dumps(audit.to_dict())))]
    assert shown[0].id.tolist() == ['6', '7', '8'] and shown[0].reason[0] == 'copy of 0 in test: the same bytes' # out of training, not out of the test
    for other in shown[1:]: pd.testing.assert_frame_equal(other, shown[0])

@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(['train', 'valid', 'test'])), min_size=2, max_size=14))
def test_dropping_all_that_is_shown_leaves_one_of_each(tmp_path_factory, kinds):
    "Whatever is a copy of what, in whichever split."
    from sft_nb.data.audit import check_leakage, find_duplicates
    folder = tmp_path_factory.mktemp('copies')
    picture, split = zip(*kinds)
    items = texts(['a'] * len(picture)).assign(split=split)
    blank = np.random.default_rng(1).integers(0, 255, (5, 64, 64), dtype='uint8')
    prints = pd.DataFrame([dict(id=i, file_hash=f'{i}', pixel_hash=f'{p}', phash='0', width=9, height=9, mode='L', thumbnail=blank[p].tobytes(), error='') for i, p in zip(items.id, picture)])
    cleaner = LabelCleaner(items, audit=dict(duplicates=find_duplicates(prints).to_dict('records'), leaks=check_leakage(items, prints).to_dict('records')), path=folder/'log.jsonl')
    while cleaner.card['id']: cleaner.drop()
    left = cleaner.items.assign(picture=[picture[int(i[1:])] for i in cleaner.items.id])
    assert sorted(left.picture) == sorted(set(picture))
    best = {p: max(['train', 'valid', 'test'].index(s) for q, s in kinds if q == p) for p in set(picture)}
    assert {r.picture: ['train', 'valid', 'test'].index(r.split) for r in left.itertuples()} == best

def test_the_present_label_is_doubted_not_the_one_of_the_predictions(doubts, tmp_path):
    items, preds, clean = doubts
    cleaner = clean()
    for answer in ('ant', 'cat', 'cat'): cleaner.relabel(answer)
    stale = dict(suspect_labels=[dict(id='i004', target='bee', suggestion='ant', score_target=0, score_suggestion=1)])
    again = LabelCleaner(cleaner.items, preds, audit=stale, path=tmp_path/'again.jsonl')
    assert again.queue.id.tolist() == ['i011'] # was 'cat' all along, and is not what the model says
    odd = clean('odd', labels=['dog'])
    odd.relabel('dog') # a label that the model cannot judge
    assert 'i004' not in set(LabelCleaner(odd.items, preds, path=tmp_path/'third.jsonl').queue.id)

def test_nothing_in_doubt(tmp_path):
    items = texts(['a', 'b'] * 4)
    cleaner = LabelCleaner(items, path=tmp_path/'log.jsonl')
    assert cleaner.progress == '0 of 0 looked at' and cleaner.about == 'Nothing is in doubt.' and len(cleaner.queue) == 0
    assert cleaner.items.equals(items) and len(cleaner.changes) == 0 and '<table>' in cleaner._twin()
    with pytest.raises(InputError, match='item left'): cleaner.keep()

def test_most_losses(tmp_path):
    items = texts(['a', 'b'] * 40)
    p = np.tile([.4, .45], 40) - np.arange(80) / 1000 # of 'a': the labels 'a' get less than even odds, and so get none of 'b'
    cleaner = LabelCleaner(items, predictions(items, np.c_[p, 1 - p], ['a', 'b']), path=tmp_path/'log.jsonl', n_losses=7)
    losses = cleaner.queue[cleaner.queue.reason.str.contains('loss')]
    assert losses.id.tolist() == [f'i{i:03d}' for i in range(78, 64, -2)] and (losses.score_target < .5).all()

def test_neighbours_are_those_of_scikit_learn(doubts, tmp_path):
    items, preds, clean = doubts
    x = np.random.default_rng(3).normal(size=(30, 8)) * np.arange(1, 31)[:, None]
    want, which = NearestNeighbors(n_neighbors=7, metric='cosine').fit(x).kneighbors(x[[4]])
    card = clean(features=x).card
    assert [n['id'] for n in card['near']] == [f'i{i:03d}' for i in which[0][1:]]
    assert [n['distance'] for n in card['near']] == pytest.approx(want[0][1:], abs=6e-4)
    shuffled = dict(sorted(zip(items.id, x), key=lambda pair: hash(pair[0])))
    assert clean(features=shuffled).card == card
    two = LabelCleaner(items[:2], audit=dict(duplicates=[dict(id_a='i000', id_b='i001', kind='same_file', detail='')]), features=x[:2], path=tmp_path/'two.jsonl')
    assert len(two.card['near']) == 1 # there is only one other

def test_a_card_says_what_has_been_decided_about_its_neighbours(doubts):
    items, preds, clean = doubts
    cleaner = clean(features=np.eye(30)[np.r_[0:7, 4, 8:30]]) # 7 lies where 4 does
    cleaner.relabel('cat')
    assert cleaner.card['id'] == 'i007' and cleaner.card['near'][0] == cleaner.card['near'][0] | dict(id='i004', label='cat', decision='relabelled')
    cleaner.look(-1)
    assert (cleaner.card['id'], cleaner.card['label'], cleaner.card['given'], cleaner.card['decision']) == ('i004', 'cat', 'bee', 'relabelled')

def test_pictures_that_are_missing_or_broken(tmp_path):
    Image.new('L', (40, 30), 90).save(tmp_path/'good.png')
    (tmp_path/'broken.png').write_bytes((tmp_path/'good.png').read_bytes()[:40])
    items = pd.DataFrame(dict(id=list('abcd'), input=[str(tmp_path/f'{n}.png') for n in ('good', 'broken', 'gone')] + ['no picture but words'], target=list('xyxy')))
    audit = dict(duplicates=[dict(id_a='a', id_b=b, kind='same_file', detail='') for b in 'bcd'])
    cleaner = LabelCleaner(items, audit=audit, path=tmp_path/'log.jsonl')
    cards = [cleaner._make_card(i, {}) for i in range(3)]
    assert [(c['image'], c['why'], c['text']) for c in cards] == [('', 'unreadable', ''), ('', 'not found', ''), ('', '', 'no picture but words')]
    assert cards[0]['twins'][0]['image'].startswith('data:image/jpeg')
    cleaner.drop()
    assert cleaner.card['id'] == 'c' and 'not found' in cleaner._twin()

# ---------------------------------------------------------------- what is written

def test_a_hand_and_a_script_come_to_the_same(doubts):
    items, preds, clean = doubts
    script, hand = clean('script'), clean('hand')
    for action, more in (('relabel', dict(label='cat')), ('keep', {}), ('undo', {}), ('look', dict(step=-1)), ('drop', {}), ('skip', {}), ('look', dict(step=-1)), ('relabel', dict(label='ant'))):
        getattr(script, action)(*more.values())
        hand._hear(hand, dict(action=action, id=hand.card['id'], **more), [])
        assert hand.message == '' and hand.card == script.card and hand.progress == script.progress
    strip = lambda rows: [{k: v for k, v in r.items() if k != 'time'} for r in rows]
    assert strip(hand._log.rows) == strip(script._log.rows) and len(hand._log.rows) == 6
    pd.testing.assert_frame_equal(hand.items, script.items)
    assert hand.progress == '2 of 3 looked at: 1 relabelled, 1 dropped'

def test_a_key_for_another_card_does_nothing(doubts):
    items, preds, clean = doubts
    cleaner = clean()
    first = cleaner.card['id']
    for _ in range(2): cleaner._hear(cleaner, dict(action='drop', id=first), []) # pressed twice before the answer came
    assert cleaner.changes.id.tolist() == [first] and len(cleaner._log.rows) == 1
    for wrong in (dict(action='undo'), dict(action='undo', id='other'), dict(action='_open', id=cleaner.card['id']), dict(action='close', id=cleaner.card['id']), {}): cleaner._hear(cleaner, wrong, [])
    assert len(cleaner._log.rows) == 1

def test_what_cannot_be_done_is_said_and_not_done(doubts, monkeypatch):
    items, preds, clean = doubts
    cleaner = clean()
    press = lambda action, **more: cleaner._hear(cleaner, dict(action=action, id=cleaner.card['id'], **more), [])
    press('undo')
    assert 'undo' in cleaner.message
    press('relabel', label='cta')
    assert 'Did you mean `cat`?' in cleaner.message
    monkeypatch.setattr(os, 'fsync', lambda fd: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    press('keep')
    assert 'No space left' in cleaner.message and cleaner.card['id'] == 'i004' and cleaner.progress.startswith('0 of')
    monkeypatch.undo()
    press('keep')
    assert cleaner.message == '' and cleaner.progress == '1 of 3 looked at: 1 kept'

def test_the_present_label_given_again_is_kept(doubts):
    items, preds, clean = doubts
    cleaner = clean()
    cleaner.relabel('bee')
    assert cleaner.changes.action.tolist() == ['keep'] and cleaner.items.equals(items)

def test_undo_goes_back_through_the_queue(doubts):
    items, preds, clean = doubts
    cleaner = clean()
    ids = cleaner.queue.id.tolist()
    for f in (cleaner.keep, cleaner.drop, cleaner.skip): f()
    assert cleaner.card['id'] == '' and cleaner.card['place'] == 3
    for id in reversed(ids):
        cleaner.undo()
        assert cleaner.card['id'] == id
    assert cleaner.items.equals(items) and len(cleaner._log.rows) == 6
    with pytest.raises(InputError): cleaner.undo()

def test_looking_decides_nothing_and_stays_within(doubts):
    items, preds, clean = doubts
    cleaner = clean()
    seen = []
    for step in (-1, 1, 1, 1, 1, -1, -5): cleaner.look(step); seen.append(cleaner.card['place'])
    assert seen == [0, 1, 2, 3, 3, 2, 0] and not cleaner._log.path.exists()
    cleaner.look(1)
    cleaner.keep()
    assert cleaner.card['place'] == 2 # on from there, and back to the one that was passed over at the end
    cleaner.keep()
    assert cleaner.card['place'] == 0

CHILD = '''
import sys, pandas as pd
from sft_nb.report.clean import LabelCleaner
from sft_nb.tasks.targets import describe_targets
items = pd.read_csv(sys.argv[1])
cleaner = LabelCleaner(items, audit=dict(duplicates=[dict(id_a='i000', id_b=i, kind='same_file', detail='') for i in items.id[1:]]), path=sys.argv[2])
while True:
    getattr(cleaner, ['keep', 'drop', 'skip'][cleaner.card['place'] % 3])()
    print(cleaner.progress, flush=True)
'''

def test_a_killed_session_goes_on_where_it_was(tmp_path):
    items = texts(['a', 'b'] * 2000)
    items.to_csv(tmp_path/'items.csv', index=False)
    child = subprocess.Popen([sys.executable, '-c', CHILD, str(tmp_path/'items.csv'), str(tmp_path/'log.jsonl')], stdout=subprocess.PIPE, text=True)
    lines = [child.stdout.readline() for _ in range(30)]
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.read().splitlines(keepends=True)
    child.wait()
    told = int([l for l in lines if l.endswith('\n')][-1].split()[0])
    cleaner = LabelCleaner(items, audit=dict(duplicates=[dict(id_a='i000', id_b=i, kind='same_file', detail='') for i in items.id[1:]]), path=tmp_path/'log.jsonl')
    assert cleaner.card['place'] in (told, told + 1) and told >= 30
    assert cleaner.changes.action.tolist() == [['keep', 'drop', 'skip'][i % 3] for i in range(cleaner.card['place'])]

def test_a_log_of_other_items_is_refused_and_left_alone(doubts):
    items, preds, clean = doubts
    cleaner = clean()
    cleaner.relabel('ant')
    before = cleaner._log.path.read_bytes()
    for other in (items.assign(target='cat'), items.assign(id='x' + items.id)):
        with pytest.raises(InputError, match='i004'): LabelCleaner(other, path=cleaner._log.path)
    assert cleaner._log.path.read_bytes() == before
    assert LabelCleaner(cleaner.items, path=cleaner._log.path).items.equals(cleaner.items) # applied already

@pytest.mark.parametrize('targets, label, want', [([1, 2, 1, 2], '2', 2), ([1., 2., 1., np.nan], 2, 2.), ([True, False] * 2, 'False', False)])
def test_labels_that_are_no_text_stay_what_they_are(tmp_path, targets, label, want):
    items = texts(targets)
    cleaner = LabelCleaner(items, audit=dict(duplicates=[dict(id_a='i001', id_b='i002', kind='same_file', detail='')]), path=tmp_path/'log.jsonl')
    cleaner.relabel(label)
    assert cleaner.items.target.dtype == items.target.dtype and cleaner.items.target[2] == want

def test_several_labels(tmp_path):
    items = texts(['b;a', 'a', '', 'c'])
    preds = make_predictions(items.id, [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]], [[.9, .9, .1], [.1, .9, .9], [.9, .1, .1], [.1, .1, .9]], task='multi_label', labels=list('abc'))
    cleaner = LabelCleaner(items, preds, path=tmp_path/'log.jsonl')
    assert cleaner.labels == list('abc') and cleaner.queue.id.tolist() == ['i001', 'i002']
    assert cleaner.card['several'] and cleaner.card['suggestion'] == 'b;c'
    with pytest.raises(InputError, match="'d'.*\n.*'e'"): cleaner.relabel('a;d;e')
    cleaner.relabel('c; b')
    assert cleaner.items.target.tolist() == ['b;a', 'b;c', '', 'c']
    cleaner._show(0)
    cleaner.relabel('a')
    assert cleaner.changes.action.tolist() == ['keep']

def test_the_last_of_several_labels_can_be_taken_off(tmp_path):
    items = texts(['a;b', 'a', '', 'c'])
    preds = make_predictions(items.id, [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]], [[.9, .9, .1], [.1, .2, .1], [.2, .9, .1], [.1, .1, .9]], task='multi_label', labels=list('abc'))
    cleaner = LabelCleaner(items, preds, path=tmp_path/'log.jsonl')
    assert cleaner.queue.id.tolist() == ['i002', 'i001'] and cleaner.card['suggestion'] == 'b'
    cleaner.relabel('') # is what it has
    assert cleaner.changes.action.tolist() == ['keep'] and cleaner.card['suggestion'] == '' and cleaner.card['p_suggestion'] > .5
    cleaner._hear(cleaner, dict(action='relabel', label='', id='i001'), [])
    assert cleaner.message == '' and cleaner.items.target.tolist() == ['a;b', '', '', 'c'] and cleaner.progress.endswith('1 kept, 1 relabelled')
    assert describe_targets(cleaner.items, task='multi_label').encode(cleaner.items).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]] # what would be trained on
    cleaner.changes.to_csv(tmp_path/'changes.csv', index=False) # where '' and nothing are one
    for log in (tmp_path/'log.jsonl', cleaner.changes, pd.read_csv(tmp_path/'changes.csv')): assert apply_changes(items, log).target.tolist() == ['a;b', '', '', 'c']
    assert LabelCleaner(items, preds, path=tmp_path/'log.jsonl').card['id'] == '' # all decided
    cleaner.undo()
    assert cleaner.items.equals(items) and cleaner.card['label'] == 'a'
    single = LabelCleaner(texts(['a', 'b', 'b']), audit=dict(duplicates=[dict(id_a='i000', id_b='i001', kind='same_file', detail='')]), path=tmp_path/'single.jsonl')
    with pytest.raises(InputError, match='the label'): single.relabel('')

# ---------------------------------------------------------------- hostile and large

def test_hostile_labels_are_text(tmp_path):
    items = texts([NASTY[i % 5] for i in range(25)]).assign(id=[f'{NASTY[0]}{i}' for i in range(25)])
    score = np.full((25, 5), .05)
    score[np.arange(25), (np.arange(25) + (np.arange(25) == 3)) % 5] = .8
    cleaner = LabelCleaner(items, predictions(items, score, NASTY), path=tmp_path/'log.jsonl')
    html = cleaner._twin()
    assert '<script' not in html and '<img' not in html and '<b>' not in html and '&lt;script&gt;' in html
    cleaner.relabel(NASTY[2])
    assert cleaner.items.target[3] == NASTY[2] and ChangeLog(tmp_path/'log.jsonl').rows[0]['after'] == NASTY[2]

def test_a_thousand_labels_and_large_pictures_stay_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype='uint8')
    for i in range(14): Image.fromarray(np.roll(noise, i * 40, 1)).save(tmp_path/f'{i}.jpg', quality=95)
    labels = [f'a rather long label number {i}' for i in range(1000)]
    items = pd.DataFrame(dict(id=[f'{i}' for i in range(1000)], input=[str(tmp_path/f'{i % 14}.jpg') for i in range(1000)], target=labels))
    audit = dict(duplicates=[dict(id_a='0', id_b=str(i), kind='same_file', detail='') for i in range(1, 1000)])
    cleaner = LabelCleaner(items, audit=audit, features=np.random.default_rng(0).normal(size=(1000, 8)), path=tmp_path/'log.jsonl')
    assert len(cleaner._twin()) < 100_000 and len(json.dumps(cleaner.card)) < 400_000 # noise is the worst that a JPEG can be
    cleaner.relabel(labels[777])
    assert cleaner.items.target[1] == labels[777]

@pytest.mark.parametrize('change, says', [(dict(items=lambda t: t.drop(columns='target')), '`target`'), (dict(items=lambda t: t.drop(columns='input')), '`input`'), (dict(items=lambda t: pd.concat([t, t])), 'unique'),
                                          (dict(preds=lambda p: make_predictions(['who', 'knows'], [0, 1], [.1, .9], task='single_label', labels=['ant', 'bee'])), "'who', 'knows'"),
                                          (dict(preds=lambda p: make_predictions(p.ids, np.arange(30.), np.arange(30.), task='regression')), 'of labels'),
                                          (dict(preds=lambda p: make_predictions(p.ids, p.target, np.eye(3)[p.prediction], task='single_label', labels=p.labels, has_score=False)), 'with scores'),
                                          (dict(preds=lambda p: make_predictions(np.repeat(p.ids, 2), np.repeat(p.target, 2), np.repeat(p.score, 2, 0), task='single_label', labels=p.labels, seed=[0, 1] * 30)), 'one training run'),
                                          (dict(features=np.ones((29, 4))), r'\(30, d\)'), (dict(features=np.ones(30)), r'\(30, d\)'), (dict(features=np.full((30, 2), np.nan)), 'NaN'), (dict(features={'i000': [1, 2]}), 'none for 29'),
                                          (dict(features={f'i{i:03d}': [0] * (1 + i % 2) for i in range(30)}), 'one length'), (dict(audit=dict(duplicates=[dict(id_a='i000', id_b='gone', kind='same_file', detail='')])), "'gone'")])
def test_what_is_wrong_is_said_before_anything_is_shown(doubts, tmp_path, change, says):
    items, preds, _ = doubts
    given = {k: v(dict(items=items, preds=preds)[k]) if callable(v) else v for k, v in change.items()}
    with pytest.raises(InputError, match=says): LabelCleaner(given.pop('items', items), given.pop('preds', preds), path=tmp_path/'new'/'log.jsonl', **given)
    assert not (tmp_path/'new').exists()

def test_items_are_never_changed(doubts):
    items, preds, clean = doubts
    before, cleaner = items.copy(deep=True), clean(features=np.ones((30, 2)))
    for f in (lambda: cleaner.relabel('cat'), cleaner.drop, cleaner.undo, cleaner.skip): f()
    new = cleaner.items
    new.loc[0, 'target'] = 'changed by hand'
    pd.testing.assert_frame_equal(items, before)
    assert cleaner.items.target[0] == 'ant'

# ---------------------------------------------------------------- what to label next

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.integers(0, 4), st.integers(1, 30))
def test_each_centre_is_the_farthest_from_all_before(seed, n, n_labelled, n_centres):
    "By Euclidean distance of unit vectors, computed from scratch; the rest follows by its distance to the centres."
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + n_labelled, 3)) * rng.uniform(.1, 9, (n + n_labelled, 1))
    labelled = rng.permutation(np.arange(n + n_labelled) < n_labelled)
    order = rank_by_coverage(x, labelled, n_centres=n_centres)
    assert sorted(order) == np.flatnonzero(~labelled).tolist()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = np.linalg.norm(unit[:, None] - unit, axis=-1)
    known = np.flatnonzero(labelled).tolist()
    if not known: assert distance.shape[0] and unit[order[0]] @ unit.mean(0) == pytest.approx((unit @ unit.mean(0)).max(), abs=1e-5)
    for step, i in enumerate(order):
        if known:
            far = distance[order[step:]][:, known].min(1)
            assert far[0] == pytest.approx(far.max(), abs=2e-3)
        if step < n_centres: known.append(i)

def test_the_least_certain_come_first():
    score = np.array([[.5, .3, .2], [.34, .33, .33], [.45, .1, .45], [.98, .01, .01], [.45, .45, .1]])
    assert rank_by_margin(score, list('edcba')).tolist() == [4, 2, 1, 0, 3] # of two ties, the id that sorts first
    with pytest.raises(InputError): rank_by_margin(score[:, :1], list('edcba'))

def test_an_annotator_asks_again_in_a_new_order(tmp_path):
    items = texts(['a', 'b', None, '', None, None, np.nan, 'a'])
    table = lambda margins: pd.DataFrame(dict(id=items.id, score_a=.5 + np.array(margins) / 2, score_b=.5 - np.array(margins) / 2)).iloc[::-1]
    annotator = Annotator(items, ['a', 'b', 'new'], preds=table([0, 0, .9, .1, .5, .3, .7, 0]), path=tmp_path/'log.jsonl')
    assert annotator.queue.id.tolist() == ['i003', 'i005', 'i004', 'i006', 'i002'] and 'margin' in annotator.about
    annotator.relabel('new')
    annotator.skip()
    annotator.look(-1)
    annotator.update(table([0, 0, .1, .9, .9, .9, .2, 0])[:7])
    assert annotator.queue.id.tolist() == ['i003', 'i005', 'i002', 'i006', 'i004'] and annotator.card['id'] == 'i002'
    annotator.drop()
    new = annotator.items
    assert new.target.fillna('').tolist() == ['a', 'b', 'new', '', '', '', 'a'] and 'i002' not in set(new.id)
    again = Annotator(items, ['a', 'b', 'new'], path=tmp_path/'log.jsonl')
    assert again.queue.id.tolist() == ['i003', 'i005', 'i002', 'i004', 'i006'] and again.card['id'] == 'i004'
    assert 'that of the table' in again.about and again.progress == '3 of 5 looked at: 1 labelled, 1 dropped, 1 skipped'
    rest = Annotator(new, ['a', 'b', 'new'], path=tmp_path/'log.jsonl') # the new table with the old log
    assert rest.queue.id.tolist() == ['i005', 'i004', 'i006'] and rest.items.equals(new)

def test_an_annotator_covers_what_is_not_labelled(tmp_path):
    items = texts(['a'] + [None] * 11)
    x = np.eye(4)[np.arange(12) % 4]
    annotator = Annotator(items, ['a', 'b'], features=x, path=tmp_path/'log.jsonl')
    assert annotator.queue.id.tolist()[:3] == ['i001', 'i002', 'i003']
    for label in 'ab': annotator.relabel(label)
    annotator.update() # labelled ones count as covered; so the order goes on as it was
    assert annotator.card['id'] == 'i003'
    annotator.update(predictions(items.assign(target='a'), np.c_[np.linspace(.9, .5, 12), np.linspace(.1, .5, 12)], ['a', 'b']))
    assert annotator.card['id'] == 'i011' and 'margin' in annotator.about
    both = Annotator(items, ['a', 'b'], features=x, strategy='k_center', path=tmp_path/'log.jsonl', preds=pd.DataFrame(dict(id=['i005'], score_a=[.8], score_b=[.2])))
    assert 'farthest' in both.about and (both._said['i005'][0], both.queue.id[2]) == ('a', 'i003')

def test_what_was_labelled_counts_as_covered(tmp_path):
    "Directions of 0° (labelled), 170°, 150° and 70°. Once 150° has a label, 70° is farther from all than 170° is; a skipped item covers nothing."
    angle = np.radians([0, 170, 150, 70])
    for decide, order in ((lambda a: a.relabel('b'), ['i002', 'i003', 'i001']), (lambda a: a.skip(), ['i002', 'i001', 'i003'])):
        annotator = Annotator(texts(['a', None, None, None]), ['a', 'b'], features=np.c_[np.cos(angle), np.sin(angle)], path=tmp_path/f'{order[1]}.jsonl')
        assert annotator.queue.id.tolist() == ['i001', 'i003', 'i002']
        annotator.look(2)
        decide(annotator)
        annotator.update()
        assert annotator.queue.id.tolist() == order

def test_items_without_any_label(tmp_path):
    items = texts([None] * 5).drop(columns='target')
    annotator = Annotator(items, [0, 1], path=tmp_path/'log.jsonl')
    annotator.relabel(1)
    assert annotator.items.target.iloc[0] in (1, '1') and annotator.items.target[1:].isna().all() and 'target' not in items

@pytest.mark.parametrize('given, says', [(dict(labels=[]), '`labels`'), (dict(labels=['a', 'a']), '`labels`'), (dict(strategy='entropy'), 'uncertainty, k_center'), (dict(strategy='uncertainty'), '`preds`'), (dict(strategy='k_center'), '`features`'),
                                         (dict(preds=pd.DataFrame(dict(id=['i000'], prediction=['a']))), 'score_<label>'), (dict(preds=pd.DataFrame(dict(id=['zzz'], score_a=[.1], score_b=[.9]))), "'zzz'"),
                                         (dict(preds=pd.DataFrame(dict(id=['i000'], score_a=[np.nan], score_b=[.9]))), 'finite')])
def test_an_annotator_says_what_it_lacks(tmp_path, given, says):
    with pytest.raises(InputError, match=says): Annotator(texts([None] * 3), given.pop('labels', ['a', 'b']), path=tmp_path/'log.jsonl', **given)

def test_an_annotator_of_several_labels(tmp_path):
    items = texts(['a', None, '', None, np.nan])
    scores = pd.DataFrame(dict(id=items.id, score_a=[.5, .9, .5, .2, .9], score_b=[.5, .9, .5, .55, .4]))
    annotator = Annotator(items, ['a', 'b'], several=True, preds=scores, features=np.eye(5), path=tmp_path/'log.jsonl')
    assert annotator.queue.id.tolist() == ['i003', 'i004', 'i001'] # '' is an answer: none of them
    assert (annotator.card['suggestion'], annotator.card['p_suggestion'], annotator.card['several']) == ('b', pytest.approx(.8 * .55), True)
    for label in ('b; a', '', 'b'): annotator.relabel(label)
    assert annotator.items.target.tolist() == ['a', 'b', '', 'a;b', ''] and annotator.progress == '3 of 3 looked at: 3 labelled'
    annotator.undo()
    assert annotator.card['id'] == 'i001' and annotator.queue.decision.tolist() == ['relabel', 'relabel', '']
    rest = Annotator(annotator.items, ['a', 'b'], several=True, path=tmp_path/'rest.jsonl')
    assert rest.queue.id.tolist() == ['i001'] # which '' is not, saved and opened again
    far = Annotator(items, ['a', 'b'], several=True, features=np.eye(5)[[0, 0, 1, 1, 2]], path=tmp_path/'far.jsonl')
    assert far.queue.id.tolist()[0] == 'i004' # the others lie where an item with an answer lies
    one = Annotator(items, ['a'], several=True, preds=scores[['id', 'score_a']], path=tmp_path/'one.jsonl')
    assert one.queue.id.tolist() == ['i003', 'i001', 'i004']
    preds = make_predictions(items.id, ['a'] * 5, np.full((5, 2), .5), task='single_label', labels=['a', 'b'])
    with pytest.raises(InputError, match='several labels an item.*single_label'): Annotator(items, ['a', 'b'], several=True, preds=preds, path=tmp_path/'x.jsonl')
    with pytest.raises(InputError, match="one label an item.*multi_label.*`several`"): Annotator(items, ['a', 'b'], preds=make_predictions(items.id, np.ones((5, 2), int), np.full((5, 2), .5), task='multi_label', labels=['a', 'b']), path=tmp_path/'x.jsonl')

# ---------------------------------------------------------------- agreement

def log_of(path, labels, action='relabel'):
    log = ChangeLog(path)
    for i, label in enumerate(labels):
        if label is not None: log.append(f'i{i}', action, before=label if action == 'keep' else None, after=label if action == 'relabel' else None)
    return log

def test_kappa_is_that_of_scikit_learn(tmp_path):
    rng = np.random.default_rng(5)
    a = rng.choice(list('xyz'), 90)
    b = np.where(rng.random(90) < .7, a, rng.choice(list('xyz'), 90))
    first, second = log_of(tmp_path/'a.jsonl', [None] * 5 + [*a[5:]]), log_of(tmp_path/'b.jsonl', [*b[:80]] + [None] * 10, 'keep')
    second.append('i20', 'skip', before=b[20])
    second.append('i21', 'drop', before=b[21])
    second.append('i22', 'skip', before=b[22])
    second.undo()
    both = [i for i in range(5, 80) if i not in (20, 21)]
    table = measure_agreement(first, tmp_path/'b.jsonl', seed=0).set_index('metric')
    assert table.n.tolist() == [73, 73]
    assert table.value.kappa == pytest.approx(cohen_kappa_score(a[both], b[both])) and table.value.agreement == pytest.approx((a[both] == b[both]).mean())
    assert table.low.kappa < table.value.kappa < table.high.kappa < 1
    turned = measure_agreement(second.current(), first.current(), seed=0).set_index('metric')
    assert turned.value.kappa == pytest.approx(table.value.kappa)

def test_agreement_about_several_labels_is_that_of_each(tmp_path):
    rng = np.random.default_rng(6)
    one = rng.integers(0, 2, (80, 3)).astype(bool)
    two = one ^ (rng.random((80, 3)) < [.02, .1, .3])
    names = lambda rows: [';'.join(l for l, on in zip('xyz', row) if on) for row in rows]
    table = measure_agreement(log_of(tmp_path/'a.jsonl', names(one)), log_of(tmp_path/'b.jsonl', names(two)), seed=0)
    each = table[table.label != ''].set_index('label')
    for i, label in enumerate('xyz'): assert each.value[label] == pytest.approx(cohen_kappa_score(one[:, i], two[:, i])) and each.low[label] < each.value[label] < each.high[label]
    whole = table[table.label == ''].set_index('metric')
    assert whole.value.agreement == pytest.approx((one == two).all(1).mean()) and whole.value.kappa == pytest.approx(cohen_kappa_score(names(one), names(two))) and set(table.n) == {80}

def test_agreement_where_there_is_little_to_say(tmp_path):
    same = measure_agreement(log_of(tmp_path/'a.jsonl', ['x'] * 8), log_of(tmp_path/'b.jsonl', ['x'] * 8), seed=0).set_index('metric')
    assert np.isnan(same.value.kappa) and same.value.agreement == 1 and same.low.agreement < 1 # one label: chance would agree as well
    with pytest.raises(InputError, match='both have judged'): measure_agreement(log_of(tmp_path/'c.jsonl', ['x', None]), log_of(tmp_path/'d.jsonl', [None, 'x']), seed=0)
    with pytest.raises(InputError, match='not there'): measure_agreement(tmp_path/'a.jsonl', tmp_path/'nobody.jsonl', seed=0)
