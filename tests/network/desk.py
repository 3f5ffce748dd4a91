"""A licensed program on a host, as the test that runs it sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protocol.errors import ErrorNumber
from tests.daemon.harness import LIMIT
from tests.network.hosts import Host

ROOT = Path(__file__).resolve().parent.parent.parent


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "what must happen did not happen"
        time.sleep(0.01)


class Refusal(Exception):
    """The program met a LicenseError."""

    def __init__(self, number: int) -> None:
        super().__init__(ErrorNumber(number))
        self.number = ErrorNumber(number)


class Desk:
    """A program that runs; one question at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, *act: object) -> None:
        """Have it do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(act) + "\n")
        self._process.stdin.flush()

    def outcome(self) -> Any:
        """Wait for what came of it. Raises Refusal."""
        assert self._process.stdout is not None
        done, value = json.loads(self._process.stdout.readline())
        if not done:
            raise Refusal(value)
        return value

    def do(self, *act: object) -> Any:
        """Have it do something and wait for what comes of it. Raises Refusal."""
        self.begin(*act)
        return self.outcome()

    def refusal(self, *act: object) -> ErrorNumber | None:
        """Return the number with which something fails, or None if it does not."""
        try:
            self.do(*act)
        except Refusal as refusal:
            return refusal.number
        return None

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Stop the process for the length of the block, as a laptop that sleeps does."""
        self._process.send_signal(signal.SIGSTOP)
        until(lambda: Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def desk(host: Host, number: int, server: str, timeout: float = LIMIT) -> Iterator[Desk]:
    """Run a program on a host, whose calls wait so many seconds for an answer; it ends with the block."""
    command = [sys.executable, "-m", "tests.network.program", server, f"desk-{number}", str(timeout)]
    process = subprocess.Popen(
        [*host.within, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
    )
    with process:
        try:
            yield Desk(process)
        finally:
            process.kill()
