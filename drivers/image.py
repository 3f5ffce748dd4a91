"""The container image: all that a container holds, as bytes. Every driver gives one, and the daemon decodes it.

    header | firm items, each opaque and signed by its licensor | state, in two slots

The layout, byte by byte, is in `docs/drivers.md`. An image is checked before it is believed: whatever it is made of,
`decode` returns a container that is wholly sound, or raises `ImageError` with a sentence that says what is wrong.
A number that says how long or how many is held against the bytes that are there before anything is made of it.
"""

from __future__ import annotations

import zlib
from struct import Struct as Layout
from typing import Final

from msgspec import Struct

from drivers import firm_item, state
from drivers.container import Container, FirmItem, container_id, mask_and_serial
from drivers.cursor import Cursor, encode_text
from drivers.driver import ImageError
from drivers.firm_item import Owner
from drivers.state import State

__all__ = ["FORMAT_VERSION", "IMAGE_LIMIT", "Image", "ImageError", "decode", "encode", "parse"]

FORMAT_VERSION: Final = 1
IMAGE_LIMIT: Final = 64 * 1024
"""The most bytes of an image: some 1,500 product items, and what a small dongle can store."""
SLOT_LENGTH: Final = 1024
"""Bytes of a state slot where nobody asks for another length: the counters of 46 items."""

_MAGIC: Final = b"CMIMAGE\n"
"""The line feed at its end is broken by transfers that take the file for text."""
_START: Final = Layout("<8sHHI")
_COUNTS: Final = Layout("<HII")
_ITEM_HEAD: Final = Layout("<BxI")
_SIGNATURE_LENGTH: Final = 64
_NO_SIGNATURE: Final = bytes(_SIGNATURE_LENGTH)
_CHECKSUM: Final = Layout("<I")


class Image(Struct, frozen=True):
    """A decoded image. `owner` has the container's public key, `state` is the slot in force."""

    container: Container
    owner: Owner
    state: State


def encode(
    container: Container,
    states: tuple[State, State] = (State(sequence=1), State()),
    slot_length: int = SLOT_LENGTH,
) -> bytes:
    """Return the image of a container. Raises ImageError if it holds anything that `decode` would refuse."""
    try:
        owner = Owner(*mask_and_serial(container.id), container.kind)
    except ValueError as error:
        msg = f"The container cannot be written: {error}."
        raise ImageError(msg) from None
    items = b"".join(_encode_item(item, owner) for item in container.firm_items)
    slots = b"".join(state.encode(each, slot_length) for each in states)
    text = encode_text(container.text)
    header_length = _START.size + len(firm_item.encode_owner(owner)) + _COUNTS.size + len(text) + _CHECKSUM.size
    total = header_length + len(items) + len(slots)
    if total > IMAGE_LIMIT:
        msg = f"The container takes {total} bytes; the most is {IMAGE_LIMIT}. Leave out items, or shorten their texts."
        raise ImageError(msg)
    header = b"".join(
        (
            _START.pack(_MAGIC, FORMAT_VERSION, header_length, total),
            firm_item.encode_owner(owner),
            _COUNTS.pack(len(container.firm_items), len(items), slot_length),
            text,
        )
    )
    image = header + _CHECKSUM.pack(zlib.crc32(header)) + items + slots
    if decode(image) != container:
        msg = "The container cannot be written: it has an option or a flag that this software does not know."
        raise ImageError(msg)
    return image


def _encode_item(item: FirmItem, owner: Owner) -> bytes:
    signed = firm_item.encode(item, owner)
    covered = _ITEM_HEAD.pack(0, len(signed)) + signed + _NO_SIGNATURE
    return covered + _CHECKSUM.pack(zlib.crc32(covered))


def decode(image: bytes) -> Container:
    """Return the container that an image holds. Raises ImageError, and nothing else, if it is not sound."""
    return parse(image).container


def parse(image: bytes) -> Image:
    """Return all that an image holds. Raises ImageError, and nothing else, if it is not sound."""
    header_length = _check_start(image)
    cursor = Cursor(image[:header_length], "the header")
    cursor.take(_START.size)
    owner = firm_item.decode_owner(cursor)
    count, items_length, slot_length = cursor.unpack(_COUNTS)
    text = cursor.text()
    cursor.unpack(_CHECKSUM)
    cursor.end()

    cursor = Cursor(image[header_length:], "the image")
    firm_items = _decode_items(cursor.take(items_length), count, owner)
    slots = (cursor.take(slot_length), cursor.take(slot_length))
    cursor.end()
    container = Container(container_id(owner.mask, owner.serial), owner.kind, text, firm_items)
    return Image(container, owner, state.in_force(slots))


def _check_start(image: bytes) -> int:
    """Return the header's length, once the header is known to be whole and the image as long as it says."""
    if len(image) > IMAGE_LIMIT:
        msg = f"The image has {len(image)} bytes; the most is {IMAGE_LIMIT}."
        raise ImageError(msg)
    magic, version, header_length, total = Cursor(image, "the header").unpack(_START)
    if magic != _MAGIC:
        msg = "This is no container image; read it from a container, or have the container programmed."
        raise ImageError(msg)
    if version != FORMAT_VERSION:
        msg = f"The image has format version {version}, this software reads version {FORMAT_VERSION}; update it."
        raise ImageError(msg)
    if total != len(image):
        msg = f"The image is damaged: it says that it has {total} bytes, and has {len(image)}."
        raise ImageError(msg)
    cursor = Cursor(image[:header_length], "the header")
    covered = cursor.take(max(header_length - _CHECKSUM.size, _START.size))
    (checksum,) = cursor.unpack(_CHECKSUM)
    if checksum != zlib.crc32(covered):
        msg = "The image is damaged: the checksum of the header is wrong."
        raise ImageError(msg)
    return int(header_length)


def _decode_items(octets: bytes, count: int, owner: Owner) -> tuple[FirmItem, ...]:
    cursor = Cursor(octets, "the firm items")
    items: dict[int, FirmItem] = {}
    for _ in range(count):
        item = _decode_item(cursor, owner)
        if item.firm_code in items:
            msg = f"The image is damaged: it has firm item {item.firm_code} twice."
            raise ImageError(msg)
        items[item.firm_code] = item
    cursor.end()
    return tuple(items.values())


def _decode_item(cursor: Cursor, owner: Owner) -> FirmItem:
    head = cursor.take(_ITEM_HEAD.size)
    algorithm, length = _ITEM_HEAD.unpack(head)
    signed, signature = cursor.take(length), cursor.take(_SIGNATURE_LENGTH)
    (checksum,) = cursor.unpack(_CHECKSUM)
    if checksum != zlib.crc32(head + signed + signature):
        msg = "The image is damaged: the checksum of a firm item is wrong."
        raise ImageError(msg)
    unusable = ""
    if algorithm == 0 and signature != _NO_SIGNATURE:
        msg = "The image is damaged: a firm item has a signature, and no algorithm for it."
        raise ImageError(msg)
    if algorithm != 0:
        unusable = f"The item is signed with algorithm {algorithm}, which this server does not know; update the server."
    return firm_item.decode(signed, owner, unusable)
