"""What changes in a container in the field: units used, first uses, its clock, what is lent out (decisions 5 and 21).

It lies in the image in two slots. A device writes the one that is not in force and raises the sequence number, so
that a cut in mid-write leaves the other. No licensor signs any of it; the container itself does, if it has a key.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - an exception, so named like one
from typing import Final

from msgspec import Struct
from msgspec.structs import astuple

from drivers import keys
from drivers.container import LATEST, UNITS_LIMIT, Loan
from drivers.cursor import Cursor
from drivers.driver import ImageError
from drivers.firm_item import Owner, encode_owner
from drivers.trust import ED25519

NO_COUNTER: Final = UNITS_LIMIT + 1
"""Stands for the units that are left of an item without units."""

_PREFIX: Final = b"cmstate\x00\x01"
"""Tells a slot from all else that a container signs."""
_HEAD: Final = Layout("<QqHHHH32sq")
_ITEM: Final = Layout("<IIIq")
_LOAN: Final = Layout("<16sIIIq32s")
_RECEIPT: Final = Layout("<16sIIII")
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


def encode(state: State, length: int, owner: Owner, private: bytes | None = None) -> bytes:
    """Return a slot of `length` bytes, signed with the container's private key if that is given.

    Raises ImageError if the state does not fit.
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
    if len(filled) > length - _TAIL:
        msg = f"The container's state takes {len(filled)} bytes; its slots have room for {length - _TAIL}."
        raise ImageError(msg)
    signed = filled.ljust(length - _TAIL, b"\0") + bytes([private is not None])
    covered = signed + (_UNSIGNED if private is None else keys.sign(private, _statement(signed, owner)))
    return covered + _CHECKSUM.pack(zlib.crc32(covered))


def _statement(signed: bytes, owner: Owner) -> bytes:
    """Return what the container signs: whose state it is, and all of the slot before the signature."""
    return _PREFIX + encode_owner(owner) + signed


def decode(slot: bytes, owner: Owner) -> State:
    """Return the state in a slot of this container.

    Raises ImageError if the slot is damaged, half written, or not the container's own.
    """
    cursor = Cursor(slot, "a state slot")
    covered = cursor.take(max(len(slot), _TAIL) - _CHECKSUM.size)
    (checksum,) = cursor.unpack(_CHECKSUM)
    if checksum != zlib.crc32(covered):
        msg = "The image is damaged: the checksum of a state slot is wrong."
        raise ImageError(msg)
    _check_signature(covered, owner)
    cursor = Cursor(covered[: -_SIGNATURE.size], "a state slot")
    sequence, time_floor, items, loans, receipts, reserved, nonce, asked = cursor.unpack(_HEAD)
    state = State(
        sequence,
        time_floor,
        tuple(ItemState(*cursor.unpack(_ITEM)) for _ in range(items)),
        tuple(Loan(*cursor.unpack(_LOAN)) for _ in range(loans)),
        tuple(Receipt(*cursor.unpack(_RECEIPT)) for _ in range(receipts)),
        nonce,
        asked,
    )
    if reserved or cursor.rest().strip(b"\0"):
        msg = "The image is damaged: the room left in a state slot is not empty."
        raise ImageError(msg)
    if not all(0 <= each <= LATEST for each in _times(state)):
        msg = "The container's state has a time that no license time can be; have the container exchanged."
        raise ImageError(msg)
    return state


def _times(state: State) -> Iterator[int]:
    """Return all license times in a state. One that no clock comes to would stop everybody's, or begin no period."""
    yield state.time_floor
    yield state.asked
    yield from (item.usage_start for item in state.items)
    yield from (loan.end for loan in state.loans)


def _check_signature(covered: bytes, owner: Owner) -> None:
    """Raise ImageError unless the slot is signed as its container's key demands: by it, or by nobody."""
    algorithm, signature = _SIGNATURE.unpack(covered[-_SIGNATURE.size :])
    if owner.key_algorithm not in {0, ED25519}:
        msg = (
            f"The container's key is of algorithm {owner.key_algorithm}, which this software does not know; update it."
        )
        raise ImageError(msg)
    if algorithm != owner.key_algorithm:
        msg = "The container's state is signed in another way than its key demands; have the container exchanged."
        raise ImageError(msg)
    sound = (
        keys.verify(owner.key, signature, _statement(covered[: -len(signature)], owner))
        if algorithm
        else signature == _UNSIGNED
    )
    if not sound:
        msg = "The signature of the container's state is not its own; have the container exchanged."
        raise ImageError(msg)


def in_force(slots: tuple[bytes, bytes], owner: Owner) -> State:
    """Return the state that counts: of the valid slots the one with the higher sequence number.

    Raises ImageError if no slot is valid.
    """
    valid: list[State] = []
    faults: list[str] = []
    for slot in slots:
        try:
            valid.append(decode(slot, owner))
        except ImageError as error:
            faults.append(str(error))
    if not valid:
        msg = f"Neither of the container's two states can be used. {' '.join(dict.fromkeys(faults))}"
        raise ImageError(msg)
    return max(valid, key=lambda state: state.sequence)
