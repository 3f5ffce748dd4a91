"""Clients that hold handles and do nothing else, a process of its own.

    python -m bench.holders PORT CLIENTS EACH      says `true` once they all hold so many, and stays until it is ended

Each is a station of its own, so that the table is as large as that of a site with so many machines.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

from bench import requests
from bench.processes import allow_many_files, say
from protocol import messages as m
from protocol import rpc

_FIRST: Final = 50_000_000
"""The number of the first client: a station that no other part of a run has."""

_AT_ONCE: Final = 64
"""Requests that one client has under way."""


def hold(sock: socket.socket, handles: int) -> None:
    """Have the client behind this socket hold so many handles. Raises OSError, ValueError if one is refused."""
    for begin in range(0, handles, _AT_ONCE):
        count = min(_AT_ONCE, handles - begin)
        sock.sendall(
            b"".join(rpc.encode_request(i, requests.access((begin + i + 1).to_bytes(16, "big"))) for i in range(count))
        )
        for _ in zip(range(count), requests.answers(sock), strict=False):
            pass


def main(arguments: list[str]) -> None:
    """Do what the module's text says."""
    port, clients, each = map(int, arguments)
    allow_many_files()
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(clients)]
    for number, sock in enumerate(socks):
        requests.call(sock, requests.hello(_FIRST + number), m.Greeting)
        hold(sock, each)
    say(value=True)
    for _ in sys.stdin:  # until it is closed
        for sock in socks:
            requests.call(sock, m.KeepAlive(), m.Time)


if __name__ == "__main__":
    main(sys.argv[1:])
