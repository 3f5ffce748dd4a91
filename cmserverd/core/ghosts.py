"""Ghosts: accesses that a crashed application left behind, and that must not keep it from starting again.

A ghost is an access of a session whose connection was closed and whose grace is running. A request that would be
refused only because of ghosts of the same station and application ends them first, oldest first (decision 12).
"""

from __future__ import annotations

from cmserverd.core.fitting import unusable, weight
from cmserverd.core.table import Table
from cmserverd.core.terms import Allocation, License, Product, Session, Want
from protocol.terms import AccessMode


def in_the_way(table: Table, session: Session, product: Product, mode: AccessMode, want: Want) -> list[int]:
    """Return the handles of the fewest, oldest ghosts whose end would let a request through; none if none would."""
    sessions = table.ghosts.get((session.station, session.client.application))
    if not sessions:
        return []
    candidates = sorted(
        held.handle
        for ghost in sessions.values()
        for held in ghost.accesses.values()
        if isinstance(held.target, Allocation) and held.target.license.product is product
    )
    chosen: set[int] = set()
    for handle in candidates:
        if _would_grant(table, session, product, mode, want, without=chosen):
            break
        chosen.add(handle)
    if not _would_grant(table, session, product, mode, want, without=chosen):
        return []
    for handle in sorted(chosen):
        if _would_grant(table, session, product, mode, want, without=chosen - {handle}):
            chosen.discard(handle)
    return sorted(chosen)


def _would_grant(
    table: Table, session: Session, product: Product, mode: AccessMode, want: Want, without: set[int]
) -> bool:
    """Whether a request would be granted if these accesses were not there."""
    gone = [target for handle in without if isinstance(target := table.accesses[handle].target, Allocation)]
    holding = product.holdings.get(session.station)
    if holding is not None:
        exclusives = holding.exclusives - sum(target.mode is AccessMode.EXCLUSIVE for target in gone)
        accesses = holding.accesses - len(gone)
        if exclusives or (mode is AccessMode.EXCLUSIVE and accesses):
            return False
    freed: dict[License, int] = {}
    for target in dict.fromkeys(gone, None):
        if without.issuperset(target.accesses):
            freed[target.license] = freed.get(target.license, 0) + target.weight
    return any(
        unusable(counted, mode, want, session.local) is None
        and (not weight(counted.item, mode) or counted.used - freed.get(counted, 0) < counted.item.quantity)
        for counted in product.licenses
    )
