"""What the passing of time does by itself: licenses expire, lives and loans end, and what lingers lapses.

Domain reference, sections 9 and 10.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import Final

from cmserverd.core import changes as c
from cmserverd.core.ledger import strike
from cmserverd.core.plugging import Refuges
from cmserverd.core.rules import Rule, end, let_go
from cmserverd.core.table import Table
from cmserverd.core.validity import over
from protocol.errors import ErrorNumber
from protocol.messages import EndCause
from protocol.terms import LoanEnd

_CAUSES: Final = {
    ErrorNumber.EXPIRATION_OVERRUN: EndCause.EXPIRED,
    ErrorNumber.USAGE_PERIOD_OVERRUN: EndCause.USAGE_OVER,
}


def due(table: Table) -> int | None:
    """Return the next instant of license time at which something happens by itself; None: there is none."""
    instants = [ends[0][0] for ends in (table.expiries, table.returns) if ends]
    instants += [table.elapsed.comes(ends[0][0]) for ends in (table.lingers, table.lives) if ends]
    return min(instants, default=None)


def set_to(now: int, back: int) -> Rule[None]:
    """A certified update set the license time (Unix seconds), so many seconds `back` if it was later.

    What is due by then is left to `advance`.
    """
    yield c.TimeSet(now, back)


def leap(now: int, by: int) -> Rule[None]:
    """The system clock raised license time to this, by so many seconds at once."""
    yield c.Leapt(now, by)


def advance(table: Table, now: int, most: int) -> Rule[bool]:
    """Let happen what is due: `most` allocations at a time, as when a container is gone. Return whether there is more.

    What lapses comes first, then loans that are over and accesses whose maximum life is over: all make room for those
    who have to leave. An access to a license that is over is rebooked on another one that is valid, or ends; those that
    need no valid license stay.
    """
    elapsed = table.elapsed.at(now)
    for until, _, allocation in table.lingers[:most]:
        if until > elapsed:
            break
        yield c.Lapsed(allocation.license.id, allocation.id)
        most -= 1
    for until, _, loan in table.returns[:most]:
        if until > now:
            break
        yield from strike(table, loan.name, LoanEnd.OVER)
        most -= 1
    for until, _, held in table.lives[:most]:
        if until > elapsed:
            break
        yield let_go(held, EndCause.MAXIMUM_LIFE, now)  # who says when he goes goes as others do: it may linger
        most -= 1
    refuges = Refuges(table, {}, now)
    for _, _, counted in list(islice(takewhile(lambda entry: entry[0] <= now, table.expiries), most)):
        why = over(counted.item, now)
        assert why is not None
        leaving = (
            allocation
            for allocation in counted.allocations.values()
            if any(not held.want.force for held in allocation.accesses.values())
        )
        for allocation in list(islice(leaving, most)):
            for held in [held for held in allocation.accesses.values() if not held.want.force]:
                yield refuges.move(held) or end(held, _CAUSES[why])
            most -= 1
        if most <= 0:
            return True
        yield c.Expired(counted.id)
        most -= 1
    instant = due(table)
    return instant is not None and instant <= now
