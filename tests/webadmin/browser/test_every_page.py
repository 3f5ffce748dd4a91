"""What is true of every page: no barrier that axe-core finds, nothing wider than the screen, targets for fingers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from cmserverd.webadmin.offers import Page as PageOffer
from cmserverd.webadmin.pages import ROUTES
from protocol.errors import LicenseError
from protocol.terms import AccessMode
from tests.daemon.harness import Daemon, ending
from tests.webadmin import stage
from tests.webadmin.browser.clients import DESIGNER, access, program
from tests.webadmin.browser.conftest import CHART_PROCESSING

PATHS = {
    "/": "/",
    "/containers": "/containers",
    "/containers/{container}": "/containers/3-3448482",
    "/licenses": "/licenses",
    "/licenses/{container}/{firm_code}/{product_code}": "/licenses/3-3448482/600010/14",
    "/sessions": "/sessions",
    "/accesses/{handle}/remove": "/accesses/1/remove",
    "/accesses/{handle}/remove-client": "/accesses/1/remove-client",
    "/usage": "/usage?by=hour",
    "/tracking": "/tracking",
    "/events": "/events",
    "/configuration": "/configuration",
}
"""Each page's address here."""

OTHERS = ("/licenses?firm_code=x", "/accesses/99/remove", "/nowhere")
"""Pages about what is not there."""

SCREENS = ((1280, "light"), (375, "dark"))

EVIL = "a<b>b\x1b[2Jc\u202ed'\"&e" + "f" * 100


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the pages of a daemon where all kinds of things are; give their address."""
    directory: Path = tmp_path_factory.mktemp("daemon")
    daemon = Daemon(directory, listen="[::1]:0", dongle=CHART_PROCESSING)
    with ending(daemon):
        daemon.serve().said("container plugged in")
        with program(daemon) as wibu, program(daemon, "LAB", "mk") as lab, program(daemon, EVIL, EVIL, EVIL) as evil:
            for _ in range(4):
                access(wibu)
            access(lab)
            access(evil, DESIGNER, AccessMode.USER_LIMIT)
            with pytest.raises(LicenseError):
                access(evil)
            with stage.serving(daemon.run_directory) as url:
                yield url


@pytest.fixture(params=SCREENS, ids=lambda screen: f"{screen[0]}-{screen[1]}")
def screen(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    """Open a page on a screen of that size."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    yield context.new_page()
    context.close()


def test_each_page_is_looked_at() -> None:
    """The list here has all pages that there are."""
    assert set(PATHS) == {offer.path for offer in ROUTES if isinstance(offer, PageOffer)}


def test_no_barriers(site: str, screen: Page) -> None:
    """axe-core finds nothing serious on any page."""
    for path in (*PATHS.values(), *OTHERS):
        screen.goto(site + path)
        for summary in screen.locator("summary").all():
            summary.click()
        found = Axe().run(screen)
        serious = [one for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
        assert not serious, (path, [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in serious])


def test_nothing_is_wider_than_the_screen(site: str, screen: Page) -> None:
    """A wide table scrolls in its own box; the page does not, whatever is opened on it."""
    for path in (*PATHS.values(), *OTHERS):
        screen.goto(site + path)
        for summary in screen.locator("summary").all():
            summary.click()
        assert screen.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path


def test_targets_are_large_enough_for_fingers(site: str, screen: Page) -> None:
    """On a phone, what can be touched is 44 pixels high, but for links within a sentence."""
    if screen.viewport_size is None or screen.viewport_size["width"] > 400:
        return
    for path in PATHS.values():
        screen.goto(site + path)
        small = screen.evaluate(
            """() => [...document.querySelectorAll("a, button, select, summary, input, label.choice")]
                .filter(one => !one.closest("p, .skip") && !one.closest("label.choice:not(:scope)")
                        && one.type !== "hidden" && one.checkVisibility() && !one.matches(".skip"))
                .filter(one => one.getBoundingClientRect().height < 43.5)
                .map(one => one.outerHTML)"""
        )
        assert not small, path


def test_strangers_words_are_only_words(site: str, screen: Page) -> None:
    """What a client calls itself is shown as text; what steers the reading direction or a terminal is made visible."""
    for path in (
        "/licenses/3-3448482/600010/15",
        "/sessions",
        "/tracking",
        "/accesses/6/remove",
        "/accesses/6/remove-client",
    ):
        screen.goto(site + path)
        text = screen.inner_text("main")
        assert "a<b>b?[2Jc?d'\"&e" in text, path
        assert not {"\x1b", "\u202e"} & set(screen.content()), path
