"""That nobody holds up WebAdmin over a real connection: by what he does not read, does not end, or breaks off."""

from __future__ import annotations

import resource
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd.webadmin.limits import SENDING
from cmserverd.webadmin.serving import HEADERS, IDLE, Bound, bind, serve
from tests.webadmin.conftest import World

LONG: Final = 64 * 1024 * 1024
"""Bytes that no connection takes unread."""


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncGenerator[Bound]:
    """Serve on loopback until the end of the block."""
    (bound,) = bind([("127.0.0.1", 0)], always_secure=False)
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, app, [bound], None, stopping)
        yield bound
        stopping.set()


class Http2:
    """A connection of HTTP/2, over which anything may be said; `window`: how much of each answer is taken unasked."""

    def __init__(self, stream: trio.SocketStream, window: int = 65_535) -> None:
        self.stream = stream
        self.said = h2.connection.H2Connection(
            config=h2.config.H2Configuration(
                client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        code = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
        self.said.local_settings = h2.settings.Settings(client=True, initial_values={code: window})
        self.said.initiate_connection()

    @classmethod
    async def to(cls, bound: Bound, window: int = 65_535) -> Self:
        """Connect."""
        return cls(await trio.open_tcp_stream(*bound.sock.getsockname()), window)

    async def __aenter__(self) -> Self:
        """Be open until the end of the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.stream.aclose()

    def ask(
        self, method: str, path: str, further: Sequence[tuple[str, str]] = (), *, body: int = 0, ended: bool = True
    ) -> int:
        """Ask for something; `body`: bytes, each on its own. Return the number of the stream."""
        number = self.said.get_next_available_stream_id()
        first = [(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path)]
        self.said.send_headers(number, [*first, *further], end_stream=ended)
        for _ in range(body):
            self.said.send_data(number, b"x")
        return number

    async def send(self) -> None:
        """Send what was asked."""
        await self.stream.send_all(self.said.data_to_send())

    async def answers(self) -> int:
        """Read to the end; return how many answers there were."""
        count = 0
        try:
            async for data in self.stream:
                count += sum(isinstance(event, h2.events.ResponseReceived) for event in self.said.receive_data(data))
                await self.send()
        except trio.BrokenResourceError:
            pass
        return count


@pytest.fixture
def few_connections(monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many connections there may be: few."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
    return 4


@pytest.mark.parametrize("path", ["/nosuch", "/login", "/open"])
async def test_an_answer_that_nobody_takes_frees_its_connection(
    world: World, path: str, few_connections: int, autojump_clock: MockClock
) -> None:
    """However the request came: with more of a body than is read, and without an end, from somebody who is gone."""
    async with served(world.site) as bound:
        for _ in range(few_connections):
            async with await Http2.to(bound, window=0) as stranger:
                stranger.ask("POST", path, [("content-length", "100")], body=40, ended=False)
                await stranger.send()
                await wait_all_tasks_blocked()
        await trio.sleep(SENDING + IDLE + 1)
        async with await Http2.to(bound) as other:
            other.ask("GET", "/login")
            await other.send()
            assert await other.answers() == 1


@pytest.mark.parametrize("how", ["nothing", "a path that is none", "no text", "no stream", "taken back"])
async def test_a_connection_over_which_nothing_is_answered_is_idle(
    world: World, how: str, autojump_clock: MockClock
) -> None:
    """Even if the web server refused by itself what was asked, or it was taken back."""
    async with served(world.site) as bound, await Http2.to(bound) as stranger:
        match how:
            case "a path that is none":
                stranger.ask("GET", "/a b")
            case "no text":
                stranger.ask("GET", "/%ff%fe")
            case "no stream":
                stranger.ask("CONNECT", "/", [(":protocol", "websocket"), ("sec-websocket-version", "13")], ended=False)
            case "taken back":
                stranger.said.reset_stream(stranger.ask("POST", "/login", [("content-length", "9")], ended=False))
        await stranger.send()
        begun = trio.current_time()
        with trio.fail_after(SENDING):
            await stranger.answers()
        assert trio.current_time() - begun <= IDLE + 1


async def test_headers_have_a_bound(world: World, autojump_clock: MockClock) -> None:
    """Each stream holds its own as long as it is answered."""
    async with served(world.site) as bound:
        for size, answers in ((HEADERS // 2, 1), (HEADERS, 0)):
            async with await Http2.to(bound) as stranger:
                stranger.ask("GET", "/login", [("x-long", "x" * size)])
                await stranger.send()
                assert await stranger.answers() == answers


async def test_who_takes_a_bit_now_and_then_is_cut_off(autojump_clock: MockClock) -> None:
    """Over HTTP/1 nothing else ends it: the system begins to count anew with each bit."""

    async def long(_: Request) -> Response:
        return Response(bytes(LONG))

    async with served(Starlette(routes=[Route("/", long)])) as bound:
        async with await trio.open_tcp_stream(*bound.sock.getsockname()) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            taken = 0
            for _ in range(4):
                taken += len(await stream.receive_some(1024))
                await trio.sleep(SENDING / 3)
            try:
                async for data in stream:
                    taken += len(data)
            except trio.BrokenResourceError:
                pass
        assert 0 < taken < LONG


@pytest.mark.parametrize("how", ["settings", "priorities"])
async def test_who_speaks_no_http_is_told_once_and_shortly(world: World, how: str, autojump_clock: MockClock) -> None:
    """Anybody could fill the log by it."""
    with capture_logs() as said:
        async with served(world.site) as bound:
            for _ in range(3):
                async with await Http2.to(bound) as stranger:
                    if how == "settings":
                        upgrade = b"Upgrade: h2c\r\nConnection: Upgrade\r\nHTTP2-Settings: \xff\r\n\r\n"
                        await stranger.stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + upgrade)
                    else:
                        for number in range(1, 2_600, 2):
                            stranger.said.prioritize(number)
                        await stranger.send()
                    while await stranger.stream.receive_some():
                        pass
    assert [line["event"] for line in said] == ["a connection does not speak HTTP"]
    assert "exc_info" not in said[0]
    assert len(str(said[0])) < 500
