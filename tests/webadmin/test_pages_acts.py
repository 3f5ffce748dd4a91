"""What operators do on pages, beside removing an allocation: updates, a reload, and all that one client holds."""

from __future__ import annotations

import gc
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec import Struct
from msgspec.structs import replace

from cmserverd.webadmin.daemon import open_daemon
from cmserverd.webadmin.pages.configuration import reloaded
from cmserverd.webadmin.people import Role
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import (
    Configuration,
    ConfigurationRequest,
    Context,
    ContextFile,
    Deallocate,
    ErrorBody,
    Import,
    Imported,
    LogPage,
    LogRequest,
    Params,
    Reload,
    Reloaded,
    TrackingPage,
)
from protocol.tracking import TrackingLine
from protocol.updating import LONGEST_UPDATE
from protocol.watching import Happened, LogLine
from tests.cmu.fake_server import serving
from tests.cmu.made_up import ACCESS, EVIL, NOON
from tests.webadmin.stage import HOST, logged_in
from tests.webadmin.test_pages_served import MadeUpDaemon

CONTAINER = "/containers/3-3448482"
REQUEST = b"cmrequest and so on"


class OperatedDaemon(MadeUpDaemon):
    """Also takes updates and reads its settings anew; `fails` is what it refuses all acts with."""

    fails: LicenseError | None = None
    imported = Imported("3-3448482", 600010, 8)
    reloaded = Reloaded((), ())
    log: tuple[LogLine, ...] = ()

    def answer(self, params: Params[Any]) -> Struct:
        """Return the answer to a request. Raises LicenseError."""
        if isinstance(params, Context | Import | Reload):
            self.asked.append(params)
            if self.fails is not None:
                raise self.fails
        match params:
            case Context():
                return ContextFile(REQUEST)
            case Import():
                return self.imported
            case Reload():
                return self.reloaded
            case ConfigurationRequest():
                return Configuration("/etc/cmserverd/cmserverd.toml", ())
            case LogRequest():
                return LogPage(len(self.log), self.log, missed=False)
        return super().answer(params)

    def acts(self) -> list[Params[Any]]:
        """Return what was done to it."""
        return [one for one in self.asked if isinstance(one, Context | Import | Reload | Deallocate)]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[OperatedDaemon]:
    """Have a daemon on the two sockets."""
    daemon = OperatedDaemon()
    with serving(daemon.answer, str(tmp_path / "monitor.sock")), serving(daemon.answer, str(tmp_path / "control.sock")):
        yield daemon


@pytest.fixture
async def browser(daemon: OperatedDaemon, tmp_path: Path) -> AsyncGenerator[httpx2.AsyncClient]:
    """Be the browser of an operator who is logged in."""
    async with logged_in(tmp_path, "anna") as client:
        yield client


async def send(
    browser: httpx2.AsyncClient, page: str, path: str, files: Mapping[str, Any] | None = None, **fields: str
) -> httpx2.Response:
    """Send a form of a page, with its hidden fields."""
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', (await browser.get(page)).text))
    return await browser.post(path, data={**hidden, **fields}, files=files, headers={"Origin": HOST})


def update(octets: bytes) -> dict[str, Any]:
    """Return the file of a form."""
    return {"update": ("answer.update", octets)}


# --- updates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "name"), [({}, "3-3448482.request"), ({"time": "1"}, "3-3448482.time.request")])
async def test_a_request_file_is_a_file_to_keep(
    daemon: OperatedDaemon, browser: httpx2.AsyncClient, fields: dict[str, str], name: str
) -> None:
    """With or without a certified time, in the name of who asks; a browser keeps it and does not show it."""
    answer = await send(browser, CONTAINER, f"{CONTAINER}/request", None, **fields)
    assert (answer.status_code, answer.content) == (200, REQUEST)
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert answer.headers["content-type"] == "application/octet-stream"
    assert daemon.acts() == [Context("3-3448482", bool(fields), "anna")]


async def test_a_request_file_that_there_is_not(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """The container's page says why, and what to do."""
    daemon.fails = LicenseError.of(ErrorNumber.BOX_LOST)
    answer = await send(browser, CONTAINER, f"{CONTAINER}/request")
    assert answer.status_code == 400
    assert "There is no request file: " in answer.text
    assert "(error 70). Plug the CmContainer in, and try again." in answer.text


async def test_an_update_says_what_it_brought(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """A firm item, or a time; and which container the file was for."""
    said = (await send(browser, CONTAINER, f"{CONTAINER}/update", update(b"cmupdate"))).text
    assert daemon.acts() == [Import(b"cmupdate", "anna")]
    assert "CmContainer 3-3448482 has the update: Firm Code 600010, update counter 8." in said
    assert "was not for" not in said
    daemon.imported = Imported("3-9", time=NOON)
    said = (await send(browser, CONTAINER, f"{CONTAINER}/update", update(b"cmupdate"))).text
    assert "CmContainer 3-9 has its certified time; it is 2026-09-21 14:13:20 UTC now." in said
    assert "The file was not for 3-3448482." in said
    assert 'href="/containers/3-9"' in said


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (ErrorNumber.UPDATE_TOO_OLD, "(error 229). The CmContainer has this update or a later one"),
        (ErrorNumber.UPDATE_TOO_NEW, "(error 228). An update before this one is missing"),
        (ErrorNumber.UPDATE_FAILED, "(error 233). Choose the file as the licensor sent it"),
        (ErrorNumber.BOX_NOT_FOUND, "(error 201). Plug in the CmContainer that the update is for"),
        (ErrorNumber.VALIDATION_FAILED, "(error 211)."),
    ],
)
async def test_an_update_that_is_refused(
    daemon: OperatedDaemon, browser: httpx2.AsyncClient, number: ErrorNumber, text: str
) -> None:
    """The page says so, and what to do."""
    daemon.fails = LicenseError.of(number)
    answer = await send(browser, CONTAINER, f"{CONTAINER}/update", update(b"cmupdate"))
    assert answer.status_code == 400
    assert "The update was not applied: " in answer.text
    assert text in answer.text
    assert '<details class="task" id="update" open>' in answer.text


async def test_a_refusal_says_its_number_and_what_it_is_once(
    daemon: OperatedDaemon, browser: httpx2.AsyncClient
) -> None:
    """Whatever the sentence has that came over the wire; and a number that this version does not know, too."""
    daemon.fails = LicenseError.of(ErrorNumber.UPDATE_FAILED, "it ends too early")
    answer = await send(browser, CONTAINER, f"{CONTAINER}/update", update(b"cmupdate"))
    assert "The update was not applied: it ends too early (error 233). Choose the file" in answer.text
    daemon.fails = LicenseError(ErrorBody(999, "NEW", "It is Tuesday"))
    answer = await send(browser, CONTAINER, f"{CONTAINER}/update", update(b"cmupdate"))
    assert "The update was not applied: It is Tuesday (error 999)." in answer.text


async def test_an_update_of_which_nobody_knows(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """The connection broke after it was sent: it may have come through, and the page does not say that it has not."""
    daemon.fails = LicenseError.of(ErrorNumber.NETWORK_FAULT)
    answer = await send(browser, CONTAINER, f"{CONTAINER}/update", update(b"cmupdate"))
    assert "did not say whether it has applied the update" in answer.text
    assert "was not applied" not in answer.text


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"", "No file was chosen, or it is empty"),
        (b"x" * (LONGEST_UPDATE + 1), "This is no update file: it has more than 65,536 bytes."),
    ],
    ids=["empty", "too long"],
)
async def test_what_is_no_update_is_not_sent_on(
    daemon: OperatedDaemon, browser: httpx2.AsyncClient, octets: bytes, text: str
) -> None:
    """It is bounded here as the protocol bounds it."""
    answer = await send(browser, CONTAINER, f"{CONTAINER}/update", update(octets))
    assert answer.status_code == 400
    assert text in answer.text
    assert daemon.acts() == []


async def test_a_form_without_a_file(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """It is refused, like one that another site's page sends or that lacks its token."""
    assert (await send(browser, CONTAINER, f"{CONTAINER}/update", update="cmupdate")).status_code == 400
    for headers in ({"Origin": "https://evil.example"}, {"Origin": HOST}):
        forged = await browser.post(f"{CONTAINER}/update", files=update(b"cmupdate"), headers=headers)
        assert forged.status_code == 403
    assert daemon.acts() == []
    gc.collect()  # a file that was left open is told then


async def test_who_only_looks_changes_nothing(daemon: OperatedDaemon, tmp_path: Path) -> None:
    """A viewer is offered none of it, and gets none of it."""
    daemon.history = (TrackingPage(1, NOON, ()),)
    removal = "/accesses/1/remove-client"
    async with logged_in(tmp_path, "otto", Role.VIEWER) as viewer:
        for page in (CONTAINER, "/configuration", "/sessions", "/tracking"):
            text = (await viewer.get(page)).text
            assert 'method="post"' not in text.partition("<main")[2]
            assert "remove-client" not in text
        csrf = dict(re.findall(r'name="(csrf)" value="([^"]*)"', text))
        for path in (f"{CONTAINER}/request", f"{CONTAINER}/update", "/configuration/reload", removal):
            assert (await viewer.post(path, data=csrf, headers={"Origin": HOST})).status_code == 403, path
        assert (await viewer.get(removal)).status_code == 403
    assert daemon.acts() == []


# --- a reload -----------------------------------------------------------------------------------------------------


async def test_a_reload_says_what_counts_now(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """And what waits for a restart; in the name of who asks."""
    daemon.reloaded = Reloaded(("log.level", "licensors.600010"), ("server.listen",))
    said = (await send(browser, "/configuration", "/configuration/reload")).text
    assert daemon.acts() == [Reload("anna")]
    assert "In force now: log.level, licensors.600010." in said
    assert "in force after a restart of the license server: server.listen." in said


def test_what_a_reload_may_bring() -> None:
    """Something, nothing, and what WebAdmin itself has to be started anew for."""
    assert reloaded(Reloaded((), ())) == ("The file was read, and says nothing new.",)
    assert reloaded(Reloaded((), ("webadmin.hosts",))) == (
        "Changed in the file, and in force after a restart of WebAdmin: webadmin.hosts.",
    )


async def test_a_fault_in_the_settings_is_told(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """With file and line, as the license server tells it; the page stays."""
    daemon.fails = LicenseError.of(ErrorNumber.INVALID_PARAMETER, "c.toml:3: log.level: expected one of these")
    answer = await send(browser, "/configuration", "/configuration/reload")
    assert answer.status_code == 400
    assert "Nothing was changed" in answer.text
    assert "c.toml:3: log.level" in answer.text
    assert "Reload: take over" in answer.text


# --- all of a client ----------------------------------------------------------------------------------------------

HIS = tuple(
    replace(ACCESS, handle=handle, session=2, mode=mode, allocation=handle)
    for handle, mode in ((11, "user_limit"), (12, "station_share"), (19, "user_limit"))
)


async def test_each_client_has_one_action(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """In his first row; what is borrowed is nobody's session, and has none."""
    loan = replace(ACCESS, handle=30, session=0, mode="borrowed", allocation=0, borrowed_until=NOON)
    daemon.accesses = (ACCESS, *HIS, loan)
    text = (await browser.get("/sessions")).text
    assert re.findall(r'href="/accesses/(\d+)/remove-client"', text) == ["1", "11"]
    for handle in (30, 77, 0):
        said = (await browser.get(f"/accesses/{handle}/remove-client")).text
        assert "Nothing was removed" in said
        assert "See under Sessions what he has now." in said


async def test_the_question_names_all_that_a_client_has(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """Whichever of his accesses is asked about; nobody else's."""
    daemon.accesses = (ACCESS, *HIS)
    text = (await browser.get("/accesses/12/remove-client")).text
    assert "has\n  <strong>3 accesses</strong>" in text
    assert 'name="seen" value="11 12 19"' in text
    assert "becomes free only when those have let go of it, too" in text
    assert daemon.acts() == []


async def test_removing_all_of_a_client(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """What was shown goes, with the hold-off that was chosen, in the name of who asks."""
    daemon.accesses = (ACCESS, *HIS)
    path = "/accesses/11/remove-client"
    said = (await send(browser, path, path, hold_off="60")).text
    assert daemon.removed() == [Deallocate(11, "session", (11, 12, 19), 60, "anna")]
    assert "3 accesses were removed" in said
    assert "Its PC gets no new license of these products for 1 min." in said


async def test_a_client_who_took_more_meanwhile(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """Nothing is removed; it is asked anew."""
    daemon.accesses = HIS
    daemon.refusal = LicenseError.of(
        ErrorNumber.INVALID_PARAMETER, "handle 20 has come since it was listed; look again"
    )
    path = "/accesses/11/remove-client"
    said = (await send(browser, path, path)).text
    assert "Nothing was removed: " in said
    assert "Remove all of this client?" in said
    assert (await send(browser, path, path, seen="")).status_code == 400


async def test_strangers_words_are_escaped(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """In the question, too."""
    words = EVIL + "<script>alert(1)</script>"
    daemon.accesses = (replace(ACCESS, client=words, application=words),)
    text = (await browser.get("/accesses/1/remove-client")).text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text
    assert not set(text) & {"\x1b", "\u202e"}


# --- names of licensors, and the log ------------------------------------------------------------------------------


async def test_licensors_are_named_beside_their_codes(browser: httpx2.AsyncClient) -> None:
    """As a firm item says that is believed; one that is not names nobody among the licenses."""
    assert "<h2>Firm Code 600010 WIBU</h2>" in (await browser.get("/licenses")).text
    text = (await browser.get("/containers")).text
    assert ">600010 WIBU</span>" in text
    assert ">4294967295</span>" in text


async def test_questions_name_the_product(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """People know no codes."""
    assert (
        "<strong>Chart Processing</strong> (Firm Code 600010, Product Code 14)"
        in (await browser.get("/accesses/1/remove")).text
    )
    assert '<th scope="row">14 Chart Processing</th>' in (await browser.get("/accesses/1/remove-client")).text
    daemon.accesses = (replace(ACCESS, kind="subsystem", mode="", allocation=0, container="", firm_code=0),)
    assert "<strong>the license server itself</strong>" in (await browser.get("/accesses/1/remove")).text


async def test_license_tracking_tells_of_loans_and_names(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """What was borrowed and came back, with the sign of what it changes; each product's name; why one is denied."""
    charts = TrackingLine(1, NOON, "borrow", "3-3448482", 600010, 14, 1, units=1)
    daemon.history = (
        TrackingPage(
            3,
            NOON,
            (
                charts,
                replace(charts, position=2, event="return", reason="over"),
                TrackingLine(3, NOON, "denial", firm_code=600010, product_code=14),
            ),
        ),
    )
    text = (await browser.get("/tracking")).text
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)[1:]]
    assert [(row[0], row[7], row[8]) for row in rows] == [
        ("borrowed", "+1", ""),
        ("returned", "-1", "the time it was borrowed for was over"),
        ("denied", "", "no license was free"),
    ]
    assert all("600010:14 Chart Processing" in row[1] for row in rows)


async def test_the_log_is_live_and_bounded(daemon: OperatedDaemon, browser: httpx2.AsyncClient) -> None:
    """The newest first, so many of them, and a stream from the last one on."""
    daemon.log = tuple(
        LogLine(number, NOON, "warning" if number % 2 else "info", f"event {number}", "") for number in range(1, 502)
    )
    text = (await browser.get("/events")).text
    assert re.findall(r'id="event-(\d+)"', text) == [str(number) for number in range(501, 301, -1)]
    assert 'data-stream="/live/log?since=501"' in text
    assert "Older events are in the system" in text
    loud = (await browser.get("/events?level=warning")).text
    assert re.findall(r'id="event-(\d+)"', loud) == [str(number) for number in range(501, 101, -2)]
    daemon.log = daemon.log[:3]
    assert "Older events" not in (await browser.get("/events")).text


async def test_a_line_of_the_log_outdates_the_answers(daemon: OperatedDaemon, tmp_path: Path) -> None:
    """Pages that are open share answers; one from before a line came is given to none of them."""
    async with open_daemon(tmp_path) as asked:
        assert (await asked.shared.ask(LogRequest())).number == 0
        daemon.log = (LogLine(1, NOON, "info", "event 1", ""),)
        heard = await asked.logged(Happened(0, 0))
        assert (heard.position, [one.kind for one in heard.events]) == (1, ["logged"])
        assert (await asked.shared.ask(LogRequest())).number == 1
