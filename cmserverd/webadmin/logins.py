"""Who is logged in: kept in memory, so a restart logs everybody out; and how often somebody may try.

A log-in is a random cookie, of which only the hash is kept. It ends after a time without a page asked for, and after a
day's work at the latest. Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

import hmac
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from cmserverd.webadmin.people import hash_of
from protocol.hosts import host_of

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

PER_LOGIN: Final = 10
"""How many tries of a user who is logged in may fail at his own password, wherever he is."""

MOST: Final = 100_000
"""How many tries are remembered: more than can fail while they count, each of which takes a hash. So nobody can have
those of others forgotten, however many addresses and names he has."""

OWN: Final = 20
"""How many hosts are remembered of a user at which he was right, the latest of them."""

Clock = Callable[[], float]


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

    def has(self, user: str) -> bool:
        """Tell whether a user is logged in somewhere."""
        now = self._clock()
        return any(
            login.user == user and now - login.seen < IDLE and now - login.begun < LONGEST
            for login in self._logins.values()
        )

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


class Try(Struct, frozen=True, eq=False):
    """One try at a name, at a time, by what it counts for, until it is taken back or its time is over."""

    time: float
    host: str
    name: str
    keys: tuple[tuple[str, str], ...]


class Tries:
    """Failed tries at passwords, by host and by name. One counts when it begins, so that many at once do not help."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._latest: OrderedDict[Try, None] = OrderedDict()  # of those that count; the oldest stands first
        self._failed: Counter[tuple[str, str]] = Counter()
        self._trusted: dict[str, deque[str]] = {}

    def begin(self, address: str, name: str) -> Try | None:
        """Count a try to log in and return it; None if there may be none.

        Whoever tries another's name away from that one's own hosts cannot lock him out there.
        """
        host = host_of(address)
        limits = {("host", host): PER_ADDRESS}
        if host not in self._trusted.get(name, ()):
            limits["name", name] = PER_NAME
        return self._count(host, name, limits)

    def begin_own(self, address: str, name: str) -> Try | None:
        """Count a try, of who is logged in, at his own password and return it; None if there may be none.

        It counts for nobody else, whoever shares his host.
        """
        return self._count(host_of(address), name, {("own", name): PER_LOGIN})

    def _count(self, host: str, name: str, limits: dict[tuple[str, str], int]) -> Try | None:
        self._forget()
        if any(self._failed[key] >= most for key, most in limits.items()):
            return None
        one = Try(self._clock(), host, name, tuple(limits))
        self._latest[one] = None
        self._failed.update(one.keys)
        return one

    def take_back(self, one: Try) -> None:
        """A try was none that failed: it is not remembered, so that it takes the place of none that did."""
        if one in self._latest:
            del self._latest[one]
            self._failed.subtract(one.keys)
            for key in one.keys:
                if not self._failed[key]:
                    del self._failed[key]

    def succeeded(self, one: Try) -> None:
        """A try was right: its host is the user's own from now on."""
        self.take_back(one)
        own = self._trusted.setdefault(one.name, deque(maxlen=OWN))
        if one.host in own:
            own.remove(one.host)
        own.append(one.host)

    def _forget(self) -> None:
        """Drop what does not count any more."""
        end = self._clock() - WINDOW
        while self._latest:
            oldest = next(iter(self._latest))
            if oldest.time > end and len(self._latest) < MOST:
                return
            self.take_back(oldest)
