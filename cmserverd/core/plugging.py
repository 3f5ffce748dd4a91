"""What happens to allocations when containers come, go or change (sections 6 and 9, decision 6)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain, islice

from cmserverd.core import changes as c
from cmserverd.core.fitting import can_join, has_room, unfit, unusable, visible
from cmserverd.core.ledger import adopted, reconcile
from cmserverd.core.rules import Rule, end
from cmserverd.core.table import Table
from cmserverd.core.terms import STATION_SHARE, Access, Allocation, License, LicenseId, Product, Reference, Want
from cmserverd.core.validity import barred
from drivers.container import Container, ContainerId, Loan, ProductItem
from protocol.messages import EndCause
from protocol.terms import AccessMode, HandleKind

Unknown = dict[LicenseId, list[Loan]]
"""Loans in the ledger of the container that is plugged in, which are not counted yet."""


def started() -> Rule[None]:
    """Every driver has looked once."""
    yield c.Started()


def restart() -> Rule[None]:
    """The server begins anew with the table it had: all are away, clients and containers, and none is missed yet."""
    yield c.Restarted()


def stop() -> Rule[None]:
    """The server stops; what stands is for its next start."""
    yield c.Stopped()


def witness(container: ContainerId, message: bytes, signature: bytes) -> Rule[None]:
    """A container vouches for what was kept of the history by then."""
    yield c.Witnessed(container, message, signature)


def plug(
    table: Table, contents: Container, now: int, loans: Iterable[Loan] = (), on_the_way: Collection[bytes] = ()
) -> Rule[None]:
    """A container is here: for the first time, again, or with other contents, and with these loans in its ledger.

    Accesses that the new contents do not serve any more, or that have no room beside the loans, are rebooked or ended
    before those take effect. `on_the_way` are the ids of the loans that are on their way into it, and count already.
    """
    yield c.Plugged(contents)
    unknown = yield from reconcile(table, contents.id, loans, on_the_way, now)
    new = {
        LicenseId(contents.id, firm_item.firm_code, item.reference): item
        for firm_item in contents.firm_items
        for item in firm_item.products
    }
    yield from _reprogram(table, contents.id, new, unknown, now)
    for license_id in list(unknown):
        yield from _adopt(table, license_id, unknown, now)
    firm_codes = {firm_item.firm_code for firm_item in contents.firm_items if not firm_item.unusable}
    for held in list(table.containers[contents.id].references.values()):
        reference = held.target
        assert isinstance(reference, Reference)
        if reference.kind is HandleKind.FIRM_ITEM and reference.firm_code not in firm_codes:
            yield end(held, EndCause.REPROGRAMMED)


def unplug(table: Table, container: ContainerId) -> Rule[None]:
    """A container was unplugged just now: what is allocated stands for a grace."""
    if table.containers[container].present:
        yield c.Unplugged(container)


def consumed(table: Table, license_id: LicenseId, units_used: int, usage_start: int) -> Rule[None]:
    """A container has counted a use of a license; nobody has to leave for that, whatever is left."""
    counted = table.licenses.get(license_id)
    if counted is not None and (counted.item.units_used, counted.item.usage_start) != (units_used, usage_start):
        yield c.Consumed(license_id, units_used, usage_start)


def vacate(table: Table, container: ContainerId, most: int | None, now: int) -> Rule[bool]:
    """A container is gone: some of its accesses are rebooked on other fitting licenses, or ended.

    That is `most` allocations at a time, and as many references. All that a container has, which may be a hundred
    thousand, would take a second in which nobody else is served. Return whether there are more.
    """
    yield from unplug(table, container)
    leaving = dict.fromkeys(counted for counted in table.licenses.values() if counted.id.container == container)
    refuges = Refuges(table, leaving, now)
    allocations = chain.from_iterable(counted.allocations.values() for counted in leaving)
    for allocation in list(islice(allocations, most)):
        if allocation.until:
            yield c.Lapsed(allocation.license.id, allocation.id)
        for held in list(allocation.accesses.values()):
            yield refuges.move(held) or end(held, EndCause.CONTAINER_GONE)
    references = table.containers[container].references
    for held in list(islice(references.values(), most)):
        yield end(held, EndCause.CONTAINER_GONE)
    return bool(references) or any(counted.allocations for counted in leaving)


def remove(table: Table, container: ContainerId, now: int) -> Rule[None]:
    """A container is gone, and with it what is left of its accesses and all its licenses."""
    yield from vacate(table, container, None, now)
    for counted in [counted for counted in table.licenses.values() if counted.id.container == container]:
        yield c.Reprogrammed(counted.id, None)
    yield c.Removed(container)


def _reprogram(
    table: Table, container: ContainerId, new: Mapping[LicenseId, ProductItem], unknown: Unknown, now: int
) -> Rule[None]:
    """Give a container's licenses their new options and loans, first those that nobody has to leave for.

    What somebody has to leave is no refuge for others, until it has its new options.
    """
    changed = [
        counted
        for counted in table.licenses.values()
        if counted.id.container == container and (new.get(counted.id) != counted.item or counted.id in unknown)
    ]
    leaving: dict[License, None] = {}
    for counted in changed:
        if _serves_all(table, counted, new.get(counted.id), _coming(counted, unknown), now):
            if _goes(counted, new.get(counted.id)):
                for allocation in list(counted.allocations.values()):
                    yield c.Lapsed(counted.id, allocation.id)
            yield from _alter(table, counted, new.get(counted.id), unknown, now)
        else:
            leaving[counted] = None
    refuges = Refuges(table, leaving, now)
    # Those that go come last: what stays has room for their accesses once its own turn is over.
    going = [counted for counted in leaving if _goes(counted, new.get(counted.id))]
    for counted in [counted for counted in leaving if not _goes(counted, new.get(counted.id))]:
        yield from _drain(counted, new.get(counted.id), _coming(counted, unknown), refuges)
        yield from _alter(table, counted, new.get(counted.id), unknown, now)
        refuges.open(counted)
    for counted in going:
        yield from _drain(counted, new.get(counted.id), 0, refuges)
    for counted in going:
        yield from _alter(table, counted, new.get(counted.id), unknown, now)


def _alter(table: Table, counted: License, item: ProductItem | None, unknown: Unknown, now: int) -> Rule[None]:
    """Give a license its new options and loans: nobody stands in the way any more."""
    if item != counted.item:
        yield c.Reprogrammed(counted.id, item)
    yield from _adopt(table, counted.id, unknown, now)


def _adopt(table: Table, license_id: LicenseId, unknown: Unknown, now: int) -> Rule[None]:
    for loan in unknown.pop(license_id, ()):
        yield adopted(table, license_id, loan, now)


def _coming(counted: License, unknown: Unknown) -> int:
    """Return how many licenses more are lent than the table knows of."""
    return sum(loan.quantity for loan in unknown.get(counted.id, ()))


def _goes(counted: License, item: ProductItem | None) -> bool:
    return item is None or item.product_code != counted.item.product_code


def _serves_all(table: Table, counted: License, item: ProductItem | None, coming: int, now: int) -> bool:
    allocations = counted.allocations.values()
    if item is None or _goes(counted, item):
        return all(allocation.until for allocation in allocations)  # what lingers is nobody's who would have to leave
    return _room_lacks(table, counted, item, coming) <= 0 and (
        item == counted.item
        or all(
            _serves(item, held, allocation, now) for allocation in allocations for held in allocation.accesses.values()
        )
    )


def _drain(counted: License, item: ProductItem | None, coming: int, refuges: Refuges) -> Rule[None]:
    """Book away from a license what it cannot serve once it has these options, and so many loans more.

    First goes what does not fit, then what has no room.
    """
    if item == counted.item:
        yield from make_room(counted, item, coming, refuges, EndCause.LENT)
        return
    cause = EndCause.REPROGRAMMED
    gone = item is None or _goes(counted, item)
    for allocation in list(counted.allocations.values()):
        if gone and allocation.until:
            yield c.Lapsed(counted.id, allocation.id)
        for held in list(allocation.accesses.values()):
            if gone or item is None or not _serves(item, held, allocation, refuges.now):
                yield refuges.move(held) or end(held, cause)
    if item is not None:
        yield from make_room(counted, item, coming, refuges, cause)


def make_room(counted: License, item: ProductItem, coming: int, refuges: Refuges, cause: EndCause) -> Rule[None]:
    """Book away from a license what has no room once it has these options, and so many loans more.

    First goes what lingers, then the newest allocations. One that can move as a whole does so before another one has to
    end.
    """
    table = refuges.table
    lacking = _room_lacks(table, counted, item, coming)
    for _, _, allocation in counted.lingering[: max(lacking, 0)]:
        yield c.Lapsed(counted.id, allocation.id)
        lacking -= 1
    for allocation in _weighty(table, counted, item):
        # A share moves as a whole: a part of it frees no unit. It takes one unit elsewhere at most, and those of its
        # accesses that the station's other shares satisfy go there (law 2).
        accesses = list(allocation.accesses.values())
        if lacking > 0 and (refuge := refuges.find(allocation, accesses)):
            for held in accesses:
                yield c.Moved(held.handle, held.session.id, *(refuges.share(allocation, [held]) or refuge))
            lacking -= 1
    for allocation in _weighty(table, counted, item)[: max(lacking, 0)]:
        for held in list(allocation.accesses.values()):
            yield refuges.move(held) or end(held, cause)


def _weighty(table: Table, counted: License, item: ProductItem) -> list[Allocation]:
    """Return the held allocations that take room under these options, the newest first."""
    return [
        allocation
        for allocation in reversed(list(counted.allocations.values()))
        if table.weight(allocation, item) and not allocation.until
    ]


def _serves(item: ProductItem, held: Access, allocation: Allocation, now: int) -> bool:
    """Whether a license with these options goes on serving an access, if there is room.

    That units are used up ends no access, and if its time is over `passing` ends it.
    """
    return (
        visible(item, held.session.local)
        and unfit(item, allocation.mode, held.want) is None
        and barred(item, now, held.want) is None
    )


def _room_lacks(table: Table, counted: License, item: ProductItem, coming: int) -> int:
    """Return how many units too few a license with these options, and more loans, would have for its allocations.

    More may be lent than there are: a licensor's update may lower the quantity.
    """
    taken = sum(table.weight(allocation, item) for allocation in counted.allocations.values())
    return taken - max(item.quantity - counted.lent - coming, 0)


class Refuges:
    """Finds where else accesses can be booked: not on licenses that others have to leave.

    While nothing but rebooking happens, a license that could not take an access cannot take a later one that asks for
    the same either; so each search goes on where the last of its kind ended.
    """

    def __init__(self, table: Table, leaving: dict[License, None], now: int) -> None:
        self.now = now
        self.table = table
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

        That is another share of their station, else what lingers for it, else a new allocation where a unit is free.
        """
        if share := self.share(allocation, accesses) or self._left(allocation, accesses):
            return share
        free = self._free(allocation, accesses)
        return None if free is None else (free.id, self.table.next_allocation)

    def share(self, allocation: Allocation, accesses: list[Access]) -> tuple[LicenseId, int] | None:
        """Decide which other share of their station these accesses can join together."""
        mode = allocation.mode
        if mode is STATION_SHARE:
            for share in allocation.license.product.holdings[allocation.station].shares:
                if (
                    share.license not in self._leaving
                    and not self.table.taken_along(share)
                    and all(can_join(share.license, mode, held.want, held.session.local, self.now) for held in accesses)
                ):
                    return share.license.id, share.id
        return None

    def _left(self, allocation: Allocation, accesses: list[Access]) -> tuple[LicenseId, int] | None:
        """Decide which allocation that lingers for their station these accesses can take up together."""
        for left in reversed(allocation.license.product.holdings[allocation.station].lingering or ()):
            if (
                left.mode is allocation.mode
                and left.license not in self._leaving
                and all(can_join(left.license, left.mode, held.want, held.session.local, self.now) for held in accesses)
            ):
                return left.license.id, left.id
        return None

    def _free(self, allocation: Allocation, accesses: list[Access]) -> License | None:
        product, mode = allocation.license.product, allocation.mode
        kinds = {(held.want, held.session.local) for held in accesses}
        own = self._taken_along(allocation)
        alike = (product, mode, *next(iter(kinds))) if len(kinds) == 1 and not own else None
        start = self._passed.get(alike, 0) if alike else 0
        for place in range(start, len(product.licenses)):
            counted = product.licenses[place]
            if (
                has_room(counted, mode)
                and counted not in self._leaving
                and counted not in own
                and all(unusable(counted, mode, want, local, self.now) is None for want, local in kinds)
            ):
                if alike:
                    self._passed[alike] = place
                return counted
        if alike:
            self._passed[alike] = len(product.licenses)
        return None

    def _taken_along(self, allocation: Allocation) -> list[License]:
        """Return of which licenses an allocation's station takes its share along: if it may not, it has that again."""
        if allocation.mode is not STATION_SHARE or not self.table.converting:
            return []
        shares = allocation.license.product.holdings[allocation.station].shares
        return [share.license for share in shares if self.table.taken_along(share)]
