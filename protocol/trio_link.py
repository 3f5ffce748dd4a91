"""The trio client's connections: it dials, moves the bytes, keeps alive, and dials again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from protocol.address import Address, Unix
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError
from protocol.messages import Event
from protocol.phase import Phase
from protocol.rpc import CHUNK
from protocol.session import ClientSession

Dial = Callable[[Address], Awaitable[trio.abc.Stream]]
Connect = Callable[[Address], Awaitable[trio.abc.Stream]]
Deliver = Callable[[list[Event]], None]
KeepAlive = Callable[[], Awaitable[object]]


async def dial(address: Address) -> trio.abc.Stream:
    """Connect. Raises OSError. Small messages leave at once: trio sets TCP_NODELAY on each of its TCP streams."""
    if isinstance(address, Unix):
        return await trio.open_unix_socket(address.path)
    try:
        return await trio.open_tcp_stream(address.host, address.port)
    except OSError as error:
        if isinstance(tried := error.__cause__, ExceptionGroup):  # why each of the host's addresses failed
            raise tried.exceptions[-1] from None
        raise


class TrioLink:
    """The way to the server, one connection after the other; each has tasks that read, write and keep it alive."""

    def __init__(
        self, session: ClientSession[Any], timeout: float, connect: Connect, deliver: Deliver, keep_alive: KeepAlive
    ) -> None:
        self._session = session
        self._connect = connect
        self._deliver = deliver
        self._alive = keep_alive
        self._timeout = timeout
        # Whoever cancels the user's block must leave us the time for a goodbye; only `close` and the session end us.
        self._scope = trio.CancelScope(shield=True)
        self._more = trio.Event()
        self._postponed = trio.Event()
        self._done = trio.Event()

    def flush(self) -> None:
        """Have the session's outbox sent."""
        self._more.set()

    async def close(self) -> None:
        """End the connection, or the seeking of one, and wait for that."""
        self._scope.cancel()
        await self._done.wait()

    async def run(self, stream: trio.abc.Stream | None, address: Address) -> None:
        """Serve a connection, and make another one when it breaks, until the session is closed."""
        try:
            with self._scope:
                while stream is not None:
                    await self._serve(stream)
                    stream = await self._seek(address)
        finally:
            self._done.set()

    async def _seek(self, address: Address) -> trio.abc.Stream | None:
        while self._session.phase is Phase.SEEKING:
            await trio.sleep(self._session.backoff.next())
            try:
                stream = await self._connect(address)
            except LicenseError as error:
                self._session.lost(str(error))
            else:
                self._session.begin()
                return stream
        return None

    async def _serve(self, stream: trio.abc.Stream) -> None:
        self._postponed = trio.Event()
        greeted = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream)
                nursery.start_soon(self._keep_alive, greeted, nursery.cancel_scope)
                nursery.start_soon(self._claim)
                await self._read(stream, greeted)
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)

    async def _read(self, stream: trio.abc.Stream, greeted: trio.Event) -> None:
        while self._session.connected:
            try:
                data = await stream.receive_some(CHUNK)
            except trio.BrokenResourceError as error:
                self._session.lost(f"{error.__cause__ or error}")
                return
            if not data:
                self._session.lost("the server closed it")
                return
            self._deliver(self._session.receive(bytes(data)))
            if self._session.phase is Phase.OPEN:
                greeted.set()
            if self._session.postponed:
                self._postponed.set()
            self.flush()

    async def _write(self, stream: trio.abc.Stream) -> None:
        while True:
            if data := bytes(self._session.outbox):
                self._session.outbox.clear()
                try:
                    await stream.send_all(data)
                except trio.BrokenResourceError:
                    return  # the reader learns why: perhaps a farewell is still to be read
            else:
                self._more = trio.Event()
                await self._more.wait()

    async def _keep_alive(self, greeted: trio.Event, connection: trio.CancelScope) -> None:
        with trio.move_on_after(self._timeout) as waiting:
            await greeted.wait()
        silence = f"no answer within {self._timeout:g} seconds" if waiting.cancelled_caught else ""
        while not silence:
            await trio.sleep(self._session.keep_alive)
            self._session.lived()
            try:
                with trio.move_on_after(self._session.patience) as answering:
                    await self._alive()
            except LocalProtocolError:
                return  # a goodbye is on its way: nothing more is asked on this connection
            except LicenseError as error:
                if error.number == ErrorNumber.NETWORK_FAULT:
                    silence = "the server gives no sign of life"
            else:
                if answering.cancelled_caught:
                    silence = "the server gives no sign of life"
        self._session.lost(silence)
        connection.cancel()

    async def _claim(self) -> None:
        while True:
            await self._postponed.wait()
            await trio.sleep(self._session.backoff.next())
            self._postponed = trio.Event()
            self._session.claim()
            self.flush()
