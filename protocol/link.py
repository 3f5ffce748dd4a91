"""The blocking client's way to the server: the thread that serves its connections, and the one that tells of events."""

from __future__ import annotations

import logging
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from protocol.address import Address, Unix
from protocol.messages import Event
from protocol.opening import not_reached
from protocol.phase import Phase
from protocol.rpc import CHUNK
from protocol.session import EVENTS, ClientSession

OnEvent = Callable[[Event], None]
Dial = Callable[[Address, float], socket.socket]

_log: Final = logging.getLogger(__name__)

_LEAST: Final = 0.001
"""Seconds for an address when the others took longer than their share; 0 would mean not to wait at all."""


def dial(address: Address, timeout: float) -> socket.socket:
    """Connect within `timeout` seconds. Raises OSError.

    The addresses of a name are tried one after the other, each for its share of the time that is left. Looking the name
    up comes on top: the system's resolver has its own limits.
    """
    if isinstance(address, Unix):
        return _connect(socket.AF_UNIX, address.path, timeout)
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    deadline = time.monotonic() + timeout
    failure = OSError("the name has no address")
    for tried, (family, _, _, _, place) in enumerate(found):
        share = (deadline - time.monotonic()) / (len(found) - tried)
        try:
            connection = _connect(family, place, max(share, _LEAST))
        except OSError as error:
            failure = error
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # messages are small, and none may wait
            return connection
    raise failure


def _connect(family: int, place: Any, timeout: float) -> socket.socket:
    connection = socket.socket(family)
    try:
        connection.settimeout(timeout)
        connection.connect(place)
    except BaseException:
        connection.close()
        raise
    return connection


class Link:
    """The way to the server, one connection after the other, and the thread that serves it.

    The thread reads, writes, keeps alive, and dials again when the connection breaks, until the session is closed. The
    socket is the link's from the start: if no link can be made, which raises OSError, it is closed.

    Only the thread touches the socket. A caller could send his request himself and save the thread's waking up; but
    then a Ctrl-C between sending and noting what was sent would send it twice.
    """

    def __init__(
        self,
        connection: socket.socket,
        address: Address,
        dial: Dial,
        session: ClientSession[Any],
        lock: threading.Lock,
        dispatcher: Dispatcher | None,
        timeout: float,
    ) -> None:
        try:
            self._awaken, self._awakened = socket.socketpair()
        except OSError:  # no file descriptor is left
            connection.close()
            raise
        self._connection = connection
        self._address = address
        self._dial = dial
        self._session = session
        self._lock = lock
        self._dispatcher = dispatcher
        self._timeout = timeout
        self._awaken.setblocking(False)
        self._awakened.setblocking(False)
        self._deadline: float | None = None  # when the greeting, or the sign of life, must have been answered
        self._next: float | None = None  # when the next sign of life is due
        self._again: float | None = None  # when the next attempt is due: to dial, or to claim what was postponed
        self._dialling = False
        self._thread = threading.Thread(target=self._run, name="cmserverd-client", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        try:
            self._thread.start()
        except BaseException:
            self.close_copies()
            raise

    def join(self) -> None:
        """Wait for the thread, which ends when the session is closed. One that is dialling is left to end by itself."""
        with self._lock:
            self.flush()
            ends_by_itself = self._dialling
        if self._thread.ident is not None and not ends_by_itself:  # it could be started
            self._thread.join()

    def close_copies(self) -> None:
        """Close the file descriptors of this process, and nothing else."""
        for held in (self._connection, self._awaken, self._awakened):
            held.close()

    def flush(self) -> None:
        """Have the session's outbox sent. With the lock held, as the thread closes what this writes to."""
        with suppress(OSError):  # full: it will wake anyway; closed: it has ended
            self._awaken.send(b"\0")

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._awakened, selectors.EVENT_READ)
                self._serve(selector)
                while self._seek(selector):
                    self._serve(selector)
        finally:
            with self._lock:
                if self._session.phase is not Phase.CLOSED:  # a defect, which the program is told of elsewhere
                    self._session.close("its thread has ended")
                self.close_copies()

    def _wait(self, selector: selectors.BaseSelector, seconds: float) -> None:
        """Wait until there is something to do, at most so long."""
        for key, _ in selector.select(seconds):
            if key.fileobj is self._awakened:
                self._awakened.recv(CHUNK)

    # no connection

    def _seek(self, selector: selectors.BaseSelector) -> bool:
        """Dial until there is a connection; return whether there is one, or none is wanted any more."""
        while self._is_due(selector):
            try:
                connection = self._dial(self._address, self._timeout)
            except OSError as error:
                with self._lock:
                    self._dialling = False
                    self._session.lost(str(not_reached(self._address, error.strerror or error)))
                continue
            with self._lock:
                self._dialling = False
                self._connection = connection
                if self._session.phase is Phase.SEEKING:
                    self._session.begin()
                    return True
        return False

    def _is_due(self, selector: selectors.BaseSelector) -> bool:
        """Wait for the next attempt; return whether there is to be one."""
        self._again = None
        while True:
            with self._lock:
                if self._session.phase is not Phase.SEEKING:
                    return False
                if self._again is None:
                    self._again = time.monotonic() + self._session.backoff.next()
                patience = self._again - time.monotonic()
                if patience <= 0:
                    self._dialling = True
                    return True
            self._wait(selector, patience)

    # a connection

    def _serve(self, selector: selectors.BaseSelector) -> None:
        """Serve the connection until it ends."""
        with self._connection as connection:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
            self._deadline = time.monotonic() + self._timeout
            self._next = self._again = None
            while (patience := self._tend(selector)) is not None:
                self._wait(selector, patience)
                self._read()
            selector.unregister(connection)

    def _tend(self, selector: selectors.BaseSelector) -> float | None:
        """Send what is due; return for how many seconds to wait, or None if the connection has ended."""
        with self._lock:
            now = time.monotonic()
            if self._deadline is not None and now >= self._deadline:
                silent = self._session.phase is Phase.OPEN
                missing = f"no answer within {self._timeout:g} seconds"
                self._session.lost("the server gives no sign of life" if silent else missing)
            if self._session.phase is Phase.OPEN:
                self._keep_alive(now)
                self._claim(now)
            if not self._session.connected:
                return None
            self._send()
            waits = selectors.EVENT_WRITE if self._session.outbox else 0
            selector.modify(self._connection, selectors.EVENT_READ | waits)
            return max(0.0, min(due for due in (self._deadline, self._next, self._again) if due is not None) - now)

    def _keep_alive(self, now: float) -> None:
        if self._next is None:
            self._next = now + self._session.keep_alive
        elif now >= self._next:
            self._next = now + self._session.keep_alive
            if self._deadline is None:
                self._deadline = now + min(self._timeout, self._session.patience)
            self._session.live_on()

    def _claim(self, now: float) -> None:
        if not self._session.postponed:
            self._again = None
        elif self._again is None:
            self._again = now + self._session.backoff.next()
        elif now >= self._again:
            self._again = None
            self._session.claim()

    def _send(self) -> None:
        outbox = self._session.outbox
        if outbox:
            try:
                del outbox[: self._connection.send(outbox)]
            except BlockingIOError:
                pass
            except OSError:
                outbox.clear()  # the thread learns why: perhaps a farewell is still to be read

    def _read(self) -> None:
        with self._lock:
            events = []
            try:
                data = self._connection.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                self._session.lost(error.strerror or str(error))
                return
            if data:
                events = self._session.receive(data)
                if self._session.phase is Phase.OPEN:
                    self._deadline = None  # whatever it says is a sign of life
            else:
                self._session.lost("the server closed it")
        if self._dispatcher is not None and not self._dispatcher.take(events):
            with self._lock:
                self._session.lost("the program does not take its events")


class Dispatcher:
    """The thread that calls `on_event`."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cmserverd-events", daemon=True)
        self._thread.start()

    def take(self, events: list[Event]) -> bool:
        """Queue events; return whether there was room."""
        for event in events:
            if self._queue.qsize() >= EVENTS:
                return False
            self._queue.put(event)
        return True

    def stop(self, timeout: float) -> None:
        """End the thread after the events that wait; a callback that never returns is waited for `timeout` seconds."""
        self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            try:
                self._on_event(event)
            except Exception:
                _log.exception("on_event failed; the client goes on")
