"""A history for the journal's file, and what must be read back of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from cmserverd.core.table import Table
from cmserverd.store import Entry, Store
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


def copied(path: Path, directory: Path) -> Path:
    """Copy a file as a server leaves it that is killed: with the log of the database; return where it is now."""
    directory.mkdir(exist_ok=True)
    for suffix in ("", "-wal"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            shutil.copy(part, directory / part.name)
    return directory / path.name
