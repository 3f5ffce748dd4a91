"""Removing all that one client holds: a page that asks first and names each access, and one that says what was freed.

Each of his accesses has an ID that names him here. As with a single allocation, the daemon removes nothing if he has
another access by then than those that the question showed (decision 22).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import asking, removal, rows, spelling
from cmserverd.webadmin.pages.choosing import MOST_CURSOR, number
from cmserverd.webadmin.pages.rendering import render
from protocol.deallocation import MOST_SEEN
from protocol.errors import LicenseError
from protocol.messages import AccessInfo
from protocol.terms import AccessMode

BACK = "/sessions"


async def ask(request: Request, visit: Visit) -> Response:
    """Show what it would take from the client, and ask."""
    handle, named = await _named(request, visit)
    return _gone(request, visit, handle) if named is None else await _question(request, visit, named)


async def remove(request: Request, visit: Visit) -> Response:
    """Remove what the form showed, and tell what became of it."""
    form = await request.form()
    asked = removal.agreed({name: value for name, value in form.items() if isinstance(value, str)})
    handle, named = await _named(request, visit)
    if named is None:
        return _gone(request, visit, handle)
    try:
        done = await visit.daemon.deallocate(handle, "session", seen=asked.seen, hold_off=asked.hold_off, by=visit.who)
    except LicenseError as error:
        _, now = await _named(request, visit)
        if now is None:
            return _gone(request, visit, handle)
        return await _question(request, visit, now, f"Nothing was removed: {spelling.refusal(error)}.")
    sentence = removal.said(len(done.accesses), done.licenses, asked.hold_off, "these products")
    return removal.done_with(request, visit, done, sentence, BACK)


def _gone(request: Request, visit: Visit, handle: int) -> Response:
    text = f"The access {handle}, by which the client was named here, is over. See under Sessions what he has now."
    return removal.nothing(request, visit, text, BACK)


class HitRow(Struct, frozen=True, gc=False):
    """An access that goes."""

    handle: int
    firm_item: str
    product_item: str
    container: str
    mode: str
    first_access: str


def _hit_row(one: AccessInfo, names: Mapping[tuple[str, int, int], str]) -> HitRow:
    row = rows.access_row(one)
    name = spelling.shown(names.get((one.container, one.firm_code, one.item), "")) if one.allocation else ""
    return HitRow(
        handle=row.handle,
        firm_item=str(row.firm_code) if row.firm_code else "",
        product_item=f"{row.product_code} {name}" if name else row.target,
        container=row.container,
        mode=row.mode,
        first_access=row.first_access,
    )


async def _named(request: Request, visit: Visit) -> tuple[int, AccessInfo | None]:
    """Return the ID in the address, and its access, if it is of a client who is there."""
    handle = number(request.path_params["handle"], MOST_CURSOR, "an ID") or 0
    found = await asking.access(visit.daemon.ask, handle) if handle else None
    return handle, found if found is not None and found.session else None


async def _question(request: Request, visit: Visit, named: AccessInfo, problem: str = "") -> Response:
    hit = await asking.of_session(visit.daemon.ask, named.session) or (named,)
    if len(hit) > MOST_SEEN:
        problem = f"This client has more than {MOST_SEEN:,} accesses, too many for one question; remove single ones."
    licenses, _ = await asking.all_licenses(visit.daemon.ask)
    names = {(one.container, one.firm_code, one.item): one.text for one in licenses}
    return render(
        request,
        visit,
        "client_removal.html",
        problem=problem,
        named=rows.access_row(named),
        accesses=spelling.counted(len(hit), "access", "accesses"),
        rows=tuple(_hit_row(one, names) for one in hit[: removal.SHOWN]),
        more=max(len(hit) - removal.SHOWN, 0),
        seen=" ".join(str(one.handle) for one in hit) if len(hit) <= MOST_SEEN else "",
        shares=any(one.mode == AccessMode.STATION_SHARE for one in hit),
        counts=any(one.allocation for one in hit),
        hold_offs=removal.HOLD_OFFS,
        back=BACK,
    )
