"""Hostile crowds against a real process: its memory, its file descriptors and its log stay within bounds."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol import messages as m
from protocol import rpc
from protocol.terms import HandleKind
from tests.daemon.harness import LIMIT, Caller, Daemon, access, ending, hello

MIB = 1024 * 1024
IDLE = 10_000


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a daemon that gives slow readers a second, and end it after the test."""
    daemon = Daemon(tmp_path, config="[sessions]\nstalled = 1\ngrace = 0\ntimeout = 5\n")
    with ending(daemon):
        daemon.serve()
        daemon.said("container plugged in")
        yield daemon


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "what must happen did not happen"
        time.sleep(0.005)


def served(daemon: Daemon) -> None:
    """Show that an ordinary client is served."""
    with Caller(daemon.address) as caller:
        caller.ask(hello(4711))
        handle = caller.ask(access()).handle
        caller.ask(m.Release(handle))
        caller.ask(m.Goodbye())


HEADERS = {
    "arrays of 16": b"\xdc\x00\x10" * 1365,
    "maps of 32": b"\xde\x00\x20" * 1365,
    "arrays of 2^32 - 1": b"\xdd\xff\xff\xff\xff" * 819,
    "arrays of 15": b"\x9f" * 4096,
    "a text of 4 GiB": b"\xdb\xff\xff\xff\xff" + b"x" * 4000,
}


@pytest.mark.parametrize("data", HEADERS.values(), ids=HEADERS)
def test_nested_headers_take_no_memory(data: bytes, daemon: Daemon) -> None:
    """A hundred strangers who announce as much as they can get less than 10 MiB out of the daemon."""
    served(daemon)
    before = daemon.resident()
    crowd = [socket.create_connection(daemon.address, LIMIT) for _ in range(100)]
    for sock in crowd:
        with contextlib.suppress(OSError):  # it may be closed already: some of this is no message
            sock.sendall(data[:2000])
            sock.sendall(data[2000:])
    served(daemon)
    assert daemon.resident() - before < 10 * MIB
    for sock in crowd:
        sock.close()
    served(daemon)


def test_clients_that_never_read_are_bounded_and_cut_off(daemon: Daemon) -> None:
    """Twenty that ask without end for what is long: some memory, then the end, and others are served meanwhile."""
    crowd = [Caller(daemon.address) for _ in range(20)]
    for number, caller in enumerate(crowd):
        caller.ask(hello(number, machine="one"))
        for _ in range(100):
            caller.ask(access(kind=HandleKind.SUBSYSTEM))
        caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else the kernel keeps megabytes for it
        caller.sock.setblocking(False)
    asked = b"".join(rpc.encode_request(number, m.NetUsers(limit=1000)) for number in range(1000, 2000))
    served(daemon)
    before = daemon.resident()
    peak = 0
    deadline = time.monotonic() + LIMIT
    while len(daemon.all_said("does not read its replies")) + sum(map(_is_closed, crowd)) < len(crowd):
        assert time.monotonic() < deadline
        for caller in crowd:
            with contextlib.suppress(OSError):
                caller.sock.send(asked)
        served(daemon)
        peak = max(peak, daemon.resident() - before)
    assert peak < 20 * MIB
    for caller in crowd:
        caller.sock.close()
    wait_until(lambda: _sessions(daemon) == 0)


def _is_closed(caller: Caller) -> bool:
    poll = select.poll()
    poll.register(caller.sock, select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def _sessions(daemon: Daemon) -> int:
    with Caller(daemon.monitor) as caller:
        caller.ask(hello())
        return caller.ask(m.ServerInfoRequest()).sessions


def test_ten_thousand_idle_clients(tmp_path: Path) -> None:
    """They are greeted, cost a few KiB each, hold up nobody, and are told goodbye at the stop."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files, the hard limit is {hard}: raise it (ulimit -Hn, limits.conf)")
    soft_before, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft_before, wanted), hard))
    daemon = Daemon(tmp_path)
    crowd: list[socket.socket] = []
    try:
        with ending(daemon):
            daemon.serve()
            daemon.said("container plugged in")
            served(daemon)
            before = daemon.resident()
            greeting = rpc.encode_request(1, hello())
            while len(crowd) < IDLE:
                batch = [socket.create_connection(daemon.address, LIMIT) for _ in range(500)]
                for sock in batch:
                    sock.sendall(greeting)
                for sock in batch:
                    assert sock.recv(4096).startswith(b"\x94\x01\x01\xc0")
                crowd += batch
            assert _sessions(daemon) == IDLE
            each = (daemon.resident() - before) / IDLE
            assert each < 20 * 1024
            with Caller(daemon.monitor) as caller:
                caller.ask(hello())
                caller.ask(m.NetUsers())
            daemon.process.terminate()
            for sock in crowd[:: IDLE // 10]:
                assert b"goodbye" in sock.recv(4096)
            for sock in crowd:
                sock.close()
            assert daemon.exited() == 0
    finally:
        for sock in crowd:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_before, hard))


def test_with_few_file_descriptors_it_goes_on(tmp_path: Path) -> None:
    """More clients than descriptors: those who are in are served, the rest wait, no container gets lost; said once."""
    daemon = Daemon(tmp_path, config="[containers]\npoll = 0.1\npull_grace = 0.1\n[sessions]\nhello_timeout = 300\n")
    with ending(daemon):
        daemon.serve(files=200)
        daemon.said("container plugged in")
        first = Caller(daemon.address)
        first.ask(hello())
        crowd = [socket.create_connection(daemon.address, LIMIT) for _ in range(300)]
        daemon.said("limit of open files")
        assert daemon.files() < 200
        first.ask(access())
        assert _sessions(daemon) == 1  # the operator gets in
        for sock in crowd:
            sock.close()
        served(daemon)
        first.ask(m.Info(1))
        first.sock.close()
        assert daemon.stop() == 0
    assert len(daemon.all_said("limit of open files")) == 1
    assert daemon.all_said("container pulled out") == []
    assert daemon.all_said("cannot be used") == []


def test_a_storm_of_garbage_floods_no_log(daemon: Daemon) -> None:
    """A thousand strangers who talk nonsense, an HTTP client among them: a handful of lines, and it serves on."""
    for number in range(1000):
        with socket.create_connection(daemon.address, LIMIT) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n" if number % 2 else b"\xc1" * 100)
    served(daemon)
    wait_until(lambda: _sessions(daemon) == 0)
    daemon.stop()
    assert len(daemon.all_said("broke the protocol")) <= 20
    assert daemon.unstructured == []
