"""The containers at hand: made as files, and opened, from a file or from the USB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cmserverd.cmboxpgm import files
from drivers import cmc, keys
from drivers.container import Container, ContainerId, ContainerKind
from drivers.driver import Device, Dongle, Driver, DriverError, Vanished, never_cancelled
from drivers.image import SigningKeys
from drivers.usb.driver import UsbDevice, UsbDriver, UsbOptions


def create(path: Path, name: ContainerId, text: str) -> bytes:
    """Make an empty virtual container, its key beside it, and return its public key. Raises DriverError."""
    _check_name(path)
    for place in (path, path.with_suffix(".key")):
        files.check_free(place)
    private = keys.generate()
    cmc.create(path, Container(name, ContainerKind.VIRTUAL, text), SigningKeys(private))
    return keys.public_of(private)


def create_on_dongle(name: ContainerId, text: str) -> bytes:
    """Make a container of the one empty dongle that is plugged in, and return the public key of the key that it made.

    Raises DriverError, also if there are several: none is like another once it has its name.
    """
    driver = UsbDriver(UsbOptions(), never_cancelled)
    empty: list[UsbDevice] = []
    troubles: list[DriverError] = []
    with ExitStack() as stack:
        stack.callback(driver.close)
        for dongle in driver.scan():
            try:
                device = driver.open(dongle)
                stack.callback(device.close)
                if device.is_empty():
                    empty.append(device)
            except DriverError as error:  # it may be the one: say so, unless another one is
                troubles.append(error)
        if not empty and troubles:
            raise troubles[0]
        if len(empty) != 1:
            there = f"{len(empty)} empty dongles are plugged in" if empty else "No empty dongle is plugged in"
            msg = f"{there}; have the one plugged in that is to be container {name}: no other can be made one."
            raise Vanished(msg)
        return empty[0].init(name, text)


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
