"""The rows of listings: containers with firm items and product items, licenses with their counts, and accesses.

Times are whole Unix seconds, UTC; periods are seconds. `docs/protocol.md` describes the same fields for people.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct


class ContainerInfo(Struct, frozen=True, gc=False):
    """A container in a listing. `kind`: `hardware`, `virtual` or `embedded`; not `present`: unplugged just now."""

    id: str
    kind: str
    text: str
    present: bool
    firm_items: int


class EntryState(StrEnum):
    """Whether an entry is valid for a request that carries no release date, and if not, why."""

    VALID = "valid"
    INACTIVE = "inactive"
    """Its activation is still to come."""
    EXPIRED = "expired"
    USAGE_OVER = "usage_over"
    EXHAUSTED = "exhausted"
    """All its units are used up."""
    NEEDS_NEWER_SERVER = "needs_newer_server"


class EntryInfo(Struct, frozen=True, gc=False, omit_defaults=True):
    """A product item with its options. `denied` are access modes; `unusable` says why the server cannot use it.

    `usage` is for how long it is valid from its first use on, at `usage_start` (None: not begun). `maintenance` is the
    first instant and the one after the last. `units` were given, `units_left` are not used up. It may be borrowed for
    `borrow_seconds` at most (None: not at all), and `borrow_licenses` of it at a time (None: all). `valid_until` is the
    end of the expiration and the usage, whichever is first; None: never.
    """

    item: int
    product_code: int
    text: str
    quantity: int
    denied: tuple[str, ...] = ()
    local_only: bool = False
    feature_map: int | None = None
    unusable: str = ""
    activation: int | None = None
    expiration: int | None = None
    usage: int | None = None
    usage_start: int | None = None
    maintenance: tuple[int, int] | None = None
    units: int | None = None
    units_left: int | None = None
    linger: int = 0
    minimum_runtime: str = ""
    protected_data: bytes = b""
    user_data: bytes = b""
    borrow_seconds: int | None = None
    borrow_licenses: int | None = None
    valid_until: int | None = None
    state: str = EntryState.VALID.value


class FirmItemInfo(Struct, frozen=True, gc=False, omit_defaults=True):
    """A firm item with its product items; `unusable` says why the server does not use it."""

    firm_code: int
    text: str
    update_counter: int
    entries: tuple[EntryInfo, ...]
    unusable: str = ""


class LicenseCount(Struct, frozen=True, gc=False, omit_defaults=True):
    """The counts of one license. `total` is what is offered now; `used` + `free` = `total`.

    The four mode fields are allocations: accesses for user limit, exclusive and no user limit, stations for
    station share. `lingering` ones are used and nobody's; the next of them is free at `lingering_until`. `borrowed`
    ones are used, too; if a licensor's update leaves fewer than those, `total` is what is used, and `quantity` is less.
    """

    container: str
    firm_code: int
    product_code: int
    item: int
    text: str
    feature_map: int | None
    present: bool
    quantity: int
    total: int
    used: int
    free: int
    user_limit: int
    no_user_limit: int
    exclusive: int
    station_share: int
    lingering: int = 0
    lingering_until: int | None = None
    valid_until: int | None = None
    state: str = EntryState.VALID.value
    borrowed: int = 0


BORROWED: Final = "borrowed"
"""What stands in place of the access mode of what is borrowed."""


class AccessInfo(Struct, frozen=True, gc=False, omit_defaults=True):
    r"""One access. `client` is `address(host \ user)`; `attached` is false while its client is cut off.

    It ends at `valid_until` with its license; None: never; and after `maximum_life` seconds, if not 0: at `life_until`.
    `cleanup_time`: how many seconds it outlives its client's last word; 0: as long as its session.

    What is borrowed is listed too, with mode `borrowed` and its end, `borrowed_until`: it has no allocation and no
    session, and its ID stands in place of the handle. If the container alone tells of it, nobody knows its client, but
    for the borrower's public key, and `product_code` is 0 while its license is gone.
    """

    handle: int
    allocation: int
    kind: str
    mode: str
    container: str
    firm_code: int
    product_code: int
    item: int
    client: str
    address: str
    host: str
    user: str
    pid: int
    application: str
    session: int
    station: str
    first_access: int
    last_access: int
    attached: bool
    valid_until: int | None = None
    maximum_life: int = 0
    cleanup_time: int = 0
    borrowed_until: int | None = None
    life_until: int | None = None
