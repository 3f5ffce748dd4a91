"""Borrowing, giving back, and taking units without end: it wears no dongle out, and a return is never refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import trio
from msgspec.structs import replace
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd import lending as loans
from cmserverd import wear
from cmserverd.answers import Peer
from cmserverd.core.refusal import Refused
from cmserverd.devices import Devices
from cmserverd.wear import Wear
from drivers.chip.chip import Chip
from drivers.container import Allowance, Container, ContainerKind, FirmItem, ProductItem
from drivers.driver import NoAnswer
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from tests.daemon.borrowing import BOX, DAY, FIXED, NOW, UNITS, USAGE, Borrower, Desk, lending
from tests.daemon.harness import CONTROL, FIRM, number_of, rig, until
from tests.daemon.test_crypt import Stick, entry, plugged, refused
from tests.daemon.test_lending import MINE, refusal


class Hands:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return seconds."""
        return self.now


def only(desk: Desk, per_address: int) -> None:
    """Let each address have so many out at once."""
    desk.engine.limits = replace(desk.engine.limits, borrow_per_address=per_address)


def written(desk: Desk) -> Callable[[], bool]:
    """Return what tells whether the dongle was written since it was asked last."""
    chip = desk.stick.firmware._chip
    assert isinstance(chip, Chip)
    last = chip.image

    def changed() -> bool:
        nonlocal last
        before, last = last, chip.image
        return before != last

    return changed


def test_a_bucket_fills_in_a_day() -> None:
    """Its time comes as it was said; one host's is another's no more than its address is."""
    hands = Hands()
    buckets = Wear(hands)
    for _ in range(4):
        buckets.take("2001:db8::1", 1.0)
    with pytest.raises(Refused, match=r"2001:db8::/64 has asked for too many.* in 21600 s.*Error 226"):
        buckets.take("2001:db8::2", 1.0)
    buckets.take("2001:db8::2", 0.0)
    buckets.take("192.0.2.1", 4.0)
    hands.now += 21_599
    with pytest.raises(Refused, match=r"in 1 s"):
        buckets.take("2001:db8::1", 1.0)
    hands.now += 1
    buckets.take("2001:db8::1", 1.0)
    hands.now += 10 * wear.DAY
    buckets.take("2001:db8::1", 4.0)
    with pytest.raises(Refused):
        buckets.take("2001:db8::1", 0.01)


def test_what_was_not_written_is_put_back() -> None:
    """Also of a bucket that is forgotten by then."""
    buckets = Wear(Hands())
    for _ in range(9):
        buckets.take("192.0.2.1", 2.0)
        buckets.give_back("192.0.2.1", 2.0)
    buckets.give_back("192.0.2.2", 2.0)


def test_only_so_many_buckets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those used last; however many addresses somebody has."""
    monkeypatch.setattr(wear, "HOSTS", 3)
    buckets = Wear(Hands())
    for last in range(1, 5):
        buckets.take(f"192.0.2.{last}", 4.0)
    for last in range(2, 5):
        with pytest.raises(Refused):
            buckets.take(f"192.0.2.{last}", 1.0)
    buckets.take("192.0.2.1", 4.0)


async def test_who_borrows_too_often_is_told_when_he_may_again(mock_clock: MockClock) -> None:
    """What he has he can give back; others, and the operator, borrow as before; asking too early costs nothing."""
    async with lending(mock_clock, quantity=9) as desk, rig(desk.bench.service) as connections:
        only(desk, 1)
        for _ in range(2):
            borrower = Borrower()
            lent = await desk.borrow(borrower)
            assert (await desk.client.ask(borrower.gives_back(lent))).stood
        changed = written(desk)
        assert "ask again in 43200 s" in await refusal(desk.client, Borrower().asks(desk.now))
        assert "ask again in 43200 s" in await refusal(desk.client, Borrower().asks(desk.now))
        assert not changed()
        other = await connections.client(2, Peer("192.0.2.8", here=False))
        await other.ask(Borrower().asks(desk.now))
        operator = await connections.client(peer=CONTROL)
        for _ in range(9 - 3):
            await operator.ask(Borrower().asks_by_file())
        mock_clock.jump(wear.DAY / 2)
        await desk.borrow(Borrower())
        assert await refused(desk.client, Borrower().asks(desk.now)) == ErrorNumber.BORROW_FAILED


async def test_one_id_again_is_paid_for_when_the_first_try_is_cut_off(mock_clock: MockClock) -> None:
    """Else a client could write for nothing: by coming back with the same request while the first one waits."""
    async with lending(mock_clock, quantity=9) as desk:
        only(desk, 1)
        devices, changed = desk.bench.service.devices, written(desk)
        (session,) = desk.engine.table.sessions.values()
        for _ in range(2):
            borrower, first = Borrower(), trio.CancelScope()

            async def cut_off(asked: m.Borrow, scope: trio.CancelScope) -> None:
                with scope:
                    await loans.borrow(desk.engine, devices, session, asked)

            async with desk.opened._turns.turn("other"), trio.open_nursery() as nursery:
                nursery.start_soon(cut_off, borrower.asks(desk.now), first)
                await until(lambda: desk.opened.waiting == 1)
                again = await desk.client.begin(borrower.asks(desk.now))
                await wait_all_tasks_blocked()
                first.cancel()
                await wait_all_tasks_blocked()
            await desk.client.until(partial(desk.client.inbox.replies.__contains__, again))
            lent = desk.client.inbox.take(again, borrower.asks(desk.now))
            assert changed()
            assert (await desk.client.ask(borrower.gives_back(lent))).stood
            assert changed()
        assert "ask again in 43200 s" in await refusal(desk.client, Borrower().asks(desk.now))


async def test_what_is_put_back_is_put_back_where_it_was_taken(mock_clock: MockClock) -> None:
    """The session may be taken over from another host while its request waits."""
    async with lending(mock_clock, quantity=9) as desk:
        only(desk, 1)
        (session,) = desk.engine.table.sessions.values()
        here, elsewhere, buckets = session.address, "192.0.2.77", desk.bench.service.devices.wear
        asked = Borrower().asks(desk.now)
        buckets.take(elsewhere, 4.0)
        async with desk.opened._turns.turn("other"), trio.open_nursery() as nursery:
            nursery.start_soon(loans.borrow, desk.engine, desk.bench.service.devices, session, asked)
            await until(lambda: desk.opened.waiting == 1)
            desk.engine.resume(session.token_hash, elsewhere, local=False)
            nursery.cancel_scope.cancel()
        buckets.take(here, 4.0)
        with pytest.raises(Refused):
            buckets.take(elsewhere, 1.0)


async def test_a_return_is_never_refused(mock_clock: MockClock) -> None:
    """It was paid for with the loan; and an extension that there is nothing left for leaves the loan as it is."""
    async with lending(mock_clock) as desk:
        only(desk, 1)
        borrower = Borrower()
        lent = await desk.borrow(borrower, seconds=100)
        for longer in (200, 300):
            await desk.borrow(borrower, seconds=longer)
        assert "ask again in 21600 s" in await refusal(desk.client, borrower.asks(desk.now, seconds=400))
        assert (await desk.borrow(borrower, seconds=300)).end == NOW + 300
        assert (await desk.client.ask(borrower.gives_back(lent))).stood
        assert not (await desk.client.ask(borrower.gives_back(lent))).stood


async def test_what_is_not_written_costs_nothing(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what the server refuses, nor the container; what nobody knows of may have been written."""
    async with lending(mock_clock) as desk:
        only(desk, 1)
        changed = written(desk)
        for _ in range(9):
            assert await refused(desk.client, Borrower().asks(desk.now, FIXED)) == ErrorNumber.BORROW_FAILED
        await desk.opened.ask(lambda device: device.time(NOW + 2 * DAY))
        assert changed()
        for _ in range(9):
            assert "ask again" not in await refusal(desk.client, Borrower().asks(desk.now))
        assert not changed()
        await desk.passes(2 * DAY)
        with monkeypatch.context() as patched:

            def silent(_loan: object, _now: int) -> int:
                raise NoAnswer("planted")

            patched.setattr(desk.opened._device, "borrow", silent)
            for _ in range(2):
                borrower = Borrower()
                assert await refused(desk.client, borrower.asks(desk.now)) == ErrorNumber.BOX_BUSY
                await desk.client.ask(m.GiveBack(BOX, borrower.loan, bytes(64)))
        assert "ask again in 43200 s" in await refusal(desk.client, Borrower().asks(desk.now))


async def test_an_extension_that_gains_hardly_anything_is_certified_anew_and_not_written(mock_clock: MockClock) -> None:
    """However often; the certificate has the end that stands."""
    async with lending(mock_clock) as desk:
        only(desk, 1)
        borrower = Borrower()
        lent = await desk.borrow(borrower)
        changed = written(desk)
        for _ in range(9):
            await desk.passes(60)
            again = await desk.borrow(borrower)
            assert borrower.checks(again, MINE).end == lent.end
        assert not changed()
        await desk.passes(DAY // 100)
        assert (await desk.borrow(borrower)).end == desk.now + DAY
        assert changed()


async def test_an_address_has_only_so_many(mock_clock: MockClock) -> None:
    """However many stations and sessions it declares; the text says what to do."""
    async with lending(mock_clock, quantity=9) as desk, rig(desk.bench.service) as connections:
        only(desk, 2)
        borrower = Borrower()
        lent = await desk.borrow(borrower)
        second = await connections.client(2)
        await second.ask(Borrower().asks(desk.now))
        third = await connections.client(3)
        assert "[borrowing] per_address" in await refusal(third, Borrower().asks(desk.now))
        await desk.client.ask(borrower.gives_back(lent))
        await third.ask(Borrower().asks(desk.now))


# --- uses that take units ---------------------------------------------------------------------------------------------


def units(number: int = 99) -> Stick:
    """Return a dongle with an item that has so many units, and one with a usage period."""
    items = (
        ProductItem(1, UNITS, "Units", 9, units=Allowance(number)),
        ProductItem(2, USAGE, "Usage", 9, usage=Allowance(DAY)),
    )
    return Stick(Container(BOX, ContainerKind.HARDWARE, "", (FirmItem(FIRM, "Works", 4, items),)))


def few(devices: Devices, full: int) -> None:
    """Let a host have so many uses a day."""
    devices.uses = Wear(trio.current_time, replace(wear.USES, full=full))


def taking(handle: int, number: int, taken: int = 1) -> m.Crypt:
    """Return a use that takes units."""
    return m.Crypt(handle, b"n" * 16, taken, m.AccessKey(number.to_bytes(16, "big")) if taken else None)


async def test_who_takes_units_without_end_is_told_when_he_may_again(mock_clock: MockClock) -> None:
    """The log tells the operator, too; others go on, and what takes no units goes on as well."""
    with capture_logs() as said:
        async with plugged(mock_clock, units()) as (bench, client), rig(bench.service) as connections:
            few(bench.service.devices, 3)
            handle = (await client.ask(entry(UNITS))).handle
            for number in (1, 2, 3):
                assert (await client.ask(taking(handle, number))).units_left == 99 - number
            for _ in range(20):
                with pytest.raises(LicenseError, match=r"ask again in 28800 s, and for the units of several") as told:
                    await client.ask(taking(handle, 4))
                assert number_of(told.value) == ErrorNumber.REQUEST_OVERLOAD
            await client.ask(taking(handle, 0, taken=0))
            other = await connections.client(2, Peer("192.0.2.8", here=False))
            theirs = (await other.ask(entry(UNITS))).handle
            assert (await other.ask(taking(theirs, 5))).units_left == 95
            mock_clock.jump(28_800)
            assert (await client.ask(taking(handle, 4))).units_left == 94
    lines = [line for line in said if line["event"] == "a client would wear a container out"]
    assert len(lines) == 10
    assert "several uses at once" in lines[0]["reason"]


async def test_a_use_that_is_not_written_costs_nothing(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a proof without units, nor what the container refuses; what nobody knows of may have been written."""
    async with plugged(mock_clock, units(3)) as (bench, client):
        few(bench.service.devices, 3)
        handle = (await client.ask(entry(UNITS))).handle
        for _ in range(9):
            await client.ask(taking(handle, 0, taken=0))
            assert await refused(client, taking(handle, 9, taken=4)) == ErrorNumber.UNIT_COUNTER_UNDERRUN
        used = (await client.ask(entry(USAGE))).handle
        for _ in range(9):
            await client.ask(taking(used, 0, taken=0))  # the first one begins the period
        await client.ask(taking(handle, 1))
        device = bench.service.devices.find(BOX)._device
        with monkeypatch.context() as patched:

            def silent(*_: object) -> None:
                raise NoAnswer("planted")

            patched.setattr(device, "consume", silent)
            assert await refused(client, taking(handle, 2)) == ErrorNumber.BOX_BUSY
        assert await refused(client, taking(handle, 2)) == ErrorNumber.REQUEST_OVERLOAD


async def test_fifty_thousand_uses_a_day_are_free(mock_clock: MockClock) -> None:
    """At once, and then one each 1.728 s: more than people make; nobody borrows less for that."""
    async with plugged(mock_clock, units()) as (bench, client):
        devices = bench.service.devices
        handle = (await client.ask(entry(UNITS))).handle
        (session,) = bench.engine.table.sessions.values()
        devices.uses.take(session.address, 49_998.5)
        await client.ask(taking(handle, 1))
        assert await refused(client, taking(handle, 2)) == ErrorNumber.REQUEST_OVERLOAD
        mock_clock.jump(1)
        await client.ask(taking(handle, 2))
        devices.wear.take(session.address, 4.0)
