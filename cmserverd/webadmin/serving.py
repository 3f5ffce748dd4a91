"""The web server behind a few functions: take the addresses, serve them, stop. Everything about anycorn is in here.

Its `serve` must never be cancelled, but told to stop and waited for: cancelled, it raises. It gives up when the system
lets it accept no further connection, for want of files: then it is begun anew, which costs the open connections.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anycorn
import structlog
import trio
from anycorn.config import Config
from starlette.types import ASGIApp

BACKLOG: Final = 128

PARTING: Final = 3.0
"""Seconds that requests have at a stop to be answered."""

IDLE: Final = 15
"""Seconds after which a connection is closed on which nothing is asked."""

PAUSE: Final = 1.0
"""Seconds before it is begun anew."""

PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What accepting fails with for a while only."""

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
            bound += [Bound(sock, always_secure or not _is_loopback(sock)) for sock in _listening(host, port)]
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
    app: ASGIApp, bound: Iterable[Bound], certificate: tuple[Path, Path] | None, stopping: trio.Event
) -> None:
    """Serve until the event, and then what is being asked for a moment longer; close the sockets."""
    sockets = list(bound)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_when_cancelled, stopping)
            while not stopping.is_set():
                await _serve_once(app, sockets, certificate, stopping)
            nursery.cancel_scope.cancel()
    finally:
        for one in sockets:
            one.sock.close()


async def _stop_when_cancelled(stopping: trio.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        stopping.set()


async def _serve_once(
    app: ASGIApp, sockets: list[Bound], certificate: tuple[Path, Path] | None, stopping: trio.Event
) -> None:
    """Serve until the event, or until no connection can be taken."""
    try:
        with trio.CancelScope(shield=True):
            await anycorn.serve(app, _settings(sockets, certificate), shutdown_trigger=stopping.wait)  # type: ignore[arg-type]
    except* Exception as group:
        # The web server tells it wrapped, and with the application that could not end beside it.
        passing = [error for leaf in _leaves(group) if (error := _passing(leaf))]
        if not passing:
            raise
        _log.error("no connection could be taken; there are too many", reason=str(passing[0]))
        with trio.move_on_after(PAUSE):
            await stopping.wait()


def _settings(sockets: list[Bound], certificate: tuple[Path, Path] | None) -> Config:
    config = Config()
    # It takes over the descriptors that it is given, so these are copies.
    secure = [f"fd://{one.sock.dup().detach()}" for one in sockets if one.secure]
    plain = [f"fd://{one.sock.dup().detach()}" for one in sockets if not one.secure]
    if secure:
        assert certificate is not None
        config.bind, config.insecure_bind = secure, plain
        config.certfile, config.keyfile = (str(path) for path in certificate)
    else:
        config.bind = plain
    config.graceful_timeout = PARTING
    config.keep_alive_timeout = IDLE
    config.ssl_handshake_timeout = IDLE
    config.include_server_header = False
    config.errorlog = logging.getLogger("anycorn")
    config.errorlog.setLevel(logging.WARNING)
    return config


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
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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


def _is_loopback(sock: socket.socket) -> bool:
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def _passing(error: BaseException | None) -> OSError | None:
    """Return what goes away by itself and led to an error; None if that came otherwise."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in PASSING:
            return error
        error = error.__cause__ or error.__context__
    return None


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
