"""Reads license tracking from a journal's file, beside the daemon: `python -m cmserverd.audit FILE METHOD REQUEST`.

It answers one request for a page of lines or of the usage history, or for a verification; the request is JSON, the
answer MessagePack on standard output. A process of its own, as compaction is: it replays a whole segment and more, and
nobody waits for that but who asked. Whoever reads on at once has the next page from where it is.

A page ends somewhere within a segment, and the cursor says where: the segment's position, and how many of its lines
were had. So the next page is also found later, by another process, which replays that segment alone.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from cmserverd.store import Store, StoreFault
from cmserverd.tracking import Tracking
from cmserverd.usage import Usage, begin_of
from cmserverd.verification import Verification, verify
from protocol.tracking import TrackedFrom, TrackingLine, TrackingPage, TrackingRequest, VerifyTracking
from protocol.usage import UsagePage, UsageRequest, UsageRow, UsedFrom

LINES: Final = 2_000
"""How many lines a page has at most: some 600 KiB if clients call themselves by usual names."""

PAGE_BYTES: Final = 2 * 1024 * 1024
"""About how many bytes it may have whatever clients call themselves: what clients read, they bound."""

_PATIENCE: Final = 10.0
"""How many seconds it waits to be asked for the next page. So long the database's log may not begin anew."""

_NICE: Final = 10
"""How much rather than this process the daemon runs."""


class Dropped(Exception):
    """The history that a cursor points to is dropped by now."""


def pages(store: Store, asked: TrackingRequest) -> Iterator[TrackingPage]:
    """Yield the lines that are asked for, page by page, as the file is at the first. Raises StoreFault, Dropped."""
    lines: list[TrackingLine] = []
    size = 0
    with store.unchanging():
        reader = _Reader(store, asked)
        reached = reader.reached
        for line in reader.lines():
            if len(lines) == LINES or size > PAGE_BYTES:
                yield TrackingPage(lines[-1].position, lines[-1].time, tuple(lines), reached)
                lines.clear()
                size = 0
            lines.append(line)
            size += 480 + 4 * len(line.host + line.user + line.application + line.text)
            reached = reader.reached
        yield TrackingPage(store.position, store.time, tuple(lines))


class _Reader:
    """Reads on from a cursor. `reached` is the cursor behind the last line that was given."""

    def __init__(self, store: Store, asked: TrackingRequest) -> None:
        self._store = store
        self._since = asked.since or 0
        self._until = asked.until
        segments = store.segments()
        if asked.cursor is None:
            self._at = max((n for n, one in enumerate(segments) if one.time < self._since), default=0)
            self.reached = TrackedFrom(segments[self._at].position, 0)
        else:
            at = [n for n, one in enumerate(segments) if one.position == asked.cursor.segment]
            if not at:
                raise Dropped
            self._at, self.reached = at[-1], asked.cursor
        self._segments = segments

    def lines(self) -> Iterator[TrackingLine]:
        """Yield the lines that were not had yet."""
        had = self.reached.lines
        self.reached = TrackedFrom(self.reached.segment, 0)
        for line in self._all():
            self.reached = TrackedFrom(self.reached.segment, self.reached.lines + 1)
            new = self.reached.lines > had or self.reached.segment != self._segments[self._at].position
            if new and (self._until is None or line.time < self._until):
                yield line

    def _all(self) -> Iterator[TrackingLine]:
        """Yield all lines from the beginning of the segment on: those that were had, too."""
        begun = self._segments[self._at]
        coming = self._segments[self._at + 1 :]
        tracking = Tracking(self._store.base(begun))
        opened = begun.time >= self._since
        earlier = begun.position > 0  # before the first line of all there was nothing to tell
        if opened and earlier:
            yield from tracking.opening(begun.position, begun.time)
        for entry in self._store.entries(begun):
            while coming and entry.position > coming[0].position:
                following = coming.pop(0)
                if opened and following.time >= self._since:
                    self.reached = TrackedFrom(following.position, tracking.opening_size())
            if not opened and entry.at >= self._since:
                opened = True
                if earlier:
                    yield from tracking.opening(entry.position - 1, self._since)
            earlier = True
            for line in tracking.follow(entry):
                if opened:
                    yield line


def usage_pages(store: Store, asked: UsageRequest) -> Iterator[UsagePage]:
    """Yield the rows that are asked for, page by page, as the file is at the first: those of what was dropped, too.

    Raises StoreFault.
    """
    since = asked.cursor.start if asked.cursor else asked.since or 0
    had = asked.cursor.rows if asked.cursor else 0
    with store.unchanging():
        # What was used before counts as well: a span begins with what stands then.
        begin = begin_of(asked.by, since)
        adding = Usage(asked.by)
        rows: Iterator[UsageRow] = iter(())
        first = store.segments()[0]
        if begin <= first.time:
            rollup = store.rollup()
            if rollup.time:
                begin, adding, rows = 0, rollup.onward(asked.by, first.position), rollup.rows(asked.by)
        told = _Reader(store, TrackingRequest(since=begin))
        rows = chain(
            rows, chain.from_iterable(map(adding.take, told.lines())), _until_now(store, adding), adding.unfinished()
        )
        page: list[UsageRow] = []
        start, of_span = since, 0
        for row in rows:
            if row.start < since or (asked.until is not None and row.start >= asked.until):
                continue
            if row.start != start:
                start, of_span = row.start, 0
            of_span += 1
            if row.start == since and of_span <= had:
                continue
            if len(page) == LINES:
                yield UsagePage(store.position, store.time, tuple(page), UsedFrom(row.start, of_span - 1))
                page.clear()
            page.append(row)
        yield UsagePage(store.position, store.time, tuple(page))


def _until_now(store: Store, adding: Usage) -> Iterator[UsageRow]:
    """Let pass what has passed since the last line: the license time is kept where nothing else happens."""
    for _ in store.changes():
        pass
    yield from adding.reach(store.time)


def main(arguments: list[str]) -> int:
    """Answer; return the exit code. What went wrong is one line on standard error.

    Each answer has its length before it, in four bytes. Behind one that is not the last it waits for a line on standard
    input, and goes on with the next one then; it ends if none comes in time.
    """
    file, method, request = arguments
    try:
        store = Store(Path(file), power=False, existing=True)
        try:
            for answer in _answers(store, method, request):
                octets = msgspec.msgpack.encode(answer)
                sys.stdout.buffer.write(len(octets).to_bytes(4, "big") + octets)
                sys.stdout.buffer.flush()
                if getattr(answer, "next", None) is not None and not _goes_on():
                    break
        finally:
            store.close()
    except Dropped:
        sys.stderr.write("what follows was dropped meanwhile to keep within [journal] history; begin anew\n")
        return 1
    except StoreFault as fault:
        sys.stderr.write(f"{fault}\n")
        return 1
    return 0


def _answers(store: Store, method: str, request: str) -> Iterator[Struct]:
    if method == VerifyTracking.method:
        return iter((verify(store, msgspec.json.decode(request, type=Verification).keys),))
    if method == UsageRequest.method:
        return usage_pages(store, msgspec.json.decode(request, type=UsageRequest))
    return pages(store, msgspec.json.decode(request, type=TrackingRequest))


def _goes_on() -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], _PATIENCE)
    return bool(ready) and bool(sys.stdin.buffer.readline())


if __name__ == "__main__":
    os.nice(_NICE)
    sys.exit(main(sys.argv[1:]))
