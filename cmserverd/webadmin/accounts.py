"""Who may use WebAdmin, as pages: one's own password for everybody, users and tokens for administrators."""

from __future__ import annotations

import time
from typing import Final

import structlog
import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cmserverd.webadmin.cookies import COOKIE, set_cookie
from cmserverd.webadmin.entrance import Hashing
from cmserverd.webadmin.limits import TooMany
from cmserverd.webadmin.logins import Clock, Logins, Tries
from cmserverd.webadmin.offers import Action, Offer, Page, Visit
from cmserverd.webadmin.people import (
    LONGEST,
    LONGEST_NAME,
    LONGEST_TOKEN_NAME,
    SHORTEST,
    NotAllowed,
    People,
    Role,
    Token,
    User,
)
from cmserverd.webadmin.visitors import address_of, visitor_of

_DONE: Final = {
    "added": "The user was added, and can log in.",
    "role": "The role was changed; it counts at once, also where the user is logged in.",
    "password": "The new password is set, and the user was logged out everywhere.",
    "removed": "The user was removed.",
    "token-removed": "The token was removed.",
}
"""What the list says after something was done, by the word in its address."""

_log = structlog.get_logger("webadmin")


class Accounts:
    """The pages about users and tokens."""

    def __init__(self, people: People, logins: Logins, hashing: Hashing, clock: Clock) -> None:
        self._people = people
        self._logins = logins
        self._hashing = hashing
        self._tries = Tries(clock)

    @property
    def offers(self) -> list[Offer]:
        """Return the pages and what can be done on them."""
        return [
            Page("/account", self.account),
            Action("/account/password", self.own_password, Role.VIEWER),
            Page("/people", self.show, Role.ADMIN, menu="Users"),
            Action("/people/users", self.add, Role.ADMIN),
            Action("/people/users/{name}/role", self.change_role, Role.ADMIN),
            Action("/people/users/{name}/password", self.change_password, Role.ADMIN),
            Page("/people/users/{name}/remove", self.ask_to_remove, Role.ADMIN),
            Action("/people/users/{name}/remove", self.remove, Role.ADMIN),
            Action("/people/tokens", self.add_token, Role.ADMIN),
            Page("/people/tokens/{name}/remove", self.ask_to_remove_token, Role.ADMIN),
            Action("/people/tokens/{name}/remove", self.remove_token, Role.ADMIN),
        ]

    # one's own

    async def account(self, request: Request, visit: Visit) -> Response:
        """Show who is logged in, and a form for another password."""
        if not visit.user:
            return RedirectResponse("/login", 303)
        return _account_page(visit, done="done" in request.query_params)

    async def own_password(self, request: Request, visit: Visit) -> Response:
        """Change one's own password; all other log-ins of the user end."""
        if not visit.user:
            raise HTTPException(403, "Only who is logged in has a password to change.")
        form = await request.form()
        user = self._people.user(visit.user)
        if user is None:
            raise _no_longer()
        tried = self._tries.begin_own(address_of(request), user.name)
        if tried is None:
            _log.warning("too many wrong old passwords", user=user.name, address=address_of(request))
            return _account_page(visit, 429, "Too many tries; wait a quarter of an hour.")
        try:
            right = await self._hashing.check(str(form.get("old", "")), user, visitor_of(request, visit.user))
        except (TooMany, trio.Cancelled):
            self._tries.take_back(tried)  # it was no guess
            raise
        try:
            if not right:
                _log.warning("wrong old password", user=user.name, address=address_of(request))
                raise NotAllowed("The old password is wrong.")
            self._tries.take_back(tried)
            if form.get("password") != form.get("again"):
                raise NotAllowed("The two new passwords are not the same.")
            fresh = await self._hash(str(form.get("password", "")), request, visit)
            if self._people.user(user.name) != user:  # another has changed it while the old one was looked at
                raise NotAllowed("Your password has been changed meanwhile; nothing was changed now.")
            self._people.change_password(user.name, fresh)
        except NotAllowed as error:
            return _account_page(visit, 400, str(error))
        self._logins.end_all(user.name)
        _log.info("password changed", user=user.name, by=visit.who, address=address_of(request))
        response = RedirectResponse("/account?done", 303)
        set_cookie(request, response, COOKIE, self._logins.begin(user.name))
        return response

    # everybody's

    async def show(self, request: Request, visit: Visit) -> Response:
        """Show the users and tokens, and what was done last."""
        return self._page(visit, done=_DONE.get(request.query_params.get("done", ""), ""))

    async def add(self, request: Request, visit: Visit) -> Response:
        """Add a user."""
        form = await request.form()
        name = str(form.get("name", "")).strip().lower()
        try:
            role = _role(form.get("role"))
            password_hash = await self._hash(str(form.get("password", "")), request, visit)
            self._people.add(name, role, password_hash)
        except NotAllowed as error:
            return self._page(visit, problem=str(error))
        _log.info("user added", user=name, role=role, by=visit.who, address=address_of(request))
        return RedirectResponse("/people?done=added", 303)

    async def change_role(self, request: Request, visit: Visit) -> Response:
        """Give a user another role, at once also where he is logged in."""
        name = request.path_params["name"]
        form = await request.form()
        try:
            role = _role(form.get("role"))
            _check_is_shown(self._people.user(name), form.get("id"))
            self._people.change_role(name, role)
        except NotAllowed as error:
            return self._page(visit, problem=str(error))
        _log.info("role changed", user=name, role=role, by=visit.who, address=address_of(request))
        return RedirectResponse("/people?done=role", 303)

    async def change_password(self, request: Request, visit: Visit) -> Response:
        """Give a user another password, who has forgotten his; he is logged out."""
        name = request.path_params["name"]
        form = await request.form()
        try:
            fresh = await self._hash(str(form.get("password", "")), request, visit)
            # Not before: the name may have been given anew meanwhile.
            _check_is_shown(self._people.user(name), form.get("id"))
            self._people.change_password(name, fresh)
        except NotAllowed as error:
            return self._page(visit, problem=str(error))
        self._logins.end_all(name)
        _log.info("password changed", user=name, by=visit.who, address=address_of(request))
        return RedirectResponse("/people?done=password", 303)

    async def ask_to_remove(self, request: Request, visit: Visit) -> Response:
        """Ask whether a user is to be removed, and say what that does to him."""
        user = self._people.user(request.path_params["name"])
        if user is None:
            return self._page(visit, problem="There is no such user any more.")
        admins = [one for one in self._people.users if one.role is Role.ADMIN]
        return visit.render(
            "person_removal.html",
            what="user",
            name=user.name,
            id=user.id,
            role=user.role,
            logged_in=self._logins.has(user.name),
            himself=user.name == visit.user,
            last=admins == [user],
        )

    async def remove(self, request: Request, visit: Visit) -> Response:
        """Remove a user, who is logged out by that."""
        name = request.path_params["name"]
        shown = (await request.form()).get("id")
        try:
            _check_is_shown(self._people.user(name), shown)
            self._people.remove(name)
        except NotAllowed as error:
            return self._page(visit, problem=str(error))
        self._logins.end_all(name)
        _log.info("user removed", user=name, by=visit.who, address=address_of(request))
        return RedirectResponse("/people?done=removed", 303)

    async def add_token(self, request: Request, visit: Visit) -> Response:
        """Make a token and show it, this once."""
        form = await request.form()
        name = str(form.get("name", "")).strip().lower()
        try:
            role = _role(form.get("role"))
            shown = self._people.add_token(name, role, int(time.time()))
        except NotAllowed as error:
            return self._page(visit, problem=str(error))
        _log.info("token made", token=name, role=role, by=visit.who, address=address_of(request))
        return self._page(visit, made=shown)

    async def ask_to_remove_token(self, request: Request, visit: Visit) -> Response:
        """Ask whether a token is to be removed, and say what that does to the machine that has it."""
        token = self._token(request.path_params["name"])
        if token is None:
            return self._page(visit, problem="There is no such token any more.")
        return visit.render(
            "person_removal.html",
            what="token",
            name=token.name,
            id=token.id,
            role=token.role,
            made_on=_day(token.made),
            last=False,
        )

    async def remove_token(self, request: Request, visit: Visit) -> Response:
        """Remove a token, which is worth nothing from then on."""
        name = request.path_params["name"]
        shown = (await request.form()).get("id")
        try:
            _check_is_shown(self._token(name), shown)
            self._people.remove_token(name)
        except NotAllowed as error:
            return self._page(visit, problem=str(error))
        _log.info("token removed", token=name, by=visit.who, address=address_of(request))
        return RedirectResponse("/people?done=token-removed", 303)

    async def _hash(self, password: str, request: Request, visit: Visit) -> str:
        """Return the hash of a new password, for who may still do what he began.

        Raises NotAllowed, TooMany, and HTTPException 403: it takes its time, in which he may have been removed.
        """
        fresh = await self._hashing.hash(password, visitor_of(request, visit.user))
        if not visit.stands():
            raise _no_longer()
        return fresh

    def _token(self, name: str) -> Token | None:
        return next((one for one in self._people.tokens if one.name == name), None)

    def _page(self, visit: Visit, *, problem: str = "", made: str = "", done: str = "") -> Response:
        return visit.render(
            "people.html",
            400 if problem else 200,
            users=self._people.users,
            tokens=[(one, _day(one.made)) for one in self._people.tokens],
            roles=list(Role),
            problem=problem,
            made=made,
            done=done,
            shortest=SHORTEST,
            longest=LONGEST,
            longest_name=LONGEST_NAME,
            longest_token_name=LONGEST_TOKEN_NAME,
        )


def _no_longer() -> HTTPException:
    return HTTPException(403, "Your log-in has ended, or your role was changed, meanwhile; nothing was done.")


def _check_is_shown(found: User | Token | None, shown: object) -> None:
    """Refuse what is meant for another one than there is by that name now. Raises NotAllowed."""
    if found is not None and found.id != shown:
        kind = "user" if isinstance(found, User) else "token"
        raise NotAllowed(
            f"The {kind} {found.name} is another one than you were shown; nothing was done. Look, and choose again."
        )


def _account_page(visit: Visit, status: int = 200, problem: str = "", *, done: bool = False) -> Response:
    return visit.render("account.html", status, problem=problem, done=done, shortest=SHORTEST, longest=LONGEST)


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _role(text: object) -> Role:
    try:
        return Role(str(text))
    except ValueError:
        raise NotAllowed(f"Choose a role: {', '.join(Role)}.") from None
