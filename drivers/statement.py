"""What a container signs: it composes the statement itself, and whoever asked checks that it says what it should.

Prefix, version, purpose and owner come first, and then what the purpose wants; `docs/drivers.md` has the layout byte by
byte.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import Final

from msgspec import Struct

from drivers import keys
from drivers.container import LATEST, ContainerId, container_id
from drivers.cursor import Cursor
from drivers.driver import Faulty, ImageError, Purpose, Signed
from drivers.firm_item import Owner, decode_owner, encode_owner
from drivers.state import NO_COUNTER
from drivers.trust import ED25519

_PREFIX: Final = b"cmsign\x00"
_VERSIONS: Final = {
    Purpose.PRESENCE: 1,
    Purpose.CRYPT: 2,
    Purpose.REQUEST: 1,
    Purpose.BORROW: 1,
    Purpose.TRACKING: 1,
}
_RETURN_PREFIX: Final = b"cmreturn\x00\x01"
_CRYPT: Final = Layout("<IIqQ16s")
_CRYPT_SAID: Final = Layout("<IIIIqQ16sIIq")
_BORROW: Final = Layout("<16s32s")
_BORROW_SAID: Final = Layout("<16s32s32sIIIIIqq")
_TRACKING: Final = Layout("<QQ32sq")
_TAILS: Final = {Purpose.PRESENCE: 8, Purpose.REQUEST: 8 + 8 + 32}
"""How many bytes follow the nonce: the state's sequence number; for a request also time floor and hash."""
NONCE_LENGTH: Final = 32
"""Bytes of what is asked for presence and request: a nonce."""
NO_KEY: Final = bytes(16)
"""The key of a use that need not be known again, since it takes no units."""


class Counts(Struct, frozen=True):
    """What a statement for crypt says that the container counted of an item.

    `units` were taken for the key, 0 if the container knows no such use. `units_left` were left then, or are left now
    if it knows none; None if the item has no units. It is used since `usage_start` (Unix seconds, 0: not).
    """

    units: int
    units_left: int | None
    usage_start: int


class Certificate(Struct, frozen=True):
    """What a statement for borrow says: this holder may use that license at that station from `start` to `end`.

    `id` has 16 bytes, `station` and `holder` (his public key) have 32; `start`, the container's time when it signed,
    and `end` are in Unix seconds.
    """

    id: bytes
    station: bytes
    holder: bytes
    firm_code: int
    product_code: int
    reference: int
    update_counter: int
    quantity: int
    start: int
    end: int


class Vouched(Struct, frozen=True):
    """What a statement for tracking says: the container with this public key knew of that `hash` (32 bytes) by `time`.

    `hash` is that of the first `count` records of a `segment`; `time` is its license time in Unix seconds.
    """

    container: ContainerId
    key: bytes
    segment: int
    count: int
    hash: bytes
    time: int


def crypt_body(nonce: bytes, firm_code: int, reference: int, now: int, handle: int, key: bytes) -> bytes:
    """Return what is asked for crypt.

    The nonce has 16 to 64 bytes, `now` is license time in Unix seconds. `key` is that of the use (16 bytes) of which
    the container says what it took.
    """
    return bytes([len(nonce)]) + nonce + _CRYPT.pack(firm_code, reference, now, handle, key)


def counts(signed: Signed) -> Counts:
    """Return what a statement for crypt, once it is checked, says of units and usage."""
    *_, units, left, start = _CRYPT_SAID.unpack(signed.message[-_CRYPT_SAID.size :])
    return Counts(units, None if left == NO_COUNTER else left, start)


def sequence(signed: Signed) -> int:
    """Return the number of the container's state that a statement for presence, once it is checked, says."""
    return int.from_bytes(signed.message[-_TAILS[Purpose.PRESENCE] :], "little")


def borrow_body(loan: bytes, station: bytes) -> bytes:
    """Return what is asked for borrow: a certificate of the loan with this id (16 bytes), for a station.

    `station` is the SHA-256 of the machine's name in UTF-8, a zero byte, and the seat as 4 bytes, little-endian.
    """
    return _BORROW.pack(loan, station)


def lent(signed: Signed) -> Certificate:
    """Return what a statement for borrow, once it is checked, says."""
    return Certificate(*_BORROW_SAID.unpack(signed.message[-_BORROW_SAID.size :]))


def tracking_body(segment: int, count: int, digest: bytes, now: int) -> bytes:
    """Return what is asked for tracking: that so many records of a segment have this hash (32 bytes) by now.

    `now` is license time in Unix seconds.
    """
    return _TRACKING.pack(segment, count, digest, now)


def vouched(message: bytes, signature: bytes) -> Vouched:
    """Return what a kept statement for tracking says, which the container signed that it names.

    Raises Faulty if it is none, or another one signed it.
    """
    begins = _PREFIX + bytes([_VERSIONS[Purpose.TRACKING], Purpose.TRACKING])
    try:
        cursor = Cursor(message, "a signature of the history")
        if cursor.take(len(begins)) != begins:
            raise _no_voucher()
        owner = decode_owner(cursor)
        segment, count, digest, time = cursor.unpack(_TRACKING)
        cursor.end()
    except ImageError as error:
        raise _no_voucher() from error
    if owner.key_algorithm != ED25519 or not keys.verify(owner.key, signature, message):
        raise _no_voucher()
    return Vouched(container_id(owner.mask, owner.serial), owner.key, segment, count, digest, time)


def _no_voucher() -> Faulty:
    return Faulty("What a container is said to have signed of the history is not so; the history was altered.")


def return_receipt(owner: Owner, loan: bytes) -> bytes:
    """Return what the holder of the loan with this id (16 bytes) signs to give it back to its container."""
    return _RETURN_PREFIX + encode_owner(owner) + loan


def check(purpose: Purpose, body: bytes, owner: Owner, signed: Signed) -> None:
    """Accept what the container of `owner` signed when it was asked for `body`.

    Raises Faulty if that is something else, or its signature is not this container's.
    """
    beginning = _PREFIX + bytes([_VERSIONS[purpose], purpose]) + encode_owner(owner)
    said = signed.message[len(beginning) :]
    if not signed.message.startswith(beginning) or not _answers(purpose, body, said):
        msg = "The container signed something that it was not asked for; unplug it, and have it exchanged."
        raise Faulty(msg)
    # Without a key there are zeros in its place, for which anybody can make signatures that verify.
    if owner.key_algorithm != ED25519 or not keys.verify(owner.key, signed.signature, signed.message):
        msg = "The container's signature is not that of its key; unplug it, and have it exchanged."
        raise Faulty(msg)


def _answers(purpose: Purpose, body: bytes, said: bytes) -> bool:
    if purpose in _TAILS:
        return len(body) == NONCE_LENGTH and said.startswith(body) and len(said) == NONCE_LENGTH + _TAILS[purpose]
    if purpose is Purpose.BORROW:
        return _certifies(body, said)
    if purpose is Purpose.TRACKING:
        return _tracks(body, said)
    nonce = body[: -_CRYPT.size]
    if not nonce or len(nonce) != 1 + nonce[0]:
        return False
    if not said.startswith(nonce) or len(said) != len(nonce) + _CRYPT_SAID.size:
        return False
    firm_code, _, reference, _, time, handle, key, _, _, start = _CRYPT_SAID.unpack(said[len(nonce) :])
    *asked, now, asked_handle, asked_key = _CRYPT.unpack(body[len(nonce) :])
    if [firm_code, reference, handle, key] != [*asked, asked_handle, asked_key]:
        return False
    # The container's own time floor may be later than the time that it was told. How much a key took is for the
    # application to judge, which knows what it wanted.
    return bool(time >= now and start >= 0)


def _certifies(body: bytes, said: bytes) -> bool:
    """Whether it is of the loan and the station; whether of the rest that was agreed, whoever lends knows."""
    if len(body) != _BORROW.size or not said.startswith(body) or len(said) != _BORROW_SAID.size:
        return False
    *_, quantity, start, end = _BORROW_SAID.unpack(said)
    return bool(quantity and 0 <= start <= LATEST and 0 <= end <= LATEST)


def _tracks(body: bytes, said: bytes) -> bool:
    if len(body) != _TRACKING.size or len(said) != _TRACKING.size:
        return False
    *asked, now = _TRACKING.unpack(body)
    *answered, time = _TRACKING.unpack(said)
    return answered == asked and now <= time <= LATEST
