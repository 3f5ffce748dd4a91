"""What operators do, in a browser: the way of an update, a reload, all of a client, and the log as it grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from cmserverd.cmboxpgm import commands
from tests.cmboxpgm.bench import NOON, Bench
from tests.daemon.harness import Daemon, ending
from tests.webadmin import stage
from tests.webadmin.browser.clients import CHARTS, DESIGNER, access, hear, program

CONTAINER = "/containers/3-1"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Give the licensor's bench, with a container that has two licenses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "now", lambda: NOON)
    bench = Bench(tmp_path, capsys)
    bench.begin()
    bench.program("firm-item", "--text", "Chart Works")
    bench.program("item", "--item", "1", "--product-code", "14", "--text", "Charts", "--quantity", "2")
    return bench


@pytest.fixture
def updated(bench: Bench) -> Iterator[str]:
    """Serve the pages of a daemon that has the container; give their address."""
    daemon = Daemon(bench.directory, dongle=None)
    daemon.config.write_text(daemon.config.read_text().replace("dongle.toml", "box.cmc"))
    with ending(daemon):
        daemon.serve().said("container plugged in")
        with stage.serving(daemon.run_directory) as url:
            yield url


def fetch_request(page: Page, name: str) -> None:
    """Download the request file of the container's page that is shown."""
    with page.expect_download() as downloading:
        page.click("#fetch-request")
    assert downloading.value.suggested_filename == name
    downloading.value.save_as(name)


def apply_update(page: Page, name: str) -> None:
    """Upload an update file there."""
    page.get_by_label("Update file").set_input_files(name)
    page.click("#apply-update")


def test_the_way_of_an_update(bench: Bench, updated: str, browser: Browser, page: Page) -> None:
    """From the request that is downloaded, by the licensor's answer, to what is offered then; and not twice."""
    page.goto(updated + CONTAINER)
    page.get_by_text("Update this CmContainer…").click()
    fetch_request(page, "3-1.request")
    where = ("--request", "3-1.request", "--update", "answer.update")
    bench.program("item", "--item", "1", "--quantity", "3", where=where)
    apply_update(page, "answer.update")
    expect(page.get_by_role("status")).to_contain_text(
        "CmContainer 3-1 has the update: Firm Code 600010, update counter"
    )
    assert not [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    page.get_by_role("link", name="Show the CmContainer").click()
    expect(page.get_by_role("heading", level=2)).to_have_text("Firm Code 600010 Chart Works")
    expect(page.locator("#entry-600010-1 td").nth(4)).to_have_text("3")
    again = browser.new_page()  # one on which something may go wrong
    again.goto(updated + CONTAINER)
    again.get_by_text("Update this CmContainer…").click()
    apply_update(again, "answer.update")
    expect(again.get_by_role("alert")).to_contain_text("(error 229). The CmContainer has this update or a later one")
    expect(again.get_by_label("Update file")).to_be_visible()
    again.close()


def test_the_way_of_a_certified_time(bench: Bench, updated: str, page: Page) -> None:
    """The same, with the box ticked."""
    page.goto(updated + CONTAINER)
    page.get_by_text("Update this CmContainer…").click()
    page.get_by_label("Ask for a certified time, too").check()
    fetch_request(page, "3-1.time.request")
    key = ("--key", "licensor.key", "--ledger", "ledger.json")
    bench.done("certify-time", "--request", "3-1.time.request", "--update", "time.update", *key)
    apply_update(page, "time.update")
    expect(page.get_by_role("status")).to_contain_text("CmContainer 3-1 has its certified time; it is 2026-01-01 12:")


def test_a_reload(daemon: Daemon, site: str, page: Page) -> None:
    """The page says what counts now, and the table shows it."""
    page.goto(f"{site}/configuration")
    daemon.config.write_text(daemon.config.read_text().replace('level = "info"', 'level = "warning"'))
    page.click("#reload")
    expect(page.get_by_role("status")).to_have_text("In force now: log.level.")
    expect(page.locator("#setting-log-level strong")).to_have_text('"warning"')
    assert not [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]


def test_what_a_setting_means_is_read_on_a_phone(daemon: Daemon, site: str, page: Page) -> None:
    """A value may be long, such as a path: what it means stands beside it, on the screen."""
    page.set_viewport_size({"width": 375, "height": 800})
    page.goto(f"{site}/configuration")
    meaning = page.locator("#setting-server-run_directory .meaning").bounding_box()
    assert meaning
    assert meaning["x"] + meaning["width"] <= 375


def test_all_of_a_client(daemon: Daemon, site: str, page: Page) -> None:
    """What one program holds goes at once, of several products; another one's stays."""
    with program(daemon) as wibu, program(daemon, "LAB", "mk") as lab:
        handles = [access(wibu), access(wibu), access(wibu, DESIGNER)]
        other = access(lab, CHARTS)
        page.goto(f"{site}/sessions")
        page.get_by_role("link", name="Remove all of ::1(WIBU \\ fs)").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Remove all of this client?")
        assert page.locator("#hit tbody tr").count() == 3
        page.click("#confirm")
        expect(page.get_by_role("status")).to_contain_text("3 accesses were removed; 2 licenses are available by that.")
        hear(wibu, 3)
        assert {event.handle for event in wibu.inbox.events} == set(handles)
        page.get_by_role("link", name="Back").click()
        expect(page.locator("#sessions tbody tr")).to_have_count(1)
        expect(page.locator(f"#remove-client-{other}")).to_be_visible()


def test_the_log_grows_under_a_reader_who_keeps_his_place(daemon: Daemon, site: str, page: Page) -> None:
    """A new line comes by itself; what he reads does not move, and no column becomes wider."""

    def place(row: str) -> tuple[float, float, float]:
        found = page.locator(f"#{row} th").bounding_box()
        assert found
        return found["x"], found["y"], found["width"]

    def say_something(words: int) -> None:
        before = daemon.config.read_text()
        daemon.config.write_text(f"{before}\n{'no_setting' * words} = 1\n")
        page.request.post(f"{site}/configuration/reload", form={"csrf": csrf}, headers={"Origin": site})
        daemon.config.write_text(before)

    page.set_viewport_size({"width": 1280, "height": 300})
    page.goto(f"{site}/configuration")
    csrf = page.locator("input[name=csrf]").first.get_attribute("value") or ""
    page.goto(f"{site}/events")
    for _ in range(8):
        say_something(1)
    told = page.locator("#events tbody tr", has_text="the settings were not read anew")
    expect(told).to_have_count(8)
    newest, read = told.first.get_attribute("id"), told.last.get_attribute("id")
    page.evaluate("row => window.scrollBy(0, document.getElementById(row).getBoundingClientRect().top - 50)", read)
    before = place(read or "")
    say_something(30)
    expect(told).to_have_count(9)
    expect(page.locator("#events tbody tr").first).not_to_have_attribute("id", newest or "")
    assert place(read or "") == pytest.approx(before, abs=1)
