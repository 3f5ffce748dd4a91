"""Where the license server is: spelling an address, and finding it if nobody says (decision 31)."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from msgspec import Struct
from platformdirs import site_config_path, user_config_path

from protocol.errors import SettingError

PORT: Final = 22350
"""The port of the clients, unless an address says another."""

ENVIRONMENT: Final = "CMSERVERD_SERVER"

_FORMS: Final = "write host, host:port, [IPv6]:port or unix:/path"
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\Z")
_LONGEST_PATH: Final = 107
"""Bytes; the system's limit for the path of a Unix socket (108 with its closing zero)."""
_LONGEST_FILE: Final = 65_536
"""Bytes of a client configuration file; a list of servers takes a few hundred."""


class Tcp(Struct, frozen=True):
    """A host (name, IPv4 or IPv6 address) and a TCP port."""

    host: str
    port: int = PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Unix(Struct, frozen=True):
    """The path of a Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = Tcp | Unix

LOOPBACK: Final = (Tcp("127.0.0.1"), Tcp("::1"))


def parse(text: str, source: str = "the server's address") -> Address:
    """Return the address that a text spells.

    `source` says where the text was found, for the one sentence of the SettingError.
    """
    if text.startswith("unix:"):
        return _unix(text, source)
    if text.startswith("/"):
        msg = f"{source}: {text!r} is a path; did you mean {'unix:' + text!r}?"
        raise SettingError(msg)
    bracketed = re.match(r"\[([^]]*)\](?::(.*))?\Z", text, re.DOTALL)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    elif text.count(":") > 1:
        host, port = text, None
    else:
        host, colon, after = text.partition(":")
        port = after if colon else None
        if not _HOST.match(host):
            msg = f"{source}: {text!r} names no host; {_FORMS}"
            raise SettingError(msg)
        return Tcp(host, _port(port, text, source))
    try:
        IPv6Address(host)
    except ValueError:
        wrong = "has no valid IPv6 address" if bracketed else "has several colons, and is no IPv6 address"
        msg = f"{source}: {text!r} {wrong}; {_FORMS}"
        raise SettingError(msg) from None
    return Tcp(host, _port(port, text, source))


def candidates(
    argument: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    files: Sequence[Path] | None = None,
) -> tuple[Address, ...]:
    """Return the servers to try, in order: those of the first place that names any.

    The places are the argument, the variable `CMSERVERD_SERVER`, the user's and the site's `client.toml`
    (`servers = ["a", "b:1234"]`), and at last this machine. Who names a server gets that one or an error, never
    silently another. Raises SettingError, which names the place.
    """
    return named(argument, environ=environ, files=files)[1]


def named(
    argument: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    files: Sequence[Path] | None = None,
) -> tuple[str, tuple[Address, ...]]:
    """Return the place that names the servers, for people, and the servers; all else is as in `candidates`."""
    if argument is not None:
        return "argument", (parse(argument),)
    variable = (os.environ if environ is None else environ).get(ENVIRONMENT)
    if variable:
        return ENVIRONMENT, (parse(variable, f"the variable {ENVIRONMENT}"),)
    for path in configuration_files() if files is None else files:
        if servers := _servers(path):
            return str(path), servers
    return "default", LOOPBACK


def configuration_files() -> tuple[Path, ...]:
    """Return where a client's configuration may lie: the user's first, then the site's."""
    return (
        user_config_path("cmserverd", appauthor=False) / "client.toml",
        site_config_path("cmserverd", appauthor=False) / "client.toml",
    )


def _unix(text: str, source: str) -> Unix:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or "\0" in path:
        msg = f"{source}: {text!r} is no socket's address; write unix: and an absolute path, as in unix:/run/x.sock"
        raise SettingError(msg)
    if len(os.fsencode(path)) > _LONGEST_PATH:
        msg = f"{source}: the path {path!r} is too long for a socket; use one of at most {_LONGEST_PATH} bytes"
        raise SettingError(msg)
    return Unix(path)


def _port(port: str | None, text: str, source: str) -> int:
    if port is None:
        return PORT
    if not re.match(r"[0-9]{1,5}\Z", port) or not 1 <= int(port) <= 65_535:
        msg = f"{source}: {text!r} has no valid port; a port is a number from 1 to 65535"
        raise SettingError(msg)
    return int(port)


def _servers(path: Path) -> tuple[Address, ...]:
    try:
        with path.open("rb") as file:
            raw = file.read(_LONGEST_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        msg = f"{path} cannot be read ({error.strerror}); correct its permissions, or name the server otherwise"
        raise SettingError(msg) from None
    if len(raw) > _LONGEST_FILE:
        msg = f"{path} is longer than {_LONGEST_FILE} bytes; a list of servers is enough"
        raise SettingError(msg)
    try:
        servers = tomllib.loads(raw.decode()).get("servers", [])
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} is no valid TOML: {error}"
        raise SettingError(msg) from None
    except (ValueError, RecursionError):  # tomllib lets these through: thousands of digits, thousands of brackets
        msg = f"{path} has a number that is too long, or nests too deep; a list of servers is enough"
        raise SettingError(msg) from None
    if not isinstance(servers, list) or not all(isinstance(server, str) for server in servers):
        msg = f'{path}: servers must be a list of texts, as in servers = ["licenses", "10.0.0.7:22350"]'
        raise SettingError(msg)
    return tuple(parse(server, f"{path}, servers") for server in servers)
