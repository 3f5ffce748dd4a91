"""What the chip understands of its image: whose it is, which items there are, what can be used up or borrowed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

OWNER_LENGTH: Final = 40
KEY_LENGTH: Final = 32
SIGNATURE_LENGTH: Final = 64

_START: Final = struct.Struct("<8sHHI")
_COUNTS: Final = struct.Struct("<HII")
_RECORD: Final = struct.Struct("<BB32sI")
_FIRM: Final = struct.Struct("<8s40sII")
_PRODUCT: Final = struct.Struct("<IIH")
_OPTION: Final = struct.Struct("<HH")
_LICENSES: Final = struct.Struct("<I")
_ALLOWANCE: Final = struct.Struct("<II")
_BORROWED: Final = struct.Struct("<II")
_FIRM_PREFIX: Final = b"cmfirm\x00\x01"
_QUANTITY, _USAGE, _UNITS, _BORROWING = 2, 7, 9, 14
_NUMBER: Final = 0x7FFF
"""An option's number in its tag; the bit above says that it is critical."""
_ED25519: Final = 1
_MAGIC: Final = b"CMIMAGE\n"
_TWO_SLOTS: Final = 1
"""The version of an image that has its state in two slots, and their length in its own. Later ones end with a state
that is as long as it is."""
_OWNER: Final = struct.Struct("<HIBB32s")
_HARDWARE: Final = 1


class Malformed(Exception):
    """These bytes are no firm item."""


@dataclass(frozen=True)
class Allowance:
    """What may be used up; another generation is counted anew."""

    amount: int
    generation: int


@dataclass(frozen=True)
class Borrowing:
    """For how long licenses may be borrowed, and how many at a time."""

    seconds: int
    licenses: int


@dataclass(frozen=True)
class Product:
    """One product item."""

    code: int
    quantity: int
    borrowing: Borrowing | None
    units: Allowance | None
    usage: Allowance | None


@dataclass(frozen=True)
class Firm:
    """One firm item: `record` is how it lies in the image, `products` are by their reference."""

    code: int
    counter: int
    owner: bytes
    licensor: bytes
    record: bytes
    products: Mapping[int, Product]


class Contents:
    """The image without its state. Raises Malformed if it is no image."""

    def __init__(self, fixed: bytes) -> None:
        try:
            self._read(fixed)
        except struct.error:
            raise Malformed from None

    def _read(self, fixed: bytes) -> None:
        magic, self._version, header_length, _ = _START.unpack_from(fixed)
        self.owner = fixed[_START.size : _START.size + OWNER_LENGTH]
        count, items, self.state_limit = _COUNTS.unpack_from(fixed, _START.size + OWNER_LENGTH)
        self._text = fixed[_START.size + OWNER_LENGTH + _COUNTS.size : header_length - 4]
        """`state_limit` is how many bytes a whole state may have."""
        if header_length + items != len(fixed) or magic != _MAGIC:
            raise Malformed
        self.firms: dict[int, Firm] = {}
        at = header_length
        for _ in range(count):
            _, _, licensor, length = _RECORD.unpack_from(fixed, at)
            end = at + _RECORD.size + length + SIGNATURE_LENGTH + 4
            firm = read_firm(licensor, fixed[at + _RECORD.size : at + _RECORD.size + length], fixed[at:end])
            self.firms[firm.code] = firm
            at = end

    def product(self, firm_code: int, reference: int) -> Product | None:
        """Return a product item, or None."""
        firm = self.firms.get(firm_code)
        return None if firm is None else firm.products.get(reference)

    @property
    def counted(self) -> frozenset[tuple[int, int]]:
        """The firm codes and references of the items that may get a counter."""
        return frozenset(
            (firm.code, reference)
            for firm in self.firms.values()
            for reference, product in firm.products.items()
            if product.units is not None or product.usage is not None
        )

    def with_firm(self, firm: Firm) -> bytes:
        """Return the image's bytes before its state, with this firm item in place of the one with its code."""
        records = [each.record for each in ({**self.firms, firm.code: firm}).values()]
        return _fixed(self._version, self.owner, self._text, records, self.state_limit)


def _fixed(version: int, owner: bytes, text: bytes, records: Sequence[bytes], state_limit: int) -> bytes:
    """Return an image's bytes before its state; `text` has its length before it."""
    items = b"".join(records)
    header_length = _START.size + OWNER_LENGTH + _COUNTS.size + len(text) + 4
    slots = 2 * state_limit if version == _TWO_SLOTS else 0
    header = (
        _START.pack(_MAGIC, version, header_length, header_length + len(items) + slots)
        + owner
        + _COUNTS.pack(len(records), len(items), state_limit)
        + text
    )
    return header + struct.pack("<I", zlib.crc32(header)) + items


def new_owner(mask: int, serial: int, public: bytes) -> bytes:
    """Return the owner that a dongle with this public key is."""
    return _OWNER.pack(mask, serial, _HARDWARE, _ED25519, public)


def without_firms(version: int, owner: bytes, text: bytes, state_limit: int) -> bytes:
    """Return the bytes, before its state, of an image that has no firm item yet; `text` is UTF-8."""
    return _fixed(version, owner, struct.pack("<H", len(text)) + text, (), state_limit)


def sealed_firm(licensor: bytes, signed: bytes, signature: bytes) -> Firm:
    """Return a firm item that its licensor signed, with its record for the image. Raises Malformed."""
    record = _RECORD.pack(_ED25519, 0, licensor, len(signed)) + signed + signature
    return read_firm(licensor, signed, record + struct.pack("<I", zlib.crc32(record)))


def read_firm(licensor: bytes, signed: bytes, record: bytes) -> Firm:
    """Return a firm item. Raises Malformed if the signed bytes are none."""
    try:
        prefix, owner, code, counter = _FIRM.unpack_from(signed)
        if prefix != _FIRM_PREFIX or code == 0:
            raise Malformed
        at = _FIRM.size
        (text_length,) = struct.unpack_from("<H", signed, at)
        at += 2 + text_length
        (count,) = struct.unpack_from("<H", signed, at)
        at += 2
        products: dict[int, Product] = {}
        for _ in range(count):
            reference, product_code, length = _PRODUCT.unpack_from(signed, at)
            at += _PRODUCT.size
            if at + length > len(signed) or reference in products or reference == 0:
                raise Malformed
            options = dict(_options(signed[at : at + length]))
            products[reference] = _product(product_code, options)
            at += length
    except struct.error:
        raise Malformed from None
    if at != len(signed):
        raise Malformed
    return Firm(code, counter, owner, licensor, record, products)


def _options(octets: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(octets):
        tag, length = _OPTION.unpack_from(octets, at)
        at += _OPTION.size + length
        if at > len(octets):
            raise Malformed
        yield tag & _NUMBER, octets[at - length : at]


def _product(code: int, options: Mapping[int, bytes]) -> Product:
    (quantity,) = _LICENSES.unpack(options[_QUANTITY]) if _QUANTITY in options else (1,)
    borrowing = Borrowing(*_BORROWED.unpack(options[_BORROWING])) if _BORROWING in options else None
    return Product(code, quantity, borrowing, _allowance(options, _UNITS), _allowance(options, _USAGE))


def _allowance(options: Mapping[int, bytes], tag: int) -> Allowance | None:
    return Allowance(*_ALLOWANCE.unpack(options[tag])) if tag in options else None
