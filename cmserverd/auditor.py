"""Has a process of its own read license tracking from the journal's file, one at a time, and gives its answer.

A process that has more to tell is kept for some seconds, for whoever asks for the next page. Whoever else asks waits,
with one question of each connection to the monitor socket at most, of which there are few.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio
from msgspec import Struct
from msgspec.structs import replace

from cmserverd.core.refusal import Refused
from protocol import messages as m
from protocol.errors import ErrorNumber

R = TypeVar("R", bound=Struct)

Asked = m.TrackingRequest | m.UsageRequest | m.VerifyTracking

_SAID: Final = 1_000
"""How much is told of what a process that fails has said, in characters."""


class Auditor:
    """Answers what is asked about the history in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = trio.Lock()
        self._waiting: _Process | None = None
        self._for: Asked | None = None

    async def ask(self, asked: Asked, result: type[R]) -> R:
        """Return the answer. Raises Refused. When it is cancelled, the process ends."""
        async with self._turn:
            process, octets = await self._answered(asked)
            answer = msgspec.msgpack.decode(octets, type=result)
            following = getattr(answer, "next", None)
            if following is None:
                await process.end()
            else:
                self._waiting, self._for = process, replace(asked, cursor=following)
            return answer

    async def _answered(self, asked: Asked) -> tuple[_Process, bytes]:
        """Return the answer, and the process that gave it: the one that waits for just this, or a new one."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            if self._for == asked and (octets := await waiting.answer(go_on=True)):
                return waiting, octets
            await waiting.end()
        process = await self._start(asked)
        if octets := await process.answer():
            return process, octets
        raise Refused(ErrorNumber.INTERNAL, await process.end() or "the history could not be read")

    async def _start(self, asked: Asked) -> _Process:
        command = [sys.executable, "-P", "-m", "cmserverd.audit", os.fspath(self._path), asked.method]
        request = msgspec.json.encode(asked).decode()
        try:
            return _Process(await _open([*command, request]))
        except OSError as error:
            raise Refused(ErrorNumber.INTERNAL, f"the history cannot be read: {error.strerror}") from error


class _Process:
    """One process, which tells one page after the other."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def answer(self, *, go_on: bool = False) -> bytes:
        """Return its next answer; nothing if it has ended. When that is cancelled, it ends."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            if go_on:
                await stdin.send_all(b"\n")
            return await self._exactly(int.from_bytes(await self._exactly(4), "big"))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
        except BaseException:
            await self.end()
            raise

    async def _exactly(self, size: int) -> bytes:
        """Read so many bytes; raise BrokenResourceError if there are no more."""
        stdout = self._process.stdout
        assert stdout is not None
        octets = bytearray()
        while len(octets) < size:
            some = await stdout.receive_some(size - len(octets))
            if not some:
                raise trio.BrokenResourceError
            octets += some
        return bytes(octets)

    async def end(self) -> str:
        """See to its end; return what it said, if something went wrong."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with trio.CancelScope(shield=True):
            await process.stdout.aclose()
            await process.stdin.aclose()
            said = bytearray()
            with trio.move_on_after(_PARTING):
                async for some in process.stderr:
                    said += some[:_SAID]
                await process.wait()
            process.kill()
            await process.wait()
            await process.stderr.aclose()
        return said.decode(errors="replace").strip()[-_SAID:]


_PARTING: Final = 0.5
"""How many seconds a process has to end by itself."""


async def _open(command: list[str]) -> trio.Process:
    pipe = subprocess.PIPE
    return await trio.lowlevel.open_process(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
