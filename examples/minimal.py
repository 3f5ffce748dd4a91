"""A complete license client on nothing but `socket` and `msgpack`; `docs/protocol.md` explains it.

Run it with the server and the license: `python -m examples.minimal 127.0.0.1 22350 600010 14`.
"""

import getpass
import hmac
import os
import socket
import sys
import uuid
from pathlib import Path
from typing import Any

import msgpack

PROTOCOL = uuid.UUID("4821de71-6be7-493c-9aa1-4e275f636a7d")


def machine() -> str:
    """Return this machine's id as every client computes it: an HMAC of the system's own, marked as a UUID."""
    system = bytes.fromhex(Path("/etc/machine-id").read_text().strip())
    digest = bytearray(hmac.digest(system, PROTOCOL.bytes, "sha256")[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x40, digest[8] & 0x3F | 0x80
    return digest.hex()


def main(host: str, port: str, firm_code: str, product_code: str) -> None:
    """Ask for one license of a station, look at it and give it back."""
    unpacker = msgpack.Unpacker(max_buffer_size=4 * 1024 * 1024)
    numbers = iter(range(2**32))

    def call(method: str, **params: Any) -> Any:
        number = next(numbers)
        connection.sendall(msgpack.packb([0, number, method, [params]]))
        while True:
            for message in unpacker:
                if message[:2] == [1, number]:
                    if message[2] is not None:
                        sys.exit(message[2]["text"])
                    return message[3]
                if message[:2] == [2, "goodbye"]:
                    sys.exit(message[2][0]["error"]["text"])
            data = connection.recv(65_536)
            if not data:
                sys.exit("the server closed the connection")
            unpacker.feed(data)

    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        me = {"host": socket.gethostname(), "user": getpass.getuser(), "pid": os.getpid(), "application": "minimal"}
        greeting = call("hello", versions=[1, 1], client=me, station={"machine": machine(), "seat": 0})
        print(f"{greeting['server']['name']} wants a sign of life every {greeting['keep_alive']:g} seconds")
        wanted = {"firm_code": int(firm_code), "product_code": int(product_code), "mode": "station_share"}
        granted = call("access", key=os.urandom(16), **wanted)
        print(f"handle {granted['handle']} from container {granted['container']}")
        call("keep_alive")  # a program that works on calls this often enough, and looks for events now and then
        for event in call("events")["events"]:
            print(f"handle {event['handle']}: {event['event']}")
        call("release", handle=granted["handle"])
        call("goodbye")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: python -m examples.minimal HOST PORT FIRM_CODE PRODUCT_CODE")
    main(*sys.argv[1:])
