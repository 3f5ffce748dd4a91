"""How values are spelt on the pages: times, periods, access modes, states. What clients say goes through `shown`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from protocol.errors import ErrorNumber, LicenseError, detail_of
from protocol.listings import EntryState
from protocol.terms import printable

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))

_STATES: Final = {
    EntryState.VALID: "",
    EntryState.INACTIVE: "not valid yet",
    EntryState.EXPIRED: "expired",
    EntryState.USAGE_OVER: "usage period over",
    EntryState.EXHAUSTED: "no units left",
    EntryState.NEEDS_NEWER_SERVER: "needs a newer license server",
}

_KINDS: Final = {"hardware": "dongle", "virtual": "virtual (a file)", "embedded": "embedded (for trials)"}


def instant(seconds: int) -> str:
    """Return a time, in UTC; the number itself if no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def until(seconds: int | None) -> str:
    """Return when something ends; None: never."""
    return "never" if seconds is None else instant(seconds)


def moment(text: str) -> int | None:
    """Return the time that a field of a form names, in UTC; None if it names none. Raises ValueError."""
    if not text.strip():
        return None
    try:
        found = datetime.fromisoformat(text.strip())
        seconds = int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        seconds = -1
    if seconds < 0:
        msg = f"“{shown(text[:40])}” is no time; write 2026-01-31 or 2026-01-31 23:59, in UTC"
        raise ValueError(msg)
    return seconds


def about(seconds: int) -> str:
    """Return roughly how long a time is, in one or two units: `3 d 4 h`."""
    parts = []
    for size, name in _UNITS:
        if seconds >= size:
            parts.append(f"{seconds // size} {name}")
            seconds %= size
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"


def mode(name: str) -> str:
    """Return an access mode, or a kind of handle, as the field writes it: `Station Share`."""
    return shown(name.replace("_", " ").title())


def kind(name: str) -> str:
    """Return what a container is."""
    return _KINDS.get(name, shown(name))


def state(word: str) -> str:
    """Return why a license is not valid; nothing if it is. A newer server may have other words."""
    return _STATES.get(EntryState(word), "") if word in list(EntryState) else shown(word.replace("_", " "))


def feature_map(bits: int | None) -> str:
    """Return a feature map as the field writes it; nothing if there is none."""
    return "" if bits is None else f"0x{bits:08x}"


def data(octets: bytes) -> str:
    """Return data as text if it is one, else as hexadecimal digits."""
    text = octets.decode("ascii", "replace")
    return text if text.isascii() and text.isprintable() else octets.hex(" ")


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 access`, `4 accesses`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def refusal(error: LicenseError) -> str:
    """Return what the license server says to a request that it refuses, with the number, which is said once."""
    number, text = error.body.number, error.body.text
    said = detail_of(ErrorNumber(number), text) if number in list(ErrorNumber) else text
    return shown(f"{said} (error {number})")


def shown(text: str) -> str:
    """Return a stranger's text with what could turn the reading direction or hide itself replaced by a visible sign."""
    return printable(text)
