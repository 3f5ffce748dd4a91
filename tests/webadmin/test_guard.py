"""What each path demands: a role, a form of our own page, a name that is ours; and that no path demands nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from cmserverd.webadmin.guard import FIELDS, STRANGERS
from cmserverd.webadmin.logins import IDLE
from cmserverd.webadmin.offers import Action, Open, Visit
from cmserverd.webadmin.people import Role
from tests.webadmin.conftest import HOME, PASSWORD, Browser, World, make_world


@pytest.mark.parametrize(
    ("role", "codes"),
    [
        (Role.VIEWER, [200, 403, 403, 403]),
        (Role.OPERATOR, [200, 200, 403, 200]),
        (Role.ADMIN, [200, 200, 200, 200]),
    ],
)
async def test_who_may_what(world: World, role: Role, codes: list[int]) -> None:
    """What everybody sees, what is for operators, what is for administrators, and an act; refusals are in the log."""
    world.add("root", Role.ADMIN)
    browser = await world.logged_in(role)
    with capture_logs() as said:
        answers = [await browser.get(path) for path in ("/", "/operators", "/people")]
        answers.append(await browser.send("/account", "/act"))
    assert [answer.status_code for answer in answers] == codes
    assert world.acts == [role.value] * (codes[-1] == 200)
    assert [line["user"] for line in said if line["event"] == "refused"] == [role.value] * codes.count(403)


async def test_nobody_may_nothing(world: World) -> None:
    """Whoever is not logged in is led to the log-in page, and comes back to what he asked for."""
    world.add("root", Role.ADMIN)
    browser = world.browser()
    for path in ("/", "/operators", "/people", "/silent", "/account"):
        answer = await browser.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={path}")
    answer = await browser.send("/login", "/act")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/")
    assert world.acts == []


@pytest.mark.parametrize(("role", "code"), [(None, 401), (Role.VIEWER, 403), (Role.OPERATOR, 200), (Role.ADMIN, 200)])
async def test_what_a_machine_may(world: World, role: Role | None, code: int) -> None:
    """The same as people, by its token; it needs no form for that, and is not led to the log-in page."""
    world.add("root", Role.ADMIN)
    shown = world.people.add_token("t", role, 1) if role else "cmserverd_made-up"
    machine = world.browser()
    machine.client.headers["Authorization"] = f"Bearer {shown}"
    assert (await machine.get("/api/v1/seen")).status_code == (200 if role else 401)
    assert (await machine.client.post("/api/v1/act")).status_code == code
    assert world.acts == ["token:t"] * (code == 200)
    assert (await world.browser().get("/api/v1/seen")).status_code == 401


async def test_anybody_may_look_only_where_the_configuration_says_so(tmp_path: Path) -> None:
    """And only look: whoever wants to act is led to the log-in page."""
    async with make_world(tmp_path, anonymous=Role.VIEWER) as world:
        world.add("root", Role.ADMIN)
        browser = world.browser()
        seen = await browser.get("/")
        assert seen.text.startswith("anybody viewer")
        assert (await browser.get("/api/v1/seen")).status_code == 200
        assert (await browser.get("/operators")).headers["location"] == "/login?next=/operators"
        assert (await browser.get("/account")).headers["location"] == "/login"
        answer = await browser.post("/act", {"csrf": seen.text.split()[-1]})
        assert answer.headers["location"] == "/login?next=/"
        assert world.acts == []
        menu = (await browser.get("/nonsense")).text
        assert "Dashboard" in menu
        assert "For operators" not in menu


@pytest.mark.parametrize("token", ["", "x", "é", "cmserverd_x"])
@pytest.mark.parametrize("scheme", ["Bearer ", "Basic ", ""])
async def test_a_token_that_is_none_opens_nothing(world: World, scheme: str, token: str) -> None:
    """Not even what a log-in in the same browser would open: a wrong token is a fault of its own."""
    browser = await world.logged_in(Role.ADMIN)
    headers = {b"Authorization": (scheme + token).encode()}
    answer = await browser.client.get("/api/v1/seen", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["text"] == "There is no such token."


async def test_a_token_is_for_machines_alone(world: World) -> None:
    """Pages and their forms want a log-in."""
    world.add("root", Role.ADMIN)
    shown = world.people.add_token("t", Role.ADMIN, 1)
    answer = await world.browser().get("/people", authorization=f"Bearer {shown}")
    assert answer.headers["location"].startswith("/login")


# --- forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "http://evil.example",
        "http://evil.example:22352",
        "http://licenses.example",
        "http://licenses.example:22353",
        "http://licenses.example:22352.evil.example",
        "http://licenses.example:22352@evil.example",
        "ftp://licenses.example:22352",
        "licenses.example:22352",
    ],
)
async def test_a_form_of_another_site_is_refused(world: World, origin: str) -> None:
    """Even with the right token; and one without any origin, too, for every browser says it."""
    browser = await world.logged_in(Role.OPERATOR)
    token = await browser.token("/account")
    answer = await browser.post("/act", {"csrf": token}, origin=origin)
    assert answer.status_code == 403
    assert "does not come from a page of this server" in answer.text
    answer = await browser.client.post("/act", data={"csrf": token})
    assert answer.status_code == 403
    assert world.acts == []
    assert (await browser.post("/act", {"csrf": token})).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
async def test_what_the_browser_says_of_another_site_is_believed(world: World, site: str) -> None:
    """Sec-Fetch-Site cannot be set by a page."""
    browser = await world.logged_in(Role.OPERATOR)
    browser.client.headers["Sec-Fetch-Site"] = site
    assert (await browser.send("/account", "/act")).status_code == 403
    browser.client.headers["Sec-Fetch-Site"] = "same-origin"
    assert (await browser.send("/account", "/act")).status_code == 200


@pytest.mark.parametrize("forged", [None, "", "x", "é" * 43])
async def test_a_form_without_the_token_is_refused(world: World, forged: str | None) -> None:
    """Of every action, and of those that anybody may ask for, too: none is without it."""
    browser = await world.logged_in(Role.ADMIN)
    fields = {} if forged is None else {"csrf": forged}
    acts = [one for one in world.site.offers if isinstance(one, Action) or getattr(one, "method", "GET") == "POST"]
    assert len(acts) >= 12
    for offer in acts:
        path = offer.path.replace("{name}", "admin").replace("{link}", "x")
        answer = await browser.post(path, {**fields, "user": "admin", "password": PASSWORD, "role": "viewer"})
        assert answer.status_code == 403, path
        assert "out of date" in answer.text, path
    assert world.acts == []
    assert (await browser.get("/")).text.startswith("admin admin")


async def test_the_token_is_of_one_log_in(world: World) -> None:
    """Neither another user's nor that of a log-in before."""
    first = await world.logged_in(Role.OPERATOR)
    second = await world.logged_in(Role.ADMIN)
    token = await first.token("/account")
    assert (await second.post("/act", {"csrf": token})).status_code == 403
    world.clock.now += IDLE
    await first.log_in("operator")
    assert (await first.post("/act", {"csrf": token})).status_code == 403
    assert (await first.send("/account", "/act")).status_code == 200


async def test_whoever_is_not_logged_in_has_forms_of_his_own(world: World) -> None:
    """Nobody can have somebody log in as somebody else: the form's token belongs to the browser that got it."""
    world.add("eve", Role.VIEWER)
    eve, victim = world.browser(), world.browser()
    token = await eve.token("/login")
    await victim.get("/login")
    answer = await victim.post("/login", {"csrf": token, "user": "eve", "password": PASSWORD})
    assert answer.status_code == 403
    victim.client.cookies.clear()
    answer = await victim.post("/login", {"csrf": token, "user": "eve", "password": PASSWORD})
    assert answer.status_code == 403


async def test_a_script_of_ours_may_send_the_token_as_a_header(world: World) -> None:
    """Which no other site's page can set; and the JSON API with a log-in demands it, too."""
    browser = await world.logged_in(Role.OPERATOR)
    token = await browser.token("/account")
    headers = {"Origin": HOME, "X-CSRF-Token": token}
    assert (await browser.client.post("/api/v1/act", headers=headers)).status_code == 200
    assert (await browser.client.post("/api/v1/act", headers={**headers, "X-CSRF-Token": "x"})).status_code == 403
    assert (await browser.client.post("/api/v1/act", headers={"Origin": HOME})).status_code == 403
    assert world.acts == ["operator"]


async def test_a_form_has_a_bound(world: World) -> None:
    """So many fields and bytes; nothing is done with more."""
    browser = await world.logged_in(Role.OPERATOR)
    token = await browser.token("/account")
    fields = {f"f{number}": "" for number in range(FIELDS)}
    assert (await browser.post("/act", {"csrf": token, **fields})).status_code == 400
    assert (await browser.post("/act", {"csrf": token, "seen": "1" * 600_000})).status_code == 413
    assert world.acts == []


async def test_a_stranger_sends_little(world: World) -> None:
    """Whoever is not logged in has nothing to send but a log-in; a length that is not told is too long."""
    world.add("root", Role.ADMIN)
    browser = world.browser()
    assert (await browser.log_in("nobody", "x" * STRANGERS)).status_code == 413

    async def untold() -> AsyncIterator[bytes]:
        yield b"csrf=x"

    answer = await browser.client.post("/login", content=untold(), headers={"Origin": HOME})
    assert answer.status_code == 413


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=B", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("charset", ["punycode", "undefined", "idna", "latin-1", '"UTF-16"', ""])
async def test_a_form_is_in_utf_8(world: World, kind: str, charset: str) -> None:
    """Whoever chose another codec would choose one that takes long, or fails; nothing is decoded by it."""
    browser = await world.logged_in(Role.OPERATOR)
    token = await browser.token("/account")
    part = f'--B\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n{token}\r\n--B--\r\n'
    body = part if kind.startswith("multipart") else urlencode({"csrf": token})

    async def send(said: str) -> int:
        headers = {"Origin": HOME, "Content-Type": kind + said}
        return (await browser.client.post("/act", content=body, headers=headers)).status_code

    assert await send(f"; charset={charset}") == 415
    assert await send(f"; charset=utf-8; charset={charset}") == 415
    assert [await send(said) for said in ("; charset=UTF-8", '; charset="utf-8"', "")] == [200] * 3
    assert world.acts == ["operator"] * 3


async def test_who_is_removed_while_he_sends_has_no_say_any_more(world: World) -> None:
    """What he may is asked when all of his request is here, not when it began."""
    world.add("root", Role.ADMIN)
    browser = await world.logged_in(Role.OPERATOR)
    form = urlencode({"csrf": await browser.token("/account")}).encode()

    async def slowly() -> AsyncIterator[bytes]:
        yield form[:5]
        world.people.remove("operator")
        yield form[5:]

    headers = {"Origin": HOME, "Content-Type": "application/x-www-form-urlencoded"}
    answer = await browser.client.post("/act", content=slowly(), headers=headers)
    assert answer.status_code == 403
    assert world.acts == []


async def test_a_token_that_is_removed_while_its_machine_sends_has_no_say_any_more(world: World) -> None:
    """What it may is asked when all of the request is here, too."""
    world.add("root", Role.ADMIN)
    machine = world.browser()
    machine.client.headers["Authorization"] = f"Bearer {world.people.add_token('t', Role.OPERATOR, 1)}"

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        world.people.remove_token("t")
        yield b"}"

    assert (await machine.client.post("/api/v1/act", content=slowly())).status_code == 401
    assert world.acts == []


async def test_who_goes_away_in_the_middle_is_no_fault_of_a_page(world: World) -> None:
    """Anybody can do so as often as he likes, and fill the log."""
    world.add("root", Role.ADMIN)
    messages: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": b"csrf=", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"origin", b"http://127.0.0.1"), (b"content-length", b"9")]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/login",
        "raw_path": b"/login",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    with capture_logs() as said:
        await world.site(scope, receive, send)
    assert sent[0]["status"] == 400
    assert not [line for line in said if line["log_level"] == "error"]


async def test_a_request_that_does_not_come_is_given_up(world: World, autojump_clock: MockClock) -> None:
    """Whoever sends a part and no more holds nothing for long."""
    world.add("root", Role.ADMIN)
    browser = await world.logged_in(Role.OPERATOR)

    async def never() -> AsyncIterator[bytes]:
        yield b"csrf="
        await trio.sleep_forever()

    answer = await browser.client.post("/act", content=never(), headers={"Origin": HOME}, timeout=None)
    assert answer.status_code == 408


# --- hosts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "licenses.example",
        "licenses.example:22352",
        "LICENSES.example.",
        "localhost:1",
        "127.0.0.1:22352",
        "192.0.2.1",
        "[::1]:22352",
        "[2001:db8::1]",
    ],
)
async def test_our_names_and_all_addresses_are_ours(world: World, host: str) -> None:
    """A page of another site can only ask for names that its owner has led here, and an address is none."""
    assert (await world.browser().get("/open", host=host)).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:22352",
        "licenses.example.evil.example",
        "evil.example#licenses.example",
        "licenses.example:x",
        "licenses.example, evil.example",
        "[::1",
        "[zz]",
        "127.0.0.1.evil.example",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/open", "/login", "/static/site.css", "/nonsense"])
async def test_another_name_is_refused_everywhere(world: World, host: str, path: str) -> None:
    """Whoever leads his own name here (DNS rebinding) gets nothing, not even the log-in page."""
    with capture_logs() as said:
        answer = await world.browser().get(path, host=host)
    assert answer.status_code == 421
    assert "<" not in answer.text
    assert said[0]["event"] == "refused a request for another host"


async def test_a_proxys_headers_change_nothing(world: World) -> None:
    """Neither host nor scheme: whoever can send a header could else choose both."""
    browser = world.browser()
    forged = {"x_forwarded_host": "evil.example", "x_forwarded_proto": "https", "forwarded": "host=evil.example"}
    led = await browser.get("/", **forged)
    assert led.headers["location"] == "/login?next=/"
    assert "__Host-" not in led.headers.get("set-cookie", "")


# --- no way around ------------------------------------------------------------------------------------------------


async def test_every_route_is_a_guarded_one(world: World) -> None:
    """What is open to all is this and nothing else; what is not there is no route."""
    everybodys = {(offer.path, offer.method) for offer in world.site.offers if isinstance(offer, Open)}
    assert everybodys == {
        ("/setup/{link}", "GET"),
        ("/setup/{link}", "POST"),
        ("/login", "GET"),
        ("/login", "POST"),
        ("/logout", "POST"),
        ("/static/{name}", "GET"),
        ("/open", "GET"),
        ("/fail", "GET"),
    }
    browser = world.browser()
    for path in ("/act", "/people/users", "/logout"):
        assert (await browser.get(path)).status_code == 405
    assert (await browser.client.put("/", headers={"Origin": HOME})).status_code == 405


async def test_a_stream_learns_that_its_log_in_is_over(world: World) -> None:
    """By being logged out, by the end of time, by another role, by being removed; and a token by its removal."""

    async def visit(browser: Browser) -> Visit:
        visits: list[Visit] = []
        keep = world.site.guard._made

        def noted(*arguments: object) -> Visit:
            visits.append(keep(*arguments))  # type: ignore[arg-type]
            return visits[-1]

        world.site.guard._made = noted  # type: ignore[method-assign, assignment]
        await browser.get("/")
        world.site.guard._made = keep  # type: ignore[method-assign]
        return visits[0]

    await world.logged_in(Role.ADMIN)
    ends: list[Callable[[str], object]] = [
        world.logins.end_all,
        lambda _: setattr(world.clock, "now", world.clock.now + IDLE),
        lambda name: world.people.change_role(name, Role.OPERATOR),
        world.people.remove,
    ]
    for number, end in enumerate(ends):
        name = f"viewer{number}"
        seen = await visit(await world.logged_in(Role.VIEWER, name))
        assert seen.user == name
        assert seen.stands()
        end(name)
        assert not seen.stands()
