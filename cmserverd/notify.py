"""Tells systemd how the daemon is: ready, its status in words, stopping, alive (sd_notify(3), sd_watchdog_enabled(3)).

The protocol is one datagram of `NAME=value`, stable by promise. Without `NOTIFY_SOCKET` everything here does nothing;
a message that cannot be sent is dropped, since no trouble with it may hurt the daemon.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

SEND_TIMEOUT: Final = 0.25
"""Seconds that a message waits while the manager's queue is full; the daemon stands still meanwhile."""


class Notifier:
    """The way to the service manager, as the environment describes it.

    `watchdog` is how many seconds may pass from one `alive` to the next, or None if nobody waits for it: a third of the
    manager's limit, so that one message may be lost.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = _watchdog(environment) if address else None

    def ready(self) -> None:
        """Tell that the daemon serves."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Tell a line for people, which `systemctl status` shows."""
        self._send("STATUS=" + "".join(letter if letter.isprintable() else " " for letter in text))

    def stopping(self) -> None:
        """Tell that the daemon ends."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Tell that the daemon is not stuck; to be called from the loop whose health matters."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(SEND_TIMEOUT)
                channel.sendto(message.encode(errors="replace"), self._address)
        except (OSError, ValueError):  # ValueError: the address is no path
            pass


def _watchdog(environment: Mapping[str, str]) -> float | None:
    limit, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not limit.isdecimal() or int(limit) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(limit) / 3_000_000
