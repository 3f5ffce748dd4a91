"""What a container holds, as values: firm items, product items and their options (domain reference, section 2)."""

from __future__ import annotations

from enum import IntFlag, StrEnum
from typing import NewType

from msgspec import Struct

ContainerId = NewType("ContainerId", str)
"""A container's id as it is printed: `mask-serial`, as in `3-3448482`."""


def container_id(mask: int, serial: int) -> ContainerId:
    """Return the id of a container with this 16-bit mask and 32-bit serial."""
    return ContainerId(f"{mask}-{serial}")


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


class ProductItem(Struct, frozen=True, gc=False):
    """One license entry. `reference` tells entries of one firm item apart (1 to 2^32-1).

    `quantity` is the number of licenses, 0 = for the local machine only. `feature_map` is a set of 32 bits, or None.
    `unusable` is a sentence if the entry has an option that this software does not know and so must not ignore.
    """

    reference: int
    product_code: int
    text: str = ""
    quantity: int = 1
    flags: QuantityFlag = QuantityFlag.NONE
    feature_map: int | None = None
    unusable: str = ""


class FirmItem(Struct, frozen=True, gc=False):
    """A licensor's section of a container. `update_counter` rises with each update."""

    firm_code: int
    text: str = ""
    update_counter: int = 0
    products: tuple[ProductItem, ...] = ()


class Container(Struct, frozen=True, gc=False):
    """One CmContainer's contents, in the order in which they lie in it."""

    id: ContainerId
    kind: ContainerKind
    text: str = ""
    firm_items: tuple[FirmItem, ...] = ()
