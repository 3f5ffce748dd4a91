"""Has a container vouch for the history: it signs the hash of all that is kept by then (decision 20).

The chain of hashes shows that nothing was altered between; but whoever may write the file could make all of it anew.
What a container signed he cannot. It is asked for its signature when the server has started, each hour, and when the
server stops; the signature is written into the history itself, behind what it vouches for.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

import structlog
import trio

from cmserverd.core import changes as c
from cmserverd.core.refusal import Refused
from cmserverd.devices import Devices
from cmserverd.engine import Engine, Record
from drivers import statement
from drivers.driver import Device, Purpose, Signed

_log = structlog.get_logger("witness")

EVERY: Final = 3_600.0
"""Seconds between two signatures."""

_AGAIN: Final = 60.0
"""Seconds until it is tried again where no container could sign."""

_LAST: Final = 1.0
"""For how many seconds a stop waits for the last one: a dongle may be slow just then."""

CHAIN: Final = 1
"""The number, in what is signed, of the chain of hashes: a file has one."""


class Kept(Protocol):
    """What keeps the history: up to which position it is `kept`, and the hash of that."""

    kept: tuple[int, bytes]


class Witness:
    """Asks the containers, in the order in which they are drawn on; the first one that can signs."""

    def __init__(self, engine: Engine, devices: Devices, journal: Kept) -> None:
        self._engine = engine
        self._devices = devices
        self._journal = journal
        self._wake = trio.Event()
        engine.listen(self._noticed, c.Started, c.Plugged)

    def _noticed(self, _: Record) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Have what is kept signed when the server has started, and each hour, for ever."""
        while True:
            if not self._engine.table.starting and await self.sign():
                await trio.sleep(EVERY)
                continue
            self._wake = trio.Event()
            with trio.move_on_after(_AGAIN):
                await self._wake.wait()

    async def sign_last(self) -> None:
        """Have what is kept signed once more, since the server stops."""
        with trio.move_on_after(_LAST):
            await self.sign()

    async def sign(self) -> bool:
        """Have what is kept signed. Return whether a container did so."""
        position, chain = self._journal.kept
        body = statement.tracking_body(CHAIN, position, chain, self._engine.clock.now())
        for container in self._devices.witnesses():
            try:
                signed = await self._devices.ask(container, partial(_sign, body))
            except Refused as refused:
                _log.debug("a container does not vouch for the history", container=container, reason=str(refused))
                continue
            self._engine.witness(container, signed.message, signed.signature)
            _log.info("a container vouches for the history", container=container, position=position)
            return True
        return False


def _sign(body: bytes, device: Device) -> Signed:
    return device.sign(Purpose.TRACKING, body)
