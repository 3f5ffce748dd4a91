"""The daemon's parts in this process, without its drivers, and a table filled through the engine's own door."""

from __future__ import annotations

import os
import socket
import sys

import trio

from bench.processes import allow_many_files
from bench.requests import CONTAINER, access, hello, received
from cmserverd import daemon, logs
from cmserverd.answers import Door
from cmserverd.clock import LicenseClock
from cmserverd.clones import Clones
from cmserverd.connection import Pace
from cmserverd.core.terms import Session
from cmserverd.engine import Engine, Listener
from cmserverd.server import Rooms, accept
from cmserverd.service import Introduction, Service
from protocol import messages


def settle() -> None:
    """Give this process the daemon's log and settings of memory."""
    logs.configure("warning", "json", sys.stderr)
    daemon._settle_memory()  # noqa: SLF001 - the same settings as the daemon, not similar ones


def make_engine() -> Engine:
    """Return an engine with the container plugged in."""
    engine = Engine(LicenseClock(), _failed)
    engine.plug(CONTAINER)
    engine.started()
    return engine


def make_service(engine: Engine) -> Service:
    """Return a service for the engine, with all that listens to the engine in the daemon."""
    Clones(engine)
    return Service(engine, Introduction(messages.Server("bench", "cmserverd", "0"), "bench", 120.0))


async def accept_clients(listener: socket.socket, service: Service, nursery: trio.Nursery) -> None:
    """Serve clients as the daemon does, for ever; each connection is a task of the nursery."""
    await accept(listener, service, Door.CLIENT, Pace(), nursery, Rooms(allow_many_files()))


def open_sessions(engine: Engine, stations: int, first: int = 0) -> list[Session]:
    """Open a session for each of so many stations, from number `first` on, each with an address of its own."""
    sessions = []
    for number in range(first, first + stations):
        greeting = received(hello(number))
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        sessions.append(engine.open(os.urandom(32), greeting.client, greeting.station, address, local=False))
    return sessions


def hold(engine: Engine, sessions: list[Session], each: int) -> None:
    """Let each session hold so many handles more; they come round about, as in life."""
    for _ in range(each):
        for session in sessions:
            engine.access(session, received(access(os.urandom(16))))


def _failed(listener: Listener, error: Exception) -> None:
    msg = f"the listener {listener!r} failed"
    raise AssertionError(msg) from error
