"""TOML that anybody may have written: parsed within bounds, faults told by line. For descriptions and settings.

The standard parser needs time quadratic in the parts of a dotted key: minutes for a file of one such key.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final

Key = tuple[str | int, ...]
"""A dotted key, part by part; a number is a place in an array, from 0."""

DOTS: Final = 16
"""How many a key may have; what we read needs three."""

_PART: Final = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\[^\n]?+)*+"?+|'[^'\n]*+'?+)"""
"""A part of a key; in a value a text of one line, or a word. A text that does not end goes to the line's end."""

_TOKEN: Final = re.compile(
    rf"""
      \"\"\"(?:[^\\]|\\.?+)*?(?:"{{3,5}}|\Z) | '''.*?(?:'{{3,5}}|\Z) | \#[^\n]*+
    | (?P<long>(?:{_PART}[ \t]*+\.[ \t]*+){{{DOTS + 1}}})
    | {_PART}
    | (?P<open>[\[{{]) | (?P<close>[\]}}]) | (?P<newline>\n)
    """,
    re.VERBOSE | re.DOTALL,
)


class Unreadable(ValueError):
    """A file is no TOML. The text goes behind the file's name and a colon: the line, if there is one, and why."""


def read(octets: bytes) -> tuple[str, dict[str, Any]]:
    """Return a file's text, for `line_of`, and what it says. Raises Unreadable."""
    try:
        text = octets.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"{line}: is not UTF-8; save the file in that encoding") from None
    try:
        return text, loads(text)
    except ValueError as error:
        raise Unreadable(_syntax(text, error)) from None
    except RecursionError:
        raise Unreadable(" has arrays or tables nested too deep; three levels are the most that is needed") from None


def loads(text: str) -> dict[str, Any]:
    """Return what a text says. Raises ValueError, in the parser's words, RecursionError if it nests too deep."""
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "long":
            line, column = text.count("\n", 0, token.start()) + 1, token.start() - text.rfind("\n", 0, token.start())
            msg = f"A key has more than {DOTS} dots (at line {line}, column {column})"
            raise ValueError(msg)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's own limit
        msg = "A number has far too many digits"
        raise ValueError(msg) from None


def ends(text: str) -> list[int]:
    """Return after how many lines a statement, a comment or an empty line ends, from 0 to all lines.

    In a text that is not TOML some may be wrong, but none before its fault.
    """
    found, line, depth = [0], 0, 0
    for token in _TOKEN.finditer(text):
        line += token[0].count("\n")
        if token.lastgroup == "open":
            depth += 1
        elif token.lastgroup == "close":
            depth = max(0, depth - 1)
        elif token.lastgroup == "newline" and not depth:
            found.append(line)
    return [*found, line + 1]


def line_of(text: str, key: Key) -> int:
    """Return the line, from 1, on which the statement begins that brings a key into a valid TOML text.

    The parser itself is asked: the beginning of a valid text, up to the end of any statement, is a valid text too.
    """

    def has_key(beginning: str) -> bool:
        value: Any = tomllib.loads(beginning)
        try:
            for part in key:
                value = value[part]
        except LookupError:
            return False
        return True

    return _statement(text, has_key)


def _statement(text: str, holds: Callable[[str], bool]) -> int:
    """Return the line, from 1, of the first statement with which something holds for the text up to its end."""
    lines = text.split("\n")
    after = ends(text)
    found = bisect_left(after, True, lo=1, hi=len(after) - 1, key=lambda end: holds("\n".join(lines[:end])))
    return after[found - 1] + 1


def _syntax(text: str, error: ValueError) -> str:
    """Return what the TOML parser says, with the line in front."""
    what, _, place = str(error).partition(" (at ")
    found = re.search(r"line (\d+), column (\d+)", place)
    if found:
        return f"{found[1]}: is not TOML: {what}, column {found[2]}"
    # It has no place, or it is the end of the file: the fault is in the first statement that is not sound.
    return f"{_statement(text, _is_unsound)}: is not TOML: {what}"


def _is_unsound(text: str) -> bool:
    try:
        tomllib.loads(text)
    except ValueError:
        return True
    return False
