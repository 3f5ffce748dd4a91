"""The USB driver through pyusb's own code: what it finds, what it reads, and what it makes of every fault."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import usb.backend.libusb1

from drivers import image, update, wire
from drivers.checks import check_driver, check_empty
from drivers.chip.blank import Blank
from drivers.chip.flash import MemoryFlash
from drivers.container import Container, ContainerId, ContainerKind
from drivers.driver import (
    Busy,
    Dongle,
    DriverError,
    Faulty,
    ImageError,
    NoAnswer,
    NoPermission,
    Purpose,
    Refused,
    Unsupported,
    Vanished,
    never_cancelled,
)
from drivers.firm_item import Owner
from drivers.image import SigningKeys
from drivers.usb.backend import InProcessBackend
from drivers.usb.driver import UsbDriver, UsbOptions
from drivers.usb.firmware import Firmware
from tests.drivers import older
from tests.drivers.samples import CONTAINER_KEY, EVERYBODY, LICENSOR_KEY, OWNER, demo_container
from tests.drivers.usb.dongles import (
    ACCESS_DENIED,
    IN_A_SANDBOX,
    PATIENCE,
    Answering,
    Counting,
    Deaf,
    Dribbling,
    Empty,
    Ignorant,
    Plain,
    Refusing,
    Silent,
    Stalling,
    Stranger,
    driver_on,
    hardware,
    only,
)


@pytest.fixture
def bus() -> Counting:
    """Return a bus that nothing is plugged into."""
    return Counting()


class Hand:
    """Plugs dongles in and out, one after the other."""

    def __init__(self, bus: InProcessBackend, make: Callable[[], Firmware] = lambda: Plain(hardware())) -> None:
        self._bus = bus
        self._make = make
        self._address = 0

    def plug(self) -> None:
        """Plug a new dongle in."""
        self._address = self._bus.plug(self._make())

    def unplug(self) -> None:
        """Take it out again."""
        self._bus.unplug(self._address)


def test_it_conforms(bus: Counting) -> None:
    """The USB driver does what the daemon relies on in every driver, and leaves no handle open."""
    hand = Hand(bus)
    check_driver(lambda: driver_on(bus), hand.plug, hand.unplug, kind=ContainerKind.HARDWARE)
    assert bus.open_handles == 0


def test_an_empty_dongle_conforms(bus: Counting) -> None:
    """It is found and opened, says that it is empty, and does nothing."""
    hand = Hand(bus, lambda: Firmware(Blank(MemoryFlash())))
    check_empty(lambda: driver_on(bus), hand.plug, hand.unplug)
    assert bus.open_handles == 0


def test_an_empty_dongle_is_made_a_container_once(bus: Counting) -> None:
    """What it then is can be read and signs, also after it was plugged in again; it never becomes another one."""
    firmware = Firmware(Blank(MemoryFlash()))
    address = bus.plug(firmware)
    driver = driver_on(bus)
    device = driver.open(only(driver))
    public = device.init(ContainerId("3-7"), "Démo")
    assert not device.is_empty()
    with pytest.raises(Refused, match="is a container already"):
        device.init(ContainerId("3-8"), "")
    device.close()
    bus.unplug(address)
    bus.plug(firmware)
    device = driver.open(only(driver))
    found = image.parse(device.read(), EVERYBODY)
    assert found.owner == Owner(3, 7, ContainerKind.HARDWARE, 1, public)
    assert (found.container.text, found.container.firm_items, found.state.sequence) == ("Démo", (), 1)
    device.sign(Purpose.PRESENCE, bytes(32))
    device.close()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("id", "made another container"),
        ("text", "made another container"),
        ("key", "made another container"),
        ("kind", "says that it is embedded, but it is hardware"),
    ],
)
def test_a_dongle_that_becomes_another_container_is_refused(wrong: str, sentence: str, bus: Counting) -> None:
    """Nobody would notice before it is at a customer's. Each is sound, and signed with the key that it made."""
    embedded = Container(ContainerId("3-7"), ContainerKind.EMBEDDED, "Demo")
    of_another_kind = image.encode(embedded, signing=SigningKeys(CONTAINER_KEY))

    class Wilful(Blank):
        def answer(self, command: int, payload: bytes) -> tuple[int, bytes]:
            if command == wire.Command.INIT:
                payload = {"id": b"\1\0" + payload[2:], "text": payload + b"!"}.get(wrong, payload)
            status, reply = super().answer(command, payload)
            if command == wire.Command.INIT and wrong == "key":
                reply = bytes(32)
            if command == wire.Command.READ_IMAGE and wrong == "kind":
                offset, length = struct.unpack("<IH", payload)
                reply = of_another_kind[offset : offset + length]
            return status, reply

    bus.plug(Firmware(Wilful(MemoryFlash(), lambda length: CONTAINER_KEY[:length])))
    driver = driver_on(bus)
    device = driver.open(only(driver))
    with pytest.raises(Faulty, match=sentence):
        device.init(ContainerId("3-7"), "Demo")
    device.close()


def test_a_scan_opens_nothing(bus: Counting) -> None:
    """Finding dongles asks descriptors only; what is found is the same each time."""
    bus.plug(Plain(hardware()))
    driver = driver_on(bus)
    assert driver.scan() == driver.scan()
    assert only(driver) == Dongle("usb", "1-1:1", "USB dongle on bus 1, port 1 (address 1)")
    assert bus.opened == 0


def test_two_dongles(bus: Counting) -> None:
    """Each is itself, also while both are open."""
    containers = [demo_container(), msgspec.structs.replace(demo_container(), text="Another")]
    for container in containers:
        bus.plug(Plain(hardware(container)))
    driver = driver_on(bus)
    devices = [driver.open(dongle) for dongle in sorted(driver.scan(), key=lambda dongle: dongle.key)]
    assert [image.decode(device.read(), EVERYBODY) for device in devices] == containers
    for device in devices:
        device.close()


def test_a_dongle_plugged_in_again_has_another_key(bus: Counting) -> None:
    """Same port, same dongle, new address: whatever was known of it is asked anew."""
    firmware = Plain(hardware())
    driver = driver_on(bus)
    first = bus.plug(firmware)
    before = only(driver)
    bus.unplug(first)
    bus.plug(firmware)
    assert only(driver) != before
    with pytest.raises(Vanished, match="was unplugged; plug it in again"):
        driver.open(before)


def test_a_handle_from_before_stays_dead(bus: Counting) -> None:
    """A device that was open through an unplug and a plug does not come alive again by itself."""
    firmware = Plain(hardware())
    driver = driver_on(bus)
    first = bus.plug(firmware)
    device = driver.open(only(driver))
    bus.unplug(first)
    bus.plug(firmware)
    with pytest.raises(Vanished):
        device.read()
    device.close()
    assert bus.open_handles == 0


def test_unplugged_in_the_middle_of_a_read(bus: Counting) -> None:
    """A read that waits for a reply ends with Vanished as soon as the dongle is pulled, not after its timeout."""
    firmware = Silent(hardware(), answered=2)
    address = bus.plug(firmware)
    driver = driver_on(bus, timeout=60)
    device = driver.open(only(driver))
    raised: list[BaseException] = []

    def read() -> None:
        try:
            device.read()
        except DriverError as error:
            raised.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert firmware.asked.wait(PATIENCE)
    bus.unplug(address)
    thread.join(PATIENCE)
    assert [type(error) for error in raised] == [Vanished]
    device.close()
    assert bus.open_handles == 0


def test_a_dongle_that_nobody_configured(bus: Counting) -> None:
    """Where the system has not chosen the configuration, the driver does."""
    firmware = Plain(hardware())
    bus.plug(firmware)
    firmware.reset()
    driver = driver_on(bus)
    device = driver.open(only(driver))
    assert image.decode(device.read(), EVERYBODY) == demo_container()
    device.close()


# --- whoever may not, or cannot ------------------------------------------------------------------------------------


def test_a_dongle_that_somebody_else_has(bus: Counting) -> None:
    """A claimed dongle is Busy, the failed opening leaves no handle, and it can be had once it is free."""
    bus.plug(Plain(hardware()))
    first, second = driver_on(bus), driver_on(bus)
    device = first.open(only(first))
    with pytest.raises(Busy, match="Another process has the dongle"):
        second.open(only(second))
    assert bus.open_handles == 1
    device.close()
    second.open(only(second)).close()
    assert bus.open_handles == 0


@pytest.mark.parametrize("refusal", [ACCESS_DENIED, IN_A_SANDBOX])
def test_no_permission(refusal: tuple[int, int]) -> None:
    """EACCES, and the EIO that a systemd sandbox gives, are both a matter of permission, and the cures are named."""
    bus = Refusing(*refusal)
    bus.plug(Plain(hardware()))
    driver = driver_on(bus)
    with pytest.raises(NoPermission, match=r"group of the udev rule.*DeviceAllow=char-usb_device"):
        driver.open(only(driver))


def test_another_device_with_the_same_ids(bus: Counting) -> None:
    """The ids are a test range: a stranger is not talked to, and is let go."""
    bus.plug(Stranger(hardware()))
    driver = driver_on(bus)
    with pytest.raises(Faulty, match="is no CmContainer dongle, though it uses the same test ids"):
        driver.open(only(driver))
    assert bus.open_handles == 0


# --- dongles that misbehave ----------------------------------------------------------------------------------------


def changed(start: int, octets: bytes) -> Callable[[bytes], bytes]:
    """Return a change of a reply: these bytes from `start` on."""
    return lambda reply: reply[:start] + octets + reply[start + len(octets) :]


def if_read(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Return a change that concerns only replies to READ_IMAGE."""
    return lambda reply: change(reply) if reply[1] == 0x82 else reply


FAULTS: dict[str, tuple[Callable[[bytes], Firmware], type[DriverError], str]] = {
    "takes nothing": (Deaf, NoAnswer, "does not answer"),
    "answers nothing": (Silent, NoAnswer, "does not answer"),
    "answers nothing later": (lambda octets: Silent(octets, answered=2), NoAnswer, "does not answer"),
    "stalls for ever": (lambda octets: Stalling(octets, 99), Faulty, r"refuses the transfer \(stall\)"),
    "does not know our request": (Ignorant, Faulty, r"refuses the transfer \(stall\)"),
    "a reply without a header": (lambda octets: Answering(octets, lambda reply: reply[:5]), Faulty, "no whole header"),
    "a reply cut in its packet": (
        lambda octets: Answering(octets, if_read(lambda reply: reply[:100])),
        Faulty,
        "ends after 100 of 432 bytes",
    ),
    "a reply cut between packets": (
        lambda octets: Answering(octets, if_read(lambda reply: reply[:128])),
        NoAnswer,
        "does not answer",
    ),
    "empty packets": (Empty, Faulty, "sent an empty packet"),
    "a reply longer than it says": (
        lambda octets: Answering(octets, lambda reply: reply + b"!"),
        Faulty,
        "has 17 bytes instead of 16",
    ),
    "an oversized reply announced": (
        lambda octets: Answering(octets, changed(4, b"\x01\x10")),
        Faulty,
        "announces a reply of 4097 bytes",
    ),
    "an oversized image announced": (
        lambda octets: Answering(octets, changed(12, b"\x01\x40\x01\x00")),
        Faulty,
        "announces an image of 81921 bytes",
    ),
    "payloads of no bytes": (lambda octets: Answering(octets, changed(10, b"\0\0")), Faulty, "payloads of 0 bytes"),
    "a chunk too short": (
        lambda octets: Answering(octets, if_read(lambda reply: changed(4, b"\x07\x00")(reply)[:15])),
        Faulty,
        "gave 7 bytes of its image instead of 424",
    ),
    "another command's reply": (lambda octets: Answering(octets, changed(1, b"\x82")), Faulty, "was not asked"),
    "another tag": (lambda octets: Answering(octets, changed(2, b"\x99")), Faulty, "was not asked"),
    "another version": (lambda octets: Answering(octets, changed(0, b"\x02")), Faulty, "speaks version 2"),
    "INFO unknown": (lambda octets: Answering(octets, changed(6, b"\x01")), Unsupported, "does not support INFO"),
    "refuses to be read": (
        lambda octets: Answering(octets, if_read(changed(6, b"\x04"))),
        Faulty,
        r"refused READ_IMAGE \(OUT_OF_RANGE\)",
    ),
    "a damaged image": (lambda octets: Plain(octets[:-1]), ImageError, "is damaged"),
    "no image": (lambda _: Plain(b"\n"), ImageError, "the header ends too early"),
    "an image of another kind": (
        lambda _: Plain(image.encode(demo_container(ContainerKind.EMBEDDED))),
        Faulty,
        "says that it is embedded, but it is hardware",
    ),
}


@pytest.mark.parametrize(("make", "expected", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_dongle_that_misbehaves(
    make: Callable[[bytes], Firmware], expected: type[DriverError], sentence: str, bus: Counting
) -> None:
    """Each fault is told apart, none leaves a handle open, and a sound dongle beside it is not disturbed."""
    bus.plug(make(hardware()))
    driver = driver_on(bus, timeout=0.1)
    dongle = only(driver)
    with pytest.raises(expected, match=sentence) as raised:  # noqa: PT012 - either step may be the one that fails
        device = driver.open(dongle)
        try:
            device.read()
        finally:
            device.close()
    assert type(raised.value) is expected
    assert bus.open_handles == 0
    bus.plug(Plain(hardware()))
    (sound,) = driver.scan() - {dongle}
    beside = driver.open(sound)
    assert image.decode(beside.read(), EVERYBODY) == demo_container()
    beside.close()


@pytest.mark.parametrize("make", [lambda octets: Stalling(octets, 1), Dribbling], ids=["one stall", "slow packets"])
def test_a_fault_that_passes_is_survived(make: Callable[[bytes], Firmware], bus: Counting) -> None:
    """One stall is cleared and the command sent again; packets that come late are put together."""
    bus.plug(make(hardware()))
    driver = driver_on(bus)
    device = driver.open(only(driver))
    assert image.decode(device.read(), EVERYBODY) == demo_container()
    device.close()


def test_what_a_host_before_us_left_behind(bus: Counting) -> None:
    """A daemon that was killed in the middle of a reply does not confuse the next one."""
    firmware = Plain(hardware())
    bus.plug(firmware)
    firmware.out_packet(0x01, bytes.fromhex("010201000600000000000000" + "0008"))
    assert firmware.in_packet(0x81)
    driver = driver_on(bus)
    device = driver.open(only(driver))
    assert image.decode(device.read(), EVERYBODY) == demo_container()
    device.close()


def test_an_image_of_the_largest_size_is_read_in_chunks(bus: Counting) -> None:
    """80 KiB take more than one exchange."""
    octets = older.encode(demo_container(), slot_length=(image.IMAGE_LIMIT - 300) // 2)
    assert 81_000 < len(octets) <= image.IMAGE_LIMIT
    bus.plug(Plain(octets))
    driver = driver_on(bus)
    device = driver.open(only(driver))
    assert device.read() == octets
    device.close()


def test_what_a_dongle_without_a_key_cannot_is_unsupported(bus: Counting) -> None:
    """Each command is answered, the device stays usable, and after closing nothing opens it again."""
    bus.plug(Plain(hardware()))
    driver = driver_on(bus)
    device = driver.open(only(driver))
    with pytest.raises(Unsupported, match="does not support SIGN"):
        device.sign(Purpose.PRESENCE, bytes(32))
    with pytest.raises(Unsupported, match="does not support CONSUME"):
        device.consume(600010, 1, 1, bytes(16), 0)
    with pytest.raises(Unsupported, match="does not support TIME"):
        device.time(0)
    with pytest.raises(Unsupported, match="does not support NONCE"):
        device.nonce()
    with pytest.raises(Unsupported, match="does not support APPLY"):
        device.apply(update.encode_time(OWNER, bytes(32), 0, LICENSOR_KEY))
    assert image.decode(device.read(), EVERYBODY) == demo_container()
    device.close()
    device.close()
    with pytest.raises(DriverError, match="closed"):
        device.read()
    assert bus.open_handles == 0


# --- being cancelled -----------------------------------------------------------------------------------------------


class Cancelled(BaseException):
    """What trio raises in a worker thread, in spirit: no Exception."""


class Canceller:
    """A `CheckCancelled` that lets some calls pass and cancels the next one; afterwards it lets all pass."""

    def __init__(self, passing: int) -> None:
        self.left = passing

    def __call__(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise Cancelled


@pytest.mark.parametrize("passing", range(8))
def test_a_cancelled_open_leaves_no_handle_and_loses_nothing(passing: int, bus: Counting) -> None:
    """Wherever it is cancelled, the exception comes through, nothing stays open, and the next attempt works."""
    bus.plug(Plain(hardware()))
    driver = driver_on(bus, Canceller(passing))
    with pytest.raises(Cancelled):  # noqa: PT012 - either step may be the one that is cancelled
        device = driver.open(only(driver))
        try:
            device.read()
        finally:
            device.close()
    assert bus.open_handles == 0
    device = driver.open(only(driver))
    assert image.decode(device.read(), EVERYBODY) == demo_container()
    device.close()


def test_a_cancelled_read_does_not_eat_the_next_reply(bus: Counting) -> None:
    """A device whose read was cancelled between command and reply can be read again."""
    bus.plug(Plain(hardware()))
    cancel = Canceller(10**9)
    driver = driver_on(bus, cancel)
    device = driver.open(only(driver))
    for passing in range(4):
        cancel.left = passing
        with pytest.raises(Cancelled):
            device.read()
        assert image.decode(device.read(), EVERYBODY) == demo_container()
    device.close()


def test_a_silent_dongle_is_asked_in_short_steps(bus: Counting) -> None:
    """A wait of an hour is cancelled within a step."""
    bus.plug(Silent(hardware()))
    driver = driver_on(bus, Canceller(5), timeout=60)
    with pytest.raises(Cancelled):
        driver.open(only(driver))
    assert bus.open_handles == 0


# --- the embedded dongle, and no USB at all --------------------------------------------------------------------------


def embedded(path: Path | None = None) -> UsbDriver:
    """Return a driver with the embedded dongle."""
    options = {"embedded": True} | ({"embedded_container": str(path)} if path else {})
    return UsbDriver(msgspec.convert(options, UsbOptions), never_cancelled)


def test_the_embedded_dongle() -> None:
    """It holds two licenses of Chart Processing, and says everywhere that it is embedded."""
    driver = embedded()
    device = driver.open(only(driver))
    container = image.decode(device.read(), EVERYBODY)
    assert (container.id, container.kind) == ("3-3448482", ContainerKind.EMBEDDED)
    product = container.firm_items[0].products[0]
    assert (container.firm_items[0].firm_code, product.product_code, product.text, product.quantity) == (
        600010,
        14,
        "Chart Processing",
        2,
    )
    assert driver.hotplug() is None
    device.close()
    driver.close()


def test_an_embedded_dongle_with_a_container_of_ones_own(tmp_path: Path) -> None:
    """A description takes the demo's place; one that is wrong is refused when the driver is made."""
    path = tmp_path / "own.toml"
    path.write_text('id = "3-7"')
    driver = embedded(path)
    device = driver.open(only(driver))
    assert image.decode(device.read(), EVERYBODY).id == "3-7"
    device.close()
    path.write_text('[[containers]]\nid = "3-7"\n[[containers]]\nid = "3-8"\n')
    with pytest.raises(Faulty, match="describes 2 containers; the embedded dongle holds exactly one"):
        embedded(path)
    path.unlink()
    with pytest.raises(DriverError, match="There is no file"):
        embedded(path)


def test_options_are_checked() -> None:
    """What has no effect is refused, and so is what cannot be."""
    with pytest.raises(msgspec.ValidationError, match="has no effect without embedded = true"):
        msgspec.convert({"embedded_container": "x.toml"}, UsbOptions)
    with pytest.raises(msgspec.ValidationError, match="> 0"):
        msgspec.convert({"timeout": 0}, UsbOptions)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"embeded": True}, UsbOptions)


@pytest.mark.parametrize("path", ["", "a.toml", "./a.toml", "~/a.toml", "/a\0.toml"])
def test_an_embedded_container_without_an_absolute_path_is_refused(path: str) -> None:
    """As for virtual containers: a daemon's directory is no one's choice."""
    with pytest.raises(ValueError, match=r"is no absolute path; write it as in '/etc/cmserverd/trial\.toml'"):
        UsbOptions(embedded=True, embedded_container=path)


def test_without_libusb(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says what to install; the search, which starts compilers, is done once."""
    searches: list[None] = []
    monkeypatch.setattr(usb.backend.libusb1, "get_backend", lambda: searches.append(None))
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    driver = UsbDriver(UsbOptions(), never_cancelled)
    for _ in range(3):
        with pytest.raises(DriverError, match="libusb is not installed; install it"):
            driver.scan()
    assert len(searches) == 1
    monkeypatch.setattr("ctypes.util.find_library", lambda _: "libusb-1.0.so.0")
    with pytest.raises(DriverError, match="libusb cannot be started"):
        UsbDriver(UsbOptions(), never_cancelled).scan()
