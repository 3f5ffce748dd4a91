"""The same question of many pages is one question to the daemon, and its answer is never older than a change."""

from __future__ import annotations

from typing import TypeVar, cast

import pytest
import trio
from msgspec import Struct
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd.webadmin.sharing import FRESH, Shared
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import KeepAlive, NetUsers, Params, Time

R = TypeVar("R", bound=Struct)


class Daemon:
    """Answers with the number of the question, when the test says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.refuses = False
        self.answering = trio.Event()

    async def ask(self, _: Params[R]) -> R:
        """Answer. Raises LicenseError if it refuses."""
        self.asked += 1
        number = self.asked
        await self.answering.wait()
        if self.refuses:
            raise LicenseError.of(ErrorNumber.INTERNAL)
        return cast("R", Time(number))


async def test_many_who_ask_at_once_are_one_question(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Who comes while it is under way, or a moment later, has the same answer; another question is another one."""
    daemon = Daemon()
    shared = Shared(daemon.ask)
    answers: list[int] = []

    async def look() -> None:
        answers.append((await shared.ask(KeepAlive())).time)

    for _ in range(20):
        nursery.start_soon(look)
    await wait_all_tasks_blocked()
    daemon.answering.set()
    await wait_all_tasks_blocked()
    await look()
    assert answers == [1] * 21
    await shared.ask(NetUsers())
    assert daemon.asked == 2
    await trio.sleep(FRESH + 0.01)
    await look()
    assert answers[-1] == 3


async def test_an_answer_from_before_a_change_is_not_given(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Neither one that is there, nor one that is under way."""
    daemon = Daemon()
    shared = Shared(daemon.ask)
    nursery.start_soon(shared.ask, KeepAlive())
    await wait_all_tasks_blocked()
    shared.forget()
    daemon.answering.set()
    assert (await shared.ask(KeepAlive())).time == 2
    shared.forget()
    assert (await shared.ask(KeepAlive())).time == 3


async def test_a_refusal_is_not_shared(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Each hears his own, and afterwards it is asked anew; who goes away takes nobody along."""
    daemon = Daemon()
    daemon.refuses = True
    shared = Shared(daemon.ask)
    with trio.move_on_after(1):
        await shared.ask(KeepAlive())
    daemon.answering.set()
    with pytest.raises(LicenseError):
        await shared.ask(KeepAlive())
    daemon.refuses = False
    assert (await shared.ask(KeepAlive())).time == 3


async def test_who_waits_with_one_who_goes_away_asks_himself(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The question of a page that was closed is not lost for the others."""
    daemon = Daemon()
    shared = Shared(daemon.ask)
    answers: list[int] = []

    async def look() -> None:
        answers.append((await shared.ask(KeepAlive())).time)

    async def go_away() -> None:
        with trio.move_on_after(0.1):
            await shared.ask(KeepAlive())

    nursery.start_soon(go_away)
    await wait_all_tasks_blocked()
    nursery.start_soon(look)
    await trio.sleep(0.2)
    daemon.answering.set()
    await wait_all_tasks_blocked()
    assert answers == [2]
