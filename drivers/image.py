"""The container image: all that a container holds, as bytes. Every driver gives one, and the daemon decodes it.

    header | firm items, each opaque and signed by its licensor | state, and its changes since

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
from typing import Final, NamedTuple

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

FORMAT_VERSION: Final = 2
"""Of what is written. The first version is still read: its state is in two slots, whole in each."""
FIXED_LIMIT: Final = 56 * 1024
"""The most bytes of an image before its state: some 1,500 product items."""
STATE_LIMIT: Final = 20 * 1024
"""The most bytes of a whole state: 64 receipts, the counters of 64 items, and 250 loans; or more of one, fewer of the
others."""
CHANGES_LIMIT: Final = 4 * 1024
"""The bytes that the changes behind a whole state may have at least, before it is written anew."""
IMAGE_LIMIT: Final = FIXED_LIMIT + STATE_LIMIT + CHANGES_LIMIT
"""The most bytes of an image: what a small dongle can store."""

_MAGIC: Final = b"CMIMAGE\n"
"""The line feed at its end is broken by transfers that take the file for text."""
_START: Final = Layout("<8sHHI")
_COUNTS: Final = Layout("<HII")
_ITEM_HEAD: Final = Layout(f"<BB{keys.LENGTH}sI")
_WITH_SLOTS: Final = 1
"""The version of an image that has its state in two slots."""
_NO_SIGNATURE: Final = bytes(keys.SIGNATURE_LENGTH)
_CHECKSUM: Final = Layout("<I")


class Image(Struct, frozen=True):
    """A decoded image. `owner` has the container's public key, `state` is the one in force.

    `sealed` has each firm item as its licensor signed it, by firm code. Before its state the image has `fixed_length`
    bytes; a whole state may have `state_limit`.
    """

    container: Container
    owner: Owner
    state: State
    sealed: Mapping[int, SealedItem]
    fixed_length: int
    state_limit: int


class SigningKeys(Struct, frozen=True):
    """Private keys: of a container, and of the licensors whose firm items are to be signed, by firm code."""

    container: bytes
    licensors: Mapping[int, bytes] = field(default_factory=dict)


_NEW: Final = State(sequence=1)


def encode(container: Container, present: State = _NEW, signing: SigningKeys | None = None) -> bytes:
    """Return the image of a container. Raises ImageError if it holds anything that `decode` would refuse.

    Without `signing` the container has no key, and nothing is signed. What was used is taken from the `present` state,
    not from the items.
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
    text = encode_text(container.text)
    header_length = _START.size + len(firm_item.encode_owner(owner)) + _COUNTS.size + len(text) + _CHECKSUM.size
    fixed = header_length + len(items)
    if fixed > FIXED_LIMIT:
        msg = f"The container takes {fixed} bytes; the most is {FIXED_LIMIT}. Leave out items, or shorten their texts."
        raise ImageError(msg)
    header = b"".join(
        (
            _START.pack(_MAGIC, FORMAT_VERSION, header_length, fixed),
            firm_item.encode_owner(owner),
            _COUNTS.pack(len(container.firm_items), len(items), STATE_LIMIT),
            text,
        )
    )
    image = header + _CHECKSUM.pack(zlib.crc32(header)) + items + state.encode(present, STATE_LIMIT, owner, private)
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
    version, header_length, total = _check_start(image)
    cursor = Cursor(image[:header_length], "the header")
    cursor.take(_START.size)
    owner = firm_item.decode_owner(cursor)
    count, items_length, state_limit = cursor.unpack(_COUNTS)
    text = cursor.text()
    cursor.unpack(_CHECKSUM)
    cursor.end()

    cursor = Cursor(image[header_length:], "the image")
    sealed = _sealed_items(cursor.take(items_length), count)
    if version == _WITH_SLOTS:
        slots = (cursor.take(state_limit), cursor.take(state_limit))
        cursor.end()
        in_force = state.in_force(slots, owner)
    elif total == header_length + items_length:
        in_force = state.decode(cursor.rest(), owner)
    else:
        msg = f"The image is damaged: it says that {total} bytes come before its state, and has other lengths, too."
        raise ImageError(msg)
    firm_items = tuple(_firm_item(item, owner, in_force, trust) for item in sealed.values())
    container = Container(container_id(owner.mask, owner.serial), owner.kind, text, firm_items)
    return Image(container, owner, in_force, sealed, header_length + items_length, state_limit)


class _Start(NamedTuple):
    """How an image begins: its version, its header's length, and the other one that stands there."""

    version: int
    header_length: int
    total: int


def _check_start(image: bytes) -> _Start:
    """Return how an image begins, once the header is known to be whole."""
    if len(image) > IMAGE_LIMIT:
        msg = f"The image has {len(image)} bytes; the most is {IMAGE_LIMIT}."
        raise ImageError(msg)
    magic, version, header_length, total = Cursor(image, "the header").unpack(_START)
    if magic != _MAGIC:
        msg = "This is no container image; read it from a container, or have the container programmed."
        raise ImageError(msg)
    if not _WITH_SLOTS <= version <= FORMAT_VERSION:
        msg = f"The image has format version {version}, this software reads versions 1 to {FORMAT_VERSION}; update it."
        raise ImageError(msg)
    if total != len(image) and version == _WITH_SLOTS:
        msg = f"The image is damaged: it says that it has {total} bytes, and has {len(image)}."
        raise ImageError(msg)
    cursor = Cursor(image[:header_length], "the header")
    covered = cursor.take(max(header_length - _CHECKSUM.size, _START.size))
    (checksum,) = cursor.unpack(_CHECKSUM)
    if checksum != zlib.crc32(covered):
        msg = "The image is damaged: the checksum of the header is wrong."
        raise ImageError(msg)
    return _Start(version, header_length, total)


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
