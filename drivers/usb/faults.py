"""What a USB error means to the operator: pyusb's error numbers to the driver error tree."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import usb.core

from drivers.driver import Busy, DriverError, Faulty, NoAnswer, NoPermission, Vanished

_NO_PERMISSION: Final = (
    "No permission to open the dongle: the daemon's user must be in the group of the udev rule (60-cmserverd.rules), "
    "and a systemd unit needs DeviceAllow=char-usb_device rw with After=modprobe@usbcore.service."
)

_MEANING: Final[dict[int | None, tuple[type[DriverError], str]]] = {
    errno.EACCES: (NoPermission, _NO_PERMISSION),
    errno.EPERM: (NoPermission, _NO_PERMISSION),
    errno.EBUSY: (Busy, "Another process has the dongle; end it (a daemon, a virtual machine, a driver)."),
    errno.ENODEV: (Vanished, "The dongle was unplugged, or the daemon may not see it (PrivateDevices=); plug it in."),
    errno.ETIMEDOUT: (NoAnswer, "The dongle does not answer; unplug it and plug it in again."),
    errno.EPIPE: (Faulty, "The dongle refuses the transfer (stall); unplug it and plug it in again."),
    errno.EOVERFLOW: (Faulty, "The dongle sends more than it was asked for; unplug it and plug it in again."),
    errno.EIO: (Faulty, "The transfer failed; look at the plug, the cable and the hub, and plug the dongle in again."),
}


def meaning(error: usb.core.USBError, *, opening: bool = False) -> DriverError:
    """Return the driver error for pyusb's. `opening`: the device is just being opened.

    In opening, EIO is a matter of permission: that is how libusb reports what a sandbox forbids.
    """
    number = errno.EACCES if opening and error.errno == errno.EIO else error.errno
    kind, text = _MEANING.get(number, (Faulty, f"The dongle cannot be used: {error.strerror}."))
    return kind(text)


@contextmanager
def translated(*, opening: bool = False) -> Iterator[None]:
    """Raise the driver error for whatever pyusb raises inside."""
    try:
        yield
    except usb.core.USBError as error:
        raise meaning(error, opening=opening) from error
    except NotImplementedError as error:  # how pyusb reports libusb's NOT_SUPPORTED: a system without its driver
        msg = f"The system has no driver by which the dongle could be used: {error}."
        raise Faulty(msg) from error
