"""The journal's file: what has happened to the table, kept so that a restart finds it (decisions 19, 20, 24).

A SQLite database, through apsw. `history` has a row for each commit, with all that was decided since the one before;
`base` has the shortest history up to a position, from which on `history` goes on; `state` says which base counts.
Compacting writes a new base beside the old one, in small transactions, and then lets it count; what was written of one
that never counted is thrown away by the next. What the base covers stays in `history` until it is trimmed.

Each row carries the hash of itself and of the one before, so that damage is found where it is, and a row that was
taken out or altered breaks the chain.

Blocking calls, and one thread at a time. Whoever commits on the daemon's loop gives `patience` 0 and does it again in a
thread on `StoreBusy`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

import apsw
import msgspec
from msgspec import Struct

from cmserverd.core.changes import Change
from protocol.messages import Access

T = TypeVar("T")

FORMAT: Final = 1
"""The version of the file's format. A program reads those up to its own."""

_APPLICATION: Final = 0x636D7372
"""What tells this kind of SQLite file from others: "cmsr"."""

_ROW: Final = 1_000
"""The most entries in a row, so that none of them takes long to read."""

_SCHEMA: Final = """
CREATE TABLE history (position INTEGER PRIMARY KEY, time INTEGER NOT NULL, entries BLOB NOT NULL, chain BLOB NOT NULL)
STRICT;
CREATE TABLE base (generation INTEGER, number INTEGER, changes BLOB NOT NULL, PRIMARY KEY (generation, number)) STRICT;
CREATE TABLE state (
  only INTEGER PRIMARY KEY CHECK (only = 1), generation INTEGER NOT NULL, position INTEGER NOT NULL,
  chain BLOB NOT NULL, digest BLOB NOT NULL, kept INTEGER NOT NULL, time INTEGER NOT NULL
) STRICT;
INSERT INTO state VALUES (1, 0, 0, zeroblob(32), zeroblob(32), 0, 0);
"""

_NOTHING: Final = bytes(32)


class StoreFault(Exception):
    """The file cannot be read or written; the text is a sentence that says why, and what to do."""


class StoreBusy(Exception):
    """Another connection to the file writes just now."""


class Entry(Struct, frozen=True, gc=False, array_like=True):
    """What the journal keeps of one passage through the door: its changes, or whom and what it denied.

    `session` is 0 where none is concerned; `denied` is a request that was refused with 212, the only refusals that
    license tracking knows (domain reference, section 12).
    """

    position: int
    at: int
    session: int
    changes: tuple[Change, ...]
    denied: Access | None = None


_ENCODER: Final = msgspec.msgpack.Encoder()
_ENTRIES: Final = msgspec.msgpack.Decoder(tuple[Entry, ...])
_CHANGES: Final = msgspec.msgpack.Decoder(tuple[Change, ...])


class Store:
    """One connection to the file. `position` is the last one that is kept, `time` the license time then.

    Raises StoreFault and StoreBusy, and nothing else.
    """

    def __init__(self, path: Path, *, power: bool) -> None:
        """Open the file, or make it. With `power`, what is committed survives a power cut too."""
        self.path = path
        self.position = 0
        self.time = 0
        self._power = power
        self._chain = _NOTHING
        try:
            self._db = self._open()
            self._prepare()
        except apsw.Error as error:
            raise self._fault(error) from error

    # writing

    def append(self, entries: Sequence[Entry], patience: float) -> int:
        """Commit entries, all or none, and return how many bytes that is.

        Wait at most `patience` seconds for another connection that writes.
        """
        chain = self._chain
        rows = []
        for start in range(0, len(entries), _ROW):
            some = entries[start : start + _ROW]
            octets = _ENCODER.encode(some)
            last = some[-1]
            chain = _next(chain, last.position, octets)
            rows.append((last.position, last.at, octets, chain))
        try:
            self._db.set_busy_timeout(round(patience * 1_000))
            if len(rows) == 1:  # a transaction by itself, at half of what one of its own costs
                self._db.execute(_INSERT, rows[0])
            else:
                with self._db:
                    self._db.executemany(_INSERT, rows)
        except apsw.Error as error:
            raise self._fault(error) from error
        self.position, self.time, self._chain = last.position, last.at, chain
        return sum(len(octets) for _, _, octets, _ in rows)

    def keep_time(self, now: int, patience: float) -> None:
        """Keep the license time where nothing else happens."""
        try:
            self._db.set_busy_timeout(round(patience * 1_000))
            self._db.execute("UPDATE state SET kept = ?, time = ?", (self.position, now))
        except apsw.Error as error:
            raise self._fault(error) from error
        self.time = now

    def reopen(self) -> None:
        """Begin again with the file after a fault: the connection to it may be no good any more."""
        try:
            self._db.close(True)
            self._db = self._open()
        except apsw.Error as error:
            raise self._fault(error) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close(True)

    # reading

    def changes(self) -> Iterator[Change]:
        """Yield all that the table is made of; after that, `position` and `time` are those of the end."""
        try:
            generation, position, chain, digest, kept, time = self._state()
            read = sha256()
            for (octets,) in self._db.execute(
                "SELECT changes FROM base WHERE generation = ? ORDER BY number", (generation,)
            ):
                read.update(octets)
                yield from self._decoded(_CHANGES, octets, position)
            if position and read.digest() != digest:
                raise self._damage(position)
            self.position, self._chain, self.time = position, chain, time
            for entry in self._entries_after(position, chain):
                yield from entry.changes
            if kept >= self.position:
                self.time = time
        except apsw.Error as error:
            raise self._fault(error) from error

    def grown(self) -> int:
        """Return how many bytes of history there are after the base."""
        return self._sum("length(entries)", "history WHERE position > (SELECT position FROM state)")

    def base_size(self) -> int:
        """Return how many bytes the base has."""
        return self._sum("length(changes)", "base WHERE generation = (SELECT generation FROM state)")

    # keeping it small

    def compact(self, base: Iterable[Change], patience: float) -> None:
        """Let this be the history up to `position`, in place of the base and what followed it."""
        try:
            self._db.set_busy_timeout(round(patience * 1_000))
            generation = self._state()[0] + 1
            self._throw_away(but=generation - 1)
            digest = sha256()
            for number, octets in enumerate(_parts(base)):
                digest.update(octets)
                self._db.execute("INSERT INTO base VALUES (?, ?, ?)", (generation, number, octets))
            self._db.execute(
                "UPDATE state SET generation = ?, position = ?, chain = ?, digest = ?",
                (generation, self.position, self._chain, digest.digest()),
            )
            self._throw_away(but=generation)
        except apsw.Error as error:
            raise self._fault(error) from error

    def trim(self, most: int, patience: float) -> int:
        """Drop the oldest history that the base covers until at most so many bytes of it are left; return how many."""
        try:
            self._db.set_busy_timeout(round(patience * 1_000))
            sizes = self._db.execute(
                "SELECT position, length(entries) FROM history WHERE position <= (SELECT position FROM state) "
                "ORDER BY position DESC"
            )
            total, dropped, first = 0, 0, None
            for position, size in sizes:
                total += size
                if total > most:
                    dropped += size
                    first = first or position
            if first is not None:
                while self._db.execute(
                    "DELETE FROM history WHERE position IN "
                    "(SELECT position FROM history WHERE position <= ? ORDER BY position LIMIT ?) RETURNING position",
                    (first, _ROW),
                ).fetchall():
                    pass
        except apsw.Error as error:
            raise self._fault(error) from error
        return dropped

    def checkpoint(self, patience: float) -> None:
        """Bring what was committed from the log of the database into itself, so that the log begins anew."""
        try:
            self._db.set_busy_timeout(round(patience * 1_000))
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.Error as error:
            raise self._fault(error) from error

    # the parts of the above

    def _open(self) -> apsw.Connection:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        try:
            os.close(os.open(self.path, flags, 0o600))
        except OSError as error:
            raise StoreFault(
                f"the journal {self.path} cannot be opened: {error.strerror}; correct [server] state_directory"
            ) from error
        db = apsw.Connection(os.fspath(self.path), apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW)
        if db.pragma("journal_mode", "WAL") != "wal":
            raise StoreFault(
                f"the journal {self.path} lies on a file system that cannot share memory; "
                "choose a local disk with [server] state_directory"
            )
        db.execute(f"PRAGMA synchronous = {'FULL' if self._power else 'NORMAL'}")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        return db

    def _prepare(self) -> None:
        application = self._db.pragma("application_id")
        version = self._db.pragma("user_version")
        if not application and not version and not self._db.pragma("schema_version"):
            with self._db:
                self._db.execute(_SCHEMA)
                self._db.pragma("application_id", _APPLICATION)
                self._db.pragma("user_version", FORMAT)
        elif application != _APPLICATION:
            raise StoreFault(f"{self.path} is no journal of cmserverd; correct [server] state_directory")
        elif version > FORMAT:
            raise StoreFault(
                f"the journal {self.path} was written by a newer cmserverd (format {version}, this one has {FORMAT}); "
                "start that one, or move the file away, which lets go of all licenses in it"
            )

    def _sum(self, what: str, of: str) -> int:
        try:
            size = self._db.execute(f"SELECT coalesce(sum({what}), 0) FROM {of}").get  # noqa: S608 - our own words
        except apsw.Error as error:
            raise self._fault(error) from error
        return int(size)

    def _state(self) -> tuple[int, int, bytes, bytes, int, int]:
        row = self._db.execute("SELECT generation, position, chain, digest, kept, time FROM state").fetchone()
        if row is None:
            raise self._damage(0)
        generation, position, chain, digest, kept, time = row
        return generation, position, chain, digest, kept, time

    def _entries_after(self, position: int, chain: bytes) -> Iterator[Entry]:
        rows = self._db.execute(
            "SELECT position, time, entries, chain FROM history WHERE position > ? ORDER BY position", (position,)
        )
        for last, time, octets, link in rows:
            if _next(chain, last, octets) != link:
                raise self._damage(last)
            yield from self._decoded(_ENTRIES, octets, last)
            self.position, self._chain, self.time = last, link, time
            chain = link

    def _decoded(self, decoder: msgspec.msgpack.Decoder[T], octets: bytes, position: int) -> T:
        try:
            return decoder.decode(octets)
        except msgspec.MsgspecError as error:
            raise self._damage(position) from error

    def _throw_away(self, but: int) -> None:
        """Delete what there is of other bases, a little at a time."""
        while self._db.execute(
            "DELETE FROM base WHERE rowid IN (SELECT rowid FROM base WHERE generation <> ? LIMIT 16) RETURNING number",
            (but,),
        ).fetchall():
            pass

    def _damage(self, position: int) -> StoreFault:
        return StoreFault(
            f"the journal {self.path} is damaged at position {position}; put a copy of it in its place, "
            "or move it away, which lets go of all licenses in it"
        )

    def _fault(self, error: apsw.Error) -> StoreFault | StoreBusy:
        if isinstance(error, apsw.BusyError):
            return StoreBusy()
        what, way_out = next((words for kind, words in _WORDS if isinstance(error, kind)), (str(error), _LOOK))
        return StoreFault(f"the journal {self.path} cannot be used: {what}; {way_out}")


_INSERT: Final = "INSERT INTO history VALUES (?, ?, ?, ?)"

_PART: Final = 500
"""How many changes are written of a base in one transaction: a millisecond or so in which nobody else writes."""

_LOOK: Final = "look at the disk and at the system's log"
_AWAY: Final = "put a copy of it in its place, or move it away, which lets go of all licenses in it"
_WORDS: Final = (
    (apsw.FullError, ("the disk is full", "make room")),
    (apsw.ReadOnlyError, ("it is read-only", "let this user write to it")),
    (apsw.CantOpenError, ("it cannot be opened", "let this user read and write it and its directory")),
    (apsw.NotADBError, ("it is no journal, or damaged", _AWAY)),
    (apsw.CorruptError, ("it is damaged", _AWAY)),
    (apsw.IOError, ("the disk does not read or write", _LOOK)),
)


def _next(chain: bytes, position: int, octets: bytes) -> bytes:
    """Return the hash of a row that follows the one with the hash `chain`."""
    return sha256(b"%b%d:%b" % (chain, position, octets)).digest()


def _parts(changes: Iterable[Change]) -> Iterator[bytes]:
    some: list[Change] = []
    for change in changes:
        some.append(change)
        if len(some) == _PART:
            yield _ENCODER.encode(some)
            some.clear()
    if some:
        yield _ENCODER.encode(some)
