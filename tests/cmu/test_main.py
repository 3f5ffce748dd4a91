"""The command line against a server on a real socket: what goes where, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from cmserverd.cmu import fetch, updating
from cmserverd.cmu.borrowing import Asked, GivenBack, Granted, LoanListing, Taken
from cmserverd.cmu.deallocating import Freed
from cmserverd.cmu.main import main
from cmserverd.cmu.outcome import FOUND, INTERRUPTED, NOTHING, REFUSED, UNREACHED, UNWRITTEN, USAGE
from cmserverd.cmu.usage import UsageListing
from cmserverd.cmu.watching import TakenOver
from protocol.errors import ErrorNumber, LicenseError
from protocol.loans import LoanInfo
from protocol.messages import (
    AccessInfo,
    ContainerContents,
    ContainerInfo,
    DeallocatedAccess,
    EntryInfo,
    ErrorBody,
    FirmItemInfo,
    LicenseCount,
    Params,
    Reason,
    Server,
    ServerInfo,
)
from protocol.tracking import TrackingLine, TrackingProof
from protocol.usage import UsageRow
from protocol.watching import LogLine
from tests.cmu.fake_server import serving
from tests.cmu.made_up import CONTAINERS, NOON, PAGE_ACCESSES, PAGE_COUNTS, MadeUp

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep out any server, configuration and terminal that the machine has."""
    for name in ("CMSERVERD_SERVER", "COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CMSERVERD_RUN_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("CMSERVERD_STATION", "test-machine")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "site"))


@pytest.fixture
def server() -> Iterator[str]:
    """Give the address of a server with a bit of everything."""
    with serving(MadeUp().answer) as address:
        yield address


@pytest.fixture
def dead() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as closing:
        return f"127.0.0.1:{closing.getsockname()[1]}"


def document(capsys: Captured) -> dict[str, Any]:
    """Return what was printed, which must be one document and nothing else."""
    printed = capsys.readouterr()
    assert printed.err == ""
    found: dict[str, Any] = json.loads(printed.out)
    return found


@pytest.mark.parametrize(
    ("option", "last"),
    [
        ("-l", "Result: 2 CmContainer(s) listed."),
        ("--list", "Result: 2 CmContainer(s) listed."),
        ("-x", "Result: 2 CmContainer(s) listed."),
        ("--list-content", "Result: 2 CmContainer(s) listed."),
        ("-n", "Result: 3 license(s) listed."),
        ("--list-network", "Result: 3 license(s) listed."),
        ("-k", "Result: 1 server(s) listed."),
        ("--list-server", "Result: 1 server(s) listed."),
    ],
)
def test_a_listing_is_printed(option: str, last: str, server: str, capsys: Captured) -> None:
    """Each command by both its names: tables on standard output, the count last, exit code 0."""
    assert main([option, "--server", server]) == FOUND
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == last
    assert printed.err == ""


def test_the_page_by_json(capsys: Captured) -> None:
    """A program reads the page's numbers from `-n --json`, under the protocol's names."""
    with serving(MadeUp(PAGE_COUNTS, PAGE_ACCESSES).answer) as address:
        assert main(["-n", "--json", "--server", address]) == FOUND
    found = document(capsys)
    (only,) = found["licenses"]
    assert (only["firm_code"], only["product_code"], only["container"]) == (600010, 14, "3-3448482")
    assert (only["total"], only["free"], only["station_share"]) == (2, 1, 1)
    assert [access["client"] for access in only["accesses"]] == [r"::1(WIBU \ fs)"] * 4
    assert {access["mode"] for access in only["accesses"]} == {"station_share"}
    assert (found["position"], found["time"], found["consistent"], found["others"]) == (41, NOON, True, [])


def names(kind: type[Struct]) -> set[str]:
    """Return the names of a message's fields."""
    return {field.name for field in msgspec.structs.fields(kind)}


def test_json_has_a_stable_shape(server: str, capsys: Captured) -> None:
    """Every field of the protocol is there in every row, also where it has its default."""
    assert main(["-l", "--json", "--server", server]) == FOUND
    listed = document(capsys)
    assert list(listed) == ["server", "position", "containers"]
    assert listed["server"] == {"name": "alpha", "software": "cmserverd", "version": "0.1.0"}
    assert all(set(row) == names(ContainerInfo) for row in listed["containers"])

    assert main(["-x", "--json", "--server", server]) == FOUND
    contents = document(capsys)
    assert list(contents) == ["server", "position", "contents"]
    assert [row["container"]["id"] for row in contents["contents"]] == [container.id for container in CONTAINERS]
    entries = [entry for row in contents["contents"] for item in row["firm_items"] for entry in item["entries"]]
    assert len(entries) == 5
    assert all(set(entry) == names(EntryInfo) for entry in entries)
    assert contents["contents"][0]["firm_items"][0]["update_counter"] == 7

    assert main(["-n", "--json", "--server", server]) == FOUND
    network = document(capsys)
    assert list(network) == ["server", "position", "time", "consistent", "licenses", "others"]
    assert all(set(row) == names(LicenseCount) | {"accesses"} for row in network["licenses"])
    rows = [*network["others"], *(access for row in network["licenses"] for access in row["accesses"])]
    assert len(rows) == 8
    assert all(set(row) == names(AccessInfo) for row in rows)


def test_json_cannot_steer_a_terminal(server: str, capsys: Captured) -> None:
    """It is plain ASCII: what a client calls itself is spelled out."""
    assert main(["-n", "--json", "--server", server]) == FOUND
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()
    assert r"\u202e" in printed


@pytest.mark.parametrize(
    ("options", "handles"),
    [
        ([], [1, 2, 3, 4, 5, 1_000_000, 6, 7]),
        (["--relevant"], [1, 2, 3, 4, 5, 1_000_000]),
        (["--productcode", "15"], [5, 1_000_000]),
        (["--firmcode", "600010", "--productcode", "14"], [1, 2, 3, 4]),
        (["--serial", "3-3448482", "--relevant"], [1, 2, 3, 4, 5, 1_000_000]),
        (["-s", "130-4294967295"], []),
    ],
)
def test_the_accesses_are_chosen_by_options(
    options: list[str], handles: list[int], server: str, capsys: Captured
) -> None:
    """Each filter narrows the listing, alone and with others."""
    assert main(["-n", "--json", "--server", server, *options]) == FOUND
    found = document(capsys)
    accesses = [access for row in found["licenses"] for access in row["accesses"]] + found["others"]
    assert [access["handle"] for access in accesses] == handles


@pytest.mark.parametrize("command", ["-l", "-x", "-n"])
def test_nothing_found_is_an_exit_code_of_its_own(command: str, server: str, capsys: Captured) -> None:
    """A health check need not read text; the listing is an empty one, and no error."""
    assert main([command, "--serial", "1-1", "--server", server]) == NOTHING
    printed = capsys.readouterr()
    assert "Result: 0 " in printed.out
    assert printed.err == ""
    assert main([command, "--serial", "1-1", "--server", server, "--json"]) == NOTHING
    assert document(capsys)["server"]["name"] == "alpha"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to do: a command, as in cmu -n; see cmu --help"),
        (["--bogus"], "there is no option '--bogus'"),
        (["-l", "-n"], "not allowed with argument"),
        (["-n", "--firmcode", "x"], "'x' is no code; write a whole number from 0 to 4294967295"),
        (["-n", "--firmcode", "4294967296"], "'4294967296' is no code"),
        (["-n", "--serial", "3448482"], "'3448482' is no container; write its mask and serial, as in 3-3448482"),
        (["-n", "--timeout", "0"], "'0' is no time; write seconds from 0.01 to 3600"),
        (["-n", "--timeout", "nan"], "'nan' is no time"),
        (["-l", "--firmcode", "1"], "--firmcode and --productcode go with -n or --borrow"),
        (["-x", "--relevant"], "--relevant goes with -n"),
        (["-k", "--serial", "1-1"], "--serial goes with -l, -x, -n, -c or --borrow"),
        (["-i", "x", "--serial", "1-1"], "--serial goes with -l, -x, -n, -c or --borrow"),
        (["-i", "x", "--time"], "--time goes with -c"),
        (["-c", "x", "-i", "y"], "not allowed with argument"),
        (["-c", ""], "'' is no file's name"),
        (["-c", "x", "--server", "alpha"], "'alpha' is asked over the network, where nothing is changed"),
        (["-i", "/no/such.update"], "the update /no/such.update cannot be read: No such file or directory"),
        (["-i", "/dev/zero"], "/dev/zero is no file; name the update that the licensor sent"),
        (["-c", "/dev/null"], "/dev/null is there already and is no request file"),
        (["-n", "--serv", "x"], "there is no option '--serv'"),
        (["-n", "--server", "a b"], "'a b' names no host; write host, host:port, [IPv6]:port or unix:/path"),
        (["-k", "--server", "a:0"], "'a:0' has no valid port"),
        (["-k", "--server", "/x.sock"], "'/x.sock' is a path; did you mean 'unix:/x.sock'?"),
    ],
)
def test_a_wrong_command_line_is_told(arguments: list[str], said: str, capsys: Captured) -> None:
    """One sentence on standard error that says what would be right, as JSON with --json; exit code 2."""
    assert main(arguments) == USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("cmu: ")
    assert said in printed.err
    assert main([*arguments, "--json"]) == USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    error = json.loads(printed.err)["error"]
    assert (error["number"], error["name"]) == (105, "INVALID_PARAMETER")
    assert said in error["text"]


@pytest.mark.parametrize("arguments", [["-h"], ["-l", "--help"]])
def test_help_is_there_beside_any_command(arguments: list[str], capsys: Captured) -> None:
    """It says in which order a command line is written, and has each exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert printed.startswith("usage: cmu COMMAND [OPTION...]\n")
    assert printed.index("commands, one of them:") < printed.index("options, with the commands in brackets")
    assert "  6  license tracking is not as it was written" in printed


def test_no_server_is_exit_code_3(dead: str, capsys: Captured) -> None:
    """The sentence has the address and the error number."""
    assert main(["-n", "--server", dead]) == UNREACHED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert dead in printed.err
    assert "Error 101" in printed.err
    assert main(["-n", "--server", dead, "--json"]) == UNREACHED
    assert json.loads(capsys.readouterr().err)["error"]["name"] == "SERVER_NOT_FOUND"


def test_a_broken_connection_is_exit_code_3(capsys: Captured) -> None:
    """A server that goes away in the middle leaves no half a listing."""

    def cut(_params: Params[Any]) -> Struct:
        raise ConnectionResetError

    with serving(cut) as address:
        assert main(["-n", "--server", address, "--timeout", "3"]) == UNREACHED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Error 100" in printed.err


@pytest.mark.parametrize("number", [ErrorNumber.SERVER_STARTING, ErrorNumber.ACCESS_DENIED])
def test_a_refusal_is_exit_code_4(number: ErrorNumber, capsys: Captured) -> None:
    """The server's sentence and number are passed on."""

    def refuse(_params: Params[Any]) -> Struct:
        raise LicenseError.of(number, "x\x1b[2J\ny")

    with serving(refuse) as address:
        assert main(["-l", "--server", address]) == REFUSED
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert "\x1b" not in printed.err
        assert f", Error {number.value}." in printed.err
        assert main(["-l", "--server", address, "--json"]) == REFUSED
        assert json.loads(capsys.readouterr().err)["error"]["number"] == number.value


def test_ctrl_c_ends_it_quietly(capsys: Captured) -> None:
    """Whoever is tired of waiting for a server gets no traceback."""
    tired = threading.Event()

    def interrupt(_params: Params[Any]) -> Struct:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        tired.wait(60)
        raise ConnectionResetError

    with serving(interrupt) as address:
        assert main(["-l", "--server", address, "--timeout", "1"]) == INTERRUPTED
        tired.set()
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_the_servers_of_this_machine_are_shown_in_their_order(
    server: str, dead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """`-k` asks each server that a client here would ask; one answer is enough for exit code 0."""
    (tmp_path / "user" / "cmserverd").mkdir(parents=True)
    (tmp_path / "user" / "cmserverd" / "client.toml").write_text(f"servers = ['{dead}', '{server}']")
    assert main(["-k", "--json"]) == FOUND
    first, second = document(capsys)["servers"]
    assert (first["address"], first["answers"], first["info"]) == (dead, False, None)
    assert first["source"] == second["source"] == str(tmp_path / "user" / "cmserverd" / "client.toml")
    assert first["error"]["number"] == 101
    assert (second["address"], second["answers"], second["error"]) == (server, True, None)
    assert second["info"]["server"] == {"name": "alpha", "software": "cmserverd", "version": "0.1.0"}
    monkeypatch.setenv("CMSERVERD_SERVER", dead)
    assert main(["-k"]) == UNREACHED
    printed = capsys.readouterr().out
    assert dead in printed
    assert printed.startswith("Addresses from: CMSERVERD_SERVER\n")
    assert "Result: 1 server(s) listed." in printed
    main(["-k", "--server", server])
    assert capsys.readouterr().out.startswith("Addresses from: --server\n")


def test_the_monitor_socket_goes_before_other_servers(
    dead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Without --server the daemon of this machine is asked, by the socket that shows everything."""
    monkeypatch.setenv("CMSERVERD_SERVER", dead)
    assert main(["-l"]) == UNREACHED  # no monitor socket yet: the client's own order
    (tmp_path / "run").mkdir()
    with serving(MadeUp().answer, unix=str(tmp_path / "run" / "monitor.sock")):
        assert main(["-l"]) == FOUND
        assert main(["-l", "--server", dead]) == UNREACHED
    capsys.readouterr()


def test_the_version(capsys: Captured) -> None:
    """Both ways of asking for it, and as JSON; no server is needed."""
    assert main(["-v"]) == main(["--version"]) == FOUND
    assert capsys.readouterr().out == f"cmu {version('cmserverd')}\n" * 2
    assert main(["-v", "--json"]) == FOUND
    assert document(capsys) == {"version": version("cmserverd")}


def test_the_help_has_the_exit_codes(capsys: Captured) -> None:
    """Whoever writes a script finds them where he looks first."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    help_text = capsys.readouterr().out
    for code in (FOUND, NOTHING, USAGE, UNREACHED, REFUSED, UNWRITTEN):
        assert f"\n  {code}  " in help_text


COMMAND = [sys.executable, "-m", "cmserverd.cmu"]


def test_whoever_reads_may_stop_reading(server: str) -> None:
    """`cmu -n | head -1` ends without a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen([*COMMAND, "-n", "--server", server], stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        _, said = process.communicate(timeout=60)
    assert said == b""
    assert process.returncode == FOUND


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_output_that_cannot_be_written_is_exit_code_5(server: str, how: list[str]) -> None:
    """A full disk is told in one sentence, without a traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "-l", "--server", server, *how], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == UNWRITTEN
    assert b"cannot write: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_page_has_every_key_of_the_json() -> None:
    """`docs/cmu.md` names the keys of each document, all of them and no others."""
    page = (Path(__file__).parents[2] / "docs" / "cmu.md").read_text()
    borrowed = (LoanListing, LoanInfo, Taken, Asked, GivenBack, Granted)
    listed = (fetch.ContainerListing, fetch.ContentsListing, fetch.NetworkListing, fetch.ServerState)
    done = (
        updating.Requested,
        updating.Updated,
        Freed,
        TrackingProof,
        UsageListing,
        UsageRow,
        TrackingLine,
        LogLine,
        TakenOver,
        DeallocatedAccess,
    )
    parts = (Server, ServerInfo, ContainerInfo, ContainerContents, FirmItemInfo, EntryInfo, LicenseCount, AccessInfo)
    more = {fetch.ServerState: {"answers"}, LicenseCount: {"accesses"}, UsageRow: {"mean"}}
    kinds: tuple[type[Struct], ...] = (*listed, *done, *borrowed, *parts, ErrorBody, Reason)
    assert re.findall(r"(?m)^## (\w+)$", page) == [kind.__name__ for kind in kinds]
    for kind in kinds:
        keys = page.partition(f"\n## {kind.__name__}\n")[2].partition("\nKeys: ")[2].partition("\n\n")[0]
        assert set(re.findall(r"`(\w+)`", keys)) == names(kind) | more.get(kind, set()), kind.__name__


def test_an_ascii_terminal_gets_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the output's encoding lacks is spelled out."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    named = msgspec.structs.replace(PAGE_COUNTS[0], text="Größe")
    with serving(MadeUp((named,), ()).answer) as address:
        done = subprocess.run([*COMMAND, "-n", "--server", address], capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    assert rb"Gr\xf6\xdfe" in done.stdout
