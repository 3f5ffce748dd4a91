"""What becomes of loans when the server, its journal, the dongle or the way to it fails: the dongle's ledger decides.

The server is the same as in `test_lending`; its earlier lives are told it as a journal would.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from cmserverd.core import changes as c
from drivers.container import LOAN_SKEW
from drivers.driver import Device, NoAnswer, Purpose, Refused, Signed
from protocol import messages as m
from protocol.errors import ErrorNumber
from tests.daemon.borrowing import BOX, DAY, NOW, Borrower, Desk, ledger, lendable, lending
from tests.daemon.harness import LIMIT, access, rig, until
from tests.daemon.plugs import POLL
from tests.daemon.test_crypt import Stick, refused
from tests.daemon.test_loans_together import occupied

# --- lives --------------------------------------------------------------------------------------------------------


async def test_behaviour_16_a_restart_knows_who_has_what(mock_clock: MockClock) -> None:
    """By its journal: the loan has its number, its holder's name and its end, and can be given back."""
    stick = Stick(lendable())
    borrower = Borrower()
    async with lending(mock_clock, stick=stick) as desk:
        lent = await desk.borrow(borrower)
        kept = list(desk.changes)
    async with lending(mock_clock, stick=stick, kept=kept, at=NOW + 60) as desk:
        (row,) = await desk.rows()
        assert (row.handle, row.host, row.borrowed_until) == (lent.number, "pc1", NOW + DAY)
        assert desk.counts() == (1, 1)
        assert (await desk.client.ask(borrower.gives_back(lent))).stood
        assert desk.counts() == (0, 0)


async def test_behaviour_18_a_wiped_server_counts_what_is_out(mock_clock: MockClock) -> None:
    """So does one on another machine that the dongle is moved to: nobody knows the holder, until he comes himself."""
    stick = Stick(lendable(quantity=1))
    borrower = Borrower()
    async with lending(mock_clock, stick=stick) as desk:
        lent = await desk.borrow(borrower)
    async with lending(mock_clock, stick=stick, at=NOW + 3_600) as desk:
        (row,) = await desk.rows()
        assert (row.borrowed_until, row.host) == (NOW + DAY, "")
        assert borrower.loan.hex()[:8] in row.client
        assert await refused(desk.client, access()) == ErrorNumber.NO_MORE_LICENSES
        longer = await desk.borrow(borrower)
        assert longer.end == NOW + 3_600 + DAY
        (row,) = await desk.rows()
        assert (row.borrowed_until, row.host) == (longer.end, "pc1")
        assert (await desk.client.ask(borrower.gives_back(lent))).stood
        await desk.client.ask(access())
    async with lending(mock_clock, stick=stick, at=NOW + 3_600) as desk:
        assert not await desk.rows()


async def test_behaviour_18_an_older_journal_makes_no_phantom(mock_clock: MockClock) -> None:
    """A backup knows of a loan that was given back since, and not of one that was made since."""
    stick = Stick(lendable())
    gone, new = Borrower(), Borrower()
    async with lending(mock_clock, stick=stick) as desk:
        lent = await desk.borrow(gone)
        backup = list(desk.changes)
        await desk.client.ask(gone.gives_back(lent))
        await desk.borrow(new)
    with capture_logs() as said:
        async with lending(mock_clock, stick=stick, kept=backup) as desk:
            assert {loan.id for loan in desk.engine.table.lent.values()} == {new.loan}
            assert desk.counts() == (1, 1)
    assert [(line["loan"], line["why"]) for line in said if line["event"] == "a loan stands no longer"] == [
        (gone.loan.hex(), "unknown")
    ]
    assert [line["loan"] for line in said if line["event"].startswith("a container's ledger has a loan")] == [
        new.loan.hex()
    ]


async def test_the_server_dies_before_the_dongle_has_the_loan(mock_clock: MockClock) -> None:
    """The journal has what was reserved; the ledger does not, so it is free."""
    stick = Stick(lendable())
    borrower = Borrower()
    async with lending(mock_clock, stick=stick) as desk:
        (session,) = desk.engine.table.sessions.values()
        desk.engine.borrow(session, borrower.asks(desk.now))
        assert desk.counts() == (1, 1)
        kept = list(desk.changes)
    async with lending(mock_clock, stick=stick, kept=kept) as desk:
        assert desk.counts() == (0, 0)
        assert (await desk.borrow(borrower)).end == NOW + DAY


async def test_the_server_dies_before_its_journal_has_the_loan(mock_clock: MockClock) -> None:
    """The ledger has it; the access that was to become it is still there, and has no room beside it."""
    stick = Stick(lendable(quantity=1))
    borrower = Borrower()
    async with lending(mock_clock, stick=stick) as desk:
        handle = (await desk.client.ask(access())).handle
        kept = list(desk.changes)
        asked = borrower.asks(desk.now, handle=handle)
        lent = await desk.client.ask(asked)
    async with lending(mock_clock, stick=stick, kept=kept) as desk:
        assert desk.counts() == (1, 1)
        assert not desk.engine.table.accesses
        assert (await desk.client.ask(asked)).end == lent.end


async def test_what_is_over_is_not_taken_from_the_ledger(mock_clock: MockClock) -> None:
    """The dongle forgets it with its next change only."""
    stick = Stick(lendable())
    async with lending(mock_clock, stick=stick) as desk:
        await desk.borrow(Borrower(), seconds=100)
    async with lending(mock_clock, stick=stick, at=NOW + 100 + LOAN_SKEW) as desk:
        assert desk.counts() == (0, 0)
        assert ledger(stick)


async def test_one_id_in_two_dongles(mock_clock: MockClock) -> None:
    """Whoever uses an id twice, on two servers, has two loans where both dongles meet."""
    borrower = Borrower()
    one, other = Stick(lendable()), Stick(lendable(serial=8))

    async def meets(desk: Desk) -> None:
        one.bus.plug(other.firmware)

        def seen() -> bool:
            mock_clock.jump(POLL)
            return "3-8" in desk.bench.containers()

        await until(seen)

    async with lending(mock_clock, stick=one) as desk:
        await meets(desk)
        await desk.borrow(borrower, container="3-8")
    one = Stick(lendable())
    async with lending(mock_clock, stick=one) as desk:
        await desk.borrow(borrower)
        await meets(desk)
        lent = [(counted.id.container, counted.lent) for counted in desk.engine.table.licenses.values() if counted.lent]
        assert lent == [("3-7", 1), ("3-8", 1)]
        assert len(await desk.rows()) == 2


# --- the dongle goes ----------------------------------------------------------------------------------------------


async def test_a_dongle_that_is_away_has_lent_all_the_same(mock_clock: MockClock) -> None:
    """The loan is listed meanwhile and after, even if the dongle was given up; it cannot be given back until then."""
    stick = Stick(lendable())
    borrower = Borrower()
    async with lending(mock_clock, stick=stick) as desk:
        lent = await desk.borrow(borrower)
        stick.bus.unplug(stick.address)
        await desk.is_present(False)
        assert await refused(desk.client, borrower.gives_back(lent)) == ErrorNumber.BOX_LOST
        assert await refused(desk.client, Borrower().asks(desk.now)) == ErrorNumber.BOX_LOST
        desk.engine.remove(BOX)
        assert len(await desk.rows()) == 1
        stick.bus.plug(stick.firmware)
        await desk.is_present(True)
        assert desk.counts() == (1, 1)
        (row,) = await desk.rows()
        assert (row.handle, row.host) == (lent.number, "pc1")
        assert (await desk.client.ask(borrower.gives_back(lent))).stood


@pytest.mark.parametrize("converting", [False, True])
async def test_a_dongle_that_is_pulled_out_in_the_very_moment(
    converting: bool, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has lent by then; the server takes that up when it is plugged in again, and asking again is answered."""
    async with lending(mock_clock, quantity=1) as desk:
        stick, borrower = desk.stick, Borrower()
        handle = (await desk.client.ask(access())).handle if converting else 0
        device = desk.opened._device
        sign, signed, pulled = device.sign, threading.Event(), threading.Event()

        def last(purpose: Purpose, body: bytes) -> Signed:
            made = sign(purpose, body)
            signed.set()
            assert pulled.wait(LIMIT)
            return made

        monkeypatch.setattr(device, "sign", last)
        asked = borrower.asks(desk.now, handle=handle)
        msgid = await desk.client.begin(asked)
        await until(signed.is_set)
        stick.bus.unplug(stick.address)
        await desk.is_present(False)
        pulled.set()
        await desk.client.until(partial(desk.client.inbox.replies.__contains__, msgid))
        error = desk.client.inbox.replies[msgid].error
        assert isinstance(error, dict)
        assert error["number"] == ErrorNumber.BOX_LOST
        assert desk.counts() == (1, 1)  # what was reserved, until the ledger tells
        assert len(desk.engine.table.accesses) == int(converting)
        stick.bus.plug(stick.firmware)
        await desk.is_present(True)
        assert desk.counts() == (1, 1)
        assert not desk.engine.table.accesses
        assert (await desk.client.ask(asked)).end == NOW + DAY


def lost_before(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the dongle not hear what it is asked."""

    def silent(_loan: object, _now: int) -> int:
        raise NoAnswer("planted")

    monkeypatch.setattr(device, "borrow", silent)


def lost_after(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the dongle do it, and its answer not come."""
    write = device.borrow

    def unheard(loan: object, now: int) -> int:
        write(loan, now)  # type: ignore[arg-type]
        raise NoAnswer("planted")

    monkeypatch.setattr(device, "borrow", unheard)


@pytest.mark.parametrize(("fault", "stands"), [(lost_before, False), (lost_after, True)])
@pytest.mark.parametrize("converting", [False, True])
async def test_an_answer_that_does_not_come(
    fault: Callable[[Device, pytest.MonkeyPatch], None],
    stands: bool,
    converting: bool,
    mock_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The dongle is read anew, and its ledger decides; asking again gives the loan in either case."""
    async with lending(mock_clock, quantity=1) as desk:
        borrower = Borrower()
        handle = (await desk.client.ask(access())).handle if converting else 0
        asked = borrower.asks(desk.now, handle=handle)
        device = desk.opened
        with monkeypatch.context() as patched:
            fault(device._device, patched)
            assert await refused(desk.client, asked) == ErrorNumber.BOX_BUSY
            assert desk.counts()[0] == 1
            assert device.doubtful

        def read_anew() -> bool:
            mock_clock.jump(POLL)
            return not device.doubtful and not device.waiting

        with capture_logs() as said:
            await until(lambda: read_anew() and any(line["event"] == "container was read anew" for line in said))
        assert desk.counts() == (int(stands or converting), int(stands))
        assert desk.opened is device
        assert (await desk.client.ask(asked)).end == NOW + DAY
        assert desk.counts() == (1, 1)
        assert set(ledger(desk.stick)) == {borrower.loan}


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_second_try_that_waits_keeps_what_is_reserved(
    refuses: bool, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dongle is read anew before it is asked again: else somebody would get its license, and lose it to the loan.

    If it refuses then, it is read once more, and nothing is reserved any longer.
    """
    async with lending(mock_clock, quantity=1) as desk, trio.open_nursery() as nursery:
        asked, opened = Borrower().asks(desk.now), desk.opened
        with monkeypatch.context() as patched:
            lost_before(opened._device, patched)
            assert await refused(desk.client, asked) == ErrorNumber.BOX_BUSY
        if refuses:
            monkeypatch.setattr(opened._device, "borrow", full)
        busy = await occupied(desk, nursery)
        msgid = await desk.client.begin(asked)
        await until(lambda: opened.waiting == 1)

        def read_anew() -> bool:
            mock_clock.jump(POLL)
            return opened.waiting == 2

        await until(read_anew)
        desk.changes.clear()
        busy.set()
        await desk.client.until(partial(desk.client.inbox.replies.__contains__, msgid))
        if refuses:
            await until(lambda: not read_anew() and desk.counts() == (0, 0))
        else:
            assert desk.client.inbox.take(msgid, asked).end == NOW + DAY
            assert not any(isinstance(change, c.Returned) for change in desk.changes)


def full(_loan: object, _now: int) -> int:
    """Refuse as a dongle does whose ledger is full."""
    raise Refused("planted", ErrorNumber.BORROW_FAILED)


@pytest.mark.parametrize("stands", [False, True])
async def test_a_conversion_without_an_answer_harms_nobody_else(
    stands: bool, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a loan until the dongle was read anew, and cannot become another one; nobody makes room for that."""
    async with lending(mock_clock, quantity=2) as desk, rig(desk.bench.service) as connections:
        handle = (await desk.client.ask(access())).handle
        other = await connections.client(2)
        theirs = (await other.ask(access())).handle
        asked, device = Borrower().asks(desk.now, handle=handle), desk.opened
        with monkeypatch.context() as patched:
            (lost_after if stands else lost_before)(device._device, patched)
            assert await refused(desk.client, asked) == ErrorNumber.BOX_BUSY
        second = Borrower().asks(desk.now, handle=handle)
        assert await refused(desk.client, second) == ErrorNumber.BOX_BUSY

        def read_anew() -> bool:
            mock_clock.jump(POLL)
            return not device.doubtful and not desk.engine.table.converting

        await until(read_anew)
        assert desk.counts() == (2, int(stands))
        await other.ask(m.Info(theirs))
        if stands:
            assert await refused(desk.client, m.Info(handle)) == ErrorNumber.INVALID_HANDLE
            assert (await desk.client.ask(asked)).end == NOW + DAY
        else:
            assert (await desk.client.ask(second)).end == NOW + DAY
        assert desk.counts() == (2, 1)


async def test_a_return_whose_answer_does_not_come(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The license is free once the dongle was read anew; the receipt may be sent again."""
    async with lending(mock_clock) as desk:
        borrower = Borrower()
        lent = await desk.borrow(borrower)
        device = desk.opened
        give_back = device._device.give_back

        def unheard(loan: bytes, signature: bytes, now: int) -> bool:
            give_back(loan, signature, now)
            raise NoAnswer("planted")

        with monkeypatch.context() as patched:
            patched.setattr(device._device, "give_back", unheard)
            assert await refused(desk.client, borrower.gives_back(lent)) == ErrorNumber.BOX_BUSY
        assert desk.counts() == (1, 1)

        def seen() -> bool:
            mock_clock.jump(POLL)
            return desk.counts() == (0, 0)

        await until(seen)
        assert not (await desk.client.ask(borrower.gives_back(lent))).stood


async def test_a_dongle_that_refuses_lends_nothing(mock_clock: MockClock) -> None:
    """Its clock may be ahead of the server's: what was reserved is free, and nothing is in doubt."""
    async with lending(mock_clock) as desk:
        await desk.opened.ask(lambda device: device.time(NOW + 10 * DAY))
        assert await refused(desk.client, Borrower().asks(desk.now)) == ErrorNumber.BORROW_FAILED
        assert desk.counts() == (0, 0)
        assert not desk.opened.doubtful
        handle = (await desk.client.ask(access())).handle
        assert await refused(desk.client, Borrower().asks(desk.now, handle=handle)) == ErrorNumber.BORROW_FAILED
        await desk.client.ask(m.Info(handle))


async def test_a_certificate_that_fails_leaves_the_loan(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the ledger by then, so it counts; asking again gives the certificate."""
    async with lending(mock_clock) as desk:
        borrower = Borrower()
        with monkeypatch.context() as patched:

            def fails(_purpose: object, _body: bytes) -> None:
                raise NoAnswer("planted")

            patched.setattr(desk.opened._device, "sign", fails)
            assert await refused(desk.client, borrower.asks(desk.now)) == ErrorNumber.BOX_BUSY
        assert desk.counts() == (1, 1)
        assert not desk.opened.doubtful
        assert (await desk.borrow(borrower)).end == NOW + DAY


async def test_a_dongle_that_certifies_something_else(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is given that."""
    async with lending(mock_clock) as desk:
        first, second = Borrower(), Borrower()
        await desk.borrow(first)
        sign = desk.opened._device.sign
        with monkeypatch.context() as patched:
            patched.setattr(
                desk.opened._device, "sign", lambda purpose, body: sign(purpose, first.loan + body[len(first.loan) :])
            )
            assert await refused(desk.client, second.asks(desk.now)) == ErrorNumber.COMMAND_FAILED
