"""What happens to allocations when containers come, go or change (sections 6 and 9, decision 6)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cmserverd.core import changes as c
from cmserverd.core.fitting import can_join, has_room, unfit, unusable, visible
from cmserverd.core.rules import Rule, end
from cmserverd.core.table import Table
from cmserverd.core.terms import STATION_SHARE, Access, Allocation, License, LicenseId, Reference, weight
from drivers.container import Container, ContainerId, ProductItem
from protocol.messages import EndCause
from protocol.terms import HandleKind


def started() -> Rule[None]:
    """Every driver has looked once."""
    yield c.Started()


def plug(table: Table, contents: Container) -> Rule[None]:
    """A container is here: for the first time, again, or with other contents.

    Accesses that the new contents do not serve any more are rebooked or ended before those take effect.
    """
    yield c.Plugged(contents)
    new = {
        LicenseId(contents.id, firm_item.firm_code, item.reference): item
        for firm_item in contents.firm_items
        for item in firm_item.products
    }
    yield from _reprogram(table, contents.id, new, EndCause.REPROGRAMMED)
    firm_codes = {firm_item.firm_code for firm_item in contents.firm_items}
    for held in list(table.containers[contents.id].references.values()):
        reference = held.target
        assert isinstance(reference, Reference)
        if reference.kind is HandleKind.FIRM_ITEM and reference.firm_code not in firm_codes:
            yield end(held, EndCause.REPROGRAMMED)


def miss(table: Table, container: ContainerId) -> Rule[None]:
    """A container was unplugged just now: what is allocated stands for a grace."""
    if table.containers[container].present:
        yield c.Missing(container)


def unplug(table: Table, container: ContainerId) -> Rule[None]:
    """A container is gone: its accesses are rebooked on other fitting licenses, or ended."""
    yield from _reprogram(table, container, {}, EndCause.CONTAINER_GONE)
    for held in list(table.containers[container].references.values()):
        yield end(held, EndCause.CONTAINER_GONE)
    yield c.Unplugged(container)


def _reprogram(
    table: Table, container: ContainerId, new: Mapping[LicenseId, ProductItem], cause: EndCause
) -> Rule[None]:
    """Give a container's licenses their new options, first those that nobody has to leave for.

    What somebody has to leave is no refuge for others, until it has its new options.
    """
    changed = [
        counted
        for counted in table.licenses.values()
        if counted.id.container == container and new.get(counted.id) != counted.item
    ]
    harmless = [counted for counted in changed if _serves_all(counted, new.get(counted.id))]
    # Those that go come last: what stays has room for their accesses once its own turn is over.
    leaving = sorted(
        (counted for counted in changed if counted not in harmless),
        key=lambda counted: _goes(counted, new.get(counted.id)),
    )
    for counted in harmless:
        yield c.Reprogrammed(counted.id, new.get(counted.id))
    while leaving:
        yield from _drain(table, leaving, new.get(leaving[0].id), cause)
        yield c.Reprogrammed(leaving[0].id, new.get(leaving[0].id))
        del leaving[0]


def _goes(counted: License, item: ProductItem | None) -> bool:
    return item is None or item.product_code != counted.item.product_code


def _serves_all(counted: License, item: ProductItem | None) -> bool:
    allocations = counted.allocations.values()
    return _room_lacks(counted, item) <= 0 and all(
        _serves(counted, item, held, allocation) for allocation in allocations for held in allocation.accesses.values()
    )


def _drain(table: Table, leaving: list[License], item: ProductItem | None, cause: EndCause) -> Rule[None]:
    """Book away from the first of the leaving licenses what it cannot serve once it has these options.

    First goes what does not fit, then, the newest allocations first, what has no room. An allocation that can move as a
    whole does so before another one has to end.
    """
    counted = leaving[0]
    for allocation in list(counted.allocations.values()):
        for held in list(allocation.accesses.values()):
            if not _serves(counted, item, held, allocation):
                yield _elsewhere(table, held, leaving) or end(held, cause)
    if item is None:
        return
    lacking = _room_lacks(counted, item)
    for allocation in _weighty(counted, item):
        # A share moves as a whole: a part of it frees no unit.
        accesses = list(allocation.accesses.values())
        if lacking > 0 and (refuge := _refuge(table, allocation, accesses, leaving)):
            for held in accesses:
                yield c.Moved(held.handle, held.session.id, *refuge)
            lacking -= 1
    for allocation in _weighty(counted, item)[: max(lacking, 0)]:
        for held in list(allocation.accesses.values()):
            yield _elsewhere(table, held, leaving) or end(held, cause)


def _weighty(counted: License, item: ProductItem) -> list[Allocation]:
    """Return the allocations that take room under these options, the newest first."""
    return [allocation for allocation in reversed(list(counted.allocations.values())) if weight(item, allocation.mode)]


def _serves(counted: License, item: ProductItem | None, held: Access, allocation: Allocation) -> bool:
    """Whether a license with these options serves an access, if there is room."""
    return (
        item is not None
        and not _goes(counted, item)
        and visible(item, held.session.local)
        and unfit(item, allocation.mode, held.want) is None
    )


def _room_lacks(counted: License, item: ProductItem | None) -> int:
    """Return how many units too few a license with these options would have for its allocations."""
    if item is None:
        return len(counted.allocations)
    return sum(weight(item, allocation.mode) for allocation in counted.allocations.values()) - item.quantity


def _elsewhere(table: Table, held: Access, leaving: Collection[License]) -> c.Moved | None:
    """Decide where else an access can be booked: on another share of its station, else where a unit is free."""
    allocation = held.target
    assert isinstance(allocation, Allocation)
    refuge = _refuge(table, allocation, [held], leaving)
    return None if refuge is None else c.Moved(held.handle, held.session.id, *refuge)


def _refuge(
    table: Table, allocation: Allocation, accesses: list[Access], leaving: Collection[License]
) -> tuple[LicenseId, int] | None:
    """Decide on which allocation these accesses of an allocation can be booked together, which may be a new one."""
    product, mode = allocation.license.product, allocation.mode
    if mode is STATION_SHARE:
        for share in product.holdings[allocation.station].shares:
            if share.license not in leaving and all(
                can_join(share.license, mode, held.want, held.session.local) for held in accesses
            ):
                return share.license.id, share.id
    for counted in product.licenses:
        if (
            counted not in leaving
            and has_room(counted, mode)
            and all(unusable(counted, mode, held.want, held.session.local) is None for held in accesses)
        ):
            return counted.id, table.next_allocation
    return None
