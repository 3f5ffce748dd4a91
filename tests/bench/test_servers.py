"""What is compared does the same work."""

from __future__ import annotations

import socket

import pytest

from bench import requests
from bench.servers import NAMES, serving
from protocol import messages as m
from protocol import rpc


def talk(port: int) -> bytes:
    """Greet, ask for a handle and give it back; return the bytes of the two answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        requests.call(sock, requests.hello(1), m.Greeting)
        answers = b""
        for number, params in enumerate((requests.access(bytes(16)), m.Release(1))):
            sock.sendall(rpc.encode_request(number, params))
            answers += sock.recv(rpc.CHUNK)
        return answers


@pytest.mark.parametrize("name", NAMES)
def test_all_servers_answer_with_the_same_bytes(name: str) -> None:
    """So a ratio of two of them is one of thinking, not of bytes."""
    expected = rpc.encode_result(0, m.Granted(1, requests.CONTAINER.id, requests.ITEM, 1))
    expected += rpc.encode_result(1, m.Done())
    with serving(name) as server:
        assert talk(server.port) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_server_survives_clients_that_come_and_go(name: str) -> None:
    """One that leaves in the middle of a message does not end the server."""
    with serving(name) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(rpc.encode_request(0, requests.hello(1))[:-5])
        talk(server.port)
