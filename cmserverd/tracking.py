"""License tracking: what the journal tells, as the lines that the field knows (domain reference, section 12).

A projection and nothing else: it replays the history into a table of its own, and says in lines what that changes of
what is occupied. So tracking can neither miss a grant nor tell of one that never was (decision 20). Licenses of
quantity 0 are absent from it, and so are accesses that allocate nothing.

When the list of licenses changes, all that stands is released, the new list is told, and what stands then is told
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from cmserverd.core import changes as c
from cmserverd.core.changes import Change
from cmserverd.core.table import Table
from cmserverd.core.terms import Access, Allocation, Lent, License, LicenseId, LoanName, SessionState
from cmserverd.store import Entry
from protocol.listings import BORROWED
from protocol.messages import Access as Request
from protocol.terms import Station
from protocol.tracking import ReleaseReason, TrackingEvent, TrackingLine

_OVER: Final = {
    SessionState.ATTACHED: ReleaseReason.GOODBYE,
    SessionState.CLOSED: ReleaseReason.CLOSED,
    SessionState.SILENT: ReleaseReason.SILENT,
}

_TAKING: Final = (TrackingEvent.ACCESS, TrackingEvent.BORROW)

_Ending = c.Left | c.Freed | c.Lingering


class _Now(Struct, frozen=True):
    """Where in the history it is: position and license time."""

    position: int
    time: int


class Tracking:
    """Follows a history. `table` is what it has come to."""

    def __init__(self, base: Iterable[Change] = ()) -> None:
        self.table = Table()
        for change in base:
            self.table.apply(change)

    def opening(self, position: int, time: int) -> Iterator[TrackingLine]:
        """Yield what a reader must know who begins here: the list of licenses, and who has them."""
        yield from self._standing(_Now(position, time))

    def opening_size(self) -> int:
        """Return how many lines `opening` has now."""
        accesses = (
            max(len(allocation.accesses), 1) for counted in self._tracked() for allocation in self._allocations(counted)
        )
        return 1 + sum(1 for _ in self._tracked()) + sum(accesses) + sum(1 for _ in self._loans())

    def follow(self, entry: Entry) -> Iterator[TrackingLine]:
        """Go one entry further, and yield what it tells; all of it must be taken."""
        now = _Now(entry.position, entry.at)
        if entry.denied is not None:
            yield from self._denial(now, entry.session, entry.denied)
        closing = {change.session for change in entry.changes if isinstance(change, c.Closed)}
        restarts = any(isinstance(change, c.Restarted) for change in entry.changes)
        if restarts or any(map(self._lists, entry.changes)):
            if not restarts:
                yield from self._all_released(now, entry.changes)
            for change in entry.changes:
                self.table.apply(change)
            if restarts:
                yield TrackingLine(now.position, now.time, TrackingEvent.STARTED)
            yield from self._standing(now)
            return
        for change in entry.changes:
            yield from self._change(now, change, closing)

    # one change

    def _change(self, now: _Now, change: Change, closing: set[int]) -> Iterator[TrackingLine]:
        """Apply a change and yield what it tells."""
        table = self.table
        match change:
            case c.Allocated():
                table.apply(change)
                yield from self._taken(now, table.accesses[change.handle], begins=True)
            case c.Joined():
                table.apply(change)
                yield from self._taken(now, table.accesses[change.handle], begins=False)
            case c.Moved():
                held = table.accesses[change.handle]
                begins = table.licenses[change.license].allocations.find(change.allocation) is None
                yield from self._let_go(now, held, ReleaseReason.MOVED, frees=_is_last(held))
                table.apply(change)
                yield from self._taken(now, held, begins=begins)
            case c.Left() | c.Freed() | c.Lingering():
                held = table.accesses[change.handle]
                yield from self._let_go(now, held, _reason(held, change, closing), frees=isinstance(change, c.Freed))
                table.apply(change)
            case c.Lapsed():
                left = table.licenses[change.license].allocations[change.allocation]
                if left.license.item.quantity:
                    yield _line(now, TrackingEvent.RELEASE, left, None, left.weight, ReleaseReason.LINGER_OVER)
                table.apply(change)
            case c.Borrowed():
                name = (change.license.container, change.id)
                begins = name not in table.lent
                table.apply(change)
                yield from self._out(now, table.lent[name], TrackingEvent.BORROW, counts=begins)
            case c.Returned():
                loan = table.lent[change.container, change.id]
                yield from self._out(now, loan, TrackingEvent.RETURN, counts=True, reason=_returned(change))
                table.apply(change)
            case c.Converting():
                yield from self._let_go(now, table.accesses[change.handle], ReleaseReason.CONVERTED, frees=True)
                table.apply(change)
            case c.Unconverted():
                table.apply(change)
                yield from self._taken(now, table.accesses[change.handle], begins=True)
            case c.Stopped():
                yield TrackingLine(now.position, now.time, TrackingEvent.STOPPED)
            case _:
                table.apply(change)

    def _taken(self, now: _Now, held: Access, *, begins: bool) -> Iterator[TrackingLine]:
        target = held.target
        assert isinstance(target, Allocation)
        if target.license.item.quantity:
            yield _line(now, TrackingEvent.ACCESS, target, held, target.weight if begins else 0)

    def _let_go(self, now: _Now, held: Access, reason: str, *, frees: bool) -> Iterator[TrackingLine]:
        target = held.target
        if held.handle in self.table.converting:
            return  # it has been told as released
        if isinstance(target, Allocation) and target.license.item.quantity:
            yield _line(now, TrackingEvent.RELEASE, target, held, target.weight if frees else 0, reason)

    def _out(
        self, now: _Now, loan: Lent, event: TrackingEvent, *, counts: bool, reason: str = ""
    ) -> Iterator[TrackingLine]:
        counted = self.table.licenses.get(loan.license)
        if counted is not None and counted.item.quantity:
            yield _loan(now, event, counted, loan, loan.quantity if counts else 0, reason)

    def _denial(self, now: _Now, session: int, asked: Request) -> Iterator[TrackingLine]:
        known = self.table.sessions.find(session)
        if known is None:
            return
        client = known.client
        yield TrackingLine(
            now.position,
            now.time,
            TrackingEvent.DENIAL,
            container=asked.container or "",
            firm_code=asked.firm_code,
            product_code=asked.product_code,
            item=asked.item or 0,
            mode=asked.mode.value,
            address=known.address,
            host=client.host,
            user=client.user,
            pid=client.pid,
            application=client.application,
            station=_station(known.station),
        )

    # the whole list

    def _lists(self, change: Change) -> bool:
        """Whether a change is one of the list of licenses."""
        if isinstance(change, c.Reprogrammed):
            return True
        return isinstance(change, c.Plugged) and any(
            LicenseId(change.container.id, firm_item.firm_code, item.reference) not in self.table.licenses
            for firm_item in change.container.firm_items
            for item in firm_item.products
        )

    def _tracked(self) -> Iterator[License]:
        return (counted for counted in self.table.licenses.values() if counted.item.quantity)

    def _allocations(self, counted: License) -> Iterator[Allocation]:
        """Yield the allocations of a license but for those that are becoming loans, which are told as that."""
        return (one for one in counted.allocations.values() if not self.table.taken_along(one))

    def _loans(self) -> Iterator[tuple[License, Lent]]:
        """Yield the loans of the licenses that are tracked."""
        for loan in self.table.lent.values():
            counted = self.table.licenses.get(loan.license)
            if counted is not None and counted.item.quantity:
                yield counted, loan

    def _all_released(self, now: _Now, changes: Iterable[Change]) -> Iterator[TrackingLine]:
        """Yield the release of all that stands: for what these changes say of it, else since the list changes."""
        reasons: dict[int, str] = {}
        lapsed: set[int] = set()
        returned: dict[LoanName, str] = {}
        for change in changes:
            if isinstance(change, _Ending):
                reasons[change.handle] = change.cause or ReleaseReason.RELEASED
            elif isinstance(change, c.Moved):
                reasons[change.handle] = ReleaseReason.MOVED
            elif isinstance(change, c.Lapsed):
                lapsed.add(change.allocation)
            elif isinstance(change, c.Returned):
                returned[change.container, change.id] = _returned(change)
        for counted in self._tracked():
            for allocation in self._allocations(counted):
                left = len(allocation.accesses)
                for held in allocation.accesses.values():
                    left -= 1
                    reason = reasons.get(held.handle, ReleaseReason.RELISTED)
                    yield _line(now, TrackingEvent.RELEASE, allocation, held, 0 if left else allocation.weight, reason)
                if not allocation.accesses:
                    reason = ReleaseReason.LINGER_OVER if allocation.id in lapsed else ReleaseReason.RELISTED
                    yield _line(now, TrackingEvent.RELEASE, allocation, None, allocation.weight, reason)
        for counted, loan in self._loans():
            reason = returned.get(loan.name, ReleaseReason.RELISTED)
            yield _loan(now, TrackingEvent.RETURN, counted, loan, loan.quantity, reason)

    def _standing(self, now: _Now) -> Iterator[TrackingLine]:
        yield TrackingLine(now.position, now.time, TrackingEvent.LICENSES)
        for counted in self._tracked():
            yield _license(now, counted)
        for counted in self._tracked():
            for allocation in self._allocations(counted):
                units = allocation.weight
                for held in allocation.accesses.values():
                    yield _line(now, TrackingEvent.ACCESS, allocation, held, units)
                    units = 0
                if not allocation.accesses:
                    yield _line(now, TrackingEvent.ACCESS, allocation, None, units)
        for counted, loan in self._loans():
            yield _loan(now, TrackingEvent.BORROW, counted, loan, loan.quantity)


class Occupancy:
    """Adds up lines: `used` has each license that is occupied, by container, firm code and item, with its units."""

    def __init__(self) -> None:
        self.used: dict[tuple[str, int, int], int] = {}

    def take(self, line: TrackingLine) -> None:
        """Take the next line."""
        if line.event == TrackingEvent.STARTED:
            self.used.clear()
        elif line.units:
            where = line.container, line.firm_code, line.item
            units = self.used.pop(where, 0) + (line.units if line.event in _TAKING else -line.units)
            if units:
                self.used[where] = units


def occupied(table: Table) -> dict[tuple[str, int, int], int]:
    """Return what an `Occupancy` must have come to."""
    return {
        (str(counted.id.container), counted.id.firm_code, counted.id.item): counted.used
        for counted in table.licenses.values()
        if counted.used and counted.item.quantity
    }


def _reason(held: Access, change: _Ending, closing: set[int]) -> str:
    if change.cause is not None:
        return change.cause.value
    return _OVER[held.session.state] if held.session.id in closing else ReleaseReason.RELEASED


def _returned(change: c.Returned) -> str:
    return ReleaseReason.RELEASED if change.cause is None else change.cause


def _is_last(held: Access) -> bool:
    return isinstance(held.target, Allocation) and len(held.target.accesses) == 1


def _license(now: _Now, counted: License) -> TrackingLine:
    item = counted.item
    return TrackingLine(
        now.position,
        now.time,
        TrackingEvent.LICENSE,
        container=counted.id.container,
        firm_code=counted.id.firm_code,
        product_code=item.product_code,
        item=counted.id.item,
        quantity=item.quantity,
        feature_map=item.feature_map,
        expiration=item.expiration,
        text=item.text,
    )


def _line(
    now: _Now, event: TrackingEvent, booked: Allocation, held: Access | None, units: int, reason: str = ""
) -> TrackingLine:
    """Return the line of an access or a release; without `held`, of an allocation that nobody holds."""
    where = booked.license.id
    return TrackingLine(
        now.position,
        now.time,
        event.value,
        container=where.container,
        firm_code=where.firm_code,
        product_code=booked.license.item.product_code,
        item=where.item,
        allocation=booked.id,
        units=units,
        mode=booked.mode.value,
        reason=str(reason),
        station=_station(booked.station),
        handle=held.handle if held else 0,
        address=held.session.address if held else "",
        host=held.session.client.host if held else "",
        user=held.session.client.user if held else "",
        pid=held.session.client.pid if held else 0,
        application=held.session.client.application if held else "",
    )


def _loan(now: _Now, event: TrackingEvent, counted: License, loan: Lent, units: int, reason: str = "") -> TrackingLine:
    """Return the line of what is borrowed, or comes back; who it is may be unknown."""
    client = loan.client
    return TrackingLine(
        now.position,
        now.time,
        event.value,
        container=counted.id.container,
        firm_code=counted.id.firm_code,
        product_code=counted.item.product_code,
        item=counted.id.item,
        handle=loan.number,
        units=units,
        mode=BORROWED,
        reason=str(reason),
        address=loan.address,
        host=client.host if client else "",
        user=client.user if client else "",
        pid=client.pid if client else 0,
        application=client.application if client else "",
        station=_station(loan.station) if loan.station else "",
        holder=loan.holder.hex(),
        expires=loan.end,
    )


def _station(station: Station) -> str:
    return f"{station.machine}/{station.seat}" if station.seat else station.machine
