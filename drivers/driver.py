"""The driver interface: what whoever writes a driver implements (`docs/drivers.md` has the how).

A driver is made of blocking functions, so that its author need not know trio; the daemon's watcher calls each driver
in threads of that driver's own, and never two functions of one device at once.

The contract of the constructor (`DriverClass`): the daemon makes each driver as `cls(options, check_cancelled)`.
`options` is an instance of the class's attribute `Options`, a frozen `msgspec.Struct` that refuses unknown fields;
it is made of the table `[drivers.<name>]` of the configuration. `check_cancelled` is to be called between the short
steps of whatever takes long, in the thread that called `open` or the device's function: it raises if the operation is
to be abandoned, and what it raises must be let through. The constructor touches no device; it raises `DriverError` if
its options cannot work.

The error tree; each class is one thing for the operator to do:

    DriverError            something about a driver or a device went wrong
      Vanished             unplugged; plugging it in again cures it
      NoPermission         the daemon may not open it: group, udev rule or DeviceAllow
      Busy                 another process has it claimed
      NoAnswer             it does not answer in time
      Faulty               it answers, but not as the protocol says: stalls, wrong lengths, a damaged image
        ImageError         what it holds is no sound container image
      Empty                it is sound, and nobody has made a container of it yet
      Unsupported          it cannot do what was asked
      Refused              it can, and says no: no such item, nothing left, an old update; it has the field's number
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NoReturn, Protocol, runtime_checkable

from msgspec import Struct

from drivers.container import Loan


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


class ImageError(Faulty):
    """What a device holds, or what should be written to one, is no sound container image."""


class Empty(DriverError):
    """The device holds no container yet; whoever programs containers can make one of it."""


class Unsupported(DriverError):
    """The device cannot do what was asked."""


class Refused(DriverError):
    """The container will not do what was asked. `number` is the field's error number (domain reference, section 7)."""

    def __init__(self, text: str, number: int = 104) -> None:
        super().__init__(text)
        self.number = number


class Purpose(IntEnum):
    """For what a container signs; it composes each statement itself (decision 3)."""

    PRESENCE = 1
    CRYPT = 2
    REQUEST = 3
    BORROW = 4
    TRACKING = 5


class Signed(Struct, frozen=True):
    """What a container composed, and its signature over that."""

    message: bytes
    signature: bytes


class Used(Struct, frozen=True):
    """What is left after a use: units, None for an item without; and since when it is used (Unix seconds, 0: not).

    For a key that the container knew, `units_left` is what was left then. `usage_start`, and `units_used`, how many
    units of the item are used, are always the present ones.
    """

    units_left: int | None
    usage_start: int
    units_used: int


class Dongle(Struct, frozen=True):
    """A place where a container is: what a scan finds, before anything is opened.

    `key` is the same as long as the device stays plugged in, and another after it was plugged in again where the
    driver can tell. `text` is for people.
    """

    driver: str
    key: str
    text: str


class Device(Protocol):
    """An open device. Any method but `close` may raise `DriverError`; all but `read` and `close` may be `Unsupported`.

    Each method may be called in another thread than the one before, but never two at once. Once the device is
    unplugged every method but `close` raises `Vanished`; once it is closed, some `DriverError`.
    """

    def read(self) -> bytes:
        """Return the container's image (`drivers.image.parse` takes it apart); its kind is the driver's own."""
        ...

    def sign(self, purpose: Purpose, body: bytes) -> Signed:
        """Have the container sign what it composes for this purpose (`drivers.statement` has what is asked).

        What it composed was checked, and its signature verified with the public key in the image.
        """
        ...

    def consume(self, firm_code: int, reference: int, delta: int, key: bytes, now: int) -> Used:
        """Take `delta` units of an item, 0 for none, and begin its usage period if it has one.

        `now` is license time in Unix seconds; the container's time floor is raised to it. `key` has 16 bytes: the
        container remembers its last 64, and the same key never takes twice. Zeros are no key, and do for 0 units.
        """
        ...

    def apply(self, update: bytes) -> None:
        """Apply a signed update (`drivers.update`), wholly or not at all; once more, it raises Refused 229."""
        ...

    def time(self, now: int) -> int:
        """Raise the container's time floor to a license time, 0 to leave it; return it (Unix seconds)."""
        ...

    def nonce(self) -> tuple[bytes, int]:
        """Return a fresh nonce of 32 bytes for a certified time, and the time floor; the container keeps both."""
        ...

    def borrow(self, loan: Loan, now: int) -> int:
        """Write a loan into the container's ledger, or a later end of one that is there; return the end in force.

        `now` is license time in Unix seconds. The same again changes nothing. Raises Refused: 226 if the licensor does
        not allow it, or the ledger is full.
        """
        ...

    def give_back(self, loan: bytes, signature: bytes, now: int) -> bool:
        """Strike the loan with this id off the ledger; its holder signed that. Return whether it was on it."""
        ...

    def close(self) -> None:
        """Let go of the device; never raises, and may be called again."""
        ...


class ReadOnly:
    """The part of a device that can only be read: derive from it and add `read` and `close`."""

    # ruff: noqa: ARG002 - the interface's names

    def sign(self, purpose: Purpose, body: bytes) -> NoReturn:
        """Raise `Unsupported`."""
        msg = "This container cannot sign; ask its licensor for one that can."
        raise Unsupported(msg)

    def consume(self, firm_code: int, reference: int, delta: int, key: bytes, now: int) -> NoReturn:
        """Raise `Unsupported`."""
        msg = "This container cannot count what is used; ask its licensor for one that can."
        raise Unsupported(msg)

    def apply(self, update: bytes) -> NoReturn:
        """Raise `Unsupported`."""
        msg = "This container cannot be updated."
        raise Unsupported(msg)

    def time(self, now: int) -> NoReturn:
        """Raise `Unsupported`."""
        msg = "This container keeps no time; ask its licensor for one that does."
        raise Unsupported(msg)

    def nonce(self) -> NoReturn:
        """Raise `Unsupported`."""
        msg = "This container keeps no time that could be certified; ask its licensor for one that does."
        raise Unsupported(msg)

    def borrow(self, loan: Loan, now: int) -> NoReturn:
        """Raise `Unsupported`."""
        msg = "This container keeps no ledger of what is borrowed; ask its licensor for one that does."
        raise Unsupported(msg)

    def give_back(self, loan: bytes, signature: bytes, now: int) -> NoReturn:
        """Raise `Unsupported`."""
        msg = "This container keeps no ledger of what is borrowed; nothing of it can be given back."
        raise Unsupported(msg)


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
        """Let go of everything; the devices have been closed before."""
        ...


@runtime_checkable
class Checkable(Protocol):
    """What a driver has besides, if what it reads can be looked at without touching a device: files, that is.

    `cmserverd --check-config` calls it on a driver that was only made, and outside the daemon's threads:
    `check_cancelled` must not be called.
    """

    def check(self) -> list[DriverError]:
        """Return what is wrong. `Vanished` is what is not there yet: only a warning, for it may come."""
        ...


CheckCancelled = Callable[[], None]
"""Called between the short steps of a long operation; raises if the operation is to be abandoned."""


class DriverClass(Protocol):
    """What an entry point names: a driver's class, or anything that is called like one."""

    @property
    def Options(self) -> type[Struct]:  # noqa: N802 - a class, so named like one
        """The driver's part of the configuration: a `Struct` with frozen, kw_only and forbid_unknown_fields."""
        ...

    def __call__(self, options: Any, check_cancelled: CheckCancelled, /) -> Driver:
        """Make the driver; `options` is an `Options`. Raises `DriverError` if they cannot work."""
        ...


def never_cancelled() -> None:
    """Be the `CheckCancelled` of whoever cannot be cancelled, such as a plain script."""
