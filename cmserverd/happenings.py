"""What happens, told to whoever looks: a ring of the last happenings, and those who wait for the next one.

The engine is listened to only while somebody has asked lately, and once however many ask: a grant that nobody looks at
costs nothing more. Nor is it while everybody has missed something, and is to list anew when he asks the next time, nor
while more happens than could be told. What was changed is noted as it passes, and put into words only for who asks for
it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import dropwhile
from typing import Any, Final

import trio
from msgspec import Struct

from cmserverd.core import changes as c
from cmserverd.core.table import Table
from cmserverd.core.terms import Allocation
from cmserverd.engine import Engine, Record
from protocol import messages as m
from protocol.watching import Happening, HappeningKind

RING: Final = 4_096
"""How many happenings are kept."""

PAGE: Final = 512
"""How many an answer has, and those of its last passage: some 200 bytes each."""

IDLE: Final = 120
"""Seconds of license time after which nobody is taken to look any more. Twice as long as one can wait."""

GATHER: Final = 0.2
"""For how many seconds who waits is let wait for more, also where something is there already.

Else each grant could be an answer. So who asks again and again has some 2,500 happenings a second; if more happen he
is told that he missed some, which costs less than all of it would.
"""

RATE: Final = PAGE / GATHER
"""How many passages a second can be told. While there are more, who looks hears that he missed some, and no more."""

_Place = tuple[str, int, int, int]
"""Container, firm code, product code, item; 0 or empty where there is none."""


class _Passage(Struct, gc=False):
    """A passage of the engine in the ring: what was changed, and where the accesses were that ended by it.

    `told` are these in words, once somebody has asked; of a refusal they are made at once. `size`: how many there are.
    """

    position: int
    at: int
    changes: tuple[c.Change, ...]
    places: list[_Place]
    told: tuple[Happening, ...]
    size: int

    def in_words(self, table: Table) -> tuple[Happening, ...]:
        """Return what happened."""
        if self.changes:
            left = iter(self.places)
            told = []
            for change in self.changes:
                if (place := _PLACES.get(type(change))) is not None:
                    where = next(left) if type(change) in _VANISHING else place(table, change)
                    told.append(_in_words(self.position, self.at, change, where))
            self.told, self.changes, self.places = (*told, *self.told), (), []
        return self.told


class Happenings:
    """The ring. All that happened after position `first` is in it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ring: deque[_Passage] = deque()
        self._size = 0
        self._passing: list[_Place] = []
        self._listens = False
        self._until = 0
        self._last = 0
        self._answered = 0  # up to where somebody was told
        self._left: tuple[int, float] | None = None  # where it was, and when, when it came to be too much
        self._wake = trio.Event()
        self.first = 0

    async def answer(self, asked: m.Happened) -> m.Happenings:
        """Tell what happened after a position; who waits is told when there is something, and a moment later."""
        self._look()
        if asked.wait and asked.since is not None:
            with trio.move_on_after(asked.wait):
                await self._something(asked.since)
                await trio.sleep(GATHER)
        answer = self._told(asked.since)
        self._answered = max(self._answered, answer.position)
        return answer

    async def _something(self, since: int) -> None:
        """Wait until there may be something to tell after a position."""
        while not self._listens and since == self._engine.position:
            await trio.sleep(GATHER)
            self._look()
        if self._listens and self._last <= since <= self._engine.position:
            await self._wake.wait()

    # what the engine calls

    def note(self, change: c.Change) -> None:
        """Note where an access is that is going to end: afterwards nobody knows."""
        place = _VANISHING.get(type(change))
        if place is not None:
            self._passing.append(place(self._engine.table, change))

    def listen(self, record: Record) -> None:
        """A passage is over."""
        changes, places = record.changes, self._passing
        if places:
            self._passing = []
        if record.at > self._until:
            self._leave()
        elif record.refusal is not None:
            self._add(_Passage(record.position, record.at, changes, places, (_refused(record),), len(changes) + 1))
        elif len(changes) > 1 or type(changes[0]) in _KINDS:
            self._add(_Passage(record.position, record.at, changes, places, (), len(changes)))

    def _add(self, passage: _Passage) -> None:
        self._ring.append(passage)
        self._size += passage.size
        while self._size > RING:
            dropped = self._ring.popleft()
            self.first = dropped.position
            self._size -= dropped.size
        self._last = passage.position
        self._wake.set()
        if self.first > self._answered:
            self._leave()
            self._left = (self._engine.position, trio.current_time())

    # listening or not

    def _look(self) -> None:
        """Somebody looks."""
        engine = self._engine
        self._until = engine.clock.now() + IDLE
        if self._wake.is_set():
            self._wake = trio.Event()
        if self._listens:
            return
        if self._is_too_much():
            self.first = self._last = engine.position
        else:
            self._listens = True
            self.first = self._last = self._answered = engine.position
            engine.listen(self.listen, before=self.note)

    def _is_too_much(self) -> bool:
        """Tell whether more happens than could be told: the engine's position shows that at no cost."""
        if self._left is None:
            return False
        now, position = trio.current_time(), self._engine.position
        before, at = self._left
        if now - at < GATHER:
            return True  # it was a moment ago
        self._left = (position, now) if position - before > RATE * (now - at) else None
        return self._left is not None

    def _leave(self) -> None:
        self._listens = False
        self._engine.leave(self.listen)
        self._ring.clear()
        self._size = 0
        self.first = self._last = self._engine.position  # who comes back has missed what is not told
        self._wake.set()

    # the answer

    def _told(self, since: int | None) -> m.Happenings:
        engine = self._engine
        position, now = engine.position, engine.clock.now()
        if since is None:
            return m.Happenings(position, now)
        if not self.first <= since <= position:
            return m.Happenings(position, now, missed=True, first=self.first)
        events: list[Happening] = []
        reached = since
        for passage in dropwhile(lambda passage: passage.position <= since, self._ring):
            if len(events) >= PAGE:
                break
            events += passage.in_words(engine.table)
            reached = passage.position
        else:
            reached = position
        return m.Happenings(reached, now, tuple(events))


def _refused(record: Record) -> Happening:
    """Put a refusal into words at once: kept, it would keep all that was at work when it was raised."""
    assert record.refusal is not None
    request = record.request
    firm_code, product_code = (request.firm_code, request.product_code) if isinstance(request, m.Access) else (0, 0)
    return Happening(
        record.position,
        record.at,
        HappeningKind.REFUSED,
        firm_code=firm_code,
        product_code=product_code,
        session=record.session,
        number=record.refusal.number,
    )


def _in_words(position: int, at: int, change: c.Change, place: _Place) -> Happening:
    container, firm_code, product_code, item = place
    return Happening(
        position,
        at,
        _KINDS[type(change)],
        container,
        firm_code,
        product_code,
        item,
        handle=getattr(change, "handle", 0) or getattr(change, "number", 0),
        session=getattr(change, "session", 0),
        cause=getattr(change, "cause", None) or "",
    )


# --- where it is --------------------------------------------------------------------------------------------------


def _of_license(table: Table, what: Any) -> _Place:
    where = what.license
    counted = table.licenses.get(where)
    return where.container, where.firm_code, counted.item.product_code if counted else 0, where.item


def _of_access(table: Table, change: Any) -> _Place:
    target = table.accesses[change.handle].target
    if isinstance(target, Allocation):
        where = target.license.id
        return where.container, where.firm_code, target.license.item.product_code, where.item
    return target.container or "", target.firm_code, 0, 0


def _of_reference(_: Table, change: Any) -> _Place:
    return change.reference.container or "", change.reference.firm_code, 0, 0


def _of_loan(table: Table, change: Any) -> _Place:
    loan = table.lent.get((change.container, change.id))
    return ("", 0, 0, 0) if loan is None else _of_license(table, loan)


def _of_container(_: Table, change: Any) -> _Place:
    return change.container, 0, 0, 0


def _of_contents(_: Table, change: Any) -> _Place:
    return change.container.id, 0, 0, 0


def _of_product(_: Table, change: Any) -> _Place:
    return "", change.firm_code, change.product_code, 0


def _nowhere(_: Table, _change: Any) -> _Place:
    return "", 0, 0, 0


_TOLD: Final[tuple[tuple[type[c.Change], HappeningKind, Callable[[Table, Any], _Place]], ...]] = (
    (c.Allocated, HappeningKind.GRANTED, _of_license),
    (c.Joined, HappeningKind.GRANTED, _of_license),
    (c.Referred, HappeningKind.GRANTED, _of_reference),
    (c.Freed, HappeningKind.ENDED, _of_access),
    (c.Left, HappeningKind.ENDED, _of_access),
    (c.Lingering, HappeningKind.ENDED, _of_access),
    (c.Moved, HappeningKind.REBOOKED, _of_license),
    (c.Lapsed, HappeningKind.FREED, _of_license),
    (c.Borrowed, HappeningKind.BORROWED, _of_license),
    (c.Returned, HappeningKind.RETURNED, _of_loan),
    (c.Opened, HappeningKind.OPENED, _nowhere),
    (c.Detached, HappeningKind.DETACHED, _nowhere),
    (c.Resumed, HappeningKind.RESUMED, _nowhere),
    (c.Closed, HappeningKind.CLOSED, _nowhere),
    (c.Plugged, HappeningKind.PLUGGED, _of_contents),
    (c.Unplugged, HappeningKind.UNPLUGGED, _of_container),
    (c.Removed, HappeningKind.REMOVED, _of_container),
    (c.Reprogrammed, HappeningKind.REPROGRAMMED, _of_license),
    (c.Consumed, HappeningKind.CONSUMED, _of_license),
    (c.Expired, HappeningKind.EXPIRED, _of_license),
    (c.HeldOff, HappeningKind.HELD_OFF, _of_product),
    (c.Started, HappeningKind.STARTED, _nowhere),
    (c.TimeSet, HappeningKind.TIME_SET, _nowhere),
    (c.Leapt, HappeningKind.TIME_SET, _nowhere),
)
"""What is told: not a use of an access, which may come a thousand times a second and matters to nobody but it."""

_KINDS: Final = {change: kind for change, kind, _ in _TOLD}
_PLACES: Final = {change: place for change, _, place in _TOLD}
_VANISHING: Final[dict[type[Any], Callable[[Table, Any], _Place]]] = {
    change: _PLACES[change] for change in (c.Freed, c.Left, c.Lingering, c.Returned)
}
"""What ends by these changes is in the table no more when they are told."""
