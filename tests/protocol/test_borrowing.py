"""Borrowing with both clients: over cuts and restarts, refused and repeated, against an honest server that lends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from protocol import messages as m
from protocol.blocking import Client
from protocol.certificate import SKEW
from protocol.client import open_client
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError
from protocol.held import Call, Held, new_key
from protocol.loans import Loans, LoanState
from protocol.messages import Borrow
from protocol.session import ClientSession
from tests.protocol.cases import REQUESTS
from tests.protocol.fake_server import PATIENCE, FakeConnection, FakeServer, ThreadHost, TrioHost
from tests.protocol.lender import CHARTS, DAY, FIRM, HOME, NOW, Clock, Lender, loans
from tests.protocol.wire import Asked

SHORT = 0.05
"""Seconds: the timeout of calls that a test leaves unanswered."""


# --- the session, by bytes ----------------------------------------------------------------------------------------


class Line:
    """A session and an honest server, joined by nothing but bytes."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.session: ClientSession[Held] = ClientSession()
        self.events: list[m.Event] = []
        self._connect()
        self.session.open(Call(REQUESTS[0][0]))
        self.move()

    def ask(self, params: m.Params, held: Held | None = None) -> Asked:
        """Have the client ask something; nothing moves yet."""
        asked = Asked(params, held)
        self.session.submit(asked.call)
        return asked

    def hold(self) -> Held:
        """Return an access that was granted."""
        held = Held(self.session, m.Access(new_key(), FIRM, CHARTS))
        self.ask(held.request, held)
        self.move()
        return held

    def borrow(self, held: Held) -> Asked:
        """Ask to borrow what is held; nothing moves yet."""
        return self.ask(Borrow(id=m.LoanId(b"i" * 16), holder=b"h" * 32, seconds=DAY, time=NOW, firm_code=FIRM), held)

    def send(self) -> None:
        """Move what the client has to say; the answers wait."""
        data = bytes(self.session.outbox)
        self.session.outbox.clear()
        self._connection.receive(data)

    def move(self) -> None:
        """Move everything until both are silent."""
        while self.session.outbox or self._incoming:
            self.send()
            data = bytes(self._incoming)
            self._incoming.clear()
            self.events += self.session.receive(data)

    def come_back(self) -> None:
        """Cut the connection with what is on its way, and make another."""
        self._connection.ended()
        self.session.lost("it was cut")
        self._connect()
        self.session.begin()
        self.move()

    def _connect(self) -> None:
        self._incoming = bytearray()
        self._connection = FakeConnection(self.server, self._incoming.extend, lambda: None)


@pytest.fixture
def line() -> Line:
    """A session that is open."""
    return Line()


def is_over(held: Held) -> bool:
    """Whether an access is over as after a release of one's own: nothing ended it."""
    with pytest.raises(LicenseError, match="release has been asked for"):
        held.check_nowait()
    return held.released and held.ended is None


def test_an_access_becomes_a_loan(line: Line) -> None:
    """It is over then, without a release and without an event; others stand."""
    other, held = line.hold(), line.hold()
    asked = line.borrow(held)
    line.move()
    assert isinstance(asked.outcome, m.Borrowed)
    assert is_over(held)
    assert (list(line.server.session.handles), line.events) == ([other.handle], [])
    assert line.server.asked(m.Release) == 0
    other.check_nowait()
    line.come_back()
    other.check_nowait()


def test_a_refusal_leaves_the_access(line: Line) -> None:
    """Nothing has become of it."""
    held = line.hold()
    line.server.refusals[Borrow] = LicenseError.of(ErrorNumber.BORROW_FAILED).body
    asked = line.borrow(held)
    line.move()
    assert asked.number == ErrorNumber.BORROW_FAILED
    held.check_nowait()


def test_a_cut_swallows_the_answer(line: Line) -> None:
    """The same is asked again, and is the same loan; nobody is told that the access had ended."""
    held = line.hold()
    asked = line.borrow(held)
    line.send()
    line.come_back()
    assert isinstance(asked.outcome, m.Borrowed)
    first, again = (params for params in line.server.seen if isinstance(params, Borrow))
    assert (first.handle, again) == (held.handle, replace(first, handle=0))
    assert is_over(held)
    assert (len(line.server.lent), line.events) == (1, [])


def test_a_cut_swallows_the_question(line: Line) -> None:
    """Then the access still stands, and becomes the loan."""
    held = line.hold()
    asked = line.borrow(held)
    line.session.outbox.clear()
    line.come_back()
    assert isinstance(asked.outcome, m.Borrowed)
    assert is_over(held)
    assert (line.server.session.handles, line.events) == ({}, [])


def test_an_access_that_ended_meanwhile(line: Line) -> None:
    """Its number may be another's by now, so it is named no more; what the license is, the request says."""
    held = line.hold()
    asked = line.borrow(held)
    line.session.outbox.clear()
    line.server.session.connection = None
    line.server.end(held.handle)
    line.come_back()
    assert isinstance(asked.outcome, m.Borrowed)
    assert [params.handle for params in line.server.seen if isinstance(params, Borrow)] == [0]
    assert is_over(held)


def test_a_server_that_has_forgotten_the_session(line: Line) -> None:
    """The access is claimed anew before it is known that it is a loan: then it is given back."""
    held = line.hold()
    asked = line.borrow(held)
    line.send()
    line.server.restart()
    line.come_back()
    assert isinstance(asked.outcome, m.Borrowed)
    assert is_over(held)
    assert (line.server.session.handles, len(line.server.lent)) == ({}, 1)


# --- both clients -------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Loans:
    """A place for loans, empty."""
    return loans(tmp_path)


@pytest.fixture
def host() -> Iterator[ThreadHost]:
    """A fake server and the way to it; its threads end with the test."""
    host = ThreadHost(FakeServer())
    yield host
    host.close()


def connected(host: ThreadHost) -> Client:
    """Return a client of the fake server."""
    return Client("fake", station=HOME, timeout=PATIENCE, dial=host.dial)


def test_the_blocking_client_borrows_extends_and_gives_back(host: ThreadHost, kept: Loans) -> None:
    """A loan is found offline, lasts longer, and is nobody's in the end."""
    licensor = host.server.lender.public
    with connected(host) as client:
        loan = client.borrow(FIRM, CHARTS, DAY, licensor=licensor, feature_code=0, container="3-7", item=2, loans=kept)
        (asked,) = host.server.lent.values()
        assert (asked.firm_code, asked.product_code, asked.seconds, asked.time) == (FIRM, CHARTS, DAY, NOW)
        assert (asked.container, asked.item, asked.handle) == ("3-7", 2, 0)
        assert (loan.id, loan.until) == (asked.id, NOW + DAY - SKEW)
        loan.check()
        client.extend(loan, 2 * DAY)
        assert loan.until == NOW + 2 * DAY - SKEW
        assert host.server.lent[asked.id] == replace(asked, seconds=2 * DAY)
        found = kept.find(FIRM, CHARTS, licensor)
        assert found is not None
        assert found.until == loan.until
        assert client.give_back(found)
        assert (kept.list(), host.server.lent) == ((), {})
        with pytest.raises(LicenseError, match="no such loan"):
            loan.check()


def test_the_blocking_client_borrows_what_it_holds(host: ThreadHost, kept: Loans) -> None:
    """On the terms on which it was asked for; the block that held it has nothing to release."""
    licensor = host.server.lender.public
    with connected(host) as client, client.access(FIRM, CHARTS, container="3-7") as access:
        handle = access.handle
        loan = access.borrow(DAY, licensor=licensor, loans=kept)
        (asked,) = host.server.lent.values()
        assert (asked.firm_code, asked.product_code, asked.container, asked.handle) == (FIRM, CHARTS, "3-7", handle)
        assert is_over(access)
    assert host.server.asked(m.Release) == 0
    loan.check()


def test_no_answer_and_once_more(host: ThreadHost, kept: Loans) -> None:
    """After 100 the same is asked for with the same id, by a client of the next day too: one loan."""
    licensor = host.server.lender.public
    host.server.kept_back = {Borrow}
    with connected(host) as client:
        client._timeout = SHORT
        with pytest.raises(LicenseError) as failure:
            client.borrow(FIRM, CHARTS, DAY, licensor=licensor, loans=kept)
        assert failure.value.number == ErrorNumber.NETWORK_FAULT
        assert kept.list()[0].state == LoanState.ASKED
        host.server.let_go()
    with connected(host) as client:
        loan = client.borrow(FIRM, CHARTS, DAY, licensor=licensor, loans=kept)
    assert list(host.server.lent) == [loan.id]
    assert [one.state for one in kept.list()] == [LoanState.BORROWED]


def test_another_licensor(host: ThreadHost, kept: Loans) -> None:
    """What he did not sign is no loan; with the right key the same one is had."""
    with connected(host) as client:
        with pytest.raises(LicenseError, match="the licensor did not sign") as failure:
            client.borrow(FIRM, CHARTS, DAY, licensor=Lender().public, loans=kept)
        assert failure.value.number == ErrorNumber.VERIFY_FAILED
        loan = client.borrow(FIRM, CHARTS, DAY, licensor=host.server.lender.public, loans=kept)
    assert list(host.server.lent) == [loan.id]


def test_giving_back_where_no_server_answers(host: ThreadHost, kept: Loans) -> None:
    """The loan is unusable at once, and the error says so; the next time its receipt is sent."""
    licensor = host.server.lender.public
    with connected(host) as client:
        loan = client.borrow(FIRM, CHARTS, DAY, licensor=licensor, loans=kept)
        host.server.kept_back = {m.GiveBack}
        client._timeout = SHORT
        with pytest.raises(LicenseError, match="cannot be used any more, and its receipt is kept") as failure:
            client.give_back(loan)
        assert failure.value.number == ErrorNumber.NETWORK_FAULT
        assert kept.find(FIRM, CHARTS, licensor) is None
        with pytest.raises(LicenseError, match="was given back"):
            client.extend(loan, DAY)
        host.server.let_go()
    with connected(host) as client:
        assert not client.give_back(loan)  # it arrived the first time
    first, second = (params for params in host.server.seen if isinstance(params, m.GiveBack))
    assert first == second
    assert kept.list() == ()


def test_a_loan_is_kept_for_the_client_s_station(
    host: ThreadHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the user's own place, if no other is named."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with connected(host) as client:
        loan = client.borrow(FIRM, CHARTS, DAY, licensor=host.server.lender.public)
    loan.check()
    assert sorted(path.suffix for path in (tmp_path / "cmserverd" / "loans").iterdir()) == ["", ".loan"]
    assert Loans(station=HOME).find(FIRM, CHARTS, host.server.lender.public) is not None


def test_before_it_is_open_nothing_is_kept(host: ThreadHost, tmp_path: Path) -> None:
    """Not even a key."""
    with pytest.raises(LocalProtocolError, match="not open"):
        connected(host).borrow(FIRM, CHARTS, DAY, licensor=bytes(32), loans=loans(tmp_path))
    assert list(tmp_path.iterdir()) == []


async def test_the_trio_client_does_the_same(nursery: trio.Nursery, tmp_path: Path) -> None:
    """Borrowing, what is held too; extending, giving back."""
    server, clock = FakeServer(), Clock()
    host, kept, licensor = TrioHost(server, nursery), loans(tmp_path, clock), server.lender.public
    async with open_client("fake", station=HOME, dial=host.dial) as client:
        first = await client.borrow(FIRM, CHARTS, DAY, licensor=licensor, loans=kept)
        async with await client.access(FIRM, CHARTS) as access:
            second = await access.borrow(DAY, licensor=licensor, loans=kept)
        assert is_over(access)
        assert sorted(server.lent) == sorted([first.id, second.id])
        clock.now += 9
        await client.extend(first, DAY)
        assert first.until == NOW + 9 + DAY - SKEW
        assert await client.give_back(first)
        server.refusals[m.GiveBack] = LicenseError.of(ErrorNumber.BOX_LOST).body
        with pytest.raises(LicenseError, match="its receipt is kept"):
            await client.give_back(second)
        assert kept.find(FIRM, CHARTS, licensor) is None
        server.refusals.clear()
        assert await client.give_back(second)
    assert server.lent == {}


async def test_a_trio_task_that_is_cancelled(nursery: trio.Nursery, tmp_path: Path) -> None:
    """It may have been lent: the next one has the same loan."""
    server, kept = FakeServer(), loans(tmp_path)
    host = TrioHost(server, nursery)
    async with open_client("fake", station=HOME, dial=host.dial) as client:
        server.kept_back = {Borrow}
        with trio.CancelScope() as scope:

            async def give_up() -> None:
                await wait_all_tasks_blocked()
                scope.cancel()

            nursery.start_soon(give_up)
            await client.borrow(FIRM, CHARTS, DAY, licensor=server.lender.public, loans=kept)
        server.let_go()
        loan = await client.borrow(FIRM, CHARTS, DAY, licensor=server.lender.public, loans=kept)
    assert list(server.lent) == [loan.id]
