"""The play that is recorded for a release: it uses each method, each event and nearly each number of an error.

What a later release may rightly do otherwise has no place in it: a method that is not offered yet, for instance.
"""

from __future__ import annotations

from typing import Any

import msgpack

from protocol import messages as m
from protocol import rpc
from protocol.connection import VERSIONS
from protocol.terms import AccessMode, Client, HandleKind, Station
from tests.transcripts.stage import Stage, Step, messages

CHARTS, VIEWER, FUTURE, DEMO, ARCHIVE = 14, 15, 16, 17, 18


class Recorder:
    """Lets things happen on a stage and writes them down."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._stage = Stage()
        self._numbers: dict[str, int] = {}
        self._keys = 0

    def happen(self, verb: str, name: str = "", data: bytes = b"") -> dict[str, bytes]:
        """Let a step happen; return what the daemon says to whom."""
        step = Step(verb, name, data)
        said = self._stage.perform(step)
        self.steps += [step, *(Step("get", name, data) for name, data in said.items())]
        return said

    def ask(self, name: str, params: m.Params[Any]) -> Any:
        """Have somebody ask; return the result, or None if there is none (yet)."""
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        answers = messages(self.happen("ask", name, rpc.encode_request(number, params)).get(name, b""))
        return next((message[3] for message in answers if isinstance(message, list) and message[1] == number), None)

    def access(self, name: str, product: int, mode: AccessMode = AccessMode.USER_LIMIT, **options: Any) -> None:
        """Have somebody ask for a handle, with a new key."""
        self.ask(name, m.Access(self.key(), options.pop("firm_code", 600010), product, mode, **options))

    def key(self) -> m.AccessKey:
        """Return a key that was not used yet."""
        self._keys += 1
        return m.AccessKey(self._keys.to_bytes(16))


def hello(events: Any, machine: str, versions: tuple[int, int] = VERSIONS) -> m.Hello:
    """Return a greeting."""
    return m.Hello(versions, Client("WIBU", "fs", 4711, "Chart Processing"), Station(machine, 3), events)


def play() -> list[Step]:
    """Return the whole play."""
    recorder = Recorder()
    alice = while_starting(recorder)
    accesses(recorder)
    faults(recorder)
    listings(recorder)
    recorder.happen("client", "bob")
    recorder.ask("bob", hello("poll", "desk-2"))
    onlookers(recorder)
    containers_that_go(recorder)
    cuts(recorder, alice)
    return recorder.steps


def while_starting(recorder: Recorder) -> str:
    """Not every container has been looked for; return the token of Alice's session."""
    recorder.happen("plug", "3-1001")
    recorder.happen("client", "alice")
    greeting = recorder.ask("alice", hello("push", "desk-1"))
    recorder.access("alice", 99)
    recorder.ask("alice", m.ServerInfoRequest())
    recorder.happen("plug", "3-1002")
    recorder.happen("started")
    token: str = greeting["token"]
    return token


def accesses(recorder: Recorder) -> None:
    """Each mode, each kind, and why an access is refused."""
    share = m.Access(recorder.key(), 600010, CHARTS, AccessMode.STATION_SHARE, feature_code=1)
    recorder.ask("alice", share)
    recorder.ask("alice", share)
    recorder.ask("alice", m.Access(share.key, 600010, CHARTS))
    digits = {"key": recorder.key().hex(), "firm_code": 600010, "product_code": CHARTS, "mode": "station_share"}
    recorder.happen("ask", "alice", msgpack.packb([0, 1_000, "access", [digits]]))
    recorder.access("alice", CHARTS)
    recorder.access("alice", CHARTS, AccessMode.NO_USER_LIMIT, container="3-1001", item=1)
    recorder.access("alice", VIEWER, AccessMode.EXCLUSIVE)
    for product, options in (
        (99, {}),
        (DEMO, {}),
        (CHARTS, {"container": "9-9"}),
        (VIEWER, {"mode": AccessMode.STATION_SHARE}),
        (FUTURE, {}),
        (CHARTS, {"feature_code": 4, "container": "3-1001"}),
        (CHARTS, {"feature_code": 1, "container": "3-1002"}),
        (ARCHIVE, {"feature_code": 2, "mode": AccessMode.STATION_SHARE}),
        (CHARTS, {}),
        (CHARTS, {}),
    ):
        recorder.access("alice", product, **options)
    for kind in (HandleKind.FIRM_ITEM, HandleKind.CONTAINER, HandleKind.SUBSYSTEM):
        recorder.access("alice", 0, kind=kind)
    recorder.access("alice", 0, kind=HandleKind.CONTAINER, firm_code=0, container="9-9")
    recorder.access("alice", 0, kind=HandleKind.FIRM_ITEM, firm_code=1)


def faults(recorder: Recorder) -> None:
    """Requests that cannot be answered, and strangers that are sent away."""
    recorder.ask("alice", m.KeepAlive())
    recorder.happen("ask", "alice", msgpack.packb([0, 1_001, "no_such_method", [{}]]))
    recorder.happen("ask", "alice", msgpack.packb([0, 1_002, "release", [{"handle": "1"}]]))
    recorder.happen("ask", "alice", msgpack.packb([0, 1_003, "keep_alive", [{"of_the_future": True}]]))
    recorder.happen("ask", "alice", msgpack.packb([2, "notification_of_the_future", [{}]]))
    recorder.ask("alice", hello("push", "desk-1"))
    recorder.happen("client", "newer")
    recorder.ask("newer", hello("poll", "desk-9", (65_000, 65_535)))
    recorder.ask("newer", m.KeepAlive())
    recorder.happen("cut", "newer")
    recorder.happen("client", "rude")
    recorder.ask("rude", hello("poll", "desk-9"))
    recorder.happen("ask", "rude", msgpack.packb([1, 1, None, {}]))
    recorder.happen("cut", "rude")


def listings(recorder: Recorder) -> None:
    """What a client sees of its handles, the server, the containers and the accesses."""
    for handle in range(1, 9):
        recorder.ask("alice", m.Info(handle))
    recorder.ask("alice", m.ServerInfoRequest())
    look(recorder, "alice")
    recorder.ask("alice", m.Release(1))
    recorder.ask("alice", m.Release(1))


def look(recorder: Recorder, name: str) -> None:
    """Ask for each listing."""
    recorder.ask(name, m.Containers())
    recorder.ask(name, m.Contents("3-1001"))
    recorder.ask(name, m.Contents("9-9"))
    recorder.ask(name, m.NetCluster())
    recorder.ask(name, m.NetCluster(firm_code=600010, product_code=CHARTS, limit=1))
    recorder.ask(name, m.NetUsers())
    recorder.ask(name, m.NetUsers(relevant=True, container="3-1001", limit=2))


def onlookers(recorder: Recorder) -> None:
    """The monitor and the control socket, where there is no session."""
    for door in ("monitor", "control"):
        recorder.happen(door, door)
        recorder.ask(door, hello("poll", "desk-1"))
        recorder.ask(door, m.ServerInfoRequest())
        if door == "monitor":
            look(recorder, door)
        else:
            recorder.ask(door, m.Deallocate(999))
        recorder.ask(door, m.KeepAlive())
        recorder.ask(door, m.Goodbye())
        recorder.happen("cut", door)


def containers_that_go(recorder: Recorder) -> None:
    """Containers are unplugged: what can be is booked elsewhere, and the rest ends; told at once, or when asked for."""
    recorder.ask("bob", m.Events())
    recorder.access("bob", ARCHIVE)
    recorder.access("bob", VIEWER)
    recorder.ask("bob", m.Release(99))
    recorder.happen("miss", "3-1001")
    recorder.access("bob", VIEWER)
    recorder.ask("alice", m.Release(6))
    recorder.ask("bob", m.Events(wait=60))
    recorder.happen("unplug", "3-1001")
    recorder.happen("unplug", "3-1002")
    recorder.ask("bob", m.Events())
    recorder.happen("plug", "3-1001")
    recorder.ask("bob", m.Goodbye())


def cuts(recorder: Recorder, token: str) -> None:
    """Alice's connection is cut, and she comes back; then on another connection; then for good."""
    recorder.access("alice", CHARTS)
    recorder.access("alice", 0, kind=HandleKind.CONTAINER)
    recorder.happen("cut", "alice")
    recorder.happen("plug", "3-1002")
    recorder.happen("unplug", "3-1001")
    for name in ("alice-again", "alice-elsewhere"):
        recorder.happen("client", name)
        recorder.ask(name, m.Resume(VERSIONS, token, "push"))
    recorder.ask("alice-elsewhere", m.NetUsers())
    recorder.ask("alice-elsewhere", m.Goodbye())
    recorder.happen("client", "too-late")
    recorder.ask("too-late", m.Resume(VERSIONS, token))
    recorder.ask("too-late", m.KeepAlive())
