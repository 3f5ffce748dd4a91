"""Readers of WebAdmin's pages, a process of its own: what so many browsers ask for, and how late they show a change.

    python -m bench.readers WEBADMIN DAEMON      both are ports on 127.0.0.1

It says `true`, and then answers each line with one value:

    open N      opens N pages, each drawn once and listening: `true`
    close       closes them: a `Reading`
    change      takes a handle or gives it back: the seconds until all pages of its license that are open show that
    first       the seconds until a page of that license, with its first rows, is there as a whole

A page does what the browser does: it listens to the stream that the page names, and when that tells of a change it asks
for its region anew, over a connection that is kept.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse, RemoteDisconnected
from itertools import cycle, islice
from typing import Final

from msgspec import Struct

from bench import requests
from bench.processes import PATIENCE, say
from protocol import messages as m

_DETAILS: Final = f"/licenses/{requests.CONTAINER.id}/{requests.FIRM_CODE}/{requests.PRODUCT_CODE}"
_PATHS: Final = (_DETAILS, "/", _DETAILS, "/licenses", "/sessions")
"""What is open, again and again: what an operator leaves open on a screen."""

_STREAM: Final = re.compile(rb'data-stream="([^"]+)"')
_AVAILABLE: Final = re.compile(rb"available (\d+)\.")
_NUMBER: Final = 90_000_000
"""The number of the client who makes changes: a station that holds nothing else."""


class Reading(Struct, frozen=True):
    """What came of open pages: how often they were drawn anew, and for how long one was not, in seconds, at most."""

    drawn: int
    longest: float


class _Page:
    """An open page, a thread that listens and one connection that it asks over."""

    def __init__(self, port: int, path: str) -> None:
        self.path = path
        self.drawn = 0
        self.longest = 0.0
        self.available = -1
        self.fault: Exception | None = None
        self._asking = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._listening = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._closed = False
        found = _STREAM.search(self._draw({}))
        if found is None:
            msg = f"{path} names no stream"
            raise ValueError(msg)
        self._last = time.monotonic()
        stream = _answer(self._listening, found[1].decode().replace("&amp;", "&"), {})
        self._thread = threading.Thread(target=self._listen, args=(stream,), daemon=True)
        self._thread.start()

    def _draw(self, headers: dict[str, str]) -> bytes:
        body = _answer(self._asking, self.path, headers).read()
        found = _AVAILABLE.search(body)
        self.available = int(found[1]) if found else -1
        return body

    def _listen(self, stream: HTTPResponse) -> None:
        try:
            while line := stream.readline():
                if line.startswith(b"event: change"):
                    self._draw({"HX-Request": "true"})
                    self.drawn += 1
                    self._took()
        except (OSError, ValueError, HTTPException) as error:
            if not self._closed:
                self.fault = error
        self._took()

    def _took(self) -> None:
        now = time.monotonic()
        self.longest = max(self.longest, now - self._last)
        self._last = now

    def close(self) -> None:
        """Close it as a browser does, in the middle of its stream. Raises what went wrong meanwhile."""
        self._closed = True
        if self._listening.sock is not None:
            self._listening.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        self._asking.close()
        if self.fault is not None:
            raise self.fault


def _answer(connection: HTTPConnection, path: str, headers: dict[str, str]) -> HTTPResponse:
    """Return the answer, to be read. Raises ValueError if it is no page, OSError, HTTPException."""
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
    except (RemoteDisconnected, BrokenPipeError, ConnectionResetError):  # it was idle for too long; browsers do so, too
        connection.close()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
    if answer.status != 200:
        msg = f"{path} was answered {answer.status}"
        raise ValueError(msg)
    return answer


class _Changer:
    """A client of the daemon, that takes a handle and gives it back."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        requests.call(self._sock, requests.hello(_NUMBER), m.Greeting)
        self._handle = 0

    def change(self) -> int:
        """Do it; return by how many licenses more are available."""
        if self._handle:
            requests.call(self._sock, m.Release(self._handle), m.Done)
            self._handle = 0
            return 1
        self._handle = requests.call(self._sock, requests.access(bytes(16)), m.Granted).handle
        return -1


def _seen(pages: list[_Page], changer: _Changer) -> float:
    """Make a change, and return how long it took until all pages show it. Raises ValueError if one does not."""
    showing = [page for page in pages if page.path == _DETAILS]
    before = {page.available for page in showing}
    if len(before) != 1:
        msg = f"the open pages show {sorted(before)} available: something else changes, too"
        raise ValueError(msg)
    begin = time.monotonic()
    wanted = before.pop() + changer.change()
    while any(page.available != wanted for page in showing):
        if time.monotonic() > begin + PATIENCE:
            msg = "a change is not on all open pages"
            raise ValueError(msg)
        time.sleep(0.002)
    return time.monotonic() - begin


def main(arguments: list[str]) -> None:
    """Do what the module's text says."""
    webadmin, daemon = map(int, arguments)
    changer = _Changer(daemon)
    pages: list[_Page] = []
    say(value=True)
    for line in sys.stdin:
        match line.split():
            case ["open", count]:
                pages = [_Page(webadmin, path) for path in islice(cycle(_PATHS), int(count))]
                say(value=True)
            case ["close"]:
                for page in pages:
                    page.close()
                say(Reading(sum(page.drawn for page in pages), max(page.longest for page in pages)))
                pages = []
            case ["change"]:
                say(_seen(pages, changer))
            case ["first"]:
                begin = time.monotonic()
                page = _Page(webadmin, _DETAILS)
                say(time.monotonic() - begin)
                page.close()
            case _:
                msg = f"no such command: {line!r}"
                raise ValueError(msg)


if __name__ == "__main__":
    main(sys.argv[1:])
