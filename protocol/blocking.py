"""The client for programs with or without threads, none of them trio's.

    with Client("licenses.example") as client, client.access(600010, 14, AccessMode.STATION_SHARE) as access:
        ...

Same surface as `protocol.client`, over the same `ClientSession`. Any thread may call at any time. Calls raise
LicenseError: what the server answered, or 100 if there is no answer within the timeout. A broken connection is made
again in the background, and calls wait for it as long as their time lasts; nothing is to be done about it. One daemon
thread reads, writes, keeps alive and dials again; another runs `on_event`.
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

from protocol import messages, proof
from protocol.address import Address, candidates
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError
from protocol.held import Call, Held, Outcome, new_key
from protocol.link import Dial, Dispatcher, Link, OnEvent, dial
from protocol.loans import Loan, Loans
from protocol.messages import (
    AccessInfo,
    AccessKey,
    AccessPage,
    Borrowed,
    ContainerContents,
    ContainerList,
    Crypt,
    CryptAnswer,
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
from protocol.opening import introduction, none_reached, not_reached
from protocol.paging import next_cursor
from protocol.proof import Proof, Wanted
from protocol.session import ClientSession
from protocol.terms import AccessMode, HandleKind, Station

R = TypeVar("R", bound=Struct)


class Access(Held):
    """One access; as a context manager it is released at the end of the block. Any thread may use it."""

    def __init__(self, client: Client, session: ClientSession[Access], request: messages.Access) -> None:
        super().__init__(session, request)
        self._client = client

    def check(self) -> None:
        """Return only if the access stands; while nobody can say, wait for it as long as a call may take.

        So a server may be started again meanwhile. As long as there is a connection nothing is asked, and this takes
        no time. Raises LicenseError: the one that ended it; 106 once its release is asked for; 100 if the server has
        not confirmed it after that time.
        """
        self._client._check(self)  # noqa: SLF001

    def check_nowait(self) -> None:
        """Return only if the access stands, as far as the client knows; see `Held.check_nowait`."""
        self._client._check_process()  # noqa: SLF001
        super().check_nowait()

    def info(self) -> HandleInfo:
        """Ask what the handle refers to; the server counts this as a use. Raises LicenseError."""
        return cast("HandleInfo", self._client._ask(Call(messages.Info(self.handle), held=self)))  # noqa: SLF001

    def crypt(
        self, licensor: bytes, *, units: int = 0, key: AccessKey | None = None, mode: AccessMode | None = None
    ) -> Proof:
        """Have the container prove that it holds the license, and return what is proven.

        `licensor` is the licensor's public key. `units` are counted as used; with the `key` of an earlier try for as
        many that was not answered they are counted once. `mode` is what the access mode has to be, for which the
        server's word must do. The first one begins the usage period. Raises LicenseError: 308 if the answer does not
        prove what was asked for, 32, 33, 35, 69, 71 and others if it is refused.
        """
        call = Call(proof.challenge(self.handle, units, key, mode), held=self)
        answer = cast("CryptAnswer", self._client._ask(call))  # noqa: SLF001
        return proof.check(answer, cast("Crypt", call.params), self.request, licensor)

    def borrow(self, seconds: int, *, licensor: bytes, loans: Loans | None = None) -> Loan:
        """Take the license along for so many seconds from now on: the access becomes a loan, and is over.

        Otherwise as `Client.borrow`; the loan has the terms that the access was asked for.
        """
        asked = self.request
        wanted = Wanted(
            asked.firm_code, asked.product_code, asked.feature_code, asked.container, asked.item, asked.release_date
        )
        return self._client._borrow(wanted, seconds, licensor, loans, self)  # noqa: SLF001

    def release(self) -> None:
        """Give the access back. Doing so twice, or after the server ended it, is no error. Raises LicenseError.

        After 100, no answer in time, the client goes on trying; nothing is to be repeated.
        """
        self._client._release(self, patient=True)  # noqa: SLF001

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._client._release(self, patient=False)  # noqa: SLF001
        except LicenseError as refusal:
            if refusal.number != ErrorNumber.NETWORK_FAULT:  # the client, or the server's grace, sees to it
                raise


class Client:
    """A session with a license server.

    The arguments are those of `protocol.client.open_client`. Nothing happens before the block is entered, or `open` is
    called, which raises LicenseError (101 if no server can be reached) and SettingError. Leaving the block, or
    `close`, says goodbye: the server releases all handles at once.

    `on_event` is called for each event, one after the other, in a thread of its own, so it may use the client; what it
    raises is logged. After a restart of the server it is told of each access what became of it: `reacquired` or `lost`.
    A client cannot be used in a child after a fork: the session is the parent's.
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
        self._station = hello.station
        self._process = os.getpid()
        if self._on_event is not None:
            self._dispatcher = Dispatcher(self._on_event)
        failures = []
        try:
            for address in servers:
                try:
                    self._greet(address, Call(hello))
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

        While there is no connection this takes no time: the server frees everything after its grace.
        In the child of a fork only the child's copy of the connection is closed.
        """
        if os.getpid() != self._process:
            if self._link is not None:
                self._link.close_copies()
            return
        try:
            with suppress(LicenseError, LocalProtocolError):  # without a connection, or after a goodbye of one's own
                self.call(Goodbye())
        finally:
            self._end("the client was closed")
            if self._dispatcher is not None:
                self._dispatcher.stop(self._timeout)

    @property
    def greeting(self) -> Greeting:
        """How the server introduced itself, its limits and intervals."""
        return self._session.greeted

    @property
    def broken(self) -> LicenseError | None:
        """The LicenseError 100 that says why there is no connection at the moment, or None."""
        return self._session.broken

    def call(self, params: Params[R]) -> R:
        """Ask anything. The result is of the class that the request names. Raises LicenseError, LocalProtocolError."""
        return cast("R", self._ask(Call(params)))

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
        release_date: int | None = None,
        force: bool = False,
        ignore_linger: bool = False,
        maximum_life: int = 0,
        cleanup_time: int = 0,
    ) -> Access:
        """Ask for an access. Raises LicenseError with the reasons; after any error nothing is held.

        `feature_code`, `container` and `item` narrow it down. `release_date` (Unix seconds) is that of the software,
        which the maintenance period must cover. `force` takes an entry that is not valid too; with `ignore_linger`
        the license is free at once after the release. The server ends it after `maximum_life` seconds, if not 0, and
        if it hears nothing of this process for `cleanup_time` seconds (at most a day) instead of its own timeout.
        """
        key = new_key()
        request = messages.Access(
            key,
            firm_code,
            product_code,
            mode,
            kind,
            feature_code,
            container,
            item,
            release_date,
            force,
            ignore_linger,
            maximum_life,
            cleanup_time,
        )
        access = Access(self, self._session, request)
        self._ask(Call(request, held=access))
        return access

    def borrow(
        self,
        firm_code: int,
        product_code: int,
        seconds: int,
        *,
        licensor: bytes,
        feature_code: int = 0,
        container: str | None = None,
        item: int | None = None,
        release_date: int | None = None,
        loans: Loans | None = None,
    ) -> Loan:
        """Take a license along for so many seconds from now on; `Loans.find` finds it, without a connection.

        It is honoured until a minute before its end, on this machine and seat. `licensor` is the licensor's public
        key, `loans` where it is kept, the user's own place if not given; the others are as for `access`. After 100, no
        answer, asking for the same again gives the same loan. Raises LicenseError: 212, 226 if it cannot be lent, 232
        if the clocks differ too much, 308 if what was lent proves nothing, and others; and SettingError.
        """
        wanted = Wanted(firm_code, product_code, feature_code, container, item, release_date)
        return self._borrow(wanted, seconds, licensor, loans, None)

    def extend(self, loan: Loan, seconds: int) -> None:
        """Have a loan end so many seconds from now, if that is later. Raises as `borrow` does; then it is as it was."""
        answer = self.call(loan.loans.extension(loan.id, seconds))
        loan.keep(answer)

    def give_back(self, loan: Loan) -> bool:
        """Give a loan back; return whether the server still counted it.

        It cannot be used any more from now on, whatever happens: if this raises LicenseError, as 100 where no server
        answers, its receipt is kept, and giving it back again sends it. Raises SettingError if that cannot be kept.
        """
        with loan.loans.returning(loan.id) as receipt:
            return (self.call(receipt)).stood

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

    def _borrow(
        self, wanted: Wanted, seconds: int, licensor: bytes, loans: Loans | None, access: Access | None
    ) -> Loan:
        self._check_process()
        store = loans or Loans(station=self._station)
        with store.asking(wanted, seconds, str(self.address)) as asked:
            answer = cast("Borrowed", self._ask(Call(asked, held=access)))
            store.keep(asked.id, answer, licensor)
        return Loan(store, asked.id, licensor)

    def _greet(self, address: Address, hello: Call[Access]) -> None:
        try:
            connection = self._dial(address, self._timeout)
            link = Link(connection, address, self._dial, self._session, self._lock, self._dispatcher, self._timeout)
        except OSError as error:
            raise not_reached(address, error.strerror or error) from None
        self._link = link

        def open_session(call: Call[Access]) -> None:
            self._session.open(call)
            link.start()  # not before: the thread ends when it finds no connection

        try:
            self._ask(hello, open_session)
        except BaseException:
            self._end("the server did not greet")
            raise

    def _ask(self, call: Call[Access], start: Callable[[Call[Access]], None] | None = None) -> Struct:
        """Start a call and wait for its outcome. However this is left, by Ctrl-C too, the call is known by then."""
        self._check_process()
        answered: Future[Outcome] = Future()
        call.answer = answered.set_result
        try:
            with self._lock:
                (start or self._session.submit)(call)
                self._flush()
            answered.result(self._timeout)
        except TimeoutError:
            with self._lock:
                if not answered.done():
                    self._abandon(call)
                    raise self._session.no_answer(self._timeout) from None
        except BaseException:
            with self._lock:
                self._abandon(call)
            raise
        outcome = answered.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _check(self, access: Access) -> None:
        self._ask(Call(KeepAlive(), held=access), self._session.check)

    def _release(self, access: Access, *, patient: bool) -> None:
        call = Call(Release(access.handle), held=access, patient=patient)
        failure = None
        try:
            self._ask(call, lambda call: self._session.release(call, access))
        except LicenseError as error:
            failure = error
        with self._lock:
            access.finish_release(failure)

    def _abandon(self, call: Call[Access]) -> None:
        self._session.abandon(call)
        self._flush()

    def _flush(self) -> None:
        if self._link is not None:
            self._link.flush()

    def _end(self, reason: str) -> None:
        with self._lock:
            self._session.close(reason)
        if self._link is not None:
            self._link.join()

    def _check_process(self) -> None:
        """Refuse before any lock is taken: in the child of a fork, it may be held for ever."""
        if not self._process:
            msg = "the client is not open"
            raise LocalProtocolError(msg)
        if os.getpid() != self._process:
            msg = f"this client belongs to process {self._process}; a process forked from it opens a client of its own"
            raise LocalProtocolError(msg)
