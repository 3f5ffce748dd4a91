"""A small WebAdmin for the tests of who may do what: pages that only say who asked, a clock that is set by hand."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from argon2 import PasswordHasher
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from cmserverd.webadmin.accounts import Accounts
from cmserverd.webadmin.daemon import open_daemon
from cmserverd.webadmin.entrance import Entrance, Hashing
from cmserverd.webadmin.logins import Logins
from cmserverd.webadmin.offers import Action, Api, Offer, Open, Page, Visit
from cmserverd.webadmin.people import Passwords, People, Role
from cmserverd.webadmin.site import Site
from cmserverd.webadmin.visitors import Proxies

PASSWORD = "correct horse battery staple"  # noqa: S105 - of the tests
HOME = "http://licenses.example:22352"


@dataclass
class Clock:
    """A clock that stands until somebody sets it."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """A site and what is behind it."""

    site: Site
    people: People
    logins: Logins
    clock: Clock
    entrance: Entrance
    passwords: Passwords
    acts: list[str] = field(default_factory=list)

    def browser(self, address: str = "192.0.2.7", home: str = HOME) -> Browser:
        """Return a browser at an address."""
        transport = httpx2.ASGITransport(app=self.site, client=(address, 1), raise_app_exceptions=False)
        return Browser(httpx2.AsyncClient(transport=transport, base_url=home), home)

    def add(self, name: str, role: Role) -> None:
        """Add a user with the tests' password."""
        self.people.add(name, role, self.passwords.hash(PASSWORD))

    async def logged_in(self, role: Role, name: str = "") -> Browser:
        """Return the browser of a new user with a role, who is logged in."""
        self.add(name or role.value, role)
        browser = self.browser()
        assert (await browser.log_in(name or role.value)).status_code == 303
        return browser


class Browser:
    """A client that behaves as browsers do: cookies, forms with their hidden fields, an Origin with each POST."""

    def __init__(self, client: httpx2.AsyncClient, home: str) -> None:
        self.client = client
        self.home = home

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        """Ask for a page."""
        return await self.client.get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})

    async def token(self, path: str) -> str:
        """Return what the forms of a page carry."""
        found = re.search(r'name="csrf" value="([^"]+)"', (await self.get(path)).text)
        assert found
        return found[1]

    async def post(self, path: str, data: dict[str, str], origin: str | None = None) -> httpx2.Response:
        """Send a form."""
        return await self.client.post(path, data=data, headers={"Origin": self.home if origin is None else origin})

    async def send(self, page: str, path: str, **fields: str) -> httpx2.Response:
        """Fill in a form of a page and send it."""
        return await self.post(path, {"csrf": await self.token(page), **fields})

    async def confirm(self, path: str) -> httpx2.Response:
        """Ask for a page that asks before it removes somebody, and say yes."""
        return await self.post(path, hidden_fields((await self.get(path)).text))

    async def log_in(self, user: str, password: str = PASSWORD, **fields: str) -> httpx2.Response:
        """Log in by the form."""
        return await self.send("/login", "/login", user=user, password=password, **fields)


def hidden_fields(page: str) -> dict[str, str]:
    """Return what the forms of a page carry."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))


@asynccontextmanager
async def make_world(
    directory: Path,
    *offers: Offer,
    anonymous: Role | None = None,
    passwords: Passwords | None = None,
    proxies: Iterable[str] = (),
) -> AsyncGenerator[World]:
    """Give a world whose daemon does not run, with further offers."""
    async with open_daemon(directory) as daemon:
        people, clock = People(directory), Clock()
        passwords = passwords or Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        logins, hashing = Logins(clock), Hashing(passwords)
        entrance = Entrance(people, logins, hashing, clock)
        acts: list[str] = []

        async def show(request: Request, visit: Visit) -> Response:
            return PlainTextResponse(f"{visit.who} {visit.role} {visit.csrf}")

        async def act(request: Request, visit: Visit) -> Response:
            acts.append(visit.who)
            return PlainTextResponse("done")

        async def fail(request: Request, visit: Visit) -> Response:
            raise RuntimeError("a bug with <details>")

        async def ask(request: Request, visit: Visit) -> Response:
            return PlainTextResponse(str(await visit.daemon.server()))

        site = Site(
            [
                *entrance.offers,
                *Accounts(people, logins, hashing, clock).offers,
                Page("/", show, menu="Dashboard"),
                Page("/operators", show, Role.OPERATOR, menu="For operators"),
                Page("/silent", ask),
                Action("/act", act),
                Api("/api/v1/seen", show),
                Api("/api/v1/act", act, Role.OPERATOR, "POST"),
                Open("/open", show),
                Open("/fail", fail),
                *offers,
            ],
            people,
            logins,
            daemon,
            name="alpha",
            hosts=["licenses.example"],
            anonymous=anonymous,
            proxies=Proxies(proxies),
        )
        yield World(site, people, logins, clock, entrance, passwords, acts)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    """Give a world in which nobody can look without a log-in."""
    async with make_world(tmp_path) as made:
        yield made
