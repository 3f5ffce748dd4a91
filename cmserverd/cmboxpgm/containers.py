"""The containers at hand: made as files, and opened, from a file or from the USB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmserverd.cmboxpgm import files
from drivers import cmc, keys
from drivers.container import Container, ContainerId, ContainerKind
from drivers.driver import Device, Dongle, Driver, DriverError, Vanished, never_cancelled
from drivers.image import SigningKeys
from drivers.usb.driver import UsbDriver, UsbOptions


def create(path: Path, name: ContainerId, text: str) -> bytes:
    """Make an empty virtual container, its key beside it, and return its public key. Raises DriverError."""
    _check_name(path)
    beside = path.with_suffix(".key")
    for place in (path, beside):
        files.check_free(place)
    private = keys.generate()
    with files.workshop(path) as directory:
        draft = directory / path.name
        cmc.create(draft, Container(name, ContainerKind.VIRTUAL, text), SigningKeys(private))
        files.publish(draft.with_suffix(".key"), beside)
        files.publish(draft, path)
    return keys.public_of(private)


@contextmanager
def opened_file(path: Path) -> Iterator[Device]:
    """Give the virtual container in a file. Raises DriverError."""
    _check_name(path)
    file = cmc.CmcFile(path)
    found = list(file.dongles())
    if not found:
        msg = f"There is no container {path}; correct its name, or make one with cmboxpgm create."
        raise Vanished(msg)
    device = file.open(found[0])
    try:
        yield device
    finally:
        device.close()


@contextmanager
def opened_dongle() -> Iterator[Device]:
    """Give the one dongle that is plugged in. Raises DriverError, also if there are several."""
    driver: Driver = UsbDriver(UsbOptions(), never_cancelled)
    try:
        device = driver.open(_only(driver.scan()))
        try:
            yield device
        finally:
            device.close()
    finally:
        driver.close()


def _check_name(path: Path) -> None:
    if path.suffix != cmc.SUFFIX:
        msg = f"{path} is no name of a virtual container; it ends in {cmc.SUFFIX}."
        raise DriverError(msg)


def _only(found: frozenset[Dongle]) -> Dongle:
    if len(found) != 1:
        there = f"{len(found)} dongles are plugged in" if found else "No dongle is plugged in"
        msg = f"{there}; have the one plugged in that is meant, and no other."
        raise Vanished(msg)
    return next(iter(found))
