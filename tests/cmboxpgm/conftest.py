"""The fixture of all tests of the licensor's tool: a bench in an empty directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cmboxpgm.bench import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a bench whose directory is the current one, and still empty."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return Bench(tmp_path, capsys)
