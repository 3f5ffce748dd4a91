"""The way in and out: the one-time set-up of the first administrator, logging in, logging out."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Final, TypeVar

import structlog
import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cmserverd.webadmin.cookies import COOKIE, cookie_name, drop_cookie, set_cookie
from cmserverd.webadmin.limits import TooMany, Turns
from cmserverd.webadmin.logins import Clock, Logins, Tries
from cmserverd.webadmin.offers import Offer, Open, Visit
from cmserverd.webadmin.people import LONGEST, SHORTEST, NotAllowed, Passwords, People, User, hash_of
from cmserverd.webadmin.visitors import address_of, visitor_of

SETUP_ENDS: Final = 3_600.0
"""Seconds after which the set-up link is worth nothing."""

AT_ONCE: Final = 2
"""How many passwords are looked at in threads at the same time: pages need the processor, too."""

WAITING: Final = 10
"""How many more of one visitor may wait for that; each costs nothing but its connection."""

T = TypeVar("T")

_log = structlog.get_logger("webadmin")


class Hashing:
    """Hashes passwords in threads, few at once; each visitor that asks for it (`visitor_of`) has his turn."""

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords
        self._turns = Turns(
            AT_ONCE, each=AT_ONCE, waiting=WAITING, refusal="Too many log in at once; try again in a moment."
        )

    async def hash(self, password: str, visitor: str) -> str:
        """Return the hash of a new password, for a visitor. Raises NotAllowed, TooMany."""
        return await self._in_a_thread(lambda: self._passwords.hash(password), visitor)

    async def check(self, password: str, user: User | None, visitor: str) -> bool:
        """Tell whether it is the user's, for a visitor. Raises TooMany; then, and if cancelled, nobody looked at it."""
        return await self._in_a_thread(lambda: self._passwords.check(password, user), visitor)

    async def _in_a_thread(self, work: Callable[[], T], visitor: str) -> T:
        async with self._turns.turn(visitor):
            return await trio.to_thread.run_sync(work)


class Entrance:
    """Logging in and out. `link` is the secret part of the set-up link, empty if there is an administrator."""

    def __init__(self, people: People, logins: Logins, hashing: Hashing, clock: Clock) -> None:
        self._people = people
        self._logins = logins
        self._hashing = hashing
        self._clock = clock
        self._tries = Tries(clock)
        self.link = "" if people.set_up else secrets.token_urlsafe(32)
        self._link_hash = hash_of(self.link) if self.link else ""
        self._link_ends = clock() + SETUP_ENDS

    @property
    def offers(self) -> list[Offer]:
        """Return what everybody may have of it."""
        return [
            Open("/setup/{link}", self.show_setup),
            Open("/setup/{link}", self.setup, "POST"),
            Open("/login", self.show_login),
            Open("/login", self.login, "POST"),
            Open("/logout", self.logout, "POST"),
        ]

    # the first administrator

    async def show_setup(self, request: Request, visit: Visit) -> Response:
        """Show the form, if the link is right."""
        self._check_link(request)
        return _setup_page(visit)

    async def setup(self, request: Request, visit: Visit) -> Response:
        """Make the first administrator and log him in."""
        self._check_link(request)
        form = await request.form()
        name, password = str(form.get("user", "")).strip().lower(), str(form.get("password", ""))
        try:
            if password != form.get("again"):
                raise NotAllowed("The two passwords are not the same.")
            password_hash = await self._hashing.hash(password, visitor_of(request, visit.user))
            self._check_link(request)  # once more: another may have been faster
            self._people.add_first(name, password_hash)
        except NotAllowed as error:
            return _setup_page(visit, name, str(error))
        self._link_hash = ""
        _log.info("the first administrator was made", user=name, address=address_of(request))
        return self._enter(request, name, "/")

    def _check_link(self, request: Request) -> None:
        shown = hash_of(request.path_params["link"])
        right = bool(self._link_hash) and hmac.compare_digest(shown, self._link_hash)
        if not right or self._clock() >= self._link_ends or self._people.set_up:
            raise HTTPException(404, "This link is worth nothing (any more); start WebAdmin again for a new one.")

    # everybody else

    async def show_login(self, request: Request, visit: Visit) -> Response:
        """Show the form."""
        return self._login_page(visit, request.query_params.get("next", ""))

    async def login(self, request: Request, visit: Visit) -> Response:
        """Log in, or say that it was wrong: never whether it was the name or the password."""
        form = await request.form()
        name, password = str(form.get("user", "")).strip().lower()[:64], str(form.get("password", ""))
        where, address = str(form.get("next", "")), address_of(request)
        # Some type their password where the name belongs; the log has names of users only.
        user = self._people.user(name)
        known = user.name if user else "unknown"
        tried = self._tries.begin(address, name)
        if tried is None:
            _log.warning("too many failed log-ins", user=known, address=address)
            return self._login_page(visit, where, name, "Too many tries; wait a quarter of an hour.", 429)
        try:
            right = await self._hashing.check(password, user, visitor_of(request, visit.user))
        except (TooMany, trio.Cancelled):
            self._tries.take_back(tried)  # it was no guess
            raise
        if not right:
            _log.warning("log-in failed", user=known, address=address)
            return self._login_page(visit, where, name, "The user or the password is wrong.", 403)
        if self._people.user(name) != user:  # he was removed, or his password changed, while it was looked at
            raise HTTPException(503, "The user has changed; try again.")
        self._tries.succeeded(tried)
        _log.info("logged in", user=name, address=address)
        return self._enter(request, name, where)

    async def logout(self, request: Request, visit: Visit) -> Response:
        """Log out."""
        if visit.user:
            self._logins.end(request.cookies[cookie_name(request, COOKIE)])
            _log.info("logged out", user=visit.user, address=address_of(request))
        response = RedirectResponse("/login", 303)
        drop_cookie(request, response, COOKIE)
        return response

    def _enter(self, request: Request, name: str, where: str) -> Response:
        """Log in, with a cookie that nobody can have known before."""
        self._logins.end(request.cookies.get(cookie_name(request, COOKIE), ""))
        response = RedirectResponse(where if is_ours(where) else "/", 303)
        set_cookie(request, response, COOKIE, self._logins.begin(name))
        return response

    def _login_page(self, visit: Visit, where: str, name: str = "", problem: str = "", status: int = 200) -> Response:
        return visit.render(
            "login.html",
            status,
            anybody=bool(self._people.users),
            next=where if is_ours(where) else "/",
            user=name,
            problem=problem,
            longest=LONGEST,
        )


def is_ours(where: str) -> bool:
    """Tell whether a browser that is led there stays on this server: a path, and nothing it could take for a host."""
    return where.startswith("/") and where[1:2] not in ("/", "\\") and where.isprintable() and where.isascii()


def _setup_page(visit: Visit, name: str = "", problem: str = "") -> Response:
    status = 400 if problem else 200
    return visit.render("setup.html", status, user=name, problem=problem, shortest=SHORTEST, longest=LONGEST)
