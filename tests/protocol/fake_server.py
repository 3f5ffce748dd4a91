"""An honest little server for the two clients: it keeps sessions and handles, grants everything, and answers in order.

It shares the message classes and the codec with the clients and nothing else; `TrioHost` and `ThreadHost` connect it
to a client without a network. A test scripts it: refuse a method, keep its answers back, end a handle, hang up.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import trio
import trio.testing
from msgspec import Struct

from protocol import messages as m
from protocol import rpc
from protocol.address import Address
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import Station
from tests.protocol.cases import CONTAINER, ENTRY, SERVER
from tests.protocol.lender import Lender

PATIENCE = float(os.environ.get("PATIENCE", "20"))
"""Seconds after which a test that waits for a condition fails."""

ADMINISTRATOR = m.ErrorBody(106, "INVALID_HANDLE", "It was removed, Error 106.", cause=m.EndCause.ADMINISTRATOR)


class FakeSession:
    """A session: its handles by key, and those that ended while it was cut off."""

    def __init__(self, number: int, station: Station) -> None:
        self.number = number
        self.station = station
        self.token = secrets.token_hex(32)
        self.handles: dict[int, m.AccessKey] = {}
        self.ended: dict[int, m.ErrorBody] = {}
        self.connection: FakeConnection | None = None


class FakeServer:
    """The server: what was asked lies in `seen`, in order. Everything under one lock, which threads need."""

    def __init__(self, *, keep_alive: float = 40.0, timeout: float = 120.0, requests: int = 64) -> None:
        self.keep_alive = keep_alive
        self.timeout = timeout
        self.requests = requests
        self.sessions: dict[str, FakeSession] = {}
        self.seen: list[m.Params] = []
        self.refusals: dict[type[m.Params], m.ErrorBody] = {}
        self.sold_out: set[int] = set()
        self.kept_back: set[type[m.Params]] = set()
        self.pages: list[m.LicensePage | m.AccessPage] = []
        self.connections: list[FakeConnection] = []
        self.changed = threading.Condition(threading.RLock())
        self.lender = Lender()
        self.lent: dict[m.LoanId, m.Borrow] = {}
        self._answers: list[tuple[FakeConnection, bytes]] = []
        self._handles = 0

    @property
    def session(self) -> FakeSession:
        """The only session."""
        (session,) = self.sessions.values()
        return session

    def asked(self, kind: type[m.Params]) -> int:
        """Return how many requests of a class came."""
        return sum(isinstance(params, kind) for params in self.seen)

    def has_seen(self, number: int) -> bool:
        """Return whether so many requests came."""
        return len(self.seen) >= number

    def restart(self) -> None:
        """Forget every session, begin to count from 1 again, and hang up: what a server does that is started anew."""
        with self.changed:
            self.sessions.clear()
            self._handles = 0
            self.drop_answers()
            for connection in tuple(self.connections):
                connection.session = None
                connection.hang_up()

    def let_go(self) -> None:
        """Send the answers that were kept back, and keep no more back."""
        with self.changed:
            self.kept_back.clear()
            answers, self._answers = self._answers, []
            for connection, data in answers:
                connection.send(data)

    def drop_answers(self) -> None:
        """Forget the answers that were kept back: the cut has swallowed them."""
        with self.changed:
            self.kept_back.clear()
            self._answers.clear()

    def end(self, handle: int, error: m.ErrorBody = ADMINISTRATOR) -> None:
        """End a handle: told at once if its session is connected, else at its resumption."""
        with self.changed:
            session = next(each for each in self.sessions.values() if handle in each.handles)
            del session.handles[handle]
            if session.connection is None:
                session.ended[handle] = error
            else:
                self.tell(m.Event("ended", 8, handle, error))

    def tell(self, notification: m.Event | m.Farewell) -> None:
        """Send a notification on the newest connection."""
        with self.changed:
            self.connections[-1].send(rpc.encode_notification(notification.method, notification))

    def answer(self, connection: FakeConnection, params: m.Params) -> Struct | m.ErrorBody:
        """Return the result of a request, or its refusal."""
        session = connection.session
        match params:
            case m.Hello(station=station):
                session = FakeSession(len(self.sessions) + 1, station)
                self.sessions[session.token] = session
                return self._greeting(connection, session)
            case m.Resume(token=token):
                if token not in self.sessions:
                    return LicenseError.of(ErrorNumber.INVALID_HANDLE, "the session has ended").body
                session = self.sessions[token]
                if session.connection is not None:
                    session.connection.hang_up()
                return self._greeting(connection, session)
        if session is None:
            return LicenseError.of(ErrorNumber.INVALID_PARAMETER, "the session begins with hello").body
        match params:
            case m.Access(product_code=product_code) if product_code in self.sold_out:
                return LicenseError.of(ErrorNumber.NO_MORE_LICENSES).body
            case m.Access(key=key):
                known = next((handle for handle, held in session.handles.items() if held == key), None)
                if known is None:
                    self._handles += 1
                    known = self._handles
                    session.handles[known] = key
                return m.Granted(known, "3-3448482", 2, 4)
            case m.Release(handle=handle) | m.Info(handle=handle):
                if handle not in session.handles:
                    return LicenseError.of(ErrorNumber.INVALID_HANDLE).body
                if isinstance(params, m.Info):
                    return m.HandleInfo(handle, "entry", 1, 2, "station_share", 4, 600010, CONTAINER, ENTRY)
                del session.handles[handle]
                return m.Done()
            case m.Borrow(id=loan, handle=handle):
                if loan not in self.lent and handle and session.handles.pop(handle, None) is None:
                    return LicenseError.of(ErrorNumber.INVALID_HANDLE).body
                self.lent[loan] = params
                return self.lender.lend(params, session.station, now=params.time)
            case m.GiveBack(id=loan):
                stands = self.lent.pop(loan, None)
                if stands and not self.lender.takes(params, stands.holder):
                    return LicenseError.of(ErrorNumber.VALIDATION_FAILED).body
                return m.GivenBack(stands is not None)
            case m.KeepAlive():
                return m.Time(1)
            case m.Goodbye():
                del self.sessions[session.token]
                return m.Done()
            case m.Events(wait=0):
                return m.EventList(())
            case m.Containers():
                return m.ContainerList(3, (CONTAINER,))
            case m.Contents():
                return m.ContainerContents(3, CONTAINER, (m.FirmItemInfo(600010, "Charts", 12, (ENTRY,)),))
            case m.ServerInfoRequest():
                return m.ServerInfo(
                    server=SERVER,
                    listening=(),
                    position=3,
                    time=4,
                    started=2,
                    starting=False,
                    containers=1,
                    sessions=1,
                    accesses=0,
                )
            case m.NetCluster() | m.NetUsers():
                return self.pages[params.cursor]
        return LicenseError.of(ErrorNumber.NOT_IMPLEMENTED, params.method).body

    def _greeting(self, connection: FakeConnection, session: FakeSession) -> m.Greeting:
        session.connection = connection
        connection.session = session
        ended, session.ended = session.ended, {}
        return m.Greeting(
            version=1,
            session=session.number,
            token=session.token,
            server=SERVER,
            keep_alive=self.keep_alive,
            timeout=self.timeout,
            time=1,
            limits=m.Limits(self.requests, 16_384, 1_024),
            handles=tuple(session.handles),
            ended=tuple(m.EndedHandle(handle, error) for handle, error in ended.items()),
        )

    def received(self, connection: FakeConnection, request: rpc.Request) -> None:
        """Take one request: answer it, refuse it or keep the answer back."""
        if connection.session is not None and connection.session.connection is not connection:
            return  # it was taken over
        kind = m.METHODS[request.method]
        params = rpc.parameters(request, kind)
        self.seen.append(params)
        answer = self.refusals[kind] if kind in self.refusals else self.answer(connection, params)
        encode = rpc.encode_error if isinstance(answer, m.ErrorBody) else rpc.encode_result
        data = encode(request.msgid, answer)  # type: ignore[arg-type]  # the line above chose the one that fits
        if kind in self.kept_back:
            self._answers.append((connection, data))
        else:
            connection.send(data)


class FakeConnection:
    """One connection to the server; whatever moves the bytes gives it `send` and `hang_up`."""

    def __init__(self, server: FakeServer, send: Callable[[bytes], None], hang_up: Callable[[], None]) -> None:
        self.server = server
        self.send = send
        self.hang_up = hang_up
        self.session: FakeSession | None = None
        self._reader = rpc.Reader(rpc.FROM_CLIENT)
        with server.changed:
            server.connections.append(self)

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        with self.server.changed:
            self._reader.feed(data)
            while (message := self._reader.next()) is not None:
                assert isinstance(message, rpc.Request)
                self.server.received(self, message)
            self.server.changed.notify_all()

    def ended(self) -> None:
        """The connection is no more; its session is cut off."""
        with self.server.changed:
            if self.session is not None and self.session.connection is self:
                self.session.connection = None
            self.server.connections.remove(self)
            self.server.changed.notify_all()


def refusal() -> OSError:
    """Return what the system says where nobody listens."""
    return ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


class TrioHost:
    """Connects trio clients to a fake server through memory streams."""

    def __init__(self, server: FakeServer, nursery: trio.Nursery) -> None:
        self.server = server
        self.dialled: list[Address] = []
        self.times: list[float] = []
        self.unreachable: set[Address] = set()
        self.absent: set[Address] = set()
        self._nursery = nursery

    async def dial(self, address: Address) -> trio.abc.Stream:
        """Connect, or fail as a system does that is not there (`absent`: it never answers)."""
        self.dialled.append(address)
        self.times.append(trio.current_time())
        if address in self.unreachable:
            raise refusal()
        if address in self.absent:
            await trio.sleep_forever()
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        sending, outgoing = trio.open_memory_channel[bytes](math.inf)
        with trio.CancelScope() as scope:
            connection = FakeConnection(self.server, sending.send_nowait, sending.close)
            async with stream, trio.open_nursery() as nursery:

                async def write() -> None:
                    async for data in outgoing:
                        await stream.send_all(data)
                    scope.cancel()  # hung up, after everything was sent

                nursery.start_soon(write)
                try:
                    while data := await stream.receive_some(rpc.CHUNK):
                        connection.receive(bytes(data))
                except trio.BrokenResourceError:
                    pass
                nursery.cancel_scope.cancel()
        connection.ended()


class ThreadHost:
    """Connects blocking clients to a fake server through socket pairs, with a thread for each.

    While `way` is not set, connecting takes its time.
    """

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.way = threading.Event()
        self.way.set()
        self.dialled: list[Address] = []
        self.unreachable: set[Address] = set()
        self.threads: list[threading.Thread] = []

    def dial(self, address: Address, _: float) -> socket.socket:
        """Connect, or fail as a system does that is not there."""
        with self.server.changed:
            self.dialled.append(address)
            self.server.changed.notify_all()
        assert self.way.wait(PATIENCE)
        if address in self.unreachable:
            raise refusal()
        ours, theirs = socket.socketpair()

        def send(data: bytes) -> None:
            with suppress(OSError):  # the client has left, or we have hung up: the cut swallows it
                theirs.sendall(data)

        connection = FakeConnection(self.server, send, lambda: theirs.shutdown(socket.SHUT_RDWR))
        thread = threading.Thread(target=self._serve, args=(theirs, connection), daemon=True)
        self.threads.append(thread)
        thread.start()
        return ours

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until a condition of the server holds."""
        with self.server.changed:
            assert self.server.changed.wait_for(condition, PATIENCE)

    def close(self) -> None:
        """Hang up on everybody and end the threads."""
        with self.server.changed:
            for connection in self.server.connections:
                connection.hang_up()
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _serve(self, connected: socket.socket, connection: FakeConnection) -> None:
        with connected:
            while data := _received(connected):
                connection.receive(data)
            connection.ended()


def _received(connected: socket.socket) -> bytes:
    try:
        return connected.recv(rpc.CHUNK)
    except ConnectionError:
        return b""
