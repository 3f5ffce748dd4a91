"""Removing an allocation: a page that asks first and names everybody whom it hits, and one that says what was freed.

The handles that the question showed go along in its form, and the daemon removes nothing if there is another one by
then: a page that was left open cannot take a license from somebody who came later (decision 22).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import asking, rows, spelling
from cmserverd.webadmin.pages.choosing import MOST_CURSOR, Chosen, NotUnderstood, number
from cmserverd.webadmin.pages.rendering import render
from protocol.deallocation import LONGEST_HOLD_OFF, MOST_SEEN, DeallocatedAccess
from protocol.errors import LicenseError
from protocol.messages import AccessInfo, Deallocated
from protocol.terms import AccessMode, HandleKind, shown_period

SHOWN: Final = 200
"""How many accesses the question names; it says how many more there are."""


class HoldOff(Struct, frozen=True):
    """For how long the station gets no new license."""

    seconds: int
    name: str


HOLD_OFFS: Final = (
    HoldOff(0, "no time: it may ask again"),
    *(HoldOff(seconds, shown_period(seconds)) for seconds in (60, 300, 900, 3_600, LONGEST_HOLD_OFF)),
)


class RemovedRow(Struct, frozen=True, gc=False):
    """An access that was removed."""

    handle: int
    client: str
    pid: int
    application: str


async def ask(request: Request, visit: Visit) -> Response:
    """Show whom it would hit, and ask."""
    handle = number(request.path_params["handle"], MOST_CURSOR, "an ID") or 0
    named = await asking.access(visit.daemon.ask, handle) if handle else None
    if named is None:
        return _gone(request, visit, handle)
    return await _question(request, visit, named)


async def remove(request: Request, visit: Visit) -> Response:
    """Remove what the form says, and tell what became of it."""
    form = await request.form()
    handle = number(request.path_params["handle"], MOST_CURSOR, "an ID") or 0
    said_so = {name: value for name, value in form.items() if isinstance(value, str)}
    what, asked = wanted(said_so), agreed(said_so)
    named = await asking.access(visit.daemon.ask, handle) if handle else None
    if named is None:
        return _gone(request, visit, handle)
    try:
        done = await visit.daemon.deallocate(handle, what, seen=asked.seen, hold_off=asked.hold_off, by=visit.who)
    except LicenseError as error:
        now = await asking.access(visit.daemon.ask, handle)
        if now is None:
            return _gone(request, visit, handle)
        return await _question(request, visit, now, f"Nothing was removed: {spelling.refusal(error)}.")
    sentence = said(len(done.accesses), done.licenses, asked.hold_off)
    return done_with(request, visit, done, sentence, _back(named))


class Agreed(Struct, frozen=True):
    """What a form agrees to: whom it showed, and for how many seconds the station gets nothing new."""

    seen: tuple[int, ...]
    hold_off: int


def agreed(form: Mapping[str, str]) -> Agreed:
    """Return what a form agrees to. Raises NotUnderstood."""
    seen = tuple(number(text, MOST_CURSOR, "an ID") or 0 for text in form.get("seen", "").split())
    if not seen or len(seen) > MOST_SEEN or not all(seen):
        raise NotUnderstood("the form does not say whom it showed; open the page again")
    return Agreed(seen, number(form.get("hold_off", "0"), LONGEST_HOLD_OFF, "a hold-off in seconds") or 0)


def wanted(form: Mapping[str, str]) -> Literal["allocation", "access"]:
    """Return what a form asks to be removed. Raises NotUnderstood."""
    match form.get("what", ""):
        case "allocation":
            return "allocation"
        case "access":
            return "access"
        case _:
            raise NotUnderstood("choose what to remove: the allocation, or only this instance")


def done_with(request: Request, visit: Visit, done: Deallocated, sentence: str, back: str) -> Response:
    """Show what was removed."""
    removed = tuple(map(_removed_row, done.accesses[:SHOWN]))
    return render(
        request,
        visit,
        "removed.html",
        rows=removed,
        more=len(done.accesses) - len(removed),
        said=sentence,
        back=back,
    )


def said(accesses: int, licenses: int, hold_off: int, products: str = "this product") -> str:
    """Say what was freed, and of which products the PC gets nothing new."""
    removed = f"{spelling.counted(accesses, 'access was', 'accesses were')} removed"
    if licenses:
        freed = f"{spelling.counted(licenses, 'license is', 'licenses are')} available by that"
    else:
        freed = "no license became available by that"
    held = f" Its PC gets no new license of {products} for {shown_period(hold_off)}." if hold_off else ""
    return f"{removed}; {freed}.{held}"


async def _question(request: Request, visit: Visit, named: AccessInfo, problem: str = "") -> Response:
    hit = await asking.instances(visit.daemon.ask, named) or (named,)
    of_product = Chosen(named.container or None, named.firm_code, named.product_code)
    counts = (await asking.licenses(visit.daemon.ask, of_product)).licenses if named.kind == HandleKind.ENTRY else ()
    first = rows.access_row(named)
    if not first.removable:
        problem = problem or f"A borrowed license cannot be removed: it is borrowed until {first.borrowed_until} UTC."
    return render(
        request,
        visit,
        "removal.html",
        problem=problem,
        named=first,
        product=rows.product_name(counts, named.product_code) if counts else first.target,
        instances=instances(len(hit)),
        rows=rows.access_rows(hit[:SHOWN]),
        more=max(len(hit) - SHOWN, 0),
        seen=" ".join(str(one.handle) for one in hit),
        shared=named.mode == AccessMode.STATION_SHARE and len(hit) > 1,
        whole=f"The allocation with all its instances ({len(hit)})" if len(hit) > 1 else "This allocation",
        counts=named.kind == HandleKind.ENTRY,
        hold_offs=HOLD_OFFS,
        back=_back(named),
    )


def instances(number: int) -> str:
    """Say how many go."""
    return "this one access" if number == 1 else f"all {number} instances that share it"


def _removed_row(one: DeallocatedAccess) -> RemovedRow:
    return RemovedRow(one.handle, spelling.shown(one.client), one.pid, spelling.shown(one.application))


def _gone(request: Request, visit: Visit, handle: int) -> Response:
    text = f"There is no access {handle} any more: its client has released it, or somebody else removed it."
    return nothing(request, visit, text, "/licenses")


def nothing(request: Request, visit: Visit, text: str, back: str) -> Response:
    """Say why nothing was removed."""
    return render(request, visit, "removed.html", rows=(), more=0, said=text, back=back)


def _back(named: AccessInfo) -> str:
    if named.kind != HandleKind.ENTRY:
        return "/sessions"
    return rows.details_path(named.container, named.firm_code, named.product_code)
