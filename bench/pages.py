"""WebAdmin's pages: what it costs clients that some stand open, and how soon a page shows what is there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final, TypeVar

from msgspec import Struct

from bench import wire
from bench.load import Round
from bench.processes import Child, generator_core, processor_time, said, started, tell
from bench.readers import Reading
from bench.report import Row, judged, shown, spread
from bench.servers import PREFIX, daemon, webadmin

T = TypeVar("T")

_CONFIGURATION: Final = '[webadmin]\nlisten = ["127.0.0.1:0"]\nanonymous = "viewer"\n'
_SHAPE: Final = wire.Shape(64, 1)

_LEAST: Final = 0.9
"""With the pages open the daemon should give at least this part of what it gives without."""

_FIRST: Final = 0.3  # seconds
_SHOWN: Final = 1.0  # seconds


class Plan(Struct, frozen=True):
    """How much is measured: so many clients hold so many handles each, and so many pages are open or not, in turns.

    A round takes `seconds`; `looks` is how often a change is waited for, and a page opened.
    """

    clients: int = 500
    each: int = 200
    pages: int = 20
    rounds: int = 10
    seconds: float = 3.0
    looks: int = 10


QUICK: Final = Plan(50, 200, 20, 3, 1.0, 3)


def measure(plan: Plan) -> Iterator[Row]:
    """Measure it all with one daemon, which keeps nothing, and one WebAdmin."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX)))
        server = stack.enter_context(daemon(directory, "off", _CONFIGURATION))
        site = stack.enter_context(webadmin(directory))
        core = generator_core()
        holding = (str(server.port), str(plan.clients), str(plan.each))
        said(stack.enter_context(started("bench.holders", *holding, core=core)), bool)
        readers = stack.enter_context(started("bench.readers", str(site.port), str(server.port), core=core))
        load = ("64", "1", f"{server.port}:{server.pid}")
        generator = stack.enter_context(started("bench.load", *load, core=core))
        said(readers, bool)
        said(generator, bool)
        what = f"pages, {plan.clients * plan.each:,} handles"
        yield from _looks(plan, readers, what)
        yield from _costs(plan, readers, generator, site.pid, what)


def _looks(plan: Plan, readers: Child, what: str) -> Iterator[Row]:
    """How soon they show something, while nothing else happens."""
    firsts = [_asked(readers, "first", float) for _ in range(plan.looks)]
    remarks = f"median {shown(median(firsts) * 1e3)} ms"
    yield judged(f"{what}: the details' first rows", max(firsts), " s", _FIRST, spread(firsts), remarks)
    _asked(readers, f"open {plan.pages}", bool)
    delays = [_asked(readers, "change", float) for _ in range(plan.looks)]
    _asked(readers, "close", Reading)
    remarks = f"median {shown(median(delays) * 1e3)} ms"
    yield judged(
        f"{what}, {plan.pages} pages: until all show a change", max(delays), " s", _SHOWN, spread(delays), remarks
    )


def _costs(plan: Plan, readers: Child, generator: Child, site: int, what: str) -> Iterator[Row]:
    """What open pages take from clients: rounds without and with them, in turns."""
    rounds: tuple[list[Round], list[Round]] = ([], [])
    readings, busy = [], []
    wire.load(generator, 0, plan.seconds)
    for _ in range(plan.rounds):
        rounds[0].append(wire.load(generator, 0, plan.seconds))
        _asked(readers, f"open {plan.pages}", bool)
        before = processor_time(site)
        rounds[1].append(wire.load(generator, 0, plan.seconds))
        busy.append((processor_time(site) - before) / plan.seconds)
        readings.append(_asked(readers, "close", Reading))
    closed, opened = ([each.requests / each.seconds for each in one] for one in rounds)
    for name, rate, one in zip(("none open", f"{plan.pages} open"), (closed, opened), rounds, strict=True):
        server = median(each.server / each.seconds for each in one)
        processor = median(each.server / each.requests for each in one) * 1e6
        remarks = f"{processor:.1f} µs CPU a request; server {server:.0%} of its core"
        yield Row(f"{what}, {_SHAPE}: {name}", f"{shown(median(rate))} requests/s", spread(rate), remarks=remarks)
    ratios = [ours / theirs for ours, theirs in zip(opened, closed, strict=True)]
    processors = [
        (theirs.server / theirs.requests) / (ours.server / ours.requests)
        for ours, theirs in zip(rounds[1], rounds[0], strict=True)
    ]
    drawn = median(each.drawn for each in readings) / plan.seconds / plan.pages
    yield Row(
        f"{what}, {_SHAPE}: {plan.pages} open / none",
        f"{median(ratios):.2f}",
        spread(ratios),
        f"at least {_LEAST}",
        median(ratios) >= _LEAST,
        f"{median(processors):.2f} by CPU a request; a page is drawn {shown(drawn)} times a second; "
        f"WebAdmin {median(busy):.0%} of a core",
    )
    yield wire.verdict(sum(each.refused for one in rounds for each in one), "pages")


def _asked(readers: Child, command: str, kind: type[T]) -> T:
    """Have the readers do something. Raises ChildFailed."""
    tell(readers, command)
    return said(readers, kind)
