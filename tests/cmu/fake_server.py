"""A server that is real up to its answers: threads behind a socket that speak the protocol's own bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from protocol import rpc
from protocol.errors import LicenseError
from protocol.messages import METHODS, Done, Goodbye, Greeting, Hello, Limits, Params
from tests.cmu.made_up import NOON, SERVER

Answer = Callable[[Params[Any]], Struct]
"""Gives the result of a request; raises LicenseError to refuse it, OSError to cut the connection."""


@contextmanager
def serving(answer: Answer, unix: str | None = None) -> Iterator[str]:
    """Serve on a free port of loopback, or on a Unix socket; give the address. Ends all its threads."""
    listener = socket.create_server(("127.0.0.1", 0)) if unix is None else socket.socket(socket.AF_UNIX)
    if unix is not None:
        listener.bind(unix)
        listener.listen()
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                thread = threading.Thread(target=_serve, args=(connection, answer))
                threads.append(thread)
                thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"unix:{unix}" if unix is not None else f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(10)
        listener.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)


def _serve(connection: socket.socket, answer: Answer) -> None:
    reader = rpc.Reader(rpc.FROM_CLIENT)
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(rpc.CHUNK):
            reader.feed(data)
            while (message := reader.next()) is not None:
                assert isinstance(message, rpc.Request)
                params = rpc.parameters(message, METHODS[message.method])
                try:
                    result = _greet(params) or answer(params)
                except LicenseError as error:
                    connection.sendall(rpc.encode_error(message.msgid, error.body))
                else:
                    connection.sendall(rpc.encode_result(message.msgid, result))


def _greet(params: Params[Any]) -> Struct | None:
    if isinstance(params, Hello):
        return Greeting(1, 1, "0" * 64, SERVER, 40, 120, NOON, Limits(64, 16_384, 1_024))
    return Done() if isinstance(params, Goodbye) else None
