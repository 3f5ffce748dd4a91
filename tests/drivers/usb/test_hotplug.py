"""Hints from udev: those about our dongles count, and where udev does not run there are none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from drivers.usb import hotplug
from drivers.usb.driver import PRODUCT_ID, VENDOR_ID
from drivers.usb.hotplug import UdevHotplug


class Event:
    """One event, as pyudev gives it."""

    def __init__(self, properties: Mapping[str, str]) -> None:
        self.properties = properties


class Monitor:
    """Stands for pyudev's monitor: gives the events it was made with, or raises them."""

    def __init__(self, *events: Event | OSError) -> None:
        self._events = list(events)
        self.chosen = ("", "")
        self.started = False

    def filter_by(self, subsystem: str, device_type: str) -> None:
        self.chosen = (subsystem, device_type)

    def start(self) -> None:
        self.started = True

    def fileno(self) -> int:
        return 7

    def poll(self, timeout: float) -> Event | None:
        assert timeout == 0
        if not self._events:
            return None
        event = self._events.pop(0)
        if isinstance(event, OSError):
            raise event
        return event


OURS = Event({"PRODUCT": "1209/1/100", "ACTION": "remove"})
OTHER = Event({"PRODUCT": "1209/10/100"})
NAMELESS = Event({})


@pytest.mark.parametrize(
    ("events", "concerned"),
    [
        ((), False),
        ((OURS,), True),
        ((OTHER, NAMELESS), False),
        ((OTHER, OURS, OTHER), True),
        ((OSError("no buffer space"), OURS), True),
    ],
)
def test_draining(events: tuple[Event | OSError, ...], concerned: bool) -> None:
    """All events are taken; whether one is about our ids, or may have been lost, is the answer."""
    listener = UdevHotplug(Monitor(*events), VENDOR_ID, PRODUCT_ID)
    assert listener.drain() is concerned
    listener.drain()
    assert listener.drain() is False


def test_it_listens_from_the_start_and_not_after_the_end() -> None:
    """The monitor runs before the first scan, so that no plug falls between; closed, it has no descriptor."""
    monitor = Monitor(OURS)
    listener = UdevHotplug(monitor, VENDOR_ID, PRODUCT_ID)
    assert (monitor.chosen, monitor.started, listener.fileno()) == (("usb", "usb_device"), True, 7)
    listener.close()
    listener.close()
    assert (listener.fileno(), listener.drain()) == (-1, False)


def test_without_udev_there_are_no_hints(tmp_path: Path) -> None:
    """A machine or container where udev does not run is simply scanned."""
    assert hotplug.listen(VENDOR_ID, PRODUCT_ID, tmp_path / "control") is None


def test_where_udev_seems_to_run(tmp_path: Path) -> None:
    """The real monitor is made and listens, or is refused and there are no hints; either way nothing is raised."""
    control = tmp_path / "control"
    control.touch()
    listener = hotplug.listen(VENDOR_ID, PRODUCT_ID, control)
    if listener is not None:
        descriptor = listener.fileno()
        os.fstat(descriptor)
        assert listener.drain() is False
        listener.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
