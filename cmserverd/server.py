"""Listens, accepts, and gives each connection its task and its conversation.

Running out of file descriptors stops nothing: accepting waits until some are free again. Clients alone cannot use them
up (`Rooms`), for whoever opens a file then fails, and drivers read their containers from files; and one host alone
cannot use up those that clients have.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
import struct
from pathlib import Path

import structlog
import trio
from trio.lowlevel import wait_readable

from cmserverd.answers import Door, Peer
from cmserverd.connection import Connection, Pace
from cmserverd.conversation import Conversation
from cmserverd.core.rules import Limits
from cmserverd.seldom import Seldom
from cmserverd.service import Service
from protocol.hosts import host_of

_log = structlog.get_logger("server")

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_BACKLOG = 4096

_LOCAL = 32
"""How many connections each of the two local sockets has; so the operator can always look at what goes on, and those
who may only look cannot keep out who acts."""

_OWN = 64
"""How many file descriptors are left for the daemon's own purposes."""


class CannotListen(Exception):
    """An address cannot be listened on; the message says why and what to do."""


def listen_tcp(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises CannotListen."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name that could be looked up
        reason = getattr(error, "strerror", None) or error
        raise CannotListen(f"cannot listen on {shown}: {reason}; correct [server] listen") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotListen(_why(shown, port, error)) from error
    sock.setblocking(False)
    return sock


def _why(shown: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        owner = "CodeMeter's own server uses this port too; " if port == 22350 else ""
        return (
            f"cannot listen on {shown}: another program has the port, or another address in [server] listen covers it; "
            f"{owner}stop the program, or choose another port with [server] listen"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {shown}: this machine has no such address; correct [server] listen"
    if error.errno == errno.EACCES:
        return f"cannot listen on {shown}: no permission; choose a port above 1023 with [server] listen"
    return f"cannot listen on {shown}: {error.strerror}; correct [server] listen"


def listen_unix(path: Path) -> socket.socket:
    """Return a listening Unix socket; one that nobody listens on any more is replaced. Raises CannotListen."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        before = os.umask(0o117)  # rather than a chmod, which could be led to another file
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(before)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        reason = "another cmserverd is running there" if error.errno == errno.EADDRINUSE else error.strerror
        raise CannotListen(f"cannot listen on {path}: {reason}; correct [server] run_directory") from error
    sock.setblocking(False)
    return sock


def _clear(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "there is a file that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one that nobody accepts from, though it listens, would hold us up
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full: it is alive
    raise OSError(errno.EADDRINUSE, "in use")


def shown_address(listener: socket.socket) -> str:
    """Return where a TCP socket listens, as `host:port` or `[v6]:port`."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Rooms:
    """How many connections there may be: of clients, and over each of the two local sockets; and of one host's clients.

    A host may have twice as many connections as sessions, since a client that comes back has two for a moment and one
    that has not greeted yet has no session; but never more than half of the clients' room. `host_limit` is this number,
    and `host_setting` what would have to be raised for a larger one.

    Whoever comes over loopback may have the whole room. A terminal server's clients are there, a relay's and an SSH
    tunnel's, and by default nobody else is; who has a process on this machine could harm the server in other ways.
    """

    def __init__(self, files: int, limits: Limits | None = None) -> None:
        """`files` is how many file descriptors the process may have."""
        local = min(_LOCAL, files // 8)
        clients = max(files - 2 * _LOCAL - _OWN, files // 4)
        self._rooms = {
            Door.CLIENT: trio.Semaphore(clients),
            Door.MONITOR: trio.Semaphore(local),
            Door.CONTROL: trio.Semaphore(local),
        }
        self._clients = clients
        self.limit(limits or Limits())
        self.hosts: dict[str, int] = {}  # how many each has, if any

    def limit(self, limits: Limits) -> None:
        """From now on these limits hold; whoever is in stays."""
        self.host_limit, self.host_setting = min(
            (2 * limits.sessions_per_address, "[sessions] per_address"),
            (self._clients // 2, "the limit of open files"),
        )

    def of(self, door: Door) -> trio.Semaphore:
        """Return what each connection at a door takes one of."""
        return self._rooms[door]

    def enter(self, peer: Peer) -> bool:
        """Count a connection as its host's; return whether the host may have it. If so, `leave` must follow."""
        if peer.here:
            return True
        host = host_of(peer.address)
        taken = self.hosts.get(host, 0)
        if taken >= self.host_limit:
            return False
        self.hosts[host] = taken + 1
        return True

    def leave(self, peer: Peer) -> None:
        """A connection that was let in is over."""
        if peer.here:
            return
        host = host_of(peer.address)
        self.hosts[host] -= 1
        if not self.hosts[host]:
            del self.hosts[host]


async def accept(
    listener: socket.socket, service: Service, door: Door, pace: Pace, connections: trio.Nursery, rooms: Rooms
) -> None:
    """Accept on a listening socket, for ever; each connection is a task of the nursery `connections`.

    One connection at a time: between two of them those that are in have their turn.
    """
    room = rooms.of(door)
    seldom = Seldom(service.engine.clock.now, lines=1)
    crowds = Seldom(service.engine.clock.now)
    while True:
        if not room.value:
            seldom.say(_log.error, "as many connections as the limit of open files allows; new ones must wait")
        await room.acquire()
        sock = await _accept_one(listener, seldom)
        connections.start_soon(_serve_one, sock, service, door, pace, rooms, crowds)


async def _accept_one(listener: socket.socket, seldom: Seldom) -> socket.socket:
    while True:
        await wait_readable(listener)
        try:
            return listener.accept()[0]
        except OSError as error:
            if error.errno in _EXHAUSTED:
                seldom.say(
                    _log.error, "out of file descriptors or memory; new clients must wait", reason=error.strerror
                )
                await trio.sleep(0.1)
            # anything else is a connection that went before it was accepted


async def _serve_one(
    sock: socket.socket, service: Service, door: Door, pace: Pace, rooms: Rooms, crowds: Seldom
) -> None:
    address = ""  # until it is known
    try:
        with sock:
            try:
                sock.setblocking(False)
                peer = peer_of(sock, door)
                address = peer.address
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                return  # gone already
            if not rooms.enter(peer):
                crowds.say(
                    _log.warning,
                    f"too many connections from one address; if it is that of many clients, raise {rooms.host_setting}",
                    address=host_of(address),
                    limit=rooms.host_limit,
                )
                return
            try:
                await Connection(sock, Conversation(service, peer), pace).run()
            finally:
                rooms.leave(peer)
    except Exception:  # a bug in moving one connection's bytes must not end the others
        service.report_bug("a connection met a bug", address=address)
    finally:
        rooms.of(door).release()


def peer_of(sock: socket.socket, door: Door) -> Peer:
    """Return who is at the other end of a connected socket. Raises OSError if it is gone."""
    if sock.family == socket.AF_UNIX:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3i", credentials)
        if door is Door.CONTROL:
            _log.info("control connection", uid=uid, pid=pid)
        return Peer(f"unix:{uid}", here=True, door=door)
    address = ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return Peer(str(address), here=address.is_loopback, door=door)
