"""What `cmu` has a daemon do to a container, over its control socket: make a request file, take an update."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct

from cmserverd.cmu import files
from cmserverd.cmu.options import instant
from cmserverd.cmu.outcome import Misused, NotThere
from protocol.address import Unix, parse
from protocol.blocking import Client
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError
from protocol.messages import Containers, Context, Import, Params
from protocol.terms import printable

R = TypeVar("R", bound=Struct)

CONTROL: Final = "control.sock"
MONITOR: Final = "monitor.sock"
"""The names of a daemon's sockets in its run directory: who changes, and who looks."""


class Requested(Struct, frozen=True):
    """A request file that was written; `time`: it asks for a certified time."""

    container: str
    file: str
    time: bool

    def sentence(self) -> str:
        """Say it to people."""
        return f"The request of container {self.container} is in {self.file}; send it to the licensor."


class Updated(Struct, frozen=True):
    """What an update brought: a firm item with its update counter, or the license time (Unix seconds); else None."""

    container: str
    firm_code: int | None
    update_counter: int | None
    time: int | None

    def sentence(self) -> str:
        """Say it to people."""
        if self.time is not None:
            brought = f"the license time was set to {instant(self.time)} UTC"
        else:
            brought = f"firm code {self.firm_code}, update counter {self.update_counter}"
        return f"Container {self.container} has the update: {brought}."


def run_directory() -> Path:
    """Return where the sockets of this machine's daemon are."""
    return Path(os.environ.get("CMSERVERD_RUN_DIRECTORY") or "/run/cmserverd").absolute()


def request(options: argparse.Namespace) -> Requested:
    """Have a request made and write it. Raises Ended, LicenseError, SettingError."""
    control = control_socket(options.server)
    with files.new_file(options.context, files.REQUEST, "request file") as write:
        container = options.serial or _only_container(control.with_name(MONITOR), options.timeout)
        write(ask(control, Context(container, options.time), options.timeout).request)
    return Requested(container, str(options.context), options.time)


def update(options: argparse.Namespace) -> Updated:
    """Apply an update file. Raises Misused, LicenseError, SettingError; then the container has what it had."""
    octets = files.read_update(getattr(options, "import"))
    brought = ask(control_socket(options.server), Import(octets), options.timeout)
    if brought.time:
        return Updated(brought.container, None, None, brought.time)
    return Updated(brought.container, brought.firm_code, brought.update_counter, None)


def control_socket(named: str | None) -> Path:
    """Return the path of the control socket to ask. Raises Misused, SettingError."""
    if named is None:
        return run_directory() / CONTROL
    address = parse(named)
    if not isinstance(address, Unix):
        raise Misused(f"{named!r} is asked over the network, where nothing is changed; write --server unix:/path")
    return Path(address.path)


def _only_container(monitor: Path, timeout: float) -> str:
    """Return the one container that is there, as the monitor socket tells. Raises NotThere, Misused, LicenseError."""
    found = [one.id for one in ask(monitor, Containers(), timeout).containers if one.present]
    if not found:
        raise NotThere("no container is plugged in")
    if len(found) > 1:
        raise Misused(f"there are {len(found)} containers; name one with --serial (cmu -l lists them)")
    return printable(found[0])


def ask(socket: Path, params: Params[R], timeout: float) -> R:
    """Ask once over a local socket. Raises Misused, LicenseError: 101 says what to do if one may not open it."""
    try:
        with Client(f"unix:{socket}", application="cmu", timeout=timeout) as client:
            return client.call(params)
    except LocalProtocolError as error:  # it is too long for this server, which says in its greeting what it takes
        raise Misused(str(error)) from None
    except LicenseError as error:
        if error.number == ErrorNumber.SERVER_NOT_FOUND and _closed_to_us(socket):
            detail = f"you may not open {socket}; run cmu as root, or as the daemon's user or one of its group"
            raise LicenseError.of(ErrorNumber.SERVER_NOT_FOUND, detail) from None
        raise


def _closed_to_us(socket: Path) -> bool:
    try:
        socket.stat()
    except OSError as error:
        return isinstance(error, PermissionError)  # the directory may not even be entered
    return not os.access(socket, os.W_OK)
