"""A chip as the factory lets it go: its flash is empty. INIT makes it a container, with a key that it makes itself."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from drivers.chip.banks import Damaged, make
from drivers.chip.chip import Answer, Chip, Command, Memory
from drivers.chip.contents import KEY_LENGTH, new_owner, without_firms
from drivers.chip.flash import Flash
from drivers.chip.log import whole
from drivers.chip.seal import Seal
from drivers.chip.state import State
from drivers.chip.status import EMPTY, UNKNOWN_COMMAND, No, expect

TEXT_LIMIT: Final = 255
"""The most characters of a container's text."""

_INIT: Final = struct.Struct("<HI")


class Blank(Memory):
    """Begins without an image and is a `Chip` once it has one. `random` gives so many random bytes.

    A flash whose image is damaged counts as empty: nothing in it could ever be used again. Raises Newer if a later
    version made it.
    """

    def __init__(self, flash: Flash, random: Callable[[int], bytes] = os.urandom) -> None:
        super().__init__(b"")
        self._flash = flash
        self._random = random
        try:
            self._made: Chip | None = self._start()
        except Damaged:
            self._made = None

    def _start(self) -> Chip:
        private = self._flash.read(self._flash.layout.sectors)[:KEY_LENGTH]
        return Chip(self._flash, private.ljust(KEY_LENGTH, b"\0"), self._random)

    @property
    def image(self) -> bytes:
        """The image as it is read; nothing as long as there is none."""
        return b"" if self._made is None else self._made.image

    def answer(self, command: int, payload: bytes) -> Answer:
        """Return status and payload of the reply."""
        if self._made is not None:
            return self._made.answer(command, payload)
        return super().answer(command, payload)

    def _run(self, command: int, payload: bytes) -> bytes:
        match command:
            case Command.INFO:
                return super()._run(command, payload)
            case Command.INIT:
                mask, serial = _INIT.unpack_from(payload)
                return self._init(mask, serial, payload[_INIT.size :])
            case _:
                raise No(EMPTY if command in set(Command) else UNKNOWN_COMMAND)

    def _init(self, mask: int, serial: int, text: bytes) -> bytes:
        expect(_is_text(text))
        private = self._random(KEY_LENGTH)
        public = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        owner = new_owner(mask, serial, public)
        layout = self._flash.layout
        slot = whole(State(sequence=1, floor=0), layout, Seal(owner, private))
        make(self._flash, private, without_firms(layout.version, owner, text, layout.whole_limit), slot)
        self._made = self._start()
        return public


def _is_text(octets: bytes) -> bool:
    """Whether these bytes are a text without ASCII's control characters; the host knows of the other ones."""
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        return False
    return len(text) <= TEXT_LIMIT and not any(byte < 0x20 or byte == 0x7F for byte in octets)
