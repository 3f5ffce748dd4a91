"""The usage history by examples: peak, use and denials in each span, and that the spans add up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmserverd.usage import Usage, begin_of, end_of
from protocol.tracking import TrackingLine
from protocol.usage import SpanName, UsageRow

HOUR = 3_600
START = 1_800_000_000  # 2027-01-15 08:00


def line(time: int, event: str, units: int = 0, item: int = 1) -> TrackingLine:
    """Return a line about a license."""
    return TrackingLine(1, START + time, event, "3-1", 10, 14, item, units=units)


def rows(lines: list[TrackingLine], now: int, by: SpanName = "hour") -> list[UsageRow]:
    """Return the history of these lines at a time."""
    usage = Usage(by)
    found = [row for each in lines for row in usage.take(each)]
    found += usage.reach(START + now)
    return found + list(usage.unfinished())


def shown(found: list[UsageRow]) -> list[tuple[int, int, int, int, int, int]]:
    """Return rows in short: hour, seconds, item, peak, use, denials."""
    return [
        ((row.start - START) // HOUR, row.seconds, row.item, row.peak, row.unit_seconds, row.denials) for row in found
    ]


def test_what_is_used_over_an_hours_end_counts_in_both() -> None:
    """With its peak; the hour that is not over is told as far as it is known."""
    found = rows([line(0, "access", 1), line(60, "access", 1), line(HOUR + 30, "release", 2)], HOUR + 90)
    assert shown(found) == [(0, HOUR, 1, 2, 2 * HOUR - 60, 0), (1, 90, 1, 2, 60, 0)]


def test_an_hour_in_which_nothing_was_has_no_row() -> None:
    """And one that was used without any line has."""
    found = rows([line(0, "access", 1), line(60, "release", 1), line(5 * HOUR, "access", 1)], 7 * HOUR + 1)
    assert shown(found) == [
        (0, HOUR, 1, 1, 60, 0),
        (5, HOUR, 1, 1, HOUR, 0),
        (6, HOUR, 1, 1, HOUR, 0),
        (7, 1, 1, 1, 1, 0),
    ]


def test_what_is_borrowed_is_used() -> None:
    """From when it is taken along until it comes back."""
    found = rows([line(0, "borrow", 1), line(30, "borrow"), line(60, "return", 1)], 60)
    assert shown(found) == [(0, 60, 1, 1, 60, 0)]


def test_denials_are_counted_where_they_were() -> None:
    """By what was asked for."""
    found = rows([line(0, "denial"), line(1, "denial", item=2), line(2, "denial"), line(HOUR, "denial")], HOUR)
    assert shown(found) == [(0, HOUR, 1, 0, 0, 2), (0, HOUR, 2, 0, 0, 1), (1, 0, 1, 0, 0, 1)]


def test_a_start_and_a_new_list_raise_no_peak() -> None:
    """What stands is told again, and was used meanwhile."""
    again = [line(100, "started"), line(100, "licenses"), line(100, "access", 1)]
    moved = [line(200, "release", 1), line(200, "access", 1)]
    assert shown(rows([line(0, "access", 1), *again, *moved], 300)) == [(0, 300, 1, 1, 300, 0)]


def test_a_time_that_was_set_back_adds_nothing() -> None:
    """Until it has caught up."""
    found = rows([line(100, "access", 1), line(50, "access", 1), line(60, "release", 1), line(110, "release", 1)], 200)
    assert shown(found) == [(0, 100, 1, 2, 10, 0)]


def test_what_is_known_begins_with_the_first_line() -> None:
    """The mean is of that, not of the whole hour."""
    assert shown(rows([line(1_800, "access", 2)], 2_000)) == [(0, 200, 1, 2, 400, 0)]


@pytest.mark.parametrize(
    ("by", "begin", "end"),
    [
        ("hour", "2028-02-29T23:00:00", "2028-03-01T00:00:00"),
        ("day", "2028-02-29T00:00:00", "2028-03-01T00:00:00"),
        ("month", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
    ],
)
def test_spans_are_those_of_the_calendar(by: SpanName, begin: str, end: str) -> None:
    """In UTC, leap years included."""
    instant = int(datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC).timestamp())
    first = begin_of(by, instant)
    assert [datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S") for at in (first, end_of(by, first))] == [
        begin,
        end,
    ]


@given(st.lists(st.tuples(st.integers(0, 40_000), st.booleans()), max_size=30), st.integers(0, 90_000))
def test_hours_add_up_to_days_and_months(steps: list[tuple[int, bool]], more: int) -> None:
    """Use and denials of a span are the sums, its peak is the highest."""
    lines, units, time = [], 0, 0
    for passed, takes in steps:
        time += passed
        takes = takes or not units
        units += 1 if takes else -1
        lines.append(line(time, "access" if takes else "release", 1))
    hours = rows(lines, time + more)
    for by in ("day", "month"):
        sums: dict[int, list[int]] = {}
        for row in hours:
            found = sums.setdefault(begin_of(by, row.start), [0, 0])
            found[0] = max(found[0], row.peak)
            found[1] += row.unit_seconds
        assert {row.start: [row.peak, row.unit_seconds] for row in rows(lines, time + more, by)} == sums
