"""Usage history: for each license a chart of its peak and mean use and of the denials, by hour, day or month.

A denial is of a product, and names a license only if the request did: those of a product that has one license are its,
those of one that has several have a chart of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, get_args

from markupsafe import Markup
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin import charts
from cmserverd.webadmin.charts import Span
from cmserverd.webadmin.daemon import Daemon
from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import asking, spelling
from cmserverd.webadmin.pages.choosing import Chosen, NotUnderstood, chosen
from cmserverd.webadmin.pages.rendering import render
from protocol.usage import SpanName, UsageRow, UsedFrom

SPANS: Final = get_args(SpanName)

MOST_SPANS: Final = 400
"""Spans in a chart."""

MOST_CHARTS: Final = 20

_QUESTIONS: Final = 30
"""Pages of the history that are read for one page; it says where it left off."""

_USUAL: Final[Mapping[str, int]] = {"hour": 48, "day": 31, "month": 12}
"""How many spans are shown where nobody says from when on."""

_LENGTH: Final[Mapping[str, int]] = {"hour": 3_600, "day": 86_400, "month": 28 * 86_400}
"""Seconds of the shortest span of that name."""

_NAME: Final[Mapping[str, int]] = {"hour": 13, "day": 10, "month": 7}
"""How many characters of an instant name a span."""

License = tuple[str, int, int, int]
"""Container, firm code, product code, item; those of a product's denials have no container and item 0."""


class Chart(Struct, frozen=True):
    """A license's use, as a picture and as figures."""

    id: str
    name: str
    place: str
    picture: Markup
    spans: tuple[Span, ...]


async def usage(request: Request, visit: Visit) -> Response:
    """Show the usage history."""
    wanted = chosen(request)
    asked = request.query_params
    by = span_name(asked.get("by", "day"))
    try:
        since = spelling.moment(asked.get("since", ""))
        until = spelling.moment(asked.get("until", ""))
    except ValueError as error:
        raise NotUnderstood(str(error)) from None
    now = (await visit.daemon.server()).time
    starts = span_starts(by, since, until, now)
    rows, whole = await _read(visit.daemon, by, starts, until)
    licenses, _ = await asking.all_licenses(visit.daemon.ask)
    names = {(one.firm_code, one.product_code): one.text for one in licenses}
    found = tuple(drawn(by, starts, (row for row in rows if _wants(wanted, row)), names))
    return render(
        request,
        visit,
        "usage.html",
        by=by,
        spans=SPANS,
        chosen=wanted,
        since=spelling.instant(since)[:16] if since is not None else "",
        until=spelling.instant(until)[:16] if until is not None else "",
        charts=found[:MOST_CHARTS],
        more=max(len(found) - MOST_CHARTS, 0),
        whole=whole,
    )


def span_name(text: str) -> SpanName:
    """Return what kind of span a text names. Raises NotUnderstood."""
    match text:
        case "hour" | "day" | "month":
            return text
    raise NotUnderstood("the usage history is by hour, by day or by month")


def span_starts(by: SpanName, since: int | None, until: int | None, now: int) -> tuple[int, ...]:
    """Return when the spans begin that are shown, the first that is at or after `since` first. Raises NotUnderstood."""
    end = min(now + 1, until if until is not None else now + 1)
    if since is None:
        start = _begin(by, max(end - 1, 0))
        for _ in range(_USUAL[by] - 1):
            start = _begin(by, max(start - 1, 0))
    else:
        start = _begin(by, since)
        start = start if start == since else _next(by, start)
    if (end - start) / _LENGTH[by] > MOST_SPANS + 31:
        raise NotUnderstood(f"these are more than {MOST_SPANS} {by}s; choose a shorter time or longer spans")
    starts: list[int] = []
    while start < end and len(starts) < MOST_SPANS:
        starts.append(start)
        start = _next(by, start)
    return tuple(starts)


def drawn(
    by: SpanName, starts: tuple[int, ...], rows: Iterable[UsageRow], names: Mapping[tuple[int, int], str]
) -> Iterator[Chart]:
    """Yield a chart for each license that has any row."""
    known: set[int] = set()
    series: dict[License, dict[int, UsageRow]] = defaultdict(dict)
    for row in rows:
        known.add(row.start)
        series[row.container, row.firm_code, row.product_code, row.item][row.start] = row
    denials = _give_to_only_license(series)
    for key in sorted(series, key=lambda one: (one[1], one[2], one[0], one[3])):
        container, firm_code, product_code, item = key
        found = series[key]
        spans = tuple(
            _span(by, start, found.get(start), denials.get(key, {}).get(start), known=start in known)
            for start in starts
        )
        name = spelling.shown(names.get((firm_code, product_code), "")) or f"Product Code {product_code}"
        place = f"in CmContainer {spelling.shown(container)}, item {item}" if container else "asked for anywhere"
        yield Chart(
            f"{container or 'any'}-{firm_code}-{product_code}-{item}", name, place, charts.history(spans, name), spans
        )


def _give_to_only_license(series: dict[License, dict[int, UsageRow]]) -> dict[License, dict[int, UsageRow]]:
    """Take the denials of products with one license out, and return them by that license."""
    given = {}
    for key in [key for key in series if not key[0]]:
        own = [other for other in series if other[0] and other[1:3] == key[1:3]]
        if len(own) == 1:
            given[own[0]] = series.pop(key)
    return given


def _span(by: SpanName, start: int, row: UsageRow | None, denied: UsageRow | None, *, known: bool) -> Span:
    name = spelling.instant(start)[: _NAME[by]] + (":00" if by == "hour" else "")
    denials = (row.denials if row else 0) + (denied.denials if denied else 0)
    if row is None:
        return Span(name, denials=denials, known=known)
    mean = row.unit_seconds / row.seconds if row.seconds else float(row.peak)
    return Span(name, row.peak, mean, denials)


def _wants(wanted: Chosen, row: UsageRow) -> bool:
    return (
        wanted.container in (None, row.container)
        and wanted.firm_code in (None, row.firm_code)
        and wanted.product_code in (None, row.product_code)
    )


async def _read(
    daemon: Daemon, by: SpanName, starts: tuple[int, ...], until: int | None
) -> tuple[list[UsageRow], bool]:
    """Return the rows of these spans, and whether these are all."""
    if not starts:
        return [], True
    rows: list[UsageRow] = []
    cursor: UsedFrom | None = None
    for _ in range(_QUESTIONS):
        page = await daemon.usage(by, starts[0], until, cursor)
        rows += page.rows
        if page.next is None:
            return rows, True
        cursor = page.next
    return rows, False


def _begin(by: SpanName, seconds: int) -> int:
    """Return when the span begins that an instant is in."""
    at = datetime.fromtimestamp(seconds, UTC).replace(minute=0, second=0)
    if by != "hour":
        at = at.replace(hour=0)
    if by == "month":
        at = at.replace(day=1)
    return int(at.timestamp())


def _next(by: SpanName, start: int) -> int:
    """Return when the span after one begins."""
    if by != "month":
        return start + _LENGTH[by]
    return _begin(by, int((datetime.fromtimestamp(start, UTC) + timedelta(days=31)).timestamp()))
