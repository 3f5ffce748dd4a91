"""The embedded dongle: the dongle's firmware on a USB bus inside this process, for the demo and for trials."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from drivers import description, image
from drivers.container import ContainerKind
from drivers.driver import Faulty
from drivers.usb.backend import InProcessBackend
from drivers.usb.firmware import Firmware


def embedded_bus(path: Path | None) -> InProcessBackend:
    """Return a bus with one dongle on it, which holds the container described at `path`, or the demo container.

    Raises DriverError if the description cannot be read, is wrong, or has not exactly one container.
    """
    if path is None:
        octets, source = resources.files("drivers.usb").joinpath("demo.toml").read_bytes(), "demo.toml"
    else:
        octets, source = description.read(path), str(path)
    containers = description.parse(octets, source, ContainerKind.EMBEDDED)
    if len(containers) != 1:
        msg = f"{source} describes {len(containers)} containers; the embedded dongle holds exactly one."
        raise Faulty(msg)
    bus = InProcessBackend()
    bus.plug(Firmware(image.encode(containers[0])))
    return bus
