"""The journal's file: what has happened to the table, kept so that a restart finds it (decisions 19, 20, 24).

A SQLite database, through apsw. `history` has a row for each commit, with all that was decided since the one before. It
is cut into segments: each begins with a `base`, the shortest history up to its position, so that it can be read without
those before it; the last one's is where a restart begins. Compacting writes a new base in small transactions, and only
then lets a segment begin with it; what was written of one that never did is thrown away by the next. The segments
before the last are there for license tracking, and the oldest are dropped whole.

Each row carries the hash of itself and of the one before, so that damage is found where it is, and a row that was
taken out or altered breaks the chain.

Blocking calls, and one thread at a time. Whoever commits on the daemon's loop gives `patience` 0 and does it again in a
thread on `StoreBusy`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

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
CREATE TABLE segment (
  generation INTEGER PRIMARY KEY, position INTEGER NOT NULL, time INTEGER NOT NULL, chain BLOB NOT NULL,
  digest BLOB NOT NULL
) STRICT;
CREATE TABLE clock (
  only INTEGER PRIMARY KEY CHECK (only = 1), position INTEGER NOT NULL, time INTEGER NOT NULL, ahead INTEGER NOT NULL
) STRICT;
INSERT INTO clock VALUES (1, 0, 0, 0);
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


class Segment(Struct, frozen=True):
    """A part of the history: it begins after `position`, at license time `time`, with the base of this `generation`.

    `chain` is the hash of the last row before it, `digest` that of its base.
    """

    generation: int
    position: int
    time: int
    chain: bytes
    digest: bytes


class Store:
    """One connection to the file. `position` is the last one that is kept, `time` the license time then, and `ahead`
    by how many seconds the system clock was known to be wrong.

    Raises StoreFault and StoreBusy, and nothing else.
    """

    def __init__(self, path: Path, *, power: bool) -> None:
        """Open the file, or make it. With `power`, what is committed survives a power cut too."""
        self.path = path
        self.position = 0
        self.time = 0
        self.ahead = 0
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

    def keep_time(self, now: int, ahead: int, patience: float) -> None:
        """Keep the license time, and by how much the system clock is known to be wrong."""
        try:
            self._db.set_busy_timeout(round(patience * 1_000))
            self._db.execute("UPDATE clock SET position = ?, time = ?, ahead = ?", (self.position, now, ahead))
        except apsw.Error as error:
            raise self._fault(error) from error
        self.time, self.ahead = now, ahead

    def reopen(self) -> None:
        """Begin again with the file after a fault: the connection to it may be no good any more."""
        try:
            self._db.close(True)
            self._db = self._open()
            # A commit that failed may have arrived all the same; it is made again, with what came after it.
            self._db.execute("DELETE FROM history WHERE position > ?", (self.position,))
        except apsw.Error as error:
            raise self._fault(error) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close(True)

    # reading

    def changes(self) -> Iterator[Change]:
        """Yield all that the table is made of; after that, `position` and `time` are those of the end."""
        segment = self.segments()[-1]
        yield from self.base(segment)
        self.position, self._chain, self.time = segment.position, segment.chain, segment.time
        for entry in self.entries(segment):
            yield from entry.changes
        try:
            position, time, self.ahead = self._clock()
        except apsw.Error as error:
            raise self._fault(error) from error
        if position >= self.position:
            self.time = time

    def segments(self) -> list[Segment]:
        """Return the parts of the history, the oldest first; there is one at least."""
        try:
            rows: list[Any] = self._db.execute("SELECT * FROM segment ORDER BY generation").fetchall()
        except apsw.Error as error:
            raise self._fault(error) from error
        if not rows:
            raise self._damage(0)
        return [Segment(*row) for row in rows]

    def base(self, segment: Segment) -> Iterator[Change]:
        """Yield the shortest history of what was before a segment."""
        read = sha256()
        try:
            rows = self._db.execute(
                "SELECT changes FROM base WHERE generation = ? ORDER BY number", (segment.generation,)
            )
            for (octets,) in rows:
                read.update(octets)
                yield from self._decoded(_CHANGES, octets, segment.position)
        except apsw.Error as error:
            raise self._fault(error) from error
        if read.digest() != segment.digest:
            raise self._damage(segment.position)

    def entries(self, segment: Segment) -> Iterator[Entry]:
        """Yield the history from the beginning of a segment to the end, as far as it is all there and unaltered."""
        chain = segment.chain
        try:
            rows = self._db.execute(
                "SELECT position, time, entries, chain FROM history WHERE position > ? ORDER BY position",
                (segment.position,),
            )
            for position, time, octets, link in rows:
                if _next(chain, position, octets) != link:
                    raise self._damage(position)
                yield from self._decoded(_ENTRIES, octets, position)
                self.position, self._chain, self.time = position, link, time
                chain = link
        except apsw.Error as error:
            raise self._fault(error) from error

    def grown(self) -> int:
        """Return how many bytes of history the last segment has."""
        return self._sum("length(entries)", "history WHERE position > (SELECT max(position) FROM segment)")

    def base_size(self) -> int:
        """Return how many bytes its base has."""
        return self._sum("length(changes)", "base WHERE generation = (SELECT max(generation) FROM segment)")

    # keeping it small

    def compact(self, base: Iterable[Change], patience: float) -> None:
        """Begin a new segment at `position`, with this as its base."""
        try:
            self._db.set_busy_timeout(round(patience * 1_000))
            self._sweep()
            generation = self.segments()[-1].generation + 1
            digest = sha256()
            for number, octets in enumerate(_parts(base)):
                digest.update(octets)
                self._db.execute("INSERT INTO base VALUES (?, ?, ?)", (generation, number, octets))
            begins = (generation, self.position, self.time, self._chain, digest.digest())
            self._db.execute("INSERT INTO segment VALUES (?, ?, ?, ?, ?)", begins)
        except apsw.Error as error:
            raise self._fault(error) from error

    def trim(self, most: int, patience: float) -> int:
        """Drop the oldest segments until those before the last have at most so many bytes; return how many went."""
        try:
            self._db.set_busy_timeout(round(patience * 1_000))
            before = self.segments()
            left = dropped = 0
            for segment, end in reversed(list(pairwise(before))):
                size = self._sum("length(changes)", f"base WHERE generation = {segment.generation}") + self._sum(
                    "length(entries)", f"history WHERE position > {segment.position} AND position <= {end.position}"
                )
                left += size
                if left > most:
                    dropped += size
                    self._db.execute("DELETE FROM segment WHERE generation = ?", (segment.generation,))
            self._sweep()
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
                self._db.execute("INSERT INTO segment VALUES (0, 0, 0, ?, ?)", (_NOTHING, sha256().digest()))
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

    def _clock(self) -> tuple[int, int, int]:
        row: Any = self._db.execute("SELECT position, time, ahead FROM clock").fetchone()
        if row is None:
            raise self._damage(0)
        position, time, ahead = row
        return position, time, ahead

    def _decoded(self, decoder: msgspec.msgpack.Decoder[T], octets: bytes, position: int) -> T:
        try:
            return decoder.decode(octets)
        except msgspec.MsgspecError as error:
            raise self._damage(position) from error

    def _sweep(self) -> None:
        """Delete what belongs to no segment, a little at a time."""
        for what in (_LOOSE_BASES, _LOOSE_HISTORY):
            while self._db.execute(f"DELETE FROM {what} RETURNING 1").fetchall():  # noqa: S608 - our own words
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


_LOOSE_BASES: Final = (
    "base WHERE rowid IN (SELECT rowid FROM base WHERE generation NOT IN (SELECT generation FROM segment) LIMIT 16)"
)
_LOOSE_HISTORY: Final = (
    "history WHERE position IN (SELECT position FROM history WHERE position <= (SELECT min(position) FROM segment) "
    "ORDER BY position LIMIT 100)"
)
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
