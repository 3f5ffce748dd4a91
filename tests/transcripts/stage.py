"""The stage on which a transcript is played: a daemon without I/O and without chance, and the steps of a play."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgpack
from msgspec import Struct

from cmserverd.answers import Door, Peer
from cmserverd.clock import LicenseClock
from cmserverd.conversation import Conversation
from cmserverd.engine import Engine, Listener
from cmserverd.service import Detachment, Introduction, Service
from drivers.container import Container, ContainerId, ContainerKind, FirmItem, ProductItem, QuantityFlag
from protocol.messages import Server
from tests.protocol.conversation import shown

HERE: Final = Path(__file__).parent

SERVER: Final = Server("licenses", "cmserverd", "0.1.0")
"""How the daemon on the stage calls itself, whatever its version is: transcripts of all releases are played to it."""

BENCH: Final = Container(
    ContainerId("3-1001"),
    ContainerKind.HARDWARE,
    "Bench",
    (
        FirmItem(
            600010,
            "Chart Works",
            7,
            (
                ProductItem(1, 14, "Chart Processing", 2, feature_map=0b011),
                ProductItem(2, 15, "Chart Viewer", 1, QuantityFlag.DENY_USER_LIMIT),
                ProductItem(3, 16, "Chart Future", 1, unusable="it has an option of the future"),
                ProductItem(4, 17, "Chart Demo", 0),
            ),
        ),
    ),
)
SPARE: Final = Container(
    ContainerId("3-1002"),
    ContainerKind.VIRTUAL,
    "Spare",
    (
        FirmItem(
            600010,
            "Chart Works",
            3,
            (
                ProductItem(1, 14, "Chart Processing", 1),
                ProductItem(5, 18, "Chart Archive", 1, feature_map=0b001),
                ProductItem(6, 18, "Chart Archive", 1, QuantityFlag.DENY_STATION_SHARE, 0b001),
            ),
        ),
    ),
)
CONTAINERS: Final = {container.id: container for container in (BENCH, SPARE)}
"""What can be plugged in. Never change one of these; a release that needs another adds it."""


class Step(Struct, frozen=True):
    """One line of a transcript.

    client NAME, monitor NAME, control NAME     somebody connects at this door, and is called so from now on
    ask NAME BYTES                              it sends these bytes
    get NAME BYTES                              the daemon's bytes that the step before brought it
    cut NAME                                    its connection is closed
    plug ID, miss ID, unplug ID                 a container is there, is pulled out, is gone for good
    started                                     every driver has looked once
    """

    verb: str
    name: str = ""
    data: bytes = b""


class Stage:
    """The daemon, and all that are connected to it."""

    def __init__(self) -> None:
        self._engine = Engine(LicenseClock(lambda: 1_790_000_000, lambda: 0.0), _raise)
        self._service = Service(self._engine, Introduction(SERVER, "the-daemons-own-machine", 120.0))
        self._conversations: dict[str, Conversation] = {}

    def perform(self, step: Step) -> dict[str, bytes]:
        """Let a step happen, and return what the daemon says to whom."""
        match step.verb:
            case "client" | "monitor" | "control" as door:
                peer = Peer("192.0.2.7" if door == "client" else "unix:1000", door != "client", Door(door))
                self._conversations[step.name] = Conversation(self._service, peer)
            case "ask":
                conversation = self._conversations[step.name]
                conversation.receive(step.data)
                while conversation.work():
                    pass
            case "cut":
                self._conversations.pop(step.name).lost(Detachment.CLOSED)
            case "plug":
                self._engine.plug(CONTAINERS[ContainerId(step.name)])
            case "miss":
                self._engine.unplug(ContainerId(step.name))
            case "unplug":
                self._engine.remove(ContainerId(step.name))
            case "started":
                self._engine.started()
            case unknown:
                raise ValueError(unknown)
        return {name: data for name, each in self._conversations.items() if (data := each.take())}


def messages(data: bytes) -> list[object]:
    """Return the messages that these bytes are."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    return list(unpacker)


def written(steps: Iterable[Step]) -> str:
    """Return a transcript's text; above bytes stands what they mean, which nobody reads again."""
    lines = []
    for step in steps:
        lines += [f"# {shown(message)}" for message in messages(step.data)]
        lines.append(" ".join(filter(None, (step.verb, step.name, step.data.hex()))))
    return "\n".join(lines) + "\n"


def read(text: str) -> Iterator[Step]:
    """Give the steps of a transcript."""
    for line in text.splitlines():
        if not line.startswith("#"):
            verb, name, digits, *_ = *line.split(" "), "", ""
            yield Step(verb, name, bytes.fromhex(digits))


def _raise(_: Listener, error: Exception) -> None:
    raise error
