"""Dongles on the USB, over pyusb. With `embedded` the bus is one inside this process, with one dongle on it.

The driver reaches either kind of dongle through USB transfers and in no other way.
"""

from __future__ import annotations

import ctypes.util
from pathlib import Path
from typing import Annotated, Final

import usb.backend
import usb.backend.libusb1
import usb.core
import usb.util
from msgspec import Meta, Struct

from drivers import wire
from drivers.container import ContainerKind
from drivers.device import ChipDevice
from drivers.driver import CheckCancelled, Dongle, DriverError, Faulty, Vanished
from drivers.usb import hotplug
from drivers.usb.embedded import embedded_bus
from drivers.usb.faults import translated
from drivers.usb.transport import ENDPOINT_IN, ENDPOINT_OUT, INTERFACE, Transport

VENDOR_ID: Final = 0x1209
PRODUCT_ID: Final = 0x0001
"""The test range of pid.codes, which other people's devices use too: `open` looks closer."""
_INTERFACE_CLASS: Final = (0xFF, 0x43, 0x01)
"""Class, subclass and protocol of the dongle's interface."""


class UsbOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[drivers.usb]`.

    `embedded` puts a dongle inside the daemon in place of real ones; `embedded_container` is the absolute path of the
    TOML file that describes its container, by default there is a demo in it. `timeout` is how long a dongle may take
    to answer, in seconds.
    """

    embedded: bool = False
    embedded_container: str | None = None
    timeout: Annotated[float, Meta(gt=0, le=60)] = 2.0

    def __post_init__(self) -> None:
        path = self.embedded_container
        if path is None:
            return
        if not self.embedded:
            msg = "embedded_container has no effect without embedded = true; add that, or leave it out"
            raise ValueError(msg)
        if not path.startswith("/") or "\0" in path:
            msg = f"embedded_container {path!r} is no absolute path; write it as in '/etc/cmserverd/trial.toml'"
            raise ValueError(msg)


class UsbDriver:
    """Finds dongles by their descriptors and opens them. `backend` is a pyusb backend to use instead of libusb."""

    name = "usb"
    Options = UsbOptions

    def __init__(
        self,
        options: UsbOptions,
        check_cancelled: CheckCancelled,
        *,
        backend: usb.backend.IBackend | None = None,
    ) -> None:
        self._timeout = options.timeout
        self._check_cancelled = check_cancelled
        self._embedded = options.embedded
        self._no_backend = ""
        self._backend = backend
        if options.embedded:
            path = options.embedded_container
            self._backend = embedded_bus(None if path is None else Path(path))

    def scan(self) -> frozenset[Dongle]:
        """Return the dongles on the bus. Opens nothing. Raises DriverError if the USB cannot be used at all."""
        return frozenset(self._devices())

    def open(self, dongle: Dongle) -> UsbDevice:
        """Claim the dongle and learn what it is."""
        device = self._devices().get(dongle)
        if device is None:
            msg = f"The {dongle.text} was unplugged; plug it in again."
            raise Vanished(msg)
        kind = ContainerKind.EMBEDDED if self._embedded else ContainerKind.HARDWARE
        try:
            _claim(device)
            transport = Transport(device, self._timeout, self._check_cancelled)
            wire.decode_info(transport.exchange(wire.Command.INFO))
            return UsbDevice(device, transport, kind)
        except BaseException:
            usb.util.dispose_resources(device)
            raise

    def hotplug(self) -> hotplug.UdevHotplug | None:
        """Return udev's hints where udev runs, for the real bus."""
        return None if self._embedded else hotplug.listen(VENDOR_ID, PRODUCT_ID)

    def close(self) -> None:
        """Do nothing: whatever is open belongs to a device."""

    def _devices(self) -> dict[Dongle, usb.core.Device]:
        with translated():
            found = usb.core.find(find_all=True, backend=self._bus(), idVendor=VENDOR_ID, idProduct=PRODUCT_ID)
            return {_dongle(device): device for device in found}

    def _bus(self) -> usb.backend.IBackend:
        """Return the backend; looking for a missing libusb starts compilers, so that is done once."""
        if self._backend is None and not self._no_backend:
            self._backend = usb.backend.libusb1.get_backend()
            if self._backend is None:
                self._no_backend = _why_no_backend()
        if self._backend is None:
            raise DriverError(self._no_backend)
        return self._backend


class UsbDevice(ChipDevice):
    """An open dongle: claimed, and known to speak our protocol."""

    def __init__(self, device: usb.core.Device, transport: Transport, kind: ContainerKind) -> None:
        super().__init__(self._over_usb, kind)
        self._device: usb.core.Device | None = device
        self._transport = transport

    def close(self) -> None:
        """Give the interface and the handle back."""
        device, self._device = self._device, None
        if device is not None:
            usb.util.dispose_resources(device)

    def _over_usb(self, command: wire.Command, payload: bytes) -> bytes:
        if self._device is None:  # pyusb would open it again, unasked
            msg = "The dongle is closed; open it again."
            raise DriverError(msg)
        return self._transport.exchange(command, payload)


def _dongle(device: usb.core.Device) -> Dongle:
    port = ".".join(str(number) for number in device.port_numbers or (0,))
    return Dongle(
        UsbDriver.name,
        f"{device.bus}-{port}:{device.address}",
        f"USB dongle on bus {device.bus}, port {port} (address {device.address})",
    )


def _claim(device: usb.core.Device) -> None:
    """Open the device, make sure that it is one of ours, and claim its interface."""
    with translated(opening=True):
        try:
            configuration = device.get_active_configuration()
        except usb.core.USBError as error:
            if error.errno is not None:
                raise
            device.set_configuration()  # pyusb's own word for a device that nobody configured has no number
            configuration = device.get_active_configuration()
    interface = usb.util.find_descriptor(configuration, bInterfaceNumber=INTERFACE, bAlternateSetting=0)
    if interface is None or not _is_ours(interface):
        msg = f"The device {VENDOR_ID:04x}:{PRODUCT_ID:04x} is no CmContainer dongle, though it uses the same test ids."
        raise Faulty(msg)
    with translated():
        usb.util.claim_interface(device, INTERFACE)


def _is_ours(interface: usb.core.Interface) -> bool:
    kind = (interface.bInterfaceClass, interface.bInterfaceSubClass, interface.bInterfaceProtocol)
    bulk = {
        endpoint.bEndpointAddress
        for endpoint in interface
        if usb.util.endpoint_type(endpoint.bmAttributes) == usb.util.ENDPOINT_TYPE_BULK
    }
    return kind == _INTERFACE_CLASS and bulk >= {ENDPOINT_OUT, ENDPOINT_IN}


def _why_no_backend() -> str:
    if ctypes.util.find_library("usb-1.0") is None:
        return "libusb is not installed; install it (Debian: apt install libusb-1.0-0) and start the daemon again."
    return "libusb cannot be started: this machine or container has no USB; disable the driver usb, or provide it."
