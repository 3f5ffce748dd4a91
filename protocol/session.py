"""One session as its client sees it, without I/O: what is asked, what is held, and what is left after a cut.

Both clients are a thin shell around this: they move the bytes, wait for answers and run the timers. A session
outlives its connections: `begin` starts one, `lost` ends it, and after the next `begin` with a `Resume` the session
knows again which accesses stand. Nothing in here waits or locks; whoever uses it from several threads holds a lock.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from protocol import messages
from protocol.address import Address
from protocol.connection import VERSIONS, ClientConnection, Reply
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError, RemoteProtocolError
from protocol.messages import AccessKey, ErrorBody, Event, Granted, Greeting, Hello, Params, Release, Resume
from protocol.station import client as this_client
from protocol.station import station as this_station
from protocol.terms import Station

Outcome = Struct | LicenseError | LocalProtocolError
Answer = Callable[[Outcome], None]

LONGEST_KEEP_ALIVE: Final = 24 * 60 * 60.0
"""Seconds; a server's interval above this means the same to us, and no timer overflows."""

EVENTS: Final = 4_096
"""Events that may wait for `on_event`: four for each handle that a session may hold. A program that falls behind
further has stopped taking them, and its connection is ended rather than its memory filled."""


class Held:
    """One access as its client sees it.

    `request` is what it asked for, with its key; `granted` what it got. `ending` is the server's word that it is over,
    `releases` counts how often its client has asked to release it, `released` says that it is.
    """

    def __init__(self, session: ClientSession[Any], request: messages.Access) -> None:
        self._session = session
        self.request = request
        self.granted: Granted | None = None
        self.ending: ErrorBody | None = None
        self.releases = 0
        self.released = False

    @property
    def handle(self) -> int:
        """The handle's number."""
        return self._grant.handle

    @property
    def container(self) -> str:
        """The container that serves the access; empty for a subsystem handle."""
        return self._grant.container

    @property
    def item(self) -> int:
        """The reference of the product item that serves the access; 0 for other kinds than `entry`."""
        return self._grant.item

    @property
    def allocation(self) -> int:
        """The allocation's number; accesses of one StationShare have the same. 0 for kinds that allocate nothing."""
        return self._grant.allocation

    @property
    def ended(self) -> LicenseError | None:
        """What ended the access without a release, or None."""
        return LicenseError(self.ending) if self.ending else None

    def check(self) -> None:
        """Return only if the access stands, as far as the client knows.

        Raises LicenseError: the one that ended it; 106 once its release is asked for; 100 while the connection is
        broken, when nobody can say.
        """
        if self.ending:
            raise LicenseError(self.ending)
        if self.releases:
            raise LicenseError.of(ErrorNumber.INVALID_HANDLE, "its release has been asked for")
        if self._session.broken:
            raise LicenseError(self._session.broken)

    @property
    def _grant(self) -> Granted:
        if self.granted is None:
            msg = "this access has not been granted"
            raise LocalProtocolError(msg)
        return self.granted


H = TypeVar("H", bound=Held)


class Call(Generic[H]):
    """A request on its way. `answer` is None when nobody waits for it (any more); `held` is what a grant is for."""

    __slots__ = ("answer", "held", "params")

    def __init__(self, params: Params, answer: Answer | None = None, held: H | None = None) -> None:
        self.params = params
        self.answer = answer
        self.held = held


class ClientSession(Generic[H]):
    """The client's side of one session."""

    def __init__(self) -> None:
        self.greeting: Greeting | None = None
        self.broken: ErrorBody | None = LicenseError.of(ErrorNumber.NETWORK_FAULT, "it is not open yet").body
        self.connected = False
        self.outbox = bytearray()
        self._connection = ClientConnection()
        self._queue: deque[Call[H]] = deque()  # what the limit of unanswered requests keeps back
        self._asked: dict[int, Call[H]] = {}
        self._handles: dict[int, H | None] = {}  # None: granted through `call`, and the caller's own to keep
        self.unanswered: list[H] = []
        """Accesses whose answer a cut has swallowed: asking again with their keys tells."""

    @property
    def greeted(self) -> Greeting:
        """The server's greeting. Raises LocalProtocolError before there is one."""
        if self.greeting is None:
            msg = "the client is not open"
            raise LocalProtocolError(msg)
        return self.greeting

    @property
    def keep_alive(self) -> float:
        """Seconds between two signs of life, as the server asked."""
        return min(self.greeted.keep_alive, LONGEST_KEEP_ALIVE)

    def begin(self, call: Call[H]) -> None:
        """Start a new connection with its greeting, a `Hello` or a `Resume`; the bytes to send are in `outbox`."""
        self._connection = ClientConnection()
        self.connected = True
        self._send(call)

    def resume(self) -> Resume:
        """Return the request that takes the session up again. Raises LocalProtocolError if it cannot be."""
        if not self.greeted.token:
            msg = "a connection to this socket has no session that could be resumed"
            raise LocalProtocolError(msg)
        return Resume(versions=VERSIONS, token=self.greeted.token, events="push")

    def submit(self, call: Call[H]) -> None:
        """Ask for something; the outcome goes to the call's `answer`. Raises LicenseError 100 once it is broken.

        What the limit of unanswered requests forbids to send now is sent as soon as it allows.
        """
        if self.broken:
            raise LicenseError(self.broken)
        self._queue.append(call)
        self._pump()

    def abandon(self, call: Call[H]) -> None:
        """Nobody waits for this call any more: a grant that it brings, now or later, is given back."""
        call.answer = None
        if isinstance(call.params, messages.Access):
            if call in self._queue:
                self._queue.remove(call)
            elif call.held is not None and call.held.granted is not None:
                self._give_back(call.held.handle)

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the server; answer the calls and return the events that they bring.

        A server that says goodbye or breaks the protocol ends the connection, as `lost` does.
        """
        events: list[Event] = []
        try:
            for received in self._connection.receive(data):
                if isinstance(received, Reply):
                    self._replied(self._asked.pop(received.msgid), received.outcome, events)
                elif isinstance(received, Event):
                    self._happened(received)
                    events.append(received)
                else:
                    self.lost(f"the server said goodbye: {received.error.text.rstrip('.')}")
        except RemoteProtocolError as error:
            self.lost(str(error))
        self._pump()
        return events

    def lost(self, reason: str) -> None:
        """End the connection: every call fails with LicenseError 100, and so does whatever is asked from now on."""
        if not self.connected:
            return
        self.connected = False
        self.broken = LicenseError.of(ErrorNumber.NETWORK_FAULT, reason).body
        self.outbox.clear()
        calls = [*self._asked.values(), *self._queue]
        for call in self._asked.values():
            if call.held is not None and call.answer and call.held not in self.unanswered:
                self.unanswered.append(call.held)
        self._asked.clear()
        self._queue.clear()
        for call in calls:
            if call.answer:
                call.answer(LicenseError(self.broken))

    def release_strays(self) -> None:
        """Give back the handles that the server kept over the cut and that nobody here wants any more."""
        for handle in self.greeting.handles if self.greeting else ():
            held = self._handles.get(handle)
            if handle not in self._handles or (held is not None and held.releases):
                self._give_back(handle)

    def begin_release(self, held: H) -> bool:
        """Return whether a release has to be sent: not for an access that ended, or is released already."""
        if held.ending or held.released:
            return False
        held.releases += 1
        return True

    def finish_release(self, held: H, error: LicenseError | None) -> None:
        """Take a release's outcome. Raises its error, unless that tells that the handle is gone, as it should be."""
        gone = error is not None and error.number == ErrorNumber.INVALID_HANDLE
        if error is not None and not (gone and (held.releases > 1 or held.ending)):
            raise error
        held.released = True

    def _pump(self) -> None:
        while self._queue and self._connection.has_room:
            self._send(self._queue.popleft())

    def _send(self, call: Call[H]) -> None:
        try:
            msgid, data = self._connection.request(call.params)
        except LocalProtocolError as error:
            if call.answer:
                call.answer(error)
        else:
            self._asked[msgid] = call
            self.outbox += data

    def _give_back(self, handle: int) -> None:
        self._handles.pop(handle, None)
        if not self.broken:
            self.submit(Call(Release(handle)))

    def _replied(self, call: Call[H], outcome: Struct | LicenseError, events: list[Event]) -> None:
        params = call.params
        gone = isinstance(outcome, LicenseError) and outcome.number == ErrorNumber.INVALID_HANDLE
        if isinstance(params, messages.Access) and isinstance(outcome, Granted):
            if call.answer is None:
                self._give_back(outcome.handle)
                return
            self._handles[outcome.handle] = call.held
            if call.held is not None:
                call.held.granted = outcome
        elif isinstance(params, Release) and (gone or not isinstance(outcome, LicenseError)):
            self._handles.pop(params.handle, None)
        elif isinstance(outcome, Greeting):
            self.greeting = outcome
            self.broken = None
            if isinstance(params, Resume):
                self._reconcile(outcome, events)
        elif isinstance(params, Resume) and isinstance(outcome, LicenseError) and gone:
            # The session is no more, and so is all that it held.
            self.unanswered.clear()
            for handle in list(self._handles):
                self._end(handle, outcome.body, events)
        if call.answer:
            call.answer(outcome)

    def _reconcile(self, greeting: Greeting, events: list[Event]) -> None:
        """After a cut: what the server does not confirm is not held."""
        told = {ended.handle: ended.error for ended in greeting.ended}
        unconfirmed = LicenseError.of(ErrorNumber.INVALID_HANDLE, "the server does not confirm it after the cut").body
        for handle in sorted(self._handles.keys() - set(greeting.handles)):
            self._end(handle, told.get(handle, unconfirmed), events)

    def _end(self, handle: int, error: ErrorBody, events: list[Event]) -> None:
        held = self._handles[handle]
        if held is not None and held.releases:  # its release reached the server, its answer did not reach us
            del self._handles[handle]
            return
        event = Event(event="ended", position=0, handle=handle, error=error)
        self._happened(event)
        events.append(event)

    def _happened(self, event: Event) -> None:
        held = self._handles.get(event.handle)
        if event.event == "ended":
            self._handles.pop(event.handle, None)
            if held is not None:
                held.ending = event.error or LicenseError.of(ErrorNumber.INVALID_HANDLE).body
        elif held is not None:
            held.granted = Granted(event.handle, event.container, event.item, held.allocation)


def introduction(application: str | None, station: Station | str | None) -> Hello:
    """Return the greeting of a new session. Raises SettingError if this machine cannot be told."""
    place = station if isinstance(station, Station) else this_station(station)
    return Hello(versions=VERSIONS, client=this_client(application), station=place, events="push")


def new_key() -> AccessKey:
    """Return the key of a new access: what makes asking again safe."""
    return AccessKey(secrets.token_bytes(16))


def next_cursor(cursor: int, following: int | None) -> int | None:
    """Return the following page's cursor. Raises LicenseError if it is the one we come from."""
    if following == cursor:
        raise LicenseError.of(ErrorNumber.NETWORK_FAULT, "the server's pages lead in a circle")
    return following


def no_answer(timeout: float) -> LicenseError:
    """Return the error of a call that was not answered in time; `timeout` is seconds."""
    return LicenseError.of(ErrorNumber.NETWORK_FAULT, f"no answer within {timeout:g} seconds")


def not_reached(address: Address, reason: object) -> LicenseError:
    """Return the error of a server that cannot be connected to."""
    return LicenseError.of(ErrorNumber.SERVER_NOT_FOUND, f"{address}: {reason}")


def none_reached(failures: list[LicenseError]) -> LicenseError:
    """Return the one error for the failures of all servers that were tried."""
    if len(failures) == 1:
        return failures[0]
    return LicenseError.of(ErrorNumber.SERVER_NOT_FOUND, "; ".join(str(error).rstrip(".") for error in failures))
