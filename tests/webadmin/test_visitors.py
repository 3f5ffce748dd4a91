"""Who a visitor is behind a reverse proxy: what is believed of whom, and by what he is counted and named then."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs
from trio.testing import MockClock

from cmserverd.webadmin.cookies import COOKIE
from cmserverd.webadmin.logins import PER_ADDRESS
from cmserverd.webadmin.people import Role
from cmserverd.webadmin.visitors import HOPS, HOUR, Proxies
from tests.webadmin.conftest import Browser, World, make_world

PROXY, FARTHER, VISITOR = "192.0.2.1", "10.1.2.3", "203.0.113.9"
HOME = "https://licenses.example"
OURS = (PROXY, "10.0.0.0/8", "2001:db8:1::/48", "127.0.0.1")


async def seen(
    peer: str, forwarded: list[str], schemes: tuple[str, ...] = (), own: str = "http"
) -> tuple[str, int, str]:
    """Return whom a request comes from, and by what scheme, that came with these headers over a connection."""
    headers = [(b"x-forwarded-for", text.encode("latin-1")) for text in forwarded]
    headers += [(b"x-forwarded-proto", text.encode("latin-1")) for text in schemes]
    scope = {"type": "http", "client": (peer, 4_711), "scheme": own, "headers": headers}
    found = Proxies(OURS).seen_through(scope)
    assert scope["client"] == (peer, 4_711)
    return (*found["client"], found["scheme"])


@pytest.mark.parametrize(
    ("forwarded", "visitor"),
    [
        ([], PROXY),
        ([VISITOR], VISITOR),
        ([f"198.51.100.1, {VISITOR}"], VISITOR),
        (["198.51.100.1", VISITOR], VISITOR),
        ([f"{VISITOR}, {FARTHER}"], VISITOR),
        ([f"198.51.100.1,{VISITOR}\t,  10.9.9.9 , {FARTHER}"], VISITOR),
        ([f"10.9.9.9, {FARTHER}"], "10.9.9.9"),
        ([f"{VISITOR}:50123"], VISITOR),
        (["2001:db8:2:3::4"], "2001:db8:2:3::4"),
        (["[2001:db8:2:3::4]:50123"], "2001:db8:2:3::4"),
        (["[2001:DB8:2:3:0::4], 2001:db8:1::7"], "2001:db8:2:3::4"),
        ([f"::ffff:{VISITOR}"], VISITOR),
        ([f"{VISITOR}, ::ffff:{FARTHER}"], VISITOR),
    ],
)
@pytest.mark.parametrize("peer", [PROXY, f"::ffff:{PROXY}"])
async def test_the_nearest_address_that_is_no_proxys_is_the_visitors(
    peer: str, forwarded: list[str], visitor: str
) -> None:
    """Whatever he himself wrote before it; if all are proxies', it is the farthest one's."""
    assert await seen(peer, forwarded) == (visitor, 4_711, "http")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "unknown",
        "_hidden",
        "unix:",
        "203.0.113",
        "203.0.113.9.1",
        "203.0.113.999",
        "203.0.113.9:x",
        "203.0.113.9:123456",
        "[203.0.113.9",
        "[]",
        "[fe80::1%eth0]:1",
        "fe80::1%a\x1b[31m",
        "::1::",
        "²03.0.113.9",
        "203.0.113.9\x85",
        '"203.0.113.9"',
        "for=203.0.113.9",
        "203.0.113.9;x",
        "1" * 5_000,
        ":" * 45,
    ],
)
async def test_what_is_no_address_is_nobodys(text: str) -> None:
    """Who comes from there counts as the proxy that said so, and nothing that stands farther away is looked at."""
    assert (await seen(PROXY, [f"198.51.100.1, {text}"]))[0] == PROXY
    assert (await seen(PROXY, [f"198.51.100.1, {text}, {FARTHER}"]))[0] == FARTHER


async def test_only_so_many_addresses_are_looked_at() -> None:
    """A header that is full of proxies' addresses costs no more, and what stands before them is not looked at."""
    near = [f"10.0.0.{number}" for number in range(HOPS, 0, -1)]
    assert (await seen(PROXY, [", ".join([VISITOR, *near[1:]])]))[0] == VISITOR
    assert (await seen(PROXY, [", ".join([VISITOR, *near])]))[0] == near[0]
    assert (await seen(PROXY, [VISITOR, *[",".join(near)] * 500]))[0] == near[0]


@pytest.mark.parametrize(
    ("schemes", "own", "scheme"),
    [
        ((), "http", "http"),
        (("https",), "http", "https"),
        (("HTTPS",), "http", "https"),
        (("http",), "https", "http"),
        (("https, http",), "http", "http"),
        (("https", "https"), "http", "http"),
        (("wss",), "http", "http"),
        (("",), "https", "https"),
        (("https\x85",), "http", "http"),
    ],
)
async def test_the_proxys_word_for_the_scheme(schemes: tuple[str, ...], own: str, scheme: str) -> None:
    """One that is none, or more than one, leaves what the connection is."""
    assert (await seen(PROXY, [VISITOR], schemes, own))[2] == scheme


@pytest.mark.parametrize("peer", ["192.0.2.2", "198.51.100.7", "::1", "2001:db8:2::1", "fe80::1%eth0"])
async def test_nobody_else_is_believed(peer: str, mock_clock: MockClock) -> None:
    """Neither an address nor a scheme; the log says what to do if it is a proxy, now and then."""
    scope = {
        "type": "http",
        "client": (peer, 4_711),
        "scheme": "http",
        "headers": [(b"x-forwarded-for", VISITOR.encode()), (b"x-forwarded-proto", b"https")],
    }
    proxies = Proxies(OURS)
    with capture_logs() as said:
        for _ in range(3):
            assert proxies.seen_through(scope) is scope
        mock_clock.jump(HOUR)
        proxies.seen_through(scope)
    assert [(line["address"], line.get("left_out")) for line in said] == [(peer, None), (peer, 2)]
    assert "[webadmin] proxies" in said[0]["event"]


async def test_many_come_from_a_proxy() -> None:
    """Its connections are counted each by itself, as over loopback; those of others by their host."""
    proxies = Proxies(OURS)
    assert len({proxies.other_end((PROXY, port)) for port in range(3)}) == 3
    assert len({proxies.other_end(("::1", port)) for port in range(3)}) == 3
    assert {proxies.other_end((VISITOR, port)) for port in range(3)} == {VISITOR}
    assert len({proxies.other_end((f"2001:db8:2:3::{port}", port)) for port in range(3)}) == 1


def through(world: World, visitor: str) -> Browser:
    """Return the browser of somebody who comes by HTTPS to the proxy, which itself speaks HTTP with WebAdmin."""

    async def plainly(scope: Scope, receive: Receive, send: Send) -> None:
        await world.site({**scope, "scheme": "http"}, receive, send)

    headers = {"X-Forwarded-For": f"198.51.100.1, {visitor}, {FARTHER}", "X-Forwarded-Proto": "https"}
    transport = httpx2.ASGITransport(app=plainly, client=(PROXY, 4_711), raise_app_exceptions=False)
    return Browser(httpx2.AsyncClient(transport=transport, base_url=HOME, headers=headers), HOME)


async def test_a_stranger_locks_out_nobody_who_comes_through_the_same_proxy(tmp_path: Path) -> None:
    """Ten wrong tries are those of his own host, which of IPv6 is a /64; the log has his address, not the proxy's."""
    async with make_world(tmp_path, proxies=OURS) as world:
        world.add("anna", Role.VIEWER)
        with capture_logs() as said:
            for number in range(PER_ADDRESS):
                eve = through(world, f"2001:db8:2:3::{number:x}")
                assert (await eve.log_in("anna", "wrong horse battery")).status_code == 403
            assert (await through(world, "2001:db8:2:3:ffff::1").log_in("anna")).status_code == 429
            answer = await through(world, "2001:db8:2:4::1").log_in("anna")
            assert answer.status_code == 303
        addresses = [line["address"] for line in said if line["event"] != "refused"]
        assert addresses == [
            *(f"2001:db8:2:3::{number:x}" if number else "2001:db8:2:3::" for number in range(PER_ADDRESS)),
            "2001:db8:2:3:ffff::1",
            "2001:db8:2:4::1",
        ]


async def test_behind_a_proxy_that_speaks_https_the_cookie_is_for_https(tmp_path: Path) -> None:
    """It is Secure, and of a name that no other host and no plain connection can set."""
    async with make_world(tmp_path, proxies=OURS) as world:
        world.add("anna", Role.VIEWER)
        answer = await through(world, VISITOR).log_in("anna")
        (cookie,) = [text for text in answer.headers.get_list("set-cookie") if text.startswith(f"__Host-{COOKIE}=")]
        assert "Secure" in cookie
