"""Bounded reading of bytes that nobody vouches for: whatever is not there, or is too long, is an `ImageError`."""

from __future__ import annotations

from struct import Struct as Layout
from typing import Any, Final

from drivers.container import TEXT_LIMIT, check_text
from drivers.driver import ImageError

_U16: Final = Layout("<H")
_TEXT_BYTES: Final = 4 * TEXT_LIMIT
"""UTF-8 takes at most four bytes for a character."""


class Cursor:
    """Reads `octets` from front to back. `what` names them in the sentences of errors, as in "the header"."""

    def __init__(self, octets: bytes, what: str) -> None:
        self._octets = octets
        self._at = 0
        self._what = what

    @property
    def done(self) -> bool:
        """Whether nothing remains."""
        return self._at == len(self._octets)

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes. Raises ImageError if fewer remain."""
        remaining = len(self._octets) - self._at
        if length > remaining:
            msg = f"The image is damaged: {self._what} ends too early ({length} bytes expected, {remaining} there)."
            raise ImageError(msg)
        self._at += length
        return self._octets[self._at - length : self._at]

    def unpack(self, layout: Layout) -> tuple[Any, ...]:
        """Return the next fields. Raises ImageError if they are not all there."""
        return layout.unpack(self.take(layout.size))

    def text(self) -> str:
        """Return a text that a 16-bit length goes before. Raises ImageError if it cannot be shown to people."""
        (length,) = self.unpack(_U16)
        return decode_text(self.take(length), self._what)

    def rest(self) -> bytes:
        """Return all that remains."""
        return self.take(len(self._octets) - self._at)

    def end(self) -> None:
        """Raise ImageError if anything remains."""
        remaining = len(self.rest())
        if remaining:
            msg = f"The image is damaged: {self._what} has {remaining} bytes too many."
            raise ImageError(msg)


def decode_text(octets: bytes, what: str) -> str:
    """Return the text that these bytes spell. Raises ImageError if it is no UTF-8, too long, or not to be shown."""
    if len(octets) > _TEXT_BYTES:
        msg = f"The image cannot be used: a text in {what} has {len(octets)} bytes; the most is {_TEXT_BYTES}."
        raise ImageError(msg)
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        msg = f"The image is damaged: a text in {what} is not UTF-8."
        raise ImageError(msg) from None
    try:
        check_text(text)
    except ValueError as error:
        msg = f"The image cannot be used: in {what}, {error}."
        raise ImageError(msg) from None
    return text


def encode_text(text: str) -> bytes:
    """Return the text with the 16-bit length before it. Raises ImageError if `Cursor.text` would refuse it."""
    try:
        octets = text.encode()
    except UnicodeEncodeError:
        msg = f"The text {text!a} has a lone surrogate; leave it out."
        raise ImageError(msg) from None
    decode_text(octets, "the container")
    return _U16.pack(len(octets)) + octets
