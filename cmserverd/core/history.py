"""The shortest history that gives a table: what stands, without all that has come and gone.

A journal begins with it once it was compacted, and goes on with what happened since. Replayed into an empty table it
gives the same one in all that decides and is shown; `License.number` alone, which only tells the pages of one listing
apart, is given out anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from cmserverd.core import changes as c
from cmserverd.core.ledger import extended
from cmserverd.core.table import Table
from cmserverd.core.terms import Access, Allocation, Session, SessionState


def shortest(table: Table) -> Iterator[c.Change]:
    """Yield the changes that make an empty table this one. It must not change meanwhile."""
    before = 0
    for begin, to in table.elapsed.cuts:  # first: what comes now is told in the license time of today
        back, before = begin - to - before, begin - to
        yield c.TimeSet(to, back) if back > 0 else c.Leapt(to, -back)
    if not table.starting:
        yield c.Started()
    yield from _containers(table)
    for session in table.sessions.values():
        yield from _session(session)
    for ghosts in table.ghosts.values():
        for session in ghosts.values():  # in their order: the oldest gives way first
            yield c.Detached(session.id, closed=True)
    for counted in table.licenses.values():
        for allocation in counted.allocations.values():
            yield c.Stands(counted.id, allocation.id, allocation.station, allocation.mode)
    for held in table.accesses.values():
        yield from _access(table, held)
        if held.want.bounded:
            yield c.Bounded(held.handle, held.session.id)
    for handle, becoming in table.converting.items():
        yield c.Converting(handle, *becoming)
    comes = table.elapsed.comes
    for product in table.products.values():
        for holding in product.holdings.values():
            for left in holding.lingering or ():
                yield c.Remains(left.license.id, left.id, comes(left.until))
    for loan in table.lent.values():
        yield extended(loan, loan.end)
    early = comes(min(table.held_off.values(), default=0)) - 1  # none of them is over by then
    for (station, firm_code, product_code), until in table.held_off.items():
        yield c.HeldOff(station, firm_code, product_code, early, comes(until))
    yield c.Numbering(table.next_session, table.next_handle, table.next_allocation)


def _containers(table: Table) -> Iterator[c.Change]:
    for known in table.containers.values():
        yield c.Plugged(known.contents)
        if not known.present:
            yield c.Unplugged(known.contents.id)
    for _, _, counted in table.expired:
        yield c.Expired(counted.id)


def _session(session: Session) -> Iterator[c.Change]:
    yield c.Opened(
        session.id, session.token_hash, session.client, session.station, session.address, local=session.local
    )
    if session.state is SessionState.SILENT:
        yield c.Detached(session.id, closed=False)
    for key, gone in (session.ended or {}).items():
        yield c.Remembered(session.id, key, gone.handle, gone.cause)


def _access(table: Table, held: Access) -> Iterator[c.Change]:
    target = held.target
    first, last = table.elapsed.comes(held.first), table.elapsed.comes(held.last)
    if isinstance(target, Allocation):
        yield c.Holds(held.handle, held.session.id, held.key, target.license.id, target.id, first, last, held.want)
        return
    yield c.Referred(held.handle, held.session.id, held.key, target, first, held.want)
    if last != first:
        yield c.Used(held.handle, last)
