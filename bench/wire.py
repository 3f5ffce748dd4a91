"""Over the wire: requests a second of the daemon, of the bare server and of a plain one, in turns in one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median
from typing import Final

from msgspec import Struct

from bench.load import Round
from bench.processes import Child, generator_core, said, started, tell
from bench.report import Row, shown, spread
from bench.servers import NAMES, Server, serving

GENERATOR_LIMIT: Final = 0.8
"""Of its core: a generator that needs more may be what is measured (decision 32)."""

JUDGED: Final = (64, 1, NAMES[1])
LEAST: Final = 0.7
"""The daemon should give at least this part of the bare server's requests per second to 64 clients of depth 1."""

SATURATED: Final = 0.9
"""Of its core: a server that gets less waits, for something else that runs on this machine."""


class Shape(Struct, frozen=True):
    """How the load comes: so many clients, each with so many requests under way."""

    clients: int
    depth: int

    def __str__(self) -> str:
        clients = f"{self.clients:,} client{'s' if self.clients > 1 else ''}"
        return clients if self.depth == 1 else f"{clients}, {self.depth} deep"


class Plan(Struct, frozen=True):
    """How much is measured: rounds for each server and shape, and seconds for each round."""

    shapes: tuple[Shape, ...] = (Shape(1, 1), Shape(64, 1), Shape(1_000, 1), Shape(64, 16))
    rounds: int = 10
    seconds: float = 0.6


QUICK: Final = Plan(rounds=3, seconds=0.3)


def measure(plan: Plan) -> Iterator[Row]:
    """Measure all shapes."""
    refused = 0
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(name)) for name in NAMES]
        for shape in plan.shapes:
            rounds = take_turns(servers, shape, plan)
            refused += sum(each.refused for one in rounds for each in one)
            yield from _rows(shape, rounds)
    yield verdict(refused)


def verdict(refused: int, part: str = "wire") -> Row:
    """Return the row of the refused requests: with a single one, the run is void."""
    return Row(f"{part}: requests refused", str(refused), aim="0", met=not refused, valid=not refused)


def take_turns(servers: list[Server], shape: Shape, plan: Plan) -> list[list[Round]]:
    """Return the rounds of each server. They take turns, and another one begins each time."""
    rounds: list[list[Round]] = [[] for _ in servers]
    addresses = [f"{server.port}:{server.pid}" for server in servers]
    arguments = (str(shape.clients), str(shape.depth), *addresses)
    with started("bench.load", *arguments, core=generator_core()) as generator:
        said(generator, bool)
        for which in range(len(servers)):
            load(generator, which, plan.seconds)
        for turn in range(plan.rounds):
            for step in range(len(servers)):
                which = (turn + step) % len(servers)
                rounds[which].append(load(generator, which, plan.seconds))
    return rounds


def load(generator: Child, which: int, seconds: float) -> Round:
    """Load one of the generator's servers for so long. Raises ChildFailed."""
    tell(generator, f"{which} {seconds}")
    return said(generator, Round)


def _rows(shape: Shape, rounds: list[list[Round]]) -> Iterator[Row]:
    processors = [median(each.server / each.requests for each in one) * 1e6 for one in rounds]
    rates = [[each.requests / each.seconds for each in one] for one in rounds]
    for name, one, rate, processor in zip(NAMES, rounds, rates, processors, strict=True):
        server = median(each.server / each.seconds for each in one)
        generator = median(each.generator / each.seconds for each in one)
        remarks = f"{processor:.1f} µs CPU a request; server {server:.0%} of its core, generator {generator:.0%}"
        if generator >= GENERATOR_LIMIT:
            remarks += ", **generator-bound**"
        elif shape.clients > 1 and server < SATURATED:
            remarks += ", **server not saturated**"
        yield Row(f"wire, {shape}: {name}", f"{shown(median(rate))} requests/s", spread(rate), remarks=remarks)
    for name, rate, processor in zip(NAMES[1:], rates[1:], processors[1:], strict=True):
        ratios = [ours / theirs for ours, theirs in zip(rates[0], rate, strict=True)]
        remarks = f"{processor / processors[0]:.2f} by CPU a request"
        ratio = median(ratios)
        what = f"wire, {shape}: cmserverd / {name}"
        if (shape.clients, shape.depth, name) == JUDGED:
            yield Row(what, f"{ratio:.2f}", spread(ratios), f"at least {LEAST}", ratio >= LEAST, remarks)
        else:
            yield Row(what, f"{ratio:.2f}", spread(ratios), remarks=remarks)
