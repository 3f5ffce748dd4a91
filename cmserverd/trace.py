"""What `debug` adds to the log: a line for each passage through the engine, in the order in which they were decided."""

from __future__ import annotations

import structlog

from cmserverd.engine import Record

_log = structlog.get_logger("trace")


def trace(record: Record) -> None:
    """Log what was asked and by which session, the kinds of the changes, and the number if it was refused."""
    _log.debug(
        "passage",
        position=record.position,
        session=record.session,
        method=record.request.method if record.request is not None else None,
        changes=[type(change).__name__ for change in record.changes],
        refusal=record.refusal.number.value if record.refusal is not None else None,
    )
