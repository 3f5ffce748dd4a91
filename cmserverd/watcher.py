"""Watches one driver: what is plugged in is read and given to the engine, what is pulled out is missed.

The policy is here, so that a driver need only scan, open and read: when to look (a hot-plug hint, else at intervals),
what to do about a device that cannot be read, or is still empty (say once why, try again at the next look). Every call
into the driver that may block is made in a thread of the driver's own limiter. A driver is somebody's plug-in: whatever
it raises hurts its own containers, and neither the others nor the clients.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import islice
from typing import TypeVar

import structlog
import trio
from msgspec import Struct

from cmserverd.absences import Absences
from cmserverd.devices import Devices, OpenDevice, is_believed
from cmserverd.engine import Engine
from drivers import presence
from drivers.container import Container
from drivers.driver import Device, Dongle, Driver, DriverError, Empty, Faulty, Hotplug, Vanished
from drivers.image import Image
from drivers.trust import Trust

T = TypeVar("T")

_log = structlog.get_logger("watcher")

_THREADS = 8
"""How many devices of one driver are opened and read at once."""

_LINES = 16
"""How many lines of the log tell what of one container cannot be used: anybody's stick could have hundreds."""


class Intervals(Struct, frozen=True):
    """Seconds: `poll` between two looks, `settle` from a hot-plug hint to the look, `check` between two proofs.

    A container is told the license time each `keep_time`: the flash of a dongle bears a hundred thousand writes or so.
    It is told at the end too, if `keep_at_stop` has passed since.
    """

    poll: float = 5.0
    settle: float = 0.2
    check: float = 45.0
    keep_time: int = 3_600
    keep_at_stop: int = 60


class Site(Struct, frozen=True):
    """Where the watchers of all drivers bring what they find: the engine, the open devices, what is missing."""

    engine: Engine
    devices: Devices
    absences: Absences


class Watcher:
    """Looks after one driver."""

    def __init__(self, name: str, driver: Driver, site: Site, intervals: Intervals) -> None:
        self._name = name
        self._driver = driver
        self._site = site
        self._engine = site.engine
        self._absences = site.absences
        self._intervals = intervals
        self._limiter = trio.CapacityLimiter(_THREADS)
        self._hotplug: Hotplug | None = None
        self._pause = trio.CancelScope()  # the one between this look and the next
        self._hastened = -math.inf  # when a look was last made early
        self._open: dict[Dongle, OpenDevice] = {}
        self._kept = site.engine.clock.now()
        self._checked = trio.current_time()
        self._trouble: str | None = None  # why the driver itself cannot work
        self._said: dict[Dongle, str] = {}  # the last complaint about each device
        self._log = _log.bind(driver=name)

    async def run(self, looked: Callable[[str], None]) -> None:
        """Watch for ever; call `looked` with the driver's name after the first look."""
        try:
            # First listen, then look: what is plugged in between is seen twice rather than never.
            await self._listen()
            await self._look()
            looked(self._name)
            while True:
                await self._wait()
                await self._look()
                if trio.current_time() >= self._checked + self._intervals.check:
                    self._checked = trio.current_time()
                    await self._check()
        finally:
            with trio.CancelScope(shield=True):
                await self._close_all()

    async def _listen(self) -> None:
        try:
            self._hotplug = await self._call(self._driver.hotplug)
        except DriverError as error:
            self._log.warning("driver hears of no plug; it looks at intervals", reason=str(error), exc_info=_bug(error))

    async def _wait(self) -> None:
        """Wait for a hint, for a container that fails, or for the next look at intervals."""
        self._pause.deadline = trio.current_time() + min(self._intervals.poll, self._intervals.check)
        with self._pause:
            if self._hotplug is not None:
                await self._hint(self._hotplug)
            else:
                await trio.sleep_forever()
        self._pause = trio.CancelScope()

    def _doubted(self) -> None:
        """Look at once; if that was done a moment ago, the next look will do: who fails always is not asked always."""
        now = trio.current_time()
        if now >= self._hastened + self._intervals.poll:
            self._hastened = now
            self._pause.cancel()

    async def _hint(self, hotplug: Hotplug) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(hotplug.fileno())
                if hotplug.drain():
                    break
                await trio.sleep(self._intervals.settle)  # other devices may chatter without end
            # One plug gives several hints: look once they have ceased.
            await trio.sleep(self._intervals.settle)
            hotplug.drain()
        except Exception as error:
            self._log.warning("driver hears of no plug any more; it looks at intervals", exc_info=error)
            self._hotplug = None
            await self._close(self._call(hotplug.close))

    async def _look(self) -> None:
        try:
            found = await self._call(lambda: frozenset(self._driver.scan()))
        except DriverError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._log.error("driver cannot work", **_facts(error))
            return
        if self._trouble is not None:
            self._trouble = None
            self._log.info("driver works again")
        for dongle in [dongle for dongle in self._said if dongle not in found]:
            del self._said[dongle]
        for dongle, opened in tuple(self._open.items()):
            if dongle not in found or not self._site.devices.has(opened):
                await self._unplugged(dongle)
            elif opened.doubtful:
                await self._read_anew(dongle, opened)
        async with trio.open_nursery() as nursery:
            for dongle in sorted(found - self._open.keys(), key=lambda dongle: dongle.key):
                nursery.start_soon(self._plugged, dongle)

    async def _unplugged(self, dongle: Dongle) -> None:
        gone = self._open.pop(dongle)
        if self._site.devices.has(gone):  # else another one is in its place
            self._site.devices.remove(gone)
            self._log.info("container pulled out", container=gone.container, place=dongle.text)
            self._absences.begin(gone.container, gone.image.owner.key)
        await self._close(gone.close())

    async def _read_anew(self, dongle: Dongle, opened: OpenDevice) -> None:
        """Find out what a container holds after an update, a use or a loan of which it is not known what became of it.

        Nothing is written: it may be the disk that is full.
        """
        opened.doubtful = False
        try:
            read, floor = await opened.ask(lambda device: _read(device, self._site.devices.trust, now=0))
            if read.owner != opened.image.owner:
                msg = "The container became another one; have it exchanged."
                raise Faulty(msg)
        except DriverError as error:
            self._complain(dongle, error)
            await self._unplugged(dongle)
            return
        opened.image, opened.floor = read, floor
        if not self._site.devices.has(opened):  # another one took its place meanwhile
            return
        self._engine.plug(read.container, opened.loans, opened.on_the_way)
        self._log.info("container was read anew", container=opened.container, place=dongle.text)
        self._tell_unusable(read.container)

    async def _check(self) -> None:
        """Have each container prove that it is still the one that was read, and keep the license time.

        One that cannot is not believed any more: it counts as pulled out until it can be read again.
        """
        now = self._engine.clock.now()
        keep = now >= self._kept + self._intervals.keep_time
        if keep:
            self._kept = now
        for dongle, opened in tuple(self._open.items()):
            try:
                opened.floor = await opened.ask(partial(_prove, opened.image, now if keep else 0))
            except DriverError as error:
                if self._open.get(dongle) is opened:
                    self._complain(dongle, error)
                    await self._unplugged(dongle)

    async def _plugged(self, dongle: Dongle) -> None:
        try:
            device = await self._call(lambda: self._driver.open(dongle))
        except DriverError as error:
            self._complain(dongle, error)
            return
        taken = False
        now = self._engine.clock.now()
        try:
            read, floor = await self._call(lambda: _read(device, self._site.devices.trust, now))
            taken = self._take(dongle, OpenDevice(device, read, floor, self._call, self._doubted))
        except DriverError as error:
            self._complain(dongle, error)
        finally:
            if not taken:
                with trio.CancelScope(shield=True):
                    await self._close(self._call(device.close))

    def _take(self, dongle: Dongle, opened: OpenDevice) -> bool:
        contents = opened.image.container
        if why := self._goes_before(opened):
            self._complain(dongle, DriverError(why))
            return False
        self._said.pop(dongle, None)
        self._open[dongle] = opened
        self._site.devices.add(opened)
        self._absences.end(contents.id)
        if opened.believed:  # anybody can make a container, with any time in it
            self._engine.clock.raise_to(opened.floor)
        self._engine.plug(contents, opened.loans)
        self._log.info("container plugged in", container=contents.id, kind=contents.kind.value, place=dongle.text)
        self._tell_unusable(contents)
        return True

    def _goes_before(self, opened: OpenDevice) -> str:
        """Return why another container with the same id goes before this one, as a sentence; empty if none does.

        Anybody can give a container of his own any id: he must not shut out the one that licensors made.
        """
        known = self._engine.table.containers.get(opened.container)
        if known is None:
            return ""
        believed = is_believed(known.contents)
        if known.present:
            if believed or not opened.believed:
                return f"Container {opened.container} is here already; the second one is not used."
            self._log.warning("container takes the place of one with its id", container=opened.container)
            return ""
        key = self._absences.key(opened.container)
        same = opened.believed if key is None else opened.image.owner.key == key
        if believed and not same:
            return (
                f"Container {opened.container} is missing, and this is another one with its id; "
                "it is not used before that one is given up."
            )
        return ""

    def _tell_unusable(self, contents: Container) -> None:
        """Say what of a container cannot be used, and why; of a great many only the first."""
        unusable = _unusable(contents)
        for event, facts in islice(unusable, _LINES):
            self._log.warning(event, container=contents.id, **facts)
        if left := sum(1 for _ in unusable):
            self._log.warning("and more that cannot be used; its contents show all", container=contents.id, count=left)

    def _complain(self, dongle: Dongle, error: DriverError) -> None:
        """Say what is wrong, once as long as it stays the same. What just vanished is no complaint."""
        if isinstance(error, Vanished) or self._said.get(dongle) == str(error):
            return
        self._said[dongle] = str(error)
        if isinstance(error, Empty):  # nothing is wrong with it; a later look finds what it became
            self._log.warning("nothing to serve there yet", **_facts(error), place=dongle.text)
        else:
            self._log.error("container cannot be used", **_facts(error), place=dongle.text)

    async def _close_all(self) -> None:
        now = self._engine.clock.now()
        keep = now >= self._kept + self._intervals.keep_at_stop
        for opened in self._open.values():
            self._site.devices.remove(opened)
            if keep:
                await self._keep_time(opened, now)
            await self._close(opened.close())
        if self._hotplug is not None:
            await self._close(self._call(self._hotplug.close))
        await self._close(self._call(self._driver.close))

    async def _keep_time(self, opened: OpenDevice, now: int) -> None:
        """Tell a container the license time once more: else whoever stops the daemon often enough stops the time."""
        try:
            await opened.ask(partial(_told, opened.image, now))
        except DriverError as error:
            self._log.warning("container could not be told the time", container=opened.container, **_facts(error))

    async def _close(self, closing: Awaitable[None]) -> None:
        try:
            await closing
        except DriverError as error:  # against the contract, but there is nothing to be done about it
            self._log.warning("driver cannot close", reason=str(error), exc_info=_bug(error))

    async def _call(self, function: Callable[[], T]) -> T:
        """Call the driver in a thread. Raises DriverError; any other exception is a bug, and becomes one."""
        try:
            return await trio.to_thread.run_sync(function, limiter=self._limiter)
        except DriverError:
            raise
        except Exception as bug:
            raise DriverBug(f"The driver has a bug ({bug!r}); report it to its author.") from bug


def _read(device: Device, trust: Trust, now: int) -> tuple[Image, int]:
    """Return what a device holds, once it has proven to be what it says, and the license time that it knows of.

    It keeps `now` as that, unless it is 0.
    """
    read = presence.read(device, trust)
    return read, _told(read, now, device)


def _prove(read: Image, now: int, device: Device) -> int:
    """Have a container that has a key prove that it is there; return the license time it knows.

    It keeps `now` as that, unless it is 0. What was `read` may be older than what it holds. Raises DriverError.
    """
    if read.owner.key_algorithm:
        presence.prove(device)
    return _told(read, now, device)


def _told(read: Image, now: int, device: Device) -> int:
    """Return the license time that a container knows of, 0 if it cannot: `now` if that is later. Raises DriverError."""
    return device.time(now) if read.owner.key_algorithm else 0


def _unusable(contents: Container) -> Iterator[tuple[str, dict[str, object]]]:
    """Return of what cannot be used what the log tells: the event, and the facts."""
    for firm_item in contents.firm_items:
        where: dict[str, object] = {"firm_code": firm_item.firm_code}
        if firm_item.unusable:
            yield "firm item is not believed", {**where, "reason": firm_item.unusable}
        for item in firm_item.products:
            if item.unusable:
                found = {"product_code": item.product_code, "item": item.reference, "reason": item.unusable}
                yield "license cannot be used", {**where, **found}


class DriverBug(DriverError):
    """The driver raised what no driver may."""


def _facts(error: DriverError) -> dict[str, object]:
    """Return what the log tells of an error."""
    return {"kind": type(error).__name__, "reason": str(error), "exc_info": _bug(error)}


def _bug(error: DriverError) -> BaseException | None:
    """Return the exception whose traceback the driver's author needs, if it is a bug."""
    return error.__cause__ if isinstance(error, DriverBug) else None
