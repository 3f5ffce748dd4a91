"""What `cmu` shows while it goes on: the listing is drawn anew when something happens, the log as its lines come."""

from __future__ import annotations

import io
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from rich.console import Console

from cmserverd.cmu import fetch, watching
from cmserverd.cmu.main import main
from cmserverd.cmu.outcome import FOUND, NOTHING, REFUSED, USAGE
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import Happened, Happenings, LogPage, LogRequest, NetUsers, Params, Reload, Reloaded
from protocol.watching import Happening, LogLine
from tests.cmu.fake_server import serving
from tests.cmu.made_up import EVIL, NOON, PAGE_COUNTS, MadeUp

Captured = pytest.CaptureFixture[str]

LINES = (
    LogLine(1, NOON, "info", "serving", "listening=127.0.0.1:22350"),
    LogLine(2, NOON + 1, "warning", EVIL, ""),
)


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have the daemon's sockets in a directory of the test's own."""
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("CMSERVERD_RUN_DIRECTORY", str(tmp_path / "run"))


def test_it_is_drawn_anew_when_something_happened_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks on from the position before the listing, so that nothing is missed; a wait that ends draws nothing."""
    monkeypatch.setattr(watching, "PACE", 0)
    answers = [
        Happenings(5, NOON),
        Happenings(7, NOON),
        Happenings(8, NOON, (Happening(8, NOON, "granted"),)),
        Happenings(50, NOON, missed=True, first=40),
    ]
    asked: list[int | None] = []
    drawn: list[str] = []

    def told(params: Params[Any]) -> Struct:
        if isinstance(params, Happened):
            asked.append(params.since)
            if not answers:
                raise LicenseError.of(ErrorNumber.INTERNAL, "that was all")
            return answers.pop(0)
        if isinstance(params, NetUsers):
            drawn.append("listing")
        return MadeUp(PAGE_COUNTS, ()).answer(params)

    screen = io.StringIO()
    with serving(told, unix=str(tmp_path / "run" / "monitor.sock")), pytest.raises(LicenseError, match="that was all"):
        watching.watch(
            Namespace(server=None, timeout=10.0),
            fetch.Selection(),
            Console(file=screen, force_terminal=True, width=160, height=50),
        )
    assert asked == [None, 5, 7, 8, 50]
    assert len(drawn) == 3
    assert "Chart Processing" in screen.getvalue()


def test_it_wants_a_terminal(capsys: Captured) -> None:
    """And is no document."""
    assert main(["-n", "--watch"]) == USAGE
    assert "wants a terminal" in capsys.readouterr().err
    assert main(["-n", "--watch", "--json"]) == USAGE
    assert main(["-l", "--watch"]) == USAGE


def log(tmp_path: Path, pages: list[LogPage], *options: str) -> tuple[int, list[LogRequest]]:
    """Run `cmu --events` against a daemon that has these pages, and refuses the question after them."""
    asked: list[LogRequest] = []

    def told(params: Params[Any]) -> Struct:
        assert isinstance(params, LogRequest)
        asked.append(params)
        if not pages:
            raise LicenseError.of(ErrorNumber.INTERNAL, "that was all")
        return pages.pop(0)

    with serving(told, unix=str(tmp_path / "run" / "monitor.sock")):
        return main(["--events", *options]), asked


def test_the_log_is_written_line_by_line(tmp_path: Path, capsys: Captured) -> None:
    """For people, harmless to their terminal; for programs an object each; and on with those that come."""
    assert log(tmp_path, [LogPage(2, LINES, missed=False)]) == (FOUND, [LogRequest()])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "2026-09-21 14:13:20 [info] serving listening=127.0.0.1:22350"
    assert "\x1b" not in second
    (tmp_path / "run" / "monitor.sock").unlink()
    assert log(tmp_path, [LogPage(0, (), missed=False)])[0] == NOTHING
    (tmp_path / "run" / "monitor.sock").unlink()
    pages = [LogPage(1, LINES[:1], missed=False), LogPage(2, LINES[1:], missed=False)]
    assert log(tmp_path, pages, "--json", "--watch") == (REFUSED, [LogRequest(), LogRequest(1, 60), LogRequest(2, 60)])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["number"] for line in told] == [1, 2]
    assert told[1]["event"] == EVIL


def test_reload_says_what_waits_for_a_restart(tmp_path: Path, capsys: Captured) -> None:
    """In a sentence, and as a document."""

    def told(params: Params[Any]) -> Struct:
        assert isinstance(params, Reload)
        return Reloaded(("log.level",), ("server.name", "webadmin.hosts"))

    with serving(told, unix=str(tmp_path / "run" / "control.sock")):
        assert main(["--reload"]) == FOUND
        assert capsys.readouterr().out == (
            "Taken over: log.level. A restart is needed for: server.name. "
            "A restart of WebAdmin is needed for: webadmin.hosts.\n"
        )
        assert main(["--reload", "--json"]) == FOUND
        assert json.loads(capsys.readouterr().out) == {
            "taken": ["log.level"],
            "restart": ["server.name", "webadmin.hosts"],
        }
