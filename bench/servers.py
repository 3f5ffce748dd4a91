"""The servers that are compared over the wire, each a process of its own on the server's core."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from bench import requests
from bench.processes import PATIENCE, Child, ChildFailed, generator_core, said, server_core, started
from protocol import messages as m

_MODULES: Final = {"bare server": "bench.bare", "plain trio.serve_tcp": "bench.plain"}

PREFIX: Final = "cmserverd-bench-"
"""How the names of the directories begin that are made for a run."""

NICE: Final = 10
"""How much later than others WebAdmin has its turn where a core is short, as systemd's unit has it."""

NAMES: Final = ("cmserverd", *_MODULES)
"""The daemon, and what it is compared with."""


class Server(Struct, frozen=True):
    """A server that runs, on 127.0.0.1."""

    port: int
    pid: int


Durability = Literal["off", "process", "power"]


@contextmanager
def serving(name: str) -> Iterator[Server]:
    """Run the server of this name; the daemon keeps nothing. Raises ChildFailed if it does not come up."""
    if name == "cmserverd":
        with tempfile.TemporaryDirectory(prefix=PREFIX) as directory, daemon(Path(directory), "off") as server:
            yield server
    else:
        with started(_MODULES[name], core=server_core()) as child:
            yield Server(said(child, int), child.pid)


@contextmanager
def daemon(directory: Path, durability: Durability, more: str = "") -> Iterator[Server]:
    """Run the real daemon on a free port, with a virtual container and a directory for its files, its journal too.

    Of what is over, that keeps a megabyte; `more` is what its configuration has besides, and all other settings are the
    default ones. Raises ChildFailed.
    """
    config, container, log = directory / "config.toml", directory / "container.toml", directory / "log"
    container.write_text(requests.DESCRIPTION)
    config.write_text(
        f'[server]\nlisten = ["127.0.0.1:0"]\nrun_directory = "{directory}"\nstate_directory = "{directory}"\n'
        f'[journal]\ndurability = "{durability}"\nhistory = 1\n'
        f'[log]\nformat = "json"\n[licensors]\n{requests.FIRM_CODE} = "unsigned"\n'
        f'[drivers.virtual]\nfiles = ["{container}"]\n'
        f"{more}"
    )
    with started("cmserverd.main", "--config", str(config), core=server_core(), log=log) as child:
        port = _until(child, log, lambda: _logged_port(log, "listening"))
        _until(child, log, lambda: _has_container(port))
        yield Server(port, child.pid)


@contextmanager
def webadmin(directory: Path) -> Iterator[Server]:
    """Run WebAdmin for the daemon with this directory, as the service manager does: not to the daemon's cost.

    Raises ChildFailed.
    """
    log, config = directory / "webadmin.log", directory / "config.toml"
    with started("cmserverd.webadmin.main", "--config", str(config), core=generator_core(), log=log) as child:
        os.setpriority(os.PRIO_PROCESS, child.pid, NICE)
        yield Server(_until(child, log, lambda: _logged_port(log, "addresses")), child.pid)


def _until(child: Child, log: Path, come: Callable[[], int]) -> int:
    """Return what has come, once it is not 0. Raises ChildFailed if it does not, or the child ends."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if child.poll() is not None:
            msg = f"{child.args!r} ended with code {child.returncode} and said:\n{log.read_text()}"
            raise ChildFailed(msg)
        if value := come():
            return value
        time.sleep(0.02)
    msg = f"{child.args!r} was not ready in {PATIENCE:g} s and said:\n{log.read_text()}"
    raise ChildFailed(msg)


def _logged_port(log: Path, where: str) -> int:
    """Return the port of the first address that a log names there, 0 if none yet."""
    for line in log.read_text().splitlines(keepends=True):
        if not line.startswith("{"):
            continue  # it fails, and says why
        if line.endswith("\n") and (entry := json.loads(line))["event"] == "serving":
            return int(entry[where][0].rpartition(":")[2])
    return 0


def _has_container(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        requests.call(sock, requests.hello(0), m.Greeting)
        info = requests.call(sock, m.ServerInfoRequest(), m.ServerInfo)
        requests.call(sock, m.Goodbye(), m.Done)
    return info.containers == 1 and not info.starting
