"""Health, for those who restart or fail over: whether this process answers, and whether the license server is ready."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from cmserverd.webadmin.daemon import Daemon, is_silent
from cmserverd.webadmin.offers import Offer, Open, Visit
from protocol.errors import LicenseError
from protocol.messages import ServerInfoRequest
from protocol.watching import StatisticsRequest


async def alive(_: Request, __: Visit) -> Response:
    """Say that this process answers, whatever the license server does."""
    return PlainTextResponse("alive\n")


async def ready(_: Request, visit: Visit) -> Response:
    """Say whether the license server grants licenses, and keeps what it grants; else 503 and one word why."""
    word = await fault(visit.daemon)
    return PlainTextResponse(f"{word or 'ready'}\n", 503 if word else 200)


async def fault(daemon: Daemon) -> str:
    """Return why the license server is not ready in one word, the empty string if it is.

    `silent`: it does not answer. `faulty`: it answers with an error. `starting`: not every driver has looked once.
    `unprotected`: what it grants would not survive, and while a commit fails it grants nothing.
    """
    try:
        server = await daemon.health.ask(ServerInfoRequest())
        figures = await daemon.health.ask(StatisticsRequest())
    except LicenseError as error:
        return "silent" if is_silent(error) else "faulty"
    if server.starting:
        return "starting"
    return "" if figures.durability.protected else "unprotected"


ROUTES: Final[tuple[Offer, ...]] = (Open("/health/alive", alive), Open("/health/ready", ready))
