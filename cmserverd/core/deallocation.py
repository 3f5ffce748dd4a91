"""What an operator takes from those who hold it (decision 22): the license is free at once, and the client is told.

What lingers or is booked elsewhere is no matter here: an access that is removed ends, with nothing left of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from cmserverd.core import changes as c
from cmserverd.core.refusal import Refused
from cmserverd.core.rules import Rule, end
from cmserverd.core.table import Table
from cmserverd.core.terms import Access, Allocation, Lent, License, Session
from protocol.errors import ErrorNumber
from protocol.messages import EndCause
from protocol.terms import Client, Station, shown_instant


class Deallocated(Struct, frozen=True):
    """What was removed: each access with whose it was, and how many licenses are free by that."""

    accesses: tuple[tuple[int, str, Client], ...]
    licenses: int


def deallocate(
    table: Table, handle: int, alone: bool, seen: frozenset[int], hold_off: int, now: int
) -> Rule[Deallocated]:
    """Remove the allocation of an access with all its instances, or this one `alone`.

    `seen` are the handles that the operator was shown; if there are others by now, nothing is removed. For `hold_off`
    seconds the station is given no new license of the product. Raises Refused: 106 if there is no such access, 105 if
    there is more to it than was seen, 226 if it is a loan: its certificate is honoured until it ends, whatever is done
    here (behaviour 16).
    """
    held = table.accesses.find(handle)
    if held is None:
        for loan in table.lent.values():
            if loan.number == handle:
                raise Refused(ErrorNumber.BORROW_FAILED, _still_out(loan))
        raise Refused(ErrorNumber.INVALID_HANDLE, "it has ended already")
    target = held.target
    going = list(target.accesses.values()) if isinstance(target, Allocation) and not alone else [held]
    _check_seen(going, seen)
    if hold_off and isinstance(target, Allocation):
        yield _held_off(target.station, target.license, hold_off, now)
    return (yield from _end(going))


def deallocate_all(table: Table, session: int, seen: frozenset[int], hold_off: int, now: int) -> Rule[Deallocated]:
    """Remove all that a session holds; other instances go on with what they share with it. Raises Refused, as above."""
    known = table.sessions.get(session)
    if known is None:
        raise Refused(ErrorNumber.INVALID_HANDLE, "the session has ended already")
    going = list(known.accesses.values())
    _check_seen(going, seen)
    if hold_off:
        for counted in dict.fromkeys(_licenses(known)):
            yield _held_off(known.station, counted, hold_off, now)
    return (yield from _end(going))


def _still_out(loan: Lent) -> str:
    return f"it is borrowed until {shown_instant(loan.end)}, and free when its holder gives it back, or then"


def _check_seen(going: Iterable[Access], seen: frozenset[int]) -> None:
    others = [held.handle for held in going if held.handle not in seen]
    if seen and others:
        raise Refused(ErrorNumber.INVALID_PARAMETER, f"handle {others[0]} has come since it was listed; look again")


def _held_off(station: Station, counted: License, seconds: int, now: int) -> c.HeldOff:
    product = counted.product
    return c.HeldOff(station, product.firm_code, product.product_code, now, now + seconds)


def _licenses(session: Session) -> Iterable[License]:
    for held in session.accesses.values():
        if isinstance(held.target, Allocation):
            yield held.target.license


def _end(going: list[Access]) -> Rule[Deallocated]:
    licenses = 0
    for held in going:
        change = end(held, EndCause.ADMINISTRATOR)
        if isinstance(change, c.Freed) and isinstance(held.target, Allocation):
            licenses += held.target.weight
        yield change
    return Deallocated(tuple((held.handle, held.session.address, held.session.client) for held in going), licenses)
