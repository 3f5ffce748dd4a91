"""What happens to allocations when containers come, go or change (sections 6 and 9, decision 6)."""

from __future__ import annotations

from cmserverd.core import changes as c
from cmserverd.core.fitting import can_join, unfit, visible, weight
from cmserverd.core.rules import Rule, end, free_license
from cmserverd.core.table import Table
from cmserverd.core.terms import Access, Allocation, License, Reference
from drivers.container import Container, ContainerId, ProductItem
from protocol.messages import EndCause
from protocol.terms import AccessMode, HandleKind


def started() -> Rule[None]:
    """Every driver has looked once."""
    yield c.Started()


def plug(table: Table, contents: Container) -> Rule[None]:
    """A container is here: for the first time, again, or with other contents.

    Accesses that the new contents do not serve any more are rebooked or ended before those take effect.
    """
    yield c.Plugged(contents)
    new = {
        (firm_item.firm_code, item.reference): item for firm_item in contents.firm_items for item in firm_item.products
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
    table: Table, container: ContainerId, new: dict[tuple[int, int], ProductItem], cause: EndCause
) -> Rule[None]:
    for counted in [x for x in table.licenses.values() if x.id.container == container]:
        item = new.get((counted.id.firm_code, counted.id.item))
        if item != counted.item:
            yield from _drain(table, counted, item, cause)
            yield c.Reprogrammed(counted.id, item)


def _drain(table: Table, counted: License, item: ProductItem | None, cause: EndCause) -> Rule[None]:
    """Book away what a license cannot serve once it has these options: the newest allocations go first.

    Whatever can be rebooked is, before anything is ended.
    """
    for ending in (False, True):
        for allocation in reversed(list(counted.allocations.values())):
            for held in list(allocation.accesses.values()):
                if not _still_served(counted, item, held, allocation):
                    if ending:
                        yield end(held, cause)
                    elif step := _elsewhere(table, held, allocation):
                        yield step


def _still_served(counted: License, item: ProductItem | None, held: Access, allocation: Allocation) -> bool:
    return (
        item is not None
        and item.product_code == counted.item.product_code
        and visible(item, held.session.local)
        and unfit(item, allocation.mode, held.want) is None
        and weight(item, allocation.mode) == allocation.weight
        and (counted.used <= item.quantity or allocation.weight == 0)
    )


def _elsewhere(table: Table, held: Access, allocation: Allocation) -> c.Moved | None:
    """Decide where else an access can be booked: on another share of its station, else where a unit is free."""
    product = allocation.license.product
    mode, want, local = allocation.mode, held.want, held.session.local
    if mode is AccessMode.STATION_SHARE:
        for share in product.holdings[allocation.station].shares:
            if share.license is not allocation.license and can_join(share.license, mode, want, local):
                return c.Moved(held.handle, held.session.id, share.license.id, share.id, share.weight)
    counted = free_license(product, mode, want, local, besides=allocation.license)
    if counted is None:
        return None
    return c.Moved(held.handle, held.session.id, counted.id, table.next_allocation, weight(counted.item, mode))
