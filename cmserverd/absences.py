"""The containers that are missing: how long each may be away before its accesses are moved or ended (decision 6)."""

from __future__ import annotations

import structlog
import trio
from msgspec import Struct

from cmserverd.engine import Engine
from drivers.container import ContainerId

_log = structlog.get_logger("absences")

_SLICE = 256
"""How many allocations of a container that is gone are moved or ended before others have their turn: some 10 ms."""


class _Absence(Struct, frozen=True):
    """The grace of one container. `key` is its public key, None if it was not here since the start."""

    key: bytes | None
    grace: trio.CancelScope


class Absences:
    """The containers that are missing, each with its grace; shared by all watchers: containers change places."""

    def __init__(self, engine: Engine, grace: float, nursery: trio.Nursery) -> None:
        self._engine = engine
        self._grace = grace
        self._nursery = nursery
        self._running: dict[ContainerId, _Absence] = {}

    def begin(self, container: ContainerId, key: bytes | None = None) -> None:
        """A container was pulled out; `key` is its public key."""
        self._engine.unplug(container)
        absence = self._running[container] = _Absence(key, trio.CancelScope())
        self._nursery.start_soon(self._wait, container, absence.grace)

    def key(self, container: ContainerId) -> bytes | None:
        """Return the public key of a container that is missing; None if it is not known."""
        absence = self._running.get(container)
        return None if absence is None else absence.key

    def begin_all(self) -> None:
        """Every driver has looked: what the server knows from before and nobody has found is missing."""
        for container in [name for name, known in self._engine.table.containers.items() if not known.present]:
            if container not in self._running:
                _log.warning("container is missing since the start", container=container)
                self.begin(container)

    def end(self, container: ContainerId) -> None:
        """A container is back."""
        absence = self._running.pop(container, None)
        if absence is not None:
            absence.grace.cancel()

    async def _wait(self, container: ContainerId, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(self._grace)
            if not scope.cancel_called:  # it may come back at the very end
                _log.warning("container is gone for good; its accesses are moved or ended", container=container)
            while not scope.cancel_called and self._engine.vacate(container, _SLICE):
                await trio.lowlevel.checkpoint()
        if not scope.cancel_called:
            del self._running[container]
            self._engine.remove(container)
