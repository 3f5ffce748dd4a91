"""The chip's ledger of what is borrowed: who may take how many along until when, and who may give them back.

Pure functions from the old state to the new one; all raise `No`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from drivers.chip.contents import Contents
from drivers.chip.seal import TAIL
from drivers.chip.state import Loan, State, size
from drivers.chip.status import LEDGER_FULL, NO_ITEM, NONE_LEFT, NOT_BORROWABLE, NOT_SIGNED, TOO_LONG, No, expect
from drivers.chip.update import LATEST

SKEW: Final = 60
"""Seconds for which a loan is counted after its end: its holder's clock may be that much behind."""

_NO_ID: Final = bytes(16)
_RETURN_PREFIX: Final = b"cmreturn\x00\x01"


def standing(state: State, floor: int) -> Mapping[bytes, Loan]:
    """Return the loans that are not over at this time."""
    return {name: loan for name, loan in state.loans.items() if floor < loan.end + SKEW}


def lent(state: State, contents: Contents, floor: int, name: bytes, asked: Loan) -> State | None:
    """Return the state with this loan in it; None if it stands already, until then or later."""
    expect(name != _NO_ID and asked.quantity > 0)
    others = dict(standing(state, floor))
    known = others.pop(name, None)
    if known is not None:
        expect(known._replace(end=asked.end) == asked)
        if asked.end <= known.end:
            return None
    _check_terms(contents, floor, asked, sum(each.quantity for each in others.values() if each[:2] == asked[:2]))
    after = replace(state, floor=floor, loans={**others, name: asked})
    needed = size(len(state.used.keys() | contents.counted), len(after.loans)) + TAIL
    if known is None and needed > contents.state_limit:
        raise No(LEDGER_FULL)
    return after


def _check_terms(contents: Contents, floor: int, asked: Loan, taken: int) -> None:
    """Refuse what the licensor does not allow, when `taken` of the item's licenses are out already."""
    product = contents.product(asked.firm_code, asked.reference)
    if product is None:
        raise No(NO_ITEM)
    if product.borrowing is None or not product.quantity:
        raise No(NOT_BORROWABLE)
    if not floor < asked.end <= min(floor + product.borrowing.seconds, LATEST):
        raise No(TOO_LONG)
    if taken + asked.quantity > min(product.quantity, product.borrowing.licenses):
        raise No(NONE_LEFT)


def given_back(state: State, owner: bytes, floor: int, name: bytes, signature: bytes) -> State | None:
    """Return the state without this loan, whose holder signed that; None if it does not stand."""
    loans = dict(standing(state, floor))
    loan = loans.pop(name, None)
    if loan is None:
        return None
    try:
        Ed25519PublicKey.from_public_bytes(loan.holder).verify(signature, _RETURN_PREFIX + owner + name)
    except (InvalidSignature, ValueError):
        raise No(NOT_SIGNED) from None
    return replace(state, floor=floor, loans=loans)
