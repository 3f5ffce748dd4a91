"""Keeps what anybody can cause at will from flooding the log: a few lines in a while, and how many were left out."""

from __future__ import annotations

from collections.abc import Callable


class Seldom:
    """Says at most `lines` in each `period` of seconds; the next line that is said tells how many were not."""

    def __init__(self, clock: Callable[[], float], lines: int = 10, period: float = 60.0) -> None:
        self._clock = clock
        self._lines = lines
        self._period = period
        self._left = lines
        self._renewed = clock()
        self._unsaid = 0

    def say(self, log: Callable[..., object], event: str, **facts: object) -> None:
        """Call `log` with a line, or count it."""
        now = self._clock()
        if now - self._renewed >= self._period:
            self._renewed = now
            self._left = self._lines
        if not self._left:
            self._unsaid += 1
            return
        self._left -= 1
        if self._unsaid:
            facts["left_out"] = self._unsaid
            self._unsaid = 0
        log(event, **facts)
