"""The worked example of `docs/protocol.md`: a whole conversation, spoken by the client's code with the daemon's.

`python -m tests.protocol.conversation` prints it as it stands on the page.
"""

from __future__ import annotations

import json
import secrets

import msgpack
import pytest
from msgspec import Struct

from cmserverd.answers import Peer
from cmserverd.clock import LicenseClock
from cmserverd.conversation import Conversation
from cmserverd.engine import Engine, Listener
from cmserverd.service import Detachment, Introduction, Service
from drivers.container import Container, ContainerKind, FirmItem, ProductItem, container_id
from protocol import messages as m
from protocol.connection import VERSIONS, ClientConnection
from protocol.terms import AccessMode, Client, Station

TOKEN = "0123456789abcdef" * 4
TIME = 1_790_000_000
MACHINE = "7eeb5f85e7df4562a549f02376a84b34"

CHARTS = Container(
    container_id(3, 3448482),
    ContainerKind.HARDWARE,
    "Bench",
    (FirmItem(600010, "Chart Works", 1, (ProductItem(1, 14, "Chart Processing", 2),)),),
)


class Line(Struct):
    """What one side says: a remark for the reader, who, and the bytes."""

    remark: str
    sender: str
    data: bytes


class Dialogue:
    """The two sides, joined by nothing but bytes."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.engine = Engine(LicenseClock(lambda: TIME, lambda: 0.0), _raise)
        self._service = Service(self.engine, Introduction(m.Server("licenses", "cmserverd", "0.1.0"), MACHINE, 120.0))
        self.engine.plug(CHARTS)
        self.engine.started()
        self._connect()

    def say(self, remark: str, params: m.Params, answer: str) -> None:
        """Have the client ask, and the server answer."""
        _, data = self._client.request(params)
        self.lines.append(Line(remark, "client", data))
        self._server.receive(data)
        while self._server.work():
            pass
        self.hear(answer)

    def hear(self, remark: str) -> None:
        """Have the client take what the server has to say."""
        data = self._server.take()
        assert list(self._client.receive(data))
        self.lines.append(Line(remark, "server", data))

    def cut(self) -> None:
        """Cut the connection and make another."""
        self._server.lost(Detachment.CLOSED)
        self._connect()

    def _connect(self) -> None:
        self._client = ClientConnection()
        self._server = Conversation(self._service, Peer("192.0.2.7", here=False))


def _raise(_: Listener, error: Exception) -> None:
    raise error


def conversation() -> list[Line]:
    """Let the two sides talk; the same bytes each time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(secrets, "token_hex", lambda _: TOKEN)
        talk = Dialogue()
        talk.say(
            "It greets, and wants its events pushed.",
            m.Hello(VERSIONS, Client("WIBU", "fs", 4711, "Chart Processing"), Station(MACHINE), "push"),
            "The session has number 1; a sign of life is wanted every 40 seconds.",
        )
    key = m.AccessKey(bytes(range(16)))
    talk.say(
        "It asks for a license of its station. The key is 16 bytes, best random ones.",
        m.Access(key, 600010, 14, AccessMode.STATION_SHARE),
        "Handle 1, on item 1 of container 3-3448482, by allocation 1.",
    )
    talk.say(
        "It asks for another one, in the default mode `user_limit`.",
        m.Access(m.AccessKey(bytes(range(16, 32))), 600010, 14),
        "Handle 2, by an allocation of its own.",
    )
    talk.say(
        "And for a third.",
        m.Access(m.AccessKey(bytes(range(32, 48))), 600010, 14),
        "Refused: both licenses of the only entry are in use.",
    )
    talk.cut()
    talk.say(
        "Its connection was cut. On a new one it resumes the session.",
        m.Resume(VERSIONS, TOKEN, "push"),
        "Both handles stand.",
    )
    talk.say(
        "It is not sure that its first request was answered, and repeats it: same key, same parameters.",
        m.Access(key, 600010, 14, AccessMode.STATION_SHARE),
        "The same handle: nothing more is taken.",
    )
    talk.say("It gives the second one back.", m.Release(2), "Done.")
    talk.engine.remove(container_id(3, 3448482))
    talk.hear("Somebody has pulled the dongle for good. The server tells it at once.")
    talk.say(
        "It uses the handle all the same.",
        m.Info(1),
        "The same error as in the event; so it stays as long as the session lives.",
    )
    talk.say("A sign of life.", m.KeepAlive(), "The server's license time.")
    talk.say("It leaves.", m.Goodbye(), "The session is over; the server closes the connection.")
    return talk.lines


def shown(value: object) -> str:
    """Return a message for people: as JSON, with `h'..'` for bytes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, bytes):
        return f"h'{value.hex()}'"
    return "nil" if value is None else json.dumps(value)


def as_markdown(lines: list[Line]) -> str:
    """Return the conversation as it stands on the page."""
    parts = []
    for line in lines:
        octets = [line.data[start : start + 32].hex(" ") for start in range(0, len(line.data), 32)]
        readable = shown(msgpack.unpackb(line.data))
        blocks = f"```text\n{readable}\n```\n\n```hex\n" + "\n".join(octets) + "\n```\n"
        parts.append(f"**{line.sender.title()}:** {line.remark}\n\n{blocks}")
    return "\n".join(parts)


if __name__ == "__main__":
    print(as_markdown(conversation()), end="")  # noqa: T201
