"""The log of the journal's database, SQLite's write-ahead log: the file beside it that has what was committed last."""

from __future__ import annotations

from typing import Final

import apsw

_HEADER: Final = 32
_FRAME: Final = 24 + 4_096
"""How many bytes the log has at its beginning, and for each page that was written; the least commit writes one."""


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
