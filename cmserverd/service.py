"""What all conversations share: the engine, who is attached, and how the server introduces itself.

It carries what the engine's records say to the clients they concern, and tells the reaper whose time is running.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from enum import Enum
from math import inf
from typing import Literal, Protocol

import structlog
from msgspec import Struct

from cmserverd import views
from cmserverd.auditor import Auditor
from cmserverd.core import changes as c
from cmserverd.core.refusal import Refused, ended
from cmserverd.core.terms import Session
from cmserverd.devices import Devices
from cmserverd.engine import Engine, Record
from cmserverd.happenings import Happenings
from cmserverd.logbook import Logbook
from cmserverd.seldom import Seldom
from cmserverd.statistics import Statistics
from drivers.container import ContainerId
from drivers.trust import NOBODY, Trust
from protocol import messages as m
from protocol.errors import ErrorNumber
from protocol.terms import shown_client

_log = structlog.get_logger("service")

_SHOWN = 20
"""How many of a kind a line of the log names."""


class Detachment(Enum):
    """How a connection went: closed by the other end, or without a word."""

    CLOSED = "closed"
    SILENT = "silent"


class Attached(Protocol):
    """What the service and the reaper need of a conversation that a session is attached to."""

    session: Session | None
    heard: float
    has_input: Callable[[], bool]

    flush: Callable[[], None]

    def tell(self, event: m.Event) -> None:
        """Tell the client of an event."""
        ...

    def retract(self, handles: Set[int], refusal: Refused) -> None:
        """Refuse what was granted in replies that have not left yet."""
        ...

    def end(self, number: ErrorNumber, why: str) -> None:
        """Say goodbye and close."""
        ...

    def abandon(self) -> None:
        """Close without a word."""
        ...


class Settings(Protocol):
    """The settings that the server runs with."""

    def told(self) -> m.Configuration:
        """Return them as an operator is told them."""
        ...

    def reload(self, by: str) -> m.Reloaded:
        """Read them anew and take over what can be changed now. Raises Refused; then everything is as it was."""
        ...


class Introduction(Struct, frozen=True):
    """How the server presents itself. `machine` is its own station's machine id, `timeout` that of silent clients."""

    server: m.Server
    machine: str
    timeout: float
    net_info: Literal["auto", "all", "own"] = "auto"


class Service:
    """Sessions and their conversations: all that are open, and by session number those that speak for one.

    `watch` is told of each session whose connection came or went; `listening` are the addresses clients can use;
    `busy` is how many conversations had more to do at the end of their last turn. What the engine decided up to the
    position `reached` is kept, and replies may tell of it; `held` are the conversations with replies that wait.
    `auditor` reads what is kept; None: nothing is. What looks on is told by `happenings`, `statistics`, `logbook` and
    `settings`.
    """

    def __init__(self, engine: Engine, introduction: Introduction, trust: Trust = NOBODY) -> None:
        self.engine = engine
        self.introduction = introduction
        self.listening: tuple[str, ...] = ()
        self.auditor: Auditor | None = None
        self.devices = Devices(trust)
        self.happenings = Happenings(engine)
        self.statistics = Statistics(engine)
        self.logbook = Logbook()
        self.settings: Settings | None = None
        self.conversations: set[Attached] = set()
        self.attached: dict[int, Attached] = {}
        self.busy = 0
        self.reached: float = inf
        self.held: set[Attached] = set()
        self.watch: Callable[[Session], None] = lambda _: None
        self._started = engine.clock.now()
        self._complaints = Seldom(engine.clock.now)
        self._bugs = Seldom(engine.clock.now)
        engine.listen(self._carry, c.Moved, endings=True)

    # sessions

    def attach(self, conversation: Attached, session: Session) -> None:
        """A conversation speaks for a session from now on; one that did so before is closed."""
        before = self.attached.get(session.id)
        self.attached[session.id] = conversation
        if before is not None:
            before.session = None
            before.end(ErrorNumber.INVALID_HANDLE, "the session was resumed on another connection")
        self.watch(session)

    def detached(self, conversation: Attached, session: Session, how: Detachment) -> None:
        """A session's connection is gone; the session's grace begins."""
        if self.attached.get(session.id) is conversation:
            del self.attached[session.id]
            self.engine.detach(session, closed=how is Detachment.CLOSED)
            self.watch(session)

    def closed(self, session: Session) -> None:
        """A session is over, by its client's word or for a bug; its licenses are free."""
        self.attached.pop(session.id, None)
        self.engine.close(session)

    def expired(self, session: Session) -> None:
        """A session's time is over; its licenses are free."""
        conversation = self.attached.pop(session.id, None)
        if conversation is not None:
            conversation.session = None
        self.engine.detach(session, closed=False)  # it may be attached still: license tracking says how it went
        self.engine.close(session)
        if conversation is not None:
            conversation.end(ErrorNumber.NETWORK_FAULT, "nothing was heard of the client for too long")

    def fell_silent(self, session: Session) -> None:
        """Nothing was heard of a connected session for the timeout, but it has an access that is to outlive that."""
        conversation = self.attached.pop(session.id)
        conversation.session = None
        self.engine.detach(session, closed=False)
        conversation.end(ErrorNumber.NETWORK_FAULT, "nothing was heard of the client for too long")

    def stop(self) -> None:
        """Say goodbye to everybody: the server stops.

        It is not their clients who close these connections: to the journal they are attached until the next start.
        """
        self.attached.clear()
        for conversation in list(self.conversations):
            conversation.end(ErrorNumber.NETWORK_FAULT, "the server stops")

    # what replies wait for

    def release(self, reached: float) -> None:
        """What was decided up to this position is kept: let the replies go that rest on it."""
        self.reached = reached
        held, self.held = self.held, set()
        for conversation in held:
            try:
                conversation.flush()
            except Exception:  # what one connection meets must not keep the others' replies
                self.report_bug("sending what a client waits for met a bug; its connection is closed")
                conversation.abandon()

    def retract(self, handles: Set[int], refusal: Refused) -> None:
        """These grants are not kept, nor given: whoever waits for one hears why instead.

        That may be on a connection that speaks for no session any more, but has replies to send.
        """
        for conversation in self.conversations:
            conversation.retract(handles, refusal)

    # what the log is told

    def complain(self, event: str, **facts: object) -> None:
        """Log something that strangers can cause at will."""
        self._complaints.say(_log.info, event, **facts)

    def report_bug(self, event: str, **facts: object) -> None:
        """Log the exception that is being handled. Strangers may have found out how to cause it."""
        self._bugs.say(_log.exception, event, **facts)

    # what operators do

    def deallocate(self, asked: m.Deallocate, by: str) -> m.Deallocated:
        """Take a license from who holds it; `by` is who asks, for the log. Raises Refused."""
        engine = self.engine
        seen = frozenset(asked.seen)
        if asked.what == "session":
            held = engine.table.accesses.find(asked.handle)
            done = engine.deallocate_all(held.session.id if held else 0, seen=seen, hold_off=asked.hold_off)
        else:
            alone = asked.what == "access"
            done = engine.deallocate(asked.handle, alone=alone, seen=seen, hold_off=asked.hold_off)
        removed = tuple(
            m.DeallocatedAccess(handle, shown_client(address, client.host, client.user), client.pid, client.application)
            for handle, address, client in done.accesses
        )
        _log.warning(
            "an operator took a license from who held it",
            by=by,
            what=asked.what,
            handles=[one.handle for one in removed[:_SHOWN]],
            accesses=len(removed),
            clients=sorted({one.client for one in removed})[:_SHOWN],
            licenses=done.licenses,
            hold_off=asked.hold_off,
        )
        return m.Deallocated(removed, done.licenses)

    # answers that no single rule gives

    def shows_everybody(self, *, here: bool) -> bool:
        """Whether a client over TCP sees the accesses of others (decision 23); `here`: it is on this machine."""
        policy = self.introduction.net_info
        return policy == "all" or (policy == "auto" and here)

    def contents(self, container: str, *, local: bool) -> m.ContainerContents:
        """Show a container's contents, as far as they exist for a client (decision 10). Raises Refused."""
        plugged = self.engine.table.containers.get(ContainerId(container))
        if plugged is None:
            raise Refused(ErrorNumber.BOX_NOT_FOUND, container)
        return views.contents(plugged, self.engine.position, self.engine.clock.now(), local=local)

    def info(self) -> m.ServerInfo:
        """Show the server's state."""
        engine = self.engine
        table = engine.table
        return m.ServerInfo(
            server=self.introduction.server,
            listening=self.listening,
            position=engine.position,
            time=engine.clock.now(),
            started=self._started,
            starting=table.starting,
            containers=len(table.containers),
            sessions=len(table.sessions),
            accesses=len(table.accesses),
        )

    # events

    def _carry(self, record: Record) -> None:
        for change in record.changes:
            if type(change) is c.Freed or type(change) is c.Left or type(change) is c.Lingering:
                if change.cause is not None:
                    error = ended(change.cause).body()
                    self._tell(change.session, m.Event("ended", record.position, change.handle, error))
            elif type(change) is c.Moved:
                where = change.license
                event = m.Event(
                    "rebooked",
                    record.position,
                    change.handle,
                    container=where.container,
                    item=where.item,
                    allocation=change.allocation,
                )
                self._tell(change.session, event)

    def _tell(self, session: int, event: m.Event) -> None:
        """Tell a session's client, if it is attached. A bug in that ends its connection, and the others are told.

        Its session stands and its grace begins: this is called within a passage of the engine, where no other may be.
        """
        conversation = self.attached.get(session)
        if conversation is None:
            return
        try:
            conversation.tell(event)
        except Exception:
            self.report_bug("telling a client of an event met a bug; its connection is closed", session=session)
            conversation.abandon()
