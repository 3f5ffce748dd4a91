"""Both clients across a real daemon that is killed and started again on its port, with one license less."""

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
from tests.daemon.harness import CHARTS, FIRM, LIMIT, TWO_CHARTS, Daemon, ending

ONE_CHART = TWO_CHARTS.replace("quantity = 2", "quantity = 1")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that serves two licenses."""
    daemon = Daemon(tmp_path)
    with ending(daemon):
        daemon.serve()
        daemon.said("container plugged in")
        yield daemon


@contextmanager
def another(daemon: Daemon) -> Iterator[Daemon]:
    """Kill a daemon, and have another one in its place that serves one license."""
    host, port = daemon.address
    daemon.kill()
    another = Daemon(daemon.directory, listen=f"{host}:{port}", dongle=ONE_CHART)
    with ending(another):
        yield another.serve()


def address(daemon: Daemon) -> str:
    """Return where clients find it."""
    return "{}:{}".format(*daemon.address)


def assert_told(kept: Held, lost: Held, old: int, events: list[m.Event]) -> None:
    """Assert that each access says what became of it, and that this was told once."""
    kept.check()
    with pytest.raises(LicenseError) as refusal:
        lost.check()
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
            (await client.access(FIRM, CHARTS)).check()
