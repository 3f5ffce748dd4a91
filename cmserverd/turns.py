"""Turns at something that serves one at a time: each asker has his, however many others ask, and however often.

Of those that wait, the server's own come first, and then one of each asker's, round and round. So whoever asks a
thousand times waits for himself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import trio

OWN: Final = ""
"""The server itself as an asker, and its operator."""


class Turns:
    """One turn at a time. An asker is known by a name: a client's address, or `OWN`."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: dict[str, deque[trio.Event]] = {}  # whose turn comes next stands first

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(map(len, self._waiting.values()))

    def waiting_of(self, asker: str) -> int:
        """Return how many of them are of one asker."""
        return len(self._waiting.get(asker, ()))

    @asynccontextmanager
    async def turn(self, asker: str) -> AsyncGenerator[None]:
        """Wait for a turn, and have it until the end of the block."""
        if self._taken:
            await self._wait(asker)
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, asker: str) -> None:
        called = trio.Event()
        self._waiting.setdefault(asker, deque()).append(called)
        try:
            await called.wait()
        except trio.Cancelled:
            if called.is_set():
                self._pass_on()  # it came too late
            else:
                self._leave(asker, called)
            raise

    def _pass_on(self) -> None:
        """Give the turn to who comes next. It stays taken, so that nobody gets in between."""
        asker = OWN if OWN in self._waiting else next(iter(self._waiting), None)
        if asker is None:
            self._taken = False
            return
        waiting = self._waiting.pop(asker)
        waiting.popleft().set()
        if waiting:
            self._waiting[asker] = waiting  # last again

    def _leave(self, asker: str, called: trio.Event) -> None:
        waiting = self._waiting[asker]
        waiting.remove(called)
        if not waiting:
            del self._waiting[asker]
