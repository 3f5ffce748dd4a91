"""Plants each fault in a copy of the project and shows that the test beside it catches it.

    python -m tests.faults              all of them
    python -m tests.faults WORD...      those with one of these words in their names

A fault is *caught* if its test fails while ruff, mypy and the first grant still pass. Everything else is a failure of
this command: a fault that survives, one that does not fit its file any more, one that any tool would notice.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.planted import ROOT, Fault, all_faults

WORKERS = min(2, os.cpu_count() or 1)
FIRST_GRANT = "tests/faults/test_planted.py::test_the_first_grant"
LIMIT = 120.0
"""Seconds after which a step counts as hanging."""

LIMIT_OF_ALL = 1_800.0
"""The same for all tests together, which are run once before any fault is planted."""

LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "node_modules")
CAUGHT = "caught"


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    faults = [fault for fault in all_faults() if not words or any(word in fault.name for word in words)]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(WORKERS):
            copy = Path(scratch) / str(number)
            shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
            tests = [] if number else [fault.test for fault in faults]  # the copies are alike
            if sick := _sickness(copy, sorted({fault.file for fault in faults}), tests):
                _say(f"{sick}\nThis is so without any fault; mend it first.")
                return 1
            copies.put(copy)
        width = max((len(fault.name) for fault in faults), default=0)
        bad = []
        with ThreadPoolExecutor(WORKERS) as pool:
            for fault, verdict in zip(faults, pool.map(lambda fault: _judge(fault, copies), faults), strict=True):
                _say(f"{verdict.splitlines()[0]:<8}  {fault.name:<{width}}  {fault.test.removeprefix('tests/')}")
                if verdict != CAUGHT:
                    bad.append(f"{fault.name}: {verdict}")
    for line in bad:
        _say(f"\n{line}")
    _say(f"\n{len(faults) - len(bad)} of {len(faults)} faults caught in {time.monotonic() - started:.0f} s")
    return 1 if bad or not faults else 0


def _judge(fault: Fault, copies: queue.SimpleQueue[Path]) -> str:
    """Return what became of a fault, in a word; and more, in further lines, if it was not caught."""
    copy = copies.get()
    try:
        healthy = fault.plant(copy)
        try:
            return _verdict(fault, copy)
        finally:
            (copy / fault.file).write_text(healthy, encoding="utf-8")
    except ValueError as misfit:
        return f"misfit\n{misfit}"
    except subprocess.TimeoutExpired:
        return f"hangs\nfor more than {LIMIT:.0f} s"
    finally:
        copies.put(copy)


def _verdict(fault: Fault, copy: Path) -> str:
    if seen := _seen_by_tools(copy, [fault.file]):
        return f"seen\n{seen}"
    tested = _tests(copy, [fault.test])
    failed = [line.split()[1] for line in tested.stdout.splitlines() if line.startswith("FAILED ")]
    if tested.returncode == 0:
        return "SURVIVES\nits test passes"
    if FIRST_GRANT in failed:
        return f"blunt\nthe first grant does not work any more\n{tested.stdout}"
    if not failed:
        return f"breaks\nits test cannot be run\n{tested.stdout}{tested.stderr}"
    return CAUGHT


def _sickness(copy: Path, files: list[str], tests: list[str]) -> str:
    """Return what is wrong with the project as it is."""
    tested = _tests(copy, tests, LIMIT_OF_ALL)
    return _seen_by_tools(copy, files) or (tested.stdout + tested.stderr if tested.returncode else "")


def _seen_by_tools(copy: Path, files: list[str]) -> str:
    python = [file for file in files if file.endswith(".py")]
    for tool in (["ruff", "check", "--quiet"], ["mypy"]) if python else ():
        checked = _run(copy, "-m", *tool, *python)
        if checked.returncode != 0:
            return f"{tool[0]}: {checked.stdout}{checked.stderr}"
    return ""


def _tests(copy: Path, tests: list[str], limit: float = LIMIT) -> subprocess.CompletedProcess[str]:
    wanted = sorted({FIRST_GRANT, *tests})
    return _run(copy, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", *wanted, limit=limit)


def _run(copy: Path, *arguments: str, limit: float = LIMIT) -> subprocess.CompletedProcess[str]:
    # No bytecode: a fault of the same length, planted within the same second, would not be noticed. Each copy has its
    # own directory for temporary ones: pytest clears those of earlier runs away, and meets others that do the same.
    temporary = copy.with_suffix(".tmp")
    temporary.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_PROFILE": "gate",
        "PYTEST_DEBUG_TEMPROOT": str(temporary),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
