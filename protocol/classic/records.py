"""What goes into the classic calls and comes out of them: the field's records, with names of fields of our own.

Times are whole Unix seconds, UTC, as everywhere in this project (the field counts from 2000-01-01). None is what is not
there, or what this server cannot know.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from protocol.messages import Instant, Nonce
from protocol.proof import Proof
from protocol.terms import U32, Text

U16 = Annotated[int, Meta(ge=0, le=2**16 - 1)]


class CMCREDENTIAL(Struct, frozen=True, kw_only=True):
    r"""Who holds an access. In a request only three may be set: `user_defined_text`, the name that listings show,
    `cleanup_time`, for how many seconds it stays if nothing is heard of this process, and `max_life_time`, after how
    many seconds the server ends it.

    `session` is the number of the session with the server; `expiration_time` is when the access ends with its license.
    """

    pid: U32 | None = None
    session: int | None = None
    cleanup_time: U32 | None = None
    max_life_time: U32 | None = None
    creation_time: int | None = None
    ctrl: U32 | None = None
    expiration_time: int | None = None
    user_defined_id: U32 | None = None
    user_defined_text: Text | None = None
    user_name: Text | None = None
    domain_name: Text | None = None
    cm_instance_uid: str | None = None


class CMACCESS2(Struct, frozen=True, kw_only=True):
    """What CmAccess2 asks for. 0, or an empty text, is what is not asked for.

    `ctrl` takes the same flags as CmAccess2's first argument, except where to ask. `box_mask` and `serial_number` pin
    a container, `product_item_reference` an entry, `server_name` a server (an address as in `docs/protocol.md`).
    `release_date` is Unix seconds. The fields with a `None` for default are refused when set: see `docs/classic.md`.
    """

    ctrl: U32 = 0
    firm_code: U32 = 0
    product_code: U32 = 0
    feature_code: U32 = 0
    product_item_reference: U32 = 0
    box_mask: U16 = 0
    serial_number: U32 = 0
    server_name: Text = ""
    release_date: Instant = 0
    credential: CMCREDENTIAL = CMCREDENTIAL()
    used_runtime_version: U32 | None = None
    minimum_firmware_major: U16 | None = None
    minimum_firmware_minor: U16 | None = None
    borrow_data: bytes | None = None


class CMCRYPT2(Struct, frozen=True, kw_only=True):
    """A challenge for CmCrypt2.

    `encryption_code_options` has the units to take in its lowest 14 bits, and one of the CM_CRYPT_SA... for the access
    mode that the handle must have. `nonce` is made if it is empty. `licensor` is the licensor's public key; with it the
    answer is verified. `key` (16 bytes) is that of an earlier try, whose units are not to be taken twice. `ctrl` is one
    of the field's ciphers, and any of them is refused.
    """

    encryption_code_options: U32 = 0
    nonce: Nonce | None = None
    licensor: bytes | None = None
    key: Annotated[bytes, Meta(min_length=16, max_length=16)] | None = None
    ctrl: U32 | None = None


class CMPROOF(Struct, frozen=True):
    """A container's answer, and what it proves if it was verified; else None: the answer may be anybody's.

    `handle` is the server's number of the handle, which is in the signed `message` together with the `nonce`. Once it
    was verified, `units_left` and `usage_start` are those that the container signed.
    """

    nonce: bytes
    handle: int
    message: bytes
    signature: bytes
    firm_item: bytes
    firm_signature: bytes
    units_left: int | None
    usage_start: int | None
    proven: Proof | None


class CMBOXINFO(Struct, frozen=True):
    """A container. `serial_part` is the third part of a cloud container's number, else 0."""

    box_mask: int
    serial_number: int
    serial_part: int
    kind: str
    text: str
    present: bool


class CMBOXTIME(Struct, frozen=True):
    """The three clocks: the license time is the system time; the container's own two are not told to clients."""

    certified_time: None
    box_time: None
    system_time: int


class CMENTRYINFO(Struct, frozen=True):
    """What a handle is on. The last four are None for a handle on a firm item."""

    firm_code: int
    firm_item_text: str
    firm_update_counter: int
    product_code: int | None
    product_item_reference: int | None
    product_item_text: str | None
    access_mode: int | None


class CMENTRYDATA(Struct, frozen=True):
    """The options of a product item; None is an option that it does not have.

    `maintenance_period` is the first instant and the one after the last. `license_quantity_flags` forbid access modes:
    UserLimit 1, NoUserLimit 2, Exclusive 4, StationShare 8; local access only 0x400. `usage_period` and `linger_time`
    are seconds. `valid_until` is the earliest end, None: never.
    """

    text: str
    license_quantity: int
    license_quantity_flags: int
    feature_map: int | None
    activation_time: int | None
    expiration_time: int | None
    usage_period: int | None
    usage_start: int | None
    maintenance_period: tuple[int, int] | None
    unit_counter: int | None
    units_given: int | None
    linger_time: int
    minimum_runtime_version: str
    protected_data: bytes
    user_data: bytes
    valid_until: int | None
    state: str


class CMNETINFOCLUSTER(Struct, frozen=True):
    """The counts of one license; `used` + `free` = `total`."""

    serial_number: int
    box_mask: int
    product_item_reference: int
    firm_code: int
    product_code: int
    feature_map: int | None
    user_limit: int
    no_user_limit: int
    exclusive: int
    station_share: int
    used: int
    free: int
    total: int
    license_quantity: int


class CMNETINFOUSER(Struct, frozen=True):
    """One access. `id` is its handle's number at the server; `access_mode` is None if it is on no entry."""

    serial_number: int
    box_mask: int
    product_item_reference: int
    firm_code: int
    product_code: int
    feature_map: int | None
    id: int
    access_mode: int | None
    creation_time: int
    client_ip: str


class CMNETINFOUSER_EXT(CMNETINFOUSER, frozen=True):
    r"""The same, and more. `client_address` is for people, as in `::1(WIBU \ fs)`; `ctrl` are the kind's flags."""

    ctrl: int
    last_access_time: int
    client_address: str
    credential: CMCREDENTIAL


class CMSYSTEM(Struct, frozen=True):
    """The server that gave the handle: its name, and the address at which this client reaches it."""

    name: str
    address: str
    software: str


class CMVERSION(Struct, frozen=True):
    """The server's version, as numbers and as it spells it."""

    major: int
    minor: int
    build: int
    text: str
