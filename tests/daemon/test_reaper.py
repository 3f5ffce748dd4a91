"""The reaper: who does not come back is ended, in time and not before; everybody else is left alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import count, pairwise

import pytest
import trio
from msgspec.structs import replace
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd import reaper
from cmserverd.core import history
from cmserverd.core.terms import Session
from cmserverd.engine import Record
from cmserverd.reaper import Patience, Reaper
from cmserverd.service import Detachment, Service
from cmserverd.store import Entry
from cmserverd.tracking import Tracking
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber, LicenseError
from tests.daemon.harness import Talk, access, charts, hello, make_service, rig

PATIENCE = Patience(grace=5, timeout=120, sweep=10)


@asynccontextmanager
async def reaping(service: Service, patience: Patience = PATIENCE) -> AsyncGenerator[Reaper]:
    """Run a reaper until the end of the block."""
    made = Reaper(service, patience)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()


def greeted(service: Service, number: int = 1) -> Talk:
    """Return a client that was heard of just now, and holds a license."""
    talk = Talk(service)
    talk.conversation.heard = trio.current_time()
    talk.ask(hello(number))
    talk.ask(access())
    return talk


async def gone_at(service: Service) -> float:
    """Let time pass until a client's session is over; return when that was."""
    with trio.fail_after(100_000):
        while service.engine.table.sessions:  # noqa: ASYNC110 - the reaper tells nobody, and time is a mock
            await trio.sleep(0.25)
    return trio.current_time()


@pytest.mark.parametrize(("detachment", "patience"), [(Detachment.CLOSED, 5), (Detachment.SILENT, 120)])
async def test_a_session_that_does_not_come_back_is_ended(
    detachment: Detachment, patience: float, autojump_clock: MockClock
) -> None:
    """A short grace after a close, a long one after silence; then its license is free."""
    service = make_service(charts(quantity=1))
    async with reaping(service):
        talk = greeted(service)
        await trio.sleep(50)
        talk.cut(detachment)
        cut = trio.current_time()
        assert await gone_at(service) - cut == pytest.approx(patience, abs=0.5)
        greeted(service, 2)


async def test_a_session_that_comes_back_in_time_stays(autojump_clock: MockClock) -> None:
    """Resumed within its grace it is attached, and no deadline of before counts; a later cut has the full grace."""
    service = make_service(charts())
    async with reaping(service):
        talk = Talk(service, greeting=hello())
        talk.ask(access())
        for _ in range(3):
            talk.cut()
            await trio.sleep(4.5)
            new = Talk(service)
            new.conversation.heard = trio.current_time()
            new.ask(m.Resume((1, 1), talk.token))
            new.conversation.heard = trio.current_time()
            await trio.sleep(50)
            assert len(service.engine.table.accesses) == 1
            talk.conversation = new.conversation
        talk.cut()
        cut = trio.current_time()
        assert await gone_at(service) - cut == pytest.approx(5, abs=0.5)


async def test_an_attached_client_of_which_nothing_is_heard_is_told_goodbye(autojump_clock: MockClock) -> None:
    """After the timeout its licenses are free; should it still be there, it learns why."""
    service = make_service(charts())
    async with reaping(service):
        talk = greeted(service)
        assert await gone_at(service) == pytest.approx(120, abs=0.5)
        assert talk.inbox.farewell is not None
        assert talk.inbox.farewell.number == ErrorNumber.NETWORK_FAULT
        assert not service.engine.table.accesses


async def test_license_tracking_says_that_nothing_was_heard(autojump_clock: MockClock) -> None:
    """Of a client that was attached until then, too: it did not say goodbye."""
    service = make_service(charts())
    records: list[Record] = []
    async with reaping(service):
        greeted(service)
        tracking = Tracking(history.shortest(service.engine.table))
        service.engine.listen(records.append)
        await gone_at(service)
    entries = [Entry(record.position, record.at, record.session, record.changes) for record in records]
    assert [line.reason for entry in entries for line in tracking.follow(entry)] == ["silent"]


async def test_a_live_idle_client_keeps_its_seat_for_hours(autojump_clock: MockClock) -> None:
    """Keep-alives at the interval that the greeting names are life enough, over real sockets."""
    service = make_service(charts(quantity=1))
    async with rig(service) as server, reaping(service):
        client = server.connect()
        interval = (await client.ask(hello())).keep_alive
        await client.ask(access())
        with capture_logs() as said:
            while trio.current_time() < 6 * 3_600:
                await trio.sleep(interval)
                await client.ask(m.KeepAlive())
        assert said == []
        assert len(service.engine.table.accesses) == 1


async def test_any_bytes_are_a_sign_of_life(autojump_clock: MockClock) -> None:
    """A client whose link is so slow that a request takes minutes is alive."""
    service = make_service(charts(quantity=1))
    async with rig(service) as server, reaping(service):
        client = await server.client()
        for byte in rpc.encode_request(7, access()):
            await client.send(bytes([byte]))
            await trio.sleep(100)
        await client.until(lambda: 7 in client.inbox.replies)


async def test_a_reaper_that_comes_late_grants_the_full_time_again(mock_clock: MockClock) -> None:
    """A paused process heard nobody: whoever could not be heard has his grace from now on."""
    service = make_service(charts(quantity=2))
    async with reaping(service):
        closed, silent = greeted(service, 1), greeted(service, 2)
        closed.cut(Detachment.CLOSED)
        silent.cut(Detachment.SILENT)
        await wait_all_tasks_blocked()
        with capture_logs() as said:
            mock_clock.jump(3_600)
            await wait_all_tasks_blocked()
        assert [line["seconds"] for line in said] == [3_599.0]
        assert len(service.engine.table.sessions) == 2
        mock_clock.jump(5.1)
        await wait_all_tasks_blocked()
        assert [session.id for session in service.engine.table.sessions.values()] == [2]
        mock_clock.jump(10)
        await wait_all_tasks_blocked()
        assert len(service.engine.table.sessions) == 1


async def test_a_pause_is_noticed_though_nobody_was_due(mock_clock: MockClock) -> None:
    """A pause of nearly the whole timeout leaves a client more than its last second to be heard again."""
    service = make_service(charts())
    async with reaping(service):
        greeted(service)
        await wait_all_tasks_blocked()
        mock_clock.jump(119)
        await wait_all_tasks_blocked()
        for _ in range(11):
            mock_clock.jump(10)
            await wait_all_tasks_blocked()
            assert service.engine.table.sessions
        for seconds in (10.1, 1.1):  # so late, it first hears what came meanwhile
            mock_clock.jump(seconds)
            await wait_all_tasks_blocked()
        assert not service.engine.table.sessions


async def test_after_a_short_pause_who_came_back_meanwhile_is_heard_first(mock_clock: MockClock) -> None:
    """His resume may lie unread, his connection not be accepted yet; who did not come back has no more than that."""
    service = make_service(charts(quantity=2))
    async with reaping(service):
        back, gone = Talk(service, greeting=hello(1)), Talk(service, greeting=hello(2))
        back.cut()
        gone.cut()
        await wait_all_tasks_blocked()
        mock_clock.jump(10)
        await wait_all_tasks_blocked()
        Talk(service).ask(m.Resume((1, 1), back.token))
        mock_clock.jump(1.1)
        await wait_all_tasks_blocked()
        assert [session.id for session in service.engine.table.sessions.values()] == [1]


async def test_the_reapers_own_work_is_no_pause(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are due, and however slow the others make it: those who are next are ended all the same."""
    monkeypatch.setattr(reaper, "perf_counter", count(0, reaper._SLICE).__next__)  # one session, one slice
    service = make_service()
    async with reaping(service):
        for number in range(40):
            Talk(service, greeting=hello(number)).cut()
        await wait_all_tasks_blocked()
        with capture_logs() as said:
            mock_clock.jump(5.5)
            for _ in range(60):
                await trio.lowlevel.checkpoint()
                mock_clock.jump(0.5)
            await wait_all_tasks_blocked()
        assert not [line for line in said if line["log_level"] == "warning"]
        assert not service.engine.table.sessions


async def test_input_that_lies_unread_may_be_a_sign_of_life(autojump_clock: MockClock) -> None:
    """As long as there is some, its session is not judged; once there is none, it is."""
    service = make_service(charts())
    async with reaping(service):
        talk = greeted(service)
        unread = [True]
        talk.conversation.has_input = lambda: unread[0]
        await trio.sleep(500)
        assert service.engine.table.sessions
        unread.clear()
        unread.append(False)
        assert await gone_at(service) == pytest.approx(500, abs=2)


async def test_a_thousand_that_die_at_once_do_not_hold_the_loop(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two slices of time the others have their turn; in each, as many are ended as it has time for."""
    monkeypatch.setattr(reaper, "perf_counter", count(0, reaper._SLICE / 9.5).__next__)  # ten sessions, one slice
    service = make_service()
    async with reaping(service):
        for number in range(1000):
            Talk(service, greeting=hello(number)).cut()
        await wait_all_tasks_blocked()
        mock_clock.jump(6)
        await wait_all_tasks_blocked()
        mock_clock.jump(1)  # so late, it first hears what came meanwhile
        left = [1000]
        while service.engine.table.sessions:
            await trio.lowlevel.checkpoint()
            left.append(len(service.engine.table.sessions))
        steps = {before - after for before, after in pairwise(left)}
        assert steps <= {0, 10, 20}  # trio runs the reaper up to twice between two turns of another task


@pytest.mark.parametrize("end", [Service.closed, Service.expired])
async def test_sessions_that_end_otherwise_leave_nothing_behind(
    end: Callable[[Service, Session], None], autojump_clock: MockClock
) -> None:
    """A million that came and went within the timeout cost no memory, however long that is."""
    service = make_service()
    async with reaping(service, Patience(timeout=86_400)) as made:
        stays = greeted_without_license(service, 0)
        for number in range(1, 10_000):
            end(service, greeted_without_license(service, number))
            assert len(made._heap) < 2_000
        assert len(made._entry) < 2_000
        await trio.sleep(86_399)
        assert list(service.engine.table.sessions.values()) == [stays]
        await trio.sleep(2)
        assert not service.engine.table.sessions


def greeted_without_license(service: Service, number: int) -> Session:
    """Return the session of a client that greeted and holds nothing."""
    greeting = Talk(service, greeting=hello(number)).greeting
    assert greeting is not None
    return service.engine.table.sessions[greeting.session]


async def test_a_bug_that_one_session_meets_does_not_keep_the_others(autojump_clock: MockClock) -> None:
    """It is logged, and the next session is ended in its time."""

    class Unlucky(Service):
        def expired(self, session: Session) -> None:
            if session.id == 1:
                msg = "planted"
                raise RuntimeError(msg)
            super().expired(session)

    made = make_service(charts())
    service = Unlucky(made.engine, made.introduction)
    async with reaping(service):
        for number in (1, 2):
            greeted(service, number).cut()
        with capture_logs() as said:
            await trio.sleep(10)
        assert [line["session"] for line in said if line["log_level"] == "error"] == [1]
        assert list(service.engine.table.sessions) == [1]


async def test_only_sessions_that_held_licenses_are_worth_a_line(autojump_clock: MockClock) -> None:
    """Strangers come and go unsaid but to `debug`; of those who lose something the first few are told."""
    service = make_service(charts(quantity=100))
    async with reaping(service):
        for number in range(100):
            talk = Talk(service, greeting=hello(number))
            if number % 2:
                talk.ask(access())
            talk.cut()
        with capture_logs() as said:
            await trio.sleep(10)
    held = [line["accesses"] for line in said if line["log_level"] == "info"]
    assert held == [1] * 10
    assert [line["accesses"] for line in said if line["log_level"] == "debug"] == [0] * 50
    assert len(said) == 60


async def test_the_token_of_an_ended_session_is_worth_nothing(autojump_clock: MockClock) -> None:
    """Who comes back too late is told to greet anew."""
    service = make_service(charts())
    async with reaping(service):
        talk = Talk(service, greeting=hello())
        talk.cut()
        await trio.sleep(6)
        with pytest.raises(LicenseError, match="greet anew"):
            Talk(service, greeting=m.Resume((1, 1), talk.token))


async def ended_after(service: Service, handle: int) -> float:
    """Let time pass until an access is over; return how long that took."""
    begun = trio.current_time()
    with trio.fail_after(10_000):
        while handle in service.engine.table.accesses:  # noqa: ASYNC110 - the reaper tells nobody, and time is a mock
            await trio.sleep(0.25)
    return trio.current_time() - begun


@pytest.mark.parametrize("cut", [True, False])
async def test_a_silent_client_s_accesses_end_each_after_its_cleanup_time(cut: bool, autojump_clock: MockClock) -> None:
    """Shorter or longer than the timeout, counted from its last word; the session lives as long as the longest."""
    service = make_service(charts(quantity=9, linger=3))
    async with reaping(service):
        talk = greeted(service)
        plain, short, long = 1, *(talk.ask(replace(access(), cleanup_time=wanted)).handle for wanted in (80, 3_600))
        if cut:
            talk.cut(Detachment.SILENT)
        assert await ended_after(service, short) == pytest.approx(80, abs=0.5)
        assert await ended_after(service, plain) == pytest.approx(40, abs=0.5)
        (session,) = service.engine.table.sessions.values()
        assert (session.state.value, session.id in service.attached) == ("silent", False)
        assert await ended_after(service, long) == pytest.approx(3_480, abs=0.5)
        assert not service.engine.table.sessions


async def test_who_comes_back_hears_which_accesses_ended(autojump_clock: MockClock) -> None:
    """With 106 and why; the others are its own, with their full time again."""
    service = make_service(charts(quantity=9))
    async with reaping(service):
        talk = Talk(service)
        talk.conversation.heard = trio.current_time()
        token = talk.ask(hello()).token
        short = talk.ask(replace(access(), cleanup_time=70)).handle
        long = talk.ask(replace(access(), cleanup_time=700)).handle
        talk.cut(Detachment.SILENT)
        await trio.sleep(600)
        again = Talk(service)
        again.conversation.heard = trio.current_time()
        greeting = again.ask(m.Resume((1, 1), token))
        assert greeting.handles == (long,)
        assert [(one.handle, one.error.number, one.error.cause) for one in greeting.ended] == [
            (short, ErrorNumber.INVALID_HANDLE, "silent")
        ]
        again.cut(Detachment.SILENT)
        assert await ended_after(service, long) == pytest.approx(700, abs=0.5)


async def test_a_short_cleanup_time_spares_who_gives_signs_of_life(autojump_clock: MockClock) -> None:
    """As often as the greeting asks; a close is a close, whatever the cleanup time."""
    service = make_service(charts(quantity=1))
    async with reaping(service):
        talk = Talk(service)
        talk.conversation.heard = trio.current_time()
        talk.ask(hello())
        handle = talk.ask(replace(access(), cleanup_time=1)).handle
        for _ in range(20):
            await trio.sleep(40)
            talk.conversation.heard = trio.current_time()
        assert handle in service.engine.table.accesses
        talk.conversation.heard = trio.current_time()
        assert await ended_after(service, handle) == pytest.approx(60, abs=0.5)


async def test_a_closed_connection_has_the_grace_whatever_the_cleanup_time(autojump_clock: MockClock) -> None:
    """Who has crashed is back at once, or not at all."""
    service = make_service(charts(quantity=1))
    async with reaping(service):
        talk = Talk(service)
        talk.conversation.heard = trio.current_time()
        talk.ask(hello())
        handle = talk.ask(replace(access(), cleanup_time=3_600)).handle
        talk.cut(Detachment.CLOSED)
        assert await ended_after(service, handle) == pytest.approx(5, abs=0.5)
