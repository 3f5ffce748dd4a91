"""Everything that can happen to the table, as values. Replaying them in order gives the same table.

Each says what is, not why it was decided; its times are license time as that counts just then.
`cause` is None where the client itself let go.
"""

from __future__ import annotations

from msgspec import Struct

from cmserverd.core.terms import ANYTHING, LicenseId, Reference, Want
from drivers.container import Container, ContainerId, ProductItem
from protocol.messages import EndCause
from protocol.terms import AccessMode, Client, LoanEnd, Station


class Started(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """Every driver has looked once: what is not there now is not just late."""


class Restarted(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """The server begins anew with the table it had: nobody is connected, and no driver has looked yet."""


class Stopped(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """The server stops as it was told to; what stands is for its next start."""


class Witnessed(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A container signed the hash of the history that was kept by then: the message says up to which position."""

    container: ContainerId
    message: bytes
    signature: bytes


class Plugged(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A container is here, new or again. Its new items can be drawn on; `Reprogrammed` tells of changed ones."""

    container: Container


class Unplugged(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A container was unplugged; its grace begins."""

    container: ContainerId


class Reprogrammed(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A license has other options now, or is gone (`item` None); no allocation stands that the new options forbid.

    Its allocations weigh what the new options say: a local access counts nothing at license quantity 0.
    """

    license: LicenseId
    item: ProductItem | None


class Consumed(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A container has counted a use of a license: so many units are used up by now, and so its usage period began."""

    license: LicenseId
    units_used: int
    usage_start: int


class Expired(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """The time of a license is over; no access is booked on it but those that need no valid one."""

    license: LicenseId


class TimeSet(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A certified update set the license time to this one; that is so many seconds `back`, 0 if it is not earlier.

    What is not over yet after all ends at its end. What lasts for so long (lingering, a maximum life, being held off)
    goes on for as long as was left, and no access was asked for or used later than that.
    """

    at: int
    back: int = 0


class Leapt(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """The system clock raised license time to this one, by so many seconds at once: it was set, or all stood still.

    What lasts for so long (lingering, a maximum life, being held off) goes on for as long as was left, and so does a
    loan: its holder's clock has not leapt.
    """

    at: int
    by: int


class Removed(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A container is gone for good; none of its licenses is left."""

    container: ContainerId


class Opened(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A session begins."""

    session: int
    token_hash: bytes
    client: Client
    station: Station
    address: str
    local: bool


class Detached(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A session lost its connection: closed, or silent."""

    session: int
    closed: bool


class Resumed(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A session is connected again."""

    session: int
    address: str
    local: bool


class Closed(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A session is over; it holds nothing any more."""

    session: int


class Allocated(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An access, and an allocation of its own."""

    handle: int
    session: int
    key: bytes
    license: LicenseId
    allocation: int
    mode: AccessMode
    at: int
    want: Want = ANYTHING


class Joined(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An access on an allocation that its station has: a share, or one that lingered until now."""

    handle: int
    session: int
    key: bytes
    license: LicenseId
    allocation: int
    at: int
    want: Want = ANYTHING


class Referred(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An access that allocates nothing."""

    handle: int
    session: int
    key: bytes
    reference: Reference
    at: int
    want: Want = ANYTHING


class Bounded(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An access was granted that has a life or a cleanup time of its own: a change by itself, since few have."""

    handle: int
    session: int


class Used(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An access was used."""

    handle: int
    at: int


class Moved(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An access is booked on another license: on the allocation named there, which is new if that has no such one.

    One that lingered does so no longer.
    """

    handle: int
    session: int
    license: LicenseId
    allocation: int


class Left(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An access ended; what it was booked on goes on, or it was booked on nothing."""

    handle: int
    session: int
    cause: EndCause | None = None


class Freed(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """The last access of an allocation ended, and the allocation with it."""

    handle: int
    session: int
    cause: EndCause | None = None


class Lingering(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """The last access of an allocation ended; nobody holds the allocation, and it is its station's alone until then."""

    handle: int
    session: int
    until: int
    cause: EndCause | None = None


class HeldOff(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A station is given no new license of a product before this instant: an operator took one from it."""

    station: Station
    firm_code: int
    product_code: int
    at: int
    until: int


class Lapsed(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An allocation that lingered is gone."""

    license: LicenseId
    allocation: int


class Borrowed(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A loan stands so: a new one, or with another end than before, or with its holder's names, which come with it.

    `id` has 16 bytes, `holder` is the borrower's public key. `station` and `client` are None where nobody knows: the
    container alone told of the loan. `number` is taken from the handles, and stays. `later`: see `Lent`.
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
    at: int
    later: int = 0


class Returned(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A loan stands no longer; its holder gave it back if there is no `cause`."""

    container: ContainerId
    id: bytes
    cause: LoanEnd | None = None


class Converting(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An access is to become the loan with this name, which has its unit from now on; `Borrowed` tells of that.

    Whether it did, the container's ledger says.
    """

    handle: int
    container: ContainerId
    loan: bytes


class Unconverted(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An access did not become the loan that it was to, and has its unit again: `Returned` told of that."""

    handle: int


# What a history begins with that was made short: what stands, without how it came to be (see `core.history`).


class Numbering(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """No session, handle or allocation has one of these numbers or a higher one; lower ones are not used again."""

    session: int
    handle: int
    allocation: int


class Remembered(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A session answers for an access that the server ended."""

    session: int
    key: bytes
    handle: int
    cause: EndCause


class Stands(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An allocation; `Holds` or `Remains` tells whose it is."""

    license: LicenseId
    allocation: int
    station: Station
    mode: AccessMode


class Holds(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An access on an allocation, first and last used then."""

    handle: int
    session: int
    key: bytes
    license: LicenseId
    allocation: int
    first: int
    last: int
    want: Want = ANYTHING


class Remains(Struct, frozen=True, gc=False, tag=True, array_like=True):
    """An allocation that nobody holds is its station's alone until then."""

    license: LicenseId
    allocation: int
    until: int


Change = (
    Started
    | Restarted
    | Stopped
    | Witnessed
    | Plugged
    | Unplugged
    | Reprogrammed
    | Consumed
    | Expired
    | TimeSet
    | Leapt
    | Removed
    | Opened
    | Detached
    | Resumed
    | Closed
    | Allocated
    | Joined
    | Referred
    | Bounded
    | Used
    | Moved
    | Left
    | Freed
    | Lingering
    | Lapsed
    | HeldOff
    | Borrowed
    | Returned
    | Converting
    | Unconverted
    | Numbering
    | Remembered
    | Stands
    | Holds
    | Remains
)
