"""Who may use WebAdmin, as pages: one's own password for everybody, users and tokens for administrators."""

from __future__ import annotations

import time

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cmserverd.webadmin.entrance import Hashing
from cmserverd.webadmin.guard import COOKIE, Action, Offer, Page, Visit, address_of, set_cookie
from cmserverd.webadmin.logins import Logins
from cmserverd.webadmin.people import LONGEST, SHORTEST, NotAllowed, People, Role

_log = structlog.get_logger("webadmin")


class Accounts:
    """The pages about users and tokens."""

    def __init__(self, people: People, logins: Logins, hashing: Hashing) -> None:
        self._people = people
        self._logins = logins
        self._hashing = hashing

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
        try:
            if not await self._hashing.check(str(form.get("old", "")), user, address_of(request)) or user is None:
                raise NotAllowed("The old password is wrong.")
            if form.get("password") != form.get("again"):
                raise NotAllowed("The two new passwords are not the same.")
            fresh = await self._hashing.hash(str(form.get("password", "")), address_of(request))
            self._people.change_password(user.name, fresh)
        except NotAllowed as error:
            return _account_page(visit, problem=str(error))
        self._logins.end_all(user.name)
        _log.info("password changed", user=user.name, by=visit.who, address=address_of(request))
        response = RedirectResponse("/account?done", 303)
        set_cookie(request, response, COOKIE, self._logins.begin(user.name))
        return response

    # everybody's

    async def show(self, _: Request, visit: Visit) -> Response:
        """Show the users and tokens."""
        return self._page(visit)

    async def add(self, request: Request, visit: Visit) -> Response:
        """Add a user."""
        form = await request.form()
        name = str(form.get("name", "")).strip().lower()
        try:
            role = _role(form.get("role"))
            password_hash = await self._hashing.hash(str(form.get("password", "")), address_of(request))
            self._people.add(name, role, password_hash)
        except NotAllowed as error:
            return self._page(visit, problem=str(error))
        _log.info("user added", user=name, role=role, by=visit.who, address=address_of(request))
        return RedirectResponse("/people", 303)

    async def change_role(self, request: Request, visit: Visit) -> Response:
        """Give a user another role, at once also where he is logged in."""
        name = request.path_params["name"]
        try:
            role = _role((await request.form()).get("role"))
            self._people.change_role(name, role)
        except NotAllowed as error:
            return self._page(visit, problem=str(error))
        _log.info("role changed", user=name, role=role, by=visit.who, address=address_of(request))
        return RedirectResponse("/people", 303)

    async def change_password(self, request: Request, visit: Visit) -> Response:
        """Give a user another password, who has forgotten his; he is logged out."""
        name = request.path_params["name"]
        try:
            password = str((await request.form()).get("password", ""))
            fresh = await self._hashing.hash(password, address_of(request))
            self._people.change_password(name, fresh)
        except NotAllowed as error:
            return self._page(visit, problem=str(error))
        self._logins.end_all(name)
        _log.info("password changed", user=name, by=visit.who, address=address_of(request))
        return RedirectResponse("/people", 303)

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
            role=user.role,
            logged_in=self._logins.has(user.name),
            himself=user.name == visit.user,
            last=admins == [user],
        )

    async def remove(self, request: Request, visit: Visit) -> Response:
        """Remove a user, who is logged out by that."""
        name = request.path_params["name"]
        try:
            self._people.remove(name)
        except NotAllowed as error:
            return self._page(visit, problem=str(error))
        self._logins.end_all(name)
        _log.info("user removed", user=name, by=visit.who, address=address_of(request))
        return RedirectResponse("/people", 303)

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
        name = request.path_params["name"]
        token = next((one for one in self._people.tokens if one.name == name), None)
        if token is None:
            return self._page(visit, problem="There is no such token any more.")
        return visit.render(
            "person_removal.html", what="token", name=token.name, role=token.role, made_on=_day(token.made), last=False
        )

    async def remove_token(self, request: Request, visit: Visit) -> Response:
        """Remove a token, which is worth nothing from then on."""
        name = request.path_params["name"]
        try:
            self._people.remove_token(name)
        except NotAllowed as error:
            return self._page(visit, problem=str(error))
        _log.info("token removed", token=name, by=visit.who, address=address_of(request))
        return RedirectResponse("/people", 303)

    def _page(self, visit: Visit, *, problem: str = "", made: str = "") -> Response:
        return visit.render(
            "people.html",
            400 if problem else 200,
            users=self._people.users,
            tokens=[(one, _day(one.made)) for one in self._people.tokens],
            roles=list(Role),
            problem=problem,
            made=made,
            shortest=SHORTEST,
            longest=LONGEST,
        )


def _account_page(visit: Visit, problem: str = "", *, done: bool = False) -> Response:
    status = 400 if problem else 200
    return visit.render("account.html", status, problem=problem, done=done, shortest=SHORTEST, longest=LONGEST)


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _role(text: object) -> Role:
    try:
        return Role(str(text))
    except ValueError:
        raise NotAllowed(f"Choose a role: {', '.join(Role)}.") from None
