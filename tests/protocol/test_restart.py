"""Both clients across a real daemon that is killed and started again on its port, with a journal and without one."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from protocol import blocking
from protocol import messages as m
from protocol.client import open_client
from protocol.errors import ErrorNumber, LicenseError
from protocol.held import Held
from protocol.terms import AccessMode
from tests.daemon.harness import CHARTS, FIRM, LIMIT, TWO_CHARTS, Daemon, ending

ONE_CHART = TWO_CHARTS.replace("quantity = 2", "quantity = 1")
FORGETFUL = '[journal]\ndurability = "off"\n'


@contextmanager
def serving(directory: Path, config: str = "") -> Iterator[Daemon]:
    """Run a daemon that serves two licenses."""
    daemon = Daemon(directory, config=config)
    with ending(daemon):
        daemon.serve()
        daemon.said("container plugged in")
        yield daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that serves two licenses, and keeps no journal."""
    with serving(tmp_path, FORGETFUL) as daemon:
        yield daemon


@contextmanager
def another(daemon: Daemon) -> Iterator[Daemon]:
    """Kill a daemon, and have another one in its place that serves one license, and knows nothing of before."""
    host, port = daemon.address
    daemon.kill()
    another = Daemon(daemon.directory, listen=f"{host}:{port}", dongle=ONE_CHART, config=FORGETFUL)
    with ending(another):
        yield another.serve()


@contextmanager
def the_same(daemon: Daemon, *, killed: bool) -> Iterator[Daemon]:
    """Kill or stop a daemon, and start it again on its port."""
    host, port = daemon.address
    if killed:
        daemon.kill()
    else:
        assert daemon.stop() == 0
    again = Daemon(daemon.directory, listen=f"{host}:{port}")
    with ending(again):
        yield again.serve()


def address(daemon: Daemon) -> str:
    """Return where clients find it."""
    return "{}:{}".format(*daemon.address)


def assert_told(kept: Held, lost: Held, old: int, events: list[m.Event]) -> None:
    """Assert that each access says what became of it, and that this was told once."""
    kept.check_nowait()
    with pytest.raises(LicenseError) as refusal:
        lost.check_nowait()
    assert refusal.value.number == ErrorNumber.NO_MORE_LICENSES
    assert sorted((event.event, event.handle) for event in events) == [("lost", old), ("reacquired", kept.handle)]


def test_the_blocking_client(daemon: Daemon) -> None:
    """The program does nothing, and has its license again."""
    events: queue.Queue[m.Event] = queue.Queue()
    with blocking.Client(address(daemon), station="desk-4", on_event=events.put) as client:
        kept, lost = client.access(FIRM, CHARTS), client.access(FIRM, CHARTS)
        old = lost.handle
        with another(daemon):
            assert_told(kept, lost, old, [events.get(timeout=LIMIT) for _ in range(2)])
            assert kept.info().handle == kept.handle
            assert client.server_info().accesses == 1
            kept.release()
            client.access(FIRM, CHARTS).check()
            assert events.empty()


async def test_the_trio_client(daemon: Daemon) -> None:
    """The same."""
    send, receive = trio.open_memory_channel[m.Event](10)
    async with open_client(address(daemon), station="desk-4", on_event=send.send) as client:
        kept, lost = await client.access(FIRM, CHARTS), await client.access(FIRM, CHARTS)
        old = lost.handle
        with another(daemon), trio.fail_after(LIMIT):
            assert_told(kept, lost, old, [await receive.receive() for _ in range(2)])
            assert (await kept.info()).handle == kept.handle
            await kept.release()
            await (await client.access(FIRM, CHARTS)).check()


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_restart_is_not_noticed(tmp_path: Path, durability: str, *, killed: bool) -> None:
    """With a journal the same handles are valid, a share is joined, nobody gets in between, and nothing is told."""
    events: queue.Queue[m.Event] = queue.Queue()
    with (
        serving(tmp_path, f'[journal]\ndurability = "{durability}"\n') as daemon,
        blocking.Client(address(daemon), station="desk-4", on_event=events.put) as client,
        blocking.Client(address(daemon), station="desk-5") as other,
    ):
        share = client.access(FIRM, CHARTS, AccessMode.STATION_SHARE)
        single = other.access(FIRM, CHARTS)
        handles = share.handle, single.handle
        with the_same(daemon, killed=killed) as again:
            again.said("container plugged in")
            with (
                blocking.Client(address(again), station="desk-6") as third,
                pytest.raises(LicenseError) as refusal,
            ):
                third.access(FIRM, CHARTS)
            assert refusal.value.number == ErrorNumber.NO_MORE_LICENSES
            assert (share.info().handle, single.info().handle) == handles
            joined = client.access(FIRM, CHARTS, AccessMode.STATION_SHARE)
            assert joined.info().allocation == share.info().allocation
            assert joined.handle > max(handles), "no handle is used twice"
            share.check()
            single.check()
            assert events.empty()
            for access in (share, joined, single):
                access.release()
            assert client.server_info().accesses == 0
