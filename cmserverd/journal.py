"""Keeps what the engine decides: no reply leaves before what it rests on is committed (decisions 15, 19).

Everything that was decided since the last commit goes into the next one, many requests in one. With durability
`process` that is written on the daemon's loop, to the system's memory, which takes some 20 microseconds; with `power` a
thread waits for the disk, and meanwhile the next one gathers.

While the file cannot be written, nobody gets anything new: what the last commit should have kept of grants is taken
back, and answered 104 in place of the grant. What is held stands and can be let go of; it is tried again each second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Final, TypeVar

import structlog
import trio
from msgspec import Struct

from cmserverd.core import changes as c
from cmserverd.core.refusal import Refused
from cmserverd.core.terms import Access, Session
from cmserverd.engine import Record
from cmserverd.service import Service
from cmserverd.store import Entry, Store, StoreBusy, StoreFault
from protocol import messages as m
from protocol.errors import ErrorNumber

T = TypeVar("T")

_log = structlog.get_logger("journal")

_AGAIN: Final = 1.0
"""Seconds between two attempts while the file cannot be written."""

_PATIENCE: Final = 10.0
"""How many seconds a commit in a thread waits for others to commit."""

_KEEP_TIME: Final = 50.0
"""Seconds between two times that the license time is kept where nothing else happens (decision 17)."""

_BACKLOG: Final = 100_000
"""Of so much that could not be kept yet nobody may cause more: some 50 MB."""

_GRANTS: Final = (c.Allocated, c.Joined, c.Referred)

_SAID: Final = 1_000
"""How much is told of what a compaction that fails has said, in characters."""

_MEGABYTE: Final = 1_000_000


class Upkeep(Struct, frozen=True):
    """When the file is tidied, in bytes: it is compacted once so much history was added to the base, and as much as
    that has itself; a checkpoint comes after so much. `history` is how much is kept of what the base covers.
    """

    compact: int = 64 * _MEGABYTE
    checkpoint: int = 4 * _MEGABYTE
    history: int = 1_000 * _MEGABYTE


class Journal:
    """Writes what the service's engine decides to a store, and lets the replies go."""

    def __init__(self, service: Service, store: Store, *, power: bool, upkeep: Upkeep | None = None) -> None:
        self._service = service
        self._engine = service.engine
        self._store = store
        self._power = power
        self._upkeep = upkeep or Upkeep()
        self._pending: list[Entry] = []
        self._wake = trio.Event()
        self._growth = trio.Event()
        self._since_checkpoint = 0
        self._since_base = store.grown()
        self._most = max(self._upkeep.compact, store.base_size())
        self._time_due = False
        service.reached = self._engine.position
        self._engine.listen(self._note)
        self._engine.listen(self._time_is_due, c.TimeSet)

    def _note(self, record: Record) -> None:
        denied = record.request if _is_denial(record) else None
        if record.changes or denied is not None:
            assert denied is None or isinstance(denied, m.Access)
            self._pending.append(Entry(record.position, record.at, record.session, record.changes, denied))
        if not self._wake.is_set():
            self._wake.set()

    def _time_is_due(self, _: Record | None = None) -> None:
        self._time_due = True
        self._wake.set()

    async def run(self) -> None:
        """Keep what is decided, for ever; when that is cancelled, what was decided until then, and close the file."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self._tidy)
                while True:
                    await self._wake.wait()
                    self._wake = trio.Event()
                    await self._keep()
        finally:
            with trio.CancelScope(shield=True):
                self._time_is_due()
                await self._keep(last=True)
                await trio.to_thread.run_sync(self._store.close)

    async def _keep(self, *, last: bool = False) -> None:
        batch, self._pending = self._pending, []
        position = self._engine.position
        try:
            await self._commit(batch)
        except StoreFault as fault:
            self._pending = [*batch, *self._pending]
            if last:
                _log.error("what happened last could not be kept", entries=len(self._pending), reason=str(fault))
            else:
                await self._endure(str(fault))
            return
        self._service.release(position)

    async def _commit(self, batch: Sequence[Entry]) -> None:
        """Write to the file, or raise StoreFault. Not to be cancelled: half of what was decided would be lost."""
        with trio.CancelScope(shield=True):
            if self._time_due:
                clock = self._engine.clock
                await self._write(partial(self._store.keep_time, clock.now(), clock.ahead))
                self._time_due = False
            if batch:
                written = await self._write(partial(self._store.append, batch))
                self._since_checkpoint += written
                self._since_base += written
                if self._since_checkpoint >= self._upkeep.checkpoint or self._since_base >= self._most:
                    self._growth.set()

    async def _write(self, write: Callable[[float], T]) -> T:
        if not self._power:
            with suppress(StoreBusy):
                return write(0.0)
        try:
            return await trio.to_thread.run_sync(write, _PATIENCE)
        except StoreBusy as busy:
            raise StoreFault(f"another program has kept the journal {self._store.path} locked; close it") from busy

    async def _endure(self, why: str) -> None:
        """Nothing can be kept: take back what was granted and not told yet, and let go until it can be again."""
        engine = self._engine
        engine.sealed = f"the server can keep no records at present, {why}"
        _log.error("the journal cannot be written; nobody gets anything new until it can be", reason=why)
        self._take_back()
        self._service.release(inf)
        while True:
            await trio.sleep(_AGAIN)
            engine.full = len(self._pending) >= _BACKLOG
            batch, position = tuple(self._pending), engine.position
            try:
                await trio.to_thread.run_sync(self._store.reopen)
                await self._commit(batch)
            except StoreFault as fault:
                if str(fault) != why:
                    why = str(fault)
                    engine.sealed = f"the server can keep no records at present, {why}"
                    _log.error("the journal still cannot be written", reason=why)
                continue
            del self._pending[: len(batch)]
            engine.sealed, engine.full = "", False
            _log.warning("the journal is written again; licenses are granted again", entries=len(batch))
            self._service.release(position)
            return

    def _take_back(self) -> None:
        """Nobody was told of these grants: their replies wait for the commit that failed."""
        table = self._engine.table
        changes = [change for entry in self._pending for change in entry.changes]
        grants = (table.accesses.find(change.handle) for change in changes if isinstance(change, _GRANTS))
        by_session: dict[Session, list[Access]] = {}
        for held in grants:
            if held is not None:
                by_session.setdefault(held.session, []).append(held)
        refusal = Refused(ErrorNumber.COMMAND_FAILED, self._engine.sealed)
        for session, accesses in by_session.items():
            self._service.retract(session, {held.handle for held in accesses}, refusal)
            for held in accesses:
                self._engine.revoke(held)

    async def _keep_time(self) -> None:
        while True:
            await trio.sleep(_KEEP_TIME)
            self._time_is_due()

    # the file's own affairs

    async def _tidy(self) -> None:
        """Keep the file small, through a connection of its own; a fault in that is told, and harms nothing yet."""
        store = await trio.to_thread.run_sync(partial(Store, self._store.path, power=self._power))
        try:
            while True:
                await self._growth.wait()
                self._growth = trio.Event()
                if self._since_checkpoint >= self._upkeep.checkpoint:
                    self._since_checkpoint = 0
                    await self._checkpoint(store)
                if self._since_base >= self._most:
                    await self._compact(store)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(store.close)

    async def _checkpoint(self, store: Store) -> None:
        try:
            await trio.to_thread.run_sync(store.checkpoint, _PATIENCE)
        except StoreBusy:
            pass  # somebody reads the file; the next one does it
        except StoreFault as fault:
            _log.error("the journal cannot be tidied; its log grows", reason=str(fault))

    async def _compact(self, store: Store) -> None:
        before = self._since_base
        command = [sys.executable, "-P", "-m", "cmserverd.compaction", str(store.path), str(self._upkeep.history)]
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, start_new_session=True
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-_SAID:]
            _log.error("the journal cannot be compacted; it grows", reason=said, exit_code=done.returncode)
            self._most = self._since_base + self._upkeep.compact  # later again
            return
        self._since_base -= before
        self._most = max(self._upkeep.compact, await trio.to_thread.run_sync(store.base_size))
        _log.info("journal compacted", bytes=before)
        if dropped := int(done.stdout):
            _log.info("the oldest history was dropped to keep within its limit", bytes=dropped)


def _is_denial(record: Record) -> bool:
    return record.refusal is not None and record.refusal.number is ErrorNumber.NO_MORE_LICENSES
