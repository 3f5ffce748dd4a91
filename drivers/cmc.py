"""Virtual containers that sign and count: `name.cmc`, the flash of a chip, and `name.key` beside it, its private key.

Whoever has both files has the container, and whoever puts an old copy back has its old counts: it is worth a trial, not
a dongle. Every listing says *virtual*.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from drivers import image, keys, newfile, wire
from drivers.chip.banks import Damaged, Newer, check_version, program
from drivers.chip.chip import Chip
from drivers.chip.flash import FIRST, LATEST, SECTOR, FileFlash, Layout
from drivers.container import Container, ContainerKind
from drivers.device import ChipDevice
from drivers.driver import Busy, Dongle, DriverError, Faulty, NoPermission, Vanished

SUFFIX: Final = ".cmc"
_LAYOUTS: Final = {SECTOR * layout.sectors: layout for layout in (FIRST, LATEST)}
"""The layouts by the bytes of a file."""


def create(path: Path, container: Container, signing: image.SigningKeys) -> None:
    """Write a new container to `path` and its key beside it, both or neither; nothing that is there is overwritten.

    The container's kind is virtual, and `path` ends in `.cmc`. The key comes first: a container is never without it.
    Raises DriverError.
    """
    if container.kind is not ContainerKind.VIRTUAL or path.suffix != SUFFIX:
        msg = f"{path} would be a {container.kind} container; make a virtual one, with a name that ends in {SUFFIX}."
        raise DriverError(msg)
    encoded = image.encode(container, signing=signing)
    key = path.with_suffix(".key")
    written = False
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with newfile.appearing(path) as descriptor:
            os.ftruncate(descriptor, SECTOR * LATEST.sectors)
            program(FileFlash(descriptor, LATEST), encoded)
            keys.write(key, signing.container)
            written = True
    except BaseException as error:
        if written:
            key.unlink()
        if isinstance(error, OSError):
            msg = f"The container {path} cannot be written: {error.strerror}."
            raise DriverError(msg) from error
        raise


class CmcFile:
    """One `.cmc` file, plugged in while it is there; another file in its place is another plug."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def dongles(self) -> frozenset[Dongle]:
        """Return the one dongle that the file is, if it is there."""
        try:
            return frozenset({self._dongle(self._path.stat())})
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()
        except OSError:
            return frozenset({Dongle("virtual", f"{self._path}#unreadable", f"virtual container {self._path}")})

    def open(self, dongle: Dongle) -> CmcDevice:
        """Return the device. Raises Busy if another process has it, Faulty if it is damaged, any DriverError."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _meaning(error, dongle) from error
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and self._dongle(status) != dongle:
                raise _gone(dongle)
            layout = self._layout(descriptor, status, dongle)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return CmcDevice(self, dongle, descriptor, self._chip(FileFlash(descriptor, layout), dongle))
        except BlockingIOError:
            os.close(descriptor)
            msg = f"Another process has the {dongle.text}; end it (cmboxpgm, a daemon), or let cmu ask the daemon."
            raise Busy(msg) from None
        except OSError as error:
            os.close(descriptor)
            raise _meaning(error, dongle) from error
        except BaseException:
            os.close(descriptor)
            raise

    def _layout(self, descriptor: int, status: os.stat_result, dongle: Dongle) -> Layout:
        try:
            if stat.S_ISREG(status.st_mode):
                check_version(FileFlash(descriptor, LATEST))
                return _LAYOUTS[status.st_size]
        except Newer:
            msg = f"The {dongle.text} was made by a later version of this software; update it."
            raise Faulty(msg) from None
        except KeyError:
            pass
        sizes = " or ".join(map(str, _LAYOUTS))
        msg = f"The {dongle.text} is no {SUFFIX} file of {sizes} bytes; put back the one that was made."
        raise Faulty(msg)

    def _chip(self, flash: FileFlash, dongle: Dongle) -> Chip:
        private = keys.read(self._path.with_suffix(".key"))
        try:
            return Chip(flash, private)
        except Damaged:
            raise _damaged(dongle) from None

    def _dongle(self, status: os.stat_result) -> Dongle:
        return Dongle("virtual", f"{self._path}#{status.st_dev}:{status.st_ino}", f"virtual container {self._path}")


class CmcDevice(ChipDevice):
    """An open container of a file, which nobody else can open meanwhile."""

    def __init__(self, file: CmcFile, dongle: Dongle, descriptor: int, chip: Chip) -> None:
        super().__init__(self._to_chip, ContainerKind.VIRTUAL)
        self._file = file
        self._dongle = dongle
        self._descriptor: int | None = descriptor
        self._chip = chip

    def close(self) -> None:
        """Let go of the file; others can open it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _to_chip(self, command: wire.Command, payload: bytes) -> bytes:
        if self._descriptor is None:
            msg = f"The {self._dongle.text} is closed; open it again."
            raise DriverError(msg)
        if self._dongle not in self._file.dongles():
            raise _gone(self._dongle)
        try:
            status, answer = self._chip.answer(command, payload)
        except OSError as error:
            raise _meaning(error, self._dongle) from error
        except (Damaged, Newer):
            raise _damaged(self._dongle) from None
        wire.check_status(command, status)
        return answer


def _gone(dongle: Dongle) -> Vanished:
    return Vanished(f"The {dongle.text} is there no longer as it was; the next scan shows what is.")


def _damaged(dongle: Dongle) -> Faulty:
    where = f"The {dongle.text} is damaged, or the key beside it is another one's"
    return Faulty(f"{where}; put back those that were made.")


def _meaning(error: OSError, dongle: Dongle) -> DriverError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _gone(dongle)
    if isinstance(error, PermissionError):
        return NoPermission(f"The {dongle.text} may not be read and written; let the daemon's user do both.")
    return Faulty(f"The {dongle.text} cannot be used: {error.strerror}.")
