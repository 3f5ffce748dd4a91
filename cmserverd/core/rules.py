"""The rules of licensing: look at the table and decide, without touching it.

Each rule is a generator: it yields one change, the engine applies it, and only then the rule looks again and decides
the next. Deciding two steps first and applying them after would decide the second on a table that is no more (two
releases of one share would leave an allocation that nobody holds). A rule returns its answer, or raises `Refused`.

Where a rule comes from is said by its section of the domain reference, or by the number of the decision.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeVar

from msgspec import Struct

from cmserverd.core import changes as c
from cmserverd.core import ghosts
from cmserverd.core.fitting import can_join, has_room, unusable, visible
from cmserverd.core.lingering import left_for, lingers
from cmserverd.core.refusal import Refused, ended, no_license, unless_starting
from cmserverd.core.table import Table
from cmserverd.core.terms import (
    ANYTHING,
    EXCLUSIVE,
    STATION_SHARE,
    Access,
    Allocation,
    License,
    Product,
    Reference,
    Session,
    SessionState,
    Want,
)
from drivers.container import Container, ContainerId
from protocol.errors import ErrorNumber
from protocol.messages import Access as AccessRequest
from protocol.messages import EndCause
from protocol.terms import AccessMode, Client, HandleKind, Station

T = TypeVar("T")
Rule = Generator[c.Change, None, T]

ENTRY: Final = HandleKind.ENTRY


class Limits(Struct, frozen=True):
    """What one client cannot exceed (decision 30): handles per session, sessions per address.

    Nothing is borrowed for more than `borrow_maximum` seconds, and nothing at all if that is 0; of each entry,
    `borrow_keep` licenses are never lent, and `borrow_per_address` are all that one host's clients may have out at once
    (decision 21).
    """

    handles: int = 1_024
    sessions_per_address: int = 10_000
    borrow_maximum: int = 2**32 - 1
    borrow_keep: int = 0
    borrow_per_address: int = 20


# Granting: the hot path


def access(table: Table, session: Session, request: AccessRequest, now: int, limits: Limits) -> Rule[Access]:
    """Grant a handle. Asking again with the same key gives the same one (decision 14)."""
    if request.key in session.accesses:
        return _repeated(session, request)
    if session.ended and (gone := session.ended.get(request.key)):
        raise ended(gone.cause)
    if len(session.accesses) >= limits.handles:
        raise Refused(ErrorNumber.NO_MORE_HANDLES, f"a session may hold {limits.handles}")
    if request.kind is not ENTRY:
        return (yield from _refer(table, session, request, now))
    want = _want_of(request)
    product = table.products.get((request.firm_code, request.product_code))
    if product is None:
        raise no_license(table, session, request.firm_code, request.product_code, want, request.mode, now)
    step = _grant(table, session, product, request.mode, want, request.key, now)
    if table.held_off and type(step) is not c.Joined:
        unless_held_off(table, session.station, product, now)
    if step is None:
        # An application that crashes and is started again gets its license (decision 12).
        for handle in ghosts.in_the_way(table, session, product, request.mode, want, now):
            yield let_go(table.accesses[handle], EndCause.SUPERSEDED, now)
        step = _grant(table, session, product, request.mode, want, request.key, now)
        if step is None:
            raise no_license(table, session, request.firm_code, request.product_code, want, request.mode, now)
    yield step
    if want is not ANYTHING and want.bounded:
        yield c.Bounded(step.handle, session.id)
    return table.accesses[step.handle]


def _grant(
    table: Table, session: Session, product: Product, mode: AccessMode, want: Want, key: bytes, now: int
) -> c.Allocated | c.Joined | None:
    """Decide on which license an access is booked, or None. Raises Refused with 64 if just that is becoming a loan.

    In two passes over all licenses: first whether the station can join what it has, only then where a unit is free.
    One pass would let two instances of one station land in two containers and take two units. Of what lingers for the
    station it takes the newest: the oldest is free for others soonest.
    """
    holding = product.holdings.find(session.station)
    if holding is not None:
        if holding.exclusives or (mode is EXCLUSIVE and holding.accesses):
            return None
        if mode is STATION_SHARE:
            leaves = False
            for share in holding.shares:
                counted = share.license
                if can_join(counted, mode, want, session.local, now):
                    if not table.converting or not table.taken_along(share):
                        return c.Joined(table.next_handle, session.id, key, counted.id, share.id, now, want)
                    leaves = True
            if leaves:  # a second share would be one too many if the container refuses the loan
                raise Refused(ErrorNumber.BOX_BUSY, "the station's license is being taken along just now")
        if holding.lingering and (left := left_for(holding, mode, want, session.local, now)):
            return c.Joined(table.next_handle, session.id, key, left.license.id, left.id, now, want)
    free = _free_license(product, mode, want, session.local, now)
    if free is None:
        return None
    return c.Allocated(table.next_handle, session.id, key, free.id, table.next_allocation, mode, now, want)


def _free_license(product: Product, mode: AccessMode, want: Want, local: bool, now: int) -> License | None:
    """Return the first license, in the order of the containers and items, that can take one more allocation."""
    for counted in product.licenses:
        if has_room(counted, mode) and unusable(counted, mode, want, local, now) is None:
            return counted
    return None


def unless_held_off(table: Table, station: Station, product: Product, now: int) -> None:
    """Raise Refused with 231 if an operator took a license from this station a moment ago (decision 22)."""
    until = table.held_off.get((station, product.firm_code, product.product_code), 0)
    left = table.elapsed.comes(until) - now
    if left > 0:
        detail = f"an operator took one from this station; the next may be had in {left} s"
        raise Refused(ErrorNumber.ACCESS_DENIED, detail)


def _want_of(request: AccessRequest) -> Want:
    if (
        not request.feature_code
        and request.container is None
        and request.item is None
        and request.release_date is None
        and not request.force
        and not request.ignore_linger
        and not request.maximum_life
        and not request.cleanup_time
    ):
        return ANYTHING
    container = None if request.container is None else ContainerId(request.container)
    return Want(
        request.feature_code,
        container,
        request.item,
        request.release_date,
        request.force,
        request.ignore_linger,
        request.maximum_life,
        request.cleanup_time,
    )


def _repeated(session: Session, request: AccessRequest) -> Access:
    """The same key: the same handle, if everything else is the same too."""
    held = session.accesses[request.key]
    target = held.target
    if isinstance(target, Allocation):
        product = target.license.product
        same = (
            request.kind is ENTRY
            and request.firm_code == product.firm_code
            and request.product_code == product.product_code
            and request.mode is target.mode
        )
    else:
        same = request.kind is target.kind and request.firm_code == target.firm_code
    if not same or _want_of(request) != held.want:
        raise Refused(
            ErrorNumber.INVALID_PARAMETER, "the key is that of another access; take a new one for each access"
        )
    return held


def _refer(table: Table, session: Session, request: AccessRequest, now: int) -> Rule[Access]:
    """Grant a handle that allocates nothing: on a firm item, a container or the subsystem (section 3)."""
    if request.kind is HandleKind.SUBSYSTEM:
        reference = Reference(request.kind, None, request.firm_code)
    else:
        reference = Reference(request.kind, _container_for(table, request), request.firm_code)
    handle = table.next_handle
    want = _want_of(request)
    yield c.Referred(handle, session.id, request.key, reference, now, want)
    if want.bounded:
        yield c.Bounded(handle, session.id)
    return table.accesses[handle]


_NEAREST: Final = (
    ErrorNumber.BOX_LOST,
    ErrorNumber.FIRM_ITEM_INVALID,
    ErrorNumber.ENTRY_NOT_FOUND,
    ErrorNumber.BOX_NOT_FOUND,
)
"""Why no container serves, first what comes nearest to what was asked for."""


def _container_for(table: Table, request: AccessRequest) -> ContainerId:
    """Find the first container that a firm item or container handle can be on; firm code 0 asks for any container."""
    missing = [Refused(ErrorNumber.BOX_NOT_FOUND)]
    for plugged in table.containers.values():
        if request.container not in (None, plugged.contents.id):
            continue
        why = None
        if request.kind is HandleKind.FIRM_ITEM or request.firm_code:
            why = _lacks_firm_item(plugged.contents, request.firm_code)
        if why is None and plugged.present:
            return plugged.contents.id
        missing.append(why or Refused(ErrorNumber.BOX_LOST))
    raise unless_starting(table, min(missing, key=lambda refused: _NEAREST.index(refused.number)))


def _lacks_firm_item(contents: Container, firm_code: int) -> Refused | None:
    """Return why a container has no such firm item that can be used; None if it has."""
    for firm_item in contents.firm_items:
        if firm_item.firm_code == firm_code:
            return Refused(ErrorNumber.FIRM_ITEM_INVALID, firm_item.unusable) if firm_item.unusable else None
    return Refused(ErrorNumber.ENTRY_NOT_FOUND)


# Handles


def held_by(table: Table, session: Session, handle: int) -> Access:
    """Return a session's access by its handle. Raises Refused with 106, and why, if it has none (any more)."""
    held = table.accesses.find(handle)
    if held is not None and held.session is session:
        return held
    for gone in (session.ended or {}).values():
        if gone.handle == handle:
            raise ended(gone.cause)
    raise Refused(ErrorNumber.INVALID_HANDLE)


def release(table: Table, session: Session, handle: int, now: int) -> Rule[None]:
    """Give a handle back; the license is free, or lingers, when its last access is released. Raises Refused."""
    yield let_go(held_by(table, session, handle), None, now)


def revoke(held: Access, now: int, lingers: bool) -> Rule[None]:
    """Take a handle back that its client was never told of: its key is free again. Nothing lingers that nobody had."""
    yield let_go(held, None, now) if lingers else end(held, None)


def use(table: Table, session: Session, handle: int, now: int) -> Rule[Access]:
    """Note that a handle was used (*Last Access*)."""
    held = held_by(table, session, handle)
    if held.last != table.elapsed.at(now):
        yield c.Used(handle, now)
    return held


def end(held: Access, cause: EndCause | None) -> c.Left | c.Freed:
    """Return the change that ends an access as the table is now, and leaves nothing of it."""
    target = held.target
    if isinstance(target, Allocation) and len(target.accesses) == 1:
        return c.Freed(held.handle, held.session.id, cause)
    return c.Left(held.handle, held.session.id, cause)


def let_go(held: Access, cause: EndCause | None, now: int) -> c.Left | c.Freed | c.Lingering:
    """Return the change that ends an access whose client let go of it, or is no more: its license may linger."""
    target = held.target
    if isinstance(target, Allocation):
        linger = target.license.item.linger
        if linger and len(target.accesses) == 1 and lingers(target, held):
            return c.Lingering(held.handle, held.session.id, now + linger, cause)
    return end(held, cause)


# Sessions


def open_session(
    table: Table, token_hash: bytes, client: Client, station: Station, address: str, local: bool, limits: Limits
) -> Rule[Session]:
    """Begin a session."""
    if table.addresses.get(address, 0) >= limits.sessions_per_address:
        raise Refused(ErrorNumber.REQUEST_OVERLOAD, f"{limits.sessions_per_address} sessions from one address")
    number = table.next_session
    yield c.Opened(number, token_hash, client, station, address, local)
    return table.sessions[number]


def detach(session: Session, closed: bool) -> Rule[None]:
    """A session lost its connection; what it holds stands until it resumes or its grace is over."""
    if session.state is SessionState.ATTACHED:
        yield c.Detached(session.id, closed)


def clean_up(overdue: list[Access], now: int) -> Rule[None]:
    """End accesses whose client has been silent for as long as they were to outlive that; their session lives on."""
    for held in overdue:
        yield let_go(held, EndCause.SILENT, now)


def resume(table: Table, token_hash: bytes, address: str, local: bool) -> Rule[Session]:
    """Take a session up again, or over from a connection that is still there (decision 14).

    What is for local clients only ends if it comes back from elsewhere.
    """
    session = table.tokens.find(token_hash)
    if session is None:
        raise Refused(ErrorNumber.INVALID_HANDLE, "there is no such session any more; greet anew with hello")
    yield c.Resumed(session.id, address, local)
    for held in list(session.accesses.values()):
        if isinstance(held.target, Allocation) and not visible(held.target.license.item, local):
            yield end(held, EndCause.NOT_LOCAL)
    return session


def close(session: Session, now: int) -> Rule[None]:
    """End a session and all it holds."""
    for held in list(session.accesses.values()):
        yield let_go(held, None, now)
    yield c.Closed(session.id)
