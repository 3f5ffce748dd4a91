"""What the naive model knows of borrowing: who may take which license along, and what a container's ledger makes of it.

Like the model it shares no code with the core, and counts everything anew.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from drivers.container import Loan
from protocol.errors import ErrorNumber
from protocol.messages import Access as Request
from protocol.messages import AccessKey, Borrow, EndCause, Lend
from protocol.terms import AccessMode, HandleKind, Station
from tests.core.model import Client, Entry, Model, Out, Why

SKEW = 60


@dataclass(frozen=True)
class Choice:
    """Which license is lent, and whether it takes a unit that the borrower does not hold already."""

    entry: Entry
    needs_unit: bool


def decided(
    model: Model, asker: Client | None, station: Station, request: Borrow | Lend, most: int, keep: int, each: int
) -> Choice | Why:
    """Return what is lent, or why nothing is: for how long at `most`, how many they `keep`, or `each` host may have."""
    if most == 0:
        return ErrorNumber.BORROW_FAILED, None, ()
    if known := [loan for loan in model.loans if loan.id == request.id]:
        own = [loan for loan in known if loan.holder == request.holder and (loan.station or station) == station]
        if own and own[0].until() - SKEW <= model.now:
            return ErrorNumber.BORROW_FAILED, None, ()
        return _longer(model, own[0], request, most) if own else (ErrorNumber.INVALID_PARAMETER, None, ())
    if asker is not None and _borrowed_by(model, asker.address) + 1 > each:
        return ErrorNumber.BORROW_FAILED, None, ()
    if isinstance(request, Borrow) and request.handle and asker is not None:
        return _converted(model, asker, request, most, keep)
    return _chosen(model, station, request, most, keep)


def end_of(model: Model, entry: Entry, seconds: int) -> int:
    """Return when a loan ends that is decided on now: with its license at the latest."""
    item = model.options(entry)
    ends = [model.now + seconds]
    if item.expiration is not None:
        ends.append(item.expiration)
    if item.usage is not None:
        ends.append((item.usage_start or model.now) + item.usage.amount)
    return min(ends)


def prolonged(model: Model, loan: Out, seconds: int) -> int:
    """Return when a loan that stands ends once it is asked for again: as before, unless that is a hundredth more."""
    end = end_of(model, loan.entry, seconds)
    return end if end > loan.end and (end - loan.end) / (end - model.now) >= 0.01 else loan.end


def reconciled(
    model: Model, container: str, ledger: Iterable[Loan], writing: Collection[bytes], numbers: dict[bytes, int]
) -> list[Out]:
    """Take in which loans of a container are no more, and which of them accesses became; return those that stand.

    They are in its `ledger`, or may be yet: `writing` are the ids of those. The server knows them by `numbers`.
    """
    known = sorted((loan for loan in model.loans if loan.entry[0] == container), key=lambda loan: loan.number)
    rows = {row.id: row for row in ledger}
    standing = []
    for loan in known:
        row = rows.get(loan.id)
        over_there = row is None and loan.end + SKEW <= model.now < loan.until()
        if row is not None and (container, row.firm_code, row.reference, row.quantity, row.holder) == (
            *loan.entry,
            loan.quantity,
            loan.holder,
        ):
            del rows[loan.id]
            loan.end = row.end
            if loan.until() <= model.now:
                model.struck(loan)
                continue
            standing.append(loan)
            for handle in [handle for handle, name in model.converting.items() if name == (container, loan.id)]:
                model.end(model.hold(handle), EndCause.LENT)
        elif row is None and loan.until() > model.now and (loan.id in writing or over_there):
            standing.append(loan)
        else:
            model.struck(loan)
    for row in [row for row in rows.values() if row.end + SKEW > model.now]:
        entry = (container, row.firm_code, row.reference)
        number = numbers[row.id]
        assert number not in [loan.number for loan in model.loans]
        standing.append(Out(row.id, entry, number, row.quantity, row.end, row.holder, None, None, "", model.now))
    return standing


def _borrowed_by(model: Model, address: str) -> int:
    """Count what the clients of a host have borrowed, or are borrowing."""
    return [_host(loan.address) for loan in model.loans].count(_host(address))


def _host(address: str) -> str:
    return ipaddress.ip_address(address).exploded[:19] if ":" in address else address


def _as_access(request: Borrow | Lend) -> Request:
    return Request(
        AccessKey(request.id),
        request.firm_code,
        request.product_code,
        feature_code=request.feature_code,
        container=request.container,
        item=request.item,
        release_date=request.release_date,
    )


def _longer(model: Model, loan: Out, request: Borrow | Lend, most: int) -> Choice | Why:
    item = model.item(loan.entry)
    if item is None:
        return _unless_starting(model, ErrorNumber.BOX_LOST)
    number = _obstacle(model, loan.entry, request) or _terms(model, loan.entry, request, most)
    if number is not None:
        return _unless_starting(model, number)
    assert item.borrowing is not None
    longer = prolonged(model, loan, request.seconds) > loan.end
    if longer and (model.out(loan.entry) > item.quantity or model.out(loan.entry) > item.borrowing.licenses):
        return ErrorNumber.BORROW_FAILED, None, ()
    return Choice(loan.entry, needs_unit=False)


def _converted(model: Model, asker: Client, request: Borrow, most: int, keep: int) -> Choice | Why:
    if why := model.refusal_of_handle(asker, request.handle):
        return why
    hold = model.hold(request.handle)
    if hold.request.kind is not HandleKind.ENTRY:
        return ErrorNumber.WRONG_HANDLE_TYPE, None, ()
    assert hold.entry is not None
    if request.handle in model.converting:
        return ErrorNumber.BOX_BUSY, None, ()
    needs_unit = len(model.instances(hold)) > 1 or not model.takes(hold.entry, hold.request.mode)
    if needs_unit and _held_off(model, asker.station, hold.request.firm_code, hold.request.product_code):
        return ErrorNumber.ACCESS_DENIED, None, ()
    nobody = Client(0, asker.station, "", "", local=False)
    if model.hidden(hold.entry, Request(AccessKey(b""), kind=HandleKind.ENTRY), nobody):
        return _unless_starting(model, ErrorNumber.ENTRY_NOT_FOUND)
    number = _obstacle(model, hold.entry, request) or _short(model, hold.entry, request, most, keep, needs_unit)
    return Choice(hold.entry, needs_unit) if number is None else _unless_starting(model, number)


def _chosen(model: Model, station: Station, request: Borrow | Lend, most: int, keep: int) -> Choice | Why:
    entries = model.entries(request.firm_code, request.product_code)
    if entries and _held_off(model, station, request.firm_code, request.product_code):
        return ErrorNumber.ACCESS_DENIED, None, ()
    asked = _as_access(request)
    nobody = Client(0, station, "", "", local=False)
    tried = [entry for entry in entries if not model.hidden(entry, asked, nobody)]
    numbers = []
    for entry in tried:
        number = _obstacle(model, entry, request) or _short(model, entry, request, most, keep, needs_unit=True)
        if number is None:
            return Choice(entry, needs_unit=True)
        numbers.append(number)
    untrusted = model.untrusted(asked)
    if not tried and not untrusted:
        unknown = request.container is not None and request.container not in model.boxes
        return _unless_starting(model, ErrorNumber.BOX_NOT_FOUND if unknown else ErrorNumber.ENTRY_NOT_FOUND)
    numbers += [ErrorNumber.FIRM_ITEM_INVALID for _ in untrusted]
    tried += [(container, request.firm_code, 0) for container in untrusted]
    reasons = tuple(
        (entry[0], entry[1], request.product_code, entry[2], int(number))
        for entry, number in zip(tried, numbers, strict=True)
    )
    if model.starting:
        return ErrorNumber.SERVER_STARTING, None, reasons
    if ErrorNumber.NO_MORE_LICENSES in numbers:
        return ErrorNumber.NO_MORE_LICENSES, None, reasons
    return (numbers[0] if len(set(numbers)) == 1 else ErrorNumber.SEVERAL_REASONS), None, reasons


def _unless_starting(model: Model, number: ErrorNumber) -> Why:
    return ErrorNumber.SERVER_STARTING if model.starting else number, None, ()


def _held_off(model: Model, station: Station, firm_code: int, product_code: int) -> bool:
    return any(one[:3] == (station, firm_code, product_code) and model.now < one[3] for one in model.held_off)


def _obstacle(model: Model, entry: Entry, request: Borrow | Lend) -> ErrorNumber | None:
    """Return why an entry is of no use to who takes it along; which access modes it forbids is no matter."""
    if not model.boxes[entry[0]].present:
        return ErrorNumber.BOX_LOST
    asked = _as_access(request)
    numbers = [
        model.misfit(entry, Request(asked.key, mode=mode, feature_code=asked.feature_code)) for mode in AccessMode
    ]
    others = [number for number in numbers if number is not ErrorNumber.WRONG_ACCESS_MODE]
    if others and others[0] is not None:
        return others[0]
    return model.stale(entry, asked)


def _terms(model: Model, entry: Entry, request: Borrow | Lend, most: int) -> ErrorNumber | None:
    item = model.options(entry)
    if item.borrowing is None or item.units is not None or request.seconds > item.borrowing.seconds:
        return ErrorNumber.BORROW_FAILED
    return ErrorNumber.BORROW_FAILED if request.seconds > most else None


def _short(
    model: Model, entry: Entry, request: Borrow | Lend, most: int, keep: int, needs_unit: bool
) -> ErrorNumber | None:
    """Return why one more of an entry cannot be lent."""
    item = model.options(entry)
    if number := _terms(model, entry, request, most):
        return number
    assert item.borrowing is not None
    out = model.out(entry)
    if out + 1 > item.borrowing.licenses or (keep and out + 1 > item.quantity - keep):
        return ErrorNumber.BORROW_FAILED
    if needs_unit and model.used(entry, model.taken) + 1 > item.quantity:
        return ErrorNumber.NO_MORE_LICENSES
    return None
