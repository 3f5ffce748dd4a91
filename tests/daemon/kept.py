"""A history for the journal's file, and what must be read back of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from cmserverd import audit
from cmserverd.core.table import Table
from cmserverd.store import Entry, Store
from cmserverd.tracking import Tracking
from cmserverd.usage import Usage
from protocol.usage import SpanName, UsageRequest, UsageRow
from tests.core.replay import facts
from tests.core.scene import Scene
from tests.core.test_laws import eventful


def told(scene: Scene) -> list[Entry]:
    """Return what a journal keeps of all that has happened."""
    return [Entry(record.position, record.at, record.session, record.changes) for record in scene.records]


EVENTFUL = told(eventful())
"""A history in which everything happens that can happen."""


def facts_by_position(entries: Sequence[Entry]) -> dict[int, bytes]:
    """Return what stands after each of these entries."""
    table = Table()
    known = {0: facts(table)}
    for entry in entries:
        for change in entry.changes:
            table.apply(change)
        known[entry.position] = facts(table)
    return known


FACTS = facts_by_position(EVENTFUL)


def replay(store: Store) -> Table:
    """Return the table that is in a store."""
    table = Table()
    for change in store.changes():
        table.apply(change)
    return table


def read(path: Path) -> tuple[int, Table]:
    """Open a file, and return its last position and the table that is in it."""
    store = Store(path, power=False)
    try:
        table = replay(store)
        return store.position, table
    finally:
        store.close()


def added_up(entries: Sequence[Entry], by: SpanName, now: int) -> list[UsageRow]:
    """Return the usage history that all lines of a history give, up to a time."""
    tracking, usage = Tracking(), Usage(by)
    rows = [row for entry in entries for line in tracking.follow(entry) for row in usage.take(line)]
    return [*rows, *usage.reach(now), *usage.unfinished()]


def usage(store: Store, by: SpanName = "hour", **asked: Any) -> list[UsageRow]:
    """Return the rows of the usage history that a store tells, of all pages."""
    return [row for page in audit.usage_pages(store, UsageRequest(by=by, **asked)) for row in page.rows]


def of_format_1(path: Path) -> Path:
    """Make a file as the first version wrote it: with two segments, and one that was denied something."""
    db = apsw.Connection(str(path))
    db.execute(Path(__file__).with_name("format_1.sql").read_text(encoding="utf-8"))
    db.close()
    return path


def copied(path: Path, directory: Path) -> Path:
    """Copy a file as a server leaves it that is killed: with the log of the database; return where it is now."""
    directory.mkdir(exist_ok=True)
    for suffix in ("", "-wal"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            shutil.copy(part, directory / part.name)
    return directory / path.name
