"""The way in, in a browser: set up by the link, log out and in, make a user and a token; and how these pages are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.daemon.harness import LIMIT
from tests.webadmin.conftest import PASSWORD
from tests.webadmin.test_main import SECTION, WebAdmin, running


@pytest.fixture
def webadmin(tmp_path: Path) -> Iterator[WebAdmin]:
    """Run WebAdmin without a daemon."""
    config = tmp_path / "c.toml"
    directories = f'state_directory = "{tmp_path}/state"\nrun_directory = "{tmp_path}/run"\n'
    config.write_text(f'[server]\nname = "alpha"\n{directories}[log]\nformat = "json"\n{SECTION}')
    with running(config) as process:
        yield process


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_from_the_link_to_a_user(webadmin: WebAdmin, browser: Browser, width: int, scheme: str, tmp_path: Path) -> None:
    """By its forms alone; nothing serious for axe-core on any of the pages, and nothing wider than the screen."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(LIMIT * 1_000)
    link = webadmin.said("nobody can log in yet")["link"]
    (home,) = webadmin.said("serving")["addresses"]

    def look(name: str) -> None:
        found = Axe().run(page)
        serious = [one for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
        assert not serious, (name, [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in serious])
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.screenshot(path=tmp_path / f"{name}-{width}.png", full_page=True)

    page.goto(f"{home}/login")
    look("nobody")
    page.goto(link)
    look("setup")
    fill(page, {"User": "anna", "Password, 12 characters or more": PASSWORD, "Password again": "something else"})
    page.get_by_role("button", name="Make the administrator").click()
    expect(page.get_by_role("alert")).to_have_text("The two passwords are not the same.")
    look("setup-wrong")
    fill(page, {"User": "anna", "Password, 12 characters or more": PASSWORD, "Password again": PASSWORD})
    page.get_by_role("button", name="Make the administrator").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The license server does not answer")
    look("silent")
    page.get_by_role("link", name="Users").click()
    users = page.locator("form[action='/people/users']")
    users.get_by_label("User").fill("otto")
    users.get_by_label("Role").select_option("operator")
    users.get_by_label("Password").fill(PASSWORD)
    users.get_by_role("button", name="Add").click()
    expect(page.get_by_role("row", name="otto")).to_be_visible()
    tokens = page.locator("form[action='/people/tokens']")
    tokens.get_by_label("Token's name").fill("prometheus")
    tokens.get_by_role("button", name="Make a token").click()
    expect(page.locator("#made")).to_have_text(re.compile(r"cmserverd_[\w-]{43}"))
    look("people")
    page.get_by_role("link", name="Remove otto").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Remove the user otto?")
    look("remove-user")
    page.get_by_role("link", name="Cancel").click()
    page.get_by_role("link", name="Remove the token prometheus").click()
    look("remove-token")
    page.get_by_role("link", name="Cancel").click()
    page.get_by_role("link", name="Remove anna").click()
    expect(page.get_by_role("alert")).to_contain_text("anna is the last administrator")
    look("remove-last")
    page.get_by_role("link", name="Back").click()
    page.get_by_role("link", name="anna", exact=True).click()
    look("account")
    page.get_by_role("button", name="Log out").click()
    fill(page, {"User": "otto", "Password": "wrong horse battery"})
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("The user or the password is wrong.")
    look("login")
    fill(page, {"User": "otto", "Password": PASSWORD})
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".who")).to_contain_text("otto operator")
    expect(page.get_by_role("link", name="Users")).to_have_count(0)
    context.close()


def fill(page: Page, fields: dict[str, str]) -> None:
    """Fill in the fields with these labels."""
    for label, text in fields.items():
        page.get_by_label(label, exact=True).fill(text)
