"""How WebAdmin's questions share the connections to the daemon: what is long, or much, holds up nothing else."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cmserverd.webadmin.daemon import ACTS, LONG, Daemon, open_daemon
from protocol.errors import LicenseError
from protocol.messages import NetUsers
from protocol.watching import StatisticsRequest
from tests.daemon.harness import until


class Mute:
    """A daemon that takes connections, and answers nothing."""

    def __init__(self, directory: Path) -> None:
        self.connected = {"monitor": 0, "control": 0}
        self._directory = directory

    async def listen(self, name: str, *, task_status: trio.TaskStatus[None]) -> None:
        """Take connections."""
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.bind(os.fspath(self._directory / f"{name}.sock"))
        sock.listen(32)
        with sock, ExitStack() as held:
            task_status.started()
            while True:
                held.enter_context((await sock.accept())[0])
                self.connected[name] += 1


@pytest.fixture
async def mute(tmp_path: Path, nursery: trio.Nursery) -> Mute:
    """Give such a daemon; it runs in the run directory `tmp_path`."""
    made = Mute(tmp_path)
    for name in made.connected:
        await nursery.start(made.listen, name)
    return made


@pytest.fixture
async def daemon(tmp_path: Path, mute: Mute) -> AsyncGenerator[Daemon]:
    """Ask it."""
    async with open_daemon(tmp_path) as made:
        yield made


def vain(nursery: trio.Nursery, ask: Callable[[], Awaitable[object]], times: int) -> None:
    """Ask so often at once, and expect no answer."""

    async def once() -> None:
        with pytest.raises(LicenseError):
            await ask()

    for _ in range(times):
        nursery.start_soon(once)


async def test_health_is_asked_for_on_a_connection_of_its_own(
    daemon: Daemon, mute: Mute, nursery: trio.Nursery
) -> None:
    """However much is asked by others; and once for all who ask for it."""
    async with trio.open_nursery() as asking:
        vain(asking, lambda: daemon.ask(NetUsers()), 5)
        await until(lambda: mute.connected["monitor"] == 1)
        vain(asking, lambda: daemon.health.ask(StatisticsRequest()), 5)
        await until(lambda: mute.connected["monitor"] == 2)
        await wait_all_tasks_blocked(0.05)
        assert mute.connected["monitor"] == 2
        asking.cancel_scope.cancel()


@pytest.mark.parametrize(("which", "most"), [("monitor", LONG), ("control", ACTS)])
async def test_few_connections_are_taken_at_once(
    daemon: Daemon, mute: Mute, nursery: trio.Nursery, which: str, most: int
) -> None:
    """The others of those that the daemon has are its operator's."""
    asks: dict[str, Callable[[], Awaitable[object]]] = {
        "monitor": daemon.usage,
        "control": lambda: daemon.deallocate(1, by="anna"),
    }
    async with trio.open_nursery() as asking:
        vain(asking, asks[which], most + 5)
        await until(lambda: mute.connected[which] >= most)
        await wait_all_tasks_blocked(0.05)
        assert mute.connected[which] == most
        asking.cancel_scope.cancel()
