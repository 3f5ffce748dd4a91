"""Updates as the chip takes them: checked to the last byte before anything is written."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from drivers.chip.contents import (
    KEY_LENGTH,
    OWNER_LENGTH,
    SIGNATURE_LENGTH,
    Contents,
    Firm,
    Malformed,
    Product,
    sealed_firm,
)
from drivers.chip.state import NO_NONCE, State, Used

BAD_REQUEST, UPDATE_TOO_OLD, UPDATE_TOO_NEW, NOT_SIGNED, NOT_FOR_THIS_CONTAINER = 3, 11, 12, 13, 14

LATEST: Final = 253_402_300_799
"""The end of the year 9999: no license time is after it."""

_HEAD: Final = struct.Struct(f"<8sBB{OWNER_LENGTH}s")
_MAGIC: Final = b"cmupdate"
_FIRM: Final = struct.Struct("<III")
_TIME: Final = struct.Struct(f"<32sq{KEY_LENGTH}s")
_ANY: Final = 2**32 - 1
_FIRM_ITEM, _CERTIFIED_TIME = 1, 2


class Refused(Exception):
    """The update is not applied; `status` says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Applied(NamedTuple):
    """What the image is to be: `fixed` is None if only the state changes."""

    fixed: bytes | None
    state: State


def applied(update: bytes, contents: Contents, state: State) -> Applied:
    """Return what an update makes of the image. Raises Refused."""
    try:
        magic, version, kind, owner = _HEAD.unpack_from(update)
        if (magic, version) != (_MAGIC, 1):
            raise Refused(BAD_REQUEST)
        if kind == _FIRM_ITEM:
            return _new_firm(update, owner, contents, state)
        if kind == _CERTIFIED_TIME:
            return _new_time(update, owner, contents, state)
    except (struct.error, Malformed):
        pass
    raise Refused(BAD_REQUEST)


def _new_firm(update: bytes, owner: bytes, contents: Contents, state: State) -> Applied:
    code, base, length = _FIRM.unpack_from(update, _HEAD.size)
    at = _HEAD.size + _FIRM.size
    if len(update) != at + length + SIGNATURE_LENGTH + KEY_LENGTH + SIGNATURE_LENGTH:
        raise Refused(BAD_REQUEST)
    signed = update[at : at + length]
    signature = update[at + length : at + length + SIGNATURE_LENGTH]
    key = update[-SIGNATURE_LENGTH - KEY_LENGTH : -SIGNATURE_LENGTH]
    firm = sealed_firm(key, signed, signature)
    if firm.code != code:
        raise Refused(BAD_REQUEST)
    if {owner, firm.owner} != {contents.owner}:
        raise Refused(NOT_FOR_THIS_CONTAINER)
    _verify(key, update[-SIGNATURE_LENGTH:], update[:-SIGNATURE_LENGTH])
    _verify(key, signature, signed)
    present = contents.firms.get(code)
    if present is not None:
        if present.licensor != key:
            raise Refused(NOT_SIGNED)
        if firm.counter <= present.counter:
            raise Refused(UPDATE_TOO_OLD)
    if base not in {_ANY, None if present is None else present.counter}:
        raise Refused(UPDATE_TOO_NEW)
    used = {item: each for item, each in state.used.items() if item[0] != code}
    used |= {(code, reference): each for reference, each in _still_used(state, present, firm).items()}
    receipts = {
        key: each
        for key, each in state.receipts.items()
        if each.firm_code != code or _all_counts_on(present, firm, each.reference)
    }
    return Applied(contents.with_firm(firm), replace(state, sequence=state.sequence + 1, used=used, receipts=receipts))


def _still_used(state: State, present: Firm | None, firm: Firm) -> dict[int, Used]:
    """Return what counts on: an allowance of another generation begins anew, and one that is gone is forgotten."""
    kept: dict[int, Used] = {}
    for reference, product in firm.products.items():
        before = present.products.get(reference) if present is not None else None
        used = state.used.get((firm.code, reference))
        if before is None or used is None:
            continue
        counted = Used(
            used.units if _counts_on(before, product, "units") else 0,
            used.start if _counts_on(before, product, "usage") else 0,
        )
        if any(counted):
            kept[reference] = counted
    return kept


def _all_counts_on(present: Firm | None, firm: Firm, reference: int) -> bool:
    """Whether nothing of an item begins anew: else a receipt tells of a count that is over."""
    before = None if present is None else present.products.get(reference)
    after = firm.products.get(reference)
    return before is not None and after is not None and _generations(before) == _generations(after)


def _generations(product: Product) -> list[int | None]:
    return [None if each is None else each.generation for each in (product.units, product.usage)]


def _counts_on(before: Product, after: Product, name: str) -> bool:
    old, new = getattr(before, name), getattr(after, name)
    return old is not None and new is not None and old.generation == new.generation


def _new_time(update: bytes, owner: bytes, contents: Contents, state: State) -> Applied:
    if len(update) != _HEAD.size + _TIME.size + SIGNATURE_LENGTH:
        raise Refused(BAD_REQUEST)
    nonce, certified, key = _TIME.unpack_from(update, _HEAD.size)
    if owner != contents.owner:
        raise Refused(NOT_FOR_THIS_CONTAINER)
    _verify(key, update[-SIGNATURE_LENGTH:], update[:-SIGNATURE_LENGTH])
    if key not in [firm.licensor for firm in contents.firms.values()][:1]:  # whoever adds an item owns no clock
        raise Refused(NOT_SIGNED)
    if NO_NONCE in {nonce, state.nonce} or nonce != state.nonce:
        raise Refused(UPDATE_TOO_OLD)
    floor = certified + (state.floor - state.asked)
    if not 0 <= floor <= LATEST:
        raise Refused(BAD_REQUEST)
    return Applied(None, replace(state, sequence=state.sequence + 1, floor=floor, nonce=NO_NONCE, asked=0))


def _verify(key: bytes, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise Refused(NOT_SIGNED) from None
