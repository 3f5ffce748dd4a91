"""Wires the parts, starts them in the right order and stops them in time.

Ready means: the clients' sockets listen. Containers may still be read then; requests that they could serve are answered
with 238 until every driver has looked once.
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import signal
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import structlog
import trio
from msgspec.structs import replace

import cmserverd
from cmserverd import lending, wal
from cmserverd.absences import Absences
from cmserverd.answers import Door
from cmserverd.auditor import Auditor
from cmserverd.clock import LicenseClock
from cmserverd.clones import Clones
from cmserverd.config import Config
from cmserverd.connection import Pace
from cmserverd.core.refusal import Refused
from cmserverd.core.rules import Limits
from cmserverd.deadlines import Deadlines
from cmserverd.engine import Engine, Listener
from cmserverd.journal import Journal, Upkeep
from cmserverd.logs import Log, Threshold
from cmserverd.notify import Notifier
from cmserverd.reaper import Patience, Reaper
from cmserverd.server import CannotListen, Rooms, accept, listen_tcp, listen_unix, shown_address
from cmserverd.service import Introduction, Service
from cmserverd.settings import Settings
from cmserverd.store import Store
from cmserverd.trace import trace
from cmserverd.watcher import Intervals, Site, Watcher
from cmserverd.witness import Witness
from drivers.driver import Driver
from protocol import messages, station

_log = structlog.get_logger("daemon")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Two that stop the daemon, and one that has it read its settings anew."""

_PARTING = 1.0
"""How many seconds clients have at a stop to read the goodbye."""

_FILES = 1_048_576
"""As many open files as the kernel allows a process unless it is told otherwise; more than clients there can be."""


async def run(settings: Settings, drivers: Mapping[str, Driver], log: Log) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises CannotListen, SettingError, StoreFault."""
    config = settings.config
    with ExitStack() as stack:
        signals = _receive_signals(stack)
        listeners = _listen(config, stack)
        limits = _limits(config)
        engine = Engine(LicenseClock(), _listener_failed, limits)
        store = _recover(config, engine, stack)
        service = Service(engine, _introduction(config), config.trust)
        service.listening = tuple(shown_address(listener) for listener, door in listeners if door is Door.CLIENT)
        service.settings, service.logbook = settings, log.book
        Clones(engine)
        lending.tell(engine)
        rooms = Rooms(allow_files(), limits)
        settings.apply = partial(_take_over, service, rooms, log.threshold)
        if config.log.level == "debug":
            engine.listen(trace)
        _settle_memory()
        witness = None
        async with trio.open_nursery() as records:
            if store is not None:
                journal = _journal(config, service, store)
                witness = Witness(engine, service.devices, journal)
                records.start_soon(journal.run)
            await _serve(settings, drivers, service, listeners, rooms, witness, signals)
            engine.stop()
            records.cancel_scope.cancel()  # it keeps first what has happened until now
    _log.info("stopped")


async def _serve(
    settings: Settings,
    drivers: Mapping[str, Driver],
    service: Service,
    listeners: list[tuple[socket.socket, Door]],
    rooms: Rooms,
    witness: Witness | None,
    signals: AsyncIterator[int],
) -> None:
    """Serve until a signal comes that says to stop."""
    config = settings.config
    notifier = Notifier()
    async with trio.open_nursery() as connections, trio.open_nursery() as parts:
        async with trio.open_nursery() as doors:
            pace = Pace(config.sessions.hello_timeout, config.sessions.stalled)
            for listener, door in listeners:
                doors.start_soon(accept, listener, service, door, pace, connections, rooms)
            parts.start_soon(Reaper(service, _patience(config)).run)
            parts.start_soon(Deadlines(service.engine).run)
            parts.start_soon(_watch, config, drivers, service)
            parts.start_soon(_stay_alive, notifier)
            if witness is not None:
                parts.start_soon(witness.run)
            notifier.ready()
            notifier.status(f"serving on {', '.join(service.listening)}")
            _log.info("serving", listening=service.listening, version=cmserverd.__version__)
            while (received := await anext(signals)) == signal.SIGHUP:
                with suppress(Refused):  # the log says it
                    settings.reload("SIGHUP")
            notifier.stopping()
            _log.info("stopping", signal=signal.Signals(received).name)
            doors.cancel_scope.cancel()
        # Nobody comes in any more: who is in is told, and has time to hear it while the parts end.
        service.stop()
        connections.cancel_scope.deadline = trio.current_time() + _PARTING
        if witness is not None:
            await witness.sign_last()
        parts.cancel_scope.cancel()


def _receive_signals(stack: ExitStack) -> AsyncIterator[int]:
    """From here on a signal is a value that is received, and Ctrl-C cannot land in the middle of a grant.

    The receiver gives back to the former handlers what it was sent and nobody took, and a second signal must not break
    the stop: so those do nothing. Signals are held back meanwhile; none is lost between one handler and the next.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for number in _SIGNALS:
        signal.signal(number, _ignore)  # not SIG_IGN: setting that throws away what is held back
        stack.callback(signal.signal, number, signal.SIG_IGN)
    signals = stack.enter_context(trio.open_signal_receiver(*_SIGNALS))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return signals


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing about a signal."""


def _listen(config: Config, stack: ExitStack) -> list[tuple[socket.socket, Door]]:
    directory = Path(config.server.run_directory)
    _make(directory, 0o750, "[server] run_directory")
    stack.callback(os.close, _claim(directory / "lock", "[server] run_directory"))
    doors = []
    for name, door in (("monitor.sock", Door.MONITOR), ("control.sock", Door.CONTROL)):
        listener = stack.enter_context(listen_unix(directory / name))
        stack.callback((directory / name).unlink, missing_ok=True)
        doors.append((listener, door))
    for host, port in config.server.addresses:
        doors.append((stack.enter_context(listen_tcp(host, port)), Door.CLIENT))
    return doors


def _make(directory: Path, mode: int, setting: str) -> None:
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotListen(
            f"cannot make {directory}: {error.strerror}; correct {setting}, or make it for this user"
        ) from error


def _claim(file: Path, setting: str) -> int:
    """Lock a directory, by a file in it, for as long as the descriptor is open. Raises CannotListen.

    Without this, two daemons that start at once could each take the other's new socket for a stale one, and two could
    write one journal. What is locked is a file that nobody else may open, for whoever can open a file can lock it. It
    stays: were it removed, one daemon could lock the old file and another one the new.
    """
    directory = file.parent
    try:
        if directory.stat().st_mode & stat.S_IWOTH:
            raise CannotListen(
                f"anybody may put files into {directory}; choose a {setting} of this user's own, "
                f"or take the permission away: chmod o-w {directory}"
            )
        claim = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CannotListen(f"cannot use {directory}: {error.strerror}; correct {setting}") from error
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(claim)
        raise CannotListen(
            f"another cmserverd is running in {directory}; stop it, or choose another {setting}"
        ) from error
    return claim


def _recover(config: Config, engine: Engine, stack: ExitStack) -> Store | None:
    """Have the engine take up what the journal tells; None if there is to be none. Raises CannotListen, StoreFault."""
    if config.journal.durability == "off":
        return None
    directory = Path(config.server.state_directory)
    _make(directory, 0o700, "[server] state_directory")
    stack.callback(os.close, _claim(directory / "journal.lock", "[server] state_directory"))
    store = Store(directory / "journal.db", power=config.journal.durability == "power")
    engine.restore(store)
    if commits := wal.lost(store.path):
        _log.error(
            "what was kept last is lost: the end of the journal's log cannot be read; there was a power cut, or the "
            "disk is damaged: look at it and at the system's log",
            commits=commits,
        )
    if engine.position:
        table = engine.table
        _log.info("taken up from the journal", sessions=len(table.sessions), accesses=len(table.accesses))
    return store


def _journal(config: Config, service: Service, store: Store) -> Journal:
    upkeep = Upkeep(history=config.journal.history * 1_000_000)
    journal = Journal(service, store, power=config.journal.durability == "power", upkeep=upkeep)
    service.engine.restart()
    service.auditor = Auditor(store.path)
    service.statistics.keeping = journal
    return journal


def _limits(config: Config) -> Limits:
    borrowing = config.borrowing
    longest = borrowing.maximum or Limits().borrow_maximum
    return Limits(
        config.sessions.handles,
        config.sessions.per_address,
        borrow_maximum=longest if borrowing.allowed else 0,
        borrow_keep=borrowing.keep,
        borrow_per_address=borrowing.per_address,
    )


def _take_over(service: Service, rooms: Rooms, threshold: Threshold, config: Config) -> None:
    """Have settings hold that were changed while the daemon runs."""
    engine = service.engine
    engine.limits = _limits(config)
    rooms.limit(engine.limits)
    service.introduction = replace(service.introduction, net_info=config.server.net_info)
    if config.trust != service.devices.trust:
        service.devices.believe(config.trust)
    threshold.set(config.log.level)
    engine.leave(trace)
    if config.log.level == "debug":
        engine.listen(trace)


def _patience(config: Config) -> Patience:
    return Patience(config.sessions.grace, config.sessions.timeout, config.sessions.sweep)


def _introduction(config: Config) -> Introduction:
    server = messages.Server(config.server.name, "cmserverd", cmserverd.__version__)
    return Introduction(server, station.machine(), config.sessions.timeout, config.server.net_info)


async def _watch(config: Config, drivers: Mapping[str, Driver], service: Service) -> None:
    """Run a watcher for each driver; once all have looked, the server has started."""
    engine = service.engine
    containers = config.containers
    waiting = set(drivers)

    def looked(name: str) -> None:
        waiting.discard(name)
        if not waiting:
            engine.started()
            absences.begin_all()
            if not engine.table.containers:
                _log.warning("no container is plugged in; licenses are served when one comes", drivers=list(drivers))

    async with trio.open_nursery() as nursery:
        absences = Absences(engine, containers.pull_grace, nursery)
        if not drivers:
            _log.warning("no driver is configured; there will be no licenses")
            engine.started()
            absences.begin_all()
        site = Site(engine, service.devices, absences)
        intervals = Intervals(containers.poll, containers.settle)
        for name, driver in drivers.items():
            nursery.start_soon(Watcher(name, driver, site, intervals).run, looked)


async def _stay_alive(notifier: Notifier) -> None:
    if notifier.watchdog is None:
        return
    while True:
        notifier.alive()
        await trio.sleep(notifier.watchdog)


def allow_files() -> int:
    """Allow as many open files, and so connections, as the system does; return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:  # the hard limit is above what the kernel allows by now
        _log.warning("the limit of open files stays as it is", limit=soft, reason=str(error))
        return soft
    return wanted


def _settle_memory() -> None:
    """Keep the garbage collector off what lives for ever.

    The table is invisible to the collector (see `core.terms`), so what it walks over is the connections only.
    """
    gc.collect()
    gc.freeze()


def _listener_failed(listener: Listener, error: Exception) -> None:
    _log.error("a listener met a bug and is taken off", listener=repr(listener), exc_info=error)
