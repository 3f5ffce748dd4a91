"""License tracking as `cmu` writes it: in the field's line format, as JSON lines, as CSV; and whether it is sound.

What clients call themselves stands in it, and whoever opens it with a spreadsheet or a terminal must not be steered by
that: control characters become `?`, and a CSV cell that a spreadsheet would take for a formula is quoted.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cmserverd.cmu import updating
from cmserverd.cmu.options import instant
from cmserverd.cmu.outcome import Misused
from protocol.address import Unix, parse
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import ServerInfoRequest
from protocol.terms import printable
from protocol.tracking import TrackedFrom, TrackingEvent, TrackingLine, TrackingProof, TrackingRequest, VerifyTracking

FORMATS: Final = ("cmlog", "jsonl", "csv")

FIELDS: Final = TrackingLine.__struct_fields__

_FORMULA: Final = ("=", "+", "-", "@")


def export(options: argparse.Namespace, write: Callable[[str], object]) -> int:
    """Write the lines that the options choose, as they come; return how many. Raises Misused, LicenseError."""
    socket = monitor(options.server)
    render: Callable[[TrackingLine], str]
    match options.format:
        case "jsonl":
            render = json_line
        case "csv":
            render = csv_line
            write(csv_header())
        case _:
            render = CmLog(updating.ask(socket, ServerInfoRequest(), options.timeout).server.name).line
    written = 0
    for line in _lines(socket, options):
        if text := render(line):
            write(text)
            written += 1
    return written


def verify(options: argparse.Namespace) -> TrackingProof:
    """Have the server verify it. Raises Misused, LicenseError."""
    return updating.ask(monitor(options.server), VerifyTracking(), options.timeout)


def sentence(proof: TrackingProof) -> str:
    """Say a proof to people."""
    until = f"position {proof.position}, {instant(proof.time)} UTC"
    if not proof.sound:
        return printable(f"License tracking is sound up to {until}, and not from there on: {proof.text}")
    said = f"License tracking is sound up to {until}: {proof.entries} entries in {proof.segments} segment(s)."
    if proof.proven:
        return (
            f"{said} Container {printable(proof.container)} signed it up to position {proof.proven}, "
            f"{instant(proof.proven_time)} UTC."
        )
    if proof.strangers:
        return f"{said} It is proven by no container that is plugged in; others have signed it {proof.strangers} times."
    return f"{said} No container has signed it, so that it could have been made anew."


class CmLog:
    """The field's line format (domain reference, section 12), of a server with this name.

    A line for each allocation, since the field's readers count lines: what shares one has no line of its own, nor has
    what counts nothing.
    """

    def __init__(self, server: str) -> None:
        self._server = f"Server:{quoted(server)}"
        self._licenses: dict[tuple[int, int], str] = {}

    def line(self, line: TrackingLine) -> str:
        """Return a line; empty if the field has none for it."""
        said = self._said(line)
        return f"{stamp(line.time)} {said}\n" if said else ""

    def _said(self, line: TrackingLine) -> str:
        license_id = f"{line.container}-{line.firm_code}-{line.item}"
        who = f"Client:{quoted(line.host)}, User:{quoted(line.user)}"
        application = f"AppText:{quoted(line.application)}"
        match line.event:
            case TrackingEvent.STARTED:
                return f"Admin {self._server} CodeMeter_started"
            case TrackingEvent.STOPPED:
                return f"Admin {self._server} CodeMeter_stopped"
            case TrackingEvent.LICENSES:
                self._licenses.clear()
                return "List of Licenses"
            case TrackingEvent.LICENSE:
                self._licenses.setdefault((line.firm_code, line.product_code), license_id)
                end = "" if line.expiration is None else stamp(line.expiration)
                return (
                    f"License {self._server}, LicenseID:{license_id}, SN:{line.container}, FC:{line.firm_code}, "
                    f"PC:{line.product_code}, FM:{line.feature_map or 0}, ET:{end}, LQ:{line.quantity}, "
                    f"PT:{quoted(line.text)}"
                )
            case TrackingEvent.ACCESS if line.units:
                ids = f"LicenseId:{license_id}, AccessId:{license_id}-{line.allocation}"
                return f"Access {self._server}, {ids}, {who}, AppId:0, {application}"
            case TrackingEvent.RELEASE if line.units:
                return f"Release {self._server}, AccessID:{license_id}-{line.allocation}"
            case TrackingEvent.BORROW if line.units:
                ids = f"LicenseId:{license_id}, BorrowId:{license_id}-{line.handle}"
                end = "" if line.expires is None else stamp(line.expires)
                return f"Borrow {self._server}, {ids}, {who}, Expires:{end}, BorrowSn:{quoted(line.holder)}"
            case TrackingEvent.RETURN if line.units:
                return f"Return {self._server}, BorrowId:{license_id}-{line.handle}"
            case TrackingEvent.DENIAL:
                if not (line.container and line.item):
                    license_id = self._licenses.get((line.firm_code, line.product_code), license_id)
                return f"Denial {self._server}, LicenseID:{license_id}, {who}, AppID:0, {application}"
            case _:
                return ""


def json_line(line: TrackingLine) -> str:
    """Return a line as a JSON object, in ASCII."""
    return json.dumps({name: getattr(line, name) for name in FIELDS}) + "\n"


def csv_header() -> str:
    """Return the names of the columns."""
    return csv_row(list(FIELDS))


def csv_line(line: TrackingLine) -> str:
    """Return a line as a row; its times are written as the field does."""
    values = {name: getattr(line, name) for name in FIELDS}
    values["time"] = stamp(line.time)
    for name in ("expiration", "expires"):
        values[name] = "" if values[name] is None else stamp(values[name])
    return csv_row([_cell(value) for value in values.values()])


def quoted(text: str) -> str:
    """Return a text in quotes; a quote in it, or a backslash, has a backslash before it."""
    inner = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inner}"'


def stamp(seconds: int) -> str:
    """Return a time as the field writes it, in UTC; as a number of seconds if no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def moment(text: str) -> int:
    """Return the time that a text names, in Unix seconds: a date or a date and a time, in UTC unless it says other.

    Raises argparse.ArgumentTypeError.
    """
    try:
        found = datetime.fromisoformat(text)
        seconds = int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        seconds = -1
    if seconds < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 2026-01-31 or 2026-01-31T23:59:59, in UTC")
    return seconds


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def csv_row(cells: list[object]) -> str:
    """Return cells as a row of CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _lines(socket: Path, options: argparse.Namespace) -> Iterator[TrackingLine]:
    """Yield all lines, page by page. Raises LicenseError, also where they do not come to an end."""
    cursor: TrackedFrom | None = None
    while True:
        page = updating.ask(socket, TrackingRequest(options.since, options.until, cursor), options.timeout)
        yield from page.lines
        if page.next is None:
            return
        before, cursor = cursor, page.next
        if before is not None and (cursor.segment, cursor.lines) <= (before.segment, before.lines):
            raise LicenseError.of(ErrorNumber.NETWORK_FAULT, "its license tracking does not come to an end")


def monitor(named: str | None) -> Path:
    """Return the path of the monitor socket to ask. Raises Misused, SettingError."""
    if named is None:
        return updating.run_directory() / updating.MONITOR
    address = parse(named)
    if not isinstance(address, Unix):
        raise Misused(f"{named!r} is asked over the network, where this is not told; write --server unix:/path")
    return Path(address.path)
