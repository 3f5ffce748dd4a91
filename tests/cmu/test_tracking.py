"""License tracking as `cmu` writes it: the three formats as files, the options, and what a spreadsheet makes of it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from cmserverd.cmu import tracking
from cmserverd.cmu.main import main
from cmserverd.cmu.outcome import FOUND, NOTHING, REFUSED, UNREACHED, UNSOUND, USAGE
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import Params, ServerInfo, ServerInfoRequest
from protocol.tracking import TrackedFrom, TrackingLine, TrackingPage, TrackingProof, TrackingRequest
from tests.cmu.fake_server import serving
from tests.cmu.made_up import SERVER

NOON = 1_800_014_400
GOLDEN = Path(__file__).parent / "golden"

WHO = {"address": "::1", "host": "WIBU", "user": "DOMAIN\\fs", "pid": 7, "application": "cad", "station": "pc/2"}
EVIL = {**WHO, "user": '=HYPERLINK("http://evil")', "application": 'x"\x1b[2J\ny\\'}
WHERE = {"container": "3-1", "firm_code": 600_010, "product_code": 14, "item": 1}


def line(event: str, **fields: Any) -> TrackingLine:
    """Return a line of noon."""
    return TrackingLine(41, NOON, event, **fields)


LINES = (
    line("started"),
    line("licenses"),
    line("license", **WHERE, quantity=2, feature_map=3, expiration=NOON + 86_400, text='Charts "Pro"'),
    line("license", **{**WHERE, "product_code": 15, "item": 2}, quantity=1),
    line("access", **WHERE, **WHO, allocation=1, handle=1, units=1, mode="station_share"),
    line("access", **WHERE, **WHO, allocation=1, handle=2, mode="station_share"),
    line("access", **WHERE, **EVIL, allocation=2, handle=3, units=1, mode="user_limit"),
    line("access", **WHERE, **WHO, allocation=3, handle=4, mode="no_user_limit"),
    line("denial", firm_code=600_010, product_code=14, **EVIL, mode="user_limit"),
    line("denial", **{**WHERE, "item": 2, "product_code": 15}, **WHO, mode="user_limit"),
    line("release", **WHERE, **WHO, allocation=1, handle=1, mode="station_share", reason="released"),
    line("release", **WHERE, **WHO, allocation=1, handle=2, units=1, mode="station_share", reason="silent"),
    line("borrow", **WHERE, **EVIL, handle=9, units=1, holder="aa" * 32, expires=NOON + 86_400),
    line("borrow", **WHERE, **WHO, handle=9, holder="aa" * 32, expires=NOON + 2 * 86_400),
    line("return", **WHERE, **WHO, handle=9, units=1, holder="aa" * 32, expires=NOON + 2 * 86_400, reason="over"),
    line("stopped"),
)


class Told:
    """A server that tells these lines, so many on a page."""

    def __init__(self, *lines: TrackingLine, size: int = 5) -> None:
        self.lines = lines
        self.size = size
        self.asked: list[TrackingRequest] = []
        self.proof = TrackingProof(True, 0, 41, NOON, 2, 12, 30)
        self.stuck = False

    def __call__(self, params: Params[Any]) -> Struct:
        """Answer."""
        if isinstance(params, ServerInfoRequest):
            return ServerInfo(SERVER, (), 41, NOON, NOON, False, 0, 0, 0)
        if not isinstance(params, TrackingRequest):
            return self.proof
        self.asked.append(params)
        begin = params.cursor.lines if params.cursor else 0
        page = self.lines[begin : begin + self.size]
        end = begin if self.stuck else begin + len(page)
        return TrackingPage(41, NOON, page, TrackedFrom(3, end) if end < len(self.lines) else None)


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have the daemon's sockets in a directory of the test's own."""
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setenv("CMSERVERD_RUN_DIRECTORY", str(run))


def run(told: Told, path: Path, *options: str) -> int:
    """Run the tool against a daemon's monitor socket."""
    with serving(told, unix=str(path / "run" / "monitor.sock")):
        return main(list(options))


@pytest.mark.parametrize("name", tracking.FORMATS)
def test_the_formats_look_as_they_must(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is kept as a file; it comes in pages, and is written whole."""
    assert run(Told(*LINES), tmp_path, "--tracking", "--format", name) == FOUND
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == (GOLDEN / f"tracking.{name}").read_text()


def test_the_field_counts_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Accesses less releases of the default format are what is occupied: a share is one."""
    assert run(Told(*LINES), tmp_path, "--tracking") == FOUND
    out = capsys.readouterr().out
    taken = Counter(re.findall(r" Access .* AccessId:(\S+),", out))
    taken.subtract(Counter(re.findall(r" Release .* AccessID:(\S+)", out)))
    assert re.findall(r" (Borrow|Return) .* BorrowId:(3-1-600010-1-9)", out) == [
        ("Borrow", "3-1-600010-1-9"),
        ("Return", "3-1-600010-1-9"),
    ]
    assert +taken == Counter(["3-1-600010-1-2"])
    assert max(taken.values()) == 1


def test_nobody_is_steered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a name with control characters, or one that a spreadsheet would run."""
    for name in tracking.FORMATS:
        run(Told(*LINES), tmp_path, "--tracking", "--format", name)
        (tmp_path / "run" / "monitor.sock").unlink()
        out = capsys.readouterr().out
        assert all(character.isprintable() for character in out.replace("\n", ""))
        if name == "csv":
            header, *rows = csv.reader(io.StringIO(out))
            assert tuple(header) == tracking.FIELDS
            assert len(rows) == len(LINES)
            assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
    assert tracking._cell("  @x") == "'  @x"
    assert tracking._cell("cad") == "cad"


def test_json_lines_have_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where it has its default; `--json` means this format."""
    assert run(Told(*LINES), tmp_path, "--tracking", "--json") == FOUND
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert [TrackingLine(**row) for row in rows] == list(LINES)


def test_times_are_asked_for(tmp_path: Path) -> None:
    """A date, or a time of it, in UTC."""
    told = Told(*LINES)
    assert run(told, tmp_path, "--tracking", "--since", "2027-01-15", "--until", "2027-01-15T12:00:00+00:00") == FOUND
    assert (told.asked[0].since, told.asked[0].until) == (1_799_971_200, NOON)
    assert [asked.cursor and asked.cursor.lines for asked in told.asked] == [None, 5, 10, 15]
    assert {(asked.since, asked.until) for asked in told.asked} == {(1_799_971_200, NOON)}


def test_exit_codes_of_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing found, nobody there, a server that goes round in circles, one that refuses."""
    assert main(["--tracking"]) == UNREACHED
    assert run(Told(), tmp_path, "--tracking") == NOTHING
    (tmp_path / "run" / "monitor.sock").unlink()
    told = Told(*LINES)
    told.stuck = True
    assert run(told, tmp_path, "--tracking") == UNREACHED
    assert "does not come to an end" in capsys.readouterr().err

    def refuse(_: Params[Any]) -> Struct:
        raise LicenseError.of(ErrorNumber.NOT_SUPPORTED, "this server keeps no journal")

    with serving(refuse) as address:
        assert main(["--tracking", "--server", address]) == USAGE
    with serving(refuse, unix=str(tmp_path / "other.sock")) as address:
        assert main(["--verify-tracking", "--server", address]) == REFUSED
    assert "keeps no journal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tracking", "--format", "xml"], "invalid choice"),
        (["--tracking", "--since", "yesterday"], "'yesterday' is no time; write 2026-01-31"),
        (["--tracking", "--since", "1969-12-31"], "'1969-12-31' is no time"),
        (["--tracking", "--json", "--format", "csv"], "--json goes with --format jsonl"),
        (["-n", "--format", "csv"], "--format, --since and --until go with --tracking or --usage"),
        (["--verify-tracking", "--until", "2026-01-31"], "--format, --since and --until go with --tracking or --usage"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what would be right."""
    assert main(arguments) == USAGE
    assert said in capsys.readouterr().err


def test_a_proof_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a sentence and as JSON; what is not sound is an exit code of its own."""
    assert run(Told(), tmp_path, "--verify-tracking") == FOUND
    sound = "License tracking is sound up to position 41, 2027-01-15 12:00:00 UTC: 12 entries in 2 segment(s)."
    assert capsys.readouterr().out == f"{sound} No container has signed it, so that it could have been made anew.\n"
    told = Told()
    for proven, expected in (
        ((40, NOON, "3-1", 0), "Container 3-1 signed it up to position 40, 2027-01-15 12:00:00 UTC."),
        ((0, 0, "", 7), "It is proven by no container that is plugged in; others have signed it 7 times."),
    ):
        told.proof = TrackingProof(True, 0, 41, NOON, 2, 12, 30, "", *proven)
        (tmp_path / "run" / "monitor.sock").unlink()
        assert run(told, tmp_path, "--verify-tracking") == FOUND
        assert capsys.readouterr().out == f"{sound} {expected}\n"
    told.proof = TrackingProof(False, 0, 41, NOON, 2, 12, 30, "damaged")
    for how, expected in ((), "not from there on: damaged"), (("--json",), '"sound": false'):
        (tmp_path / "run" / "monitor.sock").unlink()
        assert run(told, tmp_path, "--verify-tracking", *how) == UNSOUND
        assert expected in capsys.readouterr().out
