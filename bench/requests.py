"""The requests that everything here makes: one product, StationShare, a station of its own for each client."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final, TypeVar

from msgspec import Struct

from drivers.container import Container, ContainerKind, FirmItem, ProductItem, container_id
from protocol import messages as m
from protocol import rpc
from protocol.terms import AccessMode, Client, Station

P = TypeVar("P", bound=m.Params)
R = TypeVar("R", bound=Struct)

FIRM_CODE: Final = 600_010
PRODUCT_CODE: Final = 14
ITEM: Final = 1
QUANTITY: Final = 10_000_000

CONTAINER: Final = Container(
    container_id(3, 3_448_482),
    ContainerKind.VIRTUAL,
    "Bench",
    (FirmItem(FIRM_CODE, "Chart Works", 0, (ProductItem(ITEM, PRODUCT_CODE, "Chart Processing", QUANTITY),)),),
)

DESCRIPTION: Final = f"""\
id = "{CONTAINER.id}"
text = "{CONTAINER.text}"
[[firm_items]]
firm_code = {FIRM_CODE}
[[firm_items.products]]
item = {ITEM}
product_code = {PRODUCT_CODE}
quantity = {QUANTITY}
"""
"""The same container as the virtual driver reads it."""


def hello(number: int) -> m.Hello:
    """Return the greeting of client `number`."""
    client = Client(f"host-{number}", f"user-{number}", number, "bench")
    return m.Hello((1, 1), client, Station(f"{number:032x}"))


def access(key: bytes) -> m.Access:
    """Return a request for a handle."""
    return m.Access(m.AccessKey(key), FIRM_CODE, PRODUCT_CODE, AccessMode.STATION_SHARE)


def received(params: P) -> P:
    """Return parameters as the server has them: made of bytes that came, sharing nothing with others."""
    reader = rpc.Reader(rpc.FROM_CLIENT)
    reader.feed(rpc.encode_request(0, params))
    request = reader.next()
    assert isinstance(request, rpc.Request)
    return rpc.parameters(request, type(params))


def call(sock: socket.socket, params: m.Params[R], result: type[R]) -> R:
    """Ask on a blocking socket and return the answer. Raises OSError, or ValueError if the server refuses."""
    sock.sendall(rpc.encode_request(1, params))
    return rpc.convert(next(answers(sock)).result, result)


def answers(sock: socket.socket) -> Iterator[rpc.Response]:
    """Yield the answers that come, for ever. Raises OSError, or ValueError where the server refuses."""
    reader = rpc.Reader(rpc.FROM_SERVER)
    while True:
        data = sock.recv(rpc.CHUNK)
        if not data:
            msg = "the server closed the connection"
            raise ConnectionError(msg)
        reader.feed(data)
        while (message := reader.next()) is not None:
            if isinstance(message, rpc.Response):
                if message.error is not None:
                    msg = f"the server refused: {message.error}"
                    raise ValueError(msg)
                yield message
