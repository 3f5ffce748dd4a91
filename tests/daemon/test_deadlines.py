"""License time comes to the table: what is due happens at its instant, whoever sets which clock."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd.clock import LicenseClock
from cmserverd.core import changes as c
from cmserverd.core.terms import LicenseId
from cmserverd.deadlines import Deadlines
from cmserverd.engine import Engine
from cmserverd.service import Service
from drivers.container import Allowance, Borrowing, container_id
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from tests.daemon.harness import (
    CHARTS,
    FIRM,
    LIMIT,
    TWO_CHARTS,
    Caller,
    Daemon,
    Talk,
    access,
    charts,
    ending,
    hello,
    make_service,
)

START = 1_800_000_000


class Times:
    """A system clock that a test sets, and a time since boot that is trio's; `looks` counts who asks for it."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.looks = 0
        self.clock = LicenseClock(lambda: START + self.ahead + trio.current_time(), self._boot)
        self.start = self.clock.now()

    def _boot(self) -> float:
        self.looks += 1
        return trio.current_time()


@asynccontextmanager
async def passing(engine: Engine) -> AsyncGenerator[None]:
    """Let license time do its work until the end of the block."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Deadlines(engine).run)
        await wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def seconds_until(condition: Callable[[], bool]) -> float:
    """Let time pass until a condition holds; return how long that took."""
    begun = trio.current_time()
    with trio.fail_after(2_000):
        while not condition():  # noqa: ASYNC110 - nobody tells, and time is a mock
            await trio.sleep(0.0625)
    return trio.current_time() - begun


def used(service: Service, serial: int = 1) -> int:
    """Return how many licenses of a container are in use."""
    return service.engine.table.licenses[LicenseId(container_id(3, serial), FIRM, 1)].used


async def test_a_loan_is_over_at_its_instant_without_contact(autojump_clock: MockClock) -> None:
    """A minute after its end, as late as its holder's clock may be; nothing else was to come, and it wakes for that."""
    times = Times()
    service = make_service(charts(borrowing=Borrowing(1_000)), clock=times.clock)
    talk = Talk(service, greeting=hello())
    (session,) = service.engine.table.sessions.values()
    async with passing(service.engine):
        asked = m.Borrow(
            id=m.LoanId(bytes(range(16))),
            holder=bytes(32),
            seconds=1_000,
            time=times.start,
            firm_code=FIRM,
            product_code=CHARTS,
        )
        service.engine.borrow(session, asked)
        talk.ask(m.Goodbye())
        assert used(service) == 1
        assert 1_060 <= await seconds_until(lambda: not used(service)) <= 1_060.25
        assert not service.engine.table.lent


async def test_an_access_ends_at_its_instant_and_its_client_is_told(autojump_clock: MockClock) -> None:
    """Not before, not a look later, by an event with the number; what is due another day stays. The log says it too."""
    times = Times()
    service = make_service(
        charts(expiration=times.start + 5), charts(2, 1, expiration=times.start + 90_000), clock=times.clock
    )
    with capture_logs() as said:
        await _two_end_and_one_stays(service)
    assert [(line["event"], line["container"]) for line in said] == [
        ("license is over; its accesses were moved or ended", "3-1")
    ]


async def _two_end_and_one_stays(service: Service) -> None:
    async with passing(service.engine):
        talk = Talk(service, greeting=hello(events="push"))
        handles = [talk.ask(access()).handle for _ in range(3)]
        assert await seconds_until(lambda: not used(service)) == pytest.approx(5, abs=0.1)
        assert [(event.event, event.handle) for event in talk.inbox.events] == [("ended", one) for one in handles[:2]]
        error = talk.inbox.events[0].error
        assert error is not None
        assert (error.number, error.cause) == (ErrorNumber.EXPIRATION_OVERRUN, "expired")
        assert used(service, 2) == 1
        with pytest.raises(LicenseError) as refused:
            talk.ask(m.Info(handles[0]))
        assert refused.value.number == ErrorNumber.EXPIRATION_OVERRUN


async def test_what_lingers_is_free_at_its_instant(autojump_clock: MockClock) -> None:
    """Though nothing was due when it began: the sleeper is woken for it."""
    times = Times()
    service = make_service(charts(quantity=1, linger=3), clock=times.clock)
    async with passing(service.engine):
        talk = Talk(service, greeting=hello())
        talk.ask(m.Release(talk.ask(access()).handle))
        assert used(service) == 1
        assert await seconds_until(lambda: not used(service)) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("linger", [0, 60])
async def test_a_maximum_life_is_over_at_its_instant_and_this_is_told(linger: int, autojump_clock: MockClock) -> None:
    """Though nothing was due when it was granted; the event comes whether or not the license lingers."""
    times = Times()
    service = make_service(charts(quantity=1, linger=linger), clock=times.clock)
    async with passing(service.engine):
        talk = Talk(service, greeting=hello(events="push"))
        await trio.sleep(1_000)
        handle = talk.ask(replace(access(), maximum_life=7)).handle
        assert talk.ask(m.Info(handle)).maximum_life == 7
        with trio.fail_after(100):
            assert await seconds_until(lambda: bool(talk.inbox.events)) == pytest.approx(7, abs=0.1)
        (event,) = talk.inbox.events
        assert event.error is not None
        assert (event.event, event.handle, event.error.number) == ("ended", handle, ErrorNumber.INVALID_HANDLE)
        assert event.error.cause == "maximum_life"


async def test_a_usage_that_begins_is_waited_for(autojump_clock: MockClock) -> None:
    """Its end may be nearer than all that was known."""
    times = Times()
    service = make_service(charts(usage=Allowance(4)), charts(2, expiration=times.start + 90_000), clock=times.clock)
    async with passing(service.engine):
        Talk(service, greeting=hello()).ask(access())
        await trio.sleep(50)
        assert used(service) == 1
        service.engine.consumed(LicenseId(container_id(3, 1), FIRM, 1), 0, times.clock.now())
        assert await seconds_until(lambda: not used(service)) == pytest.approx(4, abs=0.1)
        assert used(service, 2) == 1, "it moved"


async def test_a_license_that_expires_sooner_is_waited_for(autojump_clock: MockClock) -> None:
    """A container that comes, or comes with another date, may be due next."""
    times = Times()
    service = make_service(charts(), clock=times.clock)
    async with passing(service.engine):
        Talk(service, greeting=hello()).ask(access())
        service.engine.plug(charts(expiration=times.start + 600))
        await trio.sleep(0.5)
        service.engine.plug(charts(expiration=times.start + 1))
        assert await seconds_until(lambda: not used(service)) == pytest.approx(0.5, abs=0.1)


async def test_a_clock_that_is_set_forward_is_noticed(autojump_clock: MockClock) -> None:
    """Within a second, though its instant was a year away; the log says why it is over."""
    times = Times()
    service = make_service(charts(expiration=times.start + 31_536_000), clock=times.clock)
    async with passing(service.engine):
        Talk(service, greeting=hello()).ask(access())
        await trio.sleep(100)
        assert used(service) == 1
        times.ahead = 40_000_000
        with capture_logs() as said:
            assert await seconds_until(lambda: not used(service)) <= 1.1
        leaps = [line["seconds"] for line in said if line["event"].startswith("license time has leapt: ")]
        assert leaps == [40_000_000]


async def test_what_expires_once_more_is_waited_for(autojump_clock: MockClock) -> None:
    """A certified time brought a license back that was over, while nothing else was to come."""
    times = Times()
    service = make_service(charts(expiration=times.start + 1_000), clock=times.clock)
    async with passing(service.engine):
        times.ahead = 2_000
        await trio.sleep(2)
        with pytest.raises(LicenseError):
            Talk(service, greeting=hello()).ask(access())
        assert service.engine.due() is None
        service.engine.set_time(times.start)
        Talk(service, greeting=hello()).ask(access())
        assert await seconds_until(lambda: not used(service)) == pytest.approx(1_000, abs=0.1)


async def test_nobody_looks_at_the_clock_for_nothing(autojump_clock: MockClock) -> None:
    """While nothing is to come it sleeps."""
    times = Times()
    service = make_service(charts(linger=3), clock=times.clock)
    async with passing(service.engine):
        Talk(service, greeting=hello()).ask(access())
        looks = times.looks
        await trio.sleep(10_000)
        assert times.looks == looks


async def test_many_that_end_at_once_leave_others_their_turn(autojump_clock: MockClock) -> None:
    """Some at a time, and between two slices whoever waits is served."""
    times = Times()
    service = make_service(charts(quantity=2_000, expiration=times.start + 1), clock=times.clock)
    begun = trio.Event()
    service.engine.listen(lambda _: begun.set(), c.Freed)
    async with passing(service.engine):
        talk = Talk(service, greeting=hello())
        for _ in range(1_000):
            talk.ask(access())
        with trio.fail_after(2_000):
            await begun.wait()
        assert used(service) in (1_000 - 256, 1_000 - 512)
        await seconds_until(lambda: not used(service))


async def test_a_bug_in_what_is_due_does_not_end_the_daemon(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and a second later tried again."""
    times = Times()
    service = make_service(charts(expiration=times.start + 1), clock=times.clock)
    advance, failures = Engine.advance, iter([True, True])

    def failing(engine: Engine, most: int) -> bool:
        if next(failures, False):
            raise ZeroDivisionError
        return advance(engine, most)

    with capture_logs() as said:
        async with passing(service.engine):
            Talk(service, greeting=hello()).ask(access())
            monkeypatch.setattr(Engine, "advance", failing)
            assert await seconds_until(lambda: not used(service)) == pytest.approx(3, abs=0.1)
    assert [line["event"] for line in said if line["log_level"] == "error"] == ["ending what is over met a bug"] * 2


def test_a_real_daemon_lets_time_pass(tmp_path: Path) -> None:
    """What lingers in a process of its own is free again."""
    daemon = Daemon(tmp_path, dongle=f"{TWO_CHARTS}linger = 1\n")
    with ending(daemon):
        daemon.serve().said("container plugged in")
        with Caller(daemon.address) as caller:
            caller.ask(hello())
            caller.ask(m.Release(caller.ask(access()).handle))
            latest = time.monotonic() + LIMIT
            while caller.ask(m.NetCluster()).licenses[0].used:
                assert time.monotonic() < latest, "it is never free again"
