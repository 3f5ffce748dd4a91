"""License tracking read from the journal's file: in pages, and whether it is as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from cmserverd import audit, compaction
from cmserverd.core import changes as c
from cmserverd.store import _ENCODER, Entry, Store, _begun, _hash
from cmserverd.tracking import Tracking
from cmserverd.usage import Usage
from cmserverd.verification import verify
from protocol.messages import Access as Request
from protocol.messages import AccessKey
from protocol.tracking import TrackedFrom, TrackingLine, TrackingPage, TrackingProof, TrackingRequest
from protocol.usage import SpanName, UsagePage, UsageRequest, UsageRow
from tests.core import tracked
from tests.daemon.kept import EVENTFUL, replay

LAST = EVENTFUL[-1]
DENIED = Entry(LAST.position + 1, LAST.at, 1, (), Request(AccessKey(bytes(16)), firm_code=600_010, product_code=14))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A file with an eventful history in three segments."""
    store = Store(tmp_path / "journal.db", power=False)
    for number, entry in enumerate([*EVENTFUL, DENIED]):
        store.append([entry], 0)
        if number in (15, 30):
            compaction.compact(store, most=1_000_000)
    store.keep_time(LAST.at + 60, 0, 0)
    yield store
    store.close()


def whole() -> list[TrackingLine]:
    """Return all lines."""
    tracking = Tracking()
    return [line for entry in [*EVENTFUL, DENIED] for line in tracking.follow(entry)]


def pages(store: Store, **asked: Any) -> list[TrackingPage]:
    """Return all pages."""
    found = [next(audit.pages(store, TrackingRequest(**asked)))]
    while found[-1].next is not None:
        assert len(found) < 500, "it does not come to an end"
        found.append(next(audit.pages(store, TrackingRequest(**asked, cursor=found[-1].next))))
    assert found == list(audit.pages(store, TrackingRequest(**asked))), "who reads on at once has the same"
    return found


def lines(store: Store, **asked: int) -> list[TrackingLine]:
    """Return the lines of all pages."""
    return [line for page in pages(store, **asked) for line in page.lines]


# pages


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_pages_put_together_are_the_whole(store: Store, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Of whatever size they are: nothing twice, nothing left out, and each says up to where it tells."""
    monkeypatch.setattr(audit, "LINES", size)
    found = pages(store)
    assert [line for page in found for line in page.lines] == whole()
    assert all(len(page.lines) == size for page in found[:-1])
    assert all(page.position == page.lines[-1].position for page in found[:-1])
    assert found[-1].position == DENIED.position
    segments = {page.next.segment for page in found if page.next}
    assert size > 10 or segments == {one.position for one in store.segments()}, "only one segment is read for a page"


def test_a_page_is_bounded_whatever_clients_call_themselves(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its bytes too."""
    monkeypatch.setattr(audit, "PAGE_BYTES", 3_000)
    found = pages(store)
    assert len(found) > 5
    assert [line for page in found for line in page.lines] == whole()


@pytest.mark.parametrize("size", [3, 1_000])
def test_a_time_to_begin_at(store: Store, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """From any instant on the lines begin with what stood then, and lead to the same table."""
    monkeypatch.setattr(audit, "LINES", size)
    table = replay(store)
    instants = sorted({entry.at for entry in EVENTFUL})
    assert len(instants) > 2
    for since in instants:
        reader = tracked.read(lines(store, since=since))
        assert reader.used() == tracked.counted(table)
        assert reader.holders == tracked.holders(table)


def test_a_time_to_begin_at_that_is_in_two_segments(tmp_path: Path) -> None:
    """What was at that second before the later one begins is told, too: lines and usage."""
    store = Store(tmp_path / "cut.db", power=False)
    first = EVENTFUL[0]
    opened = [entry for entry in EVENTFUL if any(isinstance(change, c.Opened) for change in entry.changes)][:1]
    store.append([first, *opened], 0)
    now = opened[0].at
    assert isinstance(opened[0].changes[0], c.Opened)
    session = opened[0].changes[0].session
    for number in (1, 2):
        store.append([Entry(store.position + 1, now, session, (), DENIED.denied)], 0)
        compaction.compact(store, most=1_000_000)
        assert [line.event for line in lines(store, since=now)].count("denial") == number
        assert [row.denials for row in usage(store, by="hour", since=now - now % 3_600) if row.denials] == [number]
    store.close()


def test_a_time_to_end_at(store: Store) -> None:
    """What happened then or later is left out."""
    until = max(line.time for line in whole())
    assert lines(store, until=until) == [line for line in whole() if line.time < until]


def test_the_oldest_history_goes_first(store: Store) -> None:
    """What is left can be read by itself; who was in the middle of what went has to begin anew."""
    compaction.trim(store, 0, 0)
    assert len(store.segments()) == 1
    reader = tracked.read(lines(store))
    assert reader.used() == tracked.counted(replay(store))
    with pytest.raises(audit.Dropped):
        next(audit.pages(store, TrackingRequest(cursor=TrackedFrom(0, 3))))


# the usage history


def usage(store: Store, **asked: Any) -> list[UsageRow]:
    """Return the rows of all pages."""
    found = [next(audit.usage_pages(store, UsageRequest(**asked)))]
    while found[-1].next is not None:
        assert len(found) < 500, "it does not come to an end"
        found.append(next(audit.usage_pages(store, UsageRequest(**asked, cursor=found[-1].next))))
    assert found == list(audit.usage_pages(store, UsageRequest(**asked))), "who reads on at once has the same"
    return [row for page in found for row in page.rows]


def added_up(by: SpanName) -> list[UsageRow]:
    """Return the rows that all lines give, up to the time that is kept."""
    adding = Usage(by)
    rows = [row for line in whole() for row in adding.take(line)]
    return [*rows, *adding.reach(LAST.at + 60), *adding.unfinished()]


@pytest.mark.parametrize("size", [1, 2, 1_000])
@pytest.mark.parametrize("by", get_args(SpanName))
def test_usage_is_added_up_to_the_time_that_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch, by: SpanName, size: int
) -> None:
    """Over all segments, in pages of any size."""
    expected = added_up(by)
    assert expected
    monkeypatch.setattr(audit, "LINES", size)
    assert usage(store, by=by) == expected


def test_usage_of_a_time_alone(store: Store) -> None:
    """Spans that begin in it; what was used before counts in them."""
    store.append([Entry(DENIED.position + 1, LAST.at + 100_000, 1, ())], 0)
    all_of_it = usage(store, by="hour")
    starts = sorted({row.start for row in all_of_it})
    assert len(starts) > 20
    for since, until in ((starts[3], starts[5]), (starts[-1], starts[-1] + 1), (starts[0] + 1, starts[2] + 1)):
        chosen = [row for row in all_of_it if since <= row.start < until]
        assert usage(store, by="hour", since=since, until=until) == chosen


# whether it is sound


def test_what_is_as_it_was_written_is_proven(store: Store) -> None:
    """To its end; it says how much that is."""
    proof = verify(store)
    assert proof == TrackingProof(
        sound=True,
        first=0,
        position=DENIED.position,
        time=DENIED.at,
        segments=3,
        entries=len(EVENTFUL) + 1,
        lines=len(whole()),
    )
    compaction.trim(store, 0, 0)
    proof = verify(store)
    assert (proof.sound, proof.first, proof.segments) == (True, store.segments()[0].position, 1)


def test_a_row_that_is_taken_out_is_found(store: Store) -> None:
    """Each; and up to where it is proven is before it."""
    rows: Any = store._db.execute("SELECT position FROM history").fetchall()
    for (position,) in rows:
        with _undone(store):
            store._db.execute("DELETE FROM history WHERE position = ?", (position,))
            proof = verify(store)
            assert not proof.sound, position
            assert proof.position < position
            assert proof.text


def test_a_row_that_is_altered_is_found(store: Store) -> None:
    """Each column of each; also where the row's own hash was made to fit: the next one's does not then."""
    rows: Any = store._db.execute("SELECT position, time, chain FROM history ORDER BY position").fetchall()
    chain = bytes(32)
    for position, time, link in rows:
        other = _ENCODER.encode([Entry(position, time, 1, ())])
        forged = _hash(chain, position, time, other)
        for column, value in (("time", time + 1), ("entries", other), ("chain", bytes(32))):
            with _undone(store):
                store._db.execute(f"UPDATE history SET {column} = ? WHERE position = ?", (value, position))  # noqa: S608
                assert not verify(store).sound, (position, column)
        if position != rows[-1][0]:  # nothing vouches for the last one but a signature, which there is none of
            with _undone(store):
                store._db.execute(
                    "UPDATE history SET entries = ?, chain = ? WHERE position = ?", (other, forged, position)
                )
                proof = verify(store)
                assert not proof.sound, position
                assert proof.position <= position
        chain = link


def test_a_beginning_that_does_not_go_on_is_found(store: Store) -> None:
    """A base that was made anew, with its hash, from another history."""
    segment = store.segments()[1]
    base = [change for change in store.base(segment) if not isinstance(change, c.Holds | c.Stands)]
    parts = _ENCODER.encode(base)
    digest = _begun(segment.generation, segment.position, segment.time, segment.chain)
    digest.update(parts)
    with _undone(store):
        store._db.execute("UPDATE base SET changes = ? WHERE generation = ?", (parts, segment.generation))
        store._db.execute("UPDATE segment SET digest = ? WHERE generation = ?", (digest.digest(), segment.generation))
        proof = verify(store)
        assert not proof.sound
        assert f"position {segment.position}" in proof.text


def test_a_history_that_cannot_have_been_is_found(tmp_path: Path) -> None:
    """Even if each hash fits."""
    store = Store(tmp_path / "other.db", power=False)
    store.append([Entry(1, 1, 1, (c.Used(7, 7),))], 0)
    proof = verify(store)
    assert (proof.sound, proof.position) == (False, 0)
    assert "cannot have happened" in proof.text
    store.close()


# the process


def test_the_process_answers(store: Store, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A page, a proof, or one line on standard error."""
    path = str(store.path)

    def answer() -> bytes:
        out = capfdbinary.readouterr().out
        assert int.from_bytes(out[:4], "big") == len(out) - 4
        return out[4:]

    assert audit.main([path, "tracking", "{}"]) == 0
    assert list(msgspec.msgpack.decode(answer(), type=TrackingPage).lines) == whole()
    assert audit.main([path, "usage", '{"by": "hour"}']) == 0
    assert list(msgspec.msgpack.decode(answer(), type=UsagePage).rows) == added_up("hour")
    assert audit.main([path, "verify_tracking", "{}"]) == 0
    assert msgspec.msgpack.decode(answer(), type=TrackingProof).sound
    assert audit.main([path, "tracking", '{"cursor": {"segment": 3, "lines": 1}}']) == 1
    assert capfdbinary.readouterr().err.count(b"\n") == 1


class _undone:  # noqa: N801 - used as a word
    """Takes back what is done to a store's file within the block."""

    def __init__(self, store: Store) -> None:
        self._db = store._db

    def __enter__(self) -> None:
        self._db.execute("SAVEPOINT undone")

    def __exit__(self, *_: object) -> None:
        self._db.execute("ROLLBACK TO undone")
        self._db.execute("RELEASE undone")
