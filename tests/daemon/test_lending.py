"""Borrowing over the connections of a server, from a dongle behind the real USB driver (behaviours 16 to 18)."""

from __future__ import annotations

import secrets

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from trio.testing import MockClock

from cmserverd.core.rules import Limits
from drivers.container import LOAN_SKEW, Borrowing, ProductItem
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import HandleKind, Station
from tests.daemon.borrowing import (
    BOX,
    CHARTS,
    DAY,
    FIXED,
    LOCAL,
    NOW,
    SCARCE,
    UNITS,
    USAGE,
    Borrower,
    ledger,
    lending,
)
from tests.daemon.harness import CONTROL, HERE, MONITOR, AsyncClient, access, rig
from tests.daemon.test_crypt import refused

MINE = Station("machine-1")


async def refusal(client: AsyncClient, request: m.Params) -> str:
    """Return the text with which a request is refused."""
    with pytest.raises(LicenseError) as error:
        await client.ask(request)
    return str(error.value)


# --- borrowing ----------------------------------------------------------------------------------------------------


async def test_a_license_is_lent(mock_clock: MockClock) -> None:
    """The certificate proves it, the dongle's ledger and the server's count have it, listing and log say who."""
    async with lending(mock_clock) as desk:
        borrower = Borrower()
        with capture_logs() as said:
            lent = await desk.borrow(borrower)
        assert (lent.container, lent.item, lent.end) == (BOX, 1, NOW + DAY)
        proven = borrower.checks(lent, MINE)
        assert (proven.product_code, proven.start, proven.end) == (CHARTS, NOW, NOW + DAY)
        assert ledger(desk.stick)[borrower.loan].end == NOW + DAY
        assert desk.counts() == (1, 1)
        (row,) = await desk.rows()
        assert (row.handle, row.borrowed_until, row.host, row.allocation) == (lent.number, NOW + DAY, "pc1", 0)
        (line,) = [line for line in said if line["event"] == "license borrowed"]
        assert (line["container"], line["client"], line["loan"]) == (
            BOX,
            "192.0.2.7(pc1 \\ user)",
            borrower.loan.hex(),
        )


async def test_behaviour_17_who_has_the_last_license_takes_it_along(mock_clock: MockClock) -> None:
    """The access becomes the loan: at no moment is the license anybody else's, and the handle ends."""
    async with lending(mock_clock, quantity=1) as desk, rig(desk.bench.service) as connections:
        other = await connections.client(2)
        handle = (await desk.client.ask(access())).handle
        assert await refused(desk.client, Borrower().asks(desk.now)) == ErrorNumber.NO_MORE_LICENSES
        lent = await desk.client.ask(Borrower().asks(desk.now, handle=handle, firm_code=0, product_code=0))
        assert lent.item == 1
        assert desk.counts() == (1, 1)
        assert await refused(desk.client, m.Info(handle)) == ErrorNumber.INVALID_HANDLE
        assert await refused(other, access()) == ErrorNumber.NO_MORE_LICENSES
        assert not desk.client.inbox.events


async def test_the_same_id_is_the_same_loan(mock_clock: MockClock) -> None:
    """Asked again, from whichever connection, it takes nothing more; a later end is taken, an earlier one is not."""
    async with lending(mock_clock) as desk, rig(desk.bench.service) as connections:
        borrower = Borrower()
        first = await desk.borrow(borrower)
        again = await (await connections.client(2, machine=MINE.machine)).ask(borrower.asks(desk.now))
        assert (again.number, again.end) == (first.number, first.end)
        assert (await desk.borrow(borrower, seconds=60)).end == first.end
        await desk.passes(3_600)
        longer = await desk.borrow(borrower)
        assert (longer.number, longer.end) == (first.number, first.end + 3_600)
        assert borrower.checks(longer, MINE).start == desk.now
        assert ledger(desk.stick)[borrower.loan].end == longer.end
        assert desk.counts() == (1, 1)
        assert await refused(desk.client, Borrower(borrower.loan).asks(desk.now)) == ErrorNumber.INVALID_PARAMETER
        elsewhere = await connections.client(3)
        assert await refused(elsewhere, borrower.asks(desk.now)) == ErrorNumber.INVALID_PARAMETER


async def test_a_handle_that_is_borrowed_already(mock_clock: MockClock) -> None:
    """Whoever repeats a request whose answer was lost names a handle that is no more: he gets what became of it."""
    async with lending(mock_clock) as desk:
        handle = (await desk.client.ask(access())).handle
        asked = Borrower().asks(desk.now, handle=handle)
        first = await desk.client.ask(asked)
        assert (await desk.client.ask(asked)).number == first.number
        assert desk.counts() == (1, 1)


@pytest.mark.parametrize("wrong", [-LOAN_SKEW - 1, LOAN_SKEW + 1, 2**53 - 1 - NOW])
async def test_a_clock_that_is_not_right(wrong: int, mock_clock: MockClock) -> None:
    """More than a minute off in either direction is 232, with both times; a minute is borne."""
    async with lending(mock_clock) as desk:
        text = await refusal(desk.client, Borrower().asks(desk.now + wrong))
        assert text.endswith("Error 232.")
        assert "2030-03-17 17:46:40 UTC" in text
        assert not ledger(desk.stick)
        assert desk.counts() == (0, 0)
        lent = await desk.client.ask(Borrower().asks(desk.now + (LOAN_SKEW if wrong > 0 else -LOAN_SKEW)))
        assert lent.end == NOW + DAY


async def test_what_cannot_be_borrowed(mock_clock: MockClock) -> None:
    """Each refusal has its number, and nothing is lent."""
    async with lending(mock_clock) as desk, rig(desk.bench.service) as connections:
        here = await connections.client(peer=HERE, machine=desk.bench.service.introduction.machine)
        handle = (await desk.client.ask(access())).handle
        box = (await desk.client.ask(access(kind=HandleKind.CONTAINER))).handle
        fixed = (await desk.client.ask(access(product=FIXED))).handle
        for asked, number in (
            (Borrower().asks(desk.now, FIXED), ErrorNumber.BORROW_FAILED),
            (Borrower().asks(desk.now, handle=fixed), ErrorNumber.BORROW_FAILED),
            (Borrower().asks(desk.now, UNITS), ErrorNumber.BORROW_FAILED),
            (Borrower().asks(desk.now, SCARCE, 3_601), ErrorNumber.BORROW_FAILED),
            (Borrower().asks(desk.now, 99), ErrorNumber.ENTRY_NOT_FOUND),
            (Borrower().asks(desk.now, LOCAL), ErrorNumber.ENTRY_NOT_FOUND),
            (Borrower().asks(desk.now, container="9-9"), ErrorNumber.BOX_NOT_FOUND),
            (Borrower().asks(desk.now, feature_code=1), ErrorNumber.FEATURE_MAP_MISSING),
            (Borrower().asks(desk.now, handle=box), ErrorNumber.WRONG_HANDLE_TYPE),
            (Borrower().asks(desk.now, handle=9_999), ErrorNumber.INVALID_HANDLE),
            (replace(Borrower().asks(desk.now), id=m.LoanId(bytes(16))), ErrorNumber.INVALID_PARAMETER),
        ):
            assert await refused(desk.client, asked) == number, asked
        assert await refused(here, Borrower().asks(desk.now, LOCAL)) == ErrorNumber.ENTRY_NOT_FOUND
        assert not ledger(desk.stick)
        assert not desk.engine.table.lent
        await desk.client.ask(m.Info(handle))


async def test_as_many_as_the_licensor_allows(mock_clock: MockClock) -> None:
    """Of five licenses two may be out; one that is given back may be lent anew."""
    async with lending(mock_clock) as desk:
        borrowers = [Borrower() for _ in range(3)]
        lent = [await desk.borrow(borrower, SCARCE, 60) for borrower in borrowers[:2]]
        assert await refused(desk.client, borrowers[2].asks(desk.now, SCARCE, 60)) == ErrorNumber.BORROW_FAILED
        assert (await desk.client.ask(borrowers[0].gives_back(lent[0]))).stood
        await desk.borrow(borrowers[2], SCARCE, 60)
        assert desk.counts(2) == (2, 2)


async def test_what_the_operator_allows(mock_clock: MockClock) -> None:
    """He can forbid it, keep some licenses for who is connected, and cap the time; not extend it."""
    async with lending(mock_clock) as desk:
        borrower = Borrower()
        desk.engine.limits = Limits(borrow_maximum=0)
        assert "operator" in await refusal(desk.client, borrower.asks(desk.now))
        desk.engine.limits = Limits(borrow_maximum=3_600)
        text = await refusal(desk.client, borrower.asks(desk.now, seconds=3_601))
        assert "3600" in text.replace(",", "") or "1 h" in text
        assert (await desk.borrow(borrower, seconds=3_600)).end == NOW + 3_600
        desk.engine.limits = Limits(borrow_maximum=100 * DAY)
        assert await refused(desk.client, borrower.asks(desk.now, seconds=31 * DAY)) == ErrorNumber.BORROW_FAILED
        desk.engine.limits = Limits(borrow_keep=1)
        assert await refused(desk.client, Borrower().asks(desk.now)) == ErrorNumber.BORROW_FAILED
        assert (await desk.borrow(borrower, seconds=2 * DAY)).end == NOW + 2 * DAY
        await desk.client.ask(access())
        assert desk.counts() == (2, 1)


async def test_while_nothing_can_be_kept(mock_clock: MockClock) -> None:
    """Nothing is lent, and what is out can be given back."""
    async with lending(mock_clock) as desk:
        borrower = Borrower()
        lent = await desk.borrow(borrower)
        desk.engine.sealed = "it can keep no records at present"
        assert await refused(desk.client, Borrower().asks(desk.now)) == ErrorNumber.INTERNAL
        assert (await desk.client.ask(borrower.gives_back(lent))).stood
        assert desk.counts() == (0, 0)


async def test_a_loan_ends_with_its_license(mock_clock: MockClock) -> None:
    """It expires before, or its usage ends: that begins with the loan."""
    expiring = ProductItem(7, 20, "Expiring", 2, expiration=NOW + 500, borrowing=Borrowing(30 * DAY))
    async with lending(mock_clock, expiring) as desk:
        borrower = Borrower()
        assert (await desk.borrow(borrower, 20)).end == NOW + 500
        (counted,) = [one for one in desk.engine.table.licenses.values() if one.id.item == 5]
        assert counted.item.usage_start == 0
        assert (await desk.borrow(Borrower(), USAGE, 10 * DAY)).end == NOW + DAY
        assert counted.item.usage_start == NOW
        await desk.passes(100)
        assert (await desk.borrow(Borrower(), USAGE, 10 * DAY)).end == NOW + DAY


async def test_a_loan_that_is_refused_begins_no_usage(mock_clock: MockClock) -> None:
    """The dongle says no: nothing is counted."""
    async with lending(mock_clock) as desk:
        assert await refused(desk.client, Borrower().asks(desk.now, USAGE, 31 * DAY)) == ErrorNumber.BORROW_FAILED
        (counted,) = [one for one in desk.engine.table.licenses.values() if one.id.item == 5]
        assert counted.item.usage_start == 0


# --- giving back --------------------------------------------------------------------------------------------------


async def test_behaviour_17_it_is_given_back(mock_clock: MockClock) -> None:
    """It is free at once; a receipt that is sent again changes nothing, not even for whoever has it next."""
    async with lending(mock_clock, quantity=1) as desk:
        borrower = Borrower()
        lent = await desk.borrow(borrower)
        with capture_logs() as said:
            assert (await desk.client.ask(borrower.gives_back(lent))).stood
        (line,) = [line for line in said if line["event"] == "a borrowed license was given back"]
        assert (line["loan"], line["by"]) == (borrower.loan.hex(), "192.0.2.7")
        assert not ledger(desk.stick)
        assert desk.counts() == (0, 0)
        other = Borrower()
        await desk.borrow(other)
        assert not (await desk.client.ask(borrower.gives_back(lent))).stood
        assert desk.counts() == (1, 1)
        assert set(ledger(desk.stick)) == {other.loan}


async def test_what_is_no_receipt(mock_clock: MockClock) -> None:
    """Another's signature, one for another container, an id that cannot be."""
    async with lending(mock_clock) as desk:
        borrower, stranger = Borrower(), Borrower()
        lent = await desk.borrow(borrower)
        good = borrower.gives_back(lent)
        forged = replace(good, signature=Borrower(borrower.loan).signs(lent.message[9:49]))
        assert await refused(desk.client, forged) == ErrorNumber.VALIDATION_FAILED
        elsewhere = replace(good, signature=borrower.signs(bytes(40)))
        assert await refused(desk.client, elsewhere) == ErrorNumber.VALIDATION_FAILED
        assert await refused(desk.client, replace(good, id=m.LoanId(bytes(16)))) == ErrorNumber.INVALID_PARAMETER
        assert await refused(desk.client, replace(good, container="3-8")) == ErrorNumber.BOX_LOST
        assert not (await desk.client.ask(replace(good, id=stranger.loan))).stood
        assert desk.counts() == (1, 1)
        assert (await desk.client.ask(good)).stood


async def test_behaviour_17_at_its_end_it_is_free_without_contact(mock_clock: MockClock) -> None:
    """A minute after the end, as late as the borrower's clock may be; the dongle has room for another then, too."""
    async with lending(mock_clock, quantity=1) as desk:
        await desk.borrow(Borrower(), seconds=1_000)
        assert desk.engine.due() == NOW + 1_000 + LOAN_SKEW
        await desk.passes(1_000 + LOAN_SKEW - 1)
        assert await refused(desk.client, access()) == ErrorNumber.NO_MORE_LICENSES
        await desk.passes(1)
        assert desk.counts() == (0, 0)
        other = Borrower()
        await desk.borrow(other)
        assert set(ledger(desk.stick)) == {other.loan}


async def test_behaviour_16_it_cannot_be_removed(mock_clock: MockClock) -> None:
    """The operator is told until when; ending the borrower's session changes nothing either."""
    async with lending(mock_clock) as desk, rig(desk.bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        borrower = await connections.client(2)
        lent = await borrower.ask(Borrower().asks(desk.now))
        text = await refusal(operator, m.Deallocate(lent.number))
        assert text.endswith("Error 226.")
        assert "2030-03-18" in text
        await borrower.ask(m.Goodbye())
        assert desk.counts() == (1, 1)
        assert [row.handle for row in await desk.rows()] == [lent.number]


# --- by file ------------------------------------------------------------------------------------------------------


async def test_an_operator_lends_to_somebody_without_a_connection(mock_clock: MockClock) -> None:
    """The certificate is for his station, the listing has his name, and the operator takes the receipt."""
    async with lending(mock_clock) as desk, rig(desk.bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        borrower = Borrower()
        asked = borrower.asks_by_file()
        with capture_logs() as said:
            lent = await operator.ask(asked)
        borrower.checks(lent, asked.station)
        (line,) = [line for line in said if line["event"] == "license borrowed"]
        assert line["by"] == CONTROL.address
        (row,) = await desk.rows()
        assert (row.host, row.user, row.station) == ("far away", "eve", "machine-9/3")
        assert (await operator.ask(asked)).number == lent.number
        assert (await operator.ask(borrower.gives_back(lent))).stood
        assert await refused(operator, borrower.asks(desk.now)) == ErrorNumber.NOT_IMPLEMENTED
        assert await refused(desk.client, asked) == ErrorNumber.NOT_IMPLEMENTED
        monitor = await connections.client(peer=MONITOR)
        for request in (asked, borrower.asks(desk.now), borrower.gives_back(lent)):
            assert await refused(monitor, request) == ErrorNumber.NOT_IMPLEMENTED


async def test_random_bytes_are_refused_where_they_are_read(mock_clock: MockClock) -> None:
    """A key that is none is borrowed for, and can never be given back: only its own loan is harmed."""
    async with lending(mock_clock) as desk:
        borrower = Borrower()
        asked = replace(borrower.asks(desk.now), holder=secrets.token_bytes(32))
        lent = await desk.client.ask(asked)
        assert await refused(desk.client, borrower.gives_back(lent)) == ErrorNumber.VALIDATION_FAILED
        assert desk.counts() == (1, 1)
