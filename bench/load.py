"""The load generator, a process of its own: many clients that ask for a handle and give it back, for ever.

    python -m bench.load CLIENTS DEPTH SERVER...      a SERVER is PORT:PID, all on 127.0.0.1

It connects and greets with CLIENTS clients at each server, and says `true`. Then for each line `SERVER SECONDS` (the
server's place in the arguments, from 0) it loads that server for so long and says its `Round`.

It has to cost less than what it measures: the bytes are made beforehand, and of a reply it only looks whether it grants
and which bytes spell the handle. Each client sends DEPTH accesses at once, and when all are answered as many releases.

It never sleeps while it waits for replies. Over loopback whoever sends to a sleeping process pays for waking it up, 3
microseconds and more, and most often the server that is asked the least: that is no cost of the server, whose clients
are on other machines. So the generator always uses a whole core; what of it is work is the time less that of waiting.
"""

from __future__ import annotations

import re
import select
import socket
import sys
import time
from typing import Final

from msgspec import Struct

from bench import requests
from bench.processes import allow_many_files, processor_time, say
from protocol import messages as m
from protocol import rpc

_GRANT: Final = re.compile(
    rb"\x94\x01.\xc0[\x81-\x8f]\xa6handle([\x00-\x7f]|\xcc.|\xcd..|\xce.{4}|\xcf.{8})", re.DOTALL
)
"""`[1, msgid, nil, {"handle": n, ...`: a reply that grants, and in the group the handle as it is spelled."""

_DONE: Final = re.compile(rb"\x94\x01.\xc0\x80", re.DOTALL)

MOST_DEPTH: Final = 64
"""How many requests a client may have unanswered; and their numbers are one byte each."""

_FIRST: Final = 100_000_000
"""The number of the first client: a station that does not lie in a table that was filled beforehand."""

_PATIENCE: Final = 20
"""How many seconds a server may answer nobody."""


class Round(Struct, frozen=True):
    """What came of a round: single requests answered, refused ones among them, and seconds.

    `server` is the processor's time that the server took, `generator` the time in which the generator did not wait.
    """

    requests: int
    refused: int
    seconds: float
    server: float
    generator: float


class Load:
    """Clients at one server. Raises OSError, ValueError if they cannot all be greeted."""

    def __init__(self, port: int, pid: int, clients: int, depth: int) -> None:
        assert depth <= MOST_DEPTH
        self._pid = pid
        self._depth = depth
        self._epoll = select.epoll()
        self._lines: dict[int, _Line] = {}
        for number in range(clients):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            requests.call(sock, requests.hello(_FIRST + number), m.Greeting)
            sock.setblocking(False)
            self._lines[sock.fileno()] = _Line(sock)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        keys = [number.to_bytes(16, "big") for number in range(depth)]
        self._accesses = b"".join(rpc.encode_request(i, requests.access(key)) for i, key in enumerate(keys))
        self._releases = [rpc.encode_request(i, m.Release(1))[:-1] for i in range(depth)]  # lacks only the handle
        self._released = b"".join(rpc.encode_result(i, m.Done()) for i in range(depth))

    def close(self) -> None:
        """Close all connections."""
        for line in self._lines.values():
            line.sock.close()
        self._epoll.close()

    def run(self, seconds: float) -> Round:
        """Load the server for some seconds; at the end nothing is held. Raises ConnectionError if a client is cut."""
        server, begin = processor_time(self._pid), time.perf_counter()
        answered, refused, waited = self._exchange(begin + seconds)
        took = time.perf_counter() - begin
        return Round(answered, refused, took, processor_time(self._pid) - server, took - waited)

    def _exchange(self, until: float) -> tuple[int, int, float]:
        lines, depth, accesses, releases = self._lines, self._depth, self._accesses, self._releases
        released, find, poll, now = self._released, _GRANT.findall, self._epoll.poll, time.perf_counter
        answered = refused = 0
        waited = 0.0
        for line in lines.values():
            line.send(accesses)
        busy = len(lines)
        while busy:
            ready = poll(0)
            if not ready:
                idle = now()
                while not ready:
                    if now() > idle + _PATIENCE:
                        msg = f"the server answers nothing for {_PATIENCE} s"
                        raise ConnectionError(msg)
                    ready = poll(0)
                waited += now() - idle
            going = now() < until
            for number, _ in ready:
                line = lines[number]
                data = line.recv(rpc.CHUNK)
                if not data:
                    msg = "the server closed a connection"
                    raise ConnectionError(msg)
                if line.rest:
                    data, line.rest = line.rest + data, b""
                if line.expected:
                    if data != released:
                        if _replies(data) < line.expected:
                            line.rest = data
                            continue
                        refused += line.expected - len(_DONE.findall(data))
                    answered += line.expected
                    line.expected = 0
                else:
                    handles = find(data)
                    if len(handles) < depth:
                        if _replies(data) < depth:
                            line.rest = data
                            continue
                        refused += depth - len(handles)
                    answered += depth
                    if handles:
                        line.expected = len(handles)
                        line.send(b"".join([head + handle for head, handle in zip(releases, handles, strict=False)]))
                        continue
                if going:
                    line.send(accesses)
                else:
                    busy -= 1
        return answered, refused, waited


class _Line:
    """One client. `expected` is how many answers to releases it waits for; 0: it waits for those to its accesses."""

    __slots__ = ("expected", "recv", "rest", "send", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.send = sock.send
        self.recv = sock.recv
        self.rest = b""
        self.expected = 0


def _replies(data: bytes) -> int:
    """Count the whole replies in bytes that may end in the middle of one. Raises ConnectionError at a goodbye."""
    reader = rpc.Reader(rpc.FROM_SERVER)
    reader.feed(data)
    count = 0
    while (message := reader.next()) is not None:
        if not isinstance(message, rpc.Response):
            msg = f"the server said: {message}"
            raise ConnectionError(msg)
        count += 1
    return count


def main(arguments: list[str]) -> None:
    """Do what the module's text says."""
    clients, depth = map(int, arguments[:2])
    allow_many_files()
    servers = [tuple(map(int, server.split(":"))) for server in arguments[2:]]
    loads = [Load(port, pid, clients, depth) for port, pid in servers]
    say(value=True)
    for line in sys.stdin:
        which, seconds = line.split()
        say(loads[int(which)].run(float(seconds)))


if __name__ == "__main__":
    main(sys.argv[1:])
