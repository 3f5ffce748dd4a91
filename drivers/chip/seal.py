"""What the chip puts behind a record of its state: its signature and a checksum, by which it knows the record again."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

WHOLE: Final = b"cmstate\x00\x01"
"""Before what is signed of a whole state; of a change there is `after`."""
TAIL: Final = 1 + 64 + 4
"""Bytes of a seal: the algorithm, the signature, the checksum."""

_CHANGE: Final = b"cmchange\x00\x02"
_ED25519: Final = b"\x01"


def after(digest: bytes) -> bytes:
    """Return what is before what is signed of a change; `digest` is that of all records before, from a whole state on.

    So its signature is for them, too, and one is verified where there may be hundreds. A change is never taken for a
    whole state, and of two futures of one state, which a copied flash may have had, nobody can make a third one.
    """
    return _CHANGE + digest


def sound(sealed: bytes) -> bool:
    """Whether this is a record with a seal, written whole; by whom is another matter."""
    return len(sealed) >= TAIL and sealed[-4:] == struct.pack("<I", zlib.crc32(sealed[:-4]))


class Seal:
    """The seal of one container: `owner` is whose state it is, `private` his key."""

    def __init__(self, owner: bytes, private: bytes) -> None:
        self._owner = owner
        self._key = Ed25519PrivateKey.from_private_bytes(private)

    def put(self, prefix: bytes, record: bytes) -> bytes:
        """Return the record with its seal."""
        signed = record + _ED25519
        covered = signed + self._key.sign(prefix + self._owner + signed)
        return covered + struct.pack("<I", zlib.crc32(covered))

    def holds(self, prefix: bytes, sealed: bytes) -> bool:
        """Whether a sound record is the container's own."""
        try:
            self._key.public_key().verify(sealed[-68:-4], prefix + self._owner + sealed[:-68])
        except InvalidSignature:
            return False
        return True
