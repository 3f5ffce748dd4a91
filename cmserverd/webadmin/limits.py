"""Who has how much of what at once, so that one visitor alone cannot use up WebAdmin, nor the license server behind it.

A visitor is known by a text: the name of a user or of a token, or else the host that he comes from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import trio
from starlette.exceptions import HTTPException

AGAIN: Final = 5
"""Seconds after which somebody who was refused may try again."""

SENDING: Final = 60.0
"""Seconds in which what is sent must have been taken: else whoever reads it slowly keeps his turn and its memory."""


class TooMany(HTTPException):
    """A visitor has, or waits for, as much as he may already. The text says of what."""

    def __init__(self, text: str) -> None:
        super().__init__(503, text, {"Retry-After": str(AGAIN)})


class Shares:
    """So many of something for all `together`, and of these so many for `each`."""

    def __init__(self, together: int, *, each: int) -> None:
        self._together = together
        self._each = each
        self._taken: dict[str, int] = {}  # those who have any
        self._all = 0

    def take(self, visitor: str) -> bool:
        """Have one more, and return whether there was one; if so, `give_back` must follow."""
        own = self._taken.get(visitor, 0)
        if own >= self._each or self._all >= self._together:
            return False
        self._taken[visitor] = own + 1
        self._all += 1
        return True

    def give_back(self, visitor: str) -> None:
        """Have one less."""
        self._all -= 1
        self._taken[visitor] -= 1
        if not self._taken[visitor]:
            del self._taken[visitor]


class Turns:
    """Turns at something of which few are done at once: so many `together`, and so many of `each` visitor.

    Of those that wait, one of each visitor has his turn, round and round; of each, at most `waiting` may wait, and the
    next one is told the `refusal`.
    """

    def __init__(self, together: int, *, each: int, waiting: float, refusal: str) -> None:
        self._shares = Shares(together, each=each)
        self._most = waiting
        self._refusal = refusal
        self._waiting: dict[str, deque[trio.Event]] = {}  # whose turn comes next stands first

    @asynccontextmanager
    async def turn(self, visitor: str) -> AsyncGenerator[None]:
        """Wait for a turn, and have it until the end of the block. Raises TooMany, at once."""
        # Whoever waits could not have what is free: each time that anything is given back, it is passed on.
        if not self._shares.take(visitor):
            await self._wait(visitor)
        try:
            yield
        finally:
            self._give_back(visitor)

    async def _wait(self, visitor: str) -> None:
        if len(self._waiting.get(visitor, ())) >= self._most:
            raise TooMany(self._refusal)
        called = trio.Event()
        self._waiting.setdefault(visitor, deque()).append(called)
        try:
            await called.wait()
        except trio.Cancelled:
            if called.is_set():
                self._give_back(visitor)  # it came too late
            else:
                self._leave(visitor, called)
            raise

    def _give_back(self, visitor: str) -> None:
        """Pass a turn on to the first who may have it."""
        self._shares.give_back(visitor)
        for one in self._waiting:
            if self._shares.take(one):
                waiting = self._waiting.pop(one)
                waiting.popleft().set()
                if waiting:
                    self._waiting[one] = waiting  # last again
                return

    def _leave(self, visitor: str, called: trio.Event) -> None:
        waiting = self._waiting[visitor]
        waiting.remove(called)
        if not waiting:
            del self._waiting[visitor]
