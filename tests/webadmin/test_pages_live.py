"""How pages hear that they are out of date: one question for all, and each only of what it shows."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import cast

import pytest
import trio
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd.webadmin.live import CALM, LONGEST, PATIENCE, RETRY, Live, OpenPage, Scope
from cmserverd.webadmin.offers import Visit
from protocol.errors import ErrorNumber, LicenseError
from protocol.watching import Happened, Happening, HappeningKind, Happenings

EVERYTHING = Scope()
CHARTS = Scope(600010, 14)


class Daemon:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Happened] = []
        self._answers: deque[Happenings | LicenseError] = deque()
        self._more = trio.Event()

    async def happened(self, question: Happened) -> Happenings:
        """Wait for an answer. Raises LicenseError if the test says so."""
        self.asked.append(question)
        while not self._answers:
            await self._more.wait()
        answer = self._answers.popleft()
        if isinstance(answer, LicenseError):
            raise answer
        return answer

    def answer(self, answer: Happenings | LicenseError) -> None:
        """Answer the question that waits, or the next one."""
        self._answers.append(answer)
        self._more.set()
        self._more = trio.Event()


def told(position: int, *events: Happening) -> Happenings:
    """Return what happened up to a position."""
    return Happenings(position, 0, events)


def granted(position: int, product_code: int = 14) -> Happening:
    """Return a grant of a product."""
    return Happening(position, 0, HappeningKind.GRANTED, firm_code=600010, product_code=product_code)


def is_told(page: OpenPage) -> bool:
    """Tell whether a page has been told since this was asked."""
    told, page.told = page.told, False
    return told


async def test_many_pages_cost_one_question(nursery: trio.Nursery) -> None:
    """Twenty pages wait on one question; a change is told to each."""
    daemon = Daemon()
    live = Live(daemon.happened)
    nursery.start_soon(live.run)
    opened = [live.page(EVERYTHING, 5) for _ in range(20)]
    await wait_all_tasks_blocked()
    assert [question.since for question in daemon.asked] == [5]
    daemon.answer(told(6, granted(6)))
    await wait_all_tasks_blocked()
    assert [is_told(page) for page in opened] == [True] * 20
    assert [question.since for question in daemon.asked] == [5, 6]
    nursery.cancel_scope.cancel()


async def test_without_pages_nothing_is_asked(nursery: trio.Nursery) -> None:
    """Who closes his page costs nothing any more, once the question that waits is over."""
    daemon = Daemon()
    live = Live(daemon.happened)
    nursery.start_soon(live.run)
    await wait_all_tasks_blocked()
    assert daemon.asked == []
    page = live.page(EVERYTHING, 5)
    await wait_all_tasks_blocked()
    del page
    daemon.answer(told(5))
    await wait_all_tasks_blocked()
    assert len(daemon.asked) == 1
    again = live.page(EVERYTHING, 9)
    await wait_all_tasks_blocked()
    assert daemon.asked[1].since == 9
    assert not is_told(again)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("event", "scope", "shown"),
    [
        (granted(1), CHARTS, True),
        (granted(1, 15), CHARTS, False),
        (granted(1, 15), EVERYTHING, True),
        (Happening(1, 0, HappeningKind.UNPLUGGED, container="3-1"), CHARTS, True),
        (Happening(1, 0, HappeningKind.DETACHED, session=1), CHARTS, True),
        (Happening(1, 0, HappeningKind.OPENED, session=1), CHARTS, False),
        (Happening(1, 0, HappeningKind.OPENED, session=1), EVERYTHING, True),
        (Happening(1, 0, HappeningKind.REFUSED, firm_code=600010, product_code=14), CHARTS, False),
        (Happening(1, 0, "something newer"), CHARTS, True),
    ],
)
def test_a_page_hears_of_what_it_shows(event: Happening, scope: Scope, shown: bool) -> None:
    """Of its own product, and of what concerns all."""
    assert scope.shows(event) is shown


async def test_what_was_missed_is_told_to_all(nursery: trio.Nursery) -> None:
    """If not all that happened is known, or the server began anew, every page is out of date."""
    daemon = Daemon()
    live = Live(daemon.happened)
    nursery.start_soon(live.run)
    page = live.page(CHARTS, 5)
    daemon.answer(Happenings(90, 0, missed=True, first=80))
    await wait_all_tasks_blocked()
    assert is_told(page)
    daemon.answer(told(3))
    await wait_all_tasks_blocked()
    assert is_told(page)
    assert daemon.asked[-1].since == 3
    nursery.cancel_scope.cancel()


async def test_what_happened_before_the_stream_began_is_told(nursery: trio.Nursery) -> None:
    """Between the drawing of a page and its stream something may have happened."""
    daemon = Daemon()
    live = Live(daemon.happened)
    nursery.start_soon(live.run)
    first = live.page(CHARTS, 5)
    daemon.answer(told(7, granted(7, 15)))
    await wait_all_tasks_blocked()
    assert not is_told(first)
    late, fresh = live.page(CHARTS, 6), live.page(CHARTS, 7)
    assert is_told(late)
    assert not is_told(fresh)
    nursery.cancel_scope.cancel()


async def test_a_silent_daemon_is_told_once_and_asked_again(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Pages learn by asking that it does not answer; when it does again, they are told again."""
    daemon = Daemon()
    live = Live(daemon.happened)
    nursery.start_soon(live.run)
    page = live.page(CHARTS, 5)
    for _ in range(3):
        daemon.answer(LicenseError.of(ErrorNumber.SERVER_NOT_FOUND))
    await trio.sleep(RETRY / 2)
    assert is_told(page)
    await trio.sleep(2 * RETRY)
    assert not is_told(page)
    daemon.answer(told(5))
    await trio.sleep(2 * RETRY)
    assert is_told(page)
    nursery.cancel_scope.cancel()


def visit(stands: bool = True) -> Visit:
    """Return somebody who looks."""
    return cast("Visit", type("Looking", (), {"stands": staticmethod(lambda: stands)})())


def request(query: bytes = b"") -> Request:
    """Return a request for a stream."""
    return Request({"type": "http", "query_string": query, "headers": []})


async def opened(live: Live, query: bytes = b"", *, stands: bool = True) -> AsyncIterator[ServerSentEvent]:
    """Return what a stream sends."""
    response = await live.stream(request(query), visit(stands))
    return cast("AsyncIterator[ServerSentEvent]", response.body_iterator)  # type: ignore[attr-defined]


async def test_a_burst_is_one_change(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A page has time to draw before it is told again, however much happens."""
    daemon = Daemon()
    live = Live(daemon.happened)
    nursery.start_soon(live.run)
    events = await opened(live, b"since=0")
    for position in range(1, 200):
        daemon.answer(told(position, granted(position)))
    assert (await anext(events)).event == "change"
    start = trio.current_time()
    daemon.answer(told(200, granted(200)))
    assert (await anext(events)).event == "change"
    assert trio.current_time() - start >= CALM
    nursery.cancel_scope.cancel()


async def test_a_stream_ends_with_its_log_in(autojump_clock: MockClock) -> None:
    """When its reader's log-in is over, nothing is told any more."""
    live = Live(Daemon().happened)
    drawn_now = live.page(EVERYTHING, 5)
    assert not is_told(drawn_now)
    assert [event.event async for event in await opened(live, b"since=4", stands=False)] == []
    assert (await anext(await opened(live, b"since=4"))).event == "change"


async def test_a_stream_ends_when_the_server_stops(nursery: trio.Nursery) -> None:
    """It does not keep the server waiting."""
    live = Live(Daemon().happened)
    events = await opened(live)
    nursery.start_soon(_close_soon, live)
    assert len([event async for event in events]) <= 1


async def _close_soon(live: Live) -> None:
    await wait_all_tasks_blocked()
    live.close()


async def test_a_stream_is_not_for_ever(autojump_clock: MockClock) -> None:
    """After its time it ends; a page that is still there opens it again."""
    live = Live(Daemon().happened)
    assert [event async for event in await opened(live)] == []
    assert LONGEST <= trio.current_time() <= LONGEST + PATIENCE
