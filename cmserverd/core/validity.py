"""Whether a product item is valid: what its dates, its units and its versions say (domain reference, sections 2, 9).

A license with none of these options is not `limited`, and none of this is asked about it.
"""

from __future__ import annotations

from typing import Final

from cmserverd.core.terms import Want
from drivers.container import ProductItem, Runtime
from protocol.errors import ErrorNumber

RUNTIME: Final = Runtime(0, 1)
"""This software's version, as an item's minimum runtime means it."""


def limited(item: ProductItem) -> bool:
    """Whether an entry can be invalid at all."""
    return not (
        item.activation is None
        and item.expiration is None
        and item.usage is None
        and item.maintenance is None
        and item.units is None
        and item.minimum_runtime is None
    )


def invalid(item: ProductItem, now: int, want: Want) -> ErrorNumber | None:
    """Return why an entry is not valid for a new access; None if it is, or if the request does not care."""
    if want.force:
        return None
    return barred(item, now, want) or over(item, now) or _exhausted(item)


def barred(item: ProductItem, now: int, want: Want) -> ErrorNumber | None:
    """Return why an entry is closed to a request for another reason than that it has been used up or is over.

    An entry without maintenance period serves software of any release date.
    """
    if want.force:
        return None
    if item.minimum_runtime is not None and item.minimum_runtime > RUNTIME:
        return ErrorNumber.RUNTIME_TOO_OLD
    if item.activation is not None and now < item.activation:
        return ErrorNumber.ACTIVATION_UNDERRUN
    if item.maintenance is not None and want.release_date is not None:
        if want.release_date < item.maintenance.start:
            return ErrorNumber.MAINTENANCE_UNDERRUN
        if want.release_date >= item.maintenance.end:
            return ErrorNumber.MAINTENANCE_OVERRUN
    return None


def over(item: ProductItem, now: int) -> ErrorNumber | None:
    """Return why the time of an entry is over; None if it is not."""
    if item.expiration is not None and now >= item.expiration:
        return ErrorNumber.EXPIRATION_OVERRUN
    usage_end = _usage_end(item)
    if usage_end is not None and now >= usage_end:
        return ErrorNumber.USAGE_PERIOD_OVERRUN
    return None


def valid_until(item: ProductItem) -> int | None:
    """Return the instant from which on an entry is over; None if it never is, as things are now (behaviour 22)."""
    return min((end for end in (item.expiration, _usage_end(item)) if end is not None), default=None)


def _usage_end(item: ProductItem) -> int | None:
    """Return when the usage period ends; None if there is none, or it has not begun (behaviour 20)."""
    return item.usage_start + item.usage.amount if item.usage is not None and item.usage_start else None


def _exhausted(item: ProductItem) -> ErrorNumber | None:
    if item.units is not None and item.units_used >= item.units.amount:
        return ErrorNumber.UNIT_COUNTER_ZERO
    return None
