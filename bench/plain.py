"""What one would write first: `trio.serve_tcp` and msgpack, answering the same bytes. It says its port.

It checks nothing and counts nothing; it is there to tell what the daemon's own I/O is worth.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import msgpack
import trio

from bench.processes import allow_many_files, say
from bench.requests import CONTAINER, ITEM

_handles: Final = itertools.count(1)


async def talk(stream: trio.abc.Stream) -> None:
    """Serve one client."""
    unpacker = msgpack.Unpacker()
    try:
        async for data in stream:
            unpacker.feed(data)
            replies = [msgpack.packb([1, msgid, None, _answer(method)]) for _, msgid, method, _ in unpacker]
            await stream.send_all(b"".join(replies))
    except trio.BrokenResourceError:
        return


def _answer(method: str) -> dict[str, Any]:
    if method == "access":
        handle = next(_handles)
        return {"handle": handle, "container": CONTAINER.id, "item": ITEM, "allocation": handle}
    if method == "release":
        return {}
    return {
        "version": 1,
        "session": 1,
        "token": "0" * 64,
        "server": {"name": "plain", "software": "bench", "version": "0"},
        "keep_alive": 40.0,
        "timeout": 120.0,
        "time": 0,
        "limits": {"requests": 64, "message": 16_384, "handles": 1_024},
    }


async def _serve() -> None:
    allow_many_files()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4_096)
        nursery.start_soon(trio.serve_listeners, talk, listeners)
        say(listeners[0].socket.getsockname()[1])


if __name__ == "__main__":
    trio.run(_serve)
