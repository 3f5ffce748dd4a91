"""License Monitoring Details: the counts of one product in one container, and who has an access to it."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import asking, rows, spelling
from cmserverd.webadmin.pages.choosing import Chosen, chosen, with_query
from cmserverd.webadmin.pages.rendering import asker, product_stream, render
from cmserverd.webadmin.people import Role
from protocol.messages import LicenseCount


async def details(request: Request, visit: Visit) -> Response:
    """Show one license."""
    wanted = chosen(request)
    ask = asker(request, visit)
    assert wanted.firm_code is not None
    assert wanted.product_code is not None
    of_product = Chosen(wanted.container, wanted.firm_code, wanted.product_code)
    counts = (await asking.licenses(ask, of_product)).licenses
    names = asking.licensors(await asking.contents(ask, [wanted.container or ""]))
    part = await asking.accesses(ask, wanted)
    path = request.url.path
    relevant = "1" if wanted.relevant else None
    return render(
        request,
        visit,
        "details.html",
        stream=product_stream(wanted.firm_code, wanted.product_code, part.position),
        product=rows.product_name(counts, wanted.product_code),
        container=wanted.container,
        firm_code=wanted.firm_code,
        licensor=spelling.shown(names.get(wanted.firm_code, "")),
        product_code=wanted.product_code,
        relevant=wanted.relevant,
        cursor=wanted.cursor,
        summary=summary(counts),
        licenses=tuple(map(rows.license_row, counts)),
        accesses=rows.access_rows(part.accesses),
        may_act=visit.may(Role.OPERATOR),
        next="" if part.next is None else with_query(path, {"relevant": relevant, "cursor": part.next}),
        first=with_query(path, {"relevant": relevant}) if wanted.cursor else "",
        as_of=spelling.instant(part.time),
    )


def summary(counts: Sequence[LicenseCount]) -> str:
    """Say in one sentence how it stands: the one that is read aloud when it changes."""
    if not counts:
        return "There is no such license: its container was taken away, or its contents were changed."
    total = sum(count.total for count in counts)
    free = sum(count.free for count in counts)
    return f"Total {total}, available {free}."
