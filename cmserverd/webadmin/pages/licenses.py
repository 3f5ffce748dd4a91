"""License Monitoring, All Licenses: by licensor, then by product."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import asking, rows, spelling
from cmserverd.webadmin.pages.choosing import chosen
from cmserverd.webadmin.pages.rendering import asker, render, whole_stream
from cmserverd.webadmin.pages.rows import LicenseRow
from protocol.messages import LicenseCount


class Group(Struct, frozen=True):
    """The licenses of one licensor, and his name if a container has one."""

    firm_code: int
    name: str
    rows: tuple[LicenseRow, ...]


async def licenses(request: Request, visit: Visit) -> Response:
    """Show all licenses, or those chosen."""
    wanted = chosen(request)
    ask = asker(request, visit)
    page = await asking.licenses(ask, wanted)
    holding = dict.fromkeys(one.container for one in page.licenses)
    names = asking.licensors(await asking.contents(ask, holding))
    return render(
        request,
        visit,
        "licenses.html",
        stream=whole_stream(page.position),
        chosen=wanted,
        groups=grouped(page.licenses, names),
        nothing="There is no such license." if wanted.filtered else "There is no license: no container is plugged in.",
        next="" if page.next is None else wanted.address("/licenses", page.next),
        first=wanted.address("/licenses") if wanted.cursor else "",
        as_of=spelling.instant(page.time),
    )


def grouped(licenses: tuple[LicenseCount, ...], names: Mapping[int, str]) -> tuple[Group, ...]:
    """Return licenses by licensor, in the order of their codes, and in it by product; `names` are by firm code."""
    codes = sorted({one.firm_code for one in licenses})
    ordered = sorted(licenses, key=lambda one: one.product_code)  # stable: by container as the daemon has it
    return tuple(
        Group(
            code,
            spelling.shown(names.get(code, "")),
            tuple(rows.license_row(one) for one in ordered if one.firm_code == code),
        )
        for code in codes
    )
