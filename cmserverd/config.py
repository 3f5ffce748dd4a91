"""The daemon's settings: one frozen value, read from a TOML file; a fault in it is told by file and line.

A key's type, range, default and meaning stand here and nowhere else: the tests hold `docs/configuration.md` and
`systemd/cmserverd.toml` against them.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import stat
import tomllib
from bisect import bisect_left
from collections.abc import Callable, Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, field

from drivers import toml
from drivers.driver import DriverError

T = TypeVar("T", bound=Struct)

Key = tuple[str | int, ...]
"""A dotted key, part by part; a number is a place in an array, from 0."""

DriverOptions = Callable[[str], type[Struct]]
"""Gives the class of a driver's options by the driver's name; raises DriverError if there is none."""

FILE_LIMIT: Final = 64 * 1024
"""More bytes than any configuration has; a device or a log given by mistake is not read whole."""

SOCKET_PATH_LIMIT: Final = 107
"""The kernel's limit for the path of a Unix socket, in bytes."""


class ConfigError(Exception):
    """The configuration cannot be used. The text is one line, `file:line: ...`, and says what would be right."""


# --- the words in which a key is described ------------------------------------------------------------------------


def seconds(low: float, high: float, description: str) -> Meta:
    """Describe a duration and its range."""
    return Meta(ge=low, le=high, description=description, extra={"unit": "seconds"})


def count(low: int, high: int, description: str) -> Meta:
    """Describe a number of things and its range."""
    return Meta(ge=low, le=high, description=description)


def checked(expected: str, check: Callable[[Any], object]) -> Meta:
    """Describe a value by a check, which raises ValueError, and by what it should be."""
    return Meta(extra={"expected": expected, "check": check})


def split_address(text: str) -> tuple[str, int]:
    """Return the (host, port) that `host:port` or `[v6]:port` spells. Raises ValueError."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)(%[\w.-]+)?\]|([\w.-]+)):(\d{1,5})", text, re.ASCII)
    if found is None or int(found[4]) > 65_535:
        msg = f"{text!r} is no address"
        raise ValueError(msg)
    v6, zone, host, port = found.groups()
    if v6:
        try:
            socket.inet_pton(socket.AF_INET6, v6)
        except OSError:
            msg = f"{text!r} has no IPv6 address between its brackets"
            raise ValueError(msg) from None
        host = v6 + (zone or "")
    return host, int(port)


def _check_listen(addresses: tuple[str, ...]) -> None:
    if not addresses or len({split_address(address) for address in addresses}) < len(addresses):
        raise ValueError(addresses)


def _check_run_directory(text: str) -> None:
    if not text.startswith("/") or "\0" in text or len(os.fsencode(f"{text}/control.sock")) > SOCKET_PATH_LIMIT:
        raise ValueError(text)


Address = Annotated[str, checked('an address as "host:port" or "[v6]:port"', split_address)]
Directory = Annotated[str, checked("an absolute path of at most 94 bytes", _check_run_directory)]


# --- the settings -------------------------------------------------------------------------------------------------


class Server(Struct, frozen=True):
    """Where the server listens, and how it introduces itself."""

    name: Annotated[
        str, Meta(min_length=1, max_length=255, description="What the server calls itself in greetings and listings.")
    ] = field(default_factory=socket.gethostname)
    listen: Annotated[
        tuple[Address, ...],
        checked('a list of one address or several different ones, each "host:port" or "[v6]:port"', _check_listen),
        Meta(description='Where clients connect. `"0.0.0.0:22350"` and `"[::]:22350"` are all interfaces.'),
    ] = ("127.0.0.1:22350", "[::1]:22350")
    run_directory: Annotated[
        Directory, Meta(description="Where the two local sockets are, `monitor.sock` and `control.sock`.")
    ] = "/run/cmserverd"
    net_info: Annotated[
        Literal["auto", "all", "own"],
        Meta(
            description="Over TCP a client sees `all` accesses or its `own`; `auto`: all on this machine, else its own."
        ),
    ] = "auto"

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """`listen` as (host, port). Raises ValueError."""
        return tuple(split_address(text) for text in self.listen)


class Sessions(Struct, frozen=True):
    """How long a client may take, and how much it may hold."""

    hello_timeout: Annotated[float, seconds(0.1, 300, "A connection that does not greet is closed after this.")] = 10.0
    grace: Annotated[
        float, seconds(0, 86_400, "A client whose connection was closed keeps its licenses this long, for its return.")
    ] = 5.0
    timeout: Annotated[
        float, seconds(1, 86_400, "A client that is silent this long counts as gone; its licenses are freed.")
    ] = 120.0
    sweep: Annotated[
        float,
        seconds(
            0.1,
            3_600,
            "A server that was itself stopped or asleep for longer than this gives every client its full time again.",
        ),
    ] = 10.0
    handles: Annotated[int, count(1, 10_000, "How many handles one client may hold.")] = 1_024
    per_address: Annotated[
        int, count(1, 1_000_000, "How many clients may come from one address, over twice as many connections.")
    ] = 10_000
    stalled: Annotated[
        float,
        seconds(
            0.1,
            3_600,
            "A client that leaves answers unread this long is cut off; a slow reader, after six times this.",
        ),
    ] = 10.0


class Containers(Struct, frozen=True):
    """How plugging in and out is noticed."""

    pull_grace: Annotated[
        float, seconds(0, 86_400, "The accesses to an unplugged container stand this long, for its return.")
    ] = 30.0
    poll: Annotated[
        float, seconds(0.1, 3_600, "How often a driver looks for containers where nothing tells it of a plug.")
    ] = 5.0
    settle: Annotated[
        float, seconds(0, 60, "One plug is told several times: a driver looks once it has been quiet this long.")
    ] = 0.2


class Log(Struct, frozen=True):
    """What is logged on standard error, and how."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least serious of what is logged.")
    ] = "info"
    format: Annotated[
        Literal["auto", "text", "json"],
        Meta(description="Lines for people, or a JSON object a line; `auto` is text on a terminal, else JSON."),
    ] = "auto"


class Config(Struct, frozen=True):
    """All settings. `drivers` has the options of each driver that is used, by its name."""

    server: Server = Server()
    sessions: Sessions = Sessions()
    containers: Containers = Containers()
    log: Log = Log()
    drivers: dict[str, dict[str, object]] = field(default_factory=lambda: {"usb": {}})


# --- reading them -------------------------------------------------------------------------------------------------


def load(path: Path, driver_options: DriverOptions | None = None) -> Config:
    """Return the settings of a file. Raises ConfigError.

    Each `[drivers.<name>]` is checked against the class that `driver_options` gives for its name; without it, these
    tables are taken as they are.
    """
    text = _read(path)
    try:
        raw = toml.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}:{_syntax(text, error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: has arrays or tables nested too deep; expected a configuration file") from None
    try:
        config = _table(raw, Config, ())
        for name, options in config.drivers.items():
            if driver_options is not None:
                _table(options, _driver_options(name, driver_options), ("drivers", name))
    except _Fault as fault:
        raise ConfigError(f"{path}:{line_of(text, fault.key)}: {fault}") from None
    return config


def line_of(text: str, key: Key) -> int:
    """Return the line, from 1, on which the statement begins that brings a key into a valid TOML text.

    The parser itself is asked: the beginning of a valid text, up to the end of any statement, is a valid text too.
    """

    def has_key(beginning: str) -> bool:
        value: Any = tomllib.loads(beginning)
        try:
            for part in key:
                value = value[part]
        except LookupError:
            return False
        return True

    return _statement(text, has_key)


def _statement(text: str, holds: Callable[[str], bool]) -> int:
    """Return the line, from 1, of the first statement with which something holds for the text up to its end."""
    lines = text.split("\n")
    ends = toml.ends(text)
    found = bisect_left(ends, True, lo=1, hi=len(ends) - 1, key=lambda end: holds("\n".join(lines[:end])))
    return ends[found - 1] + 1


class _Fault(Exception):
    """What is wrong with a key."""

    def __init__(self, key: Key, text: str) -> None:
        super().__init__(f"{_dotted(key)}: {text}" if key else text)
        self.key = key


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe would wait; of a directory open tells
            raise ConfigError(f"{path}: is no regular file; expected a configuration file")
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; expected a configuration file") from None
    if len(data) > FILE_LIMIT:
        raise ConfigError(f"{path}: is longer than {FILE_LIMIT} bytes; expected a configuration file")
    try:
        return data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8; save the file in that encoding") from None


def _syntax(text: str, error: ValueError) -> str:
    """Return what the TOML parser says, with the line in front."""
    what, _, place = str(error).partition(" (at ")
    found = re.search(r"line (\d+), column (\d+)", place)
    if found:
        return f"{found[1]}: is not TOML: {what}, column {found[2]}"
    # It has no place, or it is the end of the file: the fault is in the first statement that is not sound.
    return f"{_statement(text, _is_unsound)}: is not TOML: {what}"


def _is_unsound(text: str) -> bool:
    try:
        tomllib.loads(text)
    except ValueError:
        return True
    return False


def _driver_options(name: str, driver_options: DriverOptions) -> type[Struct]:
    try:
        return driver_options(name)
    except DriverError as error:
        raise _Fault(("drivers", name), " ".join(str(error).split())) from None


def _table(raw: object, kind: type[T], key: Key) -> T:
    """Return a table as a value of `kind`. Each value is converted by itself, so that a fault is that of one key."""
    if not isinstance(raw, dict):
        raise _Fault(key, f"expected a table, got {_shown(raw)}")
    fields = {known.encode_name: known for known in msgspec.structs.fields(kind)}
    values = {}
    for name, value in raw.items():
        if name not in fields:
            raise _Fault((*key, name), f"there is no such key; {_nearest(name, fields)}")
        values[fields[name].name] = _value(value, fields[name].type, (*key, name))
    for name, wanted in fields.items():
        if wanted.required and name not in raw:
            raise _Fault(key, f"the key {name} is missing; expected {_expected(wanted.type)}")
    try:
        return kind(**values)
    except ValueError as error:  # a rule that joins several keys
        raise _Fault(key, str(error)) from None


def _value(raw: object, hint: object, key: Key) -> object:
    """Return a value as what an annotation asks for: its parts first, so that a fault is told as closely as can be."""
    kind, described = _parts(hint)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _table(raw, kind, key)
    if get_origin(kind) in (tuple, list) and get_args(kind)[1:] in ((), (...,)) and isinstance(raw, list):
        for place, item in enumerate(raw):
            _value(item, get_args(kind)[0], (*key, place))
    if get_origin(kind) is dict and isinstance(raw, dict):
        for name, item in raw.items():
            _value(item, get_args(kind)[1], (*key, name))
    try:
        value = msgspec.convert(raw, hint)
        for meta in described:
            if meta.extra and "check" in meta.extra:
                meta.extra["check"](value)
    except ValueError:  # msgspec.ValidationError is one
        raise _Fault(key, f"expected {_expected(hint)}, got {_shown(raw)}") from None
    return value


# --- words for people ---------------------------------------------------------------------------------------------


def _expected(hint: object) -> str:
    """Say what an annotation allows."""
    kind, described = _parts(hint)
    told = {name: value for meta in described for name in _TOLD if (value := getattr(meta, name)) is not None}
    extra = told.get("extra", {})
    arguments = get_args(kind)
    if "expected" in extra:
        return str(extra["expected"])
    if get_origin(kind) is Literal:
        return _either([f'"{value}"' for value in arguments])
    if get_origin(kind) in (Union, UnionType):
        return _either([_expected(one) for one in arguments if one is not type(None)])
    if get_origin(kind) in (list, tuple):
        return f"a list, each part of it {_expected(arguments[0])}"
    if kind in (int, float):
        words = "a whole number" if kind is int else "a number"
        return words + (f" of {extra['unit']}" if "unit" in extra else "") + _range(told)
    if kind is str:
        low, high = told.get("min_length", 0), told.get("max_length")
        return "a text" + (f" of {low} to {high} characters" if high is not None else "")
    if kind is bool:
        return "true or false"
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, Struct)):
        return "a table"
    return f"a value of type {getattr(kind, '__name__', kind)}"


_TOLD: Final = ("ge", "gt", "le", "lt", "min_length", "max_length", "extra")


def _parts(hint: object) -> tuple[Any, list[Meta]]:
    """Return an annotation's type and what is said of it."""
    if get_origin(hint) is not Annotated:
        return hint, []
    kind, *described = get_args(hint)
    return kind, [meta for meta in described if isinstance(meta, Meta)]


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1])] * (len(words) > 1) + words[-1:])


def _range(told: dict[str, Any]) -> str:
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    return "".join(f" {word} {told[name]}" for name, word in words.items() if told.get(name) is not None)


def _shown(value: object) -> str:
    """Spell a value as the file has it, on one line and not at length."""
    if isinstance(value, dict):
        return "a table"
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
    except ValueError:  # a hexadecimal number may be larger than what Python writes out
        return "a number too large to show"
    return text if len(text) <= 60 else text[:57] + "..."


def _dotted(key: Key) -> str:
    """Spell a dotted key."""
    parts = (
        f"[{part}]" if isinstance(part, int) else part if re.fullmatch(r"[\w-]+", part) else repr(part) for part in key
    )
    return ".".join(parts).replace(".[", "[")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known are {', '.join(known)}" if known else "none is known here"
