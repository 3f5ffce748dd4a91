"""Chips to test with: what they hold, flashes that lose their power, and devices that reach them without a bus."""

from __future__ import annotations

from drivers import image, wire
from drivers.chip.banks import program
from drivers.chip.chip import Chip
from drivers.chip.flash import ERASED, LATEST, SECTOR, Layout, MemoryFlash
from drivers.container import Allowance, Borrowing, Container, ContainerKind, FirmItem, ProductItem, container_id
from drivers.device import ChipDevice
from drivers.image import SigningKeys
from drivers.trust import Trust
from drivers.wire import Command
from tests.drivers import older
from tests.drivers.samples import CONTAINER_KEY, FIRM_CODE, LICENSOR, LICENSOR_KEY, STRANGER_KEY

NOW = 1_800_000_000
OTHER_CODE = 600011

MONTH = 30 * 86_400

PLAIN = ProductItem(1, 14, "Chart Processing", 2, borrowing=Borrowing(MONTH))
COUNTED = ProductItem(2, 15, "Reports", units=Allowance(10, 1))
TIMED = ProductItem(3, 16, "Trial", usage=Allowance(3600, 1), units=Allowance(5))
FIRM = FirmItem(FIRM_CODE, "Chart Works", 7, (PLAIN, COUNTED, TIMED))
OTHER = FirmItem(OTHER_CODE, "Other", 1)
CONTAINER = Container(
    container_id(3, 3448482), ContainerKind.HARDWARE, "Demo", (FIRM, FirmItem(OTHER_CODE, "Other", 1))
)
KEYS = SigningKeys(CONTAINER_KEY, {FIRM_CODE: LICENSOR_KEY, OTHER_CODE: STRANGER_KEY})
BELIEVED = Trust({FIRM_CODE: LICENSOR})


class PowerCut(Exception):
    """The flash has no power."""


class Flash(MemoryFlash):
    """Counts its writes, and notes which sectors it erased. After `left` more writes it loses its power.

    `torn` is how many bytes of the write then are done. It keeps to what a flash can do: nothing is written over.
    """

    def __init__(self, layout: Layout = LATEST) -> None:
        super().__init__(layout)
        self.writes = 0
        self.erased: list[int] = []
        self.left = -1
        self.torn = 0

    def write(self, sector: int, octets: bytes) -> None:
        """Write a sector, or a part of it."""
        assert len(octets) == SECTOR
        self._put(sector, 0, octets)
        self.erased.append(sector)

    def add(self, sector: int, at: int, octets: bytes) -> None:
        """Write where it is erased, or a part of that."""
        there = self.read(sector)[at : at + len(octets)]
        assert there == ERASED * len(octets), "what is not erased cannot be written"
        self._put(sector, at, octets)

    def _put(self, sector: int, at: int, octets: bytes) -> None:
        if self.left == 0:
            super().add(sector, at, octets[: self.torn])
            raise PowerCut
        self.left -= 1
        self.writes += 1
        super().add(sector, at, octets)

    def copy(self) -> Flash:
        """Return another one with the same bytes and full power."""
        other = Flash(self.layout)
        other._sectors = list(self._sectors)
        return other


TORN = (0, 1, 40, SECTOR // 2, SECTOR)
"""How much of a sector a cut may leave written: nothing, or all of it just as well."""


def flash_of(container: Container = CONTAINER, keys: SigningKeys = KEYS, layout: Layout = LATEST) -> Flash:
    """Return a flash with this container in it."""
    flash = Flash(layout)
    program(flash, (image if layout is LATEST else older).encode(container, signing=keys))
    flash.writes = 0
    flash.erased.clear()
    return flash


def chip_on(flash: Flash) -> Chip:
    """Return the chip that starts on this flash."""
    return Chip(flash, CONTAINER_KEY)


def device_of(chip: Chip, kind: ContainerKind = ContainerKind.HARDWARE) -> ChipDevice:
    """Return a device that reaches the chip by a call."""

    def exchange(command: Command, payload: bytes) -> bytes:
        status, answer = chip.answer(command, payload)
        wire.check_status(command, status)
        return answer

    return ChipDevice(exchange, kind)


def parsed(chip: Chip) -> image.Image:
    """Return what the chip's image holds."""
    return image.parse(chip.image, BELIEVED)


def item(chip: Chip, reference: int) -> ProductItem:
    """Return a product item of the chip's first firm item."""
    return next(each for each in parsed(chip).container.firm_items[0].products if each.reference == reference)
