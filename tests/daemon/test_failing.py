"""Containers that fail at a use, as on a disk that is full or broken: they serve again as soon as they can."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd.devices import OpenDevice
from drivers import cmc, keys
from drivers.chip.flash import FileFlash
from drivers.container import Allowance, Container, ContainerId, ContainerKind, FirmItem, ProductItem
from drivers.driver import DriverError, Faulty, NoAnswer, Refused, Unsupported, Vanished, never_cancelled
from drivers.image import SigningKeys
from drivers.trust import Trust
from drivers.virtual import VirtualDriver, VirtualOptions
from protocol import messages as m
from protocol.errors import ErrorNumber
from tests.daemon.harness import FIRM, AsyncClient, make_service, rig, until
from tests.daemon.plugs import POLL, Bench, FakeDriver, watching
from tests.daemon.test_crypt import LICENSOR, PUBLIC, entry, refused

BOX, UNITS, OTHER = ContainerId("3-7"), 15, 16
_ITEMS = tuple(ProductItem(code, code, "", 9, units=Allowance(10)) for code in (UNITS, OTHER))
_CONTENTS = Container(BOX, ContainerKind.VIRTUAL, "", (FirmItem(FIRM, "Chart Works", 4, _ITEMS),))


class Disk:
    """The one below containers' files. It is full or broken as long as the test says so: then each call fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.broken = False
        self.written = 0
        self.read = 0
        add, read = FileFlash.add, FileFlash.read

        def adds(flash: FileFlash, sector: int, at: int, octets: bytes) -> None:
            self.written += 1
            if self.full or self.broken:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            add(flash, sector, at, octets)

        def reads(flash: FileFlash, sector: int) -> bytes:
            self.read += 1
            if self.broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(flash, sector)

        monkeypatch.setattr(FileFlash, "add", adds)
        monkeypatch.setattr(FileFlash, "read", reads)


@asynccontextmanager
async def filed(clock: MockClock, directory: Path) -> AsyncGenerator[tuple[Bench, AsyncClient, int]]:
    """Serve a container in a file; give a client, and his handle of an item with ten units."""
    path = directory / "box.cmc"
    cmc.create(path, _CONTENTS, SigningKeys(keys.generate(), {FIRM: LICENSOR}))
    virtual = VirtualDriver(VirtualOptions(files=(str(path),)), never_cancelled)
    service = make_service(trust=Trust({FIRM: PUBLIC}))
    async with (
        watching(clock, FakeDriver(), ("virtual", virtual), grace=1_000_000, service=service) as bench,
        rig(service) as connections,
    ):
        await until(lambda: bench.containers() == {"3-7": True})
        client = await connections.client()
        yield bench, client, (await client.ask(entry(UNITS))).handle


def opened(bench: Bench) -> OpenDevice:
    """Return the container's device."""
    return bench.service.devices.find(BOX)


def use(handle: int, key: bytes) -> m.Crypt:
    """Return a use of one unit."""
    return m.Crypt(handle, b"n" * 16, 1, m.AccessKey(key * 16))


async def test_a_full_disk_is_as_if_nothing_had_been_once_there_is_room(
    mock_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container is read anew at once, for which nothing is written; it stays, and so does who has a license."""
    disk = Disk(monkeypatch)
    with capture_logs() as said:
        async with filed(mock_clock, tmp_path) as (bench, client, handle):
            device, disk.full = opened(bench), True
            assert await refused(client, use(handle, b"1")) == ErrorNumber.COMMAND_FAILED
            await until(lambda: not device.doubtful)
            assert disk.written
            for _ in range(20):
                mock_clock.jump(POLL)
                await wait_all_tasks_blocked()
                assert await refused(client, use(handle, b"1")) == ErrorNumber.COMMAND_FAILED
            disk.full = False
            assert (await client.ask(use(handle, b"1"))).units_left == 9
            assert opened(bench) is device
    (line, *_) = [line for line in said if line["log_level"] == "warning" and "container" in line]
    assert line["event"] == "container failed; it is read anew"
    assert "No space left on device" in line["reason"]


async def test_what_a_failed_use_took_is_known_at_once(
    mock_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It failed after it was written; the listing follows though no time passes."""
    async with filed(mock_clock, tmp_path) as (bench, client, handle):
        (counted,) = [one for one in bench.engine.table.licenses.values() if one.id.item == UNITS]
        fails = iter([OSError(errno.EIO, os.strerror(errno.EIO))])
        sync = os.fsync

        def syncs(descriptor: int) -> None:
            sync(descriptor)
            for error in fails:
                raise error

        monkeypatch.setattr(os, "fsync", syncs)
        assert await refused(client, use(handle, b"1")) == ErrorNumber.COMMAND_FAILED
        await until(lambda: counted.item.units_used == 1)
        assert (await client.ask(use(handle, b"1"))).units_left == 9


async def test_a_broken_disk_is_tried_again_at_each_look(
    mock_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container counts as pulled out while nothing of it can be read, which is said once; then it is back."""
    disk = Disk(monkeypatch)
    with capture_logs() as said:
        async with filed(mock_clock, tmp_path) as (bench, client, handle):
            disk.broken = True
            assert await refused(client, use(handle, b"1")) == ErrorNumber.COMMAND_FAILED
            await until(lambda: bench.containers() == {"3-7": False})
            for _ in range(3):
                mock_clock.jump(POLL)
                await wait_all_tasks_blocked()
                assert await refused(client, use(handle, b"1")) == ErrorNumber.BOX_LOST
            disk.broken = False

            def seen() -> bool:
                mock_clock.jump(POLL)
                return bench.containers() == {"3-7": True}

            await until(seen)
            assert (await client.ask(use(handle, b"1"))).units_left == 9
    assert len([line for line in said if line["event"] == "container cannot be used"]) == 1


def counting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return what counts how often the container is read from now on."""
    device, reads = opened(bench)._device, 0
    read = device.read

    def counted() -> bytes:
        nonlocal reads
        reads += 1
        return read()

    monkeypatch.setattr(device, "read", counted)
    return lambda: reads


def failing(bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Callable[[], int]:
    """Have each use fail from now on; return what counts how often the container is read."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(opened(bench)._device, "consume", fails)
    return counting(bench, monkeypatch)


async def test_what_fails_always_is_not_read_always(
    mock_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is asked: at once, and then with the looks that are made anyway."""
    async with filed(mock_clock, tmp_path) as (bench, client, handle):
        reads = failing(bench, monkeypatch, Faulty("planted"))

        def read_at_a_look() -> bool:
            mock_clock.jump(POLL)
            return not opened(bench).doubtful

        assert await refused(client, use(handle, b"1")) == ErrorNumber.COMMAND_FAILED
        await until(lambda: not opened(bench).doubtful)
        for _ in range(50):
            assert await refused(client, use(handle, b"1")) == ErrorNumber.COMMAND_FAILED
        assert reads() == 1
        await until(read_at_a_look)
        before = reads()
        assert await refused(client, use(handle, b"1")) == ErrorNumber.COMMAND_FAILED
        await until(lambda: reads() > before)


@pytest.mark.parametrize(
    "error", [Refused("planted", 32), Unsupported("planted"), NoAnswer("planted"), Vanished("planted")]
)
async def test_an_answer_is_no_reason_to_read_anew(
    error: DriverError, mock_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is silence, or that it is gone: that shows at the next look, or at the next proof."""
    async with filed(mock_clock, tmp_path) as (bench, client, handle):
        reads = failing(bench, monkeypatch, error)
        await refused(client, use(handle, b"1"))
        assert not opened(bench).doubtful
        await bench.look()
        assert not reads()


async def test_a_bug_of_a_driver_is_one_more_reason(
    mock_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what of a use it has done."""
    async with filed(mock_clock, tmp_path) as (bench, client, handle):
        reads = failing(bench, monkeypatch, ZeroDivisionError())
        assert await refused(client, use(handle, b"1")) == ErrorNumber.COMMAND_FAILED
        await until(lambda: reads() == 1)


async def test_a_client_s_own_mistake_is_none_of_the_container_s(
    mock_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was another item's is refused; nobody can have a container read anew at will by that."""
    async with filed(mock_clock, tmp_path) as (bench, client, handle):
        other = (await client.ask(entry(OTHER))).handle
        await client.ask(use(handle, b"1"))
        reads = counting(bench, monkeypatch)
        assert await refused(client, use(other, b"1")) == ErrorNumber.INVALID_PARAMETER
        assert (await client.ask(use(other, b"2"))).units_left == 9
        await bench.look()
        assert not reads()
