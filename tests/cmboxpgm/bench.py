"""The licensor's bench: a directory with a key, containers and a ledger, and commands run there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cmserverd.cmboxpgm.main import DONE, main
from drivers import cmc, image, keys
from drivers.container import Container
from drivers.driver import Device
from drivers.trust import Trust

FIRM_CODE = 600010
NOON = 1_767_268_800
"""2026-01-01T12:00:00Z."""


class Bench:
    """Runs commands, in the current directory; `out` and `err` are what the last one printed."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, *arguments: str) -> int:
        """Run a command; return its exit code."""
        code = main(list(arguments))
        self.out, self.err = self._capsys.readouterr()
        return code

    def done(self, *arguments: str) -> dict[str, Any]:
        """Run a command, which must succeed and say nothing of errors; return its document."""
        code = self.run(*arguments, "--json")
        assert (code, self.err) == (DONE, ""), self.err
        document: dict[str, Any] = json.loads(self.out)
        return document

    def refused(self, *arguments: str) -> str:
        """Run a command, which must fail with exit code 1 and one line; return that."""
        assert self.run(*arguments) == 1
        assert self.out == ""
        assert self.err.startswith("cmboxpgm: ")
        assert self.err.count("\n") == 1
        return self.err

    def misused(self, *arguments: str) -> str:
        """Run a command, which must fail with exit code 2 and one line; return that."""
        assert self.run(*arguments) == 2
        assert self.out == ""
        assert self.err.startswith("cmboxpgm: ")
        assert self.err.count("\n") == 1
        return self.err

    def begin(self) -> None:
        """Make a key, a container, and a ledger in which that is enrolled."""
        self.done("keygen", "--firm-code", str(FIRM_CODE), "--key", "licensor.key")
        self.done("create", "--id", "3-1", "--text", "Demo", "--file", "box.cmc")
        self.done("enroll", "--file", "box.cmc", "--ledger", "ledger.json")

    def program(self, command: str, *options: str, where: tuple[str, ...] = ("--file", "box.cmc")) -> dict[str, Any]:
        """Run a command that programs, which must succeed."""
        return self.done(*self.programming(command, *options, where=where))

    def programming(self, command: str, *options: str, where: tuple[str, ...] = ("--file", "box.cmc")) -> list[str]:
        """Return the arguments of a command that programs."""
        who = ("--firm-code", str(FIRM_CODE), "--key", "licensor.key", "--ledger", "ledger.json")
        return [command, *where, *who, *options]

    def request(self, out: str, *options: str) -> tuple[str, ...]:
        """Have the customer make a request; return the options that name it, without the answer's place."""
        self.done("request", "--file", "box.cmc", "--out", out, *options)
        return "--request", out

    def open(self, name: str = "box.cmc") -> Device:
        """Return the device of a virtual container."""
        file = cmc.CmcFile(self.directory / name)
        (dongle,) = file.dongles()
        return file.open(dongle)

    def read(self, name: str = "box.cmc") -> bytes:
        """Return a container's image."""
        device = self.open(name)
        try:
            return device.read()
        finally:
            device.close()

    @property
    def trust(self) -> Trust:
        """Believes the licensor."""
        return Trust({FIRM_CODE: keys.public_of(keys.read(self.directory / "licensor.key"))})

    def container(self, name: str = "box.cmc") -> Container:
        """Return what a server that believes the licensor finds in a container."""
        return image.decode(self.read(name), self.trust)

    def files(self) -> dict[str, bytes]:
        """Return all files with their bytes."""
        return {path.name: path.read_bytes() for path in self.directory.iterdir()}
