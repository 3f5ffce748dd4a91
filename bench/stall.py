"""Stalls: how late the daemon's loop is under load while a million handles are in its table.

    python -m bench.stall STATIONS HANDLES CLIENTS SECONDS

It says its port, serves as the daemon does, and once CLIENTS clients load it measures for SECONDS. Then it waits until
they are gone and says its `Lateness`.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Self

import trio
from msgspec import Struct

from bench.filled import accept_clients, hold, make_engine, make_service, open_sessions, settle
from bench.processes import generator_core, said, say, server_core, started, tell
from bench.report import Row, judged, shown
from bench.requests import access
from cmserverd.engine import Engine
from cmserverd.reaper import Patience, Reaper
from cmserverd.server import listen_tcp
from protocol.messages import Release

_STALL: Final = 50.0  # milliseconds
_EMPTY: Final = "stall, empty table"
_BEAT: Final = 0.001  # seconds
_POLL: Final = 0.02  # seconds
_BESIDE: Final = 10_000_000  # the number of a station that does not lie in the table


class Plan(Struct, frozen=True):
    """How much is measured: tables with so many stations and so many handles for each of them, and the load."""

    tables: tuple[tuple[int, int], ...] = ((0, 0), (250_000, 4), (1_000_000, 1))
    clients: int = 64
    seconds: float = 8.0


QUICK: Final = Plan(((0, 0), (250_000, 4)), 64, 3.0)


class Lateness(Struct, frozen=True):
    """How late the loop was, in milliseconds: at most, the next time after that, and at the 99.9th percentile.

    `processor` is the most processor time between two beats: what else runs on the machine is not in it.
    `collections` is how many full garbage collections came by themselves meanwhile, `forced` what one takes that is
    asked for at the end. `pair` is the most processor time of one access and release.
    """

    most: float
    processor: float
    second: float
    p999: float
    beats: int
    collections: int
    forced: float
    pair: float


def measure(plan: Plan) -> Iterator[Row]:
    """Measure all tables."""
    for stations, each in plan.tables:
        late = _late(stations, each, plan)
        what = f"stall, {stations:,} stations with {each} handle{'s' if each > 1 else ''} each" if stations else _EMPTY
        remarks = (
            f"at most {shown(late.processor)} ms of its own processor time; second longest {shown(late.second)} ms"
        )
        remarks += f"; {late.beats:,} beats, {late.collections} full garbage collections"
        if stations:
            yield judged(f"{what}: the longest", late.most, " ms", _STALL, remarks=remarks)
            remarks = f"of {stations:,}, in processor time"
            yield judged(f"{what}: the longest access and release", late.pair, " ms", _STALL, remarks=remarks)
        else:
            yield Row(f"{what}: the longest", f"{shown(late.most)} ms", remarks=remarks)
        yield Row(f"{what}: 99.9th percentile", f"{shown(late.p999)} ms")
        yield Row(f"{what}: gc.collect()", f"{shown(late.forced)} ms")


def _late(stations: int, each: int, plan: Plan) -> Lateness:
    arguments = (str(stations), str(each), str(plan.clients), str(plan.seconds))
    with started(__spec__.name, *arguments, core=server_core()) as server:
        address = f"{said(server, int)}:{server.pid}"
        with started("bench.load", str(plan.clients), "1", address, core=generator_core()) as generator:
            said(generator, bool)
            tell(generator, f"0 {plan.seconds + 1}")
            said(generator, Any)
        return said(server, Lateness)


async def _serve(stations: int, each: int, clients: int, seconds: float) -> None:
    settle()
    engine = make_engine()
    hold(engine, open_sessions(engine, stations), each)
    pair = longest_pair(engine, stations)
    service = make_service(engine)
    with listen_tcp("127.0.0.1", 0) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_clients, listener, service, nursery)
            nursery.start_soon(Reaper(service, Patience()).run)
            say(listener.getsockname()[1])
            await _until(lambda: len(service.attached) == clients)
            position = engine.position
            await _until(lambda: engine.position > position + clients)
            with _Collections() as full:
                late, processor = await _beats(seconds)
            await _until(lambda: not service.attached)
            nursery.cancel_scope.cancel()
    begin = time.perf_counter()
    gc.collect()
    forced = time.perf_counter() - begin
    late.sort()
    most, second, p999 = late[-1] * 1e3, late[-2] * 1e3, late[-1 - len(late) // 1_000] * 1e3
    say(Lateness(most, processor * 1e3, second, p999, len(late), full.count, forced * 1e3, pair * 1e3))


async def _until(reached: Callable[[], bool]) -> None:
    while not reached():  # noqa: ASYNC110 - the daemon's parts have no event for it, and get none for this
        await trio.sleep(_POLL)


def longest_pair(engine: Engine, count: int) -> float:
    """Allocate and free so many licenses, one at a time; return the most processor time that one took, in seconds.

    CPython makes a dictionary anew when it is full, and the places of what was deleted count: a dictionary of a million
    is copied within a million insertions, all at once. After as many as there are allocations, any that pauses so has.
    """
    [session] = open_sessions(engine, 1, first=_BESIDE)
    request = access(os.urandom(16))
    longest = 0.0
    for _ in range(count):
        begin = time.thread_time()
        engine.release(session, Release(engine.access(session, request).handle))
        longest = max(longest, time.thread_time() - begin)
    engine.close(session)
    return longest


class _Collections:
    """Counts the full garbage collections that come by themselves within its `with`."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, about: dict[str, int]) -> None:
        self.count += phase == "start" and about["generation"] == 2


async def _beats(seconds: float) -> tuple[list[float], float]:
    """Wake each millisecond for so long; return how late it was each time, and the most processor time in between."""
    late, most = [], 0.0
    until = trio.current_time() + seconds
    while trio.current_time() < until:
        due, used = trio.current_time() + _BEAT, time.thread_time()
        await trio.sleep_until(due)
        late.append(trio.current_time() - due)
        most = max(most, time.thread_time() - used)
    return late, most


def main(arguments: list[str]) -> None:
    """Do what the module's text says."""
    stations, each, clients, seconds = arguments
    serve = partial(_serve, int(stations), int(each), int(clients), float(seconds))
    trio.run(serve, restrict_keyboard_interrupt_to_checkpoints=True)


if __name__ == "__main__":
    main(sys.argv[1:])
