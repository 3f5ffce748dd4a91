"""The command `cmserverd-webadmin`: reads the daemon's configuration and serves the pages. Its exit codes: `HELP`."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import structlog
import trio

import cmserverd
from cmserverd import logs
from cmserverd.config import Config, ConfigError, load
from cmserverd.webadmin import api, certificates, health, metrics, serving
from cmserverd.webadmin.accounts import Accounts
from cmserverd.webadmin.certificates import CertificateFault, Files, InUse
from cmserverd.webadmin.daemon import Daemon, open_daemon
from cmserverd.webadmin.entrance import Entrance, Hashing
from cmserverd.webadmin.live import Live
from cmserverd.webadmin.logins import Logins
from cmserverd.webadmin.pages import ROUTES
from cmserverd.webadmin.pages.rendering import LOG_STREAM
from cmserverd.webadmin.people import Passwords, People, PeopleFault, Role
from cmserverd.webadmin.serving import Bound, CannotListen
from cmserverd.webadmin.site import Site
from cmserverd.webadmin.visitors import Proxies

DEFAULT_CONFIG = Path("/etc/cmserverd/cmserverd.toml")

HELP = """\
exit codes, as in sysexits.h:
  0   stopped as asked
  2   the command line is wrong
  69  an address or a directory cannot be had
  78  there is a fault in the configuration, or in a file that it names
"""

MACHINES = (*api.ROUTES, *metrics.ROUTES, *health.ROUTES)

DIRECTORY = "webadmin"
"""What is kept lies there, in the daemon's state directory."""

RENEWING = 3_600.0
"""Seconds after which it looks whether its certificate is another one by now, or has to be."""

_STANDARD_ERROR = 2

_log = structlog.get_logger("webadmin")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="cmserverd-webadmin",
        description="The license server's pages for people.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help=f"the configuration (default: {DEFAULT_CONFIG})")
    parser.add_argument("--version", action="version", version=f"cmserverd-webadmin {cmserverd.__version__}")
    given = parser.parse_args(arguments)
    descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else _STANDARD_ERROR
    with logs.Outlet(descriptor) as outlet, ExitStack() as stack:
        try:
            config = _configuration(given.config)
            directory = _directory(config)
            people = People(directory)
            bound = serving.bind(config.webadmin.addresses, always_secure=bool(config.webadmin.certificate))
            for one in bound:
                stack.callback(one.sock.close)
            certificate = _certificate(config, directory) if any(one.secure for one in bound) else None
        except (ConfigError, PeopleFault, CertificateFault) as error:
            return _fail(outlet, os.EX_CONFIG, error)
        except CannotListen as error:
            return _fail(outlet, os.EX_UNAVAILABLE, error)
        except OSError as error:
            return _fail(outlet, os.EX_UNAVAILABLE, f"{error.filename}: {error.strerror}; let this user write there")
        logs.configure(config.log.level, config.log.format, outlet)
        trio.run(run, config, people, bound, certificate, restrict_keyboard_interrupt_to_checkpoints=True)
        return os.EX_OK


async def run(config: Config, people: People, bound: list[Bound], certificate: InUse | None) -> None:
    """Serve until SIGTERM or SIGINT; look for another certificate at a SIGHUP."""
    stopping = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with open_daemon(Path(config.server.run_directory)) as daemon, trio.open_nursery() as nursery:
            lives = Live(daemon.happened), Live(daemon.logged, LOG_STREAM)
            proxies = Proxies(config.webadmin.proxies)
            entrance, site = make_site(config, people, daemon, lives, proxies)
            nursery.start_soon(_await_signals, signals, stopping, lives, certificate)
            nursery.start_soon(_renew_hourly, certificate)
            for live in lives:
                nursery.start_soon(live.run)
            _introduce(bound, certificate, entrance)
            secured_by = None if certificate is None else lambda: certificate.context
            await serving.serve(site, bound, secured_by, stopping, proxies)
            nursery.cancel_scope.cancel()
    _log.info("stopped")


def make_site(
    config: Config, people: People, daemon: Daemon, lives: Iterable[Live], proxies: Proxies
) -> tuple[Entrance, Site]:
    """Return the way in, which has the set-up link, and the application."""
    settings = config.webadmin
    logins = Logins(time.monotonic)
    hashing = Hashing(Passwords())
    entrance = Entrance(people, logins, hashing, time.monotonic)
    streams = [offer for live in lives for offer in live.offers]
    site = Site(
        [*entrance.offers, *ROUTES, *streams, *Accounts(people, logins, hashing, time.monotonic).offers, *MACHINES],
        people,
        logins,
        daemon,
        name=config.server.name,
        hosts=_names(config),
        anonymous=Role.VIEWER if settings.anonymous == "viewer" else None,
        proxies=proxies,
    )
    return entrance, site


async def _await_signals(
    signals: AsyncIterator[int], stopping: trio.Event, lives: Iterable[Live], certificate: InUse | None
) -> None:
    async for number in signals:
        if number == signal.SIGHUP:
            _renew(certificate)
            continue
        for live in lives:
            live.close()  # its streams would keep the server waiting
        stopping.set()


async def _renew_hourly(certificate: InUse | None) -> None:
    while True:
        await trio.sleep(RENEWING)
        _renew(certificate)


def _renew(certificate: InUse | None) -> None:
    """Take up another certificate, if there is one by now; connections that stand keep theirs."""
    if certificate is None:
        return
    try:
        if certificate.renew():
            _tell("another certificate", certificate)
    except (CertificateFault, OSError) as error:
        _log.error("the certificate stays as it was", reason=str(error))


def _tell(event: str, certificate: InUse) -> None:
    """Have the log say which certificate is shown from now on."""
    file = certificate.files[0]
    _log.info(event, file=str(file), sha256=certificates.fingerprint(file))


def _introduce(bound: list[Bound], certificate: InUse | None, entrance: Entrance) -> None:
    """Say in the log where it is, and how the first administrator is made."""
    _log.info("serving", version=cmserverd.__version__, addresses=[one.url() for one in bound])
    if certificate is not None:
        _tell("certificate", certificate)
    if entrance.link:
        _log.warning(
            "nobody can log in yet; open this link to make the first administrator",
            link=f"{_first(bound)}/setup/{entrance.link}",
        )


def _first(bound: list[Bound]) -> str:
    """Return an address that a browser can open: everywhere is no place, there the machine's name stands for it."""
    everywhere = bound[0].sock.getsockname()[0] in ("0.0.0.0", "::")  # noqa: S104 - it is only compared
    return bound[0].url(socket.gethostname() if everywhere else None)


def _configuration(path: Path | None) -> Config:
    """Read the named file, or the default one; without that, the defaults hold."""
    if path is None and not DEFAULT_CONFIG.exists():
        return Config()
    return load(path or DEFAULT_CONFIG)


def _directory(config: Config) -> Path:
    """Return where its own files are. Raises OSError."""
    directory = Path(config.server.state_directory) / DIRECTORY
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def _certificate(config: Config, directory: Path) -> InUse:
    """Return the certificate, an own one or one that is made. Raises CertificateFault, OSError."""
    settings, names = config.webadmin, _names(config)

    def find() -> Files:
        if settings.certificate:
            return Path(settings.certificate), Path(settings.key)
        made = certificates.self_made(directory, names, datetime.now(UTC))
        return made, made

    return InUse(find)


def _names(config: Config) -> list[str]:
    """Return by which names and addresses it may be called."""
    listening = [host for host, _ in config.webadmin.addresses if host not in ("0.0.0.0", "::")]  # noqa: S104
    return [*certificates.own_names(), *listening, *config.webadmin.hosts]


def _fail(outlet: logs.Outlet, code: int, error: object) -> int:
    outlet.write(f"cmserverd-webadmin: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
