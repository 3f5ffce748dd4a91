"""License tracking: who had which license from when to when, who was denied one, and why each let go.

Each line says by how many units it changes what is occupied, so that whoever adds them up has the occupancy at any
time (domain reference, section 12). Times are whole Unix seconds, UTC. `docs/protocol.md` has the same for people.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from msgspec import Struct

from protocol.params import Cursor, Instant, Params


class TrackingEvent(StrEnum):
    """What a line tells of."""

    STARTED = "started"
    """The server began; nothing is occupied but what the next lines say."""
    STOPPED = "stopped"
    """The server stopped as it was told to; the next line is that of its next start."""
    LICENSES = "licenses"
    """A list of licenses begins; an earlier one is no longer valid."""
    LICENSE = "license"
    ACCESS = "access"
    RELEASE = "release"
    DENIAL = "denial"
    BORROW = "borrow"
    """A license is taken along; again with 0 units when that ends at another time than was said before."""
    RETURN = "return"


class ReleaseReason(StrEnum):
    """Why a release or a return was.

    Where the server ended an access it is the `EndCause`, where a loan ended by itself the `LoanEnd`.
    """

    RELEASED = "released"
    """Its client gave it back."""
    GOODBYE = "goodbye"
    """Its client ended the session."""
    CLOSED = "closed"
    """Its client's connection was closed, and did not come back in time."""
    SILENT = "silent"
    """Nothing was heard of its client for too long."""
    MOVED = "moved"
    """It is booked on another license, as the next lines say."""
    CONVERTED = "converted"
    """It becomes a loan, as the next line says; if the container refuses that, an access with its handle follows."""
    LINGER_OVER = "linger_over"
    """What lingered for its station is free."""
    RELISTED = "relisted"
    """The list of licenses changes; what stands is said again behind the new one."""


class TrackingLine(Struct, frozen=True, gc=False, omit_defaults=True):
    """One line. `units` become occupied by an access or a borrow, and free by a release or a return.

    An access that shares an allocation has 0 units, and so has one that counts nothing; the units of a share go with
    its last release. An access or release without a handle is of an allocation that lingers. A denial names the
    license only if it was asked for one; `product_code` it has always. What is borrowed has its ID as `handle`, the
    borrower's public key as `holder`, in hexadecimal digits, and `expires` then.
    """

    position: int
    time: int
    event: str
    container: str = ""
    firm_code: int = 0
    product_code: int = 0
    item: int = 0
    allocation: int = 0
    handle: int = 0
    units: int = 0
    mode: str = ""
    reason: str = ""
    address: str = ""
    host: str = ""
    user: str = ""
    pid: int = 0
    application: str = ""
    station: str = ""
    quantity: int = 0
    feature_map: int | None = None
    expiration: int | None = None
    text: str = ""
    holder: str = ""
    expires: int | None = None


class TrackedFrom(Struct, frozen=True, gc=False):
    """Where a page of tracking goes on: in the segment that begins after a position, behind so many of its lines."""

    segment: Cursor
    lines: Cursor


class TrackingRequest(Params["TrackingPage"], frozen=True, gc=False):
    """Asks for the lines of license tracking from a time on, and until before another one."""

    method: ClassVar[str] = "tracking"
    since: Instant | None = None
    until: Instant | None = None
    cursor: TrackedFrom | None = None


class TrackingPage(Struct, frozen=True, gc=False, omit_defaults=True):
    """A page of lines, and up to which position and time they tell; `next` is where to go on, absent on the last."""

    position: int
    time: int
    lines: tuple[TrackingLine, ...]
    next: TrackedFrom | None = None


class VerifyTracking(Params["TrackingProof"], frozen=True, gc=False):
    """Asks whether license tracking is as it was written."""

    method: ClassVar[str] = "verify_tracking"


class TrackingProof(Struct, frozen=True, gc=False, omit_defaults=True):
    """From which position on, up to which one and which time it is; `text` says what is wrong where it is not `sound`.

    So many `segments` there are, and so many `entries` and `lines` were found sound. Up to position `proven`, and that
    time, a `container` that is plugged in signed it; what `strangers` signed, containers that are not, proves nothing.
    """

    sound: bool
    first: int
    position: int
    time: int
    segments: int
    entries: int
    lines: int
    text: str = ""
    proven: int = 0
    proven_time: int = 0
    container: str = ""
    strangers: int = 0
