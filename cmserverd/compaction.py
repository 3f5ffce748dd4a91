"""Compacts a journal, beside the daemon and in a process of its own: `python -m cmserverd.compaction FILE MOST`.

It replays what the file has into a table of its own, never the live one (decision 24), and writes the shortest history
of that as the new base; then it drops what is too much of the history that the base covers: all but MOST bytes. A
thread of the daemon's would hold up its loop with each instruction; a process that is killed leaves nothing half done.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from cmserverd.core import history
from cmserverd.core.table import Table
from cmserverd.store import Store, StoreFault

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
    return store.trim(most, _PATIENCE)


def main(arguments: list[str]) -> int:
    """Compact; return the exit code. What went wrong is one line on standard error.

    On standard output are three numbers of bytes: the history since the new base, that base, and what was dropped.
    """
    path, most = arguments
    try:
        store = Store(Path(path), power=False)
        try:
            dropped = compact(store, int(most))
            said = f"{store.grown()} {store.base_size()} {dropped}\n"
        finally:
            store.close()
    except StoreFault as fault:
        sys.stderr.write(f"{fault}\n")
        return 1
    sys.stdout.write(said)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
