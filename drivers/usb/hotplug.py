"""Hints from udev that a dongle was plugged in or out; the daemon's scans are the truth, these make them prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

_UDEV_CONTROL: Final = Path("/run/udev/control")
"""There as long as udev runs; without it a monitor can be made, and never tells anything."""


class Event(Protocol):
    """The part of a `pyudev.Device` that is used here."""

    @property
    def properties(self) -> Mapping[str, str]:
        """Return what udev knows of the device."""
        ...


class Monitor(Protocol):
    """The part of `pyudev.Monitor` that is used here."""

    def filter_by(self, subsystem: str, device_type: str) -> None:
        """Choose the events."""
        ...

    def start(self) -> None:
        """Begin to listen."""
        ...

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        ...

    def poll(self, timeout: float) -> Event | None:
        """Return the next event, or None if there is none in time (seconds)."""
        ...


class UdevHotplug:
    """Listens to udev for one vendor and product. It listens from the moment it is made: scan after that."""

    def __init__(self, monitor: Monitor, vendor_id: int, product_id: int) -> None:
        self._monitor: Monitor | None = monitor
        self._product = f"{vendor_id:x}/{product_id:x}/"
        monitor.filter_by("usb", "usb_device")
        monitor.start()

    def fileno(self) -> int:
        """Return the netlink socket's descriptor, or -1 once it is closed."""
        return -1 if self._monitor is None else int(self._monitor.fileno())

    def drain(self) -> bool:
        """Take all events that are there; return whether any is about our dongle, or may have been lost."""
        concerned = False
        while self._monitor is not None:
            try:
                event = self._monitor.poll(timeout=0)
            except OSError:  # ENOBUFS: more events than the socket could keep
                return True
            if event is None:
                break
            concerned = concerned or event.properties.get("PRODUCT", "").startswith(self._product)
        return concerned

    def close(self) -> None:
        """Stop listening; the socket is closed with its last reference."""
        self._monitor = None


def listen(vendor_id: int, product_id: int, control: Path = _UDEV_CONTROL) -> UdevHotplug | None:
    """Return a listener, or None where udev does not run or may not be listened to."""
    if not control.exists():
        return None
    try:
        import pyudev

        return UdevHotplug(pyudev.Monitor.from_netlink(pyudev.Context()), vendor_id, product_id)
    except (ImportError, OSError):  # no pyudev, no libudev; no AF_NETLINK in the sandbox
        return None
