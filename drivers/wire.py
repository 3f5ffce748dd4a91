"""The commands that a container understands, as the host speaks them: payloads and statuses (`docs/drivers.md`).

Pure functions over bytes; all numbers are little-endian. What brings a command to the container and its answer back is
the driver's: USB frames, or a call.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct as Layout
from typing import Any, Final

from msgspec import Struct

from drivers import keys
from drivers.container import LATEST, Loan, check_text
from drivers.driver import Empty, Faulty, Refused, Unsupported, Used
from drivers.image import IMAGE_LIMIT
from drivers.keys import SIGNATURE_LENGTH
from drivers.state import NO_COUNTER

VERSION: Final = 1
"""The version of the protocol that this software speaks."""
PAYLOAD_LIMIT: Final = 4096
"""The most bytes of a payload: a 64 KiB image takes 16 exchanges, and a small chip can hold a frame."""

_INFO: Final = Layout("<BBHI")
_CHUNK: Final = Layout("<IH")
_CONSUME: Final = Layout("<16sIIIq")
_USED: Final = Layout("<IqI")
_PIECE: Final = Layout("<II")
_TIME: Final = Layout("<q")
_NONCE: Final = Layout("<32sq")
_INIT: Final = Layout("<HI")
_BORROW: Final = Layout("<16sIIIqq32s")
_END: Final = Layout("<q")
_RETURN: Final = Layout("<16sq64s")
_STOOD: Final = Layout("<B")
PIECE_HEAD: Final = _PIECE.size
"""Bytes of APPLY's payload that are not the update's."""
KEY_LENGTH: Final = 16
"""Bytes of the key by which a container knows a use again."""
LOAN_ID_LENGTH: Final = 16
"""Bytes of a loan's id."""


class Command(IntEnum):
    """The commands. Without a key a container supports only 1 and 2; an empty dongle knows only 1 and 21."""

    INFO = 1
    READ_IMAGE = 2
    SIGN = 16
    CONSUME = 17
    APPLY = 18
    TIME = 19
    NONCE = 20
    INIT = 21
    BORROW = 22
    RETURN = 23


class Status(IntEnum):
    """How a container answers."""

    OK = 0
    UNKNOWN_COMMAND = 1
    UNSUPPORTED = 2
    BAD_REQUEST = 3
    OUT_OF_RANGE = 4
    WRONG_VERSION = 5
    NO_ITEM = 6
    NO_COUNTER = 7
    COUNTER_ZERO = 8
    UNDERRUN = 9
    NO_ROOM = 10
    UPDATE_TOO_OLD = 11
    UPDATE_TOO_NEW = 12
    NOT_SIGNED = 13
    NOT_FOR_THIS_CONTAINER = 14
    ALREADY_MADE = 15
    EMPTY = 16
    NOT_BORROWABLE = 17
    TOO_LONG = 18
    NONE_LEFT = 19
    LEDGER_FULL = 20


_REFUSALS: Final = {
    Status.NO_ITEM: (28, "The container has no such item; look what it holds."),
    Status.NO_COUNTER: (31, "The item has no units that could be counted; ask its licensor."),
    Status.COUNTER_ZERO: (32, "The item's units are used up; have its licensor add some."),
    Status.UNDERRUN: (33, "The item has fewer units left than are needed; have its licensor add some."),
    Status.NO_ROOM: (233, "The container has no room for that; have items taken out of it."),
    Status.UPDATE_TOO_OLD: (
        229,
        "The container has this update already, or a later one, or its request was answered; nothing is to be done.",
    ),
    Status.UPDATE_TOO_NEW: (
        228,
        "The update builds on one that the container does not have; apply that one first.",
    ),
    Status.NOT_SIGNED: (
        211,
        "The update is damaged, or is not of the licensor whose the item is; get it from him once more.",
    ),
    Status.NOT_FOR_THIS_CONTAINER: (233, "The update is for another container; apply it there."),
    Status.ALREADY_MADE: (104, "The dongle is a container already, and stays the one that it is; look what it holds."),
    Status.NOT_BORROWABLE: (226, "The item's licenses cannot be borrowed; ask its licensor for ones that can."),
    Status.TOO_LONG: (
        226,
        "The item's licenses are not lent so long, or the container's clock is past that end; ask for another time.",
    ),
    Status.NONE_LEFT: (
        226,
        "No more of the item's licenses may be borrowed now; have one given back, or wait for the end of a loan.",
    ),
    Status.LEDGER_FULL: (
        226,
        "The container has no room for another loan; have a license given back, or wait for the end of a loan.",
    ),
}
"""To what a container may say no without a fault of its own: the field's number, and what to do."""
_REFUSALS_OF: Final = {
    (Command.RETURN, Status.NOT_SIGNED): (
        211,
        "The return is damaged, or the loan's holder did not sign it; give the license back where it was borrowed.",
    ),
    (Command.CONSUME, Status.BAD_REQUEST): (
        105,
        "The key is of a use of another item; take another one for each use.",
    ),
}
"""What some of them, and others, mean as an answer to one command."""


class Info(Struct, frozen=True):
    """What a dongle says of itself: the protocol versions it speaks, the most it puts in a payload, its image's length.

    Both lengths are in bytes and within bounds; an empty dongle's image has none.
    """

    versions: tuple[int, int]
    payload_limit: int
    image_length: int


def check_status(command: Command, status: int) -> None:
    """Accept OK.

    Raises Unsupported if the container cannot do that, Empty if there is none yet, Refused if it will not, Faulty if it
    says anything else.
    """
    if status == Status.OK:
        return
    if status == Status.EMPTY:
        raise empty()
    if status in {Status.UNKNOWN_COMMAND, Status.UNSUPPORTED}:
        msg = f"The dongle does not support {command.name}; ask its licensor for one that does."
        raise Unsupported(msg)
    known = {each.value: each for each in Status}.get(status)
    if known is not None and (no := _REFUSALS_OF.get((command, known)) or _REFUSALS.get(known)):
        number, text = no
        raise Refused(text, number)
    shown = known.name if known is not None else f"status {status}"
    msg = f"The dongle refused {command.name} ({shown}); update this software, or have the dongle exchanged."
    raise Faulty(msg)


def empty() -> Empty:
    """Return what to say of a dongle without an image."""
    return Empty("The dongle is empty; make a container of it (cmboxpgm create --usb).")


def decode_info(payload: bytes) -> Info:
    """Return what an INFO reply says; a later version may add bytes. Raises Faulty if any of it cannot be."""
    if len(payload) < _INFO.size:
        msg = f"The dongle describes itself in {len(payload)} bytes; at least {_INFO.size} are expected."
        raise Faulty(msg)
    lowest, highest, payload_limit, image_length = _INFO.unpack_from(payload)
    if not lowest <= VERSION <= highest:
        msg = f"The dongle speaks versions {lowest} to {highest} of its protocol, this software version {VERSION}."
        raise Faulty(msg)
    if not 1 <= payload_limit <= PAYLOAD_LIMIT:
        msg = f"The dongle announces payloads of {payload_limit} bytes; expected are 1 to {PAYLOAD_LIMIT}."
        raise Faulty(msg)
    if image_length > IMAGE_LIMIT:
        msg = f"The dongle announces an image of {image_length} bytes; the most is {IMAGE_LIMIT}."
        raise Faulty(msg)
    return Info((lowest, highest), payload_limit, image_length)


def encode_chunk(offset: int, length: int) -> bytes:
    """Return the payload of READ_IMAGE: these `length` bytes of the image from `offset` on."""
    return _CHUNK.pack(offset, length)


def encode_use(key: bytes, firm_code: int, reference: int, delta: int, now: int) -> bytes:
    """Return the payload of CONSUME. Raises ValueError for a key of another length."""
    if len(key) != KEY_LENGTH:
        msg = f"A use's key has {KEY_LENGTH} bytes, not {len(key)}."
        raise ValueError(msg)
    return _CONSUME.pack(key, firm_code, reference, delta, now)


def decode_used(payload: bytes) -> Used:
    """Return what a CONSUME reply says. Raises Faulty if it is none."""
    left, start, used = _exactly(_USED, payload, Command.CONSUME)
    return Used(None if left == NO_COUNTER else left, _instant(start), used)


def decode_signed(payload: bytes) -> tuple[bytes, bytes]:
    """Return signature and message of a SIGN reply. Raises Faulty if it is too short."""
    if len(payload) <= SIGNATURE_LENGTH:
        msg = f"The dongle signed in {len(payload)} bytes, which is no signature with its message; exchange it."
        raise Faulty(msg)
    return payload[:SIGNATURE_LENGTH], payload[SIGNATURE_LENGTH:]


def encode_piece(offset: int, total: int, piece: bytes) -> bytes:
    """Return the payload of APPLY: this piece, from `offset` on, of an update with `total` bytes."""
    return _PIECE.pack(offset, total) + piece


def encode_time(now: int) -> bytes:
    """Return the payload of TIME."""
    return _TIME.pack(now)


def decode_time(payload: bytes) -> int:
    """Return the time floor that a TIME reply says. Raises Faulty if it is none."""
    (floor,) = _exactly(_TIME, payload, Command.TIME)
    return _instant(floor)


def decode_nonce(payload: bytes) -> tuple[bytes, int]:
    """Return nonce and time floor of a NONCE reply. Raises Faulty if it is none."""
    nonce, asked = _exactly(_NONCE, payload, Command.NONCE)
    return nonce, _instant(asked)


def encode_init(mask: int, serial: int, text: str) -> bytes:
    """Return the payload of INIT. Raises ValueError, in words for people, for a text that no container may have."""
    check_text(text)
    return _INIT.pack(mask, serial) + text.encode()


def decode_public(payload: bytes) -> bytes:
    """Return the public key in an INIT reply. Raises Faulty if it is none."""
    if len(payload) != keys.LENGTH:
        msg = f"The dongle answered INIT with {len(payload)} bytes instead of {keys.LENGTH}; exchange it."
        raise Faulty(msg)
    return payload


def encode_loan(loan: Loan, now: int) -> bytes:
    """Return the payload of BORROW. Raises ValueError for an id or a key of another length."""
    _check_loan_id(loan.id)
    if len(loan.holder) != keys.LENGTH:
        msg = f"The key of a loan's holder has {keys.LENGTH} bytes, not {len(loan.holder)}."
        raise ValueError(msg)
    return _BORROW.pack(loan.id, loan.firm_code, loan.reference, loan.quantity, loan.end, now, loan.holder)


def decode_end(payload: bytes, asked: int) -> int:
    """Return the end in a BORROW reply. Raises Faulty if it is none, or before the one that was asked for."""
    (end,) = _exactly(_END, payload, Command.BORROW)
    if _instant(end) < asked:
        msg = f"The dongle lends until {end}, in Unix seconds, and was asked to until {asked}; exchange it."
        raise Faulty(msg)
    return int(end)


def encode_return(loan: bytes, signature: bytes, now: int) -> bytes:
    """Return the payload of RETURN. Raises ValueError for an id or a signature of another length."""
    _check_loan_id(loan)
    if len(signature) != SIGNATURE_LENGTH:
        msg = f"A signature has {SIGNATURE_LENGTH} bytes, not {len(signature)}."
        raise ValueError(msg)
    return _RETURN.pack(loan, now, signature)


def decode_stood(payload: bytes) -> bool:
    """Return whether the loan stood, as a RETURN reply says it. Raises Faulty if it is none."""
    (stood,) = _exactly(_STOOD, payload, Command.RETURN)
    if stood not in {0, 1}:
        msg = f"The dongle answered RETURN with {stood} instead of 0 or 1; exchange it."
        raise Faulty(msg)
    return bool(stood)


def _check_loan_id(loan: bytes) -> None:
    if len(loan) != LOAN_ID_LENGTH or not any(loan):
        msg = f"A loan's id has {LOAN_ID_LENGTH} bytes which are not all zero; this is {loan.hex()!r}."
        raise ValueError(msg)


def _instant(said: int) -> int:
    """Accept a time that can be; one that cannot would stop the license time of everybody. Raises Faulty."""
    if not 0 <= said <= LATEST:
        msg = f"The dongle says that it is {said}, in Unix seconds, which no license time can be; exchange it."
        raise Faulty(msg)
    return said


def _exactly(layout: Layout, payload: bytes, command: Command) -> tuple[Any, ...]:
    if len(payload) != layout.size:
        msg = f"The dongle answered {command.name} with {len(payload)} bytes instead of {layout.size}; exchange it."
        raise Faulty(msg)
    return layout.unpack(payload)
