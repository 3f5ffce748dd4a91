"""Looking at a server while it works: what happens, its log, its settings and its figures; and `reload`.

All but `reload` is asked over the monitor socket, `reload` over the control socket. Times are whole Unix seconds, UTC.
`docs/protocol.md` has the same for people.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from protocol.params import By, Instant, Params

LONGEST_WAIT = 60
"""Seconds: who wants to wait for longer asks again."""

_Wait = Annotated[int, Meta(ge=0, le=LONGEST_WAIT)]


# --- what happens -------------------------------------------------------------------------------------------------


class HappeningKind(StrEnum):
    """What can happen. A newer server may tell more."""

    GRANTED = "granted"
    ENDED = "ended"
    """An access is over: `cause` says why, and is empty if its client let go of it."""
    REBOOKED = "rebooked"
    FREED = "freed"
    """What lingered is free."""
    REFUSED = "refused"
    """A request was refused, with the error `number`; the codes are those of a request for an access."""
    BORROWED = "borrowed"
    """A loan stands, new or extended; `handle` is its ID."""
    RETURNED = "returned"
    OPENED = "opened"
    """A session began; the next three are of one too."""
    DETACHED = "detached"
    RESUMED = "resumed"
    CLOSED = "closed"
    PLUGGED = "plugged"
    UNPLUGGED = "unplugged"
    REMOVED = "removed"
    """A container is gone for good."""
    REPROGRAMMED = "reprogrammed"
    CONSUMED = "consumed"
    """Units were taken, or a usage period began."""
    EXPIRED = "expired"
    HELD_OFF = "held_off"
    STARTED = "started"
    """Every driver has looked once."""
    TIME_SET = "time_set"


class Happened(Params["Happenings"], frozen=True, gc=False):
    """Asks what happened after a position; waits up to `wait` seconds for the first of it. None: from now on."""

    method: ClassVar[str] = "happened"
    since: Instant | None = None
    wait: _Wait = 0


class Happening(Struct, frozen=True, gc=False, omit_defaults=True):
    """One thing that happened; what it has nothing to do with is 0 or empty."""

    position: int
    time: int
    kind: str
    container: str = ""
    firm_code: int = 0
    product_code: int = 0
    item: int = 0
    handle: int = 0
    session: int = 0
    number: int = 0
    cause: str = ""


class Happenings(Struct, frozen=True, gc=False, omit_defaults=True):
    """What happened, oldest first, up to `position`, with which to go on.

    `missed`: not all that was asked for is there any more. Then there are no events; `position` is now, and what is
    still there is after `first`.
    """

    position: int
    time: int
    events: tuple[Happening, ...] = ()
    missed: bool = False
    first: int = 0


# --- the log ------------------------------------------------------------------------------------------------------


class LogRequest(Params["LogPage"], frozen=True, gc=False):
    """Asks for the last lines of the log after number `since`; waits up to `wait` seconds for the first of them."""

    method: ClassVar[str] = "log"
    since: Instant = 0
    wait: _Wait = 0


class LogLine(Struct, frozen=True, gc=False):
    """A line: its number since the start, from 1; the system's time; and its fields, as `key=value key=value`."""

    number: int
    time: int
    level: str
    event: str
    fields: str


class LogPage(Struct, frozen=True, gc=False):
    """Lines, oldest first; `number` is that of the last one there is. If `missed`, some in front are gone."""

    number: int
    lines: tuple[LogLine, ...]
    missed: bool


# --- the settings -------------------------------------------------------------------------------------------------


class ConfigurationRequest(Params["Configuration"], frozen=True, gc=False):
    """Asks for the settings that are in force."""

    method: ClassVar[str] = "configuration"


class Setting(Struct, frozen=True, gc=False):
    """A setting: value and default spelt as in the file, what is allowed, and what it means.

    `line` is where the file sets it, 0 if it does not. `reloads`: a changed one is taken over without a restart.
    """

    section: str
    key: str
    value: str
    default: str
    line: int
    allowed: str
    meaning: str
    reloads: bool


class Configuration(Struct, frozen=True, gc=False):
    """The settings, and the file that was read; empty if there is none. Secrets are not shown."""

    file: str
    settings: tuple[Setting, ...]


class Reload(Params["Reloaded"], frozen=True, gc=False):
    """Has the server read its file anew, and take over what can be changed while it runs."""

    method: ClassVar[str] = "reload"
    by: By = ""


class Reloaded(Struct, frozen=True, gc=False):
    """The changed settings, as `section.key`: those that are in force now, and those that a restart is needed for."""

    taken: tuple[str, ...]
    restart: tuple[str, ...]


# --- the figures --------------------------------------------------------------------------------------------------


class StatisticsRequest(Params["Statistics"], frozen=True, gc=False):
    """Asks for the figures since the server's start."""

    method: ClassVar[str] = "statistics"


class EndedCount(Struct, frozen=True, gc=False):
    """How many accesses the server itself ended for a cause (an `EndCause`)."""

    cause: str
    count: int


class RefusedCount(Struct, frozen=True, gc=False):
    """How many requests of clients were refused with an error number."""

    number: int
    name: str
    count: int


class ProductRefusals(Struct, frozen=True, gc=False):
    """How many requests for a product were refused, by error number."""

    firm_code: int
    product_code: int
    refused: tuple[RefusedCount, ...]


class LicensePeak(Struct, frozen=True, gc=False):
    """The most units of a license that were in use at once since the start."""

    container: str
    firm_code: int
    product_code: int
    item: int
    peak: int


class Latency(Struct, frozen=True, gc=False):
    """For how long clients' requests were worked on, of some: from reading one to the sending of its reply, in seconds.

    `counts[n]` are those of at most `bounds[n]` seconds and more than the bound before; the last one has no bound.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class Durability(Struct, frozen=True, gc=False, omit_defaults=True):
    """Whether what is granted survives, `protected`, or `why` not; `setting` is what is configured.

    `commit` is how many seconds the last commit took, `history` how many bytes the journal's files have.
    """

    setting: str
    protected: bool
    why: str = ""
    commit: float = 0.0
    history: int = 0


class Statistics(Struct, frozen=True, gc=False, omit_defaults=True):
    """The figures. `granted`, `released` and `ended` are accesses; `refused` are clients' requests, whatever they were.

    `products` has the refused requests for accesses by product, for a thousand products that there are. The four mode
    fields count what is held now, as in `net_cluster`; `borrowed` are units. `peaks` has the first 4,096 licenses.
    """

    position: int
    time: int
    started: int
    containers: int
    sessions: int
    sessions_peak: int
    accesses: int
    granted: int
    released: int
    ended: tuple[EndedCount, ...]
    refused: tuple[RefusedCount, ...]
    products: tuple[ProductRefusals, ...]
    user_limit: int
    no_user_limit: int
    exclusive: int
    station_share: int
    latency: Latency
    durability: Durability
    peaks: tuple[LicensePeak, ...]
    borrowed: int = 0
