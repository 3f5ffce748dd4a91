"""WebAdmin's pages over a daemon, for tests: the site in this process, the daemon made up or a process of its own.

Everybody is an operator here: who may do what is proven elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import trio
from httpx2 import ASGITransport, AsyncClient

from cmserverd.webadmin import pages
from cmserverd.webadmin.daemon import Daemon, open_daemon
from cmserverd.webadmin.live import Live
from cmserverd.webadmin.logins import Logins
from cmserverd.webadmin.people import People, Role
from cmserverd.webadmin.serving import bind, serve
from cmserverd.webadmin.site import Site

HOST: Final = "http://localhost"


def make_site(daemon: Daemon, live: Live, directory: Path, role: Role = Role.OPERATOR) -> Site:
    """Return the site, where everybody has a role without a log-in."""
    directory.mkdir(exist_ok=True)
    offers = (*pages.ROUTES, *live.offers)
    return Site(offers, People(directory), Logins(trio.current_time), daemon, name="alpha", anonymous=role)


@asynccontextmanager
async def browsing(run_directory: Path, role: Role = Role.OPERATOR) -> AsyncGenerator[AsyncClient]:
    """Give a client of the site over the daemon of a run directory."""
    async with open_daemon(run_directory) as daemon:
        site = make_site(daemon, Live(daemon.happened), run_directory / "webadmin", role)
        async with AsyncClient(transport=ASGITransport(app=site), base_url=HOST) as client:
            yield client


@contextmanager
def serving(run_directory: Path) -> Iterator[str]:
    """Serve the site on a free port of loopback from a thread, over the daemon of a run directory; give its address."""
    begun = threading.Event()
    served: list[tuple[str, trio.lowlevel.TrioToken, trio.Event]] = []

    async def run() -> None:
        async with open_daemon(run_directory) as daemon, trio.open_nursery() as nursery:
            live = Live(daemon.happened)
            stopping = trio.Event()
            bound = bind([("127.0.0.1", 0)], always_secure=False)
            nursery.start_soon(live.run)
            served.append((bound[0].url(), trio.lowlevel.current_trio_token(), stopping))
            begun.set()
            async with trio.open_nursery() as server:
                server.start_soon(serve, make_site(daemon, live, run_directory / "webadmin"), bound, None, stopping)
                await stopping.wait()
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
