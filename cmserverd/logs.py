r"""The log: lines for people on a terminal, one JSON object a line elsewhere; structlog's and stdlib's on one stream.

What clients say of themselves ends up here, so no value can break a line, forge a field or steer a terminal: JSON has
everything beyond ASCII as `\u....`, text quotes values that are not plain and prints nothing unprintable.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from protocol.terms import printable

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "text", "json"]

COLOURS: Final = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
NO_COLOUR: Final = "\x1b[0m"
PLAIN: Final = re.compile(r"[\w.:/@%+-]+", re.ASCII)


def configure(level: Level, form: Format, stream: TextIO) -> None:
    """Send all logging of this process to a stream; `auto` is `text` on a terminal, else `json`.

    What is below the level costs next to nothing: its method is an empty one. To be called before the first line, since
    loggers keep what they find at their first.
    """
    terminal = stream.isatty()
    if form == "text" or (form == "auto" and terminal):
        render: Processor = TextRenderer(colours=terminal and "NO_COLOR" not in os.environ)
    else:
        render = render_json
    steps: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
    ]
    lines = Lines(stream)
    structlog.configure(
        processors=[*steps, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *steps],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


class Lines:
    """Where lines go: each is written at once and whole. A stream that is gone does not take the daemon with it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write a line that has its end (for stdlib's handler)."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()

    def line(self, text: str) -> None:
        """Write a line that has no end yet (for structlog, which calls it by the level's name)."""
        self.write(text + "\n")

    debug = info = warning = error = critical = line


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Return an event as a JSON object, what is common to all events first."""
    ordered = {**{key: event.pop(key) for key in ("time", "level", "event")}, **event}
    return json.dumps(ordered, default=repr).replace("\x7f", "\\u007f")  # DEL is the one control that JSON lets pass


class TextRenderer:
    """Renders an event as `time [level] event key=value`, a traceback below it with a bar before each line."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = COLOURS if colours else {}

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> str:
        """Return the event's text."""
        level = event.pop("level")
        colour = self._colours.get(level, "")
        head = (
            f"{event.pop('time')} {colour}[{level}]{NO_COLOUR if colour else ''} {printable(str(event.pop('event')))}"
        )
        traceback = "".join(f"\n  | {printable(line)}" for line in str(event.pop("exception", "")).splitlines())
        return head + "".join(f" {printable(key)}={quoted(value)}" for key, value in event.items()) + traceback


def quoted(value: object) -> str:
    """Return a value's text: as it is if nothing in it could be mistaken, else quoted and escaped."""
    text = value if isinstance(value, str) else repr(value)
    return text if PLAIN.fullmatch(text) else repr(text)
