"""What is run in a copy of the project is as strict as a new interpreter: it knows nothing of the runs before."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.copies import Copy, Hangs
from tests.faults.planted import ROOT, Fault

LIMIT = 120.0
"""Seconds that are enough for anything."""

PART = """
calls = 0
def call():
    global calls
    calls += 1
    return calls
one = 1
"""

TESTS = """
import subprocess, sys, time
from pathlib import Path
import part

def test_part():
    assert (part.call(), part.one) == (1, 1)
    assert Path(part.__file__).parent == Path.cwd()
    assert "hypothesis" in sys.modules and not [name for name in sys.modules if name.startswith("cmserverd")]

def test_a_process():
    program = "import part, sys; sys.exit(part.one)"
    assert subprocess.run([sys.executable, "-P", "-c", program]).returncode == 1

def test_that_hangs():
    time.sleep(100_000)

def test_that_leaves_a_process():
    process = subprocess.Popen(["sleep", "100000"])
    Path("left").write_text(str(process.pid))
    process.returncode = 0  # nobody is warned
"""


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    """Return a copy of a small project."""
    project = tmp_path / "project"
    (project / "tests/faults").mkdir(parents=True)
    shutil.copy(ROOT / "tests/faults/warm.py", project / "tests/faults")
    (project / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npythonpath = ["."]\nfilterwarnings = ["error"]\n'
    )
    (project / "part.py").write_text(PART)
    (project / "test_part.py").write_text(TESTS)
    with closing(Copy(project, tmp_path / "copy")) as copy:
        yield copy


def test_each_run_begins_anew(copy: Copy) -> None:
    """In the copy, with its modules as they are at that moment and nothing left of those of before."""
    for _ in range(2):
        status, said = copy.pytest("test_part.py::test_part", "test_part.py::test_a_process", limit=LIMIT)
        assert (status, "2 passed" in said) == (0, True), said


def test_a_fault_of_the_same_length_and_second_is_noticed(copy: Copy) -> None:
    """In the process of the tests and in those that they start; and that it is gone, too."""
    part = copy.root / "part.py"
    times = part.stat()
    for _ in range(2):
        healthy = Fault("a slip", "part.py", "one = 1", "one = 2", "test").plant(copy.root)
        os.utime(part, ns=(times.st_atime_ns, times.st_mtime_ns))
        status, said = copy.pytest("test_part.py::test_part", "test_part.py::test_a_process", limit=LIMIT)
        assert (status, "2 failed" in said) == (1, True), said
        part.write_text(healthy)
        os.utime(part, ns=(times.st_atime_ns, times.st_mtime_ns))
        status, said = copy.pytest("test_part.py::test_part", "test_part.py::test_a_process", limit=LIMIT)
        assert (status, "2 passed" in said) == (0, True), said


def test_mypy_notices_a_fault(copy: Copy) -> None:
    """And that it is gone."""
    for _ in range(2):
        with copy.planted(Fault("a slip", "part.py", "one = 1", "one = i", "test")):
            status, said = copy.mypy("part.py", limit=LIMIT)
            assert (status, 'Name "i" is not defined' in said) == (1, True), said
        status, said = copy.mypy("part.py", limit=LIMIT)
        assert status == 0, said


def test_no_two_texts_are_of_one_second(copy: Copy) -> None:
    """However fast one follows the other: by that and by their length mypy tells them apart."""
    part = copy.root / "part.py"
    seconds = [int(part.stat().st_mtime)]
    for new in ("one = 2", "one = 3"):
        with copy.planted(Fault("a slip", "part.py", "one = 1", new, "test")):
            seconds.append(int(part.stat().st_mtime))
        seconds.append(int(part.stat().st_mtime))
    assert len(set(seconds)) == 5


def test_what_hangs_is_ended(copy: Copy) -> None:
    """And the next run is as good as any."""
    with pytest.raises(Hangs):
        copy.pytest("test_part.py::test_that_hangs", limit=0.0)
    status, said = copy.pytest("test_part.py::test_part", limit=LIMIT)
    assert status == 0, said


def test_what_is_left_behind_is_ended(copy: Copy) -> None:
    """A daemon that a failed test did not stop would be there for all others."""
    status, said = copy.pytest("test_part.py::test_that_leaves_a_process", limit=LIMIT)
    assert status == 0, said
    left = Path("/proc") / (copy.root / "left").read_text()
    deadline = time.monotonic() + LIMIT
    while runs(left):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def runs(process: Path) -> bool:
    """Return whether there is a process, and one that has not ended."""
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
