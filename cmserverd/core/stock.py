"""What there is to be licensed: the containers, their licenses, and the products that those are licenses of.

It is the part of the table that drivers and time fill; `table.Table` is the whole, with who holds what.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from msgspec.structs import replace

from cmserverd.core import changes as c
from cmserverd.core.terms import (
    Allocation,
    KnownContainer,
    Lent,
    License,
    LicenseEnd,
    LicenseId,
    LoanName,
    LoanOver,
    Product,
    weight,
)
from cmserverd.core.validity import limited, valid_until
from drivers.container import Container, ContainerId, ProductItem, mask_and_serial
from protocol.hosts import host_of

Appliers = dict[type[Any], Callable[[Any, Any], None]]
"""What applies each kind of change to a table."""


class Stock:
    """Containers, licenses and products, and what is lent of them.

    `expiries` and `returns` are sorted: the license or loan whose time is over next comes first. So are the `expired`,
    the licenses whose end was seen to: if license time is set back, those that are not over after all are the last.
    `lent` has the loans by name, in the order of their numbers, and `out` how many licenses are with borrowers, of
    those too that are gone. `borrowers` has how many loans count for each host. `converting` are the accesses that are
    to become loans, by handle: until it is known whether they did, each loan has its access's unit.
    """

    __slots__ = (
        "borrowers",
        "containers",
        "converting",
        "expired",
        "expiries",
        "lent",
        "licenses",
        "next_license",
        "out",
        "products",
        "returns",
    )

    def __init__(self) -> None:
        self.containers: dict[ContainerId, KnownContainer] = {}
        self.licenses: dict[LicenseId, License] = {}
        self.products: dict[tuple[int, int], Product] = {}
        self.expiries: list[LicenseEnd] = []
        self.expired: list[LicenseEnd] = []
        self.lent: dict[LoanName, Lent] = {}
        self.out: dict[LicenseId, int] = {}
        self.borrowers: dict[str, int] = {}
        self.converting: dict[int, LoanName] = {}
        self.returns: list[LoanOver] = []
        self.next_license = 1

    def taken_along(self, allocation: Allocation) -> bool:
        """Whether an allocation's only access is becoming a loan, which has its unit."""
        accesses = allocation.accesses
        return len(accesses) == 1 and next(iter(accesses)) in self.converting

    def weight(self, allocation: Allocation, item: ProductItem) -> int:
        """Return what an allocation counts under these options."""
        return 0 if self.taken_along(allocation) else weight(item, allocation.mode)

    def _plugged(self, change: c.Plugged) -> None:
        contents = change.container
        known = self.containers.get(contents.id)
        if known is None:
            known = self.containers[contents.id] = KnownContainer(mask_and_serial(contents.id), contents)
            self.containers = dict(sorted(self.containers.items(), key=lambda entry: entry[1].turn))
        else:
            known.contents = contents
            known.present = True
        touched: dict[Product, None] = {}
        for place, (firm_code, item) in enumerate(_items(contents)):
            license_id = LicenseId(contents.id, firm_code, item.reference)
            counted = self.licenses.get(license_id)
            if counted is None:
                counted = self._new_license(license_id, (*known.turn, place), item)
            else:
                counted.present = True
                counted.turn = (*known.turn, place)
            touched[counted.product] = None
        for product in touched:
            product.licenses.sort(key=_turn)

    def _unplugged(self, change: c.Unplugged) -> None:
        container = self.containers[change.container]
        container.present = False
        for counted in self.licenses.values():
            if counted.id.container == change.container:
                counted.present = False

    def _reprogrammed(self, change: c.Reprogrammed) -> None:
        counted = self.licenses[change.license]
        item = change.item
        if item is None or item.product_code != counted.item.product_code:
            assert not counted.allocations
            self._forget_end(counted)
            del self.licenses[change.license]
            product = counted.product
            del product.licenses[_place(counted)]
            if not product.licenses:
                del self.products[product.firm_code, product.product_code]
            if item is not None:
                self._new_license(change.license, counted.turn, item)
            return
        self._set_item(counted, item)
        counted.used = counted.lent
        for allocation in counted.allocations.values():
            allocation.weight = self.weight(allocation, item)
            counted.used += allocation.weight

    def _consumed(self, change: c.Consumed) -> None:
        counted = self.licenses[change.license]
        item = replace(counted.item, units_used=change.units_used, usage_start=change.usage_start)
        self._set_item(counted, item)
        container = self.containers[change.license.container]
        container.contents = _with_item(container.contents, change.license.firm_code, item)

    def _expired(self, change: c.Expired) -> None:
        counted = self.licenses[change.license]
        end = valid_until(counted.item)
        assert end is not None
        self._forget_end(counted)
        insort(self.expired, (end, counted.id, counted))

    def _bring_back(self, now: int) -> None:
        """License time was set to this: what is not over then after all ends at its end."""
        place = bisect_right(self.expired, now, key=_end)
        if place < len(self.expired):
            self.expiries = sorted(self.expiries + self.expired[place:])
            del self.expired[place:]

    def _removed(self, change: c.Removed) -> None:
        assert not self.containers[change.container].references
        del self.containers[change.container]

    def _borrowed(self, change: c.Borrowed) -> None:
        name = (change.license.container, change.id)
        loan = self.lent.get(name)
        if loan is None:
            loan = self.lent[name] = Lent(
                change.id,
                change.license,
                change.number,
                change.quantity,
                change.end,
                change.holder,
                change.station,
                change.client,
                change.address,
                change.at,
                change.later,
            )
            self._count_out(loan, loan.quantity)
            self._count_borrower(loan, 1)
        else:
            assert (loan.license, loan.number, loan.quantity) == (change.license, change.number, change.quantity)
            self._forget_return(loan)
            self._count_borrower(loan, -1)
            loan.end, loan.later = change.end, change.later
            loan.station, loan.client, loan.address = change.station, change.client, change.address
            self._count_borrower(loan, 1)
        insort(self.returns, (loan.until, loan.number, loan))

    def _returned(self, change: c.Returned) -> None:
        loan = self.lent.pop((change.container, change.id))
        self._forget_return(loan)
        self._count_out(loan, -loan.quantity)
        self._count_borrower(loan, -1)

    def _delay_loans(self, by: int) -> None:
        """Loans end by so many seconds later in license time, as after a leap; earlier again if that is set right."""
        for loan in self.lent.values():
            loan.later = max(loan.later + by, 0)
        self.returns = sorted((loan.until, loan.number, loan) for loan in self.lent.values())

    def _forget_return(self, loan: Lent) -> None:
        del self.returns[bisect_left(self.returns, (loan.until, loan.number))]

    def _count_out(self, loan: Lent, by: int) -> None:
        out = self.out.pop(loan.license, 0) + by
        if out:
            self.out[loan.license] = out
        counted = self.licenses.get(loan.license)
        if counted is not None:
            counted.lent += by
            counted.used += by

    def _count_borrower(self, loan: Lent, by: int) -> None:
        host = host_of(loan.address)
        loans = self.borrowers.pop(host, 0) + by
        if loans:
            self.borrowers[host] = loans

    def _new_license(self, license_id: LicenseId, turn: tuple[int, int, int], item: ProductItem) -> License:
        codes = (license_id.firm_code, item.product_code)
        product = self.products.get(codes)
        if product is None:
            product = self.products[codes] = Product(*codes)
        counted = License(license_id, self.next_license, turn, item, product)
        self.next_license += 1
        counted.lent = counted.used = self.out.get(license_id, 0)
        self.licenses[license_id] = counted
        insort(product.licenses, counted, key=_turn)
        self._set_item(counted, item)
        return counted

    def _set_item(self, counted: License, item: ProductItem) -> None:
        self._forget_end(counted)
        counted.item = item
        counted.limited = limited(item)
        end = valid_until(item)
        if end is not None:
            insort(self.expiries, (end, counted.id, counted))

    def _forget_end(self, counted: License) -> None:
        end = valid_until(counted.item)
        if end is not None:
            for ends in (self.expiries, self.expired):
                at = bisect_left(ends, (end, counted.id))
                if at < len(ends) and ends[at][2] is counted:
                    del ends[at]

    APPLY: ClassVar[Appliers] = {
        c.Plugged: _plugged,
        c.Unplugged: _unplugged,
        c.Reprogrammed: _reprogrammed,
        c.Consumed: _consumed,
        c.Expired: _expired,
        c.Removed: _removed,
        c.Returned: _returned,
    }


def _turn(counted: License) -> tuple[int, int, int]:
    return counted.turn


def _end(entry: LicenseEnd) -> int:
    return entry[0]


def _place(counted: License) -> int:
    """Return where a license stands among those of its product: these are sorted, and there may be very many."""
    licenses = counted.product.licenses
    return licenses.index(counted, bisect_left(licenses, counted.turn, key=_turn))


def _items(contents: Container) -> Iterator[tuple[int, ProductItem]]:
    for firm_item in contents.firm_items:
        for item in firm_item.products:
            yield firm_item.firm_code, item


def _with_item(contents: Container, firm_code: int, item: ProductItem) -> Container:
    """Return what a container holds with another state of one of its items."""
    firm_items = list(contents.firm_items)
    for at, firm_item in enumerate(firm_items):
        if firm_item.firm_code == firm_code:
            products = tuple(item if one.reference == item.reference else one for one in firm_item.products)
            firm_items[at] = replace(firm_item, products=products)
    return replace(contents, firm_items=tuple(firm_items))
