"""What becomes of licenses when cables are pulled, packets lost, connections reset, and programs and servers stopped.

A real daemon and real programs, each on a host of its own. "Shorter than the timeout" is a minute's timeout, which no
slow machine makes shorter; what must outlast a timeout has one of two seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol import messages as m
from protocol.errors import ErrorNumber
from tests.daemon.harness import TWO_CHARTS, Caller, Daemon, ending, hello
from tests.network.desk import Desk, desk, until
from tests.network.hosts import LOSS_PACKAGES, Host, need, network

LONG, SHORT = 60, 2
PATIENT = 300.0


def daemon_on(host: Host, directory: Path, quantity: int, timeout: int) -> Daemon:
    """Return a daemon for a host, not started yet."""
    return Daemon(
        directory,
        listen=f"{host.address}:22350",
        dongle=TWO_CHARTS.replace("quantity = 2", f"quantity = {quantity}"),
        config=f"[sessions]\ntimeout = {timeout}\nsweep = {timeout}\nhello_timeout = 60\n",
        within=host.within,
    )


def started(daemon: Daemon) -> Daemon:
    """Start a daemon, and wait until it has its licenses."""
    daemon.serve()
    daemon.said("container plugged in")
    return daemon


@contextmanager
def serving(host: Host, directory: Path, quantity: int, timeout: int) -> Iterator[Daemon]:
    """Run a daemon on a host."""
    daemon = daemon_on(host, directory, quantity, timeout)
    with ending(daemon):
        yield started(daemon)


def server_info(daemon: Daemon) -> m.ServerInfo:
    """Ask a daemon on a way that no cable is part of."""
    with Caller(daemon.monitor) as monitor:
        monitor.ask(hello())
        return monitor.ask(m.ServerInfoRequest())


def at(host: Host) -> str:
    """Return where programs find the server on a host."""
    return f"{host.address}:22350"


@pytest.fixture
def hosts() -> Iterator[Sequence[Host]]:
    """The server's host, and two others."""
    with network(3) as hosts:
        yield hosts


@contextmanager
def away(how: str, host: Host, program: Desk) -> Iterator[None]:
    """Have a program out of reach for the length of the block: its host, or the program itself."""
    with host.unplugged() if how == "unplugged" else program.asleep():
        yield


def test_a_cable_pulled_for_a_moment(hosts: Sequence[Host], tmp_path: Path) -> None:
    """What was on its way arrives later, once, and nobody is told of anything."""
    server, here, there = hosts
    with (
        serving(server, tmp_path, 2, LONG) as daemon,
        desk(here, 1, at(server)) as one,
        desk(there, 2, at(server)) as two,
    ):
        first = one.do("access")
        with here.unplugged():
            one.begin("access")
            until(here.resends)
            assert server_info(daemon).accesses == 1
        assert one.outcome() > first
        assert server_info(daemon).accesses == 2
        assert two.refusal("access") == ErrorNumber.NO_MORE_LICENSES
        one.do("check")
        assert one.do("events") == []


def test_a_connection_that_breaks_while_the_cable_is_out(hosts: Sequence[Host], tmp_path: Path) -> None:
    """The program cannot say that it holds; the server keeps its license, and it has the same handle again."""
    server, here, there = hosts
    with (
        serving(server, tmp_path, 1, LONG) as daemon,
        desk(here, 1, at(server)) as one,
        desk(there, 2, at(server)) as two,
    ):
        handle = one.do("access")
        with here.unplugged():
            here.reset_connections()
            until(lambda: one.refusal("check") == ErrorNumber.NETWORK_FAULT)
            assert two.refusal("access") == ErrorNumber.NO_MORE_LICENSES
        until(lambda: one.refusal("check") is None)
        assert one.do("info") == handle
        assert server_info(daemon).accesses == 1
        assert one.do("events") == []


def test_a_short_sleep(hosts: Sequence[Host], tmp_path: Path) -> None:
    """A program that sleeps for less than the timeout keeps its license, and does not notice."""
    server, here, there = hosts
    with serving(server, tmp_path, 1, LONG), desk(here, 1, at(server)) as one, desk(there, 2, at(server)) as two:
        handle = one.do("access")
        with one.asleep():
            assert two.refusal("access") == ErrorNumber.NO_MORE_LICENSES
        assert one.do("info") == handle
        assert one.do("events") == []


@pytest.mark.parametrize("how", ["unplugged", "asleep"])
@pytest.mark.parametrize("taken", [True, False])
def test_an_absence_longer_than_the_timeout(hosts: Sequence[Host], tmp_path: Path, how: str, *, taken: bool) -> None:
    """The license is free for others; the program has another one behind the same access, or is told that it has none.

    While somebody else has the only license, the program does not say that it holds it.
    """
    server, here, there = hosts
    with (
        serving(server, tmp_path, 1, SHORT) as daemon,
        desk(here, 1, at(server)) as one,
        desk(there, 2, at(server)) as two,
    ):
        handle = one.do("access")
        with away(how, here, one):
            until(lambda: two.refusal("access") is None)
            if how == "unplugged":
                assert one.refusal("check") == ErrorNumber.NETWORK_FAULT
            if not taken:
                two.do("release")
        until(lambda: one.do("events"))
        if taken:
            assert one.do("events") == [["lost", ErrorNumber.NO_MORE_LICENSES]]
            assert one.refusal("check") == ErrorNumber.NO_MORE_LICENSES
            two.do("check")
        else:
            assert one.do("events") == [["reacquired", 0]]
            one.do("check")
            assert one.do("info") > handle
        assert server_info(daemon).accesses == 1
        assert two.do("events") == []


def test_three_packets_of_ten_are_lost(hosts: Sequence[Host], tmp_path: Path) -> None:
    """Everything is granted and given back, once each."""
    need(LOSS_PACKAGES)
    server, here, there = hosts
    with (
        serving(server, tmp_path, 3, LONG) as daemon,
        desk(here, 1, at(server), PATIENT) as one,
        desk(there, 2, at(server), PATIENT) as two,
        desk(there, 3, at(server), PATIENT) as three,
    ):
        for host in hosts:  # once all are in: who never was is not one who comes back
            host.lose(30)
        for program in (one, two, three):
            program.begin("often", 2)
        for program in (one, two, three):
            program.outcome()
            assert program.do("events") == []
        assert server_info(daemon).accesses == 0
        assert one.do("access") == 3 * 2 + 1, "handles are counted: a grant more would show"
        assert server_info(daemon).accesses == 1
        assert all(host.has_lost() for host in hosts)


@pytest.mark.parametrize("side", ["server", "client"])
def test_connections_are_reset_again_and_again(hosts: Sequence[Host], tmp_path: Path, side: str) -> None:
    """Whichever side it is that the reset hits first; what was granted stands, and nothing is granted twice."""
    server, here, _ = hosts
    with (
        serving(server, tmp_path, 2, LONG) as daemon,
        desk(here, 1, at(server)) as one,
        desk(here, 2, at(server)) as two,
    ):
        two.do("access")
        one.begin("often", 100)
        for _ in range(5):
            before = server_info(daemon).position
            until(lambda before=before: server_info(daemon).position > before)  # type: ignore[misc]
            (server if side == "server" else here).reset_connections()
        one.outcome()
        until(lambda: server_info(daemon).accesses == 1)
        assert two.do("info") == 1
        assert one.do("access") == 100 + 2, "handles are counted: a grant more would show"
        assert one.do("events") == two.do("events") == []
        assert not daemon.all_said("bug")


@pytest.mark.parametrize("killed", [True, False])
def test_the_server_is_restarted_while_a_cable_is_out(hosts: Sequence[Host], tmp_path: Path, *, killed: bool) -> None:
    """What it had granted stands; what was on its way arrives at the new one, once."""
    server, here, there = hosts
    with (
        serving(server, tmp_path, 3, LONG) as daemon,
        desk(here, 1, at(server)) as one,
        desk(there, 2, at(server)) as two,
    ):
        one.do("access")
        other = two.do("access")
        again = daemon_on(server, tmp_path, 3, LONG)
        with ending(again):
            with here.unplugged():
                one.begin("access")
                until(here.resends)
                if killed:
                    daemon.kill()
                else:
                    assert daemon.stop() == 0
                started(again)
                assert two.do("info") == other
                assert server_info(again).accesses == 2
            assert one.outcome() == other + 1, "handles are counted: a grant more would show"
            one.do("info")
            assert server_info(again).accesses == 3
            assert one.do("events") == two.do("events") == []
