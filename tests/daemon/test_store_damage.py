"""A file that is not as it was written: it is told, in one sentence that says what to do, or it does not matter.

Never is there another table than one that was. Damage to the log of the database, in the middle of which a crash may
have left it, costs what came after; all else is found.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from cmserverd import compaction
from cmserverd.core import changes as c
from cmserverd.database import FORMAT
from cmserverd.store import _ENCODER, Entry, Store, StoreFault, _hash
from tests.core.replay import facts
from tests.daemon.kept import EVENTFUL, FACTS, copied, replay

LAST = EVENTFUL[-1].position
OTHER_USER = 65_534
WAYS_OUT = ("put a copy of it in its place", "correct [server] state_directory", "start that one", "let this user")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be."""
    return tmp_path / "journal.db"


def fill(path: Path) -> Store:
    """Return a store with two segments, some of it in the log of the database still."""
    store = Store(path, power=False)
    for number, entry in enumerate(EVENTFUL):
        store.append([entry], 0)
        if number == 24:
            compaction.compact(store, most=1_000_000)
        if number == 36:
            store.checkpoint(0)
    store.keep_time(EVENTFUL[-1].at + 60, 5, 0)
    return store


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The file as a server leaves it that is stopped."""
    path = tmp_path_factory.mktemp("stopped") / "journal.db"
    fill(path).close()
    return {part.name: part.read_bytes() for part in path.parent.iterdir()}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files as a server leaves them that is killed."""
    directory = tmp_path_factory.mktemp("killed")
    store = fill(directory / "journal.db")
    copy = copied(store.path, directory / "copy")
    store.close()
    return {part.name: part.read_bytes() for part in copy.parent.iterdir()}


def opening(path: Path, files: dict[str, bytes]) -> tuple[int, int]:
    """Open a file with what is beside it, and return position and time. Raises StoreFault, which says what to do."""
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        path.with_name(name).unlink(missing_ok=True)
    for name, octets in files.items():
        path.with_name(name).write_bytes(octets)
    store = None
    try:
        store = Store(path, power=False)
        table = replay(store)
        assert facts(table) == FACTS[store.position]
        return store.position, store.time
    except StoreFault as fault:
        told = str(fault)
        if str(path) in told and "\n" not in told and any(way in told for way in WAYS_OUT):
            raise
        raise AssertionError(told) from fault
    finally:
        if store is not None:
            store._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            store.close()


def said(path: Path, files: dict[str, bytes]) -> tuple[int, int] | None:
    """Open a file; None if that is refused."""
    try:
        return opening(path, files)
    except StoreFault:
        return None


WHOLE = (LAST, EVENTFUL[-1].at + 60)


def test_what_is_whole_is_read(path: Path, stopped: dict[str, bytes], killed: dict[str, bytes]) -> None:
    """The rest of this module would be worth little otherwise."""
    assert stopped.keys() == {"journal.db"}
    assert killed.keys() == {"journal.db", "journal.db-wal"}
    assert opening(path, stopped) == opening(path, killed) == WHOLE


def test_a_file_that_is_cut_off(path: Path, stopped: dict[str, bytes], killed: dict[str, bytes]) -> None:
    """Anywhere: that is found, or the table is there. Nothing at all, with nothing beside it, is a new journal."""
    for files in (stopped, killed):
        whole = files["journal.db"]
        for size in (*range(1, 120), *range(120, len(whole), 509), len(whole) - 1):
            rest = {**files, "journal.db": whole[:size]}
            assert said(path, rest) in (None, WHOLE), size
    assert said(path, {**killed, "journal.db": b""}) is None
    assert opening(path, {"journal.db": b""}) == (0, 0)


def test_a_log_that_is_cut_off(path: Path, killed: dict[str, bytes]) -> None:
    """Anywhere, as by a crash: what came before is there."""
    log = killed["journal.db-wal"]
    positions = [opening(path, {**killed, "journal.db-wal": log[:size]})[0] for size in range(0, len(log), 1_021)]
    assert positions == sorted(positions)
    assert positions[-1] == LAST
    assert 0 < positions[0] < LAST


def one_bit(octets: bytes, offset: int, bit: int) -> bytes:
    """Return this with one bit the other way round."""
    return octets[:offset] + bytes((octets[offset] ^ 1 << bit,)) + octets[offset + 1 :]


def test_one_bit_of_the_file_is_wrong(path: Path, stopped: dict[str, bytes]) -> None:
    """That is found, or it is where nothing is: the table is the last one, never an older one even."""
    whole = stopped["journal.db"]
    found = 0
    for offset in range(len(whole)):
        for bit in range(8) if offset % 4_096 < 12 else (offset % 8,) * (offset % 29 == 0):
            back = said(path, {"journal.db": one_bit(whole, offset, bit)})
            assert back is None or (back[0] == LAST and back[1] in (WHOLE[1], EVENTFUL[-1].at)), (offset, bit)
            found += back is None
    assert found > 100


def test_one_bit_of_the_log_is_wrong(path: Path, killed: dict[str, bytes]) -> None:
    """What came before it is there, and nothing that never was."""
    log = killed["journal.db-wal"]
    backs = [
        said(path, {**killed, "journal.db-wal": one_bit(log, offset, offset % 8)}) for offset in range(0, len(log), 331)
    ]
    assert None not in backs
    assert {position for position, _ in filter(None, backs)} >= set(range(LAST - 4, LAST + 1)) & FACTS.keys()


# altered by hand


def altered(path: Path, files: dict[str, bytes], *statements: tuple[str, tuple[object, ...]]) -> str:
    """Return what is said about a file after these statements were executed on it."""
    for name, octets in files.items():
        path.with_name(name).write_bytes(octets)
    db = apsw.Connection(str(path))
    for text, values in statements:
        db.execute(text, values)
    db.close()
    with pytest.raises(StoreFault) as fault:
        opening(path, {"journal.db": path.read_bytes()})
    return str(fault.value)


@pytest.mark.parametrize("position", [entry.position for entry in EVENTFUL[25:]])
def test_a_row_is_taken_out(path: Path, stopped: dict[str, bytes], position: int) -> None:
    """The next one does not follow the one before it; and where there is no next one, the clock tells."""
    told = altered(path, stopped, ("DELETE FROM history WHERE position = ?", (position,)))
    after = next((entry.position for entry in EVENTFUL if entry.position > position), position)
    assert f"is damaged at position {after};" in told


@pytest.mark.parametrize("number", range(25, len(EVENTFUL) - 1))
def test_a_row_is_altered_with_its_own_hash(path: Path, stopped: dict[str, bytes], number: int) -> None:
    """The next one followed another; what the false one says is not even tried."""
    before, entry, after = EVENTFUL[number - 1], EVENTFUL[number], EVENTFUL[number + 1]
    octets = _ENCODER.encode([Entry(entry.position, entry.at, 1, (c.Freed(99, 99),))])
    db = apsw.Connection(":memory:")
    db.deserialize(
        "main", stopped["journal.db"].replace(b"SQLite format 3\0\x10\0\2\2", b"SQLite format 3\0\x10\0\1\1")
    )
    link = db.execute(
        "SELECT chain FROM history WHERE position = ?1 UNION SELECT chain FROM segment WHERE position = ?1",
        (before.position,),
    ).get
    link = _hash(link, entry.position, entry.at, octets)
    told = altered(
        path,
        stopped,
        ("UPDATE history SET entries = ?, chain = ? WHERE position = ?", (octets, link, entry.position)),
    )
    assert f"is damaged at position {after.position};" in told


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE history SET entries = zeroblob(9) WHERE position = (SELECT max(position) FROM history)",
        "UPDATE history SET time = time + 1 WHERE position = (SELECT max(position) FROM history)",
        "UPDATE history SET position = position + 1 WHERE position = (SELECT max(position) FROM history)",
        "UPDATE history SET chain = zeroblob(32) WHERE position = (SELECT max(position) FROM history)",
        "DELETE FROM history",
        "UPDATE segment SET position = position + 1 WHERE generation > 0",
        "UPDATE segment SET time = time + 1 WHERE generation > 0",
        "UPDATE segment SET generation = generation + 1 WHERE generation > 0",
        "UPDATE segment SET chain = zeroblob(32) WHERE generation > 0",
        "UPDATE segment SET digest = zeroblob(32) WHERE generation > 0",
        "UPDATE base SET changes = zeroblob(9)",
        "DELETE FROM base",
        "DELETE FROM segment",
        "UPDATE clock SET position = position + 1",
        "UPDATE clock SET time = time + 1",
        "UPDATE clock SET ahead = 0",
        "DELETE FROM clock",
        "DROP TABLE clock",
        "ALTER TABLE history RENAME COLUMN entries TO records",
    ],
)
def test_something_is_altered(path: Path, stopped: dict[str, bytes], statement: str) -> None:
    """Nothing is taken for true that was not written so."""
    assert "put a copy of it in its place, or move it away" in altered(path, stopped, (statement, ()))


# what is no journal of ours, or not to be used


def refused(path: Path) -> str:
    """Return why a file is not taken; nothing of it, and nothing beside it, is altered by that."""
    before = {part.name: part.read_bytes() for part in path.parent.iterdir() if part.is_file()}
    with pytest.raises(StoreFault) as fault:
        Store(path, power=False)
    assert {part.name: part.read_bytes() for part in path.parent.iterdir() if part.is_file()} == before
    return str(fault.value).replace(str(path), "it")


def test_one_of_a_newer_version(path: Path) -> None:
    """It may say what this program does not understand."""
    Store(path, power=False).close()
    db = apsw.Connection(str(path))
    db.pragma("user_version", FORMAT + 1)
    db.close()
    told = refused(path)
    assert f"was written by a newer cmserverd (format {FORMAT + 1}, this one has {FORMAT}); start that one" in told


def test_something_else(path: Path) -> None:
    """It is not SQLite's."""
    path.write_bytes(b"Dear diary\n" * 1_000)
    assert "it is no journal, or damaged; put a copy of it in its place" in refused(path)


def test_the_database_of_another_program(path: Path) -> None:
    """It is not made ours."""
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE address (name TEXT)")
    db.close()
    assert refused(path) == "it is no journal of cmserverd; correct [server] state_directory"


@pytest.mark.parametrize("to", ["other.db", "nowhere.db"])
def test_a_symbolic_link(path: Path, to: str) -> None:
    """Whoever put it there may want something overwritten."""
    Store(path.with_name("other.db"), power=False).close()
    path.symlink_to(path.with_name(to))
    assert refused(path) == "it is no file; move away what is there in place of the journal"


def test_a_directory(path: Path) -> None:
    """It is not one's own file."""
    path.mkdir()
    assert refused(path) == "it is no file; move away what is there in place of the journal"


def test_no_directory_to_put_it_in(path: Path) -> None:
    """It cannot be made."""
    told = "cannot be made: No such file or directory; correct [server] state_directory"
    with pytest.raises(StoreFault, match=told.replace("[", r"\[")):
        Store(path / "journal.db", power=False)


@contextmanager
def another_user(mode: int, files: dict[str, bytes]) -> Iterator[Path]:
    """Be somebody who is not root, with files of this mode; yield the path of the journal."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for file, octets in files.items():
            (directory / file).write_bytes(octets)
            (directory / file).chmod(mode)
            if not user:
                os.chown(directory / file, OTHER_USER, OTHER_USER)
        directory.chmod(0o755)
        if not user:
            os.chown(directory, OTHER_USER, OTHER_USER)
            os.seteuid(OTHER_USER)
        try:
            yield directory / "journal.db"
        finally:
            directory.chmod(0o755)
            os.seteuid(user)


@pytest.mark.parametrize("mode", [0o000, 0o400])
def test_one_that_this_user_may_not_use(stopped: dict[str, bytes], mode: int) -> None:
    """Not to read, or not to write: that is found at the start, not at the first grant."""
    with another_user(mode, stopped) as path, pytest.raises(StoreFault, match=r"; let this user (read and )?write"):
        Store(path, power=False)


def test_a_directory_that_this_user_may_not_use() -> None:
    """It cannot be made there."""
    with another_user(0o600, {}) as path:
        path.parent.chmod(0o555)
        with pytest.raises(StoreFault, match=r"cannot be made: Permission denied; correct \[server\] state_directory"):
            Store(path, power=False)


def test_one_that_was_never_begun(path: Path) -> None:
    """A crash between making the file and writing to it leaves it empty: it is begun then."""
    path.touch()
    store = Store(path, power=False)
    assert not list(store.changes())
    store.close()
