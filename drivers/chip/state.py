"""What the chip counts and remembers, as a value, and as the bytes of a record: a whole state, or a change of one."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, NamedTuple

RECEIPTS: Final = 64
NO_NONCE: Final = bytes(32)

_HEAD: Final = struct.Struct("<QqHHHH32sq")
HEAD_LENGTH: Final = _HEAD.size
"""The bytes with which each record begins."""
_ITEM: Final = struct.Struct("<IIIq")
_LOAN: Final = struct.Struct("<16sIIIq32s")
_RECEIPT: Final = struct.Struct("<16sIIII")
_NAME: Final = struct.Struct("<16s")


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
    """All of it; `loans` are by their ids, `receipts` by their keys, the oldest first."""

    sequence: int
    floor: int
    used: Mapping[tuple[int, int], Used] = field(default_factory=dict)
    loans: Mapping[bytes, Loan] = field(default_factory=dict)
    receipts: Mapping[bytes, Receipt] = field(default_factory=dict)
    nonce: bytes = NO_NONCE
    asked: int = 0


def size(counters: int, loans: int, receipts: int = RECEIPTS) -> int:
    """Return how many bytes so many of each take in the record of a whole state."""
    return HEAD_LENGTH + counters * _ITEM.size + loans * _LOAN.size + receipts * _RECEIPT.size


def size_of(state: State) -> int:
    """Return how many bytes the record of this whole state has."""
    return size(len(state.used), len(state.loans), len(state.receipts))


def whole_record(state: State) -> bytes:
    """Return the record of a whole state."""
    return _record(state, state, ())


def change_record(before: State, after: State) -> bytes:
    """Return the record of what is other in `after`: what is new in it, and the ids of the loans that are struck off.

    Of counters and receipts none goes but the oldest of 65 receipts: an update, which drops some, writes a whole state.
    """
    new = replace(
        after,
        used={item: used for item, used in after.used.items() if before.used.get(item) != used},
        loans={name: loan for name, loan in after.loans.items() if before.loans.get(name) != loan},
        receipts={key: receipt for key, receipt in after.receipts.items() if key not in before.receipts},
    )
    return _record(after, new, tuple(before.loans.keys() - after.loans.keys()))


def _record(state: State, new: State, struck: Sequence[bytes]) -> bytes:
    counts = (len(new.used), len(new.loans), len(new.receipts), len(struck))
    return b"".join(
        (
            _HEAD.pack(state.sequence, state.floor, *counts, state.nonce, state.asked),
            *(_ITEM.pack(*item, *used) for item, used in new.used.items()),
            *(_LOAN.pack(name, *loan) for name, loan in new.loans.items()),
            *(_RECEIPT.pack(key, *receipt) for key, receipt in new.receipts.items()),
            *struck,
        )
    )


def length_of(head: bytes) -> int:
    """Return how many bytes the record has that begins so; `head` has HEAD_LENGTH bytes."""
    _, _, items, loans, receipts, struck, _, _ = _HEAD.unpack(head)
    return int(size(items, loans, receipts) + struck * _NAME.size)


def sequence_of(record: bytes) -> int:
    """Return the sequence number that a record says."""
    (number, *_) = _HEAD.unpack_from(record)
    return int(number)


def changed(before: State, record: bytes) -> State:
    """Return the state after a change; a whole state is one of an empty state."""
    sequence, floor, items, loans, receipts, struck, nonce, asked = _HEAD.unpack_from(record)
    loans_at = HEAD_LENGTH + items * _ITEM.size
    receipts_at = loans_at + loans * _LOAN.size
    struck_at = receipts_at + receipts * _RECEIPT.size
    used = {
        (firm_code, reference): Used(units, start)
        for firm_code, reference, units, start in _ITEM.iter_unpack(record[HEAD_LENGTH:loans_at])
    }
    lent = {name: Loan(*loan) for name, *loan in _LOAN.iter_unpack(record[loans_at:receipts_at])}
    remembered = {key: Receipt(*receipt) for key, *receipt in _RECEIPT.iter_unpack(record[receipts_at:struck_at])}
    gone = lent.keys() | {name for (name,) in _NAME.iter_unpack(record[struck_at : struck_at + struck * _NAME.size])}
    return State(
        sequence,
        floor,
        {**before.used, **used},
        {**{name: loan for name, loan in before.loans.items() if name not in gone}, **lent},
        latest({**before.receipts, **remembered}),
        nonce,
        asked,
    )


def latest(receipts: Mapping[bytes, Receipt]) -> Mapping[bytes, Receipt]:
    """Return the last ones, as many as are remembered."""
    return dict(islice(receipts.items(), max(0, len(receipts) - RECEIPTS), None))
