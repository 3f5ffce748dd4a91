"""The container image: all that a container holds, as bytes. Every driver gives one, and the daemon decodes it.

    header | firm items, each opaque and signed by its licensor | state, in two slots

The layout, byte by byte, is in `docs/drivers.md`. An image is checked before it is believed: whatever it is made of,
`decode` returns a container that is wholly sound, or raises `ImageError` with a sentence that says what is wrong.
A number that says how long or how many is held against the bytes that are there before anything is made of it, and a
firm item is not decoded before its licensor's signature is verified. One that is not believed, or not sound, is listed
with the reason, and the rest of the container goes on.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from struct import Struct as Layout
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from drivers import firm_item, keys, state
from drivers.container import Container, FirmItem, container_id, mask_and_serial
from drivers.cursor import Cursor, encode_text
from drivers.driver import ImageError
from drivers.firm_item import NO_KEY, Owner, SealedItem
from drivers.state import State
from drivers.trust import ED25519, Trust

__all__ = ["FORMAT_VERSION", "IMAGE_LIMIT", "Image", "ImageError", "SigningKeys", "decode", "encode", "parse"]

FORMAT_VERSION: Final = 1
IMAGE_LIMIT: Final = 64 * 1024
"""The most bytes of an image: some 1,500 product items, and what a small dongle can store."""
SLOT_LENGTH: Final = 4096
"""Bytes of a state slot where nobody asks for another length: 64 receipts, and the counters of 95 items."""

_MAGIC: Final = b"CMIMAGE\n"
"""The line feed at its end is broken by transfers that take the file for text."""
_START: Final = Layout("<8sHHI")
_COUNTS: Final = Layout("<HII")
_ITEM_HEAD: Final = Layout(f"<BB{keys.LENGTH}sI")
_NO_SIGNATURE: Final = bytes(keys.SIGNATURE_LENGTH)
_CHECKSUM: Final = Layout("<I")


class Image(Struct, frozen=True):
    """A decoded image. `owner` has the container's public key, `state` is the slot in force.

    `sealed` has each firm item as its licensor signed it, by firm code.
    """

    container: Container
    owner: Owner
    state: State
    sealed: Mapping[int, SealedItem]


class SigningKeys(Struct, frozen=True):
    """Private keys: of a container, and of the licensors whose firm items are to be signed, by firm code."""

    container: bytes
    licensors: Mapping[int, bytes] = field(default_factory=dict)


def encode(
    container: Container,
    states: tuple[State, State] = (State(sequence=1), State()),
    slot_length: int = SLOT_LENGTH,
    signing: SigningKeys | None = None,
) -> bytes:
    """Return the image of a container. Raises ImageError if it holds anything that `decode` would refuse.

    Without `signing` the container has no key, and nothing is signed. What was used is taken from `states`, not from
    the items.
    """
    try:
        owner = Owner(*mask_and_serial(container.id), container.kind)
    except ValueError as error:
        msg = f"The container cannot be written: {error}."
        raise ImageError(msg) from None
    licensors: Mapping[int, bytes] = {}
    private = None
    if signing is not None:
        private = signing.container
        owner = replace(owner, key_algorithm=ED25519, key=keys.public_of(private))
        licensors = signing.licensors
    items = b"".join(_encode_item(item, owner, licensors.get(item.firm_code)) for item in container.firm_items)
    slots = b"".join(state.encode(each, slot_length, owner, private) for each in states)
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
    trust = Trust(
        {code: keys.public_of(private) for code, private in licensors.items()},
        {item.firm_code for item in container.firm_items} - licensors.keys(),
    )
    written = decode(image, trust)
    if faults := [item.unusable for item in written.firm_items if item.unusable]:
        raise ImageError(faults[0])
    if _pure(written) != _pure(container):
        msg = "The container cannot be written: it has an option or a flag that this software does not know."
        raise ImageError(msg)
    return image


def _encode_item(item: FirmItem, owner: Owner, private: bytes | None) -> bytes:
    signed = firm_item.encode(item, owner)
    if private is None:
        covered = _ITEM_HEAD.pack(0, 0, NO_KEY, len(signed)) + signed + _NO_SIGNATURE
    else:
        head = _ITEM_HEAD.pack(ED25519, 0, keys.public_of(private), len(signed))
        covered = head + signed + keys.sign(private, signed)
    return covered + _CHECKSUM.pack(zlib.crc32(covered))


def _pure(container: Container) -> Container:
    """Return the container without what its licensors did not write into it."""
    return replace(container, firm_items=tuple(map(firm_item.pure, container.firm_items)))


def decode(image: bytes, trust: Trust) -> Container:
    """Return the container that an image holds. Raises ImageError, and nothing else, if it is not sound."""
    return parse(image, trust).container


def parse(image: bytes, trust: Trust) -> Image:
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
    sealed = _sealed_items(cursor.take(items_length), count)
    slots = (cursor.take(slot_length), cursor.take(slot_length))
    cursor.end()
    in_force = state.in_force(slots, owner)
    firm_items = tuple(_firm_item(item, owner, in_force, trust) for item in sealed.values())
    container = Container(container_id(owner.mask, owner.serial), owner.kind, text, firm_items)
    return Image(container, owner, in_force, sealed)


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


def _sealed_items(octets: bytes, count: int) -> dict[int, SealedItem]:
    cursor = Cursor(octets, "the firm items")
    items: dict[int, SealedItem] = {}
    for _ in range(count):
        item = _sealed_item(cursor)
        if item.firm_code in items:
            msg = f"The image is damaged: it has firm item {item.firm_code} twice."
            raise ImageError(msg)
        items[item.firm_code] = item
    cursor.end()
    return items


def _sealed_item(cursor: Cursor) -> SealedItem:
    head = cursor.take(_ITEM_HEAD.size)
    algorithm, reserved, licensor, length = _ITEM_HEAD.unpack(head)
    signed, signature = cursor.take(length), cursor.take(keys.SIGNATURE_LENGTH)
    (checksum,) = cursor.unpack(_CHECKSUM)
    if checksum != zlib.crc32(head + signed + signature):
        msg = "The image is damaged: the checksum of a firm item is wrong."
        raise ImageError(msg)
    if reserved:
        msg = f"The image is damaged: a firm item has {reserved} where all have 0."
        raise ImageError(msg)
    if algorithm == 0 and (licensor, signature) != (NO_KEY, _NO_SIGNATURE):
        msg = "The image is damaged: a firm item has a signature, and no algorithm for it."
        raise ImageError(msg)
    return SealedItem(firm_item.firm_code_of(signed), signed, algorithm, licensor, signature)


def _firm_item(sealed: SealedItem, owner: Owner, in_force: State, trust: Trust) -> FirmItem:
    """Return the firm item, with what was used of it, or without contents if it cannot be used."""
    if why := trust.complaint(sealed, owner):
        return FirmItem(sealed.firm_code, unusable=why)
    try:
        decoded = firm_item.decode(sealed.octets)
    except ImageError as error:  # what one licensor signs in error must not take away what the others made
        why = f"Firm item {sealed.firm_code} cannot be read; have its licensor program it again. {error}"
        return FirmItem(sealed.firm_code, unusable=why)
    used = {each.reference: each for each in in_force.items if each.firm_code == sealed.firm_code}
    products = tuple(
        replace(item, units_used=used[item.reference].units_used, usage_start=used[item.reference].usage_start)
        if item.reference in used
        else item
        for item in decoded.products
    )
    return replace(decoded, products=products, licensor=trust.licensor(sealed))
