"""The demo's promise: exit code 0 only if all was right. `make demo ONCE=1` is the demo itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples import demo
from tests.daemon.harness import LIMIT


def test_a_daemon_that_does_not_stop_in_good_order_fails_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code is a number like the others, though all that was shown before was right."""
    program = tmp_path / "cmserverd"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(demo, "COMMANDS", tmp_path)
    monkeypatch.setattr(demo, "show", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["demo", "--once"])
    assert demo.main() == 1
    assert "FAILED: the daemon's exit code is " in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_with_its_daemon_and_directory(number: signal.Signals, tmp_path: Path) -> None:
    """Whoever closes the terminal or ends the demo's process leaves nothing behind."""
    command = [sys.executable, "-m", "examples.demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=demo.ROOT, env=environment, process_group=0
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("1. The daemon runs")
            process.send_signal(number)
            rest, _ = process.communicate(timeout=LIMIT)
        finally:
            process.kill()  # it does nothing once the demo has ended
    assert process.returncode == 128 + number
    assert rest.endswith("Stopped before the end.\n")
    assert list(tmp_path.iterdir()) == []
