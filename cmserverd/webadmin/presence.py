"""Work that takes long is done for as long as whoever asked for it is there: who goes away costs nothing more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from starlette.requests import Request


async def while_there(request: Request, work: Callable[[], Awaitable[None]]) -> None:
    """Do something for as long as the connection of a request stands, whose body was taken. Raise what it raises."""
    failed: Exception | None = None

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            await work()
        except Exception as error:  # raised below: here it would be wrapped
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
