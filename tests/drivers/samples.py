"""Containers to test with, and ways to damage their images."""

from __future__ import annotations

import struct
import zlib

from hypothesis import strategies as st

from drivers import keys
from drivers.container import (
    DATA_LIMIT,
    EARLIEST,
    KNOWN_FLAGS,
    LATEST,
    UNITS_LIMIT,
    Allowance,
    Borrowing,
    Container,
    ContainerKind,
    FirmItem,
    Period,
    ProductItem,
    QuantityFlag,
    Runtime,
    container_id,
)
from drivers.firm_item import Owner
from drivers.image import SigningKeys
from drivers.trust import Trust

EVERYBODY = Trust(unsigned=range(2**32))
"""Believes whatever a container says."""

U32 = st.integers(0, 2**32 - 1)
NUMBER = st.integers(1, 2**32 - 1)
DATE = st.integers(EARLIEST, LATEST)
DATA = st.binary(max_size=DATA_LIMIT)
ALLOWANCE = st.builds(Allowance, U32, U32)
UNITS = st.builds(Allowance, st.integers(0, UNITS_LIMIT), U32)
PERIOD = st.tuples(DATE, DATE).filter(lambda two: two[0] != two[1]).map(lambda two: Period(min(two), max(two)))
VERSION = st.integers(0, 2**16 - 1)
FILLERS = "\u034f\u115f\u1160\u3164\uffa0"
"""Letters and marks that nobody sees: no text has them."""
TEXT = st.text(
    st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S", "Zs"), exclude_characters=FILLERS), max_size=40
)


def _unique(items: list[ProductItem]) -> tuple[ProductItem, ...]:
    return tuple({item.reference: item for item in items}.values())


def _unique_firms(items: list[FirmItem]) -> tuple[FirmItem, ...]:
    return tuple({item.firm_code: item for item in items}.values())


PRODUCTS = st.builds(
    ProductItem,
    reference=NUMBER,
    product_code=U32,
    text=TEXT,
    quantity=U32,
    flags=st.integers(0, KNOWN_FLAGS.value).map(lambda bits: QuantityFlag(bits & KNOWN_FLAGS.value)),
    feature_map=st.none() | U32,
    activation=st.none() | DATE,
    expiration=st.none() | DATE,
    usage=st.none() | ALLOWANCE,
    maintenance=st.none() | PERIOD,
    units=st.none() | UNITS,
    linger=U32,
    borrowing=st.none() | st.builds(Borrowing, U32, U32),
    minimum_runtime=st.none() | st.builds(Runtime, VERSION, VERSION),
    protected_data=DATA,
    user_data=DATA,
)
FIRM_ITEMS = st.builds(
    FirmItem,
    firm_code=NUMBER,
    text=TEXT,
    update_counter=U32,
    products=st.lists(PRODUCTS, max_size=6).map(_unique),
)
CONTAINERS = st.builds(
    Container,
    id=st.builds(container_id, st.integers(0, 2**16 - 1), U32),
    kind=st.sampled_from(ContainerKind),
    text=TEXT,
    firm_items=st.lists(FIRM_ITEMS, max_size=4).map(_unique_firms),
)
"""Any container that the format can hold."""

CHART_PROCESSING = ProductItem(1, 14, "Chart Processing", 2)


SLOT_LENGTH = 4096
"""Bytes of a state slot, in an image of the first version."""
FIRM_CODE = 600010
CONTAINER_KEY = bytes(range(32))
LICENSOR_KEY = bytes(range(32, 64))
STRANGER_KEY = bytes(range(64, 96))
SIGNING = SigningKeys(CONTAINER_KEY, {FIRM_CODE: LICENSOR_KEY})
"""The keys of the page's specimen: private ones, for tests alone."""

OWNER = Owner(3, 3448482, ContainerKind.HARDWARE, 1, keys.public_of(CONTAINER_KEY))
LICENSOR = keys.public_of(LICENSOR_KEY)
TRUST = Trust({FIRM_CODE: LICENSOR})
"""Believes the licensor of the demo container."""


def demo_container(kind: ContainerKind = ContainerKind.HARDWARE, *products: ProductItem) -> Container:
    """Return a container with firm code 600010 and these products, or one named Chart Processing."""
    return Container(
        container_id(3, 3448482),
        kind,
        "Demo",
        (FirmItem(600010, "Chart Works", 7, products or (CHART_PROCESSING,)),),
    )


def reseal(image: bytes) -> bytes:
    """Return an image whose fields were changed with checksums that are right again, as far as its lengths lead."""
    octets = bytearray(image)

    def seal(start: int, end: int) -> None:
        if start <= end <= len(octets) - 4:
            octets[end : end + 4] = struct.pack("<I", zlib.crc32(octets[start:end]))

    (header_length,) = struct.unpack_from("<H", octets, 10)
    seal(0, header_length - 4)
    at = header_length
    (items,) = struct.unpack_from("<H", octets, 56)
    for _ in range(min(items, 8)):
        if at + 38 > len(octets):
            break
        end = at + 38 + struct.unpack_from("<I", octets, at + 34)[0] + 64
        seal(at, end)
        at = end + 4
    version, total = struct.unpack_from("<HxxI", octets, 8)
    if version == 1:
        seal(len(octets) - 2 * SLOT_LENGTH, len(octets) - SLOT_LENGTH - 4)
        seal(len(octets) - SLOT_LENGTH, len(octets) - 4)
    else:
        seal(total, len(octets) - 4)
    return bytes(octets)


def replace_once(image: bytes, old: bytes, new: bytes) -> bytes:
    """Return the image with the one place that has `old` having `new`, of the same length, sealed again."""
    assert image.count(old) == 1
    assert len(old) == len(new)
    return reseal(image.replace(old, new))
