"""Warns of clones: machines that declare one and the same station, and so share licenses that they should not.

A disk image that was copied with its machine id makes them, and StationShare then counts many PCs as one. They show by
their host names: one station with two of them at once (decision 13).
"""

from __future__ import annotations

import structlog

from cmserverd.core import changes as c
from cmserverd.core.terms import Session
from cmserverd.engine import Engine, Record
from cmserverd.seldom import Seldom
from protocol.terms import Station

_log = structlog.get_logger("clones")


class Clones:
    """Counts the sessions of each host name of each station."""

    def __init__(self, engine: Engine) -> None:
        self._table = engine.table
        self._sessions: dict[int, Session] = {}
        self._hosts: dict[Station, dict[str, int]] = {}
        self._seldom = Seldom(engine.clock.now)
        for session in engine.table.sessions.values():  # those of a journal
            self._came(session)
        engine.listen(self._hear, c.Opened, c.Closed)

    def _hear(self, record: Record) -> None:
        for change in record.changes:
            if type(change) is c.Opened:
                self._came(self._table.sessions[change.session])
            elif type(change) is c.Closed:
                self._went(self._sessions.pop(change.session))

    def _came(self, session: Session) -> None:
        self._sessions[session.id] = session
        hosts = self._hosts.setdefault(session.station, {})
        host = session.client.host.casefold()
        hosts[host] = hosts.get(host, 0) + 1
        if len(hosts) == 2 and hosts[host] == 1:
            self._seldom.say(
                _log.warning,
                "two hosts declare the same station and share its licenses; "
                "if one is a copy of the other, give it a machine id of its own",
                station=session.station.machine,
                seat=session.station.seat,
                hosts=sorted(hosts),
                address=session.address,
            )

    def _went(self, session: Session) -> None:
        hosts = self._hosts[session.station]
        host = session.client.host.casefold()
        hosts[host] -= 1
        if not hosts[host]:
            del hosts[host]
            if not hosts:
                del self._hosts[session.station]
