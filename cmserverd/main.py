"""The command `cmserverd`: reads the configuration, makes the drivers, runs the daemon.

Exit codes, as in sysexits.h: 0 stopped as asked, 2 wrong usage, 69 an address or a directory cannot be had, 78 a fault
in the configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec
import trio

import cmserverd
from cmserverd import daemon, logs
from cmserverd.config import Config, ConfigError, load
from cmserverd.server import CannotListen
from drivers import registry
from drivers.driver import Driver, DriverError
from protocol.errors import SettingError

DEFAULT_CONFIG = Path("/etc/cmserverd/cmserverd.toml")

_STANDARD_ERROR = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="cmserverd", description="The license server daemon.")
    parser.add_argument("--config", metavar="FILE", type=Path, help=f"the configuration (default: {DEFAULT_CONFIG})")
    parser.add_argument("--check-config", action="store_true", help="check the configuration and stop")
    parser.add_argument("--version", action="version", version=f"cmserverd {cmserverd.__version__}")
    given = parser.parse_args(arguments)
    with logs.Outlet(_standard_error()) as outlet:
        try:
            config = _configuration(given.config)
            drivers = {name: _driver(name, options) for name, options in config.drivers.items()}
        except (ConfigError, DriverError) as error:
            return _fail(outlet, os.EX_CONFIG, error)
        if given.check_config:
            for driver in drivers.values():
                driver.close()
            print("the configuration is sound")  # noqa: T201 - this is what the command was asked for
            return os.EX_OK
        logs.configure(config.log.level, config.log.format, outlet)
        code = os.EX_OK
        try:
            trio.run(daemon.run, config, drivers, restrict_keyboard_interrupt_to_checkpoints=True)
        except* (CannotListen, SettingError) as group:
            code = _fail(outlet, os.EX_UNAVAILABLE, group.exceptions[0])
        return code


def _standard_error() -> int:
    """Return its descriptor; if there is none, one that leads nowhere: the next file opened would have its number."""
    return os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else _STANDARD_ERROR


def _configuration(path: Path | None) -> Config:
    """Read the named file, or the default one; without that, the defaults hold."""
    if path is None and not DEFAULT_CONFIG.exists():
        return Config()
    return load(path or DEFAULT_CONFIG, lambda name: registry.load(name).Options)


def _driver(name: str, options: dict[str, object]) -> Driver:
    kind = registry.load(name)
    return kind(msgspec.convert(options, kind.Options), trio.from_thread.check_cancelled)


def _fail(outlet: logs.Outlet, code: int, error: BaseException) -> int:
    outlet.write(f"cmserverd: {error}\n")  # after all that is in the log, and no line of it
    return code


if __name__ == "__main__":
    sys.exit(main())
