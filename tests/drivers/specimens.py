"""One sound driver in memory, and bad ones with one fault each, which the conformance check must all reject."""

# ruff: noqa: ARG002 - a bad specimen often does not look at what it is given

from __future__ import annotations

import secrets
import threading
from typing import Any

from drivers import image, keys
from drivers.container import ContainerKind, Loan
from drivers.driver import (
    Busy,
    Dongle,
    DriverError,
    Empty,
    Faulty,
    ImageError,
    Purpose,
    ReadOnly,
    Refused,
    Signed,
    Unsupported,
    Vanished,
)
from tests.drivers.chips import CONTAINER, KEYS, chip_on, device_of, flash_of
from tests.drivers.samples import STRANGER_KEY, demo_container

IMAGE = image.encode(demo_container())


class Slot:
    """A place for one dongle. `plugs` counts how often something was plugged in, `holder` has it open."""

    def __init__(self) -> None:
        self.plugged = False
        self.plugs = 0
        self.holder: object | None = None

    def plug(self) -> None:
        self.plugged = True
        self.plugs += 1

    def unplug(self) -> None:
        self.plugged = False


class SoundDevice(ReadOnly):
    """Does everything right."""

    def __init__(self, slot: Slot, plug: int) -> None:
        self._slot = slot
        self._plug = plug
        self._closed = False

    def read(self) -> bytes:
        if self._closed:
            raise DriverError("closed")
        if not self._slot.plugged or self._slot.plugs != self._plug:
            raise Vanished("gone")
        return self.image()

    def image(self) -> bytes:
        return IMAGE

    def close(self) -> None:
        self._closed = True
        if self._slot.holder is self:
            self._slot.holder = None


class SoundDriver:
    """Does everything right."""

    name = "sound"
    device: type[SoundDevice] = SoundDevice

    def __init__(self, slot: Slot) -> None:
        self.slot = slot

    def scan(self) -> frozenset[Dongle]:
        return frozenset({self.dongle()}) if self.slot.plugged else frozenset()

    def dongle(self) -> Dongle:
        return Dongle(self.name, f"plug {self.slot.plugs}", "a sound dongle")

    def open(self, dongle: Dongle) -> SoundDevice:
        if dongle not in self.scan():
            raise Vanished("gone")
        if self.slot.holder is not None:
            raise Busy("somebody has it")
        device = self.device(self.slot, self.slot.plugs)
        self.slot.holder = device
        return device

    def hotplug(self) -> Any:
        return None

    def close(self) -> None:
        pass


# --- devices --------------------------------------------------------------------------------------------------------


class _Remembers(SoundDevice):
    def read(self) -> bytes:
        return IMAGE if not self._closed else super().read()


class _CallsItFaulty(SoundDevice):
    def read(self) -> bytes:
        try:
            return super().read()
        except Vanished as error:
            raise Faulty("broken") from error


class _LeaksItsError(SoundDevice):
    def read(self) -> bytes:
        try:
            return super().read()
        except Vanished as error:
            raise OSError(19, "No such device") from error


class _ReadsWhenClosed(SoundDevice):
    def read(self) -> bytes:
        return IMAGE if self._closed else super().read()


class _ClosesOnce(SoundDevice):
    def close(self) -> None:
        if self._closed:
            raise ValueError("closed already")
        super().close()


class _ClosesLoudly(SoundDevice):
    def close(self) -> None:
        super().close()
        raise Vanished("gone")


class _LetsNobodyIn(SoundDevice):
    def close(self) -> None:
        self._closed = True


class _Garbage(SoundDevice):
    def image(self) -> bytes:
        return IMAGE[:-1]


class _Buffer(SoundDevice):
    def image(self) -> bytes:
        return bytearray(IMAGE)  # type: ignore[return-value] # that is the fault


class _AnotherKind(SoundDevice):
    def image(self) -> bytes:
        return image.encode(demo_container(ContainerKind.VIRTUAL))


class _NotImplemented(SoundDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        raise NotImplementedError


class _SignsAnything(SoundDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        return b"signature"


class _CountsAnything(SoundDevice):
    def consume(self, firm_code: int, reference: int, delta: int, key: bytes, now: int) -> Any:
        raise Faulty("no such item")


class _LendsAnything(SoundDevice):
    def borrow(self, loan: Loan, now: int) -> Any:
        return loan.end


class _TakesAnything(SoundDevice):
    def apply(self, update: bytes) -> Any:
        return None


class _OneThread(SoundDevice):
    def __init__(self, slot: Slot, plug: int) -> None:
        super().__init__(slot, plug)
        self._made_in = threading.current_thread()

    def read(self) -> bytes:
        if threading.current_thread() is not self._made_in:
            raise Faulty("used in another thread")
        return super().read()


class _Speechless(SoundDevice):
    def apply(self, update: bytes) -> Any:
        raise Unsupported


# --- drivers --------------------------------------------------------------------------------------------------------


class _ScanHolds(SoundDriver):
    def scan(self) -> frozenset[Dongle]:
        if self.slot.plugged and self.slot.holder not in {None, self}:
            return frozenset()
        return super().scan()


class _ScanIsBusy(SoundDriver):
    def scan(self) -> frozenset[Dongle]:
        if self.slot.holder is not None:
            raise Busy("cannot open what is there")
        return super().scan()


class _NewKeys(SoundDriver):
    count = 0

    def dongle(self) -> Dongle:
        type(self).count += 1
        return Dongle(self.name, f"key {self.count}", "a dongle")


class _ScansASet(SoundDriver):
    def scan(self) -> frozenset[Dongle]:
        return set(super().scan())  # type: ignore[return-value] # that is the fault


class _NamesAnother(SoundDriver):
    def dongle(self) -> Dongle:
        return Dongle("usb", "1", "a dongle")


class _Clears(SoundDriver):
    def dongle(self) -> Dongle:
        return Dongle(self.name, f"{self.slot.plugs}", "a \x1b[2J dongle")


class _Twins(SoundDriver):
    def scan(self) -> frozenset[Dongle]:
        return super().scan() | {Dongle(each.driver, each.key, "its twin") for each in super().scan()}


class _StillThere(SoundDriver):
    def scan(self) -> frozenset[Dongle]:
        return frozenset({self.dongle()}) if self.slot.plugs else frozenset()


class _SameKey(SoundDriver):
    def dongle(self) -> Dongle:
        return Dongle(self.name, "the only one", "a dongle")


class _OpensTheOld(SoundDriver):
    def open(self, dongle: Dongle) -> SoundDevice:
        if dongle.key.startswith("plug") and self.slot.plugged:
            return super().open(self.dongle())
        return super().open(dongle)


class _KeyError(SoundDriver):
    def open(self, dongle: Dongle) -> SoundDevice:
        devices = {each: self.device(self.slot, self.slot.plugs) for each in self.scan()}
        return devices[dongle]


class _OpensAnything(SoundDriver):
    def open(self, dongle: Dongle) -> SoundDevice:
        return self.device(self.slot, self.slot.plugs)


class Hangs(SoundDriver):
    """Never comes back from `open`, until the test is over."""

    over = threading.Event()

    def open(self, dongle: Dongle) -> SoundDevice:
        self.over.wait()
        return super().open(dongle)


class _LoudClose(SoundDriver):
    def close(self) -> None:
        raise RuntimeError("something is open")


class _NoDescriptor:
    def fileno(self) -> int:
        return -1

    def drain(self) -> bool:
        return False

    def close(self) -> None:
        pass


class _HotplugWithout(SoundDriver):
    def hotplug(self) -> Any:
        return _NoDescriptor()


class _NoWord(_NoDescriptor):
    def fileno(self) -> int:
        return 0

    def drain(self) -> Any:
        return None


class _HotplugNoWord(SoundDriver):
    def hotplug(self) -> Any:
        return _NoWord()


# --- devices that sign and count --------------------------------------------------------------------------------------


class KeyedDevice(SoundDevice):
    """Signs and counts, and does it right."""

    def __init__(self, slot: Slot, plug: int) -> None:
        super().__init__(slot, plug)
        self.chip = chip_on(flash_of())
        self.inner = device_of(self.chip)

    def image(self) -> bytes:
        return self.chip.image

    def sign(self, purpose: Purpose, body: bytes) -> Any:
        return self.inner.sign(purpose, body)

    def consume(self, firm_code: int, reference: int, delta: int, key: bytes, now: int) -> Any:
        return self.inner.consume(firm_code, reference, delta, key, now)

    def apply(self, update: bytes) -> Any:
        return self.inner.apply(update)

    def time(self, now: int) -> Any:
        return self.inner.time(now)

    def nonce(self) -> Any:
        return self.inner.nonce()

    def borrow(self, loan: Loan, now: int) -> Any:
        return self.inner.borrow(loan, now)

    def give_back(self, loan: bytes, signature: bytes, now: int) -> Any:
        return self.inner.give_back(loan, signature, now)


class _SignsTheOld(KeyedDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        return super().sign(purpose, bytes(32) if purpose is Purpose.PRESENCE else body)


class _SignsWithAnother(KeyedDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        signed = super().sign(purpose, body)
        return Signed(signed.message, keys.sign(STRANGER_KEY, signed.message))


class _SignsBare(KeyedDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        return super().sign(purpose, body).signature


class _SignsEverything(KeyedDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        return super().sign(Purpose.PRESENCE, body[:32]) if purpose is Purpose.CRYPT else super().sign(purpose, body)


class _SignsAnotherUse(KeyedDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        return super().sign(purpose, body[:-16] + bytes(16) if purpose is Purpose.CRYPT else body)


class _CertifiesAnotherHash(KeyedDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        return super().sign(purpose, bytes(len(body)) if purpose is Purpose.TRACKING else body)


class _CallsTrackingAFault(KeyedDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        if purpose is Purpose.TRACKING:
            raise Faulty("broken")
        return super().sign(purpose, body)


class _SaysFaulty(KeyedDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        if purpose is Purpose.PRESENCE:
            raise Faulty("broken")
        return super().sign(purpose, body)


class _RefusesWithoutNumber(KeyedDevice):
    def consume(self, firm_code: int, reference: int, delta: int, key: bytes, now: int) -> Any:
        try:
            return super().consume(firm_code, reference, delta, key, now)
        except Refused as error:
            raise Refused(str(error)) from error


class _TakesTwice(KeyedDevice):
    def consume(self, firm_code: int, reference: int, delta: int, key: bytes, now: int) -> Any:
        return super().consume(firm_code, reference, delta, secrets.token_bytes(16), now)


class _TakesNothing(KeyedDevice):
    def consume(self, firm_code: int, reference: int, delta: int, key: bytes, now: int) -> Any:
        return super().consume(firm_code, reference, 0, key, now)


class _CountsOnlyHere(KeyedDevice):
    def consume(self, firm_code: int, reference: int, delta: int, key: bytes, now: int) -> Any:
        return super().consume(firm_code, reference, delta, key[::-1], now)


class _TakesTheRest(KeyedDevice):
    def consume(self, firm_code: int, reference: int, delta: int, key: bytes, now: int) -> Any:
        try:
            return super().consume(firm_code, reference, delta, key, now)
        except Refused as error:
            if error.number == 33:
                super().consume(firm_code, reference, 1, key, now)
            raise


class _OnlyANumber(KeyedDevice):
    def consume(self, firm_code: int, reference: int, delta: int, key: bytes, now: int) -> Any:
        return super().consume(firm_code, reference, delta, key, now).units_left


class _KeepsNothing(KeyedDevice):
    def read(self) -> bytes:
        return super().read() and image.encode(CONTAINER, signing=KEYS)


class _TurnsBack(KeyedDevice):
    floor = 9

    def time(self, now: int) -> Any:
        self.floor = now or self.floor
        return self.floor


class _OneNonce(KeyedDevice):
    def nonce(self) -> Any:
        return bytes(32), 0


# --- empty devices ----------------------------------------------------------------------------------------------------


class EmptyDevice(SoundDevice):
    """Holds no container yet, and says so."""

    def image(self) -> bytes:
        raise Empty("empty; make a container of it")


class _KeepsTime(EmptyDevice):
    def time(self, now: int) -> Any:
        return now


class _LendsEmpty(EmptyDevice):
    def borrow(self, loan: Loan, now: int) -> Any:
        return loan.end


class _TakesBackEmpty(EmptyDevice):
    def give_back(self, loan: bytes, signature: bytes, now: int) -> Any:
        return False


class _SignsEmpty(EmptyDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        return Signed(body, bytes(64))


class _EmptyIsFaulty(EmptyDevice):
    def image(self) -> bytes:
        raise ImageError("there is no image")


class _NothingToRead(EmptyDevice):
    def image(self) -> bytes:
        return b""


def with_device(device: type[SoundDevice]) -> type[SoundDriver]:
    """Return a driver that does everything right, except that its devices are these."""
    return type("DriverOf" + device.__name__, (SoundDriver,), {"device": device})


SPECIMENS: dict[str, tuple[type[SoundDriver], str]] = {
    "gives what it remembers after an unplug": (
        with_device(_Remembers),
        "read of an unplugged container raised nothing",
    ),
    "calls an unplug a fault": (with_device(_CallsItFaulty), "it must raise Vanished"),
    "lets its library's error out": (with_device(_LeaksItsError), "raised OSError.*which is no DriverError"),
    "reads after close": (with_device(_ReadsWhenClosed), "read after close raised nothing"),
    "closes only once": (with_device(_ClosesOnce), "the second close raised ValueError"),
    "raises at close": (with_device(_ClosesLoudly), "close raised Vanished"),
    "keeps it open after close": (with_device(_LetsNobodyIn), "open raised Busy"),
    "gives a damaged image": (with_device(_Garbage), "read gave no sound image"),
    "gives a bytearray": (with_device(_Buffer), "returned a bytearray"),
    "gives another kind": (with_device(_AnotherKind), "says that it is virtual, but this driver's are hardware"),
    "leaves sign unimplemented": (with_device(_NotImplemented), "raised NotImplementedError"),
    "signs for any purpose": (with_device(_SignsAnything), "sign for an unknown loan raised nothing"),
    "calls what it cannot a fault": (with_device(_CountsAnything), "it must raise Unsupported or Refused"),
    "lends what is not there": (with_device(_LendsAnything), "borrow of an unknown item raised nothing"),
    "applies an empty update": (with_device(_TakesAnything), "apply of an empty update raised nothing"),
    "is bound to one thread": (with_device(_OneThread), "used in another thread"),
    "says nothing": (with_device(_Speechless), "without a word about what the operator can do"),
    "misses what is open elsewhere": (_ScanHolds, "opens what it should only look at"),
    "opens what it scans": (_ScanIsBusy, "scan raised Busy"),
    "has new keys each time": (_NewKeys, "scan gives something else each time"),
    "scans a set": (_ScansASet, "returned a set"),
    "names another driver": (_NamesAnother, "needs the driver's name 'sound'"),
    "clears the terminal": (_Clears, "cannot be shown"),
    "finds one key twice": (_Twins, "the same key twice"),
    "still finds what is gone": (_StillThere, "does not show that the container was unplugged"),
    "has one key for all plugs": (_SameKey, "has its old key"),
    "opens what was there before": (_OpensTheOld, "open of what was there before .* raised nothing"),
    "leaks a KeyError": (_KeyError, "raised KeyError"),
    "opens what never was": (_OpensAnything, "open of a container that was never there raised nothing"),
    "raises at its own close": (_LoudClose, "close of the driver raised RuntimeError"),
    "hints without a descriptor": (_HotplugWithout, "has no file descriptor"),
    "hints without a word": (_HotplugNoWord, "must return whether there was a hint"),
}
"""What is wrong, the driver, and what the check must say of it."""

KEYED_SPECIMENS: dict[str, tuple[type[SoundDriver], str]] = {
    "signs another nonce": (with_device(_SignsTheOld), "signed something that it was not asked for"),
    "signs with another key": (with_device(_SignsWithAnother), "signature is not that of its key"),
    "gives the signature alone": (with_device(_SignsBare), "sign returned a bytes; it must return a Signed"),
    "signs for items that are not there": (with_device(_SignsEverything), "sign for an unknown item gave Signed"),
    "signs what another use took": (with_device(_SignsAnotherUse), "signed something that it was not asked for"),
    "certifies another hash": (with_device(_CertifiesAnotherHash), "signed something that it was not asked for"),
    "calls tracking a fault": (with_device(_CallsTrackingAFault), "sign for TRACKING raised Faulty"),
    "signs another count": (with_device(_CountsOnlyHere), "sign for crypt says something else of units"),
    "calls signing a fault": (with_device(_SaysFaulty), "sign for presence raised Faulty"),
    "does not sign at all": (SoundDriver, "does not sign, and so cannot count"),
    "refuses without a number": (with_device(_RefusesWithoutNumber), "must raise Refused with the number 28"),
    "takes twice for one key": (with_device(_TakesTwice), "the same key gave another answer, or took units again"),
    "takes nothing": (with_device(_TakesNothing), "the image shows 0 more used"),
    "takes and refuses": (with_device(_TakesTheRest), "took units and refused"),
    "says only what is left": (with_device(_OnlyANumber), "must return a Used with the units that are left"),
    "shows nothing of it": (with_device(_KeepsNothing), "the image shows 0 more used"),
    "turns the time back": (with_device(_TurnsBack), "time went back"),
    "has one nonce": (with_device(_OneNonce), "the same nonce twice"),
}
"""The same of devices that sign and count."""

EMPTY_SPECIMENS: dict[str, tuple[type[SoundDriver], str]] = {
    "keeps a time": (with_device(_KeepsTime), "time of an empty device raised nothing"),
    "lends": (with_device(_LendsEmpty), "borrow of an empty device raised nothing"),
    "takes back": (with_device(_TakesBackEmpty), "give_back of an empty device raised nothing"),
    "signs": (with_device(_SignsEmpty), "sign of an empty device raised nothing"),
    "calls that a fault": (with_device(_EmptyIsFaulty), "read of an empty device raised ImageError"),
    "gives no bytes": (with_device(_NothingToRead), "read of an empty device raised nothing"),
    "is a container": (SoundDriver, "read of an empty device raised nothing"),
}
"""The same of devices that should be empty."""
