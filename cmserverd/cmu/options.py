"""The options of a product item in words, for the cell of a table."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from rich.text import Text

from protocol.listings import EntryInfo, EntryState
from protocol.terms import printable, shown_period

LOUD: Final = "bold red"
"""The style of what needs attention; a word says it too."""


def options(entry: EntryInfo) -> str:
    """Return the options that have no column of their own."""
    return "; ".join(_options(entry))


def _options(entry: EntryInfo) -> Iterator[str]:
    if entry.activation is not None:
        yield f"valid from {instant(entry.activation)}"
    if entry.expiration is not None and entry.expiration != entry.valid_until:
        yield f"expires {instant(entry.expiration)}"
    if entry.usage is not None:
        begun = "not begun" if entry.usage_start is None else f"begun {instant(entry.usage_start)}"
        yield f"usage {shown_period(entry.usage)}, {begun}"
    if entry.maintenance is not None:
        yield f"maintenance {instant(entry.maintenance[0])} to {instant(entry.maintenance[1])}"
    if entry.units is not None:
        yield f"{entry.units_left} of {entry.units} units left"
    if entry.linger:
        yield f"linger {shown_period(entry.linger)}"
    if entry.borrow_seconds is not None:
        licenses = "" if entry.borrow_licenses is None else f", {entry.borrow_licenses} at a time"
        yield f"may be borrowed for {shown_period(entry.borrow_seconds)}{licenses}"
    if entry.minimum_runtime:
        yield f"server {entry.minimum_runtime} or later"
    if entry.protected_data:
        yield f"protected data {_data(entry.protected_data)}"
    if entry.user_data:
        yield f"user data {_data(entry.user_data)}"


def state(word: str) -> str | Text:
    """Return whether a license is valid; what is not stands out. A newer server may have other words."""
    return "" if word == EntryState.VALID else Text(printable(word.replace("_", " ").upper()), LOUD)


def until(seconds: int | None) -> str:
    """Return when a license ends."""
    return "never" if seconds is None else instant(seconds)


def instant(seconds: int) -> str:
    """Return a time, in UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(seconds)  # a server may send any number


def _data(octets: bytes) -> str:
    """Return data as text if it is one, else as hexadecimal digits."""
    text = octets.decode("ascii", "replace")
    return f"{text!a}" if text.isascii() and text.isprintable() else octets.hex()
