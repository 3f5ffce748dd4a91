"""Runs pytest and mypy again and again, each time in a new process that has imported what is not ours, but that alone.

    python tests/faults/warm.py     in the directory of a project

Most of a short run is the import of the tool, of its plugins and of the libraries. Here they are imported once; then
each line of JSON that comes in, `["FILE", "TOOL", "ARGUMENT", ...]`, forks a process that runs the tool with these
arguments, and writes what it says to that file. Two lines answer: the process, which leads a group of its own, and its
exit status.

It imports no module of the project, so that whatever a run does with those is gone with it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import NoReturn

import pytest
from mypy import api

SLOW = (
    "anycorn.tcp_server",
    "apsw",
    "argon2",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "httpx2",
    "hypothesis.stateful",
    "jinja2",
    "mypy.main",
    "msgpack",
    "msgspec",
    "playwright.sync_api",
    "prometheus_client",
    "pytest_trio.plugin",
    "rich.live",
    "schemathesis.pytest.plugin",
    "schemathesis.reporting.html.writer",
    "sse_starlette",
    "starlette.applications",
    "structlog.testing",
    "trio.testing",
    "usb.core",
)

OF_PLUGINS = "ignore::pytest.PytestAssertRewriteWarning"
"""Pytest would rewrite the assertions of its plugins too, if it imported them itself."""


def main() -> int:
    """Serve until the input ends."""
    sys.path[0] = str(Path.cwd())  # as `python -m pytest` has it
    for name in SLOW:
        importlib.import_module(name)
    gc.freeze()  # pytest has garbage collected at its end: what was here before is none
    for line in sys.stdin:
        file, tool, *arguments = json.loads(line)
        assert threading.active_count() == 1, "a fork takes no threads along"
        process = os.fork()
        if not process:
            os.setsid()
            _say(os.getpid())
            _turn(file)
            _end(_mypy(arguments) if tool == "mypy" else pytest.main(["-W", OF_PLUGINS, *arguments]))
        _, status = os.waitpid(process, 0)
        _say(os.waitstatus_to_exitcode(status))
    return 0


def _mypy(arguments: list[str]) -> int:
    findings, errors, status = api.run(arguments)
    sys.stdout.write(findings + errors)
    return status


def _end(status: int) -> NoReturn:
    """Do what is to be done at exit, but take nothing apart piece by piece: of mypy that takes longer than its run."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _turn(file: str) -> None:
    """Have the input be empty and the output go to a file."""
    with Path(os.devnull).open("rb") as nothing, Path(file).open("wb") as output:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
