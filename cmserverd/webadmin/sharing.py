"""The same question, asked by many pages at once, is asked of the daemon once.

When something changes, every open page asks for the same. Whoever asks while that is under way, or a moment afterwards,
is given the same answer, unless it was asked for before the last change that was heard of. Only pages that hear of
changes should ask this way: they ask again when there is another one.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar, cast

import trio
from msgspec import Struct

from protocol.messages import Params

R = TypeVar("R", bound=Struct)

FRESH: Final = 0.25
"""Seconds for which an answer may be given again: for one change all pages ask within this, and nobody sees its age."""


class Ask(Protocol):
    """Asks the daemon."""

    async def __call__(self, params: Params[R], /) -> R:
        """Return the answer. Raises LicenseError."""
        ...


class _Answer:
    """An answer that was asked for at a time, and what it is once it is there."""

    def __init__(self, asked: float) -> None:
        self.asked = asked
        self.there = trio.Event()
        self.value: Struct | None = None


class Shared:
    """Asks for all."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._answers: dict[Params[Any], _Answer] = {}

    def forget(self) -> None:
        """Something changed: what was asked for before is no answer any more."""
        self._answers.clear()

    async def ask(self, params: Params[R]) -> R:
        """Return the answer to a question. Raises LicenseError."""
        while True:
            now = trio.current_time()
            found = self._answers.get(params)
            if found is None or now - found.asked > FRESH:
                return await self._ask_anew(params, now)
            await found.there.wait()
            if found.value is not None:
                return cast("R", found.value)
            # Whoever asked was refused, or did not wait for it: each asks for himself.

    async def _ask_anew(self, params: Params[R], now: float) -> R:
        self._answers = {one: answer for one, answer in self._answers.items() if now - answer.asked <= FRESH}
        mine = self._answers[params] = _Answer(now)
        try:
            value = await self._ask(params)
        except BaseException:
            if self._answers.get(params) is mine:
                del self._answers[params]
            raise
        else:
            mine.value = value
            return value
        finally:
            mine.there.set()
