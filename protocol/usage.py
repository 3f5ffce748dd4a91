"""The usage history: how much of each license was used, and how often it was denied, by hour, day or month.

Times are whole Unix seconds; hours, days and months are those of UTC. `docs/protocol.md` has the same for people.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct

from protocol.params import Cursor, Instant, Params

SpanName = Literal["hour", "day", "month"]


class UsedFrom(Struct, frozen=True, gc=False):
    """Where a page goes on: in the span that begins then, behind so many of its rows."""

    start: Instant
    rows: Cursor


class UsageRequest(Params["UsagePage"], frozen=True, gc=False):
    """Asks for the usage history by spans, of those that begin at or after `since` and before `until`.

    What is long over is told by day or by month only, and at last not at all.
    """

    method: ClassVar[str] = "usage"
    by: SpanName = "day"
    since: Instant | None = None
    until: Instant | None = None
    cursor: UsedFrom | None = None


class UsageRow(Struct, frozen=True, gc=False, omit_defaults=True):
    """The use of one license in a span: the most units at once, and the sum of units times seconds.

    Of the span `seconds` are known: it may be the first one, or last until now. Denials are those of a product, of
    which `container` and `item` are only known if they were asked for: else `container` is empty, and `item` 0.
    """

    start: int
    seconds: int
    container: str
    firm_code: int
    product_code: int
    item: int
    peak: int = 0
    unit_seconds: int = 0
    denials: int = 0


class UsagePage(Struct, frozen=True, gc=False, omit_defaults=True):
    """A page of rows, in the order of their spans; `next` is where to go on, absent on the last page."""

    position: int
    time: int
    rows: tuple[UsageRow, ...]
    next: UsedFrom | None = None
