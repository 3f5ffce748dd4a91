"""The embedded dongle: the dongle's firmware on a USB bus inside this process, for the demo and for trials.

Its chip has a key of its own, made anew at each start, and forgets what it counted. Its firm items are signed with the
demo licensor's key, which everybody has: the daemon believes them where that is configured.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from drivers import description, image, keys
from drivers.chip.banks import program
from drivers.chip.chip import Chip
from drivers.chip.flash import MemoryFlash
from drivers.container import ContainerKind
from drivers.driver import Faulty
from drivers.image import SigningKeys
from drivers.usb import demo_licensor
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
    (container,) = containers
    licensors = dict.fromkeys((item.firm_code for item in container.firm_items), demo_licensor.PRIVATE)
    signing = SigningKeys(keys.generate(), licensors)
    flash = MemoryFlash()
    program(flash, image.encode(container, signing=signing))
    bus = InProcessBackend()
    bus.plug(Firmware(Chip(flash, signing.container)))
    return bus
