"""What a container signs: it composes the statement itself, and whoever asked checks that it says what it should.

Prefix, version, purpose and owner come first, and then what the purpose wants; `docs/drivers.md` has the layout byte by
byte.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import Final

from msgspec import Struct

from drivers import keys
from drivers.driver import Faulty, Purpose, Signed
from drivers.firm_item import Owner, encode_owner
from drivers.state import NO_COUNTER
from drivers.trust import ED25519

_PREFIX: Final = b"cmsign\x00"
_VERSIONS: Final = {Purpose.PRESENCE: 1, Purpose.CRYPT: 2, Purpose.REQUEST: 1}
_CRYPT: Final = Layout("<IIqQ16s")
_CRYPT_SAID: Final = Layout("<IIIIqQ16sIIq")
_TAILS: Final = {Purpose.PRESENCE: 8, Purpose.REQUEST: 8 + 8 + 32}
"""How many bytes follow the nonce: the state's sequence number; for a request also time floor and hash."""
NONCE_LENGTH: Final = 32
"""Bytes of what is asked for presence and request: a nonce."""
NO_KEY: Final = bytes(16)
"""The key of a use that need not be known again, since it takes no units."""
PURPOSES: Final = frozenset(_VERSIONS)
"""The purposes whose statements this software can check."""


class Counts(Struct, frozen=True):
    """What a statement for crypt says that the container counted of an item.

    `units` were taken for the key, 0 if the container knows no such use. `units_left` were left then, or are left now
    if it knows none; None if the item has no units. It is used since `usage_start` (Unix seconds, 0: not).
    """

    units: int
    units_left: int | None
    usage_start: int


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
