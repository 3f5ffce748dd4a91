"""What this process holds: a session with each server, opened when it is first needed, and the handles by number.

Any thread may use it. A process that is forked begins anew: its parent's sessions and handles are the parent's.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from itertools import count
from typing import Final

from msgspec import Struct

from protocol.blocking import Access, Client
from protocol.classic.servers import Server
from protocol.errors import ErrorNumber, LicenseError
from protocol.opening import none_reached
from protocol.terms import AccessMode


class Handle(Struct, frozen=True, eq=False):
    """A handle: the access, which may get another number at the server, and the session that it belongs to."""

    server: Server
    client: Client
    access: Access


class _Session:
    """A place for a client; the lock is held while it is opened, so that other servers' users need not wait."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.client: Client | None = None


class Handles:
    """The sessions, one for each server and application name, and the handles."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[tuple[Server, str | None], _Session] = {}
        self._handles: dict[int, Handle] = {}

    def client(self, server: Server, application: str | None) -> Client:
        """Return the session with a server, opened now if there is none. Raises LicenseError, SettingError."""
        with self._lock:
            session = self._sessions.setdefault((server, application), _Session())
        with session.lock:
            if session.client is None:
                session.client = _opened(server, application)
            return session.client

    def add(self, handle: Handle) -> int:
        """Return the number of a new handle: above 0, and never given twice, not even to a child process."""
        with self._lock:
            number = next(self._numbers)
            self._handles[number] = handle
        return number

    def get(self, number: int) -> Handle:
        """Return a handle. Raises LicenseError 106."""
        with self._lock:
            handle = self._handles.get(number)
        if handle is None:
            raise _unknown(number)
        return handle

    def take(self, number: int) -> Handle:
        """Return a handle, which is no more from now on. Raises LicenseError 106."""
        with self._lock:
            handle = self._handles.pop(number, None)
        if handle is None:
            raise _unknown(number)
        return handle

    def shares(self, server: Server, firm_code: int, product_code: int) -> bool:
        """Whether a share of a product is held at a server."""
        with self._lock:
            held = [handle.access for handle in self._handles.values() if handle.server == server]
        return any(
            access.ended is None
            and access.request.mode is AccessMode.STATION_SHARE
            and (access.request.firm_code, access.request.product_code) == (firm_code, product_code)
            for access in held
        )

    def end(self) -> None:
        """Say goodbye to all servers, which frees everything; then begin anew."""
        sessions = list(self._sessions.values())
        self._begin()
        for session in sessions:
            if session.client is not None:
                session.client.close()


def _opened(server: Server, application: str | None) -> Client:
    failures = []
    for address in server:
        client = Client(str(address), application=application)
        try:
            client.open()
        except LicenseError as error:
            failures.append(error)
        else:
            return client
    raise none_reached(failures)


def _unknown(number: int) -> LicenseError:
    return LicenseError.of(ErrorNumber.INVALID_HANDLE, f"this process (pid {os.getpid()}) has no handle {number}")


HANDLES: Final = Handles()

atexit.register(HANDLES.end)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=HANDLES.end)  # of a parent's session only the child's copy is closed
