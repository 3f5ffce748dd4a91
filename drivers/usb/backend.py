"""A USB bus inside this process: a pyusb backend whose devices are `Firmware` objects instead of hardware.

The embedded dongle lives on it, and so do the tests. Towards pyusb it behaves as libusb on Linux does, error numbers
and texts included. What pyusb asks of a backend, and what each call must give, is in pyusb's `usb/backend/__init__.py`.
"""

from __future__ import annotations

import errno
import struct
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import usb.backend
import usb.core

from drivers.usb.firmware import PACKET, Firmware, Stall

_BUS: Final = 1
_LAST_ADDRESS: Final = 127
_FULL_SPEED: Final = 2

_ERRORS: Final = {
    errno.ENODEV: (-4, "No such device (it may have been disconnected)"),
    errno.ENOENT: (-5, "Entity not found"),
    errno.EBUSY: (-6, "Resource busy"),
    errno.ETIMEDOUT: (-7, "Operation timed out"),
    errno.EOVERFLOW: (-8, "Overflow"),
    errno.EPIPE: (-9, "Pipe error"),
}
"""libusb's code and text for each error number."""

_DEVICE_FIELDS: Final = (
    "bLength bDescriptorType bcdUSB bDeviceClass bDeviceSubClass bDeviceProtocol bMaxPacketSize0 "
    "idVendor idProduct bcdDevice iManufacturer iProduct iSerialNumber bNumConfigurations"
)
_CONFIGURATION_FIELDS: Final = (
    "bLength bDescriptorType wTotalLength bNumInterfaces bConfigurationValue iConfiguration bmAttributes bMaxPower"
)
_INTERFACE_FIELDS: Final = (
    "bLength bDescriptorType bInterfaceNumber bAlternateSetting bNumEndpoints "
    "bInterfaceClass bInterfaceSubClass bInterfaceProtocol iInterface"
)
_ENDPOINT_FIELDS: Final = "bLength bDescriptorType bEndpointAddress bmAttributes wMaxPacketSize bInterval"


class Plugged:
    """A dongle in its place. Plugged in anew it is another one, with another address, and old handles stay dead.

    Whoever touches what is in here holds `changed`; it is notified after each transfer and at the unplug.
    """

    def __init__(self, firmware: Firmware, address: int, port: int) -> None:
        self.firmware = firmware
        self.address = address
        self.port = port
        self.alive = True
        self.claims: dict[int, Handle] = {}
        self.changed = threading.Condition()
        firmware.reset()
        self.device_descriptor = firmware.control(0x80, 6, 0x0100, 0, 18)
        self.configuration_descriptor = firmware.control(0x80, 6, 0x0200, 0, 1024)
        firmware.control(0x00, 9, self.configuration_descriptor[5], 0, 0)

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Hold the dongle for a transfer. Raises ENODEV if it is gone, EPIPE if it stalls."""
        with self.changed:
            self.check_alive()
            try:
                yield
            except Stall:
                raise _error(errno.EPIPE) from None
            finally:
                self.changed.notify_all()

    def check_alive(self) -> None:
        """Raise ENODEV if the dongle is gone."""
        if not self.alive:
            raise _error(errno.ENODEV)

    def wait(self, deadline: float) -> bool:
        """Wait for something to change; return False once the deadline is past. Raises ENODEV if the dongle is gone."""
        in_time = self.changed.wait(max(0.0, deadline - time.monotonic()))
        self.check_alive()
        return in_time or time.monotonic() < deadline


class Handle:
    """One opening of a plugged dongle."""

    def __init__(self, plugged: Plugged) -> None:
        self.plugged = plugged


class InProcessBackend(usb.backend.IBackend):  # type: ignore[misc] # pyusb has no types
    """The bus, and the hands that plug and unplug. May be used in several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plugged: dict[int, Plugged] = {}
        self._last_address = 0

    def plug(self, firmware: Firmware) -> int:
        """Plug a dongle in and return its address; like a kernel, reset it and choose its configuration."""
        with self._lock:
            after_last = ((self._last_address + step) % _LAST_ADDRESS + 1 for step in range(_LAST_ADDRESS))
            address = next(each for each in after_last if each not in self._plugged)
            used = {plugged.port for plugged in self._plugged.values()}
            port = next(each for each in range(1, _LAST_ADDRESS + 1) if each not in used)
            self._plugged[address] = Plugged(firmware, address, port)
            self._last_address = address
            return address

    def unplug(self, address: int) -> None:
        """Pull the dongle with this address out; transfers that are under way end with ENODEV."""
        with self._lock:
            plugged = self._plugged.pop(address)
        with plugged.changed:
            plugged.alive = False
            plugged.changed.notify_all()

    # --- what is there ----------------------------------------------------------------------------------------------

    def enumerate_devices(self) -> list[Plugged]:
        """Return the dongles that are plugged in."""
        with self._lock:
            return list(self._plugged.values())

    def get_device_descriptor(self, dev: Plugged) -> SimpleNamespace:
        """Return the device descriptor, and where the device is."""
        fields = _named(_DEVICE_FIELDS, "<BBHBBBBHHHBBBB", dev.device_descriptor, 0)
        place = {"bus": _BUS, "address": dev.address, "port_number": dev.port, "port_numbers": (dev.port,)}
        return SimpleNamespace(**fields, **place, speed=_FULL_SPEED)

    def get_configuration_descriptor(self, dev: Plugged, config: int) -> SimpleNamespace:
        """Return the one configuration. Raises IndexError for any other, as pyusb wants it."""
        _only(config)
        return SimpleNamespace(
            **_named(_CONFIGURATION_FIELDS, "<BBHBBBBB", dev.configuration_descriptor, 0), extra_descriptors=[]
        )

    def get_interface_descriptor(self, dev: Plugged, intf: int, alt: int, config: int) -> SimpleNamespace:
        """Return the one interface. Raises IndexError for any other, as pyusb wants it."""
        _only(intf, alt, config)
        return SimpleNamespace(
            **_named(_INTERFACE_FIELDS, "<9B", dev.configuration_descriptor, 9), extra_descriptors=[]
        )

    def get_endpoint_descriptor(self, dev: Plugged, ep: int, intf: int, alt: int, config: int) -> SimpleNamespace:
        """Return an endpoint. Raises IndexError past the last, as pyusb wants it."""
        _only(intf, alt, config)
        start = 9 + 9 + 7 * ep
        if start >= len(dev.configuration_descriptor):
            raise IndexError(ep)
        return SimpleNamespace(
            **_named(_ENDPOINT_FIELDS, "<BBBBHB", dev.configuration_descriptor, start),
            bRefresh=0,
            bSynchAddress=0,
            extra_descriptors=[],
        )

    # --- handles ----------------------------------------------------------------------------------------------------

    def open_device(self, dev: Plugged) -> Handle:
        """Open a dongle."""
        with dev.transfer():
            return Handle(dev)

    def close_device(self, dev_handle: Handle) -> None:
        """Close a handle; what it had claimed is free again."""
        plugged = dev_handle.plugged
        with plugged.changed:
            plugged.claims = {each: owner for each, owner in plugged.claims.items() if owner is not dev_handle}

    def get_configuration(self, dev_handle: Handle) -> int:
        """Return the number of the configuration in force, 0 for none."""
        with dev_handle.plugged.transfer():
            return dev_handle.plugged.firmware.control(0x80, 8, 0, 0, 1)[0]

    def set_configuration(self, dev_handle: Handle, config_value: int) -> None:
        """Choose the configuration. Raises EBUSY while an interface is claimed, as the kernel does."""
        plugged = dev_handle.plugged
        with plugged.transfer():
            if plugged.claims:
                raise _error(errno.EBUSY)
            plugged.firmware.control(0x00, 9, config_value, 0, 0)

    def claim_interface(self, dev_handle: Handle, intf: int) -> None:
        """Claim the interface. Raises EBUSY if another handle has it."""
        plugged = dev_handle.plugged
        with plugged.transfer():
            if plugged.claims.setdefault(intf, dev_handle) is not dev_handle:
                raise _error(errno.EBUSY)

    def release_interface(self, dev_handle: Handle, intf: int) -> None:
        """Give the interface back. Raises ENOENT if this handle does not have it."""
        plugged = dev_handle.plugged
        with plugged.transfer():
            if plugged.claims.get(intf) is not dev_handle:
                raise _error(errno.ENOENT)
            del plugged.claims[intf]

    # --- transfers; timeouts are in milliseconds --------------------------------------------------------------------

    def clear_halt(self, dev_handle: Handle, ep: int) -> None:
        """End the halt of an endpoint."""
        with dev_handle.plugged.transfer():
            dev_handle.plugged.firmware.control(0x02, 1, 0, ep, 0)

    def ctrl_transfer(
        self,
        dev_handle: Handle,
        bmRequestType: int,  # noqa: N803 - pyusb's names
        bRequest: int,  # noqa: N803
        wValue: int,  # noqa: N803
        wIndex: int,  # noqa: N803
        data: array[int],
        timeout: int,  # noqa: ARG002 - the firmware answers control requests at once
    ) -> int:
        """Do a control transfer; return how many bytes were transferred, into `data` if they are the dongle's."""
        plugged = dev_handle.plugged
        with plugged.transfer():
            answer = plugged.firmware.control(bmRequestType, bRequest, wValue, wIndex, len(data))
            data[: len(answer)] = array("B", answer)
            return len(answer)

    def bulk_write(self, dev_handle: Handle, ep: int, intf: int, data: array[int], timeout: int) -> int:  # noqa: ARG002
        """Send packets; return how many bytes the dongle took, which after a timeout may be fewer than there were."""
        plugged = dev_handle.plugged
        deadline = time.monotonic() + timeout / 1000
        octets = data.tobytes()
        sent = 0
        with plugged.transfer():
            while sent < len(octets):
                packet = octets[sent : sent + PACKET]
                if plugged.firmware.out_packet(ep, packet):
                    sent += len(packet)
                    plugged.changed.notify_all()
                elif not plugged.wait(deadline):
                    break
        if octets and not sent:
            raise _error(errno.ETIMEDOUT)
        return sent

    def bulk_read(self, dev_handle: Handle, ep: int, intf: int, buff: array[int], timeout: int) -> int:  # noqa: ARG002
        """Receive packets until the buffer is full, a short one comes, or time is out; return how many bytes came."""
        plugged = dev_handle.plugged
        deadline = time.monotonic() + timeout / 1000
        received = b""
        timed_out = short = False
        with plugged.transfer():
            while not (timed_out or short or len(received) == len(buff)):
                packet = plugged.firmware.in_packet(ep)
                if packet is None:
                    timed_out = not plugged.wait(deadline)
                    continue
                received += packet
                short = len(packet) < PACKET
                plugged.changed.notify_all()
        if len(received) > len(buff):
            raise _error(errno.EOVERFLOW)
        if timed_out and not received:
            raise _error(errno.ETIMEDOUT)
        buff[: len(received)] = array("B", received)
        return len(received)


def _error(number: int) -> usb.core.USBError:
    """Return the exception that pyusb's libusb backend raises for this error number."""
    code, text = _ERRORS[number]
    kind = usb.core.USBTimeoutError if number == errno.ETIMEDOUT else usb.core.USBError
    return kind(text, code, number)


def _only(*indexes: int) -> None:
    """Raise IndexError unless all are 0: there is one of each."""
    if any(indexes):
        raise IndexError(indexes)


def _named(names: str, layout: str, octets: bytes, start: int) -> dict[str, Any]:
    return dict(zip(names.split(), struct.unpack_from(layout, octets, start), strict=True))
