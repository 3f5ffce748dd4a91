"""Gives a page: the whole one, or, where a page that is open asks, only the region that is made anew."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages.choosing import with_query
from cmserverd.webadmin.sharing import Ask

STREAM: Final = "/live"
"""Where a page hears that it is out of date."""

LOG_STREAM: Final = "/live/log"
"""Where a page about the log does."""


def asker(request: Request, visit: Visit) -> Ask:
    """Return what asks the daemon for a page; pages that are open and made anew share its answers."""
    return visit.daemon.shared.ask if _is_open(request) else visit.daemon.ask


def render(
    request: Request,
    visit: Visit,
    template: str,
    status: int = 200,
    *,
    stream: str = "",
    **values: Any,
) -> Response:
    """Return a page; it is kept up to date by what `stream` tells, if it has one."""
    query = request.url.query
    return visit.render(
        template,
        status,
        layout="fragment.html" if _is_open(request) else "page.html",
        stream=stream,
        address=f"{request.url.path}?{query}" if query else request.url.path,
        **values,
    )


def whole_stream(position: int) -> str:
    """Return where a page of everything, as it was at a position, hears of changes."""
    return with_query(STREAM, {"since": position})


def log_stream(number: int) -> str:
    """Return where a page of the log, up to the line of a number, hears of further ones."""
    return with_query(LOG_STREAM, {"since": number})


def product_stream(firm_code: int, product_code: int, position: int) -> str:
    """Return where a page of one product, as it was at a position, hears of changes."""
    return with_query(STREAM, {"firm_code": firm_code, "product_code": product_code, "since": position})


def _is_open(request: Request) -> bool:
    """Tell whether a page that stands open asks, for its region alone."""
    return "hx-request" in request.headers
