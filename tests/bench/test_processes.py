"""Child processes end with what they were started for, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import ChildFailed, asked, processor_time, resident, said, started, tell

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < until, "the condition was not reached"
        time.sleep(0.01)


def test_a_child_is_told_and_says() -> None:
    """Lines go both ways, and the child is gone afterwards."""
    with started("bench.core", "3", "10") as child:
        assert said(child, bool)
        tell(child, "fresh")
        assert said(child, float) > 0
        assert alive(child.pid)
    assert not alive(child.pid)


def test_a_child_is_ended_when_its_user_fails() -> None:
    """An exception, a KeyboardInterrupt too, leaves no process behind."""
    pids = []

    def interrupted() -> None:
        with started("bench.plain") as child:
            said(child, int)
            pids.append(child.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not alive(pids[0])


def test_a_child_that_ends_early_is_told_of() -> None:
    """Its exit code is in the sentence."""
    with pytest.raises(ChildFailed, match="ended with code 0"):
        asked(bool, "bench.report")


def test_the_whole_command_ends_its_children_on_ctrl_c() -> None:
    """Ctrl-C in the middle of a run ends servers and generator."""
    with subprocess.Popen([sys.executable, "-m", "bench", "--quick", "wire"], cwd=ROOT) as command:
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
        wait_until(lambda: len(children.read_text().split()) == 4)
        pids = [int(pid) for pid in children.read_text().split()]
        command.send_signal(signal.SIGINT)
        assert command.wait(PATIENCE) == 128 + signal.SIGINT
    assert not any(map(alive, pids))


def test_processor_time_and_memory_are_those_of_the_process() -> None:
    """The clock of a process, made of its id, advances as the process's own view of it does."""
    before = processor_time(os.getpid())
    own = time.process_time()
    until = own + 0.05
    while time.process_time() < until:
        pass
    assert processor_time(os.getpid()) - before >= 0.05
    assert 10**6 < resident(os.getpid()) < 10**11
