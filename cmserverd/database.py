"""Opens the journal's file, a SQLite database, if this program may write it, and says what is wrong with it if not.

Whatever that is, it is one sentence for who runs the server, which ends with what to do.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import apsw

FORMAT: Final = 4
"""The version of the file's format. A program reads those up to its own, and makes an older one its own.

2: the usage of what was dropped is kept; licenses are borrowed, and containers vouch for the history.
3: by how much license time was set back is told; an access may be on its way to become a loan.
4: such a loan is told of at once, and has its access's unit; by how much license time has leapt is told.
"""

APPLICATION: Final = 0x636D7372
"""What tells this kind of SQLite file from others: "cmsr"."""

_PATIENCE: Final = 10_000
"""How many milliseconds an opening waits for another connection."""

_LOOK: Final = "look at the disk and at the system's log"
_AWAY: Final = "put a copy of it in its place, or move it away, which lets go of all licenses in it"
_WORDS: Final = (
    (apsw.FullError, ("the disk is full", "make room")),
    (apsw.ReadOnlyError, ("it is read-only", "let this user write to it")),
    (apsw.CantOpenError, ("it cannot be opened", "let this user read and write it and its directory")),
    (apsw.NotADBError, ("it is no journal, or damaged", _AWAY)),
    (apsw.CorruptError, ("it is damaged", _AWAY)),
    (apsw.SQLError, ("it is damaged", _AWAY)),  # a table or column of ours is not in it
    (apsw.IOError, ("the disk does not read or write", _LOOK)),
)


class StoreFault(Exception):
    """The file cannot be read or written; the text is a sentence that says why, and what to do.

    `what` is the reason alone, for those whom paths and remedies do not concern.
    """

    def __init__(self, text: str, what: str = "the journal cannot be used") -> None:
        super().__init__(text)
        self.what = what


class StoreBusy(StoreFault):
    """Another connection to the file writes just now, and did so for longer than was to be waited."""


class StoreDamage(StoreFault):
    """Something in the file is not as it was written."""


def connect(path: Path, *, power: bool, existing: bool) -> apsw.Connection:
    """Connect to the file; unless it must be `existing`, make it if it is not there. Raises StoreFault, apsw.Error.

    With `power`, a commit waits for the disk. What is committed goes to the database's log, and stays there until a
    checkpoint is asked for.
    """
    if existing and not path.exists():
        raise missing(path)
    _make(path)
    with ExitStack() as stack:
        db = apsw.Connection(os.fspath(path), apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW)
        stack.callback(db.close, True)
        db.set_busy_timeout(_PATIENCE)
        _examine(path, db)
        if db.pragma("journal_mode", "WAL") != "wal":
            raise StoreFault(
                f"the journal {path} lies on a file system that cannot share memory; "
                "choose a local disk with [server] state_directory"
            )
        db.pragma("synchronous", "FULL" if power else "NORMAL")
        db.pragma("wal_autocheckpoint", 0)
        stack.pop_all()
    return db


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells the file that is there from one that was there before or after; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def missing(path: Path) -> StoreFault:
    """Return what is said where the file is not in its place any more, while a server goes by it."""
    return StoreFault(
        f"the journal {path} is not in its place any more; put it back, or restart the server, which begins a new one "
        "and lets go of all licenses",
        "its journal was taken away",
    )


def damage(path: Path, position: int) -> StoreDamage:
    """Return what is said where something in the file is not as it was written."""
    return StoreDamage(f"the journal {path} is damaged at position {position}; {_AWAY}")


def usage_damage(path: Path, time: int) -> StoreDamage:
    """Return what is said where that is the usage of what was dropped; what came after it began at this time."""
    when = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")
    return StoreDamage(
        f"the usage history of before {when} UTC in the journal {path} is damaged; "
        "put a copy of the journal in its place, or ask for what came later"
    )


def fault(path: Path, error: apsw.Error) -> StoreFault:
    """Return what is said in place of an error of SQLite's."""
    if isinstance(error, apsw.BusyError):
        return StoreBusy(f"another program has kept the journal {path} locked; close it", "the journal is locked")
    what, way_out = next((words for kind, words in _WORDS if isinstance(error, kind)), (str(error), _LOOK))
    return StoreFault(f"the journal {path} cannot be used: {what}; {way_out}", what)


def _make(path: Path) -> None:
    """Make the file if it is not there, for this user alone.

    One that is there is not opened: to close it again would take this process's locks off it, those of another
    connection too.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        return
    except FileExistsError:
        found = path.lstat()
    except OSError as error:
        raise StoreFault(
            f"the journal {path} cannot be made: {error.strerror}; correct [server] state_directory"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise StoreFault(f"{path} is no file; move away what is there in place of the journal")
    if found.st_size == 1 or (not found.st_size and path.with_name(f"{path.name}-wal").exists()):
        raise damage(path, 0)  # SQLite would begin it anew


def _examine(path: Path, db: apsw.Connection) -> None:
    """Raise StoreFault if it is not ours to write."""
    application, version = db.pragma("application_id"), db.pragma("user_version")
    if application != APPLICATION and (application or version or db.pragma("schema_version")):
        raise StoreFault(f"{path} is no journal of cmserverd; correct [server] state_directory")
    if version > FORMAT:
        raise StoreFault(
            f"the journal {path} was written by a newer cmserverd (format {version}, this one has {FORMAT}); "
            "start that one, or move the file away, which lets go of all licenses in it"
        )
    if db.readonly("main"):
        raise apsw.ReadOnlyError
