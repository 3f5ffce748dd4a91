"""Signing and counting over the USB: pulled in the midst, stalled, late, cancelled; a use is taken at most once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from drivers import image, keys
from drivers.checks import check_driver
from drivers.chip.chip import Chip
from drivers.chip.flash import FIRST, LATEST, Layout
from drivers.container import ContainerKind
from drivers.driver import Device, DriverError, Faulty, NoAnswer, Purpose, Used, Vanished, never_cancelled
from drivers.trust import Trust
from drivers.usb import demo_licensor
from drivers.usb.driver import UsbDriver, UsbOptions
from drivers.usb.firmware import Firmware
from tests.drivers.chips import COUNTED, NOW, PLAIN, Flash, chip_on, flash_of, item
from tests.drivers.samples import FIRM_CODE
from tests.drivers.usb.dongles import PATIENCE, Counting, driver_on, only
from tests.drivers.usb.test_driver import Cancelled, Canceller, Hand

KEY, ANOTHER = bytes([7] * 16), bytes([8] * 16)
CONSUME_REPLY, SIGN_REPLY = 0x91, 0x90


@pytest.fixture
def bus() -> Counting:
    """Return a bus that nothing is plugged into."""
    return Counting()


@pytest.fixture
def flash() -> Flash:
    """Return what the dongle keeps while it is pulled."""
    return flash_of()


def take(device: Device, key: bytes = KEY) -> Used:
    """Take three of ten units."""
    return device.consume(FIRM_CODE, COUNTED.reference, 3, key, NOW)


def used(flash: Flash) -> int:
    """Return how many units a chip on this flash says are used."""
    return item(chip_on(flash), COUNTED.reference).units_used


@pytest.mark.parametrize("layout", [FIRST, LATEST])
def test_it_conforms(bus: Counting, layout: Layout) -> None:
    """The USB driver with dongles that sign, count and lend, older ones included."""
    hand = Hand(bus, lambda: Firmware(chip_on(flash_of(layout=layout))))
    spend, lend = (FIRM_CODE, COUNTED.reference), (FIRM_CODE, PLAIN.reference)
    kind = ContainerKind.HARDWARE
    check_driver(lambda: driver_on(bus), hand.plug, hand.unplug, kind=kind, spend=spend, lend=lend)
    assert bus.open_handles == 0


class Muted(Firmware):
    """Does what it is told and does not answer CONSUME. `done` is set once that is so."""

    def __init__(self, chip: Chip) -> None:
        super().__init__(chip)
        self.done = threading.Event()

    def answer(self, frame: bytes) -> bytes:
        reply = super().answer(frame)
        if reply[1] != CONSUME_REPLY:
            return reply
        self.done.set()
        return b""


def test_pulled_after_it_counted_and_before_it_answered(bus: Counting, flash: Flash) -> None:
    """The host cannot know; it asks again with the same key, and three units are gone, not six."""
    firmware = Muted(chip_on(flash))
    address = bus.plug(firmware)
    driver = driver_on(bus, timeout=60)
    device = driver.open(only(driver))
    raised: list[DriverError] = []

    def ask() -> None:
        try:
            take(device)
        except DriverError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert firmware.done.wait(PATIENCE)
    bus.unplug(address)
    thread.join(PATIENCE)
    assert [type(error) for error in raised] == [Vanished]
    device.close()
    bus.plug(Firmware(chip_on(flash)))
    device = driver.open(only(driver))
    assert take(device) == take(device) == Used(7, 0, 3)
    assert take(device, ANOTHER) == Used(4, 0, 6)
    device.close()
    assert used(flash) == 6


def test_an_answer_that_never_comes(bus: Counting, flash: Flash) -> None:
    """After the timeout the device goes on, and the same key takes nothing more."""
    bus.plug(Muted(chip_on(flash)))
    driver = driver_on(bus, timeout=0.1)
    device = driver.open(only(driver))
    for _ in range(2):
        with pytest.raises(NoAnswer):
            take(device)
    assert device.read()
    device.close()
    assert used(flash) == 3


class StallsOnce(Firmware):
    """Stalls the first reply of one kind after it has done what it was told."""

    def __init__(self, chip: Chip, kind: int) -> None:
        super().__init__(chip)
        self.kind = kind

    def in_packet(self, endpoint: int) -> bytes | None:
        if self._reply and self._reply[0][1] == self.kind:
            self.kind = 0
            self._halt()
        return super().in_packet(endpoint)


def test_a_stall_after_it_counted(bus: Counting, flash: Flash) -> None:
    """The command is sent again by itself, with its key."""
    bus.plug(StallsOnce(chip_on(flash), CONSUME_REPLY))
    driver = driver_on(bus)
    device = driver.open(only(driver))
    assert take(device) == Used(7, 0, 3)
    device.close()
    assert used(flash) == 3


class Late(Firmware):
    """Gives each reply of one kind in the place of the next one."""

    def __init__(self, chip: Chip, kind: int) -> None:
        super().__init__(chip)
        self.kind = kind
        self.held = b""

    def answer(self, frame: bytes) -> bytes:
        reply = super().answer(frame)
        if reply[1] == self.kind and not self.held:
            self.held = reply
            return b""
        if self.held:
            reply, self.held, self.kind = self.held, b"", 0
        return reply


@pytest.mark.parametrize("kind", [CONSUME_REPLY, SIGN_REPLY])
def test_an_answer_that_comes_late(bus: Counting, flash: Flash, kind: int) -> None:
    """It is not taken for that of the next question, and the one after that is answered rightly."""
    bus.plug(Late(chip_on(flash), kind))
    driver = driver_on(bus, timeout=0.1)
    device = driver.open(only(driver))

    def ask(key: bytes) -> object:
        return take(device, key) if kind == CONSUME_REPLY else device.sign(Purpose.PRESENCE, key * 2)

    with pytest.raises(NoAnswer):
        ask(KEY)
    with pytest.raises(Faulty, match="something that it was not asked"):
        ask(ANOTHER)
    assert take(device, ANOTHER) == Used(*((4, 0, 6) if kind == CONSUME_REPLY else (7, 0, 3)))
    assert bytes(32) in device.sign(Purpose.PRESENCE, bytes(32)).message
    device.close()
    assert used(flash) == (6 if kind == CONSUME_REPLY else 3)


@pytest.mark.parametrize("passing", range(2))
def test_a_cancelled_use_is_taken_at_most_once(bus: Counting, flash: Flash, passing: int) -> None:
    """Wherever it is cancelled, and then asked again."""
    bus.plug(Firmware(chip_on(flash)))
    cancel = Canceller(10**9)
    driver = driver_on(bus, cancel)
    device = driver.open(only(driver))
    device.read()
    cancel.left = passing
    with pytest.raises(Cancelled):
        take(device)
    assert used(flash) == 3 * passing, "before it is sent, or after"
    assert take(device) == Used(7, 0, 3)
    device.close()
    assert used(flash) == 3


def replies(change: Callable[[bytes], bytes]) -> Callable[[Chip], Firmware]:
    """Return a dongle whose replies to SIGN are changed, header and all."""

    class Changing(Firmware):
        def answer(self, frame: bytes) -> bytes:
            reply = super().answer(frame)
            return change(reply) if reply[1] == SIGN_REPLY else reply

    return Changing


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda reply: reply[:80] + b"?" + reply[81:], "signed something that it was not asked"),
        (lambda reply: reply[:8] + bytes(64) + reply[72:], "signature is not that of its key"),
        (lambda reply: reply[:4] + b"\x40\0" + reply[6:72], "in 64 bytes, which is no signature"),
        (lambda reply: reply[:6] + b"\x63\0", "ends after"),
        (lambda reply: reply[:4] + b"\0\0\x63\0", r"refused SIGN \(status 99\)"),
    ],
)
def test_a_dongle_that_signs_wrong(change: Callable[[bytes], bytes], sentence: str, bus: Counting) -> None:
    """Each fault has its sentence, and none leaves a handle open."""
    bus.plug(replies(change)(chip_on(flash_of())))
    driver = driver_on(bus, timeout=0.1)
    device = driver.open(only(driver))
    with pytest.raises(DriverError, match=sentence):
        device.sign(Purpose.PRESENCE, bytes(range(32)))
    device.close()
    assert bus.open_handles == 0


# --- the embedded dongle ----------------------------------------------------------------------------------------------

UNITS = """
id = "3-7"
[[firm_items]]
firm_code = 5
[[firm_items.products]]
item = 1
product_code = 1
units = { count = 10 }
"""


def embedded(path: Path) -> UsbDriver:
    """Return a driver with an embedded dongle that holds units."""
    path.write_text(UNITS)
    options = {"embedded": True, "embedded_container": str(path)}
    return UsbDriver(msgspec.convert(options, UsbOptions), never_cancelled)


def test_the_embedded_dongle_signs_and_counts(tmp_path: Path) -> None:
    """As a real one; its firm items are the demo licensor's, and believed where he is listed."""
    driver = embedded(tmp_path / "own.toml")
    device = driver.open(only(driver))
    assert device.consume(5, 1, 4, KEY, NOW) == Used(6, 0, 4)
    trust = Trust({5: demo_licensor.PUBLIC})
    parsed = image.parse(device.read(), trust)
    (firm,) = parsed.container.firm_items
    assert (firm.unusable, firm.licensor, firm.products[0].units_used) == ("", demo_licensor.PUBLIC, 4)
    signed = device.sign(Purpose.PRESENCE, bytes(32))
    assert keys.verify(parsed.owner.key, signed.signature, signed.message)
    assert "does not know" in image.parse(device.read(), Trust()).container.firm_items[0].unusable
    device.close()


def test_each_embedded_dongle_has_a_key_of_its_own(tmp_path: Path) -> None:
    """Nobody who has the package can sign in its place."""
    drivers = [embedded(tmp_path / "own.toml") for _ in range(2)]
    devices = [driver.open(only(driver)) for driver in drivers]
    owners = [image.parse(device.read(), Trust()).owner for device in devices]
    assert owners[0].key != owners[1].key
