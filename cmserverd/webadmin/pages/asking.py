"""Lists put together from the daemon's pages, each within a bound: a table may have a million rows, a page has some."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from cmserverd.webadmin.pages.choosing import Chosen
from cmserverd.webadmin.sharing import Ask
from protocol.deallocation import MOST_SEEN
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import (
    AccessInfo,
    AccessPage,
    ContainerContents,
    Containers,
    Contents,
    LicenseCount,
    LicensePage,
    NetCluster,
    NetUsers,
)
from protocol.terms import AccessMode

ROWS: Final = 200
"""Rows on one page of a table."""

_QUESTIONS: Final = 8
"""How often the daemon is asked for the rows of one page: each time it passes over up to 20,000 that do not fit."""

_LICENSES: Final = 5_000
"""How many licenses are looked at where all are wanted, as on the dashboard."""

_CONTAINERS: Final = 50
"""Of how many containers the contents are looked at where all are wanted."""


class Part(Struct, frozen=True):
    """Some rows of the list of accesses; it goes on at `next`, None: it does not."""

    position: int
    time: int
    accesses: tuple[AccessInfo, ...]
    next: int | None


async def accesses(ask: Ask, chosen: Chosen) -> Part:
    """Return one page of accesses. Raises LicenseError."""
    rows: list[AccessInfo] = []
    cursor = chosen.cursor
    for _ in range(_QUESTIONS):
        page: AccessPage = await ask(
            NetUsers(chosen.container, chosen.firm_code, chosen.product_code, chosen.relevant, cursor, ROWS - len(rows))
        )
        rows += page.accesses
        if page.next is None or len(rows) >= ROWS:
            break
        cursor = page.next
    return Part(page.position, page.time, tuple(rows), page.next)


async def licenses(ask: Ask, chosen: Chosen) -> LicensePage:
    """Return one page of licenses. Raises LicenseError."""
    return await ask(
        NetCluster(chosen.container, chosen.firm_code, chosen.product_code, chosen.cursor, ROWS),
    )


async def all_licenses(ask: Ask) -> tuple[tuple[LicenseCount, ...], bool]:
    """Return the licenses, and whether these are all. Raises LicenseError."""
    rows: list[LicenseCount] = []
    cursor: int | None = 0
    while cursor is not None and len(rows) < _LICENSES:
        page: LicensePage = await ask(NetCluster(cursor=cursor, limit=1_000))
        rows += page.licenses
        cursor = page.next
    return tuple(rows), cursor is None


async def all_contents(ask: Ask) -> tuple[ContainerContents, ...]:
    """Return what is in the containers, of the first so many. Raises LicenseError."""
    found = []
    for container in (await ask(Containers())).containers[:_CONTAINERS]:
        try:
            found.append(await ask(Contents(container.id)))
        except LicenseError as error:
            if error.number != ErrorNumber.BOX_NOT_FOUND:  # it is gone since it was listed
                raise
    return tuple(found)


async def access(ask: Ask, handle: int) -> AccessInfo | None:
    """Return the access with a handle, None if there is none. Raises LicenseError."""
    page: AccessPage = await ask(NetUsers(cursor=handle - 1, limit=1))
    return page.accesses[0] if page.accesses and page.accesses[0].handle == handle else None


async def instances(ask: Ask, named: AccessInfo) -> tuple[AccessInfo, ...]:
    """Return all accesses of an access's allocation, at most as many as can be removed at once. Raises LicenseError."""
    if named.mode != AccessMode.STATION_SHARE:
        return (named,)
    rows: list[AccessInfo] = []
    cursor: int | None = 0
    while cursor is not None and len(rows) < MOST_SEEN:
        page: AccessPage = await ask(
            NetUsers(named.container, named.firm_code, named.product_code, cursor=cursor, limit=1_000)
        )
        rows += (row for row in page.accesses if row.allocation == named.allocation)
        cursor = page.next
    return tuple(rows[:MOST_SEEN])
