"""A driver whose dongles are plugged, pulled, slowed and broken by the test, and a bench that watches it."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from msgspec import Struct
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd.absences import Absences
from cmserverd.engine import Engine
from cmserverd.service import Service
from cmserverd.watcher import Intervals, Site, Watcher
from drivers import image
from drivers.container import Container
from drivers.driver import (
    CheckCancelled,
    Device,
    Dongle,
    Driver,
    DriverError,
    Hotplug,
    ReadOnly,
    Vanished,
    never_cancelled,
)
from drivers.trust import Trust
from tests.daemon.harness import make_service, until
from tests.drivers.samples import EVERYBODY


@dataclass(eq=False)
class Stick:
    """One dongle: what it holds, and how it misbehaves. While `slow` is set, a read waits for `released`."""

    contents: Container | bytes
    refuses_to_open: Exception | None = None
    refuses_to_read: Exception | None = None
    refuses_to_close: Exception | None = None
    slow: bool = False
    reading: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    opened: int = 0
    closed: int = 0


class FakeDevice(ReadOnly):
    """An open stick."""

    def __init__(self, stick: Stick, check_cancelled: CheckCancelled) -> None:
        self._stick = stick
        self._check_cancelled = check_cancelled
        stick.opened += 1

    def read(self) -> bytes:
        """Return its image, or misbehave."""
        stick = self._stick
        stick.reading.set()
        while stick.slow and not stick.released.wait(0.005):
            self._check_cancelled()
        if stick.refuses_to_read is not None:
            raise stick.refuses_to_read
        return stick.contents if isinstance(stick.contents, bytes) else image.encode(stick.contents)

    def close(self) -> None:
        """Let go of it."""
        self._stick.closed += 1
        if self._stick.refuses_to_close is not None:
            raise self._stick.refuses_to_close


class Hints:
    """Hints over a pipe; `!` is one of this driver's, anything else of another's."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        os.set_blocking(self._read, False)
        self.breaks: Exception | None = None
        self.closed = False

    def fileno(self) -> int:
        """Return the pipe's end."""
        return self._read

    def drain(self) -> bool:
        """Take all hints."""
        if self.breaks is not None:
            raise self.breaks
        try:
            return b"!" in os.read(self._read, 65_536)
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Stop listening."""
        if not self.closed:
            os.close(self._read)
            os.close(self.write)
        self.closed = True


class NoOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No options."""


class FakeDriver:
    """Sticks by the port in which they are. `hints` is its hot-plug source, if it has one."""

    name = "fake"
    Options = NoOptions

    def __init__(self, hints: Hints | None = None, check_cancelled: CheckCancelled = never_cancelled) -> None:
        self.ports: dict[str, Stick] = {}
        self.hints = hints
        self.check_cancelled = check_cancelled
        self.scans = 0
        self.fails: Exception | None = None
        self.no_hints: Exception | None = None
        self.closed = 0

    def scan(self) -> frozenset[Dongle]:
        """Return what is in the ports."""
        self.scans += 1
        if self.fails is not None:
            raise self.fails
        return frozenset(Dongle("fake", f"{port}/{id(stick)}", f"port {port}") for port, stick in self.ports.items())

    def open(self, dongle: Dongle) -> Device:
        """Open a stick."""
        stick = self.ports.get(dongle.key.partition("/")[0])
        if stick is None:
            raise Vanished("gone")
        if stick.refuses_to_open is not None:
            raise stick.refuses_to_open
        return FakeDevice(stick, self.check_cancelled)

    def hotplug(self) -> Hotplug | None:
        """Return the hints."""
        if self.no_hints is not None:
            raise self.no_hints
        return self.hints

    def close(self) -> None:
        """Count it."""
        self.closed += 1


GRACE = 30.0
POLL = 5.0


class Bench:
    """A watcher at work. Its looks are asked for by the test; trio's clock is a mock that only the test moves."""

    def __init__(self, service: Service, driver: FakeDriver, clock: MockClock, nursery: trio.Nursery) -> None:
        self.service = service
        self.engine: Engine = service.engine
        self.driver = driver
        self.clock = clock
        self.nursery = nursery
        self.looked: list[str] = []
        self.watchers: list[Watcher] = []

    async def look(self) -> None:
        """Have the watcher look; return when it has finished a look that began after the call."""
        goal = self.driver.scans + 2  # when the second one begins, the first is done
        while self.driver.scans < goal:
            if self.driver.hints is not None and not self.driver.hints.closed:
                os.write(self.driver.hints.write, b"!")
            else:
                self.clock.jump(POLL)
            await until(_once())
        await wait_all_tasks_blocked()

    async def passes(self, seconds: float) -> None:
        """Let time pass; return when what is due has happened."""
        self.clock.jump(seconds)
        await wait_all_tasks_blocked()

    def containers(self) -> dict[str, bool]:
        """Return the containers that are known, and whether they are there."""
        return {str(name): plugged.present for name, plugged in self.engine.table.containers.items()}


def _once() -> Callable[[], bool]:
    """Return a condition that holds at the second look at it."""
    answers = iter([False])
    return lambda: next(answers, True)


@asynccontextmanager
async def watching(
    clock: MockClock,
    driver: FakeDriver,
    *others: tuple[str, Driver],
    grace: float = GRACE,
    intervals: Intervals | None = None,
    trust: Trust = EVERYBODY,
    service: Service | None = None,
) -> AsyncGenerator[Bench]:
    """Watch a driver, and perhaps others, until the end of the block, for a new service or the one that is given."""
    service = service or make_service(trust=trust)
    async with trio.open_nursery() as nursery:
        bench = Bench(service, driver, clock, nursery)
        site = Site(service.engine, service.devices, Absences(service.engine, grace, nursery))
        for name, each in (("fake", driver), *others):
            watcher = Watcher(name, each, site, intervals or Intervals(POLL, 0.0))
            bench.watchers.append(watcher)
            nursery.start_soon(watcher.run, bench.looked.append)
        try:
            yield bench
        finally:
            nursery.cancel_scope.cancel()


def each_fault() -> list[DriverError]:
    """Return one error of each class that a driver may raise."""
    found, known = [], [DriverError]
    while known:
        kind = known.pop()
        known += kind.__subclasses__()
        if kind is not Vanished and kind.__module__ == "drivers.driver":
            found.append(kind(f"{kind.__name__}: do something about it."))
    return found
