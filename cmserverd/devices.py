"""The open devices: who has a question for one waits his turn, and nobody else waits.

A dongle is slow and answers one at a time. So what is asked of it is asked in a thread of its driver's, in turns
(`cmserverd.turns`); grants are decided in memory and never ask a device.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeVar

import structlog
import trio

from cmserverd.core.borrowing import Lending
from cmserverd.core.refusal import Refused
from cmserverd.turns import OWN, Turns
from cmserverd.wear import USES, Wear
from drivers import driver
from drivers.container import Container, ContainerId, Loan, mask_and_serial
from drivers.driver import Device, Vanished
from drivers.firm_item import SealedItem
from drivers.image import Image
from drivers.trust import Trust
from protocol.errors import ErrorNumber

T = TypeVar("T")

_log = structlog.get_logger("devices")

QUEUE: Final = 256
"""How many questions of one address may wait for a device: at 20 ms each, as long as a client's patience lasts."""


class Call(Protocol):
    """Calls a function of a driver's in a thread; it raises DriverError and nothing else."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Call it."""
        ...


class OpenDevice:
    """A device that was read, and what it held then.

    `floor` is the license time that it is known to know of. `doubtful`: it may hold something else by now, and is to
    be read anew; `doubted` is called when that should be soon. `writing` are the loans that are on their way into its
    ledger.
    """

    def __init__(self, device: Device, image: Image, floor: int, call: Call, doubted: Callable[[], None]) -> None:
        self.container = image.container.id
        self.image = image
        self.floor = floor
        self.doubtful = False
        self.writing: list[Lending] = []
        self._device = device
        self._call = call
        self._doubted = doubted
        self._turns = Turns()
        self._closed = False

    @property
    def believed(self) -> bool:
        """Whether any licensor who is believed here has a part in the container: else it is anybody's own making."""
        return is_believed(self.image.container)

    @property
    def loans(self) -> tuple[Loan, ...]:
        """What is lent of it: its ledger as it was read."""
        return self.image.state.loans

    @property
    def on_the_way(self) -> frozenset[bytes]:
        """The ids of the loans on their way into its ledger, which count already: new ones, and those asked again."""
        return frozenset(one.loan.id for one in self.writing)

    @property
    def has_key(self) -> bool:
        """Whether it can sign."""
        return bool(self.image.owner.key_algorithm)

    @property
    def waiting(self) -> int:
        """How many questions wait for their turn."""
        return self._turns.waiting

    def waiting_of(self, asker: str) -> int:
        """Return how many of them are of one asker."""
        return self._turns.waiting_of(asker)

    async def ask(self, question: Callable[[Device], T], asker: str = OWN) -> T:
        """Ask the device when it is the asker's turn. Raises DriverError."""
        async with self._turns.turn(asker):
            if self._closed:
                msg = "The container was unplugged."
                raise Vanished(msg)
            return await self._call(lambda: question(self._device))

    def failed(self, error: driver.DriverError) -> None:
        """It could not answer, for a reason that may lie in itself: it is read anew soon, or opened anew."""
        if not self.doubtful:
            _log.warning("container failed; it is read anew", container=self.container, reason=str(error))
        self.doubtful = True
        self._doubted()

    async def close(self) -> None:
        """Close the device once the question that is being answered is; who waits is too late. Raises DriverError."""
        self._closed = True
        async with self._turns.turn(OWN):
            await self._call(self._device.close)


class Devices:
    """The device of each container that is there.

    `trust` says which licensors are believed, `wear` how often clients may have ledgers written, `uses` how often they
    may have units taken.
    """

    def __init__(self, trust: Trust) -> None:
        self.trust = trust
        self.wear = Wear(trio.current_time)
        self.uses = Wear(trio.current_time, USES)
        self._open: dict[ContainerId, OpenDevice] = {}
        self._lending: dict[bytes, trio.Lock] = {}

    @asynccontextmanager
    async def alone(self, loan: bytes) -> AsyncGenerator[None]:
        """Wait until nobody else who came before is lending with this id, and be the only one until the block ends.

        What is charged and reserved for a request would be wrong as soon as another one with its id, which was decided
        on before, comes to nothing.
        """
        lock = self._lending.setdefault(loan, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():  # who waits has it by now
                self._lending.pop(loan, None)

    def believe(self, trust: Trust) -> None:
        """Believe others from now on: every container is read anew at its driver's next look."""
        self.trust = trust
        for opened in self._open.values():
            opened.doubtful = True

    def add(self, opened: OpenDevice) -> None:
        """A container is there. It takes the place of another one with its id."""
        self._open[opened.container] = opened

    def has(self, opened: OpenDevice) -> bool:
        """Whether a container is still there, and none is in its place."""
        return self._open.get(opened.container) is opened

    def remove(self, opened: OpenDevice) -> None:
        """A container is gone."""
        if self.has(opened):
            del self._open[opened.container]

    def floor(self) -> int:
        """Return the latest license time that a believed container knows of; 0 if there is none."""
        return max((opened.floor for opened in self._open.values() if opened.believed), default=0)

    def witnesses(self) -> list[ContainerId]:
        """Return the containers whose signatures count: believed, and with a key. The first is drawn on first."""
        able = (opened.image.container.id for opened in self._open.values() if opened.believed and opened.has_key)
        return sorted(able, key=mask_and_serial)

    def keys(self) -> tuple[bytes, ...]:
        """Return the public keys of those."""
        return tuple(self.find(container).image.owner.key for container in self.witnesses())

    def find(self, container: ContainerId) -> OpenDevice:
        """Return a container's device. Raises Refused: 70 if it is not there."""
        opened = self._open.get(container)
        if opened is None:
            raise Refused(ErrorNumber.BOX_LOST)
        return opened

    def sealed(self, container: ContainerId, firm_code: int) -> SealedItem:
        """Return a firm item as its licensor signed it. Raises Refused: 70 if the container is not there."""
        return self.find(container).image.sealed[firm_code]

    async def ask(self, container: ContainerId, question: Callable[[Device], T], asker: str = OWN) -> T:
        """Ask a container's device, for a client at an address, or else for the server itself or its operator.

        Raises Refused with the number of what it says, or of what is wrong with it.
        """
        opened = self.find(container)
        if asker != OWN and opened.waiting_of(asker) >= QUEUE:
            raise Refused(ErrorNumber.BOX_BUSY, f"{QUEUE} requests of {asker} wait for container {container}")
        try:
            return await opened.ask(question, asker)
        except driver.DriverError as error:
            refused = refusal(error)
            if refused.number == ErrorNumber.COMMAND_FAILED:
                opened.failed(error)
            raise refused from error


def is_believed(contents: Container) -> bool:
    """Whether a firm item of a container is believed."""
    return any(not firm_item.unusable for firm_item in contents.firm_items)


_FAULTS: Final = (
    (Vanished, ErrorNumber.BOX_LOST),
    (driver.NoAnswer, ErrorNumber.BOX_BUSY),
    (driver.Busy, ErrorNumber.BOX_BUSY),
    (driver.Unsupported, ErrorNumber.NOT_SUPPORTED),
)


def refusal(error: driver.DriverError) -> Refused:
    """Return a device's error as the client is told it."""
    if isinstance(error, driver.Refused):
        return Refused(ErrorNumber(error.number), str(error).rstrip("."))
    number = next((number for kind, number in _FAULTS if isinstance(error, kind)), ErrorNumber.COMMAND_FAILED)
    return Refused(number, str(error).rstrip("."))
