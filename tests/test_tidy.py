"""Keeps the floors: reads the syntax trees of the packages, and the drawing in ARCHITECTURE.md.

A check is a function from modules to complaints; each is shown below to reject what it must reject. The drawing is the
fenced block that begins with ```floors: one floor a line, `number  modules...`, where a package stands for all in it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cmserverd", "protocol", "drivers")

WITH_TRIO = frozenset(
    {
        "cmserverd.absences",
        "cmserverd.auditor",
        "cmserverd.connection",
        "cmserverd.crypt",
        "cmserverd.daemon",
        "cmserverd.deadlines",
        "cmserverd.happenings",
        "cmserverd.devices",
        "cmserverd.journal",
        "cmserverd.logbook",
        "cmserverd.lending",
        "cmserverd.main",
        "cmserverd.reaper",
        "cmserverd.server",
        "cmserverd.turns",
        "cmserverd.updating",
        "cmserverd.watcher",
        "cmserverd.writer",
        "cmserverd.witness",
        "protocol.client",
        "protocol.trio_link",
    }
)
"""The only modules in which anything is awaited. What is not here is plain, and so atomic."""

CORE_MAY_IMPORT = (
    "cmserverd.core",
    "protocol.terms",
    "protocol.errors",
    "protocol.hosts",
    "protocol.messages",
    "drivers.container",
)

CORE_MAY_NOT = frozenset(
    {"asyncio", "datetime", "importlib", "io", "logging", "os", "pathlib", "random", "secrets", "select", "signal"}
    | {"socket", "structlog", "subprocess", "sys", "tempfile", "threading", "time", "trio", "uuid"}
)
"""A clock, chance, a log, the world outside: the core decides by what it is given, and replaying gives the same."""

CORE_MAY_NOT_CALL = frozenset({"__import__", "breakpoint", "input", "open", "print"})

OUTSIDERS = {
    "cmserverd.cmu": ("protocol",),
    "cmserverd.cmboxpgm": ("drivers",),
    "cmserverd.webadmin": ("protocol", "cmserverd.config", "cmserverd.logs", "cmserverd.seldom"),
}
"""The programs outside the building, and what each imports of it."""

WEBADMIN_PLAIN = frozenset(
    {
        "cmserverd.webadmin.certificates",
        "cmserverd.webadmin.charts",
        "cmserverd.webadmin.cookies",
        "cmserverd.webadmin.logins",
        "cmserverd.webadmin.offers",
        "cmserverd.webadmin.openapi",
        "cmserverd.webadmin.pages.choosing",
        "cmserverd.webadmin.pages.rendering",
        "cmserverd.webadmin.pages.rows",
        "cmserverd.webadmin.pages.spelling",
        "cmserverd.webadmin.people",
    }
)
"""The modules of WebAdmin in which nothing is awaited; who may do what is decided in one step."""

ONLY_IN = {
    "usb": "drivers.usb",
    "usb1": "drivers.usb",
    "libusb1": "drivers.usb",
    "anycorn": "cmserverd.webadmin.serving",
    "anyio": "cmserverd.webadmin.serving",
    "argon2": "cmserverd.webadmin.people",
    "starlette.routing": "cmserverd.webadmin.guard",
    "starlette.applications": "cmserverd.webadmin.site",
}
"""Where a library is used that is used nowhere else. Routes are made in one place, so that each is guarded."""

NAMES_THAT_SAY_NOTHING = frozenset({"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"})

MOST_LINES, MOST_BYTES = 500, 20_000
"""What one can hold in the head. A file that comes near has two things in it."""


@dataclass(frozen=True)
class Module:
    """A module: its dotted name, and its text."""

    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        """Return its syntax tree."""
        return ast.parse(self.text)

    def inside(self, *packages: str) -> bool:
        """Whether it is one of these, or in one of these."""
        return any(self.name == package or self.name.startswith(f"{package}.") for package in packages)

    def imports(self) -> Iterator[tuple[int, str]]:
        """Yield line and dotted name of whatever it imports, anywhere in it; of a `from`, each name with its module."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: write imports in full"
                for alias in node.names:
                    yield node.lineno, f"{node.module}.{alias.name}"


def within(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of these or begins with one of them."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def modules(*packages: str) -> list[Module]:
    """Read all modules of these packages."""
    found = []
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, path.read_text(encoding="utf-8")))
    return found


def drawing(text: str) -> dict[str, int]:
    """Return the floor of each module and package in the drawing."""
    block = text.split("```floors\n", 1)[1].split("```", 1)[0]
    floors: dict[str, int] = {}
    for line in block.splitlines():
        number, *names = line.split()
        for name in names:
            assert name not in floors, f"{name} is on two floors"
            floors[name] = int(number)
    return floors


FLOORS = drawing((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))


def floor_of(name: str, floors: dict[str, int]) -> int | None:
    """Return the floor of a dotted name: that of the longest of its beginnings which is drawn."""
    while name:
        if name in floors:
            return floors[name]
        name = name.rpartition(".")[0]
    return None


# The checks


def floors_are_kept(module: Module) -> Iterator[str]:
    """Yield what is imported from a floor above. The tools live outside the building, see `outsiders_stay_outside`."""
    if module.name == "cmserverd" or module.inside(*OUTSIDERS):
        return
    own = floor_of(module.name, FLOORS)
    if own is None:
        yield f"{module.name} is on no floor; draw it in ARCHITECTURE.md"
        return
    for line, name in module.imports():
        other = floor_of(name, FLOORS)
        if other is not None and other > own:
            yield f"{module.name}:{line}: floor {own} imports {name} from floor {other}"


def leaves_know_nobody(module: Module) -> Iterator[str]:
    """Yield what the protocol or a driver imports of the daemon or of the other leaf."""
    for leaf in ("protocol", "drivers"):
        if module.inside(leaf):
            for line, name in module.imports():
                if within(name, *PACKAGES) and not within(name, leaf):
                    yield f"{module.name}:{line}: {leaf} imports {name}"


def outsiders_stay_outside(module: Module) -> Iterator[str]:
    """Yield what a program imports besides: `cmu` and WebAdmin are clients, and `cmboxpgm` knows no server."""
    for tool, allowed in OUTSIDERS.items():
        if not module.inside(tool):
            continue
        for line, name in module.imports():
            inside = within(name, *PACKAGES) and not within(name, tool, *allowed, "cmserverd.__version__")
            if inside and name != "cmserverd":
                yield f"{module.name}:{line}: {tool} imports {name}"
        own = tool.rpartition(".")[2]
        for node in ast.walk(module.tree):
            used = node.attr if isinstance(node, ast.Attribute) and _is_name(node.value, "cmserverd") else own
            if used not in ("__version__", own):
                yield f"{module.name}: {tool} uses cmserverd.{used}"


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def core_is_pure(module: Module) -> Iterator[str]:
    """Yield what the core imports or calls that could make it give another answer to the same question."""
    if not module.inside("cmserverd.core"):
        return
    for line, name in module.imports():
        top = name.partition(".")[0]
        if top in PACKAGES and not within(name, *CORE_MAY_IMPORT):
            yield f"{module.name}:{line}: the core imports {name}"
        elif top in CORE_MAY_NOT or (top not in PACKAGES and top not in sys.stdlib_module_names and top != "msgspec"):
            yield f"{module.name}:{line}: the core imports {top}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node.id in CORE_MAY_NOT_CALL:
            yield f"{module.name}:{node.lineno}: the core uses {node.id}"


def only_some_await(module: Module) -> Iterator[str]:
    """Yield each `async` and each import of trio in a module that is plain by design."""
    if module.name in WITH_TRIO or (module.inside("cmserverd.webadmin") and module.name not in WEBADMIN_PLAIN):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await) or (
            isinstance(node, ast.comprehension) and node.is_async
        ):
            yield f"{module.name}:{getattr(node, 'lineno', '?')}: async in a plain module"
    for line, name in module.imports():
        if within(name, "trio", "asyncio", "anyio"):
            yield f"{module.name}:{line}: a plain module imports {name}"


def some_libraries_have_one_place(module: Module) -> Iterator[str]:
    """Yield imports of pyusb elsewhere than in the USB driver, and of others elsewhere than in their one place."""
    elsewhere = [library for library, place in ONLY_IN.items() if not module.inside(place)]
    for line, name in module.imports():
        if any(within(name, library) for library in elsewhere):
            yield f"{module.name}:{line}: imports {name}"


def has_a_docstring(module: Module) -> Iterator[str]:
    """Yield a module that does not say what it is for."""
    if not (ast.get_docstring(module.tree) or "").strip():
        yield f"{module.name} does not say what it is for"


def fits_in_the_head(module: Module) -> Iterator[str]:
    """Yield a file that is too large."""
    lines, size = module.text.count("\n"), len(module.text.encode())
    if lines > MOST_LINES or size > MOST_BYTES:
        yield f"{module.name} has {lines} lines and {size} bytes; the most is {MOST_LINES} and {MOST_BYTES}"


def has_a_telling_name(module: Module) -> Iterator[str]:
    """Yield a module whose name says nothing."""
    if not NAMES_THAT_SAY_NOTHING.isdisjoint(module.name.lower().replace("_", ".").split(".")):
        yield f"{module.name}: a name of the field says what is in it"


Check = Callable[[Module], Iterator[str]]

CHECKS: list[Check] = [
    floors_are_kept,
    leaves_know_nobody,
    outsiders_stay_outside,
    core_is_pure,
    only_some_await,
    some_libraries_have_one_place,
    has_a_docstring,
    fits_in_the_head,
    has_a_telling_name,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_packages_are_tidy(check: Check) -> None:
    """No module of the three packages breaks the rule."""
    complaints = [complaint for module in modules(*PACKAGES) for complaint in check(module)]
    assert not complaints, "\n".join(["", *complaints])


@pytest.mark.parametrize("check", [has_a_docstring, has_a_telling_name], ids=lambda check: check.__name__)
def test_the_rest_is_tidy_too(check: Check) -> None:
    """Tests, examples and benchmarks say what they are for."""
    complaints = [complaint for module in modules("tests", "examples", "bench") for complaint in check(module)]
    assert not complaints, "\n".join(["", *complaints])


def test_the_drawing_shows_what_there_is() -> None:
    """Nothing is drawn that is no module or package, so the drawing cannot go stale."""
    there = {module.name for module in modules(*PACKAGES)}
    assert FLOORS.keys() <= there
    assert there >= WITH_TRIO | WEBADMIN_PLAIN
    assert there.issuperset(ONLY_IN.values())
    assert there.issuperset(CORE_MAY_IMPORT)


def test_what_awaits_is_upstairs() -> None:
    """Of the daemon, only floors 3 to 5 await."""
    assert {floor_of(name, FLOORS) for name in WITH_TRIO if within(name, "cmserverd")} == {3, 4, 5}


# The checks themselves: what they must reject, and what they must not.

BAD: list[tuple[Check, str, str]] = [
    (floors_are_kept, "cmserverd.core.rules", "from cmserverd.engine import Engine"),
    (floors_are_kept, "cmserverd.core.rules", "from cmserverd import engine"),
    (floors_are_kept, "cmserverd.engine", "import cmserverd.service"),
    (floors_are_kept, "cmserverd.engine", "def late() -> None:\n    from cmserverd.daemon import serve"),
    (floors_are_kept, "cmserverd.conversation", "from cmserverd.config import Config"),
    (floors_are_kept, "cmserverd.daemon", "from cmserverd.main import main"),
    (floors_are_kept, "protocol.terms", "from cmserverd.core import table"),
    (floors_are_kept, "cmserverd.unheard_of", "import json"),
    (leaves_know_nobody, "protocol.errors", "from drivers.container import Container"),
    (leaves_know_nobody, "protocol.client", "import cmserverd"),
    (leaves_know_nobody, "drivers.usb.driver", "from protocol import terms"),
    (leaves_know_nobody, "drivers.virtual", "if TYPE_CHECKING:\n    from cmserverd.core.terms import License"),
    (outsiders_stay_outside, "cmserverd.cmu.main", "from cmserverd.core.table import Table"),
    (outsiders_stay_outside, "cmserverd.cmu.main", "from cmserverd import views"),
    (outsiders_stay_outside, "cmserverd.cmu.main", "import cmserverd\ncmserverd.engine.Engine()"),
    (outsiders_stay_outside, "cmserverd.cmu.tables", "from drivers import registry"),
    (outsiders_stay_outside, "cmserverd.cmboxpgm.main", "from protocol.errors import ErrorNumber"),
    (outsiders_stay_outside, "cmserverd.cmboxpgm.tables", "from cmserverd.cmu.folding import FoldingTable"),
    (outsiders_stay_outside, "cmserverd.webadmin.daemon", "from cmserverd.engine import Engine"),
    (outsiders_stay_outside, "cmserverd.webadmin.main", "from drivers import registry"),
    (outsiders_stay_outside, "cmserverd.webadmin.pages.usage", "from cmserverd.cmu import tables"),
    (outsiders_stay_outside, "cmserverd.cmu.main", "from cmserverd.config import Config"),
    (core_is_pure, "cmserverd.core.rules", "import time"),
    (core_is_pure, "cmserverd.core.rules", "from datetime import datetime"),
    (core_is_pure, "cmserverd.core.rules", "from random import choice"),
    (core_is_pure, "cmserverd.core.table", "import secrets"),
    (core_is_pure, "cmserverd.core.table", "import structlog"),
    (core_is_pure, "cmserverd.core.table", "import logging.handlers"),
    (core_is_pure, "cmserverd.core.table", "print('granted')"),
    (core_is_pure, "cmserverd.core.table", "def log() -> None:\n    open('log', 'a').write('granted')"),
    (core_is_pure, "cmserverd.core.terms", "import msgpack"),
    (core_is_pure, "cmserverd.core.terms", "from protocol.rpc import Reader"),
    (core_is_pure, "cmserverd.core.terms", "from protocol import station"),
    (core_is_pure, "cmserverd.core.plugging", "from drivers.image import decode"),
    (core_is_pure, "cmserverd.core.plugging", "from cmserverd.clock import LicenseClock"),
    (only_some_await, "cmserverd.engine", "async def access() -> None: ..."),
    (only_some_await, "cmserverd.service", "import trio"),
    (only_some_await, "cmserverd.conversation", "from trio.lowlevel import checkpoint"),
    (only_some_await, "cmserverd.core.rules", "async def f(x):\n    return [y async for y in x]"),
    (only_some_await, "drivers.virtual", "import trio"),
    (only_some_await, "protocol.session", "import asyncio"),
    (only_some_await, "cmserverd.webadmin.people", "async def add() -> None: ..."),
    (some_libraries_have_one_place, "cmserverd.webadmin.pages.usage", "from starlette.routing import Route"),
    (some_libraries_have_one_place, "cmserverd.webadmin.live", "from starlette.applications import Starlette"),
    (some_libraries_have_one_place, "cmserverd.webadmin.main", "import anycorn"),
    (some_libraries_have_one_place, "drivers.virtual", "import usb.core"),
    (some_libraries_have_one_place, "cmserverd.watcher", "from usb import util"),
    (has_a_docstring, "protocol.rpc", "import json"),
    (has_a_docstring, "protocol.rpc", '"""   """'),
    (fits_in_the_head, "protocol.rpc", "x = 1\n" * (MOST_LINES + 1)),
    (fits_in_the_head, "protocol.rpc", "x = 1" + " " * MOST_BYTES),
    (has_a_telling_name, "cmserverd.utils", ""),
    (has_a_telling_name, "drivers.usb.usb_helpers", ""),
    (has_a_telling_name, "cmserverd.common.table", ""),
]

GOOD: list[tuple[Check, str, str]] = [
    (floors_are_kept, "cmserverd.engine", "from cmserverd.core import rules\nfrom protocol.terms import Client"),
    (floors_are_kept, "cmserverd.core.rules", "from cmserverd.core.table import Table"),
    (floors_are_kept, "cmserverd.service", "from cmserverd import views"),
    (floors_are_kept, "cmserverd.daemon", "import cmserverd\nfrom cmserverd.config import Config"),
    (leaves_know_nobody, "protocol.errors", "from protocol.messages import Reason"),
    (leaves_know_nobody, "drivers.usb.driver", "from drivers import image\nimport protocols"),
    (outsiders_stay_outside, "cmserverd.cmu.main", "from cmserverd.cmu import tables\nfrom protocol import messages"),
    (outsiders_stay_outside, "cmserverd.cmu.main", "from cmserverd import __version__"),
    (
        outsiders_stay_outside,
        "cmserverd.cmboxpgm.main",
        "from cmserverd.cmboxpgm import files\nfrom drivers import keys",
    ),
    (outsiders_stay_outside, "cmserverd.cmu.main", "import cmserverd\ncmserverd.__version__"),
    (
        outsiders_stay_outside,
        "cmserverd.webadmin.main",
        "from cmserverd import logs\nfrom protocol import messages",
    ),
    (core_is_pure, "cmserverd.core.rules", "from typing import Final\nfrom msgspec import Struct"),
    (core_is_pure, "cmserverd.core.rules", "from protocol import messages\nfrom protocol.terms import Client"),
    (core_is_pure, "cmserverd.engine", "import time"),
    (only_some_await, "cmserverd.server", "import trio\nasync def accept() -> None: ..."),
    (only_some_await, "cmserverd.webadmin.daemon", "import trio\nasync def ask() -> None: ..."),
    (some_libraries_have_one_place, "cmserverd.webadmin.guard", "from starlette.routing import Route"),
    (some_libraries_have_one_place, "cmserverd.webadmin.live", "from starlette.requests import Request"),
    (some_libraries_have_one_place, "drivers.usb.transport", "import usb.core"),
    (some_libraries_have_one_place, "drivers.virtual", "from drivers.usb import wire"),
    (has_a_docstring, "protocol.rpc", '"""Cuts messages."""'),
    (fits_in_the_head, "protocol.rpc", "x = 1\n" * MOST_LINES),
    (has_a_telling_name, "cmserverd.core.table", ""),
]


@pytest.mark.parametrize(("check", "name", "text"), BAD, ids=lambda value: getattr(value, "__name__", str(value)[:40]))
def test_a_check_rejects_what_it_must(check: Check, name: str, text: str) -> None:
    """A module with this fault is found."""
    assert list(check(Module(name, text)))


@pytest.mark.parametrize(("check", "name", "text"), GOOD, ids=lambda value: getattr(value, "__name__", str(value)[:40]))
def test_a_check_accepts_what_it_must(check: Check, name: str, text: str) -> None:
    """A module without it is not complained of."""
    assert list(check(Module(name, text))) == []


def test_every_check_has_its_specimens() -> None:
    """No check is believed that has not rejected something and accepted something."""
    assert {check for check, _, _ in BAD} == {check for check, _, _ in GOOD} == set(CHECKS)


def test_a_drawing_with_a_module_on_two_floors_is_rejected() -> None:
    """A module is on one floor."""
    with pytest.raises(AssertionError, match="two floors"):
        drawing("```floors\n1  one two\n0  two\n```")
