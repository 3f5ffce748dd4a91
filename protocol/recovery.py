"""After a cut: which accesses are claimed anew in a new session, and which handles are given back in the old one.

Two questions that a greeting leaves open. If the session is a new one, what was held in the last is held no more, and
is *claimed*: asked for again with the same parameters, before anything else is asked. If it is the old one, the server
may keep *strays*, handles that nobody here knows: a grant whose answer the cut swallowed. Whose they are is known once
every access is answered that was asked again; what is left then is given back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, Generic

from msgspec import Struct

from protocol.errors import ErrorNumber, LicenseError
from protocol.held import Call, H
from protocol.messages import Done, Event, Granted

_DOUBT: Final = LicenseError.of(
    ErrorNumber.NETWORK_FAULT, "the server has let go of it after an absence; the access is being asked for anew"
).body


class Recovery(Generic[H]):
    """What is not settled yet. The claims outlive connections, until they are answered; all else is of one."""

    def __init__(self) -> None:
        self._claims: dict[H, None] = {}  # in the order in which they were granted
        self._unasked: deque[H] = deque()
        self._claiming: set[Call[H]] = set()
        self._repeated: set[Call[H]] = set()
        self._strays: set[int] = set()
        self._checks: dict[Call[H], None] = {}  # who waits to hear whether an access stands

    @property
    def claiming(self) -> bool:
        """Whether claims are still to be asked or answered on this connection."""
        return bool(self._unasked or self._claiming)

    @property
    def postponed(self) -> bool:
        """Whether some claims have to be asked again in a moment: the server is still starting."""
        return bool(self._claims) and not self.claiming

    def cut(self) -> None:
        """Forget what was of the connection."""
        self._unasked.clear()
        self._claiming.clear()
        self._repeated.clear()
        self._strays.clear()

    def claim(self, held: H) -> None:
        """Take up an access that ended in an absence. Until it is granted anew nobody says that it is held."""
        held.doubt = _DOUBT
        self._claims[held] = None

    def greeted(self, repeated: Iterable[Call[H]], strays: Iterable[int]) -> None:
        """Begin on a new connection: with the accesses that are asked again, and the handles that nobody knows."""
        self._repeated.update(repeated)
        self._strays.update(strays)
        self.again()

    def again(self) -> None:
        """Ask for all claims that are not on their way: on a new connection, or when some were postponed or are new."""
        under_way = {*self._unasked, *(call.held for call in self._claiming)}
        self._unasked.extend(held for held in self._claims if held not in under_way)

    def next(self) -> Call[H] | None:
        """Return the next claim to be sent. What is to be released is not claimed."""
        while self._unasked:
            held = self._unasked.popleft()
            if not held.releases:
                call = Call(held.request, held=held)
                self._claiming.add(call)
                return call
            del self._claims[held]
        return None

    def check(self, call: Call[H]) -> None:
        """Answer as soon as it is known whether the call's access stands."""
        self._checks[call] = None
        self.tell()

    def tell(self) -> None:
        """Answer whoever waits for what is known by now, and forget who waits no more."""
        for call in list(self._checks):
            if call.answer is None or call.held is None or not call.held.unsettled:
                del self._checks[call]
                call.finish((call.held and call.held.wrong) or Done())

    def dropped(self, call: Call[H]) -> None:
        """A request will not be answered any more."""
        self._repeated.discard(call)
        self._claiming.discard(call)

    def is_wanted(self, call: Call[H]) -> bool:
        """Whether a grant for this request is to be kept."""
        if call in self._claiming:
            return call.held is not None and not call.held.releases
        return call.answer is not None

    def answered(self, call: Call[H], outcome: Struct | LicenseError) -> Event | None:
        """Take the answer to a request for an access; return what its holder is to be told, if it was a claim."""
        is_claim = call in self._claiming
        self.dropped(call)
        if isinstance(outcome, Granted):
            self._strays.discard(outcome.handle)
        held = call.held
        if not is_claim or held is None:
            return None
        if isinstance(outcome, LicenseError) and outcome.number == ErrorNumber.SERVER_STARTING:
            return None  # its container may still come
        del self._claims[held]
        if held.releases:
            return None
        if isinstance(outcome, LicenseError):
            held.ending = outcome.body  # before the doubt goes: other threads look on
            held.doubt = None
            return Event(event="lost", position=0, handle=held.handle, error=outcome.body)
        held.doubt = None
        return Event("reacquired", 0, held.handle, None, held.container, held.item, held.allocation)

    def take_strays(self) -> list[int]:
        """Return the handles to give back, once it is known that they are nobody's."""
        if self.claiming or self._repeated:
            return []
        strays = sorted(self._strays)
        self._strays.clear()
        return strays
