"""The web server over real sockets: what is HTTPS, the certificate, how it stops, and that many cannot end it."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import resource
import socket
import ssl
import stat
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
import trio
from anyio.abc import SocketStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs
from trio.testing import MockClock

from cmserverd.webadmin import serving, visitors
from cmserverd.webadmin.certificates import (
    FILE,
    LASTS,
    RENEWED,
    CertificateFault,
    InUse,
    fingerprint,
    secured,
    self_made,
)
from cmserverd.webadmin.serving import PARTING, UNREAD, Bound, CannotListen, bind, serve
from cmserverd.webadmin.visitors import Proxies
from tests.daemon.harness import LIMIT

NOW = datetime(2027, 1, 1, tzinfo=UTC)
NAMES = ["alpha", "localhost", "127.0.0.1", "::1"]


async def scheme(request: Request) -> Response:
    assert request.client is not None
    return PlainTextResponse(f"{request.scope['scheme']} {request.client.host}")


APP = Starlette(routes=[Route("/", scheme)])


@asynccontextmanager
async def served(
    app: Starlette,
    bound: list[Bound],
    secured_by: Callable[[], ssl.SSLContext] | None = None,
    proxies: Iterable[str] = (),
) -> AsyncGenerator[Callable[[], None]]:
    """Serve until the end of the block; give what stops it before."""
    stopping = trio.Event()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, app, bound, secured_by, stopping, Proxies(proxies))
            yield stopping.set
            stopping.set()


async def get(bound: Bound, context: ssl.SSLContext | None = None) -> str:
    """Ask for the first page; return all that comes."""
    stream: trio.abc.Stream = await trio.open_tcp_stream(*bound.sock.getsockname()[:2])
    if context is not None:
        stream = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
    async with stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b"".join([data async for data in stream]).decode()


# --- where it listens ---------------------------------------------------------------------------------------------


def is_secure(host: str, always: bool) -> bool:
    """Tell whether an address is served by HTTPS only."""
    (one, *_) = bound = bind([(host, 0)], always_secure=always)
    for each in bound:
        each.sock.close()
    return one.secure


@pytest.mark.parametrize(
    ("host", "secure"), [("127.0.0.1", False), ("127.9.9.9", False), ("::1", False), ("localhost", False),
                         ("0.0.0.0", True), ("::", True)]
)  # fmt: skip
def test_what_leads_out_of_this_machine_is_secure(host: str, secure: bool) -> None:
    """A password never crosses a network in the clear, whatever the configuration has; with a certificate, nowhere."""
    assert is_secure(host, always=False) is secure
    assert is_secure(host, always=True)


def test_an_address_that_cannot_be_had_is_told() -> None:
    """With what to do; what was taken already is let go of."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", 0))
            first = free.getsockname()[1]
        said = rf"cannot listen on 127\.0\.0\.1:{port}: in use; stop what listens there, or correct \[webadmin\] listen"
        with pytest.raises(CannotListen, match=said):
            bind([("127.0.0.1", first), ("127.0.0.1", port)], always_secure=False)
        socket.create_server(("127.0.0.1", first)).close()
    with pytest.raises(CannotListen, match=r"cannot listen on nowhere\.invalid:1: .*; correct \[webadmin\] listen"):
        bind([("nowhere.invalid", 1)], always_secure=False)


async def test_both_kinds_are_served_at_once(tmp_path: Path) -> None:
    """HTTP on loopback, HTTPS on the others; each page knows by which it is seen, and who asks."""
    made = self_made(tmp_path, NAMES, datetime.now(UTC))
    plain, secure = bind([("127.0.0.1", 0), ("0.0.0.0", 0)], always_secure=False)
    context = ssl.create_default_context(cafile=made)
    async with served(APP, [plain, secure], lambda: secured(made, made)):
        assert (await get(plain)).endswith("http 127.0.0.1")
        assert (await get(secure, context)).endswith("https 127.0.0.1")
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            assert "HTTP/1.1 200 " in await get(secure)


async def test_http_2_is_spoken_where_the_browser_can(tmp_path: Path) -> None:
    """An open page takes a connection of HTTP/1.1, of which browsers have six; of HTTP/2 one is for all."""
    made = self_made(tmp_path, NAMES, datetime.now(UTC))
    context = ssl.create_default_context(cafile=made)
    context.set_alpn_protocols(["h2", "http/1.1"])
    (bound,) = bind([("127.0.0.1", 0)], always_secure=True)
    async with served(APP, [bound], lambda: secured(made, made)):
        plain = await trio.open_tcp_stream(*bound.sock.getsockname())
        async with trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True) as stream:
            await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            assert stream.selected_alpn_protocol() == "h2"
            settings = await stream.receive_some(9)
            assert settings[3:4] == b"\x04"


# --- stopping -----------------------------------------------------------------------------------------------------


async def test_it_stops_when_it_is_told(tmp_path: Path) -> None:
    """It returns, and its port is free."""
    (bound,) = bind([("127.0.0.1", 0)], always_secure=False)
    port = bound.sock.getsockname()[1]
    async with served(APP, [bound]) as stop:
        assert "HTTP/1.1 200 " in await get(bound)
        stop()
    socket.create_server(("127.0.0.1", port)).close()


async def long(_: Request) -> Response:
    """Answer with more than any connection takes unread."""
    return Response(bytes(64 * 1024 * 1024))


@pytest.mark.parametrize("how", ["told", "cancelled"])
async def test_who_takes_nothing_does_not_keep_it_from_stopping(how: str, autojump_clock: MockClock) -> None:
    """Requests have a moment to be answered; then whatever is still being sent is cut off."""
    (bound,) = bind([("127.0.0.1", 0)], always_secure=False)
    port, stopping = bound.sock.getsockname()[1], trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, Starlette(routes=[Route("/", long)]), [bound], None, stopping)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await stream.receive_some(12) == b"HTTP/1.1 200"
            begun = trio.current_time()
            if how == "told":
                stopping.set()
            else:
                nursery.cancel_scope.cancel()
    assert trio.current_time() - begun <= PARTING + 1
    socket.create_server(("127.0.0.1", port)).close()


# --- how much one may have ----------------------------------------------------------------------------------------


async def is_answered(bound: Bound) -> bool:
    """Tell whether a further connection is served."""
    try:
        return "HTTP/1.1 200 " in await get(bound)
    except trio.BrokenResourceError:
        return False


@pytest.mark.parametrize(
    ("local", "proxies", "answered"), [(True, (), True), (False, ("127.0.0.1",), True), (False, ("127.0.0.3",), False)]
)
async def test_one_host_has_so_many_connections(
    monkeypatch: pytest.MonkeyPatch, local: bool, proxies: tuple[str, ...], answered: bool, mock_clock: MockClock
) -> None:
    """Further ones are refused, others' are not, and the log has it once; over loopback, and a proxy, may have all.

    What he closes he can have again; no time passes here, in which idle ones would end by themselves.
    """
    monkeypatch.setattr(serving, "PER_HOST", 3)
    monkeypatch.setattr(visitors, "is_loopback", lambda address: local and address == "127.0.0.1")
    (bound,) = bind([("127.0.0.1", 0)], always_secure=True)
    bound = Bound(bound.sock, secure=False)
    here = bound.sock.getsockname()
    with capture_logs() as said:
        async with served(APP, [bound], proxies=proxies):
            async with AsyncExitStack() as held:
                for _ in range(3):
                    stream = await held.enter_async_context(await trio.open_tcp_stream(*here))
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    await stream.receive_some()
                assert [await is_answered(bound) for _ in range(2)] == [answered] * 2
                other = await trio.open_tcp_stream(*here, local_address="127.0.0.2")
                async with other:
                    await other.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert (await other.receive_some()).startswith(b"HTTP/1.1 200 ")
            assert any([await is_answered(bound) for _ in range(100)])
    told = [(line["event"].partition(":")[0], line["host"]) for line in said]
    assert told == ([] if answered else [("connections are refused", "127.0.0.1")])


async def test_all_together_have_so_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the files that may be open, at most: the others are for asking the license server."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
    (bound,) = bind([("127.0.0.1", 0)], always_secure=False)
    async with served(APP, [bound]), AsyncExitStack() as held:
        for _ in range(4):
            stream = await held.enter_async_context(await trio.open_tcp_stream(*bound.sock.getsockname()))
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await stream.receive_some()
        assert not await is_answered(bound)


class Scarce:
    """A socket that listens, where the system has no room for the first connections."""

    def __init__(self, sock: socket.socket, *fails: int) -> None:
        self._sock = sock
        self._fails = list(fails)

    def accept(self) -> tuple[socket.socket, object]:
        """Return a connection, or fail. Raises OSError."""
        if self._fails:
            number = self._fails.pop()
            raise OSError(number, os.strerror(number))
        return self._sock.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)


async def test_where_there_is_no_room_connections_wait(autojump_clock: MockClock) -> None:
    """It does not end, and those that stand go on; the log says so once."""
    (bound,) = bind([("127.0.0.1", 0)], always_secure=False)
    fails = (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.ENOBUFS)
    with capture_logs() as said:
        async with served(APP, [Bound(Scarce(bound.sock, *fails), secure=False)]):  # type: ignore[arg-type]
            assert "HTTP/1.1 200 " in await get(bound)
    assert [(line["event"], line["reason"]) for line in said] == [
        ("no connection can be taken", os.strerror(errno.ENOBUFS))
    ]


async def test_the_system_gives_up_who_takes_nothing() -> None:
    """Nobody holds a connection for ever by not reading his answer: each has its listener's time for that."""
    (bound,) = bind([("127.0.0.1", 0)], always_secure=False)
    with bound.sock, socket.create_connection(bound.sock.getsockname()):
        await trio.lowlevel.wait_readable(bound.sock)
        with bound.sock.accept()[0] as taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNREAD * 1_000


async def test_who_does_not_agree_costs_nobody_else_anything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever speaks no TLS, or goes in the middle of it, is no line in the log."""
    made = self_made(tmp_path, NAMES, datetime.now(UTC))
    (bound,) = bind([("127.0.0.1", 0)], always_secure=True)
    async with served(APP, [bound], lambda: secured(made, made)):
        for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b""):
            async with await trio.open_tcp_stream(*bound.sock.getsockname()) as stream:
                await stream.send_all(said)
        assert "HTTP/1.1 200 " in await get(bound, ssl.create_default_context(cafile=made))
    assert caplog.records == []


@pytest.mark.parametrize("gone", [False, True])
async def test_closing_waits_for_nobody(tmp_path: Path, gone: bool, autojump_clock: MockClock) -> None:
    """Neither for who stays and is silent, nor for who is gone; and sending to him fails as the web server knows it."""
    made = self_made(tmp_path, NAMES, datetime.now(UTC))
    here, there = socket.socketpair()
    client = trio.SSLStream(
        trio.SocketStream(trio.socket.from_stdlib_socket(there)),
        ssl.create_default_context(cafile=made),
        server_hostname="localhost",
        https_compatible=True,
    )
    with here, there:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            stream = await serving._Secured.wrap(await SocketStream.from_socket(here), ssl_context=secured(made, made))
        if gone:
            there.shutdown(socket.SHUT_WR)
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await stream.send(b"x")
        with trio.fail_after(LIMIT):  # of a clock that goes on only while nothing else does
            await stream.aclose()
        assert here.fileno() == -1


async def test_a_fault_in_one_connection_ends_that_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the log."""
    real = serving._Http
    faults = [RuntimeError("a bug")]

    class Faulty(real):  # type: ignore[valid-type, misc]
        async def run(self) -> None:
            if faults:
                raise faults.pop()
            await super().run()

    monkeypatch.setattr(serving, "_Http", Faulty)
    (bound,) = bind([("127.0.0.1", 0)], always_secure=False)
    with capture_logs() as said:
        async with served(APP, [bound]):
            assert not await is_answered(bound)
            assert await is_answered(bound)
    assert [line["event"] for line in said] == ["a connection met a fault"]


# --- the certificate ----------------------------------------------------------------------------------------------


def test_a_certificate_is_made_once(tmp_path: Path) -> None:
    """For all names and addresses, this user's alone; it stays the same as long as it is good."""
    before = os.umask(0)
    try:
        path = self_made(tmp_path, NAMES, NOW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    data = path.read_bytes()
    made = x509.load_pem_x509_certificate(data)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"alpha", "localhost"}
    assert set(names.get_values_for_type(x509.IPAddress)) == {
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    }
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert made.not_valid_before_utc < NOW < made.not_valid_after_utc
    assert made.not_valid_after_utc - made.not_valid_before_utc <= timedelta(days=397)
    secured(path, path)
    assert self_made(tmp_path, reversed(NAMES), NOW + timedelta(days=100)).read_bytes() == data
    assert fingerprint(path).replace(":", "").lower() == made.fingerprint(hashes.SHA256()).hex()


@pytest.mark.parametrize(
    ("names", "now"),
    [
        ([*NAMES, "licenses.example"], NOW),
        (NAMES[:2], NOW),
        (NAMES, NOW + LASTS - RENEWED + timedelta(hours=1)),
        (NAMES, NOW - timedelta(days=2)),
    ],
)
def test_a_certificate_that_is_not_good_any_more_is_made_anew(tmp_path: Path, names: list[str], now: datetime) -> None:
    """Another name, its end, a clock that was wrong: browsers would refuse it."""
    before = self_made(tmp_path, NAMES, NOW).read_bytes()
    path = self_made(tmp_path, names, now)
    assert path.read_bytes() != before
    secured(path, path)
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def test_a_damaged_certificate_is_made_anew(tmp_path: Path) -> None:
    """Whatever is in the file: nothing, something else, the key of another one."""
    path = self_made(tmp_path, NAMES, NOW)
    good = path.read_bytes()
    (tmp_path / "other").mkdir()
    other = self_made(tmp_path / "other", NAMES, NOW).read_bytes()
    key = serialization.load_pem_private_key(other, None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    mixed = key.private_bytes(*form) + good[good.index(b"-----BEGIN CERT") :]
    for damaged in (b"", b"\xff\xfe", good[: len(good) // 2], good[good.index(b"-----BEGIN CERT") :], mixed):
        path.write_bytes(damaged)
        self_made(tmp_path, NAMES, NOW)
        secured(path, path)


def test_a_certificate_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """It is tried before anybody is served: what is wrong, and where to correct it."""
    path = self_made(tmp_path, NAMES, NOW)
    (tmp_path / "other").mkdir()
    other = self_made(tmp_path / "other", NAMES, NOW)
    with pytest.raises(CertificateFault, match=r"no certificate and its key: .*; correct \[webadmin\]"):
        secured(path, other)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CertificateFault, match="no certificate and its key"):
        secured(tmp_path / "text", tmp_path / "text")
    with pytest.raises(CertificateFault, match=r"cannot be read: No such file.*; correct \[webadmin\]"):
        secured(tmp_path / "none", path)
    locked = serialization.load_pem_private_key(path.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "locked").write_bytes(
        locked.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    with contextlib.suppress(OSError), pytest.raises(CertificateFault, match="no certificate and its key"):
        secured(path, tmp_path / "locked")


# --- another certificate ------------------------------------------------------------------------------------------


async def shown(bound: Bound) -> bytes:
    """Return the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stream = trio.SSLStream(await trio.open_tcp_stream(*bound.sock.getsockname()[:2]), context, https_compatible=True)
    async with stream:
        await stream.do_handshake()
        octets: bytes = stream.getpeercert(binary_form=True)
        return octets


def in_file(path: Path) -> bytes:
    """Return the certificate of a file as a connection shows it."""
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(serialization.Encoding.DER)


async def test_new_connections_are_shown_the_certificate_that_is_there_by_now(tmp_path: Path) -> None:
    """What is made here is made anew in time while it runs; connections that stand keep what they were shown."""
    now = [datetime.now(UTC)]

    def find() -> tuple[Path, Path]:
        made = self_made(tmp_path, NAMES, now[0])
        return made, made

    certificate = InUse(find)
    first = in_file(tmp_path / FILE)
    context = ssl.create_default_context(cafile=tmp_path / FILE)
    (bound,) = bind([("127.0.0.1", 0)], always_secure=True)
    async with served(APP, [bound], lambda: certificate.context):
        plain = await trio.open_tcp_stream(*bound.sock.getsockname())
        async with trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True) as standing:
            await standing.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await standing.receive_some()).startswith(b"HTTP/1.1 200 ")
            assert not certificate.renew()
            now[0] += LASTS - RENEWED
            assert certificate.renew()
            assert not certificate.renew()
            assert await shown(bound) == in_file(tmp_path / FILE) != first
            await standing.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b"HTTP/1.1 200 " in b"".join([data async for data in standing])


async def test_ones_own_certificate_that_is_another_one_is_taken_up(tmp_path: Path) -> None:
    """And one that cannot be used is not: its files may be half written just then."""
    files = tmp_path / "web.pem", tmp_path / "web.key"

    def put(made: Path) -> None:
        for file in files:
            file.write_bytes(made.read_bytes())

    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        made.append(self_made(tmp_path / name, NAMES, datetime.now(UTC)))
    put(made[0])
    certificate = InUse(lambda: files)
    (bound,) = bind([("127.0.0.1", 0)], always_secure=True)
    async with served(APP, [bound], lambda: certificate.context):
        assert await shown(bound) == in_file(made[0])
        files[0].write_bytes(made[1].read_bytes())
        with pytest.raises(CertificateFault, match="no certificate and its key"):
            certificate.renew()
        assert await shown(bound) == in_file(made[0])
        files[1].unlink()
        with pytest.raises(CertificateFault, match="cannot be read"):
            certificate.renew()
        put(made[1])
        assert certificate.renew()
        assert await shown(bound) == in_file(made[1])
