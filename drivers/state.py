"""What changes in a container in the field: units used, first uses, its clock, what is lent out (decisions 5 and 21).

It is a whole state, and behind it the changes since, each with the next sequence number, so that a device need not
write everything for each one. No licensor signs any of it; the container itself does, if it has a key. In images of the
first version there are two slots instead, each with a whole state: a device writes the one that is not in force.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - an exception, so named like one
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import astuple, replace

from drivers import keys
from drivers.container import LATEST, UNITS_LIMIT, Loan
from drivers.cursor import Cursor
from drivers.driver import ImageError
from drivers.firm_item import Owner, encode_owner
from drivers.trust import ED25519

NO_COUNTER: Final = UNITS_LIMIT + 1
"""Stands for the units that are left of an item without units."""

RECEIPTS: Final = 64
"""Uses whose results a container remembers."""

_WHOLE: Final = b"cmstate\x00\x01"
_CHANGE: Final = b"cmchange\x00\x02"
"""Tell a whole state, and a change, from all else that is signed; of a change the hash of all before it is next."""
_HEAD: Final = Layout("<QqHHHH32sq")
_ITEM: Final = Layout("<IIIq")
_LOAN: Final = Layout("<16sIIIq32s")
_RECEIPT: Final = Layout("<16sIIII")
_STRUCK: Final = Layout("<16s")
_SIGNATURE: Final = Layout("<B64s")
_CHECKSUM: Final = Layout("<I")
_TAIL: Final = _SIGNATURE.size + _CHECKSUM.size
_UNSIGNED: Final = bytes(keys.SIGNATURE_LENGTH)


class ItemState(Struct, frozen=True):
    """What was used of one product item. `usage_start` is in Unix seconds, 0 if its use has not begun."""

    firm_code: int
    reference: int
    units_used: int = 0
    usage_start: int = 0


class Receipt(Struct, frozen=True):
    """The result of a use that the container counted, by the key (16 bytes) under which it was asked for.

    `units` were taken; `units_left` were left then, NO_COUNTER if the item has none.
    """

    key: bytes
    firm_code: int
    reference: int
    units: int
    units_left: int


class State(Struct, frozen=True):
    """The state of a container. `time_floor` is the latest license time it knows of, in Unix seconds.

    `receipts` are of the last 64 uses, the oldest first. `nonce` (32 bytes) waits for a certified time since the
    license time `asked`; both are zero if none does.
    """

    sequence: int = 0
    time_floor: int = 0
    items: tuple[ItemState, ...] = ()
    loans: tuple[Loan, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    nonce: bytes = bytes(32)
    asked: int = 0


class _Record(NamedTuple):
    """What a record says: all that there is, or what is new and the ids of the loans that are struck off."""

    state: State
    struck: tuple[bytes, ...]


def encode(state: State, limit: int, owner: Owner, private: bytes | None = None, *, padded: bool = False) -> bytes:
    """Return the record of a whole state, signed with the container's private key if that is given.

    It is a slot of `limit` bytes if it is `padded`, else as long as it need be. Raises ImageError if the state takes
    more than `limit`.
    """
    try:
        filled = b"".join(
            (
                _HEAD.pack(
                    state.sequence,
                    state.time_floor,
                    len(state.items),
                    len(state.loans),
                    len(state.receipts),
                    0,
                    state.nonce,
                    state.asked,
                ),
                *(_ITEM.pack(*astuple(item)) for item in state.items),
                *(_LOAN.pack(*astuple(loan)) for loan in state.loans),
                *(_RECEIPT.pack(*astuple(receipt)) for receipt in state.receipts),
            )
        )
    except LayoutError as error:
        msg = f"The container's state cannot be written: {error}."
        raise ImageError(msg) from None
    if len(filled) > limit - _TAIL:
        msg = f"The container's state takes {len(filled)} bytes; it has room for {limit - _TAIL}."
        raise ImageError(msg)
    signed = filled.ljust(limit - _TAIL if padded else 0, b"\0") + bytes([private is not None])
    covered = signed + (_UNSIGNED if private is None else keys.sign(private, _WHOLE + encode_owner(owner) + signed))
    return covered + _CHECKSUM.pack(zlib.crc32(covered))


def decode(octets: bytes, owner: Owner) -> State:
    """Return the state that a whole one of this container and the changes behind it make.

    Raises ImageError if any of them is damaged, not the container's own, or not the next one.
    """
    items: dict[tuple[int, int], ItemState] = {}
    loans: dict[bytes, Loan] = {}
    receipts: dict[bytes, Receipt] = {}
    for new, struck in (records := _records(octets, owner)):
        items.update(((item.firm_code, item.reference), item) for item in new.items)
        for gone in (*struck, *(loan.id for loan in new.loans)):
            loans.pop(gone, None)
        loans.update((loan.id, loan) for loan in new.loans)
        receipts.update((receipt.key, receipt) for receipt in new.receipts)
        receipts = dict(islice(receipts.items(), max(0, len(receipts) - RECEIPTS), None))
    return replace(
        records[-1].state,
        items=tuple(items.values()),
        loans=tuple(loans.values()),
        receipts=tuple(receipts.values()),
    )


def _records(octets: bytes, owner: Owner) -> list[_Record]:
    cursor = Cursor(octets, "the state")
    last = _taken(cursor)
    records = [_Record(_decode_whole(last, owner), ())]
    while not cursor.done:
        last = _taken(cursor)
        change = _decode_record(last, owner)
        before, after = records[-1].state.sequence, change.state.sequence
        if after != before + 1:
            msg = f"The image is damaged: state {after} comes after state {before}."
            raise ImageError(msg)
        records.append(change)
    # Who signed the last one signed all before it.
    before_it = octets[: len(octets) - len(last)]
    _check_signature(last, owner, _CHANGE + sha256(before_it).digest() if before_it else _WHOLE)
    return records


def _taken(cursor: Cursor) -> bytes:
    """Return the next record, with its signature and checksum."""
    head = cursor.take(_HEAD.size)
    _, _, items, loans, receipts, struck, _, _ = _HEAD.unpack(head)
    length = items * _ITEM.size + loans * _LOAN.size + receipts * _RECEIPT.size + struck * _STRUCK.size
    return head + cursor.take(length + _TAIL)


def decode_whole(record: bytes, owner: Owner) -> State:
    """Return the state in a record, or a slot, that has all of it.

    Raises ImageError if it is damaged, half written, or not the container's own.
    """
    found = _decode_whole(record, owner)
    _check_signature(record, owner, _WHOLE)
    return found


def _decode_whole(record: bytes, owner: Owner) -> State:
    found = _decode_record(record, owner)
    if found.struck:
        msg = "The image is damaged: a whole state strikes loans off."
        raise ImageError(msg)
    return found.state


def _decode_record(record: bytes, owner: Owner) -> _Record:
    """Return what a record says, whoever signed it. Raises ImageError if it is damaged."""
    cursor = Cursor(record, "a record of the state")
    covered = cursor.take(max(len(record), _TAIL) - _CHECKSUM.size)
    (checksum,) = cursor.unpack(_CHECKSUM)
    if checksum != zlib.crc32(covered):
        msg = "The image is damaged: the checksum of a record of its state is wrong."
        raise ImageError(msg)
    _check_algorithm(covered, owner)
    cursor = Cursor(covered[: -_SIGNATURE.size], "a record of the state")
    sequence, time_floor, items, loans, receipts, struck, nonce, asked = cursor.unpack(_HEAD)
    state = State(
        sequence,
        time_floor,
        tuple(ItemState(*cursor.unpack(_ITEM)) for _ in range(items)),
        tuple(Loan(*cursor.unpack(_LOAN)) for _ in range(loans)),
        tuple(Receipt(*cursor.unpack(_RECEIPT)) for _ in range(receipts)),
        nonce,
        asked,
    )
    found = _Record(state, tuple(name for _ in range(struck) for name in cursor.unpack(_STRUCK)))
    if cursor.rest().strip(b"\0"):
        msg = "The image is damaged: the room left in a record of its state is not empty."
        raise ImageError(msg)
    if not all(0 <= each <= LATEST for each in _times(state)):
        msg = "The container's state has a time that no license time can be; have the container exchanged."
        raise ImageError(msg)
    return found


def _times(state: State) -> Iterator[int]:
    """Return all license times in a state. One that no clock comes to would stop everybody's, or begin no period."""
    yield state.time_floor
    yield state.asked
    yield from (item.usage_start for item in state.items)
    yield from (loan.end for loan in state.loans)


def _check_algorithm(covered: bytes, owner: Owner) -> None:
    """Raise ImageError unless a record says that it is signed as its container's key demands."""
    algorithm, signature = _SIGNATURE.unpack(covered[-_SIGNATURE.size :])
    if owner.key_algorithm not in {0, ED25519}:
        msg = (
            f"The container's key is of algorithm {owner.key_algorithm}, which this software does not know; update it."
        )
        raise ImageError(msg)
    if algorithm != owner.key_algorithm:
        msg = "The container's state is signed in another way than its key demands; have the container exchanged."
        raise ImageError(msg)
    if not algorithm and signature != _UNSIGNED:
        raise _not_its_own()


def _check_signature(record: bytes, owner: Owner, prefix: bytes) -> None:
    """Raise ImageError unless a record of the right algorithm is its container's own; none need be if it has no key."""
    signed, signature = record[: -_TAIL + 1], record[-_TAIL + 1 : -_CHECKSUM.size]
    if owner.key_algorithm and not keys.verify(owner.key, signature, prefix + encode_owner(owner) + signed):
        raise _not_its_own()


def _not_its_own() -> ImageError:
    return ImageError("The signature of the container's state is not its own; have the container exchanged.")


def in_force(slots: tuple[bytes, bytes], owner: Owner) -> State:
    """Return the state that counts in an image of the first version: the later one of the valid slots.

    Raises ImageError if no slot is valid.
    """
    valid: list[State] = []
    faults: list[str] = []
    for slot in slots:
        try:
            valid.append(decode_whole(slot, owner))
        except ImageError as error:
            faults.append(str(error))
    if not valid:
        msg = f"Neither of the container's two states can be used. {' '.join(dict.fromkeys(faults))}"
        raise ImageError(msg)
    return max(valid, key=lambda state: state.sequence)
