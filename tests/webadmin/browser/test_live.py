"""Pages that keep themselves up to date, and leave the reader what he opened, where he is, and what he reads."""

from __future__ import annotations

from playwright.sync_api import Browser, Page, expect

from tests.daemon.harness import Daemon, ending
from tests.webadmin.browser.clients import DESIGNER, access, program

CONTENTS = "/containers/3-3448482"
DETAILS = "/licenses/3-3448482/600010/14"


def count_refreshes(page: Page) -> None:
    """Have the page count from now on how often it is made anew."""
    page.evaluate(
        """() => {
            const root = document.documentElement;
            root.dataset.refreshes = 0;
            document.getElementById("live").addEventListener("htmx:afterSettle", () => root.dataset.refreshes++);
        }"""
    )


def hide(page: Page, *, hidden: bool) -> None:
    """Have the page believe that nobody sees it, or that somebody does."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_what_was_opened_stays_open(daemon: Daemon, site: str, page: Page) -> None:
    """Options that the reader has opened stay so when the page is made anew, and the focus stays on them."""
    page.goto(site + CONTENTS)
    options = page.locator("#options-600010-2")
    options.locator("summary").click()
    count_refreshes(page)
    with program(daemon) as wibu:
        access(wibu)
        expect(page.locator("html")).not_to_have_attribute("data-refreshes", "0")
    assert options.evaluate("element => element.open")
    assert options.evaluate("element => element.contains(document.activeElement)")


def test_a_box_stays_where_it_was_scrolled_to(daemon: Daemon, site: str, page: Page) -> None:
    """A wide table that was scrolled stays so when it is made anew."""
    page.set_viewport_size({"width": 375, "height": 800})
    with program(daemon) as wibu:
        access(wibu)
        page.goto(site + DETAILS)
        page.evaluate("document.getElementById('lower-box').scrollLeft = 200")
        fresh = access(wibu)
        expect(page.locator(f"#access-{fresh}")).to_be_attached()
        assert page.evaluate("document.getElementById('lower-box').scrollLeft") == 200


def test_a_page_hears_of_its_own_product_only(daemon: Daemon, site: str, page: Page) -> None:
    """The page of one product is left alone by accesses to another one."""
    with program(daemon) as wibu:
        page.goto(site + DETAILS)
        expect(page.locator("#lower")).to_contain_text("Nobody has an access")
        count_refreshes(page)
        first = access(wibu)
        expect(page.locator(f"#access-{first}")).to_be_attached()
        expect(page.locator("html")).to_have_attribute("data-refreshes", "1")
        access(wibu, DESIGNER)
        second = access(wibu)
        expect(page.locator(f"#access-{second}")).to_be_attached()
        expect(page.locator("html")).to_have_attribute("data-refreshes", "2")


def test_a_stop_of_the_server_is_told(daemon: Daemon, site: str, browser: Browser) -> None:
    """When the license server is gone the page says so, and greys what it said last; when it is back it goes on."""
    page = browser.new_page()  # one on which something may go wrong
    page.goto(site + DETAILS)
    expect(page.locator("#live")).to_contain_text("Total 2, available 2.")
    daemon.stop()
    expect(page.get_by_role("alert")).to_contain_text("The license server does not answer.")
    expect(page.locator("#live")).to_have_css("opacity", "0.5")
    expect(page.locator(".interrupted")).to_be_hidden()
    again = Daemon(daemon.directory, listen="[::1]:0", dongle=None)
    with ending(again):
        again.serve().said("container plugged in")
        expect(page.get_by_role("alert")).to_be_hidden()
        with program(again) as wibu:
            fresh = access(wibu)
            expect(page.locator(f"#access-{fresh}")).to_be_attached()
    page.close()


def test_without_scripts(daemon: Daemon, browser: Browser, site: str) -> None:
    """Everything works without JavaScript; pages are then what they were when they were opened."""
    with browser.new_context(java_script_enabled=False) as context, program(daemon) as wibu:
        page = context.new_page()
        handle = access(wibu)
        page.goto(site)
        page.click("text=Chart Processing")
        page.click(f"#remove-{handle}")
        page.click("#confirm")
        expect(page.locator(".notice")).to_contain_text("1 access was removed; 1 license is available by that.")


def test_the_connections_of_a_browser(daemon: Daemon, browser: Browser, site: str) -> None:
    """A page that nobody sees gives its connection back, of which a browser has six; seen again, it is up to date."""
    with browser.new_context() as context, program(daemon) as wibu:
        pages = [context.new_page() for _ in range(8)]
        for page in pages:
            page.goto(site + DETAILS)
            hide(page, hidden=True)
        fresh = access(wibu)
        hide(pages[0], hidden=False)
        expect(pages[0].locator(f"#access-{fresh}")).to_be_attached()
        assert pages[1].locator(f"#access-{fresh}").count() == 0
