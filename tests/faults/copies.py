"""A copy of the project in which a fault is planted, and the tools and tests that are run there."""

from __future__ import annotations

import compileall
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from py_compile import PycInvalidationMode

from tests.faults.planted import Fault

LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "node_modules")

RUFF = Path(sysconfig.get_path("scripts"), "ruff")


class Hangs(Exception):
    """It took longer than it may; its process and what that had started are ended."""


class Copy:
    """A copy of the project at `root` in a directory that is not there yet; used by one thread at a time."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = directory
        shutil.copytree(root, directory, ignore=LEFT_OUT)
        # A module is compiled anew if its text is another one. That it is younger would not do: a fault of the same
        # length, planted within the same second, would not be noticed.
        compileall.compile_dir(directory, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
        # Its own directory for temporary ones: pytest clears those of earlier runs away, and meets others that do so.
        temporary = directory.with_suffix(".tmp")
        temporary.mkdir()
        self._texts = 0
        self._output = temporary / "output"
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPATH": str(directory),
            "HYPOTHESIS_PROFILE": "gate",
            "PATIENCE": "15",  # what a fault keeps from happening is waited for in vain
            "PYTEST_DEBUG_TEMPROOT": str(temporary),
        }
        self._warm = subprocess.Popen(
            [sys.executable, "tests/faults/warm.py"],
            cwd=directory,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def close(self) -> None:
        """End the process that mypy and the tests are run from."""
        self._warm.kill()
        self._warm.communicate()

    @contextmanager
    def planted(self, fault: Fault) -> Iterator[None]:
        """Have a fault there for a while. Raises ValueError if it does not fit."""
        healthy = fault.plant(self.root)
        path = self.root / fault.file
        try:
            self._date(path)
            yield
        finally:
            path.write_text(healthy, encoding="utf-8")
            self._date(path)

    def _date(self, path: Path) -> None:
        """Give a file a time that no other text has had: mypy takes texts of one length and second for the same."""
        self._texts += 1
        os.utime(path, (self._texts, self._texts))

    def ruff(self, *arguments: str, limit: float) -> tuple[int, str]:
        """Run ruff; return its exit status and what it said. Raises Hangs after so many seconds."""
        try:
            done = subprocess.run(
                [RUFF, *arguments],
                cwd=self.root,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Hangs from None
        return done.returncode, done.stdout

    def mypy(self, *arguments: str, limit: float) -> tuple[int, str]:
        """Run mypy, in the same way."""
        return self._run("mypy", arguments, limit)

    def know_types_as(self, other: Copy) -> None:
        """Take over what mypy keeps of another copy, so that it need not read all of this one, too."""
        if (kept := other.root / ".mypy_cache").exists():
            shutil.copytree(kept, self.root / ".mypy_cache")

    def pytest(self, *arguments: str, limit: float) -> tuple[int, str]:
        """Run pytest, in the same way."""
        return self._run("pytest", ("-p", "no:cacheprovider", "--tb=short", *arguments), limit)

    def _run(self, tool: str, arguments: Sequence[str], limit: float) -> tuple[int, str]:
        request = [str(self._output), tool, *arguments]
        assert self._warm.stdin is not None
        self._warm.stdin.write(json.dumps(request).encode() + b"\n")
        process = self._answer(None)
        try:
            status = self._answer(limit)
        except Hangs:
            os.killpg(process, signal.SIGKILL)
            self._answer(None)
            raise
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # what a test that failed has left behind
        return status, self._output.read_text(encoding="utf-8", errors="replace")

    def _answer(self, limit: float | None) -> int:
        """Return the number that comes next. Raises Hangs if none does for so many seconds."""
        assert self._warm.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._warm.stdout, selectors.EVENT_READ)
            if not selector.select(limit):
                raise Hangs
        line = self._warm.stdout.readline()
        if not line:
            msg = "the process that mypy and the tests are run from has ended"
            raise RuntimeError(msg)
        return int(line)
