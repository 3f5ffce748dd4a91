"""The bytes that a licensor signs: one firm item, with the container that it was made for.

Nothing in here changes in the field. `docs/drivers.md` has the layout byte by byte.
"""

from __future__ import annotations

from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - an exception, so named like one
from typing import Final

from msgspec import Struct

from drivers.container import (
    KNOWN_FLAGS,
    ContainerKind,
    FirmItem,
    ProductItem,
    QuantityFlag,
)
from drivers.cursor import Cursor, decode_text, encode_text
from drivers.driver import ImageError

KEY_LENGTH: Final = 32
NO_KEY: Final = bytes(KEY_LENGTH)

_PREFIX: Final = b"cmfirm\x00\x01"
"""Tells these bytes from all others that a licensor's key may sign; the last one is the version."""
_OWNER: Final = Layout(f"<HIBB{KEY_LENGTH}s")
_FIRM: Final = Layout("<II")
_COUNT: Final = Layout("<H")
_PRODUCT: Final = Layout("<IIH")
_OPTION: Final = Layout("<HH")
_VALUE: Final = Layout("<I")

CRITICAL: Final = 0x8000
"""This bit of an option's tag says: whoever does not know the option must not use the item."""
TEXT, QUANTITY, FLAGS, FEATURE_MAP = 1, 2, 3, 4
_KINDS: Final = {1: ContainerKind.HARDWARE, 2: ContainerKind.VIRTUAL, 3: ContainerKind.EMBEDDED}
_KIND_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}


class Owner(Struct, frozen=True):
    """The container that an image and each of its firm items are for. Key algorithm 0 means that it has no key."""

    mask: int
    serial: int
    kind: ContainerKind
    key_algorithm: int = 0
    key: bytes = NO_KEY


def encode_owner(owner: Owner) -> bytes:
    """Return the owner's 40 bytes."""
    return _OWNER.pack(owner.mask, owner.serial, _KIND_NUMBERS[owner.kind], owner.key_algorithm, owner.key)


def decode_owner(cursor: Cursor) -> Owner:
    """Return the owner that comes next. Raises ImageError if its kind is unknown."""
    mask, serial, number, key_algorithm, key = cursor.unpack(_OWNER)
    kind = _KINDS.get(number)
    if kind is None:
        msg = f"The container is of kind {number}, which this software does not know; update it."
        raise ImageError(msg)
    return Owner(mask, serial, kind, key_algorithm, key)


def encode(item: FirmItem, owner: Owner) -> bytes:
    """Return the firm item's bytes, ready to be signed. Raises ImageError if the format cannot hold it."""
    try:
        return b"".join(
            (
                _PREFIX,
                encode_owner(owner),
                _FIRM.pack(item.firm_code, item.update_counter),
                encode_text(item.text),
                _COUNT.pack(len(item.products)),
                *(_encode_product(product) for product in item.products),
            )
        )
    except LayoutError as error:
        msg = f"Firm item {item.firm_code} cannot be written: {error}."
        raise ImageError(msg) from None


def _encode_product(product: ProductItem) -> bytes:
    options = [(CRITICAL | QUANTITY, _VALUE.pack(product.quantity))]
    if product.text:
        options.append((TEXT, encode_text(product.text)[_COUNT.size :]))
    if product.flags:
        options.append((CRITICAL | FLAGS, _VALUE.pack(product.flags)))
    if product.feature_map is not None:
        options.append((CRITICAL | FEATURE_MAP, _VALUE.pack(product.feature_map)))
    encoded = b"".join(_OPTION.pack(tag, len(value)) + value for tag, value in options)
    return _PRODUCT.pack(product.reference, product.product_code, len(encoded)) + encoded


def decode(octets: bytes, owner: Owner, unusable: str = "") -> FirmItem:
    """Return the firm item that these bytes hold; its product items are unusable if `unusable` gives a reason.

    Raises ImageError if they are damaged, or were made for another container than `owner`.
    """
    cursor = Cursor(octets, "a firm item")
    if cursor.take(len(_PREFIX)) != _PREFIX:
        msg = "A firm item is of a version that this software does not know; update it."
        raise ImageError(msg)
    if decode_owner(cursor) != owner:
        msg = "A firm item was made for another container; have its licensor program this one again."
        raise ImageError(msg)
    firm_code, update_counter = cursor.unpack(_FIRM)
    if firm_code == 0:
        msg = "The image is damaged: a firm item has the firm code 0."
        raise ImageError(msg)
    text = cursor.text()
    (count,) = cursor.unpack(_COUNT)
    products: dict[int, ProductItem] = {}
    for _ in range(count):
        product = _decode_product(cursor, unusable)
        if product.reference in products:
            msg = f"The image is damaged: firm item {firm_code} has item {product.reference} twice."
            raise ImageError(msg)
        products[product.reference] = product
    cursor.end()
    return FirmItem(firm_code, text, update_counter, tuple(products.values()))


def _decode_product(cursor: Cursor, unusable: str) -> ProductItem:
    reference, product_code, length = cursor.unpack(_PRODUCT)
    if reference == 0:
        msg = "The image is damaged: an item has the reference 0."
        raise ImageError(msg)
    what = f"item {reference}"
    reasons = [unusable] if unusable else []
    values, unknown = _decode_options(cursor.take(length), what)
    if unknown:
        numbers = ", ".join(str(tag) for tag in sorted(unknown))
        reasons.append(f"The item has an option that this server does not know ({numbers}); update the server.")
    flags = _value(values, FLAGS, 0, what)
    if flags & ~KNOWN_FLAGS.value:
        strange = flags & ~KNOWN_FLAGS.value
        reasons.append(f"The item has a flag that this server does not know ({strange:#x}); update the server.")
    return ProductItem(
        reference=reference,
        product_code=product_code,
        text=decode_text(values.get(TEXT, b""), what),
        quantity=_value(values, QUANTITY, 1, what),
        flags=QuantityFlag(flags & KNOWN_FLAGS.value),
        feature_map=_value(values, FEATURE_MAP, 0, what) if FEATURE_MAP in values else None,
        unusable=" ".join(reasons),
    )


def _decode_options(octets: bytes, what: str) -> tuple[dict[int, bytes], set[int]]:
    """Return the options by tag, and the tags of those that are critical and unknown."""
    cursor = Cursor(octets, what)
    values: dict[int, bytes] = {}
    unknown: set[int] = set()
    while not cursor.done:
        tag, length = cursor.unpack(_OPTION)
        value = cursor.take(length)
        number = tag & ~CRITICAL
        if number in values:
            msg = f"The image is damaged: {what} has option {number} twice."
            raise ImageError(msg)
        values[number] = value
        if tag & CRITICAL and number not in {TEXT, QUANTITY, FLAGS, FEATURE_MAP}:
            unknown.add(number)
    return values, unknown


def _value(values: dict[int, bytes], tag: int, default: int, what: str) -> int:
    octets = values.get(tag)
    if octets is None:
        return default
    if len(octets) != _VALUE.size:
        msg = f"The image is damaged: option {tag} of {what} has {len(octets)} bytes instead of {_VALUE.size}."
        raise ImageError(msg)
    (value,) = _VALUE.unpack(octets)
    return int(value)
