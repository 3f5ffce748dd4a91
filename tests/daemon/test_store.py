"""The journal's file by itself: what is kept is read back, and it is kept small."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import apsw
import pytest

from cmserverd import compaction
from cmserverd.core import changes as c
from cmserverd.core import history
from cmserverd.core.changes import Change
from cmserverd.core.table import Table
from cmserverd.store import Entry, Segment, Store, StoreBusy, StoreFault
from protocol.messages import Access, AccessKey
from tests.core.replay import facts
from tests.daemon.disk import noting
from tests.daemon.kept import EVENTFUL, FACTS, copied, read, replay

LAST = EVENTFUL[-1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be."""
    return tmp_path / "journal.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A new file."""
    store = Store(path, power=False)
    yield store
    store.close()


def used(position: int, much: int = 1) -> Entry:
    """Return an entry that says something that need not fit any table."""
    return Entry(position, 1_000 + position, 1, tuple(c.Used(handle, position) for handle in range(much)))


def in_segments(store: Store, parts: int) -> list[Segment]:
    """Append the eventful history, with a compaction after each part of it but the last; return the segments."""
    size = len(EVENTFUL) // parts
    for part in range(parts):
        some = EVENTFUL[part * size :] if part == parts - 1 else EVENTFUL[part * size : (part + 1) * size]
        for entry in some:
            store.append([entry], 0)
        if part < parts - 1:
            compaction.compact(store, most=1_000_000)
    return store.segments()


def size_before_the_last(store: Store) -> int:
    """Return how many bytes all segments before the last one have."""
    of_bases, of_history = (
        store._db.execute(query).get
        for query in (
            "SELECT sum(length(changes)) FROM base WHERE generation < (SELECT max(generation) FROM segment)",
            "SELECT sum(length(entries)) FROM history WHERE position <= (SELECT max(position) FROM segment)",
        )
    )
    return (of_bases or 0) + (of_history or 0)


# what is kept


@pytest.mark.parametrize("power", [False, True])
def test_what_is_appended_is_read_back(path: Path, *, power: bool) -> None:
    """By who appended it, and by the next one: table, position and time."""
    store = Store(path, power=power)
    assert [store.position, store.time, *store.changes()] == [0, 0]
    for entry in EVENTFUL:
        store.append([entry], 0)
        assert (store.position, store.time) == (entry.position, entry.at)
    assert facts(replay(store)) == FACTS[LAST.position]
    store.close()
    again = Store(path, power=power)
    assert facts(replay(again)) == FACTS[LAST.position]
    assert (again.position, again.time) == (LAST.position, LAST.at)
    again.append([used(LAST.position + 1)], 0)
    assert list(again.changes())[-1] == c.Used(0, LAST.position + 1)
    again.close()


def test_who_was_denied_what_is_read_back(store: Store) -> None:
    """An entry comes back as it was: the whole request, and the session."""
    asked = Access(AccessKey(bytes(16)), firm_code=600_010, product_code=14)
    entries = [used(1), Entry(3, 1_003, 7, (), asked)]
    store.append(entries, 0)
    assert list(store.entries(store.segments()[0])) == entries


def test_a_commit_of_many_is_kept_whole(store: Store) -> None:
    """In rows that are not too long, all of which are there at once."""
    entries = [used(position) for position in range(1, 2_501)]
    written = store.append(entries, 0)
    assert list(store.entries(store.segments()[0])) == entries
    assert store._db.execute("SELECT count(*) FROM history").get == 3
    assert store.grown() == written
    with pytest.raises(StoreFault):
        store.append([*map(used, range(2_501, 4_500)), used(2_500)], 0)  # the second row's position is taken
    assert store.position == 2_500
    assert list(store.entries(store.segments()[0])) == entries


@pytest.mark.parametrize("power", [False, True])
def test_power_waits_for_the_disk(path: Path, *, power: bool) -> None:
    """With each commit, and otherwise with none."""
    with noting() as disk:
        store = Store(path, power=power)
        store.append([used(1)], 0)
        del disk.steps[:]
        store.append([used(2)], 0)
        store.append([used(3)], 0)
        assert [step.kind for step in disk.steps].count("sync") == (2 if power else 0)
        store.close()


def test_the_file_is_its_users_alone(path: Path, store: Store) -> None:
    """And so is all beside it: who may read it knows who has which license."""
    store.append([used(1)], 0)
    found = {part.name: stat.S_IMODE(part.stat().st_mode) for part in path.parent.iterdir()}
    assert found == dict.fromkeys(("journal.db", "journal.db-wal", "journal.db-shm"), 0o600)


def test_the_time_is_kept_where_nothing_happens(path: Path, store: Store) -> None:
    """It counts until something else does; how wrong the system clock is stays."""
    store.append([used(1)], 0)
    store.keep_time(5_000, -30, 0)
    assert (store.time, store.ahead) == (5_000, -30)
    again = Store(path, power=False)
    list(again.changes())
    assert (again.position, again.time, again.ahead) == (1, 5_000, -30)
    store.append([used(2)], 0)
    list(again.changes())
    assert (again.position, again.time, again.ahead) == (2, 1_002, -30)
    again.close()


# keeping it small


def test_a_compaction_changes_nothing_of_what_stands(path: Path, store: Store) -> None:
    """After each entry: the base and what follows it give the same table, position and time."""
    for entry in EVENTFUL:
        store.append([entry], 0)
        compaction.compact(store, most=0)
        position, table = read(path)
        assert (position, facts(table)) == (entry.position, FACTS[entry.position])
    assert store.grown() == 0
    assert store.base_size() > 0
    assert store._db.execute("SELECT count(*) FROM history").get == 0
    again = Store(path, power=False)
    list(again.changes())
    assert (again.position, again.time) == (LAST.position, LAST.at)
    again.append([used(LAST.position + 1)], 0)
    assert list(again.changes())[-1] == c.Used(0, LAST.position + 1)
    again.close()


def test_every_segment_can_be_read_by_itself(store: Store) -> None:
    """Its base is what stood when it began."""
    segments = in_segments(store, 4)
    assert len(segments) == 4
    for segment in segments:
        table = Table()
        for change in store.base(segment):
            table.apply(change)
        assert facts(table) == FACTS[segment.position]
        for entry in store.entries(segment):
            for change in entry.changes:
                table.apply(change)
        assert facts(table) == FACTS[LAST.position]


def test_a_compaction_that_breaks_off_leaves_what_was(path: Path, store: Store) -> None:
    """Whatever it had written; the next one throws that away."""
    in_segments(store, 2)

    def breaking_off() -> Iterator[Change]:
        yield from (c.Used(handle, 1) for handle in range(1_200))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.compact(breaking_off(), 0)
    count = "SELECT count(*) FROM base WHERE generation NOT IN (SELECT generation FROM segment)"
    assert store._db.execute(count).get == 2
    assert facts(read(path)[1]) == FACTS[LAST.position]
    compaction.compact(store, most=1_000_000)
    assert store._db.execute(count).get == 0
    assert facts(read(path)[1]) == FACTS[LAST.position]


def test_a_base_that_is_not_whole_never_counts(path: Path, store: Store) -> None:
    """Not even if a part of it was lost on the way."""
    in_segments(store, 2)
    before = store.segments()

    def robbed() -> Iterator[Change]:
        yield from (c.Used(handle, 1) for handle in range(1_200))
        store._db.execute("DELETE FROM base WHERE generation NOT IN (SELECT generation FROM segment) AND number = 1")

    with pytest.raises(StoreBusy):
        store.compact(robbed(), 0)
    assert store.segments() == before
    assert facts(read(path)[1]) == FACTS[LAST.position]


def test_the_oldest_segments_are_dropped_until_the_rest_fits(path: Path, store: Store) -> None:
    """As few as that takes, whole ones, and never anything of the last one."""
    segments = in_segments(store, 5)
    whole = size_before_the_last(store)
    assert compaction.trim(store, whole, 0) == 0
    assert store.segments() == segments
    dropped = compaction.trim(store, whole - 1, 0)
    assert store.segments() == segments[1:]
    assert size_before_the_last(store) == whole - dropped
    assert store._db.execute("SELECT min(position) FROM history").get == segments[1].position + 1
    compaction.trim(store, 1, 0)
    assert store.segments() == segments[-1:]
    assert size_before_the_last(store) == 0
    position, table = read(path)
    assert (position, facts(table)) == (LAST.position, FACTS[LAST.position])
    assert compaction.trim(store, 0, 0) == 0
    assert store.grown() > 0


def test_the_log_of_the_database_stops_growing(path: Path, store: Store) -> None:
    """Under a steady load: with each checkpoint it begins anew, at once or when the one who reads is done."""
    log = path.with_name("journal.db-wal")
    tidy, other = (Store(path, power=False) for _ in range(2))
    position = 0

    def load() -> int:
        nonlocal position
        for _ in range(20):
            position += 1
            store.append([used(position, much=200)], 0)
        return log.stat().st_size

    first = load()
    for _ in range(5):
        tidy.checkpoint(0)
        assert load() <= first + 4 * 4_096, "it is written over from its beginning"
    reading = other.changes()
    next(reading)
    load()
    with pytest.raises(StoreBusy):
        tidy.checkpoint(0)
    grown = load()
    assert grown > first + 4 * 4_096
    assert len(list(reading)) < position * 200 - 1, "what came meanwhile is not seen"
    for _ in range(3):
        tidy.checkpoint(0)
        assert load() == grown
    assert len(list(other.changes())) == position * 200
    tidy.close()
    other.close()


# faults of the disk


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_commit_that_failed_is_made_again(path: Path, kind: str) -> None:
    """Once the disk works again: it is there once, whether what had failed arrived or not."""
    with noting() as disk:
        store = Store(path, power=True)
        store.append([used(1)], 0)
        disk.broken = kind
        for _ in range(2):
            with pytest.raises(StoreFault, match="the disk does not read or write; look at the disk"):
                store.append([used(2)], 0)
        assert store.position == 1
        with suppress(StoreFault):
            store.reopen(0)
        disk.broken = ""
        store.reopen(0)
        store.append([used(2), used(3)], 0)
        store.append([used(4)], 0)
        store.close()
    again = Store(path, power=True)
    assert [change.at for change in again.changes() if isinstance(change, c.Used)] == [1, 2, 3, 4]
    again.close()


def test_a_full_disk_is_told(path: Path, store: Store) -> None:
    """As what it is; once there is room it goes on without more ado."""
    store.append([used(1)], 0)
    pages = store._db.pragma("max_page_count", 1)
    with pytest.raises(StoreFault, match="the disk is full; make room"):
        store.append([used(2, much=10_000)], 0)
    store._db.pragma("max_page_count", pages + 1_000_000)
    store.append([used(2, much=10_000)], 0)
    assert read_positions(path) == [1, 2]


def read_positions(path: Path) -> list[int]:
    """Return the positions of all entries in a file."""
    store = Store(path, power=False)
    positions = [entry.position for entry in store.entries(store.segments()[0])]
    store.close()
    return positions


@pytest.mark.parametrize("what", ["older", "gone"])
def test_another_file_in_its_place_is_not_gone_on_with(path: Path, store: Store, what: str) -> None:
    """Each row would follow one that is not there, and nobody could read it."""
    store.append([used(1)], 0)
    old = copied(path, path.parent / "old")
    store.append([used(2)], 0)
    path.unlink()
    for part in ("-wal", "-shm"):
        path.with_name(path.name + part).unlink()
    if what == "older":
        copied(old, path.parent)
        told = "is not the one it was; put that one back"
    else:
        told = "is not in its place any more; put it back, or restart the server, which begins a new one"
    with pytest.raises(StoreFault, match=told):
        store.keep_time(1, 0, 0) if what == "gone" else store.reopen(0)
    with pytest.raises(StoreFault, match=told):
        store.reopen(0)
    assert path.exists() == (what == "older"), "who looks at a journal makes none"


def test_the_shortest_history_is_what_is_written(store: Store) -> None:
    """What has come and gone is not in the base."""
    in_segments(store, 2)
    compaction.compact(store, most=0)
    assert list(store.base(store.segments()[-1])) == list(history.shortest(replay(store)))


def test_the_file_is_one_of_sqlite(path: Path, store: Store) -> None:
    """Everybody's tools read it, `.backup` too, while it is written."""
    in_segments(store, 2)
    copy = path.with_name("copy.db")
    source, target = apsw.Connection(str(path)), apsw.Connection(str(copy))
    with target.backup("main", source, "main") as backup:
        backup.step()
    source.close()
    target.close()
    position, table = read(copy)
    assert (position, facts(table)) == (LAST.position, FACTS[LAST.position])
