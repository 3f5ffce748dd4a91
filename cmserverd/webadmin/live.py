"""Tells open pages that something on them changed; each then fetches its region anew.

However many pages are open, the daemon is asked by one: a question that waits there until something happens. What it
tells goes to the pages that show it, and no faster than they can draw. While no page is open, nothing is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from math import inf
from typing import Final
from weakref import WeakSet

import structlog
import trio
from msgspec import Struct
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.offers import Offer, Stream, Visit
from cmserverd.webadmin.pages.choosing import MOST_CURSOR, code, number
from protocol.errors import LicenseError
from protocol.watching import Happened, Happening, HappeningKind, Happenings

_log = structlog.get_logger("webadmin")

WAIT: Final = 20
"""Seconds that a question waits at the daemon."""

RETRY: Final = 1.0
"""Seconds until the daemon is asked again after it did not answer."""

CALM: Final = 0.3
"""Seconds that a page has before it is told again: a burst of accesses is one change to whoever looks."""

LONGEST: Final = 3_600.0
"""Seconds after which a stream ends; a page that is still there opens it again."""

PATIENCE: Final = 5.0
"""Seconds after which a stream that has nothing to tell looks whether its reader's log-in still stands."""

PING: Final = 15
"""Seconds between two signs of life on a stream, by which a dead one is noticed."""

_UNSHOWN: Final = frozenset({HappeningKind.REFUSED})
_SESSIONS_ONLY: Final = frozenset({HappeningKind.OPENED, HappeningKind.CLOSED})

Ask = Callable[[Happened], Awaitable[Happenings]]
"""Asks the daemon. Raises LicenseError."""


class Scope(Struct, frozen=True):
    """What a page shows: one product, or everything."""

    firm_code: int | None = None
    product_code: int | None = None

    def shows(self, one: Happening) -> bool:
        """Tell whether something that happened may change the page."""
        if one.kind in _UNSHOWN:
            return False
        if self.firm_code is None:
            return True
        if not one.firm_code:  # of a container, a client or the time: of this product, too
            return one.kind not in _SESSIONS_ONLY
        return (one.firm_code, one.product_code) == (self.firm_code, self.product_code)


class OpenPage:
    """An open page: whether it has been told since it last drew. Read as a stream, it is an event for each change.

    The stream ends when it does not go on, of which it asks every `PATIENCE` seconds.
    """

    def __init__(self, scope: Scope, goes_on: Callable[[], bool]) -> None:
        self.scope = scope
        self.told = False
        self._goes_on = goes_on
        self._wake = trio.Event()
        self._drawn = -inf

    def tell(self) -> None:
        """Let it know that it is out of date, or that its stream may have ended."""
        self.told = True
        self._wake.set()

    def __aiter__(self) -> OpenPage:
        """Be a stream."""
        return self

    async def __anext__(self) -> ServerSentEvent:
        """Return the next change, once there is one and the page has had the time to draw the one before."""
        await trio.sleep_until(self._drawn + CALM)
        while self._goes_on():
            if self.told:
                self.told = False
                self._wake = trio.Event()
                self._drawn = trio.current_time()
                return ServerSentEvent(event="change", data="")
            with trio.move_on_after(PATIENCE):
                await self._wake.wait()
        raise StopAsyncIteration


class Live:
    """The pages that are open, and how they hear. `ask` asks the daemon, on a connection where that may wait.

    Their streams are at `path`: what happens to licenses and the log have one each, with numbers of their own.
    """

    def __init__(self, ask: Ask, path: str = "/live") -> None:
        self._ask = ask
        self._path = path
        self._pages: WeakSet[OpenPage] = WeakSet()
        self._wanted = trio.Event()
        self._closed = False
        self._broken = False
        self._position: int | None = None

    def page(self, scope: Scope, since: int, goes_on: Callable[[], bool] = lambda: True) -> OpenPage:
        """Return a page that is told of what happens after a position, for as long as anything refers to it."""
        page = OpenPage(scope, lambda: not self._closed and goes_on())
        if self._position is None:
            self._position = since
        elif since < self._position:
            page.tell()
        self._pages.add(page)
        self._wanted.set()
        return page

    @property
    def offers(self) -> tuple[Offer, ...]:
        """Where the streams are."""
        return (Stream(self._path, self.stream),)

    async def stream(self, request: Request, visit: Visit) -> Response:
        """Answer a page with a stream of events: a `change` each time that it is out of date."""
        asked = request.query_params
        scope = Scope(
            code(asked.get("firm_code", ""), "Firm Code"), code(asked.get("product_code", ""), "Product Code")
        )
        since = number(asked.get("since", "0"), MOST_CURSOR, "a position") or 0
        end = trio.current_time() + LONGEST
        page = self.page(scope, since, lambda: trio.current_time() < end and visit.stands())
        return EventSourceResponse(page, ping=PING)

    def close(self) -> None:
        """End all streams; there are no more."""
        self._closed = True
        self._tell_all()

    async def run(self) -> None:
        """Ask the daemon for as long as it is not cancelled."""
        while True:
            if not self._pages:
                self._position = None
                self._wanted = trio.Event()
                await self._wanted.wait()
            try:
                await self._hear()
            except LicenseError as error:
                if not self._broken:
                    _log.warning("the license server does not tell what happens", error=str(error))
                    self._broken = True
                    self._tell_all()  # they see by themselves that it does not answer
                await trio.sleep(RETRY)

    async def _hear(self) -> None:
        """Ask once, and tell the pages. Raises LicenseError."""
        heard = await self._ask(Happened(self._position, WAIT))
        restarted = self._position is None or heard.position < self._position
        self._position = heard.position
        if heard.missed or restarted or self._broken:
            self._tell_all()
        else:
            self._tell(heard.events)
        self._broken = False

    def _tell(self, events: Iterable[Happening]) -> None:
        happened = tuple(events)
        for page in self._pages:
            if any(map(page.scope.shows, happened)):
                page.tell()

    def _tell_all(self) -> None:
        for page in self._pages:
            page.tell()
