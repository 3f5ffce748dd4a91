"""Lingering: an allocation that nobody holds any more stays for a while, for its station alone (section 9).

It takes its unit as before. Its station has it back at once for an access of the same mode that it satisfies; it stands
in nobody's way but for its unit.
"""

from __future__ import annotations

from cmserverd.core.fitting import can_join
from cmserverd.core.terms import Access, Allocation, Holding, Want
from protocol.terms import AccessMode


def lingers(allocation: Allocation, last: Access) -> bool:
    """Whether an allocation lingers when its last access is let go of: what counts nothing leaves nothing."""
    return allocation.license.item.linger > 0 and allocation.weight > 0 and not last.want.ignore_linger


def left_for(holding: Holding, mode: AccessMode, want: Want, local: bool, now: int) -> Allocation | None:
    """Return what lingers for a station and satisfies a request of it, the newest: the oldest lapses soonest."""
    for left in reversed(holding.lingering or ()):
        if left.mode is mode and can_join(left.license, mode, want, local, now):
            return left
    return None
