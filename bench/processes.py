"""Child processes: started on a core of their own, watched, and ended by their process id whatever happens."""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

_ROOT: Final = Path(__file__).parent.parent

PATIENCE: Final = 300.0
"""How many seconds a child may take for anything: a hung one ends the run with a sentence."""

_PARTING: Final = 5.0
_FILES: Final = 65_536

Child = subprocess.Popen[bytes]


class ChildFailed(Exception):
    """A child process ended or hung instead of giving what it should."""


@contextmanager
def started(module: str, *arguments: str, core: int | None = None, log: Path | None = None) -> Iterator[Child]:
    """Run `python -m module`, on this core if one is given; its standard error is a file, if one is given.

    It is a process group of its own, so that Ctrl-C reaches this process only, which then ends the child.
    """
    with ExitStack() as stack:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if log is None else stack.enter_context(log.open("wb")),
            bufsize=0,
            cwd=_ROOT,
            process_group=0,
        )
    try:
        if core is not None:
            os.sched_setaffinity(child.pid, {core})
        yield child
    finally:
        child.terminate()
        try:
            child.wait(_PARTING)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def said(child: Child, kind: type[T]) -> T:
    """Return what the child says next: one line of JSON. Raises ChildFailed."""
    assert child.stdout is not None  # started gives it a pipe
    if not select.select([child.stdout], [], [], PATIENCE)[0]:
        msg = f"{child.args!r} said nothing for {PATIENCE:g} s"
        raise ChildFailed(msg)
    line = child.stdout.readline()
    if not line:
        msg = f"{child.args!r} ended with code {child.wait(_PARTING)}"
        raise ChildFailed(msg)
    return msgspec.json.decode(line, type=kind)


def tell(child: Child, line: str) -> None:
    """Write the child a line."""
    assert child.stdin is not None  # started gives it a pipe
    child.stdin.write(f"{line}\n".encode())


def say(value: object) -> None:
    """Tell the parent a value, as one line of JSON."""
    print(msgspec.json.encode(value).decode(), flush=True)


def asked(kind: type[T], module: str, *arguments: str) -> T:
    """Run a child to its end, on the server's core, and return the one value that it says. Raises ChildFailed."""
    with started(module, *arguments, core=server_core()) as child:
        return said(child, kind)


def server_core() -> int:
    """Return the core that what is measured runs on."""
    return min(os.sched_getaffinity(0))


def generator_core() -> int:
    """Return the core that the load comes from: another one, if there is another."""
    return max(os.sched_getaffinity(0))


def processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used, all its threads together, to the microsecond.

    The number of a process's clock is as `clock_getcpuclockid` makes it; Python has no name for that function.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def allow_many_files() -> int:
    """Raise the limit of open files as far as is allowed and of use, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
