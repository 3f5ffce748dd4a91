"""The fixture of all tests of the licensor's tool: a bench in an empty directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmserverd.cmboxpgm import commands
from tests.cmboxpgm.bench import NOON, Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a bench whose directory is the current one, and still empty; it is the noon of 2026-01-01."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "now", lambda: NOON)
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return Bench(tmp_path, capsys)
