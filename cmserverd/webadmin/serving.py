"""The web server behind a few functions: take the addresses, serve them, stop. Everything about anycorn is in here.

Anycorn speaks HTTP over each connection; who may have one, and by which certificate it is secured, is decided here. So
whoever opens connections without end is the only one who gets none.
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import anyio
import h2.exceptions
import structlog
import trio
from anycorn.app_wrappers import ASGIWrapper
from anycorn.config import Config
from anycorn.events import Closed, Event, RawData, Updated
from anycorn.tcp_server import TCPServer
from anycorn.worker_context import WorkerContext
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream
from h2.connection import H2Connection
from priority.priority import PriorityError
from starlette.types import ASGIApp

from cmserverd.seldom import Seldom
from cmserverd.webadmin.limits import SENDING, Shares
from cmserverd.webadmin.visitors import Proxies, is_loopback
from protocol.hosts import host_of

BACKLOG: Final = 128

CONNECTIONS: Final = 1_024
"""How many connections there may be, and never more than half of the open files."""

PER_HOST: Final = 128
"""How many of them one host may have, and never more than a quarter. Whoever comes over loopback may have all, as with
the daemon: who has a process on this machine could do harm in other ways; and a proxy of ours speaks for many."""

PARTING: Final = 3.0
"""Seconds that requests have at a stop to be answered."""

IDLE: Final = 15
"""Seconds after which a connection is closed on which nothing is asked."""

UNREAD: Final = 30
"""Seconds after which the system gives up a connection whose other end takes nothing of what was sent."""

PAUSE: Final = 0.1
"""Seconds until the next connection is taken where the system has no room for one."""

REQUESTS: Final = 50
"""How many requests may be under way over one connection of HTTP/2; each page that stands open is one."""

HEADERS: Final = 16 * 1024
"""Bytes that the headers of a request may have; over HTTP/1.1 it is anycorn's limit."""

NOT_HTTP: Final = (ValueError, PriorityError, h2.exceptions.H2Error)
"""What a connection fails with whose other end does not keep to the protocol."""

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What taking a connection fails with for a while only."""

_log = structlog.get_logger("webadmin")


class CannotListen(Exception):
    """An address cannot be had; the text says why, and what to do."""


@dataclass(frozen=True)
class Bound:
    """A socket that listens; `secure`: only by HTTPS."""

    sock: socket.socket
    secure: bool

    def url(self, host: str | None = None) -> str:
        """Return its address for a browser; with a host, under that name."""
        own, port = self.sock.getsockname()[:2]
        name = host or (f"[{own}]" if ":" in own else own)
        return f"{'https' if self.secure else 'http'}://{name}:{port}"


def bind(addresses: Iterable[tuple[str, int]], *, always_secure: bool) -> list[Bound]:
    """Return sockets that listen, in the order of the addresses. Raises CannotListen.

    What leads out of this machine is secure; `always_secure` makes all so.
    """
    bound: list[Bound] = []
    try:
        for host, port in addresses:
            bound += [Bound(sock, always_secure or not _leads_to_loopback(sock)) for sock in _listening(host, port)]
    except OSError as error:
        for one in bound:
            one.sock.close()
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        way_out = "stop what listens there, or" if error.errno == errno.EADDRINUSE else ""
        reason = "in use" if error.errno == errno.EADDRINUSE else error.strerror
        text = f"cannot listen on {shown}: {reason}; {way_out} correct [webadmin] listen".replace("  ", " ")
        raise CannotListen(text) from None
    return bound


async def serve(
    app: ASGIApp,
    bound: Iterable[Bound],
    secured_by: Callable[[], ssl.SSLContext] | None,
    stopping: trio.Event,
    proxies: Proxies | None = None,
) -> None:
    """Serve until the event, and then what is being asked for a moment longer; close the sockets.

    `secured_by` gives what each new connection is secured by; None: no address is secure.
    """
    sockets = list(bound)
    server = _Server(app, secured_by, proxies or Proxies())
    try:
        async with trio.open_nursery() as running:
            running.start_soon(server.cut_off_when_cancelled)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as listening:
                    for one in sockets:
                        listening.start_soon(server.listen, one, connections)
                    await stopping.wait()
                    listening.cancel_scope.cancel()
                running.cancel_scope.deadline = trio.current_time() + PARTING
                await server.part()
            running.cancel_scope.cancel()
    finally:
        for one in sockets:
            one.sock.close()


class _Server:
    """Takes connections, each of a host that may have one more, and has anycorn speak HTTP over them."""

    def __init__(self, app: ASGIApp, secured_by: Callable[[], ssl.SSLContext] | None, proxies: Proxies) -> None:
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]
        self._secured_by = secured_by
        self._proxies = proxies
        self._settings = _settings()
        self._worker = WorkerContext(None)
        room = min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._shares = Shares(room, each=min(PER_HOST, room // 4))
        self._open: set[socket.socket] = set()
        self._shortages, self._crowds, self._babble, self._faults = (
            Seldom(trio.current_time, lines=1) for _ in range(4)
        )

    async def listen(self, bound: Bound, connections: trio.Nursery) -> None:
        """Take connections for as long as it is not cancelled."""
        while True:
            await trio.lowlevel.wait_readable(bound.sock)
            try:
                sock, (address, port, *_) = bound.sock.accept()
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._shortages.say(_log.warning, "no connection can be taken", reason=error.strerror)
                    await trio.sleep(PAUSE)
                continue  # any other one went before it was taken
            visitor = self._proxies.other_end((address, port))
            if self._shares.take(visitor):
                connections.start_soon(self._serve, sock, visitor, bound.secure)
            else:
                sock.close()
                event = "connections are refused: there are too many, of one host or of all"
                self._crowds.say(_log.warning, event, host=host_of(address))

    async def _serve(self, sock: socket.socket, visitor: str, secure: bool) -> None:
        self._open.add(sock)
        try:
            if (stream := await self._opened(sock, secure=secure)) is not None:
                await _Http(self._app, self._settings, self._worker, stream).run()
        except* NOT_HTTP as faults:
            reason = repr(faults.exceptions[0])
            self._babble.say(_log.warning, "a connection does not speak HTTP", visitor=visitor, reason=reason[:255])
        except* Exception:  # a fault in one must not end the others
            self._faults.say(_log.exception, "a connection met a fault", visitor=visitor)
        finally:
            sock.close()
            self._open.remove(sock)
            self._shares.give_back(visitor)

    async def _opened(self, sock: socket.socket, *, secure: bool) -> SocketStream | TLSStream | None:
        """Return what is sent and received over; None if the other end is gone, or there is no agreement with it."""
        try:
            stream = await SocketStream.from_socket(sock)
            if not secure:
                return stream
            assert self._secured_by is not None
            with trio.fail_after(IDLE):
                return await _Secured.wrap(stream, ssl_context=self._secured_by())
        except (OSError, ValueError, trio.TooSlowError, anyio.BrokenResourceError, anyio.EndOfStream):
            return None

    async def part(self) -> None:
        """Have connections end on which nothing is asked, and the others after their answer."""
        await self._worker.terminated.set()

    async def cut_off_when_cancelled(self) -> None:
        """When this is cancelled, end what cannot be: sending to somebody who takes nothing."""
        try:
            await trio.sleep_forever()
        finally:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


class _Secured(TLSStream):
    """TLS over a connection, which is closed without waiting for the other end: that may be silent without end."""

    async def aclose(self) -> None:
        await self.transport_stream.aclose()


class _Http(TCPServer):
    """HTTP over one connection, which is over as soon as the other end has closed it, not when it had been idle.

    It is idle while nothing is answered over it. Anycorn's own account of that is not asked: a request that it refuses
    itself, or that is taken back, would count for ever.
    """

    def __init__(self, app: ASGIWrapper, settings: Config, worker: WorkerContext, stream: SocketStream | TLSStream):
        super().__init__(self._answer, settings, worker, {}, stream)  # type: ignore[arg-type]
        self._application = app
        self._answering = 0
        self._over = False

    async def _answer(self, *asked: Any) -> None:
        self._answering += 1
        await self.idle_task.stop()
        try:
            await self._application(*asked)
        finally:
            self._answering -= 1
            if not self._answering and not self._over:
                await self.idle_task.restart(self._task_group, self._idle_timeout)

    async def _read_data(self) -> None:
        await super()._read_data()
        self._over = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Send, in a bounded time: a reader who takes a bit now and then would hold a connection for ever."""
        if isinstance(event, RawData):
            async with self.send_lock:
                try:
                    # A part of it would be of no use to the other end: it is not cancelled with a request.
                    with trio.CancelScope(deadline=trio.current_time() + SENDING, shield=True) as sending:
                        await self.stream.send(event.data)
                except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                    await self.protocol.handle(Closed())
                if sending.cancelled_caught:
                    with suppress(OSError):
                        self.stream.extra_attributes[SocketAttribute.raw_socket]().shutdown(socket.SHUT_RDWR)
        elif not isinstance(event, Updated):
            await super().protocol_send(event)


def _settings() -> Config:
    config = Config()
    config.keep_alive_timeout = IDLE
    config.h2_max_concurrent_streams = REQUESTS
    config.h2_max_header_list_size = HEADERS  # is said to the other end
    H2Connection.DEFAULT_MAX_HEADER_LIST_SIZE = HEADERS  # is kept: h2 itself looks at this one
    config.include_server_header = False
    config.errorlog = logging.getLogger("anycorn")
    config.errorlog.setLevel(logging.WARNING)
    return config


def _leads_to_loopback(listener: socket.socket) -> bool:
    return is_loopback(listener.getsockname()[0])


def _listening(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address that a name has. Raises OSError."""
    found = []
    for family, kind, protocol, _, place in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        sock = socket.socket(family, kind, protocol)
        found.append(sock)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each connection has what its listener has
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD * 1_000)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(place)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError:
            for one in found:
                one.close()
            raise
    return found
