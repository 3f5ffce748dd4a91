"""Answers that take time: their own connection's requests wait for them, in order, and nobody else's do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from msgspec import Struct
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd import conversation
from cmserverd.answers import Asker, Door, Later, Offer, Peer
from cmserverd.core.refusal import Refused
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber
from tests.daemon.harness import CONTROL, MONITOR, access, charts, hello, make_service, rig


def offer(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Awaitable[Struct]], door: Door = Door.CLIENT) -> None:
    """Have `server_info` be an answer that takes as long as `run`."""

    def ask(_asker: Asker, _: m.ServerInfoRequest) -> Later:
        return Later(run)

    offers = conversation._OFFERS[door]
    monkeypatch.setitem(offers, m.ServerInfoRequest.method, Offer(m.ServerInfoRequest, ask, frozenset({door})))


async def test_replies_leave_in_the_order_of_the_requests(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """What comes behind it waits, whether it was there or comes later; another client is answered meanwhile."""
    goes_on = trio.Event()

    async def run() -> Struct:
        await goes_on.wait()
        return m.Time(7)

    offer(monkeypatch, run)
    async with rig(make_service(charts())) as server:
        client, other = await server.client(1), await server.client(2)
        await client.send(rpc.encode_request(10, m.ServerInfoRequest()) + rpc.encode_request(11, m.KeepAlive()))
        await wait_all_tasks_blocked()
        await client.send(rpc.encode_request(12, access()))
        await other.ask(access())
        assert not client.inbox.replies.keys() & {10, 11, 12}
        goes_on.set()
        await client.until(lambda: 12 in client.inbox.replies)
        assert [number for number in client.inbox.replies if number >= 10] == [10, 11, 12]


async def test_it_may_be_refused(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """The refusal is its answer, and the connection goes on."""

    async def run() -> Struct:
        raise Refused(ErrorNumber.BOX_LOST)

    offer(monkeypatch, run)
    async with rig(make_service(charts())) as server:
        client = await server.client()
        await client.send(rpc.encode_request(10, m.ServerInfoRequest()))
        await client.until(lambda: 10 in client.inbox.replies)
        error = client.inbox.replies[10].error
        assert isinstance(error, dict)
        assert error["number"] == ErrorNumber.BOX_LOST
        await client.ask(m.KeepAlive())


async def test_a_bug_in_it_ends_its_session_and_no_other(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """It is logged with its traceback; the license is free."""

    async def run() -> Struct:
        msg = "a bug"
        raise ZeroDivisionError(msg)

    offer(monkeypatch, run)
    service = make_service(charts(quantity=1))
    with capture_logs() as logged:
        async with rig(service) as server:
            client, other = await server.client(1), await server.client(2)
            await client.ask(access())
            await client.send(rpc.encode_request(10, m.ServerInfoRequest()))
            farewell = await client.until_closed()
            assert farewell is not None
            assert farewell.number == ErrorNumber.INTERNAL
            await other.ask(access())
    assert [line["event"] for line in logged if line["log_level"] == "error"] == [
        "a request met a bug; its session is closed"
    ]


async def test_who_goes_meanwhile_is_not_answered(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """A session that is taken over by another connection meanwhile: the old one ends, the new one is served."""
    ended = []

    async def run() -> Struct:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)
        return m.Time(7)

    offer(monkeypatch, run)
    async with rig(make_service(charts())) as server:
        client, again = server.connect(), server.connect()
        greeting = await client.ask(hello())
        await client.send(rpc.encode_request(10, m.ServerInfoRequest()))
        await wait_all_tasks_blocked()
        await again.ask(m.Resume((1, 1), greeting.token))
        await client.until_closed()
        assert ended
        assert 10 not in client.inbox.replies
        await again.ask(m.KeepAlive())


async def test_what_takes_longer_than_a_client_may_be_silent_is_answered_all_the_same(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """At a local socket, where nobody else judges silence: the signs of life are read afterwards."""

    async def run() -> Struct:
        await trio.sleep(1_000)
        return m.Time(7)

    offer(monkeypatch, run, Door.MONITOR)
    async with rig(make_service(charts())) as server:
        client = await server.client(peer=MONITOR)
        await client.send(rpc.encode_request(10, m.ServerInfoRequest()) + rpc.encode_request(11, m.KeepAlive()))
        with trio.fail_after(2_000):
            await client.until(lambda: 11 in client.inbox.replies)
        assert client.inbox.farewell is None


@pytest.mark.parametrize(("peer", "cancelled"), [(MONITOR, True), (CONTROL, False)])
async def test_who_only_looks_is_not_worked_for_once_he_is_gone(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, peer: Peer, cancelled: bool
) -> None:
    """What an operator began to change goes on to its end."""
    ended: list[bool] = []
    finished = trio.Event()

    async def run() -> Struct:
        try:
            await trio.sleep(1_000)
        except trio.Cancelled:
            ended.append(True)
            raise
        else:
            ended.append(False)
        finally:
            finished.set()
        return m.Time(7)

    offer(monkeypatch, run, peer.door)
    async with rig(make_service(charts())) as server:
        client = await server.client(peer=peer)
        await client.send(rpc.encode_request(10, m.ServerInfoRequest()))
        await wait_all_tasks_blocked()
        client.close()
        with trio.fail_after(2_000):
            await finished.wait()
    assert ended == [cancelled]
