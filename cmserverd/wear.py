"""How often the clients of a host may have containers written: a dongle's flash wears out by it.

Each host has a bucket that fills in a day; what it may have out at once it can borrow and give back twice out of a full
one. A loan is paid for with its return, so that giving back is never refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Final

from cmserverd.core.refusal import Refused
from protocol.errors import ErrorNumber
from protocol.hosts import host_of

DAY: Final = 86_400.0
"""Seconds in which an empty bucket fills."""

WRITES: Final = 4
"""How many writes a full bucket has for each license that a host may have out at once: twice there and back."""

HOSTS: Final = 10_000
"""How many buckets that are not full are remembered, the latest used of them."""


class Wear:
    """The buckets, by host. `clock` gives seconds, and never goes back.

    Of each is kept when it is full again: a write puts that off by the time in which one comes to it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._full: OrderedDict[str, float] = OrderedDict()

    def take(self, address: str, charge: float) -> None:
        """Take out of a host's bucket: `charge` is how many writes for each license that it may have out.

        Raises Refused: 226 if there is not so much in it.
        """
        if not charge:
            return
        host, now = host_of(address), self._clock()
        full = max(self._full.get(host, now), now) + charge * DAY / WRITES
        if full > now + DAY:
            wait = ceil(full - now - DAY)
            raise Refused(
                ErrorNumber.BORROW_FAILED,
                f"each loan wears the container, and {host} has asked for too many of late; ask again in {wait} s",
            )
        self._full[host] = full
        self._full.move_to_end(host)
        while len(self._full) > HOSTS:
            self._full.popitem(last=False)

    def give_back(self, address: str, charge: float) -> None:
        """Put back what was taken: nothing was written."""
        host = host_of(address)
        if host in self._full:
            self._full[host] -= charge * DAY / WRITES
