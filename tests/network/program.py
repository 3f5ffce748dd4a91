"""A licensed program, in a process of its own: does what it reads, a line of JSON each, and writes what came of it.

    python -m tests.network.program SERVER STATION SECONDS

The answer is `[true, value]` or `[false, number]`, the number of the LicenseError. It ends with its input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from protocol.blocking import Access, Client
from protocol.errors import LicenseError
from protocol.messages import Event
from protocol.terms import AccessMode
from tests.daemon.harness import CHARTS, FIRM


def main(server: str, station: str, seconds: str) -> None:
    """Serve standard input."""
    events: list[Event] = []
    held: list[Access] = []
    with Client(server, station=station, timeout=float(seconds), on_event=events.append) as client:

        def access() -> int:
            held.append(client.access(FIRM, CHARTS, AccessMode.USER_LIMIT))
            return held[-1].handle

        def release() -> None:
            held[-1].release()

        def often(times: int) -> None:
            for _ in range(times):
                with client.access(FIRM, CHARTS, AccessMode.USER_LIMIT) as one:
                    one.info()

        acts: dict[str, Callable[..., Any]] = {
            "access": access,
            "release": release,
            "often": often,
            "check": lambda: held[-1].check_nowait(),
            "info": lambda: held[-1].info().handle,
            "handle": lambda: held[-1].handle,
            "broken": lambda: client.broken is not None,
            "events": lambda: [[event.event, event.error.number if event.error else 0] for event in events],
        }
        for line in sys.stdin:
            act, *arguments = json.loads(line)
            try:
                answer = [True, acts[act](*arguments)]
            except LicenseError as error:
                answer = [False, int(error.number)]
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
