"""The entry point of `cmboxpgm`: what goes where, and its exit codes."""

from __future__ import annotations

import json
import os
import sys
from io import TextIOWrapper
from typing import Final

from cmserverd.cmboxpgm import commands, parser, tables
from drivers.driver import DriverError, Refused

DONE, NOT_DONE, USAGE = range(3)
INTERRUPTED: Final = 130
"""What shells give for a program that Ctrl-C has ended."""


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is spelled out
    try:
        options = parser.parse(given)
        outcome = commands.run(options)
        if options.json:
            sys.stdout.write(json.dumps(outcome.document, indent=2) + "\n")
        else:
            outcome.show(tables.console(sys.stdout))
        sys.stdout.flush()
    except parser.Misused as error:
        return _fail(str(error), USAGE, None, as_json="--json" in given)
    except DriverError as error:
        number = error.number if isinstance(error, Refused) else None
        return _fail(str(error), NOT_DONE, number, as_json="--json" in given)
    except BrokenPipeError:
        # Whoever reads has seen enough (`| head`); what is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def _fail(text: str, code: int, number: int | None, *, as_json: bool) -> int:
    """Tell an error; `number` is the field's, of what a container refused."""
    if as_json:
        shown = json.dumps({"error": {"number": number, "text": text}}, indent=2)
    else:
        shown = f"cmboxpgm: {text}" if number is None else f"cmboxpgm: {text} (Error {number})"
    sys.stderr.write(shown + "\n")
    return code
