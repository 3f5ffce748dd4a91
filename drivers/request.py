"""A customer's request: the image of his container, and the container's signature that it is so.

    magic 9, version u8, length u32 | image | signature 64 | what the container composed (`drivers.statement`)

It serves for everything that an update can bring. One that asks for a certified time is made after the container gave
out a nonce, which then stands in the image's state; so the licensor needs no other file, and the container vouches for
all of it.
"""

from __future__ import annotations

import os
from hashlib import sha256
from struct import Struct as Layout
from typing import Final

from msgspec import Struct

from drivers import image, keys, statement
from drivers.cursor import Cursor
from drivers.driver import Device, Faulty, ImageError, Purpose, Signed
from drivers.image import IMAGE_LIMIT, Image
from drivers.trust import NOBODY

_HEAD: Final = Layout("<9sBI")
_MAGIC: Final = b"cmrequest"
_VERSION: Final = 1
_TAIL: Final = Layout("<Qq32s")
_MESSAGE_LENGTH: Final = 8 + 1 + 40 + statement.NONCE_LENGTH + _TAIL.size
LIMIT: Final = _HEAD.size + IMAGE_LIMIT + keys.SIGNATURE_LENGTH + _MESSAGE_LENGTH
"""The most bytes of a request."""


class Request(Struct, frozen=True):
    """A request that its container signed. Of its firm items none is believed yet."""

    octets: bytes
    image: Image


def make(device: Device) -> bytes:
    """Return a request of an open container. Raises DriverError."""
    octets = device.read()
    encoded = encode(octets, device.sign(Purpose.REQUEST, os.urandom(statement.NONCE_LENGTH)))
    decode(encoded)
    return encoded


def encode(octets: bytes, signed: Signed) -> bytes:
    """Return the request with this image, and what its container signed for the purpose `REQUEST`."""
    return _HEAD.pack(_MAGIC, _VERSION, len(octets)) + octets + signed.signature + signed.message


def decode(octets: bytes) -> Request:
    """Return a request. Raises ImageError unless all of it is as its container signed it."""
    cursor = Cursor(octets, "the request")
    magic, version, length = cursor.unpack(_HEAD)
    if magic != _MAGIC:
        msg = "This is no request of a container; have the customer make one."
        raise ImageError(msg)
    if version != _VERSION:
        msg = f"The request is of version {version}, which this software does not know; update it."
        raise ImageError(msg)
    contents = cursor.take(length)
    signature, message = cursor.take(keys.SIGNATURE_LENGTH), cursor.take(_MESSAGE_LENGTH)
    cursor.end()
    found = image.parse(contents, NOBODY)
    nonce = message[-_TAIL.size - statement.NONCE_LENGTH : -_TAIL.size]
    try:
        statement.check(Purpose.REQUEST, nonce, found.owner, Signed(message, signature))
    except Faulty:
        raise _changed() from None
    if _TAIL.unpack(message[-_TAIL.size :]) != (
        found.state.sequence,
        found.state.time_floor,
        sha256(contents).digest(),
    ):
        raise _changed()
    return Request(contents, found)


def _changed() -> ImageError:
    return ImageError(
        "The request is damaged, or was changed: its container did not sign it so; have the customer make a new one."
    )
