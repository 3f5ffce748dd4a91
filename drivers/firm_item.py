"""The bytes that a licensor signs: one firm item, with the container that it was made for.

Nothing in here changes in the field. `docs/drivers.md` has the layout byte by byte. Only a firm item that is believed
(`drivers.trust`) is decoded; of others only the beginning is looked at, which lies at fixed places.
"""

from __future__ import annotations

from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - an exception, so named like one
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from drivers import keys, options
from drivers.container import ContainerKind, FirmItem, ProductItem
from drivers.cursor import Cursor, encode_text
from drivers.driver import ImageError

NO_KEY: Final = bytes(keys.LENGTH)

_PREFIX: Final = b"cmfirm\x00\x01"
"""Tells these bytes from all others that a licensor's key may sign; the last one is the version."""
_OWNER: Final = Layout(f"<HIBB{keys.LENGTH}s")
_FIRM: Final = Layout("<II")
_COUNT: Final = Layout("<H")
_PRODUCT: Final = Layout("<IIH")
_KINDS: Final = {1: ContainerKind.HARDWARE, 2: ContainerKind.VIRTUAL, 3: ContainerKind.EMBEDDED}
_KIND_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}


class Owner(Struct, frozen=True):
    """The container that an image and each of its firm items are for. Key algorithm 0 means that it has no key."""

    mask: int
    serial: int
    kind: ContainerKind
    key_algorithm: int = 0
    key: bytes = NO_KEY


class SealedItem(Struct, frozen=True):
    """A firm item as it lies in a container: the signed bytes, and who signed them. Nothing of it is believed yet.

    Algorithm 0 means that nobody did; then key and signature are zeros.
    """

    firm_code: int
    octets: bytes
    algorithm: int
    licensor: bytes
    signature: bytes


def encode_owner(owner: Owner) -> bytes:
    """Return the owner's 40 bytes."""
    return _OWNER.pack(owner.mask, owner.serial, _KIND_NUMBERS[owner.kind], owner.key_algorithm, owner.key)


def decode_owner(cursor: Cursor) -> Owner:
    """Return the owner that comes next. Raises ImageError if its kind is unknown, or has a key of no algorithm."""
    mask, serial, number, key_algorithm, key = cursor.unpack(_OWNER)
    kind = _KINDS.get(number)
    if kind is None:
        msg = f"The container is of kind {number}, which this software does not know; update it."
        raise ImageError(msg)
    if key_algorithm == 0 and key != NO_KEY:
        msg = "The image is damaged: the container has a key, and no algorithm for it."
        raise ImageError(msg)
    return Owner(mask, serial, kind, key_algorithm, key)


def owner_of(octets: bytes) -> Owner:
    """Return the container that a firm item's signed bytes are for. Raises ImageError if they begin in another way."""
    cursor = Cursor(octets, "a firm item")
    _check_version(cursor)
    return decode_owner(cursor)


def firm_code_of(octets: bytes) -> int:
    """Return the firm code in a firm item's signed bytes. Raises ImageError if they begin in another way."""
    cursor = Cursor(octets, "a firm item")
    _check_version(cursor)
    cursor.take(_OWNER.size)
    firm_code, _ = cursor.unpack(_FIRM)
    if firm_code == 0:
        msg = "The image is damaged: a firm item has the firm code 0."
        raise ImageError(msg)
    return int(firm_code)


def _check_version(cursor: Cursor) -> None:
    if cursor.take(len(_PREFIX)) != _PREFIX:
        msg = "A firm item is of a version that this software does not know; update it."
        raise ImageError(msg)


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


def pure(item: FirmItem) -> FirmItem:
    """Return the firm item without what its licensor did not write into it: its signer, and what was counted."""
    products = tuple(replace(each, units_used=0, usage_start=0) for each in item.products)
    return replace(item, licensor=b"", products=products)


def _encode_product(product: ProductItem) -> bytes:
    encoded = options.encode(product)
    return _PRODUCT.pack(product.reference, product.product_code, len(encoded)) + encoded


def decode(octets: bytes) -> FirmItem:
    """Return the firm item that these bytes hold. Raises ImageError if they are damaged."""
    cursor = Cursor(octets, "a firm item")
    _check_version(cursor)
    cursor.take(_OWNER.size)
    firm_code, update_counter = cursor.unpack(_FIRM)
    text = cursor.text()
    (count,) = cursor.unpack(_COUNT)
    products: dict[int, ProductItem] = {}
    for _ in range(count):
        product = _decode_product(cursor)
        if product.reference in products:
            msg = f"The image is damaged: firm item {firm_code} has item {product.reference} twice."
            raise ImageError(msg)
        products[product.reference] = product
    cursor.end()
    return FirmItem(firm_code, text, update_counter, tuple(products.values()))


def _decode_product(cursor: Cursor) -> ProductItem:
    reference, product_code, length = cursor.unpack(_PRODUCT)
    if reference == 0:
        msg = "The image is damaged: an item has the reference 0."
        raise ImageError(msg)
    fields, reasons = options.decode(cursor.take(length), f"item {reference}")
    return ProductItem(reference, product_code, unusable=" ".join(reasons), **fields)
