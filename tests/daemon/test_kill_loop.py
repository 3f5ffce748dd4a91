"""kill -9 at any moment, again and again, under load: what was acknowledged stands, and no license is given twice."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import trio

from protocol import messages as m
from tests.daemon.harness import LIMIT, TWO_CHARTS, Caller, Daemon, hello
from tests.daemon.killing import Field, Player
from tests.daemon.ledger import Ledger

KILLS: Final = 50
CLIENTS: Final = 200
QUANTITY: Final = 60
SEED: Final = int(os.environ.get("KILL_SEED", "1"))
"""Other seeds are for a desk; a failure tells which one it was."""


async def test_what_was_acknowledged_outlives_a_kill_at_any_moment(tmp_path: Path) -> None:
    """Fifty kills under two hundred clients; some come while the server takes up the journal or everybody returns."""
    await endure(tmp_path, KILLS, CLIENTS)


async def test_what_was_acknowledged_outlives_a_few_kills(tmp_path: Path) -> None:
    """The same in small, which takes some seconds, with a thread that commits."""
    await endure(tmp_path, 4, 60, "power")


async def endure(tmp_path: Path, kills: int, clients: int, durability: str = "process") -> None:
    """Kill the server so often under so many clients; their ledger must have no faults."""
    dice = random.Random(SEED)
    environment = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path / "cache")}
    dongle = TWO_CHARTS.replace("quantity = 2", f"quantity = {QUANTITY}")

    def start(listen: str = "127.0.0.1:0") -> Daemon:
        config = f'[journal]\ndurability = "{durability}"\n'
        return Daemon(tmp_path, listen=listen, dongle=dongle, config=config).start(environment)

    daemon = start()
    try:
        await trio.to_thread.run_sync(daemon.said, "container plugged in")
        host, port = daemon.address
        field = Field((host, port), QUANTITY)
        field.up.set()
        with trio.fail_after(5 * LIMIT):
            async with trio.open_nursery() as nursery:
                for number in range(clients):
                    nursery.start_soon(Player(field, number, SEED).play)
                for _ in range(kills):
                    goal = field.answers + dice.choice([0, 1, 50, 200, dice.randrange(1_000)])
                    await field.until(lambda goal=goal: field.answers >= goal)  # type: ignore[misc]
                    field.up = trio.Event()
                    daemon.process.kill()
                    await trio.to_thread.run_sync(daemon.exited)
                    daemon = start(f"{host}:{port}")
                    if dice.random() < 0.2:
                        await trio.to_thread.run_sync(daemon.said, "taken up from the journal")
                        daemon.process.kill()
                        await trio.to_thread.run_sync(daemon.exited)
                        daemon = start(f"{host}:{port}")
                    await trio.to_thread.run_sync(daemon.said, "serving")
                    field.up.set()
                goal = field.answers + clients
                await field.until(lambda: field.answers >= goal)
                field.over = True
                await field.until(lambda: field.through == clients)
                assert not field.ledger.faults, (SEED, field.ledger.faults)
                with Caller(daemon.monitor) as monitor:
                    monitor.ask(hello())
                    assert monitor.ask(m.ServerInfoRequest()).accesses == len(field.ledger.held), SEED
                field.parting.set()
    finally:
        daemon.kill()


def shares(ledger: Ledger) -> None:
    """Two stations share two licenses."""
    ledger.granted(1, 1, 1, station=1)
    ledger.granted(2, 2, 1, station=1)
    ledger.granted(3, 3, 2, station=2)


def let_go(ledger: Ledger) -> None:
    """One lets go, and another station has the license."""
    ledger.granted(1, 1, 1, station=1)
    ledger.granted(2, 2, 2)
    ledger.releasing(1)
    ledger.granted(3, 3, 3, station=3)
    ledger.released(1, 1)
    ledger.granted(1, 4, 3, station=3)
    ledger.resumed(1, [4])


@pytest.mark.parametrize("story", [shares, let_go])
def test_the_ledger_finds_nothing_where_nothing_is_wrong(story: Callable[[Ledger], None]) -> None:
    """What can be is no fault."""
    ledger = Ledger(2)
    story(ledger)
    assert ledger.faults == []


def test_the_ledger_finds_a_license_too_many() -> None:
    """Three holders of two licenses, at one moment."""
    ledger = Ledger(2)
    for number in (1, 2, 3):
        ledger.granted(number, number, number)
    assert ledger.faults == ["3 licenses of 2 are in use"]


def test_the_ledger_finds_a_license_that_is_given_before_it_is_free() -> None:
    """Whoever asks to let go has let go; one who has not still holds."""
    ledger = Ledger(1)
    ledger.granted(1, 1, 1)
    ledger.releasing(1)
    ledger.granted(2, 2, 2)
    ledger.granted(3, 3, 3)
    assert ledger.faults == ["2 licenses of 1 are in use"]


def test_the_ledger_finds_two_allocations_of_a_station() -> None:
    """A station shares one."""
    ledger = Ledger(9)
    ledger.granted(1, 1, 1, station=5)
    ledger.granted(2, 2, 2, station=5)
    assert ledger.faults == ["station 5 has allocations 1 and 2"]


def test_the_ledger_finds_what_a_restart_forgot_and_what_came_back() -> None:
    """A handle that was granted, a release, a number, a session."""
    ledger = Ledger(9)
    ledger.granted(1, 1, 1)
    ledger.granted(1, 2, 2)
    ledger.releasing(2)
    ledger.released(1, 2)
    ledger.resumed(1, [2])
    ledger.granted(2, 2, 3)
    ledger.gone(2)
    assert ledger.faults == [
        "client 1 has lost handle 1, which it was granted",
        "client 1 has handle 2 again, which it has released",
        "handle 2 was granted twice",
        "the session of client 2 is gone",
    ]
