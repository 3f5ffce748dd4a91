"""The container's ledger of loans, which decides what is borrowed of it (decision 21; behaviour 18).

Whatever a server knew, or forgot: when a container is plugged in, its loans are those of its ledger, and those that are
being written into it just now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cmserverd.core import changes as c
from cmserverd.core.rules import Rule, end
from cmserverd.core.table import Table
from cmserverd.core.terms import Allocation, Lent, LicenseId
from drivers.container import LOAN_SKEW, ContainerId, Loan
from protocol.messages import EndCause
from protocol.terms import LoanEnd


def reconcile(
    table: Table, container: ContainerId, ledger: Iterable[Loan], now: int
) -> Rule[dict[LicenseId, list[Loan]]]:
    """Strike off what a container's ledger does not have, and take over the ends of what it has.

    Return the loans that the table does not know, by license: there may have to be made room for them.
    """
    standing = {loan.id: loan for loan in ledger if loan.end + LOAN_SKEW > now}
    for known in [known for known in table.lent.values() if known.license.container == container]:
        loan = standing.get(known.id)
        if loan is None or not same(known, loan):
            yield c.Returned(*known.name, LoanEnd.OVER if known.until <= now else LoanEnd.UNKNOWN)
        elif loan.end != known.end:
            yield extended(known, loan.end)
    unknown: dict[LicenseId, list[Loan]] = {}
    for loan in standing.values():
        if (container, loan.id) not in table.lent:
            unknown.setdefault(LicenseId(container, loan.firm_code, loan.reference), []).append(loan)
    return unknown


def converted(
    table: Table, container: ContainerId, unknown: dict[LicenseId, list[Loan]], writing: Collection[bytes]
) -> Rule[None]:
    """End the accesses that became loans of a container without its answer, so that nobody else makes room for those.

    Of the `unknown` loans in its ledger one may be what an access was to become: it has that one's unit. What is not
    in the ledger did not become a loan, but for the ids that are being written into it just now.
    """
    found = {(loan.id, loan.holder): license_id for license_id, loans in unknown.items() for loan in loans}
    for handle, becoming in list(table.converting.items()):
        if becoming.container != container:
            continue
        held, name = table.accesses[handle], (becoming.loan, becoming.holder)
        if isinstance(held.target, Allocation) and found.get(name) == held.target.license.id:
            del found[name]
            yield end(held, EndCause.LENT)
        elif becoming.loan not in writing:
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
