"""The client for programs with or without threads, none of them trio's.

    with Client("licenses.example") as client, client.access(600010, 14, AccessMode.STATION_SHARE) as access:
        ...

Same surface as `protocol.client`, over the same `ClientSession`. Any thread may call at any time. Calls raise
LicenseError: what the server answered, or 100 if it does not answer within the timeout or the connection is broken;
`resume` takes the session up again. One daemon thread reads, writes and keeps alive; another runs `on_event`.
"""

from __future__ import annotations

import logging
import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeVar, cast

from msgspec import Struct

from protocol import messages
from protocol.address import Address, Unix, candidates
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError
from protocol.messages import (
    AccessInfo,
    AccessPage,
    ContainerContents,
    ContainerList,
    Event,
    Goodbye,
    Greeting,
    HandleInfo,
    KeepAlive,
    LicenseCount,
    LicensePage,
    Params,
    Release,
    ServerInfo,
)
from protocol.rpc import CHUNK
from protocol.session import (
    EVENTS,
    Call,
    ClientSession,
    Held,
    Outcome,
    introduction,
    new_key,
    next_cursor,
    no_answer,
    none_reached,
    not_reached,
)
from protocol.terms import AccessMode, HandleKind, Station

R = TypeVar("R", bound=Struct)

OnEvent = Callable[[Event], None]
Dial = Callable[[Address, float], socket.socket]

_log: Final = logging.getLogger(__name__)


def dial(address: Address, timeout: float) -> socket.socket:
    """Connect within `timeout` seconds (looking up a name may take longer: the system's resolver has its own limits).

    Raises OSError.
    """
    if isinstance(address, Unix):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(address.path)
        except BaseException:
            connection.close()
            raise
        return connection
    connection = socket.create_connection((address.host, address.port), timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # messages are small, and none may wait
    return connection


class Access(Held):
    """One access; as a context manager it is released at the end of the block. Any thread may use it."""

    def __init__(self, client: Client, session: ClientSession[Access], request: messages.Access) -> None:
        super().__init__(session, request)
        self._client = client

    def check(self) -> None:
        """Return only if the access stands, as far as the client knows; see `Held.check`."""
        self._client._check_process()  # noqa: SLF001
        super().check()

    def info(self) -> HandleInfo:
        """Ask what the handle refers to; the server counts this as a use. Raises LicenseError."""
        return self._client.call(messages.Info(self.handle))

    def release(self) -> None:
        """Give the access back. Doing so twice, or after the server ended it, is no error. Raises LicenseError."""
        self._client._release(self)  # noqa: SLF001

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.release()
        except LicenseError as refusal:
            if refusal.number != ErrorNumber.NETWORK_FAULT:  # then the server frees it after its grace
                raise


class Client:
    """A session with a license server.

    The arguments are those of `protocol.client.open_client`. Nothing happens before the block is entered, or `open` is
    called, which raises LicenseError (101 if no server can be reached) and SettingError. Leaving the block, or
    `close`, says goodbye: the server releases all handles at once.

    `on_event` is called for each event, one after the other, in a thread of its own, so it may use the client; what it
    raises is logged. A client cannot be used in a child after a fork: the session is the parent's.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        application: str | None = None,
        station: Station | str | None = None,
        timeout: float = 10.0,
        on_event: OnEvent | None = None,
        dial: Dial = dial,
    ) -> None:
        self._server = server
        self._application = application
        self._station = station
        self._timeout = timeout
        self._dial = dial
        self._on_event = on_event
        self._lock = threading.Lock()  # guards the session and what the link does with it
        self._resuming = threading.Lock()
        self._session: ClientSession[Access] = ClientSession()
        self._link: _Link | None = None
        self._dispatcher: _Dispatcher | None = None
        self._process = 0
        self.address: Address | None = None
        """The server in use, once the client is open."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect and introduce ourselves. Raises LicenseError, SettingError; LocalProtocolError if open already."""
        if self._process:
            msg = "a client is opened once; make another"
            raise LocalProtocolError(msg)
        servers = candidates(self._server)
        hello = introduction(self._application, self._station)
        self._process = os.getpid()
        if self._on_event is not None:
            self._dispatcher = _Dispatcher(self._on_event)
        failures = []
        try:
            for address in servers:
                try:
                    self._greet(address, hello)
                except LicenseError as error:
                    failures.append(error)
                else:
                    self.address = address
                    return
            raise none_reached(failures)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Say goodbye, for at most the timeout, and end the connection and the threads. May be called again.

        In the child of a fork only the child's copy of the connection is closed.
        """
        if os.getpid() != self._process:
            if self._link is not None:
                self._link.close_copies()
            return
        if not self._session.broken:
            with suppress(LicenseError, LocalProtocolError):
                self.call(Goodbye())
        self._lost("the client was closed")
        if self._link is not None:
            self._link.join()
        if self._dispatcher is not None:
            self._dispatcher.stop(self._timeout)

    @property
    def greeting(self) -> Greeting:
        """How the server introduced itself, its limits and intervals."""
        return self._session.greeted

    @property
    def broken(self) -> LicenseError | None:
        """The LicenseError 100 that calls raise since the connection broke, or None."""
        return LicenseError(self._session.broken) if self._session.broken else None

    def call(self, params: Params[R]) -> R:
        """Ask anything. The result is of the class that the request names. Raises LicenseError, LocalProtocolError."""
        return cast("R", self._ask(self._session.submit, Call(params)))

    def access(
        self,
        firm_code: int = 0,
        product_code: int = 0,
        mode: AccessMode = AccessMode.USER_LIMIT,
        *,
        kind: HandleKind = HandleKind.ENTRY,
        feature_code: int = 0,
        container: str | None = None,
        item: int | None = None,
    ) -> Access:
        """Ask for an access. Raises LicenseError with the reasons; after any error nothing is held.

        The one exception: if the connection broke before the answer came, `resume` asks again and returns what is held.
        """
        key = new_key()
        request = messages.Access(key, firm_code, product_code, mode, kind, feature_code, container, item)
        access = Access(self, self._session, request)
        self._ask(self._session.submit, Call(request, held=access))
        return access

    def containers(self) -> ContainerList:
        """List the containers, in the order in which the server draws on them."""
        return self.call(messages.Containers())

    def contents(self, container: str) -> ContainerContents:
        """Ask for one container's firm items and product items."""
        return self.call(messages.Contents(container))

    def server_info(self) -> ServerInfo:
        """Ask for the server's state."""
        return self.call(messages.ServerInfoRequest())

    def net_cluster_page(
        self,
        *,
        container: str | None = None,
        firm_code: int | None = None,
        product_code: int | None = None,
        cursor: int = 0,
        limit: int = 200,
    ) -> LicensePage:
        """Ask for one page of the licenses' counts; its `next` is the cursor of the following one."""
        return self.call(messages.NetCluster(container, firm_code, product_code, cursor, limit))

    def net_cluster(
        self, *, container: str | None = None, firm_code: int | None = None, product_code: int | None = None
    ) -> Iterator[LicenseCount]:
        """Give the counts of each license, page after page; the pages are not of one moment."""
        cursor: int | None = 0
        while cursor is not None:
            page = self.net_cluster_page(
                container=container, firm_code=firm_code, product_code=product_code, cursor=cursor
            )
            yield from page.licenses
            cursor = next_cursor(cursor, page.next)

    def net_users_page(
        self,
        *,
        container: str | None = None,
        firm_code: int | None = None,
        product_code: int | None = None,
        relevant: bool = False,
        cursor: int = 0,
        limit: int = 200,
    ) -> AccessPage:
        """Ask for one page of the accesses; its `next` is the cursor of the following one."""
        return self.call(messages.NetUsers(container, firm_code, product_code, relevant, cursor, limit))

    def net_users(
        self,
        *,
        container: str | None = None,
        firm_code: int | None = None,
        product_code: int | None = None,
        relevant: bool = False,
    ) -> Iterator[AccessInfo]:
        """Give each access, page after page; `relevant` leaves only those that allocate a license."""
        cursor: int | None = 0
        while cursor is not None:
            page = self.net_users_page(
                container=container,
                firm_code=firm_code,
                product_code=product_code,
                relevant=relevant,
                cursor=cursor,
            )
            yield from page.accesses
            cursor = next_cursor(cursor, page.next)

    def resume(self) -> tuple[Access, ...]:
        """Take the session up again on a new connection, and away from an old one that still stands.

        Accesses that the server confirms stand; the others are ended, and `on_event` is told. An access whose answer
        the cut swallowed is asked for again with its key; those granted are returned, and are the caller's to release.
        Raises LicenseError: 101 if the server cannot be reached (try again), 106 if it has forgotten the session (open
        another).
        """
        self._check_process()
        with self._resuming:
            request = self._session.resume()
            server = cast("Address", self.address)  # there is one: the session has been greeted
            if self._link is not None:
                self._lost("it is being resumed")
                self._link.join()
            self._greet(server, request)
            with self._lock:
                unanswered = tuple(self._session.unanswered)
            regained = []
            for access in unanswered:
                try:
                    self._ask(self._session.submit, Call(access.request, held=access))
                except LicenseError:
                    if self._session.broken:
                        raise  # nothing is settled: the next resume asks for all of them again
                else:
                    regained.append(access)
            with self._lock:
                if not self._session.broken:
                    self._session.unanswered.clear()
                    self._session.release_strays()
                    self._flush()
            return tuple(regained)

    def _greet(self, address: Address, params: messages.Hello | messages.Resume) -> None:
        try:
            connection = self._dial(address, self._timeout)
        except OSError as error:
            raise not_reached(address, error.strerror or error) from None
        link = _Link(connection, self._session, self._lock, self._dispatcher, self._timeout)
        self._link = link

        def begin(call: Call[Access]) -> None:
            self._session.begin(call)
            link.start()  # not before: the thread ends when it finds no connection

        try:
            self._ask(begin, Call(params))
        except BaseException:
            self._lost("the server did not greet")
            link.join()
            raise

    def _ask(self, start: Callable[[Call[Access]], None], call: Call[Access]) -> Struct:
        """Start a call and wait for its outcome. However this is left, by Ctrl-C too, the call is known by then."""
        self._check_process()
        answered: Future[Outcome] = Future()
        call.answer = answered.set_result
        try:
            with self._lock:
                start(call)
                self._flush()
            answered.result(self._timeout)
        except TimeoutError:
            with self._lock:
                if not answered.done():
                    self._abandon(call)
                    raise no_answer(self._timeout) from None
        except BaseException:
            with self._lock:
                self._abandon(call)
            raise
        outcome = answered.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _release(self, access: Access) -> None:
        self._check_process()
        with self._lock:
            if not self._session.begin_release(access):
                return
        failure = None
        try:
            self.call(Release(access.handle))
        except LicenseError as error:
            failure = error
        with self._lock:
            self._session.finish_release(access, failure)

    def _abandon(self, call: Call[Access]) -> None:
        self._session.abandon(call)
        self._flush()

    def _flush(self) -> None:
        if self._link is not None:
            self._link.flush()

    def _lost(self, reason: str) -> None:
        with self._lock:
            self._session.lost(reason)

    def _check_process(self) -> None:
        """Refuse before any lock is taken: in the child of a fork, it may be held for ever."""
        if not self._process:
            msg = "the client is not open"
            raise LocalProtocolError(msg)
        if os.getpid() != self._process:
            msg = f"this client belongs to process {self._process}; a process forked from it opens a client of its own"
            raise LocalProtocolError(msg)


class _Link:
    """One connection: its socket, and the thread that reads, writes and keeps it alive.

    Only the thread touches the socket. A caller could send his request himself and save the thread's waking up; but
    then a Ctrl-C between sending and noting what was sent would send it twice.
    """

    def __init__(
        self,
        connection: socket.socket,
        session: ClientSession[Access],
        lock: threading.Lock,
        dispatcher: _Dispatcher | None,
        timeout: float,
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._session = session
        self._lock = lock
        self._dispatcher = dispatcher
        self._timeout = timeout
        self._awaken, self._awakened = socket.socketpair()
        self._awaken.setblocking(False)
        self._awakened.setblocking(False)
        self._next: float | None = None  # when the next sign of life is due
        self._deadline: float | None = None  # when the last one must have been answered
        self._thread = threading.Thread(target=self._run, name="cmserverd-client", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        try:
            self._thread.start()
        except BaseException:
            self.close_copies()
            raise

    def join(self) -> None:
        """Wait for the thread, which ends when the session has lost its connection, and closes the socket."""
        with self._lock:
            self.flush()
        if self._thread.ident is not None:  # it could be started
            self._thread.join()

    def close_copies(self) -> None:
        """Close the file descriptors of this process, and nothing else."""
        for held in (self._connection, self._awaken, self._awakened):
            held.close()

    def flush(self) -> None:
        """Have the session's outbox sent. With the lock held, as the thread closes what this writes to."""
        with suppress(OSError):  # full: it will wake anyway; closed: it has ended
            self._awaken.send(b"\0")

    def _send(self) -> None:
        outbox = self._session.outbox
        if outbox:
            try:
                del outbox[: self._connection.send(outbox)]
            except BlockingIOError:
                pass
            except OSError:
                outbox.clear()  # the thread learns why: perhaps a farewell is still to be read

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                selector.register(self._awakened, selectors.EVENT_READ)
                while (patience := self._tend(selector)) is not None:
                    for key, _ in selector.select(patience):
                        if key.fileobj is self._awakened:
                            self._awakened.recv(CHUNK)
                    self._read()
        finally:
            with self._lock:
                self._session.lost("its thread has ended")
                self.close_copies()

    def _tend(self, selector: selectors.BaseSelector) -> float | None:
        """Send what is due; return for how many seconds to wait, or None if the connection has ended."""
        with self._lock:
            now = time.monotonic()
            if self._deadline is not None and now >= self._deadline:
                self._session.lost("the server gives no sign of life")
            if not self._session.connected:
                return None
            due = now + self._timeout  # not greeted yet: whoever waits for it has his own limit
            if not self._session.broken:
                if self._next is None:
                    self._next = now + self._session.keep_alive
                elif now >= self._next and self._deadline is None:
                    self._next = now + self._session.keep_alive
                    self._deadline = now + self._timeout
                    self._session.submit(Call(KeepAlive(), self._is_alive))
                due = self._next if self._deadline is None else self._deadline
            self._send()
            waits = selectors.EVENT_WRITE if self._session.outbox else 0
            selector.modify(self._connection, selectors.EVENT_READ | waits)
            return max(0.0, due - now)

    def _is_alive(self, _: Outcome) -> None:
        self._deadline = None

    def _read(self) -> None:
        with self._lock:
            events = []
            try:
                data = self._connection.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                self._session.lost(error.strerror or str(error))
                return
            if data:
                events = self._session.receive(data)
            else:
                self._session.lost("the server closed it")
        if self._dispatcher is not None and not self._dispatcher.take(events):
            with self._lock:
                self._session.lost("the program does not take its events")


class _Dispatcher:
    """The thread that calls `on_event`."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cmserverd-events", daemon=True)
        self._thread.start()

    def take(self, events: list[Event]) -> bool:
        """Queue events; return whether there was room."""
        for event in events:
            if self._queue.qsize() >= EVENTS:
                return False
            self._queue.put(event)
        return True

    def stop(self, timeout: float) -> None:
        """End the thread after the events that wait; a callback that never returns is waited for `timeout` seconds."""
        self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            try:
                self._on_event(event)
            except Exception:
                _log.exception("on_event failed; the client goes on")
