"""A browser, and a daemon with WebAdmin before it, for all tests of a module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.daemon.harness import LIMIT, Daemon, ending
from tests.webadmin import stage

_QUIET = (
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Run Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: apt-get install chromium fonts-dejavu-core")
    expect.set_options(timeout=LIMIT * 1_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_QUIET))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open a page that raises what goes wrong on it."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(LIMIT * 1_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    yield page
    page.close()
    assert not faults


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Run a daemon with the license of the user's page."""
    daemon = Daemon(tmp_path, listen="[::1]:0", dongle=CHART_PROCESSING)
    with ending(daemon):
        daemon.serve().said("container plugged in")
        yield daemon


@pytest.fixture
def lending_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Run a daemon with a dongle that keeps a ledger of what is borrowed, of one license."""
    described = tmp_path / "lending.toml"
    described.write_text(LENDING)
    dongle = f'[drivers.usb]\nembedded = true\nembedded_container = "{described}"\n'
    daemon = Daemon(tmp_path, listen="[::1]:0", dongle=None, config=dongle)
    with ending(daemon):
        daemon.serve().said("container plugged in")
        yield daemon


@pytest.fixture
def site(daemon: Daemon) -> Iterator[str]:
    """Serve the pages; give their address."""
    with stage.serving(daemon.run_directory) as url:
        yield url


@pytest.fixture
def lending_site(lending_daemon: Daemon) -> Iterator[str]:
    """Serve its pages; give their address."""
    with stage.serving(lending_daemon.run_directory) as url:
        yield url


CHART_PROCESSING = """
id = "3-3448482"
text = "License dongle"
[[firm_items]]
firm_code = 600010
text = "WIBU"
[[firm_items.products]]
item = 1
product_code = 14
text = "Chart Processing"
quantity = 2
[[firm_items.products]]
item = 2
product_code = 15
text = "Chart Designer"
quantity = 20
linger = 60
[[firm_items.products]]
item = 3
product_code = 16
text = "Renderings"
quantity = 5
units = { count = 100, generation = 1 }
"""

LENDING = """
id = "3-77"
[[firm_items]]
firm_code = 600010
[[firm_items.products]]
item = 1
product_code = 15
text = "Chart Designer"
quantity = 20
borrow = { seconds = 2592000 }
"""
