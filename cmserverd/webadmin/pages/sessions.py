"""License Monitoring, Sessions: what each connected client holds, its like accesses together in one row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import asking, rows, spelling
from cmserverd.webadmin.pages.choosing import Chosen, chosen
from cmserverd.webadmin.pages.rendering import asker, render, whole_stream
from cmserverd.webadmin.people import Role
from protocol.messages import AccessInfo
from protocol.terms import HandleKind


class SessionRow(Struct, frozen=True, gc=False):
    """So many accesses of one client to one license in one mode; `handle`, if not 0, is one by which all can go.

    Only the first row of a client has it.
    """

    id: str
    handle: int
    client: str
    pid: int
    application: str
    attached: bool
    container: str
    firm_item: str
    product_item: str
    where: str
    mode: str
    accesses: int
    last_access: str


async def sessions(request: Request, visit: Visit) -> Response:
    """Show who is connected and holds something."""
    wanted = Chosen(relevant=chosen(request).relevant, cursor=chosen(request).cursor)
    ask = asker(request, visit)
    part = await asking.accesses(ask, wanted)
    licenses, _ = await asking.all_licenses(ask)
    names = {(one.container, one.firm_code, one.item): one.text for one in licenses}
    return render(
        request,
        visit,
        "sessions.html",
        stream=whole_stream(part.position),
        relevant=wanted.relevant,
        sessions=session_rows(part.accesses, names),
        may_act=visit.may(Role.OPERATOR),
        next="" if part.next is None else wanted.address("/sessions", part.next),
        first=wanted.address("/sessions") if wanted.cursor else "",
        as_of=spelling.instant(part.time),
    )


def session_rows(accesses: Iterable[AccessInfo], names: Mapping[tuple[str, int, int], str]) -> tuple[SessionRow, ...]:
    """Return accesses by session, license and mode; `names` has each license's by container, firm code and item."""
    alike: dict[tuple[int, str, int, int, str, str, str], list[AccessInfo]] = {}
    for one in accesses:
        key = (one.session, one.container, one.firm_code, one.item, one.mode, one.kind, one.client)
        alike.setdefault(key, []).append(one)
    told = {0}  # what is borrowed is of no session
    found = []
    for key, group in sorted(alike.items(), key=lambda item: item[0][0]):
        found.append(_row(group, names, first=key[0] not in told))
        told.add(key[0])
    return tuple(found)


def _row(group: list[AccessInfo], names: Mapping[tuple[str, int, int], str], *, first: bool) -> SessionRow:
    shown = rows.access_row(group[0])
    entry = group[0].kind == HandleKind.ENTRY
    name = spelling.shown(names.get((group[0].container, shown.firm_code, group[0].item), ""))
    return SessionRow(
        id=f"{shown.session}-{shown.handle}",
        handle=shown.handle if first else 0,
        client=shown.client,
        pid=shown.pid,
        application=shown.application,
        attached=shown.attached,
        container=shown.container,
        firm_item=str(shown.firm_code) if shown.firm_code else "",
        product_item=f"{shown.product_code} {name}".rstrip() if entry else shown.target,
        where=rows.details_path(group[0].container, shown.firm_code, shown.product_code) if entry else "",
        mode=shown.mode,
        accesses=len(group),
        last_access=spelling.instant(max(one.last_access for one in group)),
    )
