"""How a run of `cmu` ends: its exit codes, and the errors that are its own rather than a server's."""

from __future__ import annotations

from typing import Final

from protocol.errors import ErrorNumber

FOUND, NOTHING, USAGE, UNREACHED, REFUSED, UNWRITTEN, UNSOUND = range(7)
INTERRUPTED: Final = 130
"""What shells give for a program that Ctrl-C has ended."""


class Ended(Exception):
    """The run ends with an exit code; the text is for people, and `number` the protocol's number for it."""

    code = UNWRITTEN
    number = ErrorNumber.INTERNAL


class Misused(Ended):
    """The command line, or a file that it names, is wrong; the text says what would be right."""

    code = USAGE
    number = ErrorNumber.INVALID_PARAMETER


class NotThere(Ended):
    """There is nothing to do it to."""

    code = NOTHING
    number = ErrorNumber.BOX_NOT_FOUND


class Unwritten(Ended):
    """What was asked for could not be written; the text says where, and why."""
