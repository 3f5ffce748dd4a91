"""The table that counts: applies changes, decides nothing.

Each look-up that a grant needs costs the same, whatever the number of stations, sessions and handles. A change that
does not fit the table is a bug of the rules and raises `KeyError` or `AssertionError` before anything is altered
wherever that can be told; `apply` never refuses.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import ClassVar, Final

from cmserverd.core import changes as c
from cmserverd.core.blocks import Numbered, Spread
from cmserverd.core.elapsed import Elapsed
from cmserverd.core.stock import Appliers, Stock
from cmserverd.core.terms import (
    EXCLUSIVE,
    STATION_SHARE,
    USER_LIMIT,
    Access,
    Allocation,
    Ended,
    Holding,
    License,
    LicenseId,
    LifeEnd,
    LingerEnd,
    Session,
    SessionState,
    weight,
)
from protocol.messages import EndCause
from protocol.terms import AccessMode, Station

REMEMBERED_ENDINGS: Final = 1_024
"""How many accesses that the server ended a session still answers for: as many as it can hold at once."""


class Table(Stock):
    """The state of the license server. Read its attributes freely; change it by `apply` only.

    `expiries`, `lingers` and `lives` are sorted: what time does next comes first. `held_off` has until when a station
    is given no new license of a product, by station, firm and product code; what is over may still be there. Lingering,
    lives, being held off and the times of accesses are `elapsed` time, so that setting license time touches none.
    """

    __slots__ = (
        "accesses",
        "addresses",
        "elapsed",
        "ghosts",
        "held_off",
        "lingers",
        "lives",
        "next_allocation",
        "next_handle",
        "next_session",
        "sessions",
        "starting",
        "tokens",
    )

    def __init__(self) -> None:
        super().__init__()
        self.starting = True
        self.elapsed = Elapsed()
        self.sessions: Numbered[Session] = Numbered()
        self.tokens: Spread[bytes, Session] = Spread()
        self.addresses: dict[str, int] = {}
        self.ghosts: dict[tuple[Station, str], dict[int, Session]] = {}
        self.accesses: Numbered[Access] = Numbered()
        self.lingers: list[LingerEnd] = []
        self.lives: list[LifeEnd] = []
        self.held_off: dict[tuple[Station, int, int], int] = {}
        self.next_session = 1
        self.next_handle = 1
        self.next_allocation = 1

    def apply(self, change: c.Change) -> None:
        """Make one change."""
        self.APPLY[type(change)](self, change)

    # containers

    def _started(self, _: c.Started) -> None:
        self.starting = False

    def _restarted(self, _: c.Restarted) -> None:
        self.starting = True
        for known in self.containers.values():
            known.present = False
        for counted in self.licenses.values():
            counted.present = False
        for session in self.sessions.values():
            if session.state is SessionState.ATTACHED:
                session.state = SessionState.SILENT
        for handle in [handle for handle, loan in self.converting.items() if loan not in self.lent]:
            self._unconverted(c.Unconverted(handle))  # of format 3, where a loan counted only once it was written

    def _only_told(self, _: c.Stopped | c.Witnessed) -> None:
        """Change nothing: license tracking tells it."""

    def _time_set(self, change: c.TimeSet) -> None:
        self._bring_back(change.at)
        if change.back:
            self.elapsed.turn_back(change.at, change.back)
            self._delay_loans(-change.back)

    def _leapt(self, change: c.Leapt) -> None:
        self.elapsed.turn_back(change.at, -change.by)
        self._delay_loans(change.by)

    # sessions

    def _opened(self, change: c.Opened) -> None:
        session = Session(
            id=change.session,
            station=change.station,
            local=change.local,
            token_hash=change.token_hash,
            client=change.client,
            address=change.address,
        )
        self.sessions.add(session.id, session)
        self.tokens.add(session.token_hash, session)
        self.addresses[session.address] = self.addresses.get(session.address, 0) + 1
        self.next_session = session.id + 1

    def _detached(self, change: c.Detached) -> None:
        session = self.sessions[change.session]
        session.state = SessionState.CLOSED if change.closed else SessionState.SILENT
        if change.closed:
            self.ghosts.setdefault((session.station, session.client.application), {})[session.id] = session

    def _resumed(self, change: c.Resumed) -> None:
        session = self.sessions[change.session]
        self._no_ghost(session)
        session.state = SessionState.ATTACHED
        self._leave_address(session.address)
        session.address = change.address
        session.local = change.local
        self.addresses[session.address] = self.addresses.get(session.address, 0) + 1

    def _closed(self, change: c.Closed) -> None:
        session = self.sessions[change.session]
        assert not session.accesses
        self._no_ghost(session)
        self._leave_address(session.address)
        self.sessions.remove(session.id)
        self.tokens.remove(session.token_hash)

    def _no_ghost(self, session: Session) -> None:
        if session.state is SessionState.CLOSED:
            name = (session.station, session.client.application)
            ghosts = self.ghosts[name]
            del ghosts[session.id]
            if not ghosts:
                del self.ghosts[name]

    def _leave_address(self, address: str) -> None:
        left = self.addresses[address] - 1
        if left:
            self.addresses[address] = left
        else:
            del self.addresses[address]

    # accesses

    def _allocated(self, change: c.Allocated) -> None:
        session = self.sessions[change.session]
        counted = self.licenses[change.license]
        allocation = self._new_allocation(counted, change.allocation, session.station, change.mode)
        at = self.elapsed.at(change.at)
        access = Access(change.handle, change.key, session, allocation, change.want, at, at)
        self._hold(access, allocation)
        self._register(access)

    def _joined(self, change: c.Joined) -> None:
        session = self.sessions[change.session]
        allocation = self._had(change.license, session.station, change.allocation)
        if allocation.until:
            self._take_up(allocation)
        at = self.elapsed.at(change.at)
        access = Access(change.handle, change.key, session, allocation, change.want, at, at)
        self._hold(access, allocation)
        self._register(access)

    def _referred(self, change: c.Referred) -> None:
        session = self.sessions[change.session]
        at = self.elapsed.at(change.at)
        access = Access(change.handle, change.key, session, change.reference, change.want, at, at)
        if change.reference.container is not None:
            self.containers[change.reference.container].references[access.handle] = access
        self._register(access)

    def _bounded(self, change: c.Bounded) -> None:
        access = self.accesses[change.handle]
        if access.want.maximum_life:
            insort(self.lives, _life(access))

    def _used(self, change: c.Used) -> None:
        self.accesses[change.handle].last = self.elapsed.at(change.at)

    def _moved(self, change: c.Moved) -> None:
        access = self.accesses[change.handle]
        old = access.target
        assert isinstance(old, Allocation)
        counted = self.licenses[change.license]
        new = counted.allocations.find(change.allocation)
        self._let_go(access, old)
        if not old.accesses:
            self._drop_allocation(old)
        if new is None:
            new = self._new_allocation(counted, change.allocation, old.station, old.mode)
        elif new.until:
            self._take_up(new)
        access.target = new
        self._hold(access, new)
        self.converting.pop(access.handle, None)  # that loan has the unit that it had

    def _left(self, change: c.Left) -> None:
        access = self.accesses[change.handle]
        target = access.target
        if isinstance(target, Allocation):
            assert len(target.accesses) > 1
            self._let_go(access, target)
        elif target.container is not None:
            del self.containers[target.container].references[access.handle]
        self._end(access, change.cause)

    def _freed(self, change: c.Freed) -> None:
        access = self.accesses[change.handle]
        allocation = access.target
        assert isinstance(allocation, Allocation)
        assert len(allocation.accesses) == 1
        self._let_go(access, allocation)
        self._drop_allocation(allocation)
        self._end(access, change.cause)

    def _lingering(self, change: c.Lingering) -> None:
        access = self.accesses[change.handle]
        allocation = access.target
        assert isinstance(allocation, Allocation)
        assert len(allocation.accesses) == 1
        holding = allocation.license.product.holdings[allocation.station]
        self._set_aside(allocation, holding, self.elapsed.at(change.until))
        self._let_go(access, allocation)
        self._end(access, change.cause)

    def _lapsed(self, change: c.Lapsed) -> None:
        allocation = self.licenses[change.license].allocations[change.allocation]
        self._take_up(allocation)
        self._drop_allocation(allocation)
        holdings = allocation.license.product.holdings
        holding = holdings[allocation.station]
        if not holding.accesses and not holding.lingering:
            holdings.remove(allocation.station)

    def _held_off(self, change: c.HeldOff) -> None:
        now = self.elapsed.at(change.at)
        self.held_off = {name: until for name, until in self.held_off.items() if until > now}
        self.held_off[change.station, change.firm_code, change.product_code] = self.elapsed.at(change.until)

    def _lent(self, change: c.Borrowed) -> None:
        self._borrowed(change)
        self.next_handle = max(self.next_handle, change.number + 1)

    def _converting(self, change: c.Converting) -> None:
        self.converting[change.handle] = (change.container, change.loan)
        self._weigh(change.handle)

    def _unconverted(self, change: c.Unconverted) -> None:
        del self.converting[change.handle]
        self._weigh(change.handle)

    # what a shortened history begins with

    def _numbering(self, change: c.Numbering) -> None:
        self.next_session = change.session
        self.next_handle = change.handle
        self.next_allocation = change.allocation

    def _remembered(self, change: c.Remembered) -> None:
        session = self.sessions[change.session]
        if session.ended is None:
            session.ended = {}
        session.ended[change.key] = Ended(change.handle, change.cause)

    def _stands(self, change: c.Stands) -> None:
        self._new_allocation(self.licenses[change.license], change.allocation, change.station, change.mode)

    def _holds(self, change: c.Holds) -> None:
        session = self.sessions[change.session]
        allocation = self.licenses[change.license].allocations[change.allocation]
        first, last = self.elapsed.at(change.first), self.elapsed.at(change.last)
        access = Access(change.handle, change.key, session, allocation, change.want, first, last)
        self._hold(access, allocation)
        self._register(access)

    def _remains(self, change: c.Remains) -> None:
        allocation = self.licenses[change.license].allocations[change.allocation]
        holding = allocation.license.product.holdings.find(allocation.station) or self._new_holding(allocation)
        self._set_aside(allocation, holding, self.elapsed.at(change.until))

    # the parts of the above

    def _register(self, access: Access) -> None:
        access.session.accesses[access.key] = access
        self.accesses.add(access.handle, access)
        self.next_handle = access.handle + 1

    def _end(self, access: Access, cause: EndCause | None) -> None:
        session = access.session
        self.accesses.remove(access.handle)
        if self.converting:
            self.converting.pop(access.handle, None)
        if access.want.maximum_life:
            del self.lives[bisect_left(self.lives, _life(access))]
        del session.accesses[access.key]
        if cause is not None:
            ended = session.ended
            if ended is None:
                ended = session.ended = {}
            elif len(ended) >= REMEMBERED_ENDINGS:
                del ended[next(iter(ended))]
            ended[access.key] = Ended(access.handle, cause)

    def _had(self, license_id: LicenseId, station: Station, number: int) -> Allocation:
        """Find an allocation by its station, which has a few, rather than by its license, which may have a million."""
        holding = self.licenses[license_id].product.holdings[station]
        for allocation in (*holding.shares, *reversed(holding.lingering or ())):
            if allocation.id == number:
                return allocation
        raise KeyError(number)

    def _new_holding(self, allocation: Allocation) -> Holding:
        holding = Holding()
        allocation.license.product.holdings.add(allocation.station, holding)
        return holding

    def _set_aside(self, allocation: Allocation, holding: Holding, until: int) -> None:
        """An allocation lingers from now on."""
        counted = allocation.license
        if holding.lingering is None:
            holding.lingering = []
        holding.lingering.append(allocation)
        allocation.until = until
        insort(counted.lingering, (until, allocation.id, allocation))
        insort(self.lingers, (until, allocation.id, allocation))
        _count_mode(counted, allocation.mode, -1)

    def _take_up(self, allocation: Allocation) -> None:
        """An allocation that lingered does so no longer."""
        counted = allocation.license
        for ends in (counted.lingering, self.lingers):
            del ends[bisect_left(ends, (allocation.until, allocation.id))]
        holding = counted.product.holdings[allocation.station]
        assert holding.lingering is not None
        holding.lingering.remove(allocation)
        holding.lingering = holding.lingering or None
        allocation.until = 0
        _count_mode(counted, allocation.mode, 1)

    def _hold(self, access: Access, allocation: Allocation) -> None:
        allocation.accesses[access.handle] = access
        holding = allocation.license.product.holdings.find(allocation.station) or self._new_holding(allocation)
        holding.accesses += 1
        if allocation.mode is STATION_SHARE:
            if len(allocation.accesses) == 1:
                shares = (*holding.shares, allocation)
                holding.shares = shares if len(shares) == 1 else tuple(sorted(shares, key=_number))
        elif allocation.mode is EXCLUSIVE:
            holding.exclusives += 1

    def _let_go(self, access: Access, allocation: Allocation) -> None:
        del allocation.accesses[access.handle]
        holdings = allocation.license.product.holdings
        holding = holdings[allocation.station]
        holding.accesses -= 1
        if allocation.mode is STATION_SHARE:
            if not allocation.accesses:
                holding.shares = tuple(share for share in holding.shares if share is not allocation)
        elif allocation.mode is EXCLUSIVE:
            holding.exclusives -= 1
        if not holding.accesses and not holding.lingering:
            holdings.remove(allocation.station)

    def _new_allocation(self, counted: License, number: int, station: Station, mode: AccessMode) -> Allocation:
        units = weight(counted.item, mode)
        allocation = Allocation(number, counted, station, mode, units)
        counted.allocations.add(number, allocation)
        counted.used += units
        _count_mode(counted, mode, 1)
        self.next_allocation = number + 1
        return allocation

    def _weigh(self, handle: int) -> None:
        """An access is becoming a loan from now on, or is not any more."""
        allocation = self.accesses[handle].target
        assert isinstance(allocation, Allocation)
        counted = allocation.license
        units = self.weight(allocation, counted.item)
        counted.used += units - allocation.weight
        allocation.weight = units

    def _drop_allocation(self, allocation: Allocation) -> None:
        counted = allocation.license
        counted.allocations.remove(allocation.id)
        counted.used -= allocation.weight
        _count_mode(counted, allocation.mode, -1)

    APPLY: ClassVar[Appliers] = {
        **Stock.APPLY,
        c.Started: _started,
        c.Restarted: _restarted,
        c.Stopped: _only_told,
        c.Witnessed: _only_told,
        c.TimeSet: _time_set,
        c.Leapt: _leapt,
        c.Opened: _opened,
        c.Detached: _detached,
        c.Resumed: _resumed,
        c.Closed: _closed,
        c.Allocated: _allocated,
        c.Joined: _joined,
        c.Referred: _referred,
        c.Bounded: _bounded,
        c.Used: _used,
        c.Moved: _moved,
        c.Left: _left,
        c.Freed: _freed,
        c.Lingering: _lingering,
        c.Lapsed: _lapsed,
        c.HeldOff: _held_off,
        c.Borrowed: _lent,
        c.Converting: _converting,
        c.Unconverted: _unconverted,
        c.Numbering: _numbering,
        c.Remembered: _remembered,
        c.Stands: _stands,
        c.Holds: _holds,
        c.Remains: _remains,
    }


def _number(allocation: Allocation) -> int:
    return allocation.id


def _life(access: Access) -> LifeEnd:
    return access.first + access.want.maximum_life, access.handle, access


def _count_mode(counted: License, mode: AccessMode, by: int) -> None:
    if mode is STATION_SHARE:
        counted.station_share += by
    elif mode is USER_LIMIT:
        counted.user_limit += by
    elif mode is EXCLUSIVE:
        counted.exclusive += by
    else:
        counted.no_user_limit += by
