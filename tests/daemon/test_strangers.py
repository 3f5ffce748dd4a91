"""Dongles that anybody can make: they have no say in the license time, and shut out no genuine one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from drivers import image, keys, request, update
from drivers.chip.banks import program
from drivers.chip.chip import Chip
from drivers.chip.flash import MemoryFlash
from drivers.container import LATEST, Container, ContainerKind, FirmItem, ProductItem, container_id
from drivers.driver import Dongle
from drivers.image import SigningKeys
from drivers.state import State
from drivers.trust import Trust
from drivers.usb.backend import InProcessBackend
from drivers.usb.driver import UsbDriver, UsbOptions
from drivers.usb.firmware import Firmware
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from tests.daemon.harness import CONTROL, FIRM, AsyncClient, number_of, rig, until
from tests.daemon.plugs import POLL, Bench, FakeDriver, watching
from tests.daemon.test_crypt import LICENSOR, PLAIN, PUBLIC, entry

STRANGER = keys.generate()


def dongle(*firm_items: FirmItem, serial: int = 7, floor: int = 0) -> Firmware:
    """Return a dongle with a key of its own. Firm items of the licensor are signed by him, all others by a stranger."""
    private = keys.generate()
    licensors = {each.firm_code: LICENSOR if each.firm_code == FIRM else STRANGER for each in firm_items}
    contents = Container(container_id(3, serial), ContainerKind.HARDWARE, "", firm_items)
    flash = MemoryFlash()
    present = State(1, min(floor, LATEST))
    program(flash, image.encode(contents, present, SigningKeys(private, licensors)))
    chip = Chip(flash, private)
    chip._log.state = replace(chip._log.state, floor=floor)  # also one that no image may say
    return Firmware(chip)


GENUINE = FirmItem(FIRM, "Chart Works", 4, (ProductItem(1, PLAIN, "Plain", 9),))
MADE_UP = FirmItem(77, "Made up", 1, (ProductItem(1, 1),))


class Looking(UsbDriver):
    """Counts how often the watcher looked."""

    looks = 0

    def scan(self) -> frozenset[Dongle]:
        self.looks += 1
        return super().scan()


class Place:
    """A bus, and a watcher that looks at it; only the licensor is believed."""

    def __init__(self, clock: MockClock) -> None:
        self.bus = InProcessBackend()
        self._clock = clock
        self._driver = Looking(UsbOptions(), trio.from_thread.check_cancelled, backend=self.bus)

    @asynccontextmanager
    async def served(self, trust: Trust | None = None) -> AsyncGenerator[tuple[Bench, AsyncClient, AsyncClient]]:
        """Serve what is there; give a client and an operator."""
        trust = trust or Trust({FIRM: PUBLIC})
        others = ("usb", self._driver)
        async with watching(self._clock, FakeDriver(), others, grace=1_000_000, trust=trust) as bench:
            await until(lambda: "usb" in bench.looked)
            async with rig(bench.service) as connections:
                yield bench, await connections.client(), await connections.client(peer=CONTROL)

    async def looked_at(self) -> None:
        """Wait for a look that began after the call to come to its end."""
        goal = self._driver.looks + 2

        def looked() -> bool:
            self._clock.jump(POLL)
            return self._driver.looks >= goal

        await until(looked)


async def refused(client: AsyncClient, asked: m.Params) -> int:
    """Return the number with which a request is refused."""
    with pytest.raises(LicenseError) as refusal:
        await client.ask(asked)
    return number_of(refusal.value)


# --- the license time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [(), (MADE_UP,)], ids=["nothing", "a firm item that is not believed"])
async def test_only_a_believed_container_raises_the_license_time(
    held: tuple[FirmItem, ...], mock_clock: MockClock
) -> None:
    """One that anybody made may say that it is the year 9999: nothing expires for that."""
    place = Place(mock_clock)
    place.bus.plug(dongle(GENUINE))
    place.bus.plug(dongle(*held, serial=666, floor=LATEST))
    async with place.served() as (bench, client, _):
        assert bench.containers() == {"3-7": True, "3-666": True}
        before = bench.engine.clock.now()
        assert before < LATEST
        await client.ask(entry(PLAIN))
    ahead = before + 100_000
    place = Place(mock_clock)
    place.bus.plug(dongle(GENUINE, floor=ahead))
    async with place.served() as (bench, _, _):
        assert bench.engine.clock.now() >= ahead


@pytest.mark.parametrize("floor", [LATEST + 1, 2**63 - 1])
async def test_a_container_with_a_time_that_cannot_be_is_not_used(floor: int, mock_clock: MockClock) -> None:
    """It is said what is wrong with it, and others are served."""
    place = Place(mock_clock)
    place.bus.plug(dongle(GENUINE))
    place.bus.plug(dongle(serial=666, floor=floor))
    with capture_logs() as said:
        async with place.served() as (bench, client, _):
            assert bench.containers() == {"3-7": True}
            granted = await client.ask(entry(PLAIN))
            await client.ask(m.Crypt(granted.handle, b"n" * 16))
    assert [line["kind"] for line in said if line["event"] == "container cannot be used"] == ["Faulty"]


async def certified(operator: AsyncClient, container: str, time: int, private: bytes) -> bytes:
    """Return a licensor's answer to a container's request for a certified time."""
    found = request.decode((await operator.ask(m.Context(container, time=True))).request).image
    return update.encode_time(found.owner, found.state.nonce, time, private)


async def test_a_licensor_who_is_not_believed_sets_no_time(mock_clock: MockClock) -> None:
    """His containers' clocks are his, and this server's is not, however his containers are made."""
    place = Place(mock_clock)
    place.bus.plug(dongle(GENUINE))
    place.bus.plug(dongle(MADE_UP, serial=666))
    place.bus.plug(dongle(serial=667))
    async with place.served() as (bench, _, operator):
        before = bench.engine.clock.now()
        for container in ("3-666", "3-667"):
            answer = await certified(operator, container, before - 1_000_000, STRANGER)
            assert await refused(operator, m.Import(answer)) == ErrorNumber.FIRM_ITEM_INVALID
        answer = await certified(operator, "3-7", before - 1_000_000, STRANGER)
        with pytest.raises(LicenseError, match="another licensor than") as refusal:
            await operator.ask(m.Import(answer))
        assert number_of(refusal.value) == ErrorNumber.VALIDATION_FAILED
        assert bench.engine.clock.now() >= before


async def test_the_license_time_is_not_set_to_before_what_another_container_knows_of(mock_clock: MockClock) -> None:
    """A believed one, that is; a stranger's does not count."""
    place = Place(mock_clock)
    place.bus.plug(dongle(GENUINE))
    place.bus.plug(dongle(MADE_UP, serial=666, floor=LATEST))
    second = place.bus.plug(dongle(GENUINE, serial=8))
    async with place.served() as (bench, _, operator):
        now = bench.engine.clock.now()
        earlier = await operator.ask(m.Import(await certified(operator, "3-7", now - 1_000_000, LICENSOR)))
        assert now <= earlier.time <= bench.engine.clock.now() < now + 1_000
        place.bus.unplug(second)
        await place.looked_at()
        earlier = await operator.ask(m.Import(await certified(operator, "3-7", now - 1_000_000, LICENSOR)))
        assert now - 1_000_000 <= earlier.time <= bench.engine.clock.now() < now - 900_000


# --- another one's id ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [(), (MADE_UP,)], ids=["nothing", "a firm item that is not believed"])
async def test_a_stranger_with_a_genuine_id_does_not_lock_it_out(
    held: tuple[FirmItem, ...], mock_clock: MockClock
) -> None:
    """Plugged in first it is used, until the genuine one comes; it does not come back while that is there."""
    place = Place(mock_clock)
    place.bus.plug(dongle(*held))
    async with place.served() as (bench, client, _):
        assert bench.containers() == {"3-7": True}
        genuine = place.bus.plug(dongle(GENUINE))
        with capture_logs() as said:
            for _ in range(3):
                await place.looked_at()
        granted = await client.ask(entry(PLAIN))
        await client.ask(m.Crypt(granted.handle, b"n" * 16))
        assert [line["event"] for line in said] == [
            "container takes the place of one with its id",
            "container plugged in",
            "container cannot be used",
        ]
        place.bus.unplug(genuine)
        await place.looked_at()
        assert bench.containers() == {"3-7": False}
        await client.ask(m.Info(granted.handle))


async def test_a_stranger_with_the_id_of_one_that_is_missing_ends_nothing(mock_clock: MockClock) -> None:
    """What is allocated has its grace, and is there when the genuine one is back; also if both are believed."""
    place = Place(mock_clock)
    genuine = dongle(GENUINE)
    address = place.bus.plug(genuine)
    async with place.served(Trust({FIRM: PUBLIC, 77: keys.public_of(STRANGER)})) as (bench, client, _):
        granted = await client.ask(entry(PLAIN))
        place.bus.unplug(address)
        await place.looked_at()
        for stranger in (dongle(), dongle(MADE_UP)):
            with capture_logs() as said:
                address = place.bus.plug(stranger)
                await place.looked_at()
            assert bench.containers() == {"3-7": False}
            assert ["another one with its id" in line.get("reason", "") for line in said] == [True]
        place.bus.plug(genuine)
        await place.looked_at()
        assert bench.containers() == {"3-7": True}
        await client.ask(m.Crypt(granted.handle, b"n" * 16))


async def test_after_a_restart_a_stranger_is_not_taken_for_what_was_there(mock_clock: MockClock) -> None:
    """Nobody knows the keys of what the table has from before; that it was believed is known."""
    place = Place(mock_clock)
    genuine = dongle(GENUINE)
    async with place.served() as (bench, client, _):
        bench.engine.plug(image.decode(genuine._chip.image, bench.service.devices.trust))
        granted = await client.ask(entry(PLAIN))
        bench.engine.restart()
        address = place.bus.plug(dongle(MADE_UP))
        await place.looked_at()
        assert bench.containers() == {"3-7": False}
        place.bus.unplug(address)
        place.bus.plug(genuine)
        await place.looked_at()
        assert bench.containers() == {"3-7": True}
        assert granted.handle in bench.engine.table.accesses


# --- the log ------------------------------------------------------------------------------------------------------


async def test_a_stranger_with_hundreds_of_firm_items_does_not_fill_the_log(mock_clock: MockClock) -> None:
    """The first ones are told, and how many more there are."""
    place = Place(mock_clock)
    place.bus.plug(dongle(*(FirmItem(code) for code in range(1, 101))))
    with capture_logs() as said:
        async with place.served():
            pass
    told = [line for line in said if line["log_level"] == "warning"]
    assert [line["firm_code"] for line in told[:-1]] == list(range(1, 17))
    assert told[-1]["count"] == 84
