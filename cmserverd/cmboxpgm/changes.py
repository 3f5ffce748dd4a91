"""What a command makes of a firm item: pure functions from the old one to the new one.

All raise DriverError, with what to do, if that cannot be. The update counter rises with each; it is also the
generation of what is given to be used up, so that a new number of units never meets an old count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from msgspec.structs import replace

from drivers.container import Allowance, FirmItem, Period, ProductItem, QuantityFlag
from drivers.driver import DriverError

_DEFAULTS: Final = ProductItem(1, 0)
_ALLOWANCES: Final = ("units", "usage")


def item(
    firm: FirmItem, reference: int, product_code: int | None, given: Mapping[str, Any], taken_out: Collection[str]
) -> FirmItem:
    """Add the product item, or change it.

    `given` has values by option; `taken_out` are the options that shall be as if nobody had ever given them.
    """
    counter = firm.update_counter + 1
    before = next((each for each in firm.products if each.reference == reference), None)
    if before is None:
        if product_code is None:
            msg = f"Firm item {firm.firm_code} has no item {reference} yet; say its --product-code."
            raise DriverError(msg)
        before = ProductItem(reference, product_code)
    elif product_code not in {None, before.product_code}:
        msg = (
            f"Item {reference} has the product code {before.product_code}, which it keeps: accesses to it are counted "
            "under its number. Add another item, and remove this one."
        )
        raise DriverError(msg)
    after = _options_of(before, given, taken_out, counter)
    products = {each.reference: each for each in firm.products} | {reference: after}
    return replace(firm, update_counter=counter, products=tuple(products[key] for key in sorted(products)))


def _options_of(
    before: ProductItem, given: Mapping[str, Any], taken_out: Collection[str], generation: int
) -> ProductItem:
    options: dict[str, Any] = {
        name: getattr(_DEFAULTS, name) for name in taken_out if name not in {"denied", "local_only"}
    }
    options |= {name: value for name, value in given.items() if name not in {"denied", "local_only"}}
    local, denied = before.flags & QuantityFlag.LOCAL_ONLY, before.flags & ~QuantityFlag.LOCAL_ONLY
    if "local_only" in given or "local_only" in taken_out:
        local = QuantityFlag.LOCAL_ONLY if given.get("local_only") else QuantityFlag.NONE
    if "denied" in given or "denied" in taken_out:
        denied = given.get("denied", QuantityFlag.NONE)
    options["flags"] = local | denied
    for name in given.keys() & _ALLOWANCES:
        old: Allowance | None = getattr(before, name)
        after_old = 0 if old is None else old.generation + 1  # whoever programmed that
        options[name] = Allowance(given[name], max(generation, after_old))
    if "maintenance" in given:
        options["maintenance"] = Period(*given["maintenance"])
    after = replace(before, **options)
    _check_periods(after)
    _check_borrowing(after)
    return after


def _check_periods(item: ProductItem) -> None:
    if item.maintenance is not None and item.maintenance.start >= item.maintenance.end:
        msg = "The maintenance period would end before it begins; give its start first, then its end."
        raise DriverError(msg)
    if item.activation is not None and item.expiration is not None and item.activation >= item.expiration:
        msg = (
            f"Item {item.reference} would never be valid: it would expire before it is activated; correct one of them."
        )
        raise DriverError(msg)


def _check_borrowing(item: ProductItem) -> None:
    if item.borrowing is None:
        return
    if item.units is not None:
        why = "has units, which only its container can count"
    elif not item.quantity or item.flags & QuantityFlag.LOCAL_ONLY:
        why = "is for the server's own machine only"
    else:
        return
    msg = f"Item {item.reference} could not be borrowed: it {why}. Leave --borrowing out, or take that out."
    raise DriverError(msg)


def check_expiration(expiration: int | None, now: int) -> None:
    """Raise DriverError if a date that is given (Unix seconds) is past already: nobody wants to buy that."""
    if expiration is not None and expiration <= now:
        msg = (
            "The item would have expired already; correct its --expiration (or this machine's clock). "
            "What nobody is to use any more is taken out by cmboxpgm remove-item."
        )
        raise DriverError(msg)


def without_item(firm: FirmItem, reference: int) -> FirmItem:
    """Take a product item out."""
    products = tuple(each for each in firm.products if each.reference != reference)
    if len(products) == len(firm.products):
        msg = f"Firm item {firm.firm_code} has no item {reference}; look at what there is (cmboxpgm list)."
        raise DriverError(msg)
    return replace(firm, update_counter=firm.update_counter + 1, products=products)


def named(firm: FirmItem, text: str) -> FirmItem:
    """Give the firm item a text."""
    return replace(firm, update_counter=firm.update_counter + 1, text=text)


def emptied(firm: FirmItem) -> FirmItem:
    """Take all out: what remains is the update counter, so that no older update brings anything back."""
    if not (firm.products or firm.text):
        msg = f"There is no firm item {firm.firm_code}; look at what there is (cmboxpgm list)."
        raise DriverError(msg)
    return FirmItem(firm.firm_code, update_counter=firm.update_counter + 1)
