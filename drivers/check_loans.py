"""The part of the conformance check that borrows a license and gives it back: the ledger must be right at each step."""

from __future__ import annotations

import secrets
from functools import partial
from typing import Final

from msgspec.structs import replace

from drivers import keys, statement
from drivers.container import Borrowing, Loan
from drivers.driver import Device, Purpose
from drivers.image import Image, decode
from drivers.trust import Trust
from drivers.trying import call, check_statement, expect_refused, fail, image_of

_NO_ITEM: Final = 28
_NOT_SIGNED: Final = 211
_NOT_LENT: Final = 226
_ROUNDS: Final = 100
"""So often a license goes and comes back that a device which writes each change behind the last one begins anew."""


def check_lending(device: Device, firm_code: int, reference: int) -> None:
    """Raise NonConforming unless one license of the item is lent, extended and given back as it must be, and often."""
    image = image_of(device)
    now = call(lambda: device.time(0), "time")
    last = now + _terms(device, image, firm_code, reference).seconds
    private = keys.generate()
    loan = Loan(secrets.token_bytes(16), firm_code, reference, 1, last - 1, keys.public_of(private))

    expect_refused(
        _NOT_LENT, lambda: device.borrow(replace(loan, end=last + 1), now), "borrow for longer than is allowed"
    )
    expect_refused(_NO_ITEM, lambda: device.borrow(replace(loan, reference=0), now), "borrow of an unknown item")
    body = statement.borrow_body(loan.id, secrets.token_bytes(32))
    expect_refused(_NO_ITEM, lambda: device.sign(Purpose.BORROW, body), "sign for an unknown loan")
    _check_ledger(device, image, "a refused loan")

    extended = replace(loan, end=last)
    for asked, stands, what in (
        (loan, loan, "borrow"),
        (loan, loan, "borrow once more"),
        (extended, extended, "borrow until later"),
        (loan, extended, "borrow until earlier"),
    ):
        end = call(partial(device.borrow, asked, now), what)
        if type(end) is not int or end != stands.end:
            fail(f"{what} returned {end!r}; the loan ends at {stands.end}")
        _check_ledger(device, image, what, stands)
    _check_certificate(device, image, body, extended)
    _check_return(device, image, extended, private, now)
    _check_many(device, loan, private, now)


def _terms(device: Device, image: Image, firm_code: int, reference: int) -> Borrowing:
    """Return what the licensor allows, whoever he is."""
    sealed = image.sealed.get(firm_code)
    believed = Trust({firm_code: sealed.licensor}) if sealed is not None else Trust()
    items = {
        (firm.firm_code, item.reference): item
        for firm in decode(call(device.read, "read"), believed).firm_items
        for item in firm.products
    }
    found = items.get((firm_code, reference))
    if found is None or found.borrowing is None:
        fail(f"its item {reference} of firm code {firm_code} cannot be borrowed; name one that can")
    return found.borrowing


def _check_ledger(device: Device, before: Image, what: str, *stands: Loan) -> None:
    """The ledger is as it was before, with these loans besides."""
    if sorted(image_of(device).state.loans, key=_by_id) != sorted((*before.state.loans, *stands), key=_by_id):
        fail(f"after {what} the image shows another ledger than it must")


def _by_id(loan: Loan) -> bytes:
    return loan.id


def _check_certificate(device: Device, image: Image, body: bytes, loan: Loan) -> None:
    signed = call(lambda: device.sign(Purpose.BORROW, body), "sign for borrow")
    check_statement(Purpose.BORROW, body, image.owner, signed)
    said = statement.lent(signed)
    if Loan(loan.id, said.firm_code, said.reference, said.quantity, said.end, said.holder) != loan:
        fail("sign for borrow says something else than was borrowed")


def _check_return(device: Device, before: Image, loan: Loan, private: bytes, now: int) -> None:
    receipt = statement.return_receipt(before.owner, loan.id)
    stranger = keys.sign(keys.generate(), receipt)
    expect_refused(_NOT_SIGNED, lambda: device.give_back(loan.id, stranger, now), "give_back by somebody else")
    _check_ledger(device, before, "give_back by somebody else", loan)
    signature = keys.sign(private, receipt)
    for stood, what in ((True, "give_back"), (False, "give_back once more")):
        said = call(lambda: device.give_back(loan.id, signature, now), what)
        if said is not stood:
            fail(f"{what} returned {said!r}; it must return {stood}")
        _check_ledger(device, before, what)


def _check_many(device: Device, loan: Loan, private: bytes, now: int) -> None:
    """Loans that come and go leave the ledger as it was, and each change has the next sequence number."""
    before = image_of(device)
    for _ in range(_ROUNDS):
        each = replace(loan, id=secrets.token_bytes(16))
        signature = keys.sign(private, statement.return_receipt(before.owner, each.id))
        call(partial(device.borrow, each, now), "borrow, many times")
        if call(partial(device.give_back, each.id, signature, now), "give_back, many times") is not True:
            fail("after many loans give_back did not find the last one")
    _check_ledger(device, before, "many loans")
    changes = image_of(device).state.sequence - before.state.sequence
    if changes != 2 * _ROUNDS:
        fail(f"the sequence number of its state rose by {changes} in {2 * _ROUNDS} changes")
