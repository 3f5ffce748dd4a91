"""Brings license time to the table: wakes when a license expires or lingers no longer, or an access or a loan ends.

License time is not trio's clock: whoever sets the system clock forward raises it. So as long as something is to come,
it is looked at once a second at least, and at the very instant when that is nearer.
"""

from __future__ import annotations

from math import inf

import structlog
import trio

from cmserverd.core import changes as c
from cmserverd.engine import Engine, Record

_log = structlog.get_logger("deadlines")

_LOOK = 1.0
"""How many seconds a clock that was set goes unnoticed at most."""

_SLICE = 256
"""How many allocations end or lapse before others have their turn: some 10 ms."""


class Deadlines:
    """Lets happen what is due."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wake = trio.Event()
        self._planned: float = inf
        soonest = c.Plugged, c.Reprogrammed, c.Consumed, c.Bounded, c.Lingering, c.Borrowed, c.TimeSet, c.Leapt
        engine.listen(self._changed, *soonest)
        engine.listen(self._say, c.Expired, c.Leapt)

    def _changed(self, _: Record) -> None:
        """Look again if something is due before what was. No passage of the engine is made here: one is going on."""
        due = self._engine.due()
        if due is not None and due < self._planned:
            self._wake.set()

    def _say(self, record: Record) -> None:
        for change in record.changes:
            if isinstance(change, c.Expired):
                entry = change.license
                _log.warning(
                    "license is over; its accesses were moved or ended",
                    container=entry.container,
                    firm_code=entry.firm_code,
                    item=entry.item,
                )
            elif isinstance(change, c.Leapt):
                _log.warning(
                    "license time has leapt: the system clock was set forward, or the machine stood still; "
                    "licenses expire earlier by that, what lasts for so long and loans do not",
                    seconds=change.by,
                )

    async def run(self) -> None:
        """Wait for the next instant and let happen what is due, for ever."""
        while True:
            self._wake = trio.Event()
            due = self._engine.due()
            self._planned = inf if due is None else due
            with trio.move_on_after(inf if due is None else min(self._engine.clock.until(due), _LOOK)):
                await self._wake.wait()
            try:
                while self._engine.advance(_SLICE):
                    await trio.lowlevel.checkpoint()
            except Exception:  # a bug that one license meets must not end the daemon
                _log.exception("ending what is over met a bug")
                await trio.sleep(_LOOK)
