"""What each answer has, whatever it is: headers, the frame of the pages, files, pages about errors."""

from __future__ import annotations

from importlib import resources

import jinja2
import pytest
from structlog.testing import capture_logs

from cmserverd.webadmin.offers import Open, Visit
from cmserverd.webadmin.people import Role
from cmserverd.webadmin.site import HEADERS, SILENT, _templates
from tests.webadmin.conftest import World

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
}


@pytest.mark.parametrize("path", ["/", "/login", "/open", "/static/site.css", "/nonsense", "/fail", "/silent", "/act"])
@pytest.mark.parametrize("host", ["licenses.example", "evil.example"])
async def test_every_answer_has_the_headers(world: World, path: str, host: str) -> None:
    """Pages, files, redirections, refusals, errors, faults of ours: no script but ours, no frame, no guessing."""
    browser = await world.logged_in(Role.VIEWER)
    headers = (await browser.get(path, host=host)).headers
    assert dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; ")) == POLICY
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert ("max-age" in headers["cache-control"]) is False
    assert "server" not in headers


async def test_the_frame_of_a_page(world: World) -> None:
    """Navigation by role, who is logged in, the server's name and version, a way past the navigation."""
    viewer = await world.logged_in(Role.VIEWER)
    admin = await world.logged_in(Role.ADMIN)
    page = (await viewer.get("/account")).text
    for text in (
        'href="#content"',
        'id="content"',
        ">Dashboard</a>",
        "<h1>viewer</h1>",
        "alpha, cmserverd ",
        'lang="en"',
    ):
        assert text in page, text
    assert ">Users</a>" not in page
    assert ">For operators</a>" not in page
    assert '<a href="/people" aria-current="page">Users</a>' in (await admin.get("/people")).text
    assert "<nav" not in (await world.browser().get("/login")).text


async def test_what_strangers_say_is_escaped(world: World) -> None:
    """In pages and in pages about errors."""
    world.add("root", Role.ADMIN)
    answer = await world.browser().log_in("<script>alert(1)</script>")
    assert "&lt;script&gt;alert(1)" in answer.text
    assert "<script>alert" not in answer.text
    led = await world.browser().get('/login?next=/"><script>')
    assert "<script>" not in led.text


@pytest.mark.parametrize("value", ["<b>", '"', "'"])
def test_templates_escape_and_know_what_they_are_given(value: str) -> None:
    """All of them: autoescape is not by the file's name, and a name that is not there is an error, not empty."""
    templates = _templates()
    assert templates.loader is not None
    assert value not in templates.from_string("{{ value }}").render(value=value)
    with pytest.raises(jinja2.UndefinedError):
        templates.from_string("{{ valeu }}").render(value=value)
    for name in templates.list_templates():
        assert "|safe" not in templates.loader.get_source(templates, name)[0].replace(" ", "")


async def test_nothing_in_a_page_runs_or_looks_by_itself(world: World) -> None:
    """The policy would forbid it: no script, no style and no handler stands in a template."""
    templates = _templates()
    assert templates.loader is not None
    for name in templates.list_templates():
        text = templates.loader.get_source(templates, name)[0].lower()
        for forbidden in ("<style", " style=", " onclick=", " onload=", "javascript:", "hx-on", "<script>"):
            assert forbidden not in text, (name, forbidden)


# --- files --------------------------------------------------------------------------------------------------------


async def test_the_files_are_sent_and_may_be_kept(world: World) -> None:
    """By a path that changes with what is in them; without that, they are asked for each time."""
    browser = world.browser()
    style = await browser.get("/static/site.css")
    assert style.headers["content-type"] == "text/css; charset=utf-8"
    assert style.content == (resources.files("cmserverd.webadmin") / "static" / "site.css").read_bytes()
    page = (await browser.get("/login")).text
    marked = page.partition('href="/static/site.css')[2].partition('"')[0]
    kept = await browser.get(f"/static/site.css{marked}")
    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert kept.content == style.content
    assert "no-store" in (await browser.get("/static/site.css?0000000000000000")).headers["cache-control"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/../site.py",
        "/static/..%2fsite.py",
        "/static/%2e%2e/site.py",
        "/static/..%5csite.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/site.css%00.py",
        "/static/site.css/",
        "/static/SITE.CSS",
        "/static/.",
    ],
)
async def test_no_other_file_is_sent(world: World, path: str) -> None:
    """Nothing that is asked for becomes a path: the names are looked up among those of the package."""
    answer = await world.browser().get(path)
    assert answer.status_code in (404, 307)
    assert "import" not in answer.text
    assert "root:" not in answer.text


# --- errors -------------------------------------------------------------------------------------------------------


async def test_a_page_that_is_not_there(world: World) -> None:
    """In words, with a way on; for machines as JSON."""
    answer = await world.browser().get("/nonsense")
    assert answer.status_code == 404
    assert "<h1>There is no such page</h1>" in answer.text
    answer = await world.browser().get("/api/v1/nonsense")
    assert (answer.status_code, answer.json()["error"]["title"]) == (404, "There is no such page")


async def test_requests_for_another_host_are_told_once(world: World) -> None:
    """Anybody could fill the log by them."""
    with capture_logs() as said:
        for number in range(5):
            assert (await world.browser().get("/", host=f"{number}.example")).status_code == 421
    assert [line["host"] for line in said] == ["0.example"]


async def test_a_fault_of_ours_tells_nothing_of_itself(world: World) -> None:
    """No traceback, no text of the exception."""
    answer = await world.browser().get("/fail")
    assert answer.status_code == 500
    assert "This is a fault of WebAdmin" in answer.text
    assert "details>" not in answer.text
    assert "RuntimeError" not in answer.text


async def test_a_daemon_that_does_not_run_is_a_page(world: World) -> None:
    """Not a fault: it says what is the matter, and one can log out there."""
    browser = await world.logged_in(Role.VIEWER)
    answer = await browser.get("/silent")
    assert answer.status_code == 503
    assert f"<h1>{SILENT}</h1>" in answer.text
    assert "It may be starting, or it is stopped" in answer.text
    assert "Log out" in answer.text


def test_a_visit_shows_no_secret() -> None:
    """Whoever logs one by mistake does not log what forms carry."""
    assert "secret" not in repr(Visit("anna", Role.VIEWER, "secret", None, None, None))  # type: ignore[arg-type]
    assert Open("/x", None).method == "GET"  # type: ignore[arg-type]
