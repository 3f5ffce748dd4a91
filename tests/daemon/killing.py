"""Clients that ask and let go without end while the server under them is killed again and again.

Each has its own connection and its own dice, and comes back with its token. What it was told it writes into a ledger;
what it was not told, since the server was killed in between, it asks again: an access by its key.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from typing import Final, TypeVar

import trio
from msgspec import Struct

from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber
from protocol.terms import AccessMode
from tests.daemon.harness import CHARTS, Inbox, access, hello
from tests.daemon.ledger import Ledger

R = TypeVar("R", bound=Struct)

STATIONS: Final = 50
_MOST: Final = 4
"""How many handles a client holds at most."""

_USUAL: Final = (ErrorNumber.NO_MORE_LICENSES, ErrorNumber.SERVER_STARTING)


class Cut(Exception):
    """The server is gone."""


class Field:
    """Where the clients meet. `up` is set while there is a server; `answers` counts what they were told of.

    Once it is `over` they find out what became of their last requests; `through` are so many, who stay till `parting`.
    """

    def __init__(self, address: tuple[str, int], quantity: int) -> None:
        self.address = address
        self.ledger = Ledger(quantity)
        self.up = trio.Event()
        self.over = False
        self.parting = trio.Event()
        self.answers = 0
        self.through = 0
        self._condition: Callable[[], bool] = lambda: False
        self._met = trio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, or something is wrong."""
        self._condition, self._met = condition, trio.Event()
        if not condition():
            await self._met.wait()

    def count(self) -> None:
        """A client was told something."""
        self.answers += 1
        if self.ledger.faults or self._condition():
            self._met.set()


class Player:
    """One client."""

    def __init__(self, field: Field, number: int, seed: int) -> None:
        self._field = field
        self._number = number
        self._station = number % STATIONS + 1
        self._dice = random.Random(f"{seed}:{number}")
        self._token = ""
        self._asked: dict[bytes, AccessMode] = {}
        self._held: list[int] = []
        self._leaving: list[int] = []
        self._last = 0
        self._inbox = Inbox()
        self._stream: trio.SocketStream

    async def play(self) -> None:
        """Play until it is over, then stay until everybody is through."""
        field = self._field
        while True:
            await field.up.wait()
            sock = trio.socket.socket()
            try:
                await sock.connect(field.address)
                self._stream, self._inbox = trio.SocketStream(sock), Inbox()
                await self._greet()
                while not (field.over or field.ledger.faults):
                    await self._move()
                field.through += 1
                field.count()
                await field.parting.wait()
                return
            except (OSError, trio.BrokenResourceError, Cut):
                await trio.lowlevel.checkpoint()
            finally:
                sock.close()

    async def _greet(self) -> None:
        """Begin, or come back and find out what became of what was asked last."""
        if not self._token:
            greeting = hello(self._number, machine=f"machine-{self._station}", host=f"pc{self._station}")
            self._token = self._result(await self._ask(greeting), m.Greeting).token
            return
        reply = await self._ask(m.Resume((1, 1), self._token))
        if reply.error is not None:
            self._field.ledger.gone(self._number)
            self._field.count()
            raise Cut
        handles = self._result(reply, m.Greeting).handles
        self._field.ledger.resumed(self._number, handles)
        for handle in self._leaving[:]:
            if handle in handles:
                await self._release(handle)
            else:
                self._is_gone(handle)
        await self._access(dict(self._asked))

    async def _move(self) -> None:
        dice = self._dice
        if self._held and (len(self._held) >= _MOST or dice.random() < 0.5):
            await self._release(dice.choice(self._held))
        else:
            count = dice.randint(1, _MOST - len(self._held))
            modes = dice.choices([AccessMode.STATION_SHARE, AccessMode.USER_LIMIT], [3, 1], k=count)
            await self._access({secrets.token_bytes(16): mode for mode in modes})

    async def _access(self, wanted: dict[bytes, AccessMode]) -> None:
        """Ask for handles, all at once."""
        self._asked.update(wanted)
        numbers = {await self._send(access(mode, CHARTS, key=key)): key for key, mode in wanted.items()}
        for msgid, key in numbers.items():
            reply = await self._reply(msgid)
            mode = self._asked.pop(key)
            if reply.error is not None:
                number = rpc.convert(reply.error, m.ErrorBody).number
                assert number in _USUAL, number
                continue
            granted = self._result(reply, m.Granted)
            self._held.append(granted.handle)
            station = self._station if mode is AccessMode.STATION_SHARE else 0
            self._field.ledger.granted(self._number, granted.handle, granted.allocation, station)
            self._field.count()

    async def _release(self, handle: int) -> None:
        self._field.ledger.releasing(handle)
        if handle in self._held:
            self._held.remove(handle)
            self._leaving.append(handle)
        reply = await self._ask(m.Release(handle))
        assert reply.error is None, reply.error
        self._is_gone(handle)

    def _is_gone(self, handle: int) -> None:
        self._leaving.remove(handle)
        self._field.ledger.released(self._number, handle)
        self._field.count()

    # requests and replies

    async def _ask(self, params: m.Params) -> rpc.Response:
        return await self._reply(await self._send(params))

    async def _send(self, params: m.Params) -> int:
        self._last += 1
        await self._stream.send_all(rpc.encode_request(self._last, params))
        return self._last

    async def _reply(self, msgid: int) -> rpc.Response:
        while msgid not in self._inbox.replies:
            data = await self._stream.receive_some(rpc.CHUNK)
            if not data:
                raise Cut
            self._inbox.feed(data)
        return self._inbox.replies.pop(msgid)

    def _result(self, reply: rpc.Response, kind: type[R]) -> R:
        assert reply.error is None, reply.error
        return rpc.convert(reply.result, kind)
