"""Licensed programs, as PCs in the network run them."""

from __future__ import annotations

import secrets

from drivers import keys
from protocol import messages as m
from protocol import rpc
from protocol.terms import AccessMode, Client, Station
from tests.daemon.harness import FIRM, Caller, Daemon

CHARTS = 14
DESIGNER = 15


def program(daemon: Daemon, host: str = "WIBU", user: str = "fs", application: str = "Chart Processing") -> Caller:
    """Start a program on a PC; it hears events."""
    listening, _, port = daemon.said("serving")["listening"][0].rpartition(":")
    caller = Caller((listening.strip("[]"), int(port)))
    caller.ask(m.Hello((1, 1), Client(host, user, 4711, application), Station(host.encode().hex()[:64]), "push"))
    return caller


def access(caller: Caller, product: int = CHARTS, mode: AccessMode = AccessMode.STATION_SHARE) -> int:
    """Have it take an access; return the handle."""
    key = m.AccessKey(secrets.token_bytes(16))
    return caller.ask(m.Access(key, FIRM, product, mode)).handle


def hear(caller: Caller, events: int) -> None:
    """Wait until it has been told of so many events."""
    while len(caller.inbox.events) < events:
        data = caller.sock.recv(rpc.CHUNK)
        assert data, "the server closed"
        caller.inbox.feed(data)


def borrow(caller: Caller, daemon: Daemon, seconds: int = 86_400) -> m.Borrowed:
    """Have it take a license of the designer along."""
    with Caller(daemon.monitor) as monitor:
        monitor.ask(m.Hello((1, 1), Client("", "", 0), Station("monitor")))
        now = monitor.ask(m.ServerInfoRequest()).time
    loan = m.LoanId(secrets.token_bytes(16))
    holder = keys.public_of(keys.generate())
    return caller.ask(
        m.Borrow(id=loan, holder=holder, seconds=seconds, time=now, firm_code=FIRM, product_code=DESIGNER)
    )
