"""The command: runs the parts, prints the table, and keeps it in a document if asked to.

Exit codes: 0 measured, 1 the run is void (a request was refused, a process failed) or cannot be kept, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from bench import core, journal, listing, machine, memory, pages, stall, wire
from bench.processes import ChildFailed
from bench.report import Row, replace_block, table

PARTS: Final[dict[str, tuple[Callable[[], Iterator[Row]], Callable[[], Iterator[Row]]]]] = {
    "wire": (partial(wire.measure, wire.Plan()), partial(wire.measure, wire.QUICK)),
    "core": (partial(core.measure, core.Plan()), partial(core.measure, core.QUICK)),
    "memory": (partial(memory.measure, memory.Plan()), partial(memory.measure, memory.QUICK)),
    "stall": (partial(stall.measure, stall.Plan()), partial(stall.measure, stall.QUICK)),
    "listing": (partial(listing.measure, listing.Plan()), partial(listing.measure, listing.QUICK)),
    "journal": (partial(journal.measure, journal.Plan()), partial(journal.measure, journal.QUICK)),
    "pages": (partial(pages.measure, pages.Plan()), partial(pages.measure, pages.QUICK)),
}
"""Each part in full, and quick."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures the daemon on this machine.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a fast look: smaller, fewer rounds")
    parser.add_argument("--write", metavar="FILE", type=Path, help="keep machine and table in this document")
    given = parser.parse_args(arguments)
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; known are {', '.join(PARTS)}")
    if given.write and (given.parts or given.quick):
        parser.error("--write keeps a whole run: leave out --quick and the names of parts")
    signal.signal(signal.SIGTERM, _end)
    try:
        return _run(given.parts or list(PARTS), given.quick, given.write)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(parts: list[str], quick: bool, document: Path | None) -> int:
    load = machine.load()
    rows: list[Row] = []
    for part in parts:
        begin = time.monotonic()
        try:
            rows.extend(PARTS[part][quick]())
        except (ChildFailed, OSError) as error:
            rows.append(Row(part, "none", remarks=f"it failed: {error}", valid=False))
        print(f"{part}: measured in {time.monotonic() - begin:.0f} s", file=sys.stderr)
    block = f"{machine.description(load)}\n\n{table(rows)}"
    print(f"\n{block}")
    if not all(row.valid for row in rows):
        print("bench: the run is void: a part failed or a request was refused", file=sys.stderr)
        return 1
    if document is not None:
        try:
            replace_block(document, block)
        except (OSError, ValueError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    return 0


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
