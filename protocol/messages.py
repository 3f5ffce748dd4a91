"""Every message of the protocol, as a value: one class for each method's parameters and one for its result.

The classes are the validation: `rpc` converts a received map into them strictly (types, ranges, lengths), unknown
fields are ignored, missing ones are refused. `docs/protocol.md` describes the same fields for people.
Times are whole Unix seconds, UTC.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, NewType, get_args

from msgspec import Meta, Struct

from protocol.borrowing import Borrow as Borrow
from protocol.borrowing import Borrowed as Borrowed
from protocol.borrowing import GiveBack as GiveBack
from protocol.borrowing import GivenBack as GivenBack
from protocol.borrowing import Lend as Lend
from protocol.borrowing import LoanId as LoanId
from protocol.deallocation import Deallocate as Deallocate
from protocol.deallocation import Deallocated as Deallocated
from protocol.deallocation import DeallocatedAccess as DeallocatedAccess
from protocol.listings import AccessInfo as AccessInfo
from protocol.listings import ContainerInfo as ContainerInfo
from protocol.listings import EntryInfo as EntryInfo
from protocol.listings import FirmItemInfo as FirmItemInfo
from protocol.listings import LicenseCount as LicenseCount
from protocol.params import By as By
from protocol.params import Cursor
from protocol.params import Done as Done
from protocol.params import Instant as Instant
from protocol.params import Params as Params
from protocol.terms import (
    U32,
    AccessMode,
    Client,
    ContainerText,
    HandleKind,
    Station,
)
from protocol.tracking import TrackingPage as TrackingPage
from protocol.tracking import TrackingProof as TrackingProof
from protocol.tracking import TrackingRequest as TrackingRequest
from protocol.tracking import VerifyTracking as VerifyTracking
from protocol.updating import Context as Context
from protocol.updating import ContextFile as ContextFile
from protocol.updating import Import as Import
from protocol.updating import Imported as Imported
from protocol.usage import UsagePage as UsagePage
from protocol.usage import UsageRequest as UsageRequest
from protocol.watching import Configuration as Configuration
from protocol.watching import ConfigurationRequest as ConfigurationRequest
from protocol.watching import Happened as Happened
from protocol.watching import Happenings as Happenings
from protocol.watching import LogPage as LogPage
from protocol.watching import LogRequest as LogRequest
from protocol.watching import Reload as Reload
from protocol.watching import Reloaded as Reloaded
from protocol.watching import Statistics as Statistics
from protocol.watching import StatisticsRequest as StatisticsRequest

PROTOCOL_VERSION = 1
"""The version this package speaks. A greeting offers a range, the answer names the one in force."""

Version = Annotated[int, Meta(ge=1, le=2**16 - 1)]
HandleNumber = Annotated[int, Meta(ge=1, le=2**53 - 1)]
CleanupTime = Annotated[int, Meta(ge=0, le=86_400)]
PageSize = Annotated[int, Meta(ge=1, le=1000)]
Nonce = Annotated[bytes, Meta(min_length=16, max_length=64)]
Token = Annotated[str, Meta(min_length=64, max_length=64, pattern=r"^[0-9a-f]+\Z")]


AccessKey = NewType("AccessKey", bytes)
"""A client-chosen 128-bit key of one access: asking again with the same key gives the same handle.

On the wire 16 bytes, or 32 hexadecimal digits for clients that have no byte strings.
"""


# --- errors -----------------------------------------------------------------------------------------------------


class Reason(Struct, frozen=True, gc=False):
    """Why one entry did not serve a request."""

    container: str
    firm_code: int
    product_code: int
    item: int
    number: int
    name: str
    text: str


class ErrorBody(Struct, frozen=True, gc=False, omit_defaults=True):
    """The error field of a response, and the cause in an event.

    `cause` says why a handle ended (an `EndCause`), `reasons` what was tried where.
    """

    number: int
    name: str
    text: str
    reasons: tuple[Reason, ...] = ()
    cause: str = ""


class EndCause(StrEnum):
    """Why an access ended without its client's release."""

    ADMINISTRATOR = "administrator"
    CONTAINER_GONE = "container_gone"
    REPROGRAMMED = "reprogrammed"
    """The container's contents were changed, and do not serve the access any more."""
    NOT_LOCAL = "not_local"
    """Its session came back from another machine, and the license is for the server's own only."""
    SUPERSEDED = "superseded"
    """A newer session of the same application took its place after the old one had closed."""
    SILENT = "silent"
    """Nothing was heard of its client for its cleanup time."""
    MAXIMUM_LIFE = "maximum_life"
    """The time for which it was asked for is over."""
    EXPIRED = "expired"
    USAGE_OVER = "usage_over"
    """The usage period of its license, which began with the first use, is over."""
    LENT = "lent"
    """Its license was borrowed: the container has it written down that it is out."""


# --- greeting ---------------------------------------------------------------------------------------------------


class Hello(Params["Greeting"], frozen=True, gc=False):
    """Opens a session. `versions` is the lowest and highest protocol version that the client speaks."""

    method: ClassVar[str] = "hello"
    versions: tuple[Version, Version]
    client: Client
    station: Station
    events: Literal["push", "poll"] = "poll"


class Server(Struct, frozen=True, gc=False):
    """How a server introduces itself."""

    name: str
    software: str
    version: str


class Limits(Struct, frozen=True, gc=False):
    """What the server holds the client to: counts, and bytes of one message."""

    requests: int
    message: int
    handles: int


class Greeting(Struct, frozen=True, gc=False, omit_defaults=True):
    """The answer to `hello` and `resume`. `keep_alive` and `timeout` are seconds, perhaps with a fraction.

    On the monitor and control sockets there is no session: number 0 and an empty token. After `resume`, `handles` are
    those still held, and `ended` tells of those that ended meanwhile.
    """

    version: int
    session: int
    token: str
    server: Server
    keep_alive: float
    timeout: float
    time: int
    limits: Limits
    handles: tuple[int, ...] = ()
    ended: tuple[EndedHandle, ...] = ()


class EndedHandle(Struct, frozen=True, gc=False):
    """A handle that the server ended, and why."""

    handle: int
    error: ErrorBody


class Resume(Params[Greeting], frozen=True, gc=False):
    """Takes up a session after its connection was cut, or takes it over from a connection that is still there."""

    method: ClassVar[str] = "resume"
    versions: tuple[Version, Version]
    token: Token
    events: Literal["push", "poll"] = "poll"


class KeepAlive(Params["Time"], frozen=True, gc=False):
    """A sign of life; any other request is one too."""

    method: ClassVar[str] = "keep_alive"


class Time(Struct, frozen=True, gc=False):
    """The server's license time."""

    time: int


class Goodbye(Params[Done], frozen=True, gc=False):
    """Ends the session: all its handles are released at once."""

    method: ClassVar[str] = "goodbye"


# --- handles ----------------------------------------------------------------------------------------------------


class Access(Params["Granted"], frozen=True, gc=False):
    """Asks for a handle. `container` and `item` pin the request; feature code 0 asks for no feature.

    Firm code 0 with kind `container` means any container. `release_date` is that of the software, which the maintenance
    period must cover. `force` takes an entry that is not valid too; with `ignore_linger` it is free at once afterwards.
    It ends after `maximum_life` seconds of license time; 0: not by itself. If nothing is heard of the client, it ends
    after `cleanup_time` seconds instead of the `timeout`, if not 0.
    """

    method: ClassVar[str] = "access"
    key: Annotated[AccessKey, Meta(min_length=16, max_length=16)]
    firm_code: U32 = 0
    product_code: U32 = 0
    mode: AccessMode = AccessMode.USER_LIMIT
    kind: HandleKind = HandleKind.ENTRY
    feature_code: U32 = 0
    container: ContainerText | None = None
    item: U32 | None = None
    release_date: Instant | None = None
    force: bool = False
    ignore_linger: bool = False
    maximum_life: U32 = 0
    cleanup_time: CleanupTime = 0


class Granted(Struct, frozen=True, gc=False, omit_defaults=True):
    """A handle, and the entry that serves it. `allocation` is 0 for kinds that allocate nothing."""

    handle: int
    container: str = ""
    item: int = 0
    allocation: int = 0


class Release(Params[Done], frozen=True, gc=False):
    """Gives a handle back."""

    method: ClassVar[str] = "release"
    handle: HandleNumber


class Info(Params["HandleInfo"], frozen=True, gc=False):
    """Asks what a handle refers to; counts as a use of it (*Last Access*)."""

    method: ClassVar[str] = "info"
    handle: HandleNumber


class HandleInfo(Struct, frozen=True, gc=False, omit_defaults=True):
    """A handle's whole story. `entry` is there for entry handles only, `container` not for subsystem handles."""

    handle: int
    kind: str
    first_access: int
    last_access: int
    mode: str = ""
    allocation: int = 0
    firm_code: int = 0
    container: ContainerInfo | None = None
    entry: EntryInfo | None = None
    maximum_life: int = 0
    cleanup_time: int = 0


class Crypt(Params["CryptAnswer"], frozen=True, gc=False):
    """Has the container answer a challenge: only one that holds the license can (decision 4).

    `units` are taken, once for each `key`, which must be there then; `mode` is the access mode that the handle must
    have. The first one begins the usage period.
    """

    method: ClassVar[str] = "crypt"
    handle: HandleNumber
    nonce: Nonce
    units: U32 = 0
    key: AccessKey | None = None
    mode: AccessMode | None = None


class CryptAnswer(Struct, frozen=True, gc=False, omit_defaults=True):
    """The answer: what the container composed and signed, and the firm item as its licensor signed it.

    `units_left` is None if the entry counts none, `usage_start` 0 if it has no usage period; both are in the message
    too, which alone is signed.
    """

    message: bytes
    signature: bytes
    firm_item: bytes
    firm_signature: bytes
    units_left: int | None = None
    usage_start: int = 0


# --- containers and contents ------------------------------------------------------------------------------------


class Containers(Params["ContainerList"], frozen=True, gc=False):
    """Lists the containers."""

    method: ClassVar[str] = "containers"


class ContainerList(Struct, frozen=True, gc=False):
    """The containers, in the order in which the server draws on them."""

    position: int
    containers: tuple[ContainerInfo, ...]


class Contents(Params["ContainerContents"], frozen=True, gc=False):
    """Asks for the contents of one container."""

    method: ClassVar[str] = "contents"
    container: ContainerText


class ContainerContents(Struct, frozen=True, gc=False):
    """One container's firm items and product items."""

    position: int
    container: ContainerInfo
    firm_items: tuple[FirmItemInfo, ...]


# --- who holds what ---------------------------------------------------------------------------------------------


class NetCluster(Params["LicensePage"], frozen=True, gc=False):
    """Asks for the counts of each license; the filters are joined by *and*."""

    method: ClassVar[str] = "net_cluster"
    container: ContainerText | None = None
    firm_code: U32 | None = None
    product_code: U32 | None = None
    cursor: Cursor = 0
    limit: PageSize = 200


class LicensePage(Struct, frozen=True, gc=False, omit_defaults=True):
    """A page of counts at one position; `next` is the cursor of the following page, absent on the last."""

    position: int
    time: int
    licenses: tuple[LicenseCount, ...]
    next: int | None = None


class NetUsers(Params["AccessPage"], frozen=True, gc=False):
    """Asks for the accesses; `relevant` leaves only those that allocate a license.

    With `session` or `allocation`, those of one client, or those that share one allocation: no loan is among them.
    """

    method: ClassVar[str] = "net_users"
    container: ContainerText | None = None
    firm_code: U32 | None = None
    product_code: U32 | None = None
    relevant: bool = False
    cursor: Cursor = 0
    limit: PageSize = 200
    session: HandleNumber | None = None
    allocation: HandleNumber | None = None


class AccessPage(Struct, frozen=True, gc=False, omit_defaults=True):
    """A page of accesses at one position; `next` is the cursor of the following page, absent on the last."""

    position: int
    time: int
    accesses: tuple[AccessInfo, ...]
    next: int | None = None


class ServerInfoRequest(Params["ServerInfo"], frozen=True, gc=False):
    """Asks for the server's state."""

    method: ClassVar[str] = "server_info"


class ServerInfo(Struct, frozen=True, gc=False):
    """The server's state. `starting` is true until every driver has looked once; `started` is a time.

    `listening` are the addresses on which clients can connect, as `host:port` or `[v6]:port`.
    """

    server: Server
    listening: tuple[str, ...]
    position: int
    time: int
    started: int
    starting: bool
    containers: int
    sessions: int
    accesses: int


# --- events -----------------------------------------------------------------------------------------------------


EventName = Literal["ended", "rebooked"]
EVENT_NAMES: frozenset[str] = frozenset(get_args(EventName))
"""The events this package knows; a client ignores others, which a newer server may tell."""

Recovered = Literal["reacquired", "lost"]
"""What a client tells its own program; a server's event of such a name is ignored."""


class Event(Struct, frozen=True, gc=False, omit_defaults=True):
    """What the server tells by itself: the notification `event`, or an element of an `EventList`.

    `ended`: the handle is valid no longer, `error` says why. `rebooked`: another license serves it now.

    Two are made by the clients of this package, at position 0, when a server has forgotten their session. `reacquired`:
    the access has been granted anew, and `handle` is its new one. `lost`: it was refused, `error` says why, and
    `handle` is what it was.
    """

    method: ClassVar[str] = "event"
    event: EventName | Recovered
    position: int
    handle: int
    error: ErrorBody | None = None
    container: str = ""
    item: int = 0
    allocation: int = 0


class Farewell(Struct, frozen=True, gc=False):
    """The `goodbye` notification: the server closes the connection, and why."""

    method: ClassVar[str] = "goodbye"
    error: ErrorBody


class Events(Params["EventList"], frozen=True, gc=False):
    """Fetches the events of a session that polls; waits up to `wait` seconds for the first."""

    method: ClassVar[str] = "events"
    wait: Annotated[int, Meta(ge=0, le=60)] = 0


class EventList(Struct, frozen=True, gc=False):
    """The events since the last call, oldest first."""

    events: tuple[Event, ...]


RESULTS: dict[type[Params], type[Struct]] = {
    Hello: Greeting,
    Resume: Greeting,
    KeepAlive: Time,
    Goodbye: Done,
    Access: Granted,
    Release: Done,
    Info: HandleInfo,
    Crypt: CryptAnswer,
    Containers: ContainerList,
    Contents: ContainerContents,
    NetCluster: LicensePage,
    NetUsers: AccessPage,
    ServerInfoRequest: ServerInfo,
    TrackingRequest: TrackingPage,
    VerifyTracking: TrackingProof,
    UsageRequest: UsagePage,
    Borrow: Borrowed,
    GiveBack: GivenBack,
    Lend: Borrowed,
    Deallocate: Deallocated,
    Happened: Happenings,
    LogRequest: LogPage,
    ConfigurationRequest: Configuration,
    StatisticsRequest: Statistics,
    Reload: Reloaded,
    Events: EventList,
    Context: ContextFile,
    Import: Imported,
}
"""Every request, and what answers it."""

METHODS: dict[str, type[Params]] = {params.method: params for params in RESULTS}
"""Each method's name and the class of its parameters."""
