"""Moves the bytes of one conversation over a non-blocking socket.

One task per connection waits for input; output is sent where it arises, without a task or a wait, and only what the
socket does not take at once is left to a task of its own. That halves what a request costs on top of deciding it, and
an idle connection is one sleeping task. All sockets here are stream sockets of the standard library in non-blocking
mode: TCP, Unix, or one end of a pair.
"""

from __future__ import annotations

import errno
import fcntl
import math
import socket
import struct
import termios

import trio
from msgspec import Struct
from trio.lowlevel import wait_readable, wait_writable

from cmserverd.answers import Door, Later
from cmserverd.conversation import Conversation, Waiting
from cmserverd.core.refusal import Refused
from cmserverd.service import Detachment
from protocol.rpc import CHUNK

_SILENT = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)
"""How the system says that the other end cannot be reached, rather than that it closed."""

_FAREWELL = 1.0
"""How many seconds a closing connection waits for the peer to read its goodbye and close too."""

_LAST_WORDS = 64
"""How many chunks are taken from it meanwhile."""

_OUTBOX_TIME = 6
"""How many times `stalled` an outbox may take to be read, however steadily: a peer that takes a byte now and then would
hold it for ever. With ten seconds that is a minute. A full outbox with a page of a listing at its end (256 + 512 KiB)
needs a line of 105 kbit/s for that, the longest message that there can be (4 MiB) one of 560 kbit/s."""


class Pace(Struct, frozen=True):
    """How long a peer may take, in seconds: `hello` until its greeting, `stalled` without reading what waits for it.

    To read all that waits for it, it may take six times `stalled`.
    """

    hello: float = 10.0
    stalled: float = 10.0


class Connection:
    """One socket and its conversation; `run` returns when both are done with."""

    def __init__(self, sock: socket.socket, conversation: Conversation, pace: Pace) -> None:
        self._sock = sock
        self._conversation = conversation
        self._pace = pace
        self._scope = trio.CancelScope()
        self._how = Detachment.CLOSED
        self._rest = memoryview(b"")
        self._drained: trio.Event | None = None  # None while the socket takes all at once
        self._nursery: trio.Nursery | None = None
        self._kept: trio.Event | None = None  # None while nobody waits for it
        self._timed: Waiting | None = None
        self._timer = trio.CancelScope()

    async def run(self) -> None:
        """Serve the peer until it goes or the conversation is over; closes the socket."""
        conversation = self._conversation
        conversation.heard = trio.current_time()
        conversation.has_input = self._has_input
        conversation.flush = self.flush
        conversation.hang_up = self._scope.cancel
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    self._scope.deadline = trio.current_time() + self._pace.hello
                    with self._scope:
                        await self._serve()
                    if self._scope.cancelled_caught and not conversation.over:
                        conversation.late(self._pace.hello)
                    await self._part()
                finally:
                    conversation.over = True
                    self._nursery.cancel_scope.cancel()
                    self._nursery = None  # from here on nothing may be started in it
        finally:
            self._sock.close()
            conversation.lost(self._how)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it now; a task sends the rest."""
        conversation = self._conversation
        if self._nursery is None:
            return
        if self._drained is None and (data := conversation.take()):
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._break(error)
                return
            if sent < len(data):
                self._rest = memoryview(data)[sent:]
                self._drained = trio.Event()
                self._nursery.start_soon(self._drain, self._drained)
        if conversation.over:
            self._scope.cancel()
        if self._kept is not None and not conversation.held:
            self._stop_waiting()

    async def _serve(self) -> None:
        conversation = self._conversation
        while not conversation.over:
            await wait_readable(self._sock)
            try:
                data = self._sock.recv(CHUNK)
            except BlockingIOError:
                continue
            except OSError as error:
                self._break(error)
                return
            if not data:
                return
            conversation.heard = trio.current_time()
            conversation.receive(data)
            while self._work():
                if conversation.later is not None:
                    await self._answer_later(conversation.later)
                elif self._drained is not None:
                    await self._drained.wait()
                elif conversation.held:
                    await self._wait_until_kept()
                else:
                    await trio.lowlevel.checkpoint()

    async def _wait_until_kept(self) -> None:
        """Wait until what the replies rest on is kept and they can leave."""
        while self._conversation.held:
            self._kept = trio.Event()
            await self._kept.wait()

    def _stop_waiting(self) -> None:
        if self._kept is not None:
            self._kept.set()
            self._kept = None

    async def _answer_later(self, later: Later) -> None:
        """Wait for an answer that takes time, in which no sign of life of the peer is read.

        Who only looks is not worked for once he is gone; what operators and applications ask is done to its end.
        """
        self._scope.deadline = math.inf
        outcome: Struct | Refused | None = None
        if self._conversation.peer.door is Door.MONITOR:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._give_up_when_gone, nursery.cancel_scope)
                outcome = await self._outcome(later)
                nursery.cancel_scope.cancel()
        else:
            outcome = await self._outcome(later)
        self._conversation.heard = trio.current_time()
        if outcome is not None:
            self._conversation.answered(outcome)

    async def _outcome(self, later: Later) -> Struct | Refused | None:
        """Return what an answer says; None after a bug in it, which ends this session and no other."""
        try:
            return await later.run()
        except Refused as refusal:
            return refusal
        except Exception:
            self._conversation.failed()
            return None

    async def _give_up_when_gone(self, answering: trio.CancelScope) -> None:
        """Wait for the peer's end, or its next question, which waits as long as this one is being answered."""
        await wait_readable(self._sock)
        try:
            gone = not self._sock.recv(1, socket.MSG_PEEK)
        except OSError:
            gone = True
        if gone:
            self._conversation.over = True
            answering.cancel()

    def _work(self) -> bool:
        """Answer what has come. A bug in answering ends this session and no other."""
        conversation = self._conversation
        try:
            more = conversation.work()
        except Exception:
            conversation.failed()
            return False
        self.flush()
        if conversation.greeted:
            deadline = conversation.heard + conversation.patience
            if deadline != self._scope.deadline:
                self._scope.deadline = deadline
        if conversation.waiting is not self._timed:
            self._time(conversation.waiting)
        return more

    def _time(self, waiting: Waiting | None) -> None:
        """Have a wait end in time. A connection has one timer: asking again and again does not pile them up."""
        assert self._nursery is not None
        self._timer.cancel()
        self._timed = waiting
        if waiting is not None:
            self._timer = trio.CancelScope(deadline=trio.current_time() + waiting.seconds)
            self._nursery.start_soon(self._time_out, waiting, self._timer)

    async def _time_out(self, waiting: Waiting, timer: trio.CancelScope) -> None:
        with timer:
            await trio.sleep_forever()
        if self._conversation.waiting is waiting:
            self._conversation.waited()
            self.flush()

    async def _drain(self, drained: trio.Event) -> None:
        """Send what the socket did not take at once; a peer that does not read, or for too long, is given up."""
        latest = self._latest()
        while self._rest:
            queued = self._queued()
            with trio.move_on_at(min(trio.current_time() + self._pace.stalled, latest)) as patience:
                await wait_writable(self._sock)
            if patience.cancelled_caught:
                if self._queued() < queued and trio.current_time() < latest:
                    continue  # it reads, though not yet so much that the system takes more
                self._conversation.complain("a client does not read its replies; disconnected")
                self._how = Detachment.SILENT
                self._abandon()
                return
            try:
                self._rest = self._rest[self._sock.send(self._rest) :]
            except BlockingIOError:
                continue
            except OSError as error:
                self._break(error)
                return
            if not self._rest:
                self._rest = memoryview(self._conversation.take())
                latest = self._latest()
        drained.set()
        if self._drained is drained:  # else the connection broke meanwhile
            self._drained = None

    def _latest(self) -> float:
        """Return until when an outbox that begins to wait now must have been read."""
        return trio.current_time() + _OUTBOX_TIME * self._pace.stalled

    async def _part(self) -> None:
        """Let the peer read the goodbye: closing at once, with bytes of its unread, would throw it away."""
        if self._how is Detachment.SILENT:
            return
        # A peer that reads a little now and then could make this last for ever.
        with trio.move_on_after(self._pace.stalled) as patience:
            while self._drained is not None or self._conversation.held:
                if self._drained is not None:
                    await self._drained.wait()
                else:
                    await self._wait_until_kept()
        if patience.cancelled_caught or not self._conversation.over:
            return
        with trio.move_on_after(_FAREWELL):
            try:
                self._sock.shutdown(socket.SHUT_WR)
                await self._hear_out()
            except OSError:
                return

    async def _hear_out(self) -> None:
        """Throw away what the peer still sends, until it closes. Raises OSError if the socket breaks."""
        for _ in range(_LAST_WORDS):
            await wait_readable(self._sock)
            try:
                if not self._sock.recv(CHUNK):
                    return
            except BlockingIOError:
                continue

    def _break(self, error: OSError) -> None:
        """The socket is broken: nothing more can be sent or received."""
        if error.errno in _SILENT:
            self._how = Detachment.SILENT
        self._abandon()

    def _abandon(self) -> None:
        self._rest = memoryview(b"")
        if self._drained is not None:
            self._drained.set()
            self._drained = None
        self._conversation.over = True
        self._scope.cancel()
        self._stop_waiting()

    def _queued(self) -> int:
        """Return how many bytes the system has taken from us and the peer's system not from it."""
        queued: int
        (queued,) = struct.unpack("i", fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4)))
        return queued

    def _has_input(self) -> bool:
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False
