"""Connections over a pair of sockets: deadlines, slow and dead peers, waits, bugs. Time is a mock: nothing sleeps."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd import views
from cmserverd.answers import Peer
from cmserverd.connection import Connection, Pace
from cmserverd.conversation import OUTBOX, Conversation
from cmserverd.core.terms import SessionState
from cmserverd.reaper import Patience, Reaper
from drivers.container import ContainerId
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import HandleKind
from tests.daemon.harness import (
    CONTROL,
    MONITOR,
    REMOTE,
    AsyncClient,
    Rig,
    access,
    charts,
    hello,
    make_service,
    number_of,
    rig,
)

PACE = Pace(hello=10, stalled=10)


def states(server: Rig) -> list[SessionState]:
    """Return the state of each session."""
    return [session.state for session in server.service.engine.table.sessions.values()]


async def passing(condition: Callable[[], bool]) -> None:
    """Let time pass until a condition holds."""
    for _ in range(10_000):
        if condition():
            return
        await trio.sleep(0.1)
    pytest.fail("what must happen did not happen")


# --- greeting in time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"\x94", rpc.encode_request(1, hello())[:-1]])
async def test_who_does_not_greet_in_time_is_sent_away(autojump_clock: MockClock, said: bytes) -> None:
    """Silence, or a hello that never gets complete: after the hello timeout comes a goodbye, not earlier."""
    async with rig(make_service(), PACE) as server:
        client = server.connect()
        await client.send(said)
        started = trio.current_time()
        farewell = await client.until_closed()
        assert trio.current_time() - started == pytest.approx(PACE.hello)
        assert farewell is not None
        assert "no greeting came within 10 s" in farewell.text
        await wait_all_tasks_blocked()
        assert not server.service.conversations


async def test_refused_greetings_do_not_gain_time(autojump_clock: MockClock) -> None:
    """A peer that greets wrongly again and again has the same ten seconds."""
    async with rig(make_service(), PACE) as server:
        client = server.connect()
        with trio.move_on_after(PACE.hello - 0.5):
            while True:
                with pytest.raises(LicenseError):
                    await client.ask(hello(versions=(9, 9)))
                await trio.sleep(1)
        started = trio.current_time()
        await client.until_closed()
        assert trio.current_time() - started <= 1


async def test_who_has_greeted_may_be_silent(autojump_clock: MockClock) -> None:
    """The hello timeout is no matter of a greeted client; its silence is the reaper's."""
    async with rig(make_service(), PACE) as server:
        client = await server.client()
        await trio.sleep(1000)
        await client.ask(m.KeepAlive())


@pytest.mark.parametrize("peer", [MONITOR, CONTROL])
async def test_who_is_silent_on_a_local_socket_gives_up_its_place(peer: Peer, autojump_clock: MockClock) -> None:
    """It has no session, so the connection itself counts the time; any word begins it anew."""
    async with rig(make_service(timeout=120), PACE) as server:
        client = await server.client(peer=peer)
        for _ in range(3):
            await trio.sleep(100)
            await client.ask(m.KeepAlive())
        heard = trio.current_time()
        farewell = await client.until_closed()
        assert trio.current_time() - heard == pytest.approx(120, abs=1.5)
        assert farewell is not None
        assert farewell.number == ErrorNumber.NETWORK_FAULT


async def test_who_has_greeted_may_read_slowly(autojump_clock: MockClock) -> None:
    """Nor is it one of a client whose hello came with so many requests that their answers have to wait."""
    async with rig(make_service(charts()), Pace(hello=10, stalled=100)) as server:
        client = server.connect()
        asked = [rpc.encode_request(1, hello()), rpc.encode_request(2, access())]
        asked += [rpc.encode_request(number, m.Info(1)) for number in range(3, 2000)]
        await client.send(b"".join(asked))
        await trio.sleep(50)
        await client.until(lambda: len(client.inbox.replies) == len(asked))
        assert client.inbox.farewell is None


def small_socket(server: Rig) -> AsyncClient:
    """Return a client that has connected by a socket with a tiny buffer."""
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server.adopt(theirs)
    server.clients.append(AsyncClient(ours))
    return server.clients[-1]


# --- peers that do not read ---------------------------------------------------------------------------------------


async def flood(client: AsyncClient, params: m.Params) -> None:
    """Ask without end and read nothing."""
    data = b"".join(rpc.encode_request(number, params) for number in range(1000))
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await client.send(data)


async def test_a_client_that_never_reads_is_cut_off_and_its_seats_are_freed_in_time(autojump_clock: MockClock) -> None:
    """Ten seconds without progress make it silent; after that the usual time runs. Others are served all the while."""
    service = make_service(charts(quantity=1))
    async with rig(service, PACE) as server:
        server.nursery.start_soon(Reaper(service, Patience(grace=5, timeout=120)).run)
        deaf, other = await server.client(1), await server.client(2)
        handle = (await deaf.ask(access())).handle
        conversation = service.attached[1]
        assert isinstance(conversation, Conversation)
        with capture_logs() as said:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood, deaf, m.Info(handle))
                await wait_all_tasks_blocked()
                assert conversation.pending <= OUTBOX + 1000
                with pytest.raises(LicenseError) as refusal:
                    await other.ask(access())
                assert number_of(refusal.value) == ErrorNumber.NO_MORE_LICENSES
                await passing(lambda: states(server)[0] is not SessionState.ATTACHED)
                nursery.cancel_scope.cancel()
        assert trio.current_time() == pytest.approx(PACE.stalled, abs=2)
        assert states(server)[0] is SessionState.SILENT
        assert "does not read its replies" in said[0]["event"]
        cut_off = trio.current_time()
        while 1 in service.engine.table.sessions:
            await trio.sleep(1)
            await other.ask(m.KeepAlive())
        assert trio.current_time() - cut_off == pytest.approx(120, abs=2)
        await other.ask(access())


async def test_a_slow_client_is_not_a_dead_one(autojump_clock: MockClock) -> None:
    """Who takes something every nine seconds is served for as long as that takes, and loses no byte."""
    async with rig(make_service(charts()), PACE) as server:
        client = await server.client()
        await client.ask(access())
        await client.send(b"".join(rpc.encode_request(number, m.Info(1)) for number in range(1000, 5000)))
        received = 0
        while len(client.inbox.replies) < 4000:
            data = await client.sock.recv(65_536)
            assert data, "cut off"
            received += len(data)
            client.inbox.feed(data)
            await trio.sleep(9)
        assert received > OUTBOX
        assert states(server) == [SessionState.ATTACHED]


async def test_a_client_that_reads_a_little_now_and_then_is_cut_off_too(autojump_clock: MockClock) -> None:
    """It makes progress every nine seconds; what waits for it must be read within six times ten all the same."""
    async with rig(make_service(charts()), PACE) as server:
        client = small_socket(server)
        await client.ask(hello())
        await client.ask(access())
        await client.send(b"".join(rpc.encode_request(number, m.Info(1)) for number in range(1000, 5000)))
        started = trio.current_time()
        reads = 0
        with capture_logs() as said:
            while server.service.conversations:
                assert await client.sock.recv(4096)
                reads += 1
                assert reads < 100, "it is never cut off"
                with trio.move_on_after(9):
                    await passing(lambda: not server.service.conversations)
        assert trio.current_time() - started == pytest.approx(6 * PACE.stalled, abs=1)
        assert reads == 7
        assert states(server) == [SessionState.SILENT]
        assert ["does not read its replies" in line["event"] for line in said] == [True]


async def test_a_slow_client_that_never_catches_up_with_its_events_is_not_a_dead_one(autojump_clock: MockClock) -> None:
    """Something always waits for it, but nothing for long: each outbox has its own time."""
    async with rig(make_service(), PACE) as server:
        client = small_socket(server)
        await client.ask(hello(events="push"))
        conversation = server.service.attached[1]
        assert isinstance(conversation, Conversation)
        event = m.Event("rebooked", 1, 1)
        told = 0
        while trio.current_time() < 20 * PACE.stalled:
            while told < len(client.inbox.events) + 900:  # more than the socket takes, and as many more as it has read
                conversation.tell(event)
                told += 1
            client.inbox.feed(await client.sock.recv(65_536))
            await trio.sleep(5)
            assert states(server) == [SessionState.ATTACHED]


async def test_replies_that_the_socket_does_not_take_at_once_leave_in_order(autojump_clock: MockClock) -> None:
    """With tiny buffers, pages and short answers come whole and in the order of the requests."""
    async with rig(make_service(charts()), PACE) as server:
        client = small_socket(server)
        await client.ask(hello())
        for _ in range(100):
            await client.ask(access(kind=HandleKind.SUBSYSTEM))
        client.inbox.order.clear()
        asked = [await client.begin(m.NetUsers() if number % 2 else m.KeepAlive()) for number in range(20)]
        await client.until(lambda: len(client.inbox.replies) == len(asked))
        assert [message.msgid for message in client.inbox.order if isinstance(message, rpc.Response)] == asked


# --- ends ---------------------------------------------------------------------------------------------------------


async def test_a_closed_connection_detaches_its_session(autojump_clock: MockClock) -> None:
    """As closed: the client, or its operating system, let go."""
    async with rig(make_service(charts())) as server:
        client = await server.client()
        await client.ask(access())
        client.close()
        await wait_all_tasks_blocked()
        assert states(server) == [SessionState.CLOSED]
        assert not server.service.conversations


async def test_a_connection_that_is_reset_is_a_closed_one(autojump_clock: MockClock) -> None:
    """A process that died with bytes unread sends no end, but a reset."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with rig(make_service()) as server:
        client = socket.create_connection(listener.getsockname())
        server.adopt(listener.accept()[0])
        listener.close()
        client.sendall(rpc.encode_request(1, hello()))
        await wait_all_tasks_blocked()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await wait_all_tasks_blocked()
        assert states(server) == [SessionState.CLOSED]


class Unreachable(socket.socket):
    """A socket of which the system says, once it has something to say, that the other end cannot be reached."""

    number = errno.ETIMEDOUT
    broken = False

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if self.broken:
            raise OSError(self.number, "unreachable")
        return data


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN])
async def test_a_peer_that_cannot_be_reached_is_a_silent_one(autojump_clock: MockClock, number: int) -> None:
    """A pulled cable is no closed connection: the long time runs, not the short one."""
    async with rig(make_service()) as server:
        ours, theirs = socket.socketpair()
        sock = Unreachable(fileno=theirs.detach())
        sock.number = number
        server.adopt(sock)
        ours.sendall(rpc.encode_request(1, hello(events="push")))
        await wait_all_tasks_blocked()
        assert states(server) == [SessionState.ATTACHED]
        sock.broken = True
        ours.sendall(b"x")
        await wait_all_tasks_blocked()
        assert states(server) == [SessionState.SILENT]
        ours.close()


async def test_a_client_that_is_gone_before_its_greeting_leaves_no_session_for_ever(autojump_clock: MockClock) -> None:
    """The hello arrives, its answer cannot: the session is detached at once, and so it ends."""
    async with rig(make_service()) as server:
        ours, theirs = socket.socketpair()
        ours.sendall(rpc.encode_request(1, hello(events="push")))
        ours.close()
        server.adopt(theirs)
        await wait_all_tasks_blocked()
        assert states(server) == [SessionState.CLOSED]
        assert not server.service.attached


@pytest.mark.parametrize("unread", [1, 1_000_000])
async def test_the_goodbye_arrives_though_there_is_input_unread(autojump_clock: MockClock, unread: int) -> None:
    """Closing with unread bytes would reset a TCP connection and throw the goodbye away."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with rig(make_service()) as server:
        client = await trio.open_tcp_stream(*listener.getsockname())
        server.adopt(listener.accept()[0])
        listener.close()
        await client.send_all(b"\xc1" * unread)
        received = b""
        while data := await client.receive_some():
            received += data
        assert b"goodbye" in received
        await client.aclose()


async def test_a_goodbye_waits_for_replies_before_it(autojump_clock: MockClock) -> None:
    """A client that is slow when the server stops still gets what was decided, and then the goodbye."""
    async with rig(make_service(charts()), Pace(stalled=1000)) as server:
        client = await server.client()
        await client.ask(access())
        client.inbox.order.clear()
        asked = range(1000, 3000)
        await client.send(b"".join(rpc.encode_request(number, m.Info(1)) for number in asked))
        await wait_all_tasks_blocked()
        server.service.stop()
        await trio.sleep(500)
        farewell = await client.until_closed()
        assert farewell is not None
        *replies, last = client.inbox.order
        answered = [reply.msgid for reply in replies if isinstance(reply, rpc.Response)]
        assert answered == list(asked)[: len(replies)]
        assert len(answered) > 100
        assert last == rpc.Notification("goodbye", [{"error": _body(farewell)}])


def _body(error: m.ErrorBody) -> dict[str, Any]:
    return {"number": error.number, "name": error.name, "text": error.text}


async def test_a_goodbye_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    """A client that reads just enough not to count as dead has as long for its last replies as one that reads none."""
    async with rig(make_service(charts()), PACE) as server:
        client = await server.client()
        await client.ask(access())
        await client.send(b"".join(rpc.encode_request(number, m.Info(1)) for number in range(1000, 5000)))
        await wait_all_tasks_blocked()
        server.service.stop()
        started = trio.current_time()
        while server.service.conversations:
            assert await client.sock.recv(4096)
            await trio.sleep(1)
        assert trio.current_time() - started == pytest.approx(PACE.stalled, abs=1.5)


async def test_who_goes_instead_of_reading_the_last_words_is_not_waited_for(autojump_clock: MockClock) -> None:
    """The socket is full, the goodbye waits behind the replies, and the connection breaks: it is over at once."""
    async with rig(make_service(charts()), PACE) as server:
        client = small_socket(server)
        await client.ask(hello())
        await client.send(b"".join(rpc.encode_request(number, m.ServerInfoRequest()) for number in range(100, 200)))
        await wait_all_tasks_blocked()
        server.service.stop()
        await wait_all_tasks_blocked()
        assert server.service.conversations, "it waits for the peer to read"
        started = trio.current_time()
        client.close()
        await wait_all_tasks_blocked()
        assert not server.service.conversations
        assert trio.current_time() == started


async def test_a_stop_is_told_to_everybody(autojump_clock: MockClock) -> None:
    """Greeted or not, each gets a goodbye and the end; with peers that close too it takes no time."""
    async with rig(make_service()) as server:
        clients = [await server.client(1), server.connect(), await server.client(2)]
        await wait_all_tasks_blocked()
        started = trio.current_time()
        server.service.stop()
        for client in clients:
            farewell = await client.until_closed()
            assert farewell is not None
            assert "the server stops" in farewell.text
        await wait_all_tasks_blocked()
        assert not server.service.conversations
        assert trio.current_time() == started


async def test_a_peer_that_does_not_close_after_its_goodbye_is_left_behind(autojump_clock: MockClock) -> None:
    """The server waits a second for it, no longer."""
    async with rig(make_service()) as server:
        client = await server.client()
        server.service.stop()
        started = trio.current_time()
        await passing(lambda: not server.service.conversations)
        assert trio.current_time() - started == pytest.approx(1, abs=0.2)
        client.close()


async def test_a_session_that_is_taken_over_closes_its_old_connection(autojump_clock: MockClock) -> None:
    """The old socket gets a goodbye and its end; the new one has the handles."""
    async with rig(make_service(charts())) as server:
        old, new = server.connect(), server.connect()
        token = (await old.ask(hello())).token
        handle = (await old.ask(access())).handle
        assert (await new.ask(m.Resume((1, 1), token))).handles == (handle,)
        farewell = await old.until_closed()
        assert farewell is not None
        assert farewell.number == ErrorNumber.INVALID_HANDLE
        await wait_all_tasks_blocked()
        assert states(server) == [SessionState.ATTACHED]
        await new.ask(m.Info(handle))


# --- waiting for events -------------------------------------------------------------------------------------------


async def test_a_wait_for_events_ends_in_time(autojump_clock: MockClock) -> None:
    """With an empty list, after as many seconds as were asked for."""
    async with rig(make_service(charts())) as server:
        client = await server.client()
        started = trio.current_time()
        assert (await client.ask(m.Events(wait=30))).events == ()
        assert trio.current_time() - started == pytest.approx(30)


async def test_a_wait_for_events_ends_with_one(autojump_clock: MockClock) -> None:
    """At once: whatever happens is sent without being asked for again."""
    service = make_service(charts())
    async with rig(service) as server:
        client = await server.client()
        await client.ask(access())
        waiting = await client.begin(m.Events(wait=60))
        await wait_all_tasks_blocked()
        started = trio.current_time()
        service.engine.remove(ContainerId("3-1"))
        await client.until(lambda: waiting in client.inbox.replies)
        assert trio.current_time() == started
        # The wait is answered; its time running out is nothing any more, and does not end the next one early.
        await trio.sleep(59)
        assert (await client.ask(m.Events(wait=50))).events == ()
        assert trio.current_time() - started == pytest.approx(109)


async def test_waiting_again_and_again_costs_one_timer(autojump_clock: MockClock) -> None:
    """A client that asks for events in a hurry does not pile up tasks, each for a minute."""
    async with rig(make_service()) as server:
        client = await server.client()
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(200):
            await client.begin(m.Events(wait=60))
            await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living <= before + 2


# --- others -------------------------------------------------------------------------------------------------------


async def test_pipelined_listings_do_not_hold_the_loop(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one client has a hundred pages made, another is answered after a few of them."""
    pages = []
    make_page = views.license_page

    def counted(*given: Any, **options: Any) -> m.LicensePage:
        pages.append(1)
        return make_page(*given, **options)

    monkeypatch.setattr(views, "license_page", counted)
    async with rig(make_service(charts())) as server:
        greedy, modest = await server.client(1), await server.client(2)
        await greedy.send(b"".join(rpc.encode_request(number, m.NetCluster()) for number in range(10, 110)))
        await modest.ask(m.KeepAlive())
        assert len(pages) < 10
        await greedy.until(lambda: len(greedy.inbox.replies) == 100)


def meets_a_bug(*_: object) -> NoReturn:
    """Be a function with a bug."""
    msg = "planted"
    raise RuntimeError(msg)


async def test_a_bug_in_telling_a_client_closes_its_connection(autojump_clock: MockClock) -> None:
    """Its session is detached, as if the client had let go, and it can come back."""
    service = make_service(charts())
    async with rig(service) as server:
        unlucky = server.connect()
        token = (await unlucky.ask(hello(events="push"))).token
        await unlucky.ask(access())
        conversation = service.attached[1]
        assert isinstance(conversation, Conversation)
        conversation.flush = meets_a_bug
        with capture_logs():
            service.engine.remove(ContainerId("3-1"))
        assert states(server) == [SessionState.ATTACHED]
        await passing(lambda: not service.conversations)
        assert states(server) == [SessionState.CLOSED]
        again = server.connect()
        assert [gone.handle for gone in (await again.ask(m.Resume((1, 1), token))).ended] == [1]


async def test_a_bug_in_one_session_does_not_hurt_the_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged with its context, its client hears 104, its license is free, and the server goes on."""
    monkeypatch.setattr(views, "handle_info", meets_a_bug)
    service = make_service(charts(quantity=1))
    async with rig(service) as server:
        unlucky, other = server.connect(), await server.client(2)
        await unlucky.ask(hello(1))
        await unlucky.ask(access())
        with capture_logs() as said:
            await unlucky.begin(m.Info(1))
            farewell = await unlucky.until_closed()
        assert farewell is not None
        assert farewell.number == ErrorNumber.INTERNAL
        assert [line["session"] for line in said if line["log_level"] == "error"] == [2]
        await other.ask(access())
        assert [session.id for session in service.engine.table.sessions.values()] == [1]


async def test_the_last_words_arrive_though_the_socket_is_full_and_they_are_not_kept_yet(
    autojump_clock: MockClock,
) -> None:
    """First what waits for the peer leaves, then what waits for the journal, and only then is the socket closed."""
    service = make_service(charts())
    async with rig(service, PACE) as server:
        client = small_socket(server)
        await client.ask(hello())
        conversation = service.attached[1]
        assert isinstance(conversation, Conversation)
        service.reached = service.engine.position
        for number in range(100, 200):
            await client.send(rpc.encode_request(number, m.ServerInfoRequest()))
            await wait_all_tasks_blocked()
        assert conversation.pending, "the socket is full"
        last = rpc.encode_request(300, access()) + rpc.encode_request(301, m.Goodbye())
        await client.send(last)
        await wait_all_tasks_blocked()
        await client.until(lambda: 199 in client.inbox.replies)
        await wait_all_tasks_blocked()
        assert not client.inbox.replies.keys() & {300, 301}
        service.release(service.engine.position)
        await client.until_closed()
        assert client.inbox.replies.keys() >= {300, 301}


async def test_a_connection_may_break_in_the_turn_in_which_its_socket_is_full(autojump_clock: MockClock) -> None:
    """The task that would have sent the rest, and has not begun yet, finds nothing to do."""
    service = make_service(charts())
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2_048)
    theirs.setblocking(False)
    conversation = Conversation(service, REMOTE)
    connection = Connection(theirs, conversation, PACE)
    with ours:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            ours.sendall(rpc.encode_request(1, hello(events="push")))
            await wait_all_tasks_blocked()
            while connection._drained is None:
                conversation.tell(m.Event("ended", 1, 1))
            connection._break(ConnectionResetError(errno.ECONNRESET, "reset"))
    assert not service.conversations
