"""Messages to the service manager, over real sockets of both kinds."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from pathlib import Path

import pytest

from cmserverd.notify import Notifier


def manager(name: str) -> socket.socket:
    """Return a manager's socket at an address as `NOTIFY_SOCKET` has it."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind("\0" + name[1:] if name.startswith("@") else name)
    listening.settimeout(10)
    return listening


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_each_message_is_one_datagram(kind: str, tmp_path: Path) -> None:
    """Ready, status, alive and stopping arrive as systemd spells them, at either kind of address."""
    name = str(tmp_path / "notify") if kind == "path" else f"@cmserverd-test-{secrets.token_hex(8)}"
    with manager(name) as listening:
        notifier = Notifier({"NOTIFY_SOCKET": name})
        notifier.ready()
        notifier.status("2 containers, 7 accesses")
        notifier.alive()
        notifier.stopping()
        received = [listening.recv(4096) for _ in range(4)]
    assert received == [b"READY=1", b"STATUS=2 containers, 7 accesses", b"WATCHDOG=1", b"STOPPING=1"]


def test_a_status_cannot_carry_another_message(tmp_path: Path) -> None:
    """Whatever a status quotes, it stays one line of one message."""
    with manager(str(tmp_path / "notify")) as listening:
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).status("é \ud800 x\nSTOPPING=1\r\x1b[31m")
        assert listening.recv(4096).decode() == "STATUS=é   x STOPPING=1  [31m"


def test_without_a_manager_nothing_happens() -> None:
    """Started by hand, the daemon has nobody to tell."""
    notifier = Notifier({"WATCHDOG_USEC": "1000000"})
    notifier.ready()
    notifier.alive()
    assert notifier.watchdog is None


@pytest.mark.parametrize("address", ["/nowhere/notify", "@", "relative", "/" + "x" * 200, "/a\0b", "vsock:2:1"])
def test_a_manager_that_cannot_be_reached_does_not_hurt(address: str) -> None:
    """Missing, unusable, too long: a message is dropped and the daemon goes on."""
    Notifier({"NOTIFY_SOCKET": address}).ready()


def test_a_manager_that_does_not_read_does_not_hurt(tmp_path: Path) -> None:
    """A full queue loses messages after a moment; what was queued before is whole."""
    with manager(str(tmp_path / "notify")) as listening:
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        listening.setblocking(False)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler, contextlib.suppress(BlockingIOError):
            filler.setblocking(False)
            while True:
                filler.sendto(b"X=1", str(tmp_path / "notify"))
        notifier.alive()
        queued = []
        with contextlib.suppress(BlockingIOError):
            while True:
                queued.append(listening.recv(4096))
        assert set(queued) == {b"X=1"}
        notifier.alive()
        assert listening.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 10.0),
        pytest.param("30000000", str(os.getpid()), 10.0, id="its own"),
        ("30000000", "1", None),
        ("0", None, None),
        ("x", None, None),
        ("-5", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_told_three_times_in_its_limit(
    usec: str | None, pid: str | None, seconds: float | None
) -> None:
    """One message may be lost; a limit meant for another process, or none, asks for nothing."""
    given = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert Notifier({name: value for name, value in given.items() if value is not None}).watchdog == seconds
