"""TOML that anybody may have written: parsed within bounds, and divided into statements. For descriptions and settings.

The standard parser needs time quadratic in the parts of a dotted key: minutes for a file of one such key.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

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
