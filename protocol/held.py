"""One access as its client sees it, and a request on its way."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from protocol import messages
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError
from protocol.messages import AccessKey, ErrorBody, Granted, Params
from protocol.phase import Phase

if TYPE_CHECKING:
    from protocol.session import ClientSession

Outcome = Struct | LicenseError | LocalProtocolError
Answer = Callable[[Outcome], None]


class Held:
    """One access as its client sees it, over all its handles: a new session gives it a new one.

    `request` is what it asked for, with its key; `granted` what it got last. `ending` is the word that it is over,
    `releases` counts how often its client has asked to release it, `released` says that it is. `doubt` is there while
    its session is no more, and the new one has not granted it yet.
    """

    def __init__(self, session: ClientSession[Any], request: messages.Access) -> None:
        self._session = session
        self.request = request
        self.granted: Granted | None = None
        self.ending: ErrorBody | None = None
        self.doubt: ErrorBody | None = None
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

    @property
    def wrong(self) -> LicenseError | None:
        """Why the access does not stand, as far as the client knows, or None; `check_nowait` has the numbers."""
        if self.ending:
            return LicenseError(self.ending)
        if self.releases:
            return LicenseError.of(ErrorNumber.INVALID_HANDLE, "its release has been asked for")
        if broken := self._session.broken:
            return broken
        if self.doubt:
            return LicenseError(self.doubt)
        return None

    @property
    def unsettled(self) -> bool:
        """Whether nobody can say if the access stands, and that may change: the server has to confirm it first."""
        over = self.ending or self.releases or self._session.phase is Phase.CLOSED
        return not over and self.wrong is not None

    def check_nowait(self) -> None:
        """Return only if the access stands, as far as the client knows; for those who must not wait, as `check` does.

        Raises LicenseError: the one that ended it; 106 once its release is asked for; 100 while the connection is
        broken, and after that until the server has confirmed it, when nobody can say.
        """
        if error := self.wrong:
            raise error

    def finish_release(self, error: LicenseError | None) -> None:
        """Take a release's outcome. Raises its error, unless that tells that the handle is gone, as it should be."""
        gone = error is not None and error.number == ErrorNumber.INVALID_HANDLE and self.releases > 1
        if error is not None and not gone and not self.ending and not self.released:
            raise error
        self.released = True

    @property
    def _grant(self) -> Granted:
        if self.granted is None:
            msg = "this access has not been granted"
            raise LocalProtocolError(msg)
        return self.granted


H = TypeVar("H", bound=Held)


class Call(Generic[H]):
    """A request on its way.

    `answer` is None when nobody waits for it (any more). `held` is the access that it is about. Who is not `patient`
    does not wait while there is no connection. `sent` counts how often it was sent: more than once if a cut has
    swallowed the answer.
    """

    __slots__ = ("answer", "held", "params", "patient", "sent")

    def __init__(
        self, params: Params, answer: Answer | None = None, held: H | None = None, *, patient: bool = True
    ) -> None:
        self.params = params
        self.answer = answer
        self.held = held
        self.patient = patient
        self.sent = 0

    def finish(self, outcome: Outcome) -> None:
        """Tell whoever waits for it."""
        if self.answer:
            self.answer(outcome)


def new_key() -> AccessKey:
    """Return the key of a new access: what makes asking again safe."""
    return AccessKey(secrets.token_bytes(16))
