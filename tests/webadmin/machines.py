"""WebAdmin as machines ask it: the JSON API, metrics and health over a daemon, with a token of each role."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from httpx2 import ASGITransport, AsyncClient, Response

from cmserverd.webadmin.daemon import Daemon, open_daemon
from cmserverd.webadmin.logins import Logins
from cmserverd.webadmin.main import MACHINES
from cmserverd.webadmin.people import People, Role
from cmserverd.webadmin.serving import bind, serve
from cmserverd.webadmin.site import Site


@dataclass
class Machine:
    """Asks with tokens, or without one (None)."""

    client: AsyncClient
    tokens: dict[Role, str]

    async def get(self, path: str, role: Role | None = Role.VIEWER, **query: str | int) -> Response:
        """Ask for something."""
        return await self.client.get(path, params=query, headers=self._headers(role))

    async def post(self, path: str, body: object, role: Role | None = Role.OPERATOR) -> Response:
        """Have something done."""
        return await self.client.post(path, json=body, headers=self._headers(role))

    def _headers(self, role: Role | None) -> dict[str, str]:
        return {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}


def make_site(daemon: Daemon, directory: Path, anonymous: Role | None = None) -> tuple[Site, dict[Role, str]]:
    """Return a site of what is for machines, and its tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    people = People(directory)
    tokens = {role: people.add_token(f"a-{role}", role, 1) for role in Role}
    return Site(MACHINES, people, Logins(trio.current_time), daemon, name="alpha", anonymous=anonymous), tokens


@asynccontextmanager
async def machine(run_directory: Path, directory: Path, anonymous: Role | None = None) -> AsyncGenerator[Machine]:
    """Give a machine that asks the site over the daemon of a run directory; its own files go into another one."""
    async with open_daemon(run_directory) as daemon:
        site, tokens = make_site(daemon, directory / "webadmin", anonymous)
        async with AsyncClient(transport=ASGITransport(app=site), base_url="http://localhost") as client:
            yield Machine(client, tokens)


@contextmanager
def serving(run_directory: Path, directory: Path) -> Iterator[tuple[str, dict[Role, str]]]:
    """Serve the site on a free port of loopback from a thread; give its address and its tokens."""
    begun = threading.Event()
    served: list[tuple[str, dict[Role, str], trio.lowlevel.TrioToken, trio.Event]] = []

    async def run() -> None:
        async with open_daemon(run_directory) as daemon:
            site, tokens = make_site(daemon, directory / "webadmin")
            bound = bind([("127.0.0.1", 0)], always_secure=False)
            stopping = trio.Event()
            served.append((bound[0].url(), tokens, trio.lowlevel.current_trio_token(), stopping))
            begun.set()
            await serve(site, bound, None, stopping)

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    assert begun.wait(30)
    url, tokens, trio_token, stopping = served[0]
    try:
        yield url, tokens
    finally:
        trio_token.run_sync_soon(stopping.set)
        thread.join(30)
