"""Keeps what the engine decides: no reply leaves before what it rests on is committed (decisions 15, 19).

Everything that was decided since the last commit goes into the next one, many requests in one. With durability
`process` that is written on the daemon's loop, to the system's memory, which takes some 20 microseconds; with `power` a
thread waits for the disk, and meanwhile the next one gathers.

While the file cannot be written, nobody gets anything new: what the last commit should have kept of grants is taken
back, and answered 104 in place of the grant. What is held stands and can be let go of; it is tried again each second.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from time import perf_counter
from typing import Final, TypeVar

import structlog
import trio
from msgspec import Struct

from cmserverd.core import changes as c
from cmserverd.core.refusal import Refused
from cmserverd.core.terms import Allocation
from cmserverd.engine import Record
from cmserverd.service import Service
from cmserverd.store import Entry, Store, StoreBusy, StoreFault
from cmserverd.writer import Writer
from protocol import messages as m
from protocol.errors import ErrorNumber

T = TypeVar("T")

_log = structlog.get_logger("journal")

_AGAIN: Final = 1.0
"""Seconds between two attempts while the file cannot be written."""

_PATIENCE: Final = 10.0
"""How many seconds a commit in a thread waits for others to commit."""

_LAST_PATIENCE: Final = 1.0
"""How many the last ones wait: a stop has fifteen seconds in all, and one that waits already may take ten."""

_GATHER: Final = 0.002
"""For how many seconds a commit in a thread is put off at most while more comes for it."""

_HELD_UP: Final = 0.1
"""How many seconds commits may be held up by a checkpoint that waits for those who read the file."""

_SEALED: Final = "it can keep no records at present, {}; what is held stands"

_UNTIDY: Final = "the journal cannot be tidied; it grows"

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
    that has itself; a checkpoint comes once the database's log has so much, and where that could not begin it anew,
    once it has as much again. `history` is how much is kept of what the base covers.
    """

    compact: int = 64 * _MEGABYTE
    checkpoint: int = 16 * _MEGABYTE
    history: int = 1_000 * _MEGABYTE


class Journal:
    """Writes what the service's engine decides to a store, and lets the replies go."""

    def __init__(self, service: Service, store: Store, *, power: bool, upkeep: Upkeep | None = None) -> None:
        self._service = service
        self._engine = service.engine
        self._store = store
        self.setting = "power" if power else "process"
        self.commit = 0.0
        self.kept = store.head
        self._power = power
        self._upkeep = upkeep or Upkeep()
        self._pending: list[Entry] = []
        self._wake = trio.Event()
        self._log_grew = trio.Event()
        self._tried = 0  # how long the log was after the last checkpoint
        self._base_is_due = trio.Event()
        self._since_base = store.grown()
        self._most = max(self._upkeep.compact, store.base_size())
        self._time_due = False
        self._patience = _PATIENCE
        self._writer: Writer
        service.reached = self._engine.position
        self._engine.listen(self._note)
        self._engine.listen(self._time_is_due, c.TimeSet, c.Leapt)

    def size(self) -> int:
        """Return how many bytes the file has, with what is not moved into it yet."""
        size = 0
        for file in (self._store.path, self._store.path.with_name(f"{self._store.path.name}-wal")):
            with suppress(OSError):
                size += file.stat().st_size
        return size

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
        with Writer() as self._writer:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_time)
                    nursery.start_soon(self._shorten_the_log)
                    nursery.start_soon(self._renew_the_base)
                    while True:
                        await self._wake.wait()
                        if self._power:
                            await self._gather()
                        self._wake = trio.Event()
                        await self._keep()
            finally:
                with trio.CancelScope(shield=True):
                    self._patience = _LAST_PATIENCE
                    self._time_is_due()
                    await self._keep(last=True)
                    await self._writer.do(self._store.close)

    async def _gather(self) -> None:
        """Wait while each turn of the loop brings more: a commit in a thread costs as much as deciding some requests.

        Whoever is alone waits for one turn, in which nothing comes.
        """
        ends = perf_counter() + _GATHER
        gathered = 0
        while len(self._pending) > gathered and perf_counter() < ends:
            gathered = len(self._pending)
            await trio.lowlevel.checkpoint()

    async def _keep(self, *, last: bool = False) -> None:
        batch, self._pending = self._pending, []
        position = self._engine.position
        try:
            if last and self._engine.sealed:
                await self._writer.do(partial(self._store.reopen, self._patience))
            await self._commit(batch)
        except StoreFault as fault:
            self._pending = [*batch, *self._pending]
            if last:
                _log.error("what happened last could not be kept", entries=len(self._pending), reason=str(fault))
            else:
                await self._endure(fault)
            return
        self._service.release(position)

    async def _commit(self, batch: Sequence[Entry]) -> None:
        """Write to the file, or raise StoreFault. Not to be cancelled: half of what was decided would be lost."""
        with trio.CancelScope(shield=True):
            if self._time_due:
                clock = self._engine.clock
                self._time_due = False  # before it is written: meanwhile it may become due again
                try:
                    await self._write(partial(self._store.keep_time, clock.now(), clock.ahead))
                except StoreFault:
                    self._time_due = True
                    raise
            if batch:
                began = perf_counter()
                written = await self._write(partial(self._store.append, batch))
                self.commit = perf_counter() - began
                self.kept = self._store.head
                self._since_base += written
                if self._since_base >= self._most:
                    self._base_is_due.set()
            log = self._store.log.size  # not what was written, of which each byte may have cost a page
            if log < self._tried:
                self._tried = 0
            if log >= self._tried + self._upkeep.checkpoint:
                self._log_grew.set()

    async def _write(self, write: Callable[[float], T]) -> T:
        if not self._power and not self._engine.sealed:  # after a fault there may be much to write
            with suppress(StoreBusy):
                return write(0.0)
        return await self._writer.do(partial(write, self._patience))

    async def _endure(self, fault: StoreFault) -> None:
        """Nothing can be kept: take back what was granted and not told yet, and let go until it can be again."""
        engine = self._engine
        engine.sealed = _SEALED.format(fault.what)
        _log.error("the journal cannot be written; nobody gets anything new until it can be", reason=str(fault))
        self._take_back()
        self._service.release(inf)
        while True:
            await trio.sleep(_AGAIN)
            engine.full = len(self._pending) >= _BACKLOG
            batch, position = tuple(self._pending), engine.position
            try:
                await self._writer.do(partial(self._store.reopen, self._patience))
                await self._commit(batch)
            except StoreFault as now:
                if str(now) != str(fault):
                    fault = now
                    engine.sealed = _SEALED.format(fault.what)
                    _log.error("the journal still cannot be written", reason=str(fault))
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
        grants = {change.handle for change in changes if isinstance(change, _GRANTS)}
        fresh = {change.allocation for change in changes if isinstance(change, c.Allocated)}
        self._service.retract(grants, Refused(ErrorNumber.INTERNAL, self._engine.sealed))
        for handle in sorted(grants):
            held = table.accesses.find(handle)
            if held is not None:
                target = held.target
                self._engine.revoke(held, lingers=isinstance(target, Allocation) and target.id not in fresh)

    async def _keep_time(self) -> None:
        while True:
            await trio.sleep(_KEEP_TIME)
            self._time_is_due()

    # the file's own affairs

    async def _shorten_the_log(self) -> None:
        """Have the database's log begin anew now and then, while the file is compacted too: that writes much."""
        while True:
            await self._log_grew.wait()
            try:
                await trio.to_thread.run_sync(self._checkpoint)
            except StoreFault as fault:
                _log.error(_UNTIDY, reason=str(fault))
            self._tried = self._store.log.size  # if it did begin anew, the next commit tells less
            self._log_grew = trio.Event()

    async def _renew_the_base(self) -> None:
        """Compact the file now and then."""
        while True:
            await self._base_is_due.wait()
            try:
                await self._compact()
            except (StoreFault, OSError) as fault:
                self._most = self._since_base + self._upkeep.compact  # later again
                _log.error(_UNTIDY, reason=str(fault))
            self._base_is_due = trio.Event()

    def _checkpoint(self) -> None:
        """Through a connection of its own: a commit may be under way through the other one. Raises StoreFault."""
        store = Store(self._store.path, power=self._power, existing=True)
        try:
            store.checkpoint(_HELD_UP)
        except StoreBusy:
            pass  # somebody reads the file; it is tried again once the log has grown on
        finally:
            store.close()

    async def _compact(self) -> None:
        """Raises StoreFault, OSError."""
        command = [
            sys.executable,
            "-P",
            "-m",
            "cmserverd.compaction",
            os.fspath(self._store.path),
            str(self._upkeep.history),
        ]
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, start_new_session=True
        )
        said = done.stderr.decode(errors="replace").strip()[-_SAID:]
        if done.returncode:
            raise StoreFault(said or f"the compaction ended with code {done.returncode}")
        if said:
            _log.warning("part of the usage history is lost", reason=said)
        grown, base, dropped = map(int, done.stdout.split())
        _log.info("journal compacted", bytes=self._since_base - grown)
        self._since_base = grown
        self._most = max(self._upkeep.compact, base)
        if dropped:
            _log.info("the oldest history was dropped to keep within its limit", bytes=dropped)


def _is_denial(record: Record) -> bool:
    return record.refusal is not None and record.refusal.number is ErrorNumber.NO_MORE_LICENSES
