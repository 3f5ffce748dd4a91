"""Listing: how long the pages of `net_users` take while a million handles are in the table.

    python -m bench.listing STATIONS HANDLES      says a `Pages`

A page is asked for as the monitor does, bytes in and bytes out; while it is made it holds the loop.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from statistics import median
from typing import Final, TypeVar

from msgspec import Struct

from bench.filled import hold, make_engine, make_service, open_sessions, settle
from bench.processes import asked, say
from bench.report import Row, judged, shown
from bench.requests import hello
from cmserverd.answers import Door, Peer
from cmserverd.conversation import Conversation
from protocol import messages as m
from protocol import rpc

R = TypeVar("R", bound=Struct)

_STALL: Final = 50.0  # milliseconds
_USUAL: Final = 200
_MOST: Final = 1_000
_SAMPLES: Final = 20


class Plan(Struct, frozen=True):
    """How much is measured."""

    stations: int = 250_000
    each: int = 4


QUICK: Final = Plan(25_000, 4)


class Pages(Struct, frozen=True):
    """Processor times in milliseconds: of a page of the usual length, of one of the longest, of one that finds nothing.

    `count` pages of the longest show all; they hold the loop for `total` together, and `longest` at once.
    """

    usual: float
    most: float
    nothing: float
    count: int
    total: float
    longest: float


def measure(plan: Plan) -> Iterator[Row]:
    """Measure all pages."""
    pages = asked(Pages, __spec__.name, str(plan.stations), str(plan.each))
    what = f"listing, {plan.stations * plan.each:,} handles"
    yield Row(f"{what}: a page of {_USUAL}", f"{shown(pages.usual)} ms")
    yield Row(f"{what}: a page of {_MOST:,}", f"{shown(pages.most)} ms")
    yield Row(f"{what}: a page whose filter finds nothing", f"{shown(pages.nothing)} ms")
    yield Row(f"{what}: all, in {pages.count:,} pages", f"{shown(pages.total / 1e3)} s")
    yield judged(f"{what}: the longest that a page holds the loop", pages.longest, " ms", _STALL)


class _Monitor:
    """Asks one conversation at the monitor's door, and keeps how long each answer took to make, in milliseconds."""

    def __init__(self, stations: int, each: int) -> None:
        engine = make_engine()
        hold(engine, open_sessions(engine, stations), each)
        self._conversation = Conversation(make_service(engine), Peer("unix:0", here=True, door=Door.MONITOR))
        self.times: list[float] = []
        self.ask(hello(0), m.Greeting)

    def ask(self, params: m.Params[R], result: type[R]) -> R:
        conversation = self._conversation
        request = rpc.encode_request(1, params)
        begin = time.thread_time()
        conversation.receive(request)
        conversation.work()
        answer = conversation.take()
        self.times.append((time.thread_time() - begin) * 1e3)
        reader = rpc.Reader(rpc.FROM_SERVER)
        reader.feed(answer)
        response = reader.next()
        assert isinstance(response, rpc.Response)
        return rpc.convert(response.result, result)

    def sample(self, request: m.NetUsers) -> float:
        """Return the median time of a page."""
        self.times.clear()
        for _ in range(_SAMPLES):
            self.ask(request, m.AccessPage)
        return median(self.times)


def main(arguments: list[str]) -> None:
    """Do what the module's text says."""
    stations, each = map(int, arguments)
    settle()
    monitor = _Monitor(stations, each)
    middle = stations * each // 2
    usual = monitor.sample(m.NetUsers(cursor=middle, limit=_USUAL))
    most = monitor.sample(m.NetUsers(cursor=middle, limit=_MOST))
    nothing = monitor.sample(m.NetUsers(cursor=middle, firm_code=1))
    monitor.times.clear()
    seen, cursor = 0, 0
    while True:
        page = monitor.ask(m.NetUsers(cursor=cursor, limit=_MOST), m.AccessPage)
        seen += len(page.accesses)
        if page.next is None:
            break
        cursor = page.next
    assert seen == stations * each
    say(Pages(usual, most, nothing, len(monitor.times), sum(monitor.times), max(monitor.times)))


if __name__ == "__main__":
    main(sys.argv[1:])
