"""The usage history as `cmu` shows it: peak and mean use and denials of each license, by hour, day or month."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final, get_args

from msgspec import Struct
from rich.console import Console

from cmserverd.cmu import updating
from cmserverd.cmu.folding import FoldingTable
from cmserverd.cmu.tables import print_table
from cmserverd.cmu.tracking import csv_row, monitor, stamp
from protocol.errors import ErrorNumber, LicenseError
from protocol.usage import SpanName, UsageRequest, UsageRow, UsedFrom

SPANS: Final = get_args(SpanName)

FIELDS: Final = (*UsageRow.__struct_fields__, "mean")


class UsageListing(Struct, frozen=True):
    """The usage history by these spans; it tells up to `time`."""

    by: str
    time: int
    rows: tuple[UsageRow, ...]


def ask(options: argparse.Namespace) -> UsageListing:
    """Return the rows that the options choose. Raises Misused, LicenseError."""
    socket = monitor(options.server)
    by: SpanName = options.by or "day"
    rows: list[UsageRow] = []
    cursor: UsedFrom | None = None
    while True:
        asked = UsageRequest(by, options.since, options.until, cursor)
        page = updating.ask(socket, asked, options.timeout)
        rows += page.rows
        if page.next is None:
            return UsageListing(by, page.time, tuple(rows))
        before, cursor = cursor, page.next
        if before is not None and (cursor.start, cursor.rows) <= (before.start, before.rows):
            raise LicenseError.of(ErrorNumber.NETWORK_FAULT, "its usage history does not come to an end")


def mean(row: UsageRow) -> float:
    """Return how many units were used on average in the part of the span that is known."""
    return round(row.unit_seconds / row.seconds, 2) if row.seconds else float(row.peak)


def csv(listing: UsageListing) -> Iterator[str]:
    """Yield the rows as CSV, the names of the columns first."""
    yield csv_row(list(FIELDS))
    for row in listing.rows:
        values = {name: getattr(row, name) for name in UsageRow.__struct_fields__}
        values["start"] = stamp(row.start)
        yield csv_row([*values.values(), f"{mean(row):.2f}"])


def show(out: Console, listing: UsageListing) -> None:
    """Print the rows as a table."""
    if listing.rows:
        table = FoldingTable(
            f"~{listing.by.capitalize()} (UTC)",
            "#Firm Code",
            "#Product Code",
            "=CmContainer",
            "#Item",
            "#Peak",
            "#Mean",
            "#Denials",
        )
        for row in listing.rows:
            where = (row.firm_code, row.product_code, row.container, row.item or "")
            table.row(_begin(listing.by, row.start), *where, row.peak, f"{mean(row):.2f}", row.denials)
        print_table(out, table)
        out.print()
    out.print(f"Result: {len(listing.rows)} row(s) listed.")


def _begin(by: str, start: int) -> str:
    return stamp(start)[: {"hour": 13, "day": 10, "month": 7}.get(by)].replace("T", " ")
