"""A product item's options as bytes: one table of tags, layouts and fields, read in both directions.

`docs/drivers.md` has the same table for people. A critical option that somebody does not know forbids him the item.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import astuple

from drivers.container import (
    DATA_LIMIT,
    EARLIEST,
    KNOWN_FLAGS,
    LATEST,
    UNITS_LIMIT,
    Allowance,
    Borrowing,
    Period,
    ProductItem,
    QuantityFlag,
    Runtime,
)
from drivers.cursor import Cursor, decode_text, encode_text
from drivers.driver import ImageError

CRITICAL: Final = 0x8000
"""This bit of an option's tag says: whoever does not know the option must not use the item."""

_HEAD: Final = Layout("<HH")
_TEXT: Final = 1
_QUANTITY: Final = 2


class _Option(Struct, frozen=True):
    """One option: its tag, the field of `ProductItem` that it is, and the class and the layout of its value."""

    tag: int
    field: str
    kind: type[Any]
    layout: Layout


_OPTIONS: Final = (
    _Option(CRITICAL | _QUANTITY, "quantity", int, Layout("<I")),
    _Option(CRITICAL | 3, "flags", int, Layout("<I")),
    _Option(CRITICAL | 4, "feature_map", int, Layout("<I")),
    _Option(CRITICAL | 5, "activation", int, Layout("<q")),
    _Option(CRITICAL | 6, "expiration", int, Layout("<q")),
    _Option(CRITICAL | 7, "usage", Allowance, Layout("<II")),
    _Option(CRITICAL | 8, "maintenance", Period, Layout("<qq")),
    _Option(CRITICAL | 9, "units", Allowance, Layout("<II")),
    _Option(CRITICAL | 10, "linger", int, Layout("<I")),
    _Option(CRITICAL | 11, "minimum_runtime", Runtime, Layout("<HH")),
    _Option(CRITICAL | 14, "borrowing", Borrowing, Layout("<II")),
)
_DATA: Final = {12: "protected_data", 13: "user_data"}
_KNOWN: Final = {option.tag & ~CRITICAL: option for option in _OPTIONS}
_DEFAULTS: Final = ProductItem(1, 0)


def encode(product: ProductItem) -> bytes:
    """Return an item's options. Raises ImageError for a text, struct.error for a number, that cannot be written."""
    encoded = []
    for option in _OPTIONS:
        value = getattr(product, option.field)
        if value != getattr(_DEFAULTS, option.field) or option.tag & ~CRITICAL == _QUANTITY:
            octets = option.layout.pack(*(astuple(value) if isinstance(value, Struct) else (value,)))
            encoded.append((option.tag, octets))
    if product.text:
        encoded.append((_TEXT, encode_text(product.text)[2:]))
    encoded += [(tag, getattr(product, field)) for tag, field in _DATA.items() if getattr(product, field)]
    return b"".join(_HEAD.pack(tag, len(value)) + value for tag, value in encoded)


def decode(octets: bytes, what: str) -> tuple[dict[str, Any], list[str]]:
    """Return the options by the fields of `ProductItem`, and sentences that say why the item must not be used.

    `what` names the item in errors. Raises ImageError if an option is damaged or has a value that none may have.
    """
    fields: dict[str, Any] = {}
    seen: set[int] = set()
    unknown: list[int] = []
    cursor = Cursor(octets, what)
    while not cursor.done:
        tag, length = cursor.unpack(_HEAD)
        value = cursor.take(length)
        number = tag & ~CRITICAL
        if number in seen:
            msg = f"The image is damaged: {what} has option {number} twice."
            raise ImageError(msg)
        seen.add(number)
        if option := _KNOWN.get(number):
            fields[option.field] = _value(option, value, what)
        elif number == _TEXT:
            fields["text"] = decode_text(value, what)
        elif number in _DATA:
            fields[_DATA[number]] = _data(value, what)
        elif tag & CRITICAL:
            unknown.append(number)
    reasons = []
    if unknown:
        numbers = ", ".join(str(tag) for tag in sorted(unknown))
        reasons.append(f"The item has an option that this server does not know ({numbers}); update the server.")
    flags = fields.get("flags", 0)
    if strange := flags & ~KNOWN_FLAGS.value:
        reasons.append(f"The item has a flag that this server does not know ({strange:#x}); update the server.")
    fields["flags"] = QuantityFlag(flags & KNOWN_FLAGS.value)
    return fields, reasons


def _value(option: _Option, octets: bytes, what: str) -> Any:
    layout = option.layout
    if len(octets) != layout.size:
        number = option.tag & ~CRITICAL
        msg = f"The image is damaged: option {number} of {what} has {len(octets)} bytes instead of {layout.size}."
        raise ImageError(msg)
    value = option.kind(*layout.unpack(octets))
    if option.field in {"activation", "expiration"}:
        _check_date(value, option.field, what)
    elif option.field == "units" and value.amount > UNITS_LIMIT:
        msg = (
            f"The image cannot be used: {what} has {value.amount} units, and containers answer that number for an item "
            f"without units; the most is {UNITS_LIMIT}."
        )
        raise ImageError(msg)
    elif isinstance(value, Period):
        _check_date(value.start, "maintenance", what)
        _check_date(value.end, "maintenance", what)
        if value.start >= value.end:
            msg = f"The image cannot be used: the maintenance period of {what} ends before it begins."
            raise ImageError(msg)
    return value


def _check_date(seconds: int, field: str, what: str) -> None:
    if not EARLIEST <= seconds <= LATEST:
        msg = f"The image cannot be used: a date of {what} ({field}) is not between the years 2000 and 9999."
        raise ImageError(msg)


def _data(octets: bytes, what: str) -> bytes:
    if len(octets) > DATA_LIMIT:
        msg = f"The image cannot be used: {what} has {len(octets)} bytes of data; the most is {DATA_LIMIT}."
        raise ImageError(msg)
    return octets
