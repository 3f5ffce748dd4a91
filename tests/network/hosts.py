"""Hosts on a switch, whose cables can be pulled: network namespaces that a bridge joins.

A namespace has no name: it lives as long as the process that holds it, and that one as long as the pipe to it, so
nothing stays behind however a test ends. All lie in one user namespace, so that nobody has to be root.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

PACKAGES: Final = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "ss": "iproute2"}
"""Which package has which command."""

LOSS_PACKAGES: Final = {"nft": "nftables"}
"""And for the loss of packets."""


def need(packages: dict[str, str]) -> None:
    """Skip the test if one of these commands is missing."""
    if missing := sorted({package for command, package in packages.items() if shutil.which(command) is None}):
        pytest.skip(f"these packages are not installed: {', '.join(missing)}")


class Host:
    """One host: a network namespace, and the process that holds it."""

    def __init__(self, number: int, first: Host | None) -> None:
        self.address = f"10.231.0.{number}"
        self._port = f"port{number}"
        self._first = first or self
        command = (
            [*first.into_users, "unshare", "--net"] if first else ["unshare", "--user", "--map-root-user", "--net"]
        )
        self._holder = subprocess.Popen(
            [*command, "sh", "-c", "echo made; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        self.made = self._holder.stdout.readline() == b"made\n"

    @property
    def into_users(self) -> tuple[str, ...]:
        """What runs a command in the user namespace, which is that of the first host."""
        return ("nsenter", f"--target={self._first._holder.pid}", "--user", "--preserve-credentials")

    @property
    def within(self) -> tuple[str, ...]:
        """What runs a command on this host; it has the process to itself in the end."""
        return (*self.into_users, "nsenter", f"--net=/proc/{self._holder.pid}/ns/net")

    def run(self, *command: str) -> str:
        """Run a command on this host; return what it prints."""
        done = subprocess.run([*self.within, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def join(self, switch: Host) -> None:
        """Lay a cable from the switch to here."""
        end = str(self._holder.pid)
        switch.run("ip", "link", "add", "name", self._port, "type", "veth", "peer", "name", "eth0", "netns", end)
        switch.run("ip", "link", "set", self._port, "master", "bridge", "up")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        """Have the cable pulled for the length of the block: at this end there is no carrier, and nothing arrives."""
        self._first.run("ip", "link", "set", self._port, "down")
        try:
            yield
        finally:
            self._first.run("ip", "link", "set", self._port, "up")

    def reset_connections(self) -> None:
        """Abort all of this host's connections: programs here have an error, and their peers a reset."""
        self.run("ss", "--kill", "--tcp", "state", "established")

    def lose(self, percent: int) -> None:
        """Lose so many of the packets that arrive here, by chance."""
        self.run("nft", "add table inet loss; add chain inet loss in { type filter hook input priority 0; }")
        self.run("nft", f"add rule inet loss in meta l4proto tcp numgen random mod 100 < {percent} counter drop")

    def has_lost(self) -> bool:
        """Return whether a packet that arrived here was lost by chance."""
        return "counter packets 0 " not in self.run("nft", "list", "table", "inet", "loss")

    def resends(self) -> bool:
        """Return whether a packet was sent again that has not arrived yet."""
        lines = Path(f"/proc/{self._holder.pid}/net/tcp").read_text().splitlines()[1:]
        return any(int(line.split()[6], 16) > 0 for line in lines)

    def end(self) -> str:
        """End the host; return what its process complained of."""
        return self._holder.communicate()[1].decode().strip()


@contextmanager
def network(hosts: int) -> Iterator[Sequence[Host]]:
    """Have so many hosts on a switch; skip the test where none can be made."""
    need(PACKAGES)
    made: list[Host] = []
    try:
        for number in range(hosts + 1):
            made.append(Host(number, made[0] if made else None))
            if not made[-1].made:
                pytest.skip(f"this user may not make network namespaces: {made.pop().end()}")
        switch = made[0]
        switch.run("ip", "link", "add", "name", "bridge", "type", "bridge")
        switch.run("ip", "link", "set", "bridge", "up")
        for host in made[1:]:
            host.join(switch)
        yield made[1:]
    finally:
        for host in reversed(made):
            host.end()
