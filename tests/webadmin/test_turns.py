"""That one visitor cannot use WebAdmin up: how much he may have done at once, and what becomes of who goes away."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from httpx2 import Response as Answer
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd.webadmin.limits import SENDING
from cmserverd.webadmin.offers import Api, Open, Page, Stream, Visit
from cmserverd.webadmin.people import Role
from tests.webadmin.conftest import Browser, World, make_world

HISTORY: Final = "/history"


class Work:
    """What is done for visitors, until the test ends it."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.end = trio.Event()

    async def __call__(self, _: Request, visit: Visit) -> Response:
        """Answer once it is ended."""
        self.now[visit.who] += 1
        try:
            await self.end.wait()
        finally:
            self.now[visit.who] -= 1
        return PlainTextResponse("done")

    def counted(self) -> dict[str, int]:
        """Return for whom how much is done."""
        return {who: number for who, number in self.now.items() if number}


async def endless(_: Request, __: Visit) -> Response:
    """Answer with a stream that does not end."""

    async def nothing() -> AsyncIterator[bytes]:
        await trio.sleep_forever()
        yield b""

    return StreamingResponse(nothing())


@pytest.fixture
def work() -> Work:
    """Work that is not ended."""
    return Work()


@pytest.fixture
async def busy(tmp_path: Path, work: Work) -> AsyncGenerator[World]:
    """A world of pages whose work goes on, with two viewers and an anonymous one."""
    offers = (
        Page("/slow", work),
        Api("/api/v1/slow", work),
        Page(HISTORY, work, reads_history=True),
        Stream("/stream", endless),
    )
    async with make_world(tmp_path, *offers, anonymous=Role.VIEWER) as made:
        made.add("eve", Role.VIEWER)
        made.add("anna", Role.VIEWER)
        yield made


async def browser_of(world: World, user: str, address: str = "192.0.2.7") -> Browser:
    """Return the browser of a user who is logged in."""
    browser = world.browser(address)
    assert (await browser.log_in(user)).status_code == 303
    return browser


class Asked:
    """What was asked for at once, and the answers that there are."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.codes: list[int] = []
        self.answers: list[Answer] = []

    async def ask(self, browser: Browser, path: str, times: int = 1, **headers: str) -> None:
        """Ask for a page so often at once."""
        for _ in range(times):
            self._nursery.start_soon(self._ask, browser, path, headers)
        await wait_all_tasks_blocked()

    async def _ask(self, browser: Browser, path: str, headers: dict[str, str]) -> None:
        answer = await browser.get(path, **headers)
        self.answers.append(answer)
        self.codes.append(answer.status_code)


@pytest.fixture
def asked(nursery: trio.Nursery) -> Asked:
    """Nothing was asked for yet."""
    return Asked(nursery)


async def test_who_asks_for_much_at_once_waits_for_himself(busy: World, work: Work, asked: Asked) -> None:
    """Wherever he is logged in; others are answered at once, and in the end he is, too."""
    eve, elsewhere = await browser_of(busy, "eve"), await browser_of(busy, "eve", "198.51.100.1")
    await asked.ask(eve, "/slow", 10)
    await asked.ask(elsewhere, "/slow", 10)
    await asked.ask(await browser_of(busy, "anna"), "/slow", 2)
    await asked.ask(busy.browser("2001:db8::1"), "/slow", 4)
    await asked.ask(busy.browser("2001:db8::2"), "/slow", 4)
    assert work.counted() == {"eve": 6, "anna": 2, "anybody": 6}
    token = busy.people.add_token("t", Role.VIEWER, 1)
    await asked.ask(busy.browser(), "/api/v1/slow", 8, authorization=f"Bearer {token}")
    assert work.counted()["token:t"] == 6
    assert (await eve.get("/open")).status_code == 200
    work.end.set()
    await wait_all_tasks_blocked()
    assert asked.codes == [200] * 38


async def test_who_asks_for_more_than_can_wait_is_refused(busy: World, work: Work, asked: Asked) -> None:
    """At once, with when to try again; in words for people, and for machines."""
    eve = await browser_of(busy, "eve")
    await asked.ask(eve, "/slow", 107)
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in asked.answers] == [(503, "5")]
    assert "It may be starting, or it is stopped" not in asked.answers[0].text  # it is not the license server's fault
    assert "You have asked for too much at once; try again in a moment." in asked.answers[0].text
    assert (await eve.get("/api/v1/seen")).json()["error"]["title"] == "Not now"
    assert (await (await browser_of(busy, "anna")).get("/")).status_code == 200
    work.end.set()


async def test_the_history_is_read_for_few_at_once(busy: World, work: Work, asked: Asked) -> None:
    """For one of each, two in all; some wait, more are told that it is busy; other pages go on."""
    eve, anna = await browser_of(busy, "eve"), await browser_of(busy, "anna")
    await asked.ask(eve, HISTORY, 5)
    assert work.counted() == {"eve": 1}
    assert asked.codes == [503, 503]
    assert "The history is being read for too many already" in asked.answers[0].text
    await asked.ask(anna, HISTORY)
    await asked.ask(busy.browser(), HISTORY)
    assert work.counted() == {"eve": 1, "anna": 1}
    assert (await eve.get("/")).status_code == 200
    work.end.set()
    await wait_all_tasks_blocked()
    assert asked.codes == [503, 503, *[200] * 5]


class Connection:
    """A request as a web server brings it, whose end the test decides."""

    def __init__(self, world: World, path: str, method: str = "GET", **headers: str) -> None:
        self._site = world.site
        said = {"host": "localhost", **headers}
        self._scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), text.encode()) for name, text in said.items()],
            "client": ("192.0.2.7", 1),
            "server": ("127.0.0.1", 80),
        }
        self.gone = trio.Event()
        self.taken = trio.Event()
        self.received = 0
        self.status = 0

    def come_from(self, address: str, port: int) -> None:
        """Have its other end there."""
        self._scope["client"] = (address, port)

    async def run(self) -> None:
        """Have it answered."""
        await self._site(self._scope, self._receive, self._send)

    async def _receive(self) -> MutableMapping[str, Any]:
        self.received += 1
        if self.received == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.status = message.get("status", self.status)
        await self.taken.wait()


async def test_who_goes_away_is_not_worked_for_any_more(busy: World, work: Work, nursery: trio.Nursery) -> None:
    """Reading the history for him ends, and whoever waited has his turn."""
    first, second = Connection(busy, HISTORY), Connection(busy, HISTORY)
    for one in (first, second):
        nursery.start_soon(one.run)
        await wait_all_tasks_blocked()
    assert work.counted() == {"anybody": 1}
    first.gone.set()
    await wait_all_tasks_blocked()
    work.end.set()
    await wait_all_tasks_blocked()
    assert (first.status, second.status) == (0, 200)
    nursery.cancel_scope.cancel()


async def test_who_does_not_take_his_answer_loses_his_turn(
    busy: World, work: Work, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """As long as he is given he keeps it, with the memory that his answer takes."""
    work.end.set()
    slow = [Connection(busy, "/slow") for _ in range(7)]
    for one in slow:
        nursery.start_soon(one.run)
        await wait_all_tasks_blocked()
    assert [one.status for one in slow] == [200] * 6 + [0]
    await trio.sleep(SENDING - 1)
    assert slow[6].status == 0
    await trio.sleep(2)
    assert slow[6].status == 200
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("GET", "/nosuch", "localhost", 404),
        ("POST", "/", "localhost", 405),
        ("GET", "/", "evil.example", 421),
        ("GET", "/open", "localhost", 200),
        ("GET", "/stream", "localhost", 200),
    ],
)
async def test_no_answer_waits_for_ever(
    busy: World, method: str, path: str, host: str, status: int, autojump_clock: MockClock
) -> None:
    """Whatever it is, an error or a stream, too, it ends if it is not taken: it holds up its connection."""
    connection = Connection(busy, path, method, host=host)
    with trio.fail_after(SENDING + 1):
        await connection.run()
    assert connection.status == status


@pytest.mark.parametrize("others", [("192.0.2.8", 1), ("127.0.0.1", 2)])
async def test_who_asks_for_what_is_open_does_not_hold_up_others(
    tmp_path: Path, others: tuple[str, int], nursery: trio.Nursery
) -> None:
    """Of many requests at once, one of each host begins in turn; over loopback, of each connection."""
    begun: list[object] = []

    async def mark(request: Request, _: Visit) -> Response:
        begun.append(request.client)
        return PlainTextResponse("done")

    async with make_world(tmp_path, Open("/mark", mark)) as world:

        def ask(client: tuple[str, int]) -> None:
            connection = Connection(world, "/mark")
            connection.come_from(*client)
            connection.taken.set()
            nursery.start_soon(connection.run)

        for _ in range(50):
            ask((others[0] if others[0] == "127.0.0.1" else "192.0.2.7", 1))
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        ask(others)
        await wait_all_tasks_blocked()
    assert len(begun) == 51
    assert begun.index(others) < 10


async def test_one_visitor_cannot_have_all_streams(busy: World, nursery: trio.Nursery) -> None:
    """Beyond his share a page is not kept up to date; one that is closed makes room, and pages are still answered."""
    open_pages = [Connection(busy, "/stream") for _ in range(50)]
    for one in open_pages:
        one.taken.set()
        nursery.start_soon(one.run)
    await wait_all_tasks_blocked()
    assert {one.status for one in open_pages} == {200}
    refused = Connection(busy, "/stream")
    refused.taken.set()
    nursery.start_soon(refused.run)
    await wait_all_tasks_blocked()
    assert refused.status == 503
    assert (await busy.browser().get("/")).status_code == 200
    anna = Connection(busy, "/stream", cookie=f"cmserverd={busy.logins.begin('anna')}")
    open_pages[0].gone.set()
    await wait_all_tasks_blocked()
    fresh = Connection(busy, "/stream")
    for one in (anna, fresh):
        one.taken.set()
        nursery.start_soon(one.run)
    await wait_all_tasks_blocked()
    assert (anna.status, fresh.status) == (200, 200)
    nursery.cancel_scope.cancel()


async def test_who_only_claims_to_have_a_token_sends_nothing(world: World) -> None:
    """He is refused before any of what he wants to send is taken."""
    claims = Connection(world, "/api/v1/act", "POST", authorization="Bearer made-up", **{"content-length": "500000"})
    claims.taken.set()
    await claims.run()
    assert (claims.status, claims.received) == (401, 0)


async def test_the_log_has_no_path_with_a_secret(world: World) -> None:
    """Neither when a form of another site is refused, nor when somebody may not: it has the path of the offer."""
    link = world.entrance.link
    browser = await world.logged_in(Role.VIEWER)
    with capture_logs() as said:
        path = f"/setup/{link}"
        assert (await browser.post(path, {"csrf": await browser.token(path)}, "http://evil.example")).status_code == 403
        assert (await browser.get("/people?token=secret")).status_code == 403
    assert [line["path"] for line in said] == ["/setup/{link}", "/people"]
    assert link not in str(said)
