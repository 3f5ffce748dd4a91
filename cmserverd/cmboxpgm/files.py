"""Files: read within bounds, and written such that nobody ever sees half of one.

What is new is written in a private directory beside its place and then linked there (`drivers.newfile`). Only the
ledger is ever replaced.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from drivers import newfile
from drivers.driver import DriverError

PRIVATE: Final = 0o600
SHARED: Final = 0o666
"""What is handed on; the umask has its say."""


def read(path: Path, limit: int, what: str, *, link: bool = True) -> bytes:
    """Return a file's bytes, `limit` at most; `link` if the path may be a symbolic link.

    Raises DriverError, in whose sentence `what` names the file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if link else os.O_NOFOLLOW))
        with os.fdopen(descriptor, "rb") as file:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            octets = file.read(limit + 1) if regular else b""
    except FileNotFoundError:
        msg = f"There is no {what} {path}; correct its name."
        raise DriverError(msg) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            msg = f"The {what} {path} is a symbolic link, which a change would replace; name the file that it leads to."
            raise DriverError(msg) from None
        msg = f"The {what} {path} cannot be read: {error.strerror}."
        raise DriverError(msg) from error
    if not regular:
        msg = f"{path} is no file; name a {what}."
        raise DriverError(msg)
    if len(octets) > limit:
        msg = f"{path} is no {what}: it has more than {limit} bytes; name another file."
        raise DriverError(msg)
    return octets


def check_free(path: Path) -> None:
    """Raise DriverError if there is anything at a path where a new file is to be."""
    if os.path.lexists(path):
        msg = f"There is a file {path} already, and nothing is overwritten; name another one, or put it away."
        raise DriverError(msg)


@contextmanager
def workshop(path: Path) -> Iterator[Path]:
    """Give a private directory beside `path`, to write what shall be published there. Raises DriverError."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".cmboxpgm-") as directory:
            yield Path(directory)
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror}; nothing is changed there."
        raise DriverError(msg) from error


def write(path: Path, octets: bytes, mode: int) -> None:
    """Write a new file, and wait until it is on the disk. Raises OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())


def publish(draft: Path, path: Path) -> None:
    """Have a draft appear at its place, whole. Raises DriverError if anything is there, OSError."""
    try:
        newfile.publish(draft, path)
    except FileExistsError:
        check_free(path)
        raise


def write_new(path: Path, octets: bytes, mode: int = SHARED) -> None:
    """Write a new file, wholly or not at all. Raises DriverError, also if anything is there."""
    check_free(path)
    with workshop(path) as directory:
        write(directory / path.name, octets, mode)
        publish(directory / path.name, path)


def replace(path: Path, octets: bytes) -> None:
    """Put a private file in the place of the one that may be there, wholly or not at all. Raises DriverError."""
    with workshop(path) as directory:
        write(directory / path.name, octets, PRIVATE)
        (directory / path.name).replace(path)
        newfile.settle(path.parent)
