"""The daemon's settings: one frozen value, read from a TOML file; a fault in it is told by file and line.

A key's type, range, default and meaning stand here and nowhere else: the tests hold `docs/configuration.md` and
`systemd/cmserverd.toml` against them.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from drivers import keys, tables, toml
from drivers.driver import DriverError
from drivers.tables import checked
from drivers.trust import Trust

DriverOptions = Callable[[str], type[Struct]]
"""Gives the class of a driver's options by the driver's name; raises DriverError if there is none."""

FILE_LIMIT: Final = 64 * 1024
"""More bytes than any configuration has; a device or a log given by mistake is not read whole."""

_WAY_OUT: Final = {
    errno.ENOENT: "put it there, or name another file with --config",
    errno.EACCES: "let this user read it and search its directories",
    errno.EISDIR: "name the file in it",
}
"""What to do about a configuration that cannot be read, by the system's number."""

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
    if not addresses:
        raise ValueError(addresses)
    split = [split_address(address) for address in addresses]
    for place, address in enumerate(split):
        if address in split[:place]:
            raise tables.Explained(f"{addresses[place]!r} is there twice; leave one of them out")


def _check_run_directory(text: str) -> None:
    if not text.startswith("/") or "\0" in text or len(os.fsencode(f"{text}/control.sock")) > SOCKET_PATH_LIMIT:
        raise ValueError(text)


def _check_licensor(text: str) -> None:
    if text != UNSIGNED:
        keys.from_text(text)


def _check_host(text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?", text, re.ASCII):
        raise ValueError(text)


def _check_proxy(text: str) -> None:
    network = ipaddress.ip_network(text, strict=False)
    if not network.prefixlen:
        raise tables.Explained(f"{text!r} has every address; name those of proxies only")
    if str(network.network_address) != str(ipaddress.ip_address(text.partition("/")[0])):
        raise tables.Explained(f'{text!r} is no network; write "{network}", or the address alone')


def _check_file(text: str) -> None:
    if text and (not text.startswith("/") or "\0" in text):
        raise ValueError(text)


UNSIGNED: Final = "unsigned"
"""In the place of a licensor's public key: his firm items are believed without a signature."""

Licensor = Annotated[str, checked('a public key, 44 characters of base64, or "unsigned"', _check_licensor)]
Address = Annotated[str, checked('an address as "host:port" or "[v6]:port"', split_address)]
Directory = Annotated[str, checked("an absolute path of at most 94 bytes", _check_run_directory)]
Host = Annotated[str, checked("the name of a host", _check_host)]
Proxy = Annotated[str, checked('an address or a network, as "192.0.2.1" or "192.0.2.0/24"', _check_proxy)]
File = Annotated[str, checked("an absolute path, or an empty text", _check_file)]


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
    state_directory: Annotated[
        Directory, Meta(description="Where the journal is, by which a restart finds who holds what.")
    ] = "/var/lib/cmserverd"
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


class Journal(Struct, frozen=True):
    """How well what was granted is kept."""

    durability: Annotated[
        Literal["process", "power", "off"],
        Meta(
            description="What every grant survives: a crash of the `process`, a `power` cut too, or, with `off`, no "
            "restart at all."
        ),
    ] = "process"
    history: Annotated[
        int, count(1, 1_000_000, "How many megabytes are kept of what is over; the oldest is dropped.")
    ] = 1_000


class Borrowing(Struct, frozen=True):
    """What clients may take along, within what each license's own licensor allows."""

    allowed: Annotated[bool, Meta(description="Whether anything may be borrowed, or for longer than it is.")] = True
    maximum: Annotated[
        int,
        Meta(
            ge=0,
            le=2**32 - 1,
            description="For how long at most; `0` is as long as the licensor allows, and nothing is longer.",
            extra={"unit": "seconds"},
        ),
    ] = 0
    keep: Annotated[
        int, count(0, 1_000_000, "How many licenses of each entry are never lent, for those who are connected.")
    ] = 0
    per_address: Annotated[
        int, count(1, 1_000_000, "How many licenses the clients of one address may have out at once.")
    ] = 20


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


class WebAdmin(Struct, frozen=True):
    """The pages for people, which `cmserverd-webadmin` serves."""

    listen: Annotated[
        tuple[Address, ...],
        checked('a list of one address or several different ones, each "host:port" or "[v6]:port"', _check_listen),
        Meta(description="Where browsers connect: by HTTP on this machine, elsewhere always by HTTPS."),
    ] = ("127.0.0.1:22352",)
    certificate: Annotated[
        File, Meta(description="Its own certificate (PEM, with the chain), used everywhere; else one is made.")
    ] = ""
    key: Annotated[File, Meta(description="The private key of `certificate` (PEM, without a passphrase).")] = ""
    hosts: Annotated[
        tuple[Host, ...],
        checked("a list of names of hosts", tuple),
        Meta(description="Names, beside the machine's own, by which browsers may call it."),
    ] = ()
    proxies: Annotated[
        tuple[Proxy, ...],
        checked('a list of addresses or networks, as "192.0.2.1" or "192.0.2.0/24"', tuple),
        Meta(description="Reverse proxies, which are believed as to where a browser comes from."),
    ] = ()
    anonymous: Annotated[
        Literal["none", "viewer"], Meta(description="What may be done without a log-in: nothing, or seeing everything.")
    ] = "none"

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise tables.Explained("certificate and key belong together; name both, or neither")

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """`listen` as (host, port). Raises ValueError."""
        return tuple(split_address(text) for text in self.listen)


class Config(Struct, frozen=True):
    """All settings.

    `licensors` has the public key of each licensor that is believed, by firm code, `drivers` the options of each driver
    that is used, by its name.
    """

    server: Server = Server()
    sessions: Sessions = Sessions()
    journal: Journal = Journal()
    containers: Containers = Containers()
    borrowing: Borrowing = Borrowing()
    log: Log = Log()
    webadmin: WebAdmin = WebAdmin()
    licensors: dict[str, Licensor] = field(default_factory=dict)
    drivers: dict[str, dict[str, object]] = field(default_factory=lambda: {"usb": {}})

    @property
    def trust(self) -> Trust:
        """Whom the server believes. Raises ValueError."""
        unsigned = frozenset(int(code) for code, key in self.licensors.items() if key == UNSIGNED)
        return Trust(
            {int(code): keys.from_text(key) for code, key in self.licensors.items() if key != UNSIGNED}, unsigned
        )


# --- reading them -------------------------------------------------------------------------------------------------


def load(path: Path, driver_options: DriverOptions | None = None) -> Config:
    """Return the settings of a file. Raises ConfigError.

    Each `[drivers.<name>]` is checked against the class that `driver_options` gives for its name; without it, these
    tables are taken as they are.
    """
    return read(path, driver_options)[0]


def read(path: Path, driver_options: DriverOptions | None = None) -> tuple[Config, str]:
    """Return the settings of a file, and its text. Raises ConfigError."""
    try:
        text, raw = toml.read(_read(path))
    except toml.Unreadable as error:
        raise ConfigError(f"{path}:{error}") from None
    try:
        config = tables.convert(raw, Config)
        for code in config.licensors:
            if not re.fullmatch(r"[1-9]\d{0,9}", code, re.ASCII) or int(code) >= 2**32:
                raise tables.Fault(("licensors", code), "expected a firm code in front, a number from 1 to 4294967295")
        for name, options in config.drivers.items():
            if driver_options is not None:
                tables.convert(options, _driver_options(name, driver_options), ("drivers", name))
    except tables.Fault as fault:
        raise ConfigError(f"{path}:{toml.line_of(text, fault.key)}: {fault}") from None
    return config, text


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe would wait; of a directory open tells
            raise ConfigError(f"{path}: is no regular file; expected a configuration file")
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        way_out = _WAY_OUT.get(error.errno or 0, "name another file with --config")
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; {way_out}") from None
    if len(data) > FILE_LIMIT:
        raise ConfigError(f"{path}: is longer than {FILE_LIMIT} bytes; expected a configuration file")
    return data


def _driver_options(name: str, driver_options: DriverOptions) -> type[Struct]:
    try:
        return driver_options(name)
    except DriverError as error:
        raise tables.Fault(("drivers", name), " ".join(str(error).split())) from None
