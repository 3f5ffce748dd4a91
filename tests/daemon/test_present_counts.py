"""The table follows what its containers count: what is used by now, whatever a use is answered, and when."""

from __future__ import annotations

import threading

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from cmserverd.clock import LicenseClock
from drivers import update
from drivers.container import Allowance, ProductItem
from protocol import messages as m
from protocol.errors import ErrorNumber
from tests.daemon.harness import CONTROL, rig, until
from tests.daemon.plugs import Bench
from tests.daemon.test_crypt import LICENSOR, UNITS, USAGE, Stick, container, entry, plugged, refused

NONCE = b"n" * 16
OLD, REST = m.AccessKey(b"1" * 16), m.AccessKey(b"2" * 16)


def present(bench: Bench, reference: int) -> ProductItem:
    """Return an item as the table has it."""
    (counted,) = [one for one in bench.engine.table.licenses.values() if one.id.item == reference]
    return counted.item


def renewal(bench: Bench, *items: ProductItem) -> bytes:
    """Return an update that brings these product items."""
    (firm_item,) = container().firm_items
    owner = bench.service.devices.find(container().id).image.owner
    return update.encode_firm(owner, replace(firm_item, update_counter=5, products=items), update.ANY, LICENSOR)


async def test_an_old_key_says_nothing_of_what_is_left_now(mock_clock: MockClock) -> None:
    """Whoever asks again what his first use left him gives nobody an access to units that are used up."""
    async with plugged(mock_clock, Stick()) as (bench, client):
        handle = (await client.ask(entry(UNITS))).handle
        await client.ask(m.Crypt(handle, NONCE, 1, OLD))
        await client.ask(m.Crypt(handle, NONCE, 9, REST))
        await client.ask(m.Crypt(handle, NONCE, 1, OLD))
        assert present(bench, 2).units_used == 10
        assert await refused(client, entry(UNITS)) == ErrorNumber.UNIT_COUNTER_ZERO


async def test_an_old_key_is_not_of_units_that_were_given_anew(mock_clock: MockClock) -> None:
    """It takes of the new ones what it asks for, and they do not count as used because the old ones are."""
    async with plugged(mock_clock, Stick()) as (bench, client), rig(bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        handle = (await client.ask(entry(UNITS))).handle
        await client.ask(m.Crypt(handle, NONCE, 9, REST))
        await operator.ask(m.Import(renewal(bench, ProductItem(2, UNITS, quantity=9, units=Allowance(1_000, 1)))))
        assert (await client.ask(m.Crypt(handle, NONCE, 9, REST))).units_left == 991
        assert present(bench, 2).units_used == 9
        await client.ask(entry(UNITS))


async def test_an_old_use_does_not_bring_an_old_usage_period_back(mock_clock: MockClock) -> None:
    """What was given anew begins anew, and is not over because the old period is."""
    now = {"system": 1_800_000_000.0, "boot": 0.0}
    async with plugged(mock_clock, Stick()) as (bench, client), rig(bench.service) as connections:
        bench.engine.clock = LicenseClock(lambda: now["system"], lambda: now["boot"])
        operator = await connections.client(peer=CONTROL)
        handle = (await client.ask(entry(USAGE))).handle
        await client.ask(m.Crypt(handle, NONCE, 0, OLD))
        for name in now:
            now[name] += 100_000
        assert await refused(client, entry(USAGE)) == ErrorNumber.USAGE_PERIOD_OVERRUN
        await operator.ask(m.Import(renewal(bench, ProductItem(3, USAGE, quantity=9, usage=Allowance(86_400, 1)))))
        assert present(bench, 3).usage_start == 0
        handle = (await client.ask(entry(USAGE))).handle
        assert (await client.ask(m.Crypt(handle, NONCE, 0, OLD))).usage_start == 1_800_100_000
        assert present(bench, 3).usage_start == 1_800_100_000
        await client.ask(entry(USAGE))


@pytest.mark.parametrize("amount", [3, 1_000])
async def test_a_use_that_waited_for_an_import_counts_of_what_that_brought(amount: int, mock_clock: MockClock) -> None:
    """However much there was before: one unit is used, not eight of three, nor fewer than none."""
    async with plugged(mock_clock, Stick()) as (bench, client), rig(bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        handle = (await client.ask(entry(UNITS))).handle
        device = bench.service.devices.find(container().id)
        octets = renewal(bench, ProductItem(2, UNITS, quantity=9, units=Allowance(amount, 1)))
        free = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.ask, lambda _: free.wait(30))
            await until(lambda: device._turns._taken)
            imported = await operator.begin(m.Import(octets))
            await until(lambda: device.waiting == 1)
            used = await client.begin(m.Crypt(handle, NONCE, 1, OLD))
            await until(lambda: device.waiting == 2)
            free.set()
        await operator.until(lambda: imported in operator.inbox.replies)
        await client.until(lambda: used in client.inbox.replies)
        assert (present(bench, 2).units, present(bench, 2).units_used) == (Allowance(amount, 1), 1)
