"""License time: the clock that licenses are judged by (domain reference, section 9; decision 17).

It never goes back by itself: it advances with the time since boot, suspend included, and is raised when the system
clock is later. Only a certified update sets it back. The system clock is then known to be wrong, by as much as it is
ahead of the certified time, and counts for so much less from then on; else it would undo the update within a second.
Whoever sets it right, wholly or in part, makes it less wrong by that: a system clock that is ahead no longer counts in
full again, and raises license time when it is set forward the next time.

Liveness of clients is no matter of this clock; that runs on trio's monotonic one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

LEAP: Final = 2.0
"""Seconds by which the system clock may gain on the time since boot within one second without being said to leap."""

since_boot: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Returns seconds since boot, time asleep included where the system can tell."""


class LicenseClock:
    """Whole Unix seconds, UTC. `leapt` is by how many the system clock raised it at once since that was taken up."""

    __slots__ = ("_ahead", "_base", "_boot", "_last", "_system", "leapt")

    def __init__(self, system: Callable[[], float] = time.time, boot: Callable[[], float] = since_boot) -> None:
        self._system = system
        self._boot = boot
        self._ahead = 0.0  # by how many seconds the system clock is known to be wrong
        self._base = system() - boot()
        self._last = 0
        self.leapt = 0.0

    def now(self) -> int:
        """Return license time."""
        boot = self._boot()
        if int(self._base + boot) > self._last:  # else nothing has changed: the system clock is looked at once a second
            system = self._system() - boot
            self._ahead = min(self._ahead, max(0.0, system - self._base))
            gained = system - self._ahead - self._base
            if gained > 0:
                self._base += gained
                self.leapt += gained if gained > LEAP else 0.0
            self._last = int(self._base + boot)
        return self._last  # the same object all second long: a million accesses share it

    @property
    def ahead(self) -> int:
        """By how many seconds the system clock is known to be wrong; rather one less than one more."""
        return int(self._ahead)

    def take_leap(self) -> int:
        """Return by how many seconds it has leapt since this was asked last."""
        leapt, self.leapt = self.leapt, 0.0
        return int(leapt)

    def go_on(self, instant: int, ahead: int) -> None:
        """A journal knows of this license time, and that the system clock was so much ahead of it (`ahead`)."""
        self._ahead = float(ahead)
        self._base = max(instant, self._system() - ahead) - self._boot()

    def raise_to(self, instant: int) -> None:
        """A container knows of a later license time (Unix seconds): it is at least that."""
        self._base = max(self._base, instant - self._boot())

    def set(self, instant: int) -> None:
        """A certified update says which time it is: the only thing that may set it back (decision 18)."""
        self._base = instant - self._boot()
        self._ahead = max(0.0, self._system() - instant)
        self._last = instant

    def until(self, instant: int) -> float:
        """Return in how many seconds an instant of license time has come, if nobody sets the clock; 0 if it has.

        Rather a millisecond later than by a rounding too early.
        """
        return 0.0 if self.now() >= instant else max(instant - self._base - self._boot(), 0.0) + 0.001
