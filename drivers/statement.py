"""What a container signs: it composes the statement itself, and whoever asked checks that it says what it should.

Prefix, purpose and owner come first, and then what the purpose wants; `docs/drivers.md` has the layout byte by byte.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import Final

from drivers import keys
from drivers.driver import Faulty, Purpose, Signed
from drivers.firm_item import Owner, encode_owner
from drivers.trust import ED25519

_PREFIX: Final = b"cmsign\x00\x01"
_CRYPT: Final = Layout("<IIqQ")
_CRYPT_SAID: Final = Layout("<IIIIqQ")
_TAILS: Final = {Purpose.PRESENCE: 8, Purpose.REQUEST: 8 + 8 + 32}
"""How many bytes follow the nonce: the state's sequence number; for a request also time floor and hash."""
NONCE_LENGTH: Final = 32
"""Bytes of what is asked for presence and request: a nonce."""
PURPOSES: Final = frozenset({*_TAILS, Purpose.CRYPT})
"""The purposes whose statements this software can check."""


def crypt_body(nonce: bytes, firm_code: int, reference: int, now: int, handle: int) -> bytes:
    """Return what is asked for crypt; the nonce has 16 to 64 bytes, `now` is license time in Unix seconds."""
    return bytes([len(nonce)]) + nonce + _CRYPT.pack(firm_code, reference, now, handle)


def check(purpose: Purpose, body: bytes, owner: Owner, signed: Signed) -> None:
    """Accept what the container of `owner` signed when it was asked for `body`.

    Raises Faulty if that is something else, or its signature is not this container's.
    """
    beginning = _PREFIX + bytes([purpose]) + encode_owner(owner)
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
    firm_code, _, reference, _, time, handle = _CRYPT_SAID.unpack(said[len(nonce) :])
    asked = _CRYPT.unpack(body[len(nonce) :])
    # The container's own time floor may be later than the time that it was told.
    return (firm_code, reference, handle) == (asked[0], asked[1], asked[3]) and time >= asked[2]
