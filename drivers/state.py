"""What changes in a container in the field: units used, first uses, its clock, what is lent out (decisions 5 and 21).

It lies in the image in two slots. A device writes the one that is not in force and raises the sequence number, so
that a cut in mid-write leaves the other. No licensor signs any of it; the container itself will.
"""

from __future__ import annotations

import zlib
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - an exception, so named like one
from typing import Final

from msgspec import Struct
from msgspec.structs import astuple

from drivers.cursor import Cursor
from drivers.driver import ImageError

_HEAD: Final = Layout("<QqHH")
_ITEM: Final = Layout("<IIIq")
_LOAN: Final = Layout("<16sIIIq32s")
_SIGNATURE: Final = Layout("<B64s")
_CHECKSUM: Final = Layout("<I")
_TAIL: Final = _SIGNATURE.size + _CHECKSUM.size
_UNSIGNED: Final = _SIGNATURE.pack(0, bytes(64))


class ItemState(Struct, frozen=True):
    """What was used of one product item. `usage_start` is in Unix seconds, 0 if its use has not begun."""

    firm_code: int
    reference: int
    units_used: int = 0
    usage_start: int = 0


class Loan(Struct, frozen=True):
    """One borrowed license. `id` has 16 bytes, `holder` is the borrower's public key, `end` in Unix seconds."""

    id: bytes
    firm_code: int
    reference: int
    quantity: int
    end: int
    holder: bytes


class State(Struct, frozen=True):
    """The state of a container. `time_floor` is the latest license time it knows of, in Unix seconds."""

    sequence: int = 0
    time_floor: int = 0
    items: tuple[ItemState, ...] = ()
    loans: tuple[Loan, ...] = ()


def encode(state: State, length: int) -> bytes:
    """Return a slot of `length` bytes. Raises ImageError if the state does not fit."""
    try:
        filled = b"".join(
            (
                _HEAD.pack(state.sequence, state.time_floor, len(state.items), len(state.loans)),
                *(_ITEM.pack(*astuple(item)) for item in state.items),
                *(_LOAN.pack(*astuple(loan)) for loan in state.loans),
            )
        )
    except LayoutError as error:
        msg = f"The container's state cannot be written: {error}."
        raise ImageError(msg) from None
    if len(filled) > length - _TAIL:
        msg = f"The container's state takes {len(filled)} bytes; its slots have room for {length - _TAIL}."
        raise ImageError(msg)
    covered = filled.ljust(length - _TAIL, b"\0") + _UNSIGNED
    return covered + _CHECKSUM.pack(zlib.crc32(covered))


def decode(slot: bytes) -> State:
    """Return the state in a slot. Raises ImageError if the slot is damaged or half written."""
    cursor = Cursor(slot, "a state slot")
    covered = cursor.take(max(len(slot), _TAIL) - _CHECKSUM.size)
    (checksum,) = cursor.unpack(_CHECKSUM)
    if checksum != zlib.crc32(covered):
        msg = "The image is damaged: the checksum of a state slot is wrong."
        raise ImageError(msg)
    cursor = Cursor(covered[: -_SIGNATURE.size], "a state slot")
    sequence, time_floor, items, loans = cursor.unpack(_HEAD)
    state = State(
        sequence,
        time_floor,
        tuple(ItemState(*cursor.unpack(_ITEM)) for _ in range(items)),
        tuple(Loan(*cursor.unpack(_LOAN)) for _ in range(loans)),
    )
    if covered[-_SIGNATURE.size :] != _UNSIGNED:
        msg = "The container's state is signed in a way that this software does not know; update it."
        raise ImageError(msg)
    if cursor.rest().strip(b"\0"):
        msg = "The image is damaged: the room left in a state slot is not empty."
        raise ImageError(msg)
    return state


def in_force(slots: tuple[bytes, bytes]) -> State:
    """Return the state that counts: of the valid slots the one with the higher sequence number.

    Raises ImageError if no slot is valid.
    """
    valid: list[State] = []
    faults: list[str] = []
    for slot in slots:
        try:
            valid.append(decode(slot))
        except ImageError as error:
            faults.append(str(error))
    if not valid:
        msg = f"Neither of the container's two states can be used. {' '.join(dict.fromkeys(faults))}"
        raise ImageError(msg)
    return max(valid, key=lambda state: state.sequence)
