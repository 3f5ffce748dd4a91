"""What the tests of the daemon's shell share: a service with licenses, clients that speak `protocol.rpc`, a process.

Three ways in, each nearer to the real thing: `Talk` drives a `Conversation` without I/O, `Rig` and `Client` use
`Connection` over a pair of sockets in this process, `Daemon` and `Caller` a real process and blocking sockets.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, cast

import msgpack
import trio
from msgspec import Struct

from cmserverd.answers import Door, Peer
from cmserverd.clock import LicenseClock
from cmserverd.connection import Connection, Pace
from cmserverd.conversation import Conversation
from cmserverd.core.rules import Limits
from cmserverd.engine import Engine, Listener
from cmserverd.logs import Level
from cmserverd.service import Detachment, Introduction, Service
from drivers.container import Container, ContainerKind, FirmItem, ProductItem, QuantityFlag, container_id
from drivers.trust import NOBODY, Trust
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode, Client, HandleKind, Station

R = TypeVar("R", bound=Struct)

LIMIT: Final = float(os.environ.get("PATIENCE", "60"))
"""Seconds after which a test gives up waiting for what must happen."""

MACHINE: Final = "daemons-own-machine"
FIRM: Final = 600010
CHARTS: Final = 14
LOCAL_CHARTS: Final = 15

REMOTE: Final = Peer("192.0.2.7", here=False)
HERE: Final = Peer("127.0.0.1", here=True)
MONITOR: Final = Peer("unix:1000", here=True, door=Door.MONITOR)
CONTROL: Final = Peer("unix:1000", here=True, door=Door.CONTROL)

Said = list[dict[str, Any]]
"""Log lines, as structlog's `capture_logs` gives them."""


# --- licenses, and who asks for them ------------------------------------------------------------------------------


def charts(serial: int = 1, quantity: int = 2, **options: Any) -> Container:
    """Return a container with some licenses of one product."""
    item = ProductItem(1, CHARTS, "Charts", quantity, **options)
    return Container(
        container_id(3, serial), ContainerKind.VIRTUAL, "Demo", (FirmItem(FIRM, "Chart Works", 0, (item,)),)
    )


def local_charts(serial: int = 9) -> Container:
    """Return a container whose product is for the daemon's own machine only."""
    item = ProductItem(1, LOCAL_CHARTS, "Local charts", 0, QuantityFlag.NONE)
    return Container(
        container_id(3, serial), ContainerKind.VIRTUAL, "Local", (FirmItem(FIRM, "Chart Works", 0, (item,)),)
    )


def broken_listener(_: Listener, error: Exception) -> None:
    """Let a listener's bug fail the test."""
    raise error


def make_service(
    *containers: Container,
    limits: Limits | None = None,
    net_info: Literal["auto", "all", "own"] = "auto",
    timeout: float = 120.0,
    clock: LicenseClock | None = None,
    trust: Trust = NOBODY,
) -> Service:
    """Return a service that has started and has these containers plugged in."""
    engine = Engine(clock or LicenseClock(), broken_listener, limits)
    service = Service(engine, Introduction(m.Server("test", "cmserverd", "0"), MACHINE, timeout, net_info), trust)
    for container in containers:
        engine.plug(container)
    engine.started()
    return service


def hello(
    number: int = 1,
    *,
    events: Literal["push", "poll"] = "poll",
    machine: str = "",
    seat: int = 0,
    application: str = "",
    versions: tuple[int, int] = (1, 1),
    host: str = "",
) -> m.Hello:
    """Return the greeting of PC number so-and-so."""
    client = Client(host or f"pc{number}", "user", 100 + number, application)
    return m.Hello(versions, client, Station(machine or f"machine-{number}", seat), events)


def access(
    mode: AccessMode = AccessMode.USER_LIMIT,
    product: int = CHARTS,
    *,
    key: bytes = b"",
    kind: HandleKind = HandleKind.ENTRY,
) -> m.Access:
    """Return a request for a handle."""
    return m.Access(m.AccessKey(key or secrets.token_bytes(16)), FIRM, product, mode, kind)


# --- what comes from the server -----------------------------------------------------------------------------------


class Inbox:
    """Decodes what the server sends: replies by their number, events, the farewell; and all in its order."""

    def __init__(self) -> None:
        self._reader = rpc.Reader(rpc.FROM_SERVER)
        self.order: list[rpc.Message] = []
        self.replies: dict[int, rpc.Response] = {}
        self.events: list[m.Event] = []
        self.farewell: m.ErrorBody | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        for start in range(0, len(data), rpc.CHUNK):
            self._reader.feed(data[start : start + rpc.CHUNK])
            while (message := self._reader.next()) is not None:
                self._take(message)

    def _take(self, message: rpc.Message) -> None:
        self.order.append(message)
        if isinstance(message, rpc.Response):
            assert message.msgid not in self.replies, "answered twice"
            self.replies[message.msgid] = message
            return
        assert isinstance(message, rpc.Notification)
        (body,) = cast("list[object]", message.params)
        if message.method == "goodbye":
            assert self.farewell is None
            self.farewell = rpc.convert(body, m.Farewell).error
        else:
            assert message.method == "event"
            self.events.append(rpc.convert(body, m.Event))

    def take(self, msgid: int, params: m.Params[R]) -> R:
        """Return the result of a request. Raises LicenseError."""
        reply = self.replies.pop(msgid)
        if reply.error is not None:
            raise LicenseError(rpc.convert(reply.error, m.ErrorBody))
        return cast("R", rpc.convert(reply.result, m.RESULTS[type(params)]))


def number_of(error: LicenseError) -> ErrorNumber:
    """Return an error's number, with a name for whoever reads a failed test."""
    return ErrorNumber(error.number)


def request(msgid: object, method: object, *params: object) -> bytes:
    """Return the bytes of any request, a wrong one too."""
    packed = msgpack.packb([0, msgid, method, list(params)])
    assert isinstance(packed, bytes)
    return packed


def wire(params: Struct) -> dict[str, Any]:
    """Return a message's fields as they are on the wire."""
    fields = msgpack.unpackb(rpc.encode_notification("x", params))[2][0]
    assert isinstance(fields, dict)
    return fields


# --- without I/O --------------------------------------------------------------------------------------------------


class Talk:
    """A client that calls a conversation directly."""

    def __init__(
        self,
        service: Service,
        peer: Peer = REMOTE,
        greeting: m.Params[m.Greeting] | None = None,
    ) -> None:
        self.inbox = Inbox()
        self.conversation = Conversation(service, peer)
        self.conversation.flush = self.collect
        self._last = 0
        self.greeting = None if greeting is None else self.ask(greeting)

    @property
    def token(self) -> str:
        """The session's token."""
        assert self.greeting is not None
        return self.greeting.token

    def send(self, data: bytes) -> None:
        """Let bytes arrive, and be answered."""
        self.conversation.receive(data)
        more = True
        while more:
            more = self.conversation.work()
            self.collect()

    def collect(self) -> None:
        """Take what is to be sent."""
        self.inbox.feed(self.conversation.take())

    def ask(self, params: m.Params[R]) -> R:
        """Ask and return the result. Raises LicenseError."""
        self._last += 1
        self.send(rpc.encode_request(self._last, params))
        return self.inbox.take(self._last, params)

    def begin(self, params: m.Params) -> int:
        """Ask without looking for a reply; return the request's number."""
        self._last += 1
        self.send(rpc.encode_request(self._last, params))
        return self._last

    def cut(self, detachment: Detachment = Detachment.CLOSED) -> None:
        """Lose the connection."""
        self.conversation.lost(detachment)


# --- over a pair of sockets ---------------------------------------------------------------------------------------


class AsyncClient:
    """A client on a socket, for trio."""

    def __init__(self, sock: socket.socket) -> None:
        self.inbox = Inbox()
        self.sock = trio.socket.from_stdlib_socket(sock)
        self.ended = False
        self._last = 0

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        await trio.SocketStream(self.sock).send_all(data)

    async def begin(self, params: m.Params) -> int:
        """Ask without waiting for the reply; return the request's number."""
        self._last += 1
        await self.send(rpc.encode_request(self._last, params))
        return self._last

    async def ask(self, params: m.Params[R]) -> R:
        """Ask and return the result. Raises LicenseError."""
        msgid = await self.begin(params)
        await self.until(lambda: msgid in self.inbox.replies)
        return self.inbox.take(msgid, params)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read until a condition holds."""
        with trio.fail_after(100_000):
            while not condition():
                assert not self.ended, f"the server closed: {self.inbox.farewell}"
                await self._read()

    async def until_closed(self) -> m.ErrorBody | None:
        """Read until the server closes; return its farewell, if it said one."""
        with trio.fail_after(100_000):
            while not self.ended:
                await self._read()
        self.sock.close()
        return self.inbox.farewell

    async def _read(self) -> None:
        data = await self.sock.recv(rpc.CHUNK)
        self.ended = not data
        self.inbox.feed(data)

    def close(self) -> None:
        """Close without a word."""
        self.sock.close()


class Rig:
    """Connections in this process."""

    def __init__(self, service: Service, nursery: trio.Nursery, pace: Pace) -> None:
        self.service = service
        self.nursery = nursery
        self.pace = pace
        self.clients: list[AsyncClient] = []

    def connect(self, peer: Peer = REMOTE) -> AsyncClient:
        """Return a client that has connected."""
        ours, theirs = socket.socketpair()
        self.adopt(theirs, peer)
        self.clients.append(AsyncClient(ours))
        return self.clients[-1]

    def adopt(self, sock: socket.socket, peer: Peer = REMOTE) -> Conversation:
        """Serve a socket; return its conversation."""
        sock.setblocking(False)
        conversation = Conversation(self.service, peer)
        self.nursery.start_soon(Connection(sock, conversation, self.pace).run)
        return conversation

    async def client(self, number: int = 1, peer: Peer = REMOTE, **options: Any) -> AsyncClient:
        """Return a client that has connected and greeted."""
        client = self.connect(peer)
        await client.ask(hello(number, **options))
        return client


@asynccontextmanager
async def rig(service: Service, pace: Pace | None = None) -> AsyncGenerator[Rig]:
    """Serve until the end of the block."""
    async with trio.open_nursery() as nursery:
        made = Rig(service, nursery, pace or Pace())
        try:
            yield made
        finally:
            nursery.cancel_scope.cancel()
            for client in made.clients:
                client.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, in real time, whatever trio's clock is."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "what must happen did not happen"
        await trio.to_thread.run_sync(time.sleep, 0.001)


# --- a process ----------------------------------------------------------------------------------------------------


class Caller:
    """A client on a blocking socket."""

    def __init__(self, address: tuple[str, int] | Path) -> None:
        self.inbox = Inbox()
        if isinstance(address, Path):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(LIMIT)
            self.sock.connect(os.fspath(address))
        else:
            self.sock = socket.create_connection(address, timeout=LIMIT)
        self._last = 0

    def ask(self, params: m.Params[R]) -> R:
        """Ask and return the result. Raises LicenseError."""
        self._last += 1
        self.sock.sendall(rpc.encode_request(self._last, params))
        while self._last not in self.inbox.replies:
            assert self._read(), f"the server closed: {self.inbox.farewell}"
        return self.inbox.take(self._last, params)

    def until_closed(self) -> m.ErrorBody | None:
        """Read until the server closes; return its farewell, if it said one."""
        with contextlib.suppress(ConnectionResetError):
            while self._read():
                pass
        return self.inbox.farewell

    def _read(self) -> bool:
        data = self.sock.recv(rpc.CHUNK)
        self.inbox.feed(data)
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.sock.close()


TWO_CHARTS: Final = """
id = "3-1"
text = "Demo"
[[firm_items]]
firm_code = 600010
text = "Chart Works"
[[firm_items.products]]
item = 1
product_code = 14
text = "Charts"
quantity = 2
"""


class Daemon:
    """The command `cmserverd` in a process of its own, with a directory of its own.

    `within` are the words of a command that runs it elsewhere, in the same process.
    """

    def __init__(
        self,
        directory: Path,
        *,
        config: str = "",
        listen: str = "127.0.0.1:0",
        dongle: str | None = TWO_CHARTS,
        level: Level = "info",
        within: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self._within = within
        self.run_directory = directory / "run"
        self.dongle = directory / "dongle.toml"
        if dongle is not None:
            self.dongle.write_text(dongle)
        self.config = directory / "cmserverd.toml"
        self.config.write_text(
            f'[server]\nlisten = ["{listen}"]\nrun_directory = "{self.run_directory}"\n'
            f'state_directory = "{directory / "state"}"\n'
            f'[log]\nformat = "json"\nlevel = "{level}"\n[drivers.virtual]\nfiles = ["{self.dongle}"]\n{config}'
            f'\n[licensors]\n{FIRM} = "unsigned"\n'
        )
        self.lines: Said = []
        self.unstructured: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process."""
        assert self._process is not None
        return self._process

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once it serves."""
        host, _, port = self.said("serving")["listening"][0].rpartition(":")
        return host, int(port)

    @property
    def monitor(self) -> Path:
        """The socket for those who look."""
        return self.run_directory / "monitor.sock"

    @property
    def control(self) -> Path:
        """The socket for those who act."""
        return self.run_directory / "control.sock"

    def start(self, environment: Mapping[str, str] | None = None, files: int | None = None) -> Self:
        """Start it; with `files` it may have no more open."""
        command = [*self._within, sys.executable, "-m", "cmserverd.main", "--config", os.fspath(self.config)]
        if files is not None:
            command = ["/bin/sh", "-c", f'ulimit -n {files} && exec "$@"', "sh", *command]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        return self

    def serve(self, **options: Any) -> Self:
        """Start it and wait until it serves."""
        self.start(**options)
        self.said("serving")
        return self

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._changed:
                try:
                    self.lines.append(json.loads(line))
                except ValueError:
                    self.unstructured.append(line.rstrip("\n"))
                self._changed.notify_all()
        process.stderr.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def all_said(self, event: str) -> Said:
        """Return the log lines so far whose event has this text in it."""
        with self._changed:
            return [line for line in self.lines if event in line["event"]]

    def said(self, event: str, times: int = 1) -> dict[str, Any]:
        """Wait for a log line whose event has this text in it, the so-manieth; return it."""
        with self._changed:
            found = self._changed.wait_for(lambda: len(self.all_said(event)) >= times or self._ended, LIMIT)
        lines = self.all_said(event)
        assert found, (event, self.lines)
        assert len(lines) >= times, (event, self.lines, self.unstructured)
        return lines[times - 1]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.exited()

    def exited(self) -> int:
        """Wait for its end; return the exit code. Afterwards all that it said is there."""
        code = self.process.wait(LIMIT)
        with self._changed:
            assert self._changed.wait_for(lambda: self._ended, LIMIT)
        return code

    def resident(self) -> int:
        """Return its resident memory in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def files(self) -> int:
        """Return how many files it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def kill(self) -> None:
        """Make sure that it is gone."""
        if self._process is not None:
            self._process.kill()
            self.exited()


@contextlib.contextmanager
def ending(*daemons: Daemon) -> Iterator[None]:
    """Kill what still runs at the end of the block."""
    try:
        yield
    finally:
        for daemon in daemons:
            daemon.kill()
