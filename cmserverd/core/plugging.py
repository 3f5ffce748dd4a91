"""What happens to allocations when containers come, go or change (sections 6 and 9, decision 6)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice

from cmserverd.core import changes as c
from cmserverd.core.fitting import can_join, has_room, unfit, unusable, visible
from cmserverd.core.rules import Rule, end
from cmserverd.core.table import Table
from cmserverd.core.terms import STATION_SHARE, Access, Allocation, License, LicenseId, Product, Reference, Want, weight
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


def unplug(table: Table, container: ContainerId) -> Rule[None]:
    """A container was unplugged just now: what is allocated stands for a grace."""
    if table.containers[container].present:
        yield c.Unplugged(container)


def vacate(table: Table, container: ContainerId, most: int | None) -> Rule[bool]:
    """A container is gone: some of its accesses are rebooked on other fitting licenses, or ended.

    That is `most` allocations at a time, and as many references. All that a container has, which may be a hundred
    thousand, would take a second in which nobody else is served. Return whether there are more.
    """
    yield from unplug(table, container)
    leaving = dict.fromkeys(counted for counted in table.licenses.values() if counted.id.container == container)
    refuges = Refuges(table, leaving)
    allocations = chain.from_iterable(counted.allocations.values() for counted in leaving)
    for allocation in list(islice(allocations, most)):
        for held in list(allocation.accesses.values()):
            yield refuges.move(held) or end(held, EndCause.CONTAINER_GONE)
    references = table.containers[container].references
    for held in list(islice(references.values(), most)):
        yield end(held, EndCause.CONTAINER_GONE)
    return bool(references) or any(counted.allocations for counted in leaving)


def remove(table: Table, container: ContainerId) -> Rule[None]:
    """A container is gone, and with it what is left of its accesses and all its licenses."""
    yield from vacate(table, container, None)
    for counted in [counted for counted in table.licenses.values() if counted.id.container == container]:
        yield c.Reprogrammed(counted.id, None)
    yield c.Removed(container)


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
    leaving: dict[License, None] = {}
    for counted in changed:
        if _serves_all(counted, new.get(counted.id)):
            yield c.Reprogrammed(counted.id, new.get(counted.id))
        else:
            leaving[counted] = None
    refuges = Refuges(table, leaving)
    # Those that go come last: what stays has room for their accesses once its own turn is over.
    going = [counted for counted in leaving if _goes(counted, new.get(counted.id))]
    for counted in [counted for counted in leaving if not _goes(counted, new.get(counted.id))]:
        yield from _drain(counted, new.get(counted.id), refuges, cause)
        yield c.Reprogrammed(counted.id, new.get(counted.id))
        refuges.open(counted)
    for counted in going:
        yield from _drain(counted, new.get(counted.id), refuges, cause)
    for counted in going:
        yield c.Reprogrammed(counted.id, new.get(counted.id))


def _goes(counted: License, item: ProductItem | None) -> bool:
    return item is None or item.product_code != counted.item.product_code


def _serves_all(counted: License, item: ProductItem | None) -> bool:
    allocations = counted.allocations.values()
    return _room_lacks(counted, item) <= 0 and all(
        _serves(counted, item, held, allocation) for allocation in allocations for held in allocation.accesses.values()
    )


def _drain(counted: License, item: ProductItem | None, refuges: Refuges, cause: EndCause) -> Rule[None]:
    """Book away from a license what it cannot serve once it has these options.

    First goes what does not fit, then, the newest allocations first, what has no room. An allocation that can move as a
    whole does so before another one has to end.
    """
    for allocation in list(counted.allocations.values()):
        for held in list(allocation.accesses.values()):
            if not _serves(counted, item, held, allocation):
                yield refuges.move(held) or end(held, cause)
    if item is None:
        return
    lacking = _room_lacks(counted, item)
    for allocation in _weighty(counted, item):
        # A share moves as a whole: a part of it frees no unit. It takes one unit elsewhere at most, and those of its
        # accesses that the station's other shares satisfy go there (law 2).
        accesses = list(allocation.accesses.values())
        if lacking > 0 and (refuge := refuges.find(allocation, accesses)):
            for held in accesses:
                yield c.Moved(held.handle, held.session.id, *(refuges.share(allocation, [held]) or refuge))
            lacking -= 1
    for allocation in _weighty(counted, item)[: max(lacking, 0)]:
        for held in list(allocation.accesses.values()):
            yield refuges.move(held) or end(held, cause)


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


class Refuges:
    """Finds where else accesses can be booked: not on licenses that others have to leave.

    While nothing but rebooking happens, a license that could not take an access cannot take a later one that asks for
    the same either; so each search goes on where the last of its kind ended.
    """

    def __init__(self, table: Table, leaving: dict[License, None]) -> None:
        self._table = table
        self._leaving = leaving
        self._passed: dict[tuple[Product, AccessMode, Want, bool], int] = {}

    def open(self, counted: License) -> None:
        """A license has its new options, and may take accesses again."""
        del self._leaving[counted]
        self._passed.clear()

    def move(self, held: Access) -> c.Moved | None:
        """Decide where else an access can be booked."""
        assert isinstance(held.target, Allocation)
        refuge = self.find(held.target, [held])
        return None if refuge is None else c.Moved(held.handle, held.session.id, *refuge)

    def find(self, allocation: Allocation, accesses: list[Access]) -> tuple[LicenseId, int] | None:
        """Decide on which allocation these accesses of an allocation can be booked together.

        That is another share of their station, else a new allocation where a unit is free.
        """
        if share := self.share(allocation, accesses):
            return share
        free = self._free(allocation.license.product, allocation.mode, accesses)
        return None if free is None else (free.id, self._table.next_allocation)

    def share(self, allocation: Allocation, accesses: list[Access]) -> tuple[LicenseId, int] | None:
        """Decide which other share of their station these accesses can join together."""
        mode = allocation.mode
        if mode is STATION_SHARE:
            for share in allocation.license.product.holdings[allocation.station].shares:
                if share.license not in self._leaving and all(
                    can_join(share.license, mode, held.want, held.session.local) for held in accesses
                ):
                    return share.license.id, share.id
        return None

    def _free(self, product: Product, mode: AccessMode, accesses: list[Access]) -> License | None:
        kinds = {(held.want, held.session.local) for held in accesses}
        alike = (product, mode, *next(iter(kinds))) if len(kinds) == 1 else None
        start = self._passed.get(alike, 0) if alike else 0
        for place in range(start, len(product.licenses)):
            counted = product.licenses[place]
            if (
                has_room(counted, mode)
                and counted not in self._leaving
                and all(unusable(counted, mode, want, local) is None for want, local in kinds)
            ):
                if alike:
                    self._passed[alike] = place
                return counted
        if alike:
            self._passed[alike] = len(product.licenses)
        return None
