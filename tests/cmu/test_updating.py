"""Request files and updates through `cmu`: the whole way with a real daemon and a licensor, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from cmserverd.cmboxpgm import commands
from cmserverd.cmu import files
from cmserverd.cmu.main import main
from cmserverd.cmu.outcome import FOUND, NOTHING, REFUSED, UNREACHED, UNWRITTEN, USAGE
from drivers import request
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import ContainerInfo, ContainerList, Containers, Context, ContextFile, Import, Imported, Params
from tests.cmboxpgm.bench import NOON, Bench
from tests.cmu.fake_server import serving
from tests.cmu.made_up import CONTAINERS
from tests.daemon.harness import Daemon, ending

Captured = pytest.CaptureFixture[str]

PAGE = Path(__file__).parents[2] / "docs" / "licensors.md"
REQUEST = b"cmrequest and so on"


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep out any daemon that the machine has; the current directory is an empty one."""
    monkeypatch.setenv("CMSERVERD_RUN_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("CMSERVERD_STATION", "test-machine")
    monkeypatch.delenv("CMSERVERD_SERVER", raising=False)
    monkeypatch.chdir(tmp_path)


class Sockets:
    """A made-up daemon's two sockets; `asked` is what came, `plugged` what the monitor socket lists."""

    def __init__(self) -> None:
        self.asked: list[Params[Any]] = []
        self.plugged: tuple[ContainerInfo, ...] = CONTAINERS[:1]
        self.imported = Imported("3-3448482", 600010, 8)

    def answer(self, params: Params[Any]) -> Struct:
        """Be both."""
        self.asked.append(params)
        match params:
            case Containers():
                return ContainerList(1, self.plugged)
            case Context():
                return ContextFile(REQUEST)
            case Import(update=b"stranger's"):
                raise LicenseError.of(ErrorNumber.VALIDATION_FAILED)
            case Import():
                return self.imported
        raise LicenseError.of(ErrorNumber.NOT_IMPLEMENTED)


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Sockets]:
    """Give a made-up daemon in the run directory."""
    (tmp_path / "run").mkdir()
    made_up = Sockets()
    with (
        serving(made_up.answer, unix=str(tmp_path / "run" / "control.sock")),
        serving(made_up.answer, unix=str(tmp_path / "run" / "monitor.sock")),
    ):
        yield made_up


def told(capsys: Captured) -> str:
    """Return the one line of an error, and that nothing else was printed."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("cmu: ")
    assert printed.err.count("\n") == 1
    return printed.err


def without_seconds(text: str) -> str:
    """Return what is told of a certified time without its seconds: those that have really passed are added to it."""
    return re.sub(r"(?<= set to 2026-01-01 12:0)\d:\d\d(?= UTC)", "-:--", text)


# --- the whole way ------------------------------------------------------------------------------------------------


def test_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """The commands of `docs/licensors.md` against a daemon that runs on, with the licensor's answers in between."""
    monkeypatch.setattr(commands, "now", lambda: NOON)
    bench = Bench(tmp_path, capsys)
    bench.begin()
    bench.program("firm-item", "--text", "Chart Works")
    bench.program("item", "--item", "1", "--product-code", "14", "--quantity", "2", "--expiration", "2030-01-01")
    daemon = Daemon(tmp_path, dongle=None)
    daemon.config.write_text(daemon.config.read_text().replace("dongle.toml", "box.cmc"))

    def answer(name: str) -> None:
        match name:
            case "customer.request":
                where = ("--request", name, "--update", "answer.update")
                bench.program("item", "--item", "1", "--quantity", "3", "--no-expiration", where=where)
            case "time.request":
                key = ("--key", "licensor.key", "--ledger", "ledger.json")
                bench.done("certify-time", "--request", name, "--update", "time.update", *key)

    sessions = re.findall(r"^```console cmu\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    steps = [step.split("\n", 1) for session in sessions for step in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]]
    with ending(daemon):
        daemon.serve().said("container plugged in")
        for command, shown in steps:
            program, *arguments = shlex.split(command)
            assert (program, main(arguments)) == ("cmu", FOUND)
            assert without_seconds(capsys.readouterr().out) == without_seconds(shown)
            answer(arguments[1])
        assert main(["-x", "--json", "--server", f"unix:{daemon.monitor}"]) == FOUND
        contents = json.loads(capsys.readouterr().out)["contents"]
        assert [item["update_counter"] for one in contents for item in one["firm_items"]] == [3]
        assert main(["-i", "answer.update"]) == REFUSED
        assert "Error 229" in told(capsys)
        assert daemon.stop() == 0
    assert [arguments.split()[1] for arguments, _ in steps] == ["--context", "--import"] * 2


# --- request files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-c", "--context"])
def test_a_request_file_is_written(option: str, sockets: Sockets, tmp_path: Path, capsys: Captured) -> None:
    """An ordinary file, to be sent; nothing else is left beside it. The only container need not be named."""
    before = os.umask(0o022)
    try:
        assert main([option, "a.request"]) == FOUND
    finally:
        os.umask(before)
    assert capsys.readouterr().out == "The request of container 3-3448482 is in a.request; send it to the licensor.\n"
    assert Path("a.request").read_bytes() == REQUEST
    assert Path("a.request").stat().st_mode & 0o777 == 0o644
    assert {path.name for path in tmp_path.iterdir()} == {"a.request", "run"}
    assert sockets.asked[-1] == Context("3-3448482", time=False)


def test_a_container_can_be_named_and_a_time_asked_for(sockets: Sockets, capsys: Captured) -> None:
    """Then nobody is asked which there are; the document has it all."""
    assert main(["-c", "a.request", "-s", "3-1", "--time", "--json"]) == FOUND
    assert json.loads(capsys.readouterr().out) == {"container": "3-1", "file": "a.request", "time": True}
    assert sockets.asked == [Context("3-1", time=True)]


def test_which_container_must_be_clear(sockets: Sockets, tmp_path: Path, capsys: Captured) -> None:
    """Of none, and of several, no request is made; one that is unplugged does not count."""
    sockets.plugged = (CONTAINERS[0], replace(CONTAINERS[1], present=True))
    assert main(["-c", "a.request"]) == USAGE
    assert told(capsys) == "cmu: there are 2 containers; name one with --serial (cmu -l lists them)\n"
    sockets.plugged = (CONTAINERS[1],)
    assert main(["-c", "a.request"]) == NOTHING
    assert told(capsys) == "cmu: no container is plugged in\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert {type(asked) for asked in sockets.asked} == {Containers}


def test_an_earlier_request_is_replaced_and_nothing_else(sockets: Sockets, tmp_path: Path, capsys: Captured) -> None:
    """What is no request stays as it is, whatever it is, and the container is not asked for anything."""
    Path("a.request").write_bytes(b"cmrequest of yesterday")
    assert main(["-c", "a.request", "-s", "3-1"]) == FOUND
    assert Path("a.request").read_bytes() == REQUEST
    sockets.asked.clear()
    Path("thesis.txt").write_text("years of work")
    Path("link").symlink_to(tmp_path / "a.request")
    Path("a.directory").mkdir()
    os.mkfifo("a.pipe")
    capsys.readouterr()
    for name in ("thesis.txt", "link", "a.directory", "a.pipe"):
        assert main(["-c", name, "-s", "3-1"]) == USAGE
        assert told(capsys).startswith(f"cmu: {name} is there already and is no request file; name another one")
    assert Path("thesis.txt").read_text() == "years of work"
    assert sockets.asked == []


def test_a_request_that_cannot_be_written_is_exit_code_5(sockets: Sockets, capsys: Captured) -> None:
    """Found out before the container is asked: that would make an earlier request for a certified time worthless."""
    assert main(["-c", "no/such/a.request", "-s", "3-1", "--time"]) == UNWRITTEN
    assert told(capsys) == "cmu: no/such/a.request cannot be written: No such file or directory\n"
    assert sockets.asked == []


def test_a_request_is_known_by_its_beginning() -> None:
    """By the same bytes as the licensor's tool knows it."""
    assert request._MAGIC == files.REQUEST


# --- updates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-i", "--import"])
def test_an_update_says_what_it_did(option: str, sockets: Sockets, capsys: Captured) -> None:
    """A firm item with its counter, or the license time; as a document, with null for the other."""
    Path("an.update").write_bytes(b"bytes")
    assert main([option, "an.update"]) == FOUND
    assert capsys.readouterr().out == "Container 3-3448482 has the update: firm code 600010, update counter 8.\n"
    assert main([option, "an.update", "--json"]) == FOUND
    document = {"container": "3-3448482", "firm_code": 600010, "update_counter": 8, "time": None}
    assert json.loads(capsys.readouterr().out) == document
    sockets.imported = Imported("3-3448482", time=NOON)
    assert main([option, "an.update"]) == FOUND
    said = "Container 3-3448482 has the update: the license time was set to 2026-01-01 12:00:00 UTC.\n"
    assert capsys.readouterr().out == said
    assert main([option, "an.update", "--json"]) == FOUND
    document = {"container": "3-3448482", "firm_code": None, "update_counter": None, "time": NOON}
    assert json.loads(capsys.readouterr().out) == document
    assert sockets.asked == [Import(b"bytes")] * 4


def test_an_update_may_be_refused(sockets: Sockets, capsys: Captured) -> None:
    """With the server's number and exit code 4."""
    Path("an.update").write_bytes(b"stranger's")
    assert main(["-i", "an.update"]) == REFUSED
    assert told(capsys) == "cmu: The signature is not the licensor's, Error 211.\n"
    assert main(["-i", "an.update", "--json"]) == REFUSED
    assert json.loads(capsys.readouterr().err)["error"]["number"] == 211
    assert len(sockets.asked) == 2


def test_a_file_that_is_too_long_is_not_sent(sockets: Sockets, capsys: Captured) -> None:
    """It is not even read to its end. What only this server takes no more is told with its limit."""
    with Path("an.update").open("wb") as file:
        file.truncate(2**40)  # it takes no room on the disk, and more than there is in memory
    assert main(["-i", "an.update"]) == USAGE
    assert "an.update has more than 65536 bytes, so it is no update" in told(capsys)
    assert sockets.asked == []
    os.truncate("an.update", files.LIMIT)
    assert main(["-i", "an.update"]) == USAGE
    assert "would take 65560 bytes; the server takes 16384" in told(capsys)
    assert sockets.asked == []


# --- the way in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["-c", "a.request", "-s", "3-1"], ["-i", "an.update"]])
def test_a_control_socket_can_be_named(command: list[str], sockets: Sockets, tmp_path: Path, capsys: Captured) -> None:
    """By --server; nothing of the network, which is never asked to change anything."""
    Path("an.update").write_bytes(b"bytes")
    (tmp_path / "elsewhere").mkdir()
    other = Sockets()
    with serving(other.answer, unix=str(tmp_path / "elsewhere" / "control.sock")) as address:
        assert main([*command, "--server", address]) == FOUND
    assert (len(other.asked), sockets.asked) == (1, [])
    capsys.readouterr()
    assert main([*command, "--server", "127.0.0.1"]) == USAGE
    assert "write --server unix:/path" in told(capsys)


def _no_entry(_path: Path) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("stat", "access", "said"),
    [
        (Path.stat, False, "you may not open {}; run cmu as root, or as the daemon's user or one of its group"),
        (_no_entry, True, "you may not open {}; run cmu as root, or as the daemon's user or one of its group"),
        (Path.stat, True, "unix:{}: Connection refused"),
    ],
)
def test_a_control_socket_that_one_may_not_open(
    stat: Callable[[Path], object],
    access: bool,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    """One sentence that says who may, exit code 3; a daemon that is gone is told from that."""
    Path("an.update").write_bytes(b"bytes")
    control = tmp_path / "run" / "control.sock"
    control.parent.mkdir()
    with serving(Sockets().answer, unix=str(control)):
        pass
    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(os, "access", lambda _path, _mode: access)
    assert main(["-i", "an.update"]) == UNREACHED
    assert told(capsys) == f"cmu: The license server cannot be reached: {said.format(control)}, Error 101.\n"
