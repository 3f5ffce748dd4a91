"""Dongles that misbehave, a bus that refuses, and the hands that plug them in: faults that no product code has."""

# ruff: noqa: ARG002 - a dongle that misbehaves often does not look at what it is given

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import usb.core

from drivers import image
from drivers.chip.chip import Memory
from drivers.container import Container
from drivers.driver import CheckCancelled, Dongle, never_cancelled
from drivers.usb.backend import Handle, InProcessBackend, Plugged
from drivers.usb.driver import UsbDriver, UsbOptions
from drivers.usb.firmware import Firmware, Stall
from tests.drivers.samples import demo_container

PATIENCE = 30.0
"""Seconds after which a test gives up waiting for what must happen."""


def hardware(container: Container | None = None) -> bytes:
    """Return the image of a hardware dongle."""
    return image.encode(container or demo_container())


def driver_on(
    bus: InProcessBackend, check_cancelled: CheckCancelled = never_cancelled, timeout: float = 2.0
) -> UsbDriver:
    """Return a driver for this bus, made as the daemon makes it, except for the bus."""
    return UsbDriver(UsbOptions(timeout=timeout), check_cancelled, backend=bus)


def only(driver: UsbDriver) -> Dongle:
    """Return the one dongle that a scan finds."""
    (dongle,) = driver.scan()
    return dongle


class Silent(Firmware):
    """Takes commands and never answers. `asked` is set once the host waits for a reply."""

    def __init__(self, image: bytes, answered: int = 0) -> None:
        super().__init__(Memory(image))
        self.asked = threading.Event()
        self._answered = answered

    def answer(self, frame: bytes) -> bytes:
        self._answered -= 1
        return super().answer(frame) if self._answered >= 0 else b""

    def in_packet(self, endpoint: int) -> bytes | None:
        packet = super().in_packet(endpoint)
        if packet is None:
            self.asked.set()
        return packet


class Plain(Firmware):
    """A dongle that can only be read."""

    def __init__(self, image: bytes) -> None:
        super().__init__(Memory(image))


class Deaf(Plain):
    """Takes nothing."""

    def out_packet(self, endpoint: int, packet: bytes) -> bool:
        return False


class Answering(Firmware):
    """Answers what `answer_with` makes of the right answer."""

    def __init__(self, image: bytes, answer_with: Callable[[bytes], bytes]) -> None:
        super().__init__(Memory(image))
        self._answer_with = answer_with

    def answer(self, frame: bytes) -> bytes:
        return self._answer_with(super().answer(frame))


class Stalling(Firmware):
    """Stalls the reply to each of the first commands, `times` in all."""

    def __init__(self, image: bytes, times: int) -> None:
        super().__init__(Memory(image))
        self.times = times

    def in_packet(self, endpoint: int) -> bytes | None:
        if self.times > 0:
            self.times -= 1
            self._halt()
        return super().in_packet(endpoint)


class Dribbling(Firmware):
    """Holds the first few packets back until it was asked a second time, so that reads end in the middle of a reply."""

    def __init__(self, image: bytes) -> None:
        super().__init__(Memory(image))
        self._asked = 0

    def in_packet(self, endpoint: int) -> bytes | None:
        self._asked += 1
        return None if self._asked in {1, 3, 5, 7} else super().in_packet(endpoint)


class Empty(Plain):
    """Sends packets without anything in them, for ever."""

    def in_packet(self, endpoint: int) -> bytes | None:
        return b""


class Ignorant(Plain):
    """Does not know our request to discard, as other people's devices do not."""

    def control(self, request_type: int, request: int, value: int, index: int, length: int) -> bytes:
        if request_type == 0x41:
            raise Stall
        return super().control(request_type, request, value, index, length)


class Stranger(Plain):
    """Another device with the same test ids: its interface is none of ours."""

    def control(self, request_type: int, request: int, value: int, index: int, length: int) -> bytes:
        answer = super().control(request_type, request, value, index, length)
        if (request_type, request, value) == (0x80, 6, 0x0200):
            return answer.replace(b"\xff\x43\x01", b"\xff\x00\x00")
        return answer


class Refusing(InProcessBackend):
    """A bus on which nothing can be opened. `number` is the error, as libusb gives it."""

    def __init__(self, code: int, number: int) -> None:
        super().__init__()
        self._refusal = (code, number)

    def open_device(self, dev: Plugged) -> Handle:
        code, number = self._refusal
        raise usb.core.USBError("refused", code, number)


ACCESS_DENIED = (-3, errno.EACCES)
IN_A_SANDBOX = (-1, errno.EIO)


class Counting(InProcessBackend):
    """Counts the handles that are open, and how many ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.open_handles = 0
        self.opened = 0

    def open_device(self, dev: Plugged) -> Handle:
        handle = super().open_device(dev)
        self.open_handles += 1
        self.opened += 1
        return handle

    def close_device(self, dev_handle: Handle) -> None:
        super().close_device(dev_handle)
        self.open_handles -= 1
