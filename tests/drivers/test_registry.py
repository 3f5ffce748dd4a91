"""Drivers are found by entry point, and what is wrong with one is said in a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drivers import registry
from drivers.driver import DriverClass, DriverError, never_cancelled
from drivers.usb.driver import UsbDriver
from drivers.virtual import VirtualDriver


def install(directory: Path, distribution: str, entry: str, module: str = "") -> None:
    """Lay out an installed distribution with one entry point in our group, and perhaps a module."""
    info = directory / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cmserverd.drivers]\n{entry}\n")
    if module:
        (directory / f"{distribution}.py").write_text(module)


def test_ours_come_through_the_same_door() -> None:
    """The drivers of this package are entry points like anybody's."""
    assert {"usb", "virtual"} <= set(registry.available())
    ours: dict[str, DriverClass] = {"usb": UsbDriver, "virtual": VirtualDriver}
    assert {name: registry.load(name) for name in ours} == ours


def test_somebody_elses_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that another package brings is listed, loaded and made like ours."""
    module = (
        "import msgspec\n"
        "class Driver:\n"
        "    name = 'parallel'\n"
        "    class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):\n"
        "        port: int = 0\n"
        "    def __init__(self, options, check_cancelled):\n"
        "        self.port = options.port\n"
        "    def scan(self):\n"
        "        return frozenset()\n"
    )
    install(tmp_path, "outside_parallel", "parallel = outside_parallel:Driver", module)
    monkeypatch.syspath_prepend(tmp_path)
    assert "parallel" in registry.available()
    loaded = registry.load("parallel")
    assert loaded(loaded.Options(port=3), never_cancelled).scan() == frozenset()


def test_an_unknown_name_lists_what_is_there() -> None:
    """A slip of the pen is answered with the likely word and with all that may be written."""
    with pytest.raises(DriverError, match=r"no driver 'virtuel'; did you mean 'virtual'\? Installed are: .*usb.*"):
        registry.load("virtuel")


@pytest.mark.parametrize(
    ("name", "module", "sentence"),
    [
        ("lacking", "import no_such_library_here", "cannot be loaded: No module named 'no_such_library_here'"),
        ("empty", "", "cannot be loaded"),
        ("bare", "class Driver: pass", "is no driver class: it has no msgspec.Struct named Options"),
        ("loose", "class Driver:\n    Options = dict", "is no driver class"),
    ],
)
def test_a_driver_that_cannot_be_used(
    name: str, module: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver whose libraries are missing, or that is none, is named with what to do; listing it costs nothing."""
    install(tmp_path, f"broken_{name}", f"{name} = broken_{name}:Driver", module or "# nothing")
    monkeypatch.syspath_prepend(tmp_path)
    assert name in registry.available()
    with pytest.raises(DriverError, match=sentence):
        registry.load(name)


def test_two_drivers_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of two drivers is meant is not guessed."""
    for directory in ("one", "two"):
        install(tmp_path / directory, f"twin_{directory}", f"twin = twin_{directory}:Driver")
        monkeypatch.syspath_prepend(tmp_path / directory)
    with pytest.raises(DriverError, match="Several drivers are named 'twin': twin_one:Driver, twin_two:Driver"):
        registry.load("twin")


def test_importing_the_registry_imports_no_driver() -> None:
    """Whoever only lists the drivers pulls in neither pyusb nor pyudev."""
    program = (
        "import sys, drivers.registry as r; r.available(); sys.exit('usb' in sys.modules or 'pyudev' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
