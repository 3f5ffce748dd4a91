"""The thread that writes for the journal: one call after the other, whatever becomes of who asked."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cmserverd.writer import Writer
from tests.daemon.harness import LIMIT


class Damage(Exception):
    """What a call raises."""


async def test_a_call_is_made_elsewhere_while_the_loop_goes_on() -> None:
    """And its answer comes back; the thread is gone after the block."""
    begun, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    named: list[threading.Thread] = []

    def call() -> int:
        token.run_sync_soon(begun.set)
        named.append(threading.current_thread())
        assert go_on.wait(LIMIT)
        return 7

    with Writer() as writer:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def asks() -> None:
                assert await writer.do(call) == 7

            await begun.wait()
            go_on.set()
    assert named[0] is not threading.main_thread()
    assert not named[0].is_alive()


async def test_what_a_call_raises_is_its_askers() -> None:
    """The next one is made all the same, and what was raised is not kept by anything."""

    def fails() -> None:
        raise Damage

    with Writer() as writer:
        with pytest.raises(Damage) as raised:
            await writer.do(fails)
        kept = weakref.ref(raised.value)
        del raised
        assert await writer.do(partial(int, 3)) == 3
    gc.disable()
    try:
        assert kept() is None
    finally:
        gc.enable()


async def test_who_is_cancelled_waits_for_his_call_and_calls_keep_their_order() -> None:
    """Half of what was decided would be lost otherwise."""
    go_on, made = threading.Event(), list[int]()

    def first() -> None:
        assert go_on.wait(LIMIT)
        made.append(1)

    with Writer() as writer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.do, first)
            await wait_all_tasks_blocked()
            nursery.start_soon(writer.do, partial(made.append, 2))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 2
            go_on.set()
        assert made == [1, 2]
