"""What this machine is as a station, and who the client is (decision 13).

Client and server use this same module: the server compares its own machine with the declared one to decide what is
local. Whatever is read lies in `Surroundings`, so that each case can be tested anywhere.
"""

from __future__ import annotations

import getpass
import hmac
import os
import re
import secrets
import socket
import sys
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

from msgspec import Struct, field
from platformdirs import user_state_path

from protocol.errors import SettingError
from protocol.terms import Client, Station, printable

ENVIRONMENT: Final = "CMSERVERD_STATION"

APPLICATION: Final = UUID("4821de71-6be7-493c-9aa1-4e275f636a7d")
"""Hashes the machine id, which is confidential (machine-id(5)), into one that only this protocol knows."""

_MACHINE: Final = re.compile(r"[\x21-\x7e]{1,64}\Z")
_MACHINE_ID: Final = re.compile(r"[0-9a-f]{32}\n?\Z")
_UID: Final = re.compile(r"[0-9a-f]{32}\Z")
_SESSION_ID: Final = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_REMOTE_DESKTOP: Final = re.compile(r"(?:RDP|ICA)-[^#]*#([0-9]{1,9})\Z", re.IGNORECASE)
_TEXT: Final = 255
"""Characters that the protocol allows in a client's texts."""


class Surroundings(Struct, frozen=True):
    """All that is read to tell a station: variables, the system's machine id, logind's sessions, the user's state."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    machine_id: Path = Path("/etc/machine-id")
    sessions: Path = Path("/run/systemd/sessions")
    state: Path = field(default_factory=partial(user_state_path, "cmserverd", appauthor=False))


def station(configured: str | None = None, surroundings: Surroundings | None = None) -> Station:
    """Return this machine and seat; `configured` is a machine id that goes before all others. Raises SettingError."""
    found = surroundings or Surroundings()
    return Station(machine(configured, found), seat(found))


def machine(configured: str | None = None, surroundings: Surroundings | None = None) -> str:
    """Return this machine's id: the configured one, else the system's, hashed, else a uid kept in the user's state.

    Raises SettingError if the configured one is no id, or if a uid cannot be kept.
    """
    found = surroundings or Surroundings()
    if configured is not None:
        return _checked(configured, "the configured station")
    if named := found.environ.get(ENVIRONMENT):
        return _checked(named, f"the variable {ENVIRONMENT}")
    return _hashed_machine_id(found.machine_id) or _kept_uid(found.state / "station")


def seat(surroundings: Surroundings | None = None) -> int:
    """Return the seat: 0 for a desktop, an ssh shell, cron; the session's number in a remote *graphical* session.

    That is a session of RDP or ICA (by `SESSIONNAME`), or one that logind calls remote and x11 or wayland.
    """
    found = surroundings or Surroundings()
    if remote := _REMOTE_DESKTOP.match(found.environ.get("SESSIONNAME", "")):
        return _seat_number(remote[1])
    session = found.environ.get("XDG_SESSION_ID", "")
    if not _SESSION_ID.match(session):
        return 0
    try:
        with (found.sessions / session).open(encoding="utf-8", errors="replace") as file:
            lines = set(file.read(65_536).split("\n"))
    except OSError:
        return 0
    graphical = "TYPE=x11" in lines or "TYPE=wayland" in lines
    return _seat_number(session) if graphical and "REMOTE=1" in lines else 0


def client(application: str | None = None) -> Client:
    """Return who asks: host, user, process and application, for people to read.

    `application` is the name that listings show; without one it is the program's.
    """
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a process whose uid has no entry, as in many containers
        user = f"uid {os.getuid()}"
    return Client(
        host=_shown(socket.gethostname()),
        user=_shown(user),
        pid=os.getpid(),
        application=_shown(_program(sys.argv) if application is None else application),
    )


def _checked(text: str, source: str) -> str:
    if not _MACHINE.match(text):
        msg = f"{source}: {printable(text)!r} is no station id; write 1 to 64 ASCII letters, digits or signs, no spaces"
        raise SettingError(msg)
    return text


def _hashed_machine_id(path: Path) -> str:
    """Return the machine id as sd_id128_get_machine_app_specific(3) hashes it, or nothing if the system has none."""
    try:
        with path.open("rb") as file:
            text = file.read(64).decode("ascii", errors="replace")
    except OSError:
        return ""
    if not _MACHINE_ID.match(text) or not text.strip("0\n"):  # empty, "uninitialized", or all zero
        return ""
    digest = bytearray(hmac.digest(bytes.fromhex(text.strip()), APPLICATION.bytes, "sha256")[:16])
    digest[6] = digest[6] & 0x0F | 0x40  # the marks of a random UUID, as systemd sets them
    digest[8] = digest[8] & 0x3F | 0x80
    return digest.hex()


def _kept_uid(path: Path) -> str:
    """Return the uid in a file, made now if there is none: whole or not at all, and the first of two makers wins."""
    try:
        if uid := _read_uid(path):
            return uid
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(16) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(made, path)
        except FileExistsError:
            pass  # another process was quicker: its uid counts
        finally:
            made.unlink()
        uid = _read_uid(path)
    except OSError as error:
        msg = f"this machine has no id, and one cannot be kept in {path} ({error.strerror}); set {ENVIRONMENT}"
        raise SettingError(msg) from None
    if not uid:
        msg = f"{path} holds no station id; delete it, or set {ENVIRONMENT}"
        raise SettingError(msg)
    return uid


def _read_uid(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(64).decode("ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""
    return text if _UID.match(text) else ""


def _seat_number(session: str) -> int:
    """Return a seat above 0 for a session's id, which is a number, or a short word as in `c3`."""
    number = int(session) if session.isdigit() else zlib.crc32(session.encode())
    return number % 2**32 or 1


def _program(argv: list[str]) -> str:
    path = Path(argv[0] if argv else "")
    name = path.parent.name if path.name == "__main__.py" else path.name
    return name if name not in {"", "-c", "-"} else "python"


def _shown(text: str) -> str:
    return printable(text)[:_TEXT]
