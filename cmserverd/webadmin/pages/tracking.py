"""License tracking: who had which license from when to when, who was denied one; searched, and verified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.daemon import Daemon
from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import asking, rows, spelling
from cmserverd.webadmin.pages.choosing import MOST_CURSOR, Chosen, NotUnderstood, chosen, number, with_query
from cmserverd.webadmin.pages.rendering import render
from protocol.tracking import TrackedFrom, TrackingEvent, TrackingLine, TrackingProof

ROWS: Final = 2_000
"""Rows on a page, or few more: those of one page of the daemon."""

LEAST: Final = 100
"""So many rows a page should have before no more of the history is read for it."""

_QUESTIONS: Final = 15
"""Pages of the history that are read for one page; the next one goes on there."""

LONGEST: Final = 100
"""Characters of a text that is searched for."""

USUAL: Final = 86_400
"""For how many seconds back it is shown where nobody says from when on."""

_EVENTS: Final = {
    TrackingEvent.STARTED: "server started",
    TrackingEvent.STOPPED: "server stopped",
    TrackingEvent.LICENSE: "license there",
    TrackingEvent.ACCESS: "access",
    TrackingEvent.RELEASE: "release",
    TrackingEvent.DENIAL: "denied",
    TrackingEvent.BORROW: "borrowed",
    TrackingEvent.RETURN: "returned",
}
"""What the page shows, and how it calls it."""

_FREEING: Final = (TrackingEvent.RELEASE, TrackingEvent.RETURN)

_REASONS: Final = {
    "released": "given back by its client",
    "goodbye": "its client ended",
    "closed": "its connection was closed",
    "silent": "its client fell silent",
    "administrator": "removed by an operator",
    "converted": "borrowed by its holder",
    "linger_over": "linger time over",
    "container_gone": "container unplugged",
    "reprogrammed": "contents of the container changed",
    "not_local": "license is for the server's own machine",
    "superseded": "its program was started anew",
    "maximum_life": "the time it was asked for was over",
    "expired": "license expired",
    "usage_over": "usage period over",
    "lent": "its license was borrowed",
    "over": "the time it was borrowed for was over",
    "refused": "the container did not write the loan down",
    "unknown": "the container does not know the loan",
    "moved": "booked on another license",
    "relisted": "list of licenses changed",
}


class TrackingRow(Struct, frozen=True, gc=False):
    """A line of license tracking, spelt."""

    time: str
    event: str
    product: str
    where: str
    container: str
    client: str
    pid: str
    application: str
    mode: str
    units: str
    reason: str
    denied: bool


class Found(Struct, frozen=True):
    """Some lines, and where it goes on."""

    lines: tuple[TrackingLine, ...]
    next: TrackedFrom | None
    until: int


async def tracking(request: Request, visit: Visit) -> Response:
    """Show what is searched for."""
    return await _page(request, visit, None)


async def verify(request: Request, visit: Visit) -> Response:
    """Verify it, and say what came of it."""
    return await _page(request, visit, await visit.daemon.verify_tracking())


async def _page(request: Request, visit: Visit, proof: TrackingProof | None) -> Response:
    asked = request.query_params
    wanted = chosen(request)
    try:
        since = spelling.moment(asked.get("since", ""))
        until = spelling.moment(asked.get("until", ""))
    except ValueError as error:
        raise NotUnderstood(str(error)) from None
    if not asked:  # who only looks wants the end, not the beginning of a history of months
        since = max((await visit.daemon.server()).time - USUAL, 0)
    text = asked.get("text", "").strip()
    if len(text) > LONGEST:
        raise NotUnderstood(f"a text to search for has at most {LONGEST} characters")
    found = await search(visit.daemon, wanted, text, since, until, cursor(asked.get("from", "")))
    fields: dict[str, object] = {
        "since": None if since is None else spelling.instant(since),
        "until": None if until is None else spelling.instant(until),
        "text": text or None,
        "firm_code": wanted.firm_code,
        "product_code": wanted.product_code,
    }
    licenses, _ = await asking.all_licenses(visit.daemon.ask)
    names = {(one.firm_code, one.product_code): one.text for one in licenses}
    following = None if found.next is None else f"{found.next.segment}.{found.next.lines}"
    return render(
        request,
        visit,
        "tracking.html",
        chosen=wanted,
        text=text,
        since=spelling.instant(since)[:16] if since is not None else "",
        until=spelling.instant(until)[:16] if until is not None else "",
        rows=tuple(tracking_row(one, names) for one in found.lines),
        next="" if following is None else with_query("/tracking", {**fields, "from": following}),
        first=with_query("/tracking", fields) if asked.get("from") else "",
        looked_until=spelling.instant(found.until),
        proof=proof and said(proof),
        sound=proof is not None and proof.sound,
    )


def cursor(text: str) -> TrackedFrom | None:
    """Return where a page of the search goes on. Raises NotUnderstood."""
    if not text:
        return None
    segment, _, lines = text.partition(".")
    what = "the place in the list"
    return TrackedFrom(number(segment, MOST_CURSOR, what) or 0, number(lines, MOST_CURSOR, what) or 0)


async def search(
    daemon: Daemon, wanted: Chosen, text: str, since: int | None, until: int | None, start: TrackedFrom | None
) -> Found:
    """Return the lines that are searched for, from a place on. Raises LicenseError."""
    lines: list[TrackingLine] = []
    place = start
    for _ in range(_QUESTIONS):
        page = await daemon.tracking(since, until, place)
        lines += matching(page.lines, wanted, text)
        place = page.next
        if place is None or len(lines) >= LEAST:
            break
    return Found(tuple(lines), place, page.time)


def matching(lines: Iterable[TrackingLine], wanted: Chosen, text: str) -> Iterable[TrackingLine]:
    """Yield the lines about a product in which a text occurs, whatever its case."""
    sought = text.casefold()
    for line in lines:
        if line.event not in _EVENTS or (sought and sought not in _words(line)):
            continue
        if wanted.firm_code in (None, line.firm_code) and wanted.product_code in (None, line.product_code):
            yield line


def _words(line: TrackingLine) -> str:
    said = (line.host, line.user, line.address, line.application, line.container, line.text, line.reason, line.mode)
    return "\n".join((*said, _EVENTS.get(TrackingEvent(line.event), ""))).casefold()


def tracking_row(line: TrackingLine, names: Mapping[tuple[int, int], str]) -> TrackingRow:
    """Return a line as a row; `names` has each product's by firm code and product code, where the line has none."""
    who = f"{line.address}({line.host} \\ {line.user})" if line.host or line.user or line.address else ""
    denied = line.event == TrackingEvent.DENIAL
    words = spelling.shown(line.reason.replace("_", " "))
    name = line.text or names.get((line.firm_code, line.product_code), "")
    return TrackingRow(
        time=spelling.instant(line.time),
        event=_EVENTS.get(TrackingEvent(line.event), line.event),
        product=spelling.shown(f"{line.firm_code}:{line.product_code} {name}".rstrip()) if line.firm_code else "",
        where=rows.details_path(line.container, line.firm_code, line.product_code) if line.container else "",
        container=spelling.shown(line.container),
        client=spelling.shown(who),
        pid=str(line.pid or ""),
        application=spelling.shown(line.application),
        mode=spelling.mode(line.mode),
        units=f"{'-' if line.event in _FREEING else '+'}{line.units}" if line.units else "",
        reason="no license was free" if denied else _REASONS.get(line.reason, words),
        denied=denied,
    )


def said(proof: TrackingProof) -> str:
    """Say a proof to people."""
    until = f"position {proof.position}, {spelling.instant(proof.time)} UTC"
    if proof.sound:
        size = f"{spelling.counted(proof.entries, 'entry', 'entries')} in {spelling.counted(proof.segments, 'segment')}"
        return f"License tracking is as it was written, up to {until}: {size}."
    return f"License tracking is as it was written up to {until}, and not from there on: {spelling.shown(proof.text)}"
