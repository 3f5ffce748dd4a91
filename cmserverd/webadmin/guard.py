"""Holds who asks to what the offers demand: the only way in which a route of WebAdmin is made, so that none lacks it.

How much one visitor may have done at once is bounded here, too. The log names the path of an offer and never that of a
request, where a secret may be.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final
from urllib.parse import quote

import structlog
import trio
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cmserverd.webadmin.cookies import COOKIE, VISITOR, cookie_name, set_cookie
from cmserverd.webadmin.daemon import Daemon
from cmserverd.webadmin.limits import Turns
from cmserverd.webadmin.logins import Login, Logins
from cmserverd.webadmin.offers import Action, Api, Offer, Open, Page, Stream, Visit
from cmserverd.webadmin.people import People, Role
from cmserverd.webadmin.presence import while_there
from cmserverd.webadmin.visitors import visitor_of

BODY_TIME: Final = 30.0
"""Seconds in which a request must have come: else who sends it slowly holds its connection and memory for ever."""

STRANGERS: Final = 16 * 1024
"""The most bytes of a form by somebody who is not logged in."""

FIELDS: Final = 100
"""How many fields a form may have."""

_log = structlog.get_logger("webadmin")


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
        again = "try again in a moment."
        self._requests = Turns(200, each=6, waiting=100, refusal=f"You have asked for too much at once; {again}")
        # The license server reads its history for one at a time.
        self._history = Turns(2, each=1, waiting=2, refusal=f"The history is being read for too many already; {again}")
        self._streams = Turns(
            500, each=50, waiting=0, refusal="Too many pages are open; this one is not kept up to date."
        )

    def route(self, offer: Offer) -> Route:
        """Return the route of an offer."""
        match offer:
            case Page() | Stream() | Api(method="GET") | Open(method="GET"):
                methods = ["GET"]
            case Action():
                methods = ["POST"]
            case Open(method=method) | Api(method=method):
                methods = [method]

        return Route(offer.path, _Endpoint(self._serve, offer), methods=methods)

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

    async def _serve(self, offer: Offer, request: Request, send: Send) -> None:
        """Answer a request, in its turn, which ends when the answer has been taken."""
        request.state.offered = offer.path

        async def answer() -> None:
            response = await self._answer(offer, request)
            await response(request.scope, request.receive, send)

        async def answer_in_turn(turns: Turns) -> None:
            async with turns.turn(self._visitor(offer, request)):
                await answer()

        try:
            if isinstance(offer, Open):
                await answer()
            elif isinstance(offer, Stream):
                await answer_in_turn(self._streams)
            elif offer.reads_history:
                async with self._requests.turn(self._visitor(offer, request)):
                    await self._take_body(offer, request)
                await while_there(request, lambda: answer_in_turn(self._history))
            else:
                await answer_in_turn(self._requests)
        finally:
            await request.close()  # of a form with a file, refused or not

    async def _answer(self, offer: Offer, request: Request) -> Response:
        # All that is awaited first: who is asked for below must still be who he is when his request is answered.
        await self._take_body(offer, request)
        if _shows_token(offer, request):
            visit = self._by_token(request)
        else:
            posted = request.method not in ("GET", "HEAD")
            if posted:
                _check_origin(request, offer)
            carried = await _form_token(request) if posted else None
            login = self._login(request)
            visit = self._visit(request, login)
            request.state.visit = visit
            if posted:
                _check_form(carried, visit)
        request.state.visit = visit
        if not isinstance(offer, Open) and not visit.may(offer.role):
            return self._refused(offer, request, visit)
        response = await offer.handler(request, visit)
        if VISITOR in request.state.set_cookies:
            set_cookie(request, response, VISITOR, request.state.set_cookies[VISITOR])
        return response

    async def _take_body(self, offer: Offer, request: Request) -> None:
        """Read what a request brings, in a bounded time; of strangers, who only log in, it is bounded to less."""
        if request.method in ("GET", "HEAD"):
            return
        _check_charset(request)
        length = request.headers.get("content-length", "")
        known = not isinstance(offer, Open) and bool(self._name(offer, request))
        if not known and not (re.fullmatch(r"\d{1,9}", length, re.ASCII) and int(length) <= STRANGERS):
            raise HTTPException(413, f"This form is longer than {STRANGERS} bytes; log in first.")
        try:
            with trio.move_on_after(BODY_TIME) as taking:
                await request.body()
        except ClientDisconnect:
            raise HTTPException(400, "The request did not come to its end.") from None
        if taking.cancelled_caught:
            raise HTTPException(408, f"The request did not come within {BODY_TIME:g} s.")

    def _visitor(self, offer: Offer, request: Request) -> str:
        """Return by what is counted how much somebody has done at once. Raises HTTPException 401 for no token."""
        return visitor_of(request, self._name(offer, request))

    def _name(self, offer: Offer, request: Request) -> str:
        """Return the name of the user or token, empty for a stranger. Raises HTTPException 401 for no token."""
        if _shows_token(offer, request):
            return self._by_token(request).user
        login = self._login(request)
        return login.user if login else ""

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

    def _refused(self, offer: Page | Action | Stream | Api, request: Request, visit: Visit) -> Response:
        if visit.user or (isinstance(offer, Api) and visit.role is not None):
            _log.warning("refused", user=visit.who, role=visit.role, needed=offer.role, path=offer.path)
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


def _shows_token(offer: Offer, request: Request) -> bool:
    return isinstance(offer, Api) and "authorization" in request.headers


class _Endpoint:
    """What Starlette calls for an offer: an application, not a function, so that sending the answer is in our hands."""

    def __init__(self, serve: Callable[[Offer, Request, Send], Awaitable[None]], offer: Offer) -> None:
        self._serve = serve
        self._offer = offer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._serve(self._offer, Request(scope, receive), send)


def _check_origin(request: Request, offer: Offer) -> None:
    """Refuse what another site's page sends; browsers say with each POST where it comes from."""
    scheme, _, place = request.headers.get("origin", "").partition("://")
    own, site = request.headers["host"], request.headers.get("sec-fetch-site", "same-origin")
    if scheme not in ("http", "https") or place != own or site != "same-origin":
        origin = request.headers.get("origin", "")
        _log.warning("refused a form of another site", origin=origin, host=own, path=offer.path)
        raise HTTPException(403, "This form does not come from a page of this server.")


def _check_charset(request: Request) -> None:
    """Refuse a body in another encoding than UTF-8, the only one in which browsers send forms.

    Who sends it would choose by what it is decoded here, and Python has codecs that take quadratic time.
    """
    _, options = parse_options_header(request.headers.get("content-type"))  # as the parser of forms will read it
    if options.get(b"charset", b"utf-8").lower() != b"utf-8":
        raise HTTPException(415, "This can be read in UTF-8 only.")


async def _form_token(request: Request) -> object:
    """Return what a form carries to show for whom it was made. A script of ours may send it as a header."""
    given = request.headers.get("x-csrf-token")
    return (await request.form(max_files=1, max_fields=FIELDS)).get("csrf") if given is None else given


def _check_form(given: object, visit: Visit) -> None:
    """Refuse a form that was not made for this visit."""
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), visit.csrf.encode()):
        raise HTTPException(403, "This form is out of date: go back, load the page again and repeat it.")
