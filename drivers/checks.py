"""The conformance check: what the daemon relies on in every driver, tried on one. For authors of drivers.

Give it a way to make the driver, and a way to plug one container in and to take it out again; in a test of your own,
on real hardware too. It never changes what is in the container, unless you name an item whose units it may take.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, NoReturn, TypeVar

from drivers import image, statement
from drivers.container import ContainerKind, check_text
from drivers.driver import (
    Device,
    Dongle,
    Driver,
    DriverError,
    Empty,
    Faulty,
    ImageError,
    Purpose,
    Refused,
    Signed,
    Unsupported,
    Used,
    Vanished,
)
from drivers.firm_item import Owner
from drivers.trust import Trust

_T = TypeVar("_T")
NO_ITEM: Final = 28
UNDERRUN: Final = 33
_SCANS: Final = 20
_PATIENCE: Final = 60.0
"""Seconds after which a function that has not returned is taken to hang."""


class NonConforming(AssertionError):
    """The driver breaks its contract; the message says where."""


def check_driver(
    make_driver: Callable[[], Driver],
    plug: Callable[[], None],
    unplug: Callable[[], None],
    *,
    kind: ContainerKind,
    tells_replug: bool = True,
    spend: tuple[int, int] | None = None,
) -> None:
    """Raise NonConforming unless the driver does what the daemon relies on.

    `make_driver` makes the driver as the daemon would, and is called twice. `plug` and `unplug` put one container in
    and take it out, and return once the system has seen it; it is out at the start and at the end. Containers of
    `kind` are what the driver gives. With `tells_replug` false, a container that was out and in again may have the
    same key. `spend` is the firm code and the reference of an item with three units or more, of which the check takes
    two; with it the container must sign and count. Each function of the driver is called in a thread of its own.
    """
    driver, other = make_driver(), make_driver()
    before = _scan(driver)
    _check_hotplug(driver)
    _check_stranger(driver)

    plug()
    dongle = _check_appeared(driver, before)
    _check_scans(driver, before | {dongle})
    with _opened(driver, dongle) as device:
        _check_beside_open(other, dongle)
        _check_contents(device, kind)
        _check_refusals(device)
        if _signs(device):
            _check_signing(device)
        elif spend is not None:
            _fail("it does not sign, and so cannot count")
        if spend is not None:
            _check_counting(device, *spend)
    with _opened(other, dongle) as device:  # closed is closed: somebody else can have it
        _call(device.read, "read after opening again")

    with _opened(driver, dongle) as device:
        unplug()
        if _scan(driver) != before:
            _fail("scan does not show that the container was unplugged")
        _expect((Vanished,), device.read, "read of an unplugged container")
    _expect((Vanished,), lambda: driver.open(dongle), "open of an unplugged container")

    plug()
    again = _check_appeared(driver, before)
    if tells_replug:
        if again.key == dongle.key:
            _fail(f"after being plugged in again the container has its old key {again.key!r}")
        _expect(
            (Vanished,), lambda: driver.open(dongle), "open of what was there before the container was plugged in anew"
        )
    with _opened(driver, again) as device:
        _call(device.read, "read after plugging in again")
    unplug()
    for each in (driver, other):
        _call(each.close, "close of the driver")


def check_empty(make_driver: Callable[[], Driver], plug: Callable[[], None], unplug: Callable[[], None]) -> None:
    """Raise NonConforming unless the driver does what the daemon relies on with a device that holds no container yet.

    The same as of `check_driver`, whose `plug` puts in a sound one. It is still empty afterwards.
    """
    driver = make_driver()
    before = _scan(driver)
    plug()
    dongle = _check_appeared(driver, before)
    _check_scans(driver, before | {dongle})
    for _ in range(2):
        with _opened(driver, dongle) as device:
            _expect((Empty,), device.read, "read of an empty device")
            _check_does_nothing(device)
            _expect((Empty,), device.read, "the second read of an empty device")
    with _opened(driver, dongle) as device:
        unplug()
        _expect((Vanished,), device.read, "read of an unplugged device that was empty")
    if _scan(driver) != before:
        _fail("scan does not show that the empty device was unplugged")
    _call(driver.close, "close of the driver")


def _check_does_nothing(device: Device) -> None:
    """It has no key, no item and no clock."""
    no = (Empty, Unsupported)
    _expect(no, lambda: device.sign(Purpose.PRESENCE, bytes(statement.NONCE_LENGTH)), "sign of an empty device")
    _expect(no, lambda: device.consume(1, 1, 0, bytes(16), 0), "consume of an empty device")
    _expect(no, lambda: device.time(0), "time of an empty device")
    _expect(no, device.nonce, "nonce of an empty device")
    _expect((*no, ImageError), lambda: device.apply(b""), "apply of an empty update")


def _fail(what: str) -> NoReturn:
    raise NonConforming(f"The driver breaks its contract: {what}.")


def _outcome(function: Callable[[], _T], what: str) -> _T | DriverError:
    """Return what a function returns, or the DriverError it raises; it is called in a thread of its own."""
    outcomes: list[_T | BaseException] = []

    def run() -> None:
        try:
            outcomes.append(function())
        except BaseException as error:
            outcomes.append(error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if not outcomes:
        _fail(f"{what} did not return within {_PATIENCE:.0f} s")
    outcome = outcomes[0]
    if isinstance(outcome, BaseException) and not isinstance(outcome, DriverError):
        msg = f"The driver breaks its contract: {what} raised {outcome!r}, which is no DriverError."
        raise NonConforming(msg) from outcome
    return outcome


def _call(function: Callable[[], _T], what: str) -> _T:
    outcome = _outcome(function, what)
    if isinstance(outcome, DriverError):
        msg = f"The driver breaks its contract: {what} raised {outcome!r}."
        raise NonConforming(msg) from outcome
    return outcome


def _expect(expected: tuple[type[DriverError], ...], function: Callable[[], object], what: str) -> None:
    words = " or ".join(each.__name__ for each in expected)
    outcome = _outcome(function, what)
    if not isinstance(outcome, DriverError):
        _fail(f"{what} raised nothing; it must raise {words}")
    if not isinstance(outcome, expected):
        msg = f"The driver breaks its contract: {what} raised {outcome!r}; it must raise {words}."
        raise NonConforming(msg) from outcome
    if not str(outcome):
        _fail(f"{what} raised {words} without a word about what the operator can do")


def _scan(driver: Driver) -> frozenset[Dongle]:
    found = _call(driver.scan, "scan")
    if not isinstance(found, frozenset):
        _fail(f"scan returned a {type(found).__name__}; it must return a frozenset of Dongle")
    for dongle in found:
        if dongle.driver != driver.name or not dongle.key:
            _fail(f"scan found {dongle!r}, which needs the driver's name {driver.name!r} and a key")
        try:
            check_text(dongle.text)
        except ValueError as error:
            _fail(f"scan found {dongle!r}, which cannot be shown: {error}")
    if len({dongle.key for dongle in found}) != len(found):
        _fail("scan found the same key twice")
    return found


def _check_scans(driver: Driver, expected: frozenset[Dongle]) -> None:
    for _ in range(_SCANS):
        if _scan(driver) != expected:
            _fail("scan gives something else each time, though nothing was plugged in or out")


def _check_appeared(driver: Driver, before: frozenset[Dongle]) -> Dongle:
    new = _scan(driver) - before
    if len(new) != 1:
        _fail(f"scan shows {len(new)} new containers after one was plugged in")
    return next(iter(new))


def _check_stranger(driver: Driver) -> None:
    stranger = Dongle(driver.name, "never there", "container that was never there")
    _expect((Vanished,), lambda: driver.open(stranger), "open of a container that was never there")


def _check_hotplug(driver: Driver) -> None:
    hotplug = _call(driver.hotplug, "hotplug")
    if hotplug is None:
        return
    try:
        if _call(hotplug.fileno, "fileno of the hotplug") < 0:
            _fail("the hotplug has no file descriptor")
        if not isinstance(_call(hotplug.drain, "drain of the hotplug"), bool):
            _fail("drain of the hotplug must return whether there was a hint")
    finally:
        _call(hotplug.close, "close of the hotplug")


@contextmanager
def _opened(driver: Driver, dongle: Dongle) -> Iterator[Device]:
    """Open a device, and check at the end that it closes; after a failure just close it."""
    device = _call(lambda: driver.open(dongle), "open")
    try:
        yield device
    except BaseException:
        with suppress(Exception):
            device.close()
        raise
    _check_close(device)


def _check_beside_open(other: Driver, dongle: Dongle) -> None:
    """A scan that opens what it finds loses what somebody else has open; a second open may fail, but leaves nothing."""
    if dongle not in _scan(other):
        _fail("scan does not show a container that is open elsewhere, so it opens what it should only look at")
    second = _outcome(lambda: other.open(dongle), "open of a container that is open elsewhere")
    if not isinstance(second, DriverError):
        _call(second.close, "close of a second opening")


def _check_contents(device: Device, kind: ContainerKind) -> None:
    octets = _call(device.read, "read")
    if type(octets) is not bytes:
        _fail(f"read returned a {type(octets).__name__}; it must return bytes")
    try:
        container = image.parse(octets, Trust()).container
    except ImageError as error:
        msg = f"The driver breaks its contract: read gave no sound image. {error}"
        raise NonConforming(msg) from error
    if container.kind is not kind:
        _fail(f"its container says that it is {container.kind}, but this driver's are {kind}")
    if _call(device.read, "the second read") != octets:
        _fail("a second read gave another image")


def _check_refusals(device: Device) -> None:
    """A purpose, an item and an update that exist nowhere: whoever can sign or count must say that he cannot this."""
    _expect((Unsupported,), lambda: device.sign(Purpose.TRACKING, bytes(32)), "sign for a reserved purpose")
    _expect((Unsupported, Refused), lambda: device.consume(0, 0, 0, bytes(16), 0), "consume of an unknown item")
    _expect((Unsupported, ImageError), lambda: device.apply(b""), "apply of an empty update")


def _signs(device: Device) -> bool:
    outcome = _outcome(lambda: device.sign(Purpose.PRESENCE, bytes(32)), "sign for presence")
    if isinstance(outcome, DriverError) and not isinstance(outcome, Unsupported):
        msg = f"The driver breaks its contract: sign for presence raised {outcome!r}."
        raise NonConforming(msg) from outcome
    return not isinstance(outcome, DriverError)


def _check_signing(device: Device) -> None:
    """Whoever signs says what he was asked, with the key in the image, and nothing of items that are not there."""
    owner = _image(device).owner
    nonces = [bytes([number]) * statement.NONCE_LENGTH for number in (1, 2)]
    for purpose in (Purpose.PRESENCE, Purpose.REQUEST):
        for nonce in nonces:
            signed = _call(partial(device.sign, purpose, nonce), f"sign for {purpose.name}")
            _check_statement(purpose, nonce, owner, signed)
    body = statement.crypt_body(nonces[0], 0, 0, 0, 1, secrets.token_bytes(16))
    _expect_refused(NO_ITEM, lambda: device.sign(Purpose.CRYPT, body), "sign for an unknown item")
    _expect_refused(NO_ITEM, lambda: device.consume(0, 0, 0, bytes(16), 0), "consume of an unknown item")
    floor = _call(lambda: device.time(0), "time")
    if _call(lambda: device.time(max(0, floor - 1)), "time of the past") != floor:
        _fail("time went back, or changed without being told to")


def _check_counting(device: Device, firm_code: int, reference: int) -> None:
    """Each use is taken once: a repeated key takes nothing, and the image shows what was taken."""

    def used() -> int:
        items = _image(device).state.items
        return sum(item.units_used for item in items if (item.firm_code, item.reference) == (firm_code, reference))

    def take(units: int, key: bytes) -> Callable[[], Used]:
        return lambda: device.consume(firm_code, reference, units, key, 0)

    before, keys = used(), (secrets.token_bytes(16), secrets.token_bytes(16))
    first = _call(take(1, keys[0]), "consume")
    if type(first) is not Used or first.units_left is None:
        _fail(f"consume of one unit returned {first!r}; it must return a Used with the units that are left")
    if used() != before + 1:
        _fail(f"after one unit was taken, the image shows {used() - before} more used")
    for _ in range(2):
        if _call(take(1, keys[0]), "consume with the same key") != first or used() != before + 1:
            _fail("consume with the same key gave another answer, or took units again")
    second = _call(take(1, keys[1]), "consume with another key")
    if second.units_left != first.units_left - 1 or used() != before + 2:
        _fail("consume with another key did not take one unit more")
    for key, units, left in ((keys[0], 1, first.units_left), (secrets.token_bytes(16), 0, second.units_left)):
        if _signed_counts(device, firm_code, reference, key) != statement.Counts(units, left, second.usage_start):
            _fail("sign for crypt says something else of units and usage than consume did")
    _expect_refused(UNDERRUN, take(second.units_left + 1, secrets.token_bytes(16)), "consume of more than is left")
    if used() != before + 2:
        _fail("consume took units and refused")
    if _call(device.nonce, "nonce")[0] == _call(device.nonce, "nonce")[0]:
        _fail("nonce gave the same nonce twice")


def _signed_counts(device: Device, firm_code: int, reference: int, key: bytes) -> statement.Counts:
    body = statement.crypt_body(secrets.token_bytes(statement.NONCE_LENGTH), firm_code, reference, 0, 1, key)
    signed = _call(lambda: device.sign(Purpose.CRYPT, body), "sign for crypt")
    _check_statement(Purpose.CRYPT, body, _image(device).owner, signed)
    return statement.counts(signed)


def _check_statement(purpose: Purpose, body: bytes, owner: Owner, signed: Signed) -> None:
    if type(signed) is not Signed:
        _fail(f"sign returned a {type(signed).__name__}; it must return a Signed")
    try:
        statement.check(purpose, body, owner, signed)
    except Faulty as error:
        msg = f"The driver breaks its contract: sign returned what it should have refused. {error}"
        raise NonConforming(msg) from error


def _image(device: Device) -> image.Image:
    return image.parse(_call(device.read, "read"), Trust())


def _expect_refused(number: int, function: Callable[[], object], what: str) -> None:
    outcome = _outcome(function, what)
    if not isinstance(outcome, Refused) or outcome.number != number:
        _fail(f"{what} gave {outcome!r}; it must raise Refused with the number {number}")


def _check_close(device: Device) -> None:
    _call(device.close, "close")
    _call(device.close, "the second close")
    _expect((DriverError,), device.read, "read after close")
