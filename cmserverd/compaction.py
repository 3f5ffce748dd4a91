"""Compacts a journal, beside the daemon and in a process of its own: `python -m cmserverd.compaction FILE MOST`.

It replays what the file has into a table of its own, never the live one (decision 24), and writes the shortest history
of that as the new base; then it drops what is too much of the history that the base covers: all but MOST bytes. What
the usage was in that is added up before, and kept as it goes. A thread of the daemon's would hold up its loop with each
instruction; a process that is killed leaves nothing half done.

Something that is damaged tells no usage, and is dropped all the same: else the file would grow for ever.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from cmserverd.core import history
from cmserverd.core.table import Table
from cmserverd.rollup import Rollup
from cmserverd.store import Segment, Store, StoreDamage, StoreFault
from cmserverd.tracking import Tracking
from protocol.tracking import TrackingLine

_PATIENCE: Final = 60.0
"""How many seconds it waits for the daemon to commit; the daemon commits for some milliseconds at most."""


def compact(store: Store, most: int) -> int:
    """Compact a journal through a connection of its own; return how many bytes of history were dropped.

    Raises StoreFault.
    """
    table = Table()
    for change in store.changes():
        table.apply(change)
    store.compact(history.shortest(table), _PATIENCE)
    return trim(store, most)


def trim(store: Store, most: int, patience: float = _PATIENCE) -> int:
    """Drop the oldest segments until those before the last have at most so many bytes; return how many bytes went.

    Raises StoreFault.
    """
    with store.unchanging():
        number, surplus = store.surplus(most)
        if not number:
            return 0
        going = store.segments()[: number + 1]
        rollup = _rollup(store)
        for segment, following in pairwise(going):
            _add(rollup, store, segment, following)
    store.drop(going[0], going[-1], rollup, patience)
    return surplus


def _rollup(store: Store) -> Rollup:
    try:
        return store.rollup()
    except StoreDamage as damage:
        _tell(f"{damage}; it begins anew")
        return Rollup()


def _add(rollup: Rollup, store: Store, segment: Segment, following: Segment) -> None:
    """Add up how what is in a segment was used, as far as it can be read."""
    try:
        rollup.add(_lines(store, segment, following), segment.position)
    except (StoreDamage, AssertionError, LookupError) as error:
        _tell(f"the usage from position {segment.position} to {following.position} is not known to its end: {error}")


def _lines(store: Store, segment: Segment, following: Segment) -> Iterator[TrackingLine]:
    tracking = Tracking(store.base(segment))
    if segment.position:
        yield from tracking.opening(segment.position, segment.time)
    for entry in store.entries(segment, following):
        yield from tracking.follow(entry)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(arguments: list[str]) -> int:
    """Compact; return the exit code. What went wrong, or is lost of the usage history, is a line on standard error.

    On standard output are three numbers of bytes: the history since the new base, that base, and what was dropped.
    """
    path, most = arguments
    try:
        store = Store(Path(path), power=False, existing=True)
        try:
            dropped = compact(store, int(most))
            said = f"{store.grown()} {store.base_size()} {dropped}\n"
        finally:
            store.close()
    except StoreFault as fault:
        _tell(str(fault))
        return 1
    sys.stdout.write(said)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
