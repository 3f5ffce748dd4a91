"""The trio client against an honest fake server, over memory streams and without waiting."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from msgspec import structs
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import messages as m
from protocol import rpc
from protocol.address import Tcp, Unix
from protocol.client import Client, OnEvent, open_client
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError, SettingError
from protocol.session import EVENTS
from protocol.terms import AccessMode, HandleKind, Station
from protocol.trio_link import dial
from tests.protocol.cases import ERROR, NOTIFICATIONS, REQUESTS, RESULTS
from tests.protocol.fake_server import ADMINISTRATOR, FakeConnection, FakeServer, TrioHost

COUNT = next(result.licenses[0] for result, _ in RESULTS if isinstance(result, m.LicensePage))
HELLO = REQUESTS[0][0]
SOMEONE = next(result.accesses[0] for result, _ in RESULTS if isinstance(result, m.AccessPage))


@pytest.fixture
async def host(nursery: trio.Nursery) -> TrioHost:
    """A fake server and the way to it."""
    return TrioHost(FakeServer(), nursery)


@pytest.fixture
async def client(host: TrioHost) -> AsyncIterator[Client]:
    """A client of the fake server."""
    async with connected(host) as client:
        yield client


def connected(host: TrioHost, on_event: OnEvent | None = None) -> AbstractAsyncContextManager[Client]:
    """Open a client of the fake server, on a station of its own."""
    return open_client("fake", application="Charts", station="desk-4", on_event=on_event, dial=host.dial)


async def cut(host: TrioHost, client: Client) -> None:
    """Have the server hang up, and wait until the client has seen it."""
    host.server.connections[-1].hang_up()
    await wait_all_tasks_blocked()
    assert client.broken is not None


async def back(client: Client) -> None:
    """Wait until the client has come back, and all is settled."""
    await client.call(m.KeepAlive())
    await wait_all_tasks_blocked()


async def test_the_greeting(host: TrioHost) -> None:
    """The client says who it is and where it sits, asks for events, and says goodbye at the end."""
    async with connected(host) as client:
        assert client.greeting.server.name == "licenses"
        assert client.address == Tcp("fake")
        assert client.broken is None
    hello, goodbye = host.server.seen
    assert isinstance(hello, m.Hello)
    assert (hello.versions, hello.events, hello.station) == ((1, 1), "push", Station("desk-4"))
    assert hello.client.application == "Charts"
    assert isinstance(goodbye, m.Goodbye)
    await wait_all_tasks_blocked()
    assert host.server.connections == []


async def test_an_access(host: TrioHost, client: Client) -> None:
    """An access has what was granted, can be asked about, and is released at the end of its block."""
    async with await client.access(
        600010, 14, AccessMode.STATION_SHARE, feature_code=3, container="3-3448482", item=2
    ) as access:
        assert (access.handle, access.container, access.item, access.allocation) == (1, "3-3448482", 2, 4)
        assert access.ended is None
        access.check_nowait()
        assert (await access.info()).firm_code == 600010
    _, asked, info, release = host.server.seen
    assert isinstance(asked, m.Access)
    assert len(asked.key) == 16
    assert structs.replace(asked, key=m.AccessKey(bytes(16))) == m.Access(
        m.AccessKey(bytes(16)), 600010, 14, AccessMode.STATION_SHARE, HandleKind.ENTRY, 3, "3-3448482", 2
    )
    assert (info, release) == (m.Info(1), m.Release(1))
    with pytest.raises(LicenseError, match=r"release has been asked for, Error 106\.$"):
        access.check_nowait()


async def test_each_access_has_a_key_of_its_own(host: TrioHost, client: Client) -> None:
    """Two accesses are two handles: nothing is taken for a repetition."""
    first, second = await client.access(600010, 14), await client.access(600010, 14)
    assert first.handle != second.handle
    assert len(set(host.server.session.handles.values())) == 2


async def test_releasing_twice(host: TrioHost, client: Client) -> None:
    """The second release has nothing to do."""
    access = await client.access(600010, 14)
    await access.release()
    await access.release()
    assert host.server.asked(m.Release) == 1


async def test_listings(host: TrioHost, client: Client) -> None:
    """The listings are typed values; pages are followed by their cursor, empty ones too."""
    assert (await client.containers()).containers[0].id == "3-3448482"
    assert (await client.contents("3-3448482")).firm_items[0].firm_code == 600010
    assert (await client.server_info()).containers == 1
    host.server.pages = [m.LicensePage(3, 4, (COUNT,), 1), m.LicensePage(5, 4, (), 2), m.LicensePage(6, 4, (COUNT,))]
    assert [count async for count in client.net_cluster(firm_code=600010)] == [COUNT, COUNT]
    assert (await client.net_cluster_page(cursor=1)).position == 5
    host.server.pages = [m.AccessPage(3, 4, (SOMEONE,), 1), m.AccessPage(5, 4, (SOMEONE,))]
    assert [access async for access in client.net_users(relevant=True, container="3-1")] == [SOMEONE, SOMEONE]
    assert (await client.net_users_page(cursor=1, limit=5)).position == 5
    assert host.server.seen[-2:] == [
        m.NetUsers("3-1", relevant=True, cursor=1),
        m.NetUsers(cursor=1, limit=5),
    ]


async def test_pages_in_a_circle(host: TrioHost, client: Client) -> None:
    """A page that names itself as the next one ends the listing."""
    host.server.pages = [m.LicensePage(3, 4, (COUNT,), 0)]
    with pytest.raises(LicenseError, match="in a circle"):
        [count async for count in client.net_cluster()]


async def test_any_request(client: Client) -> None:
    """`call` takes any request, and gives the class of its result."""
    time: m.Time = await client.call(m.KeepAlive())
    assert time.time == 1
    with pytest.raises(LocalProtocolError, match="'hello' cannot be sent"):
        await client.call(HELLO)


async def test_a_refusal(host: TrioHost, client: Client) -> None:
    """A refusal is raised with its reasons, and the client goes on."""
    host.server.refusals[m.Access] = ERROR
    with pytest.raises(LicenseError) as refusal:
        await client.access(600010, 14)
    assert refusal.value.number == ErrorNumber.NO_MORE_LICENSES
    assert refusal.value.reasons == ERROR.reasons
    host.server.refusals.clear()
    assert (await client.access(600010, 14)).handle == 1


async def test_no_answer_in_time(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """A call that is not answered raises 100 after the timeout; its late reply is ignored."""
    host.server.kept_back = {m.Containers}
    with pytest.raises(LicenseError, match=r"no answer within 10 seconds, Error 100\.$"):
        await client.containers()
    assert autojump_clock.current_time() == pytest.approx(10)
    host.server.let_go()
    assert (await client.call(m.KeepAlive())).time == 1
    assert client.broken is None


async def test_a_grant_that_comes_too_late_is_given_back(
    host: TrioHost, client: Client, autojump_clock: MockClock
) -> None:
    """After an error nothing is held, even if the server granted later; a cancelled call is the same."""
    host.server.kept_back = {m.Access}
    with pytest.raises(LicenseError, match="no answer"):
        await client.access(600010, 14)
    with trio.move_on_after(1) as scope:
        await client.access(600010, 14)
    assert scope.cancelled_caught
    assert len(host.server.session.handles) == 2
    host.server.let_go()
    await wait_all_tasks_blocked()
    assert host.server.session.handles == {}


async def test_the_limit_of_unanswered_requests(nursery: trio.Nursery) -> None:
    """Calls beyond the server's limit wait for their turn; all are answered."""
    host = TrioHost(FakeServer(requests=2), nursery)
    host.server.kept_back = {m.KeepAlive}
    answered = []

    async def ask(client: Client) -> None:
        answered.append(await client.call(m.KeepAlive()))

    async with connected(host) as client:
        for _ in range(100):
            nursery.start_soon(ask, client)
        await wait_all_tasks_blocked()
        assert host.server.asked(m.KeepAlive) == 2
        host.server.let_go()
        await wait_all_tasks_blocked()
        assert len(answered) == 100


async def test_an_access_that_was_never_sent(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A call that was given up while it waited for its turn is not sent later."""
    host = TrioHost(FakeServer(requests=1), nursery)
    async with connected(host) as client:
        host.server.kept_back = {m.Events, m.KeepAlive}
        nursery.start_soon(_expect_failure, client)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await client.access(600010, 14)
        host.server.let_go()
        await client.call(m.KeepAlive())
        assert host.server.asked(m.Access) == 0


async def _expect_failure(client: Client) -> None:
    with pytest.raises(LicenseError, match="Error 304"):
        await client.call(m.Events(60))


async def test_an_event_ends_an_access(host: TrioHost) -> None:
    """The access knows at once, `on_event` is told, and releasing it has nothing to do."""
    events = []
    told = trio.Event()

    async def on_event(event: m.Event) -> None:
        events.append(event)
        told.set()

    async with connected(host, on_event) as client:
        async with await client.access(600010, 14) as access:
            host.server.end(access.handle)
            await told.wait()
            assert access.ended is not None
            assert access.ended.cause == m.EndCause.ADMINISTRATOR
            with pytest.raises(LicenseError, match="It was removed"):
                access.check_nowait()
        assert events == [m.Event("ended", 8, access.handle, ADMINISTRATOR)]
        assert host.server.asked(m.Release) == 0


async def test_an_event_in_the_same_piece_as_the_grant(nursery: trio.Nursery) -> None:
    """The event finds the access even before its caller runs again."""
    ours, theirs = trio.testing.memory_stream_pair()
    server = FakeServer()

    async def dial_pair(address: object) -> trio.abc.Stream:
        return ours

    async def serve() -> None:
        reader = rpc.Reader(rpc.FROM_CLIENT)
        while data := await theirs.receive_some(rpc.CHUNK):
            reader.feed(bytes(data))
            request = reader.next()
            assert isinstance(request, rpc.Request)
            if request.method == "access":
                await theirs.send_all(
                    rpc.encode_result(request.msgid, m.Granted(9))
                    + rpc.encode_notification("event", m.Event("ended", 8, 9, ADMINISTRATOR))
                )
            else:
                answers = {"hello": server.answer(connection, HELLO), "goodbye": m.Done()}
                await theirs.send_all(rpc.encode_result(request.msgid, answers[request.method]))

    connection = FakeConnection(server, bytearray().extend, lambda: None)
    nursery.start_soon(serve)
    async with open_client("fake", station="desk-4", dial=dial_pair) as client:
        access = await client.access(600010, 14)
        assert access.ended is not None


async def test_a_rebooked_access(host: TrioHost, client: Client) -> None:
    """An access that another container serves now says so."""
    access = await client.access(600010, 14)
    host.server.tell(m.Event("rebooked", 5, access.handle, container="3-1", item=7))
    await wait_all_tasks_blocked()
    assert (access.container, access.item, access.allocation) == ("3-1", 7, 4)
    access.check_nowait()


async def test_an_event_during_a_call(host: TrioHost, client: Client) -> None:
    """Events come while a call waits, and do not disturb it."""
    access = await client.access(600010, 14)
    host.server.kept_back = {m.Containers}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.containers)
        await wait_all_tasks_blocked()
        host.server.end(access.handle)
        await wait_all_tasks_blocked()
        assert access.ended is not None
        host.server.let_go()


async def test_on_event_may_use_the_client_and_may_fail(host: TrioHost, caplog: pytest.LogCaptureFixture) -> None:
    """`on_event` runs in a task of its own: it can ask for another access; what it raises is logged, no more."""
    regained = []
    opened: list[Client] = []
    done = trio.Event()

    async def on_event(event: m.Event) -> None:
        if event.handle == 1:
            regained.append(await opened[0].access(600010, 14))
            raise ValueError(event.handle)
        done.set()

    async with connected(host, on_event) as client:
        opened.append(client)
        first, second = await client.access(600010, 14), await client.access(600010, 14)
        with caplog.at_level(logging.ERROR):
            host.server.end(first.handle)
            host.server.end(second.handle)
            await done.wait()
        assert regained[0].ended is None
        assert client.broken is None
    assert "on_event failed" in caplog.text


async def test_events_that_nobody_takes(host: TrioHost, autojump_clock: MockClock) -> None:
    """A program that stops taking events loses its connection, not the machine its memory."""

    async def on_event(event: m.Event) -> None:
        await trio.sleep_forever()

    async with connected(host, on_event) as client:
        for number in range(EVENTS + 2):
            host.server.tell(m.Event("ended", 8, number))
        await wait_all_tasks_blocked()
        assert client.broken is not None
        assert "does not take its events" in str(client.broken)


async def test_keep_alive(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """An idle client gives a sign of life as often as the server asked."""
    await trio.sleep(125)
    assert host.server.asked(m.KeepAlive) == 3
    assert client.broken is None


async def test_a_server_without_a_sign_of_life(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """A keep-alive that is not answered ends the connection; the client makes another."""
    client._session.backoff.random = lambda: 1.0
    host.server.kept_back = {m.KeepAlive}
    await trio.sleep(50.1)
    assert client.broken is not None
    assert "no sign of life" in str(client.broken)
    assert (await client.containers()).position == 3
    assert autojump_clock.current_time() == pytest.approx(50.25)
    assert host.server.asked(m.Resume) == 1


async def test_who_holds_nothing_waits_for_a_long_answer(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The answer to a sign of life comes behind it, later than half the server's timeout."""
    host = TrioHost(FakeServer(keep_alive=1.0, timeout=3.0), nursery)
    async with connected(host) as client:
        host.server.kept_back = {m.KeepAlive}
        await trio.sleep(9.5)
        assert client.broken is None
        assert len(host.dialled) == 1


async def test_nobody_claims_what_the_server_may_have_given_away(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """However long its calls may take: half the server's timeout after the last word no access claims to stand."""
    host = TrioHost(FakeServer(keep_alive=1.0, timeout=3.0), nursery)
    async with connected(host) as client:
        access = await client.access(600010, 14)
        client._session.backoff.random = lambda: 1.0
        host.server.kept_back = {m.KeepAlive}
        await trio.sleep(1.4)
        access.check_nowait()
        await trio.sleep(0.2)
        with pytest.raises(LicenseError, match=r"no sign of life, Error 100\.$"):
            access.check_nowait()


async def test_a_cut_is_not_noticed(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """A call that waits gets its answer all the same, as does one that is asked meanwhile; the access stands again."""
    access = await client.access(600010, 14)
    host.server.kept_back = {m.Containers}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.containers)
        await wait_all_tasks_blocked()
        await cut(host, client)
        host.server.drop_answers()
        with pytest.raises(LicenseError, match=r"the server closed it, Error 100\.$"):
            access.check_nowait()
        assert (await access.info()).handle == access.handle
    access.check_nowait()
    assert host.server.asked(m.Containers) == 2
    assert host.dialled == [Tcp("fake"), Tcp("fake")]
    resumed = next(params for params in host.server.seen if isinstance(params, m.Resume))
    assert resumed.events == "push"


async def test_the_server_says_goodbye(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """The server's reason is told, and the client comes back."""
    host.server.tell(m.Farewell(m.ErrorBody(309, "REQUEST_OVERLOAD", "Too many requests, Error 309.")))
    await wait_all_tasks_blocked()
    assert "said goodbye: Too many requests, Error 100." in str(client.broken)
    await client.containers()


async def test_the_server_breaks_the_protocol(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """Bytes that are no message end the connection, with what was wrong, and the client makes another."""
    host.server.connections[-1].send(b"\xc1")
    await wait_all_tasks_blocked()
    assert "the server broke the protocol: " in str(client.broken)
    await client.containers()


async def test_the_pauses_grow(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """While nobody answers the client dials ever less often; a connection that lived makes the pauses short again."""
    client._session.backoff.random = lambda: 1.0
    await cut(host, client)
    host.unreachable = {Tcp("fake")}
    await trio.sleep(18)
    pauses = [after - before for before, after in pairwise(host.times)]
    assert pauses == pytest.approx([0.25, 0.5, 1, 2, 4, 5, 5])
    assert "fake:22350: Connection refused" in str(client.broken)
    host.unreachable = set()
    await back(client)
    for pause in (5, 0.25):
        await cut(host, client)
        begun = autojump_clock.current_time()
        await client.containers()
        assert autojump_clock.current_time() - begun == pytest.approx(pause)
        await trio.sleep(41)


async def test_a_server_that_does_not_greet_again(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """One that connects and says nothing is left after the timeout, as is one that cannot be reached within it."""
    client._session.backoff.random = lambda: 1.0
    access = await client.access(600010, 14)
    host.server.kept_back = {m.Resume}
    await cut(host, client)
    await trio.sleep(9.9)
    host.server.drop_answers()
    await trio.sleep(0.5)
    assert "no answer within 10 seconds" in str(client.broken)
    host.absent = {Tcp("fake")}
    await trio.sleep(15)
    assert "no connection within 10 seconds" in str(client.broken)
    host.absent = set()
    await trio.sleep(10)
    await back(client)
    access.check_nowait()


async def test_a_timeout_during_an_outage(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """A call keeps its own limit, and says why there was no answer; it is not asked afterwards."""
    await cut(host, client)
    host.unreachable = {Tcp("fake")}
    with pytest.raises(LicenseError, match=r"no answer within 10 seconds; the connection is broken: .*refused.*trying"):
        await client.containers()
    assert autojump_clock.current_time() == pytest.approx(10)
    with trio.move_on_after(1):
        await client.access(600010, 14)
    host.unreachable = set()
    await back(client)
    assert host.server.asked(m.Containers) == host.server.asked(m.Access) == 0


async def test_a_server_that_was_started_again(host: TrioHost, autojump_clock: MockClock) -> None:
    """What was held is asked for anew behind the same object: the program is told of each, once."""
    events = []

    async def on_event(event: m.Event) -> None:
        events.append(event)

    async with connected(host, on_event) as client:
        released, lost, kept = [await client.access(600010, product) for product in (13, 15, 14)]
        await released.release()
        host.server.sold_out = {15}
        host.server.restart()
        assert (await kept.info()).handle == kept.handle == 1
        kept.check_nowait()
        with pytest.raises(LicenseError, match=r"Error 212\.$"):
            lost.check_nowait()
        await lost.release()
        await wait_all_tasks_blocked()
        assert [(event.event, event.handle, event.position) for event in events] == [
            ("lost", 2, 0),
            ("reacquired", 1, 0),
        ]
        assert events[0].error is not None
        assert lost.ended is not None
        assert events[0].error == lost.ended.body
        assert host.server.session.handles == {1: kept.request.key}
    assert host.server.asked(m.Hello) == 2


async def test_a_server_that_is_still_starting(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """As long as it says 238 the access is neither there nor lost; it is asked for again, ever less often."""
    client._session.backoff.random = lambda: 1.0
    access = await client.access(600010, 14)
    host.server.refusals[m.Access] = LicenseError.of(ErrorNumber.SERVER_STARTING).body
    host.server.restart()
    await trio.sleep(20)
    assert client.broken is None
    with pytest.raises(LicenseError, match=r"is being asked for anew, Error 100\.$"):
        access.check_nowait()
    assert access.ended is None
    assert host.server.asked(m.Access) == 1 + 7
    host.server.refusals.clear()
    await trio.sleep(5.1)
    access.check_nowait()
    assert len(host.server.connections) == 1


async def test_who_checks_waits_for_the_server(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """A server that is away in the middle of it, and starts again, is not noticed; one that stays away is, in time."""
    access = await client.access(600010, 14)
    await cut(host, client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(access.check)
        await wait_all_tasks_blocked()
        host.server.refusals[m.Access] = LicenseError.of(ErrorNumber.SERVER_STARTING).body
        host.server.restart()
        await trio.sleep(5)
        assert host.server.asked(m.Access) > 2
        assert nursery.child_tasks
        host.server.refusals.clear()
    access.check_nowait()
    assert host.server.session.handles == {access.handle: access.request.key}
    await cut(host, client)
    host.unreachable = {Tcp("fake")}
    begun = autojump_clock.current_time()
    with pytest.raises(LicenseError, match=r"no answer within 10 seconds; the connection is broken: .*refused.*trying"):
        await access.check()
    assert autojump_clock.current_time() - begun == pytest.approx(10)
    host.unreachable = set()
    await access.check()
    host.server.end(access.handle)
    await wait_all_tasks_blocked()
    with pytest.raises(LicenseError, match="It was removed"):
        await access.check()


async def test_closing_during_an_outage(host: TrioHost, autojump_clock: MockClock) -> None:
    """Leaving takes no time, whether the client pauses or dials."""
    async with connected(host) as client, await client.access(600010, 14):
        await cut(host, client)
    async with connected(host) as client, await client.access(600010, 14):
        await cut(host, client)
        host.absent = {Tcp("fake")}
        await trio.sleep(1)
        assert len(host.dialled) == 3
    assert autojump_clock.current_time() == pytest.approx(1)
    assert host.server.asked(m.Release) == host.server.asked(m.Goodbye) == 0


async def test_leaving_after_a_cut(host: TrioHost, autojump_clock: MockClock) -> None:
    """Leaving the blocks of a broken connection is quiet: the server frees everything after its grace."""
    async with connected(host) as client, await client.access(600010, 14):
        await cut(host, client)
    assert host.server.asked(m.Goodbye) == 0


async def test_a_release_across_a_cut(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """A release whose answer was lost is repeated; that the handle is gone by then is success (decision 14)."""
    access = await client.access(600010, 14)
    host.server.kept_back = {m.Release}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(access.release)
        await wait_all_tasks_blocked()
        await cut(host, client)
        host.server.drop_answers()
    assert access.released
    assert host.server.asked(m.Release) == 2
    assert access.ended is None


async def test_a_release_during_an_outage(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """It waits for the connection; whoever leaves a block does not wait, and the handle is given back all the same."""
    access = await client.access(600010, 14)
    async with await client.access(600010, 14):
        await cut(host, client)
    assert client.broken is not None
    assert len(host.server.session.handles) == 2
    await access.release()
    await wait_all_tasks_blocked()
    assert host.server.session.handles == {}


async def test_a_first_release_of_a_strange_handle(host: TrioHost, client: Client) -> None:
    """106 to a release that was not repeated is an error: the handle was gone, and nobody had said so."""
    access = await client.access(600010, 14)
    host.server.session.handles.clear()
    with pytest.raises(LicenseError, match=r"Error 106\.$"):
        await access.release()


async def test_what_ended_meanwhile(host: TrioHost, autojump_clock: MockClock) -> None:
    """After a cut what the server confirms stands; what it ended, and what it does not know, is ended and told."""
    events = []

    async def on_event(event: m.Event) -> None:
        events.append(event)

    async with connected(host, on_event) as client:
        kept, removed, forgotten = [await client.access(600010, 14) for _ in range(3)]
        await cut(host, client)
        host.server.end(removed.handle)
        del host.server.session.handles[forgotten.handle]
        await back(client)
        kept.check_nowait()
        assert removed.ended is not None
        assert removed.ended.cause == m.EndCause.ADMINISTRATOR
        assert forgotten.ended is not None
        assert "does not confirm it" in str(forgotten.ended)
        assert [(event.event, event.handle) for event in events] == [
            ("ended", removed.handle),
            ("ended", forgotten.handle),
        ]
    assert host.server.asked(m.Access) == 3


async def test_a_cut_in_the_middle_of_an_access(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """An access whose answer the cut swallowed is asked for with the same key, and gets the same handle."""
    accesses = []

    async def ask() -> None:
        accesses.append(await client.access(600010, 14, AccessMode.STATION_SHARE))

    host.server.kept_back = {m.Access}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await cut(host, client)
        host.server.drop_answers()
    assert list(host.server.session.handles) == [accesses[0].handle]
    first, second = (params for params in host.server.seen if isinstance(params, m.Access))
    assert first == second
    accesses[0].check_nowait()


async def test_strays_are_given_back(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """A grant that nobody waits for any more when its answer is lost is given back after the greeting."""
    host.server.kept_back = {m.Access}
    with pytest.raises(LicenseError, match="no answer"):
        await client.access(600010, 14)
    assert len(host.server.session.handles) == 1
    await cut(host, client)
    host.server.drop_answers()
    await back(client)
    assert host.server.session.handles == {}


async def test_what_call_was_granted_is_kept(host: TrioHost, client: Client, autojump_clock: MockClock) -> None:
    """A handle asked for by `call` is the caller's own."""
    granted = await client.call(m.Access(m.AccessKey(bytes(16)), 600010, 14))
    await cut(host, client)
    await back(client)
    assert list(host.server.session.handles) == [granted.handle]


async def test_a_socket_without_sessions(host: TrioHost, autojump_clock: MockClock) -> None:
    """On a server's own sockets there is no session, and so nothing to resume: calls fail at once."""
    async with connected(host) as client:
        client._session.greeting = structs.replace(client.greeting, token="")
        await cut(host, client)
        with pytest.raises(LicenseError, match=r"the server closed it, Error 100\.$"):
            await client.containers()
    assert len(host.dialled) == 1


async def test_the_first_server_that_answers(
    host: TrioHost, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Servers are tried in their order: one that refuses or is silent leads to the next."""
    _servers(monkeypatch, tmp_path, "dead", "silent", "good", "never")
    host.unreachable, host.absent = {Tcp("dead")}, {Tcp("silent")}
    async with open_client(station="desk-4", dial=host.dial) as client:
        assert client.address == Tcp("good")
    assert [str(address) for address in host.dialled] == ["dead:22350", "silent:22350", "good:22350"]
    assert autojump_clock.current_time() == pytest.approx(10)


async def test_no_server_answers(
    host: TrioHost, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, tmp_path: Path
) -> None:
    """If none answers, the one error names each and what was wrong."""
    _servers(monkeypatch, tmp_path, "dead", "silent")
    host.unreachable, host.absent = {Tcp("dead")}, {Tcp("silent")}
    with pytest.raises(LicenseError) as failure:
        async with open_client(station="desk-4", dial=host.dial):
            pytest.fail("there is no server")
    assert failure.value.number == ErrorNumber.SERVER_NOT_FOUND
    assert "dead:22350: Connection refused" in str(failure.value)
    assert "silent:22350: no connection within 10 seconds" in str(failure.value)


def _servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *names: str) -> None:
    monkeypatch.delenv("CMSERVERD_SERVER", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "cmserverd").mkdir()
    (tmp_path / "cmserverd" / "client.toml").write_text(f"servers = {list(names)!r}\n")


async def test_a_server_that_refuses_the_greeting(host: TrioHost) -> None:
    """Its own number is raised; the connection is closed."""
    host.server.refusals[m.Hello] = LicenseError.of(ErrorNumber.RUNTIME_TOO_OLD).body
    with pytest.raises(LicenseError, match=r"Error 129\.$"):
        async with connected(host):
            pytest.fail("it is not greeted")
    await wait_all_tasks_blocked()
    assert host.server.connections == []


async def test_a_server_that_never_greets(host: TrioHost, autojump_clock: MockClock) -> None:
    """The greeting has the timeout as any call, and nothing is left of the connection."""
    host.server.kept_back = {m.Hello}
    with pytest.raises(LicenseError, match="no answer within 10 seconds"):
        async with connected(host):
            pytest.fail("it is not greeted")
    await wait_all_tasks_blocked()
    assert host.server.connections == []


async def test_a_bad_setting() -> None:
    """A faulty address is said before anything is tried."""
    with pytest.raises(SettingError, match="names no host"):
        async with open_client("a b"):
            pytest.fail("there is no such server")


async def test_what_the_block_raises_comes_out_as_it_is(host: TrioHost) -> None:
    """The client's tasks are no business of the caller: no exception group is put around his error."""
    with pytest.raises(KeyError, match="mine"):
        async with connected(host):
            raise KeyError("mine")
    assert host.server.asked(m.Goodbye) == 1


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()], ids=["sys.exit", "Ctrl-C"])
async def test_the_end_of_the_program_comes_out_as_it_is(host: TrioHost, end: BaseException) -> None:
    """So a program that ends within the block ends with its own exit code, after a goodbye."""
    with pytest.raises(type(end)) as ended:
        async with connected(host):
            raise end
    assert ended.value is end
    assert host.server.asked(m.Goodbye) == 1


async def test_a_goodbye_of_ones_own(host: TrioHost) -> None:
    """Who has said goodbye himself leaves the block quietly: it is not said twice."""
    async with connected(host) as client:
        await client.call(m.Goodbye())
    assert host.server.asked(m.Goodbye) == 1


async def test_a_cancelled_block_says_goodbye(host: TrioHost, autojump_clock: MockClock) -> None:
    """Cancelling the block does not leave the server with a session to wait for, and takes no time."""
    with trio.CancelScope() as scope:
        async with connected(host) as client, await client.access(600010, 14):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert host.server.sessions == {}
    assert host.server.seen[-2:] == [m.Release(1), m.Goodbye()]
    assert autojump_clock.current_time() == 0


async def test_a_server_that_does_not_answer_goodbye(host: TrioHost, autojump_clock: MockClock) -> None:
    """Leaving takes the timeout at most."""
    async with connected(host):
        host.server.kept_back = {m.Goodbye}
    assert autojump_clock.current_time() == pytest.approx(10)


async def test_no_sign_of_life_behind_a_goodbye(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A keep-alive that falls due while the goodbye waits for its answer is not sent, and harms nobody."""
    host = TrioHost(FakeServer(keep_alive=4), nursery)
    async with connected(host):
        host.server.kept_back = {m.Goodbye}
    assert autojump_clock.current_time() == pytest.approx(10)
    assert [params.method for params in host.server.seen] == ["hello", "goodbye"]


async def test_real_sockets(tmp_path: Path) -> None:
    """Over TCP small messages leave at once (TCP_NODELAY); a Unix socket is reached by its path."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        port = listener.socket.getsockname()[1]
        stream = await dial(Tcp("127.0.0.1", port))
        async with stream:
            assert isinstance(stream, trio.SocketStream)
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    unix = trio.socket.socket(trio.socket.AF_UNIX)
    with unix:
        await unix.bind(str(tmp_path / "x.sock"))
        unix.listen()
        async with await dial(Unix(str(tmp_path / "x.sock"))):
            pass
    with pytest.raises(OSError, match="No such file"):
        await dial(Unix(str(tmp_path / "y.sock")))
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError, match="Connection refused"):
            await dial(Tcp("127.0.0.1", deaf.getsockname()[1]))


def test_notifications_are_of_the_table() -> None:
    """The fake tells what the table of cases has: the words `event` and `goodbye`."""
    assert [each.method for each, _ in NOTIFICATIONS] == ["event", "event", "goodbye"]
