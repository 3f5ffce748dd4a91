"""Elapsed time: license time as it would be if nobody had ever set it, back or forward (domain reference, section 9).

The table goes by it, so that setting the license time touches nothing of what stands: what lasts for so many seconds
goes on for as many as were left, and an access is found where it was. Changes tell license time, as it counts just
then; whoever shows an instant of the table gets it from here in the license time of now.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from msgspec import Struct, field

_NEVER: Final = 1 << 62


class Elapsed(Struct, eq=False, gc=False):
    """How license time and elapsed time belong together. All times are whole seconds.

    `set_back` is by how much license time was set back in all, less what it has leapt. Each cut is one time that it
    was set: when that was, in elapsed time, and to which license time. `latest` has for the time before the first cut,
    and from each one on, what it was set back to later at the least: nothing was later than that.
    """

    set_back: int = 0
    cuts: list[tuple[int, int]] = field(default_factory=list)
    latest: list[int] = field(default_factory=lambda: [_NEVER])

    def at(self, now: int) -> int:
        """Return the elapsed time at a license time of now or later."""
        return now + self.set_back if self.set_back else now  # the same object: a million accesses share it

    def comes(self, elapsed: int) -> int:
        """Return the license time at which so much will have elapsed, if it is not set before."""
        return elapsed - self.set_back

    def was(self, elapsed: int) -> int:
        """Return the license time at which something was; nothing was later than what it was set back to since."""
        place = bisect_right(self.cuts, elapsed, key=_begin)
        before, to = self.cuts[place - 1] if place else (0, 0)
        return min(elapsed - before + to, self.latest[place])

    def turn_back(self, to: int, by: int) -> None:
        """License time is set back to this by so many seconds; it leaps forward by fewer than none."""
        self.set_back += by
        self.cuts.append((to + self.set_back, to))
        self.latest = [min(latest, to) for latest in self.latest]
        self.latest.append(_NEVER)


def _begin(cut: tuple[int, int]) -> int:
    return cut[0]
