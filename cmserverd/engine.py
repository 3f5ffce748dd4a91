"""The one door: every change of the table passes here, and whatever watches the table hangs here.

The engine lets a rule decide one change, applies it, and lets it go on; then it tells the listeners, once for each
request, what happened. It is synchronous and called from the trio thread only, so each request is atomic without a
lock. Journal, log, metrics and events are listeners; rules and table know nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from msgspec import Struct

from cmserverd.clock import LicenseClock
from cmserverd.core import deallocation, passing, plugging, rules
from cmserverd.core.changes import Change, Freed, Left, Lingering
from cmserverd.core.refusal import Refused
from cmserverd.core.table import Table
from cmserverd.core.terms import Access, LicenseId, Session
from drivers.container import Container, ContainerId
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
FaultHandler = Callable[[Listener, Exception], None]


class Engine:
    """Holds the table. `position` counts the passages that changed something or were refused.

    `sealed` is why nobody gets anything new just now, if so: what is held stands, and can be let go of (decision 19).
    `full`: nor may anybody come back, nor is a use noted, for the records of what happens meanwhile take memory.
    A listener that raises is taken off and reported to `on_fault`: watching never hurts a grant.
    """

    def __init__(self, clock: LicenseClock, on_fault: FaultHandler, limits: rules.Limits | None = None) -> None:
        self.table = Table()
        self.clock = clock
        self.position = 0
        self.limits = limits or rules.Limits()
        self.sealed = ""
        self.full = False
        self._listeners: tuple[tuple[Listener, frozenset[type[Change]] | None, bool], ...] = ()
        self._heard: frozenset[type[Change]] = frozenset()
        self._all_heard = False
        self._endings_heard = False
        self._on_fault = on_fault

    def listen(self, listener: Listener, *kinds: type[Change], endings: bool = False) -> None:
        """Tell this listener of each record from now on, or of those that have a change of one of these kinds.

        With `endings`, also of those in which an access ends that its client did not let go of. A passage that nobody
        listens to costs no record: half of all are of clients that give back what they had.
        """
        self._listeners = (*self._listeners, (listener, frozenset(kinds) if kinds else None, endings))
        self._heard = self._heard.union(kinds)
        self._all_heard = self._all_heard or not kinds
        self._endings_heard = self._endings_heard or endings

    def restore(self, kept: Kept) -> None:
        """Before anything else, and before anybody listens: have happened what a journal tells."""
        for change in kept.changes():
            self.table.apply(change)
        self.position = kept.position
        self.clock.go_on(kept.time, kept.ahead)

    # clients

    def access(self, session: Session, request: messages.Access) -> Access:
        """Grant a handle. Raises Refused."""
        now = self.clock.now()
        if self.sealed and request.key not in session.accesses:
            raise Refused(ErrorNumber.INTERNAL, self.sealed)
        return self._pass(now, session.id, request, rules.access(self.table, session, request, now, self.limits))

    def release(self, session: Session, request: messages.Release) -> None:
        """Take a handle back. Raises Refused."""
        now = self.clock.now()
        self._pass(now, session.id, request, rules.release(self.table, session, request.handle, now))

    def revoke(self, held: Access, *, lingers: bool) -> None:
        """Take a handle back that its client was never told of; asking again with its key asks anew.

        With `lingers`, its license may linger: it did so before the access took it up, or others had it too.
        """
        now = self.clock.now()
        self._pass(now, held.session.id, None, rules.revoke(held, now, lingers))

    def use(self, session: Session, request: messages.Info) -> Access:
        """Note a use of a handle, unless records are `full`, and return what it refers to. Raises Refused."""
        if self.full:
            return rules.held_by(self.table, session, request.handle)
        now = self.clock.now()
        return self._pass(now, session.id, request, rules.use(self.table, session, request.handle, now))

    # operators

    def deallocate(self, handle: int, *, alone: bool, seen: frozenset[int], hold_off: int) -> deallocation.Deallocated:
        """Take an allocation, or one access of it, from who holds it. Raises Refused."""
        now = self.clock.now()
        return self._pass(now, 0, None, deallocation.deallocate(self.table, handle, alone, seen, hold_off, now))

    def deallocate_all(self, session: int, *, seen: frozenset[int], hold_off: int) -> deallocation.Deallocated:
        """Take all that a session holds. Raises Refused."""
        now = self.clock.now()
        return self._pass(now, session, None, deallocation.deallocate_all(self.table, session, seen, hold_off, now))

    # sessions

    def open(self, token_hash: bytes, client: Client, station: Station, address: str, local: bool) -> Session:
        """Begin a session. Raises Refused."""
        if self.sealed:
            raise Refused(ErrorNumber.INTERNAL, self.sealed)
        return self._pass(
            self.clock.now(),
            0,
            None,
            rules.open_session(self.table, token_hash, client, station, address, local, self.limits),
        )

    def detach(self, session: Session, *, closed: bool) -> None:
        """A session's connection is gone: closed, or silent."""
        self._pass(self.clock.now(), session.id, None, rules.detach(session, closed))

    def resume(self, token_hash: bytes, address: str, local: bool) -> Session:
        """Take a session up again. Raises Refused."""
        if self.full:
            raise Refused(ErrorNumber.INTERNAL, self.sealed)
        return self._pass(self.clock.now(), 0, None, rules.resume(self.table, token_hash, address, local))

    def clean_up(self, session: Session, overdue: list[Access]) -> None:
        """End these accesses of a session that has been silent for their cleanup time."""
        now = self.clock.now()
        self._pass(now, session.id, None, rules.clean_up(overdue, now))

    def close(self, session: Session) -> None:
        """End a session and all it holds."""
        now = self.clock.now()
        self._pass(now, session.id, None, rules.close(session, now))

    # containers

    def started(self) -> None:
        """Every driver has looked once."""
        self._pass(self.clock.now(), 0, None, plugging.started())

    def restart(self) -> None:
        """The server begins anew with the table that it had."""
        self._pass(self.clock.now(), 0, None, plugging.restart())

    def stop(self) -> None:
        """The server stops as it was told to. Nothing may happen after that."""
        self._pass(self.clock.now(), 0, None, plugging.stop())

    def plug(self, contents: Container) -> None:
        """A container is here, new, again, or with other contents."""
        now = self.clock.now()
        self._pass(now, 0, None, plugging.plug(self.table, contents, now))

    def unplug(self, container: ContainerId) -> None:
        """A container was unplugged; its grace begins."""
        self._pass(self.clock.now(), 0, None, plugging.unplug(self.table, container))

    def vacate(self, container: ContainerId, most: int) -> bool:
        """A container is gone for good; move or end some of its accesses. Return whether there are more."""
        now = self.clock.now()
        return self._pass(now, 0, None, plugging.vacate(self.table, container, most, now))

    def remove(self, container: ContainerId) -> None:
        """A container is gone for good."""
        now = self.clock.now()
        self._pass(now, 0, None, plugging.remove(self.table, container, now))

    def consumed(self, license_id: LicenseId, units_used: int, usage_start: int) -> None:
        """A container has counted a use of a license: what it says is used up, and when the usage period began.

        The license may be gone by now.
        """
        self._pass(self.clock.now(), 0, None, plugging.consumed(self.table, license_id, units_used, usage_start))

    # time

    def due(self) -> int | None:
        """Return the next instant of license time at which something happens by itself, if there is one."""
        return passing.due(self.table)

    def set_time(self, instant: int) -> None:
        """A certified update says which license time it is (Unix seconds), which may be earlier than it was."""
        self.clock.set(instant)
        self._pass(instant, 0, None, passing.set_to(instant))

    def advance(self, most: int) -> bool:
        """Let happen what is due by now: so many allocations at a time. Return whether there is more."""
        now = self.clock.now()
        return self._pass(now, 0, None, passing.advance(self.table, now, most))

    def _pass(self, now: int, session: int, request: messages.Params | None, rule: rules.Rule[T]) -> T:
        changes: list[Change] = []
        apply = self.table.apply
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
        for entry in self._listeners:
            listener, kinds, endings = entry
            if (
                kinds is not None
                and kinds.isdisjoint(map(type, record.changes))
                and not (endings and any(map(_is_ending, record.changes)))
            ):
                continue
            try:
                listener(record)
            except Exception as error:
                self._listeners = tuple(other for other in self._listeners if other is not entry)
                self._on_fault(listener, error)


def _is_ending(change: Change) -> bool:
    """Whether by this change an access ends that its client did not let go of."""
    return (type(change) is Freed or type(change) is Left or type(change) is Lingering) and change.cause is not None
