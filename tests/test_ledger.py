"A ledger under honest use by several processes, under SIGKILL, and under tampering."
import os, signal, sqlite3, subprocess, sys, time
from contextlib import closing

import pytest

from sft_nb.core import InputError
from sft_nb.ledger import Ledger

APPEND = "import sys; from sft_nb.ledger import Ledger\nfor i in range(int(sys.argv[2])): Ledger(sys.argv[1]).append('read', who_asked=sys.argv[3], i=i)"

def start(path, n, name): return subprocess.Popen([sys.executable, '-c', APPEND, str(path), str(n), name])

def test_several_processes_share_one_chain(tmp_path):
    several = [start(tmp_path/'l.sqlite', 25, f'p{i}') for i in range(4)]
    assert [p.wait(120) for p in several] == [0] * 4
    rows = Ledger(tmp_path/'l.sqlite').to_frame()
    assert rows.n.tolist() == list(range(1, 101)) and rows.hash.is_unique
    assert rows.groupby('who_asked').i.apply(list).map(lambda i: i == list(range(25))).all() # nothing lost, each in its order

def test_a_killed_process_leaves_a_whole_chain(tmp_path):
    path, n = tmp_path/'l.sqlite', 0
    for _ in range(8):
        process = start(path, 100_000, 'x')
        while not path.exists() or os.path.getsize(path) == 0: time.sleep(.01)
        deadline = time.time() + 60
        while time.time() < deadline and Ledger(path).verify() <= n + 3: time.sleep(.01)
        process.send_signal(signal.SIGKILL); process.wait()
        assert (now := Ledger(path).verify()) > n + 3
        n = now

@pytest.fixture
def five(tmp_path):
    ledger = Ledger(tmp_path/'l.sqlite')
    for i in range(5): ledger.append('read', split='test', why=f'look {i}')
    return ledger

def treat(ledger, *statements):
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as db:
        for s in ('DROP TRIGGER no_change', 'DROP TRIGGER no_removal', *statements): db.execute(s)

@pytest.mark.parametrize('row', [1, 3, 5])
@pytest.mark.parametrize('field, value', [('time', '2020-01-01T00:00:00+00:00'), ('who', 'nobody'), ('kind', 'look'), ('facts', '{}'), ('hash', 'f' * 64)])
def test_an_edited_field_is_found_and_named(five, row, field, value):
    treat(five, f"UPDATE ledger SET {field} = '{value}' WHERE n = {row}")
    with pytest.raises(InputError, match=f'row {row} of the ledger'): five.verify()
    with pytest.raises(InputError, match='edited'): five.append('read')

@pytest.mark.parametrize('statement, words', [
    ('DELETE FROM ledger WHERE n = 1', 'row 1 of the ledger'), ('DELETE FROM ledger WHERE n = 3', 'row 3 of the ledger'), ('DELETE FROM ledger WHERE n >= 4', 'of 5 rows, as were written'),
    ('DELETE FROM ledger', 'of 5 rows, as were written'), ("INSERT INTO ledger SELECT 6, time, who, kind, facts, hash FROM ledger WHERE n = 5", 'row 6')])
def test_rows_taken_or_added(five, statement, words):
    treat(five, statement)
    with pytest.raises(InputError, match=words): five.verify()

def test_two_rows_exchanged(five):
    treat(five, "UPDATE ledger SET n = 99 WHERE n = 2", "UPDATE ledger SET n = 2 WHERE n = 3", "UPDATE ledger SET n = 3 WHERE n = 99")
    with pytest.raises(InputError, match='row 2 of the ledger'): five.verify()

def test_a_ledger_that_was_written_anew_is_known_by_its_head(five):
    head, path = five.head, five.path
    treat(five, 'DELETE FROM ledger WHERE n = 5', "UPDATE sqlite_sequence SET seq = 4") # with all its traces
    assert Ledger(path).verify() == 4
    with pytest.raises(InputError, match='as was written down'): five.verify(head)
    five.append('read', why='something else')
    with pytest.raises(InputError, match='as was written down'): five.verify(head)

def test_what_is_no_ledger(tmp_path):
    (tmp_path/'text.sqlite').write_text('no database, but more than sixteen letters of text')
    for path in (tmp_path/'text.sqlite', tmp_path):
        with pytest.raises(InputError, match='an SQLite file'): Ledger(path).append('read')
    assert len(Ledger(tmp_path/'none.sqlite')) == 0 and not (tmp_path/'none.sqlite').exists() # to look makes no file
