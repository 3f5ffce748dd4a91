"""The journal's file: what has happened to the table, kept so that a restart finds it (decisions 19, 20, 24).

A SQLite database, through apsw. `history` has a row for each commit, with all that was decided since the one before. It
is cut into segments: each begins with a `base`, the shortest history up to its position, so that it can be read without
those before it; the last one's is where a restart begins. Compacting writes a new base in small transactions, and only
then lets a segment begin with it; what was written of one that never did is thrown away by the next. The segments
before the last are there for license tracking, and the oldest are dropped whole; what their `usage` was is kept, by a
`rollup` that takes the place of the one before as they go.

Each row carries the hash of itself and of the one before, so that damage is found where it is, and a row that was
taken out or altered breaks the chain. A segment carries the hash of itself with its base, and the clock its own; the
clock's position also tells when rows are missing at the end, which the chain alone would not. A rollup carries the hash
of itself with its rows.

Blocking calls, and one thread at a time. Whoever commits on the daemon's loop gives `patience` 0 and does it again in a
thread on `StoreBusy`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw
import msgspec
from msgspec import Struct

from cmserverd import database, sql, wal
from cmserverd.core.changes import Change
from cmserverd.database import StoreBusy, StoreDamage, StoreFault
from cmserverd.rollup import Part, Rollup
from protocol.messages import Access

__all__ = ["Entry", "Segment", "Store", "StoreBusy", "StoreDamage", "StoreFault"]

T = TypeVar("T")

_ROW: Final = 1_000
"""The most entries in a row, so that none of them takes long to read."""

_NOTHING: Final = bytes(32)


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
_PARTS: Final = msgspec.msgpack.Decoder(Part)


class Segment(Struct, frozen=True, array_like=True):
    """A part of the history: it begins after `position`, at license time `time`, with the base of this `generation`.

    `chain` is the hash of the last row before it, `digest` that of all this and its base.
    """

    generation: int
    position: int
    time: int
    chain: bytes
    digest: bytes


class Store:
    """One connection to the file. `position` is the last one that is kept, `time` the license time then, and `ahead`
    by how many seconds the system clock was known to be wrong. `log` tells how long the database's log is.

    Raises StoreFault, of which StoreBusy is one, and nothing else.
    """

    def __init__(self, path: Path, *, power: bool, existing: bool = False) -> None:
        """Open the file, or make it unless it must be `existing`. With `power`, commits survive a power cut too."""
        self.path = path
        self.position = 0
        self.time = 0
        self.ahead = 0
        self.log = wal.Log()
        self._power = power
        self._chain = _NOTHING
        with self._telling():
            self._db = self._open(existing)

    # writing

    def append(self, entries: Sequence[Entry], patience: float) -> int:
        """Commit entries, all or none, and return how many bytes that is.

        Wait at most `patience` seconds for another connection that writes.
        """
        self._check_place()
        chain = self._chain
        rows = []
        for start in range(0, len(entries), _ROW):
            some = entries[start : start + _ROW]
            octets = _ENCODER.encode(some)
            last = some[-1]
            chain = _hash(chain, last.position, last.at, octets)
            rows.append((last.position, last.at, octets, chain))
        try:
            self._db.set_busy_timeout(round(patience * 1_000))
            if len(rows) == 1:  # a transaction by itself, at half of what one of its own costs
                self._db.execute(sql.INSERT, rows[0])
            else:
                with self._db:
                    self._db.executemany(sql.INSERT, rows)
        except apsw.Error as error:
            raise database.fault(self.path, error) from error
        self.position, self.time, self._chain = last.position, last.at, chain
        return sum(len(octets) for _, _, octets, _ in rows)

    def keep_time(self, now: int, ahead: int, patience: float) -> None:
        """Keep the license time, and by how much the system clock is known to be wrong."""
        self._check_place()
        with self._telling():
            self._db.set_busy_timeout(round(patience * 1_000))
            self._db.execute(sql.SET_CLOCK, (self.position, now, ahead, _hash(self.position, now, ahead)))
        self.time, self.ahead = now, ahead

    def reopen(self, patience: float) -> None:
        """Begin again with the file after a fault: the connection to it may be no good any more."""
        with self._telling():
            self._db.close(True)
            self._db = self._open(existing=True)
            self._db.set_busy_timeout(round(patience * 1_000))
            if (self._chain,) not in self._db.execute(sql.LINKS, (self.position, self.position)).fetchall():
                raise StoreFault(
                    f"the journal {self.path} is not the one it was; put that one back in its place, "
                    "or restart the server, which goes by the one that is there"
                )
            # A commit that failed may have arrived all the same; it is made again, with what came after it.
            self._db.execute("DELETE FROM history WHERE position > ?", (self.position,))

    def close(self) -> None:
        """Close the file."""
        self._db.close(True)

    # reading

    def changes(self) -> Iterator[Change]:
        """Yield all that the table is made of; after that, `position` and `time` are those of the end."""
        with self._telling(), self._db:  # all of it as it is at one moment, whoever compacts it meanwhile
            segment = self.segments()[-1]
            yield from self.base(segment)
            self.position, self._chain, self.time = segment.position, segment.chain, segment.time
            for entry in self.entries(segment):
                yield from entry.changes
            position, time, ahead, digest = self._only("SELECT position, time, ahead, digest FROM clock")
        if digest != _hash(position, time, ahead) or position > self.position:
            raise database.damage(self.path, position)
        self.ahead = ahead
        if position == self.position:
            self.time = time

    def segments(self) -> list[Segment]:
        """Return the parts of the history, the oldest first; there is one at least."""
        with self._telling():
            rows = self._db.execute("SELECT * FROM segment ORDER BY generation").fetchall()
            segments = [msgspec.convert(row, Segment) for row in rows]
        if not segments:
            raise database.damage(self.path, 0)
        return segments

    def base(self, segment: Segment) -> Iterator[Change]:
        """Yield the shortest history of what was before a segment, once all of it is known to be sound."""
        parts = "SELECT changes FROM base WHERE generation = ? ORDER BY number", (segment.generation,)
        with self._telling(segment.position):
            digest = _begun(segment.generation, segment.position, segment.time, segment.chain)
            for (octets,) in self._db.execute(*parts):
                digest.update(octets)
            if digest.digest() != segment.digest:
                raise database.damage(self.path, segment.position)
            for (octets,) in self._db.execute(*parts):
                yield from self._decoded(_CHANGES, octets, segment.position)

    def entries(self, segment: Segment, following: Segment | None = None) -> Iterator[Entry]:
        """Yield the history from where a segment begins to the end: of each row once the next vouched for it.

        Or to where a `following` one begins; `position` and `time` stay what they are then.
        """
        chain = segment.chain
        entries: tuple[Entry, ...] = ()
        with self._telling(segment.position):
            rows = self._db.execute(
                "SELECT position, time, entries, chain FROM history WHERE position BETWEEN ? AND ? ORDER BY position",
                (segment.position + 1, following.position if following else _LAST),
            )
            for position, time, octets, link in rows:
                if _hash(chain, position, time, octets) != link:
                    raise database.damage(self.path, position)
                yield from entries
                entries = self._decoded(_ENTRIES, octets, position)
                chain = link
                if following is None:
                    self.position, self._chain, self.time = position, link, time
            if following is not None and chain != following.chain:
                raise database.damage(self.path, following.position)
            yield from entries

    def rollup(self) -> Rollup:
        """Return what the usage was of all that was dropped, once that is known to be sound. Raises StoreDamage."""
        first = self.segments()[0]
        with self._telling(first.position):
            *begins, digest = self._only("SELECT generation, position, time, hour, day, month, digest FROM rollup")
            rows = self._db.execute("SELECT part FROM usage WHERE generation = ? ORDER BY number", begins[:1])
            parts = [octets for (octets,) in rows]
            if _rolled(begins, parts) != digest or begins[1] != first.position:
                raise database.usage_damage(self.path, first.time)
            rollup = Rollup(begins[2], (begins[3], begins[4], begins[5]))
            for octets in parts:
                rollup.load(self._decoded(_PARTS, octets, first.position))
        return rollup

    @property
    def head(self) -> tuple[int, bytes]:
        """Up to which position it is kept, and the hash of all until then."""
        return self.position, self._chain

    def link(self, position: int) -> bytes | None:
        """Return the hash of all up to this position; None if no row ends there, nor a segment begins."""
        with self._telling(position):
            row = self._db.execute(
                "SELECT chain FROM history WHERE position = ?1 UNION SELECT chain FROM segment WHERE position = ?1",
                (position,),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def joins(self, segment: Segment) -> bool:
        """Whether a segment goes on from the row that is before it."""
        row = "SELECT 1 FROM history WHERE position = ? AND chain = ?", (segment.position, segment.chain)
        with self._telling(segment.position):
            return self._db.execute(*row).fetchone() is not None

    @contextmanager
    def unchanging(self) -> Iterator[None]:
        """Read all as it is at one moment meanwhile, whoever writes or compacts the file."""
        with self._telling(), self._db:
            yield

    def grown(self) -> int:
        """Return how many bytes of history the last segment has."""
        return self._sum("length(entries)", "history WHERE position > (SELECT max(position) FROM segment)")

    def base_size(self) -> int:
        """Return how many bytes its base has."""
        return self._sum("length(changes)", "base WHERE generation = (SELECT max(generation) FROM segment)")

    # keeping it small

    def compact(self, base: Iterable[Change], patience: float) -> None:
        """Begin a new segment at `position`, with this as its base. Raises StoreBusy too if another one does that."""
        with self._telling():
            self._db.set_busy_timeout(round(patience * 1_000))
            self._sweep()
            before = self.segments()[-1].generation
            generation = before + 1 + secrets.randbelow(_APART)
            begins = (generation, self.position, self.time, self._chain)
            digest = _begun(*begins)
            parts = 0
            for parts, octets in enumerate(_parts(base), 1):
                digest.update(octets)
                self._db.execute("INSERT INTO base VALUES (?, ?, ?)", (generation, parts, octets))
            self._db.execute(sql.BEGIN, (*begins, digest.digest(), before, parts, generation))
        if not self._db.changes():
            raise StoreBusy(_COMPACTED.format(self.path))

    def surplus(self, most: int) -> tuple[int, int]:
        """Return how many of the oldest segments go for those before the last to have at most so many bytes.

        And how many bytes these have.
        """
        number = left = surplus = 0
        for segment, end in reversed(list(pairwise(self.segments()))):
            size = self._sum("length(changes)", f"base WHERE generation = {segment.generation}") + self._sum(
                "length(entries)", f"history WHERE position > {segment.position} AND position <= {end.position}"
            )
            left += size
            if left > most:
                surplus += size
                number += 1
        return number, surplus

    def drop(self, oldest: Segment, until: Segment, rollup: Rollup, patience: float) -> None:
        """Drop the oldest segment and all up to another one, and keep at once what the usage of all before that was.

        Raises StoreBusy too if another process does that.
        """
        with self._telling():
            self._db.set_busy_timeout(round(patience * 1_000))
            self._sweep()
            begins = [1 + secrets.randbelow(_APART), until.position, rollup.time, *rollup.known.values()]
            parts = [_ENCODER.encode(part) for part in rollup.parts()]
            for number, octets in enumerate(parts, 1):
                self._db.execute("INSERT INTO usage VALUES (?, ?, ?)", (begins[0], number, octets))
            whole = (oldest.generation, len(parts), begins[0])
            with self._db:
                self._db.execute(sql.ROLL_UP, (*begins, _rolled(begins, parts), *whole))
                if self._db.changes():
                    self._db.execute("DELETE FROM segment WHERE generation < ?", (until.generation,))
                else:
                    raise StoreBusy(_COMPACTED.format(self.path))
            self._sweep()

    def checkpoint(self, patience: float) -> None:
        """Bring what was committed from the log of the database into itself, so that the log begins anew.

        For that nobody may read the log. Wait at most `patience` seconds for those who do; nobody can commit meanwhile.
        """
        with self._telling():
            self._db.set_busy_timeout(round(patience * 1_000))
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
            # Whoever writes first to a log that begins anew waits for the disk: let that be us, not the daemon's loop.
            self._db.pragma("user_version", database.FORMAT)

    # the parts of the above

    def _open(self, existing: bool) -> apsw.Connection:
        db = database.connect(self.path, power=self._power, existing=existing)
        if not db.pragma("application_id"):
            begins = (0, 0, 0, _NOTHING)
            with db:
                db.execute(sql.SCHEMA)
                db.execute("INSERT INTO segment VALUES (?, ?, ?, ?, ?)", (*begins, _begun(*begins).digest()))
                db.execute("INSERT INTO clock VALUES (1, 0, 0, 0, ?)", (_hash(0, 0, 0),))
                _begin_rollup(db)
                db.pragma("application_id", database.APPLICATION)
        elif db.pragma("user_version") < database.FORMAT:
            with db:
                _begin_rollup(db)
        self.log.follow(db)
        self._file = database.identity(self.path)
        return db

    def _check_place(self) -> None:
        """Raise StoreFault if the file is not in its place any more: what goes on being written to it would be lost."""
        if database.identity(self.path) != self._file:
            raise database.missing(self.path)

    def _sum(self, what: str, of: str) -> int:
        with self._telling():
            return int(self._db.execute(f"SELECT coalesce(sum({what}), 0) FROM {of}").get)  # noqa: S608 - our own words

    def _only(self, query: str) -> tuple[Any, ...]:
        row: Any = self._db.execute(query).fetchone()
        if row is None:
            raise database.damage(self.path, 0)
        return tuple(row)

    @contextmanager
    def _telling(self, position: int = 0) -> Iterator[None]:
        """Tell what goes wrong meanwhile as a StoreFault: in a damaged file anything may stand in a column."""
        try:
            yield
        except apsw.Error as error:
            raise database.fault(self.path, error) from error
        except (TypeError, ValueError) as error:
            raise database.damage(self.path, position) from error

    def _decoded(self, decoder: msgspec.msgpack.Decoder[T], octets: bytes, position: int) -> T:
        try:
            return decoder.decode(octets)
        except msgspec.MsgspecError as error:
            raise database.damage(self.path, position) from error

    def _sweep(self) -> None:
        """Delete what belongs to no segment, a little at a time."""
        for what in (sql.LOOSE_BASES, sql.LOOSE_HISTORY, sql.LOOSE_USAGE):
            while self._db.execute(f"DELETE FROM {what} RETURNING 1").fetchall():  # noqa: S608 - our own words
                pass


_COMPACTED: Final = "the journal {} is compacted by another process; wait until it has done so"

_LAST: Final = (1 << 63) - 1
"""The last position that there can be."""

_APART: Final = 1 << 40
"""Generations lie so far apart by chance that two who compact at once never write the same one."""

_PART: Final = 500
"""How many changes are written of a base in one transaction: a millisecond or so in which nobody else writes."""


def _hash(*values: object) -> bytes:
    return sha256(_ENCODER.encode(values)).digest()


def _rolled(begins: Sequence[int], parts: Iterable[bytes]) -> bytes:
    """Return the hash of a rollup: of how it begins, and of its parts."""
    digest = sha256(_ENCODER.encode(begins))
    for octets in parts:
        digest.update(octets)
    return digest.digest()


def _begin_rollup(db: apsw.Connection) -> None:
    """Begin to keep the usage of what is dropped, in a new file or in one of format 1, which is one of this then."""
    db.execute(sql.ROLLUP_SCHEMA)
    begins = [0, db.execute("SELECT coalesce(min(position), 0) FROM segment").get, 0, 0, 0, 0]
    db.execute("INSERT OR IGNORE INTO rollup VALUES (1, ?, ?, ?, ?, ?, ?, ?)", (*begins, _rolled(begins, ())))
    db.pragma("user_version", database.FORMAT)


def _begun(generation: int, position: int, time: int, chain: bytes) -> hashlib._Hash:
    """Return the hash of a segment, to be gone on with the parts of its base."""
    return sha256(_ENCODER.encode((generation, position, time, chain)))


def _parts(changes: Iterable[Change]) -> Iterator[bytes]:
    rest = iter(changes)
    while some := list(islice(rest, _PART)):
        yield _ENCODER.encode(some)
