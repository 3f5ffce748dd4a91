"""The dongle's USB protocol as the host speaks it: commands to bytes, bytes to replies (`docs/drivers.md`).

Pure functions over bytes. All numbers are little-endian. A frame is a header of eight bytes and a payload:

    command   version, command, tag (16 bits), length of the payload (16 bits), 0 (16 bits)
    reply     version, command + 128, the same tag, length of the payload, status (16 bits)
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct as Layout
from typing import Final

from msgspec import Struct

from drivers.driver import Faulty, Unsupported
from drivers.image import IMAGE_LIMIT

VERSION: Final = 1
"""The version of the protocol that this software speaks."""
PACKET: Final = 64
"""Bytes of a USB packet on either bulk endpoint (full speed)."""
PAYLOAD_LIMIT: Final = 4096
"""The most bytes of a payload: a 64 KiB image takes 16 exchanges, and a small chip can hold a frame."""

_HEADER: Final = Layout("<BBHHH")
_INFO: Final = Layout("<BBHI")
_CHUNK: Final = Layout("<IH")
HEADER_LENGTH: Final = _HEADER.size


class Command(IntEnum):
    """The commands. Those from 16 on are reserved: today's dongles answer that they do not support them."""

    INFO = 1
    READ_IMAGE = 2
    SIGN = 16
    CONSUME = 17
    APPLY = 18


class Status(IntEnum):
    """How a dongle answers."""

    OK = 0
    UNKNOWN_COMMAND = 1
    UNSUPPORTED = 2
    BAD_REQUEST = 3
    OUT_OF_RANGE = 4
    WRONG_VERSION = 5


class ReplyHeader(Struct, frozen=True):
    """What a reply begins with; `length` is that of the payload, and within bounds."""

    command: int
    tag: int
    length: int
    status: int


class Info(Struct, frozen=True):
    """What a dongle says of itself: the protocol versions it speaks, the most it puts in a payload, its image's length.

    Both lengths are in bytes and within bounds.
    """

    versions: tuple[int, int]
    payload_limit: int
    image_length: int


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
    """Accept the reply to this command. Raises Unsupported if the dongle cannot, Faulty if it is anything else."""
    if (header.command, header.tag) != (command | 0x80, tag):
        msg = "The dongle answered something that it was not asked; unplug it and plug it in again."
        raise Faulty(msg)
    if header.status in {Status.UNKNOWN_COMMAND, Status.UNSUPPORTED}:
        msg = f"The dongle does not support {command.name}; ask its licensor for one that does."
        raise Unsupported(msg)
    if header.status != Status.OK:
        known = {status.value: status.name for status in Status}
        shown = known.get(header.status, f"status {header.status}")
        msg = f"The dongle refused {command.name} ({shown}); update this software, or have the dongle exchanged."
        raise Faulty(msg)


def decode_info(payload: bytes) -> Info:
    """Return what an INFO reply says; a later version may add bytes. Raises Faulty if any of it cannot be."""
    if len(payload) < _INFO.size:
        msg = f"The dongle describes itself in {len(payload)} bytes; at least {_INFO.size} are expected."
        raise Faulty(msg)
    lowest, highest, payload_limit, image_length = _INFO.unpack_from(payload)
    if not lowest <= VERSION <= highest:
        msg = f"The dongle speaks versions {lowest} to {highest} of its protocol, this software version {VERSION}."
        raise Faulty(msg)
    if not 1 <= payload_limit <= PAYLOAD_LIMIT:
        msg = f"The dongle announces payloads of {payload_limit} bytes; expected are 1 to {PAYLOAD_LIMIT}."
        raise Faulty(msg)
    if image_length > IMAGE_LIMIT:
        msg = f"The dongle announces an image of {image_length} bytes; the most is {IMAGE_LIMIT}."
        raise Faulty(msg)
    return Info((lowest, highest), payload_limit, image_length)


def encode_chunk(offset: int, length: int) -> bytes:
    """Return the payload of READ_IMAGE: these `length` bytes of the image from `offset` on."""
    return _CHUNK.pack(offset, length)
