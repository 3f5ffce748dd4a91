"""A server with a journal, in this process, and a disk that fails or waits at a test's word."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cmserverd.clock import LicenseClock
from cmserverd.clones import Clones
from cmserverd.connection import Pace
from cmserverd.engine import Engine
from cmserverd.journal import Journal, Upkeep
from cmserverd.reaper import Patience, Reaper
from cmserverd.service import Introduction, Service
from cmserverd.store import Entry, Store, StoreBusy, StoreFault
from drivers.container import Container
from protocol import messages as m
from tests.core.replay import facts
from tests.daemon.harness import LIMIT, MACHINE, Rig, broken_listener, until
from tests.daemon.kept import copied, read

PATIENCE = Patience(grace=5, timeout=120, sweep=10)
FULL = StoreFault("the journal /j/journal.db cannot be used: the disk is full; make room", "the disk is full")


class Disk(Store):
    """A store that can be made to fail (`fault`), or to let commits pass one by one (`close_gate`).

    `commits` tells how many entries each commit had, `tries` how often the file was opened again, `patience` how long
    the last commit would have waited for others.
    """

    def __init__(self, path: Path, *, power: bool) -> None:
        self.fault: StoreFault | None = None
        self.commits: list[int] = []
        self.tries = 0
        self.patience = 0.0
        self.waiting = False
        self._closed = False
        self._permits = threading.Semaphore(0)
        super().__init__(path, power=power)

    def append(self, entries: Sequence[Entry], patience: float) -> int:
        """Commit, if the disk does."""
        self.patience = patience
        self._obstruct(patience)
        written = super().append(entries, patience)
        self.commits.append(len(entries))
        return written

    def keep_time(self, now: int, ahead: int, patience: float) -> None:
        """Keep the time, if the disk does."""
        if self.fault is not None:
            raise self.fault
        super().keep_time(now, ahead, patience)

    def reopen(self, patience: float) -> None:
        """Begin again, if the disk does."""
        self.tries += 1
        if self.fault is not None:
            raise self.fault
        super().reopen(patience)

    def _obstruct(self, patience: float) -> None:
        if self._closed:
            if not patience:
                raise StoreBusy("somebody else writes")
            self.waiting = True
            assert self._permits.acquire(timeout=LIMIT)
            self.waiting = False
        if self.fault is not None:
            raise self.fault

    # the test's word

    def close_gate(self) -> None:
        """Let commits wait from now on; one on the loop finds the file locked, and goes to a thread."""
        self._closed = True

    def pass_one(self) -> None:
        """Let the commit through that waits, or the next one."""
        self._permits.release()

    def open_gate(self) -> None:
        """Let all through."""
        self._closed = False
        if self.waiting:
            self._permits.release()


class Server:
    """What a daemon has that keeps a journal; `rig` has its clients, `parts` what runs."""

    def __init__(
        self, path: Path, *, power: bool, upkeep: Upkeep | None, parts: trio.Nursery, rig_nursery: trio.Nursery
    ) -> None:
        self.path = path
        self.engine = Engine(LicenseClock(), broken_listener)
        self.store = Disk(path, power=power)
        self.engine.restore(self.store)
        self.service = Service(self.engine, Introduction(m.Server("test", "cmserverd", "0"), MACHINE, 120.0))
        Clones(self.engine)
        self.journal = Journal(self.service, self.store, power=power, upkeep=upkeep)
        self.engine.restart()
        self.parts = parts
        self.rig = Rig(self.service, rig_nursery, Pace())

    @property
    def table(self) -> bytes:
        """All that stands, as the live table has it."""
        return facts(self.engine.table)

    def kept(self) -> bytes:
        """All that stands, as a server would find it that is started after a kill now."""
        return facts(read(copied(self.path, self.path.parent / "copy"))[1])

    def tried(self, times: int) -> bool:
        """Return whether the file was opened again so often."""
        return self.store.tries == times

    async def settled(self) -> None:
        """Wait until all is kept that was decided."""
        await until(lambda: self.service.reached >= self.engine.position)

    async def gathered(self, requests: int) -> None:
        """Wait until a commit waits at the gate, and so many passages were made by then."""
        await until(lambda: self.store.waiting and self.engine.position >= requests)


@asynccontextmanager
async def keeping(
    path: Path,
    *containers: Container,
    power: bool = False,
    reaping: bool = False,
    started: bool = True,
    upkeep: Upkeep | None = None,
) -> AsyncGenerator[Server]:
    """Run a server with these containers plugged in; at the end of the block it is stopped as the daemon is."""
    async with trio.open_nursery() as records:
        async with trio.open_nursery() as clients, trio.open_nursery() as parts:
            server = Server(path, power=power, upkeep=upkeep, parts=parts, rig_nursery=clients)
            records.start_soon(server.journal.run)
            if reaping:
                parts.start_soon(Reaper(server.service, PATIENCE).run)
            for container in containers:
                server.engine.plug(container)
            if started:
                server.engine.started()
            try:
                yield server
            finally:
                server.store.open_gate()
                server.service.stop()
                for client in server.rig.clients:
                    client.close()
                parts.cancel_scope.cancel()
                clients.cancel_scope.cancel()
        records.cancel_scope.cancel()
