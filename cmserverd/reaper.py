"""Brings time to sessions: ends those whose grace is over or of whom nothing is heard (design, section 5).

Deadlines are instants of trio's clock, which the system clock cannot move, and they live here only: the table holds
none. Each session has one entry in a heap; a sign of life does not touch it, the entry is looked at when it comes up.
Entries of sessions that ended in another way stay until there are more of them than of others.

A process that was paused heard nobody, and may have been spoken to all the same. The reaper notices by how much later
than it asked it is woken; how long its own work takes is no part of that.
"""

from __future__ import annotations

from functools import partial
from heapq import heapify, heappop, heappush
from math import inf
from time import perf_counter

import structlog
import trio
from msgspec import Struct

from cmserverd.core import changes as c
from cmserverd.core.terms import Access, Session, SessionState
from cmserverd.engine import Record
from cmserverd.seldom import Seldom
from cmserverd.service import Service

_log = structlog.get_logger("reaper")

_SPARE = 1_000
"""So many entries of ended sessions are no matter."""

_SLICE = 0.005
"""For how many seconds sessions are judged before others have their turn: so many may die at once."""

_BEAT = 1.0
"""Every so many seconds the reaper is woken at least; by more than that it is not late without a pause."""

_HEARING = 1.0
"""How many seconds after a pause nobody is judged: what came meanwhile is heard first, new connections too."""


class Patience(Struct, frozen=True):
    """How long a session may be gone, in seconds.

    `grace`: after its connection was closed; `timeout`: without a word, but for an access with a cleanup time;
    `sweep`: how long the process may have been paused before everybody is granted the full time again.
    """

    grace: float = 5.0
    timeout: float = 120.0
    sweep: float = 10.0


class Reaper:
    """Ends sessions that do not come back. Told of each that lost or found its connection by `watch`."""

    def __init__(self, service: Service, patience: Patience) -> None:
        self._service = service
        self._patience = patience
        self._heap: list[tuple[float, int]] = []
        self._entry: dict[int, float] = {}  # the one heap entry of each session that counts
        self._since: dict[int, float] = {}  # when a detached session lost its connection
        self._amnesty = -inf
        self._wake = trio.Event()
        self._losses = Seldom(service.engine.clock.now)
        service.watch = self.watch
        service.engine.listen(self._granted, c.Bounded)
        for session in service.engine.table.sessions.values():  # those of a journal have their full time to come back
            if session.state is not SessionState.ATTACHED:
                self.watch(session)

    def watch(self, session: Session) -> None:
        """A session's connection came or went."""
        if session.state is SessionState.ATTACHED:
            self._since.pop(session.id, None)
        else:
            self._since[session.id] = trio.current_time()
        self._plan(session.id, self._due(session))

    def _granted(self, record: Record) -> None:
        """An access with a short cleanup time has to be looked at sooner than its session."""
        for change in record.changes:
            if isinstance(change, c.Bounded):
                session = self._service.engine.table.sessions[change.session]
                if session.state is not SessionState.CLOSED:
                    self._plan(session.id, self._due(session))

    async def run(self) -> None:
        """End sessions when they are due, for ever."""
        while True:
            now = trio.current_time()
            asked = now + _BEAT
            if self._heap:
                asked = max(now, min(asked, self._heap[0][0]))
            with trio.move_on_at(asked):
                await self._wake.wait()
            self._wake = trio.Event()
            if self._late(asked) > _BEAT:
                asked = trio.current_time() + _HEARING
                await trio.sleep_until(asked)
                self._late(asked)
            self._judge_some()

    def _late(self, asked: float) -> float:
        """Return how much later it is than asked for. After a long pause everybody has the full time again."""
        now = trio.current_time()
        late = now - asked
        if late > self._patience.sweep:
            self._amnesty = now
            _log.warning("the process was paused; every client has its full time again", seconds=round(late, 1))
        return late

    def _judge_some(self) -> None:
        """Judge those who are due, for a slice of time at most."""
        now = trio.current_time()
        ends = perf_counter() + _SLICE
        while self._heap and self._heap[0][0] <= now:
            planned, number = heappop(self._heap)
            try:
                self._judge(planned, number, now)
            except Exception:  # a bug that one session meets must not let the others hold their licenses for ever
                _log.exception("ending a session met a bug", session=number)
            if perf_counter() >= ends:
                return

    def _judge(self, planned: float, number: int, now: float) -> None:
        if self._entry.get(number) != planned:
            return
        del self._entry[number]
        session = self._service.engine.table.sessions.get(number)
        if session is None:
            self._since.pop(number, None)
            return
        due = self._due(session)
        conversation = self._service.attached.get(number)
        if due <= now and conversation is not None and conversation.has_input():
            due = now + 1.0  # what lies unread may be its sign of life
        if due > now:
            self._plan(number, due)
            return
        if session.state is not SessionState.CLOSED and self._outlived(session, now):
            self._plan(number, self._due(session))
            return
        self._since.pop(number, None)
        self._say(session)
        self._service.expired(session)

    def _outlived(self, session: Session, now: float) -> bool:
        """End what is overdue of a silent session. Return whether the session has to live on; if not, nothing ended."""
        since = self._silent_since(session)
        timed_out = since + self._patience.timeout <= now
        overdue = [held for held in session.accesses.values() if since + self._patience_for(held) <= now]
        if timed_out and len(overdue) == len(session.accesses):
            return False
        if overdue:
            self._losses.say(
                _log.info,
                "accesses ended: nothing was heard of their client for their cleanup time",
                session=session.id,
                address=session.address,
                host=session.client.host,
                accesses=len(overdue),
            )
            self._service.engine.clean_up(session, overdue)
        if timed_out and session.state is SessionState.ATTACHED:
            self._since[session.id] = since
            self._service.fell_silent(session)
        return True

    def _say(self, session: Session) -> None:
        """Log a session's end. Strangers can greet and go as often as they like: that is worth no line of the usual."""
        log = partial(self._losses.say, _log.info) if session.accesses else _log.debug
        log(
            "session ended: its client did not come back",
            session=session.id,
            state=session.state.value,
            address=session.address,
            host=session.client.host,
            accesses=len(session.accesses),
        )

    def _due(self, session: Session) -> float:
        """Return when a session has to be looked at, unless it is heard of."""
        since = self._silent_since(session)
        if session.state is SessionState.CLOSED:
            return since + self._patience.grace
        first = min(map(self._patience_for, session.accesses.values()), default=self._patience.timeout)
        return since + (min(first, self._patience.timeout) if session.state is SessionState.ATTACHED else first)

    def _silent_since(self, session: Session) -> float:
        conversation = self._service.attached.get(session.id)
        return max(self._since[session.id] if conversation is None else conversation.heard, self._amnesty)

    def _patience_for(self, held: Access) -> float:
        """Return how long an access outlives its client's last word.

        No shorter than half of the timeout: a sign of life is wanted each third of it.
        """
        wanted = held.want.cleanup_time
        return max(float(wanted), self._patience.timeout / 2) if wanted else self._patience.timeout

    def _plan(self, number: int, due: float) -> None:
        """Have the session looked at by then; an earlier look that is already planned will do."""
        if self._entry.get(number, inf) <= due:
            return
        self._entry[number] = due
        heappush(self._heap, (due, number))
        if self._heap[0][1] == number:
            self._wake.set()
        sessions = self._service.engine.table.sessions
        if len(self._heap) > 2 * len(sessions) + _SPARE:
            self._entry = {number: due for number, due in self._entry.items() if number in sessions}
            self._since = {number: since for number, since in self._since.items() if number in sessions}
            self._heap = [(due, number) for number, due in self._entry.items()]
            heapify(self._heap)
