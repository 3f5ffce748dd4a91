"""Plants each fault in a copy of the project and shows that the test beside it catches it.

    python -m tests.faults              all of them
    python -m tests.faults WORD...      those with one of these words in their names

A fault is *caught* if its test fails while ruff, mypy and the first grant still pass. Everything else is a failure of
this command: a fault that survives, one that does not fit its file any more, one that any tool would notice.
"""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from tests.faults.copies import Copy, Hangs
from tests.faults.planted import ROOT, Fault, all_faults

WORKERS = min(2, os.cpu_count() or 1) + 1
"""One more than are busy: some faults keep from happening what their test then waits for in vain."""

FIRST_GRANT = "tests/faults/test_first_grant.py::test_the_first_grant"
LIMIT = 120.0
"""Seconds after which a step counts as hanging."""

LIMIT_OF_ALL = 1_800.0
"""The same for all tests together, which are run once before any fault is planted."""

SLOWEST = 15
"""How many faults are named at the end as those that took longest."""

CAUGHT = "caught"


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    faults = [fault for fault in all_faults() if not words or any(word in fault.name for word in words)]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch, ExitStack() as stack:
        directories = [Path(scratch) / str(number) for number in range(WORKERS)]
        copies = [stack.enter_context(closing(Copy(ROOT, directory))) for directory in directories]
        pool = stack.enter_context(ThreadPoolExecutor(WORKERS))
        if sick := _sickness(faults, copies, pool):
            _say(f"{sick}\nThis is so without any fault; mend it first.")
            return 1
        _say(f"without any fault all is well after {time.monotonic() - started:.0f} s")
        idle: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for copy in copies:
            idle.put(copy)
        width = max((len(fault.name) for fault in faults), default=0)
        bad = []
        seconds = {}
        for fault, (verdict, took) in zip(faults, pool.map(lambda fault: _judge(fault, idle), faults), strict=True):
            _say(f"{verdict.splitlines()[0]:<8}  {fault.name:<{width}}  {fault.test.removeprefix('tests/')}")
            seconds[fault.name] = took
            if verdict != CAUGHT:
                bad.append(f"{fault.name}: {verdict}")
    _say(f"\nthe slowest {SLOWEST}:")
    for name in sorted(seconds, key=lambda name: -seconds[name])[:SLOWEST]:
        _say(f"{seconds[name]:6.1f} s  {name}")
    for line in bad:
        _say(f"\n{line}")
    _say(f"\n{len(faults) - len(bad)} of {len(faults)} faults caught in {time.monotonic() - started:.0f} s")
    return 1 if bad or not faults else 0


def _judge(fault: Fault, idle: queue.SimpleQueue[Copy]) -> tuple[str, float]:
    """Return what became of a fault, in a word, and more in further lines if it was not caught; and the seconds."""
    copy = idle.get()
    started = time.monotonic()
    try:
        with copy.planted(fault):
            verdict = _verdict(fault, copy)
    except ValueError as misfit:
        verdict = f"misfit\n{misfit}"
    except Hangs:
        verdict = f"hangs\nfor more than {LIMIT:.0f} s"
    finally:
        idle.put(copy)
    return verdict, time.monotonic() - started


def _verdict(fault: Fault, copy: Copy) -> str:
    if seen := _seen_by_tools(copy, [fault.file]):
        return f"seen\n{seen}"
    status, said = copy.pytest("--exitfirst", FIRST_GRANT, fault.test, limit=LIMIT)
    failed = [line.split()[1] for line in said.splitlines() if line.startswith("FAILED ")]
    if status == 0:
        return "SURVIVES\nits test passes"
    if FIRST_GRANT in failed:
        return f"blunt\nthe first grant does not work any more\n{said}"
    if not failed:
        return f"breaks\nits test cannot be run\n{said}"
    return CAUGHT


def _sickness(faults: Sequence[Fault], copies: Sequence[Copy], pool: ThreadPoolExecutor) -> str:
    """Return what is wrong with the project as it is. The copies are alike: each shows it of its share of the tests.

    The first one has the tools look at all files, and the others get what mypy keeps of that.
    """
    files = sorted({fault.file for fault in faults})
    tests = sorted({FIRST_GRANT, *(fault.test for fault in faults)})
    found: Iterable[str] = pool.map(
        lambda number: _sick(copies[number], [] if number else files, tests[number :: len(copies)]), range(len(copies))
    )
    sickness = "\n".join(filter(None, found))
    for copy in copies[1:]:
        copy.know_types_as(copies[0])
    return sickness


def _sick(copy: Copy, files: Sequence[str], tests: Sequence[str]) -> str:
    if seen := _seen_by_tools(copy, files):
        return seen
    status, said = copy.pytest(*tests, limit=LIMIT_OF_ALL) if tests else (0, "")
    return said if status else ""


def _seen_by_tools(copy: Copy, files: Sequence[str]) -> str:
    python = [file for file in files if file.endswith(".py")]
    if not python:
        return ""
    status, said = copy.ruff("check", "--quiet", *python, limit=LIMIT)
    if status:
        return f"ruff: {said}"
    status, said = copy.mypy(*python, limit=LIMIT)
    return f"mypy: {said}" if status else ""


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
