"""The configuration: what is read, what is refused and in which words, and that no page about it is out of date."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from cmserverd import config
from cmserverd.config import Borrowing, Config, ConfigError, Containers, Journal, Log, Server, Sessions, WebAdmin, load
from drivers import registry, tables, toml
from drivers.driver import DriverError

ROOT = Path(__file__).parents[2]
SECTIONS: dict[str, type[Struct]] = {
    "server": Server,
    "sessions": Sessions,
    "journal": Journal,
    "containers": Containers,
    "borrowing": Borrowing,
    "log": Log,
    "webadmin": WebAdmin,
}


PROXIES = "c.toml:2: webadmin.proxies"
NETWORK = 'expected an address or a network, as "192.0.2.1" or "192.0.2.0/24", got '
LEVELS = 'c.toml:1: log.level: expected "debug", "info", "warning" or "error", got '
LISTEN = (
    "c.toml:1: server.listen: expected a list of one address or several different ones, "
    'each "host:port" or "[v6]:port", got '
)


@pytest.fixture
def write(tmp_path: Path) -> Path:
    """Return a path for a configuration file."""
    return tmp_path / "c.toml"


def refusal(path: Path, text: str | bytes, drivers: config.DriverOptions | None = None) -> str:
    """Return what `load` says of a faulty file, without the directory."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load(path, drivers)
    said = str(caught.value)
    assert "\n" not in said
    return said.replace(f"{path.parent}/", "")


def test_an_empty_file_gives_the_defaults(write: Path) -> None:
    """Everything has a default, and the struct's own is the one."""
    write.touch()
    assert load(write) == Config()
    assert Config().server.name == socket.gethostname()
    assert Config().drivers == {"usb": {}}


def test_every_key_is_read(write: Path) -> None:
    """A file that changes every key gives exactly these values, whole numbers as durations included."""
    write.write_text(
        """
        server = { name = "alpha", listen = ["0.0.0.0:0", "[::]:22350"], run_directory = "/run/x", net_info = "own" }
        drivers.virtual.files = ["a"]
        [sessions]
        hello_timeout = 1
        grace = 0
        timeout = 2.5
        sweep = 1
        handles = 3
        per_address = 4
        stalled = 5
        [containers]
        pull_grace = 6
        poll = 7
        settle = 0
        [borrowing]
        allowed = false
        maximum = 8
        keep = 9
        [log]
        level = "debug"
        format = "json"
        """
    )
    assert load(write) == Config(
        server=Server(name="alpha", listen=("0.0.0.0:0", "[::]:22350"), run_directory="/run/x", net_info="own"),
        sessions=Sessions(1.0, 0.0, 2.5, 1.0, 3, 4, 5.0),
        containers=Containers(6.0, 7.0, 0.0),
        borrowing=Borrowing(False, 8, 9),
        log=Log("debug", "json"),
        drivers={"virtual": {"files": ["a"]}},
    )
    assert type(load(write).sessions.grace) is float
    assert load(write).server.addresses == (("0.0.0.0", 0), ("::", 22350))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nsessions.grace = 'x'", "c.toml:2: sessions.grace: expected a number of seconds from 0 to 86400, got 'x'"),
        ("[sessions]\ntimeout = 0", "c.toml:2: sessions.timeout: expected a number of seconds from 1 to 86400, got 0"),
        ("sessions.sweep = nan", "c.toml:1: sessions.sweep: expected a number of seconds from 0.1 to 3600, got nan"),
        ("sessions.sweep = inf", "c.toml:1: sessions.sweep: expected a number of seconds from 0.1 to 3600, got inf"),
        ("sessions.sweep = true", "c.toml:1: sessions.sweep: expected a number of seconds from 0.1 to 3600, got true"),
        ("sessions.handles = 1.0", "c.toml:1: sessions.handles: expected a whole number from 1 to 10000, got 1.0"),
        (
            f"sessions.handles = {10**30}",
            f"c.toml:1: sessions.handles: expected a whole number from 1 to 10000, got {10**30}",
        ),
        (
            "borrowing.maximum = '7d'",
            "c.toml:1: borrowing.maximum: expected a whole number of seconds from 0 to 4294967295, got '7d'",
        ),
        ("[log]\nlevel = 'loud'", 'c.toml:2: log.level: expected "debug", "info", "warning" or "error", got \'loud\''),
        ("server.name = ''", "c.toml:1: server.name: expected a text of 1 to 255 characters, got ''"),
        (
            "server.listen = 5",
            LISTEN + "5",
        ),
        ("server.listen = []", LISTEN + "[]"),
        (
            "server.listen = ['a:1', '[::1]:1', '[::1]:01']",
            "c.toml:1: server.listen: '[::1]:01' is there twice; leave one of them out",
        ),
        (
            "[webadmin]\nhosts = ['a', 'b c']",
            "c.toml:2: webadmin.hosts[1]: expected the name of a host, got 'b c'",
        ),
        (
            "[webadmin]\nkey = 'own.pem'",
            "c.toml:2: webadmin.key: expected an absolute path, or an empty text, got 'own.pem'",
        ),
        (
            "[webadmin]\nkey = '/own.pem'",
            "c.toml:1: webadmin: certificate and key belong together; name both, or neither",
        ),
        ("[webadmin]\nproxies = ['127.0.0.1', 'proxy']", PROXIES + "[1]: " + NETWORK + "'proxy'"),
        ("[webadmin]\nproxies = ['::/0']", PROXIES + "[0]: '::/0' has every address; name those of proxies only"),
        (
            "[webadmin]\nproxies = ['10.1.2.3/8']",
            PROXIES + "[0]: '10.1.2.3/8' is no network; write \"10.0.0.0/8\", or the address alone",
        ),
        ("webadmin.anonymous = 'admin'", 'c.toml:1: webadmin.anonymous: expected "none" or "viewer", got \'admin\''),
        ("server = 5", "c.toml:1: server: expected a table, got 5"),
        ("server = ['x']", "c.toml:1: server: expected a table, got ['x']"),
        ("[drivers]\nusb = 1", "c.toml:2: drivers.usb: expected a table, got 1"),
        ("drivers = 1", "c.toml:1: drivers: expected a table, got 1"),
        ("\n[log]\nlevl = 'info'", "c.toml:3: log.levl: there is no such key; did you mean level?"),
        ("[sesions]", "c.toml:1: sesions: there is no such key; did you mean sessions?"),
        ("[log]\nxyz = 1", "c.toml:2: log.xyz: there is no such key; known are level, format"),
        ("[log]\n\"a\\nb\\u202e\" = 1", r"c.toml:2: log.'a\nb\u202e': there is no such key; known are level, format"),
        ('log.level = "\\u001b[31m"', LEVELS + r"'\x1b[31m'"),
        (f"log.level = '{'y' * 100}'", LEVELS + "'" + 56 * "y" + "..."),
        ("a = 1\na = 2\n", "c.toml:2: is not TOML: Cannot overwrite a value, column 6"),
        ("\nx = tru\ny = 1", "c.toml:2: is not TOML: Invalid value, column 5"),
        ("[log]\n\nlevel = \"\"\"in\nfo\n\n", "c.toml:3: is not TOML: Unterminated string"),
        ("x =", "c.toml:1: is not TOML: Invalid value"),
        (f"[log]\n x{'.x' * 17} = 1", "c.toml:2: is not TOML: A key has more than 16 dots, column 2"),
        (f"[log]\nx = [\n{'9' * 5_000}]", "c.toml:2: is not TOML: A number has far too many digits"),
        (
            f"\nsessions.handles = 0x{'f' * 5_000}",
            "c.toml:2: sessions.handles: expected a whole number from 1 to 10000, got a number too large to show",
        ),
        (b"# fine\n# \xe9", "c.toml:2: is not UTF-8; save the file in that encoding"),
        (b"#" * 70_000, "c.toml: is longer than 65536 bytes; expected a configuration file"),
        (
            "x = " + "[" * 30_000,
            "c.toml: has arrays or tables nested too deep; three levels are the most that is needed",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_told_in_one_line_with_what_would_be_right(write: Path, text: str | bytes, said: str) -> None:
    """File, line, key, what is expected, what is there: for every kind of fault."""
    assert refusal(write, text) == said


@pytest.mark.parametrize(
    "address",
    [
        "",
        "22350",
        "host",
        "host:",
        ":22350",
        "host:65536",
        "::1:22350",
        "[::1]",
        "[::zz]:1",
        "[:::::]:1",
        "a b:1",
        "h:٣",
    ],
)
def test_an_address_that_is_none_is_refused(write: Path, address: str) -> None:
    """Each part of `listen` is looked at, and the faulty one is named."""
    said = refusal(write, f"[server]\nlisten = [\n'localhost:1',\n{address!r}]\n")
    assert said == f'c.toml:2: server.listen[1]: expected an address as "host:port" or "[v6]:port", got {address!r}'


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:22350", ("127.0.0.1", 22350)),
        ("licenses.example:0", ("licenses.example", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("[::ffff:10.0.0.1]:1", ("::ffff:10.0.0.1", 1)),
    ],
)
def test_an_address_is_split(text: str, address: tuple[str, int]) -> None:
    """Host and port come apart for names, IPv4 and IPv6 with a zone."""
    assert Server(listen=(text,)).addresses == (address,)


def test_the_run_directory_must_have_room_for_a_socket(write: Path) -> None:
    """A path that a socket cannot have is refused when the file is read, not when the socket is made."""
    longest = "/" + "r" * (107 - len("/control.sock") - 1)
    write.write_text(f"server.run_directory = '{longest}'")
    assert load(write).server.run_directory == longest
    with socket.socket(socket.AF_UNIX) as unbound, pytest.raises(FileNotFoundError):
        unbound.bind(f"{longest}/control.sock")  # not "path too long"
    assert "expected an absolute path of at most 94 bytes" in refusal(write, f"server.run_directory = '{longest}r'")
    for text in ("'run'", '"/run\\u0000x"'):
        said = refusal(write, f"server.run_directory = {text}")
        assert "expected an absolute path of at most 94 bytes" in said


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """The sentence has the path and the system's reason."""
    said = r"none\.toml: cannot be read: No such file or directory; put it there, or name another file with --config"
    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    """Nobody may ever write to it: opening it would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: is no regular file; expected a configuration file"):
        load(tmp_path / "pipe")


# --- drivers ------------------------------------------------------------------------------------------------------


class Port(Struct, frozen=True):
    """A part of a made-up driver's options."""

    number: Annotated[int, Meta(ge=1, le=9)]


class UsbOptions(Struct, frozen=True):
    """A made-up driver's options."""

    embedded: bool = False
    ports: tuple[Port, ...] = ()
    label: str | None = None
    pair: tuple[int, str] = (0, "")
    odd: bytes = b""
    wait: Annotated[float, Meta(gt=0, lt=9)] = 1.0
    short: Annotated[str, Meta(max_length=2)] = ""

    def __post_init__(self) -> None:
        if self.embedded and self.ports:
            msg = "embedded and ports exclude each other"
            raise ValueError(msg)


class FileOptions(Struct, frozen=True):
    """Another one's, with a key that must be there."""

    file: str


def known(name: str) -> type[Struct]:
    """Stand in for the registry."""
    classes: dict[str, type[Struct]] = {"usb": UsbOptions, "file": FileOptions}
    if name not in classes:
        msg = f"There is no driver {name!r}.\nInstalled are: file, usb."
        raise DriverError(msg)
    return classes[name]


def test_driver_options_are_checked_against_the_drivers_own_struct(write: Path) -> None:
    """What fits is kept as it was written, for the driver to take."""
    write.write_text("[drivers.usb]\nembedded = true\npair = [1, 'x']\n[drivers.file]\nfile = 'x'")
    assert load(write, known).drivers == {"usb": {"embedded": True, "pair": [1, "x"]}, "file": {"file": "x"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[drivers.usb]\n[drivers.usbb]",
            "c.toml:2: drivers.usbb: There is no driver 'usbb'. Installed are: file, usb.",
        ),
        (
            "[drivers.usb]\nembeded = true",
            "c.toml:2: drivers.usb.embeded: there is no such key; did you mean embedded?",
        ),
        ("[drivers]\nusb.embedded = 1", "c.toml:2: drivers.usb.embedded: expected true or false, got 1"),
        ("drivers.usb.label = 1", "c.toml:1: drivers.usb.label: expected a text, got 1"),
        ("drivers.usb.wait = 0", "c.toml:1: drivers.usb.wait: expected a number above 0 below 9, got 0"),
        ("drivers.usb.short = 'xyz'", "c.toml:1: drivers.usb.short: expected a text of 0 to 2 characters, got 'xyz'"),
        ("drivers.usb.odd = 1", "c.toml:1: drivers.usb.odd: expected a value of type bytes, got 1"),
        (
            "[[drivers.usb.ports]]\nnumber = 1\n[[drivers.usb.ports]]\nnumber = 0\n",
            "c.toml:4: drivers.usb.ports[1].number: expected a whole number from 1 to 9, got 0",
        ),
        ("\n[drivers.file]\n", "c.toml:2: drivers.file: the key file is missing; expected a text"),
        (
            "[drivers.usb]\nports = [{number = 1}]\nembedded = true",
            "c.toml:1: drivers.usb: embedded and ports exclude each other",
        ),
    ],
)
def test_a_fault_in_a_drivers_table_is_told_the_same_way(write: Path, text: str, said: str) -> None:
    """A driver's author gets file, line and words for nothing."""
    assert refusal(write, text, known) == said


def test_the_real_registry_gives_the_classes(write: Path) -> None:
    """The daemon's own call: an unknown driver's name and a wrong key of a real driver are told with their lines."""

    def options(name: str) -> type[Struct]:
        return registry.load(name).Options

    assert refusal(write, "[drivers.virtul]", options).startswith(
        "c.toml:1: drivers.virtul: There is no driver 'virtul'"
    )
    said = (
        "c.toml:2: drivers.virtual: 'a.toml' in files is no absolute path; write it as in '/etc/cmserverd/trial.toml'"
    )
    assert refusal(write, "\n[drivers.virtual]\nfiles = ['/a', 'a.toml']", options) == said
    said = "c.toml:3: drivers.virtual.file: there is no such key; did you mean files?"
    assert refusal(write, "[drivers.virtual]\n\nfile = ['x']", options) == said


# --- the locator --------------------------------------------------------------------------------------------------

TRICKY = '''\
# comment with [log] and x = 1
title = "a # [no.table] \\" ="

dotted . "quoted key".'literal.key' = 1 # x = 2
inline = { one = 1, two = { three = [ 1, 2 ] } }
long = [
  "[log]", # ]
  [ "]", """
level = 1
""" ],
]
text = """
[log]
level = "no"
"""
raw = \'\'\'
level = """ \'\'\'
after = 1

[ log ]
  level = "info"
  [log."sub.table"]
  "\\u006cevel" = 2
[[array]]
name = 1
  [array.inner]
  deep = 1
[[array]]

  name = 2
  [[array.nested]]
  [[array.nested]]
  x = 1
[late.implicit.parent]
x = 1
[late]
y = 1
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("title",), 2),
        (("dotted",), 4),
        (("dotted", "quoted key", "literal.key"), 4),
        (("inline", "two", "three", 1), 5),
        (("long",), 6),
        (("long", 1, 0), 6),
        (("text",), 12),
        (("raw",), 16),
        (("after",), 18),
        (("log",), 20),
        (("log", "level"), 21),
        (("log", "sub.table"), 22),
        (("log", "sub.table", "level"), 23),
        (("array",), 24),
        (("array", 0, "name"), 25),
        (("array", 0, "inner", "deep"), 27),
        (("array", 1), 28),
        (("array", 1, "name"), 30),
        (("array", 1, "nested", 0), 31),
        (("array", 1, "nested", 1), 32),
        (("array", 1, "nested", 1, "x"), 33),
        (("late",), 34),
        (("late", "implicit", "parent", "x"), 35),
        (("late", "y"), 37),
        ((), 1),
    ],
)
def test_a_key_is_found_where_its_statement_begins(key: toml.Key, line: int) -> None:
    """Tables, dotted and quoted keys, arrays of tables; and texts that look like keys are not taken for them."""
    assert toml.line_of(TRICKY, key) == line


@pytest.mark.parametrize("wrong", ["x = 1", "x = " + "9" * 5_000])
def test_a_line_is_found_with_few_parses(write: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """A list of a thousand lines, and lines by the thousand, are not parsed anew for each of them."""
    parses: list[str] = []
    parse = tomllib.loads

    def counted(text: str) -> dict[str, object]:
        parses.append(text)
        return parse(text)

    monkeypatch.setattr(tomllib, "loads", counted)
    text = f"[drivers.usb]\nlong = [\n{'1,' * 3}\n" + "1,\n" * 1_000 + f"]\n[log]\n{wrong}\n" + "# and on\n" * 1_000
    assert refusal(write, text).startswith("c.toml:1006: ")
    assert len(parses) <= 20


def test_a_key_is_found_in_the_last_line_too() -> None:
    """With and without a newline at the end."""
    assert toml.line_of("a = 1\nb = 2", ("b",)) == 2
    assert toml.line_of("a = 1\nb = 2\n", ("b",)) == 2
    assert toml.line_of("b = [\n1,\n2]", ("b",)) == 1
    assert toml.line_of("b = 2", ("b",)) == 1


def spell(key: str) -> str:
    """Write a key as a quoted one."""
    return '"' + "".join(f"\\U{ord(letter):08x}" for letter in key) + '"'


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
            st.sampled_from(["1", '"x"', "[\n1,\n# ]\n2\n]", '"""\n\n[k]\n"""', "'''\n'''", "{ k = [ ] }"]),
            st.sampled_from(["", "\n", "# k = 1\n", " \n\t\n"]),
        ),
        min_size=1,
        unique_by=lambda item: item[0],
    ),
    st.booleans(),
)
def test_any_key_is_found(statements: list[tuple[str, str, str]], in_tables: bool) -> None:
    """Whatever stands around it: the line found is where the statement was written."""
    text, lines = "", {}
    for key, value, after in statements:
        head = f"[t.{spell(key)}]\n" if in_tables else ""
        lines[key] = (text + head).count("\n") + 1
        text += f"{head}{spell(key)} = {value}\n{after}"
    tomllib.loads(text)
    for key, line in lines.items():
        assert toml.line_of(text, ("t", key, key) if in_tables else (key,)) == line


# --- the pages about it -------------------------------------------------------------------------------------------


def spell_default(value: object) -> str:
    """Write a default as TOML does."""
    return msgspec.json.encode(value).decode().replace(",", ", ")


def allowed(hint: object) -> str:
    """Say a key's range for the page, from the words of the error messages."""
    words = tables.expected(hint)
    for article in ("a number of ", "an ", "a "):
        words = words.removeprefix(article)
    return words


def rows(section: str) -> list[str]:
    """Return the rows that the page must have for a section."""
    found = []
    for key in msgspec.structs.fields(SECTIONS[section]):
        described = next(meta for meta in get_args(key.type) if isinstance(meta, Meta) and meta.description)
        default = "the machine's name" if key.name == "name" else f"`{spell_default(key.default)}`"
        found.append(f"| `{key.name}` | {default} | {allowed(key.type)} | {described.description} |")
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_has_every_key_as_it_is(section: str) -> None:
    """`docs/configuration.md` has each key's default, range and meaning, and no key that is none."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    part = page.partition(f"\n## `[{section}]`\n")[2].partition("\n## ")[0]
    assert [line for line in part.splitlines() if line.startswith("| `")] == rows(section)


def test_the_page_has_every_section() -> None:
    """No section is without its part of the page."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    sections = [*SECTIONS, "licensors", "drivers"]
    assert re.findall(r"(?m)^## `\[(\w+)", page) == list(Config.__struct_fields__) == sections


@pytest.mark.parametrize("name", registry.available())
def test_the_page_has_every_option_of_our_drivers(name: str) -> None:
    """The part about drivers names each driver's options."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    part = page.partition(f"\n### `[drivers.{name}]`\n")[2].partition("\n### ")[0]
    assert {f"| `{key.name}` |" for key in msgspec.structs.fields(registry.load(name).Options)} == set(
        re.findall(r"(?m)^\| `\w+` \|", part)
    )


def test_the_messages_that_the_page_shows_are_the_real_ones(write: Path) -> None:
    """The page's examples of faults are what `load` says."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    for text in ("[sessions]\n" + "\n" * 10 + "grace = 'ten'", "[log]\n" + "\n" * 13 + "levl = 'info'"):
        assert refusal(write, text).replace("c.toml", "/etc/cmserverd/cmserverd.toml", 1) in page


def test_the_installed_file_is_the_defaults(write: Path) -> None:
    """`systemd/cmserverd.toml` changes nothing as it stands."""
    assert load(ROOT / "systemd" / "cmserverd.toml") == Config()


def test_the_installed_file_shows_every_key_with_its_default(write: Path) -> None:
    """With its keys uncommented it still changes nothing but the name it gives as an example, and has them all."""
    text = (ROOT / "systemd" / "cmserverd.toml").read_text()
    write.write_text(re.sub(r"(?m)^# (?=\w+ = )", "", text))
    assert load(write) == msgspec.structs.replace(Config(), server=Server(name="alpha"))
    raw = tomllib.loads(write.read_text())
    assert {name: list(table) for name, table in raw.items() if name in SECTIONS} == {
        name: [key.name for key in msgspec.structs.fields(section)] for name, section in SECTIONS.items()
    }
