"""What `cmu` asks, and the answers as values: pages put together, read at one position of the server where possible."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

from msgspec import Struct

from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import (
    AccessInfo,
    AccessPage,
    ContainerContents,
    ContainerInfo,
    Containers,
    Contents,
    ErrorBody,
    LicenseCount,
    LicensePage,
    NetCluster,
    NetUsers,
    Params,
    Server,
    ServerInfo,
    ServerInfoRequest,
)
from protocol.terms import HandleKind

R = TypeVar("R", bound=Struct)
P = TypeVar("P", bound=LicensePage | AccessPage)

ATTEMPTS: Final = 3
"""How often the table is read to find it at rest."""

PAGE: Final = 1_000
"""Rows asked for at once: the most that a page may have."""

PAGES: Final = 2_000
"""Pages that are taken of one listing: two million rows, twice what a server is made for."""


class Asked(Protocol):
    """Whoever answers requests: the blocking client."""

    def call(self, params: Params[R], /) -> R:
        """Return the result of a request. Raises LicenseError."""
        ...


class Selection(Struct, frozen=True):
    """What the options of the command line choose; None chooses all."""

    container: str | None = None
    firm_code: int | None = None
    product_code: int | None = None
    relevant: bool = False


class ContainerListing(Struct, frozen=True):
    """The containers of a server."""

    server: Server
    position: int
    containers: tuple[ContainerInfo, ...]


class ContentsListing(Struct, frozen=True):
    """Containers with what is in them."""

    server: Server
    position: int
    contents: tuple[ContainerContents, ...]


class LicenseUse(Struct, frozen=True):
    """A license's counts and the accesses to it."""

    counts: LicenseCount
    accesses: tuple[AccessInfo, ...]


class NetworkListing(Struct, frozen=True):
    """Who holds what. `others` are the accesses that no listed license serves: those that allocate nothing.

    `consistent` is false if the server's table changed between the first page and the last, each time it was read;
    `position` is that of the last page.
    """

    server: Server
    position: int
    time: int
    consistent: bool
    licenses: tuple[LicenseUse, ...]
    others: tuple[AccessInfo, ...]


Listing = ContainerListing | ContentsListing | NetworkListing


class ServerState(Struct, frozen=True):
    """A server that a client here would ask, and what it answered: its state or why there is none.

    `source` is where its address came from.
    """

    address: str
    source: str
    info: ServerInfo | None
    error: ErrorBody | None


def containers(server: Asked, chosen: Selection) -> ContainerListing:
    """Return the containers. Raises LicenseError."""
    introduced = server.call(ServerInfoRequest()).server
    listed = server.call(Containers())
    found = tuple(one for one in listed.containers if chosen.container in (None, one.id))
    return ContainerListing(introduced, listed.position, found)


def contents(server: Asked, chosen: Selection) -> ContentsListing:
    """Return the contents of the containers. Raises LicenseError."""
    listed = containers(server, chosen)
    found = []
    for container in listed.containers:
        try:
            found.append(server.call(Contents(container=container.id)))
        except LicenseError as error:
            if error.number != ErrorNumber.BOX_NOT_FOUND:  # it is gone since it was listed
                raise
    return ContentsListing(listed.server, listed.position, tuple(found))


def network(server: Asked, chosen: Selection) -> NetworkListing:
    """Return who holds what. Raises LicenseError."""
    introduced = server.call(ServerInfoRequest()).server
    for _ in range(ATTEMPTS):
        counts = _pages(
            lambda cursor: server.call(
                NetCluster(
                    container=chosen.container,
                    firm_code=chosen.firm_code,
                    product_code=chosen.product_code,
                    cursor=cursor,
                    limit=PAGE,
                )
            )
        )
        users = _pages(
            lambda cursor: server.call(
                NetUsers(
                    container=chosen.container,
                    firm_code=chosen.firm_code,
                    product_code=chosen.product_code,
                    relevant=chosen.relevant,
                    cursor=cursor,
                    limit=PAGE,
                )
            )
        )
        consistent = len({page.position for page in counts} | {page.position for page in users}) == 1
        if consistent:
            break
    uses: dict[tuple[str, int, int], tuple[LicenseCount, list[AccessInfo]]] = {
        (count.container, count.firm_code, count.item): (count, []) for page in counts for count in page.licenses
    }
    others: list[AccessInfo] = []
    for access in (access for page in users for access in page.accesses):
        entry = (access.container, access.firm_code, access.item)
        served = uses[entry][1] if access.kind == HandleKind.ENTRY and entry in uses else others
        served.append(access)
    licenses = tuple(LicenseUse(count, tuple(accesses)) for count, accesses in uses.values())
    return NetworkListing(introduced, users[-1].position, users[-1].time, consistent, licenses, tuple(others))


def found_any(listing: Listing) -> bool:
    """Tell whether anything is in a listing."""
    match listing:
        case ContainerListing(containers=found) | ContentsListing(contents=found):
            return bool(found)
        case NetworkListing():
            return bool(listing.licenses or listing.others)


def servers(addresses: list[str], source: str, ask: Callable[[str], ServerInfo]) -> tuple[ServerState, ...]:
    """Return how each address answers, in their order; they are asked at the same time."""

    def state(address: str) -> ServerState:
        try:
            return ServerState(address, source, ask(address), None)
        except LicenseError as error:
            return ServerState(address, source, None, error.body)

    with ThreadPoolExecutor(max_workers=8) as threads:
        return tuple(threads.map(state, addresses))


def _pages(ask: Callable[[int], P]) -> list[P]:
    """Return all pages of a listing. Raises LicenseError, also where they do not come to an end."""
    pages: list[P] = []
    cursor = 0
    while len(pages) < PAGES:
        page = ask(cursor)
        pages.append(page)
        if page.next is None:
            return pages
        if page.next <= cursor:
            break
        cursor = page.next
    raise LicenseError.of(ErrorNumber.NETWORK_FAULT, "its listing does not come to an end")
