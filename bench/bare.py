"""The bare server: the daemon's own I/O and the same bytes, but it grants without thinking. It says its port.

What the daemon costs more than this is what deciding and counting cost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Final
from unittest.mock import patch

import trio

from bench.filled import accept_clients, make_engine, make_service, settle
from bench.processes import say
from bench.requests import CONTAINER, ITEM
from cmserverd import server
from cmserverd.answers import Peer
from cmserverd.service import Detachment, Service
from protocol import messages as m
from protocol import rpc

_handles: Final = itertools.count(1)


class BareConversation:
    """What `cmserverd.connection` drives: it reads each request as the daemon does and answers with a counter."""

    def __init__(self, _: Service, peer: Peer) -> None:
        self.peer = peer
        self.session = None
        self.greeted = False
        self.over = False
        self.pending = 0
        self.waiting = None
        self.patience = math.inf
        self.heard = 0.0
        self.flush: Callable[[], None] = lambda: None
        self.has_input: Callable[[], bool] = lambda: False
        self._reader = rpc.Reader(rpc.BEFORE_GREETING)
        self._out: list[bytes] = []

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._reader.feed(data)

    def work(self) -> bool:
        """Answer all that has come."""
        while (message := self._reader.next()) is not None:
            if type(message) is rpc.Request:
                self._out.append(rpc.encode_result(message.msgid, self._answer(message)))
        return False

    def take(self) -> bytes:
        """Return the bytes to send, and forget them."""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return data

    def end(self, *_: object) -> None:
        """Close; the generator has no use for a goodbye."""
        self.over = True

    def failed(self) -> None:
        """Close."""
        self.over = True

    def lost(self, how: Detachment) -> None:
        """Forget nothing: nothing was counted."""

    def _answer(self, request: rpc.Request) -> m.Granted | m.Done | m.Greeting:
        if request.method == m.Access.method:
            rpc.parameters(request, m.Access)
            handle = next(_handles)
            return m.Granted(handle, CONTAINER.id, ITEM, handle)
        if request.method == m.Release.method:
            rpc.parameters(request, m.Release)
            return m.Done()
        rpc.parameters(request, m.Hello)
        self.greeted = True
        self._reader.limits = rpc.FROM_CLIENT
        presented = m.Server("bare", "bench", "0")
        return m.Greeting(1, 1, "0" * 64, presented, 40.0, 120.0, 0, m.Limits(64, rpc.FROM_CLIENT.total, 1_024))


async def _serve() -> None:
    settle()
    service = make_service(make_engine())
    with patch.object(server, "Conversation", BareConversation), server.listen_tcp("127.0.0.1", 0) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_clients, listener, service, nursery)
            say(listener.getsockname()[1])


if __name__ == "__main__":
    trio.run(_serve, restrict_keyboard_interrupt_to_checkpoints=True)
