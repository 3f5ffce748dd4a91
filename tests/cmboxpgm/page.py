"""What the commands on `docs/licensors.md` print; `python -m tests.cmboxpgm.page` renews it: read what it wrote."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

from cmserverd.cmboxpgm import commands
from cmserverd.cmboxpgm.main import main
from drivers import keys
from tests.cmboxpgm.bench import NOON

PAGE = Path(__file__).parents[2] / "docs" / "licensors.md"
PROGRAM = "cmboxpgm"

_SESSION = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ (?:.*\\\n)*.*$", re.MULTILINE)


def renewed(page: str) -> str:
    """Return the page with each command's output as it is."""
    with _made_up_world():
        return _SESSION.sub(lambda session: "".join(map(_run, _COMMAND.findall(session[0]))), page)


def commands_of(page: str) -> list[list[str]]:
    """Return the arguments of all commands on the page."""
    return [_arguments(each) for session in _SESSION.findall(page) for each in _COMMAND.findall(session)]


def _arguments(command: str) -> list[str]:
    program, *arguments = shlex.split(command.removeprefix("$ ").replace("\\\n", " "))
    assert program == PROGRAM
    return arguments


def _run(command: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        main(_arguments(command))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join([command, *lines, ""])


@contextlib.contextmanager
def _made_up_world() -> Iterator[None]:
    """Give an empty directory, keys that are always the same, and one time of day."""
    numbers = iter(range(100))
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.chdir(directory),
        patch.dict("os.environ", {"COLUMNS": "112"}),
        patch.object(keys, "generate", lambda: sha256(b"key %d" % next(numbers)).digest()),
        patch.object(commands, "now", lambda: NOON),
    ):
        yield


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
