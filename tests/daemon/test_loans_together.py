"""Loans, updates and others that want the dongle at the same time: each has its turn, and none undoes another."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd import lending as lend
from cmserverd.answers import Peer
from cmserverd.core import changes as c
from cmserverd.core.refusal import Refused
from cmserverd.devices import QUEUE, Devices
from drivers import update
from drivers.driver import Device
from drivers.trust import NOBODY
from protocol import messages as m
from protocol.errors import ErrorNumber
from protocol.terms import AccessMode
from tests.daemon.borrowing import BOX, DAY, NOW, Borrower, Desk, ledger, lendable, lending
from tests.daemon.harness import CONTROL, LIMIT, access, rig, until
from tests.daemon.test_crypt import LICENSOR, refused


async def occupied(desk: Desk, nursery: trio.Nursery) -> threading.Event:
    """Keep the dongle busy until the event is set."""
    busy, begun = threading.Event(), threading.Event()

    def question(_: Device) -> None:
        begun.set()
        busy.wait(LIMIT)

    nursery.start_soon(desk.opened.ask, question)
    await until(begun.is_set)
    return busy


def renewal(desk: Desk, quantity: int) -> m.Import:
    """Return an update by which there are other numbers of licenses."""
    (firm_item,) = lendable(quantity=quantity).firm_items
    owner = desk.opened.image.owner
    return m.Import(update.encode_firm(owner, replace(firm_item, update_counter=5), update.ANY, LICENSOR))


async def test_a_loan_that_waits_for_its_turn_outlives_a_new_reading(mock_clock: MockClock) -> None:
    """An update is applied before it: the ledger that is read with that does not have it yet."""
    async with (
        lending(mock_clock) as desk,
        rig(desk.bench.service) as connections,
        trio.open_nursery() as nursery,
    ):
        operator = await connections.client(peer=CONTROL)
        busy = await occupied(desk, nursery)
        borrower = Borrower()
        asked = borrower.asks(desk.now)
        msgid = await desk.client.begin(asked)
        await until(lambda: desk.opened.waiting == 1)
        imported = await operator.begin(renewal(desk, 3))
        await until(lambda: desk.opened.waiting == 2)  # an operator comes first
        desk.changes.clear()
        busy.set()
        await operator.until(partial(operator.inbox.replies.__contains__, imported))
        await desk.client.until(partial(desk.client.inbox.replies.__contains__, msgid))
        borrowed = desk.client.inbox.take(msgid, asked)
        assert desk.counts() == (1, 1)
        assert not any(isinstance(change, c.Returned) for change in desk.changes)
        assert set(ledger(desk.stick)) == {borrower.loan}
        assert not desk.opened.writing
        assert borrowed.end == NOW + DAY


async def test_a_loan_of_what_is_gone_meanwhile(mock_clock: MockClock) -> None:
    """It waited for its turn; the update before it took the license away, and it is told so."""
    async with (
        lending(mock_clock) as desk,
        rig(desk.bench.service) as connections,
        trio.open_nursery() as nursery,
    ):
        operator = await connections.client(peer=CONTROL)
        busy = await occupied(desk, nursery)
        asked = Borrower().asks(desk.now)
        msgid = await desk.client.begin(asked)
        await until(lambda: desk.opened.waiting == 1)
        (firm_item,) = lendable().firm_items
        without = replace(firm_item, update_counter=5, products=firm_item.products[1:])
        octets = update.encode_firm(desk.opened.image.owner, without, update.ANY, LICENSOR)
        imported = await operator.begin(m.Import(octets))
        await until(lambda: desk.opened.waiting == 2)
        busy.set()
        await operator.until(partial(operator.inbox.replies.__contains__, imported))
        await desk.client.until(partial(desk.client.inbox.replies.__contains__, msgid))
        error = desk.client.inbox.replies[msgid].error
        assert isinstance(error, dict)
        assert error["number"] == ErrorNumber.PRODUCT_CODE_WRONG
        assert not desk.engine.table.lent
        assert not ledger(desk.stick)


async def test_an_update_keeps_what_is_lent(mock_clock: MockClock) -> None:
    """Also if it leaves fewer licenses than are out: no more are handed out until they are back."""
    async with lending(mock_clock, quantity=3) as desk, rig(desk.bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        borrowers = [Borrower() for _ in range(2)]
        lent = [await desk.borrow(borrower) for borrower in borrowers]
        await operator.ask(renewal(desk, 1))
        assert desk.counts() == (2, 2)
        assert await refused(desk.client, access()) == ErrorNumber.NO_MORE_LICENSES
        for borrower, loan in zip(borrowers, lent, strict=True):
            assert (await desk.client.ask(borrower.gives_back(loan))).stood
        await desk.client.ask(access())


async def test_a_turn_that_is_refused_reserves_nothing(mock_clock: MockClock) -> None:
    """Too many of one address wait for the dongle: it was not asked, and that is certain."""
    async with lending(mock_clock, quantity=2 * QUEUE) as desk, rig(desk.bench.service) as connections:
        address = Peer("192.0.2.99", here=False)
        async with trio.open_nursery() as nursery:
            busy = await occupied(desk, nursery)
            for _ in range(QUEUE):
                nursery.start_soon(desk.bench.service.devices.ask, BOX, lambda _: None, address.address)
            client = await connections.client(2, address)
            await until(lambda: desk.opened.waiting_of(address.address) == QUEUE)
            assert await refused(client, Borrower().asks(desk.now)) == ErrorNumber.BOX_BUSY
            assert desk.counts() == (0, 0)
            assert not desk.opened.doubtful
            busy.set()


async def test_two_at_once_with_one_id(mock_clock: MockClock) -> None:
    """A client that was cut off asks again while its first question still waits: one loan, and both are answered."""
    async with (
        lending(mock_clock, quantity=1) as desk,
        rig(desk.bench.service) as connections,
        trio.open_nursery() as nursery,
    ):
        again = await connections.client(2, machine="machine-1")
        busy = await occupied(desk, nursery)
        asked = Borrower().asks(desk.now)
        first = await desk.client.begin(asked)
        await until(lambda: desk.opened.waiting == 1)
        second = await again.begin(asked)
        await wait_all_tasks_blocked()
        assert desk.opened.waiting == 1  # it waits for the first
        busy.set()
        for client, msgid in ((desk.client, first), (again, second)):
            await client.until(partial(client.inbox.replies.__contains__, msgid))
        one, other = desk.client.inbox.take(first, asked), again.inbox.take(second, asked)
        assert (one.number, one.end) == (other.number, other.end)
        assert desk.counts() == (1, 1)


async def test_a_loan_is_given_back_once_it_is_lent(mock_clock: MockClock) -> None:
    """Its holder may be quicker than the dongle: it would be struck off first, and then count for nobody."""
    async with (
        lending(mock_clock, quantity=1) as desk,
        rig(desk.bench.service) as connections,
        trio.open_nursery() as nursery,
    ):
        borrower, again = Borrower(), await connections.client(2)
        lent = await desk.borrow(borrower)
        receipt = borrower.gives_back(lent)
        assert (await desk.client.ask(receipt)).stood
        busy = await occupied(desk, nursery)
        asked = borrower.asks(desk.now)
        first = await desk.client.begin(asked)
        await until(lambda: desk.opened.waiting == 1)
        second = await again.begin(receipt)
        await wait_all_tasks_blocked()
        assert (desk.opened.waiting, desk.counts()) == (1, (1, 1))
        busy.set()
        for client, msgid in ((desk.client, first), (again, second)):
            await client.until(partial(client.inbox.replies.__contains__, msgid))
        assert again.inbox.take(second, receipt).stood
        assert (desk.counts(), ledger(desk.stick)) == ((0, 0), {})


@pytest.mark.parametrize("by_file", [False, True])
async def test_one_id_again_keeps_its_license_when_the_first_try_is_cut_off(
    by_file: bool, mock_clock: MockClock
) -> None:
    """It is decided on when the first has come to nothing: else that would give back what is reserved for both."""
    async with (
        lending(mock_clock, quantity=1) as desk,
        rig(desk.bench.service) as connections,
        trio.open_nursery() as nursery,
    ):
        client = await connections.client(peer=CONTROL) if by_file else desk.client
        busy = await occupied(desk, nursery)
        borrower, devices, first = Borrower(), desk.bench.service.devices, trio.CancelScope()
        (session,) = desk.engine.table.sessions.values()

        async def cut_off() -> None:
            with first:
                if by_file:
                    await lend.lend(desk.engine, devices, borrower.asks_by_file(), "")
                else:
                    await lend.borrow(desk.engine, devices, session, borrower.asks(desk.now))

        nursery.start_soon(cut_off)
        await until(lambda: desk.opened.waiting == 1)
        msgid = await client.begin(borrower.asks_by_file() if by_file else borrower.asks(desk.now))
        await wait_all_tasks_blocked()
        first.cancel()
        await wait_all_tasks_blocked()
        assert desk.counts() == (1, 1)
        busy.set()
        await client.until(partial(client.inbox.replies.__contains__, msgid))
        assert client.inbox.replies[msgid].error is None
        assert (desk.counts(), desk.opened.writing) == ((1, 1), [])


async def test_nobody_loses_his_license_to_a_share_that_is_taken_along(mock_clock: MockClock) -> None:
    """Its access may be given back meanwhile, the loan has its license; no other program of its station joins it."""
    async with (
        lending(mock_clock, quantity=2) as desk,
        rig(desk.bench.service) as connections,
        trio.open_nursery() as nursery,
    ):
        share = partial(access, mode=AccessMode.STATION_SHARE)
        handle = (await desk.client.ask(share())).handle
        (session,) = desk.engine.table.sessions.values()
        mate = await connections.client(2, machine="machine-1")
        other = await connections.client(3)
        theirs = (await other.ask(access())).handle
        busy = await occupied(desk, nursery)
        ask = partial(lend.borrow, desk.engine, desk.bench.service.devices, session)
        nursery.start_soon(ask, Borrower().asks(desk.now, handle=handle))
        await until(lambda: desk.opened.waiting == 1)
        assert await refused(mate, share()) == ErrorNumber.BOX_BUSY
        await desk.client.ask(m.Release(handle))
        assert await refused(mate, share()) == ErrorNumber.NO_MORE_LICENSES
        busy.set()
        await until(lambda: not desk.opened.writing)
        assert desk.counts() == (2, 1)
        await other.ask(m.Info(theirs))
        assert await refused(mate, share()) == ErrorNumber.NO_MORE_LICENSES


async def test_an_access_becomes_one_loan_only(mock_clock: MockClock) -> None:
    """Whoever converts it twice while the container is slow would have two licenses for one unit."""
    async with (
        lending(mock_clock, quantity=2) as desk,
        rig(desk.bench.service) as connections,
        trio.open_nursery() as nursery,
    ):
        held = await desk.client.ask(access())
        other = await connections.client(2)
        await other.ask(access())
        session = desk.engine.table.accesses[held.handle].session
        busy = await occupied(desk, nursery)
        ask = partial(lend.borrow, desk.engine, desk.bench.service.devices, session)
        nursery.start_soon(ask, Borrower().asks(desk.now, handle=held.handle))
        await until(lambda: desk.opened.waiting == 1)
        desk.engine.plug(desk.opened.image.container, desk.opened.loans, desk.opened.on_the_way)
        with pytest.raises(Refused, match="as another loan"):
            await ask(Borrower().asks(desk.now, handle=held.handle))
        busy.set()
        await until(lambda: not desk.opened.writing)
        assert desk.counts() == (2, 1)
        assert [held.session.station.machine for held in desk.engine.table.accesses.values()] == ["machine-2"]


async def test_who_came_first_has_his_loan_first(mock_clock: MockClock) -> None:
    """However many ask with its id again and again, nobody is kept waiting for ever."""
    devices, order = Devices(NOBODY), list[int]()
    async with trio.open_nursery() as nursery:

        async def asks(number: int) -> None:
            async with devices.alone(bytes(16)):
                order.append(number)
                if not number:
                    nursery.start_soon(asks, 5)
                await wait_all_tasks_blocked()

        async with devices.alone(bytes(16)):
            for number in range(5):
                nursery.start_soon(asks, number)
                await wait_all_tasks_blocked()
    assert order == list(range(6))
    assert not devices._lending
