"""The usage of history that was dropped: it is told as if nothing had been, never twice, and damage to it is found."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import get_args

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmserverd import audit, compaction, rollup
from cmserverd.core import changes as c
from cmserverd.core.refusal import Refused
from cmserverd.core.terms import Access
from cmserverd.database import FORMAT
from cmserverd.engine import Record
from cmserverd.rollup import Bound
from cmserverd.store import Entry, Store, StoreBusy, StoreDamage, StoreFault
from cmserverd.verification import verify
from protocol import messages as m
from protocol.errors import ErrorNumber
from protocol.usage import SpanName, UsageRequest, UsageRow
from tests.core.replay import facts
from tests.core.scene import EXCLUSIVE, STATION_SHARE, USER_LIMIT, Scene, container, item
from tests.daemon.kept import EVENTFUL, FACTS, added_up, of_format_1, replay, usage

LAST = EVENTFUL[-1]
ALL = 1_000_000_000
"""So many bytes of history that nothing is dropped."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be."""
    return tmp_path / "journal.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A file with the eventful history in five segments."""
    store = Store(path, power=False)
    fill(store, EVENTFUL)
    yield store
    store.close()


def fill(store: Store, entries: Sequence[Entry]) -> None:
    """Write a history in five segments, and the time a while later."""
    for number, entry in enumerate(entries, 1):
        store.append([entry], 0)
        if number % (len(entries) // 5 + 1) == 0:
            compaction.compact(store, ALL)
    store.keep_time(entries[-1].at + 60, 0, 0)
    assert len(store.segments()) == 5


def drop(store: Store, number: int) -> None:
    """Drop so many of the oldest segments."""
    before = store.segments()
    compaction.trim(store, next(most for most in range(ALL) if store.surplus(most)[0] <= number), 0)
    assert store.segments() == before[number:]


def quiet(store: Store, hours: int) -> None:
    """Let so many hours pass in which nothing is told, and then something that changes nothing; begin a segment."""
    store.append([Entry(store.position + 1, store.time + 3_600 * hours, 0, (c.Stopped(),))], 0)
    compaction.compact(store, ALL)


# it makes no difference that history was dropped


@pytest.mark.parametrize("by", get_args(SpanName))
@pytest.mark.parametrize("numbers", [[1], [2], [4], [1, 1, 1, 1], [2, 2]])
def test_what_was_dropped_is_told_all_the_same(store: Store, numbers: list[int], by: SpanName) -> None:
    """At once or bit by bit: peak, use, denials and how much of a span is known."""
    expected = usage(store, by)
    assert expected == added_up(EVENTFUL, by, LAST.at + 60)
    for number in numbers:
        drop(store, number)
        assert usage(store, by) == expected
    assert verify(store).sound


class Told:
    """A server to which anything happens, and two files of that: in the one nothing is dropped."""

    def __init__(self, directory: Path) -> None:
        self.scene = Scene(container(item(1, 2), item(2, 1, product=15, linger=40)))
        self.scene.checking = False
        self.scene.engine.listen(self._note)
        self.pending = [Entry(one.position, one.at, one.session, one.changes) for one in self.scene.records]
        self.held: list[Access] = []
        self.sessions = [self.scene.session(f"pc{number}") for number in range(3)]
        self.whole, self.cut = (Store(directory / name, power=False) for name in ("whole.db", "cut.db"))

    def _note(self, record: Record) -> None:
        denied = record.refusal is not None and record.refusal.number is ErrorNumber.NO_MORE_LICENSES
        asked = record.request if denied else None
        if record.changes or asked is not None:
            assert asked is None or isinstance(asked, m.Access)
            self.pending.append(Entry(record.position, record.at, record.session, record.changes, asked))

    def do(self, what: str, number: int, seconds: int) -> None:
        """Have one thing happen."""
        scene = self.scene
        match what:
            case "access":
                mode = (USER_LIMIT, STATION_SHARE, EXCLUSIVE)[seconds % 3]
                with suppress(Refused):
                    asked = scene.request(mode, product=14 + number % 2)
                    self.held.append(scene.engine.access(self.sessions[number % 3], asked))
            case "release" if self.held:
                held = self.held.pop(number % len(self.held))
                if scene.table.accesses.find(held.handle) is held:
                    scene.release(held)
            case "pass":
                scene.pass_time(seconds)
            case "set back":
                scene.now -= min(seconds, 5_000)
                scene.engine.set_time(scene.now)
            case "restart":
                scene.engine.restart()
                for session in self.sessions:
                    scene.engine.resume(session.token_hash, session.address, local=False)
                scene.engine.started()
            case "plug":
                scene.engine.plug(container(item(1, 1 + number % 3), item(2, 1, product=15, linger=40)))
            case "quiet":
                scene.now += seconds
                scene.session("other")
            case "compact" | "drop":
                self.keep()
                compaction.compact(self.whole, ALL)
                compaction.compact(self.cut, 0 if what == "drop" else ALL)
            case _:
                pass

    def keep(self) -> None:
        """Commit."""
        for entry in self.pending:
            self.whole.append([entry], 0)
            self.cut.append([entry], 0)
        self.pending.clear()

    def finish(self) -> None:
        """Commit, and keep the time."""
        self.keep()
        for store in (self.whole, self.cut):
            store.keep_time(self.scene.engine.clock.now(), 0, 0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("access", "access", "access", "release", "pass", "pass", "quiet", "restart", "plug", "compact", "drop")
        ),
        st.integers(0, 8),
        st.integers(0, 90_000),
    ),
    max_size=40,
)


@settings(max_examples=40)
@given(STEPS, st.booleans(), st.integers(0, 40))
def test_whatever_was_dropped_it_is_told_all_the_same(
    steps: list[tuple[str, int, int]], sets_back: bool, at: int
) -> None:
    """Of whatever happened, wherever it was cut, from whenever on; also where the time was set back in between."""
    with tempfile.TemporaryDirectory() as name:
        told = Told(Path(name))
        for number, step in enumerate(steps):
            if sets_back and number == at:
                told.do("set back", *step[1:])
            told.do(*step)
        told.finish()
        for by in get_args(SpanName):
            expected = usage(told.whole, by)
            assert usage(told.cut, by) == expected
            for since in {row.start for row in expected} if not sets_back else ():
                assert usage(told.cut, by, since=since) == usage(told.whole, by, since=since)
        told.whole.close()
        told.cut.close()


@pytest.mark.parametrize("size", [1, 2, 1_000])
def test_pages_over_both(store: Store, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Of whatever size, also where each is asked for anew."""
    quiet(store, 30)
    quiet(store, 20)
    expected = usage(store)
    drop(store, 6)
    monkeypatch.setattr(audit, "LINES", size)
    found: list[UsageRow] = []
    cursor = None
    while True:
        page = next(audit.usage_pages(store, UsageRequest(by="hour", cursor=cursor)))
        assert len(page.rows) <= size
        found += page.rows
        cursor = page.next
        if cursor is None:
            break
    assert found == expected == usage(store)
    assert len(found) > 40
    middle = found[len(found) // 2].start
    assert usage(store, until=middle) == [row for row in expected if row.start < middle]
    assert usage(store, since=middle) == [row for row in expected if row.start >= middle]


def test_what_is_kept_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours that are too much are told by day and by month alone."""
    for _ in range(5):
        quiet(store, 24)
    by_hour, by_month = usage(store), usage(store, "month")
    bounds = {"hour": Bound(86_400 * 2, 50), "day": Bound(86_400 * 90, 50), "month": Bound(86_400 * 900, 50)}
    monkeypatch.setattr(rollup, "BOUNDS", bounds)
    drop(store, len(store.segments()) - 1)
    assert usage(store, "month") == by_month
    found = usage(store)
    assert 20 < len(found) < len(by_hour)
    assert found == by_hour[-len(found) :]


# it is kept in one with the dropping


def test_a_dropping_that_breaks_off_drops_nothing(store: Store) -> None:
    """What it had written does not count, and is thrown away by the next one."""
    expected = usage(store)
    segments = store.segments()
    drop(store, 1)

    store._db.execute("CREATE TRIGGER breaking BEFORE INSERT ON rollup BEGIN SELECT RAISE(ABORT, 'broken off'); END")
    with pytest.raises(StoreFault, match="broken off"):
        compaction.trim(store, 0, 0)
    store._db.execute("DROP TRIGGER breaking")
    assert store._db.execute("SELECT count(DISTINCT generation) FROM usage").get == 2
    assert (store.segments(), usage(store)) == (segments[1:], expected)
    compaction.compact(store, ALL)
    assert store._db.execute("SELECT count(DISTINCT generation) FROM usage").get == 1
    assert usage(store) == expected


def test_a_rollup_that_is_not_whole_never_counts(path: Path, store: Store) -> None:
    """If another process threw some of it away, the one that wrote it drops nothing."""
    expected = usage(store)
    segments = store.segments()
    rolled = store.rollup()
    for begun, following in pairwise(segments[:3]):
        compaction._add(rolled, store, begun, following)
    parts = list(rolled.parts())
    robber = apsw.Connection(str(path))

    class Robbed(rollup.Rollup):
        def parts(self) -> Iterator[rollup.Part]:
            yield from parts

    robbed = Robbed(rolled.time, (rolled.known["hour"], rolled.known["day"], rolled.known["month"]))
    robber.execute(
        "CREATE TRIGGER robbing AFTER INSERT ON usage WHEN new.number = 1 BEGIN DELETE FROM usage WHERE number = 1; END"
    )
    with pytest.raises(StoreBusy, match="is compacted by another process; wait"):
        store.drop(segments[0], segments[2], robbed, 0)
    robber.execute("DROP TRIGGER robbing")
    robber.close()
    assert (store.segments(), usage(store)) == (segments, expected)


def test_two_that_drop_at_once(path: Path, store: Store) -> None:
    """The second one drops nothing: it would have to tell again what the first one told."""
    expected = usage(store)
    segments = store.segments()
    rolled = store.rollup()
    for begun, following in pairwise(segments[:3]):
        compaction._add(rolled, store, begun, following)
    other = Store(path, power=False)
    drop(other, 1)
    other.close()
    with pytest.raises(StoreBusy, match="is compacted by another process; wait"):
        store.drop(segments[0], segments[2], rolled, 0)
    assert (store.segments(), usage(store)) == (segments[1:], expected)
    drop(store, 3)
    assert usage(store) == expected


# damage


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage SET part = zeroblob(9) WHERE number = 1",
        "UPDATE usage SET number = number + 900 WHERE number = 1",
        "DELETE FROM usage WHERE number = 2",
        "INSERT INTO usage SELECT generation, number + 900, part FROM usage",
        "UPDATE usage SET generation = generation + 1",
        "UPDATE rollup SET generation = generation + 1",
        "UPDATE rollup SET position = position + 1",
        "UPDATE rollup SET time = time + 1",
        "UPDATE rollup SET hour = hour + 1",
        "UPDATE rollup SET day = day + 1",
        "UPDATE rollup SET month = month + 1",
        "UPDATE rollup SET digest = zeroblob(32)",
        "DELETE FROM rollup",
    ],
)
def test_damage_is_found(store: Store, capsys: pytest.CaptureFixture[str], statement: str) -> None:
    """And told, to whoever asks for that time and to whoever verifies; who asks for what came later has his answer.

    What is dropped next is told again.
    """
    for _ in range(3):
        quiet(store, 24)
    drop(store, 6)
    first = store.segments()[0]
    later = usage(store, since=first.time + 3_600)
    assert later
    assert store._db.execute("SELECT count(*) FROM usage").get > 20
    store._db.execute(statement)
    with pytest.raises(StoreDamage) as damage:
        usage(store)
    assert "damaged" in str(damage.value)
    proof = verify(store)
    assert (proof.sound, proof.text) == (False, str(damage.value))
    assert (proof.first, proof.position) == (first.position, LAST.position + 3), "the history itself is sound"
    assert usage(store, since=first.time + 3_600) == later
    capsys.readouterr()
    drop(store, 1)
    assert capsys.readouterr().err == f"{damage.value}; it begins anew\n"
    assert verify(store).sound
    assert usage(store, since=first.time + 3_600) == later
    begun = usage(store)[0]
    assert begun.seconds == begun.start + 3_600 - first.time


def test_the_words_of_damage(store: Store) -> None:
    """They say what to do."""
    drop(store, 2)
    store._db.execute("UPDATE rollup SET time = 7")
    with pytest.raises(StoreDamage) as damage:
        store.rollup()
    assert str(damage.value) == (
        f"the usage history of before 2027-01-15 08:01 UTC in the journal {store.path} is damaged; "
        "put a copy of the journal in its place, or ask for what came later"
    )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE history SET entries = zeroblob(9) WHERE position = ?",
        "DELETE FROM history WHERE position = ?",
        "UPDATE base SET changes = zeroblob(9) WHERE ? AND generation = (SELECT min(generation) FROM base)",
    ],
)
@pytest.mark.parametrize("row", [3, -1])
def test_a_history_that_is_damaged_is_dropped_too(
    store: Store, capsys: pytest.CaptureFixture[str], statement: str, row: int
) -> None:
    """Else the file would grow for ever: what can be read of it counts, and the rest is told to be missing."""
    segments = store.segments()
    start, end = (segment.position for segment in segments[1:3])
    position = [entry.position for entry in EVENTFUL if start < entry.position <= end][row]
    store._db.execute(statement, (position,))
    compaction.trim(store, 0, 0)
    assert store.segments() == segments[-1:]
    told = capsys.readouterr().err
    assert told.startswith(f"the usage from position {start} to {end} is not known to its end: ")
    assert told.count("\n") == 1
    assert verify(store).sound
    assert usage(store)[0].start <= EVENTFUL[0].at
    assert facts(replay(store)) == FACTS[LAST.position]


# a file of the first version of the format


@pytest.fixture
def old(path: Path) -> Path:
    """A file as the first version wrote it: with two segments, and one that was denied something."""
    return of_format_1(path)


def test_a_file_of_format_1_is_gone_on_with(old: Path) -> None:
    """It has all that it had, and keeps the usage of what is dropped from now on."""
    store = Store(old, power=False)
    assert store._db.pragma("user_version") == FORMAT
    table = replay(store)
    assert (store.position, store.time, store.ahead) == (53, 1_800_000_099, 5)
    assert len(table.sessions) > 3
    assert verify(store).sound
    expected = usage(store)
    assert sum(row.denials for row in expected) == 1
    drop(store, 1)
    assert usage(store) == expected
    assert verify(store).sound
    store.close()
    again = Store(old, power=False)
    assert usage(again) == expected
    again.close()


def test_a_file_of_format_1_of_which_some_was_dropped(old: Path) -> None:
    """What was dropped before is lost; what is known begins then."""
    db = apsw.Connection(str(old))
    db.execute("DELETE FROM segment WHERE generation = 0; DELETE FROM history WHERE position <= 26")
    db.close()
    store = Store(old, power=False)
    assert verify(store).sound
    (segment,) = store.segments()
    expected = usage(store)
    assert expected[0].seconds == store.time - segment.time
    compaction.compact(store, 0)
    assert usage(store) == expected
    store.close()


def test_two_that_open_a_file_of_format_1(old: Path) -> None:
    """While one makes it its own, the other one waits, and finds it so; what the one kept is not begun anew."""
    first = Store(old, power=False)
    drop(first, 1)
    expected = usage(first)
    first._db.pragma("user_version", 1)  # as the second one saw it before
    second = Store(old, power=False)
    assert usage(second) == expected
    first.close()
    second.close()
