"""What a container holds, as values: firm items, product items and their options (domain reference, section 2)."""

from __future__ import annotations

import re
import unicodedata
from enum import IntFlag, StrEnum
from typing import Final, NewType

from msgspec import Struct

ContainerId = NewType("ContainerId", str)
"""A container's id as it is printed: `mask-serial`, as in `3-3448482`."""

DATA_LIMIT: Final = 256
"""The most bytes of an item's protected or user data: a key, or a line of settings."""

EARLIEST: Final = 946_684_800
"""2000-01-01T00:00:00Z: no date in a container is before this one."""

LATEST: Final = 253_402_300_799
"""9999-12-31T23:59:59Z: no date in a container is after this one."""

UNITS_LIMIT: Final = 2**32 - 2
"""The most units of an item: the number after it stands for an item without units, in what a container answers."""

TEXT_LIMIT: Final = 255
"""The most characters in any text of a container: what a line of a listing and a field on the wire can bear."""

_PRINTED_ID: Final = re.compile(r"(0|[1-9][0-9]{0,4})-(0|[1-9][0-9]{0,9})")
_UNSHOWABLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTION_MARKS: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSEEN: Final = frozenset(
    "\u00ad\u034f\u115f\u1160\u180e\u200b\u2060\u2061\u2062\u2063\u2064\u3164\ufeff\uffa0\ufff9\ufffa\ufffb"
) | frozenset(map(chr, range(0xE0000, 0xE0080)))
"""Characters of no width, fillers and tags. The joiners U+200C and U+200D are none: words of some scripts need them."""


def container_id(mask: int, serial: int) -> ContainerId:
    """Return the id of a container with this 16-bit mask and 32-bit serial."""
    return ContainerId(f"{mask}-{serial}")


def mask_and_serial(printed: str) -> tuple[int, int]:
    """Return the mask and the serial of a printed id. Raises ValueError, in words for people, if it is none."""
    match = _PRINTED_ID.fullmatch(printed)
    if match is not None:
        mask, serial = int(match[1]), int(match[2])
        if mask < 2**16 and serial < 2**32:
            return mask, serial
    msg = f"{printed!a} is no container id: write mask-serial, as in 3-3448482 (mask to 65535, serial to 4294967295)"
    raise ValueError(msg)


def check_text(text: str) -> None:
    """Accept a text that listings, logs and terminals can show; raise ValueError, in words for people, on any other.

    Refused are control characters, line separators, marks that turn the direction of what follows them, and characters
    that nobody sees: with them, two texts look the same and are not.
    """
    if len(text) > TEXT_LIMIT:
        msg = f"the text has {len(text)} characters; the most is {TEXT_LIMIT}"
        raise ValueError(msg)
    for character in text:
        if unicodedata.category(character) in _UNSHOWABLE or character in _DIRECTION_MARKS:
            msg = f"the text has the control character U+{ord(character):04X}; leave it out"
            raise ValueError(msg)
        if character in _UNSEEN:
            msg = f"the text has the invisible character U+{ord(character):04X}; leave it out"
            raise ValueError(msg)


class ContainerKind(StrEnum):
    """Where a container lives; every listing shows it (decision 7)."""

    HARDWARE = "hardware"
    VIRTUAL = "virtual"
    EMBEDDED = "embedded"


class QuantityFlag(IntFlag):
    """The flags of a license quantity; the values are the field's."""

    NONE = 0
    DENY_USER_LIMIT = 0x1
    DENY_NO_USER_LIMIT = 0x2
    DENY_EXCLUSIVE = 0x4
    DENY_STATION_SHARE = 0x8
    LOCAL_ONLY = 0x400


KNOWN_FLAGS: Final = QuantityFlag(sum(QuantityFlag))
"""The flags that this software obeys; an item with any other is unusable (`ProductItem.unusable`)."""


class Period(Struct, frozen=True, gc=False):
    """From `start` on, up to and without `end`; Unix seconds."""

    start: int
    end: int


class Allowance(Struct, frozen=True, gc=False):
    """What a licensor gives to be used up: units, or seconds from the first use.

    The container counts what is used. `generation` tells a new allowance from the old one that was programmed again:
    with another number the container begins to count anew.
    """

    amount: int
    generation: int = 0


EVERY_LICENSE: Final = 2**32 - 1
"""As a number of licenses that may be borrowed at a time: as many as there are."""


class Borrowing(Struct, frozen=True, gc=False):
    """What a licensor allows to be borrowed: for how many seconds at most, and how many licenses at a time."""

    seconds: int
    licenses: int = EVERY_LICENSE


class Loan(Struct, frozen=True, gc=False):
    """One borrowing, as the container's ledger has it.

    `id` has 16 bytes, `holder` is the borrower's public key, `end` in Unix seconds.
    """

    id: bytes
    firm_code: int
    reference: int
    quantity: int
    end: int
    holder: bytes


LOAN_SKEW: Final = 60
"""Seconds by which the clocks of who lends and who borrows may differ: the holder stops so much before the end of a
loan, and the container and the server count it until so much after it (decision 21)."""


class Runtime(Struct, frozen=True, gc=False, order=True):
    """A version of this software, as in 1.2."""

    major: int
    minor: int


class ProductItem(Struct, frozen=True, gc=False):
    """One license entry. `reference` tells entries of one firm item apart (1 to 2^32-1).

    An option that is None, or has its default, is not there. `quantity` is the number of licenses, 0 = for the local
    machine only. `feature_map` is a set of 32 bits. It is valid from `activation` to `expiration` (Unix seconds),
    and for `usage` seconds after its first use; software is served whose release date lies in `maintenance`. `units`
    are used up one by one. `linger` is for how many seconds a license stays occupied after its release, `borrowing`
    says what may be taken along, `minimum_runtime` is the oldest server that may hand it out. Applications read the
    data; nobody interprets them.
    `unusable` is a sentence if the entry has an option that this software does not know and so must not ignore.
    `units_used` and `usage_start` (Unix seconds, 0 before the first use) are what the container counted.
    """

    reference: int
    product_code: int
    text: str = ""
    quantity: int = 1
    flags: QuantityFlag = QuantityFlag.NONE
    feature_map: int | None = None
    activation: int | None = None
    expiration: int | None = None
    usage: Allowance | None = None
    maintenance: Period | None = None
    units: Allowance | None = None
    linger: int = 0
    borrowing: Borrowing | None = None
    minimum_runtime: Runtime | None = None
    protected_data: bytes = b""
    user_data: bytes = b""
    units_used: int = 0
    usage_start: int = 0
    unusable: str = ""


class FirmItem(Struct, frozen=True, gc=False):
    """A licensor's section of a container. `update_counter` rises with each update.

    `unusable` is a sentence if it is not believed; then nothing else is known of it. `licensor` is the trusted public
    key whose signature it has; empty if it is believed without one.
    """

    firm_code: int
    text: str = ""
    update_counter: int = 0
    products: tuple[ProductItem, ...] = ()
    unusable: str = ""
    licensor: bytes = b""


class Container(Struct, frozen=True, gc=False):
    """One CmContainer's contents, in the order in which they lie in it."""

    id: ContainerId
    kind: ContainerKind
    text: str = ""
    firm_items: tuple[FirmItem, ...] = ()
