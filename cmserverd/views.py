"""The table as messages: what listings and `info` show. Reads, never changes.

Pages of a moving table go by a cursor: the number of the last license shown, or the last handle looked at. Both only
ever grow, so a row is shown once, whatever happens between two pages (decision 24).

A client that is not `local` is shown no entry that does not exist for it: license quantity 0, local only (decision 10).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Final

from cmserverd.core.fitting import visible
from cmserverd.core.table import Table
from cmserverd.core.terms import ANYTHING, Access, Allocation, KnownContainer, Lent, License, Session, SessionState
from cmserverd.core.validity import invalid, valid_until
from drivers.container import EVERY_LICENSE, FirmItem, ProductItem, QuantityFlag
from protocol import messages as m
from protocol.errors import ErrorNumber
from protocol.listings import BORROWED, EntryState
from protocol.terms import AccessMode, Client, HandleKind, Station, shown_client

ROWS_LOOKED_AT: Final = 20_000
"""How many rows a page may pass over to find those that its filters want: some 5 ms. The next page goes on there."""

PAGE_BYTES: Final = 512 * 1024
"""About how many bytes a page may have, whatever clients call themselves: what clients read, they bound."""

_DENIALS: Final = (
    (QuantityFlag.DENY_USER_LIMIT, AccessMode.USER_LIMIT),
    (QuantityFlag.DENY_NO_USER_LIMIT, AccessMode.NO_USER_LIMIT),
    (QuantityFlag.DENY_EXCLUSIVE, AccessMode.EXCLUSIVE),
    (QuantityFlag.DENY_STATION_SHARE, AccessMode.STATION_SHARE),
)

_STATES: Final = {
    None: EntryState.VALID,
    ErrorNumber.ACTIVATION_UNDERRUN: EntryState.INACTIVE,
    ErrorNumber.EXPIRATION_OVERRUN: EntryState.EXPIRED,
    ErrorNumber.USAGE_PERIOD_OVERRUN: EntryState.USAGE_OVER,
    ErrorNumber.UNIT_COUNTER_ZERO: EntryState.EXHAUSTED,
    ErrorNumber.RUNTIME_TOO_OLD: EntryState.NEEDS_NEWER_SERVER,
}


_NOBODY: Final = Client("", "", 0)
"""Whose a loan is of which the container alone tells."""


def containers(table: Table, position: int) -> m.ContainerList:
    """List the containers in the order in which they are drawn on."""
    return m.ContainerList(position, tuple(map(_container, table.containers.values())))


def contents(container: KnownContainer, position: int, now: int, *, local: bool) -> m.ContainerContents:
    """Show one container's firm items and product items, and which are valid now."""
    firm_items = tuple(_firm_item(firm_item, now, local) for firm_item in container.contents.firm_items)
    return m.ContainerContents(position, _container(container), firm_items)


def handle_info(table: Table, held: Access, now: int) -> m.HandleInfo:
    """Show what a handle refers to."""
    target = held.target
    if isinstance(target, Allocation):
        counted = target.license
        return m.HandleInfo(
            handle=held.handle,
            kind=HandleKind.ENTRY,
            first_access=table.elapsed.was(held.first),
            last_access=table.elapsed.was(held.last),
            mode=target.mode,
            allocation=target.id,
            firm_code=counted.id.firm_code,
            container=_container(table.containers[counted.id.container]),
            entry=_entry(counted.item, now),
            maximum_life=held.want.maximum_life,
            cleanup_time=held.want.cleanup_time,
        )
    return m.HandleInfo(
        handle=held.handle,
        kind=target.kind,
        first_access=table.elapsed.was(held.first),
        last_access=table.elapsed.was(held.last),
        firm_code=target.firm_code,
        container=None if target.container is None else _container(table.containers[target.container]),
        maximum_life=held.want.maximum_life,
        cleanup_time=held.want.cleanup_time,
    )


def license_page(table: Table, request: m.NetCluster, position: int, now: int, *, local: bool) -> m.LicensePage:
    """Show the counts of the licenses that the filters want. The cursor is a license's number."""
    wanted = [
        counted
        for counted in table.licenses.values()
        if counted.number > request.cursor and _wants_license(request, counted) and visible(counted.item, local)
    ]
    page = wanted[: request.limit]
    more = len(wanted) > len(page)
    return m.LicensePage(
        position, now, tuple(_license(table, counted, now) for counted in page), page[-1].number if more else None
    )


def access_page(
    table: Table, request: m.NetUsers, position: int, now: int, *, local: bool, only: Session | None
) -> m.AccessPage:
    """Show the accesses and loans that the filters want, in the order of their numbers.

    With `only`, the accesses of that session.
    """
    rows: list[m.AccessInfo] = []
    size = 0
    last = request.cursor
    loans = [loan for loan in table.lent.values() if loan.number > request.cursor and only is None]
    all_of_them: Iterator[Access | Lent] = merge(_accesses(table, request, only), loans, key=_number)
    for one in islice(all_of_them, ROWS_LOOKED_AT):
        last = _number(one)
        if isinstance(one, Access):
            if (only is None or one.session is only) and _wants_access(request, one) and (local or _exists(one)):
                rows.append(_access(table, one))
                size += _size(one.session.client)
        else:
            counted = table.licenses.get(one.license)
            if _wants_loan(request, one, counted) and (local or (counted and visible(counted.item, local=False))):
                rows.append(_loan(one, counted, now))
                size += _size(one.client or _NOBODY)
        if len(rows) == request.limit or size > PAGE_BYTES:
            break
    more = next(all_of_them, None) is not None
    return m.AccessPage(position, now, tuple(rows), last if more else None)


def _accesses(table: Table, request: m.NetUsers, only: Session | None) -> Iterator[Access]:
    """Yield the accesses after the cursor, in their order; where few come into question, no others.

    Else a rare product would be looked for among all that a large site holds, page after page.
    """
    few = _few(table, request, only)
    if few is not None:
        found = list(islice(few, ROWS_LOOKED_AT + 1))
        if len(found) <= ROWS_LOOKED_AT:
            return iter(sorted((held for held in found if held.handle > request.cursor), key=_number))
    return table.accesses.after(request.cursor)


def _few(table: Table, request: m.NetUsers, only: Session | None) -> Iterator[Access] | None:
    """Yield the accesses that alone may be wanted, in any order; None if any may be."""
    if request.session is not None or only is not None:
        session = only if request.session is None else table.sessions.find(request.session)
        return iter(session.accesses.values() if session is not None else ())
    if request.allocation is None and request.product_code is None:
        return None
    return (
        held
        for counted in table.licenses.values()
        if _wants_license(request, counted)
        for allocation in _allocations(counted, request.allocation)
        for held in allocation.accesses.values()
    )


def _allocations(counted: License, named: int | None) -> Iterable[Allocation]:
    if named is None:
        return counted.allocations.values()
    found = counted.allocations.find(named)
    return () if found is None else (found,)


def _number(one: Access | Lent) -> int:
    """Return what a row goes by: loans are numbered among the handles."""
    return one.handle if isinstance(one, Access) else one.number


def _size(client: Client) -> int:
    """Return about how many bytes an access of a client takes in a page, rather too many than too few."""
    texts = 2 * (len(client.host) + len(client.user)) + len(client.application)
    return 600 + 4 * texts  # a character may take four bytes


def _container(container: KnownContainer) -> m.ContainerInfo:
    contents = container.contents
    return m.ContainerInfo(contents.id, contents.kind, contents.text, container.present, len(contents.firm_items))


def _firm_item(firm_item: FirmItem, now: int, local: bool) -> m.FirmItemInfo:
    entries = tuple(_entry(item, now) for item in firm_item.products if visible(item, local))
    return m.FirmItemInfo(firm_item.firm_code, firm_item.text, firm_item.update_counter, entries, firm_item.unusable)


def _state(item: ProductItem, now: int) -> str:
    return _STATES[invalid(item, now, ANYTHING)].value


def _entry(item: ProductItem, now: int) -> m.EntryInfo:
    runtime, borrowing = item.minimum_runtime, item.borrowing
    return m.EntryInfo(
        item=item.reference,
        product_code=item.product_code,
        text=item.text,
        quantity=item.quantity,
        denied=tuple(mode for flag, mode in _DENIALS if item.flags & flag),
        local_only=item.quantity == 0 or bool(item.flags & QuantityFlag.LOCAL_ONLY),
        feature_map=item.feature_map,
        unusable=item.unusable,
        activation=item.activation,
        expiration=item.expiration,
        usage=None if item.usage is None else item.usage.amount,
        usage_start=item.usage_start or None,
        maintenance=None if item.maintenance is None else (item.maintenance.start, item.maintenance.end),
        units=None if item.units is None else item.units.amount,
        units_left=None if item.units is None else max(item.units.amount - item.units_used, 0),
        linger=item.linger,
        minimum_runtime="" if runtime is None else f"{runtime.major}.{runtime.minor}",
        protected_data=item.protected_data,
        user_data=item.user_data,
        borrow_seconds=None if borrowing is None else borrowing.seconds,
        borrow_licenses=None if borrowing is None or borrowing.licenses == EVERY_LICENSE else borrowing.licenses,
        valid_until=valid_until(item),
        state=_state(item, now),
    )


def _license(table: Table, counted: License, now: int) -> m.LicenseCount:
    # What an unplugged container had free cannot be had just now; what is used stands, and so does what is borrowed of
    # a license whose quantity was lowered since.
    total = max(counted.item.quantity, counted.used) if counted.present else counted.used
    return m.LicenseCount(
        container=counted.id.container,
        firm_code=counted.id.firm_code,
        product_code=counted.item.product_code,
        item=counted.id.item,
        text=counted.item.text,
        feature_map=counted.item.feature_map,
        present=counted.present,
        quantity=counted.item.quantity,
        total=total,
        used=counted.used,
        free=total - counted.used,
        user_limit=counted.user_limit,
        no_user_limit=counted.no_user_limit,
        exclusive=counted.exclusive,
        station_share=counted.station_share,
        lingering=len(counted.lingering),
        lingering_until=table.elapsed.comes(counted.lingering[0][0]) if counted.lingering else None,
        valid_until=valid_until(counted.item),
        state=_state(counted.item, now),
        borrowed=counted.lent,
    )


def _access(table: Table, held: Access) -> m.AccessInfo:
    session = held.session
    client = session.client
    target = held.target
    life = held.want.maximum_life
    if isinstance(target, Allocation):
        entry = target.license
        allocation, kind, mode = target.id, HandleKind.ENTRY, str(target.mode)
        container, firm_code = str(entry.id.container), entry.id.firm_code
        product_code, item = entry.item.product_code, entry.id.item
        end = None if held.want.force else valid_until(entry.item)
    else:
        end = None
        allocation, kind, mode = 0, target.kind, ""
        container, firm_code = str(target.container or ""), target.firm_code
        product_code = item = 0
    return m.AccessInfo(
        handle=held.handle,
        allocation=allocation,
        kind=kind,
        mode=mode,
        container=container,
        firm_code=firm_code,
        product_code=product_code,
        item=item,
        client=shown_client(session.address, client.host, client.user),
        address=session.address,
        host=client.host,
        user=client.user,
        pid=client.pid,
        application=client.application,
        session=session.id,
        station=_station(session.station),
        first_access=table.elapsed.was(held.first),
        last_access=table.elapsed.was(held.last),
        attached=session.state is SessionState.ATTACHED,
        valid_until=end,
        maximum_life=life,
        cleanup_time=held.want.cleanup_time,
        life_until=table.elapsed.comes(held.first + life) if life else None,
    )


def _loan(loan: Lent, counted: License | None, now: int) -> m.AccessInfo:
    client = loan.client or _NOBODY
    first = min(loan.first, now)  # license time may have been set back since
    return m.AccessInfo(
        handle=loan.number,
        allocation=0,
        kind=HandleKind.ENTRY,
        mode=BORROWED,
        container=loan.license.container,
        firm_code=loan.license.firm_code,
        product_code=0 if counted is None else counted.item.product_code,
        item=loan.license.item,
        client=shown_client(loan.address, client.host, client.user) if loan.client else _unknown(loan),
        address=loan.address,
        host=client.host,
        user=client.user,
        pid=client.pid,
        application=client.application,
        session=0,
        station=_station(loan.station) if loan.station else "",
        first_access=first,
        last_access=first,
        attached=True,
        valid_until=loan.end,
        borrowed_until=loan.end,
    )


def _unknown(loan: Lent) -> str:
    return f"unknown (loan {loan.id[:4].hex()})"


def _station(station: Station) -> str:
    return f"{station.machine}/{station.seat}" if station.seat else station.machine


def _wants_license(request: m.NetCluster | m.NetUsers, counted: License) -> bool:
    return (
        request.container in (None, counted.id.container)
        and request.firm_code in (None, counted.id.firm_code)
        and request.product_code in (None, counted.item.product_code)
    )


def _exists(held: Access) -> bool:
    """Whether what an access is booked on exists for clients that are not local."""
    return not isinstance(held.target, Allocation) or visible(held.target.license.item, local=False)


def _wants_loan(request: m.NetUsers, loan: Lent, counted: License | None) -> bool:
    return (
        request.session is None
        and request.allocation is None
        and request.container in (None, loan.license.container)
        and request.firm_code in (None, loan.license.firm_code)
        and (
            request.product_code is None or (counted is not None and request.product_code == counted.item.product_code)
        )
    )


def _wants_access(request: m.NetUsers, held: Access) -> bool:
    target = held.target
    if request.session not in (None, held.session.id):
        return False
    if isinstance(target, Allocation):
        counted = target.license
        return (
            request.allocation in (None, target.id)
            and request.container in (None, counted.id.container)
            and request.firm_code in (None, counted.id.firm_code)
            and request.product_code in (None, counted.item.product_code)
        )
    return (
        not request.relevant
        and request.allocation is None
        and request.product_code is None
        and request.container in (None, target.container)
        and request.firm_code in (None, target.firm_code)
    )
