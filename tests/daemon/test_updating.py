"""Request files and updates over the control socket, through the real USB driver, with clients at work."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from trio.testing import MockClock

from cmserverd.clock import LicenseClock
from cmserverd.devices import OpenDevice
from drivers import keys, request, update
from drivers.container import FirmItem, ProductItem
from drivers.driver import Device, NoAnswer
from drivers.firm_item import Owner
from drivers.trust import Trust
from protocol import messages as m
from protocol import proof
from protocol.errors import ErrorNumber, LicenseError
from tests.daemon.harness import CONTROL, FIRM, AsyncClient, number_of, rig, until
from tests.daemon.plugs import POLL, Bench
from tests.daemon.test_crypt import LICENSOR, PLAIN, PUBLIC, Proxy, Stick, container, entry, plugged


def opened(bench: Bench) -> OpenDevice:
    """Return the dongle's open device."""
    return bench.service.devices.find(container().id)


def owner(bench: Bench) -> Owner:
    """Return whom an update has to be for."""
    return opened(bench).image.owner


def firm_item(counter: int, quantity: int = 9) -> FirmItem:
    """Return the firm item with another quantity of its plain product, and without the other two."""
    (present,) = container().firm_items
    return replace(present, update_counter=counter, products=(ProductItem(1, PLAIN, "Plain", quantity),))


async def refused(client: AsyncClient, octets: bytes) -> int:
    """Return the number with which an update is refused."""
    with pytest.raises(LicenseError) as refusal:
        await client.ask(m.Import(octets))
    return number_of(refusal.value)


async def test_an_update_changes_what_is_served(mock_clock: MockClock) -> None:
    """Accesses go on where the new contents serve them, and end with an event where not; the log has who did it."""
    async with plugged(mock_clock, Stick()) as (bench, client), rig(bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        handles = [(await client.ask(entry(PLAIN))).handle for _ in range(2)]
        octets = update.encode_firm(owner(bench), firm_item(5, quantity=1), update.ANY, LICENSOR)
        with capture_logs() as said:
            applied = await operator.ask(m.Import(octets))
        assert (applied.container, applied.firm_code, applied.update_counter) == ("3-7", FIRM, 5)
        assert [handle in bench.engine.table.accesses for handle in handles] == [True, False]
        assert [line["by"] for line in said if line["event"] == "update applied"] == [CONTROL.address]
        assert await refused(operator, octets) == ErrorNumber.UPDATE_TOO_OLD
        with pytest.raises(LicenseError) as full:
            await client.ask(entry(PLAIN))
        assert number_of(full.value) == ErrorNumber.NO_MORE_LICENSES
        await client.ask(m.Crypt(handles[0], b"n" * 16))


async def test_what_is_read_after_an_update_is_not_what_was_before(mock_clock: MockClock) -> None:
    """Whoever shows the old contents after it, to keep what the update took away, has no container any more."""
    stick = Stick()
    async with plugged(mock_clock, stick) as (bench, client), rig(bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        octets = update.encode_firm(owner(bench), firm_item(5, quantity=1), update.ANY, LICENSOR)
        chip = stick.firmware._chip
        stick.firmware._chip = Proxy(chip, chip.image)  # type: ignore[assignment] # it answers, and that will do
        assert await refused(operator, octets) == ErrorNumber.COMMAND_FAILED
        await bench.look()
        await until(lambda: bench.containers() == {"3-7": False})
        with pytest.raises(LicenseError) as lost:
            await client.ask(entry(PLAIN))
        assert number_of(lost.value) == ErrorNumber.BOX_LOST


async def test_what_no_update_may_be(mock_clock: MockClock) -> None:
    """Each refusal has its number, and what is in service stays as it is."""
    stranger = keys.generate()
    async with plugged(mock_clock, Stick()) as (bench, client), rig(bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        here = owner(bench)
        handle = (await client.ask(entry(PLAIN))).handle
        good = update.encode_firm(here, firm_item(5, quantity=1), update.ANY, LICENSOR)
        assert await refused(operator, good[:-1]) == ErrorNumber.UPDATE_FAILED
        assert await refused(operator, bytes(65_536)) == ErrorNumber.UPDATE_FAILED
        elsewhere = replace(here, serial=8)
        foreign = update.encode_firm(elsewhere, firm_item(5), update.ANY, LICENSOR)
        assert await refused(operator, foreign) == ErrorNumber.BOX_NOT_FOUND
        forged = update.encode_firm(here, firm_item(5), update.ANY, stranger)
        assert await refused(operator, forged) == ErrorNumber.VALIDATION_FAILED
        bench.service.devices.trust = Trust({FIRM: PUBLIC, 88: PUBLIC})  # of 88 the container knows no licensor yet
        usurped = update.encode_firm(here, replace(firm_item(1), firm_code=88), update.ANY, stranger)
        assert await refused(operator, usurped) == ErrorNumber.VALIDATION_FAILED
        unknown = update.encode_firm(here, replace(firm_item(1), firm_code=77), update.ANY, stranger)
        assert await refused(operator, unknown) == ErrorNumber.FIRM_ITEM_INVALID
        skipping = update.encode_firm(here, firm_item(9), 8, LICENSOR)
        assert await refused(operator, skipping) == ErrorNumber.UPDATE_TOO_NEW
        assert await refused(operator, update.encode_firm(here, firm_item(4), update.ANY, LICENSOR)) == 229
        assert (await client.ask(m.Info(handle))).entry is not None
        assert {counted.item.quantity for counted in bench.engine.table.licenses.values()} == {9}


async def test_a_request_file_is_what_the_licensor_can_believe(mock_clock: MockClock) -> None:
    """It has the container's image, signed by the container; of a container that is not there, there is none."""
    async with plugged(mock_clock, Stick()) as (bench, _), rig(bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        found = request.decode((await operator.ask(m.Context("3-7"))).request)
        assert found.image.owner == owner(bench)
        assert not any(found.image.state.nonce)
        with pytest.raises(LicenseError) as refusal:
            await operator.ask(m.Context("3-8"))
        assert number_of(refusal.value) == ErrorNumber.BOX_LOST


async def test_a_certified_time_stands_while_the_machine_s_clock_is_still_wrong(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had expired by the wrong time is served again, and expires at its own end."""
    right = 1_800_000_000
    now = {"system": float(right), "boot": 0.0}
    clock = LicenseClock(lambda: now["system"], lambda: now["boot"])

    def passes(seconds: float) -> None:
        now["boot"] += seconds
        now["system"] += seconds

    expiring = replace(container().firm_items[0], products=(ProductItem(1, PLAIN, expiration=right + 3_600),))
    stick = Stick(replace(container(), firm_items=(expiring,)))
    async with plugged(mock_clock, stick) as (bench, client), rig(bench.service) as connections:
        engine = bench.engine
        engine.clock = clock
        operator = await connections.client(peer=CONTROL)
        now["system"] += 1_000_000
        passes(1)
        assert not engine.advance(99)
        await opened(bench).ask(lambda device: device.time(clock.now()))
        with pytest.raises(LicenseError):
            await client.ask(entry(PLAIN))
        asked = request.decode((await operator.ask(m.Context("3-7", time=True))).request)
        answer = update.encode_time(asked.image.owner, asked.image.state.nonce, right, LICENSOR)
        assert (await operator.ask(m.Import(answer))).time == right
        passes(3_599)
        handle = (await client.ask(entry(PLAIN))).handle
        assert (clock.now(), engine.due()) == (right + 3_599, right + 3_600)
        passes(1)
        engine.advance(99)
        assert handle not in engine.table.accesses


async def test_a_certified_time_sets_the_license_time_back(mock_clock: MockClock) -> None:
    """The only thing that does; the answer to one request counts once."""
    async with plugged(mock_clock, Stick()) as (bench, _), rig(bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        clock = bench.engine.clock
        right = clock.now()
        clock.raise_to(right + 1_000_000)  # the machine's clock was wrong for a while
        clock._last = 0
        await opened(bench).ask(lambda device: device.time(right + 1_000_000))
        asked = request.decode((await operator.ask(m.Context("3-7", time=True))).request)
        answer = update.encode_time(asked.image.owner, asked.image.state.nonce, right, LICENSOR)
        assert abs((await operator.ask(m.Import(answer))).time - right) <= 5
        assert abs(clock.now() - right) <= 5
        assert await refused(operator, answer) == ErrorNumber.UPDATE_TOO_OLD


async def test_what_passes_is_added_to_a_certified_time_to_the_second(mock_clock: MockClock) -> None:
    """The container is told the time as it gives out the nonce, and before the answer: else it lags by an hour."""
    asked_at = 1_800_000_000
    now = {"system": float(asked_at), "boot": 0.0}
    async with plugged(mock_clock, Stick()) as (bench, _), rig(bench.service) as connections:
        bench.engine.clock = LicenseClock(lambda: now["system"], lambda: now["boot"])
        operator = await connections.client(peer=CONTROL)
        asked = request.decode((await operator.ask(m.Context("3-7", time=True))).request)
        assert asked.image.state.asked == asked_at
        for name in now:
            now[name] += 3_000
        answer = update.encode_time(asked.image.owner, asked.image.state.nonce, asked_at - 500, LICENSOR)
        assert (await operator.ask(m.Import(answer))).time == asked_at - 500 + 3_000
        assert bench.engine.clock.now() == asked_at - 500 + 3_000


# --- what comes in between ----------------------------------------------------------------------------------------


def read_fails(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the container be silent once when it is read."""
    read = device.read
    fails = iter([True])

    def silent_once() -> bytes:
        if next(fails, False):
            raise NoAnswer("planted")
        return read()

    monkeypatch.setattr(device, "read", silent_once)


def answer_is_lost(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the container apply an update, and its answer not come."""
    apply = device.apply

    def lost(octets: bytes) -> None:
        apply(octets)
        raise NoAnswer("planted")

    monkeypatch.setattr(device, "apply", lost)


def bug(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the driver have a bug, after the container has applied the update."""
    time, bugs = device.time, iter([True])
    monkeypatch.setattr(device, "time", lambda now: 1 // 0 if next(bugs, False) else time(now))


@pytest.mark.parametrize("fault", [read_fails, answer_is_lost, bug])
async def test_a_container_is_read_anew_if_an_import_ends_badly(
    fault: Callable[[Device, pytest.MonkeyPatch], None], mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have the update, and then the licenses are those of the update; what fits goes on as it was."""
    async with plugged(mock_clock, Stick()) as (bench, client), rig(bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        asked = entry(PLAIN)
        handle = (await client.ask(asked)).handle
        octets = update.encode_firm(owner(bench), firm_item(5, quantity=1), update.ANY, LICENSOR)
        (counted,) = [one for one in bench.engine.table.licenses.values() if one.id.item == 1]
        device = opened(bench)
        with monkeypatch.context() as patched:
            fault(device._device, patched)
            await refused(operator, octets)

        def seen() -> bool:
            mock_clock.jump(POLL)
            return counted.item.quantity == 1

        await until(seen)
        assert opened(bench) is device
        assert await refused(operator, octets) == ErrorNumber.UPDATE_TOO_OLD
        assert not device.doubtful
        question = proof.challenge(handle, 0, None, None)
        assert proof.check(await client.ask(question), question, asked, PUBLIC).update_counter == 5


async def test_a_container_that_cannot_be_read_anew_is_pulled_out(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it holds is not known, so it serves nothing new; it is back as soon as it can be read."""
    async with plugged(mock_clock, Stick()) as (bench, client):
        handle = (await client.ask(entry(PLAIN))).handle
        device = opened(bench)
        device.doubtful = True

        def silent() -> bytes:
            raise NoAnswer("planted")

        monkeypatch.setattr(device._device, "read", silent)

        def seen() -> bool:
            mock_clock.jump(POLL)
            return bench.containers() == {"3-7": True} and opened(bench) is not device

        await until(seen)
        await client.ask(m.Crypt(handle, b"n" * 16))


async def test_a_container_that_is_pulled_out_during_an_import_is_not_there(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last answer may be in by then; it counts as here when it is plugged in again, with what it holds then."""
    stick = Stick()
    async with plugged(mock_clock, stick) as (bench, client), rig(bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        device = opened(bench)._device
        time, answered, pulled = device.time, threading.Event(), threading.Event()

        def last(now: int) -> int:
            floor = time(now)
            answered.set()
            assert pulled.wait(30)
            return floor

        monkeypatch.setattr(device, "time", last)
        octets = update.encode_firm(owner(bench), firm_item(5, quantity=1), update.ANY, LICENSOR)
        asked = await operator.begin(m.Import(octets))
        await until(answered.is_set)
        stick.bus.unplug(stick.address)

        def seen(*, present: bool) -> bool:
            mock_clock.jump(POLL)
            return bench.containers() == {"3-7": present}

        await until(lambda: seen(present=False))
        pulled.set()
        await operator.until(lambda: asked in operator.inbox.replies)
        assert bench.containers() == {"3-7": False}
        with pytest.raises(LicenseError) as away:
            await client.ask(entry(PLAIN))
        assert number_of(away.value) == ErrorNumber.BOX_LOST
        stick.bus.plug(stick.firmware)
        await until(lambda: seen(present=True))
        await client.ask(m.Crypt((await client.ask(entry(PLAIN))).handle, b"n" * 16))
        assert [counted.item.quantity for counted in bench.engine.table.licenses.values()] == [1]
