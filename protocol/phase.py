"""Where a client's session stands: the one word by which both clients know what to do next."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where a session stands. Everything that changes it is in `ClientSession`."""

    CLOSED = "closed"
    """There is no connection, and none is sought: not opened yet, closed, or nothing that could be resumed."""
    SEEKING = "seeking"
    """The connection is broken; the shell is to dial again. What is asked waits."""
    GREETING = "greeting"
    """There is a connection, and its greeting is not answered. What is asked waits."""
    OPEN = "open"
