"""The core alone: microseconds of an access and its release in the engine, by the number of stations.

    python -m bench.core STATIONS PAIRS

A process of its own for each size: it opens a session for each station and says `true`. For each line `fresh` (the
stations hold nothing) or `held` (each holds a handle; from the first such line on) it says the microseconds of a pair.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median
from typing import Final

from msgspec import Struct

from bench.filled import hold, make_engine, open_sessions, settle
from bench.processes import Child, said, say, server_core, started, tell
from bench.report import Row, judged, shown, spread
from bench.requests import access
from cmserverd.core.terms import Session
from cmserverd.engine import Engine
from protocol.messages import Access, Release

_KINDS: Final = {"fresh": "allocate and free", "held": "join and leave"}
_ONE_STATION: Final = 8.0  # microseconds
_FROM_CACHE: Final = 2.5  # times as much as with one station, which lies in the processor's cache
_FLAT: Final = 1.3  # times as much as with a hundredth of the stations


class Plan(Struct, frozen=True):
    """How much is measured. `sizes` rise from one station; the last is compared with the first and with `base`."""

    sizes: tuple[int, ...] = (1, 10_000, 100_000, 1_000_000)
    base: int = 10_000
    pairs: int = 20_000
    rounds: int = 10


QUICK: Final = Plan((1, 10_000, 1_000_000), pairs=5_000, rounds=3)


def measure(plan: Plan) -> Iterator[Row]:
    """Measure all sizes, in turns."""
    with ExitStack() as stack:
        children = {
            size: stack.enter_context(started(__spec__.name, str(size), str(plan.pairs), core=server_core()))
            for size in plan.sizes
        }
        for child in children.values():
            said(child, bool)
        for kind, name in _KINDS.items():
            for child in children.values():
                _ask(child, kind)  # the first round warms up
            rounds: dict[int, list[float]] = {size: [] for size in plan.sizes}
            for _ in range(plan.rounds):
                for size, child in children.items():
                    rounds[size].append(_ask(child, kind))
            yield from _rows(name, rounds, plan.base)


def _ask(child: Child, kind: str) -> float:
    tell(child, kind)
    return said(child, float)


def _rows(name: str, rounds: dict[int, list[float]], base: int) -> Iterator[Row]:
    one, most = min(rounds), max(rounds)
    for size, times in rounds.items():
        what = f"core, {name}, {size:,} station{'s' if size > 1 else ''}"
        if size == one:
            yield judged(what, median(times), " µs", _ONE_STATION, spread(times))
        else:
            yield Row(what, f"{shown(median(times))} µs", spread(times))
    for few, aim in ((base, _FLAT), (one, _FROM_CACHE)):
        ratios = [slow / fast for slow, fast in zip(rounds[most], rounds[few], strict=True)]
        yield judged(f"core, {name}, {most:,} / {few:,}", median(ratios), "", aim, spread(ratios))


def pairs(engine: Engine, sessions: list[Session], requests: list[Access]) -> float:
    """Let stations, at random, make these accesses and release each at once; return a pair's processor time in µs."""
    visits = list(zip(random.choices(sessions, k=len(requests)), requests, strict=True))
    take, give = engine.access, engine.release
    begin = time.thread_time()
    for session, request in visits:
        give(session, Release(take(session, request).handle))
    return (time.thread_time() - begin) / len(requests) * 1e6


def main(arguments: list[str]) -> None:
    """Do what the module's text says."""
    stations, count = map(int, arguments)
    settle()
    engine = make_engine()
    sessions = open_sessions(engine, stations)
    requests = [access(os.urandom(16)) for _ in range(count)]
    say(value=True)
    for line in sys.stdin:
        if line.strip() == "held" and not sessions[0].accesses:
            hold(engine, sessions, 1)
        say(pairs(engine, sessions, requests))


if __name__ == "__main__":
    main(sys.argv[1:])
