"""The command `cmserverd`: reads the configuration, makes the drivers, runs the daemon. Its exit codes: `HELP`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import structlog
import trio

import cmserverd
from cmserverd import daemon, logs
from cmserverd.config import ConfigError
from cmserverd.logbook import Logbook
from cmserverd.server import CannotListen
from cmserverd.settings import Settings
from cmserverd.store import StoreFault
from drivers import image, registry
from drivers.driver import Busy, Checkable, CheckCancelled, Driver, DriverError, Vanished, never_cancelled
from drivers.trust import Trust
from protocol.errors import SettingError

DEFAULT_CONFIG = Path("/etc/cmserverd/cmserverd.toml")

HELP = """\
exit codes, as in sysexits.h:
  0   stopped as asked, or the configuration is sound
  2   the command line is wrong
  69  an address or a directory cannot be had
  78  there is a fault in the configuration, or in a file that it names
"""

_STANDARD_ERROR = 2

_log = structlog.get_logger("main")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="cmserverd",
        description="The license server daemon.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help=f"the configuration (default: {DEFAULT_CONFIG})")
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="check the configuration, the files of containers that it names and what in them is believed, and stop",
    )
    parser.add_argument("--version", action="version", version=f"cmserverd {cmserverd.__version__}")
    given = parser.parse_args(arguments)
    with logs.Outlet(_standard_error()) as outlet:
        try:
            settings = Settings(partial(_file, given.config), lambda name: registry.load(name).Options)
            config = settings.config
            check_cancelled = never_cancelled if given.check_config else trio.from_thread.check_cancelled
            drivers = {name: _driver(name, options, check_cancelled) for name, options in config.drivers.items()}
        except (ConfigError, DriverError) as error:
            return _fail(outlet, os.EX_CONFIG, error)
        if given.check_config:
            return _check(outlet, given.config, drivers, config.trust)
        book = Logbook()
        log = logs.Log(logs.configure(config.log.level, config.log.format, outlet, book), book)
        for name, fault in _faults(drivers):
            if isinstance(fault, Vanished):  # the others are told when the driver looks
                _log.warning("no such file yet", driver=name, reason=str(fault))
        code = os.EX_OK
        try:
            trio.run(daemon.run, settings, drivers, log, restrict_keyboard_interrupt_to_checkpoints=True)
        except* (CannotListen, SettingError, StoreFault) as group:
            code = _fail(outlet, os.EX_UNAVAILABLE, group.exceptions[0])
        return code


def _standard_error() -> int:
    """Return its descriptor; if there is none, one that leads nowhere: the next file opened would have its number."""
    return os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else _STANDARD_ERROR


def _file(named: Path | None) -> Path | None:
    """Return the file to read: the named one, or the default one; None if there is none, and the defaults hold."""
    return DEFAULT_CONFIG if named is None and DEFAULT_CONFIG.exists() else named


def _driver(name: str, options: dict[str, object], check_cancelled: CheckCancelled) -> Driver:
    kind = registry.load(name)
    return kind(msgspec.convert(options, kind.Options), check_cancelled)


def _check(outlet: logs.Outlet, path: Path | None, drivers: dict[str, Driver], trust: Trust) -> int:
    """Say what is wrong with what the configuration names, or that nothing is."""
    code = os.EX_OK
    for _, fault in _faults(drivers):
        if isinstance(fault, Vanished):
            outlet.write(f"cmserverd: warning: {fault}\n")
        else:
            code = _fail(outlet, os.EX_CONFIG, fault)
    for doubt in _not_believed(drivers, trust):
        outlet.write(f"cmserverd: warning: {doubt}\n")
    for driver in drivers.values():
        driver.close()
    if code == os.EX_OK:
        there = path is not None or DEFAULT_CONFIG.exists()
        said = "the configuration is sound" if there else "there is no such file; the defaults are used, and sound"
        print(f"{path or DEFAULT_CONFIG}: {said}")  # noqa: T201 - this is what the command was asked for
    return code


def _faults(drivers: dict[str, Driver]) -> list[tuple[str, DriverError]]:
    """Return what is wrong with the files of containers, each with its driver's name."""
    checkable = [(name, driver) for name, driver in drivers.items() if isinstance(driver, Checkable)]
    return [(name, fault) for name, driver in checkable for fault in driver.check()]


def _not_believed(drivers: dict[str, Driver], trust: Trust) -> Iterator[str]:
    """Yield each firm item in a container's file that would be listed and not count, and why; all else would serve."""
    for driver in (driver for driver in drivers.values() if isinstance(driver, Checkable)):
        for dongle in sorted(driver.scan(), key=lambda dongle: dongle.text):
            try:
                with closing(driver.open(dongle)) as device:
                    container = image.decode(device.read(), trust)
            except Busy:
                yield f"whether the {dongle.text} would be believed is not known: another process has it"
                continue
            except DriverError:  # that is told already
                continue
            for firm_item in container.firm_items:
                if firm_item.unusable:
                    yield f"{dongle.text}: {firm_item.unusable}"


def _fail(outlet: logs.Outlet, code: int, error: BaseException) -> int:
    outlet.write(f"cmserverd: {error}\n")  # after all that is in the log, and no line of it
    return code


if __name__ == "__main__":
    sys.exit(main())
