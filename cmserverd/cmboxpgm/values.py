"""What may stand on the command line: each function takes a word and returns its value.

All raise `argparse.ArgumentTypeError`, with what would be right.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cmserverd.cmboxpgm import files
from drivers.container import (
    DATA_LIMIT,
    EARLIEST,
    LATEST,
    UNITS_LIMIT,
    Borrowing,
    ContainerId,
    QuantityFlag,
    Runtime,
    check_text,
    container_id,
    mask_and_serial,
)
from drivers.driver import DriverError

MODES: Final = {
    "user_limit": QuantityFlag.DENY_USER_LIMIT,
    "no_user_limit": QuantityFlag.DENY_NO_USER_LIMIT,
    "exclusive": QuantityFlag.DENY_EXCLUSIVE,
    "station_share": QuantityFlag.DENY_STATION_SHARE,
}
"""The access modes that an item may deny."""

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?)?")
"""Only this: `datetime.fromisoformat` knows weeks too, and takes a zone after a date for its time."""
_HIGHEST: Final = 2**32 - 1


def container(word: str) -> ContainerId:
    """Return a container's id, as in 3-3448482."""
    try:
        return container_id(*mask_and_serial(word))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def count(word: str) -> int:
    """Return a number from 0 to 2^32-1, also hexadecimal, as in 0x3."""
    if re.fullmatch(r"[0-9]{1,10}|0[xX][0-9a-fA-F]{1,8}", word):
        value = int(word, 16 if word[:2] in {"0x", "0X"} else 10)
        if value <= _HIGHEST:
            return value
    raise ArgumentTypeError(f"{word!a} is no such number; write a whole one from 0 to {_HIGHEST}")


def number(word: str) -> int:
    """Return a number from 1 to 2^32-1: a firm code, or an item."""
    value = count(word)
    if value == 0:
        raise ArgumentTypeError(f"0 is none; write a whole number from 1 to {_HIGHEST}")
    return value


def units(word: str) -> int:
    """Return a number of units. The highest number is none: containers answer it for an item without units."""
    value = count(word)
    if value > UNITS_LIMIT:
        raise ArgumentTypeError(f"{word!a} is no number of units; the most is {UNITS_LIMIT}")
    return value


def text(word: str) -> str:
    """Return a text that every listing can show."""
    try:
        check_text(word)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return word


def modes(word: str) -> QuantityFlag:
    """Return the denied access modes in a list with commas, as in user_limit,exclusive."""
    flags = QuantityFlag.NONE
    for each in word.split(","):
        if each not in MODES:
            raise ArgumentTypeError(f"there is no access mode {each!a}; there are {', '.join(MODES)}")
        flags |= MODES[each]
    return flags


def date(word: str) -> int:
    """Return an instant in Unix seconds.

    The word is a date, as in 2027-01-31: its first second in UTC. A time may follow, and after that a zone.
    """
    try:
        if not _DATE.fullmatch(word):
            raise ValueError
        found = datetime.fromisoformat(word)
        instant = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ArgumentTypeError(f"{word!a} is no date; write it as in 2027-01-31 or 2027-01-31T18:00:00Z") from None
    if not EARLIEST <= instant <= LATEST:
        raise ArgumentTypeError(f"{word!a} is not between the years 2000 and 9999")
    return int(instant)


def duration(word: str) -> int:
    """Return seconds, 1 to 2^32-1, of a number with s, m, h or d: seconds, minutes, hours, days."""
    match = re.fullmatch(r"([0-9]{1,10})([smhd])", word)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 1 <= seconds <= _HIGHEST:
        raise ArgumentTypeError(f"{word!a} is no such time; write it as in 30d, 12h, 90m or 45s (up to 49710d)")
    return seconds


def borrowing(word: str) -> Borrowing:
    """Return what may be borrowed: for how long, as in 30d, and after a comma how many at a time, as in 30d,5."""
    time, comma, licenses = word.partition(",")
    return Borrowing(duration(time), number(licenses)) if comma else Borrowing(duration(time))


def runtime(word: str) -> Runtime:
    """Return a version, as in 0.2."""
    match = re.fullmatch(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})", word)
    if match is None:
        raise ArgumentTypeError(f"{word!a} is no version; write it as in 0.2")
    return Runtime(int(match[1]), int(match[2]))


def data(word: str) -> bytes:
    """Return what applications shall read: the word itself, or with @FILE what is in a file."""
    if not word.startswith("@"):
        octets = word.encode(errors="surrogateescape")
    else:
        try:
            octets = files.read(Path(word[1:]), DATA_LIMIT, "file of data")
        except DriverError as error:
            raise ArgumentTypeError(str(error)) from None
    if len(octets) > DATA_LIMIT:
        raise ArgumentTypeError(f"the data have {len(octets)} bytes; the most is {DATA_LIMIT}")
    return octets


def path(word: str) -> Path:
    """Return a file's path."""
    if not word or "\0" in word or word.endswith("/"):
        raise ArgumentTypeError(f"{word!a} is no name of a file")
    return Path(word)
