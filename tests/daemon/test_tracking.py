"""License tracking of a real daemon, as `cmu` has it: what happened, who was denied, across kills and compaction."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmserverd.audit import LINES
from protocol import blocking
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode
from protocol.tracking import TrackingLine
from tests.core import tracked
from tests.daemon.harness import CHARTS, FIRM, LIMIT, Caller, Daemon, ending, hello


def cmu(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tool as the operator of this daemon does."""
    return subprocess.run(
        [sys.executable, "-m", "cmserverd.cmu", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env={**os.environ, "CMSERVERD_RUN_DIRECTORY": str(daemon.run_directory)},
    )


def lines(daemon: Daemon) -> list[TrackingLine]:
    """Return all lines, as JSON has them."""
    done = cmu(daemon, "--tracking", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return [TrackingLine(**json.loads(row)) for row in done.stdout.splitlines()]


def used(daemon: Daemon) -> dict[tuple[str, int, int], int]:
    """Return what the live table says is occupied."""
    with Caller(daemon.monitor) as caller:
        caller.ask(hello())
        page = caller.ask(m.NetCluster())
    return {(one.container, one.firm_code, one.item): one.used for one in page.licenses if one.used}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that serves two licenses."""
    daemon = Daemon(tmp_path)
    with ending(daemon):
        daemon.serve()
        daemon.said("container plugged in")
        yield daemon


def test_the_lines_lead_to_the_live_table(daemon: Daemon) -> None:
    """At any time, also after a kill: what the dead server did not release, its next start resolves."""
    host, port = daemon.address
    with blocking.Client(f"{host}:{port}", station="desk-4") as client:
        first = client.access(FIRM, CHARTS, AccessMode.STATION_SHARE)
        client.access(FIRM, CHARTS, AccessMode.STATION_SHARE)
        kept = client.access(FIRM, CHARTS)
        with blocking.Client(f"{host}:{port}", station="desk-5") as other, pytest.raises(LicenseError) as refusal:
            other.access(FIRM, CHARTS)
        assert refusal.value.number == ErrorNumber.NO_MORE_LICENSES
        first.release()
        told = lines(daemon)
        assert tracked.read(told).used() == used(daemon) == {("3-1", FIRM, 1): 2}
        assert [line.station for line in told if line.event == "denial"] == ["desk-5"]
        daemon.kill()
        again = Daemon(daemon.directory, listen=f"{host}:{port}")
        with ending(again):
            again.serve()
            again.said("container plugged in")
            assert tracked.read(lines(again)).used() == used(again) == {("3-1", FIRM, 1): 2}
            kept.info()  # a call waits until the client is back, which can say goodbye then
            client.close()
            told = lines(again)
            assert tracked.read(told).used() == used(again) == {}
            assert [line.reason for line in told if line.units][-2:] == ["goodbye", "goodbye"]
            assert [line.event for line in told].count("started") == 2
            log = cmu(again, "--tracking").stdout.rpartition("CodeMeter_started\n")[2]  # a start releases all
            taken = Counter(re.findall(r" Access .* AccessId:(\S+),", log))
            taken.subtract(Counter(re.findall(r" Release .* AccessID:(\S+)", log)))
            assert set(taken.values()) == {0}
            assert again.stop() == 0
            assert "stopped" not in {line.event for line in told}
            third = Daemon(daemon.directory)
            with ending(third):
                third.serve()
                events = [line.event for line in lines(third) if line.event in ("started", "stopped")]
                assert events == ["started", "started", "stopped", "started"], "a kill is no stop"


def test_an_export_of_several_pages(daemon: Daemon) -> None:
    """Through the socket, whole."""
    host, port = daemon.address
    with blocking.Client(f"{host}:{port}", station="desk-4") as client:
        for _ in range(LINES // 2 + 10):
            client.access(FIRM, CHARTS).release()
    told = lines(daemon)
    assert len([line for line in told if line.units]) == LINES + 20
    assert tracked.read(told).used() == {}


def test_usage_is_shown(daemon: Daemon) -> None:
    """The peak, and the denials with it."""
    host, port = daemon.address
    with blocking.Client(f"{host}:{port}", station="desk-4") as client:
        for _ in range(2):
            client.access(FIRM, CHARTS)
        with pytest.raises(LicenseError):
            client.access(FIRM, CHARTS)
    done = cmu(daemon, "--usage", "--by", "month", "--json")
    assert done.returncode == 0
    rows = json.loads(done.stdout)["rows"]
    assert [max(row["peak"] for row in rows), sum(row["denials"] for row in rows)] == [2, 1]


def test_it_is_verified(daemon: Daemon) -> None:
    """By a command, whose exit code says whether it is sound; a row that somebody altered is found."""
    done = cmu(daemon, "--verify-tracking", "--json")
    proof: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, proof["sound"]) == (0, True)
    assert daemon.stop() == 0
    journal = daemon.directory / "state" / "journal.db"
    alter = "import apsw,sys; apsw.Connection(sys.argv[1]).execute('UPDATE history SET time=time+1 WHERE position=1')"
    again = Daemon(daemon.directory)
    with ending(again):
        again.serve()
        subprocess.run([sys.executable, "-c", alter, str(journal)], check=True, timeout=LIMIT)
        done = cmu(again, "--verify-tracking")
        assert done.returncode == 6
        assert "not from there on" in done.stdout


def test_without_a_journal_there_is_none(tmp_path: Path) -> None:
    """It is refused, and says why."""
    daemon = Daemon(tmp_path, config='[journal]\ndurability = "off"\n')
    with ending(daemon):
        daemon.serve()
        done = cmu(daemon, "--tracking")
        assert done.returncode == 4
        assert "keeps no journal" in done.stderr


def test_who_goes_meanwhile_holds_up_nobody(daemon: Daemon) -> None:
    """The next one is answered; a client over TCP is not told at all."""
    for _ in range(3):
        with Caller(daemon.monitor) as caller:
            caller.ask(hello())
            caller.sock.sendall(b"\x94\x00\x07\xa8tracking\x90")
    assert lines(daemon)
    with Caller(daemon.address) as caller:
        caller.ask(hello())
        with pytest.raises(LicenseError) as refusal:
            caller.ask(m.TrackingRequest())
        assert refusal.value.number == ErrorNumber.NOT_IMPLEMENTED
