"""License time over a restart: it goes on where it was, and a system clock that was found wrong stays distrusted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from cmserverd.clock import LicenseClock
from cmserverd.engine import Engine, Listener
from cmserverd.journal import Journal
from cmserverd.service import Introduction, Service
from cmserverd.store import Store
from protocol import messages as m
from tests.daemon.harness import until

NOON = 1_800_000_000
YEAR = 365 * 86_400


class Machine:
    """What a machine's clocks say; `engine` is that of the daemon that runs on it."""

    def __init__(self, directory: Path) -> None:
        self.system = float(NOON)
        self.boot = 100.0
        self._path = directory / "journal.db"

    async def serve(self, act: str = "") -> int:
        """Start the daemon, have it do something, stop it; return the license time in between."""
        engine = Engine(LicenseClock(lambda: self.system, lambda: self.boot), _raise)
        store = Store(self._path, power=False)
        engine.restore(store)
        journal = Journal(
            Service(engine, Introduction(m.Server("s", "cmserverd", "0"), "m", 120.0)), store, power=False
        )
        engine.restart()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            if act == "certify":
                engine.set_time(NOON)
            elif act == "correct":
                self.system -= YEAR
                self.boot += 2  # the clock is looked at once a second
            now = engine.clock.now()
            nursery.cancel_scope.cancel()
        return now


class Interrupted(Store):
    """A store during whose first keeping of the time something else happens."""

    token: trio.lowlevel.TrioToken
    meanwhile: Callable[[], None] | None = None

    def keep_time(self, now: int, ahead: int, patience: float) -> None:
        """Keep it, and have that happen before this is told."""
        super().keep_time(now, ahead, patience)
        if self.meanwhile is not None:
            trio.from_thread.run_sync(self.meanwhile, trio_token=self.token)
            self.meanwhile = None  # after it: who waits for this must not look before


async def test_a_time_that_is_set_while_another_one_is_being_kept_is_kept_too(tmp_path: Path) -> None:
    """As soon as it is acknowledged: a crash at that moment must not bring the wrong time back."""
    system = float(NOON + YEAR)
    engine = Engine(LicenseClock(lambda: system, lambda: 100.0), _raise)
    store = Interrupted(tmp_path / "journal.db", power=True)
    store.token = trio.lowlevel.current_trio_token()
    engine.restore(store)
    service = Service(engine, Introduction(m.Server("s", "cmserverd", "0"), "m", 120.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Journal(service, store, power=True).run)
        engine.restart()
        store.meanwhile = lambda: engine.set_time(NOON)
        engine.set_time(NOON + 1)  # is kept at once, not only when it is time for that again
        await until(lambda: store.meanwhile is None and service.reached == engine.position)
        crashed = shutil.copytree(tmp_path, tmp_path / "crashed")
        nursery.cancel_scope.cancel()
    again = Engine(LicenseClock(lambda: system, lambda: 5.0), _raise)
    found = Store(crashed / "journal.db", power=False)
    again.restore(found)
    found.close()
    assert again.clock.now() == NOON


def _raise(_: Listener, error: Exception) -> None:
    raise error


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine on which nothing has run yet."""
    return Machine(tmp_path)


async def test_license_time_goes_on_where_it_was(machine: Machine) -> None:
    """Whatever the system clock says at the next start, and whenever that is."""
    assert await machine.serve() == NOON
    machine.system -= YEAR
    machine.boot = 5.0
    assert await machine.serve() == NOON
    machine.system += 2 * YEAR
    assert await machine.serve() == NOON + YEAR


async def test_a_certified_time_outlives_a_restart_under_a_wrong_system_clock(machine: Machine) -> None:
    """Else the update would be undone by it; once the clock is set right it counts in full again."""
    machine.system += YEAR
    assert await machine.serve() == NOON + YEAR
    assert await machine.serve("certify") == NOON
    machine.system += 60
    machine.boot = 3.0
    assert await machine.serve() == NOON + 60
    assert await machine.serve("correct") in (NOON + 61, NOON + 62)
    machine.system += 1_000
    assert await machine.serve() == NOON + 1_060
