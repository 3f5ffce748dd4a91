"""Asks the daemon: one function for each question, over the protocol, through its two local sockets.

What a page asks for while somebody looks goes over one connection, which is made anew when it breaks. What may take
long has a connection of its own, since the daemon answers each in turn; so has each act, which is rare; and so has the
question about its health, which must be answered whatever else is asked. Of the connections that the daemon has for its
operator, few are taken at once.

All raise LicenseError: what the daemon answered, or 100 or 101 if it does not answer (`is_silent`).
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TypeVar

import trio
from msgspec import Struct

from cmserverd.webadmin.sharing import Shared
from protocol import messages as m
from protocol.address import Address
from protocol.client import Client, open_client
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError
from protocol.tracking import TrackedFrom
from protocol.trio_link import dial
from protocol.usage import SpanName, UsedFrom
from protocol.watching import LONGEST_WAIT, Happening

R = TypeVar("R", bound=Struct)

ANSWER: Final = 5.0
"""Seconds that a page waits for the daemon; it answers in milliseconds."""

LONG_ANSWER: Final = 60.0
"""Seconds for what it has to read its history for, or to ask a container."""

LONG, ACTS = 4, 8
"""How many long questions, and how many acts, are under way at once; the daemon has 32 connections for each kind."""

APPLICATION: Final = "WebAdmin"
"""What it calls itself when it greets."""

PAGE: Final = 200
"""Rows that are asked for at once."""

LOGGED: Final = "logged"
"""The kind of a line of the log where it is told as something that happened."""


class Filters(Struct, frozen=True):
    """Which licenses or accesses are asked for; None is all."""

    container: str | None = None
    firm_code: int | None = None
    product_code: int | None = None


ALL: Final = Filters()


class Daemon:
    """The daemon of a run directory; made by `open_daemon`."""

    def __init__(self, run_directory: Path, nursery: trio.Nursery) -> None:
        self._monitor = f"unix:{run_directory / 'monitor.sock'}"
        self._control = f"unix:{run_directory / 'control.sock'}"
        self._line = _Line(self._monitor, ANSWER, nursery)
        self._waiting_line = _Line(self._monitor, ANSWER + LONGEST_WAIT, nursery)
        self._log_line = _Line(self._monitor, ANSWER + LONGEST_WAIT, nursery)
        self._long = trio.CapacityLimiter(LONG)
        self._acts = trio.CapacityLimiter(ACTS)
        self.shared = Shared(self.ask)
        """Asks for pages that stand open, each question once for all."""
        self.health = Shared(_Line(self._monitor, ANSWER, nursery).ask)
        """Asks about the daemon's health, each question once for all who watch over it."""

    # what is to be seen

    async def ask(self, params: m.Params[R]) -> R:
        """Ask anything that is answered at once; the functions below are the questions that have a name."""
        return await self._line.ask(params)

    async def server(self) -> m.ServerInfo:
        """Return the server's state."""
        return await self.ask(m.ServerInfoRequest())

    async def containers(self) -> m.ContainerList:
        """Return the containers, in the order in which the server draws on them."""
        return await self.ask(m.Containers())

    async def contents(self, container: str) -> m.ContainerContents:
        """Return a container's firm items and product items."""
        return await self.ask(m.Contents(container))

    async def licenses(self, filters: Filters = ALL, cursor: int = 0, limit: int = PAGE) -> m.LicensePage:
        """Return a page of the counts of each license."""
        chosen = (filters.container, filters.firm_code, filters.product_code)
        return await self.ask(m.NetCluster(*chosen, cursor, limit))

    async def accesses(
        self, filters: Filters = ALL, cursor: int = 0, *, relevant: bool = False, limit: int = PAGE
    ) -> m.AccessPage:
        """Return a page of the accesses; `relevant` leaves those that allocate a license."""
        chosen = (filters.container, filters.firm_code, filters.product_code)
        return await self.ask(m.NetUsers(*chosen, relevant, cursor, limit))

    async def tracking(
        self, since: int | None = None, until: int | None = None, cursor: TrackedFrom | None = None
    ) -> m.TrackingPage:
        """Return a page of license tracking, from a time on and until before another one (Unix seconds)."""
        return await _ask_once(self._long, self._monitor, m.TrackingRequest(since, until, cursor))

    async def verify_tracking(self) -> m.TrackingProof:
        """Return whether license tracking is as it was written."""
        return await _ask_once(self._long, self._monitor, m.VerifyTracking())

    async def usage(
        self,
        by: SpanName = "day",
        since: int | None = None,
        until: int | None = None,
        cursor: UsedFrom | None = None,
    ) -> m.UsagePage:
        """Return a page of the usage history, of the spans that begin from a time on and before another one."""
        return await _ask_once(self._long, self._monitor, m.UsageRequest(by, since, until, cursor))

    async def happened(self, question: m.Happened) -> m.Happenings:
        """Return what happened after a position, once there is something; wait as long as the question says."""
        heard = await self._waiting_line.ask(question)
        self.shared.forget()
        return heard

    async def logged(self, question: m.Happened) -> m.Happenings:
        """Return the lines of the log after a number as what happened, once there are; wait as the question says."""
        page = await self._log_line.ask(m.LogRequest(question.since or 0, question.wait))
        self.shared.forget()
        lines = tuple(Happening(line.number, line.time, LOGGED) for line in page.lines)
        return m.Happenings(page.number, lines[-1].time if lines else 0, lines, page.missed)

    # what is done

    async def deallocate(
        self,
        handle: int,
        what: Literal["allocation", "access", "session"] = "allocation",
        *,
        seen: tuple[int, ...] = (),
        hold_off: int = 0,
        by: str,
    ) -> m.Deallocated:
        """Remove what a handle is on, for the user `by`, who saw those handles and no other."""
        return await _ask_once(self._acts, self._control, m.Deallocate(handle, what, seen, hold_off, by))

    async def import_update(self, update: bytes, *, by: str) -> m.Imported:
        """Have an update file applied, for the user `by`."""
        return await _ask_once(self._acts, self._control, m.Import(update, by))

    async def request_file(self, container: str, *, time: bool = False, by: str) -> m.ContextFile:
        """Return a container's request file, for the user `by`; `time`: it asks for a certified time."""
        return await _ask_once(self._acts, self._control, m.Context(container, time, by))

    async def reload(self, *, by: str) -> m.Reloaded:
        """Have the settings read anew, for the user `by`."""
        return await _ask_once(self._acts, self._control, m.Reload(by))


@asynccontextmanager
async def open_daemon(run_directory: Path) -> AsyncGenerator[Daemon]:
    """Give the daemon of a run directory for the length of the block; it need not run, now or ever."""
    async with trio.open_nursery() as nursery:
        yield Daemon(run_directory, nursery)
        nursery.cancel_scope.cancel()


def is_silent(error: LicenseError) -> bool:
    """Tell whether the daemon did not answer at all."""
    return error.number in (ErrorNumber.NETWORK_FAULT, ErrorNumber.SERVER_NOT_FOUND)


class _Line:
    """A connection that is kept; each answer may take `patience` seconds."""

    def __init__(self, socket: str, patience: float, nursery: trio.Nursery) -> None:
        self._socket = socket
        self._patience = patience
        self._nursery = nursery
        self._client: Client | None = None
        self._unused = trio.Event()
        self._opening = trio.Lock()

    async def ask(self, params: m.Params[R]) -> R:
        """Ask over it. Raises LicenseError."""
        async with self._opening:
            if self._client is None or self._client.broken is not None:
                # It would come back by itself, but less and less often; whoever looks asks now.
                self._client = None
                self._unused.set()
                self._unused = trio.Event()
                self._client = await self._nursery.start(self._hold, self._unused)
            client = self._client
        return await _call(client, params)

    async def _hold(self, unused: trio.Event, *, task_status: trio.TaskStatus[Client]) -> None:
        streams: list[trio.SocketStream] = []

        async def dialled(address: Address) -> trio.abc.Stream:
            stream = await dial(address)
            assert isinstance(stream, trio.SocketStream)
            streams[:] = [stream]
            return stream

        async with open_client(self._socket, application=APPLICATION, timeout=self._patience, dial=dialled) as client:
            task_status.started(client)
            try:
                await unused.wait()
            finally:
                # Nothing is held over it, and a goodbye would be read only after what the daemon is waiting for.
                with suppress(OSError):
                    streams[0].socket.shutdown(socket.SHUT_RDWR)


async def _ask_once(limit: trio.CapacityLimiter, socket: str, params: m.Params[R]) -> R:
    async with limit, open_client(socket, application=APPLICATION, timeout=LONG_ANSWER) as client:
        return await _call(client, params)


async def _call(client: Client, params: m.Params[R]) -> R:
    """Ask. Raises LicenseError, also for a request that is too long for this server."""
    try:
        return await client.call(params)
    except LocalProtocolError as error:
        raise LicenseError.of(ErrorNumber.INVALID_PARAMETER, str(error)) from None
