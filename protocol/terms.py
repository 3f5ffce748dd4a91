"""The words that client and server share: access modes, handle kinds, clients, stations.

Plain values, no behaviour beyond spelling themselves. Everything else on the wire is built from these.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Text = Annotated[str, Meta(max_length=255)]
ContainerText = Annotated[str, Meta(min_length=3, max_length=34, pattern=r"^[0-9]{1,5}-[0-9]{1,10}(-[0-9]{1,10})?\Z")]
"""A container's id as it is printed: `mask-serial`, for cloud containers `mask-serial-part`."""


class AccessMode(StrEnum):
    """How an access counts (domain reference, section 4)."""

    USER_LIMIT = "user_limit"
    """One license per access."""
    STATION_SHARE = "station_share"
    """One license per station, however many accesses it has."""
    EXCLUSIVE = "exclusive"
    """One license, and the station can have no other access of the product meanwhile."""
    NO_USER_LIMIT = "no_user_limit"
    """No license; the entry must exist and be valid."""


class HandleKind(StrEnum):
    """What a handle refers to. Only `ENTRY` handles allocate licenses (domain reference, section 3)."""

    ENTRY = "entry"
    FIRM_ITEM = "firm_item"
    CONTAINER = "container"
    SUBSYSTEM = "subsystem"


class LoanEnd(StrEnum):
    """Why a loan stands no longer that its holder did not give back."""

    OVER = "over"
    """Its time is over."""
    REFUSED = "refused"
    """The container did not take it into its ledger."""
    UNKNOWN = "unknown"
    """The container's ledger does not have it."""


class Client(Struct, frozen=True, gc=False):
    """Who asks, in the client's own words: shown to people, never used to authorise.

    `pid` is the client's process id, `application` the name it gives itself.
    """

    host: Text
    user: Text
    pid: U32
    application: Text = ""


class Station(Struct, frozen=True, gc=False, cache_hash=True):
    """What StationShare counts as one: a machine and a seat on it (decision 13: declared, never an address).

    `machine` is an opaque id of 1 to 64 characters; `seat` is 0 except in a remote graphical session.
    """

    machine: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+\Z")]
    seat: U32 = 0


def shown_client(address: str, host: str, user: str) -> str:
    r"""Return a client as every listing shows it: `address(host \ user)`, as in `::1(WIBU \ fs)`."""
    return f"{address}({host} \\ {user})"


def shown_instant(seconds: int) -> str:
    """Return a time (Unix seconds) in UTC for people; one that no calendar has as the number that it is."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"


_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def shown_period(seconds: int) -> str:
    """Return a number of seconds for people, in the largest unit of which it is a multiple: `30 d`, `90 min`."""
    size, name = next((unit for unit in _UNITS if seconds % unit[0] == 0), _UNITS[-1])
    return f"{seconds // size} {name}"


def printable(text: str) -> str:
    """Return a peer's text with every character that could steer a terminal or break a line replaced by `?`."""
    return "".join(character if character.isprintable() else "?" for character in text)
