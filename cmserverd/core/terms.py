"""What the table is made of.

    An Access is what a client holds. An Allocation is what a license counts.
    UserLimit: one access, one allocation. StationShare: all accesses of one station, one allocation.

These values are changed by `table.Table.apply` only; everybody else reads. They are invisible to the garbage collector
(`gc=False`): the table unlinks what it drops, and a million of them must not make a collection stop the daemon.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct, field

from cmserverd.core.blocks import Numbered, Spread
from drivers.container import LOAN_SKEW, Container, ContainerId, ProductItem
from protocol.messages import EndCause
from protocol.terms import AccessMode, Client, HandleKind, Station

USER_LIMIT: Final = AccessMode.USER_LIMIT
STATION_SHARE: Final = AccessMode.STATION_SHARE
EXCLUSIVE: Final = AccessMode.EXCLUSIVE
NO_USER_LIMIT: Final = AccessMode.NO_USER_LIMIT
# Looking a member up in its enumeration costs more than the rest of a comparison; the way of a grant uses these names.


class LicenseId(Struct, frozen=True, gc=False, cache_hash=True, order=True, array_like=True):
    """Names a product item for ever, plugged in or not: allocations refer to this, never to a device (decision 6)."""

    container: ContainerId
    firm_code: int
    item: int


class Want(Struct, frozen=True, gc=False, array_like=True):
    """What an access asked for beyond firm and product code: it must hold wherever the access is booked.

    `container` and `item` pin it; `feature_code` is a set of bits that the license must all have; its maintenance
    period must cover the `release_date`. With `force` it need not be valid; with `ignore_linger` it does not linger. It
    ends `maximum_life` seconds after it was granted; 0: never by itself. It outlives the last word of its client by
    `cleanup_time` seconds; 0: as long as its session.
    """

    feature_code: int = 0
    container: ContainerId | None = None
    item: int | None = None
    release_date: int | None = None
    force: bool = False
    ignore_linger: bool = False
    maximum_life: int = 0
    cleanup_time: int = 0

    @property
    def bounded(self) -> bool:
        """Whether the access may end by itself, or before its session."""
        return bool(self.maximum_life or self.cleanup_time)


ANYTHING = Want()
"""The usual want, shared by all accesses that have no special one."""


class License(Struct, eq=False, gc=False):
    """A product item being counted. `used` is the sum of its allocations' weights, and `lent`: what is borrowed of it.

    `number` is never used twice. `turn` is its container's, and its place in the container: the order in which the
    licenses of a product are drawn on.

    The four mode fields count its held allocations by mode, so that a listing need not walk over them; `lingering` has
    the others, the first to be free first. `limited`: it can be invalid.
    """

    id: LicenseId
    number: int
    turn: tuple[int, int, int]
    item: ProductItem
    product: Product
    present: bool = True
    limited: bool = False
    used: int = 0
    lent: int = 0
    user_limit: int = 0
    no_user_limit: int = 0
    exclusive: int = 0
    station_share: int = 0
    allocations: Numbered[Allocation] = field(default_factory=Numbered)
    lingering: list[LingerEnd] = field(default_factory=list)


class Holding(Struct, eq=False, gc=False):
    """What one station has of one product, over all containers: the scope of StationShare and of Exclusive.

    `accesses` counts the live ones in any mode, `exclusives` those in exclusive mode. What is `lingering` neither
    forbids nor is forbidden anything (decision 9).
    """

    accesses: int = 0
    exclusives: int = 0
    shares: tuple[Allocation, ...] = ()
    lingering: list[Allocation] | None = None


class Product(Struct, eq=False, gc=False):
    """All licenses of one firm and product code, in the order in which they are drawn on, and who holds them."""

    firm_code: int
    product_code: int
    licenses: list[License] = field(default_factory=list)
    holdings: Spread[Station, Holding] = field(default_factory=Spread)


def weight(item: ProductItem, mode: AccessMode) -> int:
    """Return what an allocation counts: 1, or 0 for NoUserLimit (section 4) and license quantity 0 (decision 10)."""
    return 0 if mode is NO_USER_LIMIT or item.quantity == 0 else 1


class Allocation(Struct, eq=False, gc=False):
    """What a license counts, each by its `weight`.

    One that nobody holds lingers: `until` then (elapsed time) it is its station's alone. 0: it is held.
    """

    id: int
    license: License
    station: Station
    mode: AccessMode
    weight: int
    accesses: dict[int, Access] = field(default_factory=dict)
    until: int = 0


LingerEnd = tuple[int, int, Allocation]
"""When an allocation lingers no longer, its number, and itself: sorted, the first is the next."""

LicenseEnd = tuple[int, LicenseId, License]
"""From when on a license is over, its name, and itself: sorted, the first is the next."""


LoanName = tuple[ContainerId, bytes]
"""Names a loan: the id is of the borrower's making, so that only within one ledger it is known to be the one."""


class Lent(Struct, eq=False, gc=False):
    """A loan: so many licenses of one are with a borrower, who need not be connected, until `end`.

    It is no allocation: it never moves, nobody shares it, and it outlives its license's being here. `holder` is the
    borrower's public key; `station` and `client` are None where only the container knows of it. `number` is its ID in
    listings, among the handles. `later` is by how many seconds license time has leapt since, which the borrower's did
    not.
    """

    id: bytes
    license: LicenseId
    number: int
    quantity: int
    end: int
    holder: bytes
    station: Station | None
    client: Client | None
    address: str
    first: int
    later: int = 0

    @property
    def name(self) -> LoanName:
        """What names it: the container whose ledger has it, and its id there."""
        return self.license.container, self.id

    @property
    def until(self) -> int:
        """From when on the licenses are free here without contact, as late as the borrower's clock may be."""
        return self.end + LOAN_SKEW + self.later


LoanOver = tuple[int, int, Lent]
"""When a loan is over, its number, and itself: sorted, the first is the next."""


class Reference(Struct, frozen=True, gc=False, array_like=True):
    """What a handle of another kind than *entry* refers to. It allocates nothing."""

    kind: HandleKind
    container: ContainerId | None
    firm_code: int


class Access(Struct, eq=False, gc=False):
    """What a client holds. `first` and `last`, when it was granted and last used, are elapsed time."""

    handle: int
    key: bytes
    session: Session
    target: Allocation | Reference
    want: Want
    first: int
    last: int


LifeEnd = tuple[int, int, Access]
"""When the maximum life of an access is over, its handle, and itself: sorted, the first is the next."""


class SessionState(Enum):
    """Whether a session's client is connected, and if not, how it went."""

    ATTACHED = "attached"
    CLOSED = "closed"
    """Its connection was closed, by the client or by its operating system: a crash, most likely."""
    SILENT = "silent"
    """Nothing was heard of it: a pulled cable, a sleeping laptop."""


class Ended(Struct, frozen=True, gc=False):
    """An access that the server ended: its handle and key go on answering why."""

    handle: int
    cause: EndCause


class Session(Struct, eq=False, gc=False):
    """One client, outliving its connection. `local`: on the daemon's own machine (decision 10).

    `accesses` and `ended` go by the access's key. What a grant reads comes first: it is then in one cache line.
    """

    id: int
    station: Station
    local: bool
    token_hash: bytes
    client: Client
    address: str
    accesses: dict[bytes, Access] = field(default_factory=dict)
    ended: dict[bytes, Ended] | None = None
    state: SessionState = SessionState.ATTACHED


class KnownContainer(Struct, eq=False, gc=False):
    """A container that the table knows. Not `present`: unplugged, and its grace is running (decision 6).

    `turn` is mask and serial: containers are drawn on in this order, whichever was plugged in or read first.
    """

    turn: tuple[int, int]
    contents: Container
    present: bool = True
    references: dict[int, Access] = field(default_factory=dict)
