"""Several connections to the journal's file: the daemon commits while a process compacts, and others read.

A killed daemon may leave a process that compacts behind, beside the next daemon and its own: nothing is lost by that.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from cmserverd import compaction
from cmserverd.core import history
from cmserverd.core.changes import Change
from cmserverd.core.table import Table
from cmserverd.store import Entry, Store, StoreBusy, StoreFault
from tests.core.replay import facts
from tests.core.scene import STATION_SHARE, Scene, container, item
from tests.daemon.harness import LIMIT
from tests.daemon.kept import copied, read, replay, told

SESSIONS = 1_500


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    """A history with a base of several parts: many sessions, and a share of each that comes and goes."""
    scene = Scene(container(item(quantity=9)))
    scene.checking = False
    sessions = [scene.session(address=f"192.0.2.{number % 200}") for number in range(SESSIONS)]
    for session in sessions[:300]:
        scene.release(scene.access(session, STATION_SHARE))
        scene.access(session, STATION_SHARE)
    return told(scene)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be."""
    return tmp_path / "journal.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """The daemon's connection."""
    store = Store(path, power=False)
    yield store
    store.close()


@pytest.fixture
def other(path: Path, store: Store) -> Iterator[Store]:
    """Another one."""
    assert store.path == path
    other = Store(path, power=False)
    yield other
    other.close()


def commit(store: Store, entry: Entry) -> None:
    """Commit as the daemon does: at once, or patiently if another connection commits just then."""
    try:
        store.append([entry], 0)
    except StoreBusy:
        store.append([entry], LIMIT)


def assert_whole(path: Path, entries: list[Entry]) -> None:
    """Assert that a file has all of this, as it is and as it were after a crash."""
    table = Table()
    for entry in entries:
        for change in entry.changes:
            table.apply(change)
    expected = entries[-1].position, facts(table)
    for file in (path, copied(path, path.parent / "crashed")):
        position, table = read(file)
        assert (position, facts(table)) == expected


def test_commits_between_the_parts_of_a_compaction(
    path: Path, store: Store, other: Store, entries: list[Entry]
) -> None:
    """They follow the new base, whose position is the one at which the compaction began to read."""
    half = len(entries) // 2
    store.append(entries[:half], 0)
    coming = iter(entries[half:])
    shortest = list(history.shortest(replay(other)))

    def while_commits_come() -> Iterator[Change]:
        for number, change in enumerate(shortest):
            if number % 100 == 0:
                store.append([next(coming)], 0)
            yield change

    other.compact(while_commits_come(), 0)
    assert other.segments()[-1].position == entries[half - 1].position
    assert store.position > entries[half - 1].position
    assert compaction.trim(other, 0, 0) > 0
    store.append(list(coming), 0)
    assert_whole(path, entries)


def test_a_real_compaction_beside_commits(path: Path, store: Store, other: Store, entries: list[Entry]) -> None:
    """A process of its own, while the daemon goes on: nothing is lost, and its log is still there afterwards."""
    half = len(entries) // 2
    store.append(entries[:half], 0)
    other.checkpoint(0)
    done = half
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "cmserverd.compaction", str(path), "1"], stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and done < len(entries) - 1:
            commit(store, entries[done])
            done += 1
        said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    grown, base, dropped = map(int, said.split())
    assert (base, dropped > 0) == (store.base_size(), True)
    assert grown <= store.grown()
    assert len(store.segments()) == 1
    assert store.segments()[0].position >= entries[half - 1].position
    for entry in entries[done:]:
        commit(store, entry)
    assert_whole(path, entries)


def test_a_second_connection_does_not_take_the_locks_off_the_first(path: Path, store: Store) -> None:
    """As a file that is opened and closed again would: another process must see that the file is in use."""
    store.append([Entry(1, 1, 1, ())], 0)
    Store(path, power=False).close()
    sqlite_shared = 0x4000_0002, 510
    lock = (
        "import fcntl, sys\n"
        "start, length = map(int, sys.argv[2:])\n"
        "with open(sys.argv[1], 'r+b') as file:\n"
        "    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)\n"
    )
    tried = subprocess.run(
        [sys.executable, "-c", lock, str(path), *map(str, sqlite_shared)], capture_output=True, text=True, check=False
    )
    assert "BlockingIOError" in tried.stderr


@pytest.mark.parametrize("written", [0, 600])
def test_two_that_compact_at_once(path: Path, store: Store, other: Store, entries: list[Entry], written: int) -> None:
    """The one that is done first counts, and what the other one wrote is thrown away by the next."""
    store.append(entries[:-1], 0)
    third = Store(path, power=False)
    shortest = list(history.shortest(replay(other)))

    def while_another_one_does() -> Iterator[Change]:
        yield from shortest[:written]
        compaction.compact(third, most=0)
        third.close()
        store.append(entries[-1:], 0)
        yield from shortest[written:]

    with pytest.raises(StoreBusy, match="is compacted by another process; wait"):
        other.compact(while_another_one_does(), 0)
    assert len(store.segments()) == 1
    assert_whole(path, entries)
    compaction.compact(other, most=0)
    assert store._db.execute("SELECT count(DISTINCT generation) FROM base").get == 1
    assert_whole(path, entries)


def test_a_compaction_while_a_daemon_starts(store: Store, other: Store, entries: list[Entry]) -> None:
    """What is read is what there was at one moment, though its segment is gone before it is read."""
    half = len(entries) // 2
    store.append(entries[:half], 0)
    compaction.compact(store, most=0)
    store.append(entries[half:], 0)
    expected = list(other.changes())
    reading = other.changes()
    read = [next(reading)]
    compaction.compact(store, most=0)
    read += reading
    assert read == expected
    assert other.position == entries[-1].position


def test_whoever_finds_the_file_locked_says_so(path: Path, store: Store, entries: list[Entry]) -> None:
    """At once, and nothing is done; once it is free it works."""
    store.append(entries[:1], 0)
    locking = apsw.Connection(str(path))
    locking.execute("BEGIN IMMEDIATE")
    for use in (
        lambda: store.append(entries[1:2], 0),
        lambda: store.append(entries[1:], 0),
        lambda: store.keep_time(9, 0, 0),
        lambda: compaction_of(store),
        lambda: store.reopen(0),
    ):
        with pytest.raises(StoreBusy) as busy:
            use()
        assert str(busy.value) == f"another program has kept the journal {path} locked; close it"
        assert isinstance(busy.value, StoreFault)
    assert store.position == entries[0].position
    locking.execute("ROLLBACK")
    locking.close()
    store.append(entries[1:], 0)
    assert_whole(path, entries)


def compaction_of(store: Store) -> None:
    """Compact without patience."""
    store.compact(history.shortest(replay(store)), 0)


def test_a_compaction_that_cannot_be_done_says_why(
    path: Path, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line on standard error: the file is damaged, or locked."""
    store.append([Entry(1, 1, 1, ())], 0)
    monkeypatch.setattr(compaction, "_PATIENCE", 0.0)
    locking = apsw.Connection(str(path))
    locking.execute("BEGIN IMMEDIATE")
    assert compaction.main([str(path), "1"]) == 1
    assert capsys.readouterr() == ("", f"another program has kept the journal {path} locked; close it\n")
    locking.execute("UPDATE history SET entries = zeroblob(9)")
    locking.execute("COMMIT")
    locking.close()
    assert compaction.main([str(path), "1"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"the journal {path} is damaged at position 1; put a copy of it in its place" in err
