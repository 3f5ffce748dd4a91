"""`cmu --deallocate`: what it asks, what it does, and what it leaves alone; with a real daemon."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmserverd.cmu.main import main
from cmserverd.cmu.outcome import FOUND, NOTHING, REFUSED, USAGE
from protocol.blocking import Access, Client
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import Deallocate
from protocol.terms import AccessMode
from tests.daemon.harness import CHARTS, FIRM, Daemon, ending

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with two licenses."""
    daemon = Daemon(tmp_path)
    with ending(daemon):
        daemon.serve()
        daemon.said("container plugged in")
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A client of it."""
    with Client("{}:{}".format(*daemon.address), station="desk-1", application="chart") as client:
        yield client


@pytest.fixture
def shares(client: Client) -> list[Access]:
    """Three instances on one station."""
    return [client.access(FIRM, CHARTS, AccessMode.STATION_SHARE) for _ in range(3)]


def cmu(daemon: Daemon, *options: str) -> int:
    """Run the tool on the daemon's control socket."""
    return main([*options, "--server", f"unix:{daemon.control}"])


class Terminal(io.StringIO):
    """Somebody who types this."""

    def isatty(self) -> bool:
        """A terminal it is."""
        return True


def check(access: Access) -> int:
    """Return 0 if an access stands, else the number that says why not."""
    try:
        access.info()
    except LicenseError as error:
        return error.number
    return 0


def test_it_says_whom_it_hits_and_asks(
    daemon: Daemon, shares: list[Access], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """All instances are named; only a yes removes them."""
    for answer in ("", "n\n", "no\n", "\n"):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        assert cmu(daemon, "--deallocate", str(shares[1].handle)) == NOTHING
        assert all(check(share) == 0 for share in shares)
    said = capsys.readouterr().err
    assert f"Firm Code {FIRM}, Product Code {CHARTS} in 3-1" in said
    assert all(f"ID {share.handle}, 127.0.0.1(" in said for share in shares)
    monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
    assert cmu(daemon, "--deallocate", str(shares[1].handle)) == FOUND
    assert capsys.readouterr().out == "3 accesses were removed; 1 license is free by that.\n"
    assert [check(share) for share in shares] == [ErrorNumber.INVALID_HANDLE] * 3
    said_by_the_log = daemon.said("an operator took a license from who held it")
    assert (said_by_the_log["by"][:5], said_by_the_log["accesses"]) == ("unix:", 3)


def test_without_a_terminal_it_wants_a_word(daemon: Daemon, shares: list[Access], capsys: Captured) -> None:
    """A script that forgets --yes removes nothing."""
    assert cmu(daemon, "--deallocate", str(shares[0].handle)) == USAGE
    assert "say --yes" in capsys.readouterr().err
    assert check(shares[0]) == 0


def test_one_instance_or_a_whole_client(daemon: Daemon, client: Client, shares: list[Access], capsys: Captured) -> None:
    """What was not named stands."""
    single = client.access(FIRM, CHARTS)
    assert cmu(daemon, "--deallocate", str(shares[0].handle), "--only-access", "--yes") == FOUND
    assert "0 licenses are free" in capsys.readouterr().out
    assert [check(share) for share in shares] == [ErrorNumber.INVALID_HANDLE, 0, 0]
    assert cmu(daemon, "--deallocate", str(single.handle), "--whole-client", "--yes", "--json") == FOUND
    document = json.loads(capsys.readouterr().out)
    assert document["licenses"] == 2
    assert {one["handle"] for one in document["accesses"]} == {single.handle, shares[1].handle, shares[2].handle}
    assert cmu(daemon, "--deallocate", str(single.handle), "--yes") == NOTHING
    assert "there is no access" in capsys.readouterr().err


def test_a_hold_off_is_told_to_the_application(daemon: Daemon, client: Client, shares: list[Access]) -> None:
    """231, with its end; another station is served."""
    assert cmu(daemon, "--deallocate", str(shares[0].handle), "--hold-off", "600", "--yes") == FOUND
    with pytest.raises(LicenseError, match=r"may be had in \d+ s") as refusal:
        client.access(FIRM, CHARTS)
    assert refusal.value.number == ErrorNumber.ACCESS_DENIED
    with Client("{}:{}".format(*daemon.address), station="desk-2") as other:
        other.access(FIRM, CHARTS)


def test_who_came_after_the_question_is_not_hit(
    daemon: Daemon, client: Client, shares: list[Access], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was about others."""

    def think() -> bool:
        client.access(FIRM, CHARTS, AccessMode.STATION_SHARE)
        return True

    terminal = Terminal("y\n")
    monkeypatch.setattr(terminal, "isatty", think)
    monkeypatch.setattr("sys.stdin", terminal)
    assert cmu(daemon, "--deallocate", str(shares[0].handle)) == REFUSED
    assert all(check(share) == 0 for share in shares)


def test_only_the_control_socket_takes_anything(daemon: Daemon, client: Client, shares: list[Access]) -> None:
    """Neither over TCP nor at the socket of those who look (decision 23)."""
    asked = Deallocate(shares[0].handle)
    with pytest.raises(LicenseError) as refusal:
        client.call(asked)
    assert refusal.value.number == ErrorNumber.NOT_IMPLEMENTED
    with Client(f"unix:{daemon.monitor}") as looker, pytest.raises(LicenseError) as refusal:
        looker.call(asked)
    assert refusal.value.number == ErrorNumber.NOT_IMPLEMENTED
    assert check(shares[0]) == 0
