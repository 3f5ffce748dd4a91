"""How the chip answers: the statuses, and the exception by which whoever finds a reason to refuse says which."""

from __future__ import annotations

from typing import Final

OK, UNKNOWN_COMMAND, UNSUPPORTED, BAD_REQUEST, OUT_OF_RANGE, WRONG_VERSION = range(6)
NO_ITEM, NO_COUNTER, COUNTER_ZERO, UNDERRUN, NO_ROOM = range(6, 11)
NOT_SIGNED: Final = 13
ALREADY_MADE, EMPTY, NOT_BORROWABLE, TOO_LONG, NONE_LEFT, LEDGER_FULL = range(15, 21)


class No(Exception):
    """The command is refused with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def expect(sound: bool) -> None:
    """Refuse a payload of the wrong form."""
    if not sound:
        raise No(BAD_REQUEST)
