"""The figures since the server's start: what was granted, refused and ended, peaks, and how long requests take.

What the table counts anyway is read from it when somebody asks, so that a grant costs next to nothing more: the number
of the next handle says how many were given. Nothing here grows with what clients think up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import islice
from typing import Final, Protocol

from cmserverd.core import changes as c
from cmserverd.core.terms import License
from cmserverd.engine import Engine, Record
from protocol import messages as m
from protocol.errors import ErrorNumber
from protocol.watching import Durability, EndedCount, Latency, LicensePeak, ProductRefusals, RefusedCount

PRODUCTS: Final = 1_000
"""For how many products refusals are counted one by one."""

PEAKS: Final = 4_096
"""Of how many licenses an answer has the peaks."""

BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Seconds: the classes in which latencies are counted."""

_EVERY: Final = 0.01
"""Seconds between two latencies that are taken, at least."""


class Keeping(Protocol):
    """What keeps what is decided: the configured durability, how many seconds the last commit took, and its bytes."""

    setting: str
    commit: float

    def size(self) -> int:
        """Return how many bytes its files have."""
        ...


class Statistics:
    """Counts. `due` is from when on, on the clock of `perf_counter`, the next latency is to be taken."""

    def __init__(self, engine: Engine) -> None:
        self.due = 0.0
        self.keeping: Keeping | None = None
        table = engine.table
        self._engine = engine
        self._started = engine.clock.now()
        self._first_handle = self._next_number = table.next_handle
        self._held_before = len(table.accesses)
        self._loans = 0
        self._ended: Counter[str] = Counter()
        self._refused: Counter[int] = Counter()
        self._products: dict[tuple[int, int], Counter[int]] = {}
        self._peaks = {counted.number: counted.used for counted in table.licenses.values()}
        self._sessions_peak = len(table.sessions)
        self._latencies = [0] * (len(BOUNDS) + 1)
        self._latency_sum = 0.0
        engine.listen(self._note, c.Moved, c.Borrowed, endings=True)

    # what happens

    def granted(self, counted: License) -> None:
        """An access to a license was granted."""
        if counted.used > self._peaks.get(counted.number, 0):
            self._peaks[counted.number] = counted.used

    def opened(self) -> None:
        """A session began."""
        self._sessions_peak = max(self._sessions_peak, len(self._engine.table.sessions))

    def refused(self, number: int) -> None:
        """A client's request was refused."""
        self._refused[number] += 1

    def denied(self, firm_code: int, product_code: int, number: int) -> None:
        """A request for an access to a product was refused; clients can ask for products that there are not."""
        product = (firm_code, product_code)
        counts = self._products.get(product)
        if counts is None:
            if len(self._products) >= PRODUCTS or product not in self._engine.table.products:
                return
            counts = self._products[product] = Counter()
        counts[number] += 1

    def took(self, began: float, ended: float) -> None:
        """A request was worked on from then until then."""
        self._latencies[bisect_left(BOUNDS, ended - began)] += 1
        self._latency_sum += ended - began
        self.due = ended + _EVERY

    def _note(self, record: Record) -> None:
        for change in record.changes:
            if type(change) is c.Moved or type(change) is c.Borrowed:
                counted = self._engine.table.licenses.get(change.license)
                if counted is not None:
                    self.granted(counted)
            if type(change) is c.Borrowed:
                if change.number >= self._next_number:
                    self._next_number = change.number + 1
                    self._loans += 1
            elif isinstance(change, c.Freed | c.Left | c.Lingering) and change.cause is not None:
                self._ended[change.cause] += 1

    # the answer

    def answer(self) -> m.Statistics:
        """Return the figures."""
        engine = self._engine
        table = engine.table
        licenses = table.licenses.values()
        granted = table.next_handle - self._first_handle - self._loans
        held = len(table.accesses)
        alive = {counted.number for counted in licenses}
        self._peaks = {number: peak for number, peak in self._peaks.items() if number in alive}
        return m.Statistics(
            position=engine.position,
            time=engine.clock.now(),
            started=self._started,
            containers=sum(known.present for known in table.containers.values()),
            sessions=len(table.sessions),
            sessions_peak=self._sessions_peak,
            accesses=held,
            granted=granted,
            released=self._held_before + granted - held - self._ended.total(),
            ended=tuple(EndedCount(cause, count) for cause, count in sorted(self._ended.items())),
            refused=_counts(self._refused),
            products=tuple(
                ProductRefusals(*product, _counts(counts)) for product, counts in sorted(self._products.items())
            ),
            user_limit=sum(counted.user_limit for counted in licenses),
            no_user_limit=sum(counted.no_user_limit for counted in licenses),
            exclusive=sum(counted.exclusive for counted in licenses),
            station_share=sum(counted.station_share for counted in licenses),
            latency=Latency(BOUNDS, tuple(self._latencies), self._latency_sum),
            durability=self._durability(),
            peaks=tuple(self._peak(counted) for counted in islice(licenses, PEAKS)),
            borrowed=sum(counted.lent for counted in licenses),
        )

    def _peak(self, counted: License) -> LicensePeak:
        entry = counted.id
        peak = max(self._peaks.get(counted.number, 0), counted.used)
        return LicensePeak(entry.container, entry.firm_code, counted.item.product_code, entry.item, peak)

    def _durability(self) -> Durability:
        keeping = self.keeping
        if keeping is None:
            return Durability("off", protected=False, why='nothing is kept: [journal] durability is "off"')
        why = self._engine.sealed
        return Durability(keeping.setting, not why, why, keeping.commit, keeping.size())


def _counts(counts: Counter[int]) -> tuple[RefusedCount, ...]:
    return tuple(RefusedCount(number, ErrorNumber(number).name, count) for number, count in sorted(counts.items()))
