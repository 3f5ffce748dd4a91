"""The client for programs with or without threads, none of them trio's.

    with Client("licenses.example") as client, client.access(600010, 14, AccessMode.STATION_SHARE) as access:
        ...

Same surface as `protocol.client`, over the same `ClientSession`. Any thread may call at any time. Calls raise
LicenseError: what the server answered, or 100 if it does not answer within the timeout or the connection is broken;
`resume` takes the session up again. One daemon thread reads, writes and keeps alive; another runs `on_event`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar, cast

from msgspec import Struct

from protocol import messages
from protocol.address import Address, candidates
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError
from protocol.link import Dial, Dispatcher, Link, OnEvent, dial
from protocol.messages import (
    AccessInfo,
    AccessPage,
    ContainerContents,
    ContainerList,
    Goodbye,
    Greeting,
    HandleInfo,
    LicenseCount,
    LicensePage,
    Params,
    Release,
    ServerInfo,
)
from protocol.session import (
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
        self._link: Link | None = None
        self._dispatcher: Dispatcher | None = None
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
            self._dispatcher = Dispatcher(self._on_event)
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
            link = Link(connection, self._session, self._lock, self._dispatcher, self._timeout)
        except OSError as error:
            raise not_reached(address, error.strerror or error) from None
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
