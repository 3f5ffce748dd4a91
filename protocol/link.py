"""The blocking client's connection: the socket, the thread that serves it, and the thread that tells of events."""

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
from protocol.messages import Event, KeepAlive
from protocol.rpc import CHUNK
from protocol.session import EVENTS, Call, ClientSession, Outcome

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
    """One connection: its socket, and the thread that reads, writes and keeps it alive.

    The socket is the link's from the start: if no link can be made, which raises OSError, it is closed.

    Only the thread touches the socket. A caller could send his request himself and save the thread's waking up; but
    then a Ctrl-C between sending and noting what was sent would send it twice.
    """

    def __init__(
        self,
        connection: socket.socket,
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
        connection.setblocking(False)
        self._connection = connection
        self._session = session
        self._lock = lock
        self._dispatcher = dispatcher
        self._timeout = timeout
        self._awaken.setblocking(False)
        self._awakened.setblocking(False)
        self._next: float | None = None  # when the next sign of life is due
        self._deadline: float | None = None  # when the last one must have been answered
        self._thread = threading.Thread(target=self._run, name="cmserverd-client", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        try:
            self._thread.start()
        except BaseException:
            self.close_copies()
            raise

    def join(self) -> None:
        """Wait for the thread, which ends when the session has lost its connection, and closes the socket."""
        with self._lock:
            self.flush()
        if self._thread.ident is not None:  # it could be started
            self._thread.join()

    def close_copies(self) -> None:
        """Close the file descriptors of this process, and nothing else."""
        for held in (self._connection, self._awaken, self._awakened):
            held.close()

    def flush(self) -> None:
        """Have the session's outbox sent. With the lock held, as the thread closes what this writes to."""
        with suppress(OSError):  # full: it will wake anyway; closed: it has ended
            self._awaken.send(b"\0")

    def _send(self) -> None:
        outbox = self._session.outbox
        if outbox:
            try:
                del outbox[: self._connection.send(outbox)]
            except BlockingIOError:
                pass
            except OSError:
                outbox.clear()  # the thread learns why: perhaps a farewell is still to be read

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                selector.register(self._awakened, selectors.EVENT_READ)
                while (patience := self._tend(selector)) is not None:
                    for key, _ in selector.select(patience):
                        if key.fileobj is self._awakened:
                            self._awakened.recv(CHUNK)
                    self._read()
        finally:
            with self._lock:
                self._session.lost("its thread has ended")
                self.close_copies()

    def _tend(self, selector: selectors.BaseSelector) -> float | None:
        """Send what is due; return for how many seconds to wait, or None if the connection has ended."""
        with self._lock:
            now = time.monotonic()
            if self._deadline is not None and now >= self._deadline:
                self._session.lost("the server gives no sign of life")
            if not self._session.connected:
                return None
            due = now + self._timeout  # not greeted yet: whoever waits for it has his own limit
            if not self._session.broken:
                if self._next is None:
                    self._next = now + self._session.keep_alive
                elif now >= self._next and self._deadline is None:
                    self._next = now + self._session.keep_alive
                    self._deadline = now + self._timeout
                    self._session.submit(Call(KeepAlive(), self._is_alive))
                due = self._next if self._deadline is None else self._deadline
            self._send()
            waits = selectors.EVENT_WRITE if self._session.outbox else 0
            selector.modify(self._connection, selectors.EVENT_READ | waits)
            return max(0.0, due - now)

    def _is_alive(self, _: Outcome) -> None:
        self._deadline = None

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
