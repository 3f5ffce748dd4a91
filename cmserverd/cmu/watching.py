"""What `cmu` shows while it goes on: who holds what, drawn anew when something happens; and the daemon's log."""

from __future__ import annotations

import argparse
import json
import time
from io import StringIO
from pathlib import Path
from typing import Final, NoReturn, TextIO

from msgspec import Struct, structs
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cmserverd.cmu import fetch, tables, updating
from cmserverd.cmu.options import instant
from cmserverd.cmu.tracking import monitor
from protocol.blocking import Client
from protocol.messages import Happened, LogRequest, Reload
from protocol.terms import printable
from protocol.watching import LONGEST_WAIT, LogLine

PACE: Final = 0.5
"""Seconds between two drawings at least: nobody reads faster, and a listing costs the server some milliseconds."""


class TakenOver(Struct, frozen=True):
    """The settings that have changed: those that are in force now, and those that a restart is needed for."""

    taken: tuple[str, ...]
    restart: tuple[str, ...]

    def sentence(self) -> str:
        """Say it to people."""
        taken = f"Taken over: {', '.join(self.taken)}." if self.taken else "Nothing was taken over."
        webadmins = [one for one in self.restart if one.startswith("webadmin.")]
        others = [one for one in self.restart if one not in webadmins]
        restart = f" A restart is needed for: {', '.join(others)}." if others else ""
        webadmin = f" A restart of WebAdmin is needed for: {', '.join(webadmins)}." if webadmins else ""
        return printable(taken + restart + webadmin)


def watch(options: argparse.Namespace, chosen: fetch.Selection, out: Console) -> NoReturn:
    """Show who holds what on a terminal, for ever. Raises Misused, LicenseError."""
    socket = monitor(options.server)
    with _client(socket, options) as client, Live(console=out, screen=True, auto_refresh=False) as live:
        position = client.call(Happened()).position  # before it is listed: what happens meanwhile is not missed
        while True:
            live.update(_drawn(fetch.network(client, chosen), out.width), refresh=True)
            happened = False
            while not happened:
                answer = client.call(Happened(position, LONGEST_WAIT))
                position, happened = answer.position, answer.missed or bool(answer.events)
            time.sleep(PACE)


def events(options: argparse.Namespace, out: TextIO) -> int:
    """Write the last lines of the daemon's log, and with --watch those that come, for ever; return how many.

    Raises Misused, LicenseError.
    """
    written = number = wait = 0
    with _client(monitor(options.server), options) as client:
        while True:
            page = client.call(LogRequest(number, wait))
            out.writelines(f"{_json(line) if options.json else _said(line)}\n" for line in page.lines)
            out.flush()
            written, number, wait = written + len(page.lines), page.number, LONGEST_WAIT
            if not options.watch:
                return written


def reload(options: argparse.Namespace) -> TakenOver:
    """Have the daemon read its configuration anew. Raises Misused, LicenseError, SettingError."""
    done = updating.ask(updating.control_socket(options.server), Reload(), options.timeout)
    return TakenOver(done.taken, done.restart)


def _client(socket: Path, options: argparse.Namespace) -> Client:
    return Client(f"unix:{socket}", application="cmu", timeout=options.timeout + LONGEST_WAIT)


def _said(line: LogLine) -> str:
    return printable(f"{instant(line.time)} [{line.level}] {line.event} {line.fields}".rstrip())


def _json(line: LogLine) -> str:
    return json.dumps(structs.asdict(line))


def _drawn(found: fetch.NetworkListing, width: int) -> Text:
    """Draw a listing as it is printed; what the screen has no room for below is left out."""
    drawn = StringIO()
    out = Console(file=drawn, width=width, force_terminal=True, markup=False, emoji=False, highlight=False)
    tables.show(out, found)
    return Text.from_ansi(drawn.getvalue())
