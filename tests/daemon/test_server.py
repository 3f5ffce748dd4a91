"""Listening and accepting over real TCP and Unix sockets: who is at the other end, storms, exhaustion."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from cmserverd.answers import Door, Peer
from cmserverd.connection import Pace
from cmserverd.core.rules import Limits
from cmserverd.server import CannotListen, Rooms, accept, listen_tcp, listen_unix, peer_of, shown_address
from cmserverd.service import Service
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode
from tests.daemon.harness import (
    LIMIT,
    LOCAL_CHARTS,
    MACHINE,
    AsyncClient,
    access,
    charts,
    hello,
    local_charts,
    make_service,
    number_of,
    until,
)

MANY = 100_000


@asynccontextmanager
async def accepting(
    service: Service, *listeners: socket.socket, door: Door = Door.CLIENT, rooms: Rooms | None = None
) -> AsyncGenerator[None]:
    """Accept on these sockets until the end of the block."""
    rooms = rooms or Rooms(MANY)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(accept, listener, service, door, Pace(), nursery, rooms)
            yield
            nursery.cancel_scope.cancel()
    for listener in listeners:
        listener.close()


def connected(listener: socket.socket) -> AsyncClient:
    """Return a client that has connected, if not been accepted."""
    sock = socket.socket(listener.family)
    sock.connect(listener.getsockname())
    return AsyncClient(sock)


# --- who is there -------------------------------------------------------------------------------------------------


@contextmanager
def both_ends(host: str, listen: str) -> Iterator[socket.socket]:
    """Connect to a host and give the accepted socket."""
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    with (
        socket.create_server((listen, 0), family=family, dualstack_ipv6=listen == "::") as listener,
        socket.create_connection((host, listener.getsockname()[1])),
        listener.accept()[0] as accepted,
    ):
        yield accepted


@pytest.mark.parametrize(
    ("host", "listen", "address"),
    [("127.0.0.1", "127.0.0.1", "127.0.0.1"), ("::1", "::1", "::1"), ("127.0.0.1", "::", "127.0.0.1")],
)
def test_a_peer_over_loopback_is_here(host: str, listen: str, address: str) -> None:
    """IPv4, IPv6, and IPv4 over an IPv6 socket, which shows as what it is."""
    if ":" in listen and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    with both_ends(host, listen) as accepted:
        peer = peer_of(accepted, Door.CLIENT)
    assert (peer.address, peer.here, peer.door) == (address, True, Door.CLIENT)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


class Named(socket.socket):
    """A TCP socket whose peer has the address that a test wants."""

    name: tuple[str, int] = ("", 0)

    def getpeername(self) -> tuple[str, int]:
        return self.name


@pytest.mark.parametrize(
    ("name", "address", "here"),
    [
        ("192.0.2.1", "192.0.2.1", False),
        ("2001:db8::1", "2001:db8::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", False),
        ("::ffff:127.0.0.5", "127.0.0.5", True),
        ("fe80::1%eth0", "fe80::1", False),
        ("127.8.8.8", "127.8.8.8", True),
    ],
)
def test_a_peers_address_has_one_spelling(name: str, address: str, here: bool) -> None:
    """IPv4 in IPv6 is IPv4, and an interface's name is no part of it: limits and listings go by the address."""
    with Named() as sock:
        sock.name = (name, 4711)
        peer = peer_of(sock, Door.CLIENT)
    assert (peer.address, peer.here) == (address, here)


@pytest.mark.parametrize("door", [Door.MONITOR, Door.CONTROL])
async def test_a_peer_over_a_unix_socket_is_known_by_the_system(door: Door, tmp_path: Path) -> None:
    """Its uid is its address; who comes to the control socket is logged with uid and process."""
    listener = listen_unix(tmp_path / "x.sock")
    with capture_logs() as said:
        async with accepting(make_service(), listener, door=door):
            client = connected(listener)
            assert (await client.ask(hello())).session == 0
            client.close()
    lines = [line for line in said if line["event"] == "control connection"]
    assert [(line["uid"], line["pid"]) for line in lines] == [(os.getuid(), os.getpid())] * (door is Door.CONTROL)


async def test_local_only_licenses_over_tcp() -> None:
    """Over loopback, the daemon's own machine is local, and another one that was tunnelled here is not."""
    listener = listen_tcp("127.0.0.1", 0)
    async with accepting(make_service(local_charts()), listener):
        here, tunnelled = connected(listener), connected(listener)
        await here.ask(hello(machine=MACHINE))
        await here.ask(access(product=LOCAL_CHARTS))
        await tunnelled.ask(hello(machine="laptop-behind-a-tunnel"))
        with pytest.raises(LicenseError) as refusal:
            await tunnelled.ask(access(product=LOCAL_CHARTS))
        assert number_of(refusal.value) == ErrorNumber.ENTRY_NOT_FOUND
        for client in (here, tunnelled):
            client.close()


# --- many at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "machine", "granted"),
    [(AccessMode.USER_LIMIT, "", 5), (AccessMode.STATION_SHARE, "", 5), (AccessMode.STATION_SHARE, "one", 50)],
)
async def test_fifty_at_once_for_five_licenses(mode: AccessMode, machine: str, granted: int) -> None:
    """Exactly five are granted and 45 times 212 is answered; one station's fifty share one license."""
    listener = listen_tcp("127.0.0.1", 0)
    service = make_service(charts(quantity=5))
    async with accepting(service, listener):
        clients = [connected(listener) for _ in range(50)]
        for number, client in enumerate(clients):
            await client.ask(hello(number, machine=machine))
        asked = [(client, await client.begin(access(mode))) for client in clients]
        numbers = []
        for client, msgid in asked:
            await client.until(lambda client=client, msgid=msgid: msgid in client.inbox.replies)  # type: ignore[misc] # no types for a lambda's defaults
            error = client.inbox.replies[msgid].error
            numbers.append(error["number"] if isinstance(error, dict) else 0)
            client.close()
        assert sorted(numbers) == [0] * granted + [212] * (50 - granted)
        (counted,) = service.engine.table.licenses.values()
        assert counted.used == (1 if machine else 5)


async def test_a_storm_of_connections_does_not_starve_those_who_are_in() -> None:
    """While hundreds wait to be accepted, one that is served gets its answer after a few of them."""
    listener = listen_tcp("127.0.0.1", 0)
    service = make_service()
    async with accepting(service, listener):
        client = connected(listener)
        await client.ask(hello())
        storm = [connected(listener) for _ in range(400)]
        await client.ask(m.KeepAlive())
        assert len(service.conversations) < 100
        await until(lambda: len(service.conversations) == 401)
        for one in (client, *storm):
            one.close()


async def test_a_connection_that_is_gone_before_it_is_accepted_is_no_matter() -> None:
    """Reset at once, or closed: the next one is served."""
    listener = listen_tcp("127.0.0.1", 0)
    service = make_service()
    for _ in range(20):
        gone = socket.create_connection(listener.getsockname())
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        gone.close()
    async with accepting(service, listener):
        client = connected(listener)
        await client.ask(hello())
        client.close()
        await until(lambda: not service.conversations)


class Nobodys(socket.socket):
    """A listening socket whose first connection comes from an address that is none."""

    come = False

    def accept(self) -> tuple[socket.socket, object]:
        accepted, address = super().accept()
        if self.come:
            return accepted, address
        self.come = True
        named = Named(fileno=accepted.detach())
        named.name = ("no address", 0)
        return named, address


async def test_a_bug_before_the_peer_is_known_does_not_hurt_the_others() -> None:
    """It is logged, and the next connection is served."""
    listener = Nobodys(fileno=listen_tcp("127.0.0.1", 0).detach())
    with capture_logs() as said:
        async with accepting(make_service(), listener):
            unlucky, other = connected(listener), connected(listener)
            assert await unlucky.until_closed() is None
            await other.ask(hello())
            other.close()
    assert [(line["event"], line["address"]) for line in said] == [("a connection met a bug", "")]


class Tried(socket.socket):
    """A listening socket that counts how often it was tried to accept from it."""

    times = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.times += 1
        return super().accept()


@contextmanager
def few_files(more: int) -> Iterator[None]:
    """Let this process open only so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest:  # noqa: PTH123 - its number is what matters
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_running_out_of_file_descriptors_stops_nothing() -> None:
    """Who is in is served, who waits is accepted when descriptors are free again, and it is said once."""
    listener = Tried(fileno=listen_tcp("127.0.0.1", 0).detach())
    service = make_service()
    with capture_logs() as said:
        async with accepting(service, listener):
            first = connected(listener)
            await first.ask(hello())
            waiting = [connected(listener) for _ in range(20)]
            await until(lambda: len(service.conversations) == 21)
            late = [socket.socket() for _ in range(3)]
            with few_files(2):
                for sock in late:
                    sock.connect(listener.getsockname())
                await until(lambda: len(service.conversations) == 23)
                await first.ask(m.KeepAlive())
                tried = listener.times
                await until(lambda: listener.times > tried + 2)
                assert len(service.conversations) == 23
                for client in waiting:
                    client.close()
                await until(lambda: len(service.conversations) == 4)
            clients = [AsyncClient(sock) for sock in late]
            for client in clients:
                await client.ask(hello(2))
            for client in (first, *clients):
                client.close()
    assert ["out of file descriptors" in line["event"] for line in said] == [True]


async def test_clients_alone_cannot_use_up_the_file_descriptors(tmp_path: Path) -> None:
    """When there is no room for another client, the operator still gets in, and a client that goes makes room."""
    tcp, unix = listen_tcp("127.0.0.1", 0), listen_unix(tmp_path / "monitor.sock")
    service = make_service()
    rooms = Rooms(files=16)
    with trio.fail_after(LIMIT), capture_logs() as said:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, tcp, service, Door.CLIENT, Pace(), nursery, rooms)
            nursery.start_soon(accept, unix, service, Door.MONITOR, Pace(), nursery, rooms)
            clients = [connected(tcp) for _ in range(10)]
            for client in clients[:4]:
                await client.ask(hello())
            operator = connected(unix)
            assert (await operator.ask(hello())).session == 0
            assert (await operator.ask(m.ServerInfoRequest())).sessions == 4
            for client in clients[:4]:
                client.close()
            for client in clients[4:8]:
                await client.ask(hello())
            for client in (*clients[4:], operator):
                client.close()
            nursery.cancel_scope.cancel()
    tcp.close()
    unix.close()
    assert ["limit of open files" in line["event"] for line in said] == [True]


async def test_those_who_look_cannot_keep_out_who_acts(tmp_path: Path) -> None:
    """Each local socket has room of its own."""
    monitor, control = listen_unix(tmp_path / "monitor.sock"), listen_unix(tmp_path / "control.sock")
    service = make_service()
    rooms = Rooms(files=16)
    with trio.fail_after(LIMIT), capture_logs():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, monitor, service, Door.MONITOR, Pace(), nursery, rooms)
            nursery.start_soon(accept, control, service, Door.CONTROL, Pace(), nursery, rooms)
            crowd = [connected(monitor) for _ in range(10)]
            await crowd[0].ask(hello())
            await until(lambda: not rooms.of(Door.MONITOR).value)
            operators = [connected(control) for _ in range(2)]  # one fits the place that each door has taken beforehand
            for operator in operators:
                await operator.ask(hello())
            for client in (*crowd, *operators):
                client.close()
            nursery.cancel_scope.cancel()
    monitor.close()
    control.close()


# --- many of one host ---------------------------------------------------------------------------------------------


class Away(socket.socket):
    """A listening socket whose connections come from the addresses that a test wants, one after the other."""

    names: Iterator[str] = iter(())

    def accept(self) -> tuple[socket.socket, object]:
        accepted, address = super().accept()
        named = Named(fileno=accepted.detach())
        named.name = (next(self.names), 0)
        return named, address


def away(*names: str) -> Away:
    """Listen for connections from these addresses."""
    listener = Away(fileno=listen_tcp("127.0.0.1", 0).detach())
    listener.names = iter(names)
    return listener


async def test_one_host_cannot_take_all_connections() -> None:
    """Beyond twice its sessions it is closed at once; others are served; one that goes makes room; the log says why."""
    listener = away(*["192.0.2.1"] * 6, "192.0.2.2", "192.0.2.1")
    service = make_service()
    rooms = Rooms(MANY, Limits(sessions_per_address=2))
    with capture_logs() as said:
        async with accepting(service, listener, rooms=rooms):
            crowd = [connected(listener) for _ in range(6)]
            for refused in crowd[4:]:
                assert await refused.until_closed() is None
            assert len(service.conversations) == 4
            other = connected(listener)
            await other.ask(hello())
            crowd[0].close()
            await until(lambda: len(service.conversations) == 4)
            late = connected(listener)
            await late.ask(hello())
            for client in (*crowd[1:4], other, late):
                client.close()
            await until(lambda: not rooms.hosts)
    assert [(line["log_level"], line["address"], line["limit"]) for line in said] == [("warning", "192.0.2.1", 4)] * 2
    assert all("raise [sessions] per_address" in line["event"] for line in said)
    assert rooms.of(Door.CLIENT).value > 0


async def test_a_storm_of_one_host_fills_neither_the_log_nor_the_room() -> None:
    """Of hundreds that are closed ten are told, the rest is counted; each gives back what it took."""
    listener = away(*["192.0.2.1"] * 300, "192.0.2.2")
    rooms = Rooms(1000, Limits(sessions_per_address=1))
    free = rooms.of(Door.CLIENT).value
    service = make_service()
    with capture_logs() as said:
        async with accepting(service, listener, rooms=rooms):
            crowd = [connected(listener) for _ in range(300)]
            other = connected(listener)
            await other.ask(hello())
            await until(lambda: rooms.of(Door.CLIENT).value == free - 4)  # those three, and the place of the next one
            for client in (*crowd, other):
                client.close()
    assert len(said) == 10


@pytest.mark.parametrize(
    ("files", "sessions", "limit", "setting"),
    [
        (MANY, 10_000, 20_000, "[sessions] per_address"),
        (1152, 10_000, 512, "the limit of open files"),
        (1152, 256, 512, "[sessions] per_address"),
    ],
)
def test_a_hosts_connections_are_at_most_half_of_all(files: int, sessions: int, limit: int, setting: str) -> None:
    """And what would have to be raised is what they are limited by."""
    rooms = Rooms(files, Limits(sessions_per_address=sessions))
    assert (rooms.host_limit, rooms.host_setting) == (limit, setting)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ],
)
def test_of_ipv6_a_network_is_a_host(first: str, second: str, same: bool) -> None:
    """Whoever has one address of a /64 has them all."""
    rooms = Rooms(MANY, Limits(sessions_per_address=1))
    one, other = Peer(first, here=False), Peer(second, here=False)
    assert [rooms.enter(one), rooms.enter(one)] == [True, True]
    assert rooms.enter(other) is not same


def test_who_is_here_has_the_whole_room() -> None:
    """A terminal server's clients, or a relay's, all come over loopback: the room is their limit, and no other."""
    rooms = Rooms(MANY, Limits(sessions_per_address=1))
    here = Peer("127.0.0.1", here=True)
    assert all(rooms.enter(here) for _ in range(100))
    rooms.leave(here)
    assert not rooms.hosts


# --- listening ----------------------------------------------------------------------------------------------------


def test_where_it_listens_is_shown_as_clients_write_it() -> None:
    """IPv6 has its brackets."""
    with listen_tcp("127.0.0.1", 0) as listener:
        assert shown_address(listener) == f"127.0.0.1:{listener.getsockname()[1]}"
    if _has_ipv6():
        with listen_tcp("::1", 0) as listener:
            assert shown_address(listener) == f"[::1]:{listener.getsockname()[1]}"


def test_all_interfaces_of_both_families_can_be_had_together() -> None:
    """The IPv6 socket leaves IPv4 to the other one, whose port it shares."""
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    with listen_tcp("0.0.0.0", 0) as v4, listen_tcp("::", v4.getsockname()[1]) as v6:
        assert v4.getsockname()[1] == v6.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "because"),
    [
        ("192.0.2.1", "this machine has no such address"),
        ("no-such-host.invalid", "cannot listen on"),
        ("..", "cannot listen on"),
        ("x" * 70, "cannot listen on"),
    ],
)
def test_an_address_that_cannot_be_had_is_told(host: str, because: str) -> None:
    """The sentence has the address, the reason and the setting."""
    with pytest.raises(CannotListen, match=because) as error:
        listen_tcp(host, 0)
    assert host in str(error.value)
    assert "[server] listen" in str(error.value)


def test_a_port_in_use_is_told_with_its_likely_owner() -> None:
    """On the field's own port that is CodeMeter's server; on any other the sentence does not guess."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotListen, match=r"another program has the port.*\[server\] listen") as error:
            listen_tcp("127.0.0.1", port)
        assert "CodeMeter" not in str(error.value)
    try:
        taken = socket.create_server(("127.0.0.1", 22350))
    except OSError:
        taken = None  # it is in use already, which serves as well
    with pytest.raises(CannotListen, match=r"CodeMeter's own server uses this port"):
        listen_tcp("127.0.0.1", 22350)
    if taken is not None:
        taken.close()


def test_a_unix_socket_is_for_its_group(tmp_path: Path) -> None:
    """Nobody else may connect."""
    before = os.umask(0)
    try:
        with listen_unix(tmp_path / "x.sock"):
            assert stat.S_IMODE((tmp_path / "x.sock").stat().st_mode) == 0o660
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    """Only if connecting is refused nobody is there any more; one with a full backlog is live, and blocks nobody."""
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(os.fspath(path))
    first = listen_unix(path)
    with pytest.raises(CannotListen, match="another cmserverd is running there"):
        listen_unix(path)
    first.listen(0)
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    for client in crowd:
        client.setblocking(False)
        client.connect_ex(os.fspath(path))
    with pytest.raises(CannotListen, match="another cmserverd is running there"):
        listen_unix(path)
    first.setblocking(True)
    first.accept()[0].close()
    for client in crowd:
        client.close()
    first.close()
    listen_unix(path).close()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """A file of that name is somebody's."""
    (tmp_path / "x.sock").write_text("precious")
    with pytest.raises(CannotListen, match=r"there is a file that is no socket.*run_directory"):
        listen_unix(tmp_path / "x.sock")
    assert (tmp_path / "x.sock").read_text() == "precious"
