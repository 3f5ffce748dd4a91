"""What the chip counts and remembers: one state slot as a value, its bytes, and the ways in which it changes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SLOT_LENGTH: Final = 4096
RECEIPTS: Final = 64
NO_NONCE: Final = bytes(32)

_HEAD: Final = struct.Struct("<QqHHHH32sq")
_ITEM: Final = struct.Struct("<IIIq")
_LOAN: Final = struct.Struct("<16sIIIq32s")
_RECEIPT: Final = struct.Struct("<16sIIII")
_SIGNED_LENGTH: Final = SLOT_LENGTH - 68
_FILLED_LENGTH: Final = SLOT_LENGTH - 69
_PREFIX: Final = b"cmstate\x00\x01"


class Full(Exception):
    """The state does not fit into its slot."""


class Used(NamedTuple):
    """What was used of a product item."""

    units: int = 0
    start: int = 0


class Loan(NamedTuple):
    """What somebody took along, until when, and his public key."""

    firm_code: int
    reference: int
    quantity: int
    end: int
    holder: bytes


class Receipt(NamedTuple):
    """What a use took, and what was left then."""

    firm_code: int
    reference: int
    units: int
    units_left: int


@dataclass(frozen=True)
class State:
    """A slot's contents; `loans` are by their ids, `receipts` by their keys, the oldest first."""

    sequence: int
    floor: int
    used: Mapping[tuple[int, int], Used] = field(default_factory=dict)
    loans: Mapping[bytes, Loan] = field(default_factory=dict)
    receipts: Mapping[bytes, Receipt] = field(default_factory=dict)
    nonce: bytes = NO_NONCE
    asked: int = 0


def fits(counters: int, loans: int) -> bool:
    """Whether a slot has room for all these, and for as many receipts as there can be."""
    return _HEAD.size + counters * _ITEM.size + loans * _LOAN.size + RECEIPTS * _RECEIPT.size <= _FILLED_LENGTH


class Slots:
    """Slots of one container: read, and written with its signature."""

    def __init__(self, owner: bytes, private: bytes) -> None:
        self._statement = _PREFIX + owner
        self._key = Ed25519PrivateKey.from_private_bytes(private)

    def write(self, state: State) -> bytes:
        """Return the slot. Raises Full."""
        filled = _HEAD.pack(
            state.sequence,
            state.floor,
            len(state.used),
            len(state.loans),
            len(state.receipts),
            0,
            state.nonce,
            state.asked,
        )
        filled += b"".join(_ITEM.pack(*item, *used) for item, used in state.used.items())
        filled += b"".join(_LOAN.pack(name, *loan) for name, loan in state.loans.items())
        filled += b"".join(_RECEIPT.pack(key, *receipt) for key, receipt in state.receipts.items())
        if len(filled) > _FILLED_LENGTH:
            raise Full
        signed = filled.ljust(_FILLED_LENGTH, b"\0") + b"\x01"
        covered = signed + self._key.sign(self._statement + signed)
        return covered + struct.pack("<I", zlib.crc32(covered))

    def read(self, slot: bytes) -> State | None:
        """Return the state, None if the slot is torn or not this container's."""
        if len(slot) != SLOT_LENGTH or slot[-4:] != struct.pack("<I", zlib.crc32(slot[:-4])):
            return None
        try:
            self._key.public_key().verify(slot[_SIGNED_LENGTH:-4], self._statement + slot[:_SIGNED_LENGTH])
        except InvalidSignature:
            return None
        sequence, floor, items, loans, receipts, _, nonce, asked = _HEAD.unpack_from(slot)
        loans_at = _HEAD.size + items * _ITEM.size
        receipts_at = loans_at + loans * _LOAN.size
        used = {
            (firm_code, reference): Used(units, start)
            for firm_code, reference, units, start in _ITEM.iter_unpack(slot[_HEAD.size : loans_at])
        }
        lent = {name: Loan(*loan) for name, *loan in _LOAN.iter_unpack(slot[loans_at:receipts_at])}
        remembered = {
            key: Receipt(*receipt)
            for key, *receipt in _RECEIPT.iter_unpack(slot[receipts_at : receipts_at + receipts * _RECEIPT.size])
        }
        return State(sequence, floor, used, lent, remembered, nonce, asked)
