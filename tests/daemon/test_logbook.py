"""The log as it is read over the monitor socket: the last lines, bounded, from whatever thread they came."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd import logs
from cmserverd.logbook import BYTES, LINES, LONGEST, Logbook
from protocol import messages as m
from protocol.watching import LogLine
from tests.daemon.harness import LIMIT, MONITOR, Talk, hello, make_service


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave structlog and logging as they were found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


async def lines(book: Logbook, since: int = 0, wait: int = 0) -> m.LogPage:
    """Ask for lines."""
    return await book.answer(m.LogRequest(since, wait))


@pytest.mark.parametrize("level", ["debug", "info", "error"])
async def test_lines_of_info_and_above_are_kept_whatever_is_written_out(level: logs.Level) -> None:
    """With their fields as they stand in a readable log, and nothing in them that steers a terminal."""
    book, stream = Logbook(), io.StringIO()
    logs.configure(level, "text", stream, book)
    log = structlog.get_logger("test")
    log.debug("passage", position=1)
    log.info("plugged", container="3-1", text="a b\x1b[2J")
    logging.getLogger("trio").error("stdlib\n%s", "too")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.exception("bug")
    page = await lines(book)
    told = [(line.number, line.level, line.event) for line in page.lines]
    assert told[0] == (1, "info", "plugged")
    assert told[-1] == (page.number, "error", "bug")
    assert page.lines[0].fields == r"container=3-1 text='a b\x1b[2J'"
    assert r"\nZeroDivisionError'" in page.lines[-1].fields
    assert not page.missed
    assert ("plugged" in stream.getvalue()) is (level != "error")
    if level != "error":
        assert told[1] == (2, "error", "stdlib?too")
        assert "logger=trio" in page.lines[1].fields


def test_the_level_can_be_changed_while_loggers_are_in_use() -> None:
    """They keep their class from the first line on; both ways, and for the libraries' lines too."""
    stream = io.StringIO()
    threshold = logs.configure("warning", "text", stream, Logbook())
    log = structlog.get_logger("test")
    bound = log.bind(a=1)
    for level, expected in (("debug", 3), ("warning", 0), ("info", 2)):
        stream.seek(0)
        stream.truncate()
        threshold.set(level)  # type: ignore[arg-type]
        bound.debug("one")
        bound.info("two")
        logging.getLogger("x").info("three")
        assert len(stream.getvalue().splitlines()) == expected


async def test_the_book_is_bounded_in_lines_and_bytes() -> None:
    """What is too long is cut, what is too much is dropped from the front, and the answer says so."""
    book = Logbook()
    for number in range(LINES + 10):
        book.add(number, "info", "told", "x")
    page = await lines(book)
    assert len(page.lines) == LINES
    assert page.missed
    assert (page.lines[0].number, page.number) == (11, LINES + 10)
    assert [line.number for line in (await lines(book, LINES + 8)).lines] == [LINES + 9, LINES + 10]
    for number in range(LINES):
        book.add(number, "info", "told", "\u20ac" * 20_000)
    page = await lines(book)
    assert all(len(line.fields) == LONGEST + len("...") for line in page.lines)
    assert BYTES / 2 < sum(len(line.fields.encode()) for line in page.lines) <= BYTES


async def test_a_number_of_before_a_restart_gives_all_there_is() -> None:
    """And says that something is missing."""
    book = Logbook()
    book.add(1, "info", "told", "")
    page = await lines(book, since=77, wait=60)
    assert (len(page.lines), page.missed) == (1, True)


async def test_who_waits_is_told_of_a_line_from_another_thread() -> None:
    """The drivers' threads log too."""
    book = Logbook()
    pages: list[m.LogPage] = []

    async def wait() -> None:
        pages.append(await lines(book, 0, 60))

    with trio.fail_after(LIMIT / 2):  # before the wait ends by itself
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            await trio.to_thread.run_sync(book.add, 1, "info", "told", "")
    assert [[line.event for line in page.lines] for page in pages] == [["told"]] * 2


async def test_a_wait_ends_and_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    """Neither its own end nor a cancellation does."""
    del autojump_clock
    book = Logbook()
    began = trio.current_time()
    assert (await lines(book, 0, 9)).lines == ()
    assert trio.current_time() - began == pytest.approx(9)
    with trio.move_on_after(1):
        await lines(book, 0, 60)
    assert not book._waiting


async def test_it_is_asked_over_the_monitor_socket() -> None:
    """As a method, with what the service was given."""
    service = make_service()
    service.logbook.add(5, "warning", "told", "a=1")
    talk = Talk(service, MONITOR, hello())
    talk.begin(m.LogRequest())
    later = talk.conversation.later
    assert later is not None
    assert await later.run() == m.LogPage(1, (LogLine(1, 5, "warning", "told", "a=1"),), missed=False)
