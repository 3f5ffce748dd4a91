r"""The log: lines for people on a terminal, one JSON object a line elsewhere; structlog's and stdlib's on one stream.

Nobody waits for whoever reads it: between the daemon and its standard error is an `Outlet`.

What clients say of themselves ends up here, so no value can break a line, forge a field or steer a terminal: JSON has
everything beyond ASCII as `\u....`, text quotes values that are not plain and prints nothing unprintable.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, Protocol, Self, get_args

import structlog
from msgspec import Struct
from structlog.typing import EventDict, Processor, WrappedLogger

from cmserverd.logbook import Logbook
from protocol.terms import printable

Level = Literal["debug", "info", "warning", "error"]
LEVELS: Final = get_args(Level)
Format = Literal["auto", "text", "json"]

COLOURS: Final = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
NO_COLOUR: Final = "\x1b[0m"
PLAIN: Final = re.compile(r"[\w.:/@%+\[\]-]+", re.ASCII)

LINES: Final = 10_000
"""How many lines may wait for a reader of the log."""

BYTES: Final = 1024 * 1024
"""How many bytes these may have together."""

LAST: Final = 1.0
"""How many seconds the last lines have to be read at the end."""


class Stream(Protocol):
    """What lines are written to."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        ...

    def write(self, text: str, /) -> object:
        """Write text."""
        ...

    def flush(self) -> object:
        """Have it leave."""
        ...


class Threshold:
    """Drops the lines that are less serious than a level, which may be changed at any time.

    What nobody wants costs next to nothing: its method is an empty one. With a book that is what is below `info` too.
    """

    def __init__(self, level: Level, *, kept: bool) -> None:
        self.logger = type("Logger", (structlog.make_filtering_bound_logger("debug"),), {})
        self._kept = kept
        self.set(level)

    def set(self, level: Level) -> None:
        """Drop what is less serious than this, also of what other libraries log."""
        self._least = logging.getLevelNamesMapping()[level.upper()]
        logging.getLogger().setLevel(self._least)
        # Loggers keep their class, so it is the class that is changed.
        made = structlog.make_filtering_bound_logger(min(self._least, logging.INFO) if self._kept else self._least)
        for name in LEVELS:
            setattr(self.logger, name, getattr(made, name))

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Return an event that is serious enough. Raises DropEvent."""
        if _seriousness(event) < self._least:
            raise structlog.DropEvent
        return event


class Keeper:
    """Keeps what is at least `info` in a book, whatever the level is of what is written out."""

    def __init__(self, book: Logbook) -> None:
        self._book = book

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Keep an event, and return it."""
        if _seriousness(event) >= logging.INFO:
            fields = " ".join(f"{printable(key)}={quoted(event[key])}" for key in event if key not in _HEAD)
            self._book.add(int(time.time()), event["level"], printable(str(event["event"])), fields)
        return event


_HEAD: Final = ("level", "event", "_record", "_from_structlog")


def _seriousness(event: EventDict) -> int:
    return logging.getLevelNamesMapping()[event["level"].upper()]


class Log(Struct, frozen=True):
    """How the log of this process can be changed while it runs, and its last lines."""

    threshold: Threshold
    book: Logbook


def configure(level: Level, form: Format, stream: Stream, book: Logbook | None = None) -> Threshold:
    """Send all logging of this process to a stream; `auto` is `text` on a terminal, else `json`.

    Return what has the level. To be called before the first line, since loggers keep what they find at their first.
    """
    threshold = Threshold(level, kept=book is not None)
    terminal = stream.isatty()
    if form == "text" or (form == "auto" and terminal):
        render: Processor = TextRenderer(colours=terminal and "NO_COLOR" not in os.environ)
    else:
        render = render_json
    seen: list[Processor] = [structlog.processors.add_log_level, structlog.processors.format_exc_info]
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    if isinstance(stream, Outlet):
        stream.render_gap = structlog.wrap_logger(structlog.ReturnLogger(), [*seen, stamp, render]).error
    if book is not None:
        seen.append(Keeper(book))
    lines = Lines(stream)
    structlog.configure(
        processors=[*seen, threshold, stamp, render],
        wrapper_class=threshold.logger,
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *seen, stamp],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    return threshold


class Lines:
    """Where lines go: each is written at once and whole. A stream that is gone does not take the daemon with it."""

    def __init__(self, stream: Stream) -> None:
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


class Outlet:
    """A stream to a file descriptor on which nobody waits: what is written waits, and a thread passes it on.

    If the reader does not keep up (`LINES`, `BYTES`), the oldest that waits is dropped, and an error in its place says
    how many lines those were. To be closed, for what waits then has a moment (`LAST`) to leave.
    """

    def __init__(self, descriptor: int) -> None:
        self.render_gap: Callable[..., str] = "{}: {lines}".format
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._open = True
        self._changed = threading.Condition()  # can be entered twice by one thread: a finalizer may log at any time
        self._thread = threading.Thread(target=self._pass_on, name="log", daemon=True)
        held_back = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._thread.start()  # without signals: one that the main thread holds back must not be taken here
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, text: str) -> None:
        """Have lines written, each whole."""
        data = text.encode(errors="backslashreplace")
        with self._changed:
            self._waiting.append(data)
            self._size += len(data)
            while len(self._waiting) > LINES or self._size > BYTES:
                self._size -= len(self._waiting.popleft())
                self._dropped += 1
            self._changed.notify()

    def flush(self) -> None:
        """Do nothing: it leaves as soon as it can."""

    def close(self, patience: float = LAST) -> None:
        """Return when all has left, or after so many seconds. Nothing may be written any more."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def _pass_on(self) -> None:
        while data := self._next():
            with contextlib.suppress(OSError):  # nobody can read it any more
                self._send(data)

    def _next(self) -> bytes:
        """Return what is to be sent next, once there is something; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._dropped or not self._open)
            dropped, self._dropped = self._dropped, 0
            if not dropped and self._waiting:
                data = self._waiting.popleft()
                self._size -= len(data)
                return data
        if dropped:
            return f"{self.render_gap('the log was not read in time; lines are missing', lines=dropped)}\n".encode()
        return b""

    def _send(self, data: bytes) -> None:
        """Write to the descriptor itself: a thread that hangs in Python's buffers would spoil the interpreter's end."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever shares the descriptor does not want to wait
                select.select([], [self._descriptor], [])


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
    """Return a value's text: as it is if nothing could be mistaken, else quoted and escaped; of a list, its parts."""
    if isinstance(value, tuple | list) and value:
        return " ".join(quoted(part) for part in value)
    text = value if isinstance(value, str) else repr(value)
    return text if PLAIN.fullmatch(text) else repr(text)
