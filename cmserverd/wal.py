"""The log of the journal's database, SQLite's write-ahead log: the file beside it that has what was committed last.

The layout of that file and of its index is SQLite's own, which it describes and keeps (sqlite.org/walformat.html).
"""

from __future__ import annotations

from pathlib import Path
from struct import Struct
from typing import Final

import apsw

_HEADER: Final = 32
_FRAME: Final = 24 + 4_096
"""How many bytes the log has at its beginning, and for each page that was written; the least commit writes one."""

_BEGINS: Final = Struct(">16x8s8x")
"""What the log begins with: the salts that its frames have, too; those of a log before it have others."""

_HEAD: Final = Struct(">4xI8s8x")
"""What a frame begins with: not 0 if a commit ends with it, and the salts."""

_INDEX: Final = Struct("=16xI")
"""What the index begins with: how many frames were taken for sound."""

_TORN: Final = 1
"""How many commits a kill may leave there that were not told to anybody: the one that was being written."""


def lost(path: Path) -> int:
    """Return how many commits there are from the first that cannot be read on, in the log of a database just opened.

    SQLite takes what cannot be read for the log's end. It is that where a commit was cut off, and then none is lost;
    where more of them follow, there was a power cut, or the disk altered what was written.
    """
    try:
        with path.with_name(f"{path.name}-shm").open("rb") as file:
            index = file.read(_INDEX.size)
        log = path.with_name(f"{path.name}-wal").open("rb")
    except FileNotFoundError:
        return 0
    with log:
        begins = log.read(_BEGINS.size)
        if len(begins) < _BEGINS.size or len(index) < _INDEX.size:
            return 0
        (salts,), (sound,) = _BEGINS.unpack(begins), _INDEX.unpack(index)
        commits, place = 0, _HEADER + sound * _FRAME
        while log.seek(place) and len(head := log.read(_HEAD.size)) == _HEAD.size:
            ends, own = _HEAD.unpack(head)
            commits += bool(ends) and own == salts
            place += _FRAME
    return commits if commits > _TORN else 0


class Log:
    """How much of the log is in use: `size` bytes, as of the last commit through a connection that tells it.

    Whoever committed, all is counted. Once the log has begun anew, the file is as long as before, and `size` is not.
    """

    def __init__(self) -> None:
        self.size = 0

    def follow(self, db: apsw.Connection) -> None:
        """Have a connection tell its commits from now on."""
        db.set_wal_hook(self._committed)

    def _committed(self, _db: apsw.Connection, _name: str, frames: int) -> int:
        self.size = _HEADER + frames * _FRAME
        return apsw.SQLITE_OK
