"""One connection's talk with a client, without I/O: bytes in, bytes out, the engine in between.

Whatever moves the bytes drives it: `receive` what came, `work` while there is room, send what `take` gives. When
something is to be sent that no received bytes asked for, it calls the mover's `flush`. Nothing here awaits, so each
request is decided and answered in one go, and replies leave in the order of the requests.

A connection's events are those since its greeting: what ended before is in the greeting's own list, and `info` tells
where a handle is booked.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Set
from hashlib import sha256
from math import inf
from time import perf_counter
from typing import Final

from msgspec import Struct

from cmserverd.answers import OFFERS, Door, Later, Offer, Peer
from cmserverd.core.refusal import Refused, ended
from cmserverd.core.terms import Session
from cmserverd.service import Detachment, Service
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber, text_of
from protocol.terms import Station, shown_client

REQUESTS: Final = 64
"""How many requests a client may have unanswered. All but a waiting `events` are answered at once."""

OUTBOX: Final = 256 * 1024
"""How many bytes may wait for a client that reads slowly; no request of it is looked at meanwhile."""

TURN: Final = 256
"""How many requests are answered at most before other clients have their turn: some 5 ms. A listing takes a turn of its
own."""

ROUND: Final = 0.02
"""How many seconds the turns take together of all that have more to ask than one turn has time for; so many connections
do not have others wait much longer than one does. Each is answered one request at least."""

EVENTS: Final = 1_024
"""How many events are kept for a client that polls: one for each handle that it holds by default. Older ones are
dropped: the handles themselves go on answering why they ended. One that has events pushed, and leaves so many unread,
is cut off."""


class Waiting(Struct, frozen=True, eq=False):
    """A request for events that waits for the first one, at most `seconds`."""

    msgid: int
    seconds: int


class Conversation:
    """The server's end of one connection. Dead once `over` is true: send what is left, then close.

    `heard` is the mover's time of the last bytes; `patience` is for how many seconds after them a greeted peer may be
    silent that has no session, and so no reaper to judge that; `has_input` asks the mover whether more lie unread,
    `hang_up` has it close. `later` is an answer that the mover has to wait for.
    """

    __slots__ = (
        "_began",
        "_events",
        "_has_more",
        "_later_msgid",
        "_marks",
        "_offers",
        "_out",
        "_polls",
        "_pushed",
        "_reader",
        "_turn",
        "flush",
        "greeted",
        "hang_up",
        "has_input",
        "heard",
        "later",
        "over",
        "patience",
        "peer",
        "pending",
        "service",
        "session",
        "waiting",
    )

    def __init__(self, service: Service, peer: Peer) -> None:
        self.service = service
        self._reader = rpc.Reader(rpc.BEFORE_GREETING)
        self._offers = _OFFERS[peer.door]
        self._out: list[bytes] = []
        self._marks: list[int] = []
        self._events: deque[m.Event] | None = None
        self._polls = False
        self._pushed = 0
        self._began = 0.0  # when a turn began whose latency is taken
        self._turn = 0
        self._has_more = False
        self.peer = peer
        self.session: Session | None = None
        self.greeted = False
        self.over = False
        self.pending = 0
        self.waiting: Waiting | None = None
        self.later: Later | None = None
        self._later_msgid = 0
        self.heard = 0.0
        self.patience = inf
        self.flush: Callable[[], None] = _nothing
        self.hang_up: Callable[[], None] = _nothing
        self.has_input: Callable[[], bool] = _no_input
        service.conversations.add(self)

    # what moves the bytes calls

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer; only when `work` has left nothing to do."""
        if not self.over:
            self._reader.feed(data)

    def work(self) -> bool:
        """Answer some of what has come. Return whether there may be more.

        Call again once the outbox has room; if there is a `later`, once its outcome was given to `answered`.
        """
        self._turn = TURN
        ends = (began := perf_counter()) + ROUND / (self.service.busy or 1)
        self._began = began if began >= self.service.statistics.due else 0.0
        while not self.over:
            if self.pending >= OUTBOX:
                self._has(more=False)  # it takes no turn until its peer has read
                return True
            self._turn -= 1
            try:
                message = self._reader.next()
                if message is None:
                    break
                if type(message) is rpc.Request:
                    self._answer(message)
                elif type(message) is rpc.Response:
                    self._violated("a client sends requests, not responses")
            except rpc.BadMessage as fault:
                if not self._is_waiting(fault.msgid):
                    self._refuse(fault.msgid, _error(ErrorNumber.INVALID_PARAMETER, str(fault)))
            except rpc.CodecError as fault:
                self._violated(str(fault))
            if self._turn <= 0 or perf_counter() >= ends:
                self._has(more=self.later is None)
                return True
        self._has(more=False)
        return False

    def _has(self, *, more: bool) -> None:
        """Be counted, or not, among those whose turn was too short."""
        if more is not self._has_more:
            self._has_more = more
            self.service.busy += 1 if more else -1

    def take(self) -> bytes:
        """Return the bytes to send, and forget them. If there are more that may not leave yet, it is `held`.

        Each reply and event carries the engine's position at its decision, and leaves once that is kept (decision 15).
        """
        if self._marks and self._marks[-1] > self.service.reached:
            return self._take_what_is_kept()
        if self._began:
            self._take_latency()
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self._marks.clear()
        self.pending = self._pushed = 0
        return data

    def _take_latency(self) -> None:
        if self._out and self.later is None and self.peer.door is Door.CLIENT:
            self.service.statistics.took(self._began, perf_counter())
        self._began = 0.0

    def _take_what_is_kept(self) -> bytes:
        self.service.held.add(self)
        kept = bisect_right(self._marks, self.service.reached)
        data = b"".join(self._out[:kept])
        del self._out[:kept], self._marks[:kept]
        self.pending -= len(data)
        self._pushed = min(self._pushed, len(self._out))
        return data

    @property
    def held(self) -> bool:
        """Whether replies wait until what they rest on is kept; `flush` is called then."""
        return self in self.service.held

    def answered(self, outcome: Struct | Refused) -> None:
        """What `later` has to say is here."""
        assert self.later is not None
        msgid, self.later = self._later_msgid, None
        if self.over:
            return
        if isinstance(outcome, Refused):
            self._refuse(msgid, outcome.body())
        else:
            self._put(rpc.encode_result(msgid, outcome))

    def waited(self) -> None:
        """The wait for events is over: answer with those that there are."""
        if self.waiting is not None and not self.over:
            msgid, self.waiting = self.waiting.msgid, None
            self._put(rpc.encode_result(msgid, self._take_events()))

    def lost(self, detachment: Detachment) -> None:
        """The connection is gone, and how."""
        self.over = True
        self._has(more=False)
        self.service.conversations.discard(self)
        self.service.held.discard(self)
        if self.session is not None:
            self.service.detached(self, self.session, detachment)
            self.session = None

    def late(self, seconds: float) -> None:
        """The greeting did not come in this time, or after it no sign of life in that which there is."""
        if self.greeted:
            self.end(ErrorNumber.NETWORK_FAULT, "nothing was heard of the client for too long")
            return
        self._violated(f"no greeting came within {seconds:g} s")

    def complain(self, event: str, **facts: object) -> None:
        """Log something about this peer that it can cause at will."""
        self.service.complain(event, address=self.peer.address, **facts)

    def failed(self) -> None:
        """A bug broke this conversation: log the exception, end the session, tell the client, close."""
        session, self.session = self.session, None
        client = session.client if session is not None else None
        self.service.report_bug(
            "a request met a bug; its session is closed",
            address=self.peer.address,
            session=session.id if session is not None else 0,
            client=shown_client(self.peer.address, client.host, client.user) if client is not None else "",
        )
        self.end(ErrorNumber.INTERNAL, "")
        if session is not None:
            self.service.closed(session)

    # the service calls

    def end(self, number: ErrorNumber, why: str) -> None:
        """Say goodbye and close."""
        if not self.over:
            self._put(rpc.encode_notification("goodbye", m.Farewell(_error(number, why))))
            self.over = True
            self.flush()

    def abandon(self) -> None:
        """Close without a word, since a bug broke the saying."""
        self.over = True
        self.hang_up()

    def tell(self, event: m.Event) -> None:
        """Tell the client of something that no request of its asked for."""
        if self.over:
            return
        if not self._polls:
            if self._pushed >= max(EVENTS, self.service.engine.limits.handles):
                self.complain("a client does not read its events; disconnected")
                self.end(ErrorNumber.NETWORK_FAULT, "too many events were left unread")
                return
            self._pushed += 1
            self._put(rpc.encode_notification("event", event))
            self.flush()
            return
        if self._events is None:
            self._events = deque(maxlen=EVENTS)
        self._events.append(event)
        if self.waiting is not None:
            self.waited()
            self.flush()

    def retract(self, handles: Set[int], refusal: Refused) -> None:
        """Refuse what was granted in replies that have not left yet."""
        for place, data in enumerate(self._out):
            grant = rpc.granted(data)
            if grant is not None and grant[1] in handles:
                self.service.statistics.refused(refusal.number)
                self._out[place] = rpc.encode_error(grant[0], refusal.body())
                self.pending += len(self._out[place]) - len(data)

    # requests

    def _answer(self, request: rpc.Request) -> None:
        if self.waiting is not None and self._is_waiting(request.msgid):
            return
        if not self.greeted:
            self._greet(request)
            return
        offer = self._offers.get(request.method)
        if offer is None:
            self._refuse(request.msgid, self._unknown(request.method))
            return
        if offer.listing:
            self._turn = 0
        asked = rpc.parameters(request, offer.params)
        try:
            result = offer.answer(self, asked)
        except Refused as refusal:
            if isinstance(asked, m.Access):
                self.service.statistics.denied(asked.firm_code, asked.product_code, refusal.number)
            self._refuse(request.msgid, refusal.body())
        else:
            if type(result) is _Wait:
                self._wait(Waiting(request.msgid, result.seconds))
            elif type(result) is Later:
                self.later, self._later_msgid, self._turn = result, request.msgid, 0
            else:
                self._put(rpc.encode_result(request.msgid, result))

    def _is_waiting(self, msgid: int) -> bool:
        """Whether a request with this number is unanswered, which forbids another one."""
        waiting = self.waiting is not None and self.waiting.msgid == msgid
        if waiting:
            self._violated(f"request number {msgid} is still unanswered")
        return waiting

    def _unknown(self, method: str) -> m.ErrorBody:
        if method in (m.Hello.method, m.Resume.method):
            return _error(ErrorNumber.INVALID_PARAMETER, "this connection has been greeted already")
        if method in m.METHODS:
            return _error(ErrorNumber.NOT_IMPLEMENTED, f"the {self.peer.door.value} socket does not offer it")
        return _error(ErrorNumber.NOT_IMPLEMENTED, f"known are {', '.join(sorted(self._offers))}")

    def _greet(self, request: rpc.Request) -> None:
        try:
            if request.method == m.Hello.method:
                greeting = self._hello(rpc.parameters(request, m.Hello))
            elif request.method == m.Resume.method and self.peer.door is Door.CLIENT:
                greeting = self._resume(rpc.parameters(request, m.Resume))
            else:
                self._refuse(request.msgid, _error(ErrorNumber.INVALID_PARAMETER, "greet with hello first"))
                self._violated("greet with hello first")
                return
        except Refused as refusal:
            self._refuse(request.msgid, refusal.body())
            return
        self.greeted = True
        self._reader.limits = self._accepts
        self._put(rpc.encode_result(request.msgid, greeting))

    @property
    def _accepts(self) -> rpc.MessageLimits:
        """What a message may hold once it has greeted."""
        return rpc.FROM_OPERATOR if self.peer.door is Door.CONTROL else rpc.FROM_CLIENT

    def _hello(self, hello: m.Hello) -> m.Greeting:
        version = _version(hello.versions)
        self._polls = hello.events == "poll"
        if self.peer.door is not Door.CLIENT:
            self.patience = self.service.introduction.timeout
            return self._greeting(version, 0, "")
        token = secrets.token_hex(32)
        local = self._is_local(hello.station)
        session = self.service.engine.open(_hash(token), hello.client, hello.station, self.peer.address, local)
        self.session = session
        self.service.statistics.opened()
        self.service.attach(self, session)
        return self._greeting(version, session.id, token)

    def _resume(self, resume: m.Resume) -> m.Greeting:
        version = _version(resume.versions)
        self._polls = resume.events == "poll"
        engine = self.service.engine
        token_hash = _hash(resume.token)
        known = engine.table.tokens.find(token_hash)
        local = known is not None and self._is_local(known.station)
        session = engine.resume(token_hash, self.peer.address, local)
        self.session = session
        self.service.attach(self, session)
        return self._greeting(
            version,
            session.id,
            resume.token,
            tuple(held.handle for held in session.accesses.values()),
            tuple(m.EndedHandle(gone.handle, ended(gone.cause).body()) for gone in (session.ended or {}).values()),
        )

    def _is_local(self, station: Station) -> bool:
        """Whether this peer is on the daemon's own machine: by its connection, and by its word (decision 10)."""
        return self.peer.here and station.machine == self.service.introduction.machine

    def _greeting(
        self,
        version: int,
        session: int,
        token: str,
        handles: tuple[int, ...] = (),
        gone: tuple[m.EndedHandle, ...] = (),
    ) -> m.Greeting:
        service = self.service
        limits = m.Limits(REQUESTS, self._accepts.total, service.engine.limits.handles)
        return m.Greeting(
            version=version,
            session=session,
            token=token,
            server=service.introduction.server,
            keep_alive=service.introduction.timeout / 3,
            timeout=service.introduction.timeout,
            time=service.engine.clock.now(),
            limits=limits,
            handles=handles,
            ended=gone,
        )

    def goodbye(self, _: m.Goodbye) -> Struct:
        """End the session at its client's word."""
        self.waited()
        session, self.session = self.session, None
        if session is not None:
            self.service.closed(session)
        self.over = True
        return m.Done()

    def events(self, request: m.Events) -> Struct:
        """Fetch the events of a client that polls, now or when there are some."""
        if self._events or not request.wait:
            return self._take_events()
        return _Wait(request.wait)

    def _wait(self, waiting: Waiting) -> None:
        self.waited()  # a second wait answers the first
        self.waiting = waiting

    def _take_events(self) -> m.EventList:
        events = tuple(self._events or ())
        self._events = None
        return m.EventList(events)

    def _violated(self, why: str) -> None:
        """Close: the peer does not keep to the protocol."""
        self.complain("a client broke the protocol; disconnected", reason=why)
        self.end(ErrorNumber.INVALID_PARAMETER, why)

    def _refuse(self, msgid: int, error: m.ErrorBody) -> None:
        if self.peer.door is Door.CLIENT:
            self.service.statistics.refused(error.number)
        self._put(rpc.encode_error(msgid, error))

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._marks.append(self.service.engine.position)
        self.pending += len(data)


class _Wait(Struct, frozen=True):
    """A handler's word that its answer comes later."""

    seconds: int


def _version(versions: tuple[int, int]) -> int:
    lowest, highest = versions
    if lowest > m.PROTOCOL_VERSION:
        raise Refused(ErrorNumber.SERVER_TOO_OLD, f"it speaks protocol version {m.PROTOCOL_VERSION}")
    if highest < m.PROTOCOL_VERSION:
        raise Refused(ErrorNumber.RUNTIME_TOO_OLD, f"the server speaks protocol version {m.PROTOCOL_VERSION}")
    return m.PROTOCOL_VERSION


def _hash(token: str) -> bytes:
    """Only this is kept: a reader of our memory or journal cannot take sessions over."""
    return sha256(token.encode()).digest()


def _error(number: ErrorNumber, detail: str) -> m.ErrorBody:
    return m.ErrorBody(number, number.name, text_of(number, detail))


def _nothing() -> None:
    """Neither flush nor hang up: whoever moves the bytes has not come yet."""


def _no_input() -> bool:
    return False


_OWN: Final = (
    Offer(m.Goodbye, Conversation.goodbye, frozenset(Door)),
    Offer(m.Events, Conversation.events, frozenset({Door.CLIENT})),
)

_OFFERS: Final = {
    door: {offer.params.method: offer for offer in (*OFFERS, *_OWN) if door in offer.doors} for door in Door
}
"""What can be asked at each door, by the method's name."""
