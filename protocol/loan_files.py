"""The files of borrowing: what is kept of a loan, and the request, grant and receipt that travel without a connection.

Each is one message of the protocol between a head that says what it is and a hash that finds damage:

    "cmloan" 0 | kind (1 byte) | version (1 byte) | length (4 bytes, little-endian) | MessagePack | SHA-256 of all that

A file is read as a whole or not at all; nothing in it is believed but that it arrived as it was written. No I/O.
"""

from __future__ import annotations

import hashlib
from struct import Struct as Layout
from typing import Annotated, Final, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from protocol.borrowing import Borrow, Borrowed, GiveBack, Lend

LIMIT: Final = 262_144
"""The most bytes of such a file: a firm item has 64 KiB at most."""

MAGIC: Final = b"cmloan\x00"
_HEAD: Final = Layout(f"<{len(MAGIC)}sBBI")
_HASH: Final = hashlib.sha256().digest_size
_VERSION: Final = 1

T = TypeVar("T", bound=Struct)


class Unreadable(Exception):
    """These bytes are no such file; the text goes on after its name, as in `is damaged`."""


class Kept(Struct, frozen=True):
    """What a borrower keeps of a loan: his private key, what he asked for, of which server, and what was lent.

    `server` is empty if he asked in a file; `lent` is None until it is answered.
    """

    key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    asked: Borrow
    server: Annotated[str, Meta(max_length=1_024)] = ""
    lent: Borrowed | None = None


class Kind(Generic[T]):
    """One kind of file: what it is called, and what is in it."""

    def __init__(self, number: int, name: str, content: type[T]) -> None:
        self.name = name
        self._number = number
        self._content = content
        _NAMES[number] = name

    @property
    def beginning(self) -> bytes:
        """The bytes by which such a file is known."""
        return MAGIC + bytes([self._number])

    def encode(self, value: T) -> bytes:
        """Return the bytes of a file."""
        body = msgspec.msgpack.encode(value)
        octets = _HEAD.pack(MAGIC, self._number, _VERSION, len(body)) + body
        return octets + hashlib.sha256(octets).digest()

    def decode(self, octets: bytes) -> T:
        """Return what is in a file. Raises Unreadable."""
        if len(octets) > LIMIT:
            raise Unreadable(f"has more than {LIMIT} bytes, so it is no {self.name}")
        if not octets.startswith(MAGIC):
            raise Unreadable(f"is no {self.name}")
        if len(octets) < _HEAD.size + _HASH:
            raise Unreadable("is damaged: it is too short")
        _, number, version, length = _HEAD.unpack_from(octets)
        if number != self._number:
            raise Unreadable(f"is no {self.name}, but a {_NAMES.get(number, 'file of a newer version')}")
        if version != _VERSION:
            raise Unreadable("is of a version that this software does not know; update it")
        if len(octets) != _HEAD.size + length + _HASH:
            raise Unreadable(f"is damaged: it has {len(octets)} bytes instead of {_HEAD.size + length + _HASH}")
        if hashlib.sha256(octets[:-_HASH]).digest() != octets[-_HASH:]:
            raise Unreadable("is damaged: its bytes are not those that were written")
        try:
            return msgspec.msgpack.decode(octets[_HEAD.size : -_HASH], type=self._content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Unreadable(f"is no {self.name}: {error}") from None


_NAMES: Final[dict[int, str]] = {}

KEPT: Final = Kind(1, "loan that was kept", Kept)
REQUEST: Final = Kind(2, "request to borrow", Lend)
GRANT: Final = Kind(3, "grant of a loan", Borrowed)
RECEIPT: Final = Kind(4, "receipt of a return", GiveBack)
