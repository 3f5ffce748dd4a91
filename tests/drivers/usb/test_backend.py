"""The bus inside the process gives pyusb the same errors as libusb on Linux does."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import pairwise

import pytest
import usb.core
import usb.util

from drivers.usb.backend import InProcessBackend
from drivers.usb.firmware import Firmware
from tests.drivers.usb.dongles import Plain, Silent

INFO = bytes.fromhex("0101070000000000")
READ_72 = bytes.fromhex("010201000600000000000000" + "4000")


class Plugged:
    """A bus with one dongle on it, and pyusb's view of it."""

    def __init__(self, firmware: Firmware) -> None:
        self.bus = InProcessBackend()
        self.address = self.bus.plug(firmware)
        self.device = usb.core.find(backend=self.bus)
        usb.util.claim_interface(self.device, 0)


@pytest.fixture
def plugged() -> Plugged:
    """Return a dongle that is plugged in and claimed."""
    return Plugged(Plain(bytes(300)))


def expect(number: int, code: int, function: Callable[[], object]) -> None:
    """Demand the exception that libusb's backend raises for this error number and code."""
    with pytest.raises(usb.core.USBError) as raised:
        function()
    assert (raised.value.errno, raised.value.backend_error_code) == (number, code)
    assert isinstance(raised.value, usb.core.USBTimeoutError) == (number == errno.ETIMEDOUT)


def test_strings_and_descriptors_through_pyusb(plugged: Plugged) -> None:
    """Names and endpoints are read by pyusb's own code."""
    device = plugged.device
    assert (device.manufacturer, device.product) == ("cmserverd project", "CmContainer dongle")
    assert (device.idVendor, device.idProduct, device.speed) == (0x1209, 0x0001, 2)
    endpoints = [endpoint.bEndpointAddress for endpoint in device.get_active_configuration()[(0, 0)]]
    assert endpoints == [0x01, 0x81]
    assert "Bulk" in str(device)


def test_a_command_through_pyusb(plugged: Plugged) -> None:
    """A frame goes out, the reply comes in."""
    assert plugged.device.write(1, INFO) == 8
    assert bytes(plugged.device.read(0x81, 64)).hex() == "0181070008000000" + "010100102c010000"


def test_timeouts(plugged: Plugged) -> None:
    """Nothing to read is ETIMEDOUT, and so is a dongle that takes nothing because its reply waits."""
    expect(errno.ETIMEDOUT, -7, lambda: plugged.device.read(0x81, 64, 10))
    plugged.device.write(1, INFO)
    expect(errno.ETIMEDOUT, -7, lambda: plugged.device.write(1, INFO, 10))


def test_a_timeout_with_some_bytes_is_no_error(plugged: Plugged) -> None:
    """As with pyusb over libusb: what came is returned, and whoever reads must look at the length."""
    partial = Plugged(_Cut(bytes(300)))
    partial.device.write(1, READ_72)
    assert len(partial.device.read(0x81, 128, 10)) == 64
    assert plugged.device.write(1, bytes.fromhex("0112070080000000") + bytes(128), 10) == 136


class _Cut(Plain):
    def answer(self, frame: bytes) -> bytes:
        return super().answer(frame)[:64]


def test_a_stall_lasts_until_it_is_cleared(plugged: Plugged) -> None:
    """EPIPE on both endpoints, cured by `clear_halt`."""
    expect(errno.EPIPE, -9, lambda: plugged.device.write(1, b"junk"))
    expect(errno.EPIPE, -9, lambda: plugged.device.read(0x81, 64))
    expect(errno.EPIPE, -9, lambda: plugged.device.ctrl_transfer(0xC0, 0x77, 0, 0, 8))
    plugged.device.clear_halt(0x01)
    plugged.device.clear_halt(0x81)
    assert plugged.device.write(1, INFO) == 8
    assert len(plugged.device.read(0x81, 64)) == 16


def test_more_than_the_buffer_holds_is_an_overflow(plugged: Plugged) -> None:
    """A packet that does not fit is EOVERFLOW."""
    plugged.device.write(1, INFO)
    expect(errno.EOVERFLOW, -8, lambda: plugged.device.read(0x81, 8))


def test_claims(plugged: Plugged) -> None:
    """One handle has the interface; the other gets EBUSY, also for another configuration, until it is free."""
    other = usb.core.find(backend=plugged.bus)
    expect(errno.EBUSY, -6, lambda: usb.util.claim_interface(other, 0))
    expect(errno.EBUSY, -6, lambda: other.set_configuration(1))
    expect(errno.ENOENT, -5, lambda: plugged.bus.release_interface(plugged.bus.open_device(other._ctx.dev), 0))
    usb.util.release_interface(plugged.device, 0)
    usb.util.claim_interface(other, 0)
    usb.util.dispose_resources(other)
    usb.util.claim_interface(plugged.device, 0)


def test_after_an_unplug_everything_is_enodev() -> None:
    """Transfers, control requests, claims and openings; only letting go still works."""
    plugged = Plugged(Silent(bytes(300)))
    device, other = plugged.device, usb.core.find(backend=plugged.bus)
    plugged.bus.unplug(plugged.address)
    for function in (
        lambda: device.read(0x81, 64),
        lambda: device.write(1, INFO),
        lambda: device.ctrl_transfer(0x80, 0, 0, 0, 2),
        lambda: device.clear_halt(0x81),
        lambda: device.set_configuration(),
        lambda: usb.util.release_interface(device, 0),
        lambda: usb.util.claim_interface(other, 0),
    ):
        expect(errno.ENODEV, -4, function)
    usb.util.dispose_resources(device)
    usb.util.dispose_resources(other)
    assert usb.core.find(backend=plugged.bus) is None


def test_addresses_go_round_and_are_never_given_twice() -> None:
    """A new plug gets a new address, and one that is in use is left out."""
    bus = InProcessBackend()
    stays = bus.plug(Plain(b""))
    seen = [stays]
    for _ in range(200):
        seen.append(bus.plug(Plain(b"")))
        bus.unplug(seen[-1])
    assert set(seen) == set(range(1, 128))
    assert seen.count(stays) == 1
    assert all(before != after for before, after in pairwise(seen))
