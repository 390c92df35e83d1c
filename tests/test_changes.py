"The log of changes: what was decided is there after a kill, and applying it gives the same table, or an error that says why not."
import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from sft_nb.changes import ACTIONS, CHANGE_COLUMNS, ChangeLog, apply_changes, read_decisions, target_text
from sft_nb.core import InputError

NASTY = ['<script>alert(1)</script>', '🦴👩🏽‍🔬', 'שבור‏', '\u202egnorw', 'a\nb\r\n{"id": 1}', ' ', 'x' * 300, '\u2028', '\0']

def table(targets, **columns): return pd.DataFrame(dict(id=[f'i{k}' for k in range(len(targets))], target=targets, **columns))

# What happens to a log: a decision about one of five items, an undo of the last decision or of one item's, or another session.
steps = st.lists(st.one_of(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 4), st.sampled_from(['b', 'c', *NASTY])),
                           st.tuples(st.just('undo'), st.one_of(st.none(), st.integers(0, 4)), st.just('')), st.tuples(st.just('reopen'), st.just(0), st.just(''))), max_size=25)

@settings(max_examples=60, deadline=None)
@given(steps)
def test_any_history(tmp_path_factory, steps):
    "Against a plain list of decisions, from which an undo removes one."
    path = tmp_path_factory.mktemp('log')/'changes.jsonl'
    items = table(['a'] * 5, split=list('ttvte'))
    log, held = ChangeLog(path), []
    for action, k, label in steps:
        if action == 'reopen': log = ChangeLog(path)
        elif action == 'undo':
            mine = [d for d in held if k is None or d[0] == f'i{k}']
            last = mine and max((d for d in mine), key=held.index)
            if mine: assert log.undo(None if k is None else f'i{k}') == last[0]; held.remove(last)
            else:
                with pytest.raises(InputError): log.undo(None if k is None else f'i{k}')
        else:
            log.append(f'i{k}', action, before='a', after=label if action == 'relabel' else None)
            held.append((f'i{k}', action, label, len(held), object()))
    want = {id: (action, label) for id, action, label, *_ in held}
    got = ChangeLog(path).decisions()
    assert {id: row['action'] for id, row in got.items()} == {id: action for id, (action, _) in want.items()} == {id: row['action'] for id, row in log.decisions().items()}
    new = apply_changes(items, log)
    assert dict(zip(new.id, new.target)) == {i: want[i][1] if i in want and want[i][0] == 'relabel' else 'a' for i in items.id if i not in want or want[i][0] != 'drop'}
    assert new.split.tolist() == [s for i, s in zip(items.id, items.split) if i in set(new.id)]
    pd.testing.assert_frame_equal(apply_changes(new, ChangeLog(path)), new)
    pd.testing.assert_frame_equal(apply_changes(items, log.current()), new)
    pd.testing.assert_frame_equal(items, table(['a'] * 5, split=list('ttvte')))

def test_torn_at_every_byte(tmp_path):
    "However much of the last line was written, all lines before it hold, and the next decision is whole."
    log = ChangeLog(tmp_path/'whole.jsonl')
    for i in range(3): log.append(f'i{i}', 'relabel', before='ä', after='שבור')
    whole = log.path.read_bytes()
    start = whole[:-1].rindex(b'\n') + 1
    torn = tmp_path/'torn.jsonl'
    for end in range(start, len(whole) + 1):
        torn.write_bytes(whole[:end])
        complete = end >= len(whole) - 1 # all but the end of the line is a line
        again = ChangeLog(torn)
        assert list(again.decisions()) == ['i0', 'i1', 'i2'][:2 + complete]
        assert torn.read_bytes() == whole[:end], 'reading writes nothing'
        again.append('next', 'skip', before='ä')
        assert list(ChangeLog(torn).decisions()) == ['i0', 'i1', 'i2'][:2 + complete] + ['next']
        assert torn.read_bytes().startswith(whole[:len(whole) if complete else start])

CHILD = '''
import sys
from sft_nb.changes import ChangeLog
log = ChangeLog(sys.argv[1])
for i in range(10**6):
    log.append(f'{len(log.rows)}', 'relabel', before='x' * 50_000, after='y')
    print(len(log.rows), flush=True)
'''

def test_a_kill_loses_nothing(tmp_path):
    "A process is killed while it appends, four times over; every decision that it told of is in the file."
    path, told = tmp_path/'changes.jsonl', 0
    for lines in (1, 7, 20, 40):
        child = subprocess.Popen([sys.executable, '-c', CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(lines): told = int(child.stdout.readline())
        time.sleep(.0007 * lines)
        child.send_signal(signal.SIGKILL)
        told = max([told, *(int(l) for l in child.stdout.read().splitlines())])
        assert child.wait() == -signal.SIGKILL
        rows = ChangeLog(path).rows
        assert told <= len(rows) <= told + 1
        assert [r['id'] for r in rows] == [str(i) for i in range(len(rows))]

def test_on_the_disk_before_it_returns(tmp_path, monkeypatch):
    "What is synchronized is the whole line."
    synced, real = [], os.fsync
    monkeypatch.setattr(os, 'fsync', lambda fd: (synced.append(path.read_bytes()), real(fd)))
    path = tmp_path/'changes.jsonl'
    ChangeLog(path).append('a', 'keep', before='x')
    assert synced == [path.read_bytes()] and json.loads(synced[0])['id'] == 'a'

def test_two_windows_on_one_file(tmp_path):
    one, two = (ChangeLog(tmp_path/'changes.jsonl', who=who) for who in ('Ada', 'Grace'))
    one.append('a', 'keep', before='x')
    two.append('b', 'keep', before='x')
    one.append('c', 'keep', before='x')
    assert two.undo() == 'c'
    assert [(r['id'], r['action'], r['who']) for r in ChangeLog(one.path).rows] == [('a', 'keep', 'Ada'), ('b', 'keep', 'Grace'), ('c', 'keep', 'Ada'), ('c', 'undo', 'Grace')]

def test_an_edited_file_names_its_lines(tmp_path):
    log = ChangeLog(tmp_path/'changes.jsonl')
    for i in 'abc': log.append(i, 'keep', before='x')
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(lines[0] + b'{"id": "b"}\n' + lines[1] + b'\xff\xfe\n' + lines[2])
    with pytest.raises(InputError) as e: ChangeLog(log.path)
    assert len(e.value.problems) == 2 and 'line 2' in e.value.problems[0] and 'line 4' in e.value.problems[1]
    before = log.path.read_bytes()
    with pytest.raises(InputError): log.append('d', 'keep', before='x')
    assert log.path.read_bytes() == before

@pytest.mark.parametrize('call, says', [(lambda log: log.append('a', 'remove', before='x'), 'action'), (lambda log: log.append('a', 'undo', before='x'), 'action'),
                                        (lambda log: log.append('a', 'relabel', before='x'), 'after'), (lambda log: log.append('a', 'drop', before='x', after='y'), 'after'),
                                        (lambda log: log.undo(), 'undo'), (lambda log: log.undo('a'), "'a'")])
def test_nothing_wrong_is_written(tmp_path, call, says):
    log = ChangeLog(tmp_path/'changes.jsonl')
    with pytest.raises(InputError, match=says): call(log)
    assert not log.path.exists()

def test_all_misfits_at_once(tmp_path):
    log = ChangeLog(tmp_path/'changes.jsonl')
    for i in range(60): log.append(f'i{i}', ['keep', 'relabel', 'drop', 'skip'][i % 4], before='old', after='new' if i % 4 == 1 else None)
    items = table(['other'] * 30 + ['new'] * 10).iloc[::-1]
    with pytest.raises(InputError) as e: apply_changes(items, log)
    absent, other = e.value.problems
    assert "'i40'" in absent and "'i42'" not in absent # a dropped item may be gone
    assert "'i0' ('other', not 'old')" in other and "'i37'" not in other # has the new label already
    with pytest.raises(InputError, match="'i0', 'i1' more than once"): apply_changes(pd.concat([table(['old'] * 2)] * 2), log)
    with pytest.raises(InputError, match='`target`.*only id, tarket.*Did you mean'): apply_changes(items.rename(columns=dict(target='tarket')), log)
    with pytest.raises(InputError, match='not there'): apply_changes(items, tmp_path/'nothing.jsonl')
    with pytest.raises(InputError, match='`before`'): apply_changes(items, log.current().drop(columns='before'))

@pytest.mark.parametrize('targets, after, dtype', [([1, 2, 3], 7, 'int64'), ([1, 2, 3], '7', 'int64'), ([1, 2, 3], 'seven', 'object'), ([1., 2., None], 7, 'float64'), (['a', 'b', None], 'c', None),
                                                   (pd.Categorical(['a', 'b', 'a']), 'c', 'category'), (pd.Categorical(['a', 'b', 'a']), 'b', 'category'), (pd.array([1, 2, None], 'Int64'), 7, 'Int64'),
                                                   ([True, False, True], False, 'bool'), ([True, False, True], 'False', 'object')])
def test_columns_keep_their_type(tmp_path, targets, after, dtype):
    items = table(targets)
    items.index = [9, 9, 4] # a table that was cut out of another
    log = ChangeLog(tmp_path/'changes.jsonl')
    log.append('i0', 'relabel', before=items.target.iloc[0], after=after)
    log.append('i2', 'keep', before=items.target.iloc[2])
    new = apply_changes(items, log.path)
    assert str(new.target.dtype) == (dtype or str(items.target.dtype)) and new.index.tolist() == [9, 9, 4]
    assert target_text(new.target.iloc[0]) == target_text(after)
    assert [*map(target_text, new.target)][1:] == [*map(target_text, items.target)][1:]
    pd.testing.assert_frame_equal(apply_changes(new, log.path), new)

def test_labels_survive_the_file(tmp_path):
    log = ChangeLog(tmp_path/'changes.jsonl', who=NASTY[2])
    for i, (before, after) in enumerate(zip(NASTY, NASTY[1:] + NASTY[:1])): log.append(NASTY[i], 'relabel', before=before, after=after, reason=NASTY[0])
    again = ChangeLog(log.path)
    assert again.rows == log.rows and [r['after'] for r in again.rows] == NASTY[1:] + NASTY[:1]
    items = pd.DataFrame(dict(id=NASTY, target=NASTY))
    assert apply_changes(items, log.path).target.tolist() == NASTY[1:] + NASTY[:1]
    assert list(read_decisions(log.path)) == NASTY and ChangeLog(log.path).current().columns.tolist() == CHANGE_COLUMNS

def test_times_are_utc_and_in_order(tmp_path):
    log = ChangeLog(tmp_path/'changes.jsonl')
    for i in range(5): log.append(str(i), 'skip', before=None)
    times = pd.to_datetime(log.current().time)
    assert str(times.dt.tz) == 'UTC' and times.is_monotonic_increasing and abs((pd.Timestamp.now('UTC') - times.iloc[-1]).total_seconds()) < 60
