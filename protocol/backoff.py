"""How long a client waits before it dials again: longer each time, and by chance, so that many do not come at once."""

from __future__ import annotations

from collections.abc import Callable
from random import SystemRandom
from typing import Final

FIRST: Final = 0.25
"""Seconds that the first pause takes at most; each further one may take twice as long."""

LONGEST: Final = 5.0
"""Seconds that no pause exceeds: the grace in which a server keeps the session of a closed connection by default."""

_DOUBLINGS: Final = 16  # more than LONGEST needs
_SYSTEM: Final = SystemRandom()


class Backoff:
    """The pauses between attempts; `random` gives a number from 0 to 1.

    The system's randomness, since processes forked from one must not dial in step.
    """

    def __init__(self, random: Callable[[], float] = _SYSTEM.random) -> None:
        self.random = random
        self._attempts = 0

    def next(self) -> float:
        """Return how many seconds to wait before the next attempt."""
        longest = min(LONGEST, FIRST * (1 << self._attempts))
        self._attempts = min(self._attempts + 1, _DOUBLINGS)
        return self.random() * longest

    def reset(self) -> None:
        """Begin again with short pauses: the last connection was a good one."""
        self._attempts = 0
