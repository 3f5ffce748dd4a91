"""A product item's options: there and back, what none may have, and what must not be overlooked."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import options
from drivers.container import (
    DATA_LIMIT,
    EARLIEST,
    LATEST,
    UNITS_LIMIT,
    Allowance,
    Borrowing,
    Period,
    ProductItem,
    QuantityFlag,
    Runtime,
)
from drivers.driver import ImageError
from drivers.options import CRITICAL
from tests.drivers.samples import PRODUCTS

DAY = 1_767_225_600


def option(tag: int, value: bytes) -> bytes:
    """Return an option as it lies in a product item."""
    return struct.pack("<HH", tag, len(value)) + value


def decode(*octets: bytes) -> tuple[ProductItem, list[str]]:
    """Return the item with these options, and why it must not be used."""
    fields, reasons = options.decode(b"".join(octets), "item 1")
    return ProductItem(1, 14, **fields), reasons


@given(PRODUCTS)
def test_what_is_encoded_is_decoded(product: ProductItem) -> None:
    """Every item comes back as it was."""
    fields, reasons = options.decode(options.encode(product), "an item")
    assert ProductItem(product.reference, product.product_code, **fields) == product
    assert not reasons


@pytest.mark.parametrize(
    ("fields", "octets"),
    [
        ({"quantity": 5}, "0280040005000000"),
        ({"flags": QuantityFlag.LOCAL_ONLY}, "0380040000040000"),
        ({"feature_map": 0}, "0480040000000000"),
        ({"activation": DAY}, "0580080000b9556900000000"),
        ({"expiration": LATEST}, "068008007f41f4ff3a000000"),
        ({"usage": Allowance(60, 2)}, "078008003c00000002000000"),
        ({"maintenance": Period(DAY, DAY + 1)}, "0880100000b955690000000001b9556900000000"),
        ({"units": Allowance(0)}, "098008000000000000000000"),
        ({"linger": 120}, "0a80040078000000"),
        ({"minimum_runtime": Runtime(1, 2)}, "0b80040001000200"),
        ({"borrowing": Borrowing(3600)}, "0e800800100e0000ffffffff"),
        ({"borrowing": Borrowing(60, 2)}, "0e8008003c00000002000000"),
        ({"text": "é"}, "01000200c3a9"),
        ({"protected_data": b"ab"}, "0c0002006162"),
        ({"user_data": b"\0"}, "0d00010000"),
    ],
)
def test_each_option_by_example(fields: dict[str, Any], octets: str) -> None:
    """The bytes on the page, for ever; what has its default, except the quantity, is not there."""
    quantity = b"" if "quantity" in fields else bytes.fromhex("0280040001000000")
    encoded = bytes.fromhex(octets)
    product = ProductItem(1, 14, **fields)
    assert options.encode(product) == quantity + encoded
    assert decode(encoded) == (product, [])


def test_what_is_left_out_has_its_default() -> None:
    """No option at all is one license without a limit."""
    assert decode() == (ProductItem(1, 14), [])


@pytest.mark.parametrize("tag", [5, 6])
@pytest.mark.parametrize("seconds", [EARLIEST - 1, LATEST + 1, 0, -1, -(2**63), 2**63 - 1])
def test_a_date_that_none_can_be_is_refused(tag: int, seconds: int) -> None:
    """A date that calendars cannot show is no date, neither alone nor in a period."""
    with pytest.raises(ImageError, match="not between the years 2000 and 9999"):
        decode(option(CRITICAL | tag, struct.pack("<q", seconds)))
    for period in ((seconds, DAY), (DAY, seconds)):
        with pytest.raises(ImageError, match="not between the years 2000 and 9999"):
            decode(option(CRITICAL | 8, struct.pack("<qq", *period)))


@pytest.mark.parametrize("seconds", [EARLIEST, LATEST])
def test_the_first_and_the_last_date_are_dates(seconds: int) -> None:
    """The bounds are in."""
    assert decode(option(CRITICAL | 5, struct.pack("<q", seconds)))[0].activation == seconds


def test_the_number_that_stands_for_no_units_is_no_number_of_units() -> None:
    """Whoever uses such an item would be told that nothing is counted; a usage period may be as long."""
    most = struct.pack("<II", UNITS_LIMIT, 1)
    assert decode(option(CRITICAL | 9, most))[0].units == Allowance(UNITS_LIMIT, 1)
    none = struct.pack("<II", 2**32 - 1, 1)
    with pytest.raises(ImageError, match=r"item 1 has 4294967295 units.*the most is 4294967294"):
        decode(option(CRITICAL | 9, none))
    assert decode(option(CRITICAL | 7, none))[0].usage == Allowance(2**32 - 1, 1)


@pytest.mark.parametrize("end", [DAY, DAY - 1])
def test_a_period_that_ends_before_it_begins_is_refused(end: int) -> None:
    """Nothing lies in it."""
    with pytest.raises(ImageError, match="the maintenance period of item 1 ends before it begins"):
        decode(option(CRITICAL | 8, struct.pack("<qq", DAY, end)))


@pytest.mark.parametrize("known", options._OPTIONS, ids=lambda known: known.field)
def test_an_option_of_the_wrong_length_is_damage(known: options._Option) -> None:
    """One byte less, one more, or none: no guess is made."""
    size = known.layout.size
    for length in (0, size - 1, size + 1):
        with pytest.raises(ImageError, match=f"option {known.tag & ~CRITICAL} of item 1 has {length} bytes instead of"):
            decode(option(known.tag, bytes(length)))


@pytest.mark.parametrize("tag", [12, 13])
def test_data_has_a_limit(tag: int) -> None:
    """256 bytes are read, one more is refused."""
    longest = b"x" * DATA_LIMIT
    item, _ = decode(option(tag, longest))
    assert longest in {item.protected_data, item.user_data}
    with pytest.raises(ImageError, match="257 bytes of data; the most is 256"):
        decode(option(tag, b"x" * (DATA_LIMIT + 1)))


@pytest.mark.parametrize("tag", range(1, 15))
def test_an_option_that_is_there_twice_is_damage(tag: int) -> None:
    """Two answers to one question are none, also if one of them says that it is critical and the other does not."""
    values = {1: b"x", 5: struct.pack("<q", DAY), 6: struct.pack("<q", DAY), 8: struct.pack("<qq", DAY, DAY + 1)}
    layout = {known.tag & ~CRITICAL: known.layout.size for known in options._OPTIONS}
    value = values.get(tag, bytes(layout.get(tag, 3)))
    with pytest.raises(ImageError, match=f"item 1 has option {tag} twice"):
        decode(option(tag, value), option(CRITICAL | tag, value))


def test_unknown_critical_options_forbid_the_item() -> None:
    """They are all named; the others still count, and one that is not critical is ignored."""
    item, reasons = decode(
        option(CRITICAL | 99, b"?"), option(CRITICAL | 10, bytes([7, 0, 0, 0])), option(77, b"!"), option(0x8000, b"")
    )
    assert item == ProductItem(1, 14, linger=7)
    assert reasons == ["The item has an option that this server does not know (0, 99); update the server."]


@given(st.binary(max_size=60))
def test_random_bytes_give_nothing_but_image_errors(octets: bytes) -> None:
    """Whatever stands there, the answer is options or a sentence."""
    try:
        decode(octets)
    except ImageError:
        return
