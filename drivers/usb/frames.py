"""The frames in which commands and replies cross the USB, as the host speaks them (`docs/drivers.md`).

Pure functions over bytes. All numbers are little-endian. A frame is a header of eight bytes and a payload:

    command   version, command, tag (16 bits), length of the payload (16 bits), 0 (16 bits)
    reply     version, command + 128, the same tag, length of the payload, status (16 bits)
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import Final

from msgspec import Struct

from drivers.driver import Faulty
from drivers.wire import PAYLOAD_LIMIT, VERSION, Command, Status

PACKET: Final = 64
"""Bytes of a USB packet on either bulk endpoint (full speed)."""

_HEADER: Final = Layout("<BBHHH")
HEADER_LENGTH: Final = _HEADER.size


class ReplyHeader(Struct, frozen=True):
    """What a reply begins with; `length` is that of the payload, and within bounds."""

    command: int
    tag: int
    length: int
    status: int


def encode_command(command: Command, tag: int, payload: bytes = b"") -> bytes:
    """Return the frame of a command; the payload has at most `PAYLOAD_LIMIT` bytes."""
    if len(payload) > PAYLOAD_LIMIT:
        msg = f"A command's payload has at most {PAYLOAD_LIMIT} bytes, not {len(payload)}."
        raise ValueError(msg)
    return _HEADER.pack(VERSION, command, tag, len(payload), 0) + payload


def decode_reply_header(octets: bytes) -> ReplyHeader:
    """Return the header that a reply's first packet begins with. Raises Faulty if it is none."""
    if len(octets) < HEADER_LENGTH:
        msg = f"The dongle's reply has {len(octets)} bytes, which is no whole header."
        raise Faulty(msg)
    version, command, tag, length, status = _HEADER.unpack_from(octets)
    if status == Status.WRONG_VERSION or version != VERSION:
        msg = f"The dongle speaks version {version} of its protocol, this software version {VERSION}; update it."
        raise Faulty(msg)
    if length > PAYLOAD_LIMIT:
        msg = f"The dongle announces a reply of {length} bytes; the most is {PAYLOAD_LIMIT}."
        raise Faulty(msg)
    return ReplyHeader(command, tag, length, status)


def check_reply(header: ReplyHeader, command: Command, tag: int) -> None:
    """Accept the reply to this command, whatever its status. Raises Faulty if it is another one's."""
    if (header.command, header.tag) != (command | 0x80, tag):
        msg = "The dongle answered something that it was not asked; unplug it and plug it in again."
        raise Faulty(msg)
