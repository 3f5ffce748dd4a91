"""The rules of borrowing: who may take a license along, until when, and how it comes back (section 10, decision 21).

The container's ledger decides what is lent. So a loan is decided here and reserved (`borrow`), written there, and
counts as it stands there (`lent`), or not at all (`not_lent`). Whoever holds the license already converts his access:
the loan has its unit at once, whatever becomes of the access meanwhile, and leaves it again if the container refuses.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from cmserverd.core import changes as c
from cmserverd.core.fitting import featureless, visible
from cmserverd.core.ledger import becoming, same, strike
from cmserverd.core.plugging import Refuges, make_room
from cmserverd.core.refusal import Refused, none_serves, offered, unless_starting
from cmserverd.core.rules import Limits, Rule, end, held_by, unless_held_off
from cmserverd.core.table import Table
from cmserverd.core.terms import Allocation, Lent, License, LicenseId, Session, Want
from cmserverd.core.validity import invalid, valid_until
from drivers.container import LOAN_SKEW, ContainerId, Loan, ProductItem
from protocol.errors import ErrorNumber
from protocol.hosts import host_of
from protocol.messages import Access, AccessKey, Borrow, EndCause, Lend
from protocol.terms import Client, LoanEnd, Station, shown_period

GAIN: Final = 100
"""A loan is made longer by a hundredth of what its time would be then at least: for less no flash is worn.

So its ledger is written a hundred times at most in the time that it is for, however often that is asked for, and its
holder lacks a hundredth of what he may have at most.
"""


class Asker(Struct, frozen=True):
    """Who borrows; with a `session` if it is connected."""

    station: Station
    client: Client
    address: str
    session: Session | None = None


class Lending(Struct, frozen=True):
    """What was decided: the `loan` for the container's ledger, of this license, with the end that was asked for.

    `handle` is that of the access that becomes the loan; 0: none. `new`: it is reserved by this, and counts already.
    """

    loan: Loan
    license: LicenseId
    asker: Asker
    handle: int = 0
    new: bool = False


def borrow(table: Table, asker: Asker, request: Borrow | Lend, now: int, limits: Limits) -> Rule[Lending]:
    """Decide on a loan. Asking again with the same id extends it. Raises Refused.

    The numbers are 226 where something else than for an access stands in the way, and the text says what.
    """
    if not limits.borrow_maximum:
        raise Refused(ErrorNumber.BORROW_FAILED, "the operator allows no borrowing")
    known = [loan for loan in table.lent.values() if loan.id == request.id]
    if known:
        return _extend(table, known, asker, request, now, limits)
    if asker.session is not None:
        _unless_too_many(table, asker.address, limits)
    handle = request.handle if isinstance(request, Borrow) else 0
    if handle and asker.session is not None:
        counted, needs_unit = _convert(table, asker, asker.session, request, handle, now, limits)
    else:
        counted, needs_unit = _choose(table, asker, request, now, limits), True
    loan = _loan(counted, request, now, 1)
    if not needs_unit:
        yield c.Converting(handle, counted.id.container, loan.id)
    yield _borrowed(table, counted.id, asker, loan, loan.end, now)
    return Lending(loan, counted.id, asker, handle, new=True)


def lent(table: Table, lending: Lending, end_in_force: int, now: int) -> Rule[Lent]:
    """The container has the loan in its ledger, until `end_in_force`: it counts, and the access that it was is over.

    If there is no room for it any more, the newest allocations leave: what is written down in the container is out.
    """
    loan = lending.loan
    known = table.lent.get((lending.license.container, loan.id))
    if known is not None and not same(known, loan):  # somebody else asked with this id, and came too late
        yield from strike(table, known.name, LoanEnd.UNKNOWN)
        known = None
    held = table.accesses.find(lending.handle)
    if held is not None:
        yield end(held, None if held.session is lending.asker.session else EndCause.LENT)
    if known is None:
        counted = table.licenses.get(lending.license)
        if counted is not None:
            refuges = Refuges(table, {counted: None}, now)
            yield from make_room(counted, counted.item, loan.quantity, refuges, EndCause.LENT)
        yield _borrowed(table, lending.license, lending.asker, loan, end_in_force, now)
    elif known.end != end_in_force or known.station is None:
        asker = lending.asker  # it goes on counting for the address that borrowed it, or two could borrow without end
        yield c.Borrowed(
            known.id,
            known.license,
            known.number,
            known.quantity,
            end_in_force,
            known.holder,
            asker.station,
            asker.client,
            asker.address if known.station is None else known.address,
            known.first,
            known.later,
        )
    return table.lent[lending.license.container, loan.id]


def not_lent(table: Table, lending: Lending) -> Rule[None]:
    """The container did not take the loan into its ledger: what was reserved is free, or its access's again."""
    known = table.lent.get((lending.license.container, lending.loan.id))
    if lending.new and known is not None and same(known, lending.loan):
        yield from strike(table, known.name, LoanEnd.REFUSED)


def writes(table: Table, request: Borrow, now: int) -> int:
    """Return how often a ledger is written for the sake of a request, if it is granted.

    A loan is written when it is made and when it is given back, and both count when it is made; later, if the request
    makes it longer.
    """
    known = [loan for loan in table.lent.values() if loan.id == request.id]
    if not known:
        return 2
    longer = (
        _longer(counted, loan, request, now).end > loan.end
        for loan in known
        if (counted := table.licenses.get(loan.license)) is not None
    )
    return int(any(longer))


def given_back(table: Table, container: ContainerId, loan: bytes) -> Rule[bool]:
    """The container struck a loan off its ledger. Return whether it counted until now."""
    if (container, loan) not in table.lent:
        return False
    yield from strike(table, (container, loan), None)
    return True


def as_access(table: Table, request: Borrow | Lend) -> Access:
    """Return a request as one for an access: license tracking knows no other denials."""
    firm_code, product_code = request.firm_code, request.product_code
    held = table.accesses.find(request.handle) if isinstance(request, Borrow) else None
    if held is not None and isinstance(held.target, Allocation):
        firm_code, product_code = held.target.license.product.firm_code, held.target.license.product.product_code
    return Access(
        AccessKey(request.id),
        firm_code,
        product_code,
        feature_code=request.feature_code,
        container=request.container,
        item=request.item,
        release_date=request.release_date,
    )


# the parts of the above


def _extend(
    table: Table, same_id: list[Lent], asker: Asker, request: Borrow | Lend, now: int, limits: Limits
) -> Lending:
    """Decide on a loan that stands: to be repeated, or for longer; its container leaves it as long as it is."""
    own = [loan for loan in same_id if loan.holder == request.holder and loan.station in (None, asker.station)]
    if not own:
        raise Refused(ErrorNumber.INVALID_PARAMETER, "the id is that of another loan; take a new one for each loan")
    known = own[0]
    if known.until - LOAN_SKEW <= now:  # before more is written it may be struck off, and its license be another's
        raise Refused(ErrorNumber.BORROW_FAILED, "its time is over; borrow anew, with another id")
    counted = table.licenses.get(known.license)
    why = (
        (ErrorNumber.BOX_LOST, "")
        if counted is None
        else _hindrance(counted, _want(request), now) or _terms(counted.item, request.seconds, limits)
    )
    if counted is None or why is not None:
        assert why is not None
        raise unless_starting(table, Refused(*why))
    loan = _longer(counted, known, request, now)
    if loan.end > known.end and counted.lent > min(counted.item.quantity, _licenses(counted.item)):
        raise Refused(ErrorNumber.BORROW_FAILED, "more are borrowed than there are by now; give it back")
    return Lending(loan, known.license, asker, _access_of(table, known, asker, request))


def _longer(counted: License, known: Lent, request: Borrow | Lend, now: int) -> Loan:
    """Return a loan that stands with the end that is asked for, or with its own if that is hardly later."""
    loan = _loan(counted, request, now, known.quantity)
    return replace(loan, end=known.end) if (loan.end - known.end) * GAIN < loan.end - now else loan


def _unless_too_many(table: Table, address: str, limits: Limits) -> None:
    """Raise Refused with 226 if one host's clients have borrowed, or are borrowing, all that they may.

    A station would be of the client's making, an address is not. What only a container knows of is nobody's, and what
    an operator lent is his.
    """
    host = host_of(address)
    if table.borrowers.get(host, 0) >= limits.borrow_per_address:
        most = limits.borrow_per_address
        raise Refused(
            ErrorNumber.BORROW_FAILED,
            f"{most} are borrowed from {host}, as many as may be; give one back, or have the operator raise "
            "[borrowing] per_address",
        )


def _access_of(table: Table, known: Lent, asker: Asker, request: Borrow | Lend) -> int:
    """Return the handle that is to become a loan that was asked for before, for its answer was lost; 0: there is none.

    The table knows an access that gave the loan its unit; one that shares its own is known by the request only.
    """
    if handle := becoming(table, known.name):
        return handle
    held = table.accesses.find(request.handle) if isinstance(request, Borrow) else None
    if held is None or held.session is not asker.session or not isinstance(held.target, Allocation):
        return 0
    return held.handle if held.target.license.id == known.license else 0


def _convert(
    table: Table, asker: Asker, session: Session, request: Borrow | Lend, handle: int, now: int, limits: Limits
) -> tuple[License, bool]:
    """Return the license that an access becomes a loan of, and whether it takes a unit that the access does not have.

    It does if others share the access's allocation, or if that counts nothing.
    """
    target = held_by(table, session, handle).target
    if not isinstance(target, Allocation):
        raise Refused(ErrorNumber.WRONG_HANDLE_TYPE)
    if handle in table.converting:  # one loan has its unit already
        raise Refused(ErrorNumber.BOX_BUSY, "the access is being taken along as another loan")
    counted = target.license
    needs_unit = len(target.accesses) > 1 or not target.weight
    if needs_unit:
        unless_held_off(table, asker.station, counted.product, now)
    if not visible(counted.item, local=False):
        why: tuple[ErrorNumber, str] | None = (ErrorNumber.ENTRY_NOT_FOUND, "it is for the server's own machine only")
    else:
        why = _hindrance(counted, _want(request), now) or _unavailable(counted, request.seconds, limits, needs_unit)
    if why is not None:
        raise unless_starting(table, Refused(*why))
    return counted, needs_unit


def _choose(table: Table, asker: Asker, request: Borrow | Lend, now: int, limits: Limits) -> License:
    """Return the first license, in the order of the containers and items, that can be lent."""
    want = _want(request)
    codes = request.firm_code, request.product_code
    product = table.products.get(codes)
    if product is not None:
        unless_held_off(table, asker.station, product, now)
    tried: list[tuple[License, ErrorNumber, str]] = []
    for counted in offered(table, *codes, want, local=False):
        why = _hindrance(counted, want, now) or _unavailable(counted, request.seconds, limits, needs_unit=True)
        if why is None:
            return counted
        tried.append((counted, *why))
    raise none_serves(table, *codes, want, tried, now)


def _hindrance(counted: License, want: Want, now: int) -> tuple[ErrorNumber, str] | None:
    """Return why a license cannot serve anybody who takes it along; in which modes it can be used does not matter."""
    item = counted.item
    if not counted.present:
        return ErrorNumber.BOX_LOST, ""
    if item.unusable:
        return ErrorNumber.PRODUCT_ITEM_INVALID, item.unusable
    number = featureless(item, want) or (invalid(item, now, want) if counted.limited else None)
    return None if number is None else (number, "")


def _terms(item: ProductItem, seconds: int, limits: Limits) -> tuple[ErrorNumber, str] | None:
    """Return why licensor and operator do not allow a license to be borrowed for so long."""
    if item.borrowing is None:
        return ErrorNumber.BORROW_FAILED, "its licensor allows no borrowing"
    if item.units is not None:
        return ErrorNumber.BORROW_FAILED, "it has units, which cannot be counted elsewhere"
    longest = min(item.borrowing.seconds, limits.borrow_maximum)
    if seconds > longest:
        return ErrorNumber.BORROW_FAILED, f"for {shown_period(longest)} at most"
    return None


def _unavailable(counted: License, seconds: int, limits: Limits, needs_unit: bool) -> tuple[ErrorNumber, str] | None:
    """Return why one more license of an entry cannot be lent."""
    item = counted.item
    if why := _terms(item, seconds, limits):
        return why
    if counted.lent >= _licenses(item):
        return ErrorNumber.BORROW_FAILED, f"{counted.lent} are borrowed, of {_licenses(item)} that may be"
    if limits.borrow_keep and counted.lent >= item.quantity - limits.borrow_keep:
        return ErrorNumber.BORROW_FAILED, f"the operator keeps {limits.borrow_keep} of {item.quantity} here"
    if needs_unit and counted.used >= item.quantity:
        return ErrorNumber.NO_MORE_LICENSES, ""
    return None


def _licenses(item: ProductItem) -> int:
    return item.borrowing.licenses if item.borrowing is not None else 0


def _loan(counted: License, request: Borrow | Lend, now: int, quantity: int) -> Loan:
    """Return the loan that is asked for; it ends with its license at the latest."""
    item = counted.item
    ends = [now + request.seconds, valid_until(item)]
    if item.usage is not None and not item.usage_start:
        ends.append(now + item.usage.amount)  # to borrow is to begin
    last = min(instant for instant in ends if instant is not None)
    return Loan(request.id, counted.id.firm_code, counted.id.item, quantity, last, request.holder)


def _borrowed(table: Table, license_id: LicenseId, asker: Asker, loan: Loan, last: int, now: int) -> c.Borrowed:
    return c.Borrowed(
        loan.id,
        license_id,
        table.next_handle,
        loan.quantity,
        last,
        loan.holder,
        asker.station,
        asker.client,
        asker.address,
        now,
    )


def _want(request: Borrow | Lend) -> Want:
    container = None if request.container is None else ContainerId(request.container)
    return Want(request.feature_code, container, request.item, request.release_date)
