"""Ghosts: accesses that a crashed application left behind, and that must not keep it from starting again.

A ghost is an access of a session whose connection was closed and whose grace is running. A request that would be
refused only because of ghosts of the same station and application ends them first, oldest first (decision 12).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cmserverd.core.fitting import can_join, unusable
from cmserverd.core.lingering import left_for, lingers
from cmserverd.core.table import Table
from cmserverd.core.terms import EXCLUSIVE, Access, Allocation, Product, Session, Want, weight
from protocol.terms import AccessMode

LOOKED_AT: Final = 1_024
"""More accesses than this no crashed application leaves behind; whoever does has to wait until their grace is over.

Each refused request looks at all of them, so their number bounds what a refusal costs.
"""


def in_the_way(table: Table, session: Session, product: Product, mode: AccessMode, want: Want, now: int) -> list[int]:
    """Return the handles of the ghosts whose end would let a request through; none if none would.

    First those that the request cannot stand beside (213), then, if no unit is free without them, the oldest allocation
    of ghosts alone. What lingers when its ghosts have ended helps a request of the same mode only.
    """
    sessions = table.ghosts.get((session.station, session.client.application), {}).values()
    if sum(len(ghost.accesses) for ghost in sessions) > LOOKED_AT:
        return []
    ghosts = {held.handle: held for held in _ghosts(sessions, product)}
    if not ghosts:
        return []
    leaving = _in_conflict(ghosts, product, session, mode)
    if leaving is None:
        return []
    if left_for(product.holdings[session.station], mode, want, session.local, now):
        return sorted(leaving)
    usable = [counted for counted in product.licenses if unusable(counted, mode, want, session.local, now) is None]
    taken = {counted: counted.used for counted in usable}
    ends = [allocation for allocation in _ends(ghosts) if _gives(allocation, mode)]
    for allocation in ends:
        if allocation.license in taken and leaving.issuperset(allocation.accesses):
            taken[allocation.license] -= allocation.weight
    if any(not weight(counted.item, mode) or used < counted.item.quantity for counted, used in taken.items()):
        return sorted(leaving)
    # What lingers the station has back even if its container was unplugged just now, and takes nothing new.
    left = [allocation for allocation in ends if _lingers_for(allocation, mode, want, session.local, now)]
    if any(leaving.issuperset(allocation.accesses) for allocation in left):
        return sorted(leaving)
    for allocation in ends:
        # One that leaves already has given its unit, and that was not enough.
        gives = allocation in left or (allocation.license in taken and allocation.weight)
        if gives and not leaving.issuperset(allocation.accesses):
            return sorted(leaving.union(allocation.accesses))
    return []


def _lingers_for(allocation: Allocation, mode: AccessMode, want: Want, local: bool, now: int) -> bool:
    """Whether an allocation, once its ghosts have ended, lingers and satisfies the request."""
    last = allocation.accesses[max(allocation.accesses)]
    satisfies = allocation.mode is mode and can_join(allocation.license, mode, want, local, now)
    return satisfies and lingers(allocation, last)


def _gives(allocation: Allocation, mode: AccessMode) -> bool:
    """Whether the end of an allocation would leave its unit to a request in this mode of the same station."""
    last = allocation.accesses[max(allocation.accesses)]
    return allocation.mode is mode or not lingers(allocation, last)


def _ghosts(sessions: Iterable[Session], product: Product) -> Iterator[Access]:
    for ghost in sessions:
        for held in ghost.accesses.values():
            if isinstance(held.target, Allocation) and held.target.license.product is product:
                yield held


def _in_conflict(ghosts: dict[int, Access], product: Product, session: Session, mode: AccessMode) -> set[int] | None:
    """Return the ghosts that the request cannot stand beside; None if it cannot stand beside others either."""
    holding = product.holdings[session.station]  # there is one: the ghosts are of this station
    if mode is EXCLUSIVE:
        return set(ghosts) if len(ghosts) == holding.accesses else None
    exclusive = {handle for handle, held in ghosts.items() if _target(held).mode is EXCLUSIVE}
    return exclusive if len(exclusive) == holding.exclusives else None


def _ends(ghosts: dict[int, Access]) -> list[Allocation]:
    """Return the allocations that ghosts alone hold, the oldest first."""
    oldest_first = dict.fromkeys(_target(ghosts[handle]) for handle in sorted(ghosts))
    return [allocation for allocation in oldest_first if ghosts.keys() >= allocation.accesses.keys()]


def _target(held: Access) -> Allocation:
    assert isinstance(held.target, Allocation)
    return held.target
