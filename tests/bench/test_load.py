"""The load generator counts what it should, and stops when a server does."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench.load import Load
from protocol import messages as m
from protocol import rpc

Answer = Callable[[rpc.Request], bytes]


def granting(request: rpc.Request) -> bytes:
    """Answer as a server does; handles of each length in bytes come about."""
    if request.method == m.Access.method:
        handle = (1, 200, 60_000, 2**31, 2**40)[request.msgid % 5]
        return rpc.encode_result(request.msgid, m.Granted(handle, "1-1", 1, 1))
    return rpc.encode_result(request.msgid, m.Done())


def refusing_odd(request: rpc.Request) -> bytes:
    """Refuse every second access."""
    if request.method == m.Access.method and request.msgid % 2:
        return rpc.encode_error(request.msgid, m.ErrorBody(212, "NO_MORE_LICENSES", "none is free"))
    return granting(request)


def refusing_releases(request: rpc.Request) -> bytes:
    """Grant, and take nothing back."""
    if request.method == m.Release.method:
        return rpc.encode_error(request.msgid, m.ErrorBody(106, "INVALID_HANDLE", "no such handle"))
    return granting(request)


def serve(listener: socket.socket, answer: Answer, piece: int, most: int, seen: list[rpc.Request]) -> None:
    """Serve one client, with replies in pieces; hang up after so many requests."""
    sock, _ = listener.accept()
    with sock:
        reader = rpc.Reader(rpc.FROM_CLIENT)
        while len(seen) < most and (data := sock.recv(rpc.CHUNK)):
            reader.feed(data)
            replies = b""
            while (message := reader.next()) is not None:
                assert isinstance(message, rpc.Request)
                if message.method == m.Hello.method:
                    server, limits = m.Server("fake", "fake", "0"), m.Limits(64, 16_384, 1_024)
                    sock.sendall(rpc.encode_result(message.msgid, m.Greeting(1, 1, "", server, 1.0, 3.0, 0, limits)))
                else:
                    seen.append(message)
                    replies += answer(message)
            for start in range(0, len(replies), piece):
                sock.sendall(replies[start : start + piece])


@contextmanager
def fake(answer: Answer, *, piece: int = 4_096, most: int = 10**9) -> Iterator[tuple[int, list[rpc.Request]]]:
    """Run a fake server for one client; gives its port and what it was asked."""
    seen: list[rpc.Request] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener, answer, piece, most, seen))
        thread.start()
        yield listener.getsockname()[1], seen
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("piece", [1, 7, 4_096])
@pytest.mark.parametrize("depth", [1, 5, 64])
def test_every_grant_is_given_back(depth: int, piece: int) -> None:
    """However the replies are cut, each access is followed by a release of the handle that it gave."""
    with fake(granting, piece=piece) as (port, seen):
        load = Load(port, os.getpid(), 1, depth)
        came = load.run(0.02)
        load.close()
    assert came.refused == 0
    assert came.requests == len(seen) > 0
    assert came.seconds >= 0.02
    given = [(1, 200, 60_000, 2**31, 2**40)[i % 5] for i in range(depth)]
    for start in range(0, len(seen), 2 * depth):
        assert [request.method for request in seen[start : start + depth]] == ["access"] * depth
        released = seen[start + depth : start + 2 * depth]
        assert [request.params for request in released] == [[{"handle": handle}] for handle in given]


def test_refused_accesses_are_counted() -> None:
    """What was granted beside them is given back."""
    with fake(refusing_odd) as (port, seen):
        load = Load(port, os.getpid(), 1, 4)
        came = load.run(0.0)
        load.close()
    assert (came.requests, came.refused) == (6, 2)
    assert [request.method for request in seen] == ["access"] * 4 + ["release"] * 2


def test_refused_releases_are_counted() -> None:
    """A release is a request too."""
    with fake(refusing_releases) as (port, _):
        load = Load(port, os.getpid(), 1, 4)
        came = load.run(0.0)
        load.close()
    assert (came.requests, came.refused) == (8, 4)


def test_a_server_that_hangs_up_ends_the_load() -> None:
    """It is an error, not a figure."""
    with fake(granting, most=8) as (port, _):
        load = Load(port, os.getpid(), 1, 4)
        with pytest.raises(ConnectionError):
            load.run(60.0)
        load.close()
