"""WebAdmin's pages over a daemon, for tests: the site in this process, the daemon made up or a process of its own.

Everybody is an operator here, but where somebody is logged in: who may do what is proven elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import trio
from httpx2 import ASGITransport, AsyncClient

from cmserverd.webadmin import pages
from cmserverd.webadmin.cookies import COOKIE
from cmserverd.webadmin.daemon import Daemon, open_daemon
from cmserverd.webadmin.live import Live
from cmserverd.webadmin.logins import Logins
from cmserverd.webadmin.pages.rendering import LOG_STREAM
from cmserverd.webadmin.people import People, Role
from cmserverd.webadmin.serving import bind, serve
from cmserverd.webadmin.site import Site

HOST: Final = "http://localhost"


def make_lives(daemon: Daemon) -> tuple[Live, ...]:
    """Return how pages hear of what happens, and of the log."""
    return Live(daemon.happened), Live(daemon.logged, LOG_STREAM)


def make_site(
    daemon: Daemon, lives: Iterable[Live], directory: Path, role: Role = Role.OPERATOR, logins: Logins | None = None
) -> Site:
    """Return the site, where everybody has a role without a log-in."""
    directory.mkdir(exist_ok=True)
    offers = (*pages.ROUTES, *(offer for live in lives for offer in live.offers))
    logins = logins or Logins(trio.current_time)
    return Site(offers, People(directory), logins, daemon, name="alpha", anonymous=role)


@asynccontextmanager
async def logged_in(run_directory: Path, user: str, role: Role = Role.OPERATOR) -> AsyncGenerator[AsyncClient]:
    """Give a user's client of the site, where nobody else may do anything, over the daemon of a run directory."""
    directory = run_directory / "webadmin"
    directory.mkdir(exist_ok=True)
    People(directory).add(user, role, "no password")
    async with open_daemon(run_directory) as daemon:
        logins = Logins(trio.current_time)
        site = make_site(daemon, make_lives(daemon), directory, Role.VIEWER, logins)
        cookies = {COOKIE: logins.begin(user)}
        async with AsyncClient(transport=ASGITransport(app=site), base_url=HOST, cookies=cookies) as client:
            yield client


@asynccontextmanager
async def browsing(run_directory: Path, role: Role = Role.OPERATOR) -> AsyncGenerator[AsyncClient]:
    """Give a client of the site over the daemon of a run directory."""
    async with open_daemon(run_directory) as daemon:
        site = make_site(daemon, make_lives(daemon), run_directory / "webadmin", role)
        async with AsyncClient(transport=ASGITransport(app=site), base_url=HOST) as client:
            yield client


@contextmanager
def serving(run_directory: Path) -> Iterator[str]:
    """Serve the site on a free port of loopback from a thread, over the daemon of a run directory; give its address."""
    begun = threading.Event()
    served: list[tuple[str, trio.lowlevel.TrioToken, trio.Event]] = []

    async def run() -> None:
        async with open_daemon(run_directory) as daemon, trio.open_nursery() as nursery:
            lives = make_lives(daemon)
            stopping = trio.Event()
            bound = bind([("127.0.0.1", 0)], always_secure=False)
            for live in lives:
                nursery.start_soon(live.run)
            served.append((bound[0].url(), trio.lowlevel.current_trio_token(), stopping))
            begun.set()
            async with trio.open_nursery() as server:
                server.start_soon(serve, make_site(daemon, lives, run_directory / "webadmin"), bound, None, stopping)
                await stopping.wait()
                for live in lives:
                    live.close()
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    assert begun.wait(30)
    url, token, stopping = served[0]
    try:
        yield url
    finally:
        token.run_sync_soon(stopping.set)
        thread.join(30)
