"""The files that `cmu` writes and reads: those that travel between an operator and a licensor, or a borrower.

Nobody ever sees half of one: what is new is written in a private directory beside its place, and then put there.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cmserverd.cmu.outcome import Misused, Unwritten

LIMIT: Final = 65_536
"""The most bytes of an update file, as `Import` takes them."""

REQUEST: Final = b"cmrequest"
"""How every request file begins (`docs/licensors.md`, "The request file")."""


def read_update(path: Path) -> bytes:
    """Return an update file's bytes, at most `LIMIT`. Raises Misused."""
    return read(path, "update", "the update that the licensor sent", LIMIT)


def read(path: Path, what: str, named: str, limit: int) -> bytes:
    """Return a file's bytes, at most `limit`; a pipe or a device is not waited for. Raises Misused.

    `what` it is, and how it is `named` to people: `update`, `the update that the licensor sent`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            octets = file.read(limit + 1) if regular else b""
    except OSError as error:
        raise Misused(f"the {what} {path} cannot be read: {error.strerror}") from None
    if not regular:
        raise Misused(f"{path} is no file; name {named}")
    if len(octets) > limit:
        raise Misused(f"{path} has more than {limit} bytes, so it is no {what}; name {named}")
    return octets


@contextmanager
def new_file(path: Path, beginning: bytes, what: str) -> Iterator[Callable[[bytes], None]]:
    """Give what writes a file to `path`, wholly or not at all, in the place of an earlier one of its kind.

    It is known by its `beginning`; `what` it is, is for people. That it may be written there is found out first: who
    asks for a certified time makes an earlier request worthless. Raises Misused, Unwritten.
    """

    def write(octets: bytes) -> None:
        draft = Path(directory) / path.name
        with draft.open("xb") as file:  # no secret: the umask says who may read it
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        _check_place(path, beginning, what)  # once more, as near to the change as can be
        draft.replace(path)

    _check_place(path, beginning, what)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".cmu-") as directory:
            yield write
    except OSError as error:
        raise Unwritten(f"{path} cannot be written: {error.strerror}") from None


def _check_place(path: Path, beginning: bytes, what: str) -> None:
    """Raise Misused unless nothing is there, or an earlier file of the kind."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            earlier = stat.S_ISREG(os.fstat(descriptor).st_mode) and file.read(len(beginning)) == beginning
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:  # a symbolic link, a directory, what may not be read: whatever it is, it is not known for one
        earlier = False
    if not earlier:
        raise Misused(f"{path} is there already and is no {what}; name another one, or put it away")
