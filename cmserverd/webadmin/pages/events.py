"""Events: the last lines of the daemon's own log, the newest first; further ones come by themselves."""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import spelling
from cmserverd.webadmin.pages.choosing import NotUnderstood
from cmserverd.webadmin.pages.rendering import asker, log_stream, render
from protocol.watching import LogLine, LogRequest

LEVELS: Final = ("info", "warning", "error")
"""From the least serious on."""

ROWS: Final = 200
"""How many lines are shown."""


class EventRow(Struct, frozen=True, gc=False):
    """A line of the log."""

    number: int
    time: str
    level: str
    event: str
    fields: str
    loud: bool


async def events(request: Request, visit: Visit) -> Response:
    """Show the log."""
    least = request.query_params.get("level", "info")
    if least not in LEVELS:
        raise NotUnderstood(f"the level is one of {', '.join(LEVELS)}")
    page = await asker(request, visit)(LogRequest())
    wanted = [one for one in reversed(page.lines) if _serious(one.level, least)]
    return render(
        request,
        visit,
        "events.html",
        stream=log_stream(page.number),
        level=least,
        levels=LEVELS,
        rows=tuple(map(event_row, wanted[:ROWS])),
        older=page.missed or len(wanted) > ROWS,
    )


def event_row(line: LogLine) -> EventRow:
    """Return a line as a row."""
    return EventRow(
        number=line.number,
        time=spelling.instant(line.time),
        level=spelling.shown(line.level),
        event=spelling.shown(line.event),
        fields=spelling.shown(line.fields),
        loud=line.level not in ("debug", "info"),
    )


def _serious(level: str, least: str) -> bool:
    """Tell whether a level is at least so serious; one that is not known is."""
    return level not in LEVELS or LEVELS.index(level) >= LEVELS.index(least)
