"""Lists put together from the daemon's pages, each within a bound: a table may have a million rows, a page has some."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

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
    return await contents(ask, [one.id for one in (await ask(Containers())).containers])


async def contents(ask: Ask, containers: Iterable[str]) -> tuple[ContainerContents, ...]:
    """Return what is in these containers, of the first so many; what is not there is left out. Raises LicenseError."""
    found = []
    for container in islice(containers, _CONTAINERS):
        try:
            found.append(await ask(Contents(container)))
        except LicenseError as error:
            if error.number != ErrorNumber.BOX_NOT_FOUND:  # it is gone since it was listed
                raise
    return tuple(found)


def licensors(contents: Iterable[ContainerContents]) -> dict[int, str]:
    """Return what licensors are called, by firm code: as the first firm item says that is believed and has a text."""
    names: dict[int, str] = {}
    for container in contents:
        for firm_item in container.firm_items:
            if firm_item.text and not firm_item.unusable:
                names.setdefault(firm_item.firm_code, firm_item.text)
    return names


async def access(ask: Ask, handle: int) -> AccessInfo | None:
    """Return the access with a handle, None if there is none. Raises LicenseError."""
    page: AccessPage = await ask(NetUsers(cursor=handle - 1, limit=1))
    return page.accesses[0] if page.accesses and page.accesses[0].handle == handle else None


async def instances(ask: Ask, named: AccessInfo) -> tuple[AccessInfo, ...]:
    """Return all accesses of an access's allocation, at most as many as can be removed at once. Raises LicenseError."""
    if named.mode != AccessMode.STATION_SHARE:
        return (named,)
    return (await _all(ask, NetUsers(allocation=named.allocation, limit=1_000)))[:MOST_SEEN]


async def of_session(ask: Ask, session: int) -> tuple[AccessInfo, ...]:
    """Return all accesses of a client, one more at most than can be removed at once. Raises LicenseError."""
    return (await _all(ask, NetUsers(session=session, limit=1_000)))[: MOST_SEEN + 1]


async def _all(ask: Ask, question: NetUsers) -> tuple[AccessInfo, ...]:
    """Return the accesses that a question names, some more at most than can be removed at once. Raises LicenseError."""
    rows: list[AccessInfo] = []
    cursor: int | None = 0
    while cursor is not None and len(rows) <= MOST_SEEN:
        page: AccessPage = await ask(replace(question, cursor=cursor))
        rows += page.accesses
        cursor = page.next
    return tuple(rows)
