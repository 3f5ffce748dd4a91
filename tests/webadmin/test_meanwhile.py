"""What becomes of a form while passwords are looked at: who may no longer do what he began, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import trio
from starlette.datastructures import FormData
from starlette.requests import Request
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from cmserverd.webadmin.entrance import AT_ONCE
from cmserverd.webadmin.logins import PER_LOGIN, WINDOW
from cmserverd.webadmin.people import Role
from tests.webadmin.conftest import PASSWORD, Browser, World

T = TypeVar("T")

ANOTHER = "another horse battery"
OWN = {"old": PASSWORD, "password": "a fresh horse battery", "again": "a fresh horse battery"}


class Hashes:
    """Hashes that are ready when the test lets them be: so many of them, in the order in which they began."""

    def __init__(self) -> None:
        self.begun = 0
        self._ready = trio.Semaphore(0)

    async def run_sync(self, work: Callable[[], T]) -> T:
        """Do the work of a thread, later."""
        self.begun += 1
        await self._ready.acquire()
        return work()

    async def let(self, number: int) -> None:
        """Let so many be ready, and wait until all that follows from it is done."""
        for _ in range(number):
            self._ready.release()
        await wait_all_tasks_blocked()


class Sent:
    """Forms that are sent at once, and the answers that there are, by the name of each."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.codes: dict[str, int] = {}
        self.texts: dict[str, str] = {}

    async def send(self, form: str, browser: Browser, page: str, path: str, **fields: str) -> None:
        """Send a form, and wait until nothing more happens with it."""
        token = await browser.token(page)

        async def run() -> None:
            answer = await browser.post(path, {"csrf": token, **fields})
            self.codes[form], self.texts[form] = answer.status_code, answer.text

        self._nursery.start_soon(run)
        await wait_all_tasks_blocked()


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> Hashes:
    """Hashes in the place of threads, from when the test says so."""
    made = Hashes()
    monkeypatch.setattr(trio.to_thread, "run_sync", made.run_sync)
    return made


@pytest.fixture
def sent(nursery: trio.Nursery) -> Sent:
    """Nothing was sent yet."""
    return Sent(nursery)


def log_in(world: World, name: str, address: str = "192.0.2.7") -> Browser:
    """Return the browser of somebody who is logged in, without a hash."""
    browser = world.browser(address)
    browser.client.cookies.set("cmserverd", world.logins.begin(name), domain="licenses.example", path="/")
    return browser


@pytest.mark.parametrize("becomes", ["removed", "viewer", "logged out"])
async def test_who_is_no_administrator_any_more_adds_nobody(
    world: World, hashes: Hashes, sent: Sent, becomes: str
) -> None:
    """Removed, of another role or logged out while the password of somebody new, or another's, is hashed."""
    for name in ("anna", "eve"):
        world.people.add(name, Role.ADMIN, "a hash")
    shown = world.people.users[0].id
    eve = log_in(world, "eve")
    await sent.send("add", eve, "/people", "/people/users", name="back", role="admin", password=ANOTHER)
    await sent.send("change", eve, "/people", "/people/users/anna/password", id=shown, password=ANOTHER)
    assert hashes.begun == 2
    if becomes == "removed":
        world.people.remove("eve")
    elif becomes == "viewer":
        world.people.change_role("eve", Role.VIEWER)
    else:
        world.logins.end_all("eve")
    await hashes.let(2)
    assert sent.codes == {"add": 403, "change": 403}
    assert "nothing was done" in sent.texts["add"]
    assert world.people.user("back") is None
    anna = world.people.user("anna")
    assert anna
    assert anna.hash == "a hash"


async def test_a_new_password_is_for_whom_the_form_was_about(world: World, hashes: Hashes, sent: Sent) -> None:
    """Not for who has got his name while it was hashed."""
    for name in ("eve", "otto"):
        world.people.add(name, Role.ADMIN, "a hash")
    shown = world.people.users[1].id
    eve = log_in(world, "eve")
    await sent.send("change", eve, "/people", "/people/users/otto/password", id=shown, password=ANOTHER)
    world.people.remove("otto")
    world.people.add("otto", Role.VIEWER, "of another")
    await hashes.let(1)
    assert sent.codes == {"change": 400}
    otto = world.people.user("otto")
    assert otto
    assert otto.hash == "of another"


@pytest.mark.parametrize("becomes", ["removed", "viewer", "logged out"])
async def test_who_may_no_longer_do_it_once_his_form_is_read_does_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    """Who he is, is asked for after all that is awaited."""
    for name in ("anna", "eve"):
        world.people.add(name, Role.OPERATOR, "a hash")
    eve = log_in(world, "eve")
    token = await eve.token("/account")
    read = Request._get_form

    async def read_slowly(request: Request, **limits: Any) -> FormData:
        form = await read(request, **limits)
        if becomes == "removed":
            world.people.remove("eve")
        elif becomes == "viewer":
            world.people.change_role("eve", Role.VIEWER)
        else:
            world.logins.end_all("eve")
        return form

    world.people.add("root", Role.ADMIN, "a hash")
    monkeypatch.setattr(Request, "_get_form", read_slowly)
    answer = await eve.post("/act", {"csrf": token})
    assert answer.status_code == 403
    assert world.acts == []


@pytest.mark.parametrize("ready", [0, 1])
async def test_a_password_that_was_reset_is_not_undone(world: World, hashes: Hashes, sent: Sent, ready: int) -> None:
    """Whoever knows the old one, and had begun to change it when an administrator did, has changed nothing."""
    world.add("otto", Role.VIEWER)
    otto = log_in(world, "otto")
    await sent.send("own", otto, "/account", "/account/password", **OWN)
    await hashes.let(ready)
    world.people.change_password("otto", "of the administrator")
    world.logins.end_all("otto")
    await hashes.let(2 - ready)
    assert sent.codes == {"own": 403}
    user = world.people.user("otto")
    assert user
    assert user.hash == "of the administrator"


async def test_a_password_is_changed_for_whom_it_was_looked_at(world: World, hashes: Hashes, sent: Sent) -> None:
    """A record that is another one by now stays what it is, though the log-in stands."""
    world.add("otto", Role.VIEWER)
    await sent.send("own", log_in(world, "otto"), "/account", "/account/password", **OWN)
    await hashes.let(1)
    world.people.change_password("otto", "of another form")
    await hashes.let(1)
    assert sent.codes == {"own": 400}
    assert "has been changed meanwhile" in sent.texts["own"]
    user = world.people.user("otto")
    assert user
    assert user.hash == "of another form"


async def test_a_user_takes_nobody_elses_turn_at_his_host(world: World, hashes: Hashes, sent: Sent) -> None:
    """Who has as many passwords looked at as he can does not keep those from logging in who share his address."""
    world.add("eve", Role.VIEWER)
    world.add("anna", Role.VIEWER)
    eve = log_in(world, "eve")
    for number in range(6):
        await sent.send(f"own{number}", eve, "/account", "/account/password", **{**OWN, "old": "wrong"})
    for number in range(AT_ONCE + 8):
        await sent.send(f"log-in{number}", world.browser(), "/login", "/login", user="anna", password=PASSWORD)
    await hashes.let(100)
    assert {sent.codes[f"log-in{number}"] for number in range(AT_ONCE + 8)} == {303}


async def test_ones_own_old_password_cannot_be_guessed_without_end(world: World) -> None:
    """Whoever finds an open page may fail some times; the owner can log in meanwhile, and others at his host, too."""
    browser = await world.logged_in(Role.VIEWER)
    wrong = {**OWN, "old": "wrong horse battery"}
    with capture_logs() as said:
        for _ in range(PER_LOGIN):
            assert (await browser.send("/account", "/account/password", **wrong)).status_code == 400
        answer = await browser.send("/account", "/account/password", **OWN)
    assert answer.status_code == 429
    assert "Too many tries; wait a quarter of an hour." in answer.text
    assert [line["event"] for line in said] == ["wrong old password"] * PER_LOGIN + ["too many wrong old passwords"]
    assert (await world.browser().log_in("viewer")).status_code == 303
    other = await world.logged_in(Role.OPERATOR)
    assert (await other.send("/account", "/account/password", **OWN)).status_code == 303
    world.clock.now += WINDOW
    browser = world.browser()
    await browser.log_in("viewer")
    assert (await browser.send("/account", "/account/password", **OWN)).status_code == 303


async def test_an_old_password_that_is_right_is_no_failed_try(world: World) -> None:
    """However often the new one is not what it should be."""
    browser = await world.logged_in(Role.VIEWER)
    for _ in range(PER_LOGIN + 1):
        answer = await browser.send("/account", "/account/password", **{**OWN, "again": "something else"})
        assert "The two new passwords are not the same." in answer.text
