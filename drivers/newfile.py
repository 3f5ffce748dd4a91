"""New files that appear whole or not at all, and that their owner alone can read from the first byte on.

What is new is written beside its place, under a name of its own, and then linked there: a link overwrites nothing, and
follows no symbolic link.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def appearing(path: Path) -> Iterator[int]:
    """Give the descriptor of a draft; once the block is done, it is on the disk and at its place.

    Raises OSError, FileExistsError if anything is there; after any exception no draft is left.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    draft = Path(name)
    try:
        yield descriptor
        os.fsync(descriptor)
        publish(draft, path)
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            draft.unlink()


def publish(draft: Path, path: Path) -> None:
    """Have a draft appear at its place, and wait until that is on the disk. Raises OSError as `appearing` does."""
    try:
        os.link(draft, path, follow_symlinks=False)
    except OSError:  # something is there; or the file system knows no links, as that of a memory stick
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        draft.rename(path)
    settle(path.parent)


def settle(directory: Path) -> None:
    """Wait until a directory's entries are on the disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
