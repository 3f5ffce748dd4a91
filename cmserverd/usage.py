"""The usage history: adds up the lines of license tracking to peak, use and denials of each license in each span.

What is occupied stays so from one line to the next, over a restart too, as sessions do. What nobody used or was denied
in a span has no row. A license time that was set back adds nothing until it has caught up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, Self

from msgspec import Struct

from protocol.tracking import TrackingEvent, TrackingLine
from protocol.usage import SpanName, UsageRow

_SECONDS: Final = {"hour": 3_600, "day": 86_400}

Key = tuple[str, int, int, int]
"""Container, firm code, product code and item of a license."""


def begin_of(by: SpanName, time: int) -> int:
    """Return when the span began that an instant is in."""
    if by != "month":
        return time - time % _SECONDS[by]
    return int(datetime.fromtimestamp(time, UTC).replace(day=1, hour=0, minute=0, second=0).timestamp())


def end_of(by: SpanName, begin: int) -> int:
    """Return when the span is over that began then."""
    if by != "month":
        return begin + _SECONDS[by]
    return begin_of(by, begin + 32 * 86_400)


class _Cell(Struct):
    """A license in the span that is not over yet: `units` are used since `at`."""

    at: int
    units: int = 0
    peak: int = 0
    unit_seconds: int = 0
    denials: int = 0

    def reach(self, time: int) -> None:
        """Let time pass."""
        self.unit_seconds += self.units * (time - self.at)
        self.at = time


class Usage:
    """Takes lines, and yields the rows of each span that is over."""

    def __init__(self, by: SpanName) -> None:
        self._by = by
        self._cells: dict[Key, _Cell] = {}
        self._begin = self._end = self._known = self._now = 0
        self._opening = -1

    @classmethod
    def onward(cls, by: SpanName, time: int, known: int, position: int, begun: Iterable[UsageRow] = ()) -> Self:
        """Go on from a time, with what was `begun` of its span by then. Known is the span since `known`, if not before.

        What the lines up to `position` tell was so at that time already.
        """
        usage = cls(by)
        usage._begin_at(time, time)
        usage._known = max(usage._begin, known)
        usage._opening = position
        for row in begun:
            key = row.container, row.firm_code, row.product_code, row.item
            usage._cells[key] = _Cell(time, 0, row.peak, row.unit_seconds, row.denials)
        return usage

    @property
    def time(self) -> int:
        """The time it has come to, in Unix seconds."""
        return self._now

    def take(self, line: TrackingLine) -> Iterator[UsageRow]:
        """Take the next line; all of it must be taken."""
        if line.position > self._opening:
            yield from self.reach(line.time)
        key = line.container, line.firm_code, line.product_code, line.item
        match line.event:
            case TrackingEvent.STARTED:
                for cell in self._cells.values():
                    cell.reach(self._now)
                    cell.units = 0
            case TrackingEvent.ACCESS | TrackingEvent.BORROW if line.units:
                cell = self._cell(key)
                cell.units += line.units
                cell.peak = max(cell.peak, cell.units)
            case TrackingEvent.RELEASE | TrackingEvent.RETURN if line.units:
                self._cell(key).units -= line.units
            case TrackingEvent.DENIAL:
                self._cell(key).denials += 1
            case _:
                pass

    def reach(self, time: int) -> Iterator[UsageRow]:
        """Let time pass until then (Unix seconds), and yield the rows of what is over."""
        if not self._end:
            self._begin_at(time, time)
        while time >= self._end:
            yield from self._over(self._end)
            begin = self._end if self._cells else begin_of(self._by, time)
            self._begin_at(begin, begin)
        self._now = max(self._now, time)

    def unfinished(self) -> Iterator[UsageRow]:
        """Yield the rows of the span that is not over; it is the last thing that can be asked."""
        if self._end:
            yield from self._over(self._now)

    def _begin_at(self, time: int, known: int) -> None:
        self._begin = begin_of(self._by, time)
        self._end = end_of(self._by, self._begin)
        self._known = self._now = known

    def _cell(self, key: Key) -> _Cell:
        """Return the cell of a license as it is now."""
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = _Cell(self._now)
        cell.reach(self._now)
        return cell

    def _over(self, end: int) -> Iterator[UsageRow]:
        """Yield the rows of a span that is over then; who uses something at its end begins the next one with that."""
        following: dict[Key, _Cell] = {}
        for key, cell in sorted(self._cells.items()):
            cell.reach(end)
            if cell.peak or cell.denials:
                counts = cell.peak, cell.unit_seconds, cell.denials
                yield UsageRow(self._begin, end - self._known, *key, *counts)
            if cell.units:
                following[key] = _Cell(end, cell.units, cell.units)
        self._cells = following
