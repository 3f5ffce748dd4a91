"""The one door: what watches the table hears of every change, and cannot hurt a grant."""

from __future__ import annotations

import pytest

from cmserverd.clock import LicenseClock
from cmserverd.core import changes as c
from cmserverd.core.refusal import Refused
from cmserverd.engine import Engine, Listener, Record
from protocol.messages import Release
from protocol.terms import Client, Station
from tests.core.replay import dump
from tests.core.scene import STATION_SHARE, Scene, container, item


def test_a_record_says_who_asked_for_what_and_what_that_changed() -> None:
    """One passage is one record, with one position, however many changes it has."""
    scene = Scene(container(item()))
    session = scene.session()
    request = scene.request(STATION_SHARE)
    held = scene.engine.access(session, request)
    record = scene.records[-1]
    assert (record.position, record.at, record.session, record.request) == (4, scene.now, session.id, request)
    (change,) = record.changes
    assert isinstance(change, c.Allocated)
    assert (change.handle, change.session, change.mode) == (held.handle, session.id, STATION_SHARE)
    scene.access(session, STATION_SHARE)
    scene.engine.close(session)
    assert [type(change) for change in scene.records[-1].changes] == [c.Left, c.Freed, c.Closed]
    assert scene.records[-1].position == scene.engine.position == 6


def test_a_refusal_changes_nothing() -> None:
    """A refused request leaves the table as it was, byte for byte."""
    scene = Scene(container(item()))
    scene.access(scene.session())
    asker = scene.session()
    before = dump(scene.table)
    scene.refused(asker)
    with pytest.raises(Refused):
        scene.engine.release(asker, Release(99))
    assert dump(scene.table) == before


def test_a_listener_hears_of_the_kinds_that_it_asked_for() -> None:
    """A record is told if one of its changes is of such a kind, as a whole, and to each listener once."""
    scene = Scene(container(item(quantity=2)))
    session = scene.session()
    heard: list[Record] = []
    scene.engine.listen(heard.append, c.Freed, c.Closed)
    scene.access(session)
    assert heard == []
    scene.engine.close(session)
    assert heard == [scene.records[-1]]


def test_a_listener_that_raises_is_taken_off_and_reported() -> None:
    """Watching never hurts: the request is served, the others are told, and nobody hears of the faulty one again."""
    faults: list[tuple[Listener, Exception]] = []
    heard: list[Record] = []
    engine = Engine(LicenseClock(lambda: 1.0, lambda: 0.0), lambda listener, error: faults.append((listener, error)))
    bug = ZeroDivisionError("a bug of the listener")

    def faulty(_: Record) -> None:
        raise bug

    engine.listen(faulty, c.Opened)
    engine.listen(heard.append, c.Opened)
    for number in range(2):
        engine.open(bytes(31) + bytes([number]), Client("pc", "fs", 1), Station("pc"), "::1", local=True)
    assert faults == [(faulty, bug)]
    assert len(heard) == len(engine.table.sessions) == 2


def test_while_records_are_full_a_use_is_answered_and_not_noted() -> None:
    """Nothing that a client can do at will takes memory then."""
    scene = Scene(container(item()))
    session = scene.session()
    held = scene.access(session)
    scene.engine.full = True
    scene.now += 9
    before = scene.engine.position
    assert scene.use(session, held.handle) is held
    assert (scene.engine.position, held.last) == (before, held.first)
    with pytest.raises(Refused):
        scene.use(session, 99)


def test_what_nobody_was_told_of_does_not_linger() -> None:
    """A grant that is taken back was never anybody's; what lingered before it does so again."""
    scene = Scene(container(item(quantity=2, linger=60)))
    session = scene.session()
    scene.engine.revoke(scene.access(session), lingers=False)
    assert scene.used() == 0
    scene.lingered(scene.access(session))
    scene.engine.revoke(scene.access(session), lingers=True)
    assert scene.used() == 1


def test_who_listens_to_endings_hears_of_those_that_the_client_did_not_ask_for() -> None:
    """Its own releases are half of all that happens, and nobody has to be told of them."""
    scene = Scene(container(item(quantity=3, linger=9)))
    session = scene.session()
    heard: list[Record] = []
    scene.engine.listen(heard.append, c.Moved, endings=True)
    first, second = scene.access(session), scene.access(session)
    scene.release(first)
    assert heard == []
    scene.engine.deallocate(second.handle, alone=False, seen=frozenset(), hold_off=0)
    assert heard == [scene.records[-1]]
    scene.access(session, maximum_life=5)
    scene.now += 5
    scene.engine.advance(9)
    assert heard[1:] == [scene.records[-1]], "one that lingers is told too"
