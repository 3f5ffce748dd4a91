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

from cmserverd.webadmin.guard import Visit
from cmserverd.webadmin.pages import asking, rows, spelling
from cmserverd.webadmin.pages.choosing import MOST_CURSOR, NotUnderstood, number
from cmserverd.webadmin.pages.rendering import render
from protocol.deallocation import LONGEST_HOLD_OFF, MOST_SEEN, DeallocatedAccess
from protocol.errors import LicenseError
from protocol.messages import AccessInfo
from protocol.terms import AccessMode, HandleKind

SHOWN: Final = 200
"""How many accesses the question names; it says how many more there are."""


class HoldOff(Struct, frozen=True):
    """For how long the station gets no new license."""

    seconds: int
    name: str


HOLD_OFFS: Final = (
    HoldOff(0, "no time: it may ask again"),
    *(HoldOff(seconds, spelling.period(seconds)) for seconds in (60, 300, 900, 3_600, LONGEST_HOLD_OFF)),
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
    asked = wish({name: value for name, value in form.items() if isinstance(value, str)})
    named = await asking.access(visit.daemon.ask, handle) if handle else None
    if named is None:
        return _gone(request, visit, handle)
    try:
        done = await visit.daemon.deallocate(handle, asked.what, seen=asked.seen, hold_off=asked.hold_off, by=visit.who)
    except LicenseError as error:
        now = await asking.access(visit.daemon.ask, handle)
        if now is None:
            return _gone(request, visit, handle)
        return await _question(request, visit, now, f"Nothing was removed: {spelling.refusal(error)}.")
    removed = tuple(map(_removed_row, done.accesses[:SHOWN]))
    return render(
        request,
        visit,
        "removed.html",
        rows=removed,
        more=len(done.accesses) - len(removed),
        said=said(len(done.accesses), done.licenses, asked.hold_off),
        back=_back(named),
    )


class Wish(Struct, frozen=True):
    """What a form asks: what to remove, whom it showed, for how many seconds the station gets nothing new."""

    what: Literal["allocation", "access"]
    seen: tuple[int, ...]
    hold_off: int


def wish(form: Mapping[str, str]) -> Wish:
    """Return what a form asks to be removed. Raises NotUnderstood."""
    seen = tuple(number(text, MOST_CURSOR, "an ID") or 0 for text in form.get("seen", "").split())
    if not seen or len(seen) > MOST_SEEN or not all(seen):
        raise NotUnderstood("the form does not say whom it showed; open the page again")
    what: Literal["allocation", "access"]
    match form.get("what", ""):
        case "allocation":
            what = "allocation"
        case "access":
            what = "access"
        case _:
            raise NotUnderstood("choose what to remove: the allocation, or only this instance")
    hold_off = number(form.get("hold_off", "0"), LONGEST_HOLD_OFF, "a hold-off in seconds") or 0
    return Wish(what, seen, hold_off)


def said(accesses: int, licenses: int, hold_off: int) -> str:
    """Say what was freed."""
    removed = f"{spelling.counted(accesses, 'access was', 'accesses were')} removed"
    if licenses:
        freed = f"{spelling.counted(licenses, 'license is', 'licenses are')} available by that"
    else:
        freed = "no license became available by that"
    held = f" Its PC gets no new license of this product for {spelling.period(hold_off)}." if hold_off else ""
    return f"{removed}; {freed}.{held}"


async def _question(request: Request, visit: Visit, named: AccessInfo, problem: str = "") -> Response:
    hit = await asking.instances(visit.daemon.ask, named) or (named,)
    first = rows.access_row(named)
    if not first.removable:
        problem = problem or f"A borrowed license cannot be removed: it is borrowed until {first.borrowed_until} UTC."
    return render(
        request,
        visit,
        "removal.html",
        problem=problem,
        named=first,
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
    return render(request, visit, "removed.html", rows=(), more=0, said=text, back="/licenses")


def _back(named: AccessInfo) -> str:
    if named.kind != HandleKind.ENTRY:
        return "/sessions"
    return rows.details_path(named.container, named.firm_code, named.product_code)
