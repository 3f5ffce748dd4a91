"""The usage history of what is not there any more: added up by hour, of long ago by day, and at last by month.

Before compaction drops the oldest history, it adds up here how it was used (`cmserverd.compaction`). Each use is in one
row: that of its hour; when that is long over, or there are too many, that of its day, and at last of its month. A peak
is the highest of its parts, use and denials are their sums: so a span is told the same wherever the history was cut.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from cmserverd.usage import Key, Usage, begin_of, end_of
from protocol.tracking import TrackingLine
from protocol.usage import SpanName, UsageRow

SPANS: Final[tuple[SpanName, ...]] = ("hour", "day", "month")
"""The shortest first."""

_DAY: Final = 86_400

_ROWS: Final = 500
"""The most rows in a part."""


class Bound(Struct, frozen=True):
    """For how many seconds spans are kept before they are added to longer ones, and how many rows at most."""

    seconds: int
    rows: int


BOUNDS: Final[dict[SpanName, Bound]] = {
    "hour": Bound(100 * _DAY, 100_000),
    "day": Bound(1_100 * _DAY, 100_000),
    "month": Bound(7_320 * _DAY, 100_000),
}
"""Some three months, three years and twenty years; some ten megabytes in all if as many rows as may be are there."""


class Part(Struct, frozen=True, gc=False, array_like=True):
    """Some rows of a span, as they are written. A row is a license and what `_Count` has."""

    by: SpanName
    start: int
    rows: tuple[tuple[str, int, int, int, int, int, int], ...]


class _Count(Struct, gc=False):
    peak: int = 0
    unit_seconds: int = 0
    denials: int = 0

    def add(self, peak: int, unit_seconds: int, denials: int) -> None:
        self.peak = max(self.peak, peak)
        self.unit_seconds += unit_seconds
        self.denials += denials


_Counts = dict[Key, _Count]


class Rollup:
    """The usage up to `time` (Unix seconds), the last moment of which something was told; 0 if nothing was.

    `known` says since when all is told by hour, by day and by month.
    """

    def __init__(self, time: int = 0, known: tuple[int, int, int] = (0, 0, 0)) -> None:
        self.time = time
        self.known: dict[SpanName, int] = dict(zip(SPANS, known, strict=True))
        self._spans: dict[SpanName, dict[int, _Counts]] = {by: {} for by in SPANS}
        self._unsettled = 0

    # adding up

    def add(self, lines: Iterable[TrackingLine], position: int) -> None:
        """Add up what is told next; the lines up to `position` tell what stood when it begins, and has been since.

        Whatever the lines raise, what was told until then is added.
        """
        usage: Usage | None = None
        try:
            for line in lines:
                if usage is None:
                    if not self.time:  # the first that is known at all
                        self.time = line.time
                        self.known = dict.fromkeys(SPANS, line.time)
                    usage = Usage.onward("hour", self.time, self.time, position)
                for row in usage.take(line):
                    self._add(row)
        finally:
            if usage is not None:
                for row in usage.unfinished():
                    self._add(row)
                self.time = usage.time
            self._settle()

    def _add(self, row: UsageRow) -> None:
        """Add what was in an hour, or in a part of it. Hours come in order."""
        if row.start > self.time:
            self.time = row.start
            if self._unsettled > BOUNDS["hour"].rows:
                self._settle()  # of a quiet time little is told, yet what is held all the time has a row for each hour
        counts = self._spans["hour"].setdefault(row.start, {})
        key = row.container, row.firm_code, row.product_code, row.item
        if key not in counts:
            counts[key] = _Count()
            self._unsettled += 1
        counts[key].add(row.peak, row.unit_seconds, row.denials)

    def _settle(self) -> None:
        """Add what is over for long, or too much, to longer spans, and drop the oldest months."""
        self._unsettled = 0
        for number, by in enumerate(SPANS):
            begin = self._kept_from(by)
            for shorter in SPANS[: number + 1]:
                for start in [start for start in self._spans[shorter] if start < begin]:
                    counts = self._spans[shorter].pop(start)
                    if by != SPANS[-1]:
                        self._lengthen(SPANS[number + 1], start, counts)
                self.known[shorter] = max(self.known[shorter], min(begin, self.time))

    def _kept_from(self, by: SpanName) -> int:
        """Return where the oldest span begins that stays."""
        begin = begin_of(by, max(self.time - BOUNDS[by].seconds, 0))
        rows = 0
        for start in sorted(self._spans[by], reverse=True):
            rows += len(self._spans[by][start])
            if rows > BOUNDS[by].rows:
                return max(begin, end_of(by, start))
        return begin

    def _lengthen(self, by: SpanName, start: int, counts: _Counts) -> None:
        _add(self._spans[by].setdefault(begin_of(by, start), {}), counts)

    # what it tells

    def rows(self, by: SpanName) -> Iterator[UsageRow]:
        """Yield the rows of the spans that were over before `time`, in order."""
        found = self._by(by)
        for start in sorted(found):
            if start < begin_of(by, self.time):
                yield from self._rows(by, start, found[start])

    def onward(self, by: SpanName, position: int) -> Usage:
        """Return what goes on from `time` with its span, of which some is here; what stood then follows up to there."""
        start = begin_of(by, self.time)
        begun = self._rows(by, start, self._by(by)[start])
        return Usage.onward(by, self.time, self.known[by], position, begun)

    def _by(self, by: SpanName) -> defaultdict[int, list[_Counts]]:
        """Return all there is of each span, by when it began."""
        found: defaultdict[int, list[_Counts]] = defaultdict(list)
        for shorter in SPANS[: SPANS.index(by) + 1]:
            for start, counts in self._spans[shorter].items():
                found[begin_of(by, start)].append(counts)
        return found

    def _rows(self, by: SpanName, start: int, parts: list[_Counts]) -> Iterator[UsageRow]:
        whole: _Counts = {}
        for counts in parts:
            _add(whole, counts)
        seconds = end_of(by, start) - max(start, self.known[by])
        for key, count in sorted(whole.items(), key=lambda one: one[0]):
            yield UsageRow(start, seconds, *key, count.peak, count.unit_seconds, count.denials)

    # how it is written

    def parts(self) -> Iterator[Part]:
        """Yield all of it."""
        for by in SPANS:
            for start, counts in sorted(self._spans[by].items(), key=lambda one: one[0]):
                rows = [(*key, count.peak, count.unit_seconds, count.denials) for key, count in counts.items()]
                for some in range(0, len(rows), _ROWS):
                    yield Part(by, start, tuple(rows[some : some + _ROWS]))

    def load(self, part: Part) -> None:
        """Take a part back."""
        counts = self._spans[part.by].setdefault(part.start, {})
        for row in part.rows:
            counts[row[:4]] = _Count(*row[4:])


def _add(whole: _Counts, counts: _Counts) -> None:
    for key, count in counts.items():
        whole.setdefault(key, _Count()).add(count.peak, count.unit_seconds, count.denials)
