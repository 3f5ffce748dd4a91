"""The one door: every change of the table passes here, and whatever watches the table hangs here.

The engine lets a rule decide one change, applies it, and lets it go on; then it tells the listeners, once for each
request, what happened. It is synchronous and called from the trio thread only, so each request is atomic without a
lock. Journal, log, metrics and events are listeners; rules and table know nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol, TypeVar

from msgspec import Struct

from cmserverd.clock import LicenseClock
from cmserverd.core import borrowing, deallocation, passing, plugging, rules
from cmserverd.core.borrowing import Asker, Lending
from cmserverd.core.changes import Change, Freed, Left, Lingering
from cmserverd.core.refusal import Refused
from cmserverd.core.table import Table
from cmserverd.core.terms import Access, Lent, LicenseId, Session
from drivers.container import Container, ContainerId, Loan
from protocol import messages
from protocol.errors import ErrorNumber
from protocol.terms import Client, Station

T = TypeVar("T")


class Record(Struct, frozen=True, gc=False):
    """One passage through the door: what was asked by whom, what it changed, and the refusal if it was refused.

    `request` is what asked for handles; None for what happens to sessions and containers. `session` is 0 where none
    is concerned, or not known before the change.
    """

    position: int
    at: int
    session: int
    request: messages.Params | None
    changes: tuple[Change, ...]
    refusal: Refused | None


class Kept(Protocol):
    """What a journal tells: all changes; then the last one's position, license time, and the system clock's error."""

    position: int
    time: int
    ahead: int

    def changes(self) -> Iterable[Change]:
        """Tell all changes."""
        ...


Listener = Callable[[Record], None]
_Heard = tuple[Listener, frozenset[type[Change]] | None, bool, Callable[[Change], None] | None]
FaultHandler = Callable[[Listener, Exception], None]


class Engine:
    """Holds the table. `position` counts the passages that changed something or were refused.

    `sealed` is why nobody gets anything new just now, if so: what is held stands, and can be let go of (decision 19).
    `full`: nor may anybody come back, nor is a use noted, for the records of what happens meanwhile take memory.
    A listener that raises is taken off and reported to `on_fault`: watching never hurts a grant.
    """

    def __init__(self, clock: LicenseClock, on_fault: FaultHandler, limits: rules.Limits | None = None) -> None:
        self.table = Table()
        self._apply: Callable[[Change], None] = self.table.apply
        self.clock = clock
        self.position = 0
        self.limits = limits or rules.Limits()
        self.sealed = ""
        self.full = False
        self._listeners: tuple[_Heard, ...] = ()
        self._befores: tuple[tuple[Listener, Callable[[Change], None]], ...] = ()
        self._heard: frozenset[type[Change]] = frozenset()
        self._all_heard = False
        self._endings_heard = False
        self._on_fault = on_fault

    def listen(
        self,
        listener: Listener,
        *kinds: type[Change],
        endings: bool = False,
        before: Callable[[Change], None] | None = None,
    ) -> None:
        """Tell this listener of each record from now on, or of those that have a change of one of these kinds.

        With `endings`, also of those in which an access ends that its client did not let go of. A passage that nobody
        listens to costs no record: half of all are of clients that give back what they had. `before` is told of every
        change while the table is still as it was.
        """
        self._heed((*self._listeners, (listener, frozenset(kinds) if kinds else None, endings, before)))

    def leave(self, listener: Listener) -> None:
        """Tell this listener no more."""
        self._heed(tuple(heard for heard in self._listeners if heard[0] != listener))

    def _heed(self, listeners: tuple[_Heard, ...]) -> None:
        """Have these listeners and no others."""
        self._listeners = listeners
        self._heard = frozenset[type[Change]]().union(*(kinds or () for _, kinds, _, _ in listeners))
        self._all_heard = any(kinds is None for _, kinds, _, _ in listeners)
        self._endings_heard = any(endings for _, _, endings, _ in listeners)
        self._befores = tuple((listener, before) for listener, _, _, before in listeners if before is not None)
        self._apply = self._apply_told if self._befores else self.table.apply

    def _apply_told(self, change: Change) -> None:
        """Make a change that somebody is told of before."""
        for listener, before in self._befores:
            try:
                before(change)
            except Exception as error:
                self.leave(listener)
                self._on_fault(listener, error)
        self.table.apply(change)

    def restore(self, kept: Kept) -> None:
        """Before anything else, and before anybody listens: have happened what a journal tells."""
        for change in kept.changes():
            self.table.apply(change)
        self.position = kept.position
        self.clock.go_on(kept.time, kept.ahead)

    # clients

    def access(self, session: Session, request: messages.Access) -> Access:
        """Grant a handle. Raises Refused."""
        now = self._now()
        if self.sealed and request.key not in session.accesses:
            raise Refused(ErrorNumber.INTERNAL, self.sealed)
        return self._pass(now, session.id, request, rules.access(self.table, session, request, now, self.limits))

    def release(self, session: Session, request: messages.Release) -> None:
        """Take a handle back. Raises Refused."""
        now = self._now()
        self._pass(now, session.id, request, rules.release(self.table, session, request.handle, now))

    def revoke(self, held: Access, *, lingers: bool) -> None:
        """Take a handle back that its client was never told of; asking again with its key asks anew.

        With `lingers`, its license may linger: it did so before the access took it up, or others had it too.
        """
        now = self._now()
        self._pass(now, held.session.id, None, rules.revoke(held, now, lingers))

    def use(self, session: Session, request: messages.Info) -> Access:
        """Note a use of a handle, unless records are `full`, and return what it refers to. Raises Refused."""
        if self.full:
            return rules.held_by(self.table, session, request.handle)
        now = self._now()
        return self._pass(now, session.id, request, rules.use(self.table, session, request.handle, now))

    # borrowing

    def borrow(self, session: Session, request: messages.Borrow) -> Lending:
        """Decide on a loan for a client, or on more time for it. Raises Refused.

        It is to be written into the container's ledger next; then comes `lent`, or `not_lent`.
        """
        return self._borrow(Asker(session.station, session.client, session.address, session), request)

    def lend(self, request: messages.Lend, by: str) -> Lending:
        """Decide on a loan for somebody who asked an operator, whose address is `by`. Raises Refused."""
        return self._borrow(Asker(request.station, request.client, by), request)

    def writes(self, request: messages.Borrow) -> int:
        """Return how often a container's ledger is written for the sake of a request, if that is granted."""
        return borrowing.writes(self.table, request, self._now())

    def lent(self, lending: Lending, end: int) -> Lent:
        """The container has a loan in its ledger; it ends then (Unix seconds)."""
        now = self._now()
        return self._pass(now, _session_of(lending.asker), None, borrowing.lent(self.table, lending, end, now))

    def not_lent(self, lending: Lending) -> None:
        """The container does not have a loan in its ledger that was decided on."""
        self._pass(self._now(), _session_of(lending.asker), None, borrowing.not_lent(self.table, lending))

    def given_back(self, container: ContainerId, loan: bytes) -> bool:
        """A container struck the loan with this id off its ledger. Return whether it counted until now."""
        return self._pass(self._now(), 0, None, borrowing.given_back(self.table, container, loan))

    def _borrow(self, asker: Asker, request: messages.Borrow | messages.Lend) -> Lending:
        if self.sealed:
            raise Refused(ErrorNumber.INTERNAL, self.sealed)
        now = self._now()
        return self._pass(
            now,
            _session_of(asker),
            borrowing.as_access(self.table, request),
            borrowing.borrow(self.table, asker, request, now, self.limits),
        )

    # operators

    def deallocate(self, handle: int, *, alone: bool, seen: frozenset[int], hold_off: int) -> deallocation.Deallocated:
        """Take an allocation, or one access of it, from who holds it. Raises Refused."""
        now = self._now()
        return self._pass(now, 0, None, deallocation.deallocate(self.table, handle, alone, seen, hold_off, now))

    def deallocate_all(self, session: int, *, seen: frozenset[int], hold_off: int) -> deallocation.Deallocated:
        """Take all that a session holds. Raises Refused."""
        now = self._now()
        return self._pass(now, session, None, deallocation.deallocate_all(self.table, session, seen, hold_off, now))

    # sessions

    def open(self, token_hash: bytes, client: Client, station: Station, address: str, local: bool) -> Session:
        """Begin a session. Raises Refused."""
        if self.sealed:
            raise Refused(ErrorNumber.INTERNAL, self.sealed)
        return self._pass(
            self._now(),
            0,
            None,
            rules.open_session(self.table, token_hash, client, station, address, local, self.limits),
        )

    def detach(self, session: Session, *, closed: bool) -> None:
        """A session's connection is gone: closed, or silent."""
        self._pass(self._now(), session.id, None, rules.detach(session, closed))

    def resume(self, token_hash: bytes, address: str, local: bool) -> Session:
        """Take a session up again. Raises Refused."""
        if self.full:
            raise Refused(ErrorNumber.INTERNAL, self.sealed)
        return self._pass(self._now(), 0, None, rules.resume(self.table, token_hash, address, local))

    def clean_up(self, session: Session, overdue: list[Access]) -> None:
        """End these accesses of a session that has been silent for their cleanup time."""
        now = self._now()
        self._pass(now, session.id, None, rules.clean_up(overdue, now))

    def close(self, session: Session) -> None:
        """End a session and all it holds."""
        now = self._now()
        self._pass(now, session.id, None, rules.close(session, now))

    # containers

    def started(self) -> None:
        """Every driver has looked once."""
        self._pass(self._now(), 0, None, plugging.started())

    def restart(self) -> None:
        """The server begins anew with the table that it had."""
        self._pass(self._now(), 0, None, plugging.restart())

    def stop(self) -> None:
        """The server stops as it was told to. Nothing may happen after that."""
        self._pass(self._now(), 0, None, plugging.stop())

    def witness(self, container: ContainerId, message: bytes, signature: bytes) -> None:
        """A container signed up to which position the history is kept, and its hash."""
        self._pass(self._now(), 0, None, plugging.witness(container, message, signature))

    def plug(self, contents: Container, loans: Iterable[Loan] = (), on_the_way: Collection[bytes] = ()) -> None:
        """A container is here, new, again, or with other contents.

        `loans` are those in its ledger, which decide what is lent. `on_the_way` are the ids of those that are being
        written into it: they count, there or not.
        """
        now = self._now()
        self._pass(now, 0, None, plugging.plug(self.table, contents, now, loans, on_the_way))

    def unplug(self, container: ContainerId) -> None:
        """A container was unplugged; its grace begins."""
        self._pass(self._now(), 0, None, plugging.unplug(self.table, container))

    def vacate(self, container: ContainerId, most: int) -> bool:
        """A container is gone for good; move or end some of its accesses. Return whether there are more."""
        now = self._now()
        return self._pass(now, 0, None, plugging.vacate(self.table, container, most, now))

    def remove(self, container: ContainerId) -> None:
        """A container is gone for good."""
        now = self._now()
        self._pass(now, 0, None, plugging.remove(self.table, container, now))

    def consumed(self, license_id: LicenseId, units_used: int, usage_start: int) -> None:
        """A container has counted a use of a license: what it says is used up, and when the usage period began.

        The license may be gone by now.
        """
        self._pass(self._now(), 0, None, plugging.consumed(self.table, license_id, units_used, usage_start))

    # time

    def due(self) -> int | None:
        """Return the next instant of license time at which something happens by itself, if there is one."""
        return passing.due(self.table)

    def set_time(self, instant: int) -> None:
        """A certified update says which license time it is (Unix seconds), which may be earlier than it was."""
        back = max(0, self._now() - instant)
        self.clock.set(instant)
        self._pass(instant, 0, None, passing.set_to(instant, back))

    def advance(self, most: int) -> bool:
        """Let happen what is due by now: so many allocations at a time. Return whether there is more."""
        now = self._now()
        return self._pass(now, 0, None, passing.advance(self.table, now, most))

    def _now(self) -> int:
        """Return license time; what it has leapt by is taken up before anything else happens at it."""
        now = self.clock.now()
        if self.clock.leapt:
            self._pass(now, 0, None, passing.leap(now, self.clock.take_leap()))
        return now

    def _pass(self, now: int, session: int, request: messages.Params | None, rule: rules.Rule[T]) -> T:
        changes: list[Change] = []
        apply = self._apply
        heard = self._heard
        told = self._all_heard
        endings_heard = self._endings_heard
        refusal: Refused | None = None
        try:
            while True:
                change = next(rule)
                apply(change)
                changes.append(change)
                if type(change) in heard or (endings_heard and _is_ending(change)):
                    told = True
        except StopIteration as stop:
            answer: T = stop.value
            return answer
        except Refused as refused:
            refusal = refused
            raise
        finally:
            if changes or refusal is not None:
                self.position += 1
                if told:
                    self._tell(Record(self.position, now, session, request, tuple(changes), refusal))
            refusal = None  # it has this frame in its traceback: together they would be a cycle

    def _tell(self, record: Record) -> None:
        changed = frozenset(map(type, record.changes))
        ends = self._endings_heard and any(map(_is_ending, record.changes))
        for listener, kinds, endings, _ in self._listeners:
            if kinds is not None and kinds.isdisjoint(changed) and not (endings and ends):
                continue
            try:
                listener(record)
            except Exception as error:
                self.leave(listener)
                self._on_fault(listener, error)


def _session_of(asker: Asker) -> int:
    return asker.session.id if asker.session is not None else 0


def _is_ending(change: Change) -> bool:
    """Whether by this change an access ends that its client did not let go of."""
    return (type(change) is Freed or type(change) is Left or type(change) is Lingering) and change.cause is not None
