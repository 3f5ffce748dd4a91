"""What each path demands of whoever asks: the only way in which a route of WebAdmin is made, so that none can lack it.

A module says what it offers as values: `Page` is seen, `Action` does something (POST), `Api` is for machines, `Open` is
for everybody. `Guard.route` makes routes out of them. Nothing that a proxy may add to a request is believed.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote

import structlog
import trio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from cmserverd.webadmin.daemon import Daemon
from cmserverd.webadmin.logins import Login, Logins
from cmserverd.webadmin.people import People, Role

COOKIE: Final = "cmserverd"
"""The cookie of a log-in; over TLS with the prefix by which browsers take it from this host only."""

VISITOR: Final = "cmserverd-visitor"
"""The cookie of somebody who is not logged in: his forms belong to it."""

SECURE_PREFIX: Final = "__Host-"

BODY_TIME: Final = 30.0
"""Seconds in which a request must have come: else who sends it slowly holds its connection and memory for ever."""

STRANGERS: Final = 16 * 1024
"""The most bytes of a form by somebody who is not logged in."""

FIELDS: Final = 100
"""How many fields a form may have."""

ANYBODY: Final = "anybody"
"""Who is named in the log where no log-in is demanded."""

_log = structlog.get_logger("webadmin")


@dataclass(frozen=True)
class Visit:
    """Who asks, and what a handler may use for the answer.

    `user` is empty for who is not logged in; `role` is then None, unless anybody may look. `csrf` is what each form
    carries. A stream ends when `stands` says that the log-in is over.
    """

    user: str
    role: Role | None
    csrf: str = field(repr=False)
    daemon: Daemon = field(repr=False)
    render: Callable[..., Response] = field(repr=False)
    """`render("licenses.html", 200, rows=rows)`: the page of a template; the status may be left out."""
    stands: Callable[[], bool] = field(repr=False)

    def may(self, needed: Role) -> bool:
        """Tell whether he may do what needs a role."""
        return self.role is not None and self.role.covers(needed)

    @property
    def who(self) -> str:
        """Return how the log and the daemon are told who did something."""
        return self.user or ANYBODY


Handler = Callable[[Request, Visit], Awaitable[Response]]


@dataclass(frozen=True)
class Page:
    """A page that is seen (GET), by everybody who has the role; `menu` is its text in the navigation, if any."""

    path: str
    handler: Handler
    role: Role = Role.VIEWER
    menu: str = ""


@dataclass(frozen=True)
class Action:
    """Something that is done by a form (POST), by everybody who has the role."""

    path: str
    handler: Handler
    role: Role = Role.OPERATOR


@dataclass(frozen=True)
class Open:
    """What everybody may have: logging in, the files, the health."""

    path: str
    handler: Handler
    method: Literal["GET", "POST"] = "GET"


@dataclass(frozen=True)
class Api:
    """What a machine asks with a token, or a page with its log-in; refusals are not led to the log-in page."""

    path: str
    handler: Handler
    role: Role = Role.VIEWER
    method: Literal["GET", "POST", "DELETE"] = "GET"


Offer = Page | Action | Open | Api


class Guard:
    """Lets in whom it should. `render` is given the request, the visit, a template's name, a status and its values."""

    def __init__(
        self,
        people: People,
        logins: Logins,
        daemon: Daemon,
        render: Callable[[Request, Visit, str, int, dict[str, Any]], Response],
        *,
        hosts: Iterable[str],
        anonymous: Role | None,
    ) -> None:
        self._people = people
        self._logins = logins
        self._daemon = daemon
        self._render = render
        self._hosts = frozenset(host.lower() for host in hosts)
        self._anonymous = anonymous

    def route(self, offer: Offer) -> Route:
        """Return the route of an offer."""
        match offer:
            case Page() | Api(method="GET") | Open(method="GET"):
                methods = ["GET"]
            case Action():
                methods = ["POST"]
            case Open(method=method) | Api(method=method):
                methods = [method]

        async def endpoint(request: Request) -> Response:
            return await self._answer(offer, request)

        return Route(offer.path, endpoint, methods=methods)

    def visit(self, request: Request) -> Visit:
        """Return who asks, as far as it can be told: for pages about errors too."""
        found: Visit | None = getattr(request.state, "visit", None)
        return found or self._visit(request, self._login(request))

    def names_us(self, host: str) -> bool:
        """Tell whether a Host header is this server's.

        A name of a stranger may lead a browser here that believes itself there (DNS rebinding); an address cannot.
        """
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::\d{1,5})?", host, re.ASCII)
        if found is None:
            return False
        name = (found[1] or found[2]).lower().removesuffix(".")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name in self._hosts
        return True

    # one request

    async def _answer(self, offer: Offer, request: Request) -> Response:
        # All of it first: who is asked for below must still be who he is when his request is answered.
        await self._take_body(request)
        if isinstance(offer, Api) and "authorization" in request.headers:
            visit = self._by_token(request)
        else:
            login = self._login(request)
            visit = self._visit(request, login)
            request.state.visit = visit
            if request.method not in ("GET", "HEAD"):
                _check_origin(request)
                await _check_form(request, visit)
        request.state.visit = visit
        if not isinstance(offer, Open) and not visit.may(offer.role):
            return self._refused(offer, request, visit)
        try:
            response = await offer.handler(request, visit)
        finally:
            await request.close()  # of a form with a file
        if VISITOR in request.state.set_cookies:
            set_cookie(request, response, VISITOR, request.state.set_cookies[VISITOR])
        return response

    async def _take_body(self, request: Request) -> None:
        """Read what a request brings, in a bounded time; of strangers, who only log in, it is bounded to less."""
        if request.method in ("GET", "HEAD"):
            return
        known = self._login(request) is not None or "authorization" in request.headers
        length = request.headers.get("content-length", "")
        if not known and not (re.fullmatch(r"\d{1,9}", length, re.ASCII) and int(length) <= STRANGERS):
            raise HTTPException(413, f"This form is longer than {STRANGERS} bytes; log in first.")
        try:
            with trio.move_on_after(BODY_TIME) as taking:
                await request.body()
        except ClientDisconnect:
            raise HTTPException(400, "The request did not come to its end.") from None
        if taking.cancelled_caught:
            raise HTTPException(408, f"The request did not come within {BODY_TIME:g} s.")

    def _login(self, request: Request) -> Login | None:
        cookie = request.cookies.get(cookie_name(request, COOKIE), "")
        by_itself = "hx-request" in request.headers  # a page that stands open on a screen is no use of the log-in
        login = self._logins.find(cookie, used=not by_itself) if cookie else None
        return login if login and self._people.user(login.user) else None

    def _visit(self, request: Request, login: Login | None) -> Visit:
        request.state.set_cookies = {}
        if login is None:
            visitor = request.cookies.get(cookie_name(request, VISITOR), "")
            if not re.fullmatch(r"[\w-]{43}", visitor, re.ASCII):
                visitor = request.state.set_cookies[VISITOR] = secrets.token_urlsafe(32)
            return self._made(request, "", self._anonymous, self._logins.form_token(visitor), lambda: True)
        cookie = request.cookies[cookie_name(request, COOKIE)]
        user = self._people.user(login.user)
        role = user.role if user else None

        def stands() -> bool:
            now = self._people.user(login.user)
            return now is not None and now.role is role and self._logins.find(cookie, used=False) is login

        return self._made(request, login.user, role, login.csrf, stands)

    def _by_token(self, request: Request) -> Visit:
        scheme, _, shown = request.headers["authorization"].partition(" ")
        request.state.set_cookies = {}
        token = self._people.token(shown.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise HTTPException(401, "There is no such token.", {"WWW-Authenticate": "Bearer"})
        return self._made(request, f"token:{token.name}", token.role, "", lambda: token in self._people.tokens)

    def _made(self, request: Request, user: str, role: Role | None, csrf: str, stands: Callable[[], bool]) -> Visit:
        def render(template: str, status: int = 200, /, **values: Any) -> Response:
            return self._render(request, visit, template, status, values)

        visit = Visit(user, role, csrf, self._daemon, render, stands)
        return visit

    def _refused(self, offer: Page | Action | Api, request: Request, visit: Visit) -> Response:
        if visit.user or (isinstance(offer, Api) and visit.role is not None):
            _log.warning("refused", user=visit.who, role=visit.role, needed=offer.role, path=request.url.path)
            raise HTTPException(403, f"This needs the role {offer.role}; yours is {visit.role}.")
        if isinstance(offer, Api):
            raise HTTPException(401, "This needs a token.", {"WWW-Authenticate": "Bearer"})
        back = request.url.path if isinstance(offer, Page) else "/"
        if isinstance(offer, Page) and request.url.query:
            back += f"?{request.url.query}"
        where = "/login?next=" + quote(back, safe="/")
        if "hx-request" in request.headers:
            return Response(status_code=401, headers={"HX-Redirect": "/login"})
        return RedirectResponse(where, 303)


def _check_origin(request: Request) -> None:
    """Refuse what another site's page sends; browsers say with each POST where it comes from."""
    scheme, _, place = request.headers.get("origin", "").partition("://")
    own, site = request.headers["host"], request.headers.get("sec-fetch-site", "same-origin")
    if scheme not in ("http", "https") or place != own or site != "same-origin":
        _log.warning("refused a form of another site", origin=request.headers.get("origin", ""), path=request.url.path)
        raise HTTPException(403, "This form does not come from a page of this server.")


async def _check_form(request: Request, visit: Visit) -> None:
    """Refuse a form that was not made for this visit. A script of ours may send the token as a header."""
    given: object = request.headers.get("x-csrf-token")
    if given is None:
        given = (await request.form(max_files=1, max_fields=FIELDS)).get("csrf")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), visit.csrf.encode()):
        raise HTTPException(403, "This form is out of date: go back, load the page again and repeat it.")


def cookie_name(request: Request, name: str) -> str:
    """Return what a cookie is called on this connection."""
    return SECURE_PREFIX + name if request.scope["scheme"] == "https" else name


def set_cookie(request: Request, response: Response, name: str, value: str) -> None:
    """Give a cookie that no script reads and no other site's page sends; it ends with the browser."""
    secure = request.scope["scheme"] == "https"
    response.set_cookie(cookie_name(request, name), value, httponly=True, samesite="strict", secure=secure)


def drop_cookie(request: Request, response: Response, name: str) -> None:
    """Take a cookie back."""
    secure = request.scope["scheme"] == "https"
    response.delete_cookie(cookie_name(request, name), httponly=True, samesite="strict", secure=secure)


def address_of(request: Request) -> str:
    """Return from where the connection comes: its other end, whatever a header says."""
    return request.client.host if request.client else "unknown"
