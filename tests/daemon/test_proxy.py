"""Somebody between the application and an honest server, who alters what they say: the application finds it out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pytest
import trio
from msgspec import Struct
from trio.testing import MockClock

from drivers.container import Allowance, Container, ContainerKind, FirmItem, Period, ProductItem, container_id
from protocol import blocking
from protocol import classic as cm
from protocol.classic.handles import HANDLES
from protocol.client import Access, Client, open_client
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import AccessKey
from protocol.proof import Proof
from protocol.terms import AccessMode
from tests.daemon.harness import FIRM, Rig, rig
from tests.daemon.plugs import Bench
from tests.daemon.test_crypt import PUBLIC, Stick, plugged

FEATURES, OTHER, UNITS, USAGE, EXPIRED, EARLY = range(14, 20)
OLD = Period(1_000_000_000, 1_100_000_000)
NEW = Period(1_100_000_000, 1_200_000_000)
DAY = 86_400
KEY = AccessKey(b"k" * 16)

Fields = dict[str, Any]
Alter = Callable[[str, Fields], None]


def licenses() -> Container:
    """Return what is in the dongle: something for each term on which a license is given."""
    items = (
        ProductItem(1, FEATURES, "Old", 9, feature_map=0b011, maintenance=OLD),
        ProductItem(2, FEATURES, "New", 9, feature_map=0b111, maintenance=NEW),
        ProductItem(3, OTHER, "Other", 9),
        ProductItem(4, UNITS, "Units", 9, units=Allowance(100)),
        ProductItem(5, USAGE, "Usage", 9, usage=Allowance(DAY)),
        ProductItem(6, EXPIRED, "Expired", 9, expiration=1_000_000_000),
        ProductItem(7, EARLY, "Early", 9, activation=10_000_000_000),
    )
    return Container(container_id(3, 7), ContainerKind.HARDWARE, "Signed", (FirmItem(FIRM, "Works", 4, items),))


class Proxy:
    """Stands between clients and the server, and changes the fields of requests and results."""

    def __init__(self, server: Rig) -> None:
        self.ask: Alter = put("nothing")
        self.answer: Alter = put("nothing")
        self._server = server

    async def serve(self, ours: trio.SocketStream) -> None:
        """Serve a client, as long as both sides are there."""
        server = trio.SocketStream(self._server.connect().sock)
        methods: dict[int, str] = {}

        def request(message: list[Any]) -> None:
            methods[message[1]] = message[2]
            self.ask(message[2], message[3][0])

        def result(message: list[Any]) -> None:
            if message[0] == 1 and message[3] is not None:
                self.answer(methods[message[1]], message[3])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry, ours, server, request, nursery.cancel_scope)
            nursery.start_soon(_carry, server, ours, result, nursery.cancel_scope)
        await ours.aclose()


async def _carry(
    source: trio.SocketStream, target: trio.SocketStream, alter: Callable[[list[Any]], None], ends: trio.CancelScope
) -> None:
    unpacker = msgpack.Unpacker()
    async for data in source:
        unpacker.feed(data)
        for message in unpacker:
            alter(message)
            await target.send_all(msgpack.packb(message))
    ends.cancel()


class Place(Struct, frozen=True):
    """An application, the one between and where he is found, and an honest server."""

    app: Client
    proxy: Proxy
    address: str
    bench: Bench


@asynccontextmanager
async def between(clock: MockClock) -> AsyncGenerator[Place]:
    """Have a client that is connected through a proxy."""
    async with (
        plugged(clock, Stick(licenses())) as (bench, _),
        rig(bench.service) as server,
        trio.open_nursery() as nursery,
    ):
        proxy = Proxy(server)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, proxy.serve, listeners)
        address = "{}:{}".format(*listeners[0].socket.getsockname())
        async with open_client(address) as app:
            yield Place(app, proxy, address, bench)
        nursery.cancel_scope.cancel()


def put(method: str, **changed: Any) -> Alter:
    """Return what gives the fields of a method's messages these values; a field that is to be None is left out."""

    def alter(asked: str, fields: Fields) -> None:
        if asked == method:
            fields.update(changed)
            for name in [name for name, value in changed.items() if value is None]:
                del fields[name]

    return alter


def flip(name: str) -> Alter:
    """Return what changes the last bit of a field of the answer to a challenge."""

    def alter(asked: str, fields: Fields) -> None:
        if asked == "crypt":
            fields[name] = fields[name][:-1] + bytes([fields[name][-1] ^ 1])

    return alter


async def found_out(access: Access, why: str, **asked: Any) -> None:
    """Have the application ask for a proof, and not believe the answer."""
    with pytest.raises(LicenseError, match=why) as broken:
        await access.crypt(PUBLIC, **asked)
    assert broken.value.number == ErrorNumber.VERIFY_FAILED


async def test_an_honest_one_is_not_in_the_way(mock_clock: MockClock) -> None:
    """What was asked for and given is proven, with what the container counted."""
    async with between(mock_clock) as place:
        asked: Fields = {"feature_code": 0b100, "release_date": NEW.start, "container": "3-7", "item": 2}
        proven = await (await place.app.access(FIRM, FEATURES, **asked)).crypt(PUBLIC)
        assert (proven.container, proven.item, proven.units, proven.units_left) == ("3-7", 2, 0, None)
        units = await place.app.access(FIRM, UNITS)
        for _ in range(2):
            proven = await units.crypt(PUBLIC, units=5, key=KEY)
            assert (proven.units, proven.units_left, proven.usage_start) == (5, 95, 0)
        assert (await units.crypt(PUBLIC)).units_left == 95
        assert (await units.crypt(PUBLIC, units=1)).units_left == 94
        usage = await place.app.access(FIRM, USAGE)
        began = (await usage.crypt(PUBLIC)).usage_start
        assert abs(began - place.bench.engine.clock.now()) <= 5
        assert (await usage.crypt(PUBLIC)).usage_start == began


NARROWED: dict[str, tuple[Fields, Fields, str]] = {
    "another item": ({"item": 2}, {"item": None}, "another container or item"),
    "another container": ({"container": "3-99"}, {"container": None}, "another container or item"),
    "another product": ({}, {"product_code": OTHER}, "another license"),
    "without a feature": ({"feature_code": 0b101}, {"feature_code": None}, "other features"),
    "with other features": ({"feature_code": 0b100}, {"feature_code": 0b010}, "other features"),
    "without the release date": ({"release_date": NEW.start}, {"release_date": None}, "maintenance period"),
    "with an earlier release date": ({"release_date": NEW.start}, {"release_date": OLD.start}, "maintenance period"),
}


@pytest.mark.parametrize(("wanted", "sent", "why"), NARROWED.values(), ids=NARROWED)
async def test_an_access_to_something_else(wanted: Fields, sent: Fields, why: str, mock_clock: MockClock) -> None:
    """What the licensor signed is not what the application asked for."""
    async with between(mock_clock) as place:
        place.proxy.ask = put("access", **sent)
        await found_out(await place.app.access(FIRM, FEATURES, **wanted), why)


@pytest.mark.parametrize("product_code", [EXPIRED, EARLY])
async def test_an_access_by_force_to_what_is_not_valid(product_code: int, mock_clock: MockClock) -> None:
    """The server grants it, and signs; the dates are the licensor's."""
    async with between(mock_clock) as place:
        place.proxy.ask = put("access", force=True)
        await found_out(await place.app.access(FIRM, product_code), "not valid at the time that the container signed")


async def test_an_access_by_force_to_what_is_used_up(mock_clock: MockClock) -> None:
    """The container signs since when it is used, and the licensor for how long it may be."""
    async with between(mock_clock) as place:
        began = (await (await place.app.access(FIRM, USAGE)).crypt(PUBLIC)).usage_start
        place.bench.engine.clock.raise_to(began + DAY - 1)
        place.proxy.ask = put("access", force=True)
        forced = await place.app.access(FIRM, USAGE)
        await forced.crypt(PUBLIC)
        place.bench.engine.clock.raise_to(began + DAY)
        await found_out(forced, "usage period has not begun, or is over")


COUNTED: dict[str, tuple[Fields, Fields, str]] = {
    "nothing taken": ({"units": 5}, {"units": None}, "took 0 units for this use, and 5"),
    "nothing taken, without a key": ({"units": 5}, {"units": None, "key": None}, "another use"),
    "less taken": ({"units": 5}, {"units": 1}, "took 1 units for this use, and 5"),
    "more taken": ({"units": 5}, {"units": 6}, "took 6 units for this use, and 5"),
    "units taken unasked": ({"units": 0}, {"units": 1}, "took 1 units for this use, and 0"),
    "taken by an earlier use": ({"units": 5}, {"key": KEY}, "another use"),
    "another nonce": ({}, {"nonce": bytes(32)}, "another question"),
}


@pytest.mark.parametrize(("wanted", "sent", "why"), COUNTED.values(), ids=COUNTED)
async def test_another_use(wanted: Fields, sent: Fields, why: str, mock_clock: MockClock) -> None:
    """The container signs what it took for which key; asking again does not help whoever took less."""
    async with between(mock_clock) as place:
        access = await place.app.access(FIRM, UNITS)
        await access.crypt(PUBLIC, units=5, key=KEY)
        place.proxy.ask = put("crypt", **sent)
        for _ in range(2):
            await found_out(access, why, key=AccessKey(b"l" * 16), **wanted)


async def test_another_access_of_the_application(mock_clock: MockClock) -> None:
    """Its handle is in the answer."""
    async with between(mock_clock) as place:
        handles = [await place.app.access(FIRM, UNITS) for _ in range(2)]
        place.proxy.ask = put("crypt", handle=handles[0].handle)
        await handles[0].crypt(PUBLIC)
        await found_out(handles[1], "another license")


async def test_the_client_without_trio_finds_it_out_too(mock_clock: MockClock) -> None:
    """The item, the units and the time of use."""

    def application(address: str, proxy: Proxy) -> None:
        with blocking.Client(address) as client:
            assert client.access(FIRM, UNITS).crypt(PUBLIC, units=5).units_left == 95
            proxy.ask = put("crypt", units=None)
            with pytest.raises(LicenseError, match="took 0 units for this use, and 5"):
                client.access(FIRM, UNITS).crypt(PUBLIC, units=5)
            proxy.ask = put("access", item=None)
            with pytest.raises(LicenseError, match="another container or item"):
                client.access(FIRM, FEATURES, item=2).crypt(PUBLIC)

    async with between(mock_clock) as place:
        await trio.to_thread.run_sync(application, place.address, place.proxy)


async def test_the_field_s_calls_find_it_out_too(mock_clock: MockClock) -> None:
    """With the licensor's key; and then units and usage are those that the container signed."""

    def application(address: str, proxy: Proxy) -> None:
        handle = cm.CmAccess2(0, cm.CMACCESS2(firm_code=FIRM, product_code=UNITS, server_name=address))
        five = cm.CMCRYPT2(encryption_code_options=5, licensor=PUBLIC)
        proxy.answer = put("crypt", units_left=77, usage_start=5)
        answer = cm.CmCrypt2(handle, five)
        assert answer is not None, cm.CmGetLastErrorText()
        assert (answer.units_left, answer.usage_start) == (95, None)
        proxy.ask = put("crypt", units=None)
        assert cm.CmCrypt2(handle, five) is None
        assert cm.CmGetLastErrorCode() == ErrorNumber.VERIFY_FAILED
        HANDLES.end()

    async with between(mock_clock) as place:
        await trio.to_thread.run_sync(application, place.address, place.proxy)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("message", "the container did not sign"),
        ("signature", "the container did not sign"),
        ("firm_item", "the licensor did not sign"),
        ("firm_signature", "the licensor did not sign"),
    ],
)
async def test_another_answer(name: str, why: str, mock_clock: MockClock) -> None:
    """Each part of it is signed."""
    async with between(mock_clock) as place:
        place.proxy.answer = flip(name)
        await found_out(await place.app.access(FIRM, OTHER), why)


async def test_an_answer_that_was_given_before(mock_clock: MockClock) -> None:
    """It is to another question, though all of it is signed."""
    answers: list[Fields] = []

    def alter(method: str, fields: Fields) -> None:
        if method == "crypt":
            answers.append(dict(fields))
            fields.update(answers[0])

    async with between(mock_clock) as place:
        place.proxy.answer = alter
        access = await place.app.access(FIRM, UNITS)
        await access.crypt(PUBLIC, units=1, key=KEY)
        await found_out(access, "another question", units=1, key=KEY)


async def test_what_is_said_beside_the_answer_counts_for_nothing(mock_clock: MockClock) -> None:
    """What is proven has what the container signed of units and usage."""
    async with between(mock_clock) as place:
        place.proxy.answer = put("crypt", units_left=77, usage_start=5)
        proven = await (await place.app.access(FIRM, UNITS)).crypt(PUBLIC, units=1)
        assert (proven.units_left, proven.usage_start) == (99, 0)


async def test_the_access_mode_is_the_server_s_word(mock_clock: MockClock) -> None:
    """No container knows of it: whoever is in between can have it otherwise, and the pages say so."""
    async with between(mock_clock) as place:
        place.proxy.ask = put("access", mode="no_user_limit")
        access = await place.app.access(FIRM, OTHER, AccessMode.EXCLUSIVE)
        place.proxy.ask = put("crypt", mode=None)
        assert isinstance(await access.crypt(PUBLIC, mode=AccessMode.EXCLUSIVE), Proof)
        (held,) = (await place.app.net_users_page()).accesses
        assert held.mode == AccessMode.NO_USER_LIMIT
