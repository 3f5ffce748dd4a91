"""The usage history as `cmu` shows it: table, JSON and CSV, and the options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from cmserverd.cmu import usage
from cmserverd.cmu.main import main
from cmserverd.cmu.outcome import FOUND, NOTHING, UNREACHED, USAGE
from protocol.messages import Params
from protocol.usage import UsagePage, UsageRequest, UsageRow, UsedFrom
from tests.cmu.fake_server import serving

NOON = 1_800_014_400
ROWS = (
    UsageRow(NOON, 3_600, "3-1", 600_010, 14, 1, 2, 5_400),
    UsageRow(NOON, 3_600, "", 600_010, 14, 0, denials=3),
    UsageRow(NOON + 3_600, 0, "3-1", 600_010, 14, 1, 1),
)
Captured = pytest.CaptureFixture[str]


class Told:
    """A server that tells these rows, two on a page."""

    def __init__(self, *rows: UsageRow) -> None:
        self.rows = rows
        self.asked: list[UsageRequest] = []
        self.stuck = False

    def __call__(self, params: Params[Any]) -> Struct:
        """Answer."""
        assert isinstance(params, UsageRequest)
        self.asked.append(params)
        begin = params.cursor.rows if params.cursor else 0
        page = self.rows[begin : begin + 2]
        more = self.stuck or begin + 2 < len(self.rows)
        return UsagePage(41, NOON + 3_600, page, UsedFrom(NOON, 0 if self.stuck else begin + 2) if more else None)


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have the daemon's sockets in a directory of the test's own, and the screen's usual width."""
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("CMSERVERD_RUN_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.delenv("COLUMNS", raising=False)


def run(told: Told, path: Path, *options: str) -> int:
    """Run the tool against a daemon's monitor socket."""
    socket = path / "run" / "monitor.sock"
    socket.unlink(missing_ok=True)
    with serving(told, unix=str(socket)):
        return main(["--usage", *options])


def test_the_table(tmp_path: Path, capsys: Captured) -> None:
    """Peak, mean and denials, each span as it is called."""
    assert run(Told(*ROWS), tmp_path, "--by", "hour") == FOUND
    head, _, *rows = [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]
    assert head == "Hour (UTC) Firm Code Product Code CmContainer Item Peak Mean Denials"
    assert rows == [
        "2027-01-15 12 600010 14 3-1 1 2 1.50 0",
        "2027-01-15 12 600010 14 0 0.00 3",
        "2027-01-15 13 600010 14 3-1 1 1 1.00 0",
        "",
        "Result: 3 row(s) listed.",
    ]
    for by, begin in (("day", "2027-01-15"), ("month", "2027-01")):
        run(Told(*ROWS), tmp_path, "--by", by)
        assert capsys.readouterr().out.splitlines()[2].split()[0] == begin


def test_as_json_and_as_csv(tmp_path: Path, capsys: Captured) -> None:
    """All fields, and the mean."""
    assert run(Told(*ROWS), tmp_path, "--json") == FOUND
    found = json.loads(capsys.readouterr().out)
    assert (found["by"], found["time"], [row["mean"] for row in found["rows"]]) == ("day", NOON + 3_600, [1.5, 0, 1])
    assert [row.keys() for row in found["rows"]] == [dict.fromkeys(usage.FIELDS).keys()] * 3
    assert run(Told(*ROWS), tmp_path, "--format", "csv") == FOUND
    assert capsys.readouterr().out.splitlines() == [
        "start,seconds,container,firm_code,product_code,item,peak,unit_seconds,denials,mean",
        "2027-01-15T12:00:00,3600,3-1,600010,14,1,2,5400,0,1.50",
        "2027-01-15T12:00:00,3600,,600010,14,0,0,0,3,0.00",
        "2027-01-15T13:00:00,0,3-1,600010,14,1,1,0,0,1.00",
    ]


def test_what_is_asked(tmp_path: Path) -> None:
    """Spans and times, on each page."""
    told = Told(*ROWS)
    assert run(told, tmp_path, "--by", "month", "--since", "2027-01-01", "--until", "2027-02-01") == FOUND
    assert [(one.by, one.since, one.until) for one in told.asked] == [("month", 1_798_761_600, 1_801_440_000)] * 2


def test_exit_codes(tmp_path: Path, capsys: Captured) -> None:
    """Nothing was used; nobody is there; a server that goes round in circles."""
    assert main(["--usage"]) == UNREACHED
    assert run(Told(), tmp_path) == NOTHING
    told = Told(*ROWS)
    told.stuck = True
    assert run(told, tmp_path) == UNREACHED
    assert "does not come to an end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tracking", "--by", "day"], "--by goes with --usage"),
        (["--usage", "--by", "week"], "invalid choice"),
        (["--usage", "--format", "cmlog"], "--usage has --json, or --format csv"),
        (["--usage", "--format", "csv", "--json"], "--usage has --json, or --format csv"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], said: str, capsys: Captured) -> None:
    """It says what would be right."""
    assert main(arguments) == USAGE
    assert said in capsys.readouterr().err
