"""A client's session and the daemon's conversation, joined by nothing but bytes, which a test may cut anywhere."""

from __future__ import annotations

from cmserverd.conversation import Conversation
from cmserverd.service import Detachment, Service
from protocol import messages as m
from protocol import rpc
from protocol.errors import LicenseError
from protocol.held import Call, Held, Outcome, new_key
from protocol.phase import Phase
from protocol.session import ClientSession
from tests.daemon.harness import CHARTS, FIRM, REMOTE, hello


class Asked:
    """A call, and what became of it."""

    def __init__(self, params: m.Params, held: Held | None = None) -> None:
        self.outcomes: list[Outcome] = []
        self.call: Call[Held] = Call(params, self.outcomes.append, held)

    @property
    def outcome(self) -> Outcome:
        """The one outcome."""
        (outcome,) = self.outcomes
        return outcome

    @property
    def number(self) -> int:
        """The number of the error that it is."""
        assert isinstance(self.outcome, LicenseError), self.outcome
        return self.outcome.number


class Wire:
    """The two ends. What the server was asked lies in `seen`, what the client was told in `events`, both in order."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.session: ClientSession[Held] = ClientSession()
        self.events: list[m.Event] = []
        self.seen: list[m.Params] = []
        self.granted: list[Held] = []
        self.conversation = Conversation(service, REMOTE)
        self._reader = rpc.Reader(rpc.FROM_CLIENT)
        self.opening = Asked(hello(events="push"))
        self.session.open(self.opening.call)
        self.run()

    def ask(self, params: m.Params, held: Held | None = None) -> Asked:
        """Have the client ask something; nothing moves yet."""
        asked = Asked(params, held)
        self.session.submit(asked.call)
        return asked

    def access(self, product: int = CHARTS) -> tuple[Held, Asked]:
        """Have the client ask for an access; nothing moves yet."""
        held = Held(self.session, m.Access(new_key(), FIRM, product))
        self.granted.append(held)
        return held, self.ask(held.request, held)

    def hold(self, product: int = CHARTS) -> Held:
        """Return an access that was granted."""
        held, asked = self.access(product)
        self.run()
        assert isinstance(asked.outcome, m.Granted), asked.outcome
        return held

    def release(self, held: Held) -> Asked:
        """Have the client give an access back; nothing moves yet."""
        asked = Asked(m.Release(held.handle), held)
        self.session.release(asked.call, held)
        return asked

    def send(self, most: int | None = None) -> None:
        """Move what the client has to say, or so many bytes of it, and have the server answer."""
        data = bytes(self.session.outbox[:most])
        self.session.outbox.clear()
        self._reader.feed(data)
        while (message := self._reader.next()) is not None:
            assert isinstance(message, rpc.Request)
            self.seen.append(rpc.parameters(message, m.METHODS[message.method]))
        self.conversation.receive(data)
        while self.conversation.work():
            pass

    def hear(self, most: int | None = None) -> int:
        """Move what the server has to say, or so many bytes of it; return how many it had."""
        data = self.conversation.take()
        if data and self.session.connected:
            self.events += self.session.receive(data[:most])
        return len(data)

    def run(self) -> None:
        """Move everything until both are silent."""
        while self.session.outbox or self.conversation.pending:
            self.send()
            self.hear()
            if self.conversation.over and self.session.connected:
                self.session.lost("the server closed it")

    def cut(self) -> None:
        """Cut the connection, and what is on its way."""
        if not self.conversation.over:
            self.conversation.lost(Detachment.CLOSED)
        self.session.lost("it was cut")

    def connect(self) -> None:
        """Make another connection; nothing moves yet."""
        assert self.session.phase is Phase.SEEKING
        self.conversation = Conversation(self.service, REMOTE)
        self._reader = rpc.Reader(rpc.FROM_CLIENT)
        self.session.begin()

    def come_back(self) -> None:
        """Make another connection, and move everything."""
        self.connect()
        self.run()

    def believed(self) -> set[int]:
        """Return the handles of the accesses that stand, as the client says."""
        return {held.handle for held in self.granted if held.granted is not None and stands(held)}

    def held(self) -> set[int]:
        """Return the handles that the server counts."""
        return set(self.service.engine.table.accesses)


def stands(held: Held) -> bool:
    """Whether an access stands, as far as its client knows."""
    try:
        held.check_nowait()
    except LicenseError:
        return False
    return True
