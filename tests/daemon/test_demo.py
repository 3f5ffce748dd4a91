"""The demo's promise: exit code 0 only if all was right. `make demo ONCE=1` is the demo itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from examples import demo


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
