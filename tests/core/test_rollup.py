"""The usage of what is not there any more: wherever the history is cut, each span is told as if it were not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmserverd import rollup
from cmserverd.rollup import SPANS, Bound, Rollup
from cmserverd.usage import Usage, begin_of, end_of
from protocol.tracking import TrackingLine
from protocol.usage import SpanName, UsageRow

HOUR, DAY = 3_600, 86_400
START = 1_800_000_000  # 2027-01-15 08:00

Lines = list[TrackingLine]


def line(position: int, time: int, event: str, units: int = 0, item: int = 1) -> TrackingLine:
    """Return a line about a license."""
    return TrackingLine(position, START + time, event, "3-1", 10, 14, item, units=units)


def told(steps: list[tuple[int, int, int]]) -> Lines:
    """Return what is told of steps: after so many seconds, of which license, and whether it is 0 taken, 1 given, 2 not.

    Whoever starts the server (3) is told what stands again.
    """
    lines: Lines = []
    units: Counter[int] = Counter()
    time = 0
    for position, (passed, item, what) in enumerate(steps, 1):
        time = max(time + passed, 0)
        if what == 3:
            lines += [line(position, time, "started"), *standing(units, position, time)]
        elif what == 2:
            lines.append(line(position, time, "denial", item=item))
        else:
            takes = what == 0 or not units[item]
            units[item] += 1 if takes else -1
            lines.append(line(position, time, "access" if takes else "release", 1, item))
    return lines


def standing(units: Counter[int], position: int, time: int) -> Lines:
    """Return the lines of what stands."""
    return [line(position, time, "access", 1, item) for item, many in sorted(units.items()) for _ in range(many)]


def occupied(lines: Lines) -> Counter[int]:
    """Return what stands after these lines."""
    units: Counter[int] = Counter()
    for one in lines:
        if one.event == "started":
            units.clear()
        else:
            units[one.item] += {"access": one.units, "release": -one.units}.get(one.event, 0)
    return units


def opening(lines: Lines) -> Lines:
    """Return what comes after these lines begins with: later still something was of which nothing is told."""
    if not lines:
        return []
    last = lines[-1]
    return [
        line(last.position, last.time - START + 1_000, "licenses"),
        *standing(occupied(lines), last.position, last.time - START + 1_000),
    ]


def rolled_up(lines: Lines, cuts: list[int]) -> tuple[Rollup, int]:
    """Return the rollup of what was before the last of these cuts, and which it was."""
    rolled, begun = Rollup(), 0
    for cut in sorted(cuts):
        end = min(cut, len(lines))
        while 0 < end < len(lines) and lines[end].position == lines[end - 1].position:
            end += 1  # what is told of one moment is never cut
        if end > begun:
            rolled.add(opening(lines[:begun]) + lines[begun:end], lines[begun - 1].position if begun else -1)
            rolled = copied(rolled)
            begun = end
    return rolled, begun


def copied(rolled: Rollup) -> Rollup:
    """Return what it is once it was written and read."""
    again = Rollup(rolled.time, (rolled.known["hour"], rolled.known["day"], rolled.known["month"]))
    for part in rolled.parts():
        assert 0 < len(part.rows) <= 500
        again.load(part)
    return again


def whole(lines: Lines, now: int, by: SpanName, adding: Usage | None = None) -> list[UsageRow]:
    """Return the rows that lines give up to a time."""
    usage = adding or Usage(by)
    rows = [row for one in lines for row in usage.take(one)]
    return [*rows, *usage.reach(START + now), *usage.unfinished()]


def cut(lines: Lines, cuts: list[int], now: int, by: SpanName) -> list[UsageRow]:
    """Return the rows of what is rolled up, and of the rest."""
    rolled, begun = rolled_up(lines, cuts)
    if not rolled.time:
        return whole(lines, now, by)
    adding = rolled.onward(by, lines[begun - 1].position)
    return [*rolled.rows(by), *whole(opening(lines[:begun]) + lines[begun:], now, by, adding)]


STEPS = st.lists(st.tuples(st.integers(-600, 9_000), st.integers(1, 3), st.integers(0, 3)), max_size=40)
CUTS = st.lists(st.integers(0, 50), max_size=4)


@given(STEPS, CUTS, st.integers(0, 20_000), st.sampled_from(SPANS))
def test_a_cut_makes_no_difference(steps: list[tuple[int, int, int]], cuts: list[int], more: int, by: SpanName) -> None:
    """Wherever it is: peak, use, denials and how much of each span is known are the same, in the same order.

    Also where the time was set back, and where it is at one moment.
    """
    lines = told(steps)
    now = sum(passed for passed, _, _ in steps) + more
    assert cut(lines, cuts, now, by) == whole(lines, now, by)


@given(STEPS, CUTS, st.integers(1, 12), st.integers(1, 12))
def test_what_is_too_much_by_hour_is_there_by_month(
    steps: list[tuple[int, int, int]], cuts: list[int], hours: int, days: int
) -> None:
    """And by day what is left of it: nothing is told twice, and a span that is there is whole."""
    lines = told([(20 * passed, item, what) for passed, item, what in steps])
    now = 20 * sum(passed for passed, _, _ in steps)
    with pytest.MonkeyPatch.context() as patch:
        bounds = {"hour": Bound(5 * DAY, hours), "day": Bound(30 * DAY, days), "month": Bound(10_000 * DAY, 10_000)}
        patch.setattr(rollup, "BOUNDS", bounds)
        assert cut(lines, cuts, now, "month") == whole(lines, now, "month")
        rolled, _ = rolled_up(lines, cuts)
        for by, most in (("hour", hours), ("day", days)):
            assert sum(len(part.rows) for part in rolled.parts() if part.by == by) <= most
        for by in get_args(SpanName):
            found = cut(lines, cuts, now, by)
            since = rolled.known[by] + (rolled.known[by] == rolled.time)  # of that moment some may be elsewhere
            assert [row for row in found if row.start >= since] == [
                row for row in whole(lines, now, by) if row.start >= since
            ]
            assert all(row.seconds >= 0 for row in found)
            assert [row.start for row in found] == sorted(row.start for row in found)


def held(days: int) -> Rollup:
    """Return the rollup of some days in which two licenses were held all the time, and nothing else was."""
    lines = [line(1, 0, "access", 3), line(1, 0, "access", 1, item=2), line(2, days * DAY, "release", 1)]
    rolled = Rollup()
    rolled.add(lines, -1)
    return rolled


def kept(rolled: Rollup, by: SpanName) -> int:
    """Return of how many spans it has rows of their own."""
    return len({part.start for part in rolled.parts() if part.by == by})


def test_hours_become_days_and_days_months() -> None:
    """After so long as is said; what is dropped at last are the oldest months. Each span tells itself as a whole."""
    rolled = held(30 * 366)
    assert [kept(rolled, by) for by in SPANS] == [100 * 24 + 1, 1_001, 206], "each in one, but the first in part"
    for by in SPANS:
        rows = list(rolled.rows(by))
        assert rows[0].start == rolled.known[by]
        assert 0 <= rolled.time - rows[0].start - rollup.BOUNDS[by].seconds < end_of(by, rows[0].start) - rows[0].start
        assert [(row.item, row.peak) for row in rows] == [(1, 3), (2, 1)] * (len(rows) // 2)
        assert all(row.unit_seconds == row.peak * row.seconds for row in rows)
        assert [row.start for row in rows[2::2]] == [row.start + row.seconds for row in rows[:-2:2]], "without a gap"


def test_no_more_rows_than_are_said_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever span: the oldest goes to a longer one, as a whole, and of the longest it is dropped."""
    monkeypatch.setattr(
        rollup, "BOUNDS", {"hour": Bound(DAY, 21), "day": Bound(90 * DAY, 9), "month": Bound(9_000 * DAY, 7)}
    )
    rolled = held(400)
    assert [kept(rolled, by) for by in SPANS] == [10, 4, 3]
    by_month = list(rolled.rows("month"))
    assert len(by_month) == 4
    assert by_month[0].start == rolled.known["month"] == begin_of("month", by_month[0].start)
    assert all(row.unit_seconds == row.peak * row.seconds for by in SPANS for row in rolled.rows(by))


def test_a_long_quiet_time_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines tell of it, and whoever holds something all the time has a row for each of its hours."""
    monkeypatch.setitem(rollup.BOUNDS, "hour", Bound(9_000 * DAY, 50))
    most = []
    settle = Rollup._settle

    def watched(rolled: Rollup) -> None:
        most.append(sum(map(len, rolled._spans["hour"].values())))
        settle(rolled)

    monkeypatch.setattr(Rollup, "_settle", watched)
    held(400)
    assert max(most) <= 2 * 50 + 2


def test_a_span_of_too_many_licenses_is_in_a_longer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is known of it by itself begins with what comes then."""
    monkeypatch.setattr(rollup, "BOUNDS", {"hour": Bound(DAY, 2), "day": Bound(DAY, 100), "month": Bound(DAY, 100)})
    lines = [line(1, 0, "access", 1, item) for item in (1, 2, 3)]
    lines += [line(2, HOUR + 60, "release", 1, item) for item in (1, 2)]
    rolled = Rollup()
    rolled.add(lines, -1)
    assert [kept(rolled, by) for by in SPANS] == [0, 1, 0]
    rest = [line(2, HOUR + 60, "access", 1, 3), line(3, HOUR + 90, "release", 1, 3)]
    found = whole(rest, HOUR + 100, "hour", rolled.onward("hour", 2))
    assert found == [UsageRow(START + HOUR, 40, "3-1", 10, 14, 3, 1, 30)]
    by_day = whole(rest, HOUR + 100, "day", rolled.onward("day", 2))
    assert [(row.seconds, row.item, row.unit_seconds) for row in by_day] == [
        (HOUR + 100, 1, HOUR + 60),
        (HOUR + 100, 2, HOUR + 60),
        (HOUR + 100, 3, HOUR + 90),
    ]


def test_a_history_that_breaks_off_counts_as_far_as_it_goes() -> None:
    """What stands then has been since."""

    def breaking_off() -> Iterator[TrackingLine]:
        yield line(1, 0, "access", 2)
        yield line(2, 60, "release", 1)
        raise LookupError

    rolled = Rollup()
    with pytest.raises(LookupError):
        rolled.add(breaking_off(), -1)
    rest = [line(9, 600, "access", 1), line(10, 660, "release", 1)]
    assert whole(rest, 700, "hour", rolled.onward("hour", 9)) == [UsageRow(START, 700, "3-1", 10, 14, 1, 2, 720)]
