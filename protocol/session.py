"""One session as its client sees it, without I/O: what is asked, what is held, and how it comes back after a cut.

Both clients are a thin shell around this: they move the bytes, wait for answers, dial and run the timers. A session
outlives its connections. A cut leads to *seeking*: the shell dials, and `begin` takes the session up again; what was
asked and not answered waits in the queue meanwhile, with what is asked anew, and is sent after the greeting. If the
server has forgotten the session, a new one begins on the same connection, and what was held is asked for again behind
the same `Held` (`protocol.recovery`). Nothing in here waits or locks; whoever uses it from several threads holds a
lock.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final, Generic

from msgspec import Struct
from msgspec.structs import replace

from protocol import messages
from protocol.backoff import Backoff
from protocol.connection import VERSIONS, ClientConnection, Reply
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError, RemoteProtocolError
from protocol.held import Call, H, new_key
from protocol.messages import (
    Borrow,
    Borrowed,
    Crypt,
    Done,
    EndCause,
    ErrorBody,
    Event,
    Events,
    Farewell,
    Goodbye,
    Granted,
    Greeting,
    Hello,
    Info,
    KeepAlive,
    Release,
    Resume,
)
from protocol.phase import Phase
from protocol.recovery import Recovery

LONGEST_KEEP_ALIVE: Final = 24 * 60 * 60.0
"""Seconds; a server's interval above this means the same to us, and no timer overflows."""

EVENTS: Final = 4_096
"""Events that may wait for `on_event`: four for each handle that a session may hold. A program that falls behind
further has stopped taking them, and its connection is ended rather than its memory filled."""


class ClientSession(Generic[H]):
    """The client's side of one session, and of those that follow it if the server forgets one."""

    def __init__(self) -> None:
        self.phase = Phase.CLOSED
        self.greeting: Greeting | None = None
        self.outbox = bytearray()
        self.backoff = Backoff()
        self._reason = "it is not open yet"
        self._connection = ClientConnection()
        self._queue: deque[Call[H]] = deque()  # what waits for a greeting, for claims, or for room
        self._asked: dict[int, Call[H]] = {}  # in the order in which they were sent
        self._handles: dict[int, H | None] = {}  # None: granted through `call`, and the caller's own to keep
        self._recovery: Recovery[H] = Recovery()
        self._hello: Hello | None = None
        self._forgotten = False  # the server knows the session no more: the next greeting begins another
        self._leaving = False

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

    @property
    def patience(self) -> float:
        """Seconds in which a sign of life must be answered: until half the server's timeout after the one before it.

        Earlier than that the server frees nothing, so nobody says that he holds what somebody else has by now.
        Who holds nothing waits as for any answer.
        """
        left = self.greeted.timeout / 2 - self.keep_alive
        return left if self._handles and left > 0 else inf  # this way round, for NaN

    @property
    def broken(self) -> LicenseError | None:
        """The LicenseError 100 that says why there is no connection, or None."""
        return None if self.phase is Phase.OPEN else LicenseError.of(ErrorNumber.NETWORK_FAULT, self._reason)

    @property
    def connected(self) -> bool:
        """Whether there is a connection, greeted or not."""
        return self.phase in (Phase.GREETING, Phase.OPEN)

    @property
    def postponed(self) -> bool:
        """Whether `claim` is to be called after a pause, since the server is still starting."""
        return self.phase is Phase.OPEN and self._recovery.postponed

    # what the shell's callers do

    def open(self, call: Call[H]) -> None:
        """Greet on a first connection with a `Hello`, whose outcome goes to the call's `answer`.

        The bytes to send are in `outbox`, here and after everything else.
        """
        self._greet(call)

    def submit(self, call: Call[H]) -> None:
        """Ask for something; the outcome goes to the call's `answer`. Raises LicenseError 100 once it is closed.

        What cannot be sent now is sent as soon as it can. Without a connection, a call that is not patient fails as if
        it were closed, at once or when the connection breaks, and a goodbye closes it.
        """
        if isinstance(call.params, Goodbye):
            self._leaving = True
            if self.phase is not Phase.OPEN:
                self.close("the client said goodbye")
        if self.broken and (self.phase is Phase.CLOSED or not call.patient):
            raise self.broken
        self._queue.append(call)
        self._pump()

    def abandon(self, call: Call[H]) -> None:
        """Nobody waits for this call any more: a grant that it brings, now or later, is given back."""
        call.answer = None
        if call in self._queue:
            if self.phase is not Phase.OPEN or not isinstance(call.params, Release):  # else its turn will come
                self._queue.remove(call)
                self._recovery.dropped(call)
                self._give_strays_back()
        elif isinstance(call.params, messages.Access) and call.held is not None and call.held.granted is not None:
            call.held.releases += 1
            if self._handles.get(call.held.handle) is call.held:
                self._give_back(call.held.handle)

    def release(self, call: Call[H], held: H) -> None:
        """Ask to give an access back, whatever its handle is then. Raises LicenseError 100 as `submit` does.

        One that ended, or is released already, needs no asking. Nor does one that the server has not confirmed: should
        it grant it anew, it is given back at once.
        """
        if not held.ending and not held.released:
            held.releases += 1
            if held.doubt is None:
                self.submit(call)
                return
            held.released = True
        call.finish(Done())

    def check(self, call: Call[H]) -> None:
        """Answer a call, which is never sent, as soon as it is known whether its access stands: `Held.wrong`."""
        self._recovery.check(call)

    def no_answer(self, timeout: float) -> LicenseError:
        """Return the error of a call that was not answered in time; `timeout` is seconds."""
        why = f"no answer within {timeout:g} seconds"
        if self.greeting is not None and self.phase in (Phase.SEEKING, Phase.GREETING):
            why += f"; the connection is broken: {self._reason}; the client goes on trying"
        return LicenseError.of(ErrorNumber.NETWORK_FAULT, why)

    def close(self, reason: str) -> None:
        """End it for good: every call fails with LicenseError 100, and so does whatever is asked from now on."""
        self._reason = reason.rstrip(".")
        self.phase = Phase.CLOSED
        self.outbox.clear()
        calls = [*self._asked.values(), *self._queue]
        self._asked.clear()
        self._queue.clear()
        for call in calls:
            call.finish(LicenseError.of(ErrorNumber.NETWORK_FAULT, self._reason))
        self._recovery.tell()

    # what moves the bytes calls

    def begin(self) -> None:
        """Greet on a new connection, to take the session up again, or to open another if it is forgotten."""
        self._greet(Call(self._next_greeting()))

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
                    self._happened(received, events)
                else:
                    self._dismissed(received, events)
                if not self.connected:
                    break
        except RemoteProtocolError as error:
            self.lost(str(error))
        self._pump()
        return events

    def lost(self, reason: str) -> None:
        """There is no connection, or another attempt has failed: go on seeking one, if there is something to resume."""
        if self.phase is Phase.CLOSED:
            return
        if self._leaving or self.greeting is None or not self.greeting.token:
            self.close(reason)
            return
        self._reason = reason.rstrip(".")
        self.phase = Phase.SEEKING
        self.outbox.clear()
        self._recovery.cut()
        calls = [*self._asked.values(), *self._queue]
        # What nobody waits for is not asked again: the greeting tells what there is to be given back.
        self._queue = deque(call for call in calls if call.answer and call.patient)
        self._asked.clear()
        for call in calls:
            if not call.patient:
                call.finish(LicenseError.of(ErrorNumber.NETWORK_FAULT, self._reason))

    def lived(self) -> None:
        """The connection has lived for its keep-alive interval: it is a good one."""
        self.backoff.reset()

    def live_on(self) -> None:
        """Give a sign of life. Nobody waits for its answer: whatever the server says next is a sign of its own."""
        self.lived()
        self.submit(Call(KeepAlive()))

    def claim(self) -> None:
        """Ask again for the accesses that the server could not decide on while it was starting."""
        if self.postponed:
            self._recovery.again()
            self._pump()

    # the queue

    def _greet(self, call: Call[H]) -> None:
        if isinstance(call.params, Hello):
            self._hello = call.params
        self._connection = ClientConnection()
        self.phase = Phase.GREETING
        self._send(call)

    def _next_greeting(self) -> Hello | Resume:
        if self._forgotten and self._hello is not None:
            return self._hello
        return Resume(versions=VERSIONS, token=self.greeted.token, events="push")

    def _pump(self) -> None:
        self._recovery.tell()
        while self.phase is Phase.OPEN and self._connection.has_room:
            if claim := self._recovery.next():
                self._send(claim)
            elif self._queue and not self._recovery.claiming:
                self._send(self._queue.popleft())
            else:
                return

    def _send(self, call: Call[H]) -> None:
        held = call.held
        if held is not None and isinstance(call.params, Release | Info | Crypt | Borrow):
            # What was to become a loan may have become one before the cut: its id tells.
            repeated = isinstance(call.params, Borrow) and held.ending and call.sent
            if (wrong := held.ending or held.doubt) and not repeated:
                call.finish(LicenseError(wrong))
                return
            handle = 0 if repeated else held.handle  # it may have got another one meanwhile
            call.params = replace(call.params, handle=handle)
        try:
            msgid, data = self._connection.request(call.params)
        except LocalProtocolError as error:
            self._recovery.dropped(call)
            call.finish(error)
        else:
            call.sent += 1
            self._asked[msgid] = call
            self.outbox += data

    def _give_back(self, handle: int) -> None:
        if self.phase is Phase.OPEN:  # else the greeting will tell of it
            self._handles.pop(handle, None)
            self._queue.appendleft(Call(Release(handle)))  # what waits may need the license
            self._pump()

    def _give_strays_back(self) -> None:
        for handle in self._recovery.take_strays():
            self._give_back(handle)

    # what the server says

    def _replied(self, call: Call[H], outcome: Struct | LicenseError, events: list[Event]) -> None:
        params = call.params
        gone = isinstance(outcome, LicenseError) and outcome.number == ErrorNumber.INVALID_HANDLE
        if isinstance(params, messages.Access):
            self._decided(call, outcome, events)
        elif isinstance(params, Release) and (gone or not isinstance(outcome, LicenseError)):
            self._handles.pop(params.handle, None)
            if call.sent > 1:
                outcome = Done()  # it had arrived before the cut
        elif isinstance(outcome, Borrowed) and call.held is not None:
            self._borrowed(call, call.held)
        elif isinstance(outcome, Greeting):
            self._welcomed(outcome, events, resumed=isinstance(params, Resume))
        elif isinstance(params, Hello | Resume) and isinstance(outcome, LicenseError) and self.greeting is not None:
            if gone and isinstance(params, Resume):
                self._forget(outcome.body, events)
                self._send(Call(self._next_greeting()))
            else:
                self.lost(str(outcome))
        call.finish(outcome)

    def _decided(self, call: Call[H], outcome: Struct | LicenseError, events: list[Event]) -> None:
        """Take the answer to a request for an access."""
        wanted = self._recovery.is_wanted(call)
        if isinstance(outcome, Granted) and wanted:
            self._handles[outcome.handle] = call.held
            if call.held is not None:
                call.held.granted = outcome
        if event := self._recovery.answered(call, outcome):
            events.append(event)
        if isinstance(outcome, Granted) and not wanted:
            self._give_back(outcome.handle)
        self._give_strays_back()

    def _borrowed(self, call: Call[H], held: H) -> None:
        """An access has become a loan, and is over."""
        held.releases, held.released, held.ending = held.releases or 1, True, None
        if call.sent > 1 and held.handle in self._handles:  # it may be another one that was granted since
            self._give_back(held.handle)
        self._handles.pop(held.handle, None)

    def _welcomed(self, greeting: Greeting, events: list[Event], *, resumed: bool) -> None:
        self.greeting = greeting
        self._forgotten = False
        repeated: list[Call[H]] = []
        strays: set[int] = set()
        unwanted: list[int] = []
        if resumed:
            self._reconcile(greeting, events)
            repeated = [call for call in self._queue if call.sent and isinstance(call.params, messages.Access)]
            releasing = {
                call.held.handle if call.held is not None else call.params.handle
                for call in self._queue
                if isinstance(call.params, Release)
            }
            strays = set(greeting.handles) - self._handles.keys() - releasing
            unwanted = [
                handle
                for handle, held in self._handles.items()
                if held is not None and held.releases and handle not in releasing
            ]
        self.phase = Phase.OPEN  # only now: other threads look on
        self._recovery.greeted(repeated, strays)
        for handle in unwanted:
            self._give_back(handle)
        self._give_strays_back()

    def _reconcile(self, greeting: Greeting, events: list[Event]) -> None:
        """After a cut: what the server does not confirm is not held."""
        told = {ended.handle: ended.error for ended in greeting.ended}
        unconfirmed = LicenseError.of(ErrorNumber.INVALID_HANDLE, "the server does not confirm it after the cut").body
        lent = {call.held for call in self._queue if isinstance(call.params, Borrow) and call.sent}
        for handle in sorted(self._handles.keys() - set(greeting.handles)):
            held = self._handles[handle]
            if held is not None and held in lent:  # the answer will tell its holder
                del self._handles[handle]
                held.ending = told.get(handle, unconfirmed)
            elif held is not None and held.releases:  # its release reached the server, its answer did not reach us
                del self._handles[handle]
                held.released = True
            else:
                self._end(handle, told.get(handle, unconfirmed), events)

    def _forget(self, error: ErrorBody, events: list[Event]) -> None:
        """The server knows the session no more, and all that it held is gone: it is claimed in another one."""
        self._forgotten = True
        for handle, held in list(self._handles.items()):
            if held is None:
                self._end(handle, error, events)
            elif held.releases:
                held.released = True
            else:
                self._recovery.claim(held)
        self._handles.clear()
        # The new session may give the old one's numbers to other accesses: nothing that names one is sent there.
        waiting, self._queue = self._queue, deque()
        for call in waiting:
            if isinstance(call.params, Release):
                call.finish(Done())
            elif isinstance(call.params, Info | Crypt) and call.held is None:
                call.finish(LicenseError(error))
            else:
                self._queue.append(call)

    def _dismissed(self, farewell: Farewell, events: list[Event]) -> None:
        """The server said goodbye."""
        number = farewell.error.number
        if number == ErrorNumber.INTERNAL:
            # It answers in turn, so the first question is the one at which it failed: that one is not asked again.
            first = next((msgid for msgid, call in self._asked.items() if not isinstance(call.params, Events)), None)
            if first is not None:
                self._replied(self._asked.pop(first), LicenseError(farewell.error), events)
        elif number == ErrorNumber.INVALID_HANDLE and self.phase is Phase.OPEN and self.greeted.token:
            # Another connection has taken the session: two that resume it would take it from each other for ever.
            self._forget(farewell.error, events)
        self.lost(f"the server said goodbye: {farewell.error.text}")

    def _end(self, handle: int, error: ErrorBody, events: list[Event]) -> None:
        self._happened(Event(event="ended", position=0, handle=handle, error=error), events)

    def _happened(self, event: Event, events: list[Event]) -> None:
        held = self._handles.get(event.handle)
        if event.error is not None and event.error.cause == EndCause.SILENT and held is not None and not held.releases:
            # As if the session had been forgotten; but the server remembers the key of what it ended.
            del self._handles[event.handle]
            held.request = replace(held.request, key=new_key())
            self._recovery.claim(held)
            if self.phase is Phase.OPEN:
                self._recovery.again()
            return
        events.append(event)
        if event.event == "ended":
            self._handles.pop(event.handle, None)
            if held is not None:
                held.ending = event.error or LicenseError.of(ErrorNumber.INVALID_HANDLE).body
        elif held is not None:
            held.granted = Granted(event.handle, event.container, event.item, event.allocation or held.allocation)
