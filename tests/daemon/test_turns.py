"""Turns: one at a time, each asker has his, and who leaves is not waited for."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd import devices
from cmserverd.turns import OWN, Turns
from protocol import messages as m
from protocol.errors import ErrorNumber
from tests.daemon.harness import CONTROL, rig, until
from tests.daemon.plugs import POLL
from tests.daemon.test_crypt import PLAIN, Stick, container, entry, plugged, refused

NONCE = b"n" * 16


class Queue:
    """Askers at one thing. Each has his turn when the test says `next`; `served` tells whose it was."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.turns = Turns()
        self.served: list[str] = []
        self._nursery = nursery
        self._done = trio.Event()

    async def come(self, *askers: str) -> list[trio.CancelScope]:
        """Let askers come, one after the other; who has the scope can cancel them."""
        scopes = [trio.CancelScope() for _ in askers]
        for asker, scope in zip(askers, scopes, strict=True):
            self._nursery.start_soon(self._ask, asker, scope)
            await wait_all_tasks_blocked()
        return scopes

    async def _ask(self, asker: str, scope: trio.CancelScope) -> None:
        with scope:
            async with self.turns.turn(asker):
                self.served.append(asker)
                await self._done.wait()

    async def all(self) -> list[str]:
        """Serve everybody; return in which order."""
        while True:
            before = len(self.served)
            done, self._done = self._done, trio.Event()
            done.set()
            await wait_all_tasks_blocked()
            if len(self.served) == before:
                return self.served


async def test_each_asker_has_his_turn_however_often_another_asks() -> None:
    """One of each, round and round, in the order in which they came; each waits for one turn of every other."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        await queue.come("a", "a", "a", "a", "b", "c", "b")
        assert queue.served == ["a"]
        assert [queue.turns.waiting_of(asker) for asker in "abcd"] == [3, 2, 1, 0]
        assert await queue.all() == ["a", "a", "b", "c", "a", "b", "a"]
        await queue.come("d")
        assert queue.served[-1] == "d"
        await queue.all()


async def test_the_server_itself_comes_first() -> None:
    """A proof or an import does not wait for clients, but for the one whose turn it is."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        await queue.come("a", "b", OWN, "c", OWN)
        assert await queue.all() == ["a", OWN, OWN, "b", "c"]


async def test_who_leaves_is_not_waited_for() -> None:
    """His place is free at once, and others come as they would have."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        scopes = await queue.come("a", "b", "b", "c")
        scopes[1].cancel()
        await wait_all_tasks_blocked()
        assert (queue.turns.waiting_of("b"), queue.turns.waiting) == (1, 2)
        assert await queue.all() == ["a", "b", "c"]


async def test_a_turn_that_comes_to_one_who_is_leaving_goes_on_to_the_next() -> None:
    """He is called when he is gone already, and has not said so yet."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        async with queue.turns.turn("a"):
            scopes = await queue.come("b", "c")
            scopes[0].cancel()
        await wait_all_tasks_blocked()
        assert await queue.all() == ["c"]
        await queue.come("d")
        assert await queue.all() == ["c", "d"]


async def test_one_address_cannot_shut_the_others_out(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused once too many of its own wait; another one, and the operator, are served."""
    monkeypatch.setattr(devices, "QUEUE", 2)
    async with plugged(mock_clock, Stick()) as (bench, client), rig(bench.service) as connections:
        operator = await connections.client(peer=CONTROL)
        handle = (await client.ask(entry(PLAIN))).handle
        (session,) = [one for one in bench.engine.table.sessions.values() if one.accesses]
        device = bench.service.devices.find(container().id)
        hold = trio.Event()
        async with trio.open_nursery() as nursery:

            async def crowd() -> None:
                async with device._turns.turn(session.address):
                    await hold.wait()

            for _ in range(3):
                nursery.start_soon(crowd)
            await until(lambda: device.waiting_of(session.address) == 2)
            assert await refused(client, m.Crypt(handle, NONCE)) == ErrorNumber.BOX_BUSY
            asked = await operator.begin(m.Context("3-7"))
            await until(lambda: device.waiting_of(OWN))
            mock_clock.jump(POLL)
            hold.set()
        await operator.until(lambda: asked in operator.inbox.replies)
        assert operator.inbox.replies[asked].error is None
        await client.ask(m.Crypt(handle, NONCE))
