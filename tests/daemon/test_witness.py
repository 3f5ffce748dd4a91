"""A container vouches for the history: what it signed, nobody who may write the journal's file can make anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd import compaction
from cmserverd.core import changes as c
from cmserverd.devices import OpenDevice
from cmserverd.store import _ENCODER, _ENTRIES, Entry, Store, _hash
from cmserverd.verification import verify
from cmserverd.witness import CHAIN, EVERY, Witness
from drivers import cmc, image, keys, statement
from drivers.driver import Purpose
from drivers.image import SigningKeys
from drivers.trust import Trust
from protocol.tracking import VerifyTracking
from tests.daemon.harness import FIRM, Caller, Daemon, access, charts, ending, hello, make_service
from tests.daemon.kept import EVENTFUL

T = TypeVar("T")

CONTAINER_KEY, LICENSOR_KEY = bytes([5]) * 32, bytes([9]) * 32
SIGNING = SigningKeys(CONTAINER_KEY, {FIRM: LICENSOR_KEY})
BELIEVED = Trust({FIRM: keys.public_of(LICENSOR_KEY)}, frozenset())
KEYS = (keys.public_of(CONTAINER_KEY),)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A file with an eventful history."""
    store = Store(tmp_path / "journal.db", power=False)
    for entry in EVENTFUL:
        store.append([entry], 0)
    yield store
    store.close()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[cmc.CmcDevice]:
    """A container that can sign."""
    cmc.create(tmp_path / "box.cmc", charts(), SIGNING)
    file = cmc.CmcFile(tmp_path / "box.cmc")
    device = file.open(next(iter(file.dongles())))
    yield device
    device.close()


def vouch(store: Store, device: cmc.CmcDevice, head: tuple[int, bytes] | None = None) -> c.Witnessed:
    """Have a container sign what is kept, or something else, and write that down."""
    position, chain = head or store.head
    signed = device.sign(Purpose.TRACKING, statement.tracking_body(CHAIN, position, chain, store.time))
    witnessed = c.Witnessed(charts().id, signed.message, signed.signature)
    write(store, witnessed)
    return witnessed


def write(store: Store, *changes: c.Change) -> None:
    """Write an entry."""
    store.append([Entry(store.position + 1, store.time, 0, changes)], 0)


def forge(store: Store, place: int) -> None:
    """Do what somebody can who may write the file: leave a change out, and make all hashes anew from there on."""
    rows: list[Any] = store._db.execute("SELECT position, time, entries FROM history ORDER BY position").fetchall()
    chain = bytes(32)
    for number, (position, time, octets) in enumerate(rows):
        entries: Sequence[Entry] = _ENTRIES.decode(octets)
        if number == place:
            entries = [msgspec.structs.replace(entry, changes=()) for entry in entries]
        octets = _ENCODER.encode(entries)
        chain = _hash(chain, position, time, octets)
        store._db.execute("UPDATE history SET entries = ?, chain = ? WHERE position = ?", (octets, chain, position))


def test_what_a_container_signed_is_proven(store: Store, device: cmc.CmcDevice) -> None:
    """Up to the last signature, which is before the end: what comes behind it, the chain alone vouches for."""
    assert verify(store, KEYS).proven == 0
    vouch(store, device)
    write(store, c.Started())
    vouch(store, device)
    write(store, c.Stopped())
    proof = verify(store, KEYS)
    assert (proof.sound, proof.proven, proof.position) == (True, store.position - 2, store.position)
    assert (proof.proven_time, proof.container, proof.strangers) == (EVENTFUL[-1].at, "3-1", 0)


def test_a_history_that_was_made_anew_is_found_out(store: Store, device: cmc.CmcDevice) -> None:
    """Its chain is sound, and all of it replays; but it is not what was signed."""
    place = next(n for n, entry in enumerate(EVENTFUL) if any(isinstance(one, c.Used) for one in entry.changes))
    signed = store.position
    vouch(store, device)
    forge(store, place)
    assert verify(store).sound
    proof = verify(store, KEYS)
    assert not proof.sound
    assert proof.text == f"up to position {signed}, container 3-1 signed something else"


def test_what_comes_behind_the_last_signature_is_not_proven(store: Store, device: cmc.CmcDevice) -> None:
    """Whoever alters it is not found out before the next one; the proof says how far it reaches."""
    vouch(store, device)
    write(store, c.Stopped())
    forge(store, len(EVENTFUL) + 1)
    proof = verify(store, KEYS)
    assert (proof.sound, proof.proven) == (True, store.position - 2)


def test_what_a_stranger_signed_proves_nothing(store: Store, device: cmc.CmcDevice) -> None:
    """Anybody can make a container with any id: it is the key that counts."""
    vouch(store, device)
    proof = verify(store, (bytes(32),))
    assert (proof.sound, proof.proven, proof.strangers) == (True, 0, 1)


def test_a_signature_that_is_not_the_containers_is_found_out(
    store: Store, device: cmc.CmcDevice, tmp_path: Path
) -> None:
    """One bit of what was signed, of the signature, or all of it."""
    good = vouch(store, device)
    for message, signature in (
        (good.message[:-1] + bytes([good.message[-1] ^ 1]), good.signature),
        (good.message, good.signature[:-1] + bytes([good.signature[-1] ^ 1])),
        (good.message[:20], good.signature),
        (b"", b""),
        (good.message + b"\0", good.signature),
    ):
        other = Store(tmp_path / f"{len(message)}-{signature[-1:].hex()}.db", power=False)
        write(other, c.Witnessed(good.container, message, signature))
        proof = verify(other, KEYS)
        other.close()
        assert not proof.sound
        assert "is not signed by it" in proof.text


def test_signatures_over_what_was_dropped_prove_nothing_and_harm_nothing(store: Store, device: cmc.CmcDevice) -> None:
    """The oldest history goes; a signature that stands behind it can be about what was before."""
    begun = store.head
    write(store, c.Started())
    store.compact(store.changes(), 1.0)
    vouch(store, device, begun)
    assert compaction.trim(store, 0, 1.0)
    proof = verify(store, KEYS)
    assert (proof.sound, proof.proven, proof.first) == (True, 0, begun[0] + 1)


async def _call(function: Callable[[], T]) -> T:
    return function()


class Kept:
    """What keeps a history."""

    kept = (7, bytes(range(32)))


async def test_it_is_signed_at_the_start_each_hour_and_at_the_end(tmp_path: Path, mock_clock: MockClock) -> None:
    """Not before all drivers have looked; a container that comes later signs then."""
    path = tmp_path / "box.cmc"
    cmc.create(path, charts(), SIGNING)
    file = cmc.CmcFile(path)
    device = file.open(next(iter(file.dongles())))
    service = make_service(trust=BELIEVED)
    heard: list[c.Witnessed] = []
    engine = service.engine
    engine.listen(
        lambda record: heard.extend(one for one in record.changes if isinstance(one, c.Witnessed)), c.Witnessed
    )
    witness = Witness(engine, service.devices, Kept())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(witness.run)
        await wait_all_tasks_blocked()
        assert not heard
        read = image.parse(device.read(), BELIEVED)

        service.devices.add(OpenDevice(device, read, 0, _call, lambda: None))
        engine.plug(read.container)
        await wait_all_tasks_blocked()
        assert len(heard) == 1
        mock_clock.jump(EVERY - 1)
        await wait_all_tasks_blocked()
        assert len(heard) == 1
        mock_clock.jump(2)
        await wait_all_tasks_blocked()
        assert len(heard) == 2
        await witness.sign_last()
        assert len(heard) == 3
        nursery.cancel_scope.cancel()
    said = [statement.vouched(one.message, one.signature) for one in heard]
    assert {(one.container, one.count, one.hash) for one in said} == {("3-1", *Kept.kept)}
    device.close()


def test_a_daemon_has_its_history_signed(tmp_path: Path) -> None:
    """At its start and at its stop, by a real container, so that the next one can prove it."""
    cmc.create(tmp_path / "box.cmc", charts(), SIGNING)
    first, again = Daemon(tmp_path, dongle=None), Daemon(tmp_path, dongle=None)
    again.config.write_text(again.config.read_text().replace("dongle.toml", "box.cmc"))
    with ending(first, again):
        first.serve().said("a container vouches for the history")
        with Caller(first.address) as client:
            client.ask(hello())
            client.ask(access())
        assert first.stop() == 0
        last = first.said("a container vouches for the history", 2)["position"]
        again.serve().said("a container vouches for the history")
        with Caller(again.monitor) as looker:
            looker.ask(hello())
            proof = looker.ask(VerifyTracking())
    assert proof.sound
    assert proof.proven >= last > 0
