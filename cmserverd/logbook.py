"""The last lines of the log, for whoever looks at the server and not at its standard error; and who waits for the next.

Lines come from any thread, the drivers' too; whoever waits is on the daemon's loop.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

import trio

from protocol import messages as m
from protocol.watching import LogLine

LINES: Final = 1_000
"""How many lines are kept."""

BYTES: Final = 512 * 1024
"""How many bytes they may have together: one answer may have them all."""

LONGEST: Final = 8 * 1024
"""How many characters of a line are kept, of its event and of its fields; a traceback may have more."""


class Logbook:
    """The lines, which are numbered from 1."""

    def __init__(self) -> None:
        self._number = 0
        self._lines: deque[tuple[int, LogLine]] = deque()
        self._size = 0
        self._lock = threading.RLock()  # can be entered twice by one thread: a finalizer may log at any time
        self._waiting: set[tuple[trio.lowlevel.TrioToken, trio.Event]] = set()

    def add(self, time: int, level: str, event: str, fields: str) -> None:
        """Keep a line; of what is too long the beginning."""
        event, fields = _shortened(event), _shortened(fields)
        size = len(event.encode()) + len(fields.encode()) + 64
        with self._lock:
            self._number += 1
            self._lines.append((size, LogLine(self._number, time, level, event, fields)))
            self._size += size
            while len(self._lines) > LINES or self._size > BYTES:
                self._size -= self._lines.popleft()[0]
            waiting, self._waiting = self._waiting, set()
        for token, called in waiting:
            token.run_sync_soon(called.set)

    async def answer(self, asked: m.LogRequest) -> m.LogPage:
        """Tell the lines after a number, at once or when there is one."""
        if asked.wait:
            await self._more(asked.since, asked.wait)
        with self._lock:
            since = asked.since if asked.since <= self._number else 0  # else it is a number of before a restart
            lines = tuple(line for _, line in self._lines if line.number > since)
            missed = since != asked.since or len(lines) < self._number - since
            return m.LogPage(self._number, lines, missed)

    async def _more(self, since: int, seconds: float) -> None:
        """Wait for a line, at most so long, if the one with this number is the last."""
        called = (trio.lowlevel.current_trio_token(), trio.Event())
        with self._lock:
            if since != self._number:
                return
            self._waiting.add(called)
        try:
            with trio.move_on_after(seconds):
                await called[1].wait()
        finally:
            with self._lock:
                self._waiting.discard(called)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
