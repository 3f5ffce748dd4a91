"""The conformance check: what the daemon relies on in every driver, tried on one. For authors of drivers.

Give it a way to make the driver, and a way to plug one container in and to take it out again; in a test of your own,
on real hardware too. It never changes what is in the container, unless you name an item whose units it may
take; a license that it borrows it gives back.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from drivers import image, statement
from drivers.check_loans import check_lending
from drivers.container import ContainerKind, Loan, check_text
from drivers.driver import (
    Device,
    Dongle,
    Driver,
    DriverError,
    Empty,
    ImageError,
    Purpose,
    Refused,
    Unsupported,
    Used,
    Vanished,
)
from drivers.trust import Trust
from drivers.trying import NonConforming as NonConforming
from drivers.trying import call, check_statement, expect, expect_refused, fail, image_of, tried

NO_ITEM: Final = 28
UNDERRUN: Final = 33
_SCANS: Final = 20
_NO_LOAN: Final = Loan(b"nobody's loan...", 0, 0, 1, 1, bytes(32))


def check_driver(
    make_driver: Callable[[], Driver],
    plug: Callable[[], None],
    unplug: Callable[[], None],
    *,
    kind: ContainerKind,
    tells_replug: bool = True,
    spend: tuple[int, int] | None = None,
    lend: tuple[int, int] | None = None,
) -> None:
    """Raise NonConforming unless the driver does what the daemon relies on.

    `make_driver` makes the driver as the daemon would, and is called twice. `plug` and `unplug` put one container in
    and take it out, and return once the system has seen it; it is out at the start and at the end. Containers of
    `kind` are what the driver gives. With `tells_replug` false, a container that was out and in again may have the
    same key. `spend` is the firm code and the reference of an item with three units or more, of which the check takes
    two; with it the container must sign and count. `lend` is the same of an item of which a license can be borrowed,
    for two seconds or more: the check borrows one and gives it back, a hundred times. Each function of the driver is
    called in a thread of its own.
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
            fail("it does not sign, and so cannot count")
        elif lend is not None:
            fail("it does not sign, and so cannot lend")
        if spend is not None:
            _check_counting(device, *spend)
        if lend is not None:
            check_lending(device, *lend)
    with _opened(other, dongle) as device:  # closed is closed: somebody else can have it
        call(device.read, "read after opening again")

    with _opened(driver, dongle) as device:
        unplug()
        if _scan(driver) != before:
            fail("scan does not show that the container was unplugged")
        expect((Vanished,), device.read, "read of an unplugged container")
    expect((Vanished,), lambda: driver.open(dongle), "open of an unplugged container")

    plug()
    again = _check_appeared(driver, before)
    if tells_replug:
        if again.key == dongle.key:
            fail(f"after being plugged in again the container has its old key {again.key!r}")
        expect(
            (Vanished,), lambda: driver.open(dongle), "open of what was there before the container was plugged in anew"
        )
    with _opened(driver, again) as device:
        call(device.read, "read after plugging in again")
    unplug()
    for each in (driver, other):
        call(each.close, "close of the driver")


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
            expect((Empty,), device.read, "read of an empty device")
            _check_does_nothing(device)
            expect((Empty,), device.read, "the second read of an empty device")
    with _opened(driver, dongle) as device:
        unplug()
        expect((Vanished,), device.read, "read of an unplugged device that was empty")
    if _scan(driver) != before:
        fail("scan does not show that the empty device was unplugged")
    call(driver.close, "close of the driver")


def _check_does_nothing(device: Device) -> None:
    """It has no key, no item and no clock."""
    no = (Empty, Unsupported)
    expect(no, lambda: device.sign(Purpose.PRESENCE, bytes(statement.NONCE_LENGTH)), "sign of an empty device")
    expect(no, lambda: device.consume(1, 1, 0, bytes(16), 0), "consume of an empty device")
    expect(no, lambda: device.time(0), "time of an empty device")
    expect(no, device.nonce, "nonce of an empty device")
    expect(no, lambda: device.borrow(_NO_LOAN, 0), "borrow of an empty device")
    expect(no, lambda: device.give_back(_NO_LOAN.id, bytes(64), 0), "give_back of an empty device")
    expect((*no, ImageError), lambda: device.apply(b""), "apply of an empty update")


def _scan(driver: Driver) -> frozenset[Dongle]:
    found = call(driver.scan, "scan")
    if not isinstance(found, frozenset):
        fail(f"scan returned a {type(found).__name__}; it must return a frozenset of Dongle")
    for dongle in found:
        if dongle.driver != driver.name or not dongle.key:
            fail(f"scan found {dongle!r}, which needs the driver's name {driver.name!r} and a key")
        try:
            check_text(dongle.text)
        except ValueError as error:
            fail(f"scan found {dongle!r}, which cannot be shown: {error}")
    if len({dongle.key for dongle in found}) != len(found):
        fail("scan found the same key twice")
    return found


def _check_scans(driver: Driver, expected: frozenset[Dongle]) -> None:
    for _ in range(_SCANS):
        if _scan(driver) != expected:
            fail("scan gives something else each time, though nothing was plugged in or out")


def _check_appeared(driver: Driver, before: frozenset[Dongle]) -> Dongle:
    new = _scan(driver) - before
    if len(new) != 1:
        fail(f"scan shows {len(new)} new containers after one was plugged in")
    return next(iter(new))


def _check_stranger(driver: Driver) -> None:
    stranger = Dongle(driver.name, "never there", "container that was never there")
    expect((Vanished,), lambda: driver.open(stranger), "open of a container that was never there")


def _check_hotplug(driver: Driver) -> None:
    hotplug = call(driver.hotplug, "hotplug")
    if hotplug is None:
        return
    try:
        if call(hotplug.fileno, "fileno of the hotplug") < 0:
            fail("the hotplug has no file descriptor")
        if not isinstance(call(hotplug.drain, "drain of the hotplug"), bool):
            fail("drain of the hotplug must return whether there was a hint")
    finally:
        call(hotplug.close, "close of the hotplug")


@contextmanager
def _opened(driver: Driver, dongle: Dongle) -> Iterator[Device]:
    """Open a device, and check at the end that it closes; after a failure just close it."""
    device = call(lambda: driver.open(dongle), "open")
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
        fail("scan does not show a container that is open elsewhere, so it opens what it should only look at")
    second = tried(lambda: other.open(dongle), "open of a container that is open elsewhere")
    if not isinstance(second, DriverError):
        call(second.close, "close of a second opening")


def _check_contents(device: Device, kind: ContainerKind) -> None:
    octets = call(device.read, "read")
    if type(octets) is not bytes:
        fail(f"read returned a {type(octets).__name__}; it must return bytes")
    try:
        container = image.parse(octets, Trust()).container
    except ImageError as error:
        msg = f"The driver breaks its contract: read gave no sound image. {error}"
        raise NonConforming(msg) from error
    if container.kind is not kind:
        fail(f"its container says that it is {container.kind}, but this driver's are {kind}")
    if call(device.read, "the second read") != octets:
        fail("a second read gave another image")


def _check_refusals(device: Device) -> None:
    """A loan, an item and an update that exist nowhere: whoever can sign or count must say that he cannot this."""
    no = (Unsupported, Refused)
    body = statement.borrow_body(_NO_LOAN.id, bytes(32))
    expect(no, lambda: device.sign(Purpose.BORROW, body), "sign for an unknown loan")
    expect(no, lambda: device.borrow(_NO_LOAN, 0), "borrow of an unknown item")
    expect(no, lambda: device.consume(0, 0, 0, bytes(16), 0), "consume of an unknown item")
    expect((Unsupported, ImageError), lambda: device.apply(b""), "apply of an empty update")


def _signs(device: Device) -> bool:
    outcome = tried(lambda: device.sign(Purpose.PRESENCE, bytes(32)), "sign for presence")
    if isinstance(outcome, DriverError) and not isinstance(outcome, Unsupported):
        msg = f"The driver breaks its contract: sign for presence raised {outcome!r}."
        raise NonConforming(msg) from outcome
    return not isinstance(outcome, DriverError)


def _check_signing(device: Device) -> None:
    """Whoever signs says what he was asked, with the key in the image, and nothing of items that are not there."""
    owner = image_of(device).owner
    nonces = [bytes([number]) * statement.NONCE_LENGTH for number in (1, 2)]
    for purpose in (Purpose.PRESENCE, Purpose.REQUEST):
        for nonce in nonces:
            signed = call(partial(device.sign, purpose, nonce), f"sign for {purpose.name}")
            check_statement(purpose, nonce, owner, signed)
    tracking = statement.tracking_body(1, 2, nonces[0], 0)
    told = tried(lambda: device.sign(Purpose.TRACKING, tracking), "sign for TRACKING")
    if isinstance(told, DriverError):
        expect((Unsupported,), lambda: device.sign(Purpose.TRACKING, tracking), "sign for TRACKING")
    else:
        check_statement(Purpose.TRACKING, tracking, owner, told)
    body = statement.crypt_body(nonces[0], 0, 0, 0, 1, secrets.token_bytes(16))
    expect_refused(NO_ITEM, lambda: device.sign(Purpose.CRYPT, body), "sign for an unknown item")
    expect_refused(NO_ITEM, lambda: device.consume(0, 0, 0, bytes(16), 0), "consume of an unknown item")
    floor = call(lambda: device.time(0), "time")
    if call(lambda: device.time(max(0, floor - 1)), "time of the past") != floor:
        fail("time went back, or changed without being told to")


def _check_counting(device: Device, firm_code: int, reference: int) -> None:
    """Each use is taken once: a repeated key takes nothing, and the image shows what was taken."""

    def used() -> int:
        items = image_of(device).state.items
        return sum(item.units_used for item in items if (item.firm_code, item.reference) == (firm_code, reference))

    def take(units: int, key: bytes) -> Callable[[], Used]:
        return lambda: device.consume(firm_code, reference, units, key, 0)

    before, keys = used(), (secrets.token_bytes(16), secrets.token_bytes(16))
    first = call(take(1, keys[0]), "consume")
    if type(first) is not Used or first.units_left is None:
        fail(f"consume of one unit returned {first!r}; it must return a Used with the units that are left")
    if used() != before + 1:
        fail(f"after one unit was taken, the image shows {used() - before} more used")
    for _ in range(2):
        if call(take(1, keys[0]), "consume with the same key") != first or used() != before + 1:
            fail("consume with the same key gave another answer, or took units again")
    second = call(take(1, keys[1]), "consume with another key")
    if second.units_left != first.units_left - 1 or used() != before + 2:
        fail("consume with another key did not take one unit more")
    for key, units, left in ((keys[0], 1, first.units_left), (secrets.token_bytes(16), 0, second.units_left)):
        if _signed_counts(device, firm_code, reference, key) != statement.Counts(units, left, second.usage_start):
            fail("sign for crypt says something else of units and usage than consume did")
    expect_refused(UNDERRUN, take(second.units_left + 1, secrets.token_bytes(16)), "consume of more than is left")
    if used() != before + 2:
        fail("consume took units and refused")
    if call(device.nonce, "nonce")[0] == call(device.nonce, "nonce")[0]:
        fail("nonce gave the same nonce twice")


def _signed_counts(device: Device, firm_code: int, reference: int, key: bytes) -> statement.Counts:
    body = statement.crypt_body(secrets.token_bytes(statement.NONCE_LENGTH), firm_code, reference, 0, 1, key)
    signed = call(lambda: device.sign(Purpose.CRYPT, body), "sign for crypt")
    check_statement(Purpose.CRYPT, body, image_of(device).owner, signed)
    return statement.counts(signed)


def _check_close(device: Device) -> None:
    call(device.close, "close")
    call(device.close, "the second close")
    expect((DriverError,), device.read, "read after close")
