"""Log-ins: how they begin and end, how often one may try, how the first administrator is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx2
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from cmserverd.webadmin import entrance, logins
from cmserverd.webadmin.cookies import COOKIE
from cmserverd.webadmin.entrance import AT_ONCE, SETUP_ENDS, is_ours
from cmserverd.webadmin.logins import IDLE, LONGEST, PER_ADDRESS, PER_NAME, PER_USER, WINDOW, Logins, Tries
from cmserverd.webadmin.people import Role
from tests.webadmin.conftest import PASSWORD, Browser, Clock, World, make_world

T = TypeVar("T")


def refused(answer: httpx2.Response) -> bool:
    """Tell whether somebody was led to the log-in page."""
    return answer.status_code == 303 and answer.headers["location"].startswith("/login")


# --- what is kept -------------------------------------------------------------------------------------------------


def test_a_log_in_ends_by_itself() -> None:
    """After a time without use; used again and again, after a working day."""
    clock = Clock()
    kept = Logins(clock)
    cookie = kept.begin("anna")
    clock.now += IDLE - 1
    assert kept.find(cookie, used=True)
    clock.now += IDLE - 1
    assert kept.find(cookie, used=False)  # what a page asks for by itself does not keep it alive
    clock.now += 1
    assert kept.find(cookie, used=True) is None
    begun, cookie = clock.now, kept.begin("anna")
    while clock.now < begun + LONGEST - IDLE:
        clock.now += IDLE - 1
        assert kept.find(cookie, used=True)
    clock.now = begun + LONGEST
    assert kept.find(cookie, used=True) is None


def test_the_oldest_log_in_of_a_user_makes_room() -> None:
    """So many log-ins a user has, and those of others are not touched."""
    kept = Logins(Clock())
    others = kept.begin("otto")
    cookies = [kept.begin("anna") for _ in range(PER_USER + 1)]
    assert [kept.find(cookie, used=True) is not None for cookie in cookies] == [False] + [True] * PER_USER
    assert kept.find(others, used=True)
    kept.end_all("anna")
    assert not any(kept.find(cookie, used=True) for cookie in cookies)
    assert kept.find(others, used=True)


def right(tries: Tries, address: str, name: str) -> None:
    """Log in."""
    tried = tries.begin(address, name)
    assert tried
    tries.succeeded(tried)


def test_who_fails_too_often_waits() -> None:
    """From one address; after a quarter of an hour he may try again. What was right does not count."""
    clock = Clock()
    tries = Tries(clock)
    for _ in range(3 * PER_ADDRESS):
        right(tries, "192.0.2.7", "anna")
    assert [tries.begin("192.0.2.7", f"name{number}") is not None for number in range(PER_ADDRESS + 1)] == [
        *[True] * PER_ADDRESS,
        False,
    ]
    assert tries.begin("192.0.2.8", "anna")
    clock.now += WINDOW - 1
    assert not tries.begin("192.0.2.7", "anna")
    clock.now += 1
    assert tries.begin("192.0.2.7", "anna")


def test_a_network_of_ipv6_is_one_address() -> None:
    """A host has a /64 of them; an IPv4 address in IPv6's clothes is itself."""
    tries = Tries(Clock())
    assert all(tries.begin(f"2001:db8::{number:x}", "anna") for number in range(PER_ADDRESS))
    assert not tries.begin("2001:db8::ffff%eth0", "anna")
    assert tries.begin("2001:db8:0:1::1", "anna")
    assert all(tries.begin("192.0.2.7", f"n{number}") for number in range(PER_ADDRESS))
    assert not tries.begin("::ffff:192.0.2.7", "anna")


def test_many_addresses_cannot_guess_one_name_nor_lock_its_owner_out() -> None:
    """There is an end for a name, too; where its owner once was right, he can still come in."""
    tries = Tries(Clock())
    right(tries, "192.0.2.7", "anna")
    assert all(tries.begin(f"198.51.100.{number}", "anna") for number in range(PER_NAME))
    assert not tries.begin("203.0.113.1", "anna")
    assert tries.begin("203.0.113.1", "otto")
    assert tries.begin("192.0.2.7", "anna")


def test_nobody_can_have_the_tries_of_others_forgotten() -> None:
    """A /48 has 65,536 hosts: not by all of them can a name be guessed more often, nor by making up names."""
    clock = Clock()
    tries = Tries(clock)
    right(tries, "192.0.2.7", "anna")
    assert all(tries.begin(f"2001:db8:1:{number:x}::1", "anna") for number in range(PER_NAME))
    for number in range(65_536):
        assert tries.begin(f"2001:db8:0:{number:x}::1", f"n{number}")
    assert not tries.begin("2001:db8:2::1", "anna")
    assert tries.begin("192.0.2.7", "anna")
    clock.now += WINDOW
    assert tries.begin("2001:db8:2::1", "anna")
    assert len(tries._latest) == 1
    assert len(tries._failed) == 2


def test_a_try_that_was_none_does_not_count() -> None:
    """Whoever was turned away before his password was looked at has guessed nothing."""
    tries = Tries(Clock())
    for _ in range(3 * PER_NAME):
        tried = tries.begin("192.0.2.7", "anna")
        assert tried
        tries.take_back(tried)
        tries.take_back(tried)
    assert not tries._failed
    assert not tries._latest


def test_tries_that_were_none_have_no_others_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who is turned away before his password is looked at can have failed tries forgotten by that."""
    monkeypatch.setattr(logins, "MOST", 2 * PER_ADDRESS)
    tries = Tries(Clock())
    assert all(tries.begin("192.0.2.7", "anna") for _ in range(PER_ADDRESS))
    for _ in range(4 * PER_ADDRESS):
        tried = tries.begin("198.51.100.1", "otto")
        assert tried
        tries.take_back(tried)
    assert not tries.begin("192.0.2.7", "anna")


def test_what_is_remembered_of_tries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and from however many hosts somebody comes."""
    monkeypatch.setattr(logins, "MOST", 4)
    tries = Tries(Clock())
    for number in range(50):
        tries.begin(f"192.0.2.{number}", f"n{number}")
        right(tries, f"198.51.100.{number}", "anna")
    assert len(tries._latest) <= 4
    assert len(tries._failed) <= 8
    assert list(tries._trusted["anna"]) == [f"198.51.100.{number}" for number in range(30, 50)]


# --- by the form --------------------------------------------------------------------------------------------------


async def test_logging_in_and_out(world: World) -> None:
    """The right password opens what was asked for, by a cookie that no script reads; logging out ends it."""
    world.add("anna", Role.VIEWER)
    browser = world.browser()
    led = await browser.get("/operators?page=2")
    assert led.headers["location"] == "/login?next=/operators%3Fpage%3D2"
    answer = await browser.log_in("Anna ", next="/operators?page=2")
    assert (answer.status_code, answer.headers["location"]) == (303, "/operators?page=2")
    (cookie,) = [text for text in answer.headers.get_list("set-cookie") if text.startswith(f"{COOKIE}=")]
    assert {"HttpOnly", "Path=/", "SameSite=strict"} == set(cookie.split("; ")[1:])
    assert (await browser.get("/")).text.startswith("anna viewer")
    stolen = browser.client.cookies[COOKIE]
    assert (await browser.send("/account", "/logout")).status_code == 303
    assert refused(await browser.get("/"))
    assert refused(await world.browser().get("/", cookie=f"{COOKIE}={stolen}"))


async def test_over_tls_the_cookie_is_this_hosts_alone(world: World) -> None:
    """It is Secure, and of a name that no other host and no plain connection can set."""
    world.add("anna", Role.VIEWER)
    browser = world.browser(home="https://licenses.example:22352")
    answer = await browser.log_in("anna")
    (cookie,) = [text for text in answer.headers.get_list("set-cookie") if text.startswith(f"__Host-{COOKIE}=")]
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Secure"} == set(cookie.split("; ")[1:])
    assert (await browser.get("/")).text.startswith("anna")
    plain = browser.client.cookies[f"__Host-{COOKIE}"]
    assert refused(await world.browser(home="https://licenses.example:22352").get("/", cookie=f"{COOKIE}={plain}"))


@pytest.mark.parametrize(("user", "password"), [("anna", "wrong horse battery"), ("nobody", PASSWORD), ("", "")])
async def test_what_is_wrong_is_not_said(world: World, user: str, password: str) -> None:
    """The same answer for a wrong name and a wrong password."""
    world.add("anna", Role.VIEWER)
    browser = world.browser()
    answer = await browser.log_in(user, password)
    assert answer.status_code == 403
    assert "The user or the password is wrong." in answer.text
    assert refused(await browser.get("/"))


async def test_a_log_in_gets_a_cookie_that_nobody_knew_before(world: World) -> None:
    """What stands in the browser before is worth nothing afterwards, and is not taken over."""
    world.add("anna", Role.VIEWER)
    browser = world.browser()
    browser.client.cookies.set(COOKIE, "chosen-by-somebody-else", domain="licenses.example", path="/")
    await browser.log_in("anna")
    first = browser.client.cookies[COOKIE]
    assert first != "chosen-by-somebody-else"
    await browser.send("/account", "/login", user="anna", password=PASSWORD)
    assert browser.client.cookies[COOKIE] != first
    assert refused(await world.browser().get("/", cookie=f"{COOKIE}={first}"))


async def test_too_many_tries_are_refused_before_anything_is_hashed(world: World) -> None:
    """The eleventh does not even reach the password; the right one of that address does not either."""
    world.add("anna", Role.VIEWER)
    browser = world.browser()
    for _ in range(PER_ADDRESS):
        assert (await browser.log_in("anna", "wrong horse battery")).status_code == 403
    answer = await browser.log_in("anna")
    assert answer.status_code == 429
    assert "Too many tries" in answer.text
    assert (await world.browser("198.51.100.1").log_in("anna")).status_code == 303


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded"])
async def test_an_address_that_a_header_claims_is_not_believed(world: World, header: str) -> None:
    """Else each try could come from somewhere else."""
    world.add("anna", Role.VIEWER)
    browser = world.browser()
    for number in range(PER_ADDRESS):
        browser.client.headers[header] = f"198.51.100.{number}"
        assert (await browser.log_in("anna", "wrong horse battery")).status_code == 403
    browser.client.headers[header] = "198.51.100.99"
    assert (await browser.log_in("anna")).status_code == 429


@pytest.mark.parametrize(
    ("where", "ours"),
    [
        ("/", True),
        ("/licenses?x=1", True),
        ("", False),
        ("licenses", False),
        ("//evil.example", False),
        ("/\\evil.example", False),
        ("https://evil.example", False),
        ("/\t/evil.example", False),
        ("/\n", False),
        ("javascript:alert(1)", False),
    ],
)
def test_a_log_in_leads_nowhere_else(where: str, ours: bool) -> None:
    """Whoever gives somebody a link to the log-in page cannot have him led to a server of his own."""
    assert is_ours(where) is ours


async def test_after_the_log_in_a_foreign_address_is_not_followed(world: World) -> None:
    """The field is looked at, whatever the form had in it."""
    world.add("anna", Role.VIEWER)
    assert (await world.browser().log_in("anna", next="//evil.example")).headers["location"] == "/"


async def test_the_log_says_who_came_and_never_a_secret(world: World) -> None:
    """Neither a password, nor what stands in the place of the name: some type the password there."""
    world.add("anna", Role.VIEWER)
    browser = world.browser()
    with capture_logs() as said:
        await browser.log_in("anna", "wrong horse battery")
        await browser.log_in("hunter2-my-secret", "anna")
        await browser.log_in("anna")
        cookie = browser.client.cookies[COOKIE]
        await browser.send("/account", "/logout")
    assert [(line["event"], line["user"], line["address"]) for line in said] == [
        ("log-in failed", "anna", "192.0.2.7"),
        ("log-in failed", "unknown", "192.0.2.7"),
        ("logged in", "anna", "192.0.2.7"),
        ("logged out", "anna", "192.0.2.7"),
    ]
    for secret in (PASSWORD, "wrong horse", "hunter2", cookie):
        assert secret not in str(said)


async def test_who_is_removed_is_out_at_once(world: World) -> None:
    """His next page is the log-in page, and his streams end; a role that changes is another at the next page."""
    await world.logged_in(Role.ADMIN)
    browser = await world.logged_in(Role.VIEWER)
    world.people.change_role("viewer", Role.OPERATOR)
    assert "viewer operator" in (await browser.get("/")).text
    world.people.remove("viewer")
    assert refused(await browser.get("/"))


async def test_a_page_that_stands_open_does_not_keep_the_log_in_alive(world: World) -> None:
    """What it fetches by itself is no sign that somebody is there."""
    browser = await world.logged_in(Role.VIEWER)
    for _ in range(3):
        world.clock.now += IDLE / 2
        answer = await browser.get("/", hx_request="true")
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/login"


# --- hashing ------------------------------------------------------------------------------------------------------


class Threads:
    """Threads that begin their work when the test lets them."""

    def __init__(self) -> None:
        self.go = trio.Event()
        self.at_once = self.most = 0

    async def run_sync(self, work: Callable[[], T]) -> T:
        """Wait, and count who waits."""
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.go.wait()
        self.at_once -= 1
        return work()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    """Threads in the place of those in which passwords are looked at."""
    made = Threads()
    monkeypatch.setattr(trio.to_thread, "run_sync", made.run_sync)
    return made


async def test_log_ins_do_not_hold_up_pages(world: World, threads: Threads) -> None:
    """While passwords are looked at, two at once, pages are answered; the others wait, and all are answered."""
    world.add("anna", Role.ADMIN)
    codes: list[int] = []

    async def try_it(browser: Browser) -> None:
        codes.append((await browser.log_in("anna")).status_code)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(try_it, world.browser(f"198.51.100.{number}"))
        await wait_all_tasks_blocked()
        assert (await world.browser().get("/open")).status_code == 200
        threads.go.set()
    assert threads.most == AT_ONCE
    assert codes == [303] * 6


async def test_who_tries_without_end_keeps_nobody_else_out(
    tmp_path: Path, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many of one host are turned away, and have not tried; whoever comes from elsewhere has his turn."""
    monkeypatch.setattr(entrance, "WAITING", 1)
    async with make_world(tmp_path) as world:
        world.add("anna", Role.ADMIN)
        codes: dict[str, int] = {}

        async def try_it(user: str, address: str) -> None:
            codes[user] = (await world.browser(address).log_in(user)).status_code

        async with trio.open_nursery() as nursery:
            for number in range(AT_ONCE + 1):
                nursery.start_soon(try_it, f"eve{number}", "198.51.100.1")
            await wait_all_tasks_blocked()
            turned_away = [await world.browser("198.51.100.1").log_in("eve") for _ in range(2 * PER_ADDRESS)]
            nursery.start_soon(try_it, "anna", "198.51.100.2")
            await wait_all_tasks_blocked()
            threads.go.set()
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in turned_away} == {(503, "5")}
    assert codes == {"eve0": 403, "eve1": 403, "eve2": 403, "anna": 303}


async def test_who_goes_away_before_his_turn_has_not_tried(world: World, threads: Threads) -> None:
    """His password was never looked at; those that are being looked at count."""
    world.add("anna", Role.ADMIN)
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE + 2):
            nursery.start_soon(world.browser().log_in, "anna")
        await wait_all_tasks_blocked()
        assert len(world.entrance._tries._latest) == AT_ONCE + 2
        nursery.cancel_scope.cancel()
    assert not world.entrance._tries._latest


# --- the first administrator --------------------------------------------------------------------------------------

GIVEN = {"user": "Anna", "password": PASSWORD, "again": PASSWORD}


async def test_the_link_in_the_log_makes_the_first_administrator_once(world: World) -> None:
    """He is logged in by it; then neither it nor another form makes another one."""
    path = f"/setup/{world.entrance.link}"
    browser, other = world.browser(), world.browser()
    assert "Nobody can log in yet" in (await browser.get("/login")).text
    late = {"csrf": await other.token(path), **GIVEN, "user": "eve"}
    answer = await browser.send(path, path, **GIVEN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert (await browser.get("/")).text.startswith("anna admin")
    assert (await browser.get(path)).status_code == 404
    assert (await other.post(path, late)).status_code == 404
    assert [user.name for user in world.people.users] == ["anna"]


@pytest.mark.parametrize("link", ["", "x", "A" * 43])
async def test_another_link_is_worth_nothing(world: World, link: str) -> None:
    """Nothing is told of the right one."""
    assert (await world.browser().get(f"/setup/{link}")).status_code == 404


async def test_the_link_has_an_end(world: World) -> None:
    """After an hour it is worth nothing, also for a form that was open before."""
    path, browser = f"/setup/{world.entrance.link}", world.browser()
    token = await browser.token(path)
    world.clock.now += SETUP_ENDS
    assert (await browser.get(path)).status_code == 404
    assert (await browser.post(path, {"csrf": token, **GIVEN})).status_code == 404
    assert not world.people.set_up


async def test_where_there_is_an_administrator_there_is_no_link(world: World, tmp_path: object) -> None:
    """A restart makes none; and one that was made is worth nothing as soon as there is one."""
    path = f"/setup/{world.entrance.link}"
    world.add("anna", Role.ADMIN)
    assert (await world.browser().get(path)).status_code == 404
    async with make_world(tmp_path) as again:  # type: ignore[arg-type]
        assert again.entrance.link == ""
        assert (await again.browser().get("/setup/")).status_code == 404


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"again": "another one entirely"}, "The two passwords are not the same."),
        ({"password": "short", "again": "short"}, "A password has 12 to 256 characters."),
        ({"user": "<b>"}, "small letters"),
    ],
)
async def test_what_is_wrong_with_the_first_administrator_is_said(
    world: World, changed: dict[str, str], said: str
) -> None:
    """And the link can be used again."""
    path = f"/setup/{world.entrance.link}"
    answer = await world.browser().send(path, path, **{**GIVEN, **changed})
    assert answer.status_code == 400
    assert re.search(said, answer.text)
    assert not world.people.set_up
    assert (await world.browser().get(path)).status_code == 200


# --- one's own, and others' ---------------------------------------------------------------------------------------


async def test_ones_own_password_is_changed_with_the_old_one(world: World) -> None:
    """All other log-ins of the user end by it."""
    browser = await world.logged_in(Role.VIEWER)
    elsewhere = world.browser()
    await elsewhere.log_in("viewer")
    fresh = {"password": "a fresh horse battery", "again": "a fresh horse battery"}
    wrong = await browser.send("/account", "/account/password", old="not the old one", **fresh)
    assert "The old password is wrong." in wrong.text
    assert (await browser.send("/account", "/account/password", old=PASSWORD, **fresh)).status_code == 303
    assert "viewer viewer" in (await browser.get("/")).text
    assert refused(await elsewhere.get("/"))
    assert (await world.browser().log_in("viewer")).status_code == 403
    assert (await world.browser().log_in("viewer", "a fresh horse battery")).status_code == 303


async def test_an_administrator_looks_after_users_and_tokens(world: World) -> None:
    """Adds, changes, removes; each act is in the log with who did it, and no secret."""
    admin = await world.logged_in(Role.ADMIN)
    with capture_logs() as said:
        for path, fields in (
            ("/people/users", {"name": "Otto", "role": "viewer", "password": PASSWORD}),
            ("/people/users/otto/role", {"role": "operator"}),
            ("/people/users/otto/password", {"password": "another horse battery"}),
        ):
            if otto_user := world.people.user("otto"):
                fields["id"] = otto_user.id
            answer = await admin.send("/people", path, **fields)
            assert answer.status_code == 303
            assert 'role="status"' in (await admin.get(answer.headers["location"])).text
        otto = world.browser()
        assert (await otto.log_in("otto", "another horse battery")).status_code == 303
        assert (await admin.confirm("/people/users/otto/remove")).status_code == 303
        assert refused(await otto.get("/"))
        page = await admin.send("/people", "/people/tokens", name="prometheus", role="viewer")
        shown = re.search(r'id="made">(cmserverd_[\w-]{43})<', page.text)
        assert shown
        assert shown[1] not in (await admin.get("/people")).text
        machine = world.browser()
        assert (await machine.get("/api/v1/seen", authorization=f"Bearer {shown[1]}")).text.startswith(
            "token:prometheus viewer"
        )
        assert (await admin.confirm("/people/tokens/prometheus/remove")).status_code == 303
        assert (await machine.get("/api/v1/seen", authorization=f"Bearer {shown[1]}")).status_code == 401
    acts = [line["event"] for line in said if line.get("by") == "admin" and line["address"] == "192.0.2.7"]
    assert acts == ["user added", "role changed", "password changed", "user removed", "token made", "token removed"]
    for secret in (PASSWORD, "another horse", shown[1]):
        assert secret not in str(said)


async def test_an_administrator_hears_what_cannot_be(world: World) -> None:
    """The page says it, and nothing is changed."""
    admin = await world.logged_in(Role.ADMIN)
    for path, fields, text in (
        ("/people/users", {"name": "otto", "role": "king", "password": PASSWORD}, "Choose a role"),
        ("/people/users", {"name": "otto", "role": "viewer", "password": "short"}, "12 to 256 characters"),
        ("/people/users/admin/remove", {"id": world.people.users[0].id}, "last administrator"),
        ("/people/users/admin/role", {"id": world.people.users[0].id, "role": "viewer"}, "last administrator"),
        ("/people/users/admin/role", {"role": "viewer"}, "another one than you were shown"),
        ("/people/users/admin/password", {"id": "", "password": PASSWORD}, "another one than you were shown"),
        ("/people/users/nobody/password", {"password": PASSWORD}, "any more"),
        ("/people/tokens", {"name": "", "role": "viewer"}, "small letters"),
        ("/people/tokens/nobody/remove", {}, "any more"),
    ):
        answer = await admin.send("/people", path, **fields)
        assert (answer.status_code, text in answer.text) == (400, True), path
    assert [user.name for user in world.people.users] == ["admin"]
