"""The web server over real sockets: what is HTTPS, the certificate, how it stops, and that many cannot end it."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anycorn
import anyio
import pytest
import trio
from anycorn.utils import LifespanFailureError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from cmserverd.webadmin import serving
from cmserverd.webadmin.certificates import FILE, LASTS, RENEWED, CertificateFault, check, fingerprint, self_made
from cmserverd.webadmin.serving import Bound, CannotListen, bind, serve
from tests.daemon.harness import LIMIT

NOW = datetime(2027, 1, 1, tzinfo=UTC)
NAMES = ["alpha", "localhost", "127.0.0.1", "::1"]


async def scheme(request: Request) -> Response:
    assert request.client is not None
    return PlainTextResponse(f"{request.scope['scheme']} {request.client.host}")


APP = Starlette(routes=[Route("/", scheme)])


@asynccontextmanager
async def served(
    app: Starlette, bound: list[Bound], certificate: tuple[Path, Path] | None = None
) -> AsyncGenerator[Callable[[], None]]:
    """Serve until the end of the block; give what stops it before."""
    stopping = trio.Event()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, app, bound, certificate, stopping)
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
    async with served(APP, [plain, secure], (made, made)):
        assert (await get(plain)).endswith("http 127.0.0.1")
        assert (await get(secure, context)).endswith("https 127.0.0.1")
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            assert "HTTP/1.1 200 " in await get(secure)


# --- stopping -----------------------------------------------------------------------------------------------------


async def test_it_stops_when_it_is_told(tmp_path: Path) -> None:
    """It returns, and its port is free."""
    (bound,) = bind([("127.0.0.1", 0)], always_secure=False)
    port = bound.sock.getsockname()[1]
    async with served(APP, [bound]) as stop:
        assert "HTTP/1.1 200 " in await get(bound)
        stop()
    socket.create_server(("127.0.0.1", port)).close()


async def test_whoever_cancels_it_has_it_stop_in_order() -> None:
    """It is told instead, and waited for: cancelled itself, the web server would raise."""
    asked = trio.Event()

    async def endless(_: Request) -> Response:
        async def forever() -> AsyncGenerator[bytes]:
            yield b"x"
            asked.set()
            await trio.sleep_forever()

        return StreamingResponse(forever())

    (bound,) = bind([("127.0.0.1", 0)], always_secure=False)
    port = bound.sock.getsockname()[1]
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as outer:
            outer.start_soon(serve, Starlette(routes=[Route("/", endless)]), [bound], None, trio.Event())
            async with trio.open_nursery() as inner:
                inner.start_soon(get, bound)
                await asked.wait()
                outer.cancel_scope.cancel()
    socket.create_server(("127.0.0.1", port)).close()


async def test_many_connections_do_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file is left, accepting fails: the web server gives up, and is begun anew, and then it serves."""
    monkeypatch.setattr(serving, "PAUSE", 0.0)
    fails = [errno.EMFILE, errno.ENFILE]
    real = anycorn.serve

    async def failing(*arguments: object, **named: object) -> None:
        if fails:
            config = arguments[1]
            for text in config.bind:  # type: ignore[attr-defined]
                os.close(int(text.removeprefix("fd://")))
            number = fails.pop()
            try:
                raise OSError(number, os.strerror(number))
            except OSError as cause:
                broken = anyio.BrokenResourceError()
                broken.__cause__ = cause
            raise ExceptionGroup("", [ExceptionGroup("", [broken]), LifespanFailureError("shutdown", "cancelled")])
        await real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(anycorn, "serve", failing)
    (bound,) = bind([("127.0.0.1", 0)], always_secure=False)
    with capture_logs() as said:
        async with served(APP, [bound]):
            assert "HTTP/1.1 200 " in await get(bound)
    assert [line["event"] for line in said] == ["no connection could be taken; there are too many"] * 2


async def test_another_fault_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever does not go away by itself ends it, so that somebody hears of it."""

    async def failing(*_: object, **__: object) -> None:
        raise ExceptionGroup("", [OSError(errno.EBADF, "Bad file descriptor")])

    monkeypatch.setattr(anycorn, "serve", failing)
    (bound,) = bind([("127.0.0.1", 0)], always_secure=False)
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        await serve(APP, [bound], None, trio.Event())
    assert bound.sock.fileno() == -1


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
    check(path, path)
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
    check(path, path)
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
        check(path, path)


def test_a_certificate_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """It is tried before anybody is served: what is wrong, and where to correct it."""
    path = self_made(tmp_path, NAMES, NOW)
    (tmp_path / "other").mkdir()
    other = self_made(tmp_path / "other", NAMES, NOW)
    with pytest.raises(CertificateFault, match=r"no certificate and its key: .*; correct \[webadmin\]"):
        check(path, other)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CertificateFault, match="no certificate and its key"):
        check(tmp_path / "text", tmp_path / "text")
    with pytest.raises(CertificateFault, match=r"cannot be read: No such file.*; correct \[webadmin\]"):
        check(tmp_path / "none", path)
    locked = serialization.load_pem_private_key(path.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "locked").write_bytes(
        locked.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    with contextlib.suppress(OSError), pytest.raises(CertificateFault, match="no certificate and its key"):
        check(path, tmp_path / "locked")
