"""The cookies of WebAdmin: which there are, what they are called on a connection, giving them and taking them back."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

COOKIE: Final = "cmserverd"
"""The cookie of a log-in; over TLS with the prefix by which browsers take it from this host only."""

VISITOR: Final = "cmserverd-visitor"
"""The cookie of somebody who is not logged in: his forms belong to it."""

SECURE_PREFIX: Final = "__Host-"


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
