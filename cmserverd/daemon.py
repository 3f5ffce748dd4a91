"""Wires the parts, starts them in the right order and stops them in time.

Ready means: the clients' sockets listen. Containers may still be read then; requests that they could serve are answered
with 238 until every driver has looked once.
"""

from __future__ import annotations

import gc
import resource
import signal
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import structlog
import trio

import cmserverd
from cmserverd.clock import LicenseClock
from cmserverd.config import Config
from cmserverd.connection import Pace
from cmserverd.conversation import Door
from cmserverd.core.rules import Limits
from cmserverd.engine import Engine, Listener
from cmserverd.notify import Notifier
from cmserverd.reaper import Patience, Reaper
from cmserverd.server import CannotListen, accept, listen_tcp, listen_unix, shown_address
from cmserverd.service import Introduction, Service
from cmserverd.watcher import Absences, Intervals, Watcher
from drivers.driver import Driver
from protocol import messages, station

_log = structlog.get_logger("daemon")

_PARTING = 1.0
"""How many seconds clients have at a stop to read the goodbye."""


async def run(config: Config, drivers: Mapping[str, Driver]) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises CannotListen, SettingError."""
    notifier = Notifier()
    with ExitStack() as stack:
        # From here on Ctrl-C is a value that is received, and cannot land in the middle of a grant.
        signals = stack.enter_context(trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT))
        doors = _listen(config, stack)
        engine = Engine(LicenseClock(), _listener_failed, _limits(config))
        service = Service(engine, _introduction(config))
        service.listening = tuple(shown_address(listener) for listener, door in doors if door is Door.CLIENT)
        _settle_memory()
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as parts:
                pace = Pace(config.sessions.hello_timeout, config.sessions.stalled)
                for listener, door in doors:
                    parts.start_soon(accept, listener, service, door, pace, connections)
                parts.start_soon(Reaper(service, _patience(config)).run)
                parts.start_soon(_watch, config, drivers, engine)
                parts.start_soon(_stay_alive, notifier)
                notifier.ready()
                _log.info("serving", listening=service.listening, version=cmserverd.__version__)
                number = await anext(aiter(signals))
                notifier.stopping()
                _log.info("stopping", signal=signal.Signals(number).name)
                parts.cancel_scope.cancel()
            service.stop()
            connections.cancel_scope.deadline = trio.current_time() + _PARTING
    _log.info("stopped")


def _listen(config: Config, stack: ExitStack) -> list[tuple[socket.socket, Door]]:
    directory = Path(config.server.run_directory)
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotListen(
            f"cannot make {directory}: {error.strerror}; correct [server] run_directory, or make it for this user"
        ) from error
    doors = []
    for name, door in (("monitor.sock", Door.MONITOR), ("control.sock", Door.CONTROL)):
        listener = stack.enter_context(listen_unix(directory / name))
        stack.callback((directory / name).unlink, missing_ok=True)
        doors.append((listener, door))
    for host, port in config.server.addresses:
        doors.append((stack.enter_context(listen_tcp(host, port)), Door.CLIENT))
    return doors


def _limits(config: Config) -> Limits:
    return Limits(config.sessions.handles, config.sessions.per_address)


def _patience(config: Config) -> Patience:
    return Patience(config.sessions.grace, config.sessions.timeout, config.sessions.sweep)


def _introduction(config: Config) -> Introduction:
    server = messages.Server(config.server.name, "cmserverd", cmserverd.__version__)
    return Introduction(server, station.machine(), config.sessions.timeout, config.server.net_info)


async def _watch(config: Config, drivers: Mapping[str, Driver], engine: Engine) -> None:
    """Run a watcher for each driver; once all have looked, the server has started."""
    containers = config.containers
    waiting = set(drivers)

    def looked(name: str) -> None:
        waiting.discard(name)
        if not waiting:
            engine.started()
            if not engine.table.containers:
                _log.warning("no container is plugged in; licenses are served when one comes", drivers=list(drivers))

    async with trio.open_nursery() as nursery:
        absences = Absences(engine, containers.pull_grace, nursery)
        intervals = Intervals(containers.poll, containers.settle)
        for name, driver in drivers.items():
            nursery.start_soon(Watcher(name, driver, engine, absences, intervals).run, looked)


async def _stay_alive(notifier: Notifier) -> None:
    while notifier.watchdog is not None:
        notifier.alive()
        await trio.sleep(notifier.watchdog)


def _settle_memory() -> None:
    """Allow as many connections as the system does, and keep the garbage collector off what lives for ever.

    The table is invisible to the collector (see `core.terms`), so what it walks over is the connections only.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.collect()
    gc.freeze()


def _listener_failed(listener: Listener, error: Exception) -> None:
    _log.error("a listener met a bug and is taken off", listener=repr(listener), exc_info=error)
