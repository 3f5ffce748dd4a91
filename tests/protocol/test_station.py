"""What this machine is as a station: each source of its id, the seat, and who the client is."""

from __future__ import annotations

import getpass
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from protocol.errors import SettingError
from protocol.station import Surroundings, client, machine, seat, station
from protocol.terms import Station

MACHINE_ID = "0123456789abcdef0123456789abcdef"
HASHED = "7eeb5f85e7df4562a549f02376a84b34"
"""What sd_id128_get_machine_app_specific makes of it: computed once, with OpenSSL's HMAC, outside this package."""


@pytest.fixture
def surroundings(tmp_path: Path) -> Surroundings:
    """A machine with an id, without sessions and variables."""
    (tmp_path / "machine-id").write_text(MACHINE_ID + "\n")
    return Surroundings({}, tmp_path / "machine-id", tmp_path / "sessions", tmp_path / "state")


def in_session(tmp_path: Path, content: str, **environ: str) -> Surroundings:
    """Return the surroundings of a logind session."""
    sessions = tmp_path / "sessions"
    sessions.mkdir(exist_ok=True)
    for name in ("5", "c3"):
        (sessions / name).write_text(content)
    return Surroundings(environ, tmp_path / "machine-id", sessions, tmp_path / "state")


def test_the_machine_id_is_hashed(surroundings: Surroundings) -> None:
    """The id is the one that sd_id128_get_machine_app_specific gives, the same for every program on the machine."""
    assert station(surroundings=surroundings) == Station(HASHED, 0)
    assert not surroundings.state.exists()


def test_a_configured_id_goes_first(surroundings: Surroundings) -> None:
    """The argument goes before the variable, and both before the machine's id."""
    named = Surroundings({"CMSERVERD_STATION": "desk-4"}, surroundings.machine_id, surroundings.sessions)
    assert machine("desk-3", named) == "desk-3"
    assert machine(None, named) == "desk-4"


@pytest.mark.parametrize("text", ["", "a b", "x" * 65, "a\n", "\u00e4"])
def test_a_bad_configured_id(surroundings: Surroundings, text: str) -> None:
    """What no message could carry is refused with a sentence that names the source."""
    with pytest.raises(SettingError, match=r"^the configured station: .* is no station id; write 1 to 64 ASCII"):
        machine(text, surroundings)
    if text:
        named = Surroundings({"CMSERVERD_STATION": text}, surroundings.machine_id)
        with pytest.raises(SettingError, match=r"^the variable CMSERVERD_STATION: "):
            machine(None, named)


@pytest.mark.parametrize(
    "content", [None, "", "uninitialized\n", "0" * 32 + "\n", "xyz\n", MACHINE_ID[1:], "\xff" * 32]
)
def test_without_a_machine_id_a_uid_is_kept(surroundings: Surroundings, content: str | None) -> None:
    """Where the system has no id, one is made once, readable by its user only, and found again."""
    surroundings.machine_id.unlink()
    if content is not None:
        surroundings.machine_id.write_text(content, encoding="latin-1")
    made = machine(None, surroundings)
    assert len(made) == 32
    assert machine(None, surroundings) == made
    kept = surroundings.state / "station"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text() == made + "\n"
    assert list(surroundings.state.iterdir()) == [kept]


def test_two_makers_agree(surroundings: Surroundings) -> None:
    """Of processes that make the uid at once, all get the same."""
    surroundings.machine_id.unlink()
    start = threading.Barrier(8)
    found: list[str] = []

    def make() -> None:
        start.wait(10)
        found.append(machine(None, surroundings))

    makers = [threading.Thread(target=make) for _ in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(10)
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_uid_that_cannot_be_kept(surroundings: Surroundings) -> None:
    """A state directory that is none, and a damaged uid, are said, with what to do."""
    surroundings.machine_id.unlink()
    surroundings.state.write_text("a file")
    with pytest.raises(SettingError, match=r"one cannot be kept in .* set CMSERVERD_STATION$"):
        machine(None, surroundings)
    surroundings.state.unlink()
    surroundings.state.mkdir()
    (surroundings.state / "station").write_text("damaged")
    with pytest.raises(SettingError, match=r"holds no station id; delete it, or set CMSERVERD_STATION$"):
        machine(None, surroundings)
    assert (surroundings.state / "station").read_text() == "damaged"
    assert [path.name for path in surroundings.state.iterdir()] == ["station"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("UID=1000\nREMOTE=1\nTYPE=x11\nCLASS=user\n", 5),
        ("UID=1000\nREMOTE=1\nTYPE=wayland\n", 5),
        ("UID=1000\nREMOTE=1\nTYPE=tty\n", 0),
        ("UID=1000\nREMOTE=0\nTYPE=x11\n", 0),
        ("UID=1000\nREMOTE=0\nTYPE=wayland\n", 0),
        ("REMOTE=10\nTYPE=x11\n", 0),
        ("", 0),
    ],
    ids=["remote x11", "remote wayland", "ssh", "desktop x11", "desktop wayland", "other", "empty"],
)
def test_the_seat_of_a_session(tmp_path: Path, content: str, expected: int) -> None:
    """Only a remote and graphical session is a seat of its own; desktop, ssh and cron of one PC are one station."""
    assert seat(in_session(tmp_path, content, XDG_SESSION_ID="5")) == expected


def test_the_seat_of_a_session_with_a_name(tmp_path: Path) -> None:
    """Logind also names sessions by words; they give a number above 0, always the same."""
    surroundings = in_session(tmp_path, "REMOTE=1\nTYPE=x11\n", XDG_SESSION_ID="c3")
    assert 0 < seat(surroundings) < 2**32
    assert seat(surroundings) == seat(surroundings)


@pytest.mark.parametrize("session", ["", "9", "../sessions/5", "5\n", "a" * 33])
def test_no_such_session(tmp_path: Path, session: str) -> None:
    """A missing session or a name that is none is the ordinary seat."""
    assert seat(in_session(tmp_path, "REMOTE=1\nTYPE=x11\n", XDG_SESSION_ID=session)) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RDP-Tcp#12", 12),
        ("rdp-tcp#3", 3),
        ("ICA-tcp#7", 7),
        ("Console", 0),
        ("RDP-Tcp#", 0),
        ("RDP-Tcp#0", 1),
        ("", 0),
    ],
)
def test_the_seat_of_a_remote_desktop(tmp_path: Path, name: str, expected: int) -> None:
    """A session of RDP or ICA is a seat by its number."""
    assert seat(Surroundings({"SESSIONNAME": name}, sessions=tmp_path)) == expected


def test_this_machine() -> None:
    """The real surroundings give a station that the protocol takes, the same each time."""
    assert station("configured").machine == "configured"
    assert seat() == seat()


def test_who_the_client_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Host, user, process, and the program's name unless it gives itself another."""
    monkeypatch.setattr(sys, "argv", ["/opt/charts/bin/charts", "--file"])
    monkeypatch.setenv("LOGNAME", "fs")
    assert client().application == "charts"
    assert client().pid == os.getpid()
    assert client().user == "fs"
    assert client().host
    assert client("Chart Processing").application == "Chart Processing"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("", "python"), ("-c", "python"), ("-", "python"), ("/usr/lib/charts/__main__.py", "charts"), ("a.py", "a.py")],
)
def test_the_name_of_a_program(monkeypatch: pytest.MonkeyPatch, argument: str, expected: str) -> None:
    """A program that was started without a file of its own is called python, a package by its name."""
    monkeypatch.setattr(sys, "argv", [argument])
    assert client().application == expected


def test_a_user_without_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the uid may have no name."""

    def no_entry() -> str:
        raise KeyError

    monkeypatch.setattr(getpass, "getuser", no_entry)
    assert client().user == f"uid {os.getuid()}"


def test_texts_fit_into_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names from outside are cut to what the protocol allows and steer no terminal."""
    monkeypatch.setattr(sys, "argv", ["\x1b[2J\udcff" + "x" * 300])
    assert client().application == "?[2J?" + "x" * 250
