"""A thread that writes for the journal while the loop goes on.

It is handed a call and gives back what that returns or raises. With a quick disk, handing over is a good part of what a
commit takes, and trio's pool of threads does more for it than this needs: which thread, how many, and in which context.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import trio

T = TypeVar("T")


class _Call(Generic[T]):
    """Something to be done, and what became of it once it is `over`."""

    def __init__(self, do: Callable[[], T]) -> None:
        self.over = trio.Event()
        self._do = do
        self._returned: T
        self._raised: BaseException | None = None

    def run(self) -> None:
        """Do it, in the thread."""
        try:
            self._returned = self._do()
        except BaseException as error:  # all of it is the caller's
            self._raised = error

    def answer(self) -> T:
        """Return what it returned, or raise what it raised."""
        if self._raised is not None:
            try:
                raise self._raised
            finally:
                self._raised = None  # it has this frame in its traceback: together they would be a cycle
        return self._returned


class Writer:
    """The thread, from `with` until the end of its block. Calls are made one after the other, in their order."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="writer", args=(trio.lowlevel.current_trio_token(),))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it; all that it was given is over by then."""
        self._calls.put(None)
        self._thread.join()

    async def do(self, call: Callable[[], T]) -> T:
        """Return or raise what a call does in the thread. It is not cancelled: it may have been done by then."""
        handed = _Call(call)
        self._calls.put(handed)
        with trio.CancelScope(shield=True):
            await handed.over.wait()
        return handed.answer()

    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            token.run_sync_soon(call.over.set)
