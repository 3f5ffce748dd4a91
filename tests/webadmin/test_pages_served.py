"""The pages as they are served, over a daemon whose answers are made up: who is asked what, and what is shown of it."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from msgspec import Struct
from msgspec.structs import replace

from cmserverd.webadmin import sharing
from cmserverd.webadmin.pages import asking, tracking
from cmserverd.webadmin.people import Role
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import (
    AccessPage,
    Deallocate,
    Deallocated,
    DeallocatedAccess,
    NetCluster,
    NetUsers,
    Params,
    TrackingPage,
    TrackingProof,
    TrackingRequest,
    VerifyTracking,
)
from protocol.tracking import TrackedFrom, TrackingLine
from tests.cmu.fake_server import serving
from tests.cmu.made_up import ACCESS, EVIL, NOON, MadeUp
from tests.webadmin.stage import HOST, browsing

DETAILS = "/licenses/3-3448482/600010/14"


class MadeUpDaemon(MadeUp):
    """Also is administered, and has a history."""

    refusal: LicenseError | None = None
    proof = TrackingProof(True, 0, 41, NOON, 1, 7, 9)
    history: tuple[TrackingPage, ...] = ()

    def answer(self, params: Params[Any]) -> Struct:
        """Return the answer to a request. Raises LicenseError."""
        match params:
            case Deallocate():
                self.asked.append(params)
                if self.refusal is not None:
                    raise self.refusal
                gone = [one for one in self.accesses if one.handle in params.seen]
                self.accesses = tuple(one for one in self.accesses if one not in gone)
                rows = tuple(DeallocatedAccess(one.handle, one.client, one.pid, one.application) for one in gone)
                return Deallocated(rows, 1)
            case NetUsers() if params.limit < self.page:
                found = super().answer(params)
                assert isinstance(found, AccessPage)
                rest = found.accesses[params.limit :]
                page = found.accesses[: params.limit]
                return AccessPage(found.position, NOON, page, page[-1].handle if rest or found.next else None)
            case VerifyTracking():
                return self.proof
            case TrackingRequest():
                self.asked.append(params)
                return self.history[params.cursor.lines if params.cursor else 0]
        return super().answer(params)

    def removed(self) -> list[Deallocate]:
        """Return what was asked to be removed."""
        return [one for one in self.asked if isinstance(one, Deallocate)]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MadeUpDaemon]:
    """Have a daemon on the two sockets."""
    daemon = MadeUpDaemon()
    with serving(daemon.answer, str(tmp_path / "monitor.sock")), serving(daemon.answer, str(tmp_path / "control.sock")):
        yield daemon


@pytest.fixture
async def browser(daemon: MadeUpDaemon, tmp_path: Path) -> AsyncGenerator[httpx2.AsyncClient]:
    """Be an operator's browser."""
    async with browsing(tmp_path) as client:
        yield client


async def send(browser: httpx2.AsyncClient, path: str, **fields: str) -> httpx2.Response:
    """Send the form of a page, with some fields filled in otherwise."""
    page = (await browser.get(path)).text
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    return await browser.post(path, data={**hidden, "what": "allocation", **fields}, headers={"Origin": HOST})


async def test_the_details_of_the_users_page(browser: httpx2.AsyncClient) -> None:
    """The upper table and the lower one, with the field's columns."""
    text = (await browser.get(DETAILS)).text
    assert "License Monitoring Details: Chart Processing" in text
    assert "Total 2, available 1." in text
    assert text.count("::1(WIBU \\ fs)</th>") == 4
    for name in ("ID", "Client", "Client Process ID", "Application", "Access Mode", "First Access", "Last Access"):
        assert f">{name}</th>" in text


async def test_strangers_words_are_escaped(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """Neither marks nor hidden characters of a client get into a page."""
    words = EVIL + "<script>alert(1)</script>"
    daemon.accesses = (replace(ACCESS, client=words, application=words),)
    for path in (DETAILS, "/sessions", "/accesses/1/remove"):
        text = (await browser.get(path)).text
        assert "&lt;script&gt;alert(1)" in text
        assert "<script>alert" not in text
        assert not set(text) & {"\x1b", "\u202e"}


async def test_a_borrowed_row_has_no_action(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """It says until when it is borrowed; its question says why it cannot be removed, and has no button."""
    daemon.accesses = (replace(ACCESS, mode="borrowed", allocation=0, borrowed_until=NOON + 86_400),)
    text = (await browser.get(DETAILS)).text
    assert "2026-09-22 14:13:20" in text
    assert "/accesses/1/remove" not in text
    question = (await browser.get("/accesses/1/remove")).text
    assert "borrowed until 2026-09-22 14:13:20 UTC" in question
    assert 'id="confirm"' not in question


async def test_only_operators_are_offered_to_remove(daemon: MadeUpDaemon, tmp_path: Path) -> None:
    """Who may only look sees no link, and gets no question."""
    async with browsing(tmp_path, Role.VIEWER) as viewer:
        assert "/accesses/1/remove" not in (await viewer.get(DETAILS)).text
        assert (await viewer.get("/accesses/1/remove")).status_code == 303
    assert daemon.removed() == []


async def test_only_what_is_relevant(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """The checkbox is carried to the daemon and to the next page."""
    daemon.accesses = tuple(replace(ACCESS, handle=handle) for handle in range(1, 300))
    text = (await browser.get(DETAILS, params={"relevant": "1"})).text
    assert [one.relevant for one in daemon.asked if isinstance(one, NetUsers)] == [True]
    assert f'href="{DETAILS}?relevant=1&amp;cursor=200"' in text
    assert 'value="1" checked' in text


async def test_pages_of_a_long_list(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """Ten thousand accesses: the first two hundred cost one question, and each is on one page."""
    daemon.accesses = tuple(replace(ACCESS, handle=handle) for handle in range(1, 10_001))
    text = (await browser.get(DETAILS)).text
    assert [one.limit for one in daemon.asked if isinstance(one, NetUsers)] == [asking.ROWS]
    assert re.findall(r'id="access-(\d+)"', text) == [str(handle) for handle in range(1, 201)]
    following = (await browser.get(f"{DETAILS}?cursor=200")).text
    assert re.findall(r'id="access-(\d+)"', following)[0] == "201"
    assert "Back to the beginning" in following


async def test_rows_that_are_far_apart_make_one_page(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """The daemon passes over what does not fit and may give few rows at a time; it is asked on, within a bound."""
    daemon.accesses = tuple(replace(ACCESS, handle=handle) for handle in range(1, 100))
    daemon.page = 2
    text = (await browser.get(DETAILS)).text
    assert len([one for one in daemon.asked if isinstance(one, NetUsers)]) == 8
    assert text.count('id="access-') == 16
    assert "Next page" in text


async def test_an_open_page_fetches_its_region_only(browser: httpx2.AsyncClient) -> None:
    """No frame, no form: what the reader typed and opened is not touched."""
    region = (await browser.get(DETAILS, headers={"HX-Request": "true"})).text
    assert "Total 2, available 1." in region
    assert "<html" not in region
    assert "<form" not in region


async def test_open_pages_share_the_answers(
    daemon: MadeUpDaemon, browser: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty pages that are made anew cost the daemon as much as one, on however slow a machine they are made."""
    monkeypatch.setattr(sharing, "FRESH", math.inf)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(partial(browser.get, DETAILS, headers={"HX-Request": "true"}))
    assert len([one for one in daemon.asked if isinstance(one, NetUsers)]) == 1
    assert len([one for one in daemon.asked if isinstance(one, NetCluster)]) == 1


async def test_a_page_hears_of_its_product(browser: httpx2.AsyncClient) -> None:
    """Its stream is that of its product, from the position on at which it was drawn."""
    text = (await browser.get(DETAILS)).text
    assert 'data-stream="/live?firm_code=600010&amp;product_code=14&amp;since=41"' in text
    assert 'data-stream="/live?since=41"' in (await browser.get("/sessions")).text
    assert "data-stream" not in (await browser.get("/accesses/1/remove")).text


async def test_the_question_names_all_instances(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """On a StationShare row the allocation with all its instances; the handles go along in the form."""
    text = (await browser.get("/accesses/3/remove")).text
    assert "all 4 instances that share it" in text
    assert 'name="seen" value="1 2 3 4"' in text
    assert "Only this instance, ID 3 (no license becomes free)" in text
    assert daemon.removed() == []


async def test_a_row_of_user_limit_has_one_choice(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """There is nobody who shares it."""
    text = (await browser.get("/accesses/5/remove")).text
    assert "this one access" in text
    assert 'name="seen" value="5"' in text
    assert "Only this instance" not in text
    assert len([one for one in daemon.asked if isinstance(one, NetUsers)]) == 1


async def test_removing(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """What was shown is removed, with the hold-off that was chosen; the page says what was freed."""
    said = await send(browser, "/accesses/3/remove", hold_off="300")
    assert daemon.removed() == [Deallocate(3, "allocation", (1, 2, 3, 4), 300, "anybody")]
    assert "4 accesses were removed; 1 license is available by that." in said.text
    assert "Its PC gets no new license of this product for 5 min." in said.text
    assert f'href="{DETAILS}"' in said.text


@pytest.mark.parametrize(
    "fields",
    [{"seen": ""}, {"seen": "1 x"}, {"seen": "0"}, {"what": "everything"}, {"what": "session"}, {"hold_off": "86401"}],
)
async def test_a_form_that_was_altered(
    daemon: MadeUpDaemon, browser: httpx2.AsyncClient, fields: dict[str, str]
) -> None:
    """Nothing is removed that was not shown, nor otherwise than the page offers."""
    assert (await send(browser, "/accesses/3/remove", **fields)).status_code == 400
    assert daemon.removed() == []


async def test_somebody_came_meanwhile(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """What the daemon refuses is said, and the question is asked anew with who is there now."""
    daemon.refusal = LicenseError.of(ErrorNumber.INVALID_PARAMETER, "handle 9 has come since it was listed; look again")
    said = (await send(browser, "/accesses/3/remove")).text
    assert "Nothing was removed" in said
    assert "handle 9 has come" in said
    assert "Remove an allocation?" in said


async def test_what_has_gone_already(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """Its client released it, or somebody was faster."""
    for text in ((await browser.get("/accesses/77/remove")).text, (await browser.get("/accesses/0/remove")).text):
        assert "Nothing was removed" in text
    daemon.refusal = LicenseError.of(ErrorNumber.INVALID_HANDLE)
    page = (await browser.get("/accesses/3/remove")).text
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    daemon.accesses = ()
    fields = {**hidden, "what": "allocation"}
    said = await browser.post("/accesses/3/remove", data=fields, headers={"Origin": HOST})
    assert "There is no access 3 any more" in said.text


@pytest.mark.parametrize(
    "path",
    [
        "/licenses?firm_code=x",
        "/licenses?container=../etc",
        "/licenses/3-1/1/x",
        "/sessions?cursor=-1",
        "/usage?by=year",
        "/usage?since=yesterday",
        "/tracking?from=1.x",
        "/tracking?text=" + "x" * 101,
        "/events?level=debug",
        "/accesses/x/remove",
    ],
)
async def test_what_cannot_be_understood_is_said(browser: httpx2.AsyncClient, path: str) -> None:
    """An address that means nothing is refused with a page."""
    assert (await browser.get(path)).status_code == 400


def line(position: int, **fields: Any) -> TrackingLine:
    """Return an access of the user's product."""
    return TrackingLine(position, NOON, "access", "3-3448482", 600010, 14, 1, units=1, **fields)


async def test_searching_in_license_tracking(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """A text is sought in what people know; the search goes through the daemon's pages, and says where it goes on."""
    wibu, lab = line(1, host="WIBU", user="fs"), line(2, host="LAB", user="mk")
    daemon.history = (
        TrackingPage(1, NOON, (wibu,) * 3, TrackedFrom(0, 1)),
        TrackingPage(2, NOON, (lab,) * tracking.LEAST, TrackedFrom(0, 2)),
    )
    text = (await browser.get("/tracking?text=lab")).text
    assert "(WIBU" not in text
    assert text.count("(LAB \\ mk)") == tracking.LEAST
    assert 'href="/tracking?text=lab&amp;from=0.2"' in text


async def test_tracking_begins_with_the_last_day(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """Who does not say from when on does not read the history of months."""
    daemon.history = (TrackingPage(1, NOON, ()),)
    await browser.get("/tracking")
    await browser.get("/tracking?since=2026-01-01")
    asked = [one.since for one in daemon.asked if isinstance(one, TrackingRequest)]
    assert asked == [NOON - 86_400, 1_767_225_600]


async def test_verifying_license_tracking(daemon: MadeUpDaemon, browser: httpx2.AsyncClient) -> None:
    """Sound or not, it says up to where."""
    daemon.history = (TrackingPage(1, NOON, ()),)
    page = (await browser.get("/tracking")).text
    csrf = dict(re.findall(r'name="(csrf)" value="([^"]*)"', page))
    sound = await browser.post("/tracking/verify", data=csrf, headers={"Origin": HOST})
    assert "as it was written, up to position 41, 2026-09-21 14:13:20 UTC: 7 entries in 1 segment." in sound.text
    daemon.proof = replace(daemon.proof, sound=False, text="row 8 was altered")
    altered = await browser.post("/tracking/verify", data=csrf, headers={"Origin": HOST})
    assert "and not from there on: row 8 was altered" in altered.text
