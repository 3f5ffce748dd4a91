"""How often the clients of a host may have containers written: a dongle's flash wears out by it.

Each host has buckets that fill in a day. What it may have out at once it can borrow and give back twice out of a full
one; a loan is paid for with its return, so that giving back is never refused. Uses that take units have a bucket of
their own, so large that only a program that goes on without end comes to the bottom of it: units are paid for, but
there may be four thousand million of them, and a dongle's flash bears some hundred thousand changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Final

from msgspec import Struct

from cmserverd.core.refusal import Refused
from protocol.errors import ErrorNumber
from protocol.hosts import host_of

DAY: Final = 86_400.0
"""Seconds in which an empty bucket fills."""

HOSTS: Final = 10_000
"""How many buckets that are not full are remembered, the latest used of them."""


class Bucket(Struct, frozen=True):
    """A kind of bucket: how much is in a full one, and what is told to whom there is not enough in it."""

    full: float
    number: ErrorNumber
    told: str


LOANS: Final = Bucket(
    4,
    ErrorNumber.BORROW_FAILED,
    "each loan wears the container, and {host} has asked for too many of late; ask again in {wait} s",
)
"""In writes for each license that a host may have out at once: twice there and back."""

USES: Final = Bucket(
    50_000,
    ErrorNumber.REQUEST_OVERLOAD,
    "each use that takes units wears the container, and {host} had too many of late; ask again in {wait} s, "
    "and for the units of several uses at once",
)
"""In uses: as many as a dongle bears in more than a week, at its worst, and far more than people make."""


class Wear:
    """The buckets of one kind, by host. `clock` gives seconds, and never goes back.

    Of each is kept when it is full again: a write puts that off by the time in which one comes to it.
    """

    def __init__(self, clock: Callable[[], float], bucket: Bucket = LOANS) -> None:
        self._clock = clock
        self._bucket = bucket
        self._full: OrderedDict[str, float] = OrderedDict()

    def take(self, address: str, charge: float) -> None:
        """Take so much out of a host's bucket. Raises Refused if there is not so much in it."""
        if not charge:
            return
        host, now = host_of(address), self._clock()
        full = max(self._full.get(host, now), now) + charge * DAY / self._bucket.full
        if full > now + DAY:
            wait = ceil(full - now - DAY)
            raise Refused(self._bucket.number, self._bucket.told.format(host=host, wait=wait))
        self._full[host] = full
        self._full.move_to_end(host)
        while len(self._full) > HOSTS:
            self._full.popitem(last=False)

    def give_back(self, address: str, charge: float) -> None:
        """Put back what was taken: nothing was written."""
        host = host_of(address)
        if host in self._full:
            self._full[host] -= charge * DAY / self._bucket.full
