"""The container's ledger of loans, which decides what is borrowed of it (decision 21; behaviour 18).

Whatever a server knew, or forgot: when a container is plugged in, its loans are those of its ledger, and those that are
being written into it just now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cmserverd.core import changes as c
from cmserverd.core.rules import Rule, end
from cmserverd.core.table import Table
from cmserverd.core.terms import Access, Allocation, Lent, LicenseId, LoanName, weight
from drivers.container import LOAN_SKEW, ContainerId, Loan
from protocol.messages import EndCause
from protocol.terms import LoanEnd


def reconcile(
    table: Table, container: ContainerId, ledger: Iterable[Loan], on_the_way: Collection[bytes], now: int
) -> Rule[dict[LicenseId, list[Loan]]]:
    """Strike off what a container's ledger does not have, and take over the ends of what it has.

    An access that was to become one of its loans has become it, and ends; `on_the_way` are the ids of those that are on
    their way into the ledger, and need not be there yet. Return the loans that the table does not know, by license:
    there may have to be made room for them.
    """
    rows = {loan.id: loan for loan in ledger}
    for known in [known for known in table.lent.values() if known.license.container == container]:
        loan = rows.get(known.id)
        own = loan if loan is not None and same(known, loan) else None
        last = own.end if own is not None else known.end
        if last + LOAN_SKEW + known.later <= now:
            yield from strike(table, known.name, LoanEnd.OVER)
        elif own is not None:
            if handle := becoming(table, known.name):
                yield end(table.accesses[handle], EndCause.LENT)
            if own.end != known.end:
                yield extended(known, own.end)
        elif loan is not None or not (known.id in on_the_way or last + LOAN_SKEW <= now):  # it is over there
            yield from strike(table, known.name, LoanEnd.UNKNOWN)
    unknown: dict[LicenseId, list[Loan]] = {}
    for loan in rows.values():
        if loan.end + LOAN_SKEW > now and (container, loan.id) not in table.lent:
            unknown.setdefault(LicenseId(container, loan.firm_code, loan.reference), []).append(loan)
    return unknown


def strike(table: Table, name: LoanName, cause: LoanEnd | None) -> Rule[None]:
    """A loan stands no longer. An access that was to become it has its unit again.

    It ends if more is lent than there is, which a licensor's update may have brought about meanwhile.
    """
    handle = becoming(table, name)
    if handle and not _can_go_on(table.accesses[handle], table.lent[name]):
        yield end(table.accesses[handle], EndCause.LENT)
        handle = 0
    yield c.Returned(*name, cause)
    if handle:
        yield c.Unconverted(handle)


def adopted(table: Table, license_id: LicenseId, loan: Loan, now: int) -> c.Borrowed:
    """Return the change by which a loan counts of which the container alone tells."""
    return c.Borrowed(loan.id, license_id, table.next_handle, loan.quantity, loan.end, loan.holder, None, None, "", now)


def extended(known: Lent, end: int) -> c.Borrowed:
    """Return the change by which a loan ends at another time."""
    return c.Borrowed(
        known.id,
        known.license,
        known.number,
        known.quantity,
        end,
        known.holder,
        known.station,
        known.client,
        known.address,
        known.first,
        known.later,
    )


def same(known: Lent, loan: Loan) -> bool:
    """Whether the ledger means the loan that is known by this id."""
    license_id = known.license
    return (license_id.firm_code, license_id.item, known.quantity, known.holder) == (
        loan.firm_code,
        loan.reference,
        loan.quantity,
        loan.holder,
    )


def becoming(table: Table, name: LoanName) -> int:
    """Return the handle of the access that is to become a loan; 0: there is none."""
    return next((handle for handle, loan in table.converting.items() if loan == name), 0)


def _can_go_on(held: Access, loan: Lent) -> bool:
    """Whether there is a unit for an access that did not become this loan, once that is struck off."""
    assert isinstance(held.target, Allocation)
    counted = held.target.license
    return counted.lent - loan.quantity < counted.item.quantity or not weight(counted.item, held.target.mode)
