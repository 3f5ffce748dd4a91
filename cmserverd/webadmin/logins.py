"""Who is logged in: kept in memory, so a restart logs everybody out; and how often somebody may try.

A log-in is a random cookie, of which only the hash is kept. It ends after a time without a page asked for, and after a
day's work at the latest. Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, TypeVar

from msgspec import Struct

from cmserverd.webadmin.people import hash_of

IDLE: Final = 30 * 60.0
"""Seconds after which a log-in ends that is not used."""

LONGEST: Final = 12 * 3_600.0
"""Seconds after which it ends anyway."""

PER_USER: Final = 20
"""How many log-ins a user may have; the oldest ends when he logs in again."""

WINDOW: Final = 15 * 60.0
"""Seconds for which a failed try counts."""

PER_ADDRESS, PER_NAME = 10, 50
"""How many tries may fail from one address, and for one name from addresses where it was never right."""

KEYS: Final = 10_000
"""How many addresses and names are remembered, the latest of them."""

Clock = Callable[[], float]

R = TypeVar("R")


class Login(Struct):
    """One log-in; `csrf` is what its forms carry, `seen` when it was last used."""

    user: str
    csrf: str
    begun: float
    seen: float


class Logins:
    """The log-ins, by the hash of their cookie."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._logins: OrderedDict[str, Login] = OrderedDict()

    def begin(self, user: str) -> str:
        """Log a user in; return the cookie's value, which is always a new one."""
        own = [mark for mark, login in self._logins.items() if login.user == user]
        for mark in own[: max(0, len(own) - PER_USER + 1)]:
            del self._logins[mark]
        cookie, now = secrets.token_urlsafe(32), self._clock()
        self._logins[hash_of(cookie)] = Login(user, secrets.token_urlsafe(32), now, now)
        return cookie

    def find(self, cookie: str, *, used: bool) -> Login | None:
        """Return the log-in of a cookie, if it still is one. What a page asks for by itself is no use of it."""
        mark, now = hash_of(cookie), self._clock()
        login = self._logins.get(mark)
        if login is None:
            return None
        if now - login.seen >= IDLE or now - login.begun >= LONGEST:
            del self._logins[mark]
            return None
        if used:
            login.seen = now
        return login

    def end(self, cookie: str) -> None:
        """Log out."""
        self._logins.pop(hash_of(cookie), None)

    def end_all(self, user: str) -> None:
        """Log a user out everywhere."""
        for mark in [mark for mark, login in self._logins.items() if login.user == user]:
            del self._logins[mark]

    def form_token(self, visitor: str) -> str:
        """Return what the forms of somebody carry who is not logged in; `visitor` is his cookie."""
        return hmac.digest(self._key, visitor.encode(errors="replace"), "sha256").hex()


class Tries:
    """Failed tries to log in, by address and by name. One counts when it begins, so that many at once do not help."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._trusted: OrderedDict[tuple[str, str], None] = OrderedDict()

    def begin(self, address: str, name: str) -> bool:
        """Count a try, and tell whether there may be one.

        Whoever tries another's name away from that one's own addresses cannot lock him out there.
        """
        limits = self._limits(address, name)
        if any(self._count(key) >= most for key, most in limits.items()):
            return False
        for key in limits:
            self._failed.setdefault(key, deque()).append(self._clock())
            self._failed.move_to_end(key)
        _shorten(self._failed)
        return True

    def succeeded(self, address: str, name: str) -> None:
        """Take back what `begin` counted: the password was right."""
        for key in self._limits(address, name):
            if times := self._failed.get(key):
                times.pop()
        trusted = (_network(address), name)
        self._trusted[trusted] = None
        self._trusted.move_to_end(trusted)
        _shorten(self._trusted)

    def _limits(self, address: str, name: str) -> dict[tuple[str, str], int]:
        """Return what a try counts for, and how many may fail for each."""
        limits = {("address", _network(address)): PER_ADDRESS}
        if (_network(address), name) not in self._trusted:
            limits["name", name] = PER_NAME
        return limits

    def _count(self, key: tuple[str, str]) -> int:
        times = self._failed.get(key)
        if times is None:
            return 0
        while times and times[0] <= self._clock() - WINDOW:
            times.popleft()
        if not times:
            del self._failed[key]
        return len(times)


def _network(address: str) -> str:
    """Return what counts as one place: an IPv4 address, or the /64 of an IPv6 one, of which a host has all."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.IPv6Network((ip, 64), strict=False))
    return str(ip)


def _shorten(remembered: OrderedDict[tuple[str, str], R]) -> None:
    while len(remembered) > KEYS:
        remembered.popitem(last=False)
