"""The driver interface: what whoever writes a driver implements (`docs/drivers.md` has the how).

A driver is made of blocking functions, so that its author need not know trio; the daemon's watcher calls each driver
in threads of that driver's own, and never two functions of one device at once.

The error tree; each class is one thing for the operator to do:

    DriverError            something about a driver or a device went wrong
      Vanished             unplugged; plugging it in again cures it
      NoPermission         the daemon may not open it: group, udev rule or DeviceAllow
      Busy                 another process has it claimed
      NoAnswer             it does not answer in time
      Faulty               it answers, but not as the protocol says: stalls, wrong lengths, a damaged image
      Unsupported          it cannot do what was asked
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct


class DriverError(Exception):
    """Something about a driver or a device went wrong. The message says what the operator can do."""


class Vanished(DriverError):
    """The device was unplugged."""


class NoPermission(DriverError):
    """The daemon may not open the device."""


class Busy(DriverError):
    """Another process has the device."""


class NoAnswer(DriverError):
    """The device does not answer in time."""


class Faulty(DriverError):
    """The device answers against its protocol, or what it holds is damaged."""


class Unsupported(DriverError):
    """The device cannot do what was asked."""


class Dongle(Struct, frozen=True):
    """A place where a container is: what a scan finds, before anything is opened.

    `key` is the same as long as the device stays plugged in, and another after it was plugged in again where the
    driver can tell. `text` is for people.
    """

    driver: str
    key: str
    text: str


class Device(Protocol):
    """An open device. Any method may raise `DriverError`; all but `read` and `close` may be `Unsupported`."""

    def read(self) -> bytes:
        """Return the container's image (decode it with `drivers.image.decode`)."""
        ...

    def sign(self, purpose: str, challenge: bytes) -> bytes:
        """Return the container's signature over what the device composes for this purpose."""
        ...

    def consume(self, item: tuple[int, int], delta: int, key: bytes) -> int:
        """Take units of (firm code, item reference); return what is left. The same key never takes twice."""
        ...

    def apply(self, update: bytes) -> None:
        """Apply a signed update, wholly or not at all."""
        ...

    def close(self) -> None:
        """Let go of the device; never raises."""
        ...


class Hotplug(Protocol):
    """A source of hints that something was plugged in or out."""

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable when there is a hint."""
        ...

    def drain(self) -> bool:
        """Take the hints that are there, without blocking; return whether any concerns this driver."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class Driver(Protocol):
    """A kind of container; registered by entry point (group `cmserverd.drivers`), made by calling it with options."""

    name: str

    def scan(self) -> frozenset[Dongle]:
        """Return what is plugged in now. Cheap; opens nothing."""
        ...

    def open(self, dongle: Dongle) -> Device:
        """Open a device that a scan found; may take a second."""
        ...

    def hotplug(self) -> Hotplug | None:
        """Return a source of plug and unplug hints, or None: then the daemon just scans at intervals."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


CheckCancelled = Callable[[], None]
"""Called between the short steps of a long operation; raises if the operation is to be abandoned."""
