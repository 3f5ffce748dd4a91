"""The demo's promise: exit code 0 only if all was right. `make demo ONCE=1` is the demo itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from examples import demo
from tests.daemon.harness import LIMIT


@contextmanager
def session(command: list[str], directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command as the first process of a session, with its temporary files in `directory`; end all of the session.

    Whatever the command starts is in its session, in another process group too.
    """
    environment = {**os.environ, "TMPDIR": str(directory)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=demo.ROOT, env=environment, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            for one in members(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)


def members(leader: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _parent, _group, its_leader, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(its_leader) == leader and state != "Z":
                found.append(int(entry.name))
    return found


AT_ONCE = """
import os, runpy, signal, subprocess
class Struck(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)
subprocess.Popen = Struck
runpy.run_module("examples.demo", run_name="__main__")
"""
"""The demo, to which a signal comes when its first process, the daemon, has just been started."""


def test_a_signal_at_the_start_of_the_daemon_leaves_nothing_behind(tmp_path: Path) -> None:
    """The daemon is ended too, and its directory is gone."""
    with session([sys.executable, "-c", AT_ONCE], tmp_path) as process:
        assert process.stdout is not None
        assert process.wait(LIMIT) == 128 + signal.SIGTERM
        assert members(process.pid) == []
        assert process.stdout.read() == "\nStopped before the end.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_test_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """What the command has started is ended with it, though it is in a group of its own."""
    code = "import subprocess; print(subprocess.Popen(['sleep', '1000'], process_group=0).pid, flush=True); input()"
    with suppress(ZeroDivisionError), session([sys.executable, "-c", code], tmp_path) as process:
        assert process.stdout is not None
        left = int(process.stdout.readline())
        assert left in members(process.pid)
        raise ZeroDivisionError
    deadline = time.monotonic() + LIMIT
    while left in members(process.pid) and time.monotonic() < deadline:
        os.sched_yield()
    assert left not in members(process.pid)


def test_a_daemon_that_does_not_stop_in_good_order_fails_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code is a number like the others, though all that was shown before was right."""
    for name, code in (("cmserverd", 3), ("cmserverd-webadmin", 0)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)
    monkeypatch.setattr(demo, "COMMANDS", tmp_path)
    monkeypatch.setattr(demo, "show", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["demo", "--once"])
    assert demo.main() == 1
    assert "FAILED: the daemon's exit code is " in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_with_its_daemon_and_directory(
    number: signal.Signals, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whoever closes the terminal or ends the demo's process leaves nothing behind."""
    directory = tmp_path_factory.mktemp("demo")  # short: the demo has sockets in there, whose paths the system limits
    with session([sys.executable, "-m", "examples.demo"], directory) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("1. The daemon runs")
        process.send_signal(number)
        rest, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number
    assert rest.endswith("Stopped before the end.\n")
    assert list(directory.iterdir()) == []
