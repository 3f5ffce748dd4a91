"""Memory: of the table for each handle, and of the daemon with many idle clients.

python -m bench.memory STATIONS HANDLES      says a `Growth` of a table with HANDLES for each of STATIONS
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from os import getpid
from typing import Final

from msgspec import Struct

from bench.filled import hold, make_engine, make_service, open_sessions, settle
from bench.processes import allow_many_files, asked, generator_core, resident, said, say, started
from bench.report import Row, judged, shown
from bench.servers import serving

_HANDLE: Final = 700  # bytes
_CLIENTS: Final = 300  # megabytes
_SPARE_FILES: Final = 100


class Plan(Struct, frozen=True):
    """How much is measured."""

    stations: int = 250_000
    each: int = 4
    clients: int = 10_000


QUICK: Final = Plan(25_000, 4, 1_000)


class Growth(Struct, frozen=True):
    """By how many bytes a process grew: by its sessions, then by their handles."""

    sessions: int
    handles: int


def measure(plan: Plan) -> Iterator[Row]:
    """Measure a table, with and without the listeners, and a daemon with clients."""
    handles = plan.stations * plan.each
    what = f"memory, {plan.stations:,} stations with {plan.each} handles each: a handle"
    table, all_told = (
        asked(Growth, __spec__.name, str(plan.stations), str(plan.each), listeners) for listeners in ("0", "1")
    )
    yield judged(
        what,
        (table.sessions + table.handles) / handles,
        " bytes",
        _HANDLE,
        remarks=f"of which {table.sessions / handles:.0f} are its share of the session",
    )
    yield Row(
        f"{what}, with what the listeners keep",
        f"{shown((all_told.sessions + all_told.handles) / handles)} bytes",
        remarks=f"of which {all_told.sessions / handles:.0f} are its share of the session",
    )
    clients = min(plan.clients, allow_many_files() - _SPARE_FILES)
    with serving("cmserverd") as server:
        before = resident(server.pid)
        with started(
            "bench.load", str(clients), "1", f"{server.port}:{server.pid}", core=generator_core()
        ) as generator:
            said(generator, bool)
            after = resident(server.pid)
    yield judged(
        f"memory, {clients:,} idle clients: the daemon",
        after / 1e6,
        " MB",
        _CLIENTS,
        remarks=f"{before / 1e6:.0f} MB without them; {(after - before) / clients / 1e3:.1f} kB a client",
    )


def main(arguments: list[str]) -> None:
    """Do what the module's text says."""
    stations, each, listeners = map(int, arguments)
    settle()
    engine = make_engine()
    if listeners:
        make_service(engine)
    begin = resident(getpid())
    sessions = open_sessions(engine, stations)
    opened = resident(getpid())
    hold(engine, sessions, each)
    say(Growth(opened - begin, resident(getpid()) - opened))


if __name__ == "__main__":
    main(sys.argv[1:])
