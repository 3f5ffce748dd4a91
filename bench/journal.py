"""The journal: what durability costs, how long a restart takes, and whether the file of a steady load stops growing.

python -m bench.journal STATIONS HANDLES FILE      makes a journal with HANDLES for each of STATIONS, says its bytes
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from msgspec import Struct

from bench import wire
from bench.filled import hold, make_engine, open_sessions, settle
from bench.load import Round
from bench.processes import asked, generator_core, said, say, started
from bench.report import Row, judged, shown, spread
from bench.servers import PREFIX, Durability, daemon
from cmserverd.core.history import shortest
from cmserverd.store import Entry, Store

_MODES: Final[tuple[Durability, ...]] = ("off", "process", "power")
_SHAPE: Final = wire.Shape(64, 1)

_PROCESS: Final = 0.6
"""With `process` the daemon should give at least this part of what it gives with `off`."""

_POWER: Final = 0.8
"""With `power` at least this part of what `process` gives, or of what the disk can, whichever is less."""

_RESTART: Final = 10.0  # seconds
_GROWTH: Final = 1.1

_SYNCS: Final = 50
_PAGE: Final = bytes(4_096)


class Plan(Struct, frozen=True):
    """How much is measured: the load of each mode, the handles of a restart, and how long a load is steady.

    `turn` is for how many seconds it runs between two looks at the file, `turns` how many looks there are.
    """

    load: wire.Plan = wire.Plan((_SHAPE,))
    stations: int = 250_000
    each: int = 4
    turns: int = 40
    turn: float = 3.0


QUICK: Final = Plan(wire.Plan((_SHAPE,), rounds=3, seconds=0.3), 25_000, 4, 4, 0.5)


def measure(plan: Plan) -> Iterator[Row]:
    """Measure it all, in a directory of the default temporary one; so it is that disk which counts."""
    yield from _modes(plan.load)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as directory:
        yield from _restart(plan, Path(directory))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as directory:
        yield from _growth(plan, Path(directory))


def _modes(plan: wire.Plan) -> Iterator[Row]:
    """Take turns. What the disk can is measured after each of them, for others may use it too."""
    turn = wire.Plan((), rounds=1, seconds=plan.seconds)
    rounds: list[list[Round]] = [[] for _ in _MODES]
    disk: list[float] = []
    with ExitStack() as stack:
        directories = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX))) for _ in _MODES]
        servers = [stack.enter_context(daemon(*pair)) for pair in zip(directories, _MODES, strict=True)]
        for _ in range(plan.rounds):
            for one, new in zip(rounds, wire.take_turns(servers, _SHAPE, turn), strict=True):
                one += new
            disk += sync_times(directories[-1])
    rates = [[each.requests / each.seconds for each in one] for one in rounds]
    for mode, rate, one in zip(_MODES, rates, rounds, strict=True):
        remarks = f"{median(each.server / each.requests for each in one) * 1e6:.1f} µs CPU a request"
        yield Row(f"journal, {_SHAPE}: {mode}", f"{shown(median(rate))} requests/s", spread(rate), remarks=remarks)
    off, process, power = rates
    ratios = [ours / theirs for ours, theirs in zip(process, off, strict=True)]
    yield _at_least("process / off", median(ratios), _PROCESS, spread(ratios))
    can = _SHAPE.clients / median(disk)
    yield _at_least(
        "power / the lesser of process and the disk",
        median(power) / min(median(process), can),
        _POWER,
        remarks=f"fdatasync takes {median(disk) * 1e3:.2f} ms ({spread([each * 1e3 for each in disk])}): "
        f"{shown(can)} requests/s",
    )
    yield wire.verdict(sum(each.refused for one in rounds for each in one), "journal")


def _at_least(what: str, ratio: float, aim: float, range_: str = "", remarks: str = "") -> Row:
    return Row(f"journal, {_SHAPE}: {what}", f"{ratio:.2f}", range_, f"at least {aim}", ratio >= aim, remarks)


def sync_times(directory: Path) -> list[float]:
    """Return how many seconds the disk takes to keep a page, many times."""
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(_SYNCS):
            os.write(file.fileno(), _PAGE)
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    return times


def _restart(plan: Plan, directory: Path) -> Iterator[Row]:
    handles = plan.stations * plan.each
    octets = asked(int, __spec__.name, str(plan.stations), str(plan.each), str(directory / "journal.db"))
    begin = time.monotonic()
    with daemon(directory, "process"):
        seconds = time.monotonic() - begin
    yield judged(
        f"journal, restart with {handles:,} handles: to the first answer",
        seconds,
        " s",
        _RESTART,
        remarks=f"of a file of {octets / 1e6:.0f} MB",
    )


def _growth(plan: Plan, directory: Path) -> Iterator[Row]:
    """Load it steadily: after the first half, which ends the first compactions, it should be as large as it gets."""
    sizes = []
    with (
        daemon(directory, "process") as server,
        started("bench.load", "64", "16", f"{server.port}:{server.pid}", core=generator_core()) as generator,
    ):
        said(generator, bool)
        rounds = []
        for _ in range(plan.turns):
            rounds.append(wire.load(generator, 0, plan.turn))
            sizes.append(size(directory))
        compactions = (directory / "log").read_text().count('"journal compacted"')
    half = len(sizes) // 2
    first, second = max(sizes[:half]), max(sizes[half:])
    yield judged(
        f"journal, steady load of {sum(each.requests for each in rounds):,} requests: its most, second half / first",
        second / first,
        "",
        _GROWTH,
        remarks=f"{second / 1e6:.0f} MB; {compactions} compactions",
    )


def size(directory: Path) -> int:
    """Return the bytes of a journal, its log included."""
    return sum((directory / name).stat().st_size for name in ("journal.db", "journal.db-wal"))


def make(stations: int, each: int, path: Path) -> None:
    """Make the journal of a server that was compacted with so many handles."""
    engine = make_engine()
    hold(engine, open_sessions(engine, stations), each)
    store = Store(path, power=False)
    store.append([Entry(engine.position, engine.clock.now(), 0, ())], 0.0)
    store.compact(shortest(engine.table), 0.0)
    store.checkpoint(0.0)
    store.close()


def main(arguments: list[str]) -> None:
    """Do what the module's text says."""
    stations, each = map(int, arguments[:2])
    path = Path(arguments[2])
    settle()
    make(stations, each, path)
    say(path.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1:])
