"""A container's answer to a challenge, through the real USB driver: what it proves, what it counts, what it refuses."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from structlog.testing import capture_logs
from trio.testing import MockClock

from cmserverd.answers import Peer
from cmserverd.service import Service
from drivers import image, keys, wire
from drivers.chip.banks import program
from drivers.chip.chip import Answer, Chip, Command, Memory
from drivers.chip.flash import MemoryFlash
from drivers.container import Allowance, Container, ContainerKind, FirmItem, ProductItem, container_id
from drivers.image import SigningKeys
from drivers.trust import Trust
from drivers.usb.backend import InProcessBackend
from drivers.usb.driver import UsbDriver, UsbOptions
from drivers.usb.firmware import Firmware
from protocol import messages as m
from protocol import proof
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode, HandleKind
from tests.daemon.harness import FIRM, LIMIT, AsyncClient, number_of, rig, until
from tests.daemon.plugs import POLL, Bench, FakeDriver, watching

LICENSOR = keys.generate()
PUBLIC = keys.public_of(LICENSOR)
PLAIN, UNITS, USAGE = 14, 15, 16


def container(kind: ContainerKind = ContainerKind.HARDWARE) -> Container:
    """Return a container with a plain product, one that counts ten units, and one that is valid for a day of use."""
    items = (
        ProductItem(1, PLAIN, "Plain", 9),
        ProductItem(2, UNITS, "Units", 9, units=Allowance(10)),
        ProductItem(3, USAGE, "Usage", 9, usage=Allowance(86_400)),
    )
    return Container(container_id(3, 7), kind, "Signed", (FirmItem(FIRM, "Chart Works", 4, items),))


class Stick:
    """A dongle, and where it is plugged in."""

    def __init__(self, contents: Container | None = None) -> None:
        self.bus = InProcessBackend()
        private = keys.generate()
        flash = MemoryFlash()
        program(flash, image.encode(contents or container(), signing=SigningKeys(private, {FIRM: LICENSOR})))
        self.firmware = Firmware(Chip(flash, private))
        self.address = self.bus.plug(self.firmware)


@asynccontextmanager
async def plugged(
    clock: MockClock, stick: Stick, service: Service | None = None
) -> AsyncGenerator[tuple[Bench, AsyncClient]]:
    """Serve the dongle's licenses; give a client that has greeted."""
    usb = UsbDriver(UsbOptions(), trio.from_thread.check_cancelled, backend=stick.bus)
    trust = Trust({FIRM: PUBLIC})
    async with watching(clock, FakeDriver(), ("usb", usb), grace=1_000_000, trust=trust, service=service) as bench:
        await until(lambda: bench.containers() == {"3-7": True})
        async with rig(bench.service) as connections:
            yield bench, await connections.client()


def entry(product_code: int, **options: object) -> m.Access:
    """Return a request for an access."""
    key = m.AccessKey(next(_KEYS).to_bytes(16, "big"))
    return replace(m.Access(key, FIRM, product_code, AccessMode.USER_LIMIT), **options)


def _numbers() -> Iterator[int]:
    yield from range(1, 10_000)


_KEYS = _numbers()


async def refused(client: AsyncClient, request: m.Params) -> int:
    """Return the number with which a request is refused."""
    with pytest.raises(LicenseError) as refusal:
        await client.ask(request)
    return number_of(refusal.value)


async def test_an_answer_proves_the_license(mock_clock: MockClock) -> None:
    """The chain holds from the licensor's key to the nonce; with another key, or for another question, it does not."""
    async with plugged(mock_clock, Stick()) as (bench, client):
        asked = entry(PLAIN)
        granted = await client.ask(asked)
        question = proof.challenge(granted.handle, 0, None, None)
        answer = await client.ask(question)
        proven = proof.check(answer, question, asked, PUBLIC)
        now = bench.engine.clock.now()
        assert (proven.container, proven.item, proven.update_counter) == ("3-7", 1, 4)
        assert now - 5 <= proven.time <= now
        assert (answer.units_left, answer.usage_start) == (None, 0)
        for licensor, about, access in (
            (keys.public_of(keys.generate()), question, asked),
            (PUBLIC, replace(question, nonce=bytes(32)), asked),
            (PUBLIC, replace(question, handle=99), asked),
            (PUBLIC, question, replace(asked, product_code=UNITS)),
        ):
            with pytest.raises(LicenseError) as broken:
                proof.check(answer, about, access, licensor)
            assert broken.value.number == ErrorNumber.VERIFY_FAILED


async def test_units_are_taken_once_for_each_key(mock_clock: MockClock) -> None:
    """All or none; the listing follows; at the end 32, and more than the rest is 33 (behaviour 19)."""
    async with plugged(mock_clock, Stick()) as (bench, client):
        handle = (await client.ask(entry(UNITS))).handle
        first = m.AccessKey(b"1" * 16)
        for _ in range(2):
            assert (await client.ask(m.Crypt(handle, b"n" * 16, 4, first))).units_left == 6
        assert await refused(client, m.Crypt(handle, b"n" * 16, 7, m.AccessKey(b"2" * 16))) == 33
        assert (await client.ask(m.Crypt(handle, b"n" * 16, 6, m.AccessKey(b"3" * 16)))).units_left == 0
        assert await refused(client, m.Crypt(handle, b"n" * 16, 1, m.AccessKey(b"4" * 16))) == 32
        assert (await client.ask(m.Crypt(handle, b"n" * 16, 6, m.AccessKey(b"3" * 16)))).units_left == 0
        assert (await client.ask(m.Crypt(handle, b"n" * 16))).units_left == 0
        assert await refused(client, entry(UNITS)) == 32
        (counted,) = [one for one in bench.engine.table.licenses.values() if one.id.item == 2]
        assert counted.item.units_used == 10


async def test_each_use_is_signed_before_the_next_one_is_counted(mock_clock: MockClock) -> None:
    """However many come at once: of 65 keys the container forgets the oldest, and what it took for that."""
    items = (ProductItem(1, UNITS, "Units", 99, units=Allowance(99)),)
    box = Container(container_id(3, 7), ContainerKind.HARDWARE, "", (FirmItem(FIRM, "Chart Works", 4, items),))
    async with (
        plugged(mock_clock, Stick(box)) as (bench, _),
        rig(bench.service) as connections,
        trio.open_nursery() as nursery,
    ):
        devices, busy, asked = bench.service.devices, threading.Event(), entry(UNITS)
        nursery.start_soon(devices.ask, box.id, lambda _: busy.wait(LIMIT))
        uses: list[tuple[AsyncClient, m.Crypt, int]] = []
        addresses = [f"192.0.2.{number}" for number in range(70)]
        for number, address in enumerate(addresses):
            client = await connections.client(number, Peer(address, here=False))
            question = proof.challenge((await client.ask(asked)).handle, 1, None, None)
            uses.append((client, question, await client.begin(question)))
        await until(lambda: devices.find(box.id).waiting == len(addresses))
        busy.set()
        for client, question, msgid in uses:
            await client.until(partial(client.inbox.replies.__contains__, msgid))
            assert proof.check(client.inbox.take(msgid, question), question, asked, PUBLIC).units == 1


async def test_behaviour_20_a_usage_period_starts_with_the_first_use(mock_clock: MockClock) -> None:
    """Not with the access; and only the first use starts it."""
    async with plugged(mock_clock, Stick()) as (bench, client):
        handle = (await client.ask(entry(USAGE))).handle
        (counted,) = [one for one in bench.engine.table.licenses.values() if one.id.item == 3]
        assert counted.item.usage_start == 0
        started = (await client.ask(m.Crypt(handle, b"n" * 16))).usage_start
        assert abs(started - bench.engine.clock.now()) <= 5
        assert counted.item.usage_start == started
        assert (await client.ask(m.Crypt(handle, b"m" * 16))).usage_start == started


async def test_what_a_use_may_not_be(mock_clock: MockClock) -> None:
    """Each refusal has its number, and nothing was taken."""
    async with plugged(mock_clock, Stick()) as (_, client):
        plain, units = [(await client.ask(entry(code))).handle for code in (PLAIN, UNITS)]
        box = (await client.ask(entry(0, firm_code=0, kind=HandleKind.CONTAINER))).handle
        key = m.AccessKey(b"k" * 16)
        nonce = b"n" * 16
        assert await refused(client, m.Crypt(99, nonce)) == ErrorNumber.INVALID_HANDLE
        assert await refused(client, m.Crypt(box, nonce)) == ErrorNumber.WRONG_HANDLE_TYPE
        assert await refused(client, m.Crypt(plain, nonce, 1, key)) == ErrorNumber.UNIT_COUNTER_MISSING
        assert await refused(client, m.Crypt(units, nonce, 1)) == ErrorNumber.INVALID_PARAMETER
        assert await refused(client, m.Crypt(units, nonce, 1, m.AccessKey(bytes(16)))) == ErrorNumber.INVALID_PARAMETER
        exclusive = m.Crypt(units, nonce, 1, key, AccessMode.EXCLUSIVE)
        assert await refused(client, exclusive) == ErrorNumber.ACCESS_MODE_MISMATCH
        assert await refused(client, m.Crypt(units, b"n" * 15)) == ErrorNumber.INVALID_PARAMETER
        assert (await client.ask(m.Crypt(units, nonce, 1, m.AccessKey(b"l" * 16)))).units_left == 9


async def test_a_container_that_is_away_does_not_answer(mock_clock: MockClock) -> None:
    """The handle stands for the grace; the proof is to be had when the container is back."""
    stick = Stick()
    async with plugged(mock_clock, stick) as (bench, client):
        handle = (await client.ask(entry(PLAIN))).handle
        stick.bus.unplug(stick.address)

        def seen(*, present: bool) -> bool:
            mock_clock.jump(POLL)
            return bench.containers() == {"3-7": present}

        await until(lambda: seen(present=False))
        assert await refused(client, m.Crypt(handle, b"n" * 16)) == ErrorNumber.BOX_LOST
        await client.ask(m.Info(handle))
        stick.bus.plug(stick.firmware)
        await until(lambda: seen(present=True))
        await client.ask(m.Crypt(handle, b"n" * 16))


def lose_the_key(stick: Stick) -> None:
    """Let the dongle be a copy, made by somebody who could read all of it but the key."""
    chip = stick.firmware._chip
    assert isinstance(chip, Chip)
    chip._key = Ed25519PrivateKey.generate()


async def test_a_copy_without_the_key_is_no_container(mock_clock: MockClock) -> None:
    """It is read, and has to sign: it cannot, so none of its licenses counts, and the log says why, once."""
    stick = Stick()
    lose_the_key(stick)
    usb = UsbDriver(UsbOptions(), trio.from_thread.check_cancelled, backend=stick.bus)
    with capture_logs() as said:
        async with watching(mock_clock, FakeDriver(), ("usb", usb), trust=Trust({FIRM: PUBLIC})) as bench:
            await until(lambda: "usb" in bench.looked)
            assert not bench.containers()
    (line,) = [line for line in said if line["log_level"] == "error"]
    assert (line["event"], line["kind"]) == ("container cannot be used", "Faulty")


class Proxy:
    """Stands before a dongle: it gives an earlier image of it, and has the dongle answer all else."""

    def __init__(self, chip: Memory, image: bytes) -> None:
        self._chip = chip
        self._memory = Memory(image)

    def answer(self, command: int, payload: bytes) -> Answer:
        """Return status and payload of the reply."""
        reads = command in {Command.INFO, Command.READ_IMAGE}
        return (self._memory if reads else self._chip).answer(command, payload)


async def test_an_earlier_state_of_a_container_is_not_believed(mock_clock: MockClock) -> None:
    """It is signed as the present one is, and the dongle behind it has the key; the number of its state is another."""
    stick = Stick()
    chip = stick.firmware._chip
    earlier = chip.image
    status, _ = chip.answer(Command.TIME, wire.encode_time(1_700_000_000))
    assert (status, chip.image[: len(earlier)]) == (0, earlier)
    stick.firmware._chip = Proxy(chip, earlier)  # type: ignore[assignment] # it answers, and that will do
    usb = UsbDriver(UsbOptions(), trio.from_thread.check_cancelled, backend=stick.bus)
    with capture_logs() as said:
        async with watching(mock_clock, FakeDriver(), ("usb", usb), trust=Trust({FIRM: PUBLIC})) as bench:
            await until(lambda: "usb" in bench.looked)
            assert not bench.containers()
    (line,) = [line for line in said if line["log_level"] == "error"]
    assert "its state is number 2, and the one that was read is number 1" in line["reason"]


async def test_a_container_proves_itself_again_and_again(mock_clock: MockClock) -> None:
    """One whose place a copy has taken, unseen, is not believed any more: what is allocated has its grace."""
    stick = Stick()
    async with plugged(mock_clock, stick) as (bench, client):
        handle = (await client.ask(entry(PLAIN))).handle
        lose_the_key(stick)

        def seen() -> bool:
            mock_clock.jump(POLL)
            return bench.containers() == {"3-7": False}

        await until(seen)
        await client.ask(m.Info(handle))
        assert await refused(client, entry(PLAIN)) == ErrorNumber.BOX_LOST
