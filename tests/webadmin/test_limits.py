"""How much one visitor may have at once, and how those who wait are served."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cmserverd.webadmin.limits import Shares, TooMany, Turns
from protocol.hosts import host_of

# --- shares -------------------------------------------------------------------------------------------------------


def test_each_has_his_share_and_no_more() -> None:
    """What one gives back is his again; nothing is kept of who has nothing."""
    shares = Shares(10, each=2)
    assert [shares.take("eve") for _ in range(4)] == [True, True, False, False]
    assert shares.take("anna")
    shares.give_back("eve")
    assert [shares.take("eve") for _ in range(2)] == [True, False]
    for who in ("eve", "eve", "anna"):
        shares.give_back(who)
    assert shares._taken == {}


def test_together_there_are_so_many() -> None:
    """However many come."""
    shares = Shares(3, each=2)
    assert [shares.take(who) for who in ("a", "b", "c", "d")] == [True, True, True, False]
    shares.give_back("b")
    assert shares.take("d")


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff%eth0", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("unknown", "unknown"),
    ],
)
def test_a_network_of_ipv6_is_one_host(address: str, host: str) -> None:
    """A host has a /64 of addresses; an IPv4 address in IPv6's clothes is itself."""
    assert host_of(address) == host


# --- turns --------------------------------------------------------------------------------------------------------


class Work:
    """Work of several visitors that goes on until the test ends it."""

    def __init__(self, turns: Turns, nursery: trio.Nursery) -> None:
        self.order: list[str] = []
        self._turns = turns
        self._nursery = nursery
        self._ends: list[trio.Event] = []

    async def begin(self, *names: str) -> None:
        """Have the visitors of these names, of which the first letter counts, want a turn, one after the other."""
        for name in names:
            self._nursery.start_soon(self._work, name)
            await wait_all_tasks_blocked()

    async def _work(self, name: str) -> None:
        async with self._turns.turn(name[0]):
            self.order.append(name)
            end = trio.Event()
            self._ends.append(end)
            await end.wait()

    async def end(self, number: int = 0) -> None:
        """End what began so much after the first."""
        self._ends.pop(number).set()
        await wait_all_tasks_blocked()


async def test_who_asks_often_waits_for_himself(nursery: trio.Nursery) -> None:
    """One of each in turn, whoever came with how many; and nobody has more than his share."""
    work = Work(Turns(2, each=2, waiting=10, refusal="no"), nursery)
    await work.begin("e1", "e2", "e3", "e4", "e5", "a1", "b1")
    assert work.order == ["e1", "e2"]
    for _ in range(5):
        await work.end()
    assert work.order == ["e1", "e2", "e3", "a1", "b1", "e4", "e5"]
    nursery.cancel_scope.cancel()


async def test_whose_share_is_taken_keeps_nobody_waiting(nursery: trio.Nursery) -> None:
    """Those who may still have a turn pass those who may not."""
    work = Work(Turns(3, each=1, waiting=10, refusal="no"), nursery)
    await work.begin("e1", "e2", "e3", "a1", "b1", "c1")
    assert work.order == ["e1", "a1", "b1"]
    await work.end(1)
    assert work.order[3:] == ["c1"]
    await work.end(0)
    assert work.order[4:] == ["e2"]
    nursery.cancel_scope.cancel()


async def test_too_many_that_wait_are_told_at_once(nursery: trio.Nursery) -> None:
    """Each has his own."""
    turns = Turns(1, each=1, waiting=2, refusal="no")
    work = Work(turns, nursery)
    await work.begin("e1", "e2", "e3", "a1")
    with pytest.raises(TooMany, match="no"):
        async with turns.turn("e"):
            pass
    await work.end()
    assert work.order == ["e1", "e2"]
    await work.begin("e4")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("late", [False, True])
async def test_who_does_not_wait_any_longer_costs_no_turn(nursery: trio.Nursery, late: bool) -> None:
    """Neither while he waits, nor when his turn comes just then."""
    turns = Turns(1, each=1, waiting=5, refusal="no")
    work = Work(turns, nursery)
    gone = trio.CancelScope()

    async def go() -> None:
        with gone:
            async with turns.turn("g"):
                pytest.fail("he had gone")

    async with turns.turn("e"):
        nursery.start_soon(go)
        await wait_all_tasks_blocked()
        await work.begin("a1")
        gone.cancel()
        if not late:
            await wait_all_tasks_blocked()
    await wait_all_tasks_blocked()
    assert work.order == ["a1"]
    await work.end()
    assert turns._waiting == {}
    assert turns._shares._taken == {}
