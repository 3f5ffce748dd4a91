"""The client for trio programs.

    async with open_client("licenses.example") as client:
        async with await client.access(600010, 14, AccessMode.STATION_SHARE) as access:
            ...

Same surface as `protocol.blocking`, over the same `ClientSession`. Calls raise LicenseError: what the server answered,
or 100 if there is no answer within the timeout. A broken connection is made again in the background, and calls wait for
it as long as their time lasts; nothing is to be done about it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Final, Self, TypeVar, cast

import trio
from msgspec import Struct

from protocol import messages, proof
from protocol.address import Address, candidates
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError
from protocol.held import Call, Held, Outcome, new_key
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
from protocol.opening import introduction, none_reached, not_reached
from protocol.paging import next_cursor
from protocol.proof import Proof, Wanted
from protocol.session import EVENTS, ClientSession
from protocol.terms import AccessMode, HandleKind, Station
from protocol.trio_link import Dial, TrioLink, dial

R = TypeVar("R", bound=Struct)

OnEvent = Callable[[Event], Awaitable[None]]

_log: Final = logging.getLogger(__name__)


class Access(Held):
    """One access; as a context manager it is released at the end of the block."""

    def __init__(self, client: Client, session: ClientSession[Access], request: messages.Access) -> None:
        super().__init__(session, request)
        self._client = client

    async def check(self) -> None:
        """Return only if the access stands; while nobody can say, wait for it as long as a call may take.

        So a server may be started again meanwhile. As long as there is a connection nothing is asked, and this takes
        no time. Raises LicenseError: the one that ended it; 106 once its release is asked for; 100 if the server has
        not confirmed it after that time.
        """
        await self._client._check(self)  # noqa: SLF001

    async def info(self) -> HandleInfo:
        """Ask what the handle refers to; the server counts this as a use. Raises LicenseError."""
        return cast("HandleInfo", await self._client._ask(Call(messages.Info(self.handle), held=self)))  # noqa: SLF001

    async def crypt(
        self, licensor: bytes, *, units: int = 0, key: AccessKey | None = None, mode: AccessMode | None = None
    ) -> Proof:
        """Have the container prove that it holds the license, and return what is proven.

        `licensor` is the licensor's public key. `units` are counted as used; with the `key` of an earlier try for as
        many that was not answered they are counted once. `mode` is what the access mode has to be, for which the
        server's word must do. The first one begins the usage period. Raises LicenseError: 308 if the answer does not
        prove what was asked for, 32, 33, 35, 69, 71 and others if it is refused.
        """
        call = Call(proof.challenge(self.handle, units, key, mode), held=self)
        answer = cast("CryptAnswer", await self._client._ask(call))  # noqa: SLF001
        return proof.check(answer, cast("Crypt", call.params), self.request, licensor)

    async def borrow(self, seconds: int, *, licensor: bytes, loans: Loans | None = None) -> Loan:
        """Take the license along for so many seconds from now on: the access becomes a loan, and is over.

        Otherwise as `Client.borrow`; the loan has the terms that the access was asked for.
        """
        asked = self.request
        wanted = Wanted(
            asked.firm_code, asked.product_code, asked.feature_code, asked.container, asked.item, asked.release_date
        )
        return await self._client._borrow(wanted, seconds, licensor, loans, self)  # noqa: SLF001

    async def release(self) -> None:
        """Give the access back. Doing so twice, or after the server ended it, is no error. Raises LicenseError.

        After 100, no answer in time, the client goes on trying; nothing is to be repeated.
        """
        await self._client._release(self, patient=True)  # noqa: SLF001

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            await self._client._release(self, patient=False)  # noqa: SLF001
        except LicenseError as refusal:
            if refusal.number != ErrorNumber.NETWORK_FAULT:  # the client, or the server's grace, sees to it
                raise


class Client:
    """A session with a license server; made by `open_client`."""

    def __init__(
        self,
        servers: tuple[Address, ...],
        hello: messages.Hello,
        *,
        timeout: float,
        on_event: OnEvent | None,
        dial: Dial,
        nursery: trio.Nursery,
    ) -> None:
        self._servers = servers
        self._hello = hello
        self._timeout = timeout
        self._dial = dial
        self._nursery = nursery
        self._session: ClientSession[Access] = ClientSession()
        self._link: TrioLink | None = None
        self._events: trio.MemorySendChannel[Event] | None = None
        if on_event is not None:
            self._events, receiver = trio.open_memory_channel[Event](EVENTS)
            nursery.start_soon(_dispatch, receiver, on_event)
        self.address = servers[0]
        """The server in use."""

    @property
    def greeting(self) -> Greeting:
        """How the server introduced itself, its limits and intervals."""
        return self._session.greeted

    @property
    def broken(self) -> LicenseError | None:
        """The LicenseError 100 that says why there is no connection at the moment, or None."""
        return self._session.broken

    async def call(self, params: Params[R]) -> R:
        """Ask anything. The result is of the class that the request names. Raises LicenseError, LocalProtocolError."""
        return cast("R", await self._ask(Call(params)))

    async def access(
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
        await self._ask(Call(request, held=access))
        return access

    async def borrow(
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
        return await self._borrow(wanted, seconds, licensor, loans, None)

    async def extend(self, loan: Loan, seconds: int) -> None:
        """Have a loan end so many seconds from now, if that is later. Raises as `borrow` does; then it is as it was."""
        answer = await self.call(loan.loans.extension(loan.id, seconds))
        loan.keep(answer)

    async def give_back(self, loan: Loan) -> bool:
        """Give a loan back; return whether the server still counted it.

        It cannot be used any more from now on, whatever happens: if this raises LicenseError, as 100 where no server
        answers, its receipt is kept, and giving it back again sends it. Raises SettingError if that cannot be kept.
        """
        with loan.loans.returning(loan.id) as receipt:
            return (await self.call(receipt)).stood

    async def containers(self) -> ContainerList:
        """List the containers, in the order in which the server draws on them."""
        return await self.call(messages.Containers())

    async def contents(self, container: str) -> ContainerContents:
        """Ask for one container's firm items and product items."""
        return await self.call(messages.Contents(container))

    async def server_info(self) -> ServerInfo:
        """Ask for the server's state."""
        return await self.call(messages.ServerInfoRequest())

    async def net_cluster_page(
        self,
        *,
        container: str | None = None,
        firm_code: int | None = None,
        product_code: int | None = None,
        cursor: int = 0,
        limit: int = 200,
    ) -> LicensePage:
        """Ask for one page of the licenses' counts; its `next` is the cursor of the following one."""
        return await self.call(messages.NetCluster(container, firm_code, product_code, cursor, limit))

    async def net_cluster(
        self, *, container: str | None = None, firm_code: int | None = None, product_code: int | None = None
    ) -> AsyncGenerator[LicenseCount, None]:
        """Give the counts of each license, page after page; the pages are not of one moment."""
        cursor: int | None = 0
        while cursor is not None:
            page = await self.net_cluster_page(
                container=container, firm_code=firm_code, product_code=product_code, cursor=cursor
            )
            for license_count in page.licenses:
                yield license_count
            cursor = next_cursor(cursor, page.next)

    async def net_users_page(
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
        return await self.call(messages.NetUsers(container, firm_code, product_code, relevant, cursor, limit))

    async def net_users(
        self,
        *,
        container: str | None = None,
        firm_code: int | None = None,
        product_code: int | None = None,
        relevant: bool = False,
    ) -> AsyncGenerator[AccessInfo, None]:
        """Give each access, page after page; `relevant` leaves only those that allocate a license."""
        cursor: int | None = 0
        while cursor is not None:
            page = await self.net_users_page(
                container=container,
                firm_code=firm_code,
                product_code=product_code,
                relevant=relevant,
                cursor=cursor,
            )
            for access in page.accesses:
                yield access
            cursor = next_cursor(cursor, page.next)

    async def _borrow(
        self, wanted: Wanted, seconds: int, licensor: bytes, loans: Loans | None, access: Access | None
    ) -> Loan:
        store = loans or Loans(station=self._hello.station)
        with store.asking(wanted, seconds, str(self.address)) as asked:
            answer = cast("Borrowed", await self._ask(Call(asked, held=access)))
            store.keep(asked.id, answer, licensor)
        return Loan(store, asked.id, licensor)

    async def _open(self) -> None:
        failures = []
        for address in self._servers:
            try:
                await self._greet(address)
            except LicenseError as error:
                failures.append(error)
            else:
                self.address = address
                return
        raise none_reached(failures)

    async def _close(self) -> None:
        # Bounded: each call has the timeout. Without a connection, or after a goodbye of the caller's own, it fails.
        with trio.CancelScope(shield=True), suppress(LicenseError, LocalProtocolError):
            await self.call(Goodbye())
        await self._end("the client was closed")

    async def _end(self, reason: str) -> None:
        self._session.close(reason)
        if self._link is not None:
            with trio.CancelScope(shield=True):  # takes no time, and nothing of this connection may reach the next
                await self._link.close()

    async def _connect(self, address: Address) -> trio.abc.Stream:
        with trio.move_on_after(self._timeout):
            try:
                return await self._dial(address)
            except OSError as error:
                raise not_reached(address, error.strerror or error) from None
        raise not_reached(address, f"no connection within {self._timeout:g} seconds")

    async def _greet(self, address: Address) -> None:
        stream = await self._connect(address)
        self._link = TrioLink(
            self._session, self._timeout, self._connect, self._deliver, lambda: self.call(KeepAlive())
        )
        self._nursery.start_soon(self._link.run, stream, address)
        try:
            await self._ask(Call(self._hello), self._session.open)
        except BaseException:
            await self._end("the server did not greet")
            raise

    async def _ask(self, call: Call[Access], start: Callable[[Call[Access]], None] | None = None) -> Struct:
        outcomes: list[Outcome] = []
        answered = trio.Event()

        def answer(outcome: Outcome) -> None:
            outcomes.append(outcome)
            answered.set()

        call.answer = answer
        (start or self._session.submit)(call)
        self._flush()
        try:
            with trio.move_on_after(self._timeout):
                await answered.wait()
        except trio.Cancelled:
            self._abandon(call)
            raise
        if not outcomes:
            self._abandon(call)
            raise self._session.no_answer(self._timeout)
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]
        return outcomes[0]

    async def _check(self, access: Access) -> None:
        await self._ask(Call(KeepAlive(), held=access), self._session.check)

    async def _release(self, access: Access, *, patient: bool) -> None:
        call = Call(Release(access.handle), held=access, patient=patient)
        try:
            await self._ask(call, lambda call: self._session.release(call, access))
        except LicenseError as error:
            access.finish_release(error)
        else:
            access.finish_release(None)

    def _abandon(self, call: Call[Access]) -> None:
        self._session.abandon(call)
        self._flush()

    def _flush(self) -> None:
        if self._link is not None:
            self._link.flush()

    def _deliver(self, events: list[Event]) -> None:
        if self._events is None:
            return
        try:
            for event in events:
                self._events.send_nowait(event)
        except trio.WouldBlock:
            self._session.lost("the program does not take its events")


async def _dispatch(events: trio.MemoryReceiveChannel[Event], on_event: OnEvent) -> None:
    async for event in events:
        try:
            await on_event(event)
        except Exception:
            _log.exception("on_event failed; the client goes on")


@asynccontextmanager
async def open_client(
    server: str | None = None,
    *,
    application: str | None = None,
    station: Station | str | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109 (each call's limit, not this one's)
    on_event: OnEvent | None = None,
    dial: Dial = dial,
) -> AsyncIterator[Client]:
    """Open a session with a license server for the length of the block.

    `server` is an address as in `protocol.address`; without one it is found as `candidates` says. `application` is the
    name that listings show, `station` this machine's id or a whole Station, `timeout` the seconds that connecting and
    each call may take. `on_event` is awaited for each event, one after the other, in a task of its own, so it may use
    the client; what it raises is logged. After a restart of the server it is told of each access what became of it:
    `reacquired` or `lost`. Leaving the block says goodbye: the server releases all handles at once.
    Raises LicenseError (101 if no server can be reached) and SettingError.
    """
    servers = candidates(server)
    hello = introduction(application, station)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        client = Client(servers, hello, timeout=timeout, on_event=on_event, dial=dial, nursery=nursery)
        try:
            await client._open()  # noqa: SLF001
            yield client
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            failure = error  # raised as it is: our nursery is none of the caller's business
        finally:
            await client._close()  # noqa: SLF001
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
