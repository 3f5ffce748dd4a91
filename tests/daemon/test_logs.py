"""The log: one line an event whatever is in it, readable or JSON, and nothing of a client's reaches the terminal."""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import json
import logging
import os
import re
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st

from cmserverd import logs

ROOT = Path(__file__).resolve().parents[2]
EVIL = 'x\r\n2026-01-01T00:00:00Z [info] granted\x1b[2J\x9b31m\u202eresrever\u2066\u2028\x00\x7f"'
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave structlog and logging as they were found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def configured(form: logs.Format, level: logs.Level = "info", stream: io.StringIO | None = None) -> io.StringIO:
    """Configure a log and return where its lines go."""
    stream = io.StringIO() if stream is None else stream
    logs.configure(level, form, stream)
    return stream


def test_json_has_one_object_a_line_with_time_level_and_event_first() -> None:
    """A machine can read each line by itself, a person finds the beginning where he looks."""
    stream = configured("json")
    structlog.get_logger().warning("plugged", container="3-3448482", items=2)
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert list(found) == ["time", "level", "event", "container", "items"]
    assert re.fullmatch(STAMP, found.pop("time"))
    assert found == {"level": "warning", "event": "plugged", "container": "3-3448482", "items": 2}


def test_text_is_a_readable_line() -> None:
    """Plain values stand as they are, others are quoted, so that where one ends is plain to see."""
    stream = configured("text")
    structlog.get_logger().info("plugged", container="3-3448482", text="a b=c", items=2, kinds=("a", "b"))
    assert re.fullmatch(
        STAMP + re.escape(" [info] plugged container=3-3448482 text='a b=c' items=2 kinds=a b\n"),
        stream.getvalue(),
    )


def test_no_fact_has_a_name_that_a_line_has_itself() -> None:
    """The moment of the line would stand in the place of a fact called `time`, and nobody would read that."""
    calls = [
        (path, call)
        for path in ROOT.glob("cmserverd/**/*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and ast.unparse(call.func.value) == "_log"
    ]
    assert len(calls) > 50
    own = {"time", "level", "event", "exception"}
    assert not [f"{path}:{call.lineno}" for path, call in calls for word in call.keywords if word.arg in own]


def test_auto_is_text_in_colours_on_a_terminal_and_json_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` looks at the stream, and NO_COLOR is honoured."""
    stream = configured("auto")
    structlog.get_logger().error("e")
    assert json.loads(stream.getvalue())["event"] == "e"
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = configured("auto", stream=Terminal())
    structlog.get_logger().error("e")
    assert "\x1b[31m[error]\x1b[0m e\n" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    stream = configured("auto", stream=Terminal())
    structlog.get_logger().error("e")
    assert stream.getvalue().endswith("Z [error] e\n")


@pytest.mark.parametrize("form", ["text", "json"])
@given(st.text() | st.just(EVIL) | st.dictionaries(st.text(), st.text()) | st.binary())
def test_no_value_breaks_a_line_or_reaches_the_terminal(form: logs.Format, value: object) -> None:
    """Line ends, escapes, C1 controls, direction marks, lone surrogates: in a value, in the event, in a bound value."""
    stream = configured(form)
    structlog.get_logger().bind(user=value).info(str(value), value=value)
    logging.getLogger("other").warning("%s", value)
    first, second, rest = stream.getvalue().split("\n")
    assert rest == ""
    for line in (first, second):
        assert line.isprintable()
        if form == "json":
            json.loads(line)
    if form == "json" and isinstance(value, str):
        assert json.loads(first)["value"] == value


def test_a_value_cannot_forge_a_field() -> None:
    """A client that calls itself `fs uid=0` does not become root."""
    stream = configured("text")
    structlog.get_logger().info("greeted", user="fs uid=0", host="a'b c='d", none="")
    assert stream.getvalue().endswith(""" [info] greeted user='fs uid=0' host="a'b c='d" none=''\n""")


def test_a_traceback_cannot_forge_a_line() -> None:
    """In text each of its lines has a bar in front, in JSON it is one string; what the exception says is escaped."""
    stream = configured("text")
    try:
        raise ValueError(EVIL)
    except ValueError:
        structlog.get_logger().exception("failed")
        first, *others = stream.getvalue().splitlines()
        assert first.endswith("[error] failed")
        assert others[0] == "  | Traceback (most recent call last):"
        assert all(line.startswith("  | ") and line.isprintable() for line in others)
        stream = configured("json")
        logging.getLogger("trio.serve_listeners").error("accept failed", exc_info=True)
    (line,) = stream.getvalue().splitlines()
    assert EVIL in json.loads(line)["exception"]
    assert json.loads(line)["logger"] == "trio.serve_listeners"


def test_bound_context_is_in_every_line() -> None:
    """What is bound to a logger comes along."""
    stream = configured("json")
    log = structlog.get_logger().bind(session=7)
    log.info("a")
    log.info("b")
    assert [line["session"] for line in map(json.loads, stream.getvalue().splitlines())] == [7, 7]


def test_what_is_below_the_level_is_not_even_built() -> None:
    """A filtered call runs an empty method: it renders nothing, asks no value for its text, allocates no event."""

    class Loud:
        def __repr__(self) -> str:
            pytest.fail("asked for its text")

    stream = configured("json", "warning")
    log = structlog.get_logger().bind()
    log.debug("request", value=Loud())
    log.info("request", value=Loud())
    logging.getLogger("x").info("%r", Loud())
    assert stream.getvalue() == ""
    assert type(log).debug.__code__.co_names == ()


def test_stdlib_logging_and_warnings_go_the_same_way() -> None:
    """Trio logs by stdlib, libraries warn: both become lines of this log, with the same level."""
    stream = configured("json")
    logging.getLogger("trio").info("told")
    logging.getLogger("trio").debug("not told")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["level"], first["logger"], first["event"]) == ("info", "trio", "told")
    assert (second["level"], second["logger"]) == ("warning", "py.warnings")


async def test_a_listener_that_runs_out_of_descriptors_is_in_the_log() -> None:
    """Trio's own report of a failed accept arrives as one JSON line with its traceback."""
    stream = configured("json")

    class Exhausted(trio.abc.Listener[trio.abc.Stream]):
        async def accept(self) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            raise OSError(24, "Too many open files")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async def handler(_stream: trio.abc.Stream) -> None:
        raise AssertionError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [Exhausted()])
        with trio.fail_after(10):
            while not stream.getvalue():
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    line = json.loads(stream.getvalue().splitlines()[0])
    assert line["level"] == "error"
    assert "Too many open files" in line["event"] + line["exception"]


@pytest.mark.parametrize("fault", [BrokenPipeError, ValueError])
def test_a_stream_that_is_gone_does_not_hurt(fault: type[Exception]) -> None:
    """A closed terminal or pipe loses lines; the daemon does not notice."""

    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise fault

    configured("json", stream=Gone())
    structlog.get_logger().error("lost")
    logging.getLogger("x").error("lost")


# --- a reader that does not read ----------------------------------------------------------------------------------


@contextmanager
def piped(*, blocking: bool = True, full: bool = False) -> Iterator[tuple[int, logs.Outlet]]:
    """Give the reading end of a pipe, and an outlet to its other one; both are closed afterwards.

    If it is full, blank lines are in it.
    """
    reading, writing = os.pipe()
    if full:
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"\n" * 4096)
    os.set_blocking(writing, blocking)
    outlet = logs.Outlet(writing)
    try:
        yield reading, outlet
    finally:
        os.close(reading)  # from here on nothing that still waits blocks
        outlet.close(patience=60)
        os.close(writing)


def read_until(reading: int, end: bytes) -> list[dict[str, Any]]:
    """Read lines until there is one with this in it; return all that are not blank."""
    data = b""
    while not (data.endswith(b"\n") and end in data):
        data += os.read(reading, 65_536)
    return [json.loads(line) for line in data.splitlines() if line]


@pytest.mark.parametrize(("lines", "size"), [(100, logs.BYTES), (logs.LINES, 10_000)])
@pytest.mark.parametrize("level", ["info", "error"])
def test_a_log_that_nobody_reads_holds_up_nobody(
    level: logs.Level, lines: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten times as much as fits is logged; what is read later is in its order, and where lines are missing it says so.

    What waits is the latest, and no more than may.
    """
    monkeypatch.setattr(logs, "LINES", lines)
    monkeypatch.setattr(logs, "BYTES", size)
    with piped(full=True) as (reading, outlet):
        logs.configure(level, "json", outlet)
        many = 10_000
        for number in range(many):
            structlog.get_logger().error("told", number=number)
        said = read_until(reading, b'"number": %d}' % (many - 1))
        structlog.get_logger().error("told", number=many)
        assert [line["event"] for line in read_until(reading, b"\n")] == ["told"]  # it flows as before
    following = 0
    gaps = []
    for place, line in enumerate(said):
        if line["event"] == "told":
            assert line["number"] == following
            following += 1
        else:
            assert (line["event"], line["level"]) == ("the log was not read in time; lines are missing", "error")
            following += line["lines"]
            gaps.append(place)
    assert following == many
    waited = said[gaps[-1] + 1 :]
    assert 0 < len(waited) <= lines
    assert sum(len(json.dumps(line)) + 1 for line in waited) <= size


def test_a_line_that_is_too_long_is_told_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if nothing comes after it."""
    monkeypatch.setattr(logs, "BYTES", 1000)
    with piped() as (reading, outlet):
        logs.configure("info", "json", outlet)
        structlog.get_logger().info("x" * 1000)
        assert [line["lines"] for line in read_until(reading, b"missing")] == [1]


def test_the_last_lines_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits when the end comes is passed on, in its order; after it nobody passes on any more."""
    ending = threading.Event()
    write, join = os.write, threading.Thread.join

    def held_up(descriptor: int, data: bytes) -> int:
        ending.wait()
        return write(descriptor, data)

    def joined(thread: threading.Thread, timeout: float | None = None) -> None:
        if timeout:  # who does not wait gets nothing: else it would be a race that he might win
            ending.set()
        join(thread, timeout)

    with piped() as (reading, outlet):
        monkeypatch.setattr(os, "write", held_up)
        monkeypatch.setattr(threading.Thread, "join", joined)
        for number in range(1000):
            outlet.write(f"{number}\n")
        outlet.close(patience=60)
        os.set_blocking(reading, False)
        assert os.read(reading, 65_536).split() == [b"%d" % number for number in range(1000)]
        outlet.write("too late\n")
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)


def test_the_thread_that_passes_on_takes_no_signals() -> None:
    """One that the main thread holds back while it makes ready for it must wait for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with piped():
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "log")
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
    for number in (signal.SIGTERM, signal.SIGINT):
        assert blocked & 1 << (number - 1)


def test_at_the_end_nobody_waits_for_ever_either() -> None:
    """Lines that nobody reads are given up."""
    with piped() as (_, outlet):
        for _ in range(logs.LINES):
            outlet.write("x" * 99 + "\n")
        outlet.close(patience=0)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EBADF, errno.EIO])
def test_a_reader_that_went_away_is_no_matter(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is lost for itself, without a word; should the next one find a reader, it is passed on."""
    write = os.write

    def passing(descriptor: int, data: bytes) -> int:
        if data == b"lost\n":
            raise OSError(number, "gone")
        return write(descriptor, data)

    with piped() as (reading, outlet):
        monkeypatch.setattr(os, "write", passing)
        for line in ("lost\n", "lost\n", "found\n"):
            outlet.write(line)
        outlet.close(patience=60)
        os.set_blocking(reading, False)
        assert os.read(reading, 100) == b"found\n"


def test_a_descriptor_that_does_not_wait_loses_nothing() -> None:
    """Whoever shares standard error may have made it so: then its room is waited for."""
    with piped(blocking=False) as (reading, outlet):
        logs.configure("info", "json", outlet)
        for number in range(2000):
            structlog.get_logger().info("told", number=number)
        assert [line["number"] for line in read_until(reading, b'"number": 1999}')] == list(range(2000))
