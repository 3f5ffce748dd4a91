"""Which license can serve what: the conditions that are about the entry and the request, not about free units."""

from __future__ import annotations

from typing import Final

from cmserverd.core.terms import ANYTHING, License, Want, weight
from cmserverd.core.validity import invalid
from drivers.container import ProductItem, QuantityFlag
from protocol.errors import ErrorNumber
from protocol.terms import AccessMode

_DENIAL: Final = {
    AccessMode.USER_LIMIT: QuantityFlag.DENY_USER_LIMIT.value,
    AccessMode.NO_USER_LIMIT: QuantityFlag.DENY_NO_USER_LIMIT.value,
    AccessMode.EXCLUSIVE: QuantityFlag.DENY_EXCLUSIVE.value,
    AccessMode.STATION_SHARE: QuantityFlag.DENY_STATION_SHARE.value,
}
_LOCAL_ONLY: Final = QuantityFlag.LOCAL_ONLY.value


def visible(item: ProductItem, local: bool) -> bool:
    """Whether an entry exists for a client: license quantity 0 and local-only ones do for local clients only."""
    return local or (item.quantity > 0 and not (item.flags and item.flags & _LOCAL_ONLY))


def has_room(counted: License, mode: AccessMode) -> bool:
    """Whether a license has a unit free, or need not have one."""
    return counted.used < counted.item.quantity or not weight(counted.item, mode)


def unusable(counted: License, mode: AccessMode, want: Want, local: bool, now: int) -> ErrorNumber | None:
    """Return why a license cannot serve a request, apart from the want of a unit; None if it can."""
    item = counted.item
    if not visible(item, local) or (want is not ANYTHING and not pins_fit(counted, want)):
        return ErrorNumber.ENTRY_NOT_FOUND
    if not counted.present:
        return ErrorNumber.BOX_LOST
    why = unfit(item, mode, want)
    if why is None and counted.limited:
        why = invalid(item, now, want)
    return why


def unfit(item: ProductItem, mode: AccessMode, want: Want) -> ErrorNumber | None:
    """Return why an entry's options cannot serve a request; None if they can."""
    if item.unusable:
        return ErrorNumber.PRODUCT_ITEM_INVALID
    if item.flags and item.flags & _DENIAL[mode]:
        return ErrorNumber.WRONG_ACCESS_MODE
    return featureless(item, want) if want.feature_code else None


def featureless(item: ProductItem, want: Want) -> ErrorNumber | None:
    """Return why an entry does not have all the features that a request asks for; None if it has."""
    if item.feature_map is None:
        return ErrorNumber.FEATURE_MAP_MISSING if want.feature_code else None
    return ErrorNumber.FEATURE_MAP_INCOMPATIBLE if want.feature_code & ~item.feature_map else None


def pins_fit(counted: License, want: Want) -> bool:
    """Whether a license is one of those that a request is pinned to."""
    return want.container in (None, counted.id.container) and want.item in (None, counted.id.item)


def can_join(counted: License, mode: AccessMode, want: Want, local: bool, now: int) -> bool:
    """Whether what a station has of this license, a share or what lingers, satisfies a request of the same station.

    Its container may be unplugged just now: what is allocated stands (decision 6), and a share is never refused.
    """
    item = counted.item
    return (
        visible(item, local)
        and (want is ANYTHING or pins_fit(counted, want))
        and ((not item.flags and not item.unusable and want is ANYTHING) or unfit(item, mode, want) is None)
        and (not counted.limited or invalid(item, now, want) is None)
    )
