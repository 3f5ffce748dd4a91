"""Update files: what a licensor makes for one container, and the container applies (`docs/drivers.md`).

head: magic, version, kind, owner | a firm item, or a certified time | the licensor's public key | his signature
"""

from __future__ import annotations

from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - an exception, so named like one
from typing import Final

from msgspec import Struct

from drivers import firm_item, keys
from drivers.container import LATEST, FirmItem
from drivers.cursor import Cursor
from drivers.driver import ImageError
from drivers.firm_item import Owner

LIMIT: Final = 64 * 1024
"""The most bytes of an update file."""
ANY: Final = 2**32 - 1
"""As the base counter: the update does not build on any other."""

_HEAD: Final = Layout("<8sBB")
_MAGIC: Final = b"cmupdate"
_VERSION: Final = 1
_FIRM_ITEM, _CERTIFIED_TIME = 1, 2
_FIRM: Final = Layout("<III")
_TIME: Final = Layout("<32sq")


class FirmUpdate(Struct, frozen=True):
    """A firm item for a container that has it with the update counter `base`, or with `ANY`, or not at all.

    One without product items takes it out. `licensor` is the public key that signed it.
    """

    owner: Owner
    item: FirmItem
    base: int
    licensor: bytes


class TimeUpdate(Struct, frozen=True):
    """A certified time (Unix seconds) for the container that gave out this nonce."""

    owner: Owner
    nonce: bytes
    time: int
    licensor: bytes


def encode_firm(owner: Owner, item: FirmItem, base: int, private: bytes) -> bytes:
    """Return the update that brings a firm item, signed with the licensor's private key.

    Raises ImageError if the item cannot be written, or not all of it: nothing is dropped in silence.
    """
    signed = firm_item.encode(item, owner)
    if firm_item.decode(signed) != firm_item.pure(item):
        msg = f"Firm item {item.firm_code} has an option or a flag that this software does not know; update it."
        raise ImageError(msg)
    body = _FIRM.pack(item.firm_code, base, len(signed)) + signed + keys.sign(private, signed)
    return _sealed(_FIRM_ITEM, owner, body, private)


def encode_time(owner: Owner, nonce: bytes, time: int, private: bytes) -> bytes:
    """Return the update that certifies a time, signed with a licensor's private key."""
    return _sealed(_CERTIFIED_TIME, owner, _TIME.pack(nonce, time), private)


def _sealed(kind: int, owner: Owner, body: bytes, private: bytes) -> bytes:
    covered = _HEAD.pack(_MAGIC, _VERSION, kind) + firm_item.encode_owner(owner) + body + keys.public_of(private)
    octets = covered + keys.sign(private, covered)
    decode(octets)
    return octets


def decode(octets: bytes) -> FirmUpdate | TimeUpdate:
    """Return what an update file holds, once its signatures are verified with the key in it.

    Whose key that is, the container knows. Raises ImageError if the update is damaged, or brings what no image may
    have.
    """
    if len(octets) > LIMIT:
        msg = f"The update has {len(octets)} bytes; the most is {LIMIT}."
        raise ImageError(msg)
    try:
        return _decode(octets)
    except LayoutError as error:
        msg = f"The update is damaged: {error}."
        raise ImageError(msg) from None


def _decode(octets: bytes) -> FirmUpdate | TimeUpdate:
    cursor = Cursor(octets, "the update")
    magic, version, kind = cursor.unpack(_HEAD)
    if magic != _MAGIC:
        msg = "This is no update for a container; get one from the licensor."
        raise ImageError(msg)
    if version != _VERSION or kind not in {_FIRM_ITEM, _CERTIFIED_TIME}:
        msg = f"The update is of version {version} and kind {kind}, which this software does not know; update it."
        raise ImageError(msg)
    owner = firm_item.decode_owner(cursor)
    signed, signature = b"", b""
    if kind == _FIRM_ITEM:
        firm_code, base, length = cursor.unpack(_FIRM)
        signed, signature = cursor.take(length), cursor.take(keys.SIGNATURE_LENGTH)
    else:
        nonce, time = cursor.unpack(_TIME)
    licensor, whole = cursor.take(keys.LENGTH), cursor.take(keys.SIGNATURE_LENGTH)
    cursor.end()
    if not keys.verify(licensor, whole, octets[: -keys.SIGNATURE_LENGTH]) or (
        signed and not keys.verify(licensor, signature, signed)
    ):
        msg = "The update is damaged, or was changed: its signature is wrong; get it from the licensor once more."
        raise ImageError(msg)
    if kind == _CERTIFIED_TIME:
        if not 0 <= time <= LATEST:
            msg = "The update cannot be used: its certified time is no date."
            raise ImageError(msg)
        return TimeUpdate(owner, nonce, time, licensor)
    if firm_item.owner_of(signed) != owner or firm_item.firm_code_of(signed) != firm_code:
        msg = "The update cannot be used: its firm item is another one than it says; tell its licensor."
        raise ImageError(msg)
    return FirmUpdate(owner, firm_item.decode(signed), base, licensor)
