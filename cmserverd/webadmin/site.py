"""Builds the application out of what the modules offer: routes, templates, files, headers, and pages about errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib import resources
from math import inf
from pathlib import PurePath
from typing import Any, Final

import jinja2
import structlog
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import cmserverd
from cmserverd.seldom import Seldom
from cmserverd.webadmin.daemon import Daemon, is_silent
from cmserverd.webadmin.guard import Guard
from cmserverd.webadmin.limits import SENDING, Turns
from cmserverd.webadmin.logins import Logins
from cmserverd.webadmin.offers import Offer, Open, Page, Visit
from cmserverd.webadmin.people import People, Role
from cmserverd.webadmin.visitors import Proxies
from protocol.errors import ErrorNumber, LicenseError

CONTENT_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)

HEADERS: Final = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with none at all, browsers would hide where our own forms come from
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""What each answer has; those of pages also that nothing keeps them."""

BODY_LIMIT: Final = 512 * 1024
"""Bytes of a form: the most handles that can be named as seen, or an update file."""

TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

SILENT: Final = "The license server does not answer"

_STATUS: Final[dict[int, int]] = {
    ErrorNumber.INVALID_PARAMETER: 400,
    ErrorNumber.BOX_NOT_FOUND: 404,
    ErrorNumber.INVALID_HANDLE: 404,
}
"""Of what the license server refuses; else 409."""

_log = structlog.get_logger("webadmin")


class Site:
    """The application: an ASGI callable. `hosts` are the names by which browsers may call it, `offers` its routes."""

    def __init__(
        self,
        offers: Iterable[Offer],
        people: People,
        logins: Logins,
        daemon: Daemon,
        *,
        name: str,
        hosts: Iterable[str] = (),
        anonymous: Role | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self._files = _Files()
        self._name = name
        self._proxies = proxies or Proxies()
        # One begins at a time, of each visitor in his turn: so somebody who asks for much keeps others waiting for one
        # of his requests, not for all. Who waits is not refused, for he would ask again at once; how many there can be
        # is bounded by the connections.
        self._beginning = Turns(1, each=1, waiting=inf, refusal="")
        self._strays = Seldom(trio.current_time, lines=1)
        self._templates = _templates()
        self._templates.globals["static"] = self._files.path
        self._templates.globals["Role"] = Role
        self.guard = Guard(people, logins, daemon, self._page, hosts=hosts, anonymous=anonymous)
        self.offers: tuple[Offer, ...] = (*offers, Open("/static/{name}", self._files.serve))
        self._menu = [offer for offer in self.offers if isinstance(offer, Page) and offer.menu]
        inside = Starlette(
            routes=[self.guard.route(offer) for offer in self.offers],
            exception_handlers={
                HTTPException: self._http_error,
                LicenseError: self._license_error,
                Exception: self._our_fault,
            },
        )
        self._app: ASGIApp = RequestBodyLimitMiddleware(inside, BODY_LIMIT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in the visitor's turn, until he does not take what is sent to him.

        Whatever is answered, errors too, ends in a bounded time then, and what it holds of the connection is free.
        """
        scope = self._proxies.seen_through(scope)
        with trio.CancelScope() as answering:

            async def send_in_time(message: Message) -> None:
                with trio.move_on_after(SENDING) as sending:
                    await send(message)
                if sending.cancelled_caught:
                    answering.cancel()
                    await trio.lowlevel.checkpoint()

            async with self._beginning.turn(self._proxies.other_end(scope.get("client"))):
                await trio.lowlevel.checkpoint()  # whoever comes meanwhile waits
            await self._answer(scope, receive, send_in_time)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, if the request is for us, and put the headers on it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                added = {**HEADERS, "Cache-Control": "no-store"}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.lower().encode(), value.encode())
                        for name, value in added.items()
                        if name.lower().encode() not in there
                    ),
                ]
            await send(message)

        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not self.guard.names_us(hosts[0]):
            self._strays.say(_log.warning, "refused a request for another host", host=" ".join(hosts)[:255])
            text = "This server is not known by that name; an administrator can add it to hosts in [webadmin].\n"
            await PlainTextResponse(text, 421)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    # pages

    def _page(self, request: Request, visit: Visit, template: str, status: int, values: dict[str, Any]) -> Response:
        common = {
            "visit": visit,
            "csrf": visit.csrf,
            "here": request.url.path,
            "navigation": [(offer.path, offer.menu) for offer in self._menu if visit.may(offer.role)],
            "server_name": self._name,
            "version": cmserverd.__version__,
        }
        return HTMLResponse(self._templates.get_template(template).render(common | values), status)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        title = {403: "Not allowed", 404: "There is no such page", 413: "Too long", 503: "Not now"}
        text = "" if error.status_code == 404 and error.detail == "Not Found" else error.detail
        return self._error(
            request, error.status_code, title.get(error.status_code, "This cannot be done"), text, headers=error.headers
        )

    async def _license_error(self, request: Request, error: Exception) -> Response:
        """Tell what the license server answered, or that it does not."""
        assert isinstance(error, LicenseError)
        if is_silent(error):
            return self._error(request, 503, SILENT, str(error), refusal=error)
        status = _STATUS.get(error.number, 409)
        return self._error(request, status, "The license server refuses", str(error), refusal=error)

    async def _our_fault(self, request: Request, _: Exception) -> Response:
        # The web server logs the error itself; the path of the request may have a secret in it.
        _log.error("a page failed", path=getattr(request.state, "offered", ""))
        return self._error(request, 500, "This is a fault of WebAdmin", "The log of the server has the details.")

    def _error(
        self,
        request: Request,
        status: int,
        title: str,
        text: str,
        *,
        refusal: LicenseError | None = None,
        headers: Any = None,
    ) -> Response:
        if request.url.path.startswith("/api/"):
            number, name = (refusal.number, refusal.name) if refusal else (None, None)
            body = {"error": {"number": number, "name": name, "title": title, "text": text}}
            return JSONResponse(body, status, headers=headers)
        visit = self.guard.visit(request)
        response = visit.render("error.html", status, title=title, text=text, silent=title == SILENT)
        response.headers.update(headers or {})
        return response


class _Files:
    """The package's files for browsers. They are read once; what is asked for is only looked up among them."""

    def __init__(self) -> None:
        folder = resources.files("cmserverd.webadmin") / "static"
        self._contents = {
            file.name: file.read_bytes() for file in folder.iterdir() if PurePath(file.name).suffix in TYPES
        }
        self._marks = {name: hashlib.sha256(octets).hexdigest()[:16] for name, octets in self._contents.items()}

    def path(self, name: str) -> str:
        """Return where a file is, by a path that changes when it does. Raises KeyError."""
        return f"/static/{name}?{self._marks[name]}"

    async def serve(self, request: Request, _: Visit) -> Response:
        """Send a file."""
        name = request.path_params["name"]
        if name not in self._contents:
            raise HTTPException(404)
        kept = request.url.query == self._marks[name]
        headers = {"Cache-Control": "public, max-age=31536000, immutable"} if kept else {}
        return Response(self._contents[name], media_type=TYPES[PurePath(name).suffix], headers=headers)


def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("cmserverd.webadmin"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
