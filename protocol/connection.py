"""One connection as the client sees it, without I/O: requests to bytes, bytes to replies, events and a farewell.

Whose fault an error is, is in its class: `LocalProtocolError` is ours, `RemoteProtocolError` the server's. After the
second the connection stays failed. Any other exception from here is a defect of this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final

import msgspec
from msgspec import Struct

from protocol import rpc
from protocol.errors import LicenseError, LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    EVENT_NAMES,
    PROTOCOL_VERSION,
    RESULTS,
    ErrorBody,
    Event,
    EventList,
    Farewell,
    Goodbye,
    Greeting,
    Hello,
    Params,
    Resume,
)
from protocol.terms import printable

OUTSTANDING: Final = 64
"""Requests that may be unanswered at once; a server may allow fewer (`Limits.requests`), never more are sent."""

VERSIONS: Final = (PROTOCOL_VERSION, PROTOCOL_VERSION)
"""The range that a greeting offers."""


class State(Enum):
    """Where a connection stands. Everything that changes it is in `ClientConnection`."""

    UNGREETED = "ungreeted"
    """Only `hello` or `resume` may be sent."""
    GREETING = "greeting"
    """One of them was sent and is not answered; a refusal leads back."""
    OPEN = "open"
    LEAVING = "leaving"
    """`goodbye` was sent: answers still come, nothing more is asked."""
    CLOSED = "closed"
    """The server said goodbye."""
    FAILED = "failed"
    """The server broke the protocol."""


class Reply(Struct, frozen=True):
    """What a request was answered with: a value of its result class, or the server's refusal."""

    msgid: int
    params: Params
    outcome: Struct | LicenseError


Received = Reply | Event | Farewell


class ClientConnection:
    """One connection, from its first byte to its last."""

    def __init__(self) -> None:
        self._reader = rpc.Reader(rpc.FROM_SERVER)
        self._asked: dict[int, Params] = {}
        self._last = 0
        self._limit = OUTSTANDING
        self._longest = rpc.BEFORE_GREETING.total
        self._failure = ""
        self.state = State.UNGREETED

    @property
    def outstanding(self) -> int:
        """How many requests are unanswered."""
        return len(self._asked)

    @property
    def has_room(self) -> bool:
        """Whether another request may be sent now."""
        return len(self._asked) < self._limit

    def request(self, params: Params) -> tuple[int, bytes]:
        """Return a request's number and bytes; its reply will carry the number. Raises LocalProtocolError.

        Values are the server's to judge (it answers 105 with a sentence); here they only have to fit into a message.
        """
        greets = isinstance(params, Hello | Resume)
        if self.state is not (State.UNGREETED if greets else State.OPEN):
            msg = f"{params.method!r} cannot be sent: the connection is {self.state.value}"
            raise LocalProtocolError(msg)
        if not self.has_room:
            msg = f"{params.method!r} cannot be sent: {len(self._asked)} requests are unanswered, which is the limit"
            raise LocalProtocolError(msg)
        msgid = self._next_msgid()
        try:
            data = rpc.encode_request(msgid, params)
        except (OverflowError, UnicodeError) as error:
            msg = f"{params.method!r} has a value that no message can hold: {error}"
            raise LocalProtocolError(msg) from None
        if len(data) > self._longest:
            msg = f"{params.method!r} would take {len(data)} bytes; the server takes {self._longest}"
            raise LocalProtocolError(msg)
        self._last = msgid
        self._asked[msgid] = params
        if greets:
            self.state = State.GREETING
        elif isinstance(params, Goodbye):
            self.state = State.LEAVING
        return msgid, data

    def receive(self, data: bytes) -> Iterator[Received]:
        """Give what the server's bytes bring, in its order. Iterate to the end before the next call.

        Raises RemoteProtocolError at the place where the server breaks the protocol, and then for ever. Events and
        notifications that this package does not know are passed over. After a farewell nothing is read any more.
        """
        if self._failure:
            raise RemoteProtocolError(self._failure)
        try:
            for start in range(0, len(data), rpc.CHUNK):
                self._reader.feed(data[start : start + rpc.CHUNK])
                while self.state is not State.CLOSED and (message := self._reader.next()) is not None:
                    received = self._understand(message)
                    if received is not None:
                        yield received
        except (RemoteProtocolError, rpc.CodecError, rpc.BadMessage, msgspec.ValidationError) as error:
            self.state = State.FAILED
            self._failure = printable(f"the server broke the protocol: {error}")
            raise RemoteProtocolError(self._failure) from None

    def _next_msgid(self) -> int:
        msgid = (self._last + 1) % 2**32
        while msgid in self._asked:
            msgid = (msgid + 1) % 2**32
        return msgid

    def _understand(self, message: rpc.Message) -> Received | None:
        if isinstance(message, rpc.Response):
            return self._reply(message)
        if isinstance(message, rpc.Request):
            msg = f"it sent a request, {message.method!r}"
            raise RemoteProtocolError(msg)
        if message.method == Farewell.method:
            farewell = rpc.convert(_body(message), Farewell)
            self.state = State.CLOSED
            return farewell
        if message.method == Event.method:
            body = _body(message)
            return rpc.convert(body, Event) if _is_known(body) else None
        return None

    def _reply(self, response: rpc.Response) -> Reply:
        params = self._asked.pop(response.msgid, None)
        if params is None:
            msg = f"it answered request {response.msgid}, which is not outstanding"
            raise RemoteProtocolError(msg)
        outcome: Struct | LicenseError
        if response.error is not None:
            outcome = LicenseError(rpc.convert(response.error, ErrorBody))
        else:
            kind = RESULTS[type(params)]
            outcome = rpc.convert(_known_events(response.result) if kind is EventList else response.result, kind)
        if self.state is State.GREETING:
            self.state = State.UNGREETED
            if isinstance(outcome, Greeting):
                self._greeted(outcome)
        return Reply(response.msgid, params, outcome)

    def _greeted(self, greeting: Greeting) -> None:
        if not VERSIONS[0] <= greeting.version <= VERSIONS[1]:
            msg = f"it chose version {greeting.version}, which was not offered"
            raise RemoteProtocolError(msg)
        if greeting.limits.requests < 1:
            msg = f"it allows {greeting.limits.requests} requests at once"
            raise RemoteProtocolError(msg)
        if not greeting.keep_alive > 0:  # this way round, for NaN
            msg = f"it wants a sign of life every {greeting.keep_alive} seconds"
            raise RemoteProtocolError(msg)
        self._limit = min(OUTSTANDING, greeting.limits.requests)
        self._longest = greeting.limits.message
        self.state = State.OPEN


def _body(message: rpc.Notification) -> object:
    params = message.params
    if type(params) is not list or not params:
        msg = f"its notification {message.method!r} has no map"
        raise RemoteProtocolError(msg)
    return params[0]


def _is_known(event: object) -> bool:
    """Whether an event is of a kind we know, or so malformed that converting it must say so."""
    name = event.get("event") if type(event) is dict else None
    return type(name) is not str or name in EVENT_NAMES


def _known_events(result: object) -> object:
    if type(result) is dict and type(events := result.get("events")) is list:
        return {**result, "events": [event for event in events if _is_known(event)]}
    return result
